//! A block device of a suite's own: a file, a loop device over it, ext4 on that; gone when dropped.

use crate::process::{command, run};
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A mounted loop device.
pub struct LoopDevice {
    device: String,
    scratch: PathBuf,
    mounted: bool,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl LoopDevice {
    /// Makes it below `scratch`, `bytes` big. Needs root.
    pub fn new(scratch: &Path, bytes: u64) -> Result<LoopDevice> {
        let image = scratch.join("disk.img");
        File::create(&image)?.set_len(bytes)?;
        let shown = run(
            command("losetup").args(["--find", "--show"]).arg(&image),
            scratch,
            LIMIT,
        )?
        .ok("losetup (it needs root and /dev/loop-control)")?;
        let device = shown.trim().to_owned();
        let mount = scratch.join("mount");
        std::fs::create_dir_all(&mount)?;
        let mut disk = LoopDevice {
            device,
            scratch: scratch.to_path_buf(),
            mounted: false,
            mount,
        };
        // The file system shall not flush on its own account: everything is initialised now, commits are far apart.
        let quiet = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(
            command("mkfs.ext4").args(["-q", "-E", quiet, &disk.device]),
            scratch,
            LIMIT,
        )?
        .ok("mkfs.ext4")?;
        let mut mount = command("mount");
        mount
            .args(["-o", "noatime,commit=600", &disk.device])
            .arg(&disk.mount);
        run(&mut mount, scratch, LIMIT)?.ok("mount")?;
        disk.mounted = true;
        Ok(disk)
    }

    /// Its counters in sysfs.
    pub fn stat_file(&self) -> Result<String> {
        let name = self
            .device
            .strip_prefix("/dev/")
            .context("a device is below /dev")?;
        Ok(format!("/sys/block/{name}/stat"))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Errors cannot be helped here; a mount that stays is named by the next losetup -a.
        if self.mounted {
            let _ = run(
                command("umount").arg("--lazy").arg(&self.mount),
                &self.scratch,
                LIMIT,
            );
        }
        let _ = run(
            command("losetup").arg("--detach").arg(&self.device),
            &self.scratch,
            LIMIT,
        );
        let _ = std::fs::remove_file(self.scratch.join("disk.img"));
    }
}

//! A block device of a suite's own: a file, a loop device over it, a file system on that; gone when dropped.

use crate::process::{command, run};
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What a device is formatted with.
#[derive(Clone, Copy)]
pub enum FileSystem {
    /// ext4, initialised at once and with commits far apart, so that it flushes nothing on its own account.
    Ext4,
    /// XFS as mkfs makes it.
    Xfs,
}

impl FileSystem {
    /// Its name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }

    fn format(self) -> Command {
        match self {
            FileSystem::Ext4 => {
                let mut mkfs = command("mkfs.ext4");
                let quiet = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
                mkfs.args(["-q", "-E", quiet]);
                mkfs
            }
            FileSystem::Xfs => {
                let mut mkfs = command("mkfs.xfs");
                mkfs.args(["-q", "-K"]);
                mkfs
            }
        }
    }

    fn mount_options(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "noatime,commit=600",
            FileSystem::Xfs => "noatime",
        }
    }
}

/// A mounted loop device.
pub struct LoopDevice {
    device: String,
    image: PathBuf,
    scratch: PathBuf,
    mounted: bool,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl LoopDevice {
    /// Makes it below `scratch` with ext4 on it, `bytes` big. Needs root.
    pub fn new(scratch: &Path, bytes: u64) -> Result<LoopDevice> {
        let image = scratch.join("disk.img");
        let mount = scratch.join("mount");
        LoopDevice::over(&image, mount, scratch, bytes, FileSystem::Ext4)
    }

    /// One more, whose image is a file of this one: what holds this one's writes back holds back its own. It must be
    /// dropped before this one.
    pub fn nested(&self, bytes: u64, kind: FileSystem) -> Result<LoopDevice> {
        let image = self.mount.join("disk.img");
        let mount = self.scratch.join("nested");
        LoopDevice::over(&image, mount, &self.scratch, bytes, kind)
    }

    /// One over an image of its own place.
    pub fn over(
        image: &Path,
        mount: PathBuf,
        scratch: &Path,
        bytes: u64,
        kind: FileSystem,
    ) -> Result<LoopDevice> {
        File::create(image)?.set_len(bytes)?;
        let shown = run(
            command("losetup").args(["--find", "--show"]).arg(image),
            scratch,
            LIMIT,
        )?
        .ok("losetup (it needs root and /dev/loop-control)")?;
        let mut disk = LoopDevice {
            device: shown.trim().to_owned(),
            image: image.to_path_buf(),
            scratch: scratch.to_path_buf(),
            mounted: false,
            mount,
        };
        std::fs::create_dir_all(&disk.mount)?;
        run(kind.format().arg(&disk.device), scratch, LIMIT)?.ok("mkfs")?;
        mount_at(kind, &disk.device, &disk.mount, scratch)?;
        disk.mounted = true;
        Ok(disk)
    }

    /// The file behind it.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Its node below /dev.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Gives the device the size that its file has by now.
    pub fn take_size(&self) -> Result<()> {
        let mut losetup = command("losetup");
        losetup.arg("--set-capacity").arg(&self.device);
        run(&mut losetup, &self.scratch, LIMIT)?.ok("losetup")?;
        Ok(())
    }

    /// Takes the file system off the device, waiting for nobody who still uses it.
    pub fn unmount(&mut self) -> Result<()> {
        let mut umount = command("umount");
        run(umount.arg(&self.mount), &self.scratch, LIMIT)?.ok("umount")?;
        self.mounted = false;
        Ok(())
    }

    /// Puts it back; journal and log are replayed.
    pub fn mount_again(&mut self, kind: FileSystem) -> Result<()> {
        mount_at(kind, &self.device, &self.mount, &self.scratch)?;
        self.mounted = true;
        Ok(())
    }

    /// Its counters in sysfs.
    pub fn stat_file(&self) -> Result<String> {
        Ok(format!("{}/stat", self.sysfs()?))
    }

    /// Writes that it was given and has not finished; asking touches no file system but sysfs.
    pub fn writes_in_flight(&self) -> Result<u64> {
        let path = format!("{}/inflight", self.sysfs()?);
        let line = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let writes = line.split_whitespace().nth(1);
        writes
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("{path}: `{line}`"))
    }

    fn sysfs(&self) -> Result<String> {
        let name = self
            .device
            .strip_prefix("/dev/")
            .context("a device is below /dev")?;
        Ok(format!("/sys/block/{name}"))
    }
}

fn mount_at(kind: FileSystem, device: &str, at: &Path, scratch: &Path) -> Result<()> {
    let mut mount = command("mount");
    mount.args(["-t", kind.name(), "-o", kind.mount_options(), device]);
    run(mount.arg(at), scratch, LIMIT)?.ok("mount")?;
    Ok(())
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
        let _ = std::fs::remove_file(&self.image);
    }
}

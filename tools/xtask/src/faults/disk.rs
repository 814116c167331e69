//! Disks: full, failing, read-only, slow, and one that refuses direct I/O.

use super::cleanup::CGROUP_PREFIX;
use super::scene::{FAULT_LIMIT, MemoryMount, Outcome, Scene, fill, free_bytes, spec_on};
use crate::interop::Setting;
use crate::interop::kill9::Chance;
use crate::interop::loop_device::{FileSystem, LoopDevice};
use crate::interop::subject::{Broker, Spec, Subject};
use crate::process::{command, run};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 512 * MIB;
/// What the load may still write before the disk is full.
const LEFT_BYTES: u64 = 24 * MIB;
/// The error of a log whose disk takes nothing.
const STORAGE_ERROR: &str = "KAFKA_STORAGE_ERROR";
/// Of a device that was cut short, this much is left.
const SHRUNK_BYTES: u64 = 64 * MIB;
/// The throttle's rate, and for how long.
const SLOW_BYTES_PER_SECOND: u64 = 256 << 10;
const SLOW_FOR: Duration = Duration::from_secs(15);
const CGROUPS: &str = "/sys/fs/cgroup/blkio";

fn disk(setting: &Setting, kind: FileSystem) -> Result<LoopDevice> {
    let scratch = &setting.scratch;
    LoopDevice::over(
        &scratch.join("disk.img"),
        scratch.join("mount"),
        scratch,
        DISK_BYTES,
        kind,
    )
}

/// A full ext4 of 512 MiB.
pub fn full_ext4(setting: &Setting) -> Result<Outcome> {
    full(setting, FileSystem::Ext4)
}

/// A full XFS of 512 MiB.
pub fn full_xfs(setting: &Setting) -> Result<Outcome> {
    full(setting, FileSystem::Xfs)
}

/// A broker with two log directories: one beside the disk, with the metadata log, and one on it. What
/// befalls the disk leaves it alive.
fn spec_beside(setting: &Setting, disk: &LoopDevice) -> Result<Spec> {
    let (beside, on_disk) = (setting.scratch.join("beside"), disk.mount.join("data"));
    std::fs::create_dir_all(&beside).with_context(|| beside.display().to_string())?;
    let both = format!("log.dirs={},{}", beside.display(), on_disk.display());
    Ok(spec_on(setting, &on_disk)?.set(&both))
}

/// The disk fills up: appends are refused, reads go on; space returns: appends go on, without a restart.
fn full(setting: &Setting, kind: FileSystem) -> Result<Outcome> {
    let disk = disk(setting, kind)?;
    let spec = spec_on(setting, &disk.mount.join("data"))?
        .set("log.flush.offset.checkpoint.interval.ms=1000");
    let mut scene = Scene::new(setting, spec, &[])?;
    let filler = disk.mount.join("filler");
    let free = free_bytes(&disk.mount)?;
    fill(&filler, free.saturating_sub(LEFT_BYTES), &setting.scratch)?;
    scene.wait_for(STORAGE_ERROR, |scene| Ok(scene.errors(STORAGE_ERROR)? > 0))?;
    // Checkpoints meet the full disk, too.
    std::thread::sleep(Duration::from_secs(3));
    let left = free_bytes(&disk.mount)?;
    let peeked = scene.ask("peek")?;
    let refused = scene.errors(STORAGE_ERROR)?;
    ensure!(scene.broker.is_alive()?, "the broker ended");
    std::fs::remove_file(&filler)?;
    scene.end(Ok(format!(
        "{} with {left} bytes left refused {refused} records; {peeked} meanwhile",
        kind.name()
    )))
}

/// The file behind the device is cut short under the mounted file system, and the device with it: reads and writes of what
/// is gone fail with EIO. The device is mended, mounted again, and the broker started again. Everything is acknowledged as
/// flushed: what is not flushed does not outlive such a device.
pub fn eio(setting: &Setting) -> Result<Outcome> {
    let kind = FileSystem::Ext4;
    let mut disk = disk(setting, kind)?;
    let spec = spec_beside(setting, &disk)?;
    let mut scene = Scene::new(setting, spec, &["flush.messages=1"])?;
    scene.broker.signal(libc::SIGSTOP)?;
    let tail = shrink(setting, &disk);
    scene.broker.signal(libc::SIGCONT)?;
    let tail = tail?;
    wait_for_failure(&mut scene)?;
    std::thread::sleep(Duration::from_secs(2));
    let refused = scene.errors(STORAGE_ERROR)?;
    let told = says(&scene, "os error 5");
    let outlived = scene.broker.is_alive()?;
    end_by_force(&mut scene)?;
    disk.unmount()?;
    let mut file = File::options().write(true).open(disk.image())?;
    file.set_len(DISK_BYTES)?;
    file.seek(SeekFrom::Start(SHRUNK_BYTES))?;
    file.write_all(&tail)?;
    file.sync_all()?;
    disk.take_size()?;
    disk.mount_again(kind)?;
    scene.restart()?;
    let what = format!(
        "{refused} records refused, {told} lines tell of EIO, the broker outlived it: {outlived}"
    );
    let is_hit = told > 0;
    let outcome = scene.end(if is_hit { Ok(what) } else { Err(what) });
    drop(disk);
    outcome
}

/// Takes the end of the device away while nobody writes; gives the bytes that were there.
fn shrink(setting: &Setting, disk: &LoopDevice) -> Result<Vec<u8>> {
    // The device finishes what it was given.
    std::thread::sleep(Duration::from_millis(300));
    let mut sync = command("sync");
    sync.arg("--file-system").arg(&disk.mount);
    run(&mut sync, &setting.scratch, FAULT_LIMIT)?.ok("sync")?;
    let tail = read_from(disk.image(), SHRUNK_BYTES)?;
    File::options()
        .write(true)
        .open(disk.image())?
        .set_len(SHRUNK_BYTES)?;
    disk.take_size()?;
    Ok(tail)
}

/// ext4 turns read-only under the broker; it is mounted again and the broker started again.
pub fn read_only(setting: &Setting) -> Result<Outcome> {
    let kind = FileSystem::Ext4;
    let mut disk = disk(setting, kind)?;
    let spec = spec_beside(setting, &disk)?;
    let mut scene = Scene::new(setting, spec, &["flush.messages=1"])?;
    // A plain `ro` is refused while files are open for writing; what the kernel does at an error of the journal is not.
    let mut used = "";
    for options in ["remount,ro", "remount,abort"] {
        let mut remount = command("mount");
        remount.args(["-o", options]).arg(&disk.mount);
        used = options;
        if run(&mut remount, &setting.scratch, FAULT_LIMIT)?.code == 0 {
            break;
        }
    }
    wait_for_failure(&mut scene)?;
    let refused = scene.errors(STORAGE_ERROR)?;
    let probe = File::create(disk.mount.join("probe"))
        .err()
        .and_then(|error| error.raw_os_error());
    let outlived = scene.broker.is_alive()?;
    end_by_force(&mut scene)?;
    disk.unmount()?;
    disk.mount_again(kind)?;
    scene.restart()?;
    let what = format!(
        "mount -o {used}: a new file is refused with {probe:?}, {refused} records refused, the broker outlived it: {outlived}"
    );
    let is_hit = matches!(probe, Some(libc::EROFS | libc::EIO));
    let outcome = scene.end(if is_hit { Ok(what) } else { Err(what) });
    drop(disk);
    outcome
}

/// The block layer lets the broker write 256 KiB a second, then as much as it likes again.
pub fn slow(setting: &Setting) -> Result<Outcome> {
    let disk = disk(setting, FileSystem::Ext4)?;
    let spec = spec_on(setting, &disk.mount.join("data"))?;
    let mut scene = Scene::new(setting, spec, &[])?;
    let rate_of = |scene: &mut Scene<'_>, time: Duration| -> Result<(u64, u64)> {
        let (acked, written) = (scene.acked()?, written_bytes(&disk)?);
        std::thread::sleep(time);
        let seconds = time.as_secs();
        Ok((
            (scene.acked()? - acked) / seconds,
            (written_bytes(&disk)? - written) / seconds,
        ))
    };
    let (acks_before, _) = rate_of(&mut scene, Duration::from_secs(3))?;
    let throttle = Throttle::new(&setting.scratch, scene.broker.pid()?, disk.device())?;
    throttle.set(SLOW_BYTES_PER_SECOND)?;
    let (acks, bytes) = rate_of(&mut scene, SLOW_FOR)?;
    throttle.set(0)?;
    let what = format!(
        "blkio (control groups v1) at {SLOW_BYTES_PER_SECOND} bytes/s: {bytes} written and {acks} records acknowledged per \
         second, {acks_before} before"
    );
    let is_hit = bytes > 0 && bytes < 2 * SLOW_BYTES_PER_SECOND && acks < acks_before / 2;
    let outcome = scene.end(if is_hit { Ok(what) } else { Err(what) });
    drop(throttle);
    drop(disk);
    outcome
}

/// ramfs takes no direct I/O: the start says so and names the way out, which then serves and survives kills.
pub fn direct_io_refused(setting: &Setting) -> Result<Outcome> {
    let memory = MemoryMount::new(&setting.scratch, "ramfs", "rw")?;
    let spec = spec_on(setting, &memory.path.join("data"))?;
    let Subject::Corelog(program) = &setting.subject else {
        bail!("faults are for the built corelogd");
    };
    let mut start = Broker::corelog_command(program, &spec);
    let end = run(&mut start, &setting.scratch, FAULT_LIMIT)?;
    let names_all = ["ramfs", "direct I/O", "corelog.storage.io=buffered"];
    let refused = end.code == 1 && names_all.iter().all(|part| end.stderr.contains(part));
    ensure!(
        refused,
        "the start was not refused as it should be: exit {}: {}",
        end.code,
        end.tail()
    );
    let kills = if setting.quick { 4 } else { 20 };
    let spec = spec
        .set("corelog.storage.io=buffered")
        .set("corelog.shards=2")
        .set("log.segment.bytes=4194304")
        .set("log.flush.offset.checkpoint.interval.ms=500");
    let mut scene = Scene::new(setting, spec, &[])?;
    let mut chance = Chance::seeded();
    for _ in 0..kills {
        let acked = scene.acked()?;
        scene.wait_for("load", |scene| Ok(scene.acked()? > acked + 500))?;
        std::thread::sleep(Duration::from_millis(chance.below(500)));
        scene.kill()?;
        scene.restart()?;
    }
    scene.end(Ok(format!(
        "refused on ramfs with `{}`, then served buffered over {kills} kills",
        end.stderr.lines().last().unwrap_or_default()
    )))
}

/// Records are refused; or the broker ended, as one does that has no log directory left.
fn wait_for_failure(scene: &mut Scene<'_>) -> Result<()> {
    scene.wait_for("a refusal, or the end of the broker", |scene| {
        Ok(!scene.broker.is_alive()? || scene.errors(STORAGE_ERROR)? > 0)
    })
}

fn says(scene: &Scene<'_>, what: &str) -> usize {
    scene
        .broker
        .lines()
        .iter()
        .filter(|line| line.contains(what))
        .count()
}

/// A broker on a dead disk may not be able to stop; nothing waits for it.
fn end_by_force(scene: &mut Scene<'_>) -> Result<()> {
    match scene.broker.is_alive()? {
        true => scene.kill(),
        false => Ok(()),
    }
}

fn read_from(image: &Path, from: u64) -> Result<Vec<u8>> {
    let mut file = File::open(image)?;
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail)
}

/// Bytes written to the device since it was made.
fn written_bytes(disk: &LoopDevice) -> Result<u64> {
    let path = disk.stat_file()?;
    let line = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let sectors = line.split_whitespace().nth(6).context("sectors written")?;
    Ok(sectors.parse::<u64>()? * 512)
}

/// A control group (v1, blkio) of the broker's own, mounted where it is not; gone when dropped.
struct Throttle {
    root: PathBuf,
    dir: PathBuf,
    pid: u32,
    device: String,
    mounted: Option<PathBuf>,
}

impl Throttle {
    fn new(scratch: &Path, pid: u32, device: &str) -> Result<Throttle> {
        let number = std::fs::metadata(device)?.rdev();
        let (mut root, mut mounted) = (PathBuf::from(CGROUPS), None);
        if !root.join("blkio.throttle.write_bps_device").exists() {
            root = scratch.join("blkio");
            std::fs::create_dir_all(&root)?;
            let mut mount = command("mount");
            mount
                .args(["-t", "cgroup", "-o", "blkio", "cgroup"])
                .arg(&root);
            run(&mut mount, scratch, FAULT_LIMIT)?.ok("mounting the blkio control groups (v1)")?;
            mounted = Some(root.clone());
        }
        let throttle = Throttle {
            dir: root.join(format!("{CGROUP_PREFIX}{}", std::process::id())),
            root,
            pid,
            device: format!("{}:{}", libc::major(number), libc::minor(number)),
            mounted,
        };
        std::fs::create_dir_all(&throttle.dir)?;
        std::fs::write(throttle.dir.join("cgroup.procs"), pid.to_string())?;
        Ok(throttle)
    }

    /// Bytes per second; 0 = as many as it likes.
    fn set(&self, bytes_per_second: u64) -> Result<()> {
        let line = format!("{} {bytes_per_second}", self.device);
        let file = self.dir.join("blkio.throttle.write_bps_device");
        std::fs::write(&file, line).with_context(|| file.display().to_string())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // A group goes when nobody is in it; errors cannot be helped here.
        let _ = self.set(0);
        let _ = std::fs::write(self.root.join("cgroup.procs"), self.pid.to_string());
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(mounted) = &self.mounted {
            let scratch = mounted.parent().unwrap_or(mounted);
            let _ = run(command("umount").arg(mounted), scratch, FAULT_LIMIT);
        }
    }
}

//! Log directories: file system, direct I/O, space, the device below, and how long a flush takes.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Check, bytes, number, read};
use crate::blocking;
use crate::buf::{BLOCK_BYTES, BufferPool};
use crate::env::check_direct_io;

/// Flushes measured of each kind.
const FLUSHES: usize = 200;
/// Blocks they are spread over.
const FLUSH_BLOCKS: usize = 64;
/// A median above this makes `flush.messages=1` slow, in microseconds.
const FLUSH_SLOW_US: u64 = 5_000;
/// A 99th percentile above this shows in clients, in microseconds.
const FLUSH_TAIL_SLOW_US: u64 = 50_000;
/// Read-ahead above this reads what nobody asked for, in KiB.
const READ_AHEAD_MAX_KIB: u64 = 1024;
/// Free space below this part of the file system is a warning.
const FREE_PER_MILLE_MIN: u64 = 50;

pub(super) fn checks(dir: &Path, direct: bool, measure: bool) -> Vec<Check> {
    let name = |what: &str| format!("{what} of {}", dir.display());
    let facts = match file_system(dir) {
        Ok(facts) => facts,
        Err(error) => {
            let advice = "make the directory, writable by the broker's user, or name another one";
            return vec![Check::bad(
                &name("log directory"),
                error.to_string(),
                advice,
            )];
        }
    };
    let mut checks = vec![
        judge_kind(&name("file system"), &facts.kind),
        judge_space(&name("space"), facts.free_bytes, facts.total_bytes),
        judge_direct(&name("direct I/O"), dir, direct),
    ];
    checks.extend(device(dir).map(|queue| judge_device(&name("device"), &queue)));
    if measure {
        checks.push(match measure_flushes(dir) {
            Ok(found) => judge_flushes(&name("flush latency"), &found),
            Err(error) => Check::bad(
                &name("flush latency"),
                error.to_string(),
                "look at the directory's owner and mode, and at the kernel's log",
            ),
        });
    }
    checks
}

struct FileSystem {
    kind: String,
    free_bytes: u64,
    total_bytes: u64,
}

fn file_system(dir: &Path) -> io::Result<FileSystem> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain data for which zeros are valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated path and a writable statfs.
    if unsafe { libc::statfs(path.as_ptr(), &mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let block = u64::try_from(found.f_bsize).unwrap_or(1);
    Ok(FileSystem {
        kind: kind(found.f_type as u64 & 0xffff_ffff),
        free_bytes: found.f_bavail.saturating_mul(block),
        total_bytes: found.f_blocks.saturating_mul(block),
    })
}

/// Name of a file system by the number statfs gives.
fn kind(number: u64) -> String {
    let name = match number {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        other => return format!("unknown ({other:#x})"),
    };
    name.to_owned()
}

fn judge_kind(name: &str, kind: &str) -> Check {
    match kind {
        "ext4" | "xfs" => Check::ok(name, kind),
        "tmpfs" | "ramfs" => Check::bad(
            name,
            kind,
            "memory keeps nothing over a restart: use a directory on ext4 or XFS",
        ),
        "nfs" | "smb" | "9p" => Check::bad(
            name,
            kind,
            "a network file system does not keep the order of writes and flushes that logs rely \
             on: use a local ext4 or XFS",
        ),
        other => Check::warn(name, other, "ext4 and XFS are what the broker is tested on"),
    }
}

fn judge_space(name: &str, free: u64, total: u64) -> Check {
    let found = format!("{} free of {}", bytes(free), bytes(total));
    if free.saturating_mul(1000) < total.saturating_mul(FREE_PER_MILLE_MIN) {
        let advice = "lower retention (retention.ms, retention.bytes) or add space: a full file \
                      system refuses appends";
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

fn judge_direct(name: &str, dir: &Path, wanted: bool) -> Check {
    match (check_direct_io(dir), wanted) {
        (Ok(align), _) => Check::ok(name, format!("alignment {align} bytes")),
        (Err(error), true) => Check::bad(name, "refused", error.to_string()),
        (Err(_), false) => Check::ok(name, "refused, and not asked for"),
    }
}

/// The block device's queue directory below /sys; `None` where there is no one device.
fn device(dir: &Path) -> Option<PathBuf> {
    let device = blocking::open_file(dir).ok()?.metadata().ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let whole = if path.join("partition").exists() {
        path.join("..")
    } else {
        path
    };
    let queue = whole.join("queue");
    queue.is_dir().then_some(queue)
}

fn judge_device(name: &str, queue: &Path) -> Check {
    let of = |file: &str| queue.join(file).display().to_string();
    let read_ahead: u64 = number(&of("read_ahead_kb")).unwrap_or(0);
    let rotational = read(&of("rotational")).as_deref() == Some("1");
    let cache = read(&of("write_cache")).unwrap_or_else(|| "unknown".to_owned());
    let path = queue.canonicalize().unwrap_or_else(|_| queue.to_owned());
    judge_queue(name, &path, read_ahead, rotational, &cache)
}

fn judge_queue(
    name: &str,
    queue: &Path,
    read_ahead_kib: u64,
    rotational: bool,
    cache: &str,
) -> Check {
    let kind = if rotational {
        "rotating"
    } else {
        "solid state"
    };
    let found = format!("{kind}, read-ahead {read_ahead_kib} KiB, write cache: {cache}");
    if read_ahead_kib > READ_AHEAD_MAX_KIB {
        let path = queue.join("read_ahead_kb").display().to_string();
        let advice =
            format!("the broker reads ahead by itself: `echo 128 > {path}` (a udev rule keeps it)");
        Check::warn(name, found, advice)
    } else if rotational {
        let advice = "logs of many partitions want random writes: use solid-state disks, or few \
                      partitions and no flush policy";
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

/// How long flushes of 4 KiB took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushLatency {
    /// A write with RWF_DSYNC: median.
    pub dsync_p50_us: u64,
    /// 99th percentile.
    pub dsync_p99_us: u64,
    /// A write and fdatasync: median.
    pub fdatasync_p50_us: u64,
    /// 99th percentile.
    pub fdatasync_p99_us: u64,
}

fn judge_flushes(name: &str, found: &FlushLatency) -> Check {
    let text = format!(
        "RWF_DSYNC p50 {} us p99 {} us; write and fdatasync p50 {} us p99 {} us",
        found.dsync_p50_us, found.dsync_p99_us, found.fdatasync_p50_us, found.fdatasync_p99_us
    );
    if found.dsync_p50_us > FLUSH_SLOW_US || found.dsync_p99_us > FLUSH_TAIL_SLOW_US {
        let advice = "flush policies (flush.messages, flush.ms) cost this much per flush: use a \
                      device with power-loss protection, or leave durability to replication";
        Check::warn(name, text, advice)
    } else {
        Check::ok(name, text)
    }
}

/// Measures durable writes of 4 KiB in a small file of its own in `dir`, which it removes.
pub fn measure_flushes(dir: &Path) -> io::Result<FlushLatency> {
    let path = dir.join(format!(".flush-probe-{}", std::process::id()));
    let measured = measure(&path);
    let _may_be_missing = blocking::remove_file(&path);
    measured
}

fn measure(path: &Path) -> io::Result<FlushLatency> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let mut direct = options.clone();
    direct.custom_flags(libc::O_DIRECT);
    let file = blocking::open_file_with(path, &direct)
        .or_else(|_| blocking::open_file_with(path, &options))?;
    let mut block = BufferPool::new(0).get(BLOCK_BYTES);
    block.as_mut_slice().fill(0x5a);
    // The file's blocks exist and are written before anything is measured, as a segment's do.
    for at in 0..FLUSH_BLOCKS {
        write(&file, block.as_mut_slice(), at, 0)?;
    }
    file.sync_all()?;
    let dsync = timed(|at| write(&file, block.as_mut_slice(), at, libc::RWF_DSYNC))?;
    let fdatasync = timed(|at| {
        write(&file, block.as_mut_slice(), at, 0)?;
        file.sync_data()
    })?;
    Ok(FlushLatency {
        dsync_p50_us: quantile(&dsync, 500),
        dsync_p99_us: quantile(&dsync, 990),
        fdatasync_p50_us: quantile(&fdatasync, 500),
        fdatasync_p99_us: quantile(&fdatasync, 990),
    })
}

fn write(file: &std::fs::File, block: &mut [u8], at: usize, flags: libc::c_int) -> io::Result<()> {
    let vector = libc::iovec {
        iov_base: block.as_mut_ptr().cast(),
        iov_len: block.len(),
    };
    let offset = (at % FLUSH_BLOCKS * BLOCK_BYTES) as libc::off_t;
    // SAFETY: one vector of readable bytes, and an open descriptor.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset, flags) };
    match usize::try_from(written) {
        Ok(written) if written == block.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Times of [`FLUSHES`] calls, ascending.
fn timed(mut flush: impl FnMut(usize) -> io::Result<()>) -> io::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(FLUSHES);
    for at in 0..FLUSHES {
        let began = blocking::now();
        flush(at)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn quantile(ascending: &[Duration], per_mille: usize) -> u64 {
    let at = (ascending.len() * per_mille).div_ceil(1000).max(1) - 1;
    ascending.get(at).map_or(0, |time| time.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn file_systems_are_judged_by_what_they_keep() {
        let verdict = |number| judge_kind("x", &kind(number)).verdict;
        assert_eq!(verdict(0xef53), Verdict::Ok);
        assert_eq!(verdict(0x5846_5342), Verdict::Ok);
        assert_eq!(verdict(0x0102_1994), Verdict::Bad);
        assert_eq!(verdict(0x6969), Verdict::Bad);
        assert_eq!(verdict(0x1234), Verdict::Warn);
        assert_eq!(judge_space("x", 49, 1000).verdict, Verdict::Warn);
        assert_eq!(judge_space("x", 51, 1000).verdict, Verdict::Ok);
    }

    #[test]
    fn devices_and_flushes_are_judged() {
        let queue =
            |kib, rotational| judge_queue("x", Path::new("/sys/q"), kib, rotational, "write back");
        assert_eq!(queue(128, false).verdict, Verdict::Ok);
        assert_eq!(queue(128, true).verdict, Verdict::Warn);
        let far = queue(8192, false);
        assert!(far.advice.contains("/sys/q/read_ahead_kb"), "{far:?}");
        let flush = |p50, p99| {
            let found = FlushLatency {
                dsync_p50_us: p50,
                dsync_p99_us: p99,
                fdatasync_p50_us: p50,
                fdatasync_p99_us: p99,
            };
            judge_flushes("x", &found).verdict
        };
        assert_eq!(flush(30, 200), Verdict::Ok);
        assert_eq!(flush(9_000, 10_000), Verdict::Warn);
        assert_eq!(flush(100, 90_000), Verdict::Warn);
        let times: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!((quantile(&times, 500), quantile(&times, 990)), (100, 198));
        assert_eq!(quantile(&[], 500), 0);
    }

    #[test]
    fn flushes_are_measured_and_the_file_is_removed() {
        let dir = std::env::temp_dir().join(format!("flush-probe-{}", std::process::id()));
        blocking::create_dir_all(&dir).expect("a directory");
        let found = measure_flushes(&dir).expect("measured");
        assert!(found.dsync_p50_us <= found.dsync_p99_us);
        assert!(found.fdatasync_p50_us <= found.fdatasync_p99_us);
        let left = blocking::read_dir(&dir).expect("readable").count();
        blocking::remove_dir_all(&dir).expect("removed");
        assert_eq!(left, 0);
    }
}

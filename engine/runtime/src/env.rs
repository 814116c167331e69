//! What the machine must offer, checked before anything starts, in sentences one can act on.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::blocking;
use crate::buf::{BLOCK_BYTES, BufferPool};
use crate::uring::UringDriver;

/// Oldest kernel with every ring flag in use.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Open files below which a warning is given.
pub(crate) const NOFILE_WANTED: u64 = 65_536;

/// The machine as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvReport {
    /// Kernel release.
    pub kernel: String,
    /// Open files allowed, after raising the soft limit to the hard one.
    pub open_files_max: u64,
    /// Bytes that may be locked in memory; `None` = no limit. Only registered buffers need them.
    pub memlock_bytes: Option<u64>,
}

/// Why a shard cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvError {
    /// The kernel is too old (its release).
    KernelTooOld(String),
    /// The sysctl forbids io_uring (its value).
    UringDisabled(String),
    /// io_uring_setup is refused (EPERM), usually by a container's seccomp profile.
    UringRefused,
    /// io_uring_setup fails otherwise.
    UringFailed(String),
    /// The file system of a directory refuses direct I/O.
    NoDirectIo(PathBuf, String),
    /// The directory or its device does not work, whether by direct I/O or not.
    DirUnusable(PathBuf, String),
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelTooOld(release) => write!(
                f,
                "this kernel is {release}, and {}.{} is the oldest that works: \
                 install a newer kernel or use another machine",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
            Self::UringDisabled(value) => write!(
                f,
                "io_uring is switched off (kernel.io_uring_disabled = {value}): \
                 run `sysctl -w kernel.io_uring_disabled=0` as root"
            ),
            Self::UringRefused => f.write_str(
                "io_uring is refused (EPERM), as containers do by default: allow the system calls \
                 io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile, for \
                 example with `docker run --security-opt seccomp=unconfined`",
            ),
            Self::UringFailed(error) => {
                write!(
                    f,
                    "io_uring cannot be set up: {error}; see `ulimit -a` and the kernel log"
                )
            }
            Self::NoDirectIo(path, why) => write!(
                f,
                "{} is on {} and does not take direct I/O ({why}): use a directory on ext4 or XFS, or \
                 set corelog.storage.io=buffered",
                path.display(),
                file_system_of(path)
                    .as_deref()
                    .unwrap_or("an unknown file system")
            ),
            Self::DirUnusable(path, why) => {
                write!(f, "cannot use the log directory {}: {why}", path.display())
            }
        }
    }
}

impl std::error::Error for EnvError {}

/// Looks at kernel, io_uring and limits; raises the limit of open files as far as allowed.
pub fn check_environment() -> Result<EnvReport, EnvError> {
    let kernel = kernel_release();
    if parse_release(&kernel).is_some_and(|release| release < KERNEL_MIN) {
        return Err(EnvError::KernelTooOld(kernel));
    }
    check_uring()?;
    let open_files_max = raise_open_files();
    Ok(EnvReport {
        kernel,
        open_files_max,
        memlock_bytes: memlock_bytes(),
    })
}

/// Bytes that may be locked in memory; `None` = no limit.
pub(crate) fn memlock_bytes() -> Option<u64> {
    let memlock = limit(libc::RLIMIT_MEMLOCK).rlim_max;
    (memlock != libc::RLIM_INFINITY).then_some(memlock)
}

/// Files that may be open, after raising the limit as far as allowed.
pub(crate) fn open_files_max() -> u64 {
    raise_open_files()
}

/// What newer kernels' rings can do, by name, and whether this one's can.
pub(crate) fn uring_abilities() -> Vec<(&'static str, bool)> {
    UringDriver::new(8).map_or_else(|_| Vec::new(), |driver| driver.abilities().to_vec())
}

/// Tells the direct-I/O alignment of a directory's file system in bytes: statx is asked, and one
/// block is written and read back, because some systems accept what they do not do.
pub fn check_direct_io(dir: impl AsRef<Path>) -> Result<u32, EnvError> {
    let dir = dir.as_ref();
    let path = dir.join(".direct-io-probe");
    let result = probe_direct_io(&path);
    let _may_be_missing = blocking::remove_file(&path);
    match result {
        Ok(align) if align as usize > BLOCK_BYTES => {
            let why = format!("it asks for an alignment of {align} bytes, above {BLOCK_BYTES}");
            Err(EnvError::NoDirectIo(dir.to_owned(), why))
        }
        Ok(align) => Ok(align),
        Err(error) => Err(refusal(dir, &error)),
    }
}

/// What an error of the probe says: of direct I/O only when the kernel refuses the request as such,
/// or the bytes are not what was written.
fn refusal(dir: &Path, error: &io::Error) -> EnvError {
    let (dir, why) = (dir.to_owned(), error.to_string());
    match error.raw_os_error() {
        None | Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            EnvError::NoDirectIo(dir, why)
        }
        Some(_) => EnvError::DirUnusable(dir, why),
    }
}

/// The disk, or the share of it that the user may have, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn probe_direct_io(path: &Path) -> io::Result<u32> {
    use std::os::unix::fs::FileExt;
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT);
    // A full disk says nothing of direct I/O; the broker has a reserve there.
    let file = match blocking::open_file_with(path, &options) {
        Err(error) if is_full(&error) => return Ok(BLOCK_BYTES as u32),
        opened => opened?,
    };
    let align = dio_align(&file)?;
    let pool = BufferPool::new(0);
    let mut block = pool.get(BLOCK_BYTES);
    block.as_mut_slice().fill(0xa5);
    match file.write_all_at(block.as_mut_slice(), 0) {
        Err(error) if is_full(&error) => return Ok(align),
        written => written?,
    }
    let mut back = pool.get(BLOCK_BYTES);
    file.read_exact_at(back.as_mut_slice(), 0)?;
    if back.as_mut_slice() != block.as_mut_slice() {
        return Err(io::Error::other(
            "a block read back differs from the block written",
        ));
    }
    Ok(align)
}

fn dio_align(file: &std::fs::File) -> io::Result<u32> {
    // SAFETY: statx is plain data for which zeros are valid.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH, and a writable statx.
    let result = unsafe {
        let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
        libc::statx(fd, c"".as_ptr(), flags, libc::STATX_DIOALIGN, &mut statx)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let told = statx.stx_mask & libc::STATX_DIOALIGN != 0;
    match statx.stx_dio_offset_align {
        // A file system that does not tell is judged by the probe alone, at our own alignment.
        _ if !told => Ok(BLOCK_BYTES as u32),
        0 => Err(io::Error::other("statx reports no direct I/O")),
        align => Ok(align.max(statx.stx_dio_mem_align)),
    }
}

/// The type of the file system that holds an existing path, as mount(8) names it; `None` when
/// /proc does not tell. Blocks.
pub fn file_system_of(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let file = blocking::open_file(path).ok()?;
    let device = file.metadata().ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let mounts = blocking::read_to_string("/proc/self/mountinfo").ok()?;
    mount_type(&mounts, &format!("{major}:{minor}"))
}

/// The type of the mount of that device, from the text of mountinfo.
fn mount_type(mounts: &str, device: &str) -> Option<String> {
    let of_device = |line: &&str| line.split(' ').nth(2) == Some(device);
    let line = mounts.lines().find(of_device)?;
    // Optional fields end with a lone dash.
    let (_, rest) = line.split_once(" - ")?;
    Some(rest.split(' ').next()?.to_owned())
}

fn kernel_release() -> String {
    let release = blocking::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn check_uring() -> Result<(), EnvError> {
    let Err(error) = UringDriver::new(8) else {
        return Ok(());
    };
    let disabled = blocking::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match (error.raw_os_error(), disabled.unwrap_or_default().trim()) {
        (Some(libc::EPERM), value @ ("1" | "2")) => Err(EnvError::UringDisabled(value.to_owned())),
        (Some(libc::EPERM | libc::ENOSYS), _) => Err(EnvError::UringRefused),
        _ => Err(EnvError::UringFailed(error.to_string())),
    }
}

fn limit(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

fn raise_open_files() -> u64 {
    let found = limit(libc::RLIMIT_NOFILE);
    let wanted = libc::rlimit {
        rlim_cur: found.rlim_max,
        rlim_max: found.rlim_max,
    };
    // SAFETY: `wanted` is readable. A refusal shows in the limit read next.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) };
    limit(libc::RLIMIT_NOFILE).rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        assert_eq!(parse_release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_release("6.1"), Some((6, 1)));
        assert_eq!(parse_release("5.15.0-91-generic"), Some((5, 15)));
        assert!(parse_release("5.15.0").is_some_and(|release| release < KERNEL_MIN));
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn r33_what_the_device_refuses_is_not_taken_for_a_want_of_direct_io() {
        let dir = Path::new("/data");
        for code in [libc::EIO, libc::EROFS, libc::ENXIO, libc::EACCES] {
            let refused = refusal(dir, &io::Error::from_raw_os_error(code));
            assert!(matches!(refused, EnvError::DirUnusable(..)), "{refused}");
        }
        let of_the_kernel = io::Error::from_raw_os_error(libc::EINVAL);
        for error in [of_the_kernel, io::Error::other("other bytes")] {
            let refused = refusal(dir, &error);
            assert!(matches!(refused, EnvError::NoDirectIo(..)), "{refused}");
        }
        for code in [libc::ENOSPC, libc::EDQUOT] {
            assert!(is_full(&io::Error::from_raw_os_error(code)));
        }
    }

    #[test]
    fn the_type_of_a_mount_is_found_by_its_device() {
        let mounts = "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
                      30 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n";
        assert_eq!(mount_type(mounts, "254:0").as_deref(), Some("ext4"));
        assert_eq!(mount_type(mounts, "0:20").as_deref(), Some("proc"));
        assert_eq!(mount_type(mounts, "0:2"), None);
        assert_eq!(
            file_system_of(Path::new("/proc/self")).as_deref(),
            Some("proc")
        );
    }

    #[test]
    fn this_machine_is_fit_or_says_why() {
        let report = check_environment().expect("tests need io_uring");
        assert!(report.open_files_max > 0);
        assert!(parse_release(&report.kernel).is_some_and(|release| release >= KERNEL_MIN));
    }

    #[test]
    fn every_refusal_names_what_to_do() {
        let refusals = [
            (EnvError::KernelTooOld("5.4.0".into()), "newer kernel"),
            (EnvError::UringDisabled("2".into()), "sysctl -w"),
            (EnvError::UringRefused, "seccomp"),
            (EnvError::UringFailed("ENOMEM".into()), "ulimit"),
            (
                EnvError::NoDirectIo("/x".into(), "no".into()),
                "ext4 or XFS, or set corelog.storage.io=buffered",
            ),
        ];
        for (error, advice) in refusals {
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}

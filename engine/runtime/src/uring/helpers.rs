//! Helper threads: what the ring cannot do, or may not do on every kernel we run on.
//!
//! Two pools per process, started at their first use, free to run on every allowed CPU: one for calls
//! of the kernel, one for work that takes its time, so that neither waits for the other.

use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::{self, Sender};
use crossbeam::queue::SegQueue;

use crate::driver::{Closer, Completion, DirEntry, Doorbell, Op, Output, Stat, Token};
use crate::uring::prepare::{advice_flag, path_to_c};
use crate::{blocking, cpus};

const HELPER_THREADS: usize = 4;
const WORK_THREADS: usize = 2;

/// Where helpers put finished operations of one driver.
pub(super) struct Returns {
    pub(super) queue: SegQueue<Completion>,
    pub(super) doorbell: Arc<dyn Doorbell>,
}

enum Job {
    Run {
        token: Token,
        op: Op,
        returns: Arc<Returns>,
    },
    Close(RawFd),
}

/// For calls of the kernel.
fn pool() -> &'static Sender<Job> {
    static POOL: OnceLock<Sender<Job>> = OnceLock::new();
    POOL.get_or_init(|| start("corelog-help", HELPER_THREADS))
}

/// For [`Op::Blocking`].
fn work_pool() -> &'static Sender<Job> {
    static POOL: OnceLock<Sender<Job>> = OnceLock::new();
    POOL.get_or_init(|| start("corelog-work", WORK_THREADS))
}

fn start(name: &str, threads: usize) -> Sender<Job> {
    // Unbounded: each job is an operation in flight or a close, both bounded by their owners.
    let (sender, receiver) = channel::unbounded::<Job>();
    for number in 0..threads {
        let receiver = receiver.clone();
        let body = move || {
            cpus::use_all_allowed();
            receiver.iter().for_each(work);
        };
        let started = blocking::spawn(&format!("{name}-{number}"), body);
        assert!(
            started.is_ok() || number > 0,
            "no helper thread could be started: {started:?}"
        );
    }
    sender
}

fn work(job: Job) {
    match job {
        Job::Close(fd) => close(fd),
        Job::Run {
            token,
            mut op,
            returns,
        } => {
            let result = run(&mut op);
            returns.queue.push(Completion { token, op, result });
            returns.doorbell.ring();
        }
    }
}

/// Hands an operation to a helper; it comes back through `returns`.
pub(super) fn hand_over(token: Token, op: Op, returns: &Arc<Returns>) {
    let returns = returns.clone();
    let pool = match op {
        Op::Blocking { .. } => work_pool(),
        _ => pool(),
    };
    pool.send(Job::Run { token, op, returns })
        .expect("helpers live as long as the process");
}

fn close(fd: RawFd) {
    // SAFETY: the Descriptor that owned `fd` is gone and gave it up to be closed once.
    unsafe { libc::close(fd) };
}

fn raw_fd(raw: i64) -> RawFd {
    RawFd::try_from(raw).expect("descriptors of the kernel fit an int")
}

/// Closes files on a helper: the last close of a file may wait for the disk.
pub(super) struct FileCloser;

impl Closer for FileCloser {
    fn close(&self, raw: i64) {
        pool()
            .send(Job::Close(raw_fd(raw)))
            .expect("helpers live as long as the process");
    }
}

/// Closes sockets in place: without SO_LINGER that never waits.
pub(super) struct SocketCloser;

impl Closer for SocketCloser {
    fn close(&self, raw: i64) {
        close(raw_fd(raw));
    }
}

fn run(op: &mut Op) -> io::Result<Output> {
    match op {
        Op::ReadDir { path } => read_dir(path).map(Output::Dir),
        Op::StatFs { path } => stat_fs(path).map(Output::Stat),
        Op::SyncDir { path } => blocking::sync_dir(path).map(|()| Output::Unit),
        Op::Ftruncate { file, len } => {
            let len = i64::try_from(*len).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: `file` keeps the descriptor open.
            check(unsafe { libc::ftruncate(raw_fd(file.0.raw), len) }).map(|_| Output::Unit)
        }
        Op::Fadvise {
            file,
            advice,
            offset,
            len,
        } => {
            let offset = i64::try_from(*offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let len = i64::try_from(*len).map_err(|_| io::ErrorKind::InvalidInput)?;
            let fd = raw_fd(file.0.raw);
            // SAFETY: no memory is passed. The error number is the result.
            match unsafe { libc::posix_fadvise(fd, offset, len, advice_flag(*advice)) } {
                0 => Ok(Output::Unit),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Op::Blocking { work } => {
            if let Some(work) = work.take() {
                // A helper outlives the panic of its job; Rt::blocking passes it on to the caller.
                let _panic = catch_unwind(AssertUnwindSafe(work));
            }
            Ok(Output::Unit)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in blocking::read_dir(path)? {
        let entry = entry?;
        // Names of ours are ASCII: one that is not even UTF-8 is a stranger's, and left alone.
        if let Ok(name) = entry.file_name().into_string() {
            let is_dir = entry.file_type()?.is_dir();
            entries.push(DirEntry { name, is_dir });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn stat_fs(path: &Path) -> io::Result<Stat> {
    let path = path_to_c(path)?;
    // SAFETY: statfs is plain data for which zeros are valid.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and `answer` is writable.
    check(unsafe { libc::statfs(path.as_ptr(), &mut answer) })?;
    let block_bytes = u64::try_from(answer.f_bsize).unwrap_or(0);
    Ok(Stat {
        is_dir: true,
        free_bytes: answer.f_bavail.saturating_mul(block_bytes),
        total_bytes: answer.f_blocks.saturating_mul(block_bytes),
        ..Stat::default()
    })
}

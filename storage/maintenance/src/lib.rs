//! A thread of low priority for storage's background steps: one glommio executor with rings of its own.
//! It scrubs, one segment after the other, at a rate that all shards share. Nothing that is needed to
//! start or to acknowledge runs here, and nothing here changes the state of a log: its owner says what
//! to read, and judges what was found.
//!
//! Shards and this thread share nothing but the queue of jobs and the rate; answers are handed to
//! [`Done`]. While there is no job the thread sleeps outside the executor, which costs nothing. Where
//! the kernel or a limit refuses the executor, the log says so, [`Handle::is_up`] turns false, and
//! nothing is scrubbed.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod files;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use corelog_runtime::blocking;
use corelog_storage::scrub::{ScrubError, ScrubReport, SealedFile, scrub};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use files::PacedFiles;

/// Memory that the executor registers with its rings, the least it takes; reads have buffers of their
/// own.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// How often a busy executor looks at its rings. Below 1 ms it may park with work to do.
const PREEMPT: Duration = Duration::from_millis(10);

/// How the scrub of a segment ended.
pub type Outcome = Result<ScrubReport, ScrubError>;

/// Hears the outcome of a job, once, on the maintenance thread: passes it on and returns soon.
pub struct Done(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Done {
    /// Calls `tell` with the outcome; with [`ScrubError::Interrupted`] when the thread drops the job.
    pub fn new(tell: impl FnOnce(Outcome) + Send + 'static) -> Done {
        Done(Some(Box::new(tell)))
    }

    fn tell(mut self, outcome: Outcome) {
        if let Some(tell) = self.0.take() {
            tell(outcome);
        }
    }

    fn forget(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(ScrubError::Interrupted));
        }
    }
}

struct Job {
    segment: SealedFile,
    done: Done,
}

/// What the thread and its handles share.
#[derive(Debug)]
struct Terms {
    /// Bytes per second; 0 interrupts what is under way.
    rate: AtomicU64,
    is_up: AtomicBool,
}

/// The way to the thread. Cheap to clone; from any thread; never waits.
#[derive(Clone)]
pub struct Handle {
    jobs: Sender<Job>,
    terms: Arc<Terms>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.terms).finish()
    }
}

impl Handle {
    /// Has a segment scrubbed after those that wait. Who asks for one at a time keeps the queue short.
    /// False: the thread has ended, and `done` hears nothing.
    pub fn scrub(&self, segment: SealedFile, done: Done) -> bool {
        let sent = self.jobs.send(Job { segment, done });
        sent.map_err(|refused| refused.0.done.forget()).is_ok()
    }

    /// Bytes that may be read per second, from the next read on; 0 interrupts the scrub under way and
    /// all that wait.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.terms.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The thread works, or is about to. Once false it stays so.
    pub fn is_up(&self) -> bool {
        self.terms.is_up.load(Ordering::Relaxed)
    }
}

/// The running thread. It ends at [`Maintenance::stop`], or when this is dropped; what it has not done
/// is told to be interrupted.
#[derive(Debug)]
pub struct Maintenance {
    handle: Handle,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Maintenance {
    /// Starts the thread, which makes its executor. A thread or an executor that cannot be had is
    /// logged, and [`Handle::is_up`] says so; nothing else depends on it. The rate is 0.
    pub fn start() -> Maintenance {
        // Unlike a bounded one it drops what is left when its receiver goes.
        let (jobs, on_job) = unbounded();
        let (stop, on_stop) = bounded(1);
        let (at_end, ended) = bounded(1);
        let terms = Arc::new(Terms {
            rate: AtomicU64::new(0),
            is_up: AtomicBool::new(true),
        });
        let of_thread = Up(Arc::clone(&terms));
        let thread = blocking::spawn("maintenance", move || {
            let _at_end = at_end;
            if let Err(error) = serve(&on_job, on_stop, of_thread) {
                no_thread(&error);
            }
        });
        let thread = thread.inspect_err(no_thread).ok();
        Maintenance {
            handle: Handle { jobs, terms },
            stop,
            thread,
            ended,
        }
    }

    /// For handing jobs over.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Has the thread end, without waiting for it: within a tenth of a second, unless a device holds
    /// back a read.
    pub fn stop(&self) {
        // A full channel: it was told before.
        let _told = self.stop.try_send(());
    }

    /// Stops, and waits for the end so long at most. False: a read does not come back, and the end of
    /// the process will have to end it.
    pub fn join(mut self, at_most: Duration) -> bool {
        self.stop();
        let Some(thread) = self.thread.take() else {
            return true;
        };
        // Nothing is ever sent: the sender goes with the thread.
        let waited = self.ended.recv_timeout(at_most);
        if waited == Err(crossbeam::channel::RecvTimeoutError::Timeout) {
            return false;
        }
        // A panic was told by the thread itself.
        let _ended = thread.join();
        true
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

fn no_thread(error: &io::Error) {
    tracing::warn!(%error, "the maintenance thread does not run: scrub is off; everything else works");
}

/// Says that the thread has ended, however it does.
struct Up(Arc<Terms>);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.is_up.store(false, Ordering::Relaxed);
        if std::thread::panicking() {
            tracing::error!("the maintenance thread panicked: scrub is off; everything else works");
        }
    }
}

/// The thread. Jobs that are left are dropped with `jobs`, after [`Up`].
fn serve(jobs: &Receiver<Job>, stop: Receiver<()>, up: Up) -> io::Result<()> {
    if let Err(error) = blocking::lower_priority() {
        tracing::debug!(%error, "the maintenance thread keeps its priority");
    }
    let executor = make_executor()?;
    let terms = Arc::clone(&up.0);
    let files = Rc::new(PacedFiles::new(stop, move || {
        terms.rate.load(Ordering::Relaxed)
    }));
    while let Some(Job { segment, done }) = next_job(jobs, files.stop()) {
        let files = Rc::clone(&files);
        let outcome = executor.run(async move { scrub(&*files, &segment).await });
        done.tell(outcome);
    }
    Ok(())
}

/// The next job; `None` when the thread is to end.
fn next_job(jobs: &Receiver<Job>, stop: &Receiver<()>) -> Option<Job> {
    // Told in the middle of a job.
    if !stop.is_empty() {
        return None;
    }
    crossbeam::channel::select! {
        recv(stop) -> _ => None,
        recv(jobs) -> job => job.ok(),
    }
}

fn make_executor() -> io::Result<LocalExecutor> {
    let made = LocalExecutorBuilder::new(Placement::Unbound)
        .name("maintenance")
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT)
        .make();
    made.map_err(|error| {
        let mut told = error.to_string();
        // It has no kind of its own.
        if told.contains("MemLockLimit") {
            told = "RLIMIT_MEMLOCK is below 512 KiB (LimitMEMLOCK=, ulimit -l)".to_owned();
        }
        io::Error::other(told)
    })
}

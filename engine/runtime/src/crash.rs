//! What is said when a shard's state is no longer known and the process ends itself.
//!
//! Panics on a shard are noted by a hook as they happen (message, place, stack); the executor then
//! decides: a task that guards nothing ends alone, anything else ends the process with [`report`].

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::pin::pin;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use crate::blocking;
use crate::rt::ShardId;

/// Frames shown of a stack.
const FRAMES_MAX: usize = 16;

/// Longest time that telling why may take.
const TELL_MAX: Duration = Duration::from_secs(3);

/// What the program adds to a crash message.
pub struct CrashNotes {
    /// Name and version of the program.
    pub program: String,
    /// Lines about the data, and what to do.
    pub advice: Vec<String>,
    /// Brings the log lines that wait to their place; called once, just before the end.
    pub flush_log: Box<dyn Fn() + Send + Sync>,
}

static NOTES: OnceLock<CrashNotes> = OnceLock::new();

thread_local! {
    /// The task being polled on this thread, and its shard.
    static RUNNING: Cell<Option<(ShardId, &'static str)>> = const { Cell::new(None) };
    /// This thread is a shard's: a panic on it is told by the executor alone.
    static OF_SHARD: Cell<bool> = const { Cell::new(false) };
    /// A panic went through what [`vital`] guards.
    static IN_DOUBT: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// A panic as it happened.
#[derive(Debug)]
pub(crate) struct Panic {
    pub(crate) message: String,
    pub(crate) place: String,
    stack: Option<Backtrace>,
}

/// Sets what crash messages say of the program. The first call counts.
pub fn set_notes(notes: CrashNotes) {
    let _first_counts = NOTES.set(notes);
    install_hook();
}

/// Has panics of this process noted. Threads that are no shards keep the message they had.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNNING.get().is_some() || OF_SHARD.get() {
                note(info);
            }
            if !OF_SHARD.get() {
                before(info);
            }
        }));
    });
}

fn note(info: &PanicHookInfo<'_>) {
    let panic = Panic {
        message: panic_message(info.payload()).to_owned(),
        place: info
            .location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string),
        stack: Some(Backtrace::force_capture()),
    };
    let first = LAST.with(|last| last.try_borrow_mut().map(|mut last| last.replace(panic)));
    // Another panic before the first was dealt with: the runtime of the language ends the process
    // next, and would say nothing of the shard.
    if let Ok(Some(first)) = first {
        let second = LAST.with(|last| last.take());
        let _in_any_case = Aborting::begin();
        tell(&first, "a panic, and another while it was dealt with");
        if let Some(second) = second {
            tell(&second, "the second panic");
        }
    }
}

/// Marks this thread as a shard's.
pub(crate) fn enter_shard_thread(shard: ShardId) {
    OF_SHARD.set(true);
    RUNNING.set(Some((shard, "the loop")));
}

/// Names the task that is being polled, for as long as the guard lives.
pub(crate) struct Running(Option<(ShardId, &'static str)>);

impl Running {
    pub(crate) fn enter(shard: ShardId, task: &'static str) -> Self {
        Self(RUNNING.replace(Some((shard, task))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An escaping panic is told after this: the name is kept for it.
        if !std::thread::panicking() {
            RUNNING.set(self.0);
        }
    }
}

/// The panic that was just caught on this thread.
pub(crate) fn take(payload: &(dyn Any + Send)) -> Panic {
    let noted = LAST.with(|last| last.take());
    // A panic that was resumed here happened elsewhere, and was not noted on this thread.
    noted.unwrap_or_else(|| Panic {
        message: panic_message(payload).to_owned(),
        place: "another thread".to_owned(),
        stack: None,
    })
}

/// Whether the panic that was just caught went through what [`vital`] guards. Asked once.
pub(crate) fn take_in_doubt() -> bool {
    IN_DOUBT.replace(false)
}

/// Whether what is dropped now is dropped by a panic.
pub fn is_panicking() -> bool {
    std::thread::panicking()
}

struct Doubt;

impl Drop for Doubt {
    fn drop(&mut self) {
        IN_DOUBT.set(true);
    }
}

/// Guards state that a panic would leave in doubt, inside a task that may otherwise end alone: a
/// panic inside `future` aborts the process, as one in a vital task does. Dropping the future does
/// nothing of the kind.
pub async fn vital<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        // Dropped by unwinding alone.
        let doubt = Doubt;
        let polled = future.as_mut().poll(context);
        std::mem::forget(doubt);
        polled
    })
    .await
}

/// Tells what happened, on standard error and in the log, and ends the process.
pub(crate) fn abort(panic: &Panic, what: &str) -> ! {
    let _in_any_case = Aborting::begin();
    tell(panic, what);
    std::process::abort();
}

/// Ends the process with these words on standard error, behind the lines of the log that wait.
pub fn abort_saying(words: &str) -> ! {
    let _in_any_case = Aborting::begin();
    flush_log();
    say(words);
    std::process::abort();
}

/// The process ends, whatever telling why it does comes to: a panic on the way, or a reader of our
/// output that is gone or takes nothing.
struct Aborting;

impl Aborting {
    fn begin() -> Aborting {
        let limit = || {
            blocking::sleep(TELL_MAX);
            std::process::abort()
        };
        // Without a thread only a reader that takes nothing could hold this up.
        let _unlimited = blocking::spawn("abort", limit);
        Aborting
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Writes on standard error, to whoever still reads it.
fn say(words: &str) {
    let _nobody_reads = std::io::stderr().write_all(words.as_bytes());
}

fn flush_log() {
    if let Some(notes) = NOTES.get() {
        (notes.flush_log)();
    }
}

fn tell(panic: &Panic, what: &str) {
    let (shard, task) = match RUNNING.get() {
        Some((shard, task)) => (Some(shard.0), task),
        None => (None, "the loop"),
    };
    let Panic { message, place, .. } = panic;
    tracing::error!(shard, task, place, message, "{what}: the process ends");
    flush_log();
    let stack = panic.stack.as_ref().map(ToString::to_string);
    let told = report(&Told {
        what,
        shard,
        task,
        panic,
        stack: stack.as_deref().unwrap_or_default(),
        notes: NOTES.get(),
    });
    say(&told);
}

struct Told<'a> {
    what: &'a str,
    shard: Option<u16>,
    task: &'a str,
    panic: &'a Panic,
    stack: &'a str,
    notes: Option<&'a CrashNotes>,
}

/// The text for standard error.
fn report(told: &Told<'_>) -> String {
    let program = told
        .notes
        .map_or("this program", |notes| notes.program.as_str());
    let shard = told
        .shard
        .map_or_else(String::new, |shard| format!("shard {shard}, "));
    let mut text = format!(
        "\n{program} ends itself, because its state is no longer known.\n  \
         what:  {}: {}\n  place: {}\n  where: {shard}task \"{}\"\n",
        told.what, told.panic.message, told.panic.place, told.task
    );
    let frames = own_frames(told.stack);
    if !frames.is_empty() {
        text.push_str("  stack:\n");
    }
    for frame in frames {
        let _ = writeln!(text, "    {frame}");
    }
    for line in told.notes.into_iter().flat_map(|notes| &notes.advice) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// Frames of a printed stack that are this project's: what the machinery around adds helps nobody.
fn own_frames(stack: &str) -> Vec<String> {
    let mut frames = Vec::new();
    let mut lines = stack.lines().peekable();
    while let Some(line) = lines.next() {
        let place = lines.next_if(|next| next.trim_start().starts_with("at "));
        let name = line.trim_start().split_once(": ").map(|(_, name)| name);
        let Some(name) = name.filter(|name| name.contains("corelog")) else {
            continue;
        };
        // What notes and tells the panic stands on top of every stack.
        if name.contains("corelog_runtime::crash") {
            continue;
        }
        let place = place.map_or(String::new(), |place| format!(" {}", place.trim()));
        frames.push(format!("{name}{place}"));
        if frames.len() == FRAMES_MAX {
            break;
        }
    }
    frames
}

/// The message a panic carries, as far as it is text.
fn panic_message(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(panic: &'a Panic, notes: Option<&'a CrashNotes>, stack: &'a str) -> Told<'a> {
        Told {
            what: "a vital task panicked",
            shard: Some(3),
            task: "log pump",
            panic,
            stack,
            notes,
        }
    }

    #[test]
    fn a_report_names_program_shard_task_message_place_and_advice() {
        let panic = Panic {
            message: "a write beyond the prepared end".to_owned(),
            place: "storage/src/log/pump.rs:90:13".to_owned(),
            stack: None,
        };
        let notes = CrashNotes {
            program: "corelogd 9.9.9".to_owned(),
            advice: vec!["data: /srv/log".to_owned(), "do: start again".to_owned()],
            flush_log: Box::new(|| {}),
        };
        let text = report(&told(&panic, Some(&notes), ""));
        for part in [
            "corelogd 9.9.9",
            "shard 3",
            "\"log pump\"",
            "a write beyond the prepared end",
            "storage/src/log/pump.rs:90:13",
            "data: /srv/log",
            "do: start again",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let bare = report(&told(&panic, None, ""));
        assert!(
            bare.contains("log pump") && !bare.contains("stack:"),
            "{bare}"
        );
    }

    #[test]
    fn stacks_are_cut_to_our_own_frames() {
        let stack = "   0: std::panicking::begin_panic\n             at /rustc/lib.rs:1:1\n   \
                     1: corelog_runtime::crash::note\n             at ./crash.rs:2:2\n   \
                     2: corelog_storage::log::pump\n             at ./storage/src/log/pump.rs:90:13\n   \
                     3: corelog_engine::main\n";
        assert_eq!(
            own_frames(stack),
            [
                "corelog_storage::log::pump at ./storage/src/log/pump.rs:90:13",
                "corelog_engine::main"
            ]
        );
        let deep = "   1: corelog_engine::again\n".repeat(500);
        assert_eq!(own_frames(&deep).len(), FRAMES_MAX);
        assert!(own_frames("").is_empty());
    }
}

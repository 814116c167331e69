//! What a crash message of the broker says of its data.

use std::sync::{Mutex, PoisonError};

use corelog_core::config::BrokerConfig;
use corelog_runtime::crash::{CrashNotes, set_notes};

use super::logging::LogGuard;

/// The log writer of this process, for the main thread to drop at its end and for a crash to drop
/// before that.
static LOG: Mutex<Option<LogGuard>> = Mutex::new(None);

/// Keeps the log writer until [`close_log`] or a crash.
pub fn keep_log(guard: LogGuard) {
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
}

/// Writes the lines that wait; nothing is logged after it.
pub fn close_log() {
    let guard = LOG.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(guard);
}

/// Has crash messages name the directories and say what to do.
pub fn describe(config: &BrokerConfig) {
    set_notes(CrashNotes {
        program: format!("corelogd {}", env!("CARGO_PKG_VERSION")),
        advice: advice(&config.log_dirs),
        flush_log: Box::new(close_log),
    });
}

fn advice(log_dirs: &[String]) -> Vec<String> {
    vec![
        format!(
            "data:  {}: everything acknowledged is on disk; nothing was closed. The next start \
             checks the logs from their recovery points.",
            log_dirs.join(", ")
        ),
        "do:    start corelogd again. If it ends itself again, keep the directory as it is, and \
         report this text with the log before it."
            .to_owned(),
    ]
}

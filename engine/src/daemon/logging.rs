//! Logs: structured lines on standard error, written by a thread of their own. A full queue drops
//! lines and counts them; a shard never waits.

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for the writer.
const LINES_MAX: usize = 16_384;

/// Lines are written until it is dropped.
pub type LogGuard = WorkerGuard;

/// Starts logging; lines are written until the guard is dropped. `CORELOG_LOG` filters (for example
/// `info,corelog_storage=debug`); the default is `info`.
pub fn start() -> LogGuard {
    let (writer, guard): (NonBlocking, WorkerGuard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .finish(std::io::stderr());
    let filter = EnvFilter::try_from_env("CORELOG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false);
    // A second start in one process keeps the first subscriber.
    let _ = subscriber.try_init();
    guard
}

//! Messages to the service manager over its notify socket (`NOTIFY_SOCKET`): ready, reloading,
//! stopping, status, and the watchdog's sign of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use corelog_runtime::{ShardId, blocking};
use sd_notify::NotifyState;

use super::Messages;
use crate::shard::message::{Operation, Request};

/// Longest time between two looks at whether the watchdog is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Sends states in one message; without a service manager, nothing.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager's notify socket does not take messages");
    }
}

/// Says in a word what the broker does.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// The broker serves.
pub fn ready(text: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Service managers that wait for reloads want both in one message.
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no monotonic time: the reload is not announced"),
    }
}

/// A clean stop has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Sends the watchdog's messages as long as all shards answer. Ends with its drop.
pub struct Watchdog {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts it where the service manager asks for it (`WATCHDOG_USEC`).
    pub fn start(gateway: Messages) -> Option<Watchdog> {
        let limit = sd_notify::watchdog_enabled()?;
        // Twice within the limit, with room for shards that answer slowly.
        let every = (limit / 3).max(Duration::from_millis(1));
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = blocking::spawn("watchdog", move || {
            let mut signs = Signs::default();
            while !ends.load(Ordering::Acquire) {
                let began = blocking::now();
                let silent = first_silent(&gateway, every);
                if signs.told(silent) {
                    send(&[NotifyState::Watchdog]);
                }
                while began.elapsed() < every && !ends.load(Ordering::Acquire) {
                    blocking::sleep(every.saturating_sub(began.elapsed()).min(LOOK));
                }
            }
        });
        match thread {
            Ok(thread) => Some(Watchdog {
                end,
                thread: Some(thread),
            }),
            Err(error) => {
                tracing::error!(%error, "the watchdog's thread does not start: no signs of life are sent");
                None
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

/// What the watchdog saw last, so that only changes are logged.
#[derive(Debug, Default)]
struct Signs {
    silent: Option<ShardId>,
}

impl Signs {
    /// True when a sign of life is due: every shard answered.
    fn told(&mut self, silent: Option<ShardId>) -> bool {
        match (self.silent, silent) {
            (before, Some(shard)) if before != Some(shard) => tracing::error!(
                shard = shard.0,
                "a shard does not answer: no signs of life are sent to the service manager"
            ),
            (Some(_), None) => tracing::warn!("all shards answer again"),
            _ => {}
        }
        self.silent = silent;
        silent.is_none()
    }
}

/// The first shard that does not answer within `bound`, all being asked at once. A shard that has
/// ended (the broker stops) counts as an answer.
fn first_silent(gateway: &Messages, bound: Duration) -> Option<ShardId> {
    let began = blocking::now();
    let shards = || (0..gateway.shards()).map(|shard| ShardId(shard as u16));
    let ask = |shard| gateway.send(shard, Request::Operate(Operation::Ping));
    let asked: Vec<_> = shards().map(|shard| (shard, ask(shard))).collect();
    for (shard, answer) in asked {
        let left = bound.saturating_sub(began.elapsed());
        let silent = match answer {
            Ok(answer) => answer.wait_timeout(left).is_err(),
            // It has not taken messages for long.
            Err(_) => !gateway.has_ended(shard),
        };
        if silent {
            return Some(shard);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_only_while_all_shards_answer() {
        let mut signs = Signs::default();
        assert!(signs.told(None));
        assert!(!signs.told(Some(ShardId(1))));
        assert!(!signs.told(Some(ShardId(0))));
        assert!(signs.told(None));
    }
}

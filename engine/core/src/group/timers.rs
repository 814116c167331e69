//! Deadlines of groups and their members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a deadline is for. The order makes a group's timers neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// The members (re)join no longer than this.
    Join,
    /// The members ask for their assignment no longer than this.
    Sync,
    /// A member, or one that was asked to join with its id, is alive no longer than this.
    Session(Arc<str>),
}

/// Names a timer; there is one of each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey {
    /// Group.
    pub group: Arc<str>,
    /// What of it.
    pub kind: TimerKind,
}

/// All deadlines; milliseconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_key: BTreeMap<TimerKey, i64>,
    by_time: BTreeSet<(i64, TimerKey)>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub fn set(&mut self, key: TimerKey, at_ms: i64) {
        if let Some(before) = self.by_key.insert(key.clone(), at_ms) {
            if before == at_ms {
                return;
            }
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at_ms, key));
    }

    /// Forgets a timer, if it is set.
    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some((key, at_ms)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at_ms, key));
        }
    }

    /// Forgets all timers of a group.
    pub fn cancel_group(&mut self, group: &Arc<str>) {
        let first = TimerKey {
            group: Arc::clone(group),
            kind: TimerKind::Join,
        };
        let keys: Vec<TimerKey> = self
            .by_key
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.group == *group)
            .cloned()
            .collect();
        for key in &keys {
            self.cancel(key);
        }
    }

    /// Takes the earliest timer that is due.
    pub fn pop_due(&mut self, now_ms: i64) -> Option<TimerKey> {
        let (at_ms, _) = self.by_time.first()?;
        if *at_ms > now_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// The earliest deadline.
    pub fn next_ms(&self) -> Option<i64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.by_key.clear();
        self.by_time.clear();
    }
}

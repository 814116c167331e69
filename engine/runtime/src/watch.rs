//! The stall detector: what held a shard for longer than it may, by name.

use std::collections::BTreeMap;

/// A piece of a turn above this is a stall, in nanoseconds.
pub(crate) const STALL_NS: u64 = 5_000_000;
/// Time between two log lines about stalls of one shard, in nanoseconds.
const LOG_EVERY_NS: u64 = 1_000_000_000;

/// Stalls of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// How often.
    pub count: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
}

impl Stall {
    fn add(&mut self, took_ns: u64) {
        self.count += 1;
        self.longest_ns = self.longest_ns.max(took_ns);
    }
}

/// Stalls of one shard since its start. Pure.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    all: Stall,
    by_name: BTreeMap<&'static str, Stall>,
    logged_ns: Option<u64>,
    unlogged: u64,
}

impl Stalls {
    /// Notes a stall. `Some(n)`: it is to be logged, with `n` others before it that were not.
    pub(crate) fn note(&mut self, name: &'static str, took_ns: u64, now_ns: u64) -> Option<u64> {
        self.all.add(took_ns);
        self.by_name.entry(name).or_default().add(took_ns);
        let due = self
            .logged_ns
            .is_none_or(|logged| now_ns.saturating_sub(logged) >= LOG_EVERY_NS);
        if !due {
            self.unlogged += 1;
            return None;
        }
        self.logged_ns = Some(now_ns);
        Some(std::mem::take(&mut self.unlogged))
    }

    /// All of them together.
    pub(crate) fn all(&self) -> Stall {
        self.all
    }

    /// By the name of what held the shard: a task, or a part of the loop.
    pub(crate) fn by_name(&self) -> Vec<(&'static str, Stall)> {
        self.by_name
            .iter()
            .map(|(&name, &stall)| (name, stall))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_counted_by_name_and_logged_once_a_second() {
        let mut stalls = Stalls::default();
        let second = LOG_EVERY_NS;
        assert_eq!(stalls.note("append", 6_000_000, 5), Some(0));
        assert_eq!(stalls.note("append", 9_000_000, second), None);
        assert_eq!(stalls.note("ring", 7_000_000, second + 4), None);
        assert_eq!(stalls.note("append", 5_500_000, second + 5), Some(2));
        assert_eq!(stalls.note("append", 5_500_000, 2 * second + 5), Some(0));
        let all = Stall {
            count: 5,
            longest_ns: 9_000_000,
        };
        assert_eq!(stalls.all(), all);
        let of_append = Stall { count: 4, ..all };
        let of_ring = Stall {
            count: 1,
            longest_ns: 7_000_000,
        };
        assert_eq!(stalls.by_name(), [("append", of_append), ("ring", of_ring)]);
    }
}

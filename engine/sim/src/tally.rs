//! How often each fault and each rare branch was met, over all histories.

use std::collections::BTreeMap;

/// What must have been met after many histories: a zero says that they show nothing of it.
pub const REQUIRED: &[&str] = &[
    "histories",
    "starts of the broker",
    "starts after a clean stop",
    "crash: kill -9",
    "crash: power loss",
    "crash while starting",
    "clean stop",
    "produce: acknowledged, acks=1",
    "produce: acknowledged, acks=all",
    "produce: sent, acks=0",
    "produce: no answer",
    "produce: refused, may be tried again",
    "produce: sent again",
    "produce: duplicate recognised",
    "fetch: records",
    "fetch: waited for data",
    "list offsets",
    "verified partitions",
    "topic created",
    "topic deleted",
    "partitions added",
    "config changed while running",
    "group: joined",
    "group: assigned",
    "group: rebalance while a member",
    "group: left",
    "group: member vanished",
    "group: offsets committed",
    "group: offsets fetched",
    "client reconnects",
    "client died: producer",
    "client died: reader",
    "client died: group member",
    "client died in mid-request",
    "client died, and another one came",
    "DeleteRecords: acknowledged",
    "DeleteRecords: behind the end, refused",
    "DeleteRecords without an answer: done",
    "DeleteRecords without an answer: not done",
    "crash: DeleteRecords under way",
    "crash: deleted segments were not unlinked yet",
    "fetch: below the log start",
    "retention changed while running",
    "log.dirs: partitions in several",
    "log.dirs: one failed, the others serve",
    "compression.type changed while running",
    "batch stored with the topic's codec",
    "fetch session: opened",
    "fetch session: no room for one",
    "fetch session: incremental answer",
    "fetch session: partition without news left out",
    "fetch session: partition forgotten",
    "fetch session: closed",
    "fetch session: wrong epoch refused",
    "fetch session: unknown after a restart",
    "batch gone: deleted",
    "batch gone: retention.bytes",
    "batch gone: retention.ms",
    "acknowledged, lost by power loss: policy unset",
    "acknowledged, lost by power loss: flush.messages=N",
    "acknowledged, lost by power loss: flush.ms",
    "disk: write cut in the middle",
    "disk: unflushed sectors lost",
    "disk: unflushed sectors kept",
    "disk: sizes lost",
    "disk: names lost",
    "disk: late write after kill",
    "disk: late write that never came",
    "disk: EIO of a write",
    "disk: EIO of a flush",
    "disk: EIO of a read",
    "disk: ENOSPC",
    "disk: short write",
    "disk: short read",
    "disk: slow completion",
    "net: send in several pieces",
    "net: slow send",
    "net: connection reset",
    "net: connection lost in silence",
    "net: half-sent",
    "net: refused",
    "net: reset before it was accepted",
    "net: slow peer",
    "net: link cut",
    "net: timed out",
    "net: connection of a dead process",
    "net: sendfile",
    "log: roll",
    "log: tail-block merge",
    "log: durable write",
    "log: flush",
    "log: recovery",
    "log: torn tail cut",
    "log: failed",
    "log: start raised",
    "log: segments removed",
    "log: rolled by retention",
    "log: deleted files unlinked",
    "the broker ended itself",
    "healed by a restart",
    "healed without a restart",
];

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Once more.
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// So many more.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    /// How often.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Takes over what another history counted.
    pub fn merge(&mut self, other: &Tally) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// Prints all counts; gives the names that were never met.
    pub fn report(&self) -> Vec<&'static str> {
        let mut never = Vec::new();
        for &name in REQUIRED {
            let count = self.count(name);
            let mark = if count == 0 { "  <-- never met" } else { "" };
            println!("{count:>12}  {name}{mark}");
            if count == 0 {
                never.push(name);
            }
        }
        for (name, count) in &self.0 {
            if !REQUIRED.contains(name) {
                println!("{count:>12}  {name}");
            }
        }
        never
    }
}

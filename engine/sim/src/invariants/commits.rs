//! Committed offsets are a register per group and partition: what is read was committed and not
//! definitely replaced by a later commit. Nothing acknowledged is lost, nothing goes back.

use std::collections::BTreeMap;

use super::Broken;

#[derive(Debug, Clone, Copy)]
struct Write {
    id: u64,
    offset: i64,
    sent_ns: u64,
    /// It took effect before this; `None` = nobody knows yet.
    done_ns: Option<u64>,
    acked: bool,
}

/// Name of a register.
type Key = (String, i32);

/// Commits and reads of all groups.
#[derive(Debug, Default)]
pub struct Commits {
    registers: BTreeMap<Key, Vec<Write>>,
    next_id: u64,
}

impl Commits {
    /// A commit is on its way; the name is for [`Commits::acked`].
    pub fn sent(&mut self, group: &str, partition: i32, offset: i64, now_ns: u64) -> u64 {
        self.next_id += 1;
        let write = Write {
            id: self.next_id,
            offset,
            sent_ns: now_ns,
            done_ns: None,
            acked: false,
        };
        self.register(group, partition).push(write);
        self.next_id
    }

    fn register(&mut self, group: &str, partition: i32) -> &mut Vec<Write> {
        self.registers
            .entry((group.to_owned(), partition))
            .or_default()
    }

    /// It was acknowledged.
    pub fn acked(&mut self, group: &str, partition: i32, id: u64, now_ns: u64) {
        let writes = self.register(group, partition);
        if let Some(write) = writes.iter_mut().find(|write| write.id == id) {
            write.done_ns = Some(write.done_ns.map_or(now_ns, |done| done.min(now_ns)));
            write.acked = true;
        }
        prune(writes, now_ns);
    }

    /// It was refused and is in no log.
    pub fn refused(&mut self, group: &str, partition: i32, id: u64) {
        self.register(group, partition)
            .retain(|write| write.id != id);
    }

    /// The broker died: what has no answer happened before that, or never.
    pub fn broker_died(&mut self, now_ns: u64) {
        for write in self.registers.values_mut().flatten() {
            write.done_ns.get_or_insert(now_ns);
        }
    }

    /// An offset was read, -1 = none is committed. Asked at `asked_ns`, answered now.
    pub fn read(
        &mut self,
        group: &str,
        partition: i32,
        offset: i64,
        asked_ns: u64,
        now_ns: u64,
    ) -> Result<(), Broken> {
        let writes = self.register(group, partition);
        let replaced = |done_ns: u64| {
            writes.iter().find(|later| {
                later.acked
                    && later.sent_ns > done_ns
                    && later.done_ns.is_some_and(|d| d <= asked_ns)
            })
        };
        if offset < 0 {
            return match replaced(0) {
                None => Ok(()),
                Some(lost) => Err(format!(
                    "commits: {group} has nothing committed for partition {partition}, {} was acknowledged",
                    lost.offset
                )),
            };
        }
        let possible = writes.iter().position(|w| {
            w.offset == offset && w.done_ns.is_none_or(|done| replaced(done).is_none())
        });
        let Some(at) = possible else {
            return Err(format!(
                "commits: {group} has {offset} committed for partition {partition}; commits known: {writes:?}"
            ));
        };
        // Who has seen it will not see what came before.
        let write = &mut writes[at];
        write.acked = true;
        write.done_ns = Some(write.done_ns.map_or(now_ns, |done| done.min(now_ns)));
        prune(writes, now_ns);
        Ok(())
    }
}

/// Drops what can never be read again by anybody who asks from now on.
fn prune(writes: &mut Vec<Write>, now_ns: u64) {
    let newest = writes
        .iter()
        .filter(|w| w.acked && w.done_ns.is_some_and(|done| done <= now_ns))
        .map(|w| w.sent_ns)
        .max();
    // Readers under way may still be told of older ones: some are kept.
    let Some(newest) = newest.filter(|_| writes.len() > 64) else {
        return;
    };
    let horizon = newest.saturating_sub(120_000_000_000);
    writes.retain(|w| w.done_ns.is_none_or(|done| done >= horizon));
}

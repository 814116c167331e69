//! What a killed process and a lost power supply leave behind.

use std::collections::BTreeMap;

use super::config::OpKind;
use super::file::{Cause, LateWrite};
use super::op_kinds::{changes_disk, flatten};
use super::page::PAGE_BYTES;
use super::state::{Flight, State};
use super::tree::Ino;
use crate::driver::Op;

impl State {
    pub(super) fn kill_process(&mut self) {
        self.counters.kills += 1;
        let mut flights = std::mem::take(&mut self.flights);
        for (id, flight) in &mut flights {
            self.abandon(*id, flight);
        }
        self.seq += 1;
        self.tree.complete_all(self.seq);
        self.tree.void_handles();
        self.bury(flights);
    }

    /// A driver went while its process lives on: its operations end as those of a killed process.
    pub(super) fn abandon_port(&mut self, port: u32) {
        let ids: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, f)| f.port == port)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(mut flight) = self.flights.remove(&id) {
                self.abandon(id, &mut flight);
                self.mark_completed(id, &mut flight);
            }
        }
    }

    /// An operation whose process dies.
    fn abandon(&mut self, id: u64, flight: &mut Flight) {
        if flight.is_queued || flight.outcome.is_some() || !changes_disk(&flight.op) {
            return;
        }
        if let Some(late) = self.late_write(flight) {
            match late {
                Some((ino, late)) => {
                    if let Ok(file) = self.tree.file(ino) {
                        file.late.push(late);
                    }
                }
                None => self.counters.late_dropped += 1,
            }
            return;
        }
        let (does_happen, cut) = (self.crash_rng.of_256(128), self.crash_rng.of_256(128));
        if does_happen && !matches!(flight.kind, OpKind::Flush | OpKind::SyncDir) {
            flight.outcome = Some(self.execute(id, flight, cut && flight.kind == OpKind::Write));
        }
    }

    /// For a direct write: what of it is still on its way, `Some(None)` when it never left.
    fn late_write(&mut self, flight: &Flight) -> Option<Option<(Ino, LateWrite)>> {
        let Op::WriteAt {
            file, bufs, offset, ..
        } = &flight.op
        else {
            return None;
        };
        let open = self
            .handles
            .get(&file.0.raw)
            .filter(|open| open.options.direct && open.options.write)?;
        let align = u64::from(self.config.dio_align_bytes.max(1));
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        if !len.is_multiple_of(align) || !offset.is_multiple_of(align) {
            return None;
        }
        let ino = open.ino;
        let fate = self.crash_rng.below(16);
        let mut data = flatten(bufs);
        if fate == 0 {
            data.truncate((self.crash_rng.below(len / align) * align) as usize);
        }
        let delay_ns = match fate {
            1..=4 => return Some(None),
            5..=8 => self.crash_rng.below(1_000_000),
            9..=12 => self.crash_rng.below(100_000_000),
            _ => self.crash_rng.below(30_000_000_000),
        };
        let late = LateWrite {
            at_ns: self.now_ns + delay_ns,
            offset: *offset,
            data: data.into(),
        };
        Some(Some((ino, late)))
    }

    /// Late writes of dead processes whose moment has come (all of them, for the barrier).
    pub(super) fn apply_late(&mut self, ino: Ino, all: bool) {
        let now_ns = self.now_ns;
        let Ok(file) = self.tree.file(ino) else {
            return;
        };
        if file.late.is_empty() {
            return;
        }
        let due = |late: &LateWrite| all || late.at_ns <= now_ns;
        let (mut ripe, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut file.late).into_iter().partition(due);
        file.late = rest;
        self.counters.barriers_with_late_writes += u64::from(all);
        ripe.sort_by_key(|late| late.at_ns);
        for late in ripe {
            let op = self.land(ino, &late);
            self.seq += 1;
            let seq = self.seq;
            if let Ok(file) = self.tree.file(ino) {
                file.complete(op, 0, u64::MAX, seq);
            }
        }
    }

    fn land(&mut self, ino: Ino, late: &LateWrite) -> u64 {
        let (op, order) = (self.next_id(), self.next_order());
        self.counters.late_applied += 1;
        if let Ok(file) = self.tree.file(ino) {
            let end = late.offset + late.data.len() as u64;
            let bufs = std::slice::from_ref(&late.data);
            file.write(
                Cause { op, order },
                late.offset,
                bufs,
                late.data.len(),
                |_| true,
            );
            let new_pages = file.allocate(late.offset / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
            self.tree.used_pages += new_pages;
        }
        op
    }

    pub(super) fn power_loss(&mut self) {
        self.counters.power_losses += 1;
        let mut flights = std::mem::take(&mut self.flights);
        for (id, flight) in &mut flights {
            let is_open = !flight.is_queued && flight.outcome.is_none() && changes_disk(&flight.op);
            if is_open
                && !matches!(flight.kind, OpKind::Flush | OpKind::SyncDir)
                && self.crash_rng.of_256(128)
            {
                flight.outcome = Some(self.execute(*id, flight, false));
            }
        }
        for (ino, late) in self.take_all_late() {
            if self.crash_rng.of_256(128) {
                self.land(ino, &late);
            } else {
                self.counters.late_dropped += 1;
            }
        }
        let ordered = self.config.ordered_names;
        self.tree
            .lose_power(ordered, &mut self.crash_rng, &mut self.counters);
        self.bury(flights);
    }

    fn take_all_late(&mut self) -> Vec<(Ino, LateWrite)> {
        let mut by_file: BTreeMap<Ino, Vec<LateWrite>> = BTreeMap::new();
        for (ino, file) in self.tree.files_by_ino() {
            if !file.late.is_empty() {
                by_file.insert(ino, std::mem::take(&mut file.late));
            }
        }
        by_file
            .into_iter()
            .flat_map(|(ino, late)| late.into_iter().map(move |late| (ino, late)))
            .collect()
    }
}

//! What a killed process and a lost power supply leave behind.

use std::collections::BTreeMap;

use super::config::OpKind;
use super::file::{Cause, LateWrite};
use super::flights::Flight;
use super::op_kinds::{changes_disk, flatten};
use super::page::PAGE_BYTES;
use super::process::MAIN;
use super::state::State;
use super::tree::Ino;
use crate::driver::Op;

impl State {
    /// `kill -9`.
    pub(super) fn kill(&mut self, process: u32) {
        self.counters.kills += 1;
        if process == MAIN {
            for id in self.flights_of(process) {
                let Some(mut flight) = self.flights.borrow_out(id) else {
                    continue;
                };
                self.abandon(id, &mut flight);
                self.flights.put_back(id, flight);
            }
            self.seq += 1;
            self.tree.complete_all(self.seq);
            self.tree.void_handles();
        }
        self.close_ends_of(process);
        self.bury(process, true);
    }

    /// The process has ended by itself: its shards are closed, and the kernel closes the rest.
    pub(super) fn exit(&mut self, process: u32) {
        if process == MAIN {
            self.seq += 1;
            self.tree.complete_all(self.seq);
            self.tree.void_handles();
        }
        self.close_ends_of(process);
        self.bury(process, false);
    }

    fn flights_of(&self, process: u32) -> Vec<u64> {
        let ports = &self.ports;
        let is_its = |port: u32| {
            let port = ports.get(port as usize).and_then(Option::as_deref);
            port.is_some_and(|port| port.process == process)
        };
        self.flights.ids(|_, flight| is_its(flight.port))
    }

    /// A driver went while its process lives on: its operations end as those of a killed process.
    pub(super) fn abandon_port(&mut self, port: u32) {
        for id in self.flights.ids(|_, flight| flight.port == port) {
            if let Some(mut flight) = self.flights.remove(id) {
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
            .handle(file.0.raw)
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
        let (op, order) = (self.flights.number(), self.next_order());
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
        for id in self.flights_of(MAIN) {
            let Some(mut flight) = self.flights.borrow_out(id) else {
                continue;
            };
            let is_open = !flight.is_queued && flight.outcome.is_none() && changes_disk(&flight.op);
            if is_open
                && !matches!(flight.kind, OpKind::Flush | OpKind::SyncDir)
                && self.crash_rng.of_256(128)
            {
                flight.outcome = Some(self.execute(id, &mut flight, false));
            }
            self.flights.put_back(id, flight);
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
        self.lose_ends_of(MAIN);
        self.bury(MAIN, true);
    }

    /// All that runs in it is gone: its operations never complete.
    fn bury(&mut self, process: u32, has_crashed: bool) {
        for id in self.flights_of(process) {
            if let Some(flight) = self.flights.remove(id)
                && let Some(port) = self.port(flight.port)
            {
                port.void.insert(flight.token.0, flight.op);
            }
        }
        let incarnation = self.processes.incarnation(process);
        for port in self.ports.iter_mut().flatten() {
            if port.process == process && port.incarnation == incarnation {
                port.queued.clear();
                for completion in port.ready.drain(..) {
                    port.void.insert(completion.token.0, completion.op);
                }
            }
        }
        self.forget_events_of_the_dead();
        if process == MAIN {
            self.void_handles();
        }
        self.processes.end(process, has_crashed);
        self.trace
            .add(0xDEAD ^ self.now_ns ^ u64::from(process) << 32);
        let name = self.processes.name(process);
        let how = if has_crashed { "dies" } else { "ends" };
        self.trace.tell(self.now_ns, || format!("{name} {how}"));
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

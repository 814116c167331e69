//! The world's state: operations in flight, the clock, and which of them happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::Arc;
use std::task::Waker;

use super::config::{
    CrashKind, CrashMoment, Fault, FaultCounters, OpKind, ScriptedFault, SimConfig,
};
use super::op_kinds::{changes_disk, describe, kind_of};
use super::rng::{Rng, Trace};
use super::tree::{Errno, Ino, Tree};
use crate::driver::{Closer, Completion, Op, OpenOptions, Output, Token};

/// An operation from its submission to the hand-out of its completion.
pub(super) struct Flight {
    pub(super) port: u32,
    pub(super) token: Token,
    pub(super) op: Op,
    pub(super) kind: OpKind,
    /// Not started yet.
    pub(super) is_queued: bool,
    /// The last completion before this was submitted: what a flush covers.
    pub(super) covered_seq: u64,
    pub(super) fault: Option<Fault>,
    /// The crash strikes in or after it.
    pub(super) crash: Option<CrashMoment>,
    /// Its effect has happened.
    pub(super) outcome: Option<Result<Output, Errno>>,
}

/// What the world keeps for one driver.
#[derive(Default)]
pub(super) struct Port {
    queued: Vec<u64>,
    pub(super) ready: Vec<Completion>,
    /// Operations that never complete, by token: the process that submitted them is dead.
    pub(super) void: BTreeMap<u64, Op>,
    /// Slot of a token -> (its generation, the operation's number).
    slots: Vec<(u32, u64)>,
    free: Vec<u32>,
}

pub(super) struct OpenFile {
    pub(super) ino: Ino,
    pub(super) options: OpenOptions,
    pub(super) path: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Effect,
    Completion,
}

pub(super) struct State {
    pub(super) config: SimConfig,
    pub(super) rng: Rng,
    /// Chance of crashes, apart from the rest: a run with a crash is the same up to it as one without.
    pub(super) crash_rng: Rng,
    pub(super) trace: Trace,
    pub(super) now_ns: u64,
    pub(super) wall_step_ms: i64,
    /// Sequence number of the last completion handed out.
    pub(super) seq: u64,
    next_order: u64,
    next_id: u64,
    pub(super) tree: Tree,
    pub(super) handles: BTreeMap<i64, OpenFile>,
    pub(super) next_handle: i64,
    pub(super) closer: Arc<dyn Closer>,
    pub(super) flights: BTreeMap<u64, Flight>,
    events: BinaryHeap<Reverse<(u64, u32, u64, Phase)>>,
    pub(super) ports: BTreeMap<u32, Port>,
    next_port: u32,
    pub(super) script: Vec<ScriptedFault>,
    pub(super) counters: FaultCounters,
    pub(super) write_count: u64,
    /// Operations started, by kind.
    pub(super) started: BTreeMap<OpKind, u64>,
    /// Grows with every crash; drivers of older incarnations are dead.
    pub(super) incarnation: u64,
    pub(super) crashed: bool,
    pub(super) crash_wakers: Vec<Waker>,
}

impl State {
    pub(super) fn new(seed: u64, config: SimConfig, closer: Arc<dyn Closer>) -> State {
        State {
            rng: Rng::new(seed, 1),
            crash_rng: Rng::new(seed, 2),
            trace: Trace::new(seed),
            now_ns: 1_000_000,
            wall_step_ms: 0,
            seq: 1,
            next_order: 0,
            next_id: 0,
            tree: Tree::new(),
            handles: BTreeMap::new(),
            next_handle: 3,
            closer,
            flights: BTreeMap::new(),
            events: BinaryHeap::new(),
            ports: BTreeMap::new(),
            next_port: 0,
            script: Vec::new(),
            counters: FaultCounters::default(),
            write_count: 0,
            started: BTreeMap::new(),
            incarnation: 1,
            crashed: false,
            crash_wakers: Vec::new(),
            config,
        }
    }

    pub(super) fn add_port(&mut self) -> u32 {
        self.next_port += 1;
        self.ports.insert(self.next_port, Port::default());
        self.next_port
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn new_token(&mut self, port: u32, id: u64) -> Token {
        let port = self.ports.entry(port).or_default();
        let slot = port.free.pop().unwrap_or_else(|| {
            port.slots.push((0, 0));
            (port.slots.len() - 1) as u32
        });
        let entry = &mut port.slots[slot as usize];
        *entry = (entry.0 + 1, id);
        Token(u64::from(entry.0) << 32 | u64::from(slot))
    }

    fn free_token(&mut self, port: u32, token: Token) {
        if let Some(port) = self.ports.get_mut(&port) {
            let slot = token.0 as u32;
            port.slots[slot as usize].1 = 0;
            port.free.push(slot);
        }
    }

    pub(super) fn submit(&mut self, port: u32, is_dead: bool, op: Op) -> Token {
        let id = self.next_id();
        let token = self.new_token(port, id);
        if is_dead {
            self.ports.entry(port).or_default().void.insert(token.0, op);
            return token;
        }
        self.now_ns += 200;
        describe(&op, &mut self.trace);
        let kind = kind_of(&op);
        let flight = Flight {
            port,
            token,
            op,
            kind,
            is_queued: true,
            covered_seq: self.seq,
            fault: None,
            crash: None,
            outcome: None,
        };
        self.flights.insert(id, flight);
        self.ports.entry(port).or_default().queued.push(id);
        token
    }

    pub(super) fn cancel(&mut self, port: u32, token: Token) {
        let Some(state) = self.ports.get_mut(&port) else {
            return;
        };
        if let Some(op) = state.void.remove(&token.0) {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            state.ready.push(Completion { token, op, result });
            self.free_token(port, token);
            return;
        }
        let Some(&(generation, id)) = state.slots.get(token.0 as u32 as usize) else {
            return;
        };
        if u64::from(generation) != token.0 >> 32 {
            return;
        }
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        // What has begun can rarely be stopped.
        if flight.outcome.is_none() && (flight.is_queued || self.rng.of_256(64)) {
            flight.outcome = Some(Err(libc::ECANCELED));
            flight.crash = None;
            self.counters.cancelled += 1;
        }
    }

    /// Starts what was submitted: draws its latency, its fault, the crash.
    pub(super) fn start_queued(&mut self, port: u32) {
        let queued = self
            .ports
            .get_mut(&port)
            .map(|port| std::mem::take(&mut port.queued))
            .unwrap_or_default();
        for id in queued {
            if self.crashed {
                return;
            }
            self.start(id);
        }
    }

    fn start(&mut self, id: u64) {
        let Some(mut flight) = self.flights.remove(&id) else {
            return;
        };
        if changes_disk(&flight.op) && flight.outcome.is_none() {
            self.write_count += 1;
            if self.config.crash_at == Some(self.write_count) {
                let moments = [CrashMoment::Before, CrashMoment::In, CrashMoment::After];
                let drawn = moments[self.crash_rng.below(3) as usize];
                let moment = self.config.crash_moment.unwrap_or(drawn);
                if moment == CrashMoment::Before {
                    self.flights.insert(id, flight);
                    self.crash();
                    return;
                }
                flight.crash = Some(moment);
            }
        }
        flight.is_queued = false;
        *self.started.entry(flight.kind).or_default() += 1;
        flight.fault = self.draw_fault(&flight);
        let latencies = self.config.latencies;
        let (low, high) = match flight.kind {
            OpKind::Read => latencies.read_ns,
            OpKind::Write => latencies.write_ns,
            OpKind::Flush | OpKind::SyncDir => latencies.flush_ns,
            _ => latencies.other_ns,
        };
        let mut latency = self.rng.between(low, high);
        if matches!(flight.op, Op::WriteAt { dsync: true, .. }) {
            latency += self.rng.between(latencies.flush_ns.0, latencies.flush_ns.1);
        }
        if let Some(Fault::Slow(more)) = flight.fault {
            latency += u64::try_from(more.as_nanos()).unwrap_or(u64::MAX / 4);
            self.counters.slow += 1;
        }
        let done_ns = self.now_ns.saturating_add(latency.max(1));
        if flight.kind == OpKind::Write {
            // Readers may see a write before its completion is known.
            let effect_ns = self.rng.between(self.now_ns + 1, done_ns);
            self.schedule(effect_ns, id, Phase::Effect);
        }
        self.flights.insert(id, flight);
        self.schedule(done_ns, id, Phase::Completion);
    }

    fn schedule(&mut self, at_ns: u64, id: u64, phase: Phase) {
        let tie = self.rng.next_u64() as u32;
        self.events.push(Reverse((at_ns, tie, id, phase)));
    }

    fn draw_fault(&mut self, flight: &Flight) -> Option<Fault> {
        if !self.script.is_empty() {
            let path = self.path_of(&flight.op);
            let matching = |s: &&mut ScriptedFault| {
                s.kind == flight.kind && s.times > 0 && path.contains(s.path_contains.as_str())
            };
            if let Some(script) = self.script.iter_mut().find(matching) {
                if script.skip == 0 {
                    script.times -= 1;
                    return Some(script.fault);
                }
                script.skip -= 1;
            }
        }
        let plan = self.config.faults;
        let rng = &mut self.rng;
        let own = match flight.kind {
            OpKind::Read if rng.ppm(plan.eio_read_ppm) => Some(Fault::Eio),
            OpKind::Read if rng.ppm(plan.short_read_ppm) => {
                Some(Fault::Short(1 + rng.below(16_384) as usize))
            }
            OpKind::Write if rng.ppm(plan.eio_write_ppm) => Some(Fault::Eio),
            OpKind::Write | OpKind::Fallocate if rng.ppm(plan.no_space_ppm) => Some(Fault::NoSpace),
            OpKind::Write if rng.ppm(plan.short_write_ppm) => {
                Some(Fault::Short(1 + rng.below(16_384) as usize))
            }
            OpKind::Flush | OpKind::SyncDir if rng.ppm(plan.eio_flush_ppm) => Some(Fault::Eio),
            _ => None,
        };
        if own.is_none() && rng.ppm(plan.slow_ppm) {
            let (low, high) = self.config.latencies.slow_ns;
            return Some(Fault::Slow(std::time::Duration::from_nanos(
                rng.between(low, high),
            )));
        }
        own
    }

    /// Lets time pass until `port` has a completion, another port's event came, or `deadline_ns`.
    /// False: nothing will ever happen.
    pub(super) fn advance(&mut self, port: u32, deadline_ns: Option<u64>) -> bool {
        let mut foreign = false;
        loop {
            if self.crashed {
                return true;
            }
            let next_ns = self.events.peek().map(|Reverse(event)| event.0);
            if next_ns.is_some_and(|at_ns| at_ns <= self.now_ns) {
                if let Some(Reverse((_, _, id, phase))) = self.events.pop() {
                    foreign |= self.happen(id, phase) != Some(port);
                }
                continue;
            }
            if foreign
                || self
                    .ports
                    .get(&port)
                    .is_some_and(|port| !port.ready.is_empty())
            {
                return true;
            }
            match (next_ns, deadline_ns) {
                (_, Some(deadline_ns)) if deadline_ns <= self.now_ns => return true,
                (Some(next_ns), Some(deadline_ns)) => self.now_ns = next_ns.min(deadline_ns),
                (Some(next_ns), None) => self.now_ns = next_ns,
                (None, Some(deadline_ns)) => self.now_ns = deadline_ns,
                (None, None) => return false,
            }
        }
    }

    /// One event. Returns the port it belongs to.
    fn happen(&mut self, id: u64, phase: Phase) -> Option<u32> {
        self.take_effect(id);
        let port = self.flights.get(&id).map(|flight| flight.port)?;
        if phase == Phase::Completion && !self.crashed {
            self.finish(id);
        }
        Some(port)
    }

    /// The effect of an operation, once.
    pub(super) fn take_effect(&mut self, id: u64) {
        let Some(mut flight) = self.flights.remove(&id) else {
            return;
        };
        if flight.outcome.is_none() {
            let cut = flight.crash == Some(CrashMoment::In);
            flight.outcome = Some(self.execute(id, &mut flight, cut));
            if flight.crash.is_some() {
                if cut
                    && flight.kind == OpKind::Write
                    && self.config.crash_kind == CrashKind::PowerLoss
                {
                    self.reached_disk(id, &flight);
                } else if !cut {
                    self.mark_completed(id, &mut flight);
                }
                self.ports
                    .entry(flight.port)
                    .or_default()
                    .void
                    .insert(flight.token.0, flight.op);
                self.crash();
                return;
            }
        }
        self.flights.insert(id, flight);
    }

    /// Hands out a completion.
    fn finish(&mut self, id: u64) {
        let Some(mut flight) = self.flights.remove(&id) else {
            return;
        };
        self.mark_completed(id, &mut flight);
        self.free_token(flight.port, flight.token);
        let outcome = flight.outcome.unwrap_or(Err(libc::EIO));
        self.trace.add(id ^ 0xC0_0000_0000);
        self.trace.add(self.now_ns);
        self.trace.add(match &outcome {
            Ok(Output::Len(len)) => *len as u64,
            Ok(_) => u64::MAX,
            Err(errno) => !(*errno as u64),
        });
        let result = outcome.map_err(io::Error::from_raw_os_error);
        let port = self.ports.entry(flight.port).or_default();
        port.ready.push(Completion {
            token: flight.token,
            op: flight.op,
            result,
        });
    }

    pub(super) fn crash(&mut self) {
        match self.config.crash_kind {
            CrashKind::PowerLoss => self.power_loss(),
            CrashKind::KillProcess => self.kill_process(),
        }
    }

    /// All that runs is gone: its operations never complete.
    pub(super) fn bury(&mut self, flights: BTreeMap<u64, Flight>) {
        for flight in flights.into_values() {
            self.ports
                .entry(flight.port)
                .or_default()
                .void
                .insert(flight.token.0, flight.op);
        }
        for port in self.ports.values_mut() {
            port.queued.clear();
            for completion in port.ready.drain(..) {
                port.void.insert(completion.token.0, completion.op);
            }
        }
        self.events.clear();
        self.handles.clear();
        self.incarnation += 1;
        self.crashed = true;
        self.trace.add(0xDEAD ^ self.now_ns);
    }
}

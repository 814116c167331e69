//! The world's state: operations in flight, the clock, and which of them happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::task::Waker;

use super::config::{
    CrashKind, CrashMoment, Fault, FaultCounters, OpKind, ScriptedFault, SimConfig,
};
use super::flights::{Flight, Flights, Port};
use super::net::{Net, NetEvent};
use super::op_kinds::{changes_disk, describe, kind_of};
use super::process::{MAIN, Processes};
use super::rng::{Rng, Trace};
use super::tree::{Ino, Tree};
use crate::driver::{Closer, Completion, Op, OpenOptions, Output, Token};

pub(super) struct OpenFile {
    pub(super) ino: Ino,
    pub(super) options: OpenOptions,
    pub(super) path: String,
}

/// What happens at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Effect(u64),
    Completion(u64),
    Net(NetEvent),
    Crash { process: u32, is_power_loss: bool },
}

/// Moment, tie-breaker, event.
type Due = Reverse<(u64, u32, Event)>;

pub(super) struct State {
    pub(super) config: SimConfig,
    pub(super) rng: Rng,
    /// Chance of crashes, apart from the rest: a run with a crash is the same up to it as one without.
    pub(super) crash_rng: Rng,
    /// Chance of turns: who goes next, and what it finds first.
    pub(super) turn_rng: Rng,
    /// A scheduler of several shards runs this world.
    pub(super) is_scheduled: bool,
    pub(super) trace: Trace,
    pub(super) now_ns: u64,
    pub(super) wall_step_ms: i64,
    /// Sequence number of the last completion handed out.
    pub(super) seq: u64,
    next_order: u64,
    pub(super) tree: Tree,
    /// By the handle's number, which is never used again.
    handles: Vec<Option<Box<OpenFile>>>,
    pub(super) closer: Arc<dyn Closer>,
    pub(super) flights: Flights,
    events: BinaryHeap<Due>,
    pub(super) event_count: u64,
    pub(super) ports: Vec<Option<Box<Port>>>,
    pub(super) processes: Processes,
    pub(super) net: Net,
    pub(super) script: Vec<ScriptedFault>,
    pub(super) counters: FaultCounters,
    pub(super) write_count: u64,
    /// Operations started, by kind.
    pub(super) started: [u64; OpKind::COUNT],
    pub(super) crash_wakers: Vec<Waker>,
}

impl State {
    pub(super) fn new(seed: u64, config: SimConfig, closer: Arc<dyn Closer>, net: Net) -> State {
        State {
            rng: Rng::new(seed, 1),
            crash_rng: Rng::new(seed, 2),
            turn_rng: Rng::new(seed, 5),
            is_scheduled: false,
            trace: Trace::new(seed),
            now_ns: 1_000_000,
            wall_step_ms: 0,
            seq: 1,
            next_order: 0,
            tree: Tree::new(),
            handles: Vec::new(),
            closer,
            flights: Flights::default(),
            events: BinaryHeap::new(),
            event_count: 0,
            ports: Vec::new(),
            processes: Processes::new(),
            net,
            script: Vec::new(),
            counters: FaultCounters::default(),
            write_count: 0,
            started: [0; OpKind::COUNT],
            crash_wakers: Vec::new(),
            config,
        }
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn wall_clock_ms(&self) -> i64 {
        self.config
            .wall_clock_start_ms
            .saturating_add((self.now_ns / 1_000_000) as i64)
            + self.wall_step_ms
    }

    pub(super) fn add_port(&mut self, process: u32, shard: u64) -> u32 {
        let incarnation = self.processes.incarnation(process);
        self.ports
            .push(Some(Box::new(Port::new(process, incarnation, shard))));
        (self.ports.len() - 1) as u32
    }

    pub(super) fn port(&mut self, port: u32) -> Option<&mut Port> {
        self.ports.get_mut(port as usize)?.as_deref_mut()
    }

    pub(super) fn handle(&self, raw: i64) -> Option<&OpenFile> {
        self.handles.get(usize::try_from(raw).ok()?)?.as_deref()
    }

    pub(super) fn add_handle(&mut self, open: OpenFile) -> i64 {
        self.handles.push(Some(Box::new(open)));
        (self.handles.len() - 1) as i64
    }

    pub(super) fn close_handle(&mut self, raw: i64) {
        let slot = usize::try_from(raw)
            .ok()
            .and_then(|at| self.handles.get_mut(at));
        if let Some(open) = slot.and_then(Option::take) {
            if let Ok(inode) = self.tree.inode(open.ino) {
                inode.handles -= 1;
            }
            self.tree.release(open.ino);
        }
    }

    pub(super) fn void_handles(&mut self) {
        self.handles.iter_mut().for_each(|slot| *slot = None);
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    pub(super) fn submit(&mut self, port: u32, is_dead: bool, op: Op) -> Token {
        let now_ns = self.now_ns + 200;
        let covered_seq = self.seq;
        let Some(place) = self.port(port) else {
            return Token(u64::MAX);
        };
        let token = place.new_token();
        if is_dead {
            place.void.insert(token.0, op);
            return token;
        }
        let kind = kind_of(&op);
        describe(&op, &mut self.trace);
        self.now_ns = now_ns;
        let id = self.flights.add(Flight {
            port,
            token,
            op,
            kind,
            is_queued: true,
            covered_seq,
            fault: None,
            crash: None,
            outcome: None,
            moved: 0,
        });
        if let Some(place) = self.port(port) {
            place.set_flight(token, id);
            place.queued.push(id);
        }
        token
    }

    pub(super) fn cancel(&mut self, port: u32, token: Token) {
        let Some(state) = self.port(port) else {
            return;
        };
        if let Some(op) = state.void.remove(&token.0) {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            state.ready.push(Completion { token, op, result });
            return;
        }
        let Some(id) = state.flight_of(token) else {
            return;
        };
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        if flight.kind == OpKind::Socket && !flight.is_queued {
            self.cancel_socket_op(id);
            return;
        }
        // What has begun can rarely be stopped.
        if flight.outcome.is_none() && (flight.is_queued || self.rng.of_256(64)) {
            flight.outcome = Some(Err(libc::ECANCELED));
            flight.crash = None;
            self.counters.cancelled += 1;
        }
    }

    /// Starts what was submitted: draws its latency, its fault, the crash.
    pub(super) fn start_queued(&mut self, port: u32) {
        let Some(place) = self.port(port) else {
            return;
        };
        if place.queued.is_empty() {
            return;
        }
        let (process, incarnation) = (place.process, place.incarnation);
        let mut queued = std::mem::take(&mut place.queued);
        for id in queued.drain(..) {
            if self.processes.incarnation(process) != incarnation {
                return;
            }
            self.start(id);
        }
        if let Some(place) = self.port(port) {
            place.queued = queued;
        }
    }

    fn start(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        if flight.kind == OpKind::Socket {
            flight.is_queued = false;
            self.started[OpKind::Socket as usize] += 1;
            return self.start_socket_op(id);
        }
        let Some(mut flight) = self.flights.borrow_out(id) else {
            return;
        };
        let is_main = |port: &Port| port.process == MAIN;
        if changes_disk(&flight.op)
            && flight.outcome.is_none()
            && self.port(flight.port).is_some_and(|port| is_main(port))
        {
            self.write_count += 1;
            if self.config.crash_at == Some(self.write_count) {
                let moments = [CrashMoment::Before, CrashMoment::In, CrashMoment::After];
                let drawn = moments[self.crash_rng.below(3) as usize];
                let moment = self.config.crash_moment.unwrap_or(drawn);
                if moment == CrashMoment::Before {
                    self.flights.put_back(id, flight);
                    self.crash();
                    return;
                }
                flight.crash = Some(moment);
            }
        }
        flight.is_queued = false;
        self.started[flight.kind as usize] += 1;
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
            self.schedule(effect_ns, Event::Effect(id));
        }
        self.flights.put_back(id, flight);
        self.schedule(done_ns, Event::Completion(id));
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        let tie = self.rng.next_u64() as u32;
        self.schedule_at(at_ns, tie, event);
    }

    pub(super) fn schedule_at(&mut self, at_ns: u64, tie: u32, event: Event) {
        self.events.push(Reverse((at_ns, tie, event)));
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

    /// A shard looks at its clock.
    pub(super) fn look_at_clock(&mut self) -> u64 {
        let schedule = self.config.schedule;
        if self.is_scheduled && self.turn_rng.ppm(schedule.busy_ppm) {
            let (low, high) = schedule.busy_ns;
            self.now_ns += self.turn_rng.between(low, high);
            self.counters.busy_polls += 1;
        }
        self.now_ns
    }

    /// When the next event is due.
    pub(super) fn next_event_ns(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(due)| due.0)
    }

    /// Lets happen what is due. Gives whether something happened elsewhere than at `port`.
    pub(super) fn happen_due(&mut self, port: u32) -> bool {
        let mut foreign = false;
        while let Some(Reverse((at_ns, _, event))) = self.events.peek().copied() {
            if at_ns > self.now_ns {
                break;
            }
            self.events.pop();
            self.event_count += 1;
            foreign |= self.happen(event) != Some(port);
        }
        foreign
    }

    /// Lets time pass until `port` has a completion, another port's event came, or `deadline_ns`.
    /// False: nothing will ever happen.
    pub(super) fn advance(&mut self, port: u32, deadline_ns: Option<u64>) -> bool {
        let Some((process, incarnation)) = self.port(port).map(|p| (p.process, p.incarnation))
        else {
            return true;
        };
        loop {
            let foreign = self.happen_due(port);
            if self.processes.incarnation(process) != incarnation
                || foreign
                || self.port(port).is_some_and(|port| !port.ready.is_empty())
            {
                return true;
            }
            match (self.next_event_ns(), deadline_ns) {
                (_, Some(deadline_ns)) if deadline_ns <= self.now_ns => return true,
                (Some(next_ns), Some(deadline_ns)) => self.now_ns = next_ns.min(deadline_ns),
                (Some(next_ns), None) => self.now_ns = next_ns,
                (None, Some(deadline_ns)) => self.now_ns = deadline_ns,
                (None, None) => return false,
            }
        }
    }

    /// One event. Returns the port it belongs to.
    fn happen(&mut self, event: Event) -> Option<u32> {
        match event {
            Event::Effect(id) => {
                self.take_effect(id);
                self.flights.get_mut(id).map(|flight| flight.port)
            }
            Event::Completion(id) => {
                self.take_effect(id);
                let port = self.flights.get_mut(id).map(|flight| flight.port)?;
                self.finish(id);
                Some(port)
            }
            Event::Net(event) => {
                self.net_event(event);
                None
            }
            Event::Crash {
                process,
                is_power_loss,
            } => {
                if self.processes.is_alive(process) {
                    match is_power_loss && process == MAIN {
                        true => self.power_loss(),
                        false => self.kill(process),
                    }
                }
                None
            }
        }
    }

    /// The effect of an operation, once.
    pub(super) fn take_effect(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        if flight.outcome.is_some() {
            return;
        }
        let Some(mut flight) = self.flights.borrow_out(id) else {
            return;
        };
        let cut = flight.crash == Some(CrashMoment::In);
        flight.outcome = Some(self.execute(id, &mut flight, cut));
        if flight.crash.is_some() {
            if cut && flight.kind == OpKind::Write && self.config.crash_kind == CrashKind::PowerLoss
            {
                self.reached_disk(id, &flight);
            } else if !cut {
                self.mark_completed(id, &mut flight);
            }
            self.flights.forget(id);
            if let Some(port) = self.port(flight.port) {
                port.void.insert(flight.token.0, flight.op);
            }
            self.crash();
            return;
        }
        self.flights.put_back(id, flight);
    }

    /// Hands out a completion.
    pub(super) fn finish(&mut self, id: u64) {
        let Some(mut flight) = self.flights.remove(id) else {
            return;
        };
        self.mark_completed(id, &mut flight);
        let outcome = flight.outcome.unwrap_or(Err(libc::EIO));
        self.trace.add(id ^ 0xC0_0000_0000);
        self.trace.add(self.now_ns);
        self.trace.add(match &outcome {
            Ok(Output::Len(len)) => *len as u64,
            Ok(_) => u64::MAX,
            Err(errno) => !(*errno as u64),
        });
        if self.trace.is_told() {
            self.tell_completion(flight.port, &flight.op, &outcome);
        }
        let result = outcome.map_err(io::Error::from_raw_os_error);
        if let Some(port) = self.port(flight.port) {
            port.ready.push(Completion {
                token: flight.token,
                op: flight.op,
                result,
            });
        }
    }

    pub(super) fn has_ready(&mut self, port: u32) -> bool {
        self.port(port).is_some_and(|port| !port.ready.is_empty())
    }

    /// Gives a shard what has completed, in any order.
    pub(super) fn hand_out(&mut self, port: u32, completions: &mut Vec<Completion>) {
        let first = completions.len();
        if let Some(port) = self.port(port) {
            port.take_ready(completions);
        }
        let ready = &mut completions[first..];
        for last in (1..ready.len()).rev() {
            let other = self.turn_rng.below(last as u64 + 1) as usize;
            ready.swap(last, other);
        }
    }

    /// Events of operations that are no longer under way go.
    pub(super) fn forget_events_of_the_dead(&mut self) {
        let flights = &self.flights;
        self.events.retain(|Reverse((_, _, event))| match event {
            Event::Effect(id) | Event::Completion(id) => flights.contains(*id),
            Event::Net(_) | Event::Crash { .. } => true,
        });
    }

    pub(super) fn crash(&mut self) {
        match self.config.crash_kind {
            CrashKind::PowerLoss => self.power_loss(),
            CrashKind::KillProcess => self.kill(MAIN),
        }
    }
}

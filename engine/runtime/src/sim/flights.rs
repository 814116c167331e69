//! Operations under way, and what the world keeps for each driver.

use std::collections::BTreeMap;

use super::config::{CrashMoment, Fault, OpKind};
use super::tree::Errno;
use crate::driver::{Completion, Op, Output, Token};

/// Bits of an operation's number that say where it is kept; the others grow with every operation.
const PLACE_BITS: u32 = 20;

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
    /// Bytes a send or receive has moved so far; the end of a connect.
    pub(super) moved: usize,
}

/// Operations under way by their numbers, which grow.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<(u64, Option<Flight>)>,
    free: Vec<u32>,
    next: u64,
}

impl Flights {
    /// A number for something that has no flight.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next << PLACE_BITS | ((1 << PLACE_BITS) - 1)
    }

    pub(super) fn add(&mut self, flight: Flight) -> u64 {
        self.next += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        assert!(
            place < (1 << PLACE_BITS) - 1,
            "a million operations are under way"
        );
        let id = self.next << PLACE_BITS | u64::from(place);
        self.slots[place as usize] = (id, Some(flight));
        id
    }

    fn slot(&mut self, id: u64) -> Option<&mut (u64, Option<Flight>)> {
        let place = (id & ((1 << PLACE_BITS) - 1)) as usize;
        self.slots.get_mut(place).filter(|slot| slot.0 == id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Flight> {
        self.slot(id)?.1.as_mut()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        let place = (id & ((1 << PLACE_BITS) - 1)) as usize;
        self.slots
            .get(place)
            .is_some_and(|slot| slot.0 == id && slot.1.is_some())
    }

    /// Takes it out for a moment; [`Flights::put_back`] returns it.
    pub(super) fn borrow_out(&mut self, id: u64) -> Option<Flight> {
        self.slot(id)?.1.take()
    }

    pub(super) fn put_back(&mut self, id: u64, flight: Flight) {
        if let Some(slot) = self.slot(id) {
            slot.1 = Some(flight);
        }
    }

    /// Its end.
    pub(super) fn remove(&mut self, id: u64) -> Option<Flight> {
        let flight = self.slot(id)?.1.take()?;
        self.forget(id);
        Some(flight)
    }

    /// The end of one that was taken out.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(slot) = self.slot(id) {
            *slot = (0, None);
            self.free.push((id & ((1 << PLACE_BITS) - 1)) as u32);
        }
    }

    /// Numbers of those that `wanted` picks, in their order.
    pub(super) fn ids(&self, wanted: impl Fn(u64, &Flight) -> bool) -> Vec<u64> {
        let held = self
            .slots
            .iter()
            .filter_map(|(id, flight)| Some((*id, flight.as_ref()?)));
        let mut ids: Vec<u64> = held
            .filter(|(id, flight)| wanted(*id, flight))
            .map(|(id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// What the world keeps for one driver.
pub(super) struct Port {
    /// Whose it is, and in which of its lives.
    pub(super) process: u32,
    pub(super) incarnation: u64,
    pub(super) shard: u64,
    pub(super) queued: Vec<u64>,
    pub(super) ready: Vec<Completion>,
    /// Operations that never complete, by token: the process that submitted them is dead.
    pub(super) void: BTreeMap<u64, Op>,
    /// Slot of a token -> (its generation, the operation's number).
    slots: Vec<(u32, u64)>,
    free: Vec<u32>,
}

impl Port {
    pub(super) fn new(process: u32, incarnation: u64, shard: u64) -> Port {
        Port {
            process,
            incarnation,
            shard,
            queued: Vec::new(),
            ready: Vec::new(),
            void: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn new_token(&mut self) -> Token {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, 0));
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        *entry = (entry.0.wrapping_add(1), 0);
        Token(u64::from(entry.0) << 32 | u64::from(slot))
    }

    pub(super) fn set_flight(&mut self, token: Token, id: u64) {
        self.slots[token.0 as u32 as usize].1 = id;
    }

    pub(super) fn flight_of(&self, token: Token) -> Option<u64> {
        let &(generation, id) = self.slots.get(token.0 as u32 as usize)?;
        (u64::from(generation) == token.0 >> 32 && id != 0).then_some(id)
    }

    /// Moves what has completed to `out`, to be handed out now: its tokens may be used again. Not
    /// before: the executor finds a completion by its token's slot, and knows the slot's last
    /// token only.
    pub(super) fn take_ready(&mut self, out: &mut Vec<Completion>) {
        for completion in &self.ready {
            let slot = completion.token.0 as u32;
            self.slots[slot as usize].1 = 0;
            self.free.push(slot);
        }
        out.append(&mut self.ready);
    }
}

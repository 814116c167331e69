//! Calls between shards that wait for their answers.

use std::task::Waker;

/// How far a call is.
pub(crate) enum CallState<Resp> {
    Vacant,
    Waiting(Option<Waker>),
    Abandoned,
    Done(Option<Resp>),
}

pub(crate) struct CallSlot<Resp> {
    generation: u32,
    to: u16,
    pub(crate) state: CallState<Resp>,
}

/// Calls of one shard that are under way, or answered and not yet taken.
pub(crate) struct Calls<Resp> {
    slots: Vec<CallSlot<Resp>>,
    free: Vec<u32>,
}

impl<Resp> Default for Calls<Resp> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<Resp> Calls<Resp> {
    /// Gives the number of a new call.
    pub(crate) fn insert(&mut self, to: u16) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(CallSlot {
                generation: 0,
                to,
                state: CallState::Vacant,
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.to = to;
        slot.state = CallState::Waiting(None);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    pub(crate) fn slot(&mut self, call: u64) -> Option<&mut CallSlot<Resp>> {
        let slot = self.slots.get_mut((call & u64::from(u32::MAX)) as usize)?;
        (u64::from(slot.generation) == call >> 32).then_some(slot)
    }

    pub(crate) fn release(&mut self, call: u64) {
        if let Some(slot) = self.slot(call) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.state = CallState::Vacant;
            self.free.push((call & u64::from(u32::MAX)) as u32);
        }
    }

    /// Ends a call; gives the waker of its caller and the answer if nobody wants it.
    pub(crate) fn answer(
        &mut self,
        call: u64,
        resp: Option<Resp>,
    ) -> (Option<Waker>, Option<Resp>) {
        let Some(slot) = self.slot(call) else {
            return (None, resp);
        };
        match std::mem::replace(&mut slot.state, CallState::Vacant) {
            CallState::Waiting(waker) => {
                slot.state = CallState::Done(resp);
                (waker, None)
            }
            CallState::Abandoned => {
                self.release(call);
                (None, resp)
            }
            other => {
                slot.state = other;
                (None, resp)
            }
        }
    }

    /// Calls under way to peers that `is_gone` names.
    pub(crate) fn lost(&self, is_gone: impl Fn(u16) -> bool) -> Vec<u64> {
        let open = |slot: &CallSlot<Resp>| {
            matches!(slot.state, CallState::Waiting(_) | CallState::Abandoned)
        };
        let lost = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| open(slot) && is_gone(slot.to));
        lost.map(|(index, slot)| u64::from(slot.generation) << 32 | index as u64)
            .collect()
    }
}

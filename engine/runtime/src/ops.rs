//! Operations in flight as seen by the tasks that await them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::driver::{Completion, Op, Output, Token};
use crate::rt::Rt;

enum State {
    Vacant,
    /// Submitted, awaited.
    Waiting(Option<Waker>),
    /// Its future was dropped; the completion is thrown away.
    Abandoned,
    /// Completed, not yet taken.
    Done(Op, io::Result<Output>),
}

struct Slot {
    token: Token,
    state: State,
}

/// Operations that are in flight, or completed and not yet taken.
#[derive(Default)]
pub(crate) struct OpTable {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slot by the low half of the token, which drivers keep dense and reuse as soon as they have
    /// handed a completion back, while its slot may still hold the result.
    by_token: Vec<usize>,
    in_flight: usize,
    idle_wakers: Vec<Waker>,
}

fn token_index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl OpTable {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Gives the slot of a newly submitted operation.
    pub(crate) fn insert(&mut self, token: Token) -> usize {
        let fresh = Slot {
            token,
            state: State::Waiting(None),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = fresh;
                slot
            }
            None => {
                self.slots.push(fresh);
                self.slots.len() - 1
            }
        };
        let index = token_index(token);
        if self.by_token.len() <= index {
            self.by_token.resize(index + 1, usize::MAX);
        }
        self.by_token[index] = slot;
        self.in_flight += 1;
        slot
    }

    /// Tokens of all operations that have not completed.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let pending = |slot: &&Slot| matches!(slot.state, State::Waiting(_) | State::Abandoned);
        self.slots
            .iter()
            .filter(pending)
            .map(|slot| slot.token)
            .collect()
    }

    /// Takes a completion; gives what has to be woken, and what has to be dropped once the table
    /// is no longer borrowed.
    pub(crate) fn complete(
        &mut self,
        completion: Completion,
    ) -> (Option<Waker>, Option<Completion>) {
        let known = self.by_token.get(token_index(completion.token)).copied();
        let Some(index) = known.filter(|&index| index < self.slots.len()) else {
            return (None, Some(completion));
        };
        let slot = &mut self.slots[index];
        if slot.token != completion.token {
            return (None, Some(completion));
        }
        match std::mem::replace(&mut slot.state, State::Vacant) {
            State::Waiting(waker) => {
                slot.state = State::Done(completion.op, completion.result);
                self.in_flight -= 1;
                (waker, None)
            }
            State::Abandoned => {
                self.in_flight -= 1;
                self.free.push(index);
                (None, Some(completion))
            }
            other => {
                slot.state = other;
                (None, Some(completion))
            }
        }
    }

    pub(crate) fn idle_wakers(&mut self) -> Vec<Waker> {
        if self.in_flight == 0 {
            std::mem::take(&mut self.idle_wakers)
        } else {
            Vec::new()
        }
    }

    pub(crate) fn on_idle(&mut self, waker: Waker) {
        if !self.idle_wakers.iter().any(|known| known.will_wake(&waker)) {
            self.idle_wakers.push(waker);
        }
    }
}

/// One submitted operation. Gives the operation back with its result; dropping it cancels the
/// operation, whose buffers live in the driver until its final completion.
#[must_use = "dropping an operation cancels it"]
pub struct OpFuture {
    rt: Rt,
    /// Until the result is taken.
    slot: Option<usize>,
}

impl OpFuture {
    pub(crate) fn new(rt: Rt, slot: usize) -> Self {
        Self {
            rt,
            slot: Some(slot),
        }
    }
}

impl Future for OpFuture {
    type Output = (Op, io::Result<Output>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.slot.expect("not polled after its end");
        let mut table = self.rt.ops();
        let slot = &mut table.slots[index];
        match std::mem::replace(&mut slot.state, State::Vacant) {
            State::Done(op, result) => {
                table.free.push(index);
                drop(table);
                self.slot = None;
                Poll::Ready((op, result))
            }
            State::Waiting(Some(mut waker)) => {
                waker.clone_from(cx.waker());
                slot.state = State::Waiting(Some(waker));
                Poll::Pending
            }
            _ => {
                slot.state = State::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        let Some(index) = self.slot.take() else {
            return;
        };
        let mut table = self.rt.ops();
        let slot = &mut table.slots[index];
        let token = slot.token;
        let state = std::mem::replace(&mut slot.state, State::Vacant);
        let pending = matches!(state, State::Waiting(_));
        if pending {
            slot.state = State::Abandoned;
        } else {
            table.free.push(index);
        }
        drop(table);
        // What it holds may have a drop of its own: only now that nothing is borrowed.
        drop(state);
        if pending {
            self.rt.cancel_op(token);
        }
    }
}

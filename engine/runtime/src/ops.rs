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

/// Slots by the low half of the token, which drivers keep dense.
#[derive(Default)]
pub(crate) struct OpTable {
    slots: Vec<Slot>,
    in_flight: usize,
    idle_wakers: Vec<Waker>,
}

/// Slot of a token: its low 32 bits.
fn slot_index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl OpTable {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn insert(&mut self, token: Token) -> bool {
        let index = slot_index(token);
        while self.slots.len() <= index {
            self.slots.push(Slot {
                token: Token(0),
                state: State::Vacant,
            });
        }
        let slot = &mut self.slots[index];
        if !matches!(slot.state, State::Vacant) {
            return false;
        }
        *slot = Slot {
            token,
            state: State::Waiting(None),
        };
        self.in_flight += 1;
        true
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
        let Some(slot) = self.slots.get_mut(slot_index(completion.token)) else {
            return (None, Some(completion));
        };
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
        self.idle_wakers.push(waker);
    }
}

/// One submitted operation. Gives the operation back with its result; dropping it cancels the
/// operation, whose buffers live in the driver until its final completion.
#[must_use = "dropping an operation cancels it"]
pub struct OpFuture {
    rt: Rt,
    token: Option<Token>,
}

impl OpFuture {
    pub(crate) fn new(rt: Rt, token: Token) -> Self {
        Self {
            rt,
            token: Some(token),
        }
    }
}

impl Future for OpFuture {
    type Output = (Op, io::Result<Output>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let token = self.token.expect("not polled after its end");
        let mut table = self.rt.ops();
        let slot = &mut table.slots[slot_index(token)];
        debug_assert_eq!(slot.token, token);
        match std::mem::replace(&mut slot.state, State::Vacant) {
            State::Done(op, result) => {
                drop(table);
                self.token = None;
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
        let Some(token) = self.token.take() else {
            return;
        };
        let mut table = self.rt.ops();
        let slot = &mut table.slots[slot_index(token)];
        let state = std::mem::replace(&mut slot.state, State::Vacant);
        if let State::Waiting(_) = state {
            slot.state = State::Abandoned;
        }
        drop(table);
        if let State::Waiting(waker) = state {
            drop(waker);
            self.rt.cancel_op(token);
        }
    }
}

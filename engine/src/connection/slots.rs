//! Answers of one connection, kept in the order of their requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use corelog_runtime::sync::Notify;

/// One place per request under way. Shard: the connection's.
#[derive(Debug)]
pub struct Slots {
    answers: RefCell<VecDeque<Option<Bytes>>>,
    first: Cell<u64>,
    sending: Cell<bool>,
    changed: Notify,
}

impl Slots {
    /// None yet.
    pub fn new() -> Slots {
        Slots {
            answers: RefCell::default(),
            first: Cell::new(0),
            sending: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// The place of the next answer.
    pub fn push(&self) -> u64 {
        let mut answers = self.answers.borrow_mut();
        answers.push_back(None);
        self.first.get() + answers.len() as u64 - 1
    }

    /// Puts an answer in its place (empty bytes: nothing is to be sent).
    pub fn fill(&self, slot: u64, answer: Bytes) {
        let at = usize::try_from(slot - self.first.get())
            .expect("a slot is filled once, before it is taken");
        self.answers.borrow_mut()[at] = Some(answer);
        if at == 0 {
            self.changed.notify_all();
        }
    }

    /// Requests under way.
    pub fn len(&self) -> usize {
        self.answers.borrow().len()
    }

    /// No request is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until fewer than `max` requests are under way.
    pub async fn below(&self, max: usize) {
        while self.len() >= max {
            self.changed.notified().await;
        }
    }

    /// Waits until every answer was handed to the socket.
    pub async fn drained(&self) {
        while !self.is_empty() || self.sending.get() {
            self.changed.notified().await;
        }
    }

    /// All answers that are ready, in order, once there is at least one. The caller sends them and
    /// calls [`Slots::sent`].
    pub async fn take_ready(&self) -> Vec<Bytes> {
        loop {
            let mut ready = Vec::new();
            {
                let mut answers = self.answers.borrow_mut();
                while let Some(Some(_)) = answers.front() {
                    let answer = answers.pop_front().flatten().expect("looked at just now");
                    self.first.set(self.first.get() + 1);
                    ready.push(answer);
                }
            }
            if !ready.is_empty() {
                self.sending.set(true);
                return ready;
            }
            self.changed.notified().await;
        }
    }

    /// What [`Slots::take_ready`] gave has left.
    pub fn sent(&self) {
        self.sending.set(false);
        self.changed.notify_all();
    }
}

impl Default for Slots {
    fn default() -> Slots {
        Slots::new()
    }
}

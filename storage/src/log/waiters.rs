//! Those who wait for a mark to reach an offset.

use std::cell::RefCell;
use std::collections::BTreeMap;

use corelog_runtime::sync::{Receiver, Sender, oneshot};

/// Waiters for one mark, ordered by offset and then by arrival.
#[derive(Default)]
pub(crate) struct Waiters(RefCell<State>);

#[derive(Default)]
struct State {
    waiting: BTreeMap<(i64, u64), Sender<()>>,
    next_id: u64,
}

impl Waiters {
    /// A waiter for the mark to reach `offset`; it gets `None` when it never will.
    pub fn add(&self, offset: i64) -> Receiver<()> {
        let (sender, receiver) = oneshot();
        let mut state = self.0.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.insert((offset, id), sender);
        receiver
    }

    /// The mark reached `offset`.
    pub fn wake(&self, offset: i64) {
        loop {
            let mut state = self.0.borrow_mut();
            let Some(first) = state.waiting.first_entry().filter(|e| e.key().0 <= offset) else {
                return;
            };
            let sender = first.remove();
            drop(state);
            // The receiver may have given up.
            let _ = sender.send(());
        }
    }

    /// Nobody who waits beyond `offset` will see it reached.
    pub fn fail_past(&self, offset: i64) {
        let gone = self
            .0
            .borrow_mut()
            .waiting
            .split_off(&(offset.saturating_add(1), 0));
        drop(gone);
    }
}

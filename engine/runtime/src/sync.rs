//! Waiting for one another among the tasks of one shard. Nothing here is `Send`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct OneshotState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// Sends the one value of a [`oneshot`].
pub struct Sender<T>(Rc<RefCell<OneshotState<T>>>);

/// Awaits the one value of a [`oneshot`]; `None` when the sender was dropped without sending.
#[must_use = "futures do nothing unless awaited"]
pub struct Receiver<T>(Rc<RefCell<OneshotState<T>>>);

/// Makes a channel for one value.
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let state = OneshotState {
        value: None,
        waker: None,
        sender_gone: false,
        receiver_gone: false,
    };
    let state = Rc::new(RefCell::new(state));
    (Sender(state.clone()), Receiver(state))
}

impl<T> Sender<T> {
    /// Delivers the value; gives it back when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.0.borrow_mut();
        if state.receiver_gone {
            return Err(value);
        }
        state.value = Some(value);
        Ok(())
        // The drop below wakes the receiver.
    }

    /// The receiver was dropped.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().receiver_gone
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.sender_gone = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Takes the value if it is there.
    pub fn try_take(&mut self) -> Option<T> {
        self.0.borrow_mut().value.take()
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Some(value));
        }
        if state.sender_gone {
            return Poll::Ready(None);
        }
        keep_waker(&mut state.waker, cx);
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.receiver_gone = true;
        let (value, waker) = (state.value.take(), state.waker.take());
        drop(state);
        drop((value, waker));
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

fn keep_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

#[derive(Default)]
struct NotifyState {
    /// Number of `notify_all` calls so far.
    rounds: u64,
    next_id: u64,
    waiters: Vec<(u64, Waker)>,
}

/// Wakes all who wait for a change. Cheap to clone; the clones are one.
#[derive(Clone, Default)]
pub struct Notify(Rc<RefCell<NotifyState>>);

impl Notify {
    /// Makes one with nobody waiting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every [`Notified`] made so far.
    pub fn notify_all(&self) {
        let mut state = self.0.borrow_mut();
        state.rounds += 1;
        if state.waiters.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut state.waiters);
        drop(state);
        for (_, waker) in woken.drain(..) {
            waker.wake();
        }
        // Keep the memory for the next round.
        let mut state = self.0.borrow_mut();
        if state.waiters.is_empty() {
            state.waiters = woken;
        }
    }

    /// Ends at the first `notify_all` after this call, whether or not it was polled before: make
    /// it, look at the condition, then await it, and no change is missed.
    pub fn notified(&self) -> Notified {
        let round = self.0.borrow().rounds;
        Notified {
            notify: self.clone(),
            round,
            id: None,
        }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify")
            .field("rounds", &self.0.borrow().rounds)
            .finish()
    }
}

/// See [`Notify::notified`].
#[must_use = "futures do nothing unless awaited"]
pub struct Notified {
    notify: Notify,
    round: u64,
    id: Option<u64>,
}

impl Future for Notified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.notify.0.borrow_mut();
        if state.rounds != this.round {
            this.id = None;
            return Poll::Ready(());
        }
        match this.id {
            Some(id) => {
                if let Ok(at) = state.waiters.binary_search_by_key(&id, |waiter| waiter.0) {
                    state.waiters[at].1.clone_from(cx.waker());
                }
            }
            None => {
                let id = state.next_id;
                state.next_id += 1;
                state.waiters.push((id, cx.waker().clone()));
                this.id = Some(id);
            }
        }
        Poll::Pending
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let mut state = self.notify.0.borrow_mut();
        let found = state.waiters.binary_search_by_key(&id, |waiter| waiter.0);
        let waiter = found.ok().map(|at| state.waiters.remove(at));
        drop(state);
        drop(waiter);
    }
}

struct QueuedTicket {
    id: u64,
    waker: Option<Waker>,
    given_up: bool,
}

#[derive(Default)]
struct FifoState {
    next_id: u64,
    /// Ascending by id; the first is the holder, or next in turn.
    queue: VecDeque<QueuedTicket>,
}

impl FifoState {
    /// Removes a ticket; gives the waker of the one whose turn comes by it.
    fn leave(&mut self, id: u64) -> Option<Waker> {
        let at = self
            .queue
            .binary_search_by_key(&id, |ticket| ticket.id)
            .ok()?;
        self.queue[at].given_up = true;
        if at > 0 {
            return None;
        }
        while self.queue.front().is_some_and(|ticket| ticket.given_up) {
            self.queue.pop_front();
        }
        self.queue.front_mut()?.waker.take()
    }
}

/// Mutual exclusion in the order in which tickets were taken. Cheap to clone; the clones are one.
#[derive(Clone, Default)]
pub struct FifoMutex(Rc<RefCell<FifoState>>);

/// Another name of [`FifoMutex`], where it orders rather than excludes.
pub type Gate = FifoMutex;

impl FifoMutex {
    /// Makes a free one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a place in the line, now.
    pub fn ticket(&self) -> Ticket {
        let mut state = self.0.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.queue.push_back(QueuedTicket {
            id,
            waker: None,
            given_up: false,
        });
        Ticket {
            mutex: self.clone(),
            id: Some(id),
        }
    }

    /// Takes a place in the line, now, and waits for its turn.
    pub fn lock(&self) -> TicketWait {
        self.ticket().wait()
    }

    /// Somebody holds it or waits for it.
    pub fn is_locked(&self) -> bool {
        !self.0.borrow().queue.is_empty()
    }

    fn leave(&self, id: u64) {
        let waker = self.0.borrow_mut().leave(id);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for FifoMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FifoMutex")
            .field("in_line", &self.0.borrow().queue.len())
            .finish()
    }
}

/// A place in the line of a [`FifoMutex`]. Dropping it gives the place up.
#[must_use = "dropping a ticket gives its place up"]
pub struct Ticket {
    mutex: FifoMutex,
    id: Option<u64>,
}

impl Ticket {
    /// Waits for the turn of this ticket.
    pub fn wait(self) -> TicketWait {
        TicketWait(self)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.mutex.leave(id);
        }
    }
}

/// See [`Ticket::wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct TicketWait(Ticket);

impl Future for TicketWait {
    type Output = Guard;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Guard> {
        let ticket = &mut self.0;
        let id = ticket.id.expect("not polled after its end");
        let mut state = ticket.mutex.0.borrow_mut();
        if state.queue.front().is_some_and(|first| first.id == id) {
            drop(state);
            ticket.id = None;
            return Poll::Ready(Guard {
                mutex: ticket.mutex.clone(),
                id,
            });
        }
        if let Ok(at) = state.queue.binary_search_by_key(&id, |queued| queued.id) {
            keep_waker(&mut state.queue[at].waker, cx);
        }
        Poll::Pending
    }
}

/// The turn of one ticket; ends on drop.
#[must_use = "the turn ends when the guard is dropped"]
pub struct Guard {
    mutex: FifoMutex,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.mutex.leave(self.id);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("ticket", &self.id).finish()
    }
}

struct Waiter {
    id: u64,
    wanted: usize,
    waker: Option<Waker>,
}

struct SemaphoreState {
    available: usize,
    next_id: u64,
    /// Ascending by id. Who left the line is gone from it.
    waiters: VecDeque<Waiter>,
}

impl SemaphoreState {
    /// Waker of the first in line, when its wish can be met now.
    fn next_waker(&mut self) -> Option<Waker> {
        let available = self.available;
        let first = self.waiters.front_mut()?;
        if first.wanted <= available {
            first.waker.take()
        } else {
            None
        }
    }
}

/// Counts permits out, first come first served: a large wish is not overtaken by small ones.
/// Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct Semaphore(Rc<RefCell<SemaphoreState>>);

impl Semaphore {
    /// Makes one with `permits` to give.
    pub fn new(permits: usize) -> Self {
        let state = SemaphoreState {
            available: permits,
            next_id: 0,
            waiters: VecDeque::new(),
        };
        Self(Rc::new(RefCell::new(state)))
    }

    /// Permits free now.
    pub fn available(&self) -> usize {
        self.0.borrow().available
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.borrow().waiters.len()
    }

    /// Waits for `permits`. A wish above what the semaphore ever holds waits for ever: the caller
    /// bounds it.
    pub fn acquire(&self, permits: usize) -> Acquire {
        Acquire {
            semaphore: self.clone(),
            wanted: permits,
            id: None,
        }
    }

    /// Takes `permits` if they are free and nobody waits.
    pub fn try_acquire(&self, permits: usize) -> Option<Permit> {
        let mut state = self.0.borrow_mut();
        if !state.waiters.is_empty() || state.available < permits {
            return None;
        }
        state.available -= permits;
        Some(Permit {
            semaphore: self.clone(),
            permits,
        })
    }

    /// Adds permits for good.
    pub fn add_permits(&self, permits: usize) {
        self.give_back(permits);
    }

    fn give_back(&self, permits: usize) {
        let mut state = self.0.borrow_mut();
        state.available += permits;
        let waker = state.next_waker();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish()
    }
}

/// See [`Semaphore::acquire`].
#[must_use = "futures do nothing unless awaited"]
pub struct Acquire {
    semaphore: Semaphore,
    wanted: usize,
    id: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        let mut state = this.semaphore.0.borrow_mut();
        let at_front = match this.id {
            Some(id) => state.waiters.front().is_some_and(|first| first.id == id),
            None => state.waiters.is_empty(),
        };
        if at_front && state.available >= this.wanted {
            state.available -= this.wanted;
            let next = this.id.take().and_then(|_| {
                state.waiters.pop_front();
                state.next_waker()
            });
            drop(state);
            if let Some(next) = next {
                next.wake();
            }
            return Poll::Ready(Permit {
                semaphore: this.semaphore.clone(),
                permits: this.wanted,
            });
        }
        match this.id {
            Some(id) => {
                if let Ok(at) = state.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
                    keep_waker(&mut state.waiters[at].waker, cx);
                }
            }
            None => {
                let id = state.next_id;
                state.next_id += 1;
                let waker = Some(cx.waker().clone());
                state.waiters.push_back(Waiter {
                    id,
                    wanted: this.wanted,
                    waker,
                });
                this.id = Some(id);
            }
        }
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let mut state = self.semaphore.0.borrow_mut();
        let found = state.waiters.binary_search_by_key(&id, |waiter| waiter.id);
        let left = found.ok().and_then(|at| state.waiters.remove(at));
        // Whoever stood behind may be served now.
        let next = state.next_waker();
        drop(state);
        drop(left);
        if let Some(next) = next {
            next.wake();
        }
    }
}

/// Permits taken from a [`Semaphore`]; given back on drop.
#[must_use = "permits are given back when dropped"]
pub struct Permit {
    semaphore: Semaphore,
    permits: usize,
}

impl Permit {
    /// How many.
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Gives all above `permits` back early.
    pub fn shrink_to(&mut self, permits: usize) {
        let surplus = self.permits.saturating_sub(permits);
        self.permits -= surplus;
        if surplus > 0 {
            self.semaphore.give_back(surplus);
        }
    }

    /// Moves `permits` of them into a permit of their own; `None` when there are fewer.
    pub fn split(&mut self, permits: usize) -> Option<Permit> {
        self.permits = self.permits.checked_sub(permits)?;
        Some(Permit {
            semaphore: self.semaphore.clone(),
            permits,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.give_back(self.permits);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("permits", &self.permits)
            .finish()
    }
}

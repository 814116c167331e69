//! Typed messages between shards, and from foreign threads to shards.
//!
//! Each shard has one bounded inbox. What does not fit waits in the sender's one FIFO for that
//! peer, so that order per pair of shards holds and no shard ever waits. Doorbells are rung once
//! per turn of the sender, by the protocol of [`crate::sleep`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::calls::{CallState, Calls};
use crate::driver::Doorbell;
use crate::gateway::{Gateway, GatewayReply};
use crate::rt::{Inbox, Rt, ShardId};
use crate::task::RunQueue;

/// Messages handled in one look at the inbox.
const MESSAGES_PER_POLL: usize = 256;

pub(crate) enum Message<Req, Resp> {
    Call { from: u16, call: u64, req: Req },
    Cast { from: u16, req: Req },
    Answer { call: u64, resp: Option<Resp> },
    Foreign { req: Req, reply: GatewayReply<Resp> },
}

/// The receiving end of one shard, shared by all senders.
pub(crate) struct Port<Req, Resp> {
    pub(crate) inbox: ArrayQueue<Message<Req, Resp>>,
    /// Set when the shard joins.
    sleeper: OnceLock<Arc<RunQueue>>,
    pub(crate) closed: AtomicBool,
    /// Some sender holds messages back until there is room.
    backlogged: AtomicBool,
}

impl<Req, Resp> Port<Req, Resp> {
    /// To be called after a push or a change of flags: wakes the shard if it sleeps.
    pub(crate) fn wake(&self) {
        self.wake_through(|doorbell| doorbell.ring());
    }

    fn wake_through(&self, ring: impl FnOnce(&Arc<dyn Doorbell>)) {
        if let Some(queue) = self.sleeper.get()
            && queue.sleep.must_ring()
        {
            ring(&queue.doorbell);
        }
    }
}

pub(crate) struct Shared<Req, Resp> {
    pub(crate) ports: Vec<CachePadded<Port<Req, Resp>>>,
    /// Ports closed so far.
    closings: AtomicU64,
}

/// A shard's place in a mesh before the shard runs. `Send`.
pub struct MeshSeed<Req, Resp> {
    me: u16,
    shared: Arc<Shared<Req, Resp>>,
}

/// Makes a mesh of `shards` shards whose inboxes hold `capacity` messages each.
pub fn mesh<Req: Send + 'static, Resp: Send + 'static>(
    shards: usize,
    capacity: usize,
) -> Vec<MeshSeed<Req, Resp>> {
    let count = u16::try_from(shards).expect("shard numbers are 16 bits wide");
    let port = |_| {
        CachePadded::new(Port {
            inbox: ArrayQueue::new(capacity.max(1)),
            sleeper: OnceLock::new(),
            closed: AtomicBool::new(false),
            backlogged: AtomicBool::new(false),
        })
    };
    let shared = Arc::new(Shared {
        ports: (0..shards).map(port).collect(),
        closings: AtomicU64::new(0),
    });
    (0..count)
        .map(|me| MeshSeed {
            me,
            shared: shared.clone(),
        })
        .collect()
}

impl<Req: Send + 'static, Resp: Send + 'static> MeshSeed<Req, Resp> {
    /// The shard this seed belongs to.
    pub fn shard(&self) -> ShardId {
        ShardId(self.me)
    }

    /// An entry for foreign threads.
    pub fn gateway(&self) -> Gateway<Req, Resp> {
        Gateway::new(self.shared.clone())
    }

    /// Joins on the shard's own thread. `handler` gets each request in order of arrival per
    /// sender; it must not block, and answers now or later through the [`Reply`].
    pub fn join(
        self,
        rt: &Rt,
        handler: impl Fn(ShardId, Req, Reply<Resp>) + 'static,
    ) -> Mesh<Req, Resp> {
        let peers = self.shared.ports.len();
        let inner = Rc::new(Inner {
            me: self.me,
            handler: RefCell::new(Some(Rc::new(handler))),
            backlog: RefCell::new((0..peers).map(|_| VecDeque::new()).collect()),
            backlog_len: Cell::new(0),
            dirty: RefCell::new(vec![false; peers]),
            any_dirty: Cell::new(false),
            calls: RefCell::default(),
            closings_seen: Cell::new(0),
            shared: self.shared,
        });
        let port = &inner.shared.ports[usize::from(self.me)];
        assert!(
            port.sleeper.set(rt.run_queue()).is_ok(),
            "a seed joins once"
        );
        rt.add_inbox(Rc::new(MeshInbox(inner.clone())));
        Mesh(inner)
    }
}

type Handler<Req, Resp> = dyn Fn(ShardId, Req, Reply<Resp>);

struct Inner<Req, Resp> {
    me: u16,
    /// Taken when the shard closes.
    handler: RefCell<Option<Rc<Handler<Req, Resp>>>>,
    /// Per peer: what did not fit, in order.
    backlog: RefCell<Vec<VecDeque<Message<Req, Resp>>>>,
    backlog_len: Cell<usize>,
    /// Peers that got messages since the last flush.
    dirty: RefCell<Vec<bool>>,
    any_dirty: Cell<bool>,
    calls: RefCell<Calls<Resp>>,
    closings_seen: Cell<u64>,
    shared: Arc<Shared<Req, Resp>>,
}

/// A shard's end of a mesh. Cheap to clone, stays on its shard.
pub struct Mesh<Req, Resp>(Rc<Inner<Req, Resp>>);

impl<Req, Resp> Clone for Mesh<Req, Resp> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Req: Send + 'static, Resp: Send + 'static> Mesh<Req, Resp> {
    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.0.shared.ports.len()
    }

    /// This shard.
    pub fn shard(&self) -> ShardId {
        ShardId(self.0.me)
    }

    /// Messages that wait here for room at their receivers.
    pub fn backlog(&self) -> usize {
        self.0.backlog_len.get()
    }

    /// An entry for foreign threads.
    pub fn gateway(&self) -> Gateway<Req, Resp> {
        Gateway::new(self.0.shared.clone())
    }

    /// Sends a request now and gives the future of its answer: `None` when the peer is gone or
    /// dropped the [`Reply`]. Dropping the future loses the answer only. A call to this shard
    /// itself goes straight to the handler.
    pub fn call(&self, to: ShardId, req: Req) -> Call<Req, Resp> {
        let inner = &self.0;
        let call = inner.calls.borrow_mut().insert(to.0);
        let future = Call {
            inner: inner.clone(),
            call: Some(call),
        };
        if to.0 == inner.me {
            let reply = Reply(ReplyTo::Shard {
                sink: inner.clone(),
                to: inner.me,
                call,
            });
            inner.handle(to, req, reply);
        } else if inner.is_open(to.0) {
            inner.send(
                to.0,
                Message::Call {
                    from: inner.me,
                    call,
                    req,
                },
            );
        } else {
            drop(req);
            inner.answer(call, None);
        }
        future
    }

    /// Sends a request that has no answer; it is lost when the peer is gone.
    pub fn cast(&self, to: ShardId, req: Req) {
        let inner = &self.0;
        if to.0 == inner.me {
            inner.handle(to, req, Reply(ReplyTo::Nobody));
        } else if inner.is_open(to.0) {
            inner.send(
                to.0,
                Message::Cast {
                    from: inner.me,
                    req,
                },
            );
        }
    }
}

impl<Req: Send + 'static, Resp: Send + 'static> Inner<Req, Resp> {
    fn is_open(&self, to: u16) -> bool {
        self.shared
            .ports
            .get(usize::from(to))
            .is_some_and(|port| !port.closed.load(Ordering::Acquire))
    }

    fn handle(&self, from: ShardId, req: Req, reply: Reply<Resp>) {
        let handler = self.handler.borrow().clone();
        if let Some(handler) = handler {
            handler(from, req, reply);
        }
    }

    fn send(&self, to: u16, message: Message<Req, Resp>) {
        let peer = usize::from(to);
        let port = &self.shared.ports[peer];
        let mut backlog = self.backlog.borrow_mut();
        let rest = if backlog[peer].is_empty() {
            port.inbox.push(message).err()
        } else {
            Some(message)
        };
        match rest {
            None => {
                self.dirty.borrow_mut()[peer] = true;
                self.any_dirty.set(true);
            }
            Some(message) => {
                backlog[peer].push_back(message);
                self.backlog_len.set(self.backlog_len.get() + 1);
            }
        }
    }

    fn answer(&self, call: u64, resp: Option<Resp>) {
        let (waker, unwanted) = self.calls.borrow_mut().answer(call, resp);
        if let Some(waker) = waker {
            waker.wake();
        }
        drop(unwanted);
    }

    /// Fails the calls to peers that have closed since the last look.
    fn notice_closings(self: &Rc<Self>) {
        let closings = self.shared.closings.load(Ordering::Acquire);
        if closings == self.closings_seen.replace(closings) {
            return;
        }
        // What a peer sent before it closed is in the inbox already.
        self.take_messages(usize::MAX);
        let lost = self.calls.borrow().lost(|to| !self.is_open(to));
        for call in lost {
            self.answer(call, None);
        }
        for (peer, port) in self.shared.ports.iter().enumerate() {
            if port.closed.load(Ordering::Acquire) {
                let gone = std::mem::take(&mut self.backlog.borrow_mut()[peer]);
                self.backlog_len.set(self.backlog_len.get() - gone.len());
            }
        }
    }

    /// Moves what waits to its receiver as far as there is room.
    fn push_backlog(&self) {
        if self.backlog_len.get() == 0 {
            return;
        }
        for (peer, port) in self.shared.ports.iter().enumerate() {
            loop {
                let message = self.backlog.borrow_mut()[peer].pop_front();
                let Some(message) = message else { break };
                if let Err(message) = port.inbox.push(message) {
                    self.backlog.borrow_mut()[peer].push_front(message);
                    // Asks the receiver to wake us when it has made room; has_work() looks once
                    // more after the fence of the sleep protocol.
                    port.backlogged.store(true, Ordering::SeqCst);
                    break;
                }
                self.backlog_len.set(self.backlog_len.get() - 1);
                self.dirty.borrow_mut()[peer] = true;
                self.any_dirty.set(true);
            }
        }
    }

    /// Lets senders that found this inbox full try again.
    fn wake_backlogged(&self) {
        let port = &self.shared.ports[usize::from(self.me)];
        // The pops come first, then the look at the flag: the mirror image of push_backlog, which
        // sets the flag and then, before sleep, looks for room.
        fence(Ordering::SeqCst);
        if port.backlogged.load(Ordering::Relaxed) && port.backlogged.swap(false, Ordering::AcqRel)
        {
            let mut dirty = self.dirty.borrow_mut();
            dirty.fill(true);
            dirty[usize::from(self.me)] = false;
            self.any_dirty.set(true);
        }
    }

    fn wake_peers(&self) {
        for (peer, port) in self.shared.ports.iter().enumerate() {
            if peer != usize::from(self.me) {
                port.wake();
            }
        }
    }

    /// Handles at most `limit` messages, returns how many.
    fn take_messages(self: &Rc<Self>, limit: usize) -> usize {
        let port = &self.shared.ports[usize::from(self.me)];
        let mut taken = 0;
        while taken < limit {
            let Some(message) = port.inbox.pop() else {
                break;
            };
            taken += 1;
            match message {
                Message::Call { from, call, req } => {
                    let reply = Reply(ReplyTo::Shard {
                        sink: self.clone(),
                        to: from,
                        call,
                    });
                    self.handle(ShardId(from), req, reply);
                }
                Message::Cast { from, req } => {
                    self.handle(ShardId(from), req, Reply(ReplyTo::Nobody))
                }
                Message::Answer { call, resp } => self.answer(call, resp),
                Message::Foreign { req, reply } => {
                    self.handle(ShardId(self.me), req, Reply(ReplyTo::Foreign(reply)));
                }
            }
        }
        taken
    }
}

/// What the shard's loop sees of a mesh.
struct MeshInbox<Req, Resp>(Rc<Inner<Req, Resp>>);

impl<Req: Send + 'static, Resp: Send + 'static> Inbox for MeshInbox<Req, Resp> {
    fn poll(&self) {
        self.0.notice_closings();
        if self.0.take_messages(MESSAGES_PER_POLL) > 0 {
            self.0.wake_backlogged();
        }
    }

    fn flush(&self, rt: &Rt) {
        let inner = &self.0;
        inner.push_backlog();
        if !inner.any_dirty.replace(false) {
            return;
        }
        let mut dirty = inner.dirty.borrow_mut();
        for (peer, dirty) in dirty.iter_mut().enumerate() {
            if std::mem::take(dirty) {
                inner.shared.ports[peer].wake_through(|doorbell| rt.ring_peer(doorbell));
            }
        }
    }

    fn has_work(&self) -> bool {
        let inner = &self.0;
        let ports = &inner.shared.ports;
        if !ports[usize::from(inner.me)].inbox.is_empty()
            || inner.shared.closings.load(Ordering::Acquire) != inner.closings_seen.get()
        {
            return true;
        }
        if inner.backlog_len.get() == 0 {
            return false;
        }
        let backlog = inner.backlog.borrow();
        backlog
            .iter()
            .zip(ports)
            .any(|(waiting, port)| !waiting.is_empty() && !port.inbox.is_full())
    }

    fn close(&self) {
        let inner = &self.0;
        let port = &inner.shared.ports[usize::from(inner.me)];
        port.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        inner.shared.closings.fetch_add(1, Ordering::AcqRel);
        // The handler holds what it serves, often the Rt itself: let go of it.
        let handler = inner.handler.borrow_mut().take();
        drop(handler);
        while let Some(message) = port.inbox.pop() {
            drop(message);
        }
        inner.wake_peers();
    }
}

/// Answer to a [`Mesh::call`]. See there.
#[must_use = "dropping a call loses its answer"]
pub struct Call<Req, Resp> {
    inner: Rc<Inner<Req, Resp>>,
    call: Option<u64>,
}

impl<Req, Resp> Future for Call<Req, Resp> {
    type Output = Option<Resp>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Resp>> {
        let call = self.call.expect("not polled after its end");
        let mut calls = self.inner.calls.borrow_mut();
        let slot = calls.slot(call).expect("lives as long as its future");
        match std::mem::replace(&mut slot.state, CallState::Vacant) {
            CallState::Done(resp) => {
                calls.release(call);
                drop(calls);
                self.call = None;
                Poll::Ready(resp)
            }
            CallState::Waiting(Some(mut waker)) => {
                waker.clone_from(cx.waker());
                slot.state = CallState::Waiting(Some(waker));
                Poll::Pending
            }
            _ => {
                slot.state = CallState::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<Req, Resp> Drop for Call<Req, Resp> {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else {
            return;
        };
        let mut calls = self.inner.calls.borrow_mut();
        let Some(slot) = calls.slot(call) else {
            return;
        };
        let state = std::mem::replace(&mut slot.state, CallState::Abandoned);
        if let CallState::Done(_) = state {
            calls.release(call);
        }
        drop(calls);
        drop(state);
    }
}

/// Takes answers back to the shard that asked.
trait ReplySink<Resp> {
    fn reply(&self, to: u16, call: u64, resp: Option<Resp>);
}

impl<Req: Send + 'static, Resp: Send + 'static> ReplySink<Resp> for Inner<Req, Resp> {
    fn reply(&self, to: u16, call: u64, resp: Option<Resp>) {
        if to == self.me {
            self.answer(call, resp);
        } else if self.is_open(to) {
            self.send(to, Message::Answer { call, resp });
        }
    }
}

enum ReplyTo<Resp> {
    Shard {
        sink: Rc<dyn ReplySink<Resp>>,
        to: u16,
        call: u64,
    },
    Foreign(GatewayReply<Resp>),
    Nobody,
}

/// The way back to whoever sent a request. Dropping it answers `None`.
#[must_use = "dropping a Reply answers None"]
pub struct Reply<Resp>(ReplyTo<Resp>);

impl<Resp> Reply<Resp> {
    /// Answers.
    pub fn send(mut self, resp: Resp) {
        self.answer(Some(resp));
    }

    /// Nobody waits for the answer (the request was cast).
    pub fn is_unwanted(&self) -> bool {
        matches!(self.0, ReplyTo::Nobody)
    }

    fn answer(&mut self, resp: Option<Resp>) {
        match std::mem::replace(&mut self.0, ReplyTo::Nobody) {
            ReplyTo::Shard { sink, to, call } => sink.reply(to, call, resp),
            ReplyTo::Foreign(reply) => reply.answer(resp),
            ReplyTo::Nobody => {}
        }
    }
}

impl<Resp> Drop for Reply<Resp> {
    fn drop(&mut self) {
        self.answer(None);
    }
}

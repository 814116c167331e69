//! The mesh's entry for threads that are no shards: control plane, signals, metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crossbeam::channel;

use crate::mesh::{Message, Shared};
use crate::rt::ShardId;

type Callback<Resp> = Box<dyn FnOnce(Option<Resp>) + Send>;

/// The way back to a foreign thread. Dropping it answers `None`.
pub(crate) struct GatewayReply<Resp>(Option<Callback<Resp>>);

impl<Resp> GatewayReply<Resp> {
    pub(crate) fn answer(mut self, resp: Option<Resp>) {
        if let Some(callback) = self.0.take() {
            callback(resp);
        }
    }
}

impl<Resp> Drop for GatewayReply<Resp> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(None);
        }
    }
}

/// The shard's inbox has no room, or the shard is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shard's inbox is full or the shard has ended")
    }
}

impl std::error::Error for Full {}

/// Sends requests to shards from any thread. Cheap to clone.
pub struct Gateway<Req, Resp>(Arc<Shared<Req, Resp>>);

impl<Req, Resp> Clone for Gateway<Req, Resp> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Req: Send + 'static, Resp: Send + 'static> Gateway<Req, Resp> {
    pub(crate) fn new(shared: Arc<Shared<Req, Resp>>) -> Self {
        Self(shared)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.0.ports.len()
    }

    /// The shard takes no more messages: it has ended, or never was.
    pub fn has_ended(&self, shard: ShardId) -> bool {
        let port = self.0.ports.get(usize::from(shard.0));
        port.is_none_or(|port| port.closed.load(Ordering::Acquire))
    }

    /// Sends a request whose answer is waited for by blocking. Never blocks itself: a full inbox
    /// is an error, and the caller tries again later.
    pub fn send(&self, to: ShardId, req: Req) -> Result<ReplyHandle<Resp>, Full> {
        let (sender, receiver) = channel::bounded(1);
        self.send_with(to, req, move |resp| {
            // The waiter may have gone.
            let _gone = sender.send(resp);
        })?;
        Ok(ReplyHandle(receiver))
    }

    /// Sends a request; `callback` gets the answer, on the shard's thread: it must be short and
    /// must not block. It gets `None` when the request was dropped, also when `Full` is returned.
    pub fn send_with(
        &self,
        to: ShardId,
        req: Req,
        callback: impl FnOnce(Option<Resp>) + Send + 'static,
    ) -> Result<(), Full> {
        let port = self.0.ports.get(usize::from(to.0)).ok_or(Full)?;
        if port.closed.load(Ordering::Acquire) {
            return Err(Full);
        }
        let reply = GatewayReply(Some(Box::new(callback) as Callback<Resp>));
        port.inbox
            .push(Message::Foreign { req, reply })
            .map_err(|_| Full)?;
        port.wake();
        // A shard that closed meanwhile may have emptied its inbox before the push.
        fence(Ordering::SeqCst);
        if port.closed.load(Ordering::Relaxed) {
            while let Some(message) = port.inbox.pop() {
                drop(message);
            }
        }
        Ok(())
    }
}

/// The answer to a [`Gateway::send`].
#[derive(Debug)]
pub struct ReplyHandle<Resp>(channel::Receiver<Option<Resp>>);

impl<Resp> ReplyHandle<Resp> {
    /// Blocks until the answer is there; `None` = the shard dropped the request. Never on a shard.
    pub fn wait(self) -> Option<Resp> {
        self.0.recv().ok().flatten()
    }

    /// Blocks for at most `timeout`; the handle comes back when there is no answer yet.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Option<Resp>, Self> {
        match self.0.recv_timeout(timeout) {
            Ok(resp) => Ok(resp),
            Err(channel::RecvTimeoutError::Timeout) => Err(self),
            Err(channel::RecvTimeoutError::Disconnected) => Ok(None),
        }
    }
}

//! A pipelined connection: one task sends, one receives, answers are matched in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use corelog_runtime::sync::{Notify, Receiver, Sender, oneshot};
use corelog_runtime::{AlignedBuf, Rt, Sleep, SocketHandle, Task};

use super::{ClientConfig, ClientError};
use crate::api::ApiKey;
use crate::frame::SIZE_BYTES;
use crate::response::split_response;

/// Bytes received at once; longer answers get memory of their own.
const RECEIVE_BYTES: usize = 64 << 10;

type Answer = Result<Bytes, ClientError>;

/// A connection and its two tasks, which end with it.
pub(super) struct Connection {
    shared: Rc<Shared>,
    tasks: [Option<Task<()>>; 2],
}

struct Shared {
    rt: Rt,
    socket: SocketHandle,
    config: ClientConfig,
    correlation_id: Cell<i32>,
    /// Pieces to send, in order, each request's followed by who waits for it to be sent.
    outbox: RefCell<Outbox>,
    wake_sender: Notify,
    /// Requests sent or to be sent, whose answers are due in this order.
    due: RefCell<VecDeque<Due>>,
    closed: RefCell<Option<ClientError>>,
}

#[derive(Default)]
struct Outbox {
    pieces: Vec<Bytes>,
    unanswered: Vec<Sender<Answer>>,
}

struct Due {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    answer: Sender<Answer>,
}

impl Shared {
    /// Ends the connection: everything in flight gets the error, and the receiving task its end of stream.
    fn fail(&self, error: ClientError) {
        if !self.close(error.clone()) {
            return;
        }
        tracing::debug!(%error, "a client's connection ends");
        let (rt, socket) = (self.rt.clone(), self.socket.clone());
        let shutdown = self.rt.spawn("client shutdown", async move {
            // It may be closed already.
            let _ = rt.shutdown(&socket).await;
        });
        shutdown.detach();
    }

    /// Gives everything in flight the error, once; false = it was closed before.
    fn close(&self, error: ClientError) -> bool {
        if self.closed.borrow().is_some() {
            return false;
        }
        *self.closed.borrow_mut() = Some(error.clone());
        let due = mem::take(&mut *self.due.borrow_mut());
        let outbox = mem::take(&mut *self.outbox.borrow_mut());
        for waiting in due
            .into_iter()
            .map(|due| due.answer)
            .chain(outbox.unanswered)
        {
            // Nobody waiting any more is no error.
            let _ = waiting.send(Err(error.clone()));
        }
        self.wake_sender.notify_all();
        true
    }

    fn check_open(&self) -> Result<(), ClientError> {
        match &*self.closed.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    async fn send_all(&self) -> Result<(), ClientError> {
        loop {
            self.check_open()?;
            let Outbox { pieces, unanswered } = mem::take(&mut *self.outbox.borrow_mut());
            if pieces.is_empty() {
                self.wake_sender.notified().await;
                continue;
            }
            self.rt.send(&self.socket, pieces, false).await?;
            for sent in unanswered {
                let _ = sent.send(Ok(Bytes::new()));
            }
        }
    }

    async fn receive_all(&self) -> Result<(), ClientError> {
        let mut buf = self.rt.pool().get(RECEIVE_BYTES);
        let (mut start, mut end) = (0, 0);
        loop {
            while let Some(size) = self.frame_size(&buf.as_slice()[start..end])? {
                let from = start + SIZE_BYTES;
                if size > end - from {
                    break;
                }
                self.answer(Bytes::copy_from_slice(&buf.as_slice()[from..from + size]))?;
                start = from + size;
            }
            if let Some(size) = self.frame_size(&buf.as_slice()[start..end])?
                && SIZE_BYTES + size > buf.capacity()
            {
                let frame = self
                    .receive_long(&buf.as_slice()[start + SIZE_BYTES..end], size)
                    .await?;
                self.answer(frame)?;
                (start, end) = (0, 0);
            }
            // What is left moves to the front, when a whole frame may not fit behind it.
            buf.as_mut_slice().copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let room = buf.capacity() - end;
            let (received, back) = self.rt.recv(&self.socket, buf, end, room, false).await;
            buf = back;
            match received? {
                0 => return Err(ClientError::Closed),
                bytes => end += bytes,
            }
        }
    }

    /// The size of the frame that begins here, once its size field is there.
    fn frame_size(&self, bytes: &[u8]) -> Result<Option<usize>, ClientError> {
        let Some(size) = bytes.first_chunk::<SIZE_BYTES>() else {
            return Ok(None);
        };
        let size = i32::from_be_bytes(*size);
        let max = self.config.response_bytes_max;
        match usize::try_from(size) {
            Ok(bytes) if (4..=max).contains(&bytes) => Ok(Some(bytes)),
            _ => Err(ClientError::BadSize { size, max }),
        }
    }

    /// A frame that does not fit the receive buffer, of which `head` is here.
    async fn receive_long(&self, head: &[u8], size: usize) -> Result<Bytes, ClientError> {
        let mut frame: AlignedBuf = self.rt.pool().get(size);
        frame.as_mut_slice()[..head.len()].copy_from_slice(head);
        let mut filled = head.len();
        while filled < size {
            let (received, back) = self
                .rt
                .recv(&self.socket, frame, filled, size - filled, true)
                .await;
            frame = back;
            match received? {
                0 => return Err(ClientError::Closed),
                bytes => filled += bytes,
            }
        }
        frame.set_len(size);
        Ok(frame.freeze())
    }

    fn answer(&self, frame: Bytes) -> Result<(), ClientError> {
        let received = frame
            .first_chunk::<4>()
            .map_or(0, |id| i32::from_be_bytes(*id));
        let mut due = self.due.borrow_mut();
        let expected = due.front().map(|due| due.correlation_id);
        if expected != Some(received) {
            return Err(ClientError::OutOfOrder { expected, received });
        }
        if let Some(Due {
            api,
            version,
            answer,
            ..
        }) = due.pop_front()
        {
            drop(due);
            let body = split_response(api, version, &frame);
            // The answer of a request that nobody waits for is dropped.
            let _ = answer.send(body.map(|(_, body)| body).map_err(ClientError::Wire));
        }
        Ok(())
    }

    fn enqueue(&self, pieces: Vec<Bytes>) {
        self.outbox.borrow_mut().pieces.extend(pieces);
        self.wake_sender.notify_all();
    }
}

impl Connection {
    pub(super) async fn open(
        rt: &Rt,
        addr: SocketAddr,
        config: ClientConfig,
    ) -> Result<Connection, ClientError> {
        let connected = rt.timeout(config.request_timeout, rt.connect(addr)).await;
        let socket = connected.ok_or(ClientError::TimedOut { api: None })??;
        let shared = Rc::new(Shared {
            rt: rt.clone(),
            socket,
            config,
            correlation_id: Cell::new(0),
            outbox: RefCell::default(),
            wake_sender: Notify::new(),
            due: RefCell::default(),
            closed: RefCell::default(),
        });
        let sender = shared.clone();
        let sending = rt.spawn("client send", async move {
            if let Err(error) = sender.send_all().await {
                sender.fail(error);
            }
        });
        let receiver = shared.clone();
        let receiving = rt.spawn("client receive", async move {
            if let Err(error) = receiver.receive_all().await {
                receiver.fail(error);
            }
        });
        Ok(Connection {
            shared,
            tasks: [Some(sending), Some(receiving)],
        })
    }

    pub(super) fn client_id(&self) -> Option<&str> {
        self.shared.config.client_id.as_deref()
    }

    /// Each request takes one, answered or not.
    pub(super) fn next_correlation_id(&self) -> i32 {
        let id = self.shared.correlation_id.get();
        self.shared.correlation_id.set(id.wrapping_add(1));
        id
    }

    /// Puts a request in line; its answer is what the future gives.
    pub(super) fn enqueue(
        &self,
        api: ApiKey,
        version: i16,
        correlation_id: i32,
        pieces: Vec<Bytes>,
    ) -> Result<PendingResponse, ClientError> {
        self.shared.check_open()?;
        let (answer, receiver) = oneshot();
        self.shared.due.borrow_mut().push_back(Due {
            api,
            version,
            correlation_id,
            answer,
        });
        self.shared.enqueue(pieces);
        Ok(self.pending(Some(api), receiver))
    }

    /// Puts a request in line that gets no answer; the future ends when it is sent.
    pub(super) fn enqueue_unanswered(
        &self,
        pieces: Vec<Bytes>,
    ) -> Result<PendingResponse, ClientError> {
        self.shared.check_open()?;
        let (sent, receiver) = oneshot();
        self.shared.outbox.borrow_mut().unanswered.push(sent);
        self.shared.enqueue(pieces);
        Ok(self.pending(Some(ApiKey::Produce), receiver))
    }

    fn pending(&self, api: Option<ApiKey>, answer: Receiver<Answer>) -> PendingResponse {
        let deadline = self.shared.rt.sleep(self.shared.config.request_timeout);
        PendingResponse {
            api,
            answer,
            deadline,
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close(ClientError::Closed);
        // The tasks hold the socket: it closes with them.
        for task in &mut self.tasks {
            if let Some(task) = task.take() {
                task.cancel();
            }
        }
    }
}

/// The answer to one request. Dropping it does not take the request back.
#[must_use = "futures do nothing unless awaited"]
pub struct PendingResponse {
    api: Option<ApiKey>,
    answer: Receiver<Answer>,
    deadline: Sleep,
    shared: Rc<Shared>,
}

impl Future for PendingResponse {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = &mut *self;
        if let Poll::Ready(answer) = Pin::new(&mut this.answer).poll(cx) {
            return Poll::Ready(answer.unwrap_or(Err(ClientError::Closed)));
        }
        if Pin::new(&mut this.deadline).poll(cx).is_ready() {
            let error = ClientError::TimedOut { api: this.api };
            this.shared.fail(error.clone());
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}

//! One client connection: requests in, answers out, in order.
//!
//! Only Produce overlaps: its batches take their places in their partitions' order as soon as the
//! request is read, and the answer comes when they are as safe as promised. Any other request
//! starts when all earlier ones are answered.

pub mod admin;
mod answer;
pub mod aside;
pub mod changes;
pub mod cold;
pub mod delete_records;
mod error_counts;
pub mod fetch;
mod image_answers;
pub mod log_lines;
pub mod offsets;
pub mod peer;
pub mod produce;
pub mod reader;
pub mod send;
pub mod sessions;
pub mod slots;
pub mod turn;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use corelog_core::Uuid;
use corelog_core::metadata::image::{Image, Topic};
use corelog_net::api::ApiKey;
use corelog_net::cold::decode_charge_bytes;
use corelog_net::frame::{FrameLimits, RequestFrame};
use corelog_runtime::driver::SocketHandle;
use corelog_runtime::sync::Notify;
use corelog_runtime::{Instant, ShardId, Task};

pub(crate) use self::error_counts::ErrorCodes;
use self::peer::PeerWatch;
use self::reader::{Frame, FrameReader, ReadFrameError};
use self::send::SendError;
use self::slots::Slots;
use self::turn::Turn;
use crate::errors::PartitionError;
use crate::latency::Stage;
use crate::request_memory::{ConnectionMemory, Held};
use crate::shard::Shard;
use crate::shard::message::Request;
use crate::stats::add;

/// Produce requests one connection may have under way (Kafka's clients have 5).
const PRODUCES_UNDER_WAY_MAX: usize = 64;
/// How much longer than an idle connection one with answers due may stand still.
const STUCK_GRACE: Duration = Duration::from_secs(120);
/// How long connections get to end when the broker stops.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Connections of one shard.
#[derive(Default)]
pub struct Connections {
    open: RefCell<BTreeMap<u64, Rc<Connection>>>,
    next_id: Cell<u64>,
    changed: Notify,
}

/// A connection as it was accepted.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The socket.
    pub socket: SocketHandle,
    /// Name of the listener it came in by.
    pub listener: Arc<str>,
    /// Where it comes from.
    pub address: IpAddr,
    /// Nothing is received before.
    pub muted_until: Instant,
}

/// Where a socket's peer is; 0.0.0.0 when the socket is not connected any more.
pub fn address(socket: &SocketHandle) -> IpAddr {
    let peer = corelog_runtime::sockets::peer_addr(socket);
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical())
}

/// What the tasks of one connection share.
pub struct Connection {
    socket: SocketHandle,
    listener: Arc<str>,
    address: IpAddr,
    /// Not read from before: throttled.
    muted_until: Cell<Instant>,
    /// What it may have of the shard's request memory.
    memory: ConnectionMemory,
    slots: Slots,
    last_used: Cell<Instant>,
    closing: Cell<bool>,
    closed: Notify,
    peer: PeerWatch,
    peer_host: OnceCell<String>,
}

impl Connection {
    /// The client's address, as Kafka writes it: `/127.0.0.1`.
    pub fn peer_host(&self) -> &str {
        self.peer_host.get_or_init(|| {
            if self.address.is_unspecified() {
                return "/".to_owned();
            }
            format!("/{}", self.address)
        })
    }

    /// Name of the listener it came in by.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Resolves when the connection is being closed.
    pub async fn closing(&self) {
        while !self.closing.get() {
            let notified = self.closed.notified();
            if !self.closing.get() {
                notified.await;
            }
        }
    }

    /// Waits for memory that an answer of so many bytes is kept in until it has left; `None` once
    /// the connection is being closed.
    pub(crate) async fn keep(&self, shard: &Shard, bytes: usize) -> Option<Held> {
        or_closing(self, shard.request_memory.acquire(&self.memory, bytes)).await
    }

    /// Reads no further request for so long, as Kafka does with clients that it throttles: the
    /// answer has left, and a client that does not wait by itself waits here.
    pub fn mute(&self, until: Instant) {
        self.muted_until.set(self.muted_until.get().max(until));
    }

    /// Ends the connection: its socket is shut down, its tasks see that and leave.
    async fn close(&self, shard: &Shard) {
        if !self.closing.replace(true) {
            self.closed.notify_all();
            let _ = shard.rt.shutdown(&self.socket).await;
        }
    }
}

/// Why a connection ended, besides the client's own wish.
#[derive(Debug)]
enum End {
    Frame(ReadFrameError),
    Malformed(corelog_net::wire::WireError),
    /// The answer could not be sent whole.
    Send(SendError),
    /// The broker closed it: it was idle, the broker stops, an answer could not be sent, or a batch
    /// with acks=0 was refused, and closing is the only way to say so.
    Closing,
}

/// Serves a socket on this shard until it ends.
pub fn serve(shard: &Rc<Shard>, arrival: Arrival) {
    let Arrival {
        socket,
        listener,
        address,
        muted_until,
    } = arrival;
    if shard.stopping.get() {
        gone(shard, address);
        return; // dropping the socket closes it
    }
    let id = shard.connections.next_id.get();
    shard.connections.next_id.set(id + 1);
    let connection = Rc::new(Connection {
        socket,
        listener,
        address,
        muted_until: Cell::new(shard.rt.now()),
        memory: shard.request_memory.connection(),
        slots: Slots::new(),
        last_used: Cell::new(shard.rt.now()),
        closing: Cell::new(false),
        closed: Notify::new(),
        peer: PeerWatch::default(),
        peer_host: OnceCell::new(),
    });
    connection.mute(muted_until);
    shard
        .connections
        .open
        .borrow_mut()
        .insert(id, Rc::clone(&connection));
    add(&shard.stats.connections_accepted, 1);
    shard
        .stats
        .connections
        .set(shard.stats.connections.get() + 1);
    let shard = Rc::clone(shard);
    shard.clone().spawn("connection", async move {
        let writer = write_answers(Rc::clone(&shard), Rc::clone(&connection));
        let _registered = Registered {
            shard: Rc::clone(&shard),
            connection: Rc::clone(&connection),
            id,
            writer: Some(shard.rt.spawn("connection_writer", writer)),
        };
        let _close = CloseOnPanic(Rc::clone(&shard), Rc::clone(&connection));
        let end = read_requests(&shard, &connection).await;
        report(&shard, &end);
        connection.close(&shard).await;
    });
}

/// Closes the connection when the task that holds this panics: an answer is missing for good, and
/// the client would wait for it in vain.
pub(crate) struct CloseOnPanic(pub Rc<Shard>, pub Rc<Connection>);

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if corelog_runtime::crash::is_panicking() {
            let (shard, connection) = (Rc::clone(&self.0), Rc::clone(&self.1));
            shard.clone().spawn(
                "connection_close",
                async move { connection.close(&shard).await },
            );
        }
    }
}

/// A connection counts no longer.
fn gone(shard: &Shard, address: IpAddr) {
    shard.load[usize::from(shard.id().0)].fetch_sub(1, Ordering::Relaxed);
    shard.cast(ShardId(0), Request::ConnectionEnded(address));
}

/// Takes the connection out of the books, and ends its writer, however its task ends, a panic
/// included.
struct Registered {
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    id: u64,
    writer: Option<Task<()>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.cancel();
        }
        self.connection.peer.end();
        let shard = &self.shard;
        shard.connections.open.borrow_mut().remove(&self.id);
        shard
            .stats
            .connections
            .set(shard.stats.connections.get() - 1);
        gone(shard, self.connection.address);
        shard.connections.changed.notify_all();
    }
}

fn report(shard: &Shard, end: &End) {
    let refused = match end {
        End::Frame(ReadFrameError::Closed | ReadFrameError::Broken(_))
        | End::Send(SendError::Io(_))
        | End::Closing => return,
        End::Send(SendError::Promised(error)) => {
            tracing::warn!(%error, "closed a connection: bytes it was promised are gone");
            return;
        }
        End::Frame(ReadFrameError::Refused(error)) => error.to_string(),
        End::Malformed(error) => error.to_string(),
    };
    add(&shard.stats.connections_refused, 1);
    // What strangers send must not fill the log.
    if let Some(left_out) = shard.refusals.line(shard.rt.now().0 / 1_000_000_000) {
        tracing::info!(reason = refused, left_out, "closed a connection");
    }
}

async fn read_requests(shard: &Rc<Shard>, connection: &Rc<Connection>) -> End {
    let limits = FrameLimits {
        socket_request_max_bytes: shard.config().socket_request_max_bytes,
        ..FrameLimits::default()
    };
    let mut reader = FrameReader::new(&shard.rt, &connection.socket, limits);
    let mut turn = Turn::default();
    loop {
        let muted_until = connection.muted_until.get();
        if muted_until > shard.rt.now() {
            let muted = shard.rt.sleep_until(muted_until);
            if or_closing(connection, muted).await.is_none() {
                return End::Closing;
            }
        }
        // A client that does not read its answers is not read from either.
        let room = connection.slots.below(PRODUCES_UNDER_WAY_MAX);
        if or_closing(connection, room).await.is_none() {
            return End::Closing;
        }
        let next = next_frame(shard, connection, &mut reader);
        let frame = match or_closing(connection, next).await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // As with Kafka, whose answers leave before the end is looked at.
                if matches!(error, ReadFrameError::Closed) {
                    or_closing(connection, connection.slots.drained()).await;
                }
                return End::Frame(error);
            }
            None => return End::Closing,
        };
        connection.last_used.set(shard.rt.now());
        shard.stats.count_request(frame.prefix.api.number());
        match frame.prefix.api {
            ApiKey::Produce => shard.stats.stage(Stage::ProduceReceive, frame.received_in),
            ApiKey::Fetch => shard.stats.stage(Stage::FetchReceive, frame.received_in),
            _ => {}
        }
        let size = frame.prefix.size;
        if let Err(end) = handle_frame(shard, connection, frame).await {
            return end;
        }
        if connection.closing.get() {
            return End::Closing;
        }
        if turn.is_over_after(size) {
            add(&shard.stats.connection_yields, 1);
            shard.rt.yield_now().await;
        } else {
            shard.rt.yield_if_needed().await;
        }
    }
}

/// The next request. All but Produce begin when all earlier ones are answered: they wait for that
/// before they are given memory, since the client may take its time with the answers.
async fn next_frame(
    shard: &Shard,
    connection: &Connection,
    reader: &mut FrameReader,
) -> Result<Frame, ReadFrameError> {
    let prefix = reader.head().await?;
    if prefix.api != ApiKey::Produce {
        connection.slots.drained().await;
    }
    reader
        .frame(prefix, &shard.request_memory, &connection.memory)
        .await
}

async fn handle_frame(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: Frame,
) -> Result<(), End> {
    let began = shard.rt.now();
    let Frame {
        prefix,
        bytes,
        permit,
        ..
    } = frame;
    let request = RequestFrame::decode(&bytes).map_err(End::Malformed)?;
    drop(bytes);
    if request.client_id.as_deref() == Some("panic") && shard.storage.is_planted("panic-on-request")
    {
        panic!("planted: panic-on-request");
    }
    if request.api == ApiKey::Produce {
        return produce::start(shard, connection, request, permit, began).map_err(End::Malformed);
    }
    // What the frame was given goes back before any wait: nobody waits, for data or for memory,
    // while holding what others wait for.
    drop(permit);
    if request.api == ApiKey::Fetch {
        let answer = fetch::answer(shard, connection, request).await;
        let parts = answer.map_err(End::Malformed)?.ok_or(End::Closing)?;
        let answered = shard.rt.now();
        let waited = answered.saturating_duration_since(began);
        shard.stats.stage(Stage::FetchData, waited);
        let sent = answer::send_fetch(shard, connection, parts).await;
        let took = shard.rt.now().saturating_duration_since(answered);
        shard.stats.stage(Stage::FetchSend, took);
        return sent;
    }
    // Structs take many times the bytes they came in.
    let charge = decode_charge_bytes(request.body.len());
    let memory = &shard.request_memory;
    let memory = memory.answering(&connection.memory, prefix.size, charge);
    let memory = or_closing(connection, memory).await.ok_or(End::Closing)?;
    let (answer, memory) = cold::answer(shard, connection, &request, memory)
        .await
        .map_err(End::Malformed)?
        .ok_or(End::Closing)?;
    drop(request);
    answer::send_cold(shard, connection, answer, memory).await
}

/// The future's output, or `None` once the connection is being closed.
async fn or_closing<T>(connection: &Connection, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut closing = pin!(connection.closing());
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => closing.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Sends the answers of Produce requests as they become due, many at a time.
async fn write_answers(shard: Rc<Shard>, connection: Rc<Connection>) {
    let _close = CloseOnPanic(Rc::clone(&shard), Rc::clone(&connection));
    loop {
        let mut ready = connection.slots.take_ready().await;
        ready.retain(|answer| !answer.is_empty());
        let sent = if ready.is_empty() {
            Ok(())
        } else {
            let (began, count) = (shard.rt.now(), ready.len());
            let sent = shard.rt.send(&connection.socket, ready, false).await;
            let took = shard.rt.now().saturating_duration_since(began);
            shard.stats.stage_n(Stage::ProduceSend, took, count);
            sent
        };
        connection.slots.sent();
        connection.last_used.set(shard.rt.now());
        if sent.is_err() {
            connection.close(&shard).await;
            return;
        }
    }
}

/// Fills a Produce request's place in the order of answers; `None` closes the connection.
pub(crate) fn fill(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    slot: u64,
    answer: Option<Bytes>,
) {
    match answer {
        Some(answer) => connection.slots.fill(slot, answer),
        None => {
            let (shard, connection) = (Rc::clone(shard), Rc::clone(connection));
            shard.clone().spawn(
                "connection_close",
                async move { connection.close(&shard).await },
            );
        }
    }
}

/// Closes connections that have been idle for longer than `connections.max.idle.ms`.
pub async fn close_idle(shard: &Rc<Shard>) {
    let Some(idle_max_ms) = shard.config().connections_max_idle_ms else {
        return;
    };
    let idle_max = Duration::from_millis(idle_max_ms);
    let now = shard.rt.now();
    let idle: Vec<_> = {
        let open = shard.connections.open.borrow();
        let is_idle = |c: &&Rc<Connection>| {
            let idle = now.saturating_duration_since(c.last_used.get());
            // With answers due, neither a byte came nor left for so long: the client is stuck.
            idle > idle_max && (c.slots.is_empty() || idle > idle_max + STUCK_GRACE)
        };
        open.values().filter(is_idle).cloned().collect()
    };
    for connection in idle {
        connection.close(shard).await;
    }
}

/// Closes all connections and waits until their tasks have ended.
pub async fn close_all(shard: &Rc<Shard>) {
    let open: Vec<_> = shard.connections.open.borrow().values().cloned().collect();
    for connection in open {
        connection.close(shard).await;
    }
    let gone = async {
        while !shard.connections.open.borrow().is_empty() {
            shard.connections.changed.notified().await;
        }
    };
    if shard.rt.timeout(CLOSE_MAX, gone).await.is_none() {
        tracing::warn!(
            open = shard.connections.open.borrow().len(),
            "connections did not end in time"
        );
    }
}

/// The core's form of a topic id of the wire.
pub(crate) fn topic_id(bytes: &[u8; 16]) -> Uuid {
    let number = u128::from_be_bytes(*bytes);
    Uuid::from_parts((number >> 64) as u64, number as u64)
}

/// The topic a request means: by id from the version on that has ids, before that by name.
pub(crate) fn find_topic<'a>(
    image: &'a Image,
    by_id: bool,
    name: &str,
    id: &[u8; 16],
) -> Result<&'a Topic, PartitionError> {
    let (found, unknown) = if by_id {
        (
            image.topic_by_id(&topic_id(id)),
            PartitionError::UnknownTopicId,
        )
    } else {
        (image.topic(name), PartitionError::UnknownTopicOrPartition)
    };
    found.map(AsRef::as_ref).ok_or(unknown)
}

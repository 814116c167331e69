//! The simulated network: sockets as a kernel keeps them, and the wire between them.
//!
//! Reading order: this page (what there is), `ends` (connections come and go), `wire` (bytes under
//! way and their faults), `ops` (operations of tasks).

mod ends;
mod ops;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::net_config::NetCounters;
use super::rng::Rng;
use super::tree::Errno;
use crate::driver::{Closer, Descriptor, SocketHandle};

/// Marks the numbers of sockets, so that they are no files'.
pub(super) const SOCKET_MARK: i64 = 1 << 62;

/// A socket: its place and the generation of the place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SockId {
    place: u32,
    generation: u32,
}

impl SockId {
    pub(super) fn from_raw(raw: i64) -> SockId {
        SockId {
            place: raw as u32,
            generation: ((raw & !SOCKET_MARK) >> 32) as u32,
        }
    }

    fn raw(self) -> i64 {
        SOCKET_MARK | i64::from(self.generation) << 32 | i64::from(self.place)
    }
}

/// What happens in the network at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NetEvent {
    /// A connect reaches the listener.
    Syn(SockId),
    /// Its answer reaches the client.
    Connected(SockId),
    /// No answer: the connect fails.
    Refused(SockId, Errno),
    /// The first piece on the wire reaches its end.
    Arrive(SockId),
    /// An end that waits for room learns that there is some.
    Room(SockId),
    /// An end learns that its connection is lost.
    Fail(SockId, Errno),
    /// An end that holds bytes back (MSG_MORE) sends them.
    Uncork(SockId, u32),
}

/// What travels.
enum Cargo {
    Bytes(Bytes),
    /// No more bytes follow.
    Fin,
    /// The connection is void.
    Rst,
}

struct Piece {
    sent_ns: u64,
    at_ns: u64,
    cargo: Cargo,
}

struct Listener {
    addr: SocketAddr,
    backlog: usize,
    /// Connections nobody has accepted yet.
    queue: VecDeque<SockId>,
    /// Accepts under way.
    acceptors: VecDeque<u64>,
}

/// One end of a connection.
struct End {
    local: SocketAddr,
    remote: SocketAddr,
    /// The other end, once there is one.
    peer: Option<SockId>,
    /// The connect under way, by its operation.
    connect: Option<u64>,
    /// When the connect began.
    since_ns: u64,
    /// On its way here, in order; and whether an arrival is scheduled.
    wire: VecDeque<Piece>,
    is_armed: bool,
    /// Arrived, not read yet.
    arrived: VecDeque<Bytes>,
    /// Bytes in `wire`, `arrived`, and in what the peer holds back.
    held: usize,
    /// Most of them.
    room_max: usize,
    /// Bytes here and on the wire arrive so many at a time (0: all at once).
    trickle: usize,
    /// What this end holds back because more follows, and how often it was let go.
    corked: Vec<Bytes>,
    cork_turn: u32,
    /// The peer has sent its last byte, and this end knows.
    got_fin: bool,
    /// This end has sent its last byte.
    sent_fin: bool,
    /// Nothing it sends arrives any more, though it may not know yet.
    is_lost: bool,
    /// The connection has ended, and this end knows.
    is_dead: bool,
    /// Why; told once.
    error: Option<Errno>,
    /// Its user shut it down.
    is_shut: bool,
    room_is_announced: bool,
    recvs: VecDeque<u64>,
    sends: VecDeque<u64>,
    writables: Vec<u64>,
    closeds: Vec<u64>,
}

impl End {
    fn room(&self) -> usize {
        self.room_max.saturating_sub(self.held)
    }

    /// Room enough to wake a sender, as the kernel sees it.
    fn is_writable(&self) -> bool {
        self.room() * 3 >= self.room_max
    }
}

enum Kind {
    Listener(Listener),
    End(Box<End>),
}

struct Socket {
    process: u32,
    /// Its user has let it go, or has died.
    is_closed: bool,
    kind: Kind,
}

/// Two processes between which nothing passes.
struct Cut {
    from: u32,
    to: u32,
    until_ns: u64,
}

pub(super) struct Net {
    sockets: Vec<(u32, Option<Socket>)>,
    free: Vec<u32>,
    /// Listening sockets.
    listeners: Vec<SockId>,
    cuts: Vec<Cut>,
    /// Addresses on machines that are down: nobody answers there.
    dark: Vec<SocketAddr>,
    next_listen_port: u16,
    rng: Rng,
    pub(super) counters: NetCounters,
    closer: Arc<dyn Closer>,
}

/// Closes a simulated socket, and knows its addresses.
struct SocketCloser {
    world: Arc<dyn Closer>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
}

impl Closer for SocketCloser {
    fn close(&self, raw: i64) {
        self.world.close(raw);
    }

    fn addresses(&self) -> Option<(SocketAddr, Option<SocketAddr>)> {
        Some((self.local, self.remote))
    }
}

impl Net {
    pub(super) fn new(seed: u64, closer: Arc<dyn Closer>) -> Net {
        Net {
            sockets: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            cuts: Vec::new(),
            dark: Vec::new(),
            next_listen_port: 20_000,
            rng: Rng::new(seed, 4),
            counters: NetCounters::default(),
            closer,
        }
    }

    fn add(&mut self, process: u32, kind: Kind) -> SockId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.sockets.push((0, None));
            (self.sockets.len() - 1) as u32
        });
        let slot = &mut self.sockets[place as usize];
        slot.0 = (slot.0 + 1) & 0x3FFF_FFFF;
        slot.1 = Some(Socket {
            process,
            is_closed: false,
            kind,
        });
        SockId {
            place,
            generation: slot.0,
        }
    }

    fn socket(&mut self, id: SockId) -> Option<&mut Socket> {
        let slot = self.sockets.get_mut(id.place as usize)?;
        slot.1.as_mut().filter(|_| slot.0 == id.generation)
    }

    /// An end, also of a process that is gone.
    fn end(&mut self, id: SockId) -> Option<&mut End> {
        match &mut self.socket(id)?.kind {
            Kind::End(end) => Some(end),
            Kind::Listener(_) => None,
        }
    }

    fn listener(&mut self, id: SockId) -> Option<&mut Listener> {
        match &mut self.socket(id)?.kind {
            Kind::Listener(listener) => Some(listener),
            Kind::End(_) => None,
        }
    }

    fn peer_of(&mut self, id: SockId) -> Option<SockId> {
        self.end(id)?.peer
    }

    fn is_closed(&mut self, id: SockId) -> bool {
        self.socket(id).is_none_or(|socket| socket.is_closed)
    }

    fn process_of(&mut self, id: SockId) -> Option<u32> {
        self.socket(id).map(|socket| socket.process)
    }

    fn remove(&mut self, id: SockId) {
        if let Some(slot) = self.sockets.get_mut(id.place as usize)
            && slot.0 == id.generation
            && slot.1.take().is_some()
        {
            self.free.push(id.place);
        }
    }

    /// Sockets of a process that it has not let go.
    fn open_of(&self, process: u32) -> Vec<SockId> {
        let with_id = |(place, slot): (usize, &(u32, Option<Socket>))| {
            let socket = slot.1.as_ref()?;
            (socket.process == process && !socket.is_closed).then_some(SockId {
                place: place as u32,
                generation: slot.0,
            })
        };
        self.sockets
            .iter()
            .enumerate()
            .filter_map(with_id)
            .collect()
    }

    /// The handle by which a process holds a socket.
    fn handle(&mut self, id: SockId) -> Option<SocketHandle> {
        let (local, remote) = match &self.socket(id)?.kind {
            Kind::Listener(listener) => (listener.addr, None),
            Kind::End(end) => (end.local, Some(end.remote)),
        };
        let closer = Arc::new(SocketCloser {
            world: self.closer.clone(),
            local,
            remote,
        });
        Some(SocketHandle(Arc::new(Descriptor {
            raw: id.raw(),
            closer,
        })))
    }

    fn delay(&mut self, range: (u64, u64)) -> u64 {
        self.rng.between(range.0, range.1).max(1)
    }

    /// Until when nothing passes from one process to the other.
    fn cut_until(&self, from: u32, to: u32, now_ns: u64) -> Option<u64> {
        let holds = |cut: &&Cut| cut.from == from && cut.to == to && cut.until_ns > now_ns;
        self.cuts.iter().filter(holds).map(|cut| cut.until_ns).max()
    }

    pub(super) fn cut(&mut self, from: u32, to: u32, until_ns: u64, now_ns: u64) {
        self.cuts.retain(|cut| cut.until_ns > now_ns);
        self.cuts.push(Cut { from, to, until_ns });
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }
}

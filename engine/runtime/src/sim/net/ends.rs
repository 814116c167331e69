//! How connections come and go: listen, connect, close, the death of a process.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::super::net_config::Loss;
use super::super::state::{Event, State};
use super::super::tree::Errno;
use super::{Cargo, End, Kind, Listener, NetEvent, SockId};
use crate::driver::{Output, SocketHandle};

/// How long a connect waits before it knocks again.
const KNOCK_AGAIN_NS: u64 = 1_000_000_000;

fn new_end(local: SocketAddr, remote: SocketAddr, now_ns: u64, room_max: usize) -> Kind {
    Kind::End(Box::new(End {
        local,
        remote,
        peer: None,
        connect: None,
        since_ns: now_ns,
        wire: VecDeque::new(),
        is_armed: false,
        arrived: VecDeque::new(),
        held: 0,
        room_max,
        trickle: 0,
        corked: Vec::new(),
        cork_turn: 0,
        got_fin: false,
        sent_fin: false,
        is_lost: false,
        is_dead: false,
        error: None,
        is_shut: false,
        room_is_announced: false,
        recvs: VecDeque::new(),
        sends: VecDeque::new(),
        writables: Vec::new(),
        closeds: Vec::new(),
    }))
}

impl State {
    pub(super) fn after(&mut self, delay_ns: u64, event: NetEvent) {
        let at_ns = self.now_ns.saturating_add(delay_ns);
        let tie = self.net.rng.next_u64() as u32;
        self.schedule_at(at_ns, tie, Event::Net(event));
    }

    /// A time on the wire.
    pub(super) fn wire_delay(&mut self) -> u64 {
        self.net.delay(self.config.net.delay_ns)
    }

    fn room_max(&mut self) -> usize {
        let (low, high) = self.config.net.buffer_bytes;
        self.net.rng.between(low, high).max(1) as usize
    }

    pub(in super::super) fn listen(
        &mut self,
        process: u32,
        mut addr: SocketAddr,
        backlog: u32,
    ) -> io::Result<(SocketHandle, SocketAddr)> {
        let errno = io::Error::from_raw_os_error;
        if !self.processes.is_alive(process) {
            return Err(errno(libc::ESRCH));
        }
        if addr.port() == 0 {
            addr.set_port(self.net.next_listen_port);
            self.net.next_listen_port += 1;
        }
        if self.listener_at(addr).is_some() {
            return Err(errno(libc::EADDRINUSE));
        }
        let id = self.net.add(
            process,
            Kind::Listener(Listener {
                addr,
                backlog: backlog.max(1) as usize,
                queue: VecDeque::new(),
                acceptors: VecDeque::new(),
            }),
        );
        self.net.listeners.push(id);
        self.net.dark.retain(|dark| *dark != addr);
        self.trace.add(id.place.into());
        let handle = self.net.handle(id).ok_or_else(|| errno(libc::EBADF))?;
        Ok((handle, addr))
    }

    /// Who listens at an address: exactly there, or at all addresses of its port.
    fn listener_at(&mut self, addr: SocketAddr) -> Option<SockId> {
        let listeners = self.net.listeners.clone();
        listeners.into_iter().find(|id| {
            self.net.listener(*id).is_some_and(|listener| {
                let own = listener.addr;
                own == addr || (own.ip().is_unspecified() && own.port() == addr.port())
            })
        })
    }

    /// Begins the connect of operation `id`.
    pub(super) fn connect(&mut self, id: u64, process: u32, addr: SocketAddr) {
        let local = self.processes.next_addr(process);
        let (room, now_ns) = (self.room_max(), self.now_ns);
        let end = self.net.add(process, new_end(local, addr, now_ns, room));
        if let Some(entry) = self.net.end(end) {
            entry.connect = Some(id);
        }
        if let Some(flight) = self.flights.get_mut(id) {
            flight.moved = end.raw() as usize;
        }
        let delay = self.wire_delay();
        self.after(delay, NetEvent::Syn(end));
    }

    /// The connect reaches the other machine.
    pub(super) fn syn(&mut self, client: SockId) {
        let (Some(process), Some(entry)) = (self.net.process_of(client), self.net.end(client))
        else {
            return;
        };
        let (addr, waited_ns) = (entry.remote, self.now_ns - entry.since_ns);
        let faults = self.config.net.faults;
        let listener = self.listener_at(addr);
        let server = listener.and_then(|id| self.net.process_of(id));
        let machine = server.or_else(|| self.processes.at_ip(addr.ip()));
        let cut = machine.and_then(|server| self.net.cut_until(process, server, self.now_ns));
        let is_full = listener
            .and_then(|id| self.net.listener(id))
            .is_some_and(|listener| listener.queue.len() >= listener.backlog);
        self.net.counters.full_backlogs += u64::from(is_full);
        if cut.is_some() || is_full || self.net.dark.contains(&addr) {
            if waited_ns > self.config.net.connect_timeout_ns {
                self.net.counters.timed_out += 1;
                return self.after(1, NetEvent::Refused(client, libc::ETIMEDOUT));
            }
            let delay = KNOCK_AGAIN_NS + self.wire_delay();
            return self.after(delay, NetEvent::Syn(client));
        }
        let refused = self.net.rng.ppm(faults.refuse_ppm);
        let delay = self.wire_delay();
        match (listener, server) {
            (Some(listener), Some(server)) if !refused => {
                self.establish(client, listener, server, addr);
                self.after(delay, NetEvent::Connected(client));
            }
            _ => {
                self.net.counters.refused += u64::from(refused);
                self.net.counters.nobody_listened += u64::from(!refused);
                self.after(delay, NetEvent::Refused(client, libc::ECONNREFUSED));
            }
        }
    }

    fn establish(&mut self, client: SockId, listener: SockId, server: u32, addr: SocketAddr) {
        let Some(client_addr) = self.net.end(client).map(|end| end.local) else {
            return;
        };
        let (room, now_ns) = (self.room_max(), self.now_ns);
        let other = self
            .net
            .add(server, new_end(addr, client_addr, now_ns, room));
        let trickle = self.config.net.trickle_bytes.max(1) as usize;
        let slow = self.net.rng.ppm(self.config.net.faults.slow_peer_ppm);
        let slow_end = if self.net.rng.of_256(192) {
            client
        } else {
            other
        };
        for (one, two) in [(client, other), (other, client)] {
            if let Some(end) = self.net.end(one) {
                end.peer = Some(two);
                if slow && one == slow_end {
                    end.trickle = trickle;
                }
            }
        }
        self.net.counters.slow_peers += u64::from(slow);
        self.net.counters.connections += 1;
        if let Some(listener) = self.net.listener(listener) {
            listener.queue.push_back(other);
        }
        self.trace
            .add(u64::from(client.place) << 32 | u64::from(other.place));
        self.trace.tell(now_ns, || {
            format!(
                "connection {client_addr} -> {addr}: {} -> {}",
                client.place, other.place
            )
        });
        self.accept_waiting(listener);
    }

    /// Hands connections to accepts.
    pub(super) fn accept_waiting(&mut self, id: SockId) {
        loop {
            let Some(listener) = self.net.listener(id) else {
                return;
            };
            if listener.queue.is_empty() || listener.acceptors.is_empty() {
                return;
            }
            let (Some(end), Some(op)) =
                (listener.queue.pop_front(), listener.acceptors.pop_front())
            else {
                return;
            };
            if self.net.rng.ppm(self.config.net.faults.abort_ppm) {
                self.net.counters.aborted += 1;
                self.send_rst(end);
                self.close_end(end);
                self.end_op(op, Err(libc::ECONNABORTED));
                continue;
            }
            let handle = self.net.handle(end);
            self.end_op(op, handle.map(Output::Socket).ok_or(libc::EBADF));
        }
    }

    pub(super) fn connected(&mut self, client: SockId) {
        let Some(op) = self.net.end(client).and_then(|end| end.connect.take()) else {
            return;
        };
        let handle = self.net.handle(client);
        self.end_op(op, handle.map(Output::Socket).ok_or(libc::EBADF));
    }

    pub(super) fn refused(&mut self, client: SockId, errno: Errno) {
        if let Some(op) = self.net.end(client).and_then(|end| end.connect.take()) {
            self.end_op(op, Err(errno));
        }
        self.net.remove(client);
    }

    /// The last handle of a socket is gone.
    pub(in super::super) fn close_socket(&mut self, raw: i64) {
        self.close(SockId::from_raw(raw));
    }

    pub(super) fn close(&mut self, id: SockId) {
        if self.net.is_closed(id) {
            return;
        }
        match self.net.listener(id) {
            Some(listener) => {
                let queue = std::mem::take(&mut listener.queue);
                self.net.listeners.retain(|known| *known != id);
                self.net.remove(id);
                for end in queue {
                    self.send_rst(end);
                    self.close_end(end);
                }
            }
            None => {
                let has_unread = self.net.end(id).is_some_and(|end| !end.arrived.is_empty());
                if has_unread {
                    self.send_rst(id);
                } else {
                    self.send_fin(id);
                }
                self.close_end(id);
            }
        }
    }

    /// Nobody holds this end any more. When both ends are let go, nobody can tell that there was a
    /// connection.
    fn close_end(&mut self, id: SockId) {
        let Some(socket) = self.net.socket(id) else {
            return;
        };
        socket.is_closed = true;
        let Some(end) = self.net.end(id) else {
            return;
        };
        end.arrived.clear();
        end.recvs.clear();
        end.sends.clear();
        end.writables.clear();
        end.closeds.clear();
        end.connect = None;
        let peer = end.peer;
        match peer {
            Some(peer) if !self.net.is_closed(peer) => {}
            Some(peer) => {
                self.net.remove(peer);
                self.net.remove(id);
            }
            None => self.net.remove(id),
        }
    }

    /// The process is gone, its kernel lives: it closes what the process held.
    pub(in super::super) fn close_ends_of(&mut self, process: u32) {
        for id in self.net.open_of(process) {
            if self.net.end(id).is_some() {
                self.net.counters.killed_ends += 1;
            }
            self.close(id);
        }
    }

    /// The machine is gone: what it had sent arrives in part, then there is silence.
    pub(in super::super) fn lose_ends_of(&mut self, process: u32) {
        let is_dark = self.crash_rng.of_256(128);
        for id in self.net.open_of(process) {
            if let Some(listener) = self.net.listener(id) {
                let (addr, queue) = (listener.addr, std::mem::take(&mut listener.queue));
                self.net.listeners.retain(|known| *known != id);
                self.net.remove(id);
                if is_dark {
                    self.net.dark.push(addr);
                }
                queue.into_iter().for_each(|end| self.lose_end(end));
            } else {
                self.lose_end(id);
            }
        }
    }

    fn lose_end(&mut self, id: SockId) {
        if self.net.is_closed(id) {
            return;
        }
        self.net.counters.killed_ends += 1;
        if let Some(peer) = self.net.peer_of(id) {
            let on_wire = self.net.end(peer).map_or(0, |end| end.wire.len());
            let kept = self.crash_rng.below(on_wire as u64 + 1) as usize;
            if let Some(end) = self.net.end(peer) {
                end.is_lost = true;
                end.wire.truncate(kept);
            }
            let (delay, errno) = if self.crash_rng.of_256(128) {
                let (low, high) = self.config.net.silence_ns;
                (self.crash_rng.between(low, high), libc::ETIMEDOUT)
            } else {
                let reset = self.crash_rng.between(1_000_000, 1_000_000_000);
                (reset, libc::ECONNRESET)
            };
            self.after(delay, NetEvent::Fail(peer, errno));
        }
        if let Some(end) = self.net.end(id) {
            (end.is_lost, end.is_dead) = (true, true);
        }
        self.close_end(id);
    }

    pub(in super::super) fn break_connections(&mut self, process: u32, loss: Loss) {
        for id in self.net.open_of(process) {
            if self.net.peer_of(id).is_some() {
                self.lose_connection(id, loss);
            }
        }
    }

    /// From now on nothing passes; each end learns of it at its own time.
    pub(super) fn lose_connection(&mut self, id: SockId, loss: Loss) {
        let Some(peer) = self.net.peer_of(id) else {
            return;
        };
        match loss {
            Loss::Reset => self.net.counters.resets += 1,
            Loss::Silence => self.net.counters.silences += 1,
        }
        for end_id in [id, peer] {
            let (delay, errno) = match loss {
                Loss::Reset => (self.wire_delay(), libc::ECONNRESET),
                Loss::Silence => (self.net.delay(self.config.net.silence_ns), libc::ETIMEDOUT),
            };
            let mut after_wire = self.now_ns;
            if let Some(end) = self.net.end(end_id) {
                end.is_lost = true;
                end.corked.clear();
                after_wire = end.wire.back().map_or(after_wire, |piece| piece.at_ns);
            }
            // What is on the wire already arrives first.
            let delay = delay + (after_wire - self.now_ns.min(after_wire));
            self.after(delay, NetEvent::Fail(end_id, errno));
        }
    }

    /// This end learns that the connection has ended.
    pub(super) fn fail(&mut self, id: SockId, errno: Errno) {
        let Some(end) = self.net.end(id) else {
            return;
        };
        if end.is_dead {
            return;
        }
        end.is_dead = true;
        end.is_lost = true;
        end.error = Some(errno);
        end.corked.clear();
        // What has not arrived never will.
        end.held = end.arrived.iter().map(bytes::Bytes::len).sum();
        end.wire.clear();
        self.net.counters.timed_out += u64::from(errno == libc::ETIMEDOUT);
        self.trace.add(u64::from(id.place) ^ 0xFA11);
        self.trace.tell(self.now_ns, || {
            format!("socket {} fails with {errno}", id.place)
        });
        self.wake_all(id);
    }

    /// Sends the end of the stream, after all that was sent before.
    pub(super) fn send_fin(&mut self, id: SockId) {
        self.uncork(id);
        self.send_mark(id, Cargo::Fin);
    }

    /// Voids the connection at once: what the wire still carries arrives in part.
    pub(super) fn send_rst(&mut self, id: SockId) {
        if let Some(peer) = self.net.peer_of(id) {
            let on_wire = self.net.end(peer).map_or(0, |end| end.wire.len());
            let kept = self.net.rng.below(on_wire as u64 + 1) as usize;
            if let Some(end) = self.net.end(id) {
                end.corked.clear();
            }
            if kept < on_wire
                && let Some(end) = self.net.end(peer)
            {
                end.wire.truncate(kept);
            }
        }
        self.send_mark(id, Cargo::Rst);
    }

    fn send_mark(&mut self, id: SockId, cargo: Cargo) {
        let delay = self.wire_delay();
        let now_ns = self.now_ns;
        let Some(end) = self.net.end(id) else {
            return;
        };
        if end.is_lost || end.is_dead || end.sent_fin && matches!(cargo, Cargo::Fin) {
            return;
        }
        end.sent_fin = true;
        if matches!(cargo, Cargo::Rst) {
            end.is_lost = true;
            end.is_dead = true;
        }
        if let Some(peer) = end.peer {
            self.put_on_wire(peer, now_ns + delay, cargo);
        }
    }
}

//! Operations on sockets, as the kernel ends them.

use std::io;

use bytes::Bytes;

use super::super::state::State;
use super::super::tree::Errno;
use super::{NetEvent, SockId};
use crate::driver::{Op, Output, SocketHandle};

/// Buffers in one send, as for sendmsg over the ring.
const BUFS_MAX: usize = 64;

/// How a try ended.
enum Try {
    Ended(Result<Output, Errno>),
    Waits,
}

fn id_of(socket: &SocketHandle) -> SockId {
    SockId::from_raw(socket.0.raw)
}

fn socket_of(op: &Op) -> Option<SockId> {
    match op {
        Op::Accept { listener: socket }
        | Op::Recv { socket, .. }
        | Op::Send { socket, .. }
        | Op::PollWritable { socket }
        | Op::PollClosed { socket }
        | Op::Shutdown { socket } => Some(id_of(socket)),
        _ => None,
    }
}

impl State {
    pub(in super::super) fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Syn(id) => self.syn(id),
            NetEvent::Connected(id) => self.connected(id),
            NetEvent::Refused(id, errno) => self.refused(id, errno),
            NetEvent::Arrive(id) => self.arrive(id),
            NetEvent::Room(id) => self.room(id),
            NetEvent::Fail(id, errno) => self.fail(id, errno),
            NetEvent::Uncork(id, turn) => self.uncork_turn(id, turn),
        }
    }

    /// Ends an operation with this result.
    pub(super) fn end_op(&mut self, id: u64, result: Result<Output, Errno>) {
        if let Some(flight) = self.flights.get_mut(id) {
            flight.outcome = Some(result);
            self.finish(id);
        }
    }

    pub(in super::super) fn start_socket_op(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        if flight.outcome.is_some() {
            return self.finish(id); // cancelled before it began
        }
        let port = flight.port;
        if let Op::Connect { addr } = flight.op {
            let process = self.port(port).map_or(0, |port| port.process);
            return self.connect(id, process, addr);
        }
        let Some(socket) = socket_of(&flight.op) else {
            return self.end_op(id, Err(libc::ENOSYS));
        };
        if self.net.is_closed(socket) {
            return self.end_op(id, Err(libc::EBADF));
        }
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        match &flight.op {
            Op::Accept { .. } => match self.net.listener(socket) {
                Some(listener) => {
                    listener.acceptors.push_back(id);
                    self.accept_waiting(socket);
                }
                None => self.end_op(id, Err(libc::EINVAL)),
            },
            Op::Shutdown { .. } => {
                let result = self.shutdown(socket);
                self.end_op(id, result);
            }
            Op::Recv { buf, at, len, .. } => {
                let fits = at
                    .checked_add(*len)
                    .is_some_and(|end| end <= buf.capacity());
                if !fits || *len == 0 {
                    return self.end_op(id, Err(libc::EINVAL));
                }
                self.wait_or(id, socket, |end| end.recvs.push_back(id));
                self.wake_reader(socket);
            }
            Op::Send { bufs, .. } => {
                if bufs.len() > BUFS_MAX {
                    return self.end_op(id, Err(libc::EMSGSIZE));
                }
                self.wait_or(id, socket, |end| end.sends.push_back(id));
                self.wake_sender(socket);
            }
            Op::PollWritable { .. } => {
                self.wait_or(id, socket, |end| end.writables.push(id));
                self.wake_sender(socket);
            }
            _ => {
                self.wait_or(id, socket, |end| end.closeds.push(id));
                self.wake_closed(socket);
            }
        }
    }

    fn wait_or(&mut self, id: u64, socket: SockId, wait: impl FnOnce(&mut super::End)) {
        match self.net.end(socket) {
            Some(end) => wait(end),
            None => self.end_op(id, Err(libc::ENOTCONN)),
        }
    }

    /// Cancels an operation that waits.
    pub(in super::super) fn cancel_socket_op(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let moved = flight.moved;
        if matches!(flight.op, Op::Connect { .. }) {
            let end = SockId::from_raw(moved as i64);
            self.counters.cancelled += 1;
            self.send_fin(end);
            self.close(end);
            return self.end_op(id, Err(libc::ECANCELED));
        }
        let Some(socket) = socket_of(&flight.op) else {
            return;
        };
        if let Some(listener) = self.net.listener(socket) {
            listener.acceptors.retain(|known| *known != id);
        } else if let Some(end) = self.net.end(socket) {
            end.recvs.retain(|known| *known != id);
            end.sends.retain(|known| *known != id);
            end.writables.retain(|known| *known != id);
            end.closeds.retain(|known| *known != id);
        }
        self.counters.cancelled += 1;
        // What has moved has moved.
        let result = if moved > 0 {
            Ok(Output::Len(moved))
        } else {
            Err(libc::ECANCELED)
        };
        self.end_op(id, result);
    }

    fn shutdown(&mut self, id: SockId) -> Result<Output, Errno> {
        let end = self.net.end(id).ok_or(libc::ENOTCONN)?;
        if end.is_dead || end.peer.is_none() {
            return Err(libc::ENOTCONN);
        }
        end.is_shut = true;
        self.send_fin(id);
        self.wake_all(id);
        Ok(Output::Unit)
    }

    pub(super) fn wake_all(&mut self, id: SockId) {
        self.wake_reader(id);
        self.wake_sender(id);
    }

    /// Bytes or an end have come, or a receive.
    pub(super) fn wake_reader(&mut self, id: SockId) {
        while let Some(op) = self.net.end(id).and_then(|end| end.recvs.front().copied()) {
            match self.try_recv(id, op) {
                Try::Waits => break,
                Try::Ended(result) => {
                    if let Some(end) = self.net.end(id) {
                        end.recvs.pop_front();
                    }
                    self.end_op(op, result);
                }
            }
        }
        self.wake_closed(id);
    }

    fn wake_closed(&mut self, id: SockId) {
        let Some(end) = self.net.end(id) else {
            return;
        };
        if end.closeds.is_empty() || !(end.got_fin || end.is_dead || end.is_shut) {
            return;
        }
        for op in std::mem::take(&mut end.closeds) {
            self.end_op(op, Ok(Output::Unit));
        }
    }

    fn try_recv(&mut self, id: SockId, op: u64) -> Try {
        let (Some(end), Some(flight)) = (self.net.end(id), self.flights.get_mut(op)) else {
            return Try::Ended(Err(libc::EBADF));
        };
        let Op::Recv {
            buf, at, len, all, ..
        } = &mut flight.op
        else {
            return Try::Ended(Err(libc::EINVAL));
        };
        let out = &mut buf.as_mut_slice()[*at..*at + *len];
        let before = flight.moved;
        while flight.moved < out.len()
            && let Some(bytes) = end.arrived.front_mut()
        {
            let n = bytes.len().min(out.len() - flight.moved);
            out[flight.moved..flight.moved + n].copy_from_slice(&bytes[..n]);
            flight.moved += n;
            if n == bytes.len() {
                end.arrived.pop_front();
            } else {
                drop(bytes.split_to(n));
            }
        }
        let moved = flight.moved;
        let is_over = end.got_fin || end.is_dead || end.is_shut;
        let result = if moved > 0 && (!*all || moved == out.len()) {
            Try::Ended(Ok(Output::Len(moved)))
        } else if is_over && moved == 0 && end.error.is_some() {
            Try::Ended(Err(end.error.take().unwrap_or(libc::ECONNRESET)))
        } else if is_over {
            Try::Ended(Ok(Output::Len(moved)))
        } else {
            Try::Waits
        };
        if moved > before {
            self.took(id, moved - before);
        }
        result
    }

    /// An end has read: its peer may send more.
    fn took(&mut self, id: SockId, bytes: usize) {
        let Some(end) = self.net.end(id) else {
            return;
        };
        end.held -= bytes.min(end.held);
        let Some(peer) = end.peer else {
            return;
        };
        if let Some(end) = self.net.end(peer)
            && !(end.sends.is_empty() && end.writables.is_empty())
            && !std::mem::replace(&mut end.room_is_announced, true)
        {
            let delay = self.wire_delay();
            self.after(delay, NetEvent::Room(peer));
        }
    }

    fn room(&mut self, id: SockId) {
        if let Some(end) = self.net.end(id) {
            end.room_is_announced = false;
            self.wake_sender(id);
        }
    }

    /// Room or an end have come, or a send.
    pub(super) fn wake_sender(&mut self, id: SockId) {
        while let Some(op) = self.net.end(id).and_then(|end| end.sends.front().copied()) {
            match self.try_send(id, op) {
                Try::Waits => break,
                Try::Ended(result) => {
                    if let Some(end) = self.net.end(id) {
                        end.sends.pop_front();
                    }
                    self.end_op(op, result);
                }
            }
        }
        let Some(end) = self.net.end(id) else {
            return;
        };
        let is_over = end.is_dead || end.is_shut;
        let Some(peer) = end.peer.filter(|_| !end.writables.is_empty()) else {
            return;
        };
        if !is_over && !self.net.end(peer).is_none_or(|end| end.is_writable()) {
            return;
        }
        if let Some(end) = self.net.end(id) {
            for op in std::mem::take(&mut end.writables) {
                self.end_op(op, Ok(Output::Unit));
            }
        }
    }

    /// Why nothing can be sent any more.
    fn send_error(&mut self, id: SockId) -> Option<Errno> {
        let end = self.net.end(id)?;
        if let Some(errno) = end.error.take() {
            return Some(errno);
        }
        (end.is_dead || end.is_shut).then_some(libc::EPIPE)
    }

    fn room_of_peer(&mut self, id: SockId) -> usize {
        let peer = self.net.peer_of(id);
        peer.and_then(|peer| self.net.end(peer))
            .map_or(0, |end| end.room())
    }

    fn try_send(&mut self, id: SockId, op: u64) -> Try {
        let room = self.room_of_peer(id);
        let is_over = self
            .net
            .end(id)
            .is_none_or(|end| end.is_dead || end.is_shut);
        let Some(flight) = self.flights.get_mut(op) else {
            return Try::Ended(Err(libc::EBADF));
        };
        let moved = flight.moved;
        if is_over && moved > 0 {
            return Try::Ended(Ok(Output::Len(moved)));
        }
        if is_over {
            let errno = self.send_error(id).unwrap_or(libc::EPIPE);
            return Try::Ended(Err(errno));
        }
        let Op::Send {
            bufs, more, now, ..
        } = &flight.op
        else {
            return Try::Ended(Err(libc::EINVAL));
        };
        let (more, now) = (*more, *now);
        let total: usize = bufs.iter().map(Bytes::len).sum();
        let n = room.min(total - moved);
        let mut taken = part_of(bufs, moved, n);
        if n > 0 {
            if let Some(flight) = self.flights.get_mut(op) {
                flight.moved += n;
            }
            self.transmit(id, &mut taken, more && moved + n == total);
        }
        if moved + n == total {
            return Try::Ended(Ok(Output::Len(total)));
        }
        self.net.counters.pushed_back += 1;
        match (now, moved + n) {
            (true, 0) => Try::Ended(Err(libc::EAGAIN)),
            (true, moved) => Try::Ended(Ok(Output::Len(moved))),
            (false, _) => Try::Waits,
        }
    }

    /// sendfile(2).
    pub(in super::super) fn send_file(
        &mut self,
        socket: &SocketHandle,
        file: i64,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let errno = io::Error::from_raw_os_error;
        let id = id_of(socket);
        if self.net.is_closed(id) || self.net.end(id).is_none() {
            return Err(errno(libc::EBADF));
        }
        let ino = self.handle(file).ok_or_else(|| errno(libc::EBADF))?.ino;
        if self
            .net
            .end(id)
            .is_some_and(|end| end.is_dead || end.is_shut)
        {
            let why = self.send_error(id).unwrap_or(libc::EPIPE);
            return Err(errno(why));
        }
        let room = self.room_of_peer(id);
        if room == 0 {
            self.net.counters.pushed_back += 1;
            return Err(errno(libc::EAGAIN));
        }
        let (bytes, is_cached) = self
            .cached_bytes(ino, offset, len.min(room))
            .map_err(errno)?;
        self.net.counters.sendfiles += 1;
        self.net.counters.sendfiles_uncached += u64::from(!is_cached);
        let sent = bytes.len();
        if sent > 0 {
            self.trace.add_bytes(&bytes);
            self.transmit(id, &mut vec![bytes.into()], false);
        }
        Ok(sent)
    }
}

/// `len` bytes of `bufs`, from byte `from` on.
fn part_of(bufs: &[Bytes], mut from: usize, mut len: usize) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(if len == 0 { 0 } else { bufs.len() });
    for buf in bufs {
        if len == 0 {
            break;
        }
        if from >= buf.len() {
            from -= buf.len();
            continue;
        }
        let n = len.min(buf.len() - from);
        out.push(buf.slice(from..from + n));
        (from, len) = (0, len - n);
    }
    out
}

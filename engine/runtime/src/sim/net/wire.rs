//! Bytes under way: when they arrive, in which pieces, and what becomes of them.

use bytes::Bytes;

use super::super::net_config::Loss;
use super::super::state::State;
use super::{Cargo, NetEvent, Piece, SockId};

/// Most bytes that travel as one.
const PIECE_BYTES_MAX: usize = 128 << 10;
/// How long bytes are held back that more should follow (MSG_MORE).
const CORK_NS: u64 = 200_000_000;

/// What befalls a send.
enum Fate {
    Whole,
    Split,
    Slow,
    Lost(Loss),
    Cut,
}

impl State {
    fn draw_fate(&mut self) -> Fate {
        let plan = self.config.net.faults;
        let mut dice = self.net.rng.below(1_000_000) as u32;
        let fates = [
            (plan.split_ppm, Fate::Split),
            (plan.slow_ppm, Fate::Slow),
            (plan.reset_ppm, Fate::Lost(Loss::Reset)),
            (plan.silence_ppm, Fate::Lost(Loss::Silence)),
            (plan.cut_ppm, Fate::Cut),
        ];
        for (ppm, fate) in fates {
            if dice < ppm {
                return fate;
            }
            dice -= ppm;
        }
        Fate::Whole
    }

    /// The peer's buffer takes these bytes, for which it has room, and they go their way.
    pub(super) fn transmit(&mut self, from: SockId, bufs: &mut Vec<Bytes>, more: bool) {
        let len: usize = bufs.iter().map(Bytes::len).sum();
        let Some(end) = self.net.end(from) else {
            return;
        };
        let is_lost = end.is_lost;
        let Some(to) = end.peer.filter(|_| len > 0 && !is_lost) else {
            bufs.clear();
            // Nobody takes them: they stay in the buffer.
            if let Some(peer) = end.peer
                && let Some(peer) = self.net.end(peer)
            {
                peer.held += len;
            }
            return;
        };
        if more && len < PIECE_BYTES_MAX {
            let is_first = end.corked.is_empty();
            end.corked.append(bufs);
            let turn = end.cork_turn;
            if let Some(peer) = self.net.end(to) {
                peer.held += len;
            }
            if is_first {
                self.after(CORK_NS, NetEvent::Uncork(from, turn));
            }
            return;
        }
        if !end.corked.is_empty() {
            let mut all = std::mem::take(&mut end.corked);
            end.cork_turn = end.cork_turn.wrapping_add(1);
            let before: usize = all.iter().map(Bytes::len).sum();
            all.append(bufs);
            if let Some(peer) = self.net.end(to) {
                peer.held -= before.min(peer.held);
            }
            *bufs = all;
        }
        self.launch(from, to, bufs);
    }

    /// Sends what was held back.
    pub(super) fn uncork(&mut self, id: SockId) {
        let Some(end) = self.net.end(id) else {
            return;
        };
        if end.corked.is_empty() {
            return;
        }
        let mut bufs = std::mem::take(&mut end.corked);
        end.cork_turn = end.cork_turn.wrapping_add(1);
        let Some(to) = end.peer.filter(|_| !end.is_lost) else {
            return;
        };
        let held: usize = bufs.iter().map(Bytes::len).sum();
        if let Some(peer) = self.net.end(to) {
            peer.held -= held.min(peer.held);
        }
        self.launch(id, to, &mut bufs);
    }

    pub(super) fn uncork_turn(&mut self, id: SockId, turn: u32) {
        if self.net.end(id).is_some_and(|end| end.cork_turn == turn) {
            self.uncork(id);
        }
    }

    fn launch(&mut self, from: SockId, to: SockId, bufs: &mut Vec<Bytes>) {
        let len: usize = bufs.iter().map(Bytes::len).sum();
        let fate = self.draw_fate();
        let (mut piece_max, mut until) = (PIECE_BYTES_MAX, len);
        let trickle = self.net.end(to).map_or(0, |end| end.trickle);
        if trickle > 0 {
            piece_max = trickle;
        }
        let mut extra_ns = 0;
        match &fate {
            Fate::Whole => {}
            Fate::Split => {
                self.net.counters.splits += 1;
                piece_max = piece_max.min(1 + self.net.rng.below(len as u64) as usize);
            }
            Fate::Slow => {
                self.net.counters.slow += 1;
                extra_ns = self.net.delay(self.config.net.slow_ns);
            }
            Fate::Lost(_) => {
                until = self.net.rng.below(len as u64 + 1) as usize;
                self.net.counters.half_sent += u64::from(until > 0 && until < len);
            }
            Fate::Cut => self.cut_link_of(from, to),
        }
        let mut at_ns = self.now_ns + extra_ns;
        let (mut sent, mut piece_left) = (0, 0);
        for mut buf in bufs.drain(..) {
            while !buf.is_empty() && sent < until {
                if piece_left == 0 {
                    piece_left = piece_max;
                    at_ns += self.wire_delay();
                    if matches!(fate, Fate::Split) {
                        piece_max = 1 + self.net.rng.below((len - sent) as u64) as usize;
                    }
                }
                let n = buf.len().min(piece_left).min(until - sent);
                let bytes = buf.split_to(n);
                (sent, piece_left) = (sent + n, piece_left - n);
                if let Some(end) = self.net.end(to) {
                    end.held += n;
                }
                self.put_on_wire(to, at_ns, Cargo::Bytes(bytes));
            }
        }
        if let Fate::Lost(loss) = fate {
            self.lose_connection(from, loss);
        }
    }

    fn cut_link_of(&mut self, from: SockId, to: SockId) {
        let (Some(one), Some(two)) = (self.net.process_of(from), self.net.process_of(to)) else {
            return;
        };
        let until_ns = self.now_ns + self.net.delay(self.config.net.cut_ns);
        self.cut_link(one, two, until_ns);
        self.cut_link(two, one, until_ns);
        self.net.counters.cuts += 1;
    }

    pub(in super::super) fn cut_link(&mut self, from: u32, to: u32, until_ns: u64) {
        self.net.cut(from, to, until_ns, self.now_ns);
        self.trace
            .add(u64::from(from) << 32 ^ u64::from(to) ^ until_ns);
        self.trace.tell(self.now_ns, || {
            format!("link {from} -> {to} is cut until {until_ns} ns")
        });
    }

    /// Puts something behind what is on its way to an end.
    pub(super) fn put_on_wire(&mut self, to: SockId, at_ns: u64, cargo: Cargo) {
        let sent_ns = self.now_ns;
        let Some(end) = self.net.end(to) else {
            return;
        };
        let last_ns = end.wire.back().map_or(0, |piece| piece.at_ns);
        let at_ns = at_ns.max(last_ns);
        let is_armed = std::mem::replace(&mut end.is_armed, true);
        end.wire.push_back(Piece {
            sent_ns,
            at_ns,
            cargo,
        });
        if !is_armed {
            self.after(at_ns - sent_ns, NetEvent::Arrive(to));
        }
    }

    fn arm(&mut self, to: SockId, delay_ns: u64) {
        if let Some(end) = self.net.end(to) {
            end.is_armed = true;
        }
        self.after(delay_ns, NetEvent::Arrive(to));
    }

    /// What is due reaches its end.
    pub(super) fn arrive(&mut self, to: SockId) {
        let now_ns = self.now_ns;
        let Some(process) = self.net.process_of(to) else {
            return;
        };
        let Some(end) = self.net.end(to) else {
            return;
        };
        end.is_armed = false;
        let Some(first) = end.wire.front() else {
            return;
        };
        if first.at_ns > now_ns {
            // The wire was cleared and filled again meanwhile.
            let delay = first.at_ns - now_ns;
            return self.arm(to, delay);
        }
        let (sent_ns, peer) = (first.sent_ns, end.peer);
        let from = peer.and_then(|peer| self.net.process_of(peer));
        if let Some(until_ns) = from.and_then(|from| self.net.cut_until(from, process, now_ns)) {
            return self.hold_back(to, sent_ns, until_ns);
        }
        let mut bytes = 0;
        while let Some(end) = self.net.end(to)
            && let Some(piece) = end.wire.front()
        {
            if piece.at_ns > now_ns {
                let delay = piece.at_ns - now_ns;
                self.arm(to, delay);
                break;
            }
            let Some(piece) = end.wire.pop_front() else {
                break;
            };
            bytes += self.deliver(to, piece.cargo);
        }
        self.net.counters.deliveries += 1;
        self.net.counters.bytes += bytes as u64;
        self.trace.add(u64::from(to.place) << 32 ^ bytes as u64);
        self.trace.add(now_ns);
        self.trace
            .tell(now_ns, || format!("socket {} gets {bytes} bytes", to.place));
        self.wake_reader(to);
    }

    /// The link is cut: what was sent is sent again and again, until it arrives or is given up.
    fn hold_back(&mut self, to: SockId, sent_ns: u64, until_ns: u64) {
        self.net.counters.held_by_cuts += 1;
        let give_up_ns = sent_ns.saturating_add(self.config.net.give_up_ns);
        if until_ns > give_up_ns
            && let Some(peer) = self.net.peer_of(to)
        {
            if let Some(end) = self.net.end(to) {
                end.is_lost = true;
                end.held = end.arrived.iter().map(Bytes::len).sum();
                end.wire.clear();
            }
            let wait_ns = give_up_ns.saturating_sub(self.now_ns);
            self.after(wait_ns, NetEvent::Fail(peer, libc::ETIMEDOUT));
            let silence = self.net.delay(self.config.net.silence_ns);
            self.after(wait_ns + silence, NetEvent::Fail(to, libc::ETIMEDOUT));
            if let Some(end) = self.net.end(peer) {
                end.is_lost = true;
            }
            return;
        }
        let wait_ns = until_ns - self.now_ns + self.wire_delay();
        let again_ns = self.now_ns + wait_ns;
        if let Some(end) = self.net.end(to) {
            for piece in &mut end.wire {
                piece.at_ns = piece.at_ns.max(again_ns);
            }
        }
        self.arm(to, wait_ns);
    }

    /// Returns the bytes that arrived.
    fn deliver(&mut self, to: SockId, cargo: Cargo) -> usize {
        let is_closed = self.net.is_closed(to);
        let Some(end) = self.net.end(to) else {
            return 0;
        };
        match cargo {
            Cargo::Bytes(bytes) if is_closed || end.is_shut => {
                end.held -= bytes.len().min(end.held);
                if !end.is_dead {
                    self.net.counters.sent_to_closed += 1;
                    // Nobody is there: the answer is a reset.
                    self.send_rst(to);
                }
                0
            }
            Cargo::Bytes(bytes) => {
                let len = bytes.len();
                end.arrived.push_back(bytes);
                len
            }
            Cargo::Fin => {
                end.got_fin = true;
                0
            }
            Cargo::Rst => {
                self.fail(to, libc::ECONNRESET);
                0
            }
        }
    }
}

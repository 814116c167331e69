//! The driver over one io_uring: network and disk of a shard on one ring.
//!
//! Every operation lives in a slot that owns its buffers, vectors and descriptor until the last
//! completion. Doorbells are writes to an eventfd on which the ring keeps a read armed.

mod helpers;
mod prepare;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, Probe, opcode, types};

use crate::buf::BLOCK_BYTES;
use crate::driver::{
    Advice, Cached, Completion, Descriptor, Doorbell, Driver, DriverCounters, FileHandle, Op,
    SocketHandle, Token,
};
use helpers::{FileCloser, Returns, SocketCloser, check};
use prepare::{Abilities, Aux, Closers, Prepared};

/// Marks of completions that belong to no slot.
const DOORBELL_MARK: u64 = u64::MAX;
const CANCEL_MARK: u64 = u64::MAX - 1;
/// A doorbell that another ring rang by posting here.
const RUNG_MARK: u64 = u64::MAX - 2;
/// High half of the marks of doorbells rung at other rings; the low half is the peer's index.
const PEER_MARK: u32 = u32::MAX - 1;
/// Generations stay below, so that no token equals a mark.
const GENERATION_MAX: u32 = u32::MAX - 16;
/// IORING_ENTER_GETEVENTS.
const ENTER_GETEVENTS: u32 = 1;
/// Distance of the bytes probed by [`Driver::is_cached`].
const CACHE_PROBE_STEP_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Ring,
    Helper,
    Ended,
}

struct Slot {
    generation: u32,
    place: Place,
    op: Option<Op>,
    aux: Option<Box<Aux>>,
}

struct EventDoorbell {
    event: OwnedFd,
    /// The ring, for other rings to post to. A duplicate: the number stays ours while this lives.
    ring: OwnedFd,
}

impl Doorbell for EventDoorbell {
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. The write fails only at a full counter, and then the
        // doorbell has rung already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn uring_fd(&self) -> Option<i32> {
        Some(self.ring.as_raw_fd())
    }
}

/// One io_uring. Made, used and dropped on the shard's thread.
pub struct UringDriver {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Entries that found the submission queue full, in order.
    backlog: VecDeque<Entry>,
    /// Completions that need no ring.
    ready: Vec<Completion>,
    in_ring: usize,
    doorbell: Arc<EventDoorbell>,
    /// Where the armed read puts the eventfd's counter.
    doorbell_count: Box<u64>,
    doorbell_armed: bool,
    returns: Arc<Returns>,
    in_helpers: usize,
    closers: Closers,
    abilities: Abilities,
    /// Doorbells rung through their rings so far; one per shard at most.
    peers: Vec<Arc<dyn Doorbell>>,
    counters: DriverCounters,
    chance: [u64; 32],
    chance_left: usize,
}

impl UringDriver {
    /// Makes a ring with `entries` submission slots (completions: four times as many).
    pub fn new(entries: u32) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(entries.saturating_mul(4))
            .build(entries)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        // SAFETY: no memory is passed. Not EFD_NONBLOCK: the ring would not wait on it.
        let raw = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: just made, and owned by nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the ring keeps its descriptor open while it is borrowed here.
        let borrowed = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let doorbell = Arc::new(EventDoorbell {
            event,
            ring: borrowed.try_clone_to_owned()?,
        });
        let returns = Returns {
            queue: SegQueue::new(),
            doorbell: doorbell.clone(),
        };
        Ok(Self {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            in_ring: 0,
            doorbell,
            doorbell_count: Box::new(0),
            doorbell_armed: false,
            returns: Arc::new(returns),
            in_helpers: 0,
            closers: Closers {
                files: Arc::new(FileCloser),
                sockets: Arc::new(SocketCloser),
            },
            abilities: Abilities {
                ftruncate: probe.is_supported(opcode::Ftruncate::CODE),
                msg_ring: probe.is_supported(opcode::MsgRingData::CODE),
            },
            peers: Vec::new(),
            counters: DriverCounters::default(),
            chance: [0; 32],
            chance_left: 0,
        })
    }

    /// What newer kernels can do, by name, and whether this one can.
    pub(crate) fn abilities(&self) -> [(&'static str, bool); 2] {
        [
            ("ftruncate", self.abilities.ftruncate),
            ("msg_ring", self.abilities.msg_ring),
        ]
    }

    fn take_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                place: Place::Free,
                op: None,
                aux: None,
            });
            (self.slots.len() - 1) as u32
        })
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.place = Place::Free;
        slot.generation = if slot.generation >= GENERATION_MAX {
            0
        } else {
            slot.generation + 1
        };
        self.free.push(index);
    }

    /// Puts an entry into the submission queue, or behind those that wait for room.
    fn push(&mut self, entry: Entry) {
        if self.backlog.is_empty() {
            // SAFETY: what the entry points to lives in its slot until the last completion.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn arm_doorbell(&mut self) {
        if self.doorbell_armed {
            return;
        }
        self.doorbell_armed = true;
        let fd = types::Fd(self.doorbell.event.as_raw_fd());
        let to: *mut u64 = &mut *self.doorbell_count;
        let read = opcode::Read::new(fd, to.cast(), 8)
            .build()
            .user_data(DOORBELL_MARK);
        self.push(read);
    }

    /// Moves waiting entries into the submission queue, entering the kernel to make room.
    fn push_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let mut queue = self.ring.submission();
            while !queue.is_full()
                && let Some(entry) = self.backlog.pop_front()
            {
                // SAFETY: as in `push`.
                let pushed = unsafe { queue.push(&entry) };
                debug_assert!(pushed.is_ok(), "there was room");
            }
            drop(queue);
            if !self.backlog.is_empty() && !self.enter() {
                return;
            }
        }
    }

    /// Submits and runs deferred work without waiting. False: the kernel wants completions
    /// reaped first.
    fn enter(&mut self) -> bool {
        let queued = self.ring.submission().len() as u32;
        self.counters.enters += 1;
        // SAFETY: no argument structure is passed.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None)
        };
        self.entered(entered)
    }

    /// Submits and waits for one completion or `wait`.
    fn enter_and_wait(&mut self, wait: Option<Duration>) {
        self.counters.enters += 1;
        let entered = match wait {
            Some(wait) => {
                let time = types::Timespec::from(wait);
                let args = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
            None => self.ring.submitter().submit_and_wait(1),
        };
        self.entered(entered);
    }

    fn entered(&self, result: io::Result<usize>) -> bool {
        let Err(error) = result else {
            return true;
        };
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => true,
            Some(libc::EBUSY | libc::EAGAIN) => false,
            _ => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Hands out what has completed; true when the doorbell rang.
    fn reap(&mut self, completions: &mut Vec<Completion>) -> bool {
        let mut rang = false;
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return rang;
            };
            match entry.user_data() {
                DOORBELL_MARK => {
                    self.doorbell_armed = false;
                    rang = true;
                }
                RUNG_MARK => rang = true,
                CANCEL_MARK => {}
                mark if (mark >> 32) as u32 == PEER_MARK => self.peer_not_rung(mark as u32),
                token => self.complete(token, entry.result(), completions),
            }
        }
    }

    /// Only failures of posts to other rings come here (IOSQE_CQE_SKIP_SUCCESS).
    fn peer_not_rung(&mut self, index: u32) {
        // Old kernels refuse posts to rings of our kind: from now on only the eventfd is used.
        self.abilities.msg_ring = false;
        if let Some(peer) = self.peers.get(index as usize) {
            peer.ring();
        }
    }

    fn complete(&mut self, token: u64, result: i32, completions: &mut Vec<Completion>) {
        let index = token as u32;
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(u64::from(slot.generation), token >> 32);
        let Some(op) = slot.op.take() else {
            return;
        };
        let result = prepare::finish(&op, &mut slot.aux, &self.closers, result);
        self.in_ring -= 1;
        self.free_slot(index);
        completions.push(Completion {
            token: Token(token),
            op,
            result,
        });
    }

    fn take_returns(&mut self, completions: &mut Vec<Completion>) {
        while self.in_helpers > 0
            && let Some(completion) = self.returns.queue.pop()
        {
            self.in_helpers -= 1;
            self.free_slot(completion.token.0 as u32);
            completions.push(completion);
        }
        while let Some(completion) = self.ready.pop() {
            self.free_slot(completion.token.0 as u32);
            completions.push(completion);
        }
    }

    /// Operations whose work runs on the kernel's worker threads whatever happens.
    fn always_punted(op: &Op) -> bool {
        if let Op::Fadvise { advice, .. } = op {
            return matches!(advice, Advice::WillNeed | Advice::DontNeed);
        }
        !matches!(
            op,
            Op::ReadAt { .. }
                | Op::WriteAt { .. }
                | Op::Recv { .. }
                | Op::Send { .. }
                | Op::Accept { .. }
                | Op::Connect { .. }
                | Op::PollWritable { .. }
                | Op::PollClosed { .. }
                | Op::Open { .. }
        )
    }

    fn refill_chance(&mut self) {
        let bytes = size_of_val(&self.chance);
        // SAFETY: the array is writable; requests up to 256 bytes are never cut short.
        let got = unsafe { libc::getrandom(self.chance.as_mut_ptr().cast(), bytes, 0) };
        assert_eq!(
            usize::try_from(got),
            Ok(bytes),
            "the kernel gives chance after boot"
        );
        self.chance_left = self.chance.len();
    }
}

/// Takes over a socket made elsewhere.
pub(crate) fn adopt_socket(socket: OwnedFd) -> SocketHandle {
    let raw = i64::from(socket.into_raw_fd());
    SocketHandle(Arc::new(Descriptor {
        raw,
        closer: Arc::new(SocketCloser),
    }))
}

/// Lends the descriptor of a socket of this driver.
pub(crate) fn with_fd<T>(
    socket: &SocketHandle,
    look: impl FnOnce(&BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let raw = raw_fd(socket.0.raw)?;
    if raw < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the handle keeps the descriptor open while it is borrowed here.
    look(&unsafe { BorrowedFd::borrow_raw(raw) })
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn raw_fd(raw: i64) -> io::Result<RawFd> {
    RawFd::try_from(raw).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

impl Driver for UringDriver {
    fn submit(&mut self, op: Op) -> Token {
        self.counters.submitted += 1;
        let index = self.take_slot();
        let slot = &mut self.slots[index as usize];
        let token = Token(u64::from(slot.generation) << 32 | u64::from(index));
        // The operation moves into its slot before the kernel's pointers are taken.
        let op = slot.op.insert(op);
        match prepare::prepare(op, &mut slot.aux, &self.abilities) {
            Prepared::Ring(entry) => {
                self.counters.io_wq_punts += u64::from(Self::always_punted(op));
                slot.place = Place::Ring;
                self.in_ring += 1;
                self.push(entry.user_data(token.0));
            }
            Prepared::Helper => {
                slot.place = Place::Helper;
                self.in_helpers += 1;
                if let Some(op) = slot.op.take() {
                    helpers::hand_over(token, op, &self.returns);
                }
            }
            Prepared::Ended(result) => {
                // The slot is freed when the completion is handed out.
                slot.place = Place::Ended;
                if let Some(op) = slot.op.take() {
                    self.ready.push(Completion { token, op, result });
                }
            }
        }
        token
    }

    fn cancel(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token.0 as u32 as usize) else {
            return;
        };
        // Helpers finish what they began.
        if slot.place == Place::Ring && u64::from(slot.generation) == token.0 >> 32 {
            let cancel = opcode::AsyncCancel::new(token.0)
                .build()
                .user_data(CANCEL_MARK);
            self.push(cancel);
        }
    }

    fn turn(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> bool {
        self.arm_doorbell();
        self.push_backlog();
        self.take_returns(completions);
        let mut rang = false;
        let overflown = self.ring.submission().cq_overflow();
        self.counters.cq_overflows += u64::from(overflown);
        let waits = wait != Some(Duration::ZERO)
            && completions.is_empty()
            && self.ring.completion().is_empty();
        if waits {
            self.enter_and_wait(wait);
        } else {
            let queue = self.ring.submission();
            if !queue.is_empty() || queue.taskrun() || overflown {
                drop(queue);
                self.enter();
            }
        }
        rang |= self.reap(completions);
        self.take_returns(completions);
        rang
    }

    fn now_ns(&self) -> u64 {
        clock_ns(libc::CLOCK_MONOTONIC)
    }

    fn wall_clock_ms(&self) -> i64 {
        (clock_ns(libc::CLOCK_REALTIME) / 1_000_000) as i64
    }

    fn random_u64(&mut self) -> u64 {
        if self.chance_left == 0 {
            self.refill_chance();
        }
        self.chance_left -= 1;
        self.chance[self.chance_left]
    }

    fn send_file(
        &mut self,
        socket: &SocketHandle,
        file: &FileHandle,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let (to, from) = (raw_fd(socket.0.raw)?, raw_fd(file.0.raw)?);
        let mut offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.counters.sendfile_calls += 1;
        // Sockets of the ring are blocking (the ring would not wait on others), so that the mode
        // is switched for this call alone. Operations in flight keep the mode they began with.
        set_nonblocking(to, true)?;
        // SAFETY: both descriptors are held open by their handles; `offset` is writable.
        let sent = unsafe { libc::sendfile(to, from, &mut offset, len) };
        let error = io::Error::last_os_error();
        set_nonblocking(to, false)?;
        match usize::try_from(sent) {
            Ok(sent) => {
                self.counters.sendfile_bytes += sent as u64;
                Ok(sent)
            }
            Err(_) => Err(error),
        }
    }

    fn is_cached(&mut self, file: &FileHandle, offset: u64, len: usize) -> io::Result<Cached> {
        let fd = raw_fd(file.0.raw)?;
        let Some(last) = len
            .checked_sub(1)
            .and_then(|len| offset.checked_add(len as u64))
        else {
            return Ok(Cached::All);
        };
        let mut at = offset;
        loop {
            if !byte_is_cached(fd, at)? {
                return Ok(Cached::MissingAt(at - at % BLOCK_BYTES as u64));
            }
            if at == last {
                return Ok(Cached::All);
            }
            at = last.min(at.saturating_add(CACHE_PROBE_STEP_BYTES));
        }
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        self.doorbell.clone()
    }

    fn ring_peer(&mut self, peer: &Arc<dyn Doorbell>) {
        let Some(fd) = peer.uring_fd().filter(|_| self.abilities.msg_ring) else {
            return peer.ring();
        };
        let known = self.peers.iter().position(|known| Arc::ptr_eq(known, peer));
        let index = known.unwrap_or_else(|| {
            self.peers.push(peer.clone());
            self.peers.len() - 1
        });
        let mark = u64::from(PEER_MARK) << 32 | index as u64;
        let post = opcode::MsgRingData::new(types::Fd(fd), 0, RUNG_MARK, None).build();
        self.push(post.flags(Flags::SKIP_SUCCESS).user_data(mark));
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

fn set_nonblocking(fd: RawFd, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads an int through the pointer.
    check(unsafe { libc::ioctl(fd, libc::FIONBIO, &on) }).map(|_| ())
}

fn byte_is_cached(fd: RawFd, at: u64) -> io::Result<bool> {
    let at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut byte = 0u8;
    let to: *mut u8 = &mut byte;
    let vector = libc::iovec {
        iov_base: to.cast(),
        iov_len: 1,
    };
    // SAFETY: one vector of one writable byte.
    let read = unsafe { libc::preadv2(fd, &vector, 1, at, libc::RWF_NOWAIT) };
    match read {
        1 => Ok(true),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        },
    }
}

impl Drop for UringDriver {
    /// Cancels and awaits everything in the ring: only then may its memory go.
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            self.cancel(Token(u64::from(slot.generation) << 32 | index as u64));
        }
        if self.doorbell_armed {
            self.doorbell.ring();
        }
        let mut completions = Vec::new();
        while self.in_ring > 0 || self.doorbell_armed {
            self.push_backlog();
            self.enter_and_wait(Some(Duration::from_millis(100)));
            self.reap(&mut completions);
            completions.clear();
        }
    }
}

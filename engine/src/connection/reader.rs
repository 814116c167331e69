//! Requests as they come off a socket: size and limits first, memory second, body last.

use std::fmt;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use corelog_net::frame::{FrameError, FrameLimits, FramePrefix, PREFIX_BYTES, SIZE_BYTES};
use corelog_runtime::Instant;
use corelog_runtime::Rt;
use corelog_runtime::buf::AlignedBuf;
use corelog_runtime::driver::SocketHandle;

use crate::request_memory::{ConnectionMemory, Held, Progress, RequestMemory};

/// Bytes received ahead of the frame being read. A frame that fits is copied out of here; a larger
/// one gets memory of its own, into which the socket is read directly.
const BUFFER_BYTES: usize = 16 << 10;
/// How often a client is judged that stands still inside a frame.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a large frame that are received at once.
const BODY_STEP_BYTES: usize = 1 << 20;
/// Room that a body gets at first, however large it says it is, and how it grows.
const BODY_FIRST_BYTES: usize = 4 << 20;
const BODY_GROWTH: usize = 4;
/// Bytes copied between two looks at the clock.
const COPY_STEP_BYTES: usize = 256 << 10;
/// What must be there to judge a frame.
const HEAD_BYTES: usize = SIZE_BYTES + PREFIX_BYTES;

/// Why no further frame comes.
#[derive(Debug)]
pub enum ReadFrameError {
    /// The peer closed between two frames.
    Closed,
    /// The peer closed, or the socket failed, inside a frame.
    Broken(io::Error),
    /// The frame is not acceptable.
    Refused(FrameError),
}

impl fmt::Display for ReadFrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the client"),
            Self::Broken(error) => write!(f, "broken inside a request: {error}"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

/// A request, with the memory it was given.
pub struct Frame {
    /// API, version, correlation id, size.
    pub prefix: FramePrefix,
    /// The frame without its size field.
    pub bytes: Bytes,
    /// Its share of the shard's request memory; given back on drop.
    pub permit: Held,
    /// Time from its head to its last byte, waiting for memory included.
    pub received_in: Duration,
}

/// Splits what a socket receives into frames.
pub struct FrameReader {
    rt: Rt,
    socket: SocketHandle,
    limits: FrameLimits,
    buf: Option<AlignedBuf>,
    start: usize,
    end: usize,
}

impl FrameReader {
    /// A reader of a socket on which nothing was received yet.
    pub fn new(rt: &Rt, socket: &SocketHandle, limits: FrameLimits) -> FrameReader {
        let buf = Some(rt.pool().get(BUFFER_BYTES));
        FrameReader {
            rt: rt.clone(),
            socket: socket.clone(),
            limits,
            buf,
            start: 0,
            end: 0,
        }
    }

    /// The head of the next frame, as soon as it is there; [`FrameReader::frame`] gives the frame.
    pub async fn head(&mut self) -> Result<FramePrefix, ReadFrameError> {
        while self.end - self.start < HEAD_BYTES {
            let fresh = self.start == self.end;
            if self.fill().await.map_err(ReadFrameError::Broken)? == 0 {
                return Err(if fresh {
                    ReadFrameError::Closed
                } else {
                    broken()
                });
            }
        }
        let head: &[u8; HEAD_BYTES] = self.received()[..HEAD_BYTES]
            .try_into()
            .expect("enough was received");
        FramePrefix::decode(head, &self.limits).map_err(ReadFrameError::Refused)
    }

    /// The frame that begins with `prefix`. Its memory is taken before its body is read; a frame
    /// that fits the buffer, which is there anyway, is received first, so that who stops inside it
    /// holds nothing.
    pub async fn frame(
        &mut self,
        prefix: FramePrefix,
        memory: &RequestMemory,
        own: &ConnectionMemory,
    ) -> Result<Frame, ReadFrameError> {
        let began = self.rt.now();
        let fits = SIZE_BYTES + prefix.size <= BUFFER_BYTES;
        if fits {
            self.receive_small(prefix.size).await?;
        }
        let permit = memory.acquire(own, prefix.size).await;
        let bytes = if fits {
            self.take_small(prefix.size)
        } else {
            self.large_body(prefix.size, memory).await?
        };
        Ok(Frame {
            prefix,
            bytes,
            permit,
            received_in: self.rt.now().saturating_duration_since(began),
        })
    }

    fn received(&self) -> &[u8] {
        &self
            .buf
            .as_ref()
            .expect("present between receives")
            .as_slice()[self.start..self.end]
    }

    /// Receives what is there into the free end of the buffer. 0 = closed by the peer.
    async fn fill(&mut self) -> io::Result<usize> {
        let mut buf = self.buf.take().expect("present between receives");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            buf.as_mut_slice().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = BUFFER_BYTES - self.end;
        let (result, mut buf) = self.rt.recv(&self.socket, buf, self.end, room, false).await;
        if let Ok(received) = result {
            self.end += received;
        }
        buf.set_len(self.end);
        self.buf = Some(buf);
        result
    }

    async fn receive_small(&mut self, size: usize) -> Result<(), ReadFrameError> {
        while self.end - self.start < SIZE_BYTES + size {
            // A client that stops here is idle, and closed as such.
            if self.fill().await.map_err(ReadFrameError::Broken)? == 0 {
                return Err(broken());
            }
        }
        Ok(())
    }

    fn take_small(&mut self, size: usize) -> Bytes {
        let frame = Bytes::copy_from_slice(&self.received()[SIZE_BYTES..SIZE_BYTES + size]);
        self.start += SIZE_BYTES + size;
        frame
    }

    async fn large_body(
        &mut self,
        size: usize,
        memory: &RequestMemory,
    ) -> Result<Bytes, ReadFrameError> {
        let began = self.rt.now();
        // Room for all of it comes with its bytes, not with its announcement.
        let mut room = size.min(BODY_FIRST_BYTES);
        let mut body = self.rt.pool().get(room);
        let there = (self.end - self.start - SIZE_BYTES).min(size);
        body.as_mut_slice()[..there]
            .copy_from_slice(&self.received()[SIZE_BYTES..SIZE_BYTES + there]);
        self.start += SIZE_BYTES + there;
        let mut filled = there;
        while filled < size {
            if filled == room {
                room = size.min(room * BODY_GROWTH);
                body = self.grown(body, filled, room).await;
            }
            let step = (room - filled).min(BODY_STEP_BYTES);
            let receive = self.rt.recv(&self.socket, body, filled, step, true);
            let contended = || memory.is_contended(size);
            // A receive that is given up loses what it got: the connection ends then.
            let received = patiently(&self.rt, began, filled, contended, receive).await;
            let (result, back) = received.ok_or_else(stalled)?;
            body = back;
            match result.map_err(ReadFrameError::Broken)? {
                0 => return Err(broken()),
                received => filled += received,
            }
        }
        body.set_len(size);
        Ok(body.freeze())
    }

    /// A larger buffer with the first `filled` bytes of this one.
    async fn grown(&self, mut body: AlignedBuf, filled: usize, room: usize) -> AlignedBuf {
        let mut larger = self.rt.pool().get(room);
        body.set_len(filled);
        for at in (0..filled).step_by(COPY_STEP_BYTES) {
            let end = filled.min(at + COPY_STEP_BYTES);
            larger.as_mut_slice()[at..end].copy_from_slice(&body.as_slice()[at..end]);
            self.rt.yield_if_needed().await;
        }
        larger
    }
}

/// The future's output, or `None` once the client is given up.
pub async fn patiently<T>(
    rt: &Rt,
    began: Instant,
    bytes: usize,
    contended: impl Fn() -> bool,
    step: impl Future<Output = T>,
) -> Option<T> {
    let mut step = pin!(step);
    let step_began = rt.now();
    loop {
        if let Some(done) = rt.timeout(LOOK_EVERY, &mut step).await {
            return Some(done);
        }
        let now = rt.now();
        let progress = Progress {
            elapsed: now.saturating_duration_since(began),
            still: now.saturating_duration_since(step_began),
            bytes,
        };
        if progress.is_hopeless(contended()) {
            return None;
        }
    }
}

fn broken() -> ReadFrameError {
    ReadFrameError::Broken(io::Error::from(io::ErrorKind::UnexpectedEof))
}

fn stalled() -> ReadFrameError {
    ReadFrameError::Broken(io::Error::from(io::ErrorKind::TimedOut))
}

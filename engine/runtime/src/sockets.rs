//! Sockets as tasks use them: thin over [`Rt::submit`].

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::buf::AlignedBuf;
use crate::driver::{Op, Output, SocketHandle};
use crate::files::{length, skip, unexpected, unit};
use crate::rt::Rt;

/// Buffers one send operation takes.
pub const SEND_BUFS_MAX: usize = 64;

fn socket(result: io::Result<Output>) -> io::Result<SocketHandle> {
    match result? {
        Output::Socket(socket) => Ok(socket),
        _ => Err(unexpected()),
    }
}

impl Rt {
    /// Takes the next connection.
    pub async fn accept(&self, listener: &SocketHandle) -> io::Result<SocketHandle> {
        socket(
            self.submit(Op::Accept {
                listener: listener.clone(),
            })
            .await
            .1,
        )
    }

    /// Connects to a peer.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<SocketHandle> {
        socket(self.submit(Op::Connect { addr }).await.1)
    }

    /// Receives at least one byte (`all`: exactly `len`, unless the peer closes) into
    /// `buf[at..at + len]`. 0 = the peer closed. The buffer's length becomes `at` plus the bytes
    /// received.
    pub async fn recv(
        &self,
        socket: &SocketHandle,
        buf: AlignedBuf,
        at: usize,
        len: usize,
        all: bool,
    ) -> (io::Result<usize>, AlignedBuf) {
        let op = Op::Recv {
            socket: socket.clone(),
            buf,
            at,
            len,
            all,
        };
        let (op, result) = self.submit(op).await;
        let Op::Recv { mut buf, .. } = op else {
            return (Err(unexpected()), self.pool().get(0));
        };
        let result = length(result);
        if let Ok(received) = result {
            buf.set_len(at + received);
        }
        (result, buf)
    }

    /// Sends all bytes of `bufs` in order; `more` says that more follows at once. One send at a
    /// time per socket.
    pub async fn send(
        &self,
        socket: &SocketHandle,
        mut bufs: Vec<Bytes>,
        more: bool,
    ) -> io::Result<()> {
        while !bufs.is_empty() {
            let later = if bufs.len() > SEND_BUFS_MAX {
                bufs.split_off(SEND_BUFS_MAX)
            } else {
                Vec::new()
            };
            bufs = self
                .send_some(socket, bufs, more || !later.is_empty())
                .await?;
            bufs.extend(later);
        }
        Ok(())
    }

    /// One send operation; gives back what was not taken.
    async fn send_some(
        &self,
        socket: &SocketHandle,
        bufs: Vec<Bytes>,
        more: bool,
    ) -> io::Result<Vec<Bytes>> {
        let wanted: usize = bufs.iter().map(Bytes::len).sum();
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let op = Op::Send {
            socket: socket.clone(),
            bufs,
            more,
        };
        let (op, result) = self.submit(op).await;
        let sent = length(result)?;
        match op {
            Op::Send { .. } if sent >= wanted => Ok(Vec::new()),
            Op::Send { .. } if sent == 0 => Err(io::ErrorKind::WriteZero.into()),
            Op::Send { bufs, .. } => Ok(skip(bufs, sent)),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the socket can take bytes.
    pub async fn poll_writable(&self, socket: &SocketHandle) -> io::Result<()> {
        unit(
            self.submit(Op::PollWritable {
                socket: socket.clone(),
            })
            .await
            .1,
        )
    }

    /// Ends the connection both ways; operations in flight on it complete.
    pub async fn shutdown(&self, socket: &SocketHandle) -> io::Result<()> {
        unit(
            self.submit(Op::Shutdown {
                socket: socket.clone(),
            })
            .await
            .1,
        )
    }
}

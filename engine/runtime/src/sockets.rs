//! Sockets as tasks use them: thin over [`Rt::submit`].

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::buf::AlignedBuf;
use crate::driver::{Op, Output, SocketHandle};
use crate::files::{length, skip, unexpected, unit};
use crate::rt::Rt;
use crate::uring;

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
            now: false,
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

    /// Sends as much of `bufs` (at most [`SEND_BUFS_MAX`] of them) as the socket takes at once, and
    /// gives back the rest: all of it when the socket is full. Nothing is held while a peer does
    /// not read.
    pub async fn send_now(
        &self,
        socket: &SocketHandle,
        bufs: Vec<Bytes>,
        more: bool,
    ) -> io::Result<Vec<Bytes>> {
        let op = Op::Send {
            socket: socket.clone(),
            bufs,
            more,
            now: true,
        };
        let (op, result) = self.submit(op).await;
        let Op::Send { bufs, .. } = op else {
            return Err(unexpected());
        };
        match length(result) {
            Ok(sent) => Ok(skip(bufs, sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(bufs),
            Err(error) => Err(error),
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

    /// Waits until the peer has closed its end, or the connection has ended otherwise. Takes no
    /// byte: what was received before may still be read. Beside a receive or send in flight.
    pub async fn poll_closed(&self, socket: &SocketHandle) -> io::Result<()> {
        unit(
            self.submit(Op::PollClosed {
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

/// Opens a listening socket for the kernel's driver (SO_REUSEADDR), and tells its address, which
/// matters for port 0.
pub fn listen(addr: SocketAddr, backlog: u32) -> io::Result<(SocketHandle, SocketAddr)> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // What the wildcard of IPv6 takes is then the same on every system.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(addr);
    Ok((uring::adopt_socket(socket.into()), bound))
}

/// Address of the peer of a connected socket.
pub fn peer_addr(socket: &SocketHandle) -> io::Result<SocketAddr> {
    if let Some((_, remote)) = socket.0.closer.addresses() {
        return remote.ok_or_else(|| io::ErrorKind::NotConnected.into());
    }
    uring::with_fd(socket, |fd| SockRef::from(fd).peer_addr())?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Address of this end of a socket.
pub fn local_addr(socket: &SocketHandle) -> io::Result<SocketAddr> {
    if let Some((local, _)) = socket.0.closer.addresses() {
        return Ok(local);
    }
    uring::with_fd(socket, |fd| SockRef::from(fd).local_addr())?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Sizes of the kernel's buffers of a socket in bytes, as the kernel counts: send, receive.
pub fn buffer_bytes(socket: &SocketHandle) -> io::Result<(usize, usize)> {
    uring::with_fd(socket, |fd| {
        let socket = SockRef::from(fd);
        Ok((socket.send_buffer_size()?, socket.recv_buffer_size()?))
    })
}

/// Sizes of the kernel's buffers of a socket in bytes; those of a listening socket go to the
/// connections it takes. 0 = the kernel's own choice.
pub fn set_buffer_bytes(socket: &SocketHandle, send: usize, receive: usize) -> io::Result<()> {
    uring::with_fd(socket, |fd| {
        let socket = SockRef::from(fd);
        if send > 0 {
            socket.set_send_buffer_size(send)?;
        }
        if receive > 0 {
            socket.set_recv_buffer_size(receive)?;
        }
        Ok(())
    })
}

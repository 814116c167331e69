//! Bare loops over one io_uring, without a runtime: what a broker is held against.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use corelog_runtime::{AlignedBuf, BufferPool, blocking, cpus};
use io_uring::{IoUring, opcode, types};

/// Bytes of the file that is overwritten.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of one background write of the mixed loop.
const WRITE_BYTES: usize = 64 << 10;
/// Background writes in flight.
const WRITES: usize = 4;
/// Bytes of one receive.
const RECEIVE_BYTES: usize = 4096;
/// An answer as long as the one Kafka's protocol gives to a request for one partition.
const ANSWER_BYTES: usize = 64;

const TAG_WRITE: u64 = 1 << 40;
const TAG_SEND: u64 = 1 << 41;
const TAG_ACCEPT: u64 = 1 << 42;

/// Opens a file of written extents for direct overwrites.
fn written_file(path: &Path) -> anyhow::Result<File> {
    let there = std::fs::metadata(path).is_ok_and(|m| m.len() == FILE_BYTES);
    if !there {
        let mut plain = blocking::open_file_with(
            path,
            OpenOptions::new().create(true).write(true).truncate(true),
        )?;
        let zeros = vec![0u8; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            plain.write_all(&zeros)?;
        }
        plain.sync_all()?;
    }
    let mut options = OpenOptions::new();
    options.write(true).read(true).custom_flags(libc::O_DIRECT);
    blocking::open_file_with(path, &options).with_context(|| format!("open {}", path.display()))
}

fn filled(pool: &BufferPool, bytes: usize) -> AlignedBuf {
    let mut buf = pool.get(bytes);
    buf.as_mut_slice()[..bytes].fill(0x5a);
    buf
}

/// RWF_DSYNC overwrites, one in flight. Prints MB/s.
pub fn dsync(
    path: &Path,
    bytes: usize,
    seconds: u64,
    cpu: Option<usize>,
) -> anyhow::Result<String> {
    if let Some(cpu) = cpu {
        cpus::pin(cpu);
    }
    let file = written_file(path)?;
    let pool = BufferPool::new(0);
    let mut buf = filled(&pool, bytes);
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)?;
    let began = blocking::now();
    let end = Duration::from_secs(seconds);
    let mut writes = 0u64;
    while began.elapsed() < end {
        let offset = writes * bytes as u64 % (FILE_BYTES - bytes as u64) / 4096 * 4096;
        let write = opcode::Write::new(
            types::Fd(file.as_raw_fd()),
            buf.as_mut_slice().as_ptr(),
            bytes as u32,
        )
        .offset(offset)
        .rw_flags(libc::RWF_DSYNC)
        .build();
        // SAFETY: `buf` and `file` outlive the write, whose completion is awaited below.
        unsafe { ring.submission().push(&write) }.context("the ring is empty")?;
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            anyhow::ensure!(
                completion.result() == bytes as i32,
                "write gave {}",
                completion.result()
            );
        }
        writes += 1;
    }
    let took = began.elapsed().as_secs_f64();
    Ok(format!(
        "writes_per_s={:.0} mb_per_s={:.1}",
        writes as f64 / took,
        (writes * bytes as u64) as f64 / took / 1e6
    ))
}

struct Peer {
    stream: TcpStream,
    buf: AlignedBuf,
    received: usize,
}

/// The mixed loop: echo, and direct writes beside it.
struct Mixed {
    ring: IoUring,
    peers: Vec<Peer>,
    answer: [u8; 4 + ANSWER_BYTES],
    file: File,
    block: AlignedBuf,
    written: u64,
}

/// Serves until the process is killed.
pub fn mixed(listen: SocketAddr, cpu: Option<usize>, path: &Path) -> anyhow::Result<()> {
    if let Some(cpu) = cpu {
        cpus::pin(cpu);
    }
    let listener: TcpListener = blocking::tcp_listen(listen)?;
    println!("listening {}", listener.local_addr()?);
    let pool = BufferPool::new(0);
    let mut answer = [0u8; 4 + ANSWER_BYTES];
    answer[..4].copy_from_slice(&(ANSWER_BYTES as u32).to_be_bytes());
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(1024)?;
    let mut server = Mixed {
        ring,
        peers: Vec::new(),
        answer,
        file: written_file(path)?,
        block: filled(&pool, WRITE_BYTES),
        written: 0,
    };
    server.accept(&listener)?;
    for _ in 0..WRITES {
        server.write()?;
    }
    loop {
        server.ring.submit_and_wait(1)?;
        let done: Vec<(u64, i32)> = server
            .ring
            .completion()
            .map(|c| (c.user_data(), c.result()))
            .collect();
        for (tag, result) in done {
            server.completed(tag, result, &listener, &pool)?;
        }
    }
}

impl Mixed {
    fn push(&mut self, entry: &io_uring::squeue::Entry) -> anyhow::Result<()> {
        loop {
            // SAFETY: buffers, streams, the answer and the file live as long as the server, which
            // never ends but with its process; a peer's buffer is used by one receive at a time.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> anyhow::Result<()> {
        let entry =
            opcode::PollAdd::new(types::Fd(listener.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(&entry.user_data(TAG_ACCEPT))
    }

    fn receive(&mut self, number: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[number];
        let fd = types::Fd(peer.stream.as_raw_fd());
        let entry = opcode::Recv::new(
            fd,
            peer.buf.as_mut_slice().as_mut_ptr(),
            RECEIVE_BYTES as u32,
        )
        .build();
        self.push(&entry.user_data(number as u64))
    }

    fn send(&mut self, number: usize) -> anyhow::Result<()> {
        let fd = types::Fd(self.peers[number].stream.as_raw_fd());
        let entry = opcode::Send::new(fd, self.answer.as_ptr(), self.answer.len() as u32).build();
        self.push(&entry.user_data(TAG_SEND | number as u64))
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let offset = self.written * WRITE_BYTES as u64 % FILE_BYTES;
        self.written += 1;
        let fd = types::Fd(self.file.as_raw_fd());
        let pointer = self.block.as_mut_slice().as_ptr();
        let entry = opcode::Write::new(fd, pointer, WRITE_BYTES as u32)
            .offset(offset)
            .build();
        self.push(&entry.user_data(TAG_WRITE))
    }

    fn completed(
        &mut self,
        tag: u64,
        result: i32,
        listener: &TcpListener,
        pool: &BufferPool,
    ) -> anyhow::Result<()> {
        if tag == TAG_WRITE {
            anyhow::ensure!(result == WRITE_BYTES as i32, "write gave {result}");
            return self.write();
        }
        if tag == TAG_ACCEPT {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            self.peers.push(Peer {
                stream,
                buf: filled(pool, RECEIVE_BYTES),
                received: 0,
            });
            self.receive(self.peers.len() - 1)?;
            return self.accept(listener);
        }
        if tag & TAG_SEND != 0 {
            return Ok(());
        }
        let number = tag as usize;
        if result <= 0 {
            return Ok(()); // the client has left
        }
        self.frame(number, result as usize)
    }

    /// One request is one frame: it is answered when its last byte came.
    fn frame(&mut self, number: usize, received: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[number];
        if peer.received == 0 {
            let head = &peer.buf.as_mut_slice()[..4];
            let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize + 4;
            peer.received = size;
        }
        peer.received = peer.received.saturating_sub(received);
        if peer.received == 0 {
            self.send(number)?;
        }
        self.receive(number)
    }
}

//! Operations to submission entries, completion results to outputs.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::driver::{
    Advice, Closer, Descriptor, FallocateMode, FileHandle, Op, OpenOptions, Output, SocketHandle,
    Stat,
};
use crate::sockets::SEND_BUFS_MAX;
use crate::uring::helpers::check;

/// Most bytes of one read or write (the kernel's own limit).
const IO_BYTES_MAX: usize = 0x7fff_f000;
/// Most buffers of one write (UIO_MAXIOV).
const WRITE_BUFS_MAX: usize = 1024;
/// FALLOC_FL_WRITE_ZEROES, newer than libc's list.
const FALLOC_FL_WRITE_ZEROES: i32 = 0x80;

/// What the kernel reads or writes beside the buffers of an operation. Boxed, so that it stays
/// where it is; kept by its slot for the next operation.
pub(super) struct Aux {
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
    paths: [CString; 2],
    statx: libc::statx,
    address: libc::sockaddr_storage,
    /// Socket under way of a connect.
    socket: Option<OwnedFd>,
}

impl Aux {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all three are plain data for which zeros (and null pointers) are valid.
        let (message, statx, address) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let paths = [CString::default(), CString::default()];
        Box::new(Self {
            iovecs: Vec::new(),
            message,
            paths,
            statx,
            address,
            socket: None,
        })
    }

    fn fill_iovecs(&mut self, bufs: &[Bytes], most: usize) {
        self.iovecs.clear();
        let filled = bufs.iter().filter(|buf| !buf.is_empty()).take(most);
        self.iovecs.extend(filled.map(|buf| libc::iovec {
            iov_base: buf.as_ptr().cast_mut().cast(),
            iov_len: buf.len(),
        }));
    }
}

/// What becomes of an operation.
pub(super) enum Prepared {
    /// It goes to the ring.
    Ring(Entry),
    /// It goes to a helper thread.
    Helper,
    /// It is over.
    Ended(io::Result<Output>),
}

/// What the kernel offers beyond the least we ask for.
pub(super) struct Abilities {
    pub(super) ftruncate: bool,
    pub(super) msg_ring: bool,
}

pub(super) fn path_to_c(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn fd_of(file: &FileHandle) -> types::Fd {
    types::Fd(RawFd::try_from(file.0.raw).unwrap_or(-1))
}

fn socket_fd(socket: &SocketHandle) -> types::Fd {
    types::Fd(RawFd::try_from(socket.0.raw).unwrap_or(-1))
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Makes the submission entry of `op`. The pointers in it lead into `op`'s heap memory and into
/// `aux`; both stay put in the slot until the last completion.
pub(super) fn prepare(op: &mut Op, aux: &mut Option<Box<Aux>>, abilities: &Abilities) -> Prepared {
    try_prepare(op, aux, abilities).unwrap_or_else(|error| Prepared::Ended(Err(error)))
}

fn try_prepare(
    op: &mut Op,
    aux: &mut Option<Box<Aux>>,
    abilities: &Abilities,
) -> io::Result<Prepared> {
    let entry = match op {
        Op::Recv {
            socket,
            buf,
            at,
            len,
            all,
        } => {
            if *len == 0 || at.checked_add(*len).is_none_or(|end| end > buf.capacity()) {
                return Err(invalid("a receive beyond its buffer, or of nothing"));
            }
            let flags = if *all { libc::MSG_WAITALL } else { 0 };
            let to = buf.as_mut_slice()[*at..].as_mut_ptr();
            opcode::Recv::new(socket_fd(socket), to, len_u32(*len))
                .flags(flags)
                .build()
        }
        Op::Send {
            socket,
            bufs,
            more,
            now,
        } => return prepare_send(socket, bufs, (*more, *now), aux),
        Op::ReadAt {
            file,
            buf,
            offset,
            len,
        } => {
            if *len > buf.capacity() {
                return Err(invalid("a read beyond its buffer"));
            }
            let to = buf.as_mut_slice().as_mut_ptr();
            opcode::Read::new(fd_of(file), to, len_u32(*len))
                .offset(*offset)
                .build()
        }
        Op::WriteAt {
            file,
            bufs,
            offset,
            dsync,
        } => {
            return Ok(prepare_write(file, bufs, *offset, *dsync, aux));
        }
        Op::Fdatasync { file } => opcode::Fsync::new(fd_of(file))
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Op::Accept { listener } => {
            let (addr, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(socket_fd(listener), addr, len)
                .flags(libc::SOCK_CLOEXEC)
                .build()
        }
        Op::Connect { addr } => prepare_connect(*addr, aux.get_or_insert_with(Aux::new))?,
        Op::PollWritable { socket } => {
            opcode::PollAdd::new(socket_fd(socket), libc::POLLOUT as u32).build()
        }
        // Errors and the end of both ways are always told.
        Op::PollClosed { socket } => {
            opcode::PollAdd::new(socket_fd(socket), libc::POLLRDHUP as u32).build()
        }
        Op::Shutdown { socket } => {
            opcode::Shutdown::new(socket_fd(socket), libc::SHUT_RDWR).build()
        }
        Op::Ftruncate { file, len } if abilities.ftruncate => {
            opcode::Ftruncate::new(fd_of(file), *len).build()
        }
        Op::Fallocate {
            file,
            mode,
            offset,
            len,
        } => {
            let mode = match mode {
                FallocateMode::Extend => 0,
                FallocateMode::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
                FallocateMode::WriteZeroes => FALLOC_FL_WRITE_ZEROES,
            };
            opcode::Fallocate::new(fd_of(file), *len)
                .offset(*offset)
                .mode(mode)
                .build()
        }
        Op::Fadvise {
            file,
            advice,
            offset,
            len,
        } => match u32::try_from(*len) {
            // Older kernels know lengths of 32 bits only.
            Err(_) => return Ok(Prepared::Helper),
            Ok(len) => opcode::Fadvise::new(fd_of(file), len.into(), advice_flag(*advice))
                .offset(*offset)
                .build(),
        },
        Op::ReadDir { .. }
        | Op::StatFs { .. }
        | Op::SyncDir { .. }
        | Op::Blocking { .. }
        | Op::Ftruncate { .. } => return Ok(Prepared::Helper),
        _ => prepare_path(op, aux.get_or_insert_with(Aux::new))?,
    };
    Ok(Prepared::Ring(entry))
}

pub(super) fn advice_flag(advice: Advice) -> libc::c_int {
    match advice {
        Advice::Normal => libc::POSIX_FADV_NORMAL,
        Advice::Random => libc::POSIX_FADV_RANDOM,
        Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
        Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
    }
}

fn len_u32(len: usize) -> u32 {
    len.min(IO_BYTES_MAX) as u32
}

/// Operations that name paths, and statx.
fn prepare_path(op: &Op, aux: &mut Aux) -> io::Result<Entry> {
    let here = types::Fd(libc::AT_FDCWD);
    let statx_mask = libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN;
    Ok(match op {
        Op::Open { path, options } => {
            aux.paths[0] = path_to_c(path)?;
            let flags = open_flags(options);
            opcode::OpenAt::new(here, aux.paths[0].as_ptr())
                .flags(flags)
                .mode(0o644)
                .build()
        }
        Op::StatPath { path } => {
            aux.paths[0] = path_to_c(path)?;
            let to: *mut libc::statx = &mut aux.statx;
            opcode::Statx::new(here, aux.paths[0].as_ptr(), to.cast())
                .mask(statx_mask)
                .build()
        }
        Op::StatFile { file } => {
            aux.paths[0] = CString::default();
            let to: *mut libc::statx = &mut aux.statx;
            let statx = opcode::Statx::new(fd_of(file), aux.paths[0].as_ptr(), to.cast());
            statx.flags(libc::AT_EMPTY_PATH).mask(statx_mask).build()
        }
        Op::Rename { from, to } => {
            aux.paths = [path_to_c(from)?, path_to_c(to)?];
            let [from, to] = &aux.paths;
            opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build()
        }
        Op::Unlink { path } => {
            aux.paths[0] = path_to_c(path)?;
            opcode::UnlinkAt::new(here, aux.paths[0].as_ptr()).build()
        }
        Op::Rmdir { path } => {
            aux.paths[0] = path_to_c(path)?;
            let unlink = opcode::UnlinkAt::new(here, aux.paths[0].as_ptr());
            unlink.flags(libc::AT_REMOVEDIR).build()
        }
        Op::Mkdir { path } => {
            aux.paths[0] = path_to_c(path)?;
            opcode::MkDirAt::new(here, aux.paths[0].as_ptr())
                .mode(0o755)
                .build()
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    })
}

fn open_flags(options: &OpenOptions) -> i32 {
    let access = match (options.read, options.write) {
        (_, false) => libc::O_RDONLY,
        (false, true) => libc::O_WRONLY,
        (true, true) => libc::O_RDWR,
    };
    let optional = [
        (options.create, libc::O_CREAT),
        (options.create_new, libc::O_CREAT | libc::O_EXCL),
        (options.truncate, libc::O_TRUNC),
        (options.direct, libc::O_DIRECT),
    ];
    let wanted = optional.iter().filter(|(wanted, _)| *wanted);
    wanted.fold(access | libc::O_CLOEXEC, |flags, (_, flag)| flags | flag)
}

fn prepare_send(
    socket: &SocketHandle,
    bufs: &[Bytes],
    (more, now): (bool, bool),
    aux: &mut Option<Box<Aux>>,
) -> io::Result<Prepared> {
    if bufs.len() > SEND_BUFS_MAX {
        return Err(invalid("a send of too many buffers"));
    }
    let more = if more { libc::MSG_MORE } else { 0 };
    let wait = if now {
        libc::MSG_DONTWAIT
    } else {
        libc::MSG_WAITALL
    };
    let flags = wait | libc::MSG_NOSIGNAL | more;
    Ok(Prepared::Ring(match bufs {
        [] => return Ok(Prepared::Ended(Ok(Output::Len(0)))),
        [buf] => {
            let send = opcode::Send::new(socket_fd(socket), buf.as_ptr(), len_u32(buf.len()));
            send.flags(flags).build()
        }
        bufs => {
            let aux = aux.get_or_insert_with(Aux::new);
            aux.fill_iovecs(bufs, SEND_BUFS_MAX);
            aux.message.msg_iov = aux.iovecs.as_mut_ptr();
            aux.message.msg_iovlen = aux.iovecs.len();
            opcode::SendMsg::new(socket_fd(socket), &aux.message)
                .flags(flags as u32)
                .build()
        }
    }))
}

fn prepare_write(
    file: &FileHandle,
    bufs: &[Bytes],
    offset: u64,
    dsync: bool,
    aux: &mut Option<Box<Aux>>,
) -> Prepared {
    let rw_flags = if dsync { libc::RWF_DSYNC } else { 0 };
    Prepared::Ring(match bufs {
        [] => return Prepared::Ended(Ok(Output::Len(0))),
        [buf] => {
            let write = opcode::Write::new(fd_of(file), buf.as_ptr(), len_u32(buf.len()));
            write.offset(offset).rw_flags(rw_flags).build()
        }
        bufs => {
            let aux = aux.get_or_insert_with(Aux::new);
            aux.fill_iovecs(bufs, WRITE_BUFS_MAX);
            let count = aux.iovecs.len() as u32;
            let write = opcode::Writev::new(fd_of(file), aux.iovecs.as_ptr(), count);
            write.offset(offset).rw_flags(rw_flags).build()
        }
    })
}

fn prepare_connect(addr: SocketAddr, aux: &mut Aux) -> io::Result<Entry> {
    let family = if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no memory is passed.
    let raw = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: just made, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = socket2::SockAddr::from(addr);
    let len = address.len();
    // SAFETY: socket2's storage is at least `len` bytes long, ours is a whole sockaddr_storage.
    unsafe {
        let to: *mut libc::sockaddr_storage = &mut aux.address;
        let from = address.as_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(from, to.cast::<u8>(), len as usize);
    }
    aux.socket = Some(socket);
    let to: *const libc::sockaddr_storage = &aux.address;
    Ok(opcode::Connect::new(types::Fd(raw), to.cast(), len).build())
}

/// Answers at once where a request is small and an answer waits for nothing.
fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let value: *const libc::c_int = &on;
    // SAFETY: `value` points to an int. A refusal (not TCP) leaves the socket as it is.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, value.cast(), size) };
}

/// Who closes what the driver opened.
pub(super) struct Closers {
    pub(super) files: Arc<dyn Closer>,
    pub(super) sockets: Arc<dyn Closer>,
}

impl Closers {
    pub(super) fn socket(&self, fd: RawFd) -> SocketHandle {
        let closer = self.sockets.clone();
        SocketHandle(Arc::new(Descriptor {
            raw: i64::from(fd),
            closer,
        }))
    }

    fn file(&self, fd: RawFd) -> FileHandle {
        let closer = self.files.clone();
        FileHandle(Arc::new(Descriptor {
            raw: i64::from(fd),
            closer,
        }))
    }
}

/// Reads the result of a completed ring operation.
pub(super) fn finish(
    op: &Op,
    aux: &mut Option<Box<Aux>>,
    closers: &Closers,
    result: i32,
) -> io::Result<Output> {
    let connected = aux.as_mut().and_then(|aux| aux.socket.take());
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(match op {
        Op::ReadAt { .. } | Op::WriteAt { .. } | Op::Recv { .. } | Op::Send { .. } => {
            Output::Len(result as usize)
        }
        Op::Open { .. } => Output::File(closers.file(result)),
        Op::Accept { .. } => {
            set_nodelay(result);
            Output::Socket(closers.socket(result))
        }
        Op::Connect { .. } => {
            let socket = connected.ok_or(io::ErrorKind::NotConnected)?;
            set_nodelay(socket.as_raw_fd());
            Output::Socket(closers.socket(std::os::fd::IntoRawFd::into_raw_fd(socket)))
        }
        Op::StatPath { .. } | Op::StatFile { .. } => {
            let statx = &aux.as_ref().ok_or(io::ErrorKind::InvalidData)?.statx;
            Output::Stat(Stat {
                len: statx.stx_size,
                is_dir: u32::from(statx.stx_mode) & libc::S_IFMT == libc::S_IFDIR,
                dio_offset_align: statx.stx_dio_offset_align,
                dio_mem_align: statx.stx_dio_mem_align,
                modified_ms: statx.stx_mtime.tv_sec.saturating_mul(1_000)
                    + i64::from(statx.stx_mtime.tv_nsec / 1_000_000),
                ..Stat::default()
            })
        }
        _ => Output::Unit,
    })
}

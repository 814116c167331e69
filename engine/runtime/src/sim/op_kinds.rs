//! Operations as the trace, the counters and the fault scripts see them.

use bytes::Bytes;

use super::config::OpKind;
use super::rng::Trace;
use super::state::State;
use super::tree::Errno;
use crate::driver::{Op, Output};

pub(super) fn kind_of(op: &Op) -> OpKind {
    match op {
        Op::Open { .. } => OpKind::Open,
        Op::ReadAt { .. } => OpKind::Read,
        Op::WriteAt { .. } => OpKind::Write,
        Op::Fdatasync { .. } => OpKind::Flush,
        Op::SyncDir { .. } => OpKind::SyncDir,
        Op::Fallocate { .. } => OpKind::Fallocate,
        Op::Ftruncate { .. } => OpKind::Truncate,
        Op::StatPath { .. } | Op::StatFile { .. } => OpKind::Stat,
        Op::StatFs { .. } => OpKind::StatFs,
        Op::Rename { .. } => OpKind::Rename,
        Op::Unlink { .. } => OpKind::Unlink,
        Op::Mkdir { .. } => OpKind::Mkdir,
        Op::Rmdir { .. } => OpKind::Rmdir,
        Op::ReadDir { .. } => OpKind::ReadDir,
        Op::Blocking { .. } => OpKind::Blocking,
        Op::Fadvise { .. } => OpKind::Advise,
        _ => OpKind::Socket,
    }
}

/// What `write_count` counts: writes, flushes, and changes of sizes and names.
pub(super) fn changes_disk(op: &Op) -> bool {
    match op {
        Op::Open { options, .. } => options.create || options.create_new || options.truncate,
        _ => matches!(
            kind_of(op),
            OpKind::Write
                | OpKind::Flush
                | OpKind::SyncDir
                | OpKind::Fallocate
                | OpKind::Truncate
                | OpKind::Rename
                | OpKind::Unlink
                | OpKind::Mkdir
                | OpKind::Rmdir
        ),
    }
}

/// Adds a submission to the trace.
pub(super) fn describe(op: &Op, trace: &mut Trace) {
    trace.add(kind_of(op) as u64);
    match op {
        Op::Open { path, options } => {
            trace.add_bytes(path.as_os_str().as_encoded_bytes());
            let flags = [
                options.read,
                options.write,
                options.create,
                options.create_new,
                options.truncate,
            ];
            trace.add(flags.iter().fold(u64::from(options.direct), |bits, flag| {
                bits << 1 | u64::from(*flag)
            }));
        }
        Op::ReadAt {
            file, offset, len, ..
        } => [file.0.raw as u64, *offset, *len as u64]
            .into_iter()
            .for_each(|word| trace.add(word)),
        Op::WriteAt {
            file,
            bufs,
            offset,
            dsync,
        } => {
            [file.0.raw as u64, *offset, u64::from(*dsync)]
                .into_iter()
                .for_each(|word| trace.add(word));
            bufs.iter().for_each(|buf| trace.add_bytes(buf));
        }
        Op::Fallocate {
            file,
            mode,
            offset,
            len,
        } => {
            [file.0.raw as u64, *mode as u64, *offset, *len]
                .into_iter()
                .for_each(|word| trace.add(word));
        }
        Op::Fadvise {
            file,
            advice,
            offset,
            len,
        } => {
            [file.0.raw as u64, *advice as u64, *offset, *len]
                .into_iter()
                .for_each(|word| trace.add(word));
        }
        Op::Ftruncate { file, len } => [file.0.raw as u64, *len]
            .into_iter()
            .for_each(|word| trace.add(word)),
        Op::Fdatasync { file } | Op::StatFile { file } => trace.add(file.0.raw as u64),
        Op::Rename { from, to } => {
            trace.add_bytes(from.as_os_str().as_encoded_bytes());
            trace.add_bytes(to.as_os_str().as_encoded_bytes());
        }
        Op::SyncDir { path }
        | Op::StatPath { path }
        | Op::StatFs { path }
        | Op::Unlink { path }
        | Op::Mkdir { path }
        | Op::Rmdir { path }
        | Op::ReadDir { path } => trace.add_bytes(path.as_os_str().as_encoded_bytes()),
        Op::Send {
            socket,
            bufs,
            more,
            now,
        } => {
            trace.add(socket.0.raw as u64 ^ u64::from(*more) << 8 ^ u64::from(*now) << 9);
            bufs.iter().for_each(|buf| trace.add_bytes(buf));
        }
        Op::Recv {
            socket, len, all, ..
        } => {
            trace.add(socket.0.raw as u64 ^ u64::from(*all) << 8);
            trace.add(*len as u64);
        }
        Op::Connect { addr } => trace.add(u64::from(addr.port())),
        Op::Accept { listener: socket }
        | Op::PollWritable { socket }
        | Op::PollClosed { socket }
        | Op::Shutdown { socket } => trace.add(socket.0.raw as u64 ^ op_tag(op)),
        Op::Blocking { .. } => {}
    }
}

fn op_tag(op: &Op) -> u64 {
    match op {
        Op::Accept { .. } => 1 << 8,
        Op::PollWritable { .. } => 2 << 8,
        Op::PollClosed { .. } => 3 << 8,
        _ => 4 << 8,
    }
}

/// What a line of the readable trace says of an operation.
fn name_of(op: &Op) -> String {
    match op {
        Op::Open { path, .. } => format!("open {}", path.display()),
        Op::ReadAt {
            file, offset, len, ..
        } => format!("read file {} at {offset} len {len}", file.0.raw),
        Op::WriteAt {
            file,
            bufs,
            offset,
            dsync,
        } => {
            let len: usize = bufs.iter().map(Bytes::len).sum();
            let dsync = if *dsync { " dsync" } else { "" };
            format!("write file {} at {offset} len {len}{dsync}", file.0.raw)
        }
        Op::Fdatasync { file } => format!("fdatasync file {}", file.0.raw),
        Op::SyncDir { path } => format!("sync_dir {}", path.display()),
        Op::Fallocate {
            file,
            mode,
            offset,
            len,
        } => format!(
            "fallocate {mode:?} file {} at {offset} len {len}",
            file.0.raw
        ),
        Op::Ftruncate { file, len } => format!("ftruncate file {} to {len}", file.0.raw),
        Op::Fadvise { file, advice, .. } => format!("fadvise {advice:?} file {}", file.0.raw),
        Op::StatPath { path } => format!("stat {}", path.display()),
        Op::StatFile { file } => format!("stat file {}", file.0.raw),
        Op::StatFs { path } => format!("statfs {}", path.display()),
        Op::Rename { from, to } => format!("rename {} to {}", from.display(), to.display()),
        Op::Unlink { path } => format!("unlink {}", path.display()),
        Op::Mkdir { path } => format!("mkdir {}", path.display()),
        Op::Rmdir { path } => format!("rmdir {}", path.display()),
        Op::ReadDir { path } => format!("read_dir {}", path.display()),
        Op::Connect { addr } => format!("connect {addr}"),
        Op::Accept { listener } => format!("accept socket {}", listener.0.raw as u32),
        Op::Recv { socket, .. } => format!("recv socket {}", socket.0.raw as u32),
        Op::Send { socket, .. } => format!("send socket {}", socket.0.raw as u32),
        Op::PollWritable { socket } => format!("poll_writable socket {}", socket.0.raw as u32),
        Op::PollClosed { socket } => format!("poll_closed socket {}", socket.0.raw as u32),
        Op::Shutdown { socket } => format!("shutdown socket {}", socket.0.raw as u32),
        Op::Blocking { .. } => String::from("blocking work"),
    }
}

pub(super) fn flatten(bufs: &[Bytes]) -> Vec<u8> {
    bufs.concat()
}

impl State {
    /// A line for a completion.
    pub(super) fn tell_completion(&mut self, port: u32, op: &Op, outcome: &Result<Output, Errno>) {
        let (now_ns, name) = (self.now_ns, self.shard_name(port));
        self.trace.tell(now_ns, || {
            let result = match outcome {
                Ok(Output::Unit) => String::from("ok"),
                Ok(Output::Len(len)) => format!("{len}"),
                Ok(Output::File(file)) => format!("file {}", file.0.raw),
                Ok(Output::Socket(socket)) => format!("socket {}", socket.0.raw as u32),
                Ok(Output::Stat(stat)) => format!("len {} free {}", stat.len, stat.free_bytes),
                Ok(Output::Dir(entries)) => format!("{} names", entries.len()),
                Err(errno) => format!("{}", std::io::Error::from_raw_os_error(*errno)),
            };
            format!("{name} {} = {result}", name_of(op))
        });
    }

    /// Whose port it is, for people.
    pub(super) fn shard_name(&mut self, port: u32) -> String {
        match self.port(port).map(|port| (port.process, port.shard)) {
            Some((process, shard)) => format!("{}/{shard}", self.processes.name(process)),
            None => String::from("?"),
        }
    }

    /// The path a fault script sees.
    pub(super) fn path_of(&self, op: &Op) -> String {
        let path = match op {
            Op::Open { path, .. }
            | Op::SyncDir { path }
            | Op::StatPath { path }
            | Op::StatFs { path }
            | Op::Unlink { path }
            | Op::Mkdir { path }
            | Op::Rmdir { path }
            | Op::ReadDir { path }
            | Op::Rename { from: path, .. } => path,
            Op::ReadAt { file, .. }
            | Op::WriteAt { file, .. }
            | Op::Fdatasync { file }
            | Op::Fallocate { file, .. }
            | Op::Ftruncate { file, .. }
            | Op::Fadvise { file, .. }
            | Op::StatFile { file } => {
                return self
                    .handle(file.0.raw)
                    .map(|open| open.path.clone())
                    .unwrap_or_default();
            }
            _ => return String::new(),
        };
        path.to_string_lossy().into_owned()
    }
}

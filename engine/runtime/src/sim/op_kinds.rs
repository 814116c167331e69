//! Operations as the trace, the counters and the fault scripts see them.

use bytes::Bytes;

use super::config::OpKind;
use super::rng::Trace;
use super::state::State;
use crate::driver::Op;

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
        _ => {}
    }
}

pub(super) fn flatten(bufs: &[Bytes]) -> Vec<u8> {
    bufs.concat()
}

impl State {
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
                    .handles
                    .get(&file.0.raw)
                    .map(|open| open.path.clone())
                    .unwrap_or_default();
            }
            _ => return String::new(),
        };
        path.to_string_lossy().into_owned()
    }
}

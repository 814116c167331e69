//! What the hand-out of a completion means to the disk: from then on flushes cover it.

use super::config::Device;
use super::flights::Flight;
use super::page::PAGE_BYTES;
use super::state::State;
use crate::driver::{Op, Output};

impl State {
    /// The completion goes out: from now on flushes cover what the operation did; a write with
    /// RWF_DSYNC is durable.
    pub(super) fn mark_completed(&mut self, id: u64, flight: &mut Flight) {
        self.seq += 1;
        let seq = self.seq;
        match &flight.op {
            Op::WriteAt {
                file,
                bufs,
                offset,
                dsync,
            } => {
                let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
                let Some(ino) = self.handle(file.0.raw).map(|open| open.ino) else {
                    return;
                };
                let Ok(file) = self.tree.file(ino) else {
                    return;
                };
                if len > 0 {
                    file.complete(
                        id,
                        offset / PAGE_BYTES,
                        (offset + len - 1) / PAGE_BYTES,
                        seq,
                    );
                }
                if *dsync && matches!(flight.outcome, Some(Ok(_))) {
                    file.flush_op(id, *offset, len);
                    if self.config.device == Device::FlushOnly {
                        self.flush_device(flight.covered_seq);
                    }
                }
            }
            Op::Fallocate { file, .. } | Op::Ftruncate { file, .. } => {
                let Some(ino) = self.handle(file.0.raw).map(|open| open.ino) else {
                    return;
                };
                if let Ok(file) = self.tree.file(ino) {
                    file.complete(id, 0, u64::MAX, seq);
                }
            }
            Op::Open { options, .. } => {
                if let Some(Ok(Output::File(file))) = &flight.outcome
                    && options.truncate
                    && let Some(ino) = self.handle(file.0.raw).map(|open| open.ino)
                    && let Ok(file) = self.tree.file(ino)
                {
                    file.complete(id, 0, u64::MAX, seq);
                }
                self.tree.complete(id, seq);
            }
            Op::Rename { .. } | Op::Unlink { .. } | Op::Mkdir { .. } | Op::Rmdir { .. } => {
                self.tree.complete(id, seq)
            }
            _ => {}
        }
    }

    fn flush_device(&mut self, covered_seq: u64) {
        for file in self.tree.files().filter(|file| file.is_dirty()) {
            file.flush(covered_seq, false, || true);
        }
    }

    /// A write cut by power loss: what of it reached the disk is there.
    pub(super) fn reached_disk(&mut self, id: u64, flight: &Flight) {
        if let Op::WriteAt {
            file, bufs, offset, ..
        } = &flight.op
            && let Some(ino) = self.handle(file.0.raw).map(|open| open.ino)
            && let Ok(file) = self.tree.file(ino)
        {
            file.flush_op(id, *offset, bufs.iter().map(|buf| buf.len() as u64).sum());
        }
    }
}

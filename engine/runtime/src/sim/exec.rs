//! What each operation does to the world, as the kernel and its file system would do it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::config::{Fault, OpKind};
use super::file::Cause;
use super::flights::Flight;
use super::page::{PAGE_BYTES, SECTOR_BYTES};
use super::process::MAIN;
use super::state::{OpenFile, State};
use super::tree::{Errno, Ino, Node};
use crate::driver::{
    Advice, Descriptor, DirEntry, FallocateMode, FileHandle, Op, OpenOptions, Output, Stat,
};

/// Largest file offset, as for off_t.
const OFFSET_MAX: u64 = i64::MAX as u64;
/// Buffers in one write (IOV_MAX).
const BUFS_MAX: usize = 1024;
/// Windows of the simulated page cache.
pub(super) const CACHE_WINDOW_BYTES: u64 = 65_536;

/// How an operation ends under a fault that has no effect of its own.
fn fault_errno(fault: Option<Fault>) -> Option<Errno> {
    match fault {
        Some(Fault::Eio) => Some(libc::EIO),
        Some(Fault::NoSpace) => Some(libc::ENOSPC),
        _ => None,
    }
}

impl State {
    fn opened(&mut self, file: &FileHandle) -> Result<(Ino, OpenOptions), Errno> {
        let open = self.handle(file.0.raw).ok_or(libc::EBADF)?;
        let (ino, options) = (open.ino, open.options);
        self.apply_late(ino, false);
        Ok((ino, options))
    }

    fn writable(&mut self, file: &FileHandle) -> Result<(Ino, OpenOptions), Errno> {
        let (ino, options) = self.opened(file)?;
        if options.write {
            let now_ms = self.wall_clock_ms();
            self.tree.file(ino)?.modified_ms = now_ms;
            Ok((ino, options))
        } else {
            Err(libc::EBADF)
        }
    }

    fn cause(&mut self, op: u64) -> Cause {
        Cause {
            op,
            order: self.next_order(),
        }
    }

    /// Does it. `cut`: a crash strikes in the middle.
    pub(super) fn execute(
        &mut self,
        id: u64,
        flight: &mut Flight,
        cut: bool,
    ) -> Result<Output, Errno> {
        let fault = flight.fault;
        if !self.has_disk(flight) {
            return Err(libc::ENOSYS);
        }
        match flight.kind {
            OpKind::Write => return self.write(id, &flight.op, fault, cut),
            OpKind::Read => return self.read(&mut flight.op, fault),
            OpKind::Flush | OpKind::SyncDir => {
                return self.flush(&flight.op, flight.covered_seq, fault, cut);
            }
            OpKind::Blocking => return Ok(Output::Unit),
            OpKind::Socket => return Err(libc::ENOSYS),
            _ => {}
        }
        if let Some(errno) = fault_errno(fault) {
            match errno {
                libc::EIO => self.counters.eio_others += 1,
                _ => self.counters.no_space += 1,
            }
            return Err(errno);
        }
        if cut && self.crash_rng.of_256(128) {
            return Err(libc::EIO); // Nobody will hear of it.
        }
        match &flight.op {
            Op::Open { path, options } => self.open(id, path, *options),
            Op::Fallocate {
                file,
                mode,
                offset,
                len,
            } => self.fallocate(id, file, *mode, *offset, *len),
            Op::Ftruncate { file, len } => self.truncate(id, file, *len),
            Op::Fadvise {
                file,
                advice,
                offset,
                len,
            } => self.advise(file, *advice, *offset, *len),
            Op::StatPath { path } => {
                let ino = self.tree.resolve(path)?;
                self.stat(ino)
            }
            Op::StatFile { file } => {
                let (ino, _) = self.opened(file)?;
                self.stat(ino)
            }
            Op::StatFs { path } => self.stat_fs(path),
            Op::Rename { from, to } => self.tree.rename(id, from, to).map(|()| Output::Unit),
            Op::Unlink { path } => self.tree.unlink(id, path).map(|()| Output::Unit),
            Op::Mkdir { path } => self.tree.mkdir(id, path).map(|()| Output::Unit),
            Op::Rmdir { path } => self.tree.rmdir(id, path).map(|()| Output::Unit),
            Op::ReadDir { path } => {
                let entry = |(name, is_dir)| DirEntry { name, is_dir };
                Ok(Output::Dir(
                    self.tree.read_dir(path)?.into_iter().map(entry).collect(),
                ))
            }
            _ => Err(libc::ENOSYS),
        }
    }

    /// Files are for the main process alone; work on helper threads is for all.
    fn has_disk(&mut self, flight: &Flight) -> bool {
        let process = self.port(flight.port).map(|port| port.process);
        process == Some(MAIN) || flight.kind == OpKind::Blocking
    }

    fn open(&mut self, id: u64, path: &Path, options: OpenOptions) -> Result<Output, Errno> {
        let creates = options.create || options.create_new;
        if !options.read && !options.write {
            return Err(libc::EINVAL);
        }
        if options.direct && self.config.dio_align_bytes == 0 {
            return Err(libc::EINVAL);
        }
        let (ino, _) = self.tree.open(id, path, creates, options.create_new)?;
        let is_dir = matches!(self.tree.inode(ino)?.node, Node::Dir { .. });
        if is_dir && (options.write || creates || options.truncate) {
            return Err(libc::EISDIR);
        }
        self.tree.inode(ino)?.handles += 1;
        let raw = self.add_handle(OpenFile {
            ino,
            options,
            path: path.to_string_lossy().into_owned(),
        });
        if options.truncate {
            self.set_len(id, ino, 0)?;
        }
        Ok(Output::File(FileHandle(Arc::new(Descriptor {
            raw,
            closer: self.closer.clone(),
        }))))
    }

    fn is_misaligned(
        &mut self,
        options: OpenOptions,
        offset: u64,
        lens: impl Iterator<Item = (usize, usize)>,
    ) -> bool {
        let align = u64::from(self.config.dio_align_bytes);
        let mut lens = lens;
        let is_bad = options.direct
            && (!offset.is_multiple_of(align)
                || lens.any(|(address, len)| !(address as u64 | len as u64).is_multiple_of(align)));
        self.counters.misaligned += u64::from(is_bad);
        is_bad
    }

    fn read(&mut self, op: &mut Op, fault: Option<Fault>) -> Result<Output, Errno> {
        let Op::ReadAt {
            file,
            buf,
            offset,
            len,
        } = op
        else {
            return Err(libc::ENOSYS);
        };
        let (ino, options) = self.opened(file)?;
        let out = buf.as_mut_slice().get_mut(..*len).ok_or(libc::EFAULT)?;
        if !options.read {
            return Err(libc::EBADF);
        }
        if self.is_misaligned(
            options,
            *offset,
            std::iter::once((out.as_ptr() as usize, out.len())),
        ) {
            return Err(libc::EINVAL);
        }
        if let Some(errno) = fault_errno(fault) {
            self.counters.eio_reads += u64::from(errno == libc::EIO);
            return Err(errno);
        }
        let file = self.tree.file(ino)?;
        let mut wanted = out.len();
        if let Some(Fault::Short(bytes)) = fault {
            let bytes = if options.direct {
                (bytes / SECTOR_BYTES).max(1) * SECTOR_BYTES
            } else {
                bytes.max(1)
            };
            let available = file.size().saturating_sub(*offset).min(wanted as u64) as usize;
            if bytes < available {
                wanted = bytes;
                self.counters.short_reads += 1;
            }
        }
        let n = file.read(*offset, &mut out[..wanted]);
        if !options.direct && n > 0 {
            file.cached.extend(
                *offset / CACHE_WINDOW_BYTES..=(*offset + n as u64 - 1) / CACHE_WINDOW_BYTES,
            );
        }
        self.trace.add_bytes(&out[..n]);
        Ok(Output::Len(n))
    }

    fn write(
        &mut self,
        id: u64,
        op: &Op,
        fault: Option<Fault>,
        cut: bool,
    ) -> Result<Output, Errno> {
        let Op::WriteAt {
            file, bufs, offset, ..
        } = op
        else {
            return Err(libc::ENOSYS);
        };
        let (ino, options) = self.writable(file)?;
        let mut len: usize = bufs.iter().map(Bytes::len).sum();
        if bufs.len() > BUFS_MAX {
            return Err(libc::EINVAL);
        }
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > OFFSET_MAX)
        {
            return Err(libc::EFBIG);
        }
        if self.is_misaligned(
            options,
            *offset,
            bufs.iter().map(|buf| (buf.as_ptr() as usize, buf.len())),
        ) {
            return Err(libc::EINVAL);
        }
        if len == 0 {
            return Ok(Output::Len(0));
        }
        if fault == Some(Fault::NoSpace) {
            self.counters.no_space += 1;
            return Err(libc::ENOSPC);
        }
        if let Some(Fault::Short(bytes)) = fault {
            let bytes = if options.direct {
                (bytes / SECTOR_BYTES).max(1) * SECTOR_BYTES
            } else {
                bytes.max(1)
            };
            self.counters.short_writes += u64::from(bytes < len);
            len = len.min(bytes);
        }
        len = self.take_space(ino, *offset, len)?;
        let cause = self.cause(id);
        if fault == Some(Fault::Eio) {
            self.counters.eio_writes += 1;
            let (survival, rng) = (self.rng.survival(), &mut self.rng);
            self.tree
                .file(ino)?
                .write(cause, *offset, bufs, len, |_| rng.of_256(survival));
            return Err(libc::EIO);
        }
        if cut {
            self.counters.cut_writes += 1;
            let sectors = (len as u64).div_ceil(SECTOR_BYTES as u64);
            let rng = &mut self.crash_rng;
            let (prefix, is_prefix) = (rng.below(sectors), rng.of_256(128));
            let keep = |sector| {
                if is_prefix {
                    sector < prefix
                } else {
                    rng.of_256(128)
                }
            };
            self.tree.file(ino)?.write(cause, *offset, bufs, len, keep);
            return Err(libc::EIO); // Nobody will hear of it.
        }
        let file = self.tree.file(ino)?;
        file.write(cause, *offset, bufs, len, |_| true);
        if !options.direct {
            file.cached.extend(
                *offset / CACHE_WINDOW_BYTES..=(*offset + len as u64 - 1) / CACHE_WINDOW_BYTES,
            );
        }
        Ok(Output::Len(len))
    }

    /// Allocates what a write needs; returns how much of it has room.
    fn take_space(&mut self, ino: Ino, offset: u64, len: usize) -> Result<usize, Errno> {
        let (first, end) = (
            offset / PAGE_BYTES,
            (offset + len as u64).div_ceil(PAGE_BYTES),
        );
        let free = self.free_pages();
        let file = self.tree.file(ino)?;
        let (missing, affordable_end) = file.missing_pages(first, end, free);
        let (end, len) = if missing <= free {
            (end, len)
        } else {
            let fits = (affordable_end * PAGE_BYTES)
                .saturating_sub(offset)
                .min(len as u64) as usize;
            self.counters.no_space += 1;
            (affordable_end, fits)
        };
        if len == 0 {
            return Err(libc::ENOSPC);
        }
        let new_pages = file.allocate(first, end);
        self.tree.used_pages += new_pages;
        Ok(len)
    }

    fn free_pages(&self) -> u64 {
        (self.config.capacity_bytes / PAGE_BYTES).saturating_sub(self.tree.used_pages)
    }

    fn flush(
        &mut self,
        op: &Op,
        covered_seq: u64,
        fault: Option<Fault>,
        cut: bool,
    ) -> Result<Output, Errno> {
        let ino = match op {
            Op::Fdatasync { file } => self.opened(file)?.0,
            Op::SyncDir { path } => self.tree.resolve(path)?,
            _ => return Err(libc::ENOSYS),
        };
        let is_dir = matches!(self.tree.inode(ino)?.node, Node::Dir { .. });
        if is_dir != matches!(op, Op::SyncDir { .. }) && !is_dir {
            return Err(libc::ENOTDIR);
        }
        if let Some(errno) = fault_errno(fault) {
            self.counters.eio_flushes += u64::from(errno == libc::EIO);
            match self.tree.file(ino) {
                Ok(file) => file.poison(covered_seq),
                Err(_) => self.tree.poison_dir(ino, covered_seq),
            }
            return Err(errno);
        }
        let sizes_too = !cut || self.crash_rng.of_256(128);
        let rng = &mut self.crash_rng;
        let keep = || !cut || rng.of_256(128);
        if is_dir {
            self.tree.sync_dir(ino, covered_seq, keep);
        } else {
            self.tree.file(ino)?.flush(covered_seq, sizes_too, keep);
        }
        Ok(Output::Unit)
    }

    fn fallocate(
        &mut self,
        id: u64,
        handle: &FileHandle,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<Output, Errno> {
        let (ino, _) = self.writable(handle)?;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= OFFSET_MAX)
            .ok_or(libc::EFBIG)?;
        if len == 0 {
            return Err(libc::EINVAL);
        }
        if mode == FallocateMode::WriteZeroes && !self.config.write_zeroes {
            return Err(libc::EOPNOTSUPP);
        }
        if mode == FallocateMode::KeepSize && offset == 0 && len == PAGE_BYTES {
            self.await_direct_writes(id, ino);
        }
        let (first, end_page) = (offset / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
        let free = self.free_pages();
        let cause = self.cause(id);
        let file = self.tree.file(ino)?;
        if file.missing_pages(first, end_page, free).0 > free {
            self.counters.no_space += 1;
            return Err(libc::ENOSPC);
        }
        let new_pages = file.allocate(first, end_page);
        match mode {
            FallocateMode::KeepSize => {}
            FallocateMode::Extend => file.extend(cause, end),
            FallocateMode::WriteZeroes => {
                file.write_zeroes(cause, offset, len);
                file.extend(cause, end);
            }
        }
        self.tree.used_pages += new_pages;
        Ok(Output::Unit)
    }

    /// The recovery barrier: direct writes to the file, of dead processes and of this one, land first.
    fn await_direct_writes(&mut self, before_id: u64, ino: Ino) {
        self.apply_late(ino, true);
        let is_direct_write_here = |op: &Op| match op {
            Op::WriteAt { file, .. } => self
                .handle(file.0.raw)
                .is_some_and(|open| open.ino == ino && open.options.direct),
            _ => false,
        };
        let waiting = self.flights.ids(|id, f| {
            id < before_id
                && !f.is_queued
                && f.outcome.is_none()
                && f.crash.is_none()
                && is_direct_write_here(&f.op)
        });
        for id in waiting {
            self.take_effect(id);
        }
    }

    fn truncate(&mut self, id: u64, handle: &FileHandle, len: u64) -> Result<Output, Errno> {
        let (ino, _) = self.writable(handle)?;
        if len > OFFSET_MAX {
            return Err(libc::EINVAL);
        }
        self.set_len(id, ino, len)
    }

    fn set_len(&mut self, id: u64, ino: Ino, len: u64) -> Result<Output, Errno> {
        let cause = self.cause(id);
        let freed = self.tree.file(ino)?.set_len(cause, len);
        self.tree.used_pages -= freed.min(self.tree.used_pages);
        Ok(Output::Unit)
    }

    /// Touches the page cache alone, never data.
    fn advise(
        &mut self,
        handle: &FileHandle,
        advice: Advice,
        offset: u64,
        len: u64,
    ) -> Result<Output, Errno> {
        let (ino, _) = self.opened(handle)?;
        if offset > OFFSET_MAX || len > OFFSET_MAX {
            return Err(libc::EINVAL);
        }
        let file = self.tree.file(ino)?;
        let size = file.size();
        let end = match len {
            0 => size,
            len => offset.saturating_add(len).min(size),
        };
        match advice {
            Advice::Normal | Advice::Random => {}
            Advice::WillNeed => file
                .cached
                .extend(offset / CACHE_WINDOW_BYTES..end.div_ceil(CACHE_WINDOW_BYTES)),
            // Only what lies wholly in the range goes.
            Advice::DontNeed => file.cached.retain(|window| {
                let begins = window * CACHE_WINDOW_BYTES;
                begins < offset || (begins + CACHE_WINDOW_BYTES).min(size) > end
            }),
        }
        Ok(Output::Unit)
    }

    /// Bytes of a file for sendfile, and whether the page cache has all of them.
    pub(super) fn cached_bytes(
        &mut self,
        ino: Ino,
        offset: u64,
        len: usize,
    ) -> Result<(Vec<u8>, bool), Errno> {
        self.apply_late(ino, false);
        let file = self.tree.file(ino)?;
        let len = file.size().saturating_sub(offset).min(len as u64) as usize;
        let mut out = vec![0; len];
        file.read(offset, &mut out);
        let end = offset + len as u64;
        let mut windows = offset / CACHE_WINDOW_BYTES..end.div_ceil(CACHE_WINDOW_BYTES);
        Ok((out, windows.all(|window| file.cached.contains(&window))))
    }

    fn stat(&mut self, ino: Ino) -> Result<Output, Errno> {
        self.apply_late(ino, false);
        let align = self.config.dio_align_bytes;
        let stat = match self.tree.file(ino) {
            Ok(file) => Stat {
                len: file.size(),
                dio_offset_align: align,
                dio_mem_align: align,
                modified_ms: file.modified_ms,
                ..Stat::default()
            },
            Err(_) => Stat {
                is_dir: true,
                ..Stat::default()
            },
        };
        Ok(Output::Stat(stat))
    }

    fn stat_fs(&mut self, path: &Path) -> Result<Output, Errno> {
        self.tree.resolve(path)?;
        Ok(Output::Stat(Stat {
            free_bytes: self.free_pages() * PAGE_BYTES,
            total_bytes: self.config.capacity_bytes,
            ..Stat::default()
        }))
    }
}

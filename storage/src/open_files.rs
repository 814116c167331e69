//! Which segment files a shard keeps open: the least recently used ones are closed first.
//!
//! A closed file is opened again by whoever needs it next, so that closing changes speed alone.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::log::{LogInner, OpenSegment, SegmentFile};

/// Descriptors of a sealed segment that is read: a direct one and a buffered one.
const SEALED_DESCRIPTORS: usize = 2;
/// Files looked at in one go, so that nobody waits while all of many are at work.
const TRIES_MAX: usize = 64;

/// A file that may be open.
enum Kept {
    /// Readers open it.
    Sealed(Arc<SegmentFile>),
    /// Belongs to its log, which opens it again.
    Active(Weak<LogInner>, Weak<OpenSegment>),
}

impl Kept {
    fn descriptors(&self) -> usize {
        match self {
            Self::Sealed(_) => SEALED_DESCRIPTORS,
            Self::Active(..) => 1,
        }
    }
}

/// The files of one shard in the order of their last use.
#[derive(Default)]
pub(crate) struct OpenFiles {
    kept: BTreeMap<u64, Kept>,
    descriptors: usize,
    last_use: u64,
}

/// Logs whose files should be closed and must be flushed before.
pub(crate) type ToFlush = Vec<Rc<LogInner>>;

impl OpenFiles {
    /// Descriptors of the files kept open, about.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// True when noting a use would change little: the file is among those used last.
    pub fn is_fresh(&self, file: &SegmentFile) -> bool {
        let used = file.last_use();
        used > 0 && used + self.kept.len() as u64 / 2 >= self.last_use
    }

    /// A sealed file is in use.
    pub fn use_sealed(&mut self, file: &Arc<SegmentFile>) {
        self.put(file, Kept::Sealed(file.clone()));
    }

    /// The file of a segment that is not sealed was opened, or is in use.
    pub fn use_active(&mut self, log: &Rc<LogInner>, segment: &Rc<OpenSegment>) {
        let kept = Kept::Active(Rc::downgrade(log), Rc::downgrade(segment));
        self.put(&segment.shared, kept);
    }

    fn put(&mut self, file: &SegmentFile, kept: Kept) {
        self.forget(file);
        self.last_use += 1;
        file.set_last_use(self.last_use);
        self.descriptors += kept.descriptors();
        self.kept.insert(self.last_use, kept);
    }

    /// The file is closed, or will be by whoever holds it.
    pub fn forget(&mut self, file: &SegmentFile) {
        if let Some(kept) = self.kept.remove(&file.last_use()) {
            self.descriptors -= kept.descriptors();
        }
        file.set_last_use(0);
    }

    /// Closes what was not used for longest until at most `limit` descriptors are open, but for
    /// files at work; looks at a few at a time. With `is_buffered` a file closes only once it is flushed: the kernel tells of
    /// a failed write-back through descriptors that were open, and nobody else.
    pub fn shrink(&mut self, limit: usize, is_buffered: bool) -> ToFlush {
        let mut to_flush = Vec::new();
        let mut tries = self.kept.len().min(TRIES_MAX);
        while self.descriptors > limit && tries > 0 {
            tries -= 1;
            let Some((_, kept)) = self.kept.pop_first() else {
                break;
            };
            self.descriptors -= kept.descriptors();
            match &kept {
                Kept::Sealed(file) => {
                    // A reader that comes to nothing keeps the file's bytes promised, not its
                    // descriptors.
                    file.set_last_use(0);
                    file.close();
                }
                Kept::Active(log, segment) => {
                    let Some((log, segment)) = log.upgrade().zip(segment.upgrade()) else {
                        continue;
                    };
                    let unflushed = is_buffered && !segment.is_flushed();
                    if segment.is_at_work() || unflushed {
                        self.last_use += 1;
                        segment.shared.set_last_use(self.last_use);
                        self.descriptors += kept.descriptors();
                        self.kept.insert(self.last_use, kept);
                        to_flush.extend(unflushed.then_some(log));
                    } else {
                        segment.shared.set_last_use(0);
                        segment.shared.close();
                    }
                }
            }
        }
        to_flush
    }
}

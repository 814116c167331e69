//! One 4 KiB page of a simulated file: what is seen now, what is durable, and every version between.

use std::sync::{Arc, LazyLock};

use super::rng::Rng;

pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const SECTOR_BYTES: usize = 512;

/// Its completion has not been handed out: no flush covers it.
pub(super) const IN_FLIGHT: u64 = u64::MAX;
/// A flush that should have covered it failed: no later flush of this process covers it.
pub(super) const POISONED: u64 = u64::MAX - 1;

/// Versions kept per page; beyond it the device writes the oldest back, which it always may.
const VERSIONS_MAX: usize = 8;

pub(super) type Block = [u8; PAGE_BYTES as usize];

static ZERO: LazyLock<Arc<Block>> = LazyLock::new(|| Arc::new([0; PAGE_BYTES as usize]));

pub(super) fn zero_block() -> Arc<Block> {
    ZERO.clone()
}

/// A state of the page that is not durable yet.
struct Version {
    /// Operation that made it.
    op: u64,
    /// Place in the order of effects.
    order: u64,
    /// Sequence number of its completion, or [`IN_FLIGHT`], [`POISONED`].
    completed: u64,
    /// Sectors it touched, bit 0 = first.
    mask: u8,
    /// Made by a truncation, which persists with the size and not by itself.
    truncate: bool,
    data: Arc<Block>,
}

pub(super) struct Page {
    current: Arc<Block>,
    /// What power loss cannot take.
    base: Arc<Block>,
    /// In the order of effects.
    versions: Vec<Version>,
}

/// What power loss did to the sectors of a page.
#[derive(Default)]
pub(super) struct Toll {
    pub(super) kept: u64,
    pub(super) lost: u64,
}

fn sectors(mask: u8) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..8usize)
        .filter(move |bit| mask & (1 << bit) != 0)
        .map(|bit| bit * SECTOR_BYTES..(bit + 1) * SECTOR_BYTES)
}

impl Page {
    pub(super) fn hole() -> Page {
        Page {
            current: zero_block(),
            base: zero_block(),
            versions: Vec::new(),
        }
    }

    pub(super) fn current(&self) -> &Block {
        &self.current
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.versions.is_empty()
    }

    /// A settled page of zeros needs no memory.
    pub(super) fn is_settled_hole(&self) -> bool {
        self.versions.is_empty() && Arc::ptr_eq(&self.base, &ZERO)
    }

    /// A copy of what is seen, to be changed and pushed.
    pub(super) fn copy(&self) -> Arc<Block> {
        let mut copy = self.current.clone();
        Arc::make_mut(&mut copy);
        copy
    }

    /// Makes `data` the content seen from now on; only the sectors of `mask` differ in origin.
    pub(super) fn push(
        &mut self,
        op: u64,
        order: u64,
        mask: u8,
        truncate: bool,
        mut data: Arc<Block>,
    ) {
        if data[..64] == [0; 64] && *data == **ZERO {
            data = zero_block();
        }
        self.current = data.clone();
        self.versions.push(Version {
            op,
            order,
            completed: IN_FLIGHT,
            mask,
            truncate,
            data,
        });
        if self.versions.len() > VERSIONS_MAX && !self.versions[0].truncate {
            let oldest = self.versions.remove(0);
            let base = Arc::make_mut(&mut self.base);
            for range in sectors(oldest.mask) {
                base[range.clone()].copy_from_slice(&oldest.data[range]);
            }
        }
    }

    /// Marks what `op` did here (or everything, for `None`) as completed at `seq`.
    pub(super) fn complete(&mut self, op: Option<u64>, seq: u64) {
        for version in &mut self.versions {
            let is_open =
                version.completed == IN_FLIGHT || (op.is_none() && version.completed == POISONED);
            if is_open && op.is_none_or(|op| version.op == op) {
                version.completed = seq;
            }
        }
    }

    /// A failed flush: what it should have covered stays volatile.
    pub(super) fn poison(&mut self, covered_seq: u64) {
        for version in &mut self.versions {
            if version.completed <= covered_seq {
                version.completed = POISONED;
            }
        }
    }

    /// A flush: completed at or before `covered_seq` = durable. Without `sizes_too` a truncation,
    /// and what came on top of it, has to wait for the size.
    pub(super) fn settle_completed(&mut self, covered_seq: u64, sizes_too: bool) {
        let truncated = self.versions.iter().find(|version| version.truncate);
        let limit = truncated
            .filter(|_| !sizes_too)
            .map_or(u64::MAX, |version| version.order);
        self.settle(|version| version.completed <= covered_seq && version.order < limit);
    }

    /// A write that is durable by itself.
    pub(super) fn settle_op(&mut self, op: u64) {
        self.settle(|version| version.op == op);
    }

    fn settle(&mut self, covered: impl Fn(&Version) -> bool) {
        if self.versions.iter().all(&covered) {
            self.versions.clear();
            self.base = self.current.clone();
            return;
        }
        // Per sector the last covered version wins, and hides all older ones.
        let mut done = 0u8;
        for version in self.versions.iter_mut().rev() {
            if covered(version) {
                let fresh = version.mask & !done;
                if fresh != 0 {
                    let base = Arc::make_mut(&mut self.base);
                    for range in sectors(fresh) {
                        base[range.clone()].copy_from_slice(&version.data[range]);
                    }
                }
                done |= version.mask;
                version.mask = 0;
            } else {
                version.mask &= !done;
            }
        }
        self.versions.retain(|version| version.mask != 0);
    }

    /// Power loss: each sector becomes the durable one or one of its versions, whole. Truncations
    /// up to `persisted_order` happened, later ones (and what came on top of them) did not.
    pub(super) fn lose_power(
        &mut self,
        persisted_order: u64,
        survival: u32,
        rng: &mut Rng,
    ) -> Toll {
        let mut toll = Toll::default();
        let mut out: Option<Block> = None;
        for bit in 0..8usize {
            let mut choice: Option<&Version> = None;
            let mut last: Option<&Version> = None;
            for version in self.versions.iter().filter(|v| v.mask & (1 << bit) != 0) {
                if version.truncate {
                    if version.order > persisted_order {
                        break;
                    }
                    (choice, last) = (Some(version), Some(version));
                } else {
                    last = Some(version);
                    if rng.of_256(survival) {
                        choice = Some(version);
                    }
                }
            }
            match (choice, last) {
                (Some(choice), Some(last)) if choice.order == last.order => toll.kept += 1,
                (_, Some(_)) => toll.lost += 1,
                _ => {}
            }
            if let Some(version) = choice {
                let range = bit * SECTOR_BYTES..(bit + 1) * SECTOR_BYTES;
                out.get_or_insert_with(|| *self.base)[range.clone()]
                    .copy_from_slice(&version.data[range]);
            }
        }
        self.versions.clear();
        if let Some(out) = out {
            self.base = if out == **ZERO {
                zero_block()
            } else {
                Arc::new(out)
            };
        }
        self.current = self.base.clone();
        toll
    }

    /// Settled content from outside (damage by a test, zeroed tail after power loss).
    pub(super) fn set_settled(&mut self, edit: impl Fn(&mut Block)) {
        edit(Arc::make_mut(&mut self.base));
        edit(Arc::make_mut(&mut self.current));
        for version in &mut self.versions {
            edit(Arc::make_mut(&mut version.data));
        }
    }
}

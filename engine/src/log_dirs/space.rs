//! Full disks: ordinary appends are refused, the broker's own go on out of the reserve, and a probe
//! finds out when there is space again.

use std::rc::Rc;
use std::time::Duration;

use corelog_storage::guard::is_device_error;
use corelog_storage::log::is_no_space;
use corelog_storage::log_dir::LogDir;

use super::{Found, LogDirs};
use crate::shard::Shard;
use crate::shard::dirs::DirNews;

/// First and longest pause between two probes of a full disk.
const PROBE_MIN: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_secs(2);
/// The reserve where nothing is configured, and its largest part of the file system.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_PART: u64 = 64;
/// A disk is not full any more when so much could be had beside the reserve.
const SPARE_BYTES: u64 = 1 << 20;

impl LogDirs {
    /// Makes the reserves, before anything else takes room. A disk too full for one is full.
    pub async fn make_reserves(&self, shard: &Rc<Shard>) {
        for at in 0..self.dirs.len() {
            let Some(open) = self.dirs[at].online().map(Rc::clone) else {
                continue;
            };
            let weak = Rc::downgrade(shard);
            open.on_release(Rc::new(move || {
                if let Some(shard) = weak.upgrade() {
                    super::report(&shard, at, Found::NoSpace);
                }
            }));
            let configured = shard.start_config.disk_reserve_bytes;
            let bytes = match (configured, shard.rt.statfs(open.path()).await) {
                (Some(bytes), _) => bytes,
                (None, Ok(stat)) => RESERVE_BYTES.min(stat.total_bytes / RESERVE_PART),
                (None, Err(_)) => RESERVE_BYTES,
            };
            if let Err(error) = open.set_reserve(bytes).await {
                let held = open.reserve_bytes();
                tracing::warn!(dir = %open.path().display(), %error, bytes, held,
                    "the reserve for a full disk could not be made");
                if is_no_space(&error) {
                    self.note_full(shard, at);
                } else if is_device_error(&error) {
                    self.fail(shard, at, &format!("reserve: {error}").into());
                }
            }
        }
    }

    /// Room was refused in a directory: appends are refused from now on, until a probe finds room.
    pub fn note_full(&self, shard: &Rc<Shard>, at: usize) {
        let Some(dir) = self.dirs.get(at) else {
            return;
        };
        let Some(open) = dir.online().map(Rc::clone) else {
            return;
        };
        if dir.full.replace(true) {
            return;
        }
        tracing::error!(dir = %dir.path.display(), reserve_bytes = open.reserve_bytes(),
            "the disk is full: appends are refused until there is space again");
        self.announce(shard, &DirNews::Full(at, true));
        let shard = Rc::clone(shard);
        shard.clone().spawn("disk_space_probe", async move {
            let mut pause = PROBE_MIN;
            loop {
                shard.rt.sleep(pause).await;
                pause = (pause * 2).min(PROBE_MAX);
                let dirs = shard.log_dirs.borrow().clone();
                let Some(dirs) = dirs else { return };
                if shard.stopping.get() || dirs.dirs[at].online().is_none() {
                    return;
                }
                if has_space(&shard, &open).await {
                    dirs.note_space(&shard, at);
                    return;
                }
            }
        });
    }

    fn note_space(&self, shard: &Rc<Shard>, at: usize) {
        let dir = &self.dirs[at];
        dir.full.set(false);
        tracing::info!(dir = %dir.path.display(), "there is space on the disk again: appends are taken");
        self.announce(shard, &DirNews::Full(at, false));
    }

    /// Gives part of a directory's reserve back, for something that must be written. False when
    /// nothing is left.
    pub async fn release(&self, at: usize) -> bool {
        let open = self
            .dirs
            .get(at)
            .and_then(|dir| dir.online().map(Rc::clone));
        match open {
            Some(open) => open.release_reserve().await,
            None => false,
        }
    }
}

/// The reserve is whole again, and more could be had.
async fn has_space(shard: &Shard, open: &LogDir) -> bool {
    match open.refill_reserve(SPARE_BYTES).await {
        Ok(()) => true,
        Err(error) if is_no_space(&error) => false,
        // A file system that keeps no reserve is asked instead.
        Err(_) => {
            let stat = shard.rt.statfs(open.path()).await;
            stat.is_ok_and(|stat| stat.free_bytes >= SPARE_BYTES)
        }
    }
}

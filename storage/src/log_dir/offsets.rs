//! The offset checkpoints of a log directory: recovery points, high watermarks, log starts.
//!
//! An offset goes up by what is gathered from the logs now and then, or by a raise; it goes down by
//! `lower`, `forget` and `take_over` alone, which make void what was gathered before them.

use std::cell::RefCell;

use super::{LogDir, LogDirError};
use crate::checkpoint_files::{
    self as files, HIGH_WATERMARKS, LOG_STARTS, OffsetMap, RECOVERY_POINTS,
};

/// A log start to be made durable.
#[derive(Clone)]
struct Raise {
    number: u64,
    key: (String, i32),
    log_start: i64,
    recovery_point: i64,
}

/// Log starts that wait to be made durable, and those that were, by their numbers.
#[derive(Default)]
pub(super) struct Raises {
    waiting: Vec<Raise>,
    last: u64,
    done: u64,
}

impl Raises {
    /// All that wait, and the number of the last; `None` when `own` is done. They wait on until they
    /// are written: whoever writes them may end before.
    fn all_from(&self, own: u64) -> Option<(Vec<Raise>, u64)> {
        (self.done < own).then(|| (self.waiting.clone(), self.last))
    }

    /// Those up to `last` are durable.
    fn written(&mut self, last: u64) {
        self.done = last;
        self.waiting.retain(|raise| raise.number > last);
    }
}

impl LogDir {
    /// Writes these recovery points, gathered when [`LogDir::lowered`] was `as_of`; those of other
    /// partitions stay, and none goes down. Durable when it answers true; false, and nothing is
    /// written, when one was lowered since.
    pub async fn write_recovery_points(
        &self,
        offsets: &OffsetMap,
        as_of: u64,
    ) -> Result<bool, LogDirError> {
        self.merge(RECOVERY_POINTS, &self.recovery_points, offsets, as_of)
            .await
    }

    /// The same for high watermarks.
    pub async fn write_high_watermarks(
        &self,
        offsets: &OffsetMap,
        as_of: u64,
    ) -> Result<bool, LogDirError> {
        self.merge(HIGH_WATERMARKS, &self.high_watermarks, offsets, as_of)
            .await
    }

    /// The same for log start offsets.
    pub async fn write_log_starts(
        &self,
        offsets: &OffsetMap,
        as_of: u64,
    ) -> Result<bool, LogDirError> {
        self.merge(LOG_STARTS, &self.log_starts, offsets, as_of)
            .await
    }

    /// Raises the recovery point and the log start of one partition to at least these offsets, in
    /// this order; durable when it answers. To be done before files below the log start go.
    pub async fn raise_log_start(
        &self,
        topic: &str,
        partition: i32,
        log_start: i64,
        recovery_point: i64,
    ) -> Result<(), LogDirError> {
        let own = {
            let mut raises = self.raises.borrow_mut();
            raises.last += 1;
            let number = raises.last;
            raises.waiting.push(Raise {
                number,
                key: (topic.to_owned(), partition),
                log_start,
                recovery_point,
            });
            number
        };
        let _turn = self.writing.lock().await;
        // Those that came meanwhile go with one write; the one before may have taken this one along.
        let Some((all, last)) = self.raises.borrow().all_from(own) else {
            return Ok(());
        };
        let result = self.write_raises(&all).await;
        let mut raises = self.raises.borrow_mut();
        match &result {
            Ok(()) => raises.written(last),
            // The others try for themselves.
            Err(_) => raises.waiting.retain(|raise| raise.number != own),
        }
        result
    }

    async fn write_raises(&self, all: &[Raise]) -> Result<(), LogDirError> {
        self.change_now(RECOVERY_POINTS, &self.recovery_points, |map| {
            let raised = all.iter().map(|r| raise(map, &r.key, r.recovery_point));
            raised.filter(|&raised| raised).count() > 0
        })
        .await?;
        self.change_now(LOG_STARTS, &self.log_starts, |map| {
            let raised = all.iter().map(|r| raise(map, &r.key, r.log_start));
            raised.filter(|&raised| raised).count() > 0
        })
        .await
    }

    /// Lowers the recovery point and the high watermark of one partition to at most `offset`;
    /// durable when it answers. To be done before a log is cut to `offset`.
    pub async fn lower(&self, topic: &str, partition: i32, offset: i64) -> Result<(), LogDirError> {
        self.lowered.set(self.lowered.get() + 1);
        let key = (topic.to_owned(), partition);
        for (name, map) in [
            (RECOVERY_POINTS, &self.recovery_points),
            (HIGH_WATERMARKS, &self.high_watermarks),
        ] {
            let lower = |map: &mut OffsetMap| {
                let is_above = map.get(&key).is_some_and(|&at| at > offset);
                if is_above {
                    map.insert(key.clone(), offset);
                }
                is_above
            };
            self.change(name, map, None, lower).await?;
        }
        Ok(())
    }

    /// Drops partitions from every checkpoint; durable when it answers. To be done before a
    /// partition of such a name can be made again.
    pub async fn forget(&self, partitions: &[(String, i32)]) -> Result<(), LogDirError> {
        self.lowered.set(self.lowered.get() + 1);
        // In one turn: nothing that is written of a successor may be met half-way.
        let _turn = self.writing.lock().await;
        for (name, map) in self.offset_maps() {
            let is_in = |map: &OffsetMap| partitions.iter().any(|key| map.contains_key(key));
            if is_in(&map.borrow()) {
                let remove = |map: &mut OffsetMap| {
                    partitions.iter().for_each(|key| _ = map.remove(key));
                    true
                };
                self.change_now(name, map, remove).await?;
            }
        }
        Ok(())
    }

    /// A checkpoint names the partition.
    pub fn is_checkpointed(&self, partition: &(String, i32)) -> bool {
        let mut maps = self.offset_maps().into_iter();
        maps.any(|(_, map)| map.borrow().contains_key(partition))
    }

    /// Takes over what another directory knows of partitions whose files were moved from there to
    /// here: its offsets replace those that are here. Durable when it answers.
    pub async fn take_over(
        &self,
        from: &LogDir,
        partitions: &[(String, i32)],
    ) -> Result<(), LogDirError> {
        self.lowered.set(self.lowered.get() + 1);
        let _turn = self.writing.lock().await;
        for ((name, map), (_, source)) in self.offset_maps().into_iter().zip(from.offset_maps()) {
            let source = source.borrow().clone();
            let replace = |map: &mut OffsetMap| {
                let before = map.clone();
                for key in partitions {
                    match source.get(key) {
                        Some(&at) => map.insert(key.clone(), at),
                        None => map.remove(key),
                    };
                }
                *map != before
            };
            self.change_now(name, map, replace).await?;
        }
        Ok(())
    }

    fn offset_maps(&self) -> [(&'static str, &RefCell<OffsetMap>); 3] {
        [
            (RECOVERY_POINTS, &self.recovery_points),
            (HIGH_WATERMARKS, &self.high_watermarks),
            (LOG_STARTS, &self.log_starts),
        ]
    }

    /// Offsets that are above what a checkpoint says are put into it.
    async fn merge(
        &self,
        name: &'static str,
        map: &RefCell<OffsetMap>,
        offsets: &OffsetMap,
        as_of: u64,
    ) -> Result<bool, LogDirError> {
        let merge = |map: &mut OffsetMap| {
            let raised = offsets.iter().map(|(key, &at)| raise(map, key, at));
            raised.filter(|&raised| raised).count() > 0
        };
        self.change(name, map, Some(as_of), merge).await
    }

    /// Changes a checkpoint, in the order of calls; the map changes with the file. `change` says
    /// whether anything is to be written. False: something was lowered after `as_of`.
    async fn change(
        &self,
        name: &'static str,
        map: &RefCell<OffsetMap>,
        as_of: Option<u64>,
        change: impl FnOnce(&mut OffsetMap) -> bool,
    ) -> Result<bool, LogDirError> {
        let _turn = self.writing.lock().await;
        if as_of.is_some_and(|as_of| self.lowered() != as_of) {
            return Ok(false);
        }
        self.change_now(name, map, change).await.map(|()| true)
    }

    /// The caller has its turn.
    async fn change_now(
        &self,
        name: &'static str,
        map: &RefCell<OffsetMap>,
        change: impl FnOnce(&mut OffsetMap) -> bool,
    ) -> Result<(), LogDirError> {
        let mut changed = map.borrow().clone();
        if change(&mut changed) {
            let bytes = files::encode_offsets(&changed);
            self.write_now(name, bytes).await?;
            *map.borrow_mut() = changed;
        }
        Ok(())
    }
}

/// Puts an offset that is above the one in the map into it; true when it was.
fn raise(map: &mut OffsetMap, key: &(String, i32), offset: i64) -> bool {
    let is_above = map.get(key).is_none_or(|&at| at < offset);
    if is_above {
        map.insert(key.clone(), offset);
    }
    is_above
}

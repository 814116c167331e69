//! The end of deleted files: they are renamed first, and unlinked when `file.delete.delay.ms` is over.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Rt;

use crate::checkpoint_files::deleted_dir_name;
use crate::log::LogInner;
use crate::log::files::unlink_if_there;
use crate::shard::ShardStorage;

/// Unlinks what an earlier process left, in a task of its own.
pub(crate) fn unlink_in_background(rt: &Rt, shard: &Rc<ShardStorage>, paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    let (task_rt, shard) = (rt.clone(), shard.clone());
    rt.spawn("unlink deleted files", async move {
        unlink_all(&task_rt, &shard, paths).await;
    })
    .detach();
}

/// Deletes the files of a log that is not open, as [`super::Log::delete`] does: its directory is
/// renamed, durably; the files go after the delay.
pub async fn delete_unopened(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    dir: &Path,
    (topic, partition): (&str, i32),
    delay: Duration,
) -> io::Result<()> {
    let doomed = rename_doomed(rt, dir, topic, partition).await?;
    remove_dir_later(rt, shard, doomed, delay);
    Ok(())
}

/// Renames a partition's directory for deletion, durably; gives its new path.
pub(crate) async fn rename_doomed(
    rt: &Rt,
    dir: &Path,
    topic: &str,
    partition: i32,
) -> io::Result<PathBuf> {
    let parent = dir.parent().map(PathBuf::from).unwrap_or_default();
    let mut unique = [0u8; 16];
    unique[..8].copy_from_slice(&rt.random_u64().to_be_bytes());
    unique[8..].copy_from_slice(&rt.random_u64().to_be_bytes());
    let doomed = parent.join(deleted_dir_name(topic, partition, &unique));
    rt.rename(dir, &doomed).await?;
    rt.sync_dir(&parent).await?;
    Ok(doomed)
}

/// Unlinks files of a log when its `file.delete.delay.ms` is over, as it is set by then, in a task of
/// its own. What a process leaves behind that ends before, the next one removes.
pub(crate) fn unlink_later(log: &Rc<LogInner>, paths: Vec<PathBuf>) {
    let (rt, shard) = (log.rt.clone(), log.shard.clone());
    let spawner = rt.clone();
    let (log, changed) = (Rc::downgrade(log), log.config_changed.clone());
    let began = rt.now();
    let task = async move {
        let mut delay = Duration::ZERO;
        loop {
            let changed = changed.notified();
            // The last settings of a log that is gone hold.
            if let Some(log) = log.upgrade() {
                delay = Duration::from_millis(log.config.borrow().file_delete_delay_ms);
            }
            let passed = rt.now().saturating_duration_since(began);
            let left = delay.saturating_sub(passed);
            if left.is_zero() {
                break;
            }
            let _changed = rt.timeout(left, changed).await;
        }
        unlink_all(&rt, &shard, paths).await;
    };
    spawner.spawn("unlink deleted files", task).detach();
}

async fn unlink_all(rt: &Rt, shard: &ShardStorage, paths: Vec<PathBuf>) {
    for path in paths {
        match rt.unlink(&path).await {
            Ok(()) => shard.count(|c| c.files_unlinked += 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a deleted file stays until the next start");
            }
        }
    }
}

/// Removes a deleted partition's directory after a delay, in a task of its own.
pub(crate) fn remove_dir_later(rt: &Rt, shard: &Rc<ShardStorage>, dir: PathBuf, delay: Duration) {
    let (task_rt, shard) = (rt.clone(), shard.clone());
    rt.spawn("remove deleted log", async move {
        task_rt.sleep(delay).await;
        match delete_dir(&task_rt, &dir).await {
            Ok(files) => shard.count(|c| c.files_unlinked += files),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "a deleted log's directory stays until the next start");
            }
        }
    })
    .detach();
}

/// Removes a directory of files: a partition's that was renamed for deletion, also one found at
/// start. Gives their number.
pub async fn delete_dir(rt: &Rt, dir: &Path) -> io::Result<u64> {
    let mut files = 0;
    for entry in rt.read_dir(dir).await? {
        unlink_if_there(rt, &dir.join(entry.name)).await?;
        files += 1;
    }
    rt.rmdir(dir).await?;
    if let Some(parent) = dir.parent() {
        rt.sync_dir(parent).await?;
    }
    Ok(files)
}

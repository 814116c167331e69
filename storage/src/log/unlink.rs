//! The end of deleted files: they are renamed first, and unlinked when `file.delete.delay.ms` is over.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Rt;

use crate::log::files::unlink_if_there;
use crate::shard::ShardStorage;

/// Unlinks files after a delay, in a task of its own. What a process leaves behind that ends before,
/// the next one removes.
pub(crate) fn unlink_later(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    paths: Vec<PathBuf>,
    delay: Duration,
) {
    if paths.is_empty() {
        return;
    }
    let (task_rt, shard) = (rt.clone(), shard.clone());
    rt.spawn("unlink deleted files", async move {
        task_rt.sleep(delay).await;
        for path in paths {
            match task_rt.unlink(&path).await {
                Ok(()) => shard.count(|c| c.files_unlinked += 1),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a deleted file stays until the next start");
                }
            }
        }
    })
    .detach();
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

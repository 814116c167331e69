//! What the start found in the log directories, for the shards to open their partitions by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corelog_core::Uuid;
use corelog_storage::log_dir::StartKind;

/// A partition by topic name and index, as directories and checkpoint files name it.
pub type PartitionName = (String, i32);

/// What the start found. Read-only, shared by all shards.
#[derive(Debug)]
pub struct StartState {
    /// The cluster's id, from `meta.properties`.
    pub cluster_id: Arc<str>,
    /// The directories of `log.dirs`, in their order; then that of `metadata.log.dir`, if it is
    /// none of them. A place in this list names a directory everywhere in the process.
    pub dirs: Vec<StartDir>,
    /// How many of them are in `log.dirs`.
    pub log_dirs: usize,
}

/// One directory at the start.
#[derive(Debug, Default)]
pub struct StartDir {
    /// As it is configured.
    pub path: PathBuf,
    /// `directory.id`; `None` of one that could not be opened.
    pub id: Option<Uuid>,
    /// How the previous process ended.
    pub kind: Option<StartKind>,
    /// `recovery-point-offset-checkpoint`.
    pub recovery_points: BTreeMap<PartitionName, i64>,
    /// `replication-offset-checkpoint`.
    pub high_watermarks: BTreeMap<PartitionName, i64>,
    /// `log-start-offset-checkpoint`.
    pub log_starts: BTreeMap<PartitionName, i64>,
    /// Why it could not be opened.
    pub failure: Option<Arc<str>>,
}

impl StartState {
    /// The directory at this path.
    pub fn dir_at(&self, path: &Path) -> Option<usize> {
        self.dirs.iter().position(|dir| dir.path == path)
    }

    /// The directory of `log.dirs` with this id.
    pub fn dir_of(&self, id: Uuid) -> Option<usize> {
        let log_dirs = self.dirs.iter().take(self.log_dirs);
        log_dirs.into_iter().position(|dir| dir.id == Some(id))
    }
}

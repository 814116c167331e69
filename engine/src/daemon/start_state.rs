//! What the start found in the log directory, for the shards to open their partitions by.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use corelog_storage::log_dir::StartKind;

/// A partition by topic name and index, as directories and checkpoint files name it.
pub type PartitionName = (String, i32);

/// What the start found. Read-only, shared by all shards.
#[derive(Debug)]
pub struct StartState {
    /// The cluster's id, from `meta.properties`.
    pub cluster_id: Arc<str>,
    /// The log directory.
    pub log_dir: PathBuf,
    /// How the previous process ended.
    pub kind: StartKind,
    /// `recovery-point-offset-checkpoint`.
    pub recovery_points: BTreeMap<PartitionName, i64>,
    /// `replication-offset-checkpoint`.
    pub high_watermarks: BTreeMap<PartitionName, i64>,
    /// `log-start-offset-checkpoint`.
    pub log_starts: BTreeMap<PartitionName, i64>,
}

impl StartState {
    /// A checkpoint file names the partition.
    pub fn is_checkpointed(&self, name: &PartitionName) -> bool {
        let maps = [
            &self.recovery_points,
            &self.high_watermarks,
            &self.log_starts,
        ];
        maps.iter().any(|map| map.contains_key(name))
    }
}

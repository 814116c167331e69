//! Small files: checkpoints, epochs, producers, identities.

use std::fmt::Display;
use std::path::Path;

use anyhow::Result;
use corelog_record::schemas::producer_snapshot;
use corelog_runtime::blocking;
use corelog_storage::checkpoint_files::{
    MetaProperties, decode_offsets, decode_partition_metadata, encode_uuid,
};
use corelog_storage::leader_epochs::LeaderEpochs;

use super::{Findings, base_offset};

/// Reads and decodes a file; what cannot be read is damage.
fn decoded<T, E: Display>(
    path: &Path,
    findings: &mut Findings,
    decode: impl FnOnce(&str, &[u8]) -> Result<T, E>,
) -> Option<T> {
    let bytes = match blocking::read_file(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.damage(path, error);
            return None;
        }
    };
    let name = path.display().to_string();
    match decode(&name, &bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            findings.damage(path, error);
            None
        }
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// `*-offset-checkpoint`.
pub fn offsets(path: &Path, findings: &mut Findings) -> Result<()> {
    let offsets = decoded(path, findings, decode_offsets);
    for ((topic, partition), offset) in offsets.into_iter().flatten() {
        say!(
            "{} topic={topic} partition={partition} offset={offset}",
            name_of(path)
        );
    }
    Ok(())
}

/// `leader-epoch-checkpoint`.
pub fn leader_epochs(path: &Path, findings: &mut Findings) -> Result<()> {
    if let Some(epochs) = decoded(path, findings, LeaderEpochs::decode) {
        for entry in epochs.entries() {
            say!(
                "leader-epoch epoch={} start_offset={}",
                entry.epoch,
                entry.start_offset
            );
        }
    }
    Ok(())
}

/// `<offset>.snapshot`.
pub fn producer_snapshot(path: &Path, findings: &mut Findings) -> Result<()> {
    let entries = decoded(path, findings, |_, bytes| producer_snapshot::decode(bytes));
    let up_to = base_offset(path).unwrap_or(-1);
    for entry in entries.into_iter().flatten() {
        say!(
            "producer up_to={up_to} producer_id={} producer_epoch={} last_sequence={} \
             last_offset={} offset_delta={} timestamp={} coordinator_epoch={} txn_first_offset={}",
            entry.producer_id,
            entry.producer_epoch,
            entry.last_sequence,
            entry.last_offset,
            entry.offset_delta,
            entry.timestamp,
            entry.coordinator_epoch,
            entry.current_txn_first_offset,
        );
    }
    Ok(())
}

/// `meta.properties`.
pub fn meta_properties(path: &Path, findings: &mut Findings) -> Result<()> {
    if let Some(meta) = decoded(path, findings, MetaProperties::decode) {
        let directory = meta
            .directory_id
            .map_or_else(|| "none".to_owned(), |id| encode_uuid(&id));
        say!(
            "meta.properties cluster_id={} node_id={} directory_id={directory}",
            meta.cluster_id,
            meta.node_id
        );
    }
    Ok(())
}

/// `partition.metadata`.
pub fn partition_metadata(path: &Path, findings: &mut Findings) -> Result<()> {
    if let Some(id) = decoded(path, findings, decode_partition_metadata) {
        say!("partition.metadata topic_id={}", encode_uuid(&id));
    }
    Ok(())
}

//! What is read as text: checkpoints, small files of a log directory, configuration.

use corelog_core::config::keys::topic_keys;
use corelog_core::config::{AlterOp, BrokerConfig, alter_list, validate_topic_override};
use corelog_storage::checkpoint_files::{
    CleanMarker, DirName, MetaProperties, decode_offsets, decode_partition_metadata,
    encode_offsets, encode_partition_metadata, parse_dir_name, partition_dir_name,
};
use corelog_storage::leader_epochs::{LeaderEpochs, UNDEFINED_EPOCH};

use crate::memory::bounded;
use crate::take;

const SLACK_BYTES: usize = 4096;
/// `t 0 0` and its line end, six bytes, become a node of a map with a string.
const TEXT_FACTOR: usize = 64;

/// The offset checkpoints of a directory.
pub fn checkpoint(data: &[u8]) {
    let limit = TEXT_FACTOR * data.len() + SLACK_BYTES;
    if let Ok(offsets) = bounded("offsets", limit, || decode_offsets("f", data)) {
        assert_eq!(
            decode_offsets("f", &encode_offsets(&offsets)).as_ref(),
            Ok(&offsets)
        );
    }
}

/// `leader-epoch-checkpoint`, its lookups and its cuts.
pub fn leader_epochs(data: &[u8]) {
    let mut rest = data;
    let probe = i64::from_be_bytes(take::<8>(&mut rest));
    let limit = TEXT_FACTOR * rest.len() + SLACK_BYTES;
    let Ok(mut epochs) = bounded("epochs", limit, || LeaderEpochs::decode("f", rest)) else {
        return;
    };
    let again = LeaderEpochs::decode("f", &epochs.encode());
    assert_eq!(
        again.map(|epochs| epochs.entries().to_vec()).as_deref(),
        Ok(epochs.entries())
    );
    let (epoch, _) = epochs.end_offset_for(probe as i32, i64::MAX);
    assert!(epoch <= probe as i32 || epoch == UNDEFINED_EPOCH);
    let _ = epochs.epoch_for_offset(probe);
    if probe >= 0 {
        epochs.truncate_from_start(probe);
        epochs.truncate_from_end(probe.saturating_add(100));
        let again = LeaderEpochs::decode("f", &epochs.encode());
        assert!(again.is_ok(), "{again:?}");
    }
    let next = epochs.latest().map_or(0, |last| last.epoch);
    epochs.assign(next.saturating_add(1), probe.max(0));
}

/// The other small files of a log directory, and the names of its directories.
pub fn meta(data: &[u8]) {
    let limit = TEXT_FACTOR * data.len() + SLACK_BYTES;
    if let Ok(meta) = bounded("meta", limit, || MetaProperties::decode("f", data)) {
        assert_eq!(
            MetaProperties::decode("f", &meta.encode()).as_ref(),
            Ok(&meta)
        );
    }
    if let Ok(id) = bounded("partition", limit, || decode_partition_metadata("f", data)) {
        assert_eq!(
            decode_partition_metadata("f", &encode_partition_metadata(&id)),
            Ok(id)
        );
    }
    if let Ok(marker) = bounded("marker", limit, || CleanMarker::decode("f", data)) {
        assert_eq!(
            CleanMarker::decode("f", &marker.encode()).as_ref(),
            Ok(&marker)
        );
    }
    if let Ok(name) = std::str::from_utf8(data)
        && let DirName::Partition { topic, partition } = parse_dir_name(name)
    {
        assert_eq!(partition_dir_name(&topic, partition), name);
    }
}

/// `server.properties`, as the daemon reads it.
pub fn properties(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // All settings resolved take memory that does not grow with the file.
    let limit = 64 * text.len() + (256 << 10);
    let parsed = bounded("properties", limit, || BrokerConfig::parse("f", &text, &[]));
    match parsed {
        Ok((_, warnings)) => assert!(warnings.iter().all(|w| !w.to_string().is_empty())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A value of a topic config, chosen by the first byte, and a change of a list.
pub fn configs(data: &[u8]) {
    let mut rest = data;
    let [which, op] = take::<2>(&mut rest);
    let keys: Vec<_> = topic_keys().collect();
    let key = keys[usize::from(which) % keys.len()];
    let text = String::from_utf8_lossy(rest);
    let limit = 64 * text.len() + SLACK_BYTES;
    let parsed = bounded("value", limit, || key.parse(&text));
    assert_eq!(
        parsed.is_ok(),
        validate_topic_override(key.name, &text).is_ok()
    );
    match parsed {
        Ok(value) => {
            let again = key.parse(&value.canonical());
            assert_eq!(again, Ok(value), "{} of {}", text, key.name);
        }
        Err(error) => assert!(error.to_string().contains(key.name)),
    }
    if let Some(op) = AlterOp::from_id((op % 4) as i8) {
        let (current, operand) = text.split_once('|').unwrap_or((&text, ""));
        let _ = alter_list(key, Some(current), op, operand);
    }
}

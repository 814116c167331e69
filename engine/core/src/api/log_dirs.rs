//! DescribeLogDirs, versions 1 to 5.

use std::collections::{BTreeMap, BTreeSet};

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::describe_log_dirs_request::{
    DescribableLogDirTopic, DescribeLogDirsRequestData,
};
use kacrab_protocol::generated::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponseData, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

use super::text;

/// A log directory as its broker finds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogDirState {
    /// Absolute path.
    pub path: String,
    /// Bytes of its file system, and bytes free for this process; `None` when it cannot be asked.
    pub space: Option<LogDirSpace>,
    /// A log in it stopped by an I/O error, or cannot be opened.
    pub failed: bool,
    /// Its logs.
    pub logs: Vec<LogSize>,
}

/// Space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogDirSpace {
    /// All of it.
    pub total_bytes: u64,
    /// What is free for this process.
    pub usable_bytes: u64,
}

/// The log of a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogSize {
    /// Topic name.
    pub topic: String,
    /// Partition index.
    pub partition: i32,
    /// Bytes of its segments.
    pub bytes: u64,
}

/// Answers DescribeLogDirs: topics by name, partitions by index, only those that were asked for.
///
/// A directory that failed has KAFKA_STORAGE_ERROR, and still the logs that are known.
pub fn describe_log_dirs(
    request: &DescribeLogDirsRequestData,
    dirs: Vec<LogDirState>,
) -> DescribeLogDirsResponseData {
    let asked: Option<BTreeSet<(&str, i32)>> = request
        .topics
        .as_ref()
        .map(|topics| topics.iter().flat_map(partitions_of).collect());
    let results = dirs.into_iter().map(|mut dir| {
        dir.logs.sort_unstable();
        let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for log in &dir.logs {
            let name = (log.topic.as_str(), log.partition);
            if asked.as_ref().is_none_or(|asked| asked.contains(&name)) {
                topics.entry(name.0).or_default().push(
                    DescribeLogDirsPartition::default()
                        .with_partition_index(log.partition)
                        .with_partition_size(saturated(log.bytes)),
                );
            }
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            DescribeLogDirsTopic::default()
                .with_name(text(name))
                .with_partitions(partitions)
        });
        let code = if dir.failed || dir.space.is_none() {
            ErrorCode::KafkaStorageError
        } else {
            ErrorCode::None
        };
        let of_space =
            |bytes: fn(LogDirSpace) -> u64| dir.space.map_or(-1, |s| saturated(bytes(s)));
        DescribeLogDirsResult::default()
            .with_error_code(code.code())
            .with_total_bytes(of_space(|space| space.total_bytes))
            .with_usable_bytes(of_space(|space| space.usable_bytes))
            .with_topics(topics.collect())
            .with_log_dir(text(dir.path.as_str()))
    });
    DescribeLogDirsResponseData::default().with_results(results.collect())
}

fn partitions_of(topic: &DescribableLogDirTopic) -> impl Iterator<Item = (&str, i32)> {
    let partitions = topic.partitions.iter();
    partitions.map(|partition| (topic.topic.as_str(), *partition))
}

fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

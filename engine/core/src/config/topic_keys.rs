//! Rows of the topic keys.

use super::keys::{
    Bounds, ConfigKey, LONG_MAX, Synonym, Unit, boolean, double, int, list, long, string,
};

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

const fn same(name: &'static str) -> Synonym {
    Synonym { name, factor: 1 }
}

const fn times(name: &'static str, factor: i64) -> Synonym {
    Synonym { name, factor }
}

pub(super) const COMPRESSION_TYPES: &[&str] =
    &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
pub(super) const CLEANUP_POLICIES: &[&str] = &["compact", "delete"];

#[rustfmt::skip] // a table: one key, one paragraph
pub(super) static TOPIC_KEYS: &[ConfigKey] = &[
    list("cleanup.policy", "delete").bounds(Bounds::EachOf(CLEANUP_POLICIES))
        .from(&[same("log.cleanup.policy")])
        .doc("Whether old segments are deleted by age and size, compacted by key, or both; an empty list keeps everything."),
    int("compression.gzip.level", "-1").bounds(Bounds::MinusOneOr { min: 1, max: 9 }).used()
        .from(&[same("compression.gzip.level")])
        .doc("Level of gzip where the broker compresses; -1 is gzip's own default."),
    int("compression.lz4.level", "9").range(1, 17)
        .from(&[same("compression.lz4.level")])
        .doc("Level of lz4 where the broker compresses; kept and shown, there is one level here."),
    string("compression.type", "producer").one_of(COMPRESSION_TYPES).used()
        .from(&[same("compression.type")])
        .doc("Codec of stored batches; those that come with another are compressed anew, producer keeps each as it came."),
    int("compression.zstd.level", "3").range(-131_072, 22).used()
        .from(&[same("compression.zstd.level")])
        .doc("Level of zstd where the broker compresses."),
    long("delete.retention.ms", "86400000").ms().min(0)
        .from(&[same("log.cleaner.delete.retention.ms")])
        .doc("How long tombstones and transaction markers stay readable in a compacted log."),
    boolean("errors.deadletterqueue.group.enable", "false")
        .doc("Whether share groups may use the topic as a dead-letter queue."),
    long("file.delete.delay.ms", "60000").ms().min(0).used()
        .from(&[same("log.segment.delete.delay.ms")])
        .doc("How long a deleted file keeps its bytes before it is unlinked."),
    long("flush.messages", LONG_MAX).unit(Unit::Records).min(1).used()
        .from(&[same("log.flush.interval.messages")])
        .doc("Records after which the log is flushed to the device; at 1 every acknowledged record has been."),
    long("flush.ms", LONG_MAX).ms().min(0).used()
        .from(&[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")])
        .doc("Time after which an appended record is flushed to the device."),
    list("follower.replication.throttled.replicas", "").bounds(Bounds::ThrottledReplicas)
        .doc("Replicas, as partition:broker or * for all, whose fetching is throttled."),
    int("index.interval.bytes", "4096").bytes().min(0).used()
        .from(&[same("log.index.interval.bytes")])
        .doc("Bytes of log between two entries of the offset index."),
    list("leader.replication.throttled.replicas", "").bounds(Bounds::ThrottledReplicas)
        .doc("Replicas, as partition:broker or * for all, to which the leader's sending is throttled."),
    long("local.retention.bytes", "-2").bytes().min(-2)
        .from(&[same("log.local.retention.bytes")])
        .doc("Bytes kept on local disks of a tiered topic; -2 takes retention.bytes."),
    long("local.retention.ms", "-2").ms().min(-2)
        .from(&[same("log.local.retention.ms")])
        .doc("Time kept on local disks of a tiered topic; -2 takes retention.ms."),
    long("max.compaction.lag.ms", LONG_MAX).ms().min(1)
        .from(&[same("log.cleaner.max.compaction.lag.ms")])
        .doc("Longest time a record may stay uncompacted."),
    int("max.message.bytes", "1048588").bytes().min(0).used()
        .from(&[same("message.max.bytes")])
        .doc("Largest record batch that is accepted, after compression."),
    long("message.timestamp.after.max.ms", "3600000").ms().min(0).used()
        .from(&[same("log.message.timestamp.after.max.ms")])
        .doc("How far a record's CreateTime may be ahead of the broker's clock."),
    long("message.timestamp.before.max.ms", LONG_MAX).ms().min(0).used()
        .from(&[same("log.message.timestamp.before.max.ms")])
        .doc("How far a record's CreateTime may be behind the broker's clock."),
    string("message.timestamp.type", "CreateTime").one_of(TIMESTAMP_TYPES).used()
        .from(&[same("log.message.timestamp.type")])
        .doc("Whether records keep the producer's time or get the time of their append."),
    double("min.cleanable.dirty.ratio", "0.5").bounds(Bounds::Float { min: 0.0, max: 1.0 })
        .from(&[same("log.cleaner.min.cleanable.ratio")])
        .doc("Share of uncompacted bytes from which a log is compacted."),
    long("min.compaction.lag.ms", "0").ms().min(0)
        .from(&[same("log.cleaner.min.compaction.lag.ms")])
        .doc("Shortest time a record stays uncompacted."),
    int("min.insync.replicas", "1").min(1)
        .from(&[same("min.insync.replicas")])
        .doc("In-sync replicas without which writes with acks=all are refused; never more than the topic has replicas."),
    boolean("preallocate", "false")
        .from(&[same("log.preallocate")])
        .doc("Whether a new segment file takes its disk space at once."),
    boolean("remote.log.copy.disable", "false")
        .doc("Whether copying of a tiered topic to remote storage is stopped."),
    boolean("remote.log.delete.on.disable", "false")
        .doc("Whether remote segments are deleted when tiering is switched off."),
    long("remote.copy.lag.bytes", "-1").bytes().min(-1)
        .doc("Bytes a sealed segment of a tiered topic stays behind before it is copied; -1 is no delay."),
    long("remote.copy.lag.ms", "0").ms().min(-1)
        .doc("Time a sealed segment of a tiered topic waits before it is copied."),
    boolean("remote.storage.enable", "false")
        .doc("Whether the topic is tiered to remote storage."),
    long("retention.bytes", "-1").bytes().min(-1).used()
        .from(&[same("log.retention.bytes")])
        .doc("Size of a partition above which its oldest segments are deleted; -1 is no limit."),
    long("retention.ms", "604800000").ms().min(-1).used()
        .from(&[same("log.retention.ms"), times("log.retention.minutes", MINUTE_MS), times("log.retention.hours", HOUR_MS)])
        .doc("Age above which segments are deleted; -1 is no limit."),
    int("segment.bytes", "1073741824").bytes().min(1_048_576).used()
        .from(&[same("log.segment.bytes")])
        .doc("Size at which a segment file is sealed and a new one begun."),
    int("segment.index.bytes", "10485760").bytes().min(4).used()
        .from(&[same("log.index.size.max.bytes")])
        .doc("Largest size of a segment's offset index."),
    long("segment.jitter.ms", "0").ms().min(0).used()
        .from(&[same("log.roll.jitter.ms"), times("log.roll.jitter.hours", HOUR_MS)])
        .doc("Greatest random part by which segment.ms is shortened, so that not all logs roll at once."),
    long("segment.ms", "604800000").ms().min(1).used()
        .from(&[same("log.roll.ms"), times("log.roll.hours", HOUR_MS)])
        .doc("Age at which a segment file is sealed though it is not full."),
    boolean("unclean.leader.election.enable", "false")
        .from(&[same("unclean.leader.election.enable")])
        .doc("Whether a replica that is not in sync may lead when no other is left, at the price of lost records."),
    int("internal.segment.bytes", "").unset().bytes().min(1).used()
        .doc("Size of segments below the bound of segment.bytes, for tests; overrides it."),
];

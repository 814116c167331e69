//! Rows of the broker keys: our own, sockets, log.

use super::keys::{
    Bounds, ConfigKey, INT_MAX, LONG_MAX, Unit, boolean, double, int, list, long, string,
};
use super::topic_keys::{CLEANUP_POLICIES, COMPRESSION_TYPES, TIMESTAMP_TYPES};

#[rustfmt::skip] // a table: one key, one paragraph
pub(super) static BROKER_KEYS: &[ConfigKey] = &[
    // Ours.
    string("corelog.cores", "all").used()
        .doc("CPUs to run shards on: all that are allowed to the process, or a list as 0-3,6."),
    long("corelog.disk.reserve.bytes", "").unset().bytes().min(0).used()
        .doc("Space kept back in every log directory for metadata, checkpoints and internal topics, to be used when the disk is full; 0 keeps none; unset, 64 MiB, but at most a 64th of the file system."),
    string("corelog.http.listener", "127.0.0.1:9644").used()
        .doc("host:port of /metrics and /health; empty switches it off, port 0 takes any free port."),
    long("corelog.memory.bytes", "").unset().bytes().min(33_554_432).used()
        .doc("Bound of caches, pools and request memory together; unset, a quarter of the memory the process may have."),
    long("corelog.scrub.bytes.per.second", "8388608").unit(Unit::BytesPerSecond).min(0).cluster_wide().used()
        .doc("How fast sealed segments are read again to be checked for damage, all shards together; 0 is never."),
    long("corelog.scrub.interval.ms", "604800000").ms().min(1).cluster_wide().used()
        .doc("How often every sealed segment is checked; the first time within an hour of the start."),
    int("corelog.shards", "").unset().range(1, 1024).used()
        .doc("Number of shards; unset, one per core of corelog.cores."),
    string("corelog.storage.io", "direct").one_of(&["direct", "buffered"]).used()
        .doc("Whether segment files are written past the page cache (direct I/O), or through it where the file system refuses that."),

    // Sockets and threads.
    string("listeners", "PLAINTEXT://127.0.0.1:9092").bounds(Bounds::NotEmpty).used()
        .doc("Addresses to listen on, as NAME://host:port; an empty host is every interface, port 0 any free port."),
    string("advertised.listeners", "").unset().used()
        .doc("Addresses that clients are told, as NAME://host:port; unset, those of listeners."),
    string("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL").used()
        .doc("Security protocol of each listener name."),
    int("background.threads", "10").min(1).cluster_wide()
        .doc("Threads of Kafka's background work; shards have none."),
    int("connection.failed.authentication.delay.ms", "100").ms().min(0)
        .doc("How long a failed authentication is held back before the connection is closed."),
    long("connections.max.idle.ms", "600000").ms().used()
        .doc("Idle time after which a connection is closed; negative is never."),
    int("fetch.max.bytes", "57671680").bytes().min(1024).used()
        .doc("Largest answer to one Fetch."),
    int("max.connection.creation.rate", INT_MAX).min(0).cluster_wide().used()
        .doc("New connections served per second; more wait for their turn."),
    int("max.connections", INT_MAX).min(0).cluster_wide().used()
        .doc("Connections open at once."),
    int("max.connections.per.ip", INT_MAX).min(0).cluster_wide().used()
        .doc("Connections open at once from one address."),
    string("max.connections.per.ip.overrides", "").bounds(Bounds::AddressLimits).cluster_wide().used()
        .doc("Other limits for single addresses, as address:limit; names are not resolved."),
    int("max.incremental.fetch.session.cache.slots", "1000").min(0).used()
        .doc("Fetch sessions kept, shared equally by the shards."),
    int("max.request.partition.size.limit", "2000").min(1).used()
        .doc("Most partitions in one answer of DescribeTopicPartitions."),
    int("num.io.threads", "8").min(1).cluster_wide()
        .doc("Threads of Kafka's request handlers; shards have none."),
    int("num.network.threads", "3").min(1).cluster_wide()
        .doc("Threads of Kafka's network processors; shards have none."),
    int("queued.max.requests", "500").min(1)
        .doc("Requests that may wait for Kafka's request handlers; shards bound memory instead."),
    long("queued.max.request.bytes", "-1").bytes()
        .doc("Bytes of waiting requests; corelog.memory.bytes bounds them here."),
    int("request.timeout.ms", "30000").ms()
        .doc("How long the broker waits for another broker's answer."),
    int("socket.listen.backlog.size", "50").min(1).used()
        .doc("Connections the kernel queues before they are accepted."),
    int("socket.receive.buffer.bytes", "-1").bytes().min(-1).used()
        .doc("SO_RCVBUF of connections; -1 leaves it to the kernel, which lets it grow as needed (Kafka's default is 102400)."),
    int("socket.request.max.bytes", "104857600").bytes().min(1).used()
        .doc("Largest request."),
    int("socket.send.buffer.bytes", "-1").bytes().min(-1).used()
        .doc("SO_SNDBUF of connections; -1 leaves it to the kernel, which lets it grow as needed (Kafka's default is 102400)."),

    // Topics.
    boolean("auto.create.topics.enable", "true").used()
        .doc("Whether a Metadata request may create the topics it names."),
    string("auto.include.jmx.reporter", "").unset()
        .doc("Removed in Kafka 4; kept so that old files are read."),
    int("default.replication.factor", "1").range(1, 32_767).used()
        .doc("Replicas of topics that are created without a factor."),
    boolean("delete.topic.enable", "true").used()
        .doc("Whether topics may be deleted."),
    int("num.partitions", "1").min(1).used()
        .doc("Partitions of topics that are created without a count."),
    string("create.topic.policy.class.name", "").unset()
        .doc("Java class that checks new topics; never loaded."),
    string("alter.config.policy.class.name", "").unset()
        .doc("Java class that checks changed configurations; never loaded."),

    // Log: directories and flushing.
    string("log.dir", "./corelog-data").bounds(Bounds::NotEmpty).used()
        .doc("Directory of the logs, where log.dirs is not set."),
    string("log.dirs", "").unset().bounds(Bounds::NotEmpty).used()
        .doc("Directories of the logs, comma-separated; unset, log.dir."),
    list("cordoned.log.dirs", "").cluster_wide()
        .doc("Log directories that take no new partitions."),
    long("log.dir.failure.timeout.ms", "30000").ms().min(1)
        .doc("How long a failed log directory may go unreported before the broker stops."),
    long("log.flush.interval.messages", LONG_MAX).unit(Unit::Records).min(1).cluster_wide().used()
        .doc("Default of flush.messages."),
    long("log.flush.interval.ms", "").unset().ms().min(0).cluster_wide().used()
        .doc("Default of flush.ms; unset, log.flush.scheduler.interval.ms."),
    int("log.flush.offset.checkpoint.interval.ms", "60000").ms().min(0).used()
        .doc("How often recovery points are written."),
    long("log.flush.scheduler.interval.ms", LONG_MAX).ms().min(1).used()
        .doc("Default of log.flush.interval.ms; flush.ms acts here without it."),
    int("log.flush.start.offset.checkpoint.interval.ms", "60000").ms().min(0)
        .doc("How often log start offsets are written; here they are written when they change, before anybody is told."),
    long("log.initial.task.delay.ms", "30000").ms().min(0).used()
        .doc("How long after the start retention is applied first."),
    int("num.recovery.threads.per.data.dir", "2").min(1).cluster_wide()
        .doc("Threads of Kafka's recovery per directory; shards recover their own logs."),

    // Log: defaults of topic keys.
    string("compression.type", "producer").one_of(COMPRESSION_TYPES).cluster_wide().used()
        .doc("Default of compression.type."),
    int("compression.gzip.level", "-1").bounds(Bounds::MinusOneOr { min: 1, max: 9 }).cluster_wide().used()
        .doc("Default of compression.gzip.level."),
    int("compression.lz4.level", "9").range(1, 17).cluster_wide()
        .doc("Default of compression.lz4.level."),
    int("compression.zstd.level", "3").range(-131_072, 22).cluster_wide().used()
        .doc("Default of compression.zstd.level."),
    list("log.cleanup.policy", "delete").bounds(Bounds::EachOf(CLEANUP_POLICIES)).cluster_wide()
        .doc("Default of cleanup.policy."),
    int("log.index.interval.bytes", "4096").bytes().min(0).cluster_wide().used()
        .doc("Default of index.interval.bytes."),
    int("log.index.size.max.bytes", "10485760").bytes().min(4).cluster_wide().used()
        .doc("Default of segment.index.bytes."),
    long("log.local.retention.bytes", "-2").bytes().min(-2).cluster_wide()
        .doc("Default of local.retention.bytes."),
    long("log.local.retention.ms", "-2").ms().min(-2).cluster_wide()
        .doc("Default of local.retention.ms."),
    long("log.message.timestamp.after.max.ms", "3600000").ms().min(0).cluster_wide().used()
        .doc("Default of message.timestamp.after.max.ms."),
    long("log.message.timestamp.before.max.ms", LONG_MAX).ms().min(0).cluster_wide().used()
        .doc("Default of message.timestamp.before.max.ms."),
    string("log.message.timestamp.type", "CreateTime").one_of(TIMESTAMP_TYPES).cluster_wide().used()
        .doc("Default of message.timestamp.type."),
    boolean("log.preallocate", "false").cluster_wide()
        .doc("Default of preallocate."),
    long("log.retention.bytes", "-1").bytes().min(-1).cluster_wide().used()
        .doc("Default of retention.bytes."),
    long("log.retention.check.interval.ms", "300000").ms().min(1).used()
        .doc("How often retention is applied."),
    int("log.retention.hours", "168").unit(Unit::Hours).min(-1).used()
        .doc("Default of retention.ms, in hours."),
    int("log.retention.minutes", "").unset().unit(Unit::Minutes).min(-1).used()
        .doc("Default of retention.ms, in minutes; goes before log.retention.hours."),
    long("log.retention.ms", "").unset().ms().min(-1).cluster_wide().used()
        .doc("Default of retention.ms; goes before minutes and hours."),
    int("log.roll.hours", "168").unit(Unit::Hours).min(1).used()
        .doc("Default of segment.ms, in hours."),
    int("log.roll.jitter.hours", "0").unit(Unit::Hours).min(0).used()
        .doc("Default of segment.jitter.ms, in hours."),
    long("log.roll.jitter.ms", "").unset().ms().min(0).cluster_wide().used()
        .doc("Default of segment.jitter.ms; goes before hours."),
    long("log.roll.ms", "").unset().ms().min(1).cluster_wide().used()
        .doc("Default of segment.ms; goes before hours."),
    int("log.segment.bytes", "1073741824").bytes().min(1_048_576).cluster_wide().used()
        .doc("Default of segment.bytes."),
    long("log.segment.delete.delay.ms", "60000").ms().min(0).cluster_wide().used()
        .doc("Default of file.delete.delay.ms."),
    int("message.max.bytes", "1048588").bytes().min(0).cluster_wide().used()
        .doc("Default of max.message.bytes."),
    int("min.insync.replicas", "1").min(1).cluster_wide()
        .doc("Default of the topics' min.insync.replicas."),
    boolean("unclean.leader.election.enable", "false").cluster_wide()
        .doc("Default of the topics' unclean.leader.election.enable."),

    // Cleaner.
    long("log.cleaner.backoff.ms", "15000").ms().min(0).cluster_wide()
        .doc("How long the cleaner sleeps when there is nothing to clean."),
    long("log.cleaner.dedupe.buffer.size", "134217728").bytes().cluster_wide()
        .doc("Memory of the cleaner's map of keys."),
    long("log.cleaner.delete.retention.ms", "86400000").ms().min(0).cluster_wide()
        .doc("Default of delete.retention.ms."),
    boolean("log.cleaner.enable", "true")
        .doc("Whether compaction runs."),
    double("log.cleaner.io.buffer.load.factor", "0.9").cluster_wide()
        .doc("How full the cleaner's map of keys may get."),
    int("log.cleaner.io.buffer.size", "524288").bytes().min(0).cluster_wide()
        .doc("Memory of the cleaner's reads and writes."),
    double("log.cleaner.io.max.bytes.per.second", "1.7976931348623157E308").unit(Unit::BytesPerSecond).cluster_wide()
        .doc("Bytes the cleaner may read and write per second."),
    long("log.cleaner.max.compaction.lag.ms", LONG_MAX).ms().min(1).cluster_wide()
        .doc("Default of max.compaction.lag.ms."),
    double("log.cleaner.min.cleanable.ratio", "0.5").bounds(Bounds::Float { min: 0.0, max: 1.0 }).cluster_wide()
        .doc("Default of min.cleanable.dirty.ratio."),
    long("log.cleaner.min.compaction.lag.ms", "0").ms().min(0).cluster_wide()
        .doc("Default of min.compaction.lag.ms."),
    int("log.cleaner.threads", "1").min(0).cluster_wide()
        .doc("Threads of Kafka's cleaner."),
];

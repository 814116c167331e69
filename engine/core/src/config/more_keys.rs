//! Rows of the broker keys: cluster, replication, coordinators, quotas; and security.

use super::keys::{
    Bounds, ConfigKey, INT_MAX, LONG_MAX, Unit, boolean, double, int, list, long, password, short,
    string,
};

#[rustfmt::skip] // a table: one key, one paragraph
pub(super) static CLUSTER_KEYS: &[ConfigKey] = &[
    // The node and the quorum.
    int("node.id", "1").min(0).used()
        .doc("Number of this node, unique in the cluster."),
    int("broker.id", "").unset().min(0).used()
        .doc("Older name of node.id."),
    boolean("broker.id.generation.enable", "false")
        .doc("Removed in Kafka 4; kept so that old files are read."),
    string("broker.rack", "").unset().used()
        .doc("Rack of this node, as clients are told."),
    list("process.roles", "broker,controller").bounds(Bounds::EachOf(&["broker", "controller"])).used()
        .doc("What this node is: broker, controller or both."),
    list("controller.quorum.voters", "").used()
        .doc("Controllers, as id@host:port."),
    list("controller.quorum.bootstrap.servers", "").used()
        .doc("Addresses where controllers are found."),
    list("controller.listener.names", "").used()
        .doc("Listeners of the controller: not for clients; they stay closed on a cluster of one."),
    boolean("controller.quorum.auto.join.enable", "false")
        .doc("Whether a controller joins the quorum by itself."),
    int("controller.quorum.election.timeout.ms", "1000").ms()
        .doc("How long a controller waits for its election before it tries again."),
    int("controller.quorum.election.backoff.max.ms", "1000").ms()
        .doc("Greatest random wait between two elections."),
    int("controller.quorum.fetch.timeout.ms", "2000").ms()
        .doc("How long without a leader before a controller stands for election."),
    int("controller.quorum.append.linger.ms", "25").ms()
        .doc("How long the leader gathers metadata records before it writes them."),
    int("controller.quorum.request.timeout.ms", "2000").ms()
        .doc("How long a controller waits for another one's answer."),
    int("controller.quorum.retry.backoff.ms", "20").ms()
        .doc("How long a controller waits before it repeats a request."),
    int("controller.socket.timeout.ms", "30000").ms()
        .doc("Time-out of connections to the controller."),
    int("broker.heartbeat.interval.ms", "2000").ms()
        .doc("How often a broker tells the controller that it is alive."),
    int("broker.session.timeout.ms", "9000").ms()
        .doc("Silence after which the controller takes a broker for dead."),
    int("initial.broker.registration.timeout.ms", "60000").ms()
        .doc("How long a starting broker tries to register."),
    string("metadata.log.dir", "").unset().used()
        .doc("Directory of the metadata log; unset, the first log directory."),
    int("metadata.log.segment.bytes", "1073741824").bytes().min(12)
        .doc("Size of a file of the metadata log."),
    long("metadata.log.segment.ms", "604800000").ms()
        .doc("Age at which a file of the metadata log is closed."),
    long("metadata.log.max.record.bytes.between.snapshots", "20971520").bytes().min(1).used()
        .doc("Bytes of metadata records after which an image is written."),
    long("metadata.log.max.snapshot.interval.ms", "3600000").ms().min(0)
        .doc("Time after which an image of the metadata is written."),
    long("metadata.max.retention.bytes", "104857600").bytes()
        .doc("Bytes of metadata log and images that are kept."),
    long("metadata.max.retention.ms", "604800000").ms()
        .doc("Time metadata log and images are kept."),
    int("metadata.max.idle.interval.ms", "500").ms().min(0)
        .doc("How often an idle controller writes an empty record."),
    boolean("controlled.shutdown.enable", "true")
        .doc("Whether a stopping broker hands its partitions over first."),
    int("controlled.shutdown.max.retries", "3")
        .doc("Removed in Kafka 4; kept so that old files are read."),
    boolean("unstable.api.versions.enable", "false")
        .doc("Whether unfinished API versions are offered; never."),
    boolean("unstable.feature.versions.enable", "false")
        .doc("Whether unfinished feature versions are offered; never."),

    // Replication.
    string("inter.broker.listener.name", "").unset().used()
        .doc("Listener that brokers use among themselves."),
    string("security.inter.broker.protocol", "PLAINTEXT").one_of(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
        .doc("Protocol between brokers, where inter.broker.listener.name is not set."),
    boolean("auto.leader.rebalance.enable", "true")
        .doc("Whether leadership goes back to the preferred replicas."),
    long("leader.imbalance.check.interval.seconds", "300").unit(Unit::Seconds).min(1)
        .doc("How often leadership is balanced."),
    int("leader.imbalance.per.broker.percentage", "10")
        .doc("Imbalance that is tolerated; Kafka ignores it too."),
    int("num.replica.fetchers", "1").min(1).cluster_wide()
        .doc("Kafka's fetchers per source broker."),
    int("replica.fetch.backoff.ms", "1000").ms().min(0)
        .doc("How long a follower waits after a failed fetch."),
    int("replica.fetch.max.bytes", "1048576").bytes().min(0)
        .doc("Bytes per partition a follower asks for."),
    int("replica.fetch.min.bytes", "1").bytes()
        .doc("Bytes the leader gathers before it answers a follower."),
    int("replica.fetch.response.max.bytes", "10485760").bytes().min(0)
        .doc("Bytes per answer a follower asks for."),
    int("replica.fetch.wait.max.ms", "500").ms()
        .doc("How long the leader may hold a follower's fetch."),
    long("replica.high.watermark.checkpoint.interval.ms", "5000").ms().used()
        .doc("How often high watermarks are written."),
    long("replica.lag.time.max.ms", "30000").ms()
        .doc("How long a follower may lag and stay in sync."),
    string("replica.selector.class", "").unset()
        .doc("Java class that chooses the replica for a consumer; never loaded."),
    int("replica.socket.receive.buffer.bytes", "65536").bytes()
        .doc("SO_RCVBUF of connections between brokers."),
    int("replica.socket.timeout.ms", "30000").ms()
        .doc("Time-out of connections between brokers."),
    long("unclean.leader.election.interval.ms", "300000").ms().min(1)
        .doc("How often unclean elections are considered."),
    int("fetch.purgatory.purge.interval.requests", "1000")
        .doc("Kafka's sweep of waiting fetches; there is nothing to sweep."),
    int("producer.purgatory.purge.interval.requests", "1000")
        .doc("Kafka's sweep of waiting produces; there is nothing to sweep."),
    int("delete.records.purgatory.purge.interval.requests", "1")
        .doc("Kafka's sweep of waiting record deletions; there is nothing to sweep."),

    // Group coordinator.
    int("group.coordinator.append.linger.ms", "-1").ms().min(-1)
        .doc("How long the coordinator gathers records; -1 adapts."),
    list("group.coordinator.rebalance.protocols", "classic,consumer,streams,share").bounds(Bounds::EachOf(&["classic", "consumer", "share", "streams"]))
        .doc("Group protocols that are served."),
    int("group.coordinator.threads", "4").min(1)
        .doc("Threads of Kafka's group coordinator; shards have none."),
    list("group.consumer.assignors", "uniform,range")
        .doc("Assignors of the broker, the first is the default."),
    int("group.consumer.assignment.interval.ms", "1000").ms().min(0)
        .doc("Shortest time between two assignments of a group."),
    int("group.consumer.heartbeat.interval.ms", "5000").ms().min(1)
        .doc("Heartbeat interval of consumer groups."),
    int("group.consumer.max.heartbeat.interval.ms", "15000").ms().min(1)
        .doc("Longest heartbeat interval of consumer groups."),
    int("group.consumer.max.session.timeout.ms", "60000").ms().min(1)
        .doc("Longest session time-out of consumer groups."),
    int("group.consumer.max.size", INT_MAX).min(1)
        .doc("Most members of a consumer group."),
    string("group.consumer.migration.policy", "bidirectional").one_of(&["bidirectional", "upgrade", "downgrade", "disabled"])
        .doc("Between which protocols a group may change while it is in use."),
    int("group.consumer.min.heartbeat.interval.ms", "5000").ms().min(1)
        .doc("Shortest heartbeat interval of consumer groups."),
    int("group.consumer.min.session.timeout.ms", "45000").ms().min(1)
        .doc("Shortest session time-out of consumer groups."),
    int("group.consumer.session.timeout.ms", "45000").ms().min(1)
        .doc("Session time-out of consumer groups."),
    int("group.initial.rebalance.delay.ms", "3000").ms().used()
        .doc("How long a new classic group waits for more members."),
    int("group.max.session.timeout.ms", "1800000").ms().used()
        .doc("Longest session time-out of classic groups."),
    int("group.max.size", INT_MAX).min(1).used()
        .doc("Most members of a classic group."),
    int("group.min.session.timeout.ms", "6000").ms().used()
        .doc("Shortest session time-out of classic groups."),
    int("offset.metadata.max.bytes", "4096").bytes().min(0).used()
        .doc("Longest metadata text of a committed offset."),
    int("offsets.commit.timeout.ms", "5000").ms().min(1)
        .doc("How long an offset commit waits for its replicas."),
    int("offsets.load.buffer.size", "5242880").bytes().min(1)
        .doc("Bytes read at once when offsets are loaded."),
    long("offsets.retention.check.interval.ms", "600000").ms().min(1).used()
        .doc("How often expired offsets are looked for."),
    int("offsets.retention.minutes", "10080").unit(Unit::Minutes).min(1).used()
        .doc("How long the offsets of an empty group are kept."),
    int("offsets.topic.compression.codec", "0").range(0, 4).used()
        .doc("Codec of the offsets topic: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    int("offsets.topic.num.partitions", "50").min(1).used()
        .doc("Partitions of the offsets topic."),
    short("offsets.topic.replication.factor", "3").min(1).used()
        .doc("Replicas of the offsets topic."),
    int("offsets.topic.segment.bytes", "104857600").bytes().min(1).used()
        .doc("Segment size of the offsets topic."),

    // Share groups.
    int("share.coordinator.append.linger.ms", "5").ms().min(-1)
        .doc("How long the share coordinator gathers records."),
    int("share.coordinator.state.topic.min.isr", "2").min(1)
        .doc("min.insync.replicas of the share state topic."),
    int("share.coordinator.state.topic.num.partitions", "50").min(1)
        .doc("Partitions of the share state topic."),
    short("share.coordinator.state.topic.replication.factor", "3").min(1)
        .doc("Replicas of the share state topic."),
    int("share.coordinator.state.topic.segment.bytes", "104857600").bytes().min(1)
        .doc("Segment size of the share state topic."),

    // Transactions.
    int("add.partitions.to.txn.retry.backoff.ms", "20").ms().min(1)
        .doc("How long the broker waits before it asks the coordinator again."),
    int("add.partitions.to.txn.retry.backoff.max.ms", "100").ms().min(0)
        .doc("How long in all the broker asks the coordinator again."),
    int("producer.id.expiration.ms", "86400000").ms().min(1).cluster_wide().used()
        .doc("How long the state of an idle producer is kept."),
    int("transaction.abort.timed.out.transaction.cleanup.interval.ms", "10000").ms().min(1)
        .doc("How often transactions that timed out are looked for."),
    int("transaction.max.timeout.ms", "900000").ms().min(1)
        .doc("Longest time-out a transaction may ask for."),
    boolean("transaction.partition.verification.enable", "true").cluster_wide()
        .doc("Whether a transactional append is checked with the coordinator."),
    int("transaction.remove.expired.transaction.cleanup.interval.ms", "3600000").ms().min(1)
        .doc("How often expired transactional ids are looked for."),
    int("transaction.state.log.load.buffer.size", "5242880").bytes().min(1)
        .doc("Bytes read at once when transactions are loaded."),
    int("transaction.state.log.min.isr", "2").min(1)
        .doc("min.insync.replicas of the transaction topic."),
    int("transaction.state.log.num.partitions", "50").min(1)
        .doc("Partitions of the transaction topic."),
    short("transaction.state.log.replication.factor", "3").min(1)
        .doc("Replicas of the transaction topic."),
    int("transaction.state.log.segment.bytes", "104857600").bytes().min(1)
        .doc("Segment size of the transaction topic."),
    boolean("transaction.two.phase.commit.enable", "false")
        .doc("Whether producers may prepare transactions for two-phase commit."),
    int("transactional.id.expiration.ms", "604800000").ms().min(1)
        .doc("How long an idle transactional id is kept."),

    // Quotas and metrics.
    int("controller.quota.window.num", "11").min(1)
        .doc("Windows of the controller mutation quota."),
    int("controller.quota.window.size.seconds", "1").unit(Unit::Seconds).min(1)
        .doc("Length of a window of the controller mutation quota."),
    int("quota.window.num", "11").min(1)
        .doc("Windows of the client quotas."),
    int("quota.window.size.seconds", "1").unit(Unit::Seconds).min(1)
        .doc("Length of a window of the client quotas."),
    int("replication.quota.window.num", "11").min(1)
        .doc("Windows of the replication throttle."),
    int("replication.quota.window.size.seconds", "1").unit(Unit::Seconds).min(1)
        .doc("Length of a window of the replication throttle."),
    long("leader.replication.throttled.rate", LONG_MAX).unit(Unit::BytesPerSecond).min(0).per_broker()
        .doc("Bytes per second this broker sends to throttled followers."),
    long("follower.replication.throttled.rate", LONG_MAX).unit(Unit::BytesPerSecond).min(0).per_broker()
        .doc("Bytes per second this broker fetches for throttled followers."),
    long("replica.alter.log.dirs.io.max.bytes.per.second", LONG_MAX).unit(Unit::BytesPerSecond).min(0).per_broker()
        .doc("Bytes per second that are copied between log directories of this broker."),
    list("metric.reporters", "").cluster_wide()
        .doc("Java classes that report metrics; never loaded."),
    int("metrics.num.samples", "2").min(1)
        .doc("Samples of Kafka's metrics."),
    long("metrics.sample.window.ms", "30000").ms().min(1)
        .doc("Window of Kafka's metrics."),
    string("metrics.recording.level", "INFO").one_of(&["INFO", "DEBUG", "TRACE"])
        .doc("Level of Kafka's metrics."),
    boolean("remote.log.storage.system.enable", "false")
        .doc("Whether topics may be tiered to remote storage."),
    double("controller.performance.always.log.threshold.ms", "2000").ms()
        .doc("Duration of a controller event from which Kafka logs it."),
];

#[rustfmt::skip] // a table: one key, one paragraph
pub(super) static SECURITY_KEYS: &[ConfigKey] = &[
    string("authorizer.class.name", "")
        .doc("Java class that authorizes requests; never loaded."),
    boolean("allow.everyone.if.no.acl.found", "false")
        .doc("Whether a resource without ACLs is open to all."),
    string("super.users", "")
        .doc("Principals that may do everything."),
    string("early.start.listeners", "").unset()
        .doc("Listeners that open before authorization is ready."),
    string("principal.builder.class", "").unset()
        .doc("Java class that names the principal of a connection; never loaded."),
    list("sasl.enabled.mechanisms", "GSSAPI").per_broker()
        .doc("SASL mechanisms that are served."),
    string("sasl.mechanism.inter.broker.protocol", "GSSAPI").per_broker()
        .doc("SASL mechanism between brokers."),
    string("sasl.mechanism.controller.protocol", "GSSAPI")
        .doc("SASL mechanism to the controllers."),
    password("sasl.jaas.config").per_broker()
        .doc("Credentials in JAAS form."),
    long("connections.max.reauth.ms", "0").ms()
        .doc("Longest time a SASL connection may go without authenticating again."),
    int("sasl.server.max.receive.size", "524288").bytes()
        .doc("Largest SASL message before authentication."),
    string("ssl.client.auth", "none").one_of(&["required", "requested", "none"]).per_broker()
        .doc("Whether clients must show a certificate."),
    list("ssl.cipher.suites", "").per_broker()
        .doc("Cipher suites; empty is the library's choice."),
    list("ssl.enabled.protocols", "TLSv1.2,TLSv1.3").per_broker()
        .doc("TLS versions that are served."),
    string("ssl.endpoint.identification.algorithm", "https").per_broker()
        .doc("How the names of servers are checked."),
    password("ssl.key.password").per_broker()
        .doc("Password of the private key."),
    string("ssl.keystore.location", "").unset().per_broker()
        .doc("File with key and certificate."),
    password("ssl.keystore.certificate.chain").per_broker()
        .doc("Certificate chain in PEM form."),
    password("ssl.keystore.key").per_broker()
        .doc("Private key in PEM form."),
    password("ssl.keystore.password").per_broker()
        .doc("Password of the key file."),
    string("ssl.keystore.type", "JKS").per_broker()
        .doc("Form of the key file."),
    string("ssl.protocol", "TLSv1.3").per_broker()
        .doc("TLS version to begin with."),
    string("ssl.truststore.location", "").unset().per_broker()
        .doc("File with trusted certificates."),
    password("ssl.truststore.certificates").per_broker()
        .doc("Trusted certificates in PEM form."),
    password("ssl.truststore.password").per_broker()
        .doc("Password of the file with trusted certificates."),
    string("ssl.truststore.type", "JKS").per_broker()
        .doc("Form of the file with trusted certificates."),
];

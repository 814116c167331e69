//! One shard of the broker: the partitions it owns and the connections it serves.
//!
//! Everything here lives on one core. Other shards are reached by [`message`]s only.

pub mod append;
pub mod apply;
pub mod dirs;
pub mod message;
pub mod offline;
pub mod partition;
pub mod read;
pub mod retention;
pub mod sink;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use corelog_core::api::LogSize;
use corelog_core::config::BrokerConfig;
use corelog_core::connection_limits::ConnectionLimits;
use corelog_core::fetch_session::{CacheLimits, SessionCache};
use corelog_core::metadata::image::Image;
use corelog_runtime::mesh::{Mesh, Reply};
use corelog_runtime::sync::{FifoMutex, Notify};
use corelog_runtime::{Rt, ShardId, vital};
use corelog_storage::shard::ShardStorage;

use self::message::{CheckpointMarks, Operation, PartitionKey, Request, Response};
use self::partition::{Partition, Waiter};
use crate::codec_memory::CodecMemory;
use crate::connection::Connections;
use crate::controller::Controller;
use crate::daemon::start_state::StartState;
use crate::errors::PartitionError;
use crate::groups::{self, Groups};
use crate::log_dirs::{self, LogDirs};
use crate::request_memory::RequestMemory;
use crate::stats::{ShardStats, Stats};

/// Logs closed at a time: their flushes meet in the same commits of the file system's journal.
const CLOSE_AT_ONCE: usize = 64;

/// What a shard is made from.
pub struct ShardParts {
    /// Its runtime.
    pub rt: Rt,
    /// The broker's configuration at start.
    pub config: Arc<BrokerConfig>,
    /// This shard's storage.
    pub storage: Rc<ShardStorage>,
    /// Bytes of requests this shard may hold.
    pub request_bytes_max: usize,
    /// Bytes of fetch sessions this shard may hold.
    pub session_bytes_max: usize,
    /// Open connections of every shard.
    pub load: Arc<[std::sync::atomic::AtomicUsize]>,
}

/// A block of producer ids, and the order in which they are asked for.
#[derive(Default)]
pub struct ProducerIds {
    /// One request at a time.
    pub order: FifoMutex,
    /// Not given out yet.
    pub left: RefCell<std::ops::Range<i64>>,
}

/// One shard. Shard: itself; never leaves its thread.
pub struct Shard {
    /// Tasks, time, files, sockets.
    pub rt: Rt,
    /// The broker's configuration at start: file, command line, defaults. For keys that cannot
    /// change while it runs.
    pub start_config: Arc<BrokerConfig>,
    /// The same, with what the file said when it was read last.
    static_config: RefCell<Arc<BrokerConfig>>,
    config: RefCell<Arc<BrokerConfig>>,
    /// Buffers, tail cache and counters of the logs.
    pub storage: Rc<ShardStorage>,
    /// Counters.
    pub stats: Stats,
    /// Taken before a frame's body is read.
    pub request_memory: RequestMemory,
    /// Fetch sessions of the clients that this shard serves.
    pub fetch_sessions: RefCell<SessionCache>,
    /// Taken before a batch is decompressed or compressed.
    pub codec_memory: CodecMemory,
    /// Log lines about connections that were refused.
    pub(crate) refusals: crate::connection::log_lines::LogLines,
    /// Connections by address, on shard 0.
    pub(crate) connection_limits: RefCell<ConnectionLimits>,
    /// Connections served here.
    pub connections: Connections,
    /// Set on shard 0 once the metadata log is open.
    pub controller: RefCell<Option<Rc<Controller>>>,
    /// Fetches of other shards and of this one that wait for data.
    pub(crate) waits: RefCell<BTreeMap<u64, Weak<Waiter>>>,
    /// Open connections of every shard, for placing the next one.
    pub load: Arc<[std::sync::atomic::AtomicUsize]>,
    /// Resolves [`Shard::stopped`].
    pub(crate) exit: Notify,
    /// No connection and no metadata is taken any more.
    pub(crate) stopping: Cell<bool>,
    /// Partitions whose logs could not be opened.
    pub offline: offline::Offline,
    /// Directories in which a log of this shard could not be deleted: their stop is not clean.
    pub(crate) undeleted: RefCell<BTreeSet<usize>>,
    /// Log directories that do not serve.
    pub(crate) dirs: dirs::ShardDirs,
    /// All log directories, on shard 0.
    pub(crate) log_dirs: RefCell<Option<Rc<LogDirs>>>,
    pub(crate) exiting: Cell<bool>,
    pub(crate) start: RefCell<Option<Arc<StartState>>>,
    /// Producer ids this shard may give out.
    pub producer_ids: ProducerIds,
    /// Coordinators of the partitions of the offsets topic that are this shard's.
    pub groups: Groups,
    partitions: RefCell<BTreeMap<PartitionKey, Rc<Partition>>>,
    image: RefCell<Arc<Image>>,
    partition_count: Cell<usize>,
    mesh: RefCell<Option<Mesh<Request, Response>>>,
    next_wait: Cell<u64>,
}

impl Shard {
    /// A shard with no partitions, connections or metadata yet.
    pub fn new(parts: ShardParts) -> Rc<Shard> {
        let session_limits = session_limits(&parts);
        Rc::new(Shard {
            groups: Groups::new(&parts.rt),
            rt: parts.rt,
            start_config: Arc::clone(&parts.config),
            static_config: RefCell::new(Arc::clone(&parts.config)),
            config: RefCell::new(parts.config),
            storage: parts.storage,
            stats: Stats::new(),
            request_memory: RequestMemory::new(parts.request_bytes_max),
            fetch_sessions: RefCell::new(SessionCache::new(session_limits)),
            codec_memory: CodecMemory::new(parts.request_bytes_max / 8),
            refusals: crate::connection::log_lines::LogLines::default(),
            connection_limits: RefCell::default(),
            connections: Connections::default(),
            controller: RefCell::new(None),
            waits: RefCell::default(),
            load: parts.load,
            exit: Notify::new(),
            stopping: Cell::new(false),
            offline: offline::Offline::default(),
            undeleted: RefCell::default(),
            dirs: dirs::ShardDirs::default(),
            log_dirs: RefCell::new(None),
            exiting: Cell::new(false),
            start: RefCell::new(None),
            producer_ids: ProducerIds::default(),
            partitions: RefCell::default(),
            image: RefCell::new(Arc::new(Image::new())),
            partition_count: Cell::new(0),
            mesh: RefCell::new(None),
            next_wait: Cell::new(0),
        })
    }

    /// Starts a task that nobody waits for.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.rt.spawn(name, future).detach();
    }

    /// Number of this shard.
    pub fn id(&self) -> ShardId {
        self.rt.shard()
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> Arc<str> {
        let start = self.start.borrow();
        let start = start
            .as_ref()
            .expect("the start's findings come before the first connection");
        Arc::clone(&start.cluster_id)
    }

    /// The directories of `log.dirs`, as they are configured.
    pub fn log_dir_paths(&self) -> Vec<std::path::PathBuf> {
        let start = self.start.borrow();
        let start = start
            .as_ref()
            .expect("the start's findings come before the first connection");
        let log_dirs = start.dirs.iter().take(start.log_dirs);
        log_dirs.map(|dir| dir.path.clone()).collect()
    }

    /// The broker's configuration now, dynamic changes included.
    pub fn config(&self) -> Arc<BrokerConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// The configuration file's values in force, without dynamic changes.
    pub(crate) fn static_config(&self) -> Arc<BrokerConfig> {
        Arc::clone(&self.static_config.borrow())
    }

    pub(crate) fn set_static_config(&self, config: Arc<BrokerConfig>) {
        *self.static_config.borrow_mut() = config;
    }

    pub(crate) fn set_config(&self, config: Arc<BrokerConfig>) {
        *self.config.borrow_mut() = config;
    }

    /// Gives the shard its way to the others.
    pub fn set_mesh(&self, mesh: Mesh<Request, Response>) {
        *self.mesh.borrow_mut() = Some(mesh);
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.load.len()
    }

    fn mesh(&self) -> Mesh<Request, Response> {
        self.mesh
            .borrow()
            .clone()
            .expect("the mesh is joined before the first message")
    }

    /// Sends a request; the future gives the answer, `None` when the other shard is gone. Sent at
    /// once, in the order of calls, polled or not.
    pub fn call(
        &self,
        to: ShardId,
        request: Request,
    ) -> impl Future<Output = Option<Response>> + use<> {
        self.mesh().call(to, request)
    }

    /// Sends a request whose answer nobody waits for.
    pub fn cast(&self, to: ShardId, request: Request) {
        self.mesh().cast(to, request);
    }

    /// The metadata this shard answers from.
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.borrow())
    }

    /// Partitions in the metadata.
    pub fn partition_count(&self) -> usize {
        self.partition_count.get()
    }

    pub(crate) fn set_image(&self, image: Arc<Image>) {
        let partitions = image.topics().map(|topic| topic.partitions.len()).sum();
        self.partition_count.set(partitions);
        *self.image.borrow_mut() = image;
    }

    /// A partition this shard owns.
    ///
    /// Errors: `NotLeaderOrFollower` when the metadata has it and this shard does not (yet),
    /// `UnknownTopicOrPartition` when the metadata does not have it, `DirOffline` when its log
    /// directory is.
    pub fn partition(&self, key: &PartitionKey) -> Result<Rc<Partition>, PartitionError> {
        if let Some(partition) = self.partitions.borrow().get(key) {
            return Ok(Rc::clone(partition));
        }
        if self.offline.is_in_dir(key) {
            return Err(PartitionError::DirOffline);
        }
        let image = self.image.borrow();
        match image.topic_by_id(&key.topic_id) {
            Some(topic) if topic.partition(key.partition).is_some() => {
                Err(PartitionError::NotLeaderOrFollower)
            }
            // Not UnknownTopicId: the client may have asked by name, before that code existed.
            Some(_) | None => Err(PartitionError::UnknownTopicOrPartition),
        }
    }

    /// All partitions of this shard.
    pub fn partitions(&self) -> Vec<Rc<Partition>> {
        self.partitions.borrow().values().map(Rc::clone).collect()
    }

    pub(crate) fn insert_partition(&self, partition: Rc<Partition>) {
        self.partitions
            .borrow_mut()
            .insert(partition.key, partition);
    }

    pub(crate) fn remove_partition(&self, key: &PartitionKey) -> Option<Rc<Partition>> {
        self.partitions.borrow_mut().remove(key)
    }

    /// Fetches that wait for data of partitions of this shard.
    pub fn fetch_waits(&self) -> usize {
        self.waits.borrow().len()
    }

    /// A name for a wait, unlike any other in the process.
    pub fn new_wait_id(&self) -> u64 {
        let next = self.next_wait.get();
        self.next_wait.set(next + 1);
        (u64::from(self.id().0) << 48) | next
    }

    /// Resolves when this shard was told to stop and has done so.
    pub async fn stopped(&self) {
        while !self.exiting.get() {
            let notified = self.exit.notified();
            if !self.exiting.get() {
                notified.await;
            }
        }
    }
}

/// A shard's share of the fetch sessions.
fn session_limits(parts: &ShardParts) -> CacheLimits {
    let (shard, shards) = (parts.rt.shard().0, parts.load.len());
    let slots = parts.config.max_fetch_sessions;
    CacheLimits {
        slots: slots / shards + usize::from(usize::from(shard) < slots % shards),
        bytes: parts.session_bytes_max,
        eviction_ms: crate::connection::sessions::EVICTION_MS,
        shard,
        shards: u16::try_from(shards).unwrap_or(u16::MAX),
    }
}

/// Takes a request. Appends get their places before this returns: messages keep their order, so
/// offsets keep the order in which one connection asked.
pub fn handle(shard: &Rc<Shard>, _from: ShardId, request: Request, reply: Reply<Response>) {
    match request {
        Request::Append(items, terms) => {
            let admitted = append::admit(shard, items);
            answer(shard, "append", reply, |shard| async move {
                Response::Append(append::append(&shard, admitted, terms).await)
            });
        }
        Request::Read(items) => answer(shard, "read", reply, |shard| async move {
            let mut answers = Vec::with_capacity(items.len());
            for item in &items {
                answers.push(read::read(&shard, item).await);
                shard.rt.yield_if_needed().await;
            }
            Response::Read(answers)
        }),
        Request::WaitForData(wait) => match read::begin_wait(shard, &wait) {
            None => reply.send(Response::DataReady),
            Some(waiter) => answer(shard, "wait_for_data", reply, |shard| async move {
                read::end_wait(&shard, &wait, waiter).await;
                Response::DataReady
            }),
        },
        Request::CancelWait(id) => {
            read::cancel_wait(shard, id);
            reply.send(Response::Done);
        }
        Request::LookupTail {
            key,
            range,
            at,
            max,
        } => {
            let found = shard
                .partition(&key)
                .ok()
                .and_then(|partition| partition.log.lookup_tail(&range, at, max));
            reply.send(Response::Tail(found));
        }
        Request::Offsets(queries) => answer(shard, "offsets", reply, |shard| async move {
            let mut answers = Vec::with_capacity(queries.len());
            for query in &queries {
                answers.push(read::offset(&shard, query).await);
            }
            Response::Offsets(answers)
        }),
        Request::EpochEnds(queries) => {
            reply.send(Response::EpochEnds(
                queries
                    .iter()
                    .map(|query| read::epoch_end(shard, query))
                    .collect(),
            ));
        }
        Request::DeleteRecords(deletions) => answer(shard, "delete_records", reply, |shard| {
            retention::delete_records(shard, deletions)
        }),
        Request::Producers(keys) => reply.send(Response::Producers(
            keys.iter().map(|key| read::producers(shard, key)).collect(),
        )),
        Request::LogSizes => {
            let (sizes, failed) = log_sizes(shard);
            reply.send(Response::LogSizes(sizes, failed));
        }
        Request::ApplyImage(image) => answer(shard, "apply_image", reply, |shard| async move {
            vital(apply::apply_image(&shard, image)).await;
            Response::ImageApplied
        }),
        Request::DirNews(news) => {
            dirs::take(shard, news);
            reply.send(Response::Done);
        }
        Request::Begin(start) => {
            dirs::begin(shard, &start);
            *shard.start.borrow_mut() = Some(start);
            reply.send(Response::Done);
        }
        Request::Admin(request) => answer(shard, "admin", reply, |shard| async move {
            Response::Admin(crate::controller::handle(&shard, request).await)
        }),
        Request::Group(call) => groups::call(shard, *call, reply),
        Request::CancelGroup { partition, id } => {
            groups::cancel(shard, partition, id);
            reply.send(Response::Done);
        }
        Request::Adopt(arrival) => {
            crate::connection::serve(shard, *arrival);
            reply.send(Response::Done);
        }
        Request::ConnectionEnded(address) => {
            shard.connection_limits.borrow_mut().end(address);
            reply.send(Response::Done);
        }
        Request::Stats => answer(shard, "stats", reply, |shard| async move {
            let mut stats = stats(&shard);
            groups::stats::add_groups(&shard, &mut stats).await;
            Response::Stats(Box::new(stats))
        }),
        Request::Checkpoint => answer(shard, "checkpoint", reply, |shard| async move {
            Response::Checkpoint(vital(checkpoint(&shard)).await)
        }),
        Request::Marks => reply.send(Response::Checkpoint(marks(shard))),
        Request::Operate(operation) => operate(shard, operation, reply),
    }
}

fn operate(shard: &Rc<Shard>, operation: Operation, reply: Reply<Response>) {
    match operation {
        Operation::LowerCheckpoint(topic, partition, offset) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "lower_checkpoint", reply, |shard| async move {
                Response::Lowered(match dirs {
                    Some(dirs) => vital(dirs.lower(&shard, (topic, partition), offset)).await,
                    None => Err("the log directories are not open on this shard".to_owned()),
                })
            });
        }
        Operation::RaiseLogStart {
            topic,
            partition,
            log_start,
            recovery_point,
        } => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "raise_log_start", reply, move |shard| async move {
                let name = (topic, partition);
                Response::Raised(match dirs {
                    Some(dirs) => {
                        let raised = dirs.raise_log_start(&shard, name, log_start, recovery_point);
                        raised.await
                    }
                    None => Err(std::io::Error::other(
                        "the log directories are not open on this shard",
                    )),
                })
            });
        }
        Operation::ForgetCheckpoints(partitions) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "forget_checkpoints", reply, |shard| async move {
                Response::Lowered(match dirs {
                    Some(dirs) => vital(dirs.forget(&shard, &partitions)).await,
                    None => Err("the log directories are not open on this shard".to_owned()),
                })
            });
        }
        Operation::DirFound(at, found) => {
            log_dirs::report(shard, at, found);
            reply.send(Response::Done);
        }
        Operation::ReleaseReserve(at) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "release_reserve", reply, move |_| async move {
                Response::Released(match dirs {
                    Some(dirs) => dirs.release(at).await,
                    None => false,
                })
            });
        }
        Operation::Reload(config) => answer(shard, "reload", reply, |shard| async move {
            vital(apply::reload(&shard, config)).await;
            Response::Done
        }),
        Operation::Ping => reply.send(Response::Done),
        Operation::Stop => answer(shard, "stop", reply, |shard| async move {
            let (marks, unclean) = vital(stop(&shard)).await;
            Response::Stopped(marks, unclean)
        }),
        Operation::Shutdown => answer(shard, "shutdown", reply, |shard| async move {
            vital(crate::daemon::shutdown::shutdown(&shard)).await;
            Response::Done
        }),
        Operation::Exit => {
            reply.send(Response::Done);
            shard.exiting.set(true);
            shard.exit.notify_all();
        }
    }
}

fn answer<F: Future<Output = Response> + 'static>(
    shard: &Rc<Shard>,
    name: &'static str,
    reply: Reply<Response>,
    work: impl FnOnce(Rc<Shard>) -> F,
) {
    let future = work(Rc::clone(shard));
    shard.spawn(name, async move { reply.send(future.await) });
}

fn marks_of(partition: &Partition) -> CheckpointMarks {
    let marks = partition.log.marks();
    CheckpointMarks {
        topic: partition.topic.clone(),
        partition: partition.key.partition,
        dir: partition.dir,
        recovery_point: marks.recovery_point,
        high_watermark: marks.high_watermark,
        log_start: marks.log_start,
    }
}

/// Marks of all partitions, also of those that wait for their logs to be opened: of these, what the
/// start found.
fn marks(shard: &Shard) -> Vec<CheckpointMarks> {
    let mut marks: Vec<CheckpointMarks> = shard
        .partitions
        .borrow()
        .values()
        .map(|partition| marks_of(partition))
        .collect();
    if !shard.offline.is_empty() {
        marks.extend(offline::marks(shard));
    }
    marks
}

/// Sizes of the shard's logs, and the directories in which one of them failed or could not be opened.
fn log_sizes(shard: &Shard) -> (Vec<(usize, LogSize)>, BTreeSet<usize>) {
    let partitions = shard.partitions.borrow();
    let size = |partition: &Rc<Partition>| {
        let size = LogSize {
            topic: partition.topic.clone(),
            partition: partition.key.partition,
            bytes: partition.log.size_bytes(),
        };
        (partition.dir, size)
    };
    let failed = partitions
        .values()
        .filter(|partition| partition.log.failure().is_some());
    let mut dirs: BTreeSet<usize> = failed.map(|partition| partition.dir).collect();
    dirs.extend(shard.offline.dirs());
    dirs.extend(shard.dirs.offline());
    (partitions.values().map(size).collect(), dirs)
}

/// Flushes every log that has something new and gives the marks for the checkpoint files.
async fn checkpoint(shard: &Rc<Shard>) -> Vec<CheckpointMarks> {
    for partition in shard.partitions() {
        if let Err(error) = partition.log.checkpoint().await {
            tracing::warn!(topic = %partition.topic, partition = partition.key.partition, %error,
                "checkpoint failed; the recovery point stays where it is");
        }
    }
    marks(shard)
}

/// Closes connections, then logs. Gives the directories in which not every log was closed cleanly.
async fn stop(shard: &Rc<Shard>) -> (Vec<CheckpointMarks>, BTreeSet<usize>) {
    shard.stopping.set(true);
    crate::connection::close_all(shard).await;
    groups::stop(shard);
    let mut unclean = shard.undeleted.borrow().clone();
    unclean.extend(shard.offline.dirs());
    let mut closed = Vec::from_iter(offline::marks(shard));
    for group in shard.partitions().chunks(CLOSE_AT_ONCE) {
        let mut closing = Vec::with_capacity(group.len());
        for partition in group {
            partition.fire_waiters();
            let log = partition.log.clone();
            let task = async move { log.close().await };
            closing.push(shard.rt.spawn("close_log", task));
        }
        for (partition, task) in group.iter().zip(closing) {
            let ended = task.await;
            if !matches!(ended, Some(Ok(_))) {
                let error = ended.map(Result::err);
                tracing::error!(topic = %partition.topic, partition = partition.key.partition, ?error,
                    "the log did not close cleanly; it will be recovered at the next start");
                unclean.insert(partition.dir);
            }
            closed.push(marks_of(partition));
        }
    }
    (closed, unclean)
}

/// Counts log directories, on the shard that looks after them.
fn count_dirs(shard: &Shard, is_counted: fn(&log_dirs::Dir) -> bool) -> i64 {
    let dirs = shard.log_dirs.borrow();
    let dirs = dirs.as_ref().map_or(&[][..], |dirs| dirs.dirs());
    dirs.iter().filter(|dir| is_counted(dir)).count() as i64
}

fn reserve_bytes(shard: &Shard) -> i64 {
    let dirs = shard.log_dirs.borrow();
    let dirs = dirs.as_ref().map_or(&[][..], |dirs| dirs.dirs());
    let open = dirs.iter().filter_map(log_dirs::Dir::online);
    open.map(|dir| dir.reserve_bytes() as i64).sum()
}

fn stats(shard: &Shard) -> ShardStats {
    let mut stats = shard.stats.snapshot(usize::from(shard.id().0));
    stats.partitions = shard.partitions.borrow().len() as u64;
    stats.log_dirs = log_dirs::health(shard);
    crate::stats::add_runtime(&mut stats, &shard.rt.counters());
    crate::stats::add_storage(&mut stats, &shard.storage);
    let sessions = shard.fetch_sessions.borrow();
    stats.others.push((
        "corelog_fetch_session_evictions",
        "Fetch sessions that gave way to others.",
        sessions.evictions(),
    ));
    stats.gauges.extend([
        (
            "corelog_fetch_sessions",
            "Fetch sessions.",
            sessions.len() as i64,
        ),
        (
            "corelog_fetch_session_partitions",
            "Partitions of fetch sessions.",
            sessions.partitions() as i64,
        ),
        (
            "corelog_fetch_session_bytes",
            "Memory of fetch sessions.",
            sessions.bytes() as i64,
        ),
        (
            "corelog_fetch_waits",
            "Fetches that wait for data of partitions of this shard.",
            shard.waits.borrow().len() as i64,
        ),
        (
            "corelog_partitions_offline",
            "Partitions whose logs cannot be opened, or whose log directories are offline.",
            shard.offline.len() as i64,
        ),
        (
            "corelog_segment_files_open",
            "Descriptors of segment files kept open, about.",
            shard.storage.open_files() as i64,
        ),
        (
            "corelog_log_dirs_offline",
            "Log directories that failed and serve nothing until the next start.",
            count_dirs(shard, |dir| dir.failure().is_some()),
        ),
        (
            "corelog_log_dirs_full",
            "Log directories whose disk is full: appends are refused.",
            count_dirs(shard, log_dirs::Dir::is_full),
        ),
        (
            "corelog_log_dirs_reserve_bytes",
            "Space kept back for metadata, checkpoints and internal topics on full disks.",
            reserve_bytes(shard),
        ),
    ]);
    stats.stalls = shard.rt.stalls();
    // Tail and requests are held in buffers, or beside them: these are no sum.
    stats.memory = vec![
        ("tail", shard.storage.tail_bytes() as u64),
        ("buffers", shard.rt.pool().allocated_bytes() as u64),
        ("requests", shard.request_memory.used_bytes() as u64),
    ];
    stats
}

//! One shard of the broker: the partitions it owns and the connections it serves.
//!
//! Everything here lives on one core. Other shards are reached by [`message`]s only.

pub mod append;
pub mod apply;
mod counts;
pub mod dirs;
pub mod message;
pub mod offline;
pub mod opening;
#[cfg(test)]
mod opening_test;
pub mod partition;
pub mod read;
mod requests;
pub mod retention;
pub mod scrub;
pub mod sink;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use corelog_core::config::BrokerConfig;
use corelog_core::connection_limits::ConnectionLimits;
use corelog_core::fetch_session::{CacheLimits, SessionCache};
use corelog_core::metadata::image::Image;
use corelog_runtime::mesh::Mesh;
use corelog_runtime::sync::{FifoMutex, Notify};
use corelog_runtime::{Rt, ShardId};
use corelog_storage::scrub::Between;
use corelog_storage::shard::ShardStorage;

pub use self::requests::handle;

use self::message::{PartitionKey, Request, Response};
use self::partition::{Partition, Waiter};
use crate::codec_memory::CodecMemory;
use crate::connection::Connections;
use crate::controller::Controller;
use crate::daemon::start_state::StartState;
use crate::errors::PartitionError;
use crate::groups::Groups;
use crate::log_dirs::LogDirs;
use crate::request_memory::RequestMemory;
use crate::stats::Stats;

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
    /// The way to the maintenance thread, and what scrub found.
    pub scrub: scrub::Scrub,
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
            scrub: scrub::Scrub::default(),
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
        self.scrub.set_terms(&config);
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

    /// The metadata that this shard answers from, or is just being changed to.
    pub(crate) fn newest_image(&self) -> Arc<Image> {
        self.offline.coming().unwrap_or_else(|| self.image())
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

    /// The first partition of this shard between two keys.
    pub(crate) fn first_partition(&self, between: Between<PartitionKey>) -> Option<PartitionKey> {
        let partitions = self.partitions.borrow();
        let first = partitions.range(between).next();
        first.map(|(key, _)| *key)
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

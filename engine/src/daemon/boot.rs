//! The life of one shard's thread, and what shard 0 does first: the log directory, the metadata
//! log, the logs of all shards, and only then the listeners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelog_core::config::StorageIo;
use corelog_core::connection_limits::ConnectionTerms;
use corelog_core::metadata::{
    BrokerEndpoint, BrokerRegistration, Image, encode_records, register_broker,
};
use corelog_runtime::driver::SocketHandle;
use corelog_runtime::{MeshSeed, Rt, ShardId};
use corelog_storage::log_dir::StartKind;
use corelog_storage::log_dir::{Identity, LogDir};
use corelog_storage::shard::{ShardStorage, StorageLimits};

use super::start_state::StartState;
use super::{Ready, Shared, background};
use crate::connection::Arrival;
use crate::controller::{Controller, apply, random_uuid};
use crate::metadata_log::local::LocalLog;
use crate::metadata_log::{AppliedContent, MetadataLog, Proposed};
use crate::shard::apply::rename_to_stray;
use crate::shard::message::{Request, Response};
use crate::shard::sink::DirectorySink;
use crate::shard::{Shard, ShardParts, handle};
use crate::stats::add;

/// Longest time that an accepted connection waits for its turn; those after it are not accepted.
const MUTED_MAX: Duration = Duration::from_secs(1);

/// A listening socket, bound before the shards start, and its listener's name.
#[derive(Clone)]
pub struct Bound {
    /// Listener name, such as `PLAINTEXT`.
    pub name: Arc<str>,
    /// The socket.
    pub socket: SocketHandle,
}

/// Runs one shard until it is told to exit.
pub async fn shard_main(rt: Rt, seed: MeshSeed<Request, Response>, shared: Arc<Shared>) {
    watched_shard_main(rt, seed, shared, |_| {}).await;
}

/// [`shard_main`], whose shard is shown to `made` before it does anything: the seeded twin looks at
/// what no client can see.
pub async fn watched_shard_main(
    rt: Rt,
    seed: MeshSeed<Request, Response>,
    shared: Arc<Shared>,
    made: impl FnOnce(&Rc<Shard>),
) {
    let limits = StorageLimits {
        tail_cache_bytes: shared.memory.tail_cache_bytes,
        cold_read_bytes: shared.memory.cold_read_bytes,
        open_segments: shared.open_segments,
        direct: shared.config.storage_io == StorageIo::Direct,
        ..StorageLimits::default()
    };
    let storage = ShardStorage::new(limits);
    #[cfg(feature = "planted")]
    if let Some(bug) = &shared.planted {
        storage.plant(bug);
    }
    let shard = Shard::new(ShardParts {
        rt: rt.clone(),
        config: Arc::clone(&shared.config),
        storage,
        request_bytes_max: shared.memory.request_bytes,
        session_bytes_max: shared.memory.session_bytes,
        load: Arc::clone(&shared.load),
    });
    made(&shard);
    let handled = Rc::clone(&shard);
    let mesh = seed.join(&rt, move |from, request, reply| {
        handle(&handled, from, request, reply)
    });
    shard.set_mesh(mesh);
    shard
        .storage
        .set_checkpoint_sink(Rc::new(DirectorySink::new(&shard)));
    background::start(&shard);
    if rt.shard() == ShardId(0) {
        match boot(&shard, &shared).await {
            Ok(partitions) => {
                for bound in &shared.listeners {
                    shard.spawn(
                        "accept",
                        accept(Rc::clone(&shard), bound.clone(), shared.connections_max),
                    );
                }
                background::start_checkpoints(&shard);
                shared.tell(Ok(Ready { partitions }));
            }
            Err(error) => {
                // The other shards have nothing open; the process ends with the reason.
                shared.tell(Err(error));
            }
        }
    }
    shard.stopped().await;
}

/// Brings shard 0, and through it all shards, to the state the directory and the metadata log
/// describe. Returns the number of partitions.
async fn boot(shard: &Rc<Shard>, shared: &Shared) -> Result<usize, String> {
    let path = PathBuf::from(&shared.config.log_dirs[0]);
    let identity = Identity {
        cluster_id: None,
        node_id: shared.config.node_id,
    };
    let dir = LogDir::open(&shard.rt, &path, identity, shared.take_lock)
        .await
        .map_err(|e| e.to_string())?;
    let dir = Rc::new(dir);
    // Recovery of the logs may have to lower checkpoints before it cuts.
    *shard.log_dir.borrow_mut() = Some(Rc::clone(&dir));
    shard.spawn(
        "remove_deleted",
        remove_deleted(Rc::clone(shard), Rc::clone(&dir)),
    );
    begin(shard, &dir).await;

    let log = LocalLog::open(&shard.rt, &path, shared.config.node_id)
        .await
        .map_err(|e| e.to_string())?;
    let image = replay(&log).await?;
    let image = register(shard, shared, &log, image).await?;
    let partitions = image.topics().map(|topic| topic.partitions.len()).sum();
    set_strays_aside(shard, &dir, &image).await;
    let image = Arc::new(image);
    let controller = Controller::new(shard, Box::new(log), Arc::clone(&image));
    controller.publish(image).await;
    *shard.controller.borrow_mut() = Some(Rc::clone(&controller));
    shard
        .rt
        .spawn_vital("controller", controller.apply_committed())
        .detach();
    dir.mark_recovered().await.map_err(|e| e.to_string())?;
    Ok(partitions)
}

/// Tells every shard what the directory holds.
async fn begin(shard: &Rc<Shard>, dir: &Rc<LogDir>) {
    if dir.start_kind() != StartKind::Clean {
        tracing::info!(kind = ?dir.start_kind(), "the last stop was not clean; logs are checked from their recovery points");
    }
    let start = Arc::new(StartState {
        cluster_id: Arc::from(dir.cluster_id()),
        log_dir: dir.path().to_path_buf(),
        kind: dir.start_kind(),
        recovery_points: dir.recovery_points(),
        high_watermarks: dir.high_watermarks(),
        log_starts: dir.log_starts(),
    });
    let begin = |to: usize| shard.call(ShardId(to as u16), Request::Begin(Arc::clone(&start)));
    let calls: Vec<_> = (0..shard.shards()).map(begin).collect();
    for call in calls {
        call.await;
    }
}

/// Renames partition directories that the metadata does not know: a crash came between a topic's
/// removal and its files', or the metadata was lost. Either way nothing is deleted.
async fn set_strays_aside(shard: &Rc<Shard>, dir: &LogDir, image: &Image) {
    for found in dir.partitions() {
        let known = image
            .topic(&found.topic)
            .and_then(|topic| topic.partition(found.partition));
        if known.is_none()
            && let Err(error) = rename_to_stray(&shard.rt, &found.path).await
        {
            tracing::error!(path = %found.path.display(), %error, "an unknown partition's directory stays");
        }
    }
}

/// Finishes deletions that the last process began. Nothing waits for it.
async fn remove_deleted(shard: Rc<Shard>, dir: Rc<LogDir>) {
    for path in dir.deleted() {
        if let Err(error) = remove_dir(&shard.rt, path).await {
            tracing::warn!(path = %path.display(), %error, "a deleted partition's directory could not be removed");
        }
    }
}

async fn remove_dir(rt: &Rt, path: &Path) -> std::io::Result<()> {
    for entry in rt.read_dir(path).await? {
        rt.unlink(path.join(&entry.name)).await?;
    }
    rt.rmdir(path).await
}

/// Applies everything up to the blank entry of this process's own term.
async fn replay(log: &LocalLog) -> Result<Image, String> {
    let term = log.leader_term();
    let mut image = Image::new();
    loop {
        let applied = log.next_applied().await;
        image = apply(&image, &applied)?;
        if Some(applied.term) == term && applied.content == AppliedContent::Blank {
            return Ok(image);
        }
    }
}

/// Registers this incarnation: every partition it leads gets a new leader epoch, durable before
/// the first append.
async fn register(
    shard: &Rc<Shard>,
    shared: &Shared,
    log: &LocalLog,
    image: Image,
) -> Result<Image, String> {
    let registration = BrokerRegistration {
        node_id: shared.config.node_id,
        incarnation: random_uuid(shard),
        endpoints: shared.advertised.clone(),
        rack: shared.config.rack.clone(),
        shards: shard.shards() as u16,
    };
    let mut records = register_broker(&image, &registration);
    let term = log
        .leader_term()
        .ok_or("the metadata log takes no writes")?;
    records.insert(
        0,
        corelog_core::metadata::Record::EpochStart {
            epoch: term,
            node_id: shared.config.node_id,
        },
    );
    match log.propose(term, encode_records(&records)).await {
        Proposed::Committed(index) => loop {
            let applied = log.next_applied().await;
            let image = apply(&image, &applied)?;
            if applied.index == index {
                return Ok(image);
            }
        },
        Proposed::NotLeader | Proposed::Unknown => {
            Err("the metadata log could not be written".to_owned())
        }
    }
}

/// Accepts connections and hands each, before anything is received, to the shard with the fewest.
async fn accept(shard: Rc<Shard>, bound: Bound, descriptors: usize) {
    while !shard.stopping.get() {
        match shard.rt.accept(&bound.socket).await {
            Ok(socket) => {
                let address = crate::connection::address(&socket);
                let Some(muted) = admit(&shard, address, descriptors) else {
                    continue; // dropped, and so closed
                };
                let muted_until = shard.rt.now() + muted;
                // Too many that wait for their turn: the rest waits where it costs nothing.
                if muted > MUTED_MAX {
                    shard.rt.sleep(muted - MUTED_MAX).await;
                }
                let (to, load) = least_loaded(&shard);
                load.fetch_add(1, Ordering::Relaxed);
                let arrival = Arrival {
                    socket,
                    listener: Arc::clone(&bound.name),
                    address,
                    muted_until,
                };
                shard.cast(ShardId(to as u16), Request::Adopt(Box::new(arrival)));
            }
            Err(error) => {
                tracing::warn!(%error, listener = %bound.name, "accept failed");
                shard.rt.sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Takes a connection into the books: how long it is not to be served. `None`: it is one too many.
fn admit(shard: &Shard, address: IpAddr, descriptors: usize) -> Option<Duration> {
    let config = shard.config();
    let terms = ConnectionTerms {
        max: descriptors.min(config.max_connections as usize),
        max_per_address: config.max_connections_per_ip,
        overrides: &config.max_connections_per_ip_overrides,
        rate_per_s: config.max_connection_creation_rate,
    };
    let now_us = shard.rt.now().0 / 1000;
    let mut limits = shard.connection_limits.borrow_mut();
    match limits.admit(address, open_connections(shard), &terms, now_us) {
        Ok(wait_us) => {
            let waits = u64::from(wait_us > 0);
            add(&shard.stats.connections_muted, waits);
            Some(Duration::from_micros(wait_us))
        }
        Err(_) => {
            add(&shard.stats.connections_over_limit, 1);
            None
        }
    }
}

fn open_connections(shard: &Shard) -> usize {
    shard
        .load
        .iter()
        .map(|load| load.load(Ordering::Relaxed))
        .sum()
}

fn least_loaded(shard: &Shard) -> (usize, &std::sync::atomic::AtomicUsize) {
    let loads = shard.load.iter().enumerate();
    loads
        .min_by_key(|(_, load)| load.load(Ordering::Relaxed))
        .expect("there is at least one shard")
}

/// Addresses clients are told: as configured, with the port that port 0 became.
pub fn advertise(
    configured: &[BrokerEndpoint],
    bound_ports: &BTreeMap<String, u16>,
) -> Vec<BrokerEndpoint> {
    let with_port = |endpoint: &BrokerEndpoint| {
        let port = match endpoint.port {
            0 => bound_ports.get(&endpoint.listener).copied().unwrap_or(0),
            port => port,
        };
        BrokerEndpoint {
            port,
            ..endpoint.clone()
        }
    };
    configured.iter().map(with_port).collect()
}

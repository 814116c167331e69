//! The life of one shard's thread, and what shard 0 does first: the log directories, the metadata
//! log, the logs of all shards, and only then the listeners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelog_core::config::StorageIo;
use corelog_core::connection_limits::ConnectionTerms;
use corelog_core::metadata::{
    BrokerEndpoint, BrokerRegistration, FoundDirectories, Image, encode_records, register_broker,
};
use corelog_runtime::driver::SocketHandle;
use corelog_runtime::{MeshSeed, Rt, ShardId};
use corelog_storage::shard::{ShardStorage, StorageLimits};

use super::{Ready, Shared, background};
use crate::connection::Arrival;
use crate::controller::{Controller, apply, random_uuid};
use crate::log_dirs::guard::ShardGuard;
use crate::log_dirs::open::Wanted;
use crate::log_dirs::{self, LogDirs};
use crate::metadata_log::local::LocalLog;
use crate::metadata_log::{AppliedContent, MetadataLog, Proposed};
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
    if let Some(maintenance) = shared.maintenance.get() {
        shard.scrub.join(maintenance.clone(), seed.gateway());
        shard.scrub.set_terms(&shared.config);
    }
    let handled = Rc::clone(&shard);
    let mesh = seed.join(&rt, move |from, request, reply| {
        handle(&handled, from, request, reply)
    });
    shard.set_mesh(mesh);
    shard
        .storage
        .set_checkpoint_sink(Rc::new(DirectorySink::new(&shard)));
    shard.storage.set_guard(Rc::new(ShardGuard::new(&shard)));
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
async fn boot(shard: &Rc<Shard>, shared: &Arc<Shared>) -> Result<usize, String> {
    let node_id = shared.config.node_id;
    let wanted = Wanted {
        log_dirs: &shared.config.log_dirs,
        metadata_log_dir: shared.config.metadata_log_dir.as_deref(),
        unusable: &shared.unusable_dirs,
        node_id,
        take_lock: shared.take_lock,
    };
    let halted = Arc::clone(shared);
    let halt = Box::new(move |why: &str| halted.tell(Err(why.to_owned())));
    let dirs = Rc::new(LogDirs::open(&shard.rt, &wanted, halt).await?);
    log_dirs::log_start_kinds(&dirs);
    // Recovery of the logs may have to lower checkpoints before it cuts.
    *shard.log_dirs.borrow_mut() = Some(Rc::clone(&dirs));
    let (of_dirs, rt) = (Rc::clone(&dirs), shard.rt.clone());
    shard.spawn("remove_deleted", async move {
        of_dirs.remove_deleted(&rt).await;
    });
    dirs.make_reserves(shard).await;

    let log = LocalLog::open_in(&shard.rt, Rc::clone(dirs.metadata()), node_id)
        .await
        .map_err(|e| e.to_string())?;
    log.on_failure(log_dirs::metadata_failed(shard));
    let image = replay(&log).await?;
    let found = loop {
        let found = dirs.found(&shard.rt, &image, node_id).await?;
        if dirs.carry_moved(shard, &image, &found).await? {
            break found;
        }
    };
    let image = register(shard, shared, &log, image, found).await?;
    let partitions = image.topics().map(|topic| topic.partitions.len()).sum();
    dirs.set_strays_aside(&shard.rt, &image, node_id).await;
    begin(shard, &dirs).await;
    let image = Arc::new(image);
    dirs.set_image_of_start(Arc::clone(&image));
    let controller = Controller::new(shard, Box::new(log), Arc::clone(&image));
    controller.publish(image).await;
    *shard.controller.borrow_mut() = Some(Rc::clone(&controller));
    shard
        .rt
        .spawn_vital("controller", controller.apply_committed())
        .detach();
    dirs.mark_recovered(shard).await;
    // A directory that failed meanwhile: there was nobody to be told.
    log_dirs::tell_controller(shard).await;
    Ok(partitions)
}

/// Tells every shard what the directories hold.
async fn begin(shard: &Rc<Shard>, dirs: &LogDirs) {
    let start = Arc::new(dirs.start_state());
    let begin = |to: usize| shard.call(ShardId(to as u16), Request::Begin(Arc::clone(&start)));
    let calls: Vec<_> = (0..shard.shards()).map(begin).collect();
    for call in calls {
        call.await;
    }
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
    found: FoundDirectories,
) -> Result<Image, String> {
    let registration = BrokerRegistration {
        node_id: shared.config.node_id,
        incarnation: random_uuid(shard),
        endpoints: shared.advertised.clone(),
        rack: shared.config.rack.clone(),
        shards: shard.shards() as u16,
        found,
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

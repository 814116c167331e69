//! What a shortage of space, or of anything else for a moment, must not stop: R33.

mod stories;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelog_runtime::Rt;
use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld};
use corelog_storage::config::LogConfig;
use corelog_storage::guard::DirGuard;
use corelog_storage::log::{Appended, DeleteRecordsError, Log, LogError, LogParams};
use corelog_storage::log_dir::{Identity, LogDir, LogDirError, StartKind};
use corelog_storage::shard::{CheckpointSink, ShardStorage, StorageLimits};
use stories::{append, batch, params, small_segments, story};

const RESERVE: u64 = 4 << 20;

/// Makes the error that whoever writes checkpoints answers with.
type Refusal = fn() -> io::Error;

/// A real log directory, as a broker looks after it for its logs.
struct Dir {
    dir: LogDir,
    full: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
}

struct Held(Rc<Dir>);

impl DirGuard for Held {
    fn is_full(&self, _: &Path) -> bool {
        self.0.full.get()
    }

    fn no_space(&self, _: &Path) {
        self.0.full.set(true);
    }

    fn release<'a>(&'a self, _: &'a Path) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(self.0.dir.release_reserve())
    }

    fn failed(&self, log_dir: &Path, why: &Arc<str>) {
        panic!("{} was said to have failed: {why}", log_dir.display());
    }
}

impl CheckpointSink for Held {
    fn lower<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        recovery_point: i64,
        high_watermark: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            if let Some(refusal) = self.0.refusal.get() {
                return Err(refusal());
            }
            let offset = recovery_point.min(high_watermark);
            let lowered = self.0.dir.lower(topic, partition, offset).await;
            lowered.map_err(LogDirError::into_io)
        })
    }

    fn raise_log_start<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        log_start: i64,
        recovery_point: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            if let Some(refusal) = self.0.refusal.get() {
                return Err(refusal());
            }
            let dir = &self.0.dir;
            let raised = dir.raise_log_start(topic, partition, log_start, recovery_point);
            raised.await.map_err(LogDirError::into_io)
        })
    }
}

async fn set_up(rt: &Rt, reserve: u64) -> (Rc<ShardStorage>, Rc<Dir>) {
    let identity = Identity {
        cluster_id: None,
        node_id: 1,
    };
    let dir = LogDir::open(rt, "/data".as_ref(), identity, None).await;
    let dir = Rc::new(Dir {
        dir: dir.unwrap(),
        full: Cell::new(false),
        refusal: Cell::new(None),
    });
    dir.dir.set_reserve(reserve).await.unwrap();
    let shard = ShardStorage::new(StorageLimits::default());
    shard.set_guard(Rc::new(Held(dir.clone())));
    shard.set_checkpoint_sink(Rc::new(Held(dir.clone())));
    (shard, dir)
}

async fn make(rt: &Rt, shard: &Rc<ShardStorage>, name: &str, config: LogConfig) -> Log {
    let params = LogParams {
        dir: Path::new("/data").join(format!("{name}-0")),
        topic: name.into(),
        ..params(StartKind::Clean, 0, config)
    };
    Log::create(rt, shard, params).await.unwrap()
}

fn by_size(bytes: u64) -> LogConfig {
    LogConfig {
        retention_bytes: Some(bytes),
        retention_ms: None,
        file_delete_delay_ms: 0,
        ..small_segments()
    }
}

/// Appends records of 2,000 bytes, nine to a segment, and commits them.
async fn fill(log: &Log, records: u64) {
    for _ in 0..records {
        let appended = append(log, batch(1, 2_000, 1)).await.unwrap();
        log.wait(&appended).await.unwrap();
    }
    log.set_high_watermark(log.committable_end());
}

fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}

#[test]
fn r33_retention_frees_a_disk_that_was_full_before_the_first_checkpoint() {
    // With a reserve, out of which a checkpoint is made; and without one.
    for (seed, reserve) in [(1, RESERVE), (2, 0)] {
        let world = world(seed);
        let inner = world.clone();
        story(&world, async move |rt| {
            let (shard, dir) = set_up(&rt, reserve).await;
            let log = make(&rt, &shard, "t", by_size(40_000)).await;
            fill(&log, 45).await;
            assert_eq!(log.marks().recovery_point, 0);
            inner.set_capacity(inner.used_bytes());
            let retained = log.retain().await.unwrap();
            assert!(retained.segments > 0, "{retained:?}");
            rt.sleep(Duration::from_millis(10)).await;
            dir.full.set(false);
            fill(&log, 3).await;
            assert_eq!((log.marks().log_end, log.failure()), (48, None));
        });
    }
}

#[test]
fn r33_on_a_full_disk_an_idle_log_gives_back_what_was_prepared_for_it() {
    let world = world(3);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, _dir) = set_up(&rt, 0).await;
        let config = LogConfig::default();
        let log = make(&rt, &shard, "t", config).await;
        for _ in 0..20 {
            let appended = append(&log, batch(1, 60_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        inner.set_capacity(inner.used_bytes());
        let before = inner.used_bytes();
        assert_eq!(log.checkpoint().await, Err(LogError::NoSpace));
        assert_eq!(shard.counters().idle_trims, 0, "it has news");
        // Idle since: its own space is enough for its checkpoint.
        assert_eq!(log.checkpoint().await, Ok(20));
        assert_eq!(shard.counters().idle_trims, 1);
        assert!(inner.used_bytes() + (64 << 10) < before);
    });
}

#[test]
fn r33_on_a_full_disk_checkpoints_of_ordinary_logs_are_made_out_of_the_reserve() {
    let world = world(4);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, dir) = set_up(&rt, RESERVE).await;
        let log = make(&rt, &shard, "t", small_segments()).await;
        fill(&log, 5).await;
        inner.set_capacity(inner.used_bytes());
        assert_eq!(log.checkpoint().await, Ok(5));
        assert!(dir.dir.reserve_bytes() < RESERVE);
    });
}

/// Has every write of a segment refused for want of space, as a device does that lends out more than
/// it has.
fn refuse_writes(world: &SimWorld, base: i64) {
    world.add_fault(ScriptedFault {
        kind: OpKind::Write,
        path_contains: format!("{base:020}.log"),
        skip: 0,
        times: u64::MAX,
        fault: Fault::NoSpace,
    });
}

/// Rolls a log whose active segment, from `base` on, lacks one record, and cannot write that record.
async fn roll_without_space(world: &SimWorld, log: &Log, base: i64) -> Appended {
    refuse_writes(world, base);
    append(log, batch(1, 2_000, 1)).await.unwrap();
    append(log, batch(1, 2_000, 1)).await.unwrap()
}

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn r33_a_log_whose_write_waits_for_space_holds_up_neither_checkpoints_nor_retention() {
    let world = world(5);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, dir) = set_up(&rt, RESERVE).await;
        let stuck = make(&rt, &shard, "stuck", by_size(0)).await;
        let sound = make(&rt, &shard, "sound", by_size(0)).await;
        fill(&sound, 30).await;
        fill(&stuck, 8).await;
        let late = roll_without_space(&inner, &stuck, 0).await;
        // Begun before anybody knows, or after: both end.
        let early = rt.spawn("early", {
            let stuck = stuck.clone();
            async move { (stuck.checkpoint().await, stuck.retain().await) }
        });
        let early = rt.timeout(LONG, early).await.expect("they end").unwrap();
        assert!(stuck.marks().written_end == 8 && inner.faults().no_space > 0);
        assert_eq!(early, (Err(LogError::NoSpace), Ok(Default::default())));
        for log in [&stuck, &sound] {
            let made = rt.timeout(LONG, log.checkpoint()).await;
            let retained = rt.timeout(LONG, log.retain()).await;
            let is_sound = log.topic() == "sound";
            assert_eq!(made.expect("it ends").is_ok(), is_sound);
            let retained = retained.expect("it ends").unwrap();
            assert_eq!(retained.segments > 0, is_sound);
        }
        let deleted = rt.timeout(LONG, stuck.delete_records(1)).await;
        let refused = DeleteRecordsError::Log(LogError::NoSpace);
        assert_eq!(deleted, Some(Err(refused)), "it cannot be flushed");
        // An ordinary log has no right to the reserve.
        assert_eq!(dir.dir.reserve_bytes(), RESERVE);
        assert_eq!(stuck.failure(), None);
        inner.clear_faults();
        stuck.wait(&late).await.unwrap();
        stuck.set_high_watermark(10);
        assert_eq!(stuck.checkpoint().await, Ok(10));
        dir.full.set(false);
        assert_eq!(stuck.retain().await.unwrap().segments, 2);
    });
}

#[test]
fn r33_while_a_write_of_a_log_waits_for_space_its_sealed_segments_go() {
    let world = world(6);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, _dir) = set_up(&rt, RESERVE).await;
        let config = LogConfig {
            segment_ms: i64::MAX as u64, // its records are as old as time
            ..by_size(20_000)
        };
        let log = make(&rt, &shard, "t", config.clone()).await;
        fill(&log, 35).await; // three sealed segments, and one that lacks a record
        // Opened anew, the last file is known by its own name.
        log.abandon();
        let again = LogParams {
            high_watermark: 35,
            ..params(StartKind::ProcessDeath, 0, config)
        };
        let (log, _) = Log::open(&rt, &shard, again).await.unwrap();
        assert_eq!(log.marks().recovery_point, 0);
        let late = roll_without_space(&inner, &log, 27).await;
        rt.sleep(Duration::from_secs(1)).await;
        assert!(log.marks().written_end == 35 && inner.faults().no_space > 0);
        let retained = rt.timeout(LONG, log.retain()).await.expect("it ends");
        assert_eq!(retained.unwrap().segments, 3);
        assert_eq!((log.marks().log_start, log.failure()), (27, None));
        inner.clear_faults();
        log.wait(&late).await.unwrap();
    });
}

#[test]
fn r33_a_log_whose_write_waits_for_space_can_be_deleted() {
    let world = world(7);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, _dir) = set_up(&rt, 0).await;
        let log = make(&rt, &shard, "t", small_segments()).await;
        fill(&log, 8).await;
        roll_without_space(&inner, &log, 0).await;
        // One that has to roll once more waits for the first roll's end.
        let waits = rt.spawn("appends", {
            let log = log.clone();
            async move {
                for _ in 0..10 {
                    append(&log, batch(1, 2_000, 1)).await?;
                }
                Ok::<(), corelog_storage::log::AppendError>(())
            }
        });
        rt.sleep(Duration::from_secs(1)).await;
        let deleted = rt.timeout(LONG, log.delete()).await;
        assert_eq!(deleted, Some(Ok(())));
        assert!(waits.await.unwrap().is_err());
    });
}

#[test]
fn r33_a_write_that_waits_for_space_takes_the_reserve_piece_by_piece() {
    let world = world(8);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (shard, dir) = set_up(&rt, RESERVE).await;
        let own = LogConfig {
            uses_reserve: true,
            ..small_segments()
        };
        let log = make(&rt, &shard, "own", own).await;
        fill(&log, 2).await;
        refuse_writes(&inner, 0);
        let late = append(&log, batch(1, 2_000, 1)).await.unwrap();
        rt.sleep(Duration::from_secs(1)).await;
        let held = dir.dir.reserve_bytes();
        assert!(0 < held && held < RESERVE, "{held}");
        inner.clear_faults();
        log.wait(&late).await.unwrap();
    });
}

#[test]
fn r33_no_refusal_of_whoever_writes_checkpoints_ends_a_log() {
    let refusals: [Refusal; 4] = [
        || {
            let error = LogDirError::Io {
                action: "write",
                path: "/data/a".into(),
                source: io::Error::from_raw_os_error(24),
            };
            let error = error.into_io();
            assert_eq!(error.raw_os_error(), Some(24), "it keeps its number");
            error
        },
        || io::Error::other("the log directory is offline"),
        || io::Error::from_raw_os_error(5),
        || io::ErrorKind::StorageFull.into(),
    ];
    story(&world(9), async |rt| {
        let (shard, dir) = set_up(&rt, 0).await;
        let log = make(&rt, &shard, "t", by_size(0)).await;
        fill(&log, 30).await;
        log.checkpoint().await.unwrap();
        for refusal in refusals {
            dir.refusal.set(Some(refusal));
            let is_full = refusal().kind() == io::ErrorKind::StorageFull;
            let mut errors = Vec::new();
            match log.delete_records(20).await {
                Err(DeleteRecordsError::Log(error)) => errors.push(error),
                other => panic!("{other:?}"),
            }
            errors.extend(log.truncate_to(25).await.err());
            if !is_full {
                errors.extend(log.retain().await.err());
                assert_eq!(errors.len(), 3);
            }
            for error in errors {
                assert_eq!(error == LogError::NoSpace, is_full, "{error}");
            }
            let marks = log.marks();
            assert_eq!((marks.log_start, marks.log_end), (0, 30));
            assert_eq!(log.failure(), None);
        }
        dir.refusal.set(None);
        fill(&log, 1).await;
        log.truncate_to(25).await.unwrap();
        assert_eq!(log.delete_records(20).await, Ok(20));
        assert!(log.retain().await.unwrap().segments > 0);
    });
}

/// What a failed flush was to make durable may be lost for good, and the kernel tells it once: the
/// next flush succeeds, and says nothing of it.
#[test]
fn r31_a_flush_that_fails_while_room_is_made_ahead_of_the_appends_ends_the_log() {
    for skip in 1..4 {
        let world = SimWorld::new(31, SimConfig::default());
        story(&world, async |rt| {
            let shard = ShardStorage::new(StorageLimits::default());
            let mut config = LogConfig::default();
            config.flush.messages = Some(1);
            let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, config))
                .await
                .unwrap();
            // With one message to a flush all appends are durable writes: only room needs fdatasync.
            world.add_fault(ScriptedFault {
                kind: OpKind::Flush,
                path_contains: ".log".into(),
                skip,
                times: 1,
                fault: Fault::Eio,
            });
            for _ in 0..2000 {
                let Ok(appended) = append(&log, batch(1, 4_000, 1)).await else {
                    break;
                };
                if log.wait(&appended).await.is_err() {
                    break;
                }
            }
            assert_eq!(world.faults().eio_flushes, 1, "skip {skip}");
            assert!(log.failure().is_some(), "skip {skip}");
        });
    }
}

//! Full and failing disks on the simulated machine: R33.

mod stories;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::Rt;
use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld};
use corelog_storage::checkpoint_files::OffsetMap;
use corelog_storage::config::LogConfig;
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::guard::DirGuard;
use corelog_storage::log::{AppendError, Log, LogError, LogParams, is_no_space};
use corelog_storage::log_dir::{Identity, LogDir, RESERVE_FILE, StartKind};
use corelog_storage::shard::{ShardStorage, StorageLimits};
use stories::{append, batch, fetch, params, small_segments, story};

const DIR: &str = "/data";
const RESERVE: u64 = 4 << 20;

/// What a broker does for its logs, on one shard.
#[derive(Default)]
struct Guard {
    dir: RefCell<Option<Rc<LogDir>>>,
    full: Cell<bool>,
    failed: RefCell<Vec<(PathBuf, String)>>,
}

struct Held(Rc<Guard>);

impl DirGuard for Held {
    fn is_full(&self, _: &Path) -> bool {
        self.0.full.get()
    }

    fn no_space(&self, _: &Path) {
        self.0.full.set(true);
    }

    fn release<'a>(&'a self, _: &'a Path) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async move {
            let dir = self.0.dir.borrow().clone();
            match dir {
                Some(dir) => dir.release_reserve().await,
                None => false,
            }
        })
    }

    fn failed(&self, log_dir: &Path, why: &Arc<str>) {
        let told = (log_dir.to_owned(), why.to_string());
        self.0.failed.borrow_mut().push(told);
    }
}

struct Setup {
    dir: Rc<LogDir>,
    shard: Rc<ShardStorage>,
    guard: Rc<Guard>,
}

async fn open_dir(rt: &Rt) -> Rc<LogDir> {
    let identity = Identity {
        cluster_id: None,
        node_id: 1,
    };
    let dir = LogDir::open(rt, Path::new(DIR), identity, None).await;
    Rc::new(dir.unwrap())
}

async fn set_up(rt: &Rt) -> Setup {
    let dir = open_dir(rt).await;
    dir.set_reserve(RESERVE).await.unwrap();
    let guard = Rc::new(Guard::default());
    *guard.dir.borrow_mut() = Some(dir.clone());
    let shard = ShardStorage::new(StorageLimits::default());
    shard.set_guard(Rc::new(Held(guard.clone())));
    Setup { dir, shard, guard }
}

fn named(name: &str, config: LogConfig) -> LogParams {
    LogParams {
        dir: Path::new(DIR).join(name),
        topic: name.split_once('-').map_or(name, |parts| parts.0).into(),
        ..params(StartKind::Clean, 0, config)
    }
}

/// As the offsets topic: small segments, flushed, with the right to the reserve.
fn own() -> LogConfig {
    LogConfig {
        flush: FlushPolicy {
            messages: Some(1),
            ms: None,
        },
        uses_reserve: true,
        segment_bytes: 200_000,
        ..LogConfig::default()
    }
}

#[test]
fn r33_a_full_disk_refuses_ordinary_appends_while_the_reserve_serves_the_brokers_own() {
    let world = SimWorld::new(11, SimConfig::default());
    let inner = world.clone();
    story(&world, async move |rt| {
        let Setup { dir, shard, guard } = set_up(&rt).await;
        let ordinary = Log::create(&rt, &shard, named("t-0", LogConfig::default()));
        let ordinary = ordinary.await.unwrap();
        let internal = Log::create(&rt, &shard, named("own-0", own()))
            .await
            .unwrap();
        inner.set_capacity(inner.used_bytes());
        // Nothing of the ordinary log has room, and what it is refused takes nothing.
        for _ in 0..20 {
            let refused = append(&ordinary, batch(1, 10_000, 1)).await;
            assert_eq!(refused.unwrap_err(), AppendError::NoSpace);
        }
        assert_eq!(dir.reserve_bytes(), RESERVE);
        // Its own go on, over rolls, with checkpoints; meanwhile ordinary ones stay refused.
        let mut end = 0;
        for round in 0..150 {
            let appended = append(&internal, batch(1, 10_000, 1)).await.unwrap();
            internal.wait(&appended).await.unwrap();
            end = appended.last_offset + 1;
            let refused = append(&ordinary, batch(1, 10_000, 1)).await;
            assert_eq!(refused.unwrap_err(), AppendError::NoSpace, "round {round}");
            if round % 50 == 0 {
                internal.checkpoint().await.unwrap();
                let offsets = OffsetMap::from([(("own".to_owned(), 0), end)]);
                dir.write_recovery_points(&offsets, dir.lowered())
                    .await
                    .unwrap();
            }
        }
        assert!(internal.segment_count() > 5 && dir.reserve_bytes() < RESERVE);
        assert_eq!(internal.marks().flushed_end, end);
        let plan = internal.read(0, 500, true, i64::MAX).await.unwrap();
        assert!(!fetch(&rt, &shard, &internal, &plan).await.is_empty());
        // Too little to be whole again: the probe says no, and holds what there is.
        let held = dir.reserve_bytes();
        inner.set_capacity(inner.used_bytes() + (1 << 20));
        let asked = inner.op_count(OpKind::Fallocate);
        let refused = dir.refill_reserve(1 << 20).await;
        assert!(is_no_space(&refused.unwrap_err()));
        assert_eq!(dir.reserve_bytes(), held);
        let took = inner.op_count(OpKind::Fallocate) - asked;
        assert_eq!(took, 0, "what little there is stays for others");
        // Space returns: the reserve is whole, and everybody writes.
        inner.set_capacity(1 << 40);
        dir.refill_reserve(1 << 20).await.unwrap();
        assert_eq!(dir.reserve_bytes(), RESERVE);
        let path = Path::new(DIR).join(RESERVE_FILE);
        assert_eq!(rt.stat(path).await.unwrap().len, RESERVE);
        guard.full.set(false);
        let appended = append(&ordinary, batch(1, 10_000, 1)).await.unwrap();
        assert_eq!(appended.base_offset, 0);
        ordinary.wait(&appended).await.unwrap();
        assert!(guard.failed.borrow().is_empty());
        for log in [ordinary, internal] {
            log.close().await.unwrap();
        }
    });
}

#[test]
fn r33_a_directory_opens_and_closes_on_a_full_disk() {
    let world = SimWorld::new(12, SimConfig::default());
    let inner = world.clone();
    story(&world, async move |rt| {
        let Setup { dir, shard, .. } = set_up(&rt).await;
        let log = Log::create(&rt, &shard, named("t-0", LogConfig::default()));
        let log = log.await.unwrap();
        let appended = append(&log, batch(1, 10_000, 1)).await.unwrap();
        log.wait(&appended).await.unwrap();
        inner.set_capacity(inner.used_bytes());
        // A clean stop needs room for its files and has it.
        let end = log.close().await.unwrap();
        inner.set_capacity(inner.used_bytes()); // what it trimmed off is not there either
        let offsets = OffsetMap::from([(("t".to_owned(), 0), end)]);
        dir.write_high_watermarks(&offsets, dir.lowered())
            .await
            .unwrap();
        dir.write_recovery_points(&offsets, dir.lowered())
            .await
            .unwrap();
        dir.write_clean_marker(1).await.unwrap();
        drop((dir, log));
        let held = rt
            .stat(Path::new(DIR).join(RESERVE_FILE))
            .await
            .unwrap()
            .len;
        assert!(held < RESERVE);
        inner.set_capacity(inner.used_bytes());

        let dir = open_dir(&rt).await;
        assert_eq!(dir.start_kind(), StartKind::Clean);
        let refused = dir.set_reserve(RESERVE).await;
        assert!(is_no_space(&refused.unwrap_err()));
        assert!(dir.reserve_bytes() > 0);
        let again = LogParams {
            recovery_point: end,
            ..named("t-0", LogConfig::default())
        };
        let (log, report) = Log::open(&rt, &shard, again).await.unwrap();
        assert!(!report.replayed);
        assert_eq!(log.marks().log_end, end);
        // Not needed any more.
        dir.set_reserve(0).await.unwrap();
        assert_eq!(dir.reserve_bytes(), 0);
        assert!(!dir.release_reserve().await);
        log.close().await.unwrap();
    });
}

#[test]
fn r33_a_write_that_the_device_has_no_space_for_is_written_when_it_has() {
    let world = SimWorld::new(13, SimConfig::default());
    let inner = world.clone();
    story(&world, async move |rt| {
        let Setup { shard, guard, .. } = set_up(&rt).await;
        let log = Log::create(&rt, &shard, named("t-0", LogConfig::default()));
        let log = log.await.unwrap();
        let kept = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&kept).await.unwrap();
        *guard.dir.borrow_mut() = None; // no reserve
        inner.add_fault(ScriptedFault {
            kind: OpKind::Write,
            path_contains: ".log".into(),
            skip: 0,
            times: 3,
            fault: Fault::NoSpace,
        });
        let late = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&late).await.unwrap();
        assert!(inner.faults().no_space >= 3 && guard.full.get());
        assert_eq!((log.failure(), log.marks().written_end), (None, 2));
    });
}

/// The faults of one kind of operation, and what the log does to meet one.
async fn meets(rt: &Rt, world: &SimWorld, kind: OpKind, path: &str) -> Vec<(PathBuf, String)> {
    let Setup { shard, guard, .. } = set_up(rt).await;
    let name = format!("{kind:?}-0");
    let log = Log::create(rt, &shard, named(&name, small_segments()));
    let log = log.await.unwrap();
    let mut end = 0;
    for _ in 0..25 {
        let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
        log.wait(&appended).await.unwrap();
        end = appended.last_offset + 1;
    }
    log.checkpoint().await.unwrap();
    world.add_fault(ScriptedFault {
        kind,
        path_contains: format!("{name}{path}"),
        skip: 0,
        times: u64::MAX,
        fault: Fault::Eio,
    });
    for _ in 0..25 {
        match append(&log, batch(1, 2_000, 1)).await {
            Ok(appended) => _ = log.wait(&appended).await,
            Err(AppendError::DirOffline(_)) => break,
            Err(error) => panic!("{kind:?}: {error}"),
        }
    }
    let _ = log.checkpoint().await;
    if let Ok(plan) = log.read(0, 100_000, true, end).await {
        for range in &plan.ranges {
            let read = corelog_storage::cold::read_range(rt, &shard, range, range.position, 100);
            let _ = read.await;
        }
    }
    world.clear_faults();
    guard.failed.take()
}

#[test]
fn r33_an_io_error_of_any_kind_is_told_to_the_directory() {
    let cases = [
        (OpKind::Write, ""),
        (OpKind::Flush, ""),
        (OpKind::Fallocate, ""),
        (OpKind::Truncate, ""),
        (OpKind::Rename, ""),
        (OpKind::SyncDir, ""),
        (OpKind::Open, ""),
        (OpKind::Read, "/00000000000000000000.log"),
    ];
    for (seed, (kind, path)) in (20..).zip(cases) {
        let world = SimWorld::new(seed, SimConfig::default());
        let inner = world.clone();
        let told = story(&world, async move |rt| meets(&rt, &inner, kind, path).await);
        let name = format!("{kind:?}");
        let path = if matches!(kind, OpKind::Rename | OpKind::SyncDir) {
            ""
        } else {
            &name
        };
        assert!(
            told.iter()
                .any(|(dir, why)| dir == Path::new(DIR) && why.contains(path)),
            "{kind:?}: {told:?}"
        );
    }
}

#[test]
fn r33_a_directory_that_failed_stops_its_logs_with_its_reason() {
    let world = SimWorld::new(30, SimConfig::default());
    story(&world, async move |rt| {
        let Setup { shard, guard, .. } = set_up(&rt).await;
        let log = Log::create(&rt, &shard, named("t-0", LogConfig::default()));
        let log = log.await.unwrap();
        let appended = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&appended).await.unwrap();
        let why: Arc<str> = "another log met an error".into();
        let waits = rt.spawn("wait", {
            let log = log.clone();
            async move { log.wait_high_watermark(9).await }
        });
        rt.yield_now().await;
        log.condemn(&why);
        log.condemn(&"later".into());
        assert_eq!(log.failure(), Some(why.clone()));
        assert_eq!(waits.await, Some(Err(LogError::Io(why.clone()))));
        let refused = append(&log, batch(1, 100, 1)).await;
        assert_eq!(refused.unwrap_err(), AppendError::DirOffline(why));
        assert!(guard.failed.borrow().is_empty(), "it is known already");
    });
}

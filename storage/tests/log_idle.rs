//! Logs that nobody writes to: what they keep, and that they come back.

mod stories;

use corelog_runtime::Rt;
use corelog_runtime::sim::{SimConfig, SimWorld};
use corelog_storage::config::LogConfig;
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::log::{Log, LogParams};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};
use std::rc::Rc;

use stories::{append, batch, fetch, params, story};

fn of(partition: i32, start: StartKind, config: LogConfig) -> LogParams {
    LogParams {
        dir: format!("/data/t-{partition}").into(),
        partition,
        ..params(start, 0, config)
    }
}

async fn several(rt: &Rt, shard: &Rc<ShardStorage>, config: &LogConfig) -> Vec<Log> {
    let mut logs = Vec::new();
    for partition in 0..20 {
        let params = of(partition, StartKind::Clean, config.clone());
        logs.push(Log::create(rt, shard, params).await.unwrap());
    }
    logs
}

fn small_limit(direct: bool) -> Rc<ShardStorage> {
    ShardStorage::new(StorageLimits {
        open_segments: 3,
        tail_cache_bytes: 0,
        direct,
        ..StorageLimits::default()
    })
}

/// Twenty logs under a limit of three descriptors: every append and every read finds its file, in
/// any order, and a kill finds every acknowledged record.
fn under_a_limit(seed: u64, direct: bool, policy: FlushPolicy) {
    let world = SimWorld::new(seed, SimConfig::default());
    let config = LogConfig {
        flush: policy,
        ..LogConfig::default()
    };
    let of_first = config.clone();
    story(&world, async move |rt| {
        let shard = small_limit(direct);
        let logs = several(&rt, &shard, &of_first).await;
        for round in 0..5 {
            let mut appended = Vec::new();
            for (i, log) in logs.iter().enumerate() {
                let bytes = batch(1, 100 + i, round);
                appended.push(append(log, bytes).await.unwrap());
            }
            for (log, appended) in logs.iter().zip(&appended) {
                log.wait(appended).await.unwrap();
            }
            for log in &logs {
                let plan = log.read(round, 1, true, i64::MAX).await.unwrap();
                assert!(!fetch(&rt, &shard, log, &plan).await.is_empty());
            }
        }
        // Unflushed buffered files stay open for a while.
        let least = if direct { 5 * 17 } else { 40 };
        let reopens = shard.counters().reopens;
        assert!(reopens >= least, "{reopens}");
        if direct {
            assert!(shard.open_files() <= 3, "{}", shard.open_files());
        }
        for log in &logs {
            log.flush().await.unwrap();
        }
        // Another file is used: what could not be closed before may be now.
        let last = append(&logs[0], batch(1, 10, 9)).await.unwrap();
        logs[0].wait(&last).await.unwrap();
        logs[1].read(0, 1, true, i64::MAX).await.unwrap();
        assert!(shard.open_files() <= 3, "{}", shard.open_files());
        logs.iter().for_each(Log::abandon);
    });
    world.kill_process();
    story(&world, async move |rt| {
        let shard = small_limit(direct);
        for partition in 0..20 {
            let params = of(partition, StartKind::ProcessDeath, config.clone());
            let (log, _) = Log::open(&rt, &shard, params).await.unwrap();
            let expected = if partition == 0 { 6 } else { 5 };
            assert_eq!(log.marks().log_end, expected);
        }
    });
}

#[test]
fn files_beyond_the_limit_close_and_open_again() {
    under_a_limit(1, true, FlushPolicy::default());
    let each = FlushPolicy {
        messages: Some(1),
        ms: None,
    };
    under_a_limit(2, true, each);
}

/// With buffered I/O a file closes only once it is flushed.
#[test]
fn buffered_files_beyond_the_limit_are_flushed_before_they_close() {
    under_a_limit(3, false, FlushPolicy::default());
}

/// An idle log keeps its partial block and nothing else: no prepared space, no descriptor.
#[test]
fn an_idle_log_keeps_its_partial_block_and_nothing_else() {
    let world = SimWorld::new(4, SimConfig::default());
    let disk = world.clone();
    story(&world, async move |rt| {
        let shard = ShardStorage::new(StorageLimits::default());
        let params = params(StartKind::Clean, 0, LogConfig::default());
        let log = Log::create(&rt, &shard, params).await.unwrap();
        assert_eq!(shard.open_files(), 0, "nobody has written yet");
        let first = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&first).await.unwrap();
        assert_eq!(shard.open_files(), 1);
        let size = rt.stat("/data/t-0/00000000000000000000.log").await.unwrap();
        assert_eq!(size.len, 16 << 10, "the first preparation step is small");
        // Enough to have large steps prepared.
        for _ in 0..300 {
            let appended = append(&log, batch(1, 4_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.checkpoint().await.unwrap();
        let busy = disk.used_bytes();
        log.checkpoint().await.unwrap();
        assert_eq!(shard.open_files(), 0);
        assert_eq!(shard.counters().idle_trims, 1);
        let size = rt.stat("/data/t-0/00000000000000000000.log").await.unwrap();
        assert_eq!(size.len, log.size_bytes().next_multiple_of(4096));
        assert!(disk.used_bytes() < busy, "{} {busy}", disk.used_bytes());
        let next = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&next).await.unwrap();
        assert_eq!(next.base_offset, 301);
        let plan = log.read(301, 1, true, i64::MAX).await.unwrap();
        assert!(!fetch(&rt, &shard, &log, &plan).await.is_empty());
        assert_eq!(log.close().await.unwrap(), 302);
    });
}

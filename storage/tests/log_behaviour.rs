//! Single promises of the log, each shown by one small story on the simulated disk; the last one
//! on the real kernel.

mod model;
mod stories;

use std::cell::Cell;
use std::rc::Rc;

use corelog_record::batch::{BatchView, TimestampType};
use corelog_runtime::Rt;
use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld};
use corelog_storage::cold::read_range;
use corelog_storage::config::{LogConfig, TimestampRule};
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::log::{AppendError, Log, LogError, LogParams, ReadError};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

use stories::{append, batch, fetch, limits, params, small_segments, story};

/// `LogAppendTime` stamps the batch and keeps its CRC right.
#[test]
fn r03_log_append_time_is_stamped() {
    let world = SimWorld::new(1, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let config = LogConfig {
            timestamp: TimestampRule::LogAppendTime,
            ..LogConfig::default()
        };
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, config))
            .await
            .unwrap();
        let appended = append(&log, batch(3, 100, 5)).await.unwrap();
        log.wait(&appended).await.unwrap();
        let plan = log.read(0, 1 << 20, true, i64::MAX).await.unwrap();
        let bytes = fetch(&rt, &shard, &log, &plan).await;
        let view = BatchView::parse(&bytes).unwrap();
        assert!(view.crc_ok());
        assert_eq!(view.header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(view.header.max_timestamp, appended.log_append_time_ms);
        assert!(appended.log_append_time_ms > 1_600_000_000_000);
        let found = log
            .offset_for_timestamp(appended.log_append_time_ms)
            .await
            .unwrap();
        assert_eq!(found, Some((appended.log_append_time_ms, 0)));
    });
}

/// Disk full: the append is refused before it has offsets, reads go on, and appends resume when
/// space returns.
#[test]
fn r33_disk_full_refuses_appends_and_recovers() {
    let world = SimWorld::new(2, SimConfig::default());
    let inner = world.clone();
    story(&world, async move |rt| {
        let shard = ShardStorage::new(limits());
        let log = Log::create(
            &rt,
            &shard,
            params(StartKind::Clean, 0, LogConfig::default()),
        )
        .await
        .unwrap();
        let first = append(&log, batch(1, 1_000, 1)).await.unwrap();
        log.wait(&first).await.unwrap();
        inner.set_capacity(inner.used_bytes());
        let mut refused = 0;
        for _ in 0..200 {
            match append(&log, batch(1, 10_000, 1)).await {
                Ok(appended) => log.wait(&appended).await.unwrap(),
                Err(AppendError::NoSpace) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 0);
        assert_eq!(log.failure(), None);
        let end = log.marks().log_end;
        assert_eq!(log.marks().written_end, end, "what has offsets is written");
        let plan = log.read(0, 500, true, i64::MAX).await.unwrap();
        assert!(!fetch(&rt, &shard, &log, &plan).await.is_empty());
        inner.set_capacity(1 << 40);
        let appended = append(&log, batch(1, 10_000, 1)).await.unwrap();
        assert_eq!(appended.base_offset, end);
        log.wait(&appended).await.unwrap();
    });
}

/// An I/O error stops the log: waiters and later appends hear of it, the first reason is kept.
#[test]
fn r33_io_error_stops_the_log() {
    let world = SimWorld::new(3, SimConfig::default());
    let inner = world.clone();
    story(&world, async move |rt| {
        let shard = ShardStorage::new(limits());
        let log = Log::create(
            &rt,
            &shard,
            params(StartKind::Clean, 0, LogConfig::default()),
        )
        .await
        .unwrap();
        let kept = append(&log, batch(1, 100, 1)).await.unwrap();
        log.wait(&kept).await.unwrap();
        let called = Rc::new(Cell::new(0));
        let counter = called.clone();
        log.on_progress(Box::new(move || counter.set(counter.get() + 1)));
        inner.add_fault(ScriptedFault {
            kind: OpKind::Write,
            path_contains: ".log".into(),
            skip: 0,
            times: 1,
            fault: Fault::Eio,
        });
        let lost = append(&log, batch(1, 100, 1)).await.unwrap();
        assert!(matches!(log.wait(&lost).await, Err(LogError::Io(_))));
        assert!(log.wait(&kept).await.is_ok());
        assert!(matches!(
            append(&log, batch(1, 100, 1)).await,
            Err(AppendError::DirOffline(_))
        ));
        assert!(
            log.failure()
                .is_some_and(|why| why.contains("write of segment 0"))
        );
        assert!(called.get() > 0);
        assert!(log.close().await.is_err(), "no clean marker may follow");
    });
}

/// Nobody reads at or past the limit, whole batches only, and the first one holds the offset.
#[test]
fn r21_reads_end_at_the_limit() {
    let world = SimWorld::new(4, SimConfig::default());
    story(&world, async |rt| {
        let limits = StorageLimits {
            tail_cache_bytes: 10_000,
            ..limits()
        };
        let shard = ShardStorage::new(limits);
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
            .await
            .unwrap();
        let mut sent = Vec::new();
        for i in 0..100 {
            let bytes = batch(3, 300, i * 10);
            let appended = append(&log, bytes.clone()).await.unwrap();
            sent.push(model::oracle::Batch::placed(
                &bytes,
                appended.base_offset,
                1,
            ));
            log.wait(&appended).await.unwrap();
        }
        assert!(log.segment_count() > 3);
        for from in (0..300).step_by(7) {
            for limit in [from, from + 1, from + 2, from + 3, from + 20, 300] {
                let plan = log.read(from, 4_000, true, limit).await.unwrap();
                let got = fetch(&rt, &shard, &log, &plan).await;
                let first = (from / 3) as usize;
                let fits = sent[first..]
                    .iter()
                    .enumerate()
                    .take_while(|(i, _)| (first + i + 1) as i64 * 3 <= limit);
                let whole: Vec<u8> = fits.flat_map(|(_, b)| b.to_vec()).collect();
                assert!(whole.starts_with(&got), "from {from} limit {limit}");
                assert_eq!(
                    got.is_empty(),
                    whole.is_empty(),
                    "from {from} limit {limit}"
                );
            }
        }
        let out = log.read(301, 1, true, i64::MAX).await.unwrap_err();
        assert_eq!(
            out,
            ReadError::OffsetOutOfRange {
                log_start: 0,
                log_end: 300
            }
        );
    });
}

/// A cut makes handed out ranges stale, fails the waits for what it took, and offsets go on from it.
#[test]
fn r01_a_cut_is_seen_by_everyone() {
    let world = SimWorld::new(6, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits {
            tail_cache_bytes: 0,
            ..limits()
        });
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
            .await
            .unwrap();
        let mut last = None;
        for _ in 0..40 {
            let appended = append(&log, batch(2, 1_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
            last = Some(appended);
        }
        let range = log
            .read(79, 10_000, true, i64::MAX)
            .await
            .unwrap()
            .ranges
            .remove(0);
        log.truncate_to(41).await.unwrap();
        assert_eq!(log.marks().log_end, 40, "41 lies inside the batch 40..42");
        assert_eq!(
            read_range(&rt, &shard, &range, range.position, 10).await,
            Err(ReadError::Stale)
        );
        assert_eq!(log.wait(&last.unwrap()).await, Err(LogError::Truncated));
        let appended = append(&log, batch(2, 1_000, 1)).await.unwrap();
        assert_eq!(appended.base_offset, 40);
        log.wait(&appended).await.unwrap();
        assert_eq!(shard.counters().cuts_inside_batch, 1);
    });
}

/// Damage in the middle of the replayed part: the log ends before it, the bytes are kept.
#[test]
fn r32_damage_is_reported_and_its_bytes_are_kept() {
    let world = SimWorld::new(7, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let log = Log::create(
            &rt,
            &shard,
            params(StartKind::Clean, 0, LogConfig::default()),
        )
        .await
        .unwrap();
        for _ in 0..20 {
            let appended = append(&log, batch(1, 500, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.flush().await.unwrap();
    });
    let size = batch(1, 500, 1).len() as u64;
    world
        .damage("/data/t-0/00000000000000000000.log", 5 * size + 100, b"?")
        .unwrap();
    world.kill_process();
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let opened = Log::open(
            &rt,
            &shard,
            params(StartKind::Unclean, 0, LogConfig::default()),
        )
        .await;
        let (log, report) = opened.unwrap();
        assert_eq!(log.marks().log_end, 5);
        assert!(report.damaged && report.replayed && report.end_reason.is_some());
        // The last byte of a batch, its number of headers, is a zero and not told from padding.
        assert_eq!(report.bytes_cut, 15 * size - 1);
        assert_eq!(report.set_aside, ["/data/t-0/00000000000000000000.log.cut"]);
    });
    let kept = world
        .file_bytes("/data/t-0/00000000000000000000.log.cut")
        .unwrap();
    assert!(kept.len() as u64 >= 15 * size);
}

/// The last batch is damaged, and the recovery point says that it was on stable storage: no torn
/// tail. Without the recovery point the same bytes are one.
#[test]
fn r32_what_is_missing_below_the_recovery_point_is_damage() {
    for (recovery_point, is_damage) in [(3, true), (0, false)] {
        let world = SimWorld::new(7, SimConfig::default());
        story(&world, async |rt| {
            let shard = ShardStorage::new(limits());
            let opened = params(StartKind::Clean, 0, LogConfig::default());
            let log = Log::create(&rt, &shard, opened).await.unwrap();
            for _ in 0..3 {
                let appended = append(&log, batch(1, 500, 1)).await.unwrap();
                log.wait(&appended).await.unwrap();
            }
            log.flush().await.unwrap();
        });
        let size = batch(1, 500, 1).len() as u64;
        let path = "/data/t-0/00000000000000000000.log";
        world.damage(path, 2 * size + 100, b"?").unwrap();
        world.kill_process();
        story(&world, async |rt| {
            let shard = ShardStorage::new(limits());
            let opened = params(StartKind::Unclean, recovery_point, LogConfig::default());
            let (log, report) = Log::open(&rt, &shard, opened).await.unwrap();
            assert_eq!((log.marks().log_end, report.damaged), (2, is_damage));
            assert_eq!(report.set_aside.len(), usize::from(is_damage));
        });
    }
}

/// A deleted log leaves nothing behind.
#[test]
fn a_deleted_log_is_gone() {
    let world = SimWorld::new(8, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
            .await
            .unwrap();
        for _ in 0..30 {
            append(&log, batch(1, 2_000, 1)).await.unwrap();
        }
        log.clone().delete().await.unwrap();
        assert_eq!(
            append(&log, batch(1, 10, 1)).await,
            Err(AppendError::Closed)
        );
        assert!(
            rt.stat("/data/t-0").await.is_err(),
            "its name is free at once"
        );
        rt.sleep(std::time::Duration::from_secs(59)).await;
        let waiting = rt.read_dir("/data").await.unwrap();
        assert!(waiting[0].name.ends_with("-delete"), "{waiting:?}");
        rt.sleep(std::time::Duration::from_secs(2)).await;
        assert!(shard.counters().files_unlinked > 3);
    });
    assert!(
        world.paths().iter().all(|path| !path.contains("t-0")),
        "{:?}",
        world.paths()
    );
}

/// A flush.ms set on a running log flushes what no later append would.
#[test]
fn r30_flush_ms_works_on_an_idle_partition() {
    let world = SimWorld::new(9, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let log = Log::create(
            &rt,
            &shard,
            params(StartKind::Clean, 0, LogConfig::default()),
        )
        .await
        .unwrap();
        let appended = append(&log, batch(1, 10, 1)).await.unwrap();
        log.wait(&appended).await.unwrap();
        assert_eq!(log.marks().flushed_end, 0);
        let flush = FlushPolicy {
            messages: None,
            ms: Some(20),
        };
        log.set_config(LogConfig {
            flush,
            ..LogConfig::default()
        });
        rt.sleep(std::time::Duration::from_millis(60)).await;
        assert_eq!(log.marks().flushed_end, 1);
    });
}

/// Space is prepared in whole blocks, also in a segment that ended inside one when it was opened.
#[test]
fn preparation_goes_on_in_whole_blocks_after_a_stop() {
    let world = SimWorld::new(4, SimConfig::default());
    for start in [StartKind::Clean, StartKind::Unclean] {
        story(&world, async |rt| {
            let shard = ShardStorage::new(limits());
            let opened = params(start, 0, LogConfig::default());
            let path = opened.dir.join("00000000000000000000.log");
            let log = match start {
                StartKind::Clean => Log::create(&rt, &shard, opened).await.unwrap(),
                _ => Log::open(&rt, &shard, opened).await.unwrap().0,
            };
            for _ in 0..100 {
                let appended = append(&log, batch(1, 3_001, rt.wall_clock_ms())).await;
                log.wait(&appended.unwrap()).await.unwrap();
                assert_eq!(rt.stat(&path).await.unwrap().len % 4096, 0);
            }
            log.close().await.unwrap();
            assert_ne!(rt.stat(&path).await.unwrap().len % 4096, 0);
        });
    }
    assert_eq!(world.faults().misaligned, 0);
}

/// What was acknowledged under `flush.ms` is flushed in its time, also when the policy is taken away
/// before that.
#[test]
fn r30_flush_ms_binds_what_was_acknowledged_under_it() {
    let world = SimWorld::new(9, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(limits());
        let with = |ms| LogConfig {
            flush: FlushPolicy { messages: None, ms },
            ..LogConfig::default()
        };
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, with(Some(50))))
            .await
            .unwrap();
        for (offset, then) in [(1, None), (2, Some(5_000))] {
            log.set_config(with(Some(50)));
            let appended = append(&log, batch(1, 10, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
            assert_eq!(log.marks().flushed_end, offset - 1);
            log.set_config(with(then));
            rt.sleep(std::time::Duration::from_millis(100)).await;
            assert_eq!(log.marks().flushed_end, offset, "then {then:?}");
        }
    });
}

/// The planted bug is one that the model test must find (`model --planted ack-on-append`).
#[cfg(feature = "planted")]
#[test]
fn the_model_finds_an_acknowledgement_before_the_write() {
    use model::history::{Spec, Tally, run};
    let planted = Some("ack-on-append".to_owned());
    let found = (0..100).any(|seed| {
        run(
            &Spec {
                planted: planted.clone(),
                ..Spec::random(seed, 200)
            },
            &mut Tally::default(),
        )
        .is_err()
    });
    assert!(found);
}

/// The same code on the real kernel: io_uring, direct I/O, a clean stop and an unclean one.
#[test]
fn r31_the_log_on_the_real_kernel() {
    let dir = std::env::temp_dir().join(format!("corelog-log-{}", std::process::id()));
    let (shard_dir, cpus) = (dir.clone(), corelog_runtime::cpus::allowed());
    let specs = corelog_runtime::shards::specs(&cpus, Some(1), 1 << 20);
    let threads = corelog_runtime::shards::start_shards(specs, move |_| {
        let dir = shard_dir.clone();
        move |rt: Rt| async move { on_the_real_kernel(&rt, &dir).await }
    });
    for thread in threads.expect("io_uring works here") {
        thread.join().expect("the shard did not panic");
    }
    assert!(!dir.exists());
}

async fn on_the_real_kernel(rt: &Rt, dir: &std::path::Path) {
    let limits = StorageLimits {
        tail_cache_bytes: 1 << 16,
        ..limits()
    };
    let flush = FlushPolicy {
        messages: Some(50),
        ms: None,
    };
    let config = LogConfig {
        segment_bytes: 1 << 20,
        file_delete_delay_ms: 0,
        flush,
        ..LogConfig::default()
    };
    let at = |start, recovery_point| LogParams {
        dir: dir.join("t-0"),
        ..params(start, recovery_point, config.clone())
    };
    rt.mkdir_all(dir).await.unwrap();
    let shard = ShardStorage::new(limits);
    let log = Log::create(rt, &shard, at(StartKind::Clean, 0))
        .await
        .unwrap();
    let mut sent = Vec::new();
    for i in 0..400 {
        let bytes = batch(2, 10 + (i % 37) * 150, i as i64);
        let appended = append(&log, bytes.clone()).await.unwrap();
        sent.extend_from_slice(&model::oracle::Batch::placed(
            &bytes,
            appended.base_offset,
            1,
        ));
        if i % 9 == 0 {
            log.wait(&appended).await.unwrap();
        }
    }
    let end = log.close().await.unwrap();
    assert_eq!(end, 800);
    let (log, report) = Log::open(rt, &shard, at(StartKind::Clean, end))
        .await
        .unwrap();
    assert!(!report.replayed && log.segment_count() > 1);
    assert!(read_all(rt, &shard, &log).await == sent);
    let appended = append(&log, batch(1, 5_000, 1)).await.unwrap();
    log.wait(&appended).await.unwrap();
    log.abandon();
    let (log, report) = Log::open(rt, &shard, at(StartKind::ProcessDeath, 0))
        .await
        .unwrap();
    assert!(report.replayed && !report.damaged);
    assert_eq!(log.marks().log_end, 801);
    let bytes = read_all(rt, &shard, &log).await;
    assert!(bytes.starts_with(&sent) && bytes.len() > sent.len());
    log.delete().await.unwrap();
    // The files go in a task of their own.
    let mut tries = 0;
    while rt.rmdir(dir).await.is_err() {
        tries += 1;
        assert!(tries < 2_000, "the deleted log stays");
        rt.sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn read_all(rt: &Rt, shard: &Rc<ShardStorage>, log: &Log) -> Vec<u8> {
    let (mut out, mut from) = (Vec::new(), 0);
    while from < log.marks().log_end {
        let plan = log.read(from, 100_000, true, i64::MAX).await.unwrap();
        let bytes = fetch(rt, shard, log, &plan).await;
        let batches = corelog_record::batch::BatchIter::new(&bytes);
        from = batches.map(|b| b.unwrap().1.next_offset()).last().unwrap();
        out.extend_from_slice(&bytes);
    }
    out
}

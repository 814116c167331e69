//! Single promises of the log, each shown by one small story on the simulated disk; the last one
//! on the real kernel.

mod model;

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use corelog_record::batch::{BatchView, TimestampType};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_record::validate::{Rules, validate};
use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld, run_until_crash};
use corelog_runtime::{Advice, File, Rt};
use corelog_storage::cold::{read_range, warm_range};
use corelog_storage::config::{LogConfig, TimestampRule};
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::log::{
    AppendError, Appended, Log, LogError, LogParams, ReadError, ReadPlan, ValidatedBatch,
};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

fn params(start: StartKind, recovery_point: i64, config: LogConfig) -> LogParams {
    LogParams {
        dir: "/data/t-0".into(),
        topic: "t".into(),
        partition: 0,
        topic_id: [9; 16],
        leader_epoch: 1,
        recovery_point,
        high_watermark: 0,
        log_start: 0,
        start,
        config,
    }
}

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 20_000,
        index_interval_bytes: 1_000,
        ..LogConfig::default()
    }
}

fn batch(records: u64, value_bytes: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, timestamp);
    let value = vec![0x5a; value_bytes];
    for i in 0..records {
        builder.append(timestamp + i as i64, None, Some(&value), &[]);
    }
    builder.build().into()
}

fn checked(bytes: Bytes) -> ValidatedBatch {
    let rules = Rules {
        now_ms: 0,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        decompressed_bytes_max: 1 << 20,
        max_message_bytes: 8 << 20,
    };
    let validated = validate(&bytes, &rules).expect("a valid batch");
    ValidatedBatch { bytes, validated }
}

async fn append(log: &Log, bytes: Bytes) -> Result<Appended, AppendError> {
    log.append(log.admit(), checked(bytes)).await
}

/// Runs one process that ends by itself.
fn story<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) -> F::Output {
    run_until_crash(world, main).expect("no crash is planned")
}

async fn fetch(rt: &Rt, shard: &Rc<ShardStorage>, log: &Log, plan: &ReadPlan) -> Vec<u8> {
    let mut out = Vec::new();
    for range in &plan.ranges {
        let (mut at, end) = (range.position, range.position + range.len as u64);
        while at < end {
            let piece = match log.lookup_tail(range, at, (end - at) as usize) {
                Some(slices) => slices.concat(),
                None => read_range(rt, shard, range, at, (end - at) as usize)
                    .await
                    .expect("readable")
                    .to_vec(),
            };
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
    }
    out
}

/// `LogAppendTime` stamps the batch and keeps its CRC right.
#[test]
fn r03_log_append_time_is_stamped() {
    let world = SimWorld::new(1, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits::default());
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
        let shard = ShardStorage::new(StorageLimits::default());
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
        let shard = ShardStorage::new(StorageLimits::default());
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
            ..StorageLimits::default()
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

/// Every sealed file's pages are dropped once its bytes are durable, and no active file's.
#[test]
fn sealing_drops_the_pages_of_the_sealed_file() {
    let world = SimWorld::new(5, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits::default());
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
            .await
            .unwrap();
        assert_eq!(world.op_count(OpKind::Advise), 0);
        // A refused hint stops nothing.
        world.add_fault(ScriptedFault {
            kind: OpKind::Advise,
            path_contains: String::new(),
            skip: 1,
            times: 1,
            fault: Fault::Eio,
        });
        for _ in 0..40 {
            let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.close().await.unwrap();
        let sealed = shard.counters().rolls;
        assert!(sealed > 2, "{sealed} segments");
        assert_eq!(world.op_count(OpKind::Advise), sealed);
        assert_eq!(world.faults().eio_others, 1);
    });
}

/// Sealed segments are ready for sendfile; an active one never is.
#[test]
fn sealed_ranges_warm_up_for_sendfile_and_active_ones_do_not() {
    let world = SimWorld::new(5, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits {
            tail_cache_bytes: 0,
            ..StorageLimits::default()
        });
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
            .await
            .unwrap();
        for _ in 0..40 {
            let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.flush().await.unwrap();
        let sealed = log
            .read(0, 10_000, true, i64::MAX)
            .await
            .unwrap()
            .ranges
            .remove(0);
        assert!(sealed.segment.sealed());
        let (_, ready) = warm_range(&rt, &shard, &sealed, sealed.position, sealed.len)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ready, sealed.len);
        let active = log
            .read(39, 10_000, true, i64::MAX)
            .await
            .unwrap()
            .ranges
            .remove(0);
        assert!(!active.segment.sealed());
        assert!(
            warm_range(&rt, &shard, &active, active.position, active.len)
                .await
                .unwrap()
                .is_none()
        );
    });
}

/// Eight readers of one cold range cost one read of its window, whatever becomes of the first; an
/// error is told to all who wait.
#[test]
fn readers_of_the_same_cold_range_share_its_read() {
    let (mut fills, mut shared, mut reads) = (0, 0, 0);
    for seed in 0..20 {
        let world = SimWorld::new(seed, SimConfig::default());
        let counters = story(&world, async |rt| {
            let shard = ShardStorage::new(StorageLimits {
                tail_cache_bytes: 0,
                ..StorageLimits::default()
            });
            let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, small_segments()))
                .await
                .unwrap();
            for _ in 0..40 {
                let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
                log.wait(&appended).await.unwrap();
            }
            log.flush().await.unwrap();
            let plan = log.read(0, 10_000, true, i64::MAX).await.unwrap();
            let sealed = Rc::new(plan.ranges[0].clone());
            let before = world.op_count(OpKind::Read);
            let readers = |count: usize| {
                let reader = |_| {
                    let (rt_in, shard, sealed) = (rt.clone(), shard.clone(), sealed.clone());
                    rt.spawn("reader", async move {
                        warm_range(&rt_in, &shard, &sealed, sealed.position, sealed.len).await
                    })
                };
                (0..count).map(reader).collect::<Vec<_>>()
            };
            // The file is opened before, so that all come to the same place together.
            let handle = sealed.segment.buffered(&rt).await.unwrap();
            world.add_fault(ScriptedFault {
                kind: OpKind::Read,
                path_contains: String::new(),
                skip: 0,
                times: 1,
                fault: Fault::Eio,
            });
            for reader in readers(8) {
                assert!(matches!(reader.await.unwrap(), Err(ReadError::Io(_))));
            }
            assert_eq!(world.op_count(OpKind::Read) - before, 1, "one read failed");
            let file = File::from_handle(&rt, handle);
            file.fadvise(Advice::DontNeed, 0, 0).await.unwrap();
            let mut eight = readers(8);
            rt.yield_now().await;
            eight.remove(0).cancel();
            for reader in eight {
                let (_, ready) = reader.await.unwrap().unwrap().unwrap();
                assert_eq!(ready, sealed.len);
            }
            reads += world.op_count(OpKind::Read) - before - 1;
            shard.counters()
        });
        assert!(counters.cold_fills >= 2, "the one that failed, the other");
        fills += counters.cold_fills;
        shared += counters.cold_fills_shared;
    }
    // Two reads of one byte wait for a window. The simulation takes pages away by chance, and then
    // they are read again.
    assert!(
        (40..80).contains(&reads),
        "{reads} reads for 20 times eight readers"
    );
    assert!(fills < 60, "{fills} fills");
    assert!(shared >= 20 * 13, "{shared} shared");
}

/// A cut makes handed out ranges stale, fails the waits for what it took, and offsets go on from it.
#[test]
fn r01_a_cut_is_seen_by_everyone() {
    let world = SimWorld::new(6, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits {
            tail_cache_bytes: 0,
            ..StorageLimits::default()
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
        let shard = ShardStorage::new(StorageLimits::default());
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
        let shard = ShardStorage::new(StorageLimits::default());
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

/// A deleted log leaves nothing behind.
#[test]
fn a_deleted_log_is_gone() {
    let world = SimWorld::new(8, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits::default());
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
        let shard = ShardStorage::new(StorageLimits::default());
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
        ..StorageLimits::default()
    };
    let flush = FlushPolicy {
        messages: Some(50),
        ms: None,
    };
    let config = LogConfig {
        segment_bytes: 1 << 20,
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
    rt.rmdir(dir).await.unwrap();
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

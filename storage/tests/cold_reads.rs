//! Reading what is no longer in memory: pages dropped and brought in, and shared.

mod stories;

use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld};
use corelog_runtime::{Advice, File};
use corelog_storage::cold::{read_range, warm_range};
use corelog_storage::config::LogConfig;
use corelog_storage::log::{Log, ReadError};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

use stories::{append, batch, params, small_segments, story};

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

/// A reader in the second half of a window has the next one brought in, and none past the end.
#[test]
fn a_reader_in_the_second_half_of_a_window_has_the_next_one_brought_in() {
    const WINDOW_BYTES: u64 = 512 << 10;
    let world = SimWorld::new(13, SimConfig::default());
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits {
            tail_cache_bytes: 0,
            ..StorageLimits::default()
        });
        let config = LogConfig {
            // One window and a half.
            segment_bytes: WINDOW_BYTES / 2 * 3,
            ..LogConfig::default()
        };
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, config))
            .await
            .unwrap();
        for _ in 0..40 {
            let appended = append(&log, batch(1, 50_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.flush().await.unwrap();
        let plan = log.read(0, 2 << 20, true, i64::MAX).await.unwrap();
        let sealed = plan.ranges[0].clone();
        assert!(sealed.segment.sealed() && sealed.position == 0);
        assert!(sealed.len as u64 > WINDOW_BYTES, "{} bytes", sealed.len);
        let fills = async |at: u64| {
            let before = shard.counters().cold_fills;
            let warm = warm_range(&rt, &shard, &sealed, at, 1_000).await.unwrap();
            assert_eq!(warm.map(|(_, ready)| ready), Some(1_000));
            // Simulated: long enough for what goes on alone.
            rt.sleep(Duration::from_secs(5)).await;
            shard.counters().cold_fills - before
        };
        assert_eq!(fills(0).await, 1, "its own window");
        assert_eq!(fills(WINDOW_BYTES / 2).await, 1, "the next one");
        assert_eq!(fills(WINDOW_BYTES).await, 0, "which is there");
    });
}

/// Readers that come to nothing hold ranges for as long as they like, and no descriptors.
#[test]
fn r33_ranges_that_nobody_reads_hold_no_descriptors_over_the_limit() {
    let world = SimWorld::new(8, SimConfig::default());
    story(&world, async |rt| {
        let limits = StorageLimits {
            tail_cache_bytes: 0,
            open_segments: 4,
            ..StorageLimits::default()
        };
        let shard = ShardStorage::new(limits);
        let config = LogConfig {
            file_delete_delay_ms: 0,
            retention_bytes: Some(0),
            ..small_segments()
        };
        let log = Log::create(&rt, &shard, params(StartKind::Clean, 0, config))
            .await
            .unwrap();
        for _ in 0..90 {
            let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.flush().await.unwrap();
        let mut held = Vec::new();
        for from in (0..81).step_by(9) {
            let plan = log.read(from, 100_000, true, i64::MAX).await.unwrap();
            let range = plan.ranges[0].clone();
            let warm = warm_range(&rt, &shard, &range, range.position, range.len).await;
            let bytes = read_range(&rt, &shard, &range, range.position, range.len).await;
            held.push((range, bytes.unwrap(), warm.unwrap().unwrap().0));
        }
        assert!(shard.open_files() <= 4, "{}", shard.open_files());
        let opens = || world.op_count(OpKind::Open);
        let (last, ..) = held.last().unwrap();
        let before = opens();
        last.segment.reader(&rt).await.unwrap();
        last.segment.buffered(&rt).await.unwrap();
        assert_eq!(opens(), before, "one in use stays open");
        // The others are closed: each use opens them again, and leaves nothing open.
        for (range, bytes, handle) in &held[..6] {
            let before = opens();
            let again = read_range(&rt, &shard, range, range.position, range.len).await;
            assert_eq!(again.as_ref(), Ok(bytes));
            let warm = warm_range(&rt, &shard, range, range.position, range.len).await;
            assert_eq!(warm.unwrap().unwrap().1, range.len);
            range.segment.buffered(&rt).await.unwrap();
            assert_eq!(opens() - before, 3);
            // What began with a descriptor ends with it.
            let file = File::from_handle(&rt, handle.clone());
            let (read, _) = file.read_at(rt.pool().get(100), range.position, 100).await;
            assert_eq!(read.unwrap(), 100);
        }
        // Once the names are gone, so is what was promised of the closed ones; not of the others.
        log.set_high_watermark(90);
        log.retain().await.unwrap();
        rt.sleep(Duration::from_secs(1)).await;
        let (range, ..) = &held[0];
        let gone = read_range(&rt, &shard, range, range.position, range.len).await;
        assert_eq!(gone, Err(ReadError::Stale));
        let gone = warm_range(&rt, &shard, range, range.position, range.len).await;
        assert!(gone.unwrap().is_none());
        let (range, bytes, _) = held.last().unwrap();
        let kept = read_range(&rt, &shard, range, range.position, range.len).await;
        assert_eq!(kept.as_ref(), Ok(bytes));
    });
}

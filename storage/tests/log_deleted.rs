//! What is left of deleted records and segments: producers, files that wait, damage: R05, R11.

mod stories;

use std::time::Duration;

use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_runtime::sim::SimWorld;
use corelog_storage::config::LogConfig;
use corelog_storage::log::{Log, LogParams, ReadError};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};
use stories::dir::{by_size, fill, names, open, unexpiring, world};
use stories::{append, params, small_segments, story};

#[test]
fn r11_a_retry_is_known_after_its_batch_was_deleted_and_the_process_died() {
    let world = world(8);
    let sequenced = |now: i64, sequence| {
        let mut builder = BatchBuilder::new(Codec::None, now).producer(9, 0, sequence);
        builder.append(now, None, Some(&[3; 2_000]), &[]);
        bytes::Bytes::from(builder.build())
    };
    let now = 1_700_000_000_000;
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, unexpiring(0)).await;
        for sequence in 0..3 {
            let appended = append(&log, sequenced(now, sequence)).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        fill(&log, 20, 1).await;
        log.retain().await.unwrap();
        assert_eq!(log.marks().log_start, 23);
        log.abandon();
    });
    world.kill_process();
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, unexpiring(1 << 40)).await;
        let retry = append(&log, sequenced(now, 2)).await.unwrap();
        assert!(retry.duplicate && retry.base_offset == 2, "{retry:?}");
        assert_eq!(
            append(&log, sequenced(now, 3)).await.unwrap().base_offset,
            23
        );
    });
}

/// A producer's batch of one record.
fn sequenced(sequence: i32) -> bytes::Bytes {
    let now = 1_700_000_000_000;
    let mut builder = BatchBuilder::new(Codec::None, now).producer(9, 0, sequence);
    builder.append(now, None, Some(&[3; 2_000]), &[]);
    builder.build().into()
}

/// Three batches of a producer, and twenty of others behind them.
async fn fill_behind_a_producer(log: &Log) {
    for sequence in 0..3 {
        let appended = append(log, sequenced(sequence)).await.unwrap();
        log.wait(&appended).await.unwrap();
    }
    fill(log, 20, 1).await;
}

/// The next process knows the producer's last batch, which is not in the log any more.
fn knows_the_producer(world: &SimWorld) {
    world.kill_process();
    story(world, async |rt| {
        let (_shard, _dir, log) = open(&rt, unexpiring(1 << 40)).await;
        assert!(log.marks().log_start > 2);
        let retry = append(&log, sequenced(2)).await.unwrap();
        assert!(retry.duplicate && retry.base_offset == 2, "{retry:?}");
        assert_eq!(append(&log, sequenced(3)).await.unwrap().base_offset, 23);
    });
}

#[test]
fn r11_a_retry_is_known_after_its_batch_was_deleted_on_request_and_the_process_died() {
    let world = world(12);
    story(&world, async |rt| {
        let (_shard, dir, log) = open(&rt, unexpiring(1 << 40)).await;
        fill_behind_a_producer(&log).await;
        log.delete_records(20).await.unwrap();
        let point = || dir.dir.recovery_points().get(&("t".to_owned(), 0)).copied();
        assert_eq!(point(), Some(0), "nothing is to be done again for a while");
        assert_eq!(log.retain().await.unwrap().segments, 2);
        assert_eq!(point(), Some(23), "durable before a file goes");
        log.abandon();
    });
    knows_the_producer(&world);
}

#[test]
fn r11_a_retry_is_known_after_its_batch_was_deleted_on_a_full_disk_and_the_process_died() {
    let world = world(13);
    let inner = world.clone();
    story(&world, async move |rt| {
        let (_shard, dir, log) = open(&rt, unexpiring(10_000)).await;
        fill_behind_a_producer(&log).await;
        inner.set_capacity(inner.used_bytes());
        assert!(log.retain().await.unwrap().segments > 0);
        assert!(
            dir.dir.recovery_points().is_empty(),
            "no checkpoint was made"
        );
        log.abandon();
    });
    world.set_capacity(1 << 40);
    knows_the_producer(&world);
}

#[test]
fn r05_a_damaged_segment_without_indexes_is_as_old_as_its_last_change_and_answered_as_corrupt() {
    let world = world(14);
    let inner = world.clone();
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, by_size(1 << 40)).await;
        fill(&log, 20, rt.wall_clock_ms()).await;
        log.close().await.unwrap();
    });
    let first = format!("/data/t-0/{:020}", 0);
    world
        .damage(format!("{first}.log"), 2_100, &[0xff; 64])
        .unwrap();
    story(&world, async move |rt| {
        for suffix in ["index", "timeindex"] {
            rt.unlink(format!("{first}.{suffix}")).await.unwrap();
        }
        let hour = 3_600_000;
        let config = LogConfig {
            retention_ms: Some(hour),
            ..small_segments()
        };
        let shard = ShardStorage::new(StorageLimits::default());
        let clean = LogParams {
            recovery_point: 20,
            high_watermark: 20,
            ..params(StartKind::Clean, 20, config)
        };
        let (log, report) = Log::open(&rt, &shard, clean).await.unwrap();
        assert!(!report.replayed);
        let refused = log.read(0, 1, true, i64::MAX).await.err();
        assert!(
            matches!(refused, Some(ReadError::Corrupt(_))),
            "{refused:?}"
        );
        let refused = log.offset_for_timestamp(0).await.err();
        assert!(
            matches!(refused, Some(ReadError::Corrupt(_))),
            "{refused:?}"
        );
        assert_eq!(log.retain().await.unwrap().segments, 0, "it is young");
        // A clock that has moved on since the last write: the others are over, and so is this one.
        inner.step_wall_clock(2 * hour as i64);
        assert!(log.retain().await.unwrap().segments >= 2);
        assert_eq!(log.marks().log_start, 20);
        log.close().await.unwrap();
    });
}

#[test]
fn r05_a_new_delay_holds_for_deleted_files_that_wait_already() {
    story(&world(15), async |rt| {
        let waiting = || async {
            let names = names(&rt).await;
            names.iter().filter(|n| n.ends_with(".deleted")).count()
        };
        let with_delay = |file_delete_delay_ms| LogConfig {
            file_delete_delay_ms,
            ..by_size(0)
        };
        let (shard, _dir, log) = open(&rt, with_delay(3_600_000)).await;
        fill(&log, 30, 1).await;
        log.retain().await.unwrap();
        rt.sleep(Duration::from_secs(100)).await;
        assert!(waiting().await > 0);
        // Longer than it has waited, then shorter.
        log.set_config(with_delay(200_000));
        rt.sleep(Duration::from_secs(50)).await;
        assert!(waiting().await > 0);
        log.set_config(with_delay(100_000));
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!(waiting().await, 0);
        assert!(shard.counters().files_unlinked >= 9);
    });
}

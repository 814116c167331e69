//! The begin of the log: retention, deleted records, and what a crash at any moment leaves: R05.

mod stories;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_runtime::Rt;
use corelog_runtime::sim::{CrashKind, CrashMoment, SimConfig, SimWorld, run_until_crash};
use corelog_storage::cold::read_range;
use corelog_storage::config::LogConfig;
use corelog_storage::log::{DeleteRecordsError, Log, LogParams, ReadError};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};
use stories::dir::{by_size, fill, names, open, readable, world};
use stories::{append, batch, params, small_segments, story};

#[test]
fn r05_by_size_whole_segments_go_and_readers_are_told() {
    story(&world(1), async |rt| {
        let (shard, _dir, log) = open(&rt, by_size(50_000)).await;
        fill(&log, 45, 1).await;
        assert_eq!(log.segment_count(), 5);
        let before = log.size_bytes();
        let retained = log.retain().await.unwrap();
        let start = log.marks().log_start;
        assert!(retained.segments >= 1 && start > 0);
        assert_eq!(log.size_bytes(), before - retained.bytes);
        assert!(log.size_bytes() >= 50_000, "never below the limit");
        assert_eq!(log.retain().await.unwrap().segments, 0, "once is enough");
        let refused = log.read(start - 1, 100, true, i64::MAX).await.err();
        let log_end = log.marks().log_end;
        let expected = ReadError::OffsetOutOfRange {
            log_start: start,
            log_end,
        };
        assert_eq!(refused, Some(expected));
        assert_eq!(log.offset_for_timestamp(0).await, Ok(Some((1, start))));
        assert_eq!(
            readable(&rt, &shard, &log).await,
            (start..45).collect::<BTreeSet<_>>()
        );
        assert_eq!(
            log.epoch_end_offset(0),
            (0, start),
            "epochs begin there too"
        );
    });
}

#[test]
fn r05_by_age_the_largest_timestamp_of_a_segment_decides() {
    story(&world(2), async |rt| {
        let now = rt.wall_clock_ms();
        let hour = 3_600_000;
        let config = LogConfig {
            retention_ms: Some(hour as u64),
            ..small_segments()
        };
        let (shard, _dir, log) = open(&rt, config).await;
        fill(&log, 9, now - 3 * hour).await; // one segment of old records
        fill(&log, 8, now - 3 * hour).await; // old ones, and one that is not
        fill(&log, 1, now).await;
        fill(&log, 9, now - 3 * hour).await; // old again: kept back by those before
        log.retain().await.unwrap();
        assert_eq!(log.marks().log_start, 9);
        assert_eq!(shard.counters().retention_rolls, 0);
        // When the youngest is over too, all goes: the active segment rolls first.
        rt.sleep(Duration::from_millis(hour as u64 + 1)).await;
        log.retain().await.unwrap();
        let marks = log.marks();
        assert_eq!((marks.log_start, marks.log_end), (27, 27));
        assert_eq!((log.segment_count(), log.size_bytes()), (1, 0));
        assert_eq!(shard.counters().retention_rolls, 1);
        log.retain().await.unwrap();
        assert_eq!(shard.counters().retention_rolls, 1, "an empty one stays");
        // Offsets go on, and a time in the future keeps a record for ever.
        fill(&log, 1, now + 1_000 * hour).await;
        rt.sleep(Duration::from_millis(500 * hour as u64)).await;
        assert_eq!(log.retain().await.unwrap().segments, 0);
        assert_eq!(readable(&rt, &shard, &log).await, BTreeSet::from([27]));
    });
}

#[test]
fn r05_records_without_timestamps_and_uncommitted_ones_are_kept() {
    story(&world(3), async |rt| {
        let config = LogConfig {
            retention_ms: Some(10_000),
            ..small_segments()
        };
        let (_shard, _dir, log) = open(&rt, config).await;
        for _ in 0..25 {
            let mut builder = BatchBuilder::new(Codec::None, -1);
            builder.append(-1, None, Some(&[7; 2_000]), &[]);
            let appended = append(&log, builder.build().into()).await.unwrap();
            log.wait(&appended).await.unwrap();
        }
        log.set_high_watermark(12);
        assert_eq!(log.retain().await.unwrap().segments, 0, "they just came");
        rt.sleep(Duration::from_secs(11)).await;
        assert_eq!(log.retain().await.unwrap().segments, 1);
        assert_eq!(log.marks().log_start, 9, "below the high watermark");
    });
}

#[test]
fn r05_without_delete_in_the_policy_only_what_lies_below_the_log_start_goes() {
    story(&world(4), async |rt| {
        let config = LogConfig {
            deletes: false,
            retention_ms: Some(0),
            ..by_size(0)
        };
        let (_shard, _dir, log) = open(&rt, config).await;
        fill(&log, 45, 1).await;
        assert_eq!(log.retain().await.unwrap().segments, 0);
        log.delete_records(20).await.unwrap();
        assert_eq!(log.retain().await.unwrap().segments, 2);
        let first = names(&rt).await.into_iter().find(|n| n.ends_with(".log"));
        assert_eq!(first.unwrap(), format!("{:020}.log", 18));
        assert_eq!(log.marks().log_start, 20);
    });
}

#[test]
fn r05_deleted_records_are_gone_for_good() {
    story(&world(5), async |rt| {
        let (shard, dir, log) = open(&rt, by_size(1 << 40)).await;
        fill(&log, 30, 1).await;
        let unwritten = append(&log, batch(1, 2_000, 1)).await.unwrap();
        let past = DeleteRecordsError::OffsetOutOfRange { high_watermark: 30 };
        assert_eq!(log.delete_records(31).await, Err(past));
        assert_eq!(log.delete_records(13).await, Ok(13));
        assert_eq!(log.delete_records(4).await, Ok(13), "it never goes back");
        assert_eq!(
            (log.delete_records(13).await, dir.raises.get()),
            (Ok(13), 1)
        );
        log.wait(&unwritten).await.unwrap();
        // Nothing was closed: the next process finds it.
        log.abandon();
        drop(dir);
        let (_, _dir, log) = open(&rt, by_size(1 << 40)).await;
        assert_eq!(log.marks().log_start, 13);
        assert_eq!(
            readable(&rt, &shard, &log).await,
            (13..31).collect::<BTreeSet<_>>()
        );
    });
}

#[test]
fn r05_a_reader_goes_on_while_the_files_are_deleted_under_it() {
    story(&world(6), async |rt| {
        let config = LogConfig {
            file_delete_delay_ms: 1_000,
            ..by_size(0)
        };
        let (shard, _dir, log) = open(&rt, config).await;
        fill(&log, 30, 1).await;
        let tight = ShardStorage::new(StorageLimits {
            tail_cache_bytes: 0,
            ..StorageLimits::default()
        });
        let plan = log.read(0, 1 << 20, true, i64::MAX).await.unwrap();
        let range = plan.ranges[0].clone();
        let whole = read_range(&rt, &tight, &range, range.position, range.len)
            .await
            .unwrap();
        log.retain().await.unwrap();
        assert!(log.read(0, 1, true, i64::MAX).await.is_err());
        let deleted = |names: Vec<String>| names.iter().any(|name| name.ends_with(".deleted"));
        assert!(deleted(names(&rt).await));
        // A second descriptor can be opened until the name is gone; then the first one serves.
        assert!(range.segment.is_sendable());
        range.segment.buffered(&rt).await.unwrap();
        rt.sleep(Duration::from_secs(2)).await;
        assert!(!deleted(names(&rt).await));
        assert!(shard.counters().files_unlinked >= 9);
        let again = read_range(&rt, &tight, &range, range.position, range.len).await;
        assert_eq!(again.unwrap(), whole);
        let late = log.read(25, 1, true, i64::MAX).await;
        assert!(late.is_err(), "only an empty log is left");
    });
}

#[test]
fn r05_files_that_wait_to_be_unlinked_are_removed_at_the_next_start() {
    let world = world(7);
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, by_size(0)).await;
        fill(&log, 30, 1).await;
        log.retain().await.unwrap();
        log.abandon();
    });
    world.kill_process();
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, by_size(0)).await;
        rt.sleep(Duration::from_secs(1)).await;
        let left = names(&rt).await;
        assert!(
            left.iter().all(|name| !name.ends_with(".deleted")),
            "{left:?}"
        );
        let marks = log.marks();
        assert_eq!((marks.log_start, marks.log_end), (30, 30));
    });
}

#[test]
fn r33_retention_frees_a_full_disk() {
    let world = world(9);
    let inner = world.clone();
    story(&world, async move |rt| {
        let config = LogConfig {
            file_delete_delay_ms: 0,
            ..by_size(40_000)
        };
        let (_shard, _dir, log) = open(&rt, config).await;
        fill(&log, 45, 1).await;
        log.checkpoint().await.unwrap();
        inner.set_capacity(inner.used_bytes());
        let retained = log.retain().await.unwrap();
        assert!(retained.segments > 0);
        rt.sleep(Duration::from_millis(10)).await;
        fill(&log, 3, 1).await;
        assert_eq!(log.marks().log_end, 48);
    });
}

/// What a crash must leave, told by the process that went before.
#[derive(Debug, Default, Clone)]
struct Told {
    /// Greatest log start that was answered or could be seen.
    start: i64,
    /// Greatest log start asked for.
    asked: i64,
    /// Records acknowledged as flushed.
    end: i64,
}

/// Records of two kinds of removal in turn, with checkpoints between.
async fn shrink(rt: &Rt, told: &RefCell<Told>) {
    let config = LogConfig {
        file_delete_delay_ms: 0,
        flush: corelog_storage::flush_policy::FlushPolicy {
            messages: Some(1),
            ms: None,
        },
        ..by_size(30_000)
    };
    let (_shard, _dir, log) = open(rt, config).await;
    for round in 0..3 {
        for _ in 0..14 {
            let appended = append(&log, batch(1, 2_000, 1)).await.unwrap();
            log.wait(&appended).await.unwrap();
            told.borrow_mut().end = appended.last_offset + 1;
        }
        log.set_high_watermark(log.committable_end());
        let end = log.marks().log_end;
        let delete_to = end - 12 + round;
        let asked = told.borrow().asked.max(delete_to);
        told.borrow_mut().asked = asked;
        let start = log.delete_records(delete_to).await.unwrap();
        told.borrow_mut().start = start;
        told.borrow_mut().asked = end;
        log.retain().await.unwrap();
        told.borrow_mut().start = log.marks().log_start;
        rt.sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn r05_a_crash_at_any_change_of_the_disk_loses_nothing_above_the_log_start_which_never_goes_back() {
    let whole = world(10);
    let all = whole.clone();
    run_until_crash(&all, async |rt| shrink(&rt, &RefCell::default()).await).expect("no crash");
    let changes = whole.write_count();
    assert!(changes > 100, "{changes}");
    let (mut crashes, mut raised) = (0, 0);
    for at in 1..=changes {
        for (kind, moment) in [
            (CrashKind::KillProcess, CrashMoment::After),
            (CrashKind::PowerLoss, CrashMoment::Before),
            (CrashKind::PowerLoss, CrashMoment::After),
        ] {
            let world = SimWorld::new(
                10 + at,
                SimConfig {
                    crash_kind: kind,
                    crash_moment: Some(moment),
                    ordered_names: at % 2 == 0,
                    ..SimConfig::default()
                },
            );
            world.set_crash_at(Some(at));
            let told = RefCell::new(Told::default());
            let done = run_until_crash(&world, async |rt| shrink(&rt, &told).await);
            crashes += u32::from(done.is_none());
            world.set_crash_at(None);
            let told = told.into_inner();
            story(&world, async |rt| {
                let (shard, _dir, log) = open(&rt, by_size(1 << 40)).await;
                let marks = log.marks();
                let at = format!("{kind:?} {moment:?} at {at}: {told:?}, found {marks}");
                assert!(marks.log_start >= told.start, "{at}");
                assert!(marks.log_start <= told.asked.max(told.start), "{at}");
                assert!(marks.log_end >= told.end, "{at}");
                let expected: BTreeSet<i64> = (marks.log_start..marks.log_end).collect();
                let found = readable(&rt, &shard, &log).await;
                assert!(found.is_superset(&expected), "{at}");
                raised += u32::from(marks.log_start > 0);
                // And it goes on from there.
                fill(&log, 12, 1).await;
                log.set_config(by_size(0));
                log.retain().await.unwrap();
                assert_eq!(log.marks().log_start, log.marks().log_end, "{at}");
                let left = names(&rt).await;
                let logs = left.iter().filter(|name| name.ends_with(".log"));
                assert_eq!(logs.count(), 1, "{at}: {left:?}");
            });
        }
    }
    assert!(crashes > 100 && raised > 100, "{crashes} {raised}");
}

#[test]
fn a_log_that_ends_below_its_start_is_set_aside_and_begins_there() {
    let world = world(11);
    story(&world, async |rt| {
        let (_shard, _dir, log) = open(&rt, by_size(1 << 40)).await;
        fill(&log, 5, 1).await;
        log.abandon();
    });
    world.kill_process();
    story(&world, async |rt| {
        let shard = ShardStorage::new(StorageLimits::default());
        let foreign = LogParams {
            log_start: 900,
            ..params(StartKind::Unclean, 0, by_size(1 << 40))
        };
        let (log, report) = Log::open(&rt, &shard, foreign).await.unwrap();
        let marks = log.marks();
        assert_eq!((marks.log_start, marks.log_end), (900, 900));
        assert_eq!(report.set_aside.len(), 1, "{report:?}");
        assert_eq!(
            append(&log, batch(1, 10, 1)).await.unwrap().base_offset,
            900
        );
    });
}

//! Segments that roll by age: R04.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_record::batch::TimestampType;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_record::validate::{Rules, validate};
use corelog_runtime::Rt;
use corelog_runtime::sim::{SimConfig, SimWorld, run_until_crash};
use corelog_storage::config::LogConfig;
use corelog_storage::log::{Log, LogParams, ValidatedBatch};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR_MS: u64 = 3_600_000;

fn params(recovery_point: i64, config: LogConfig) -> LogParams {
    LogParams {
        dir: "/data/t-0".into(),
        topic: "t".into(),
        partition: 0,
        topic_id: [9; 16],
        leader_epoch: 1,
        recovery_point,
        high_watermark: 0,
        log_start: 0,
        start: StartKind::Clean,
        config,
    }
}

fn rolling(segment_ms: u64, segment_jitter_ms: u64) -> LogConfig {
    LogConfig {
        segment_ms,
        segment_jitter_ms,
        ..LogConfig::default()
    }
}

async fn append(rt: &Rt, log: &Log) {
    let mut builder = BatchBuilder::new(Codec::None, rt.wall_clock_ms());
    builder.append(rt.wall_clock_ms(), None, Some(b"value"), &[]);
    let bytes = Bytes::from(builder.build());
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
    let batch = ValidatedBatch { bytes, validated };
    let appended = log.append(log.admit(), batch).await.expect("appended");
    log.wait(&appended).await.expect("written");
}

/// Appends a record a minute until the log rolls; gives the minutes.
async fn minutes_to_roll(rt: &Rt, log: &Log) -> u64 {
    let before = log.segment_count();
    for minute in 0..10_000 {
        append(rt, log).await;
        if log.segment_count() > before {
            return minute;
        }
        rt.sleep(MINUTE).await;
    }
    panic!("it never rolls");
}

fn story<F: Future>(main: impl FnOnce(Rt, Rc<ShardStorage>) -> F) -> F::Output {
    let world = SimWorld::new(1, SimConfig::default());
    let shard = ShardStorage::new(StorageLimits {
        direct: !env!("CARGO_CRATE_NAME").ends_with("_buffered"),
        ..StorageLimits::default()
    });
    run_until_crash(&world, |rt| main(rt, shard)).expect("no crash is planned")
}

#[test]
fn r04_segments_roll_when_their_first_batch_is_segment_ms_old() {
    story(async |rt, shard| {
        let log = Log::create(&rt, &shard, params(0, rolling(HOUR_MS, 0)));
        let log = log.await.expect("created");
        assert_eq!(minutes_to_roll(&rt, &log).await, 60);
        // The batch that found it too old is the first of the next one.
        rt.sleep(MINUTE).await;
        assert_eq!(minutes_to_roll(&rt, &log).await, 59);
        // Nothing rolls by itself, nor without batches; the clock begins with the first one.
        let count = log.segment_count();
        rt.sleep(MINUTE * 1000).await;
        assert_eq!(log.segment_count(), count);
        append(&rt, &log).await;
        assert_eq!(log.segment_count(), count + 1);
    });
}

#[test]
fn r04_a_changed_segment_ms_binds_the_segment_that_is_open() {
    story(async |rt, shard| {
        let log = Log::create(&rt, &shard, params(0, rolling(HOUR_MS, 0)));
        let log = log.await.expect("created");
        append(&rt, &log).await;
        rt.sleep(MINUTE * 10).await;
        append(&rt, &log).await;
        assert_eq!(log.segment_count(), 1);
        log.set_config(rolling(HOUR_MS / 10, 0));
        append(&rt, &log).await;
        assert_eq!(log.segment_count(), 2);
    });
}

#[test]
fn r04_the_age_of_a_segment_outlives_a_restart() {
    story(async |rt, shard| {
        let config = rolling(HOUR_MS, 0);
        let log = Log::create(&rt, &shard, params(0, config.clone()));
        let mut log = log.await.expect("created");
        append(&rt, &log).await;
        for _ in 0..5 {
            rt.sleep(MINUTE * 11).await;
            let end = log.close().await.expect("closed");
            let opened = Log::open(&rt, &shard, params(end, config.clone()));
            log = opened.await.expect("opened").0;
            append(&rt, &log).await;
            assert_eq!(log.segment_count(), 1);
        }
        assert_eq!(minutes_to_roll(&rt, &log).await, 5);
    });
}

#[test]
fn r04_segment_jitter_ms_spreads_the_rolls() {
    story(async |rt, shard| {
        let log = Log::create(&rt, &shard, params(0, rolling(HOUR_MS, HOUR_MS / 2)));
        let log = log.await.expect("created");
        let mut ages = BTreeSet::new();
        for _ in 0..30 {
            ages.insert(minutes_to_roll(&rt, &log).await);
        }
        assert!(ages.len() > 5, "{ages:?}");
        let within = |age: &u64| (30..=60).contains(age);
        assert!(ages.iter().all(within), "{ages:?}");
    });
}

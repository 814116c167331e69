//! Scrub: damage at rest is found and told, and does nothing to anybody: R33.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use corelog_record::codec::Codec;
use corelog_runtime::blocking;

use crate::common::batches::{batch, noise, now_ms};
use crate::common::*;

/// Scrub never rests.
const EAGER: &[&str] = &[
    "corelog.scrub.interval.ms=1",
    "corelog.scrub.bytes.per.second=1099511627776",
];
/// Bytes of a record; two of them fill a segment.
const RECORD_BYTES: usize = 400_000;
const DAMAGED_BATCHES: &str = "corelog_scrub_damaged_batches_total";
const DAMAGED_SEGMENTS: &str = "corelog_scrub_damaged_segments_total";
const SMALL: [(&str, &str); 1] = [("segment.bytes", "1048576")];

/// Produces batches of one record each.
fn produce(client: &mut Connection, topic: &str, partition: i32, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let row = Row {
            value: Some(noise(offset, RECORD_BYTES)),
            ..batches::value(now_ms(), "")
        };
        let records = batch(Codec::None, &[row]);
        assert_eq!(client.produce(topic, partition, records), offset as i64);
    }
}

/// Turns the bits of a byte over, and gives what it was.
fn flip(file: &Path, at: u64) {
    let mut options = std::fs::OpenOptions::new();
    let mut open = blocking::open_file_with(file, options.read(true).write(true)).unwrap();
    let mut byte = [0];
    open.seek(SeekFrom::Start(at)).unwrap();
    open.read_exact(&mut byte).unwrap();
    open.seek(SeekFrom::Start(at)).unwrap();
    open.write_all(&[!byte[0]]).unwrap();
    open.sync_all().unwrap();
}

/// Where the second batch of a file begins.
fn second_batch(file: &Path) -> u64 {
    let bytes = blocking::read_file(file).unwrap();
    12 + u64::from(u32::from_be_bytes(bytes[8..12].try_into().unwrap()))
}

/// Waits for whole passes that began after this call, on every shard.
fn wait_for_passes(broker: &Broker, shards: usize) {
    for shard in 0..shards {
        let of_shard = format!("shard=\"{shard}\"");
        let passes = || broker.metric("corelog_scrub_passes_total", &[&of_shard]);
        let before = passes();
        poll("a pass", || (passes() >= before + 2).then_some(()));
    }
}

/// The log files of a partition, wherever its directory is.
fn segments(dir: &DataDir, name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for logs in [dir.logs(), dir.more_logs()] {
        if let Ok(entries) = blocking::read_dir(logs.join(name)) {
            let paths = entries.map(|entry| entry.unwrap().path());
            files.extend(paths.filter(|path| path.to_string_lossy().ends_with(".log")));
        }
    }
    files.sort();
    files
}

fn finds_a_flipped_byte(test: &str, overrides: &[&str]) {
    let dir = DataDir::new(test);
    let both = dir.both_logs();
    let broker = dir.start_with(2, &[EAGER, overrides, &[&both]].concat());
    let mut client = broker.connect();
    client.create_topic("t", 4, &SMALL);
    for partition in 0..4 {
        produce(&mut client, "t", partition, 0..9);
    }
    wait_for_passes(&broker, 2);
    assert_eq!(broker.metric("corelog_maintenance_up", &["shard=\"0\""]), 1);
    assert!(broker.metric("corelog_scrub_segments_total", &[]) >= 16);
    assert!(broker.metric("corelog_scrub_batches_total", &[]) >= 32);
    let read = broker.metric("corelog_scrub_bytes_total", &[]);
    assert!(read as usize >= 32 * RECORD_BYTES);

    // The one that is written is nobody's business.
    let active = segments(&dir, "t-1").pop().unwrap();
    flip(&active, 2_000);
    wait_for_passes(&broker, 2);
    assert_eq!(broker.metric(DAMAGED_SEGMENTS, &[]), 0, "{}", broker.log());
    flip(&active, 2_000);

    let files = segments(&dir, "t-2");
    assert!(files.len() >= 4);
    let position = second_batch(&files[1]);
    flip(&files[1], position + 100_000);
    let told = poll("the finding", || {
        let log = broker.log();
        let line = log.lines().find(|line| line.contains("scrub found damage"));
        line.map(str::to_owned)
    });
    for said in [
        "ERROR",
        "topic=t",
        "partition=2",
        &files[1].display().to_string(),
        &format!("position={position}"),
        "stored CRC",
    ] {
        assert!(told.contains(said), "{said} in {told}");
    }
    poll("the metrics", || {
        let batches = broker.metric(DAMAGED_BATCHES, &[]);
        (batches > 0 && broker.metric(DAMAGED_SEGMENTS, &[]) == batches).then_some(())
    });
    assert!(broker.log().contains("a sealed segment is damaged"));
    assert!(!broker.log().contains(&files[2].display().to_string()));

    // Nobody is condemned: everything else is served, this partition's other segments too.
    assert_eq!(broker.metric("corelog_log_dirs_offline", &[]), 0);
    for partition in [0, 1, 3] {
        produce(&mut client, "t", partition, 9..10);
        let rows = client.read_all("t", partition);
        assert_eq!(rows.len(), 10, "partition {partition}");
    }
    assert_eq!(client.read_from("t", 2, 4)[0].offset, 4);
    produce(&mut client, "t", 2, 9..10);

    // Found again by the next process, and left as it is.
    let damaged = blocking::read_file(&files[1]).unwrap();
    broker.stop();
    let broker = dir.start_with(2, &[EAGER, overrides, &[&both]].concat());
    poll("the finding", || {
        let at = format!("position={position}");
        broker.log().contains(&at).then_some(())
    });
    broker.stop();
    assert!(blocking::read_file(&files[1]).unwrap() == damaged);
}

#[test]
fn r33_scrub_finds_a_flipped_byte_in_a_sealed_segment_and_the_others_serve_on() {
    finds_a_flipped_byte("r33-scrub", &[]);
}

#[test]
fn r33_scrub_finds_a_flipped_byte_with_buffered_io() {
    finds_a_flipped_byte("r33-scrub-buffered", &["corelog.storage.io=buffered"]);
}

#[test]
fn segments_that_retention_takes_while_scrub_reads_are_no_damage() {
    let dir = DataDir::new("scrub-retention");
    let eager = [
        "log.initial.task.delay.ms=0",
        "log.retention.check.interval.ms=1",
        "log.segment.delete.delay.ms=0",
    ];
    let broker = dir.start_with(2, &[EAGER, &eager].concat());
    let mut client = broker.connect();
    let config = [SMALL[0], ("retention.bytes", "1200000")];
    client.create_topic("t", 2, &config);
    for round in 0..20 {
        for partition in 0..2 {
            produce(&mut client, "t", partition, round * 4..round * 4 + 4);
        }
    }
    wait_for_passes(&broker, 2);
    assert!(broker.metric("corelog_segments_removed_total", &[]) >= 60);
    assert!(broker.metric("corelog_scrub_segments_total", &[]) >= 4);
    client.delete_topic("t");
    wait_for_passes(&broker, 2);
    for metric in [
        DAMAGED_BATCHES,
        DAMAGED_SEGMENTS,
        "corelog_scrub_failures_total",
    ] {
        assert_eq!(broker.metric(metric, &[]), 0, "{metric}\n{}", broker.log());
    }
}

#[test]
fn scrub_is_slowed_stopped_and_begun_anew_while_the_broker_runs_and_ends_with_it() {
    let dir = DataDir::new("scrub-rate");
    let rate = "corelog.scrub.bytes.per.second";
    let slow = [EAGER[0], "corelog.scrub.bytes.per.second=1"];
    let broker = dir.start_with(2, &slow);
    let mut client = broker.connect();
    client.create_topic("t", 2, &SMALL);
    for partition in 0..2 {
        produce(&mut client, "t", partition, 0..9);
    }
    // One segment would take a week: neither that nor a stop waits for it.
    assert_eq!(broker.metric("corelog_scrub_segments_total", &[]), 0);
    client.set_config(BROKER, "", rate, "1099511627776");
    wait_for_passes(&broker, 2);
    client.set_config(BROKER, "", rate, "0");
    let passes = broker.metric("corelog_scrub_passes_total", &[]);
    for _ in 0..20 {
        client.metadata(Some(&["t"]), false);
        blocking::sleep(std::time::Duration::from_millis(5));
    }
    let since = broker.metric("corelog_scrub_passes_total", &[]) - passes;
    assert!(
        since <= 2,
        "a pass that was at its end on each shard: {since}"
    );
    client.set_config(BROKER, "", rate, "1");
    broker.stop();
    let broker = dir.start_with(1, &slow);
    let log = broker.stop();
    assert!(!log.contains("does not come back"), "{log}");
}

#[test]
fn without_the_maintenance_thread_the_broker_serves_and_says_so() {
    let dir = DataDir::new("scrub-memlock");
    dir.shell_first("ulimit -l 64");
    let broker = dir.start_with(2, EAGER);
    let mut client = broker.connect();
    client.create_topic("t", 1, &SMALL);
    produce(&mut client, "t", 0, 0..5);
    assert_eq!(client.read_all("t", 0).len(), 5);
    assert_eq!(broker.metric("corelog_maintenance_up", &[]), 0);
    assert_eq!(broker.metric("corelog_scrub_segments_total", &[]), 0);
    let log = broker.stop();
    assert!(
        log.contains("the maintenance thread does not run: scrub is off"),
        "{log}"
    );
    assert!(log.contains("RLIMIT_MEMLOCK is below 512 KiB"), "{log}");
    assert!(log.contains("stopped cleanly"), "{log}");
}

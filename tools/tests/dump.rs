//! `corelog dump` and `corelog doctor`, as programs, over files made by the formats' own code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corelog_record::schemas::producer_snapshot::{self, ProducerSnapshotEntry};
use corelog_record::{BatchBuilder, Codec};
use corelog_runtime::blocking;
use corelog_storage::checkpoint_files::{
    MetaProperties, encode_offsets, encode_partition_metadata,
};
use corelog_storage::index::IndexBuilder;
use corelog_storage::leader_epochs::LeaderEpochs;

const NOW_MS: i64 = 1_700_000_000_000;

/// A log directory with one partition of two segments.
struct Made {
    dir: PathBuf,
    /// Position, base offset, records and bytes of each batch of the second segment.
    batches: Vec<(u64, i64, i32, usize)>,
}

impl Made {
    fn new(test: &str) -> Made {
        let dir =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = blocking::remove_dir_all(&dir);
        let mut made = Made {
            dir,
            batches: Vec::new(),
        };
        blocking::create_dir_all(made.partition()).unwrap();
        let meta = MetaProperties {
            cluster_id: "abcdefghijklmnopqrstuv".to_owned(),
            node_id: 3,
            directory_id: Some([7; 16]),
        };
        made.write("meta.properties", &meta.encode());
        let offsets = [(("t".to_owned(), 0), 60)].into_iter().collect();
        made.write(
            "recovery-point-offset-checkpoint",
            &encode_offsets(&offsets),
        );
        made.write(
            "t-0/partition.metadata",
            &encode_partition_metadata(&[9; 16]),
        );
        let mut epochs = LeaderEpochs::new();
        epochs.assign(1, 0);
        epochs.assign(4, 50);
        made.write("t-0/leader-epoch-checkpoint", &epochs.encode());
        made.segment(0, 10, false);
        made.batches = made.segment(50, 5, true);
        let producer = ProducerSnapshotEntry {
            producer_id: 77,
            producer_epoch: 2,
            last_sequence: 9,
            last_offset: 49,
            offset_delta: 4,
            timestamp: NOW_MS,
            coordinator_epoch: -1,
            current_txn_first_offset: -1,
        };
        made.write(
            "t-0/00000000000000000050.snapshot",
            &producer_snapshot::encode(&[producer]),
        );
        made
    }

    fn partition(&self) -> PathBuf {
        self.dir.join("t-0")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        blocking::write_file(self.path(name), bytes).unwrap();
    }

    /// Batches of five records of every codec in turn, indexed; zeros behind an active one.
    fn segment(&self, base: i64, count: i64, active: bool) -> Vec<(u64, i64, i32, usize)> {
        let (mut log, mut batches) = (Vec::new(), Vec::new());
        let mut indexes = IndexBuilder::new(base, 100);
        for number in 0..count {
            let codec = Codec::ALL[number as usize % Codec::ALL.len()];
            let first = base + number * 5;
            let mut builder = BatchBuilder::new(codec, NOW_MS).base_offset(first);
            for record in 0..5 {
                let value = format!("value {first} {record} {}", "x".repeat(40));
                let timestamp = NOW_MS + first + record;
                builder.append(timestamp, Some(b"key\n"), Some(value.as_bytes()), &[]);
            }
            let bytes = builder.build();
            let position = log.len();
            let (last, max) = (first + 4, NOW_MS + first + 4);
            indexes.on_batch(position as u32, bytes.len() as u32, last, max);
            batches.push((position as u64, first, 5, bytes.len()));
            log.extend(bytes);
        }
        if active {
            log.resize(log.len().next_multiple_of(4096) + 8192, 0);
        } else {
            indexes.seal();
        }
        assert!(indexes.offsets().entries().len() > 1);
        let name = |extension| format!("t-0/{base:020}.{extension}");
        self.write(&name("log"), &log);
        self.write(&name("index"), &indexes.offsets().encode());
        self.write(&name("timeindex"), &indexes.times().encode());
        batches
    }

    /// An offset checkpoint that names the partition.
    fn checkpoint(&self, name: &str, offset: i64) {
        let offsets = [(("t".to_owned(), 0), offset)].into_iter().collect();
        self.write(name, &encode_offsets(&offsets));
    }

    /// Changes one byte of a file.
    fn flip(&self, name: &str, at: usize) {
        let mut bytes = blocking::read_file(self.path(name)).unwrap();
        bytes[at] ^= 0x20;
        self.write(name, &bytes);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = blocking::remove_dir_all(&self.dir);
        }
    }
}

fn corelog(args: &[&str], path: &Path) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_corelog"))
        .args(args)
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {said}");
    (status.success(), said)
}

fn dump(path: &Path) -> (bool, String) {
    corelog(&["dump"], path)
}

const SECOND: &str = "t-0/00000000000000000050.log";

#[test]
fn r32_a_log_directory_is_dumped_whole_and_found_whole() {
    let made = Made::new("dump-whole");
    let (whole, said) = dump(&made.dir);
    assert!(whole, "{said}");
    for part in [
        "meta.properties cluster_id=abcdefghijklmnopqrstuv node_id=3",
        "recovery-point-offset-checkpoint topic=t partition=0 offset=60",
        "leader-epoch epoch=4 start_offset=50",
        "segment base_offset=0 next_offset=50 batches=10 records=50",
        "segment base_offset=50 next_offset=75 batches=5 records=25",
        "producer up_to=50 producer_id=77 producer_epoch=2 last_sequence=9",
        "total segments=2 first_offset=0 next_offset=75 batches=15 records=75",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(
        !said.contains("batch base_offset"),
        "summaries only: {said}"
    );
}

#[test]
fn r32_every_batch_and_record_of_a_segment_is_told() {
    let made = Made::new("dump-segment");
    let (whole, said) = dump(&made.path(SECOND));
    assert!(whole, "{said}");
    let told: Vec<_> = said.lines().filter(|l| l.starts_with("batch ")).collect();
    assert_eq!(told.len(), made.batches.len());
    for (line, (position, base, count, bytes)) in told.iter().zip(&made.batches) {
        let last = base + i64::from(*count) - 1;
        let facts = format!(
            "batch base_offset={base} last_offset={last} count={count} position={position} bytes={bytes} "
        );
        assert!(line.starts_with(&facts), "{facts} in {line}");
    }
    assert!(
        said.contains("codec=zstd") && said.contains("codec=none"),
        "{said}"
    );
    assert!(said.contains("zeros position="), "{said}");
    let (_, said) = corelog(&["dump", "--records"], &made.path(SECOND));
    assert_eq!(
        said.lines().filter(|l| l.starts_with("record ")).count(),
        25
    );
    assert!(
        said.contains("record offset=52 timestamp=1700000000052 headers=0 key=\"key\\n\""),
        "{said}"
    );
}

#[test]
fn r32_every_flipped_byte_of_a_batch_is_damage_unless_it_may_be_being_written() {
    let made = Made::new("dump-flip");
    // Bytes of the leader epoch are no part of the CRC.
    for (name, at) in [
        ("t-0/00000000000000000000.log", 3_usize),
        ("t-0/00000000000000000000.log", 70),
        (SECOND, made.batches[1].0 as usize + 100),
    ] {
        made.flip(name, at);
        for path in [made.path(name), made.partition(), made.dir.clone()] {
            let (whole, said) = dump(&path);
            assert!(!whole && said.contains("DAMAGE"), "{name} {at}: {said}");
        }
        made.flip(name, at);
    }
    // The last batch of the active segment, past the recovery point: torn, not damaged.
    let last = made.batches.last().unwrap();
    made.flip(SECOND, last.0 as usize + 100);
    let (whole, said) = dump(&made.path(SECOND));
    assert!(whole && said.contains("torn_tail"), "{said}");
    assert!(said.contains("stored crc"), "{said}");
    // Unless it was flushed.
    let offsets = [(("t".to_owned(), 0), 75)].into_iter().collect();
    made.write(
        "recovery-point-offset-checkpoint",
        &encode_offsets(&offsets),
    );
    let (whole, said) = dump(&made.path(SECOND));
    assert!(!whole && said.contains("DAMAGE"), "{said}");
}

#[test]
fn r32_zeros_where_batches_were_are_damage() {
    let made = Made::new("dump-zeros");
    const FIRST: &str = "t-0/00000000000000000000.log";
    let whole_file = |name: &str| blocking::read_file(made.path(name)).unwrap();
    let damaged = |name: &str, bytes: &[u8], says: &str| {
        let before = whole_file(name);
        made.write(name, bytes);
        for path in [made.path(name), made.partition()] {
            let (whole, said) = dump(&path);
            assert!(!whole && said.contains(says), "{name}: {said}");
        }
        made.write(name, &before);
    };
    // A block of zeros inside a sealed segment, at its end, and inside the active one.
    let mut bytes = whole_file(FIRST);
    let end = bytes.len();
    bytes[..100].fill(0);
    damaged(FIRST, &bytes, "byte 0: zeros, and whole batches follow");
    let mut bytes = whole_file(FIRST);
    bytes[end - 150..].fill(0);
    damaged(FIRST, &bytes, "DAMAGE");
    let mut bytes = whole_file(SECOND);
    let third = &made.batches[2];
    let (from, to) = (third.0 as usize, third.0 as usize + third.3);
    bytes[from..to].fill(0);
    damaged(SECOND, &bytes, "zeros, and whole batches follow");
    // The last of what was flushed, which ends at 60: nothing follows.
    let mut bytes = whole_file(SECOND);
    bytes[made.batches[1].0 as usize..].fill(0);
    damaged(SECOND, &bytes, "which begin with zeros");
    // Above it a crash may have left them; so may one before a full segment was cut to its end.
    let mut bytes = whole_file(SECOND);
    bytes[from..].fill(0);
    made.write(SECOND, &bytes);
    for index in ["index", "timeindex"] {
        let name = SECOND.replace("log", index);
        blocking::remove_file(made.path(&name)).unwrap();
    }
    let (whole, said) = dump(&made.partition());
    assert!(whole && said.contains("not in use yet"), "{said}");
    let mut bytes = whole_file(FIRST);
    bytes.resize(end + 4096, 0);
    made.checkpoint("recovery-point-offset-checkpoint", 0);
    made.write(FIRST, &bytes);
    let (whole, said) = dump(&made.partition());
    assert!(whole, "{said}");
}

#[test]
fn r32_a_hole_between_segments_is_damage_unless_the_log_is_compacted() {
    let made = Made::new("dump-hole");
    for extension in ["log", "index", "timeindex"] {
        let name = |base| made.path(&format!("t-0/{base:020}.{extension}"));
        blocking::remove_file(name(50)).unwrap();
    }
    made.segment(90, 5, true);
    let (whole, said) = dump(&made.partition());
    assert!(
        !whole && said.contains("ends at 50: records are missing"),
        "{said}"
    );
    for (checkpoint, offset) in [("cleaner", 80), ("log-start", 90)] {
        let name = format!("{checkpoint}-offset-checkpoint");
        made.checkpoint(&name, offset);
        let (whole, said) = dump(&made.partition());
        assert!(whole, "{said}");
        blocking::remove_file(made.path(&name)).unwrap();
    }
}

#[test]
fn r32_indexes_are_held_against_their_log() {
    let made = Made::new("dump-index");
    let (index, times) = (
        "t-0/00000000000000000050.index",
        "t-0/00000000000000000050.timeindex",
    );
    let (whole, said) = dump(&made.path(index));
    assert!(whole, "{said}");
    let entry = made.batches[1];
    let told = format!("index offset={} position={}", entry.1 + 4, entry.0);
    assert!(said.contains(&told), "{told} in {said}");
    let (whole, said) = dump(&made.path(times));
    assert!(whole && said.contains("timeindex timestamp="), "{said}");

    // The low byte of the first entry's position, and of its offset.
    for at in [7, 3] {
        made.flip(index, at);
        let (whole, said) = dump(&made.path(SECOND));
        assert!(!whole && said.contains("index"), "{at}: {said}");
        made.flip(index, at);
    }
    // A timestamp that is too low for what comes before its offset.
    let mut bytes = blocking::read_file(made.path(times)).unwrap();
    bytes[..8].copy_from_slice(&(NOW_MS - 1).to_be_bytes());
    made.write(times, &bytes);
    let (whole, said) = dump(&made.path(SECOND));
    assert!(!whole && said.contains("timeindex"), "{said}");
}

#[test]
fn r32_small_files_that_are_damaged_are_told() {
    let made = Made::new("dump-small");
    made.flip("t-0/00000000000000000050.snapshot", 20);
    made.write("t-0/leader-epoch-checkpoint", b"0\n2\n1 0\n");
    made.write("meta.properties", b"version=7\n");
    made.write("replication-offset-checkpoint", b"0\n1\nt zero 5\n");
    let (whole, said) = dump(&made.dir);
    assert!(!whole, "{said}");
    for name in [
        "00000000000000000050.snapshot",
        "leader-epoch-checkpoint",
        "meta.properties",
        "replication-offset-checkpoint",
    ] {
        let told = said
            .lines()
            .any(|l| l.starts_with("DAMAGE") && l.contains(name));
        assert!(told, "{name} in {said}");
    }
    assert!(said.contains("damaged: 4"), "{said}");
    let (whole, _) = dump(&made.path("no-such-file"));
    assert!(!whole);
    let (whole, _) = dump(&std::env::temp_dir());
    assert!(!whole, "not a log directory");
}

#[test]
fn r60_doctor_examines_a_directory_and_says_what_is_bad() {
    let made = Made::new("doctor");
    let (_, said) = corelog(&["doctor", "--data"], &made.dir);
    for part in [
        "kernel",
        "io_uring",
        "nofile",
        "flush latency",
        "RWF_DSYNC p50",
        " bad",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    let (_, said) = corelog(&["doctor", "--json", "--data"], &made.dir);
    let parsed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let checks = parsed["checks"].as_array().unwrap();
    assert!(checks.len() > 10, "{said}");
    for check in checks {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(["ok", "warn", "bad"].contains(&verdict), "{check}");
        assert_eq!(verdict == "ok", check["advice"] == "", "{check}");
    }
    // A file in place of a directory can never be one.
    let file = made.path("meta.properties");
    let (well, said) = corelog(&["doctor", "--data"], &file);
    assert!(!well && said.contains("bad"), "{said}");
}

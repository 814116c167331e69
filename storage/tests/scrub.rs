//! Scrub over the simulated disk: what is whole is found whole, and every kind of damage at its place.

mod stories;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::sim::{Fault, FaultPlan, OpKind, ScriptedFault, SimConfig, SimWorld};
use corelog_runtime::{File, OpenOptions, Rt};
use corelog_storage::config::LogConfig;
use corelog_storage::log::Log;
use corelog_storage::log_dir::StartKind;
use corelog_storage::scrub::{
    FINDINGS_MAX, ScrubError, ScrubFiles, ScrubReport, SealedFile, scrub,
};
use corelog_storage::shard::ShardStorage;
use stories::{append, batch, limits, params, small_segments, story};

/// Files of the twin, read with direct I/O.
struct SimFiles {
    rt: Rt,
    /// Windows that may be read before the reader is told to end.
    windows: Cell<u32>,
}

impl SimFiles {
    fn new(rt: &Rt) -> SimFiles {
        SimFiles {
            rt: rt.clone(),
            windows: Cell::new(u32::MAX),
        }
    }
}

impl ScrubFiles for SimFiles {
    type File = File;

    async fn open(&self, path: &Path) -> io::Result<File> {
        let options = OpenOptions {
            read: true,
            direct: true,
            ..OpenOptions::default()
        };
        self.rt.open(path, options).await
    }

    async fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.stat().await?.len)
    }

    async fn read_at(&self, file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (result, buf) = file.read_at(self.rt.pool().get(len), offset, len).await;
        Ok(buf[..result?].to_vec())
    }

    async fn close(&self, file: File) {
        drop(file);
    }

    async fn keep_pace(&self, _bytes: usize) -> bool {
        self.windows.set(self.windows.get().saturating_sub(1));
        self.windows.get() > 0
    }
}

/// A log of `batches` batches, ten to a segment, in a world without faults.
async fn filled(rt: &Rt, batches: u64, config: LogConfig) -> (Rc<ShardStorage>, Log) {
    rt.mkdir_all("/data").await.unwrap();
    let shard = ShardStorage::new(limits());
    let log = Log::create(rt, &shard, params(StartKind::Clean, 0, config))
        .await
        .unwrap();
    for n in 0..batches {
        let appended = append(&log, batch(2, 900, 1_000 + n as i64)).await.unwrap();
        log.wait(&appended).await.unwrap();
    }
    while log.sealed_files().len() + 1 < log.segment_count() {
        rt.sleep(Duration::from_millis(10)).await;
    }
    (shard, log)
}

fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}

/// Runs a test on a log with sealed segments.
fn sealed<F: Future<Output = ()>>(
    seed: u64,
    test: impl FnOnce(SimWorld, SimFiles, Rc<ShardStorage>, Log, Vec<SealedFile>) -> F,
) {
    let world = world(seed);
    story(&world.clone(), async |rt| {
        let (shard, log) = filled(&rt, 45, small_segments()).await;
        let files = log.sealed_files();
        assert!(files.len() >= 3);
        test(world, SimFiles::new(&rt), shard, log, files).await;
    });
}

/// Where the batches of a segment begin, by its bytes, and its end.
fn starts(world: &SimWorld, file: &SealedFile) -> Vec<u64> {
    let bytes = world.file_bytes(file.path()).unwrap();
    let (mut at, mut starts) = (0, vec![0]);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        at += 12 + length as usize;
        starts.push(at as u64);
    }
    starts
}

/// Turns bits over in a segment's file.
fn flip(world: &SimWorld, file: &SealedFile, at: u64, bits: u8) {
    let bytes = world.file_bytes(file.path()).unwrap();
    let flipped = bytes[at as usize] ^ bits;
    world.damage(file.path(), at, &[flipped]).unwrap();
}

fn positions(report: &ScrubReport) -> Vec<u64> {
    report.findings.iter().map(|found| found.position).collect()
}

#[test]
fn whole_segments_are_found_whole_and_the_active_one_is_not_looked_at() {
    sealed(1, async |world, files, _shard, log, sealed| {
        let mut batches = 0;
        for file in &sealed {
            let report = scrub(&files, file).await.unwrap();
            assert_eq!((report.damaged, report.unchecked_bytes), (0, 0));
            assert!(report.bytes >= file.bytes && log.is_sealed(file));
            assert_eq!(report.batches, starts(&world, file).len() as u64 - 1);
            batches += report.batches;
        }
        assert!((30..45).contains(&batches), "the last ones are not sealed");
        assert_eq!(sealed.len() + 1, log.segment_count());
        let ends: Vec<i64> = sealed.iter().map(|file| file.end_offset).collect();
        let bases: Vec<i64> = sealed.iter().map(|file| file.base_offset).collect();
        assert_eq!(bases[1..], ends[..ends.len() - 1]);
    });
}

#[test]
fn r33_any_flipped_bit_is_found_in_the_batch_that_it_is_in() {
    sealed(2, async |world, files, _shard, _log, sealed| {
        let file = &sealed[1];
        let starts = starts(&world, file);
        let of_batch = |at: u64| starts.partition_point(|&start| start <= at) - 1;
        // Every byte of two headers, and some of the records; the last batch of the file too, but for
        // its leader epoch: no CRC covers that, and nothing follows that would contradict it.
        let last = starts[starts.len() - 2];
        let bytes = (starts[3]..starts[3] + 61).chain(last..last + 12);
        let bytes = bytes.chain(last + 16..last + 61);
        let bytes = bytes.chain((0..file.bytes).step_by(331));
        let mut continued = 0;
        for at in bytes {
            let bit = 1 << (at % 8);
            flip(&world, file, at, bit);
            let report = scrub(&files, file).await.unwrap();
            let n = of_batch(at);
            let (place, field) = (report.findings[0].position, at - starts[n]);
            // A wrong offset or epoch in a whole batch may show in the one that follows it.
            let is_shown_later = field < 8 || (12..16).contains(&field);
            let allowed = if is_shown_later { n..n + 2 } else { n..n + 1 };
            assert!(allowed.contains(&of_batch(place)), "byte {at}: {report:?}");
            assert!(report.damaged >= 1 && report.damaged <= 2, "{report:?}");
            continued += u64::from(report.unchecked_bytes == 0);
            flip(&world, file, at, bit);
        }
        assert!(continued > 50, "what follows a bad batch is checked");
        let report = scrub(&files, file).await.unwrap();
        assert_eq!(report.damaged, 0, "all is as it was");
    });
}

#[test]
fn every_bad_batch_is_counted_and_the_first_ones_are_told() {
    sealed(3, async |world, files, _shard, _log, sealed| {
        let file = &sealed[0];
        let starts = starts(&world, file);
        let batches = starts.len() - 1;
        assert!(batches > FINDINGS_MAX);
        for start in &starts[..batches] {
            flip(&world, file, start + 100, 4);
        }
        let report = scrub(&files, file).await.unwrap();
        assert_eq!((report.damaged, report.batches), (batches as u64, 0));
        assert_eq!(positions(&report), starts[..FINDINGS_MAX]);
        let why = &report.findings[0].why;
        assert!(
            why.contains("stored CRC") && why.contains("computed"),
            "{why}"
        );
    });
}

#[test]
fn zeros_and_noise_end_the_search_and_say_how_much_was_not_checked() {
    sealed(4, async |world, files, _shard, _log, sealed| {
        let file = &sealed[0];
        let starts = starts(&world, file);
        world.damage(file.path(), starts[4], &[0; 4096]).unwrap();
        let report = scrub(&files, file).await.unwrap();
        assert_eq!((positions(&report), report.damaged), (vec![starts[4]], 1));
        assert_eq!(report.unchecked_bytes, file.bytes - starts[4]);
        assert_eq!(report.batches, 4);
    });
}

#[test]
fn a_file_of_another_length_is_damage_and_one_that_is_not_there_is_told() {
    sealed(5, async |world, files, _shard, _log, sealed| {
        let rt = &files.rt;
        let options = OpenOptions {
            read: true,
            write: true,
            ..OpenOptions::default()
        };
        let open = rt.open(sealed[0].path(), options).await.unwrap();
        let starts = starts(&world, &sealed[0]);
        // At the end of a batch, in the middle of one, and of a header.
        for (len, batches) in [(starts[5], 5), (starts[5] - 7, 4), (starts[4] + 20, 4)] {
            open.ftruncate(len).await.unwrap();
            let report = scrub(&files, &sealed[0]).await.unwrap();
            assert_eq!(report.batches, batches);
            let last = report.findings.last().unwrap();
            let said = format!("the file has {len} bytes, not {}", sealed[0].bytes);
            assert_eq!((last.position, &last.why), (len, &said));
        }
        let longer = SealedFile {
            bytes: sealed[1].bytes - 100,
            ..sealed[1].clone()
        };
        let report = scrub(&files, &longer).await.unwrap();
        assert!(
            report
                .findings
                .last()
                .unwrap()
                .why
                .starts_with("the file has")
        );
        rt.unlink(sealed[2].path()).await.unwrap();
        assert_eq!(scrub(&files, &sealed[2]).await, Err(ScrubError::Gone));
    });
}

#[test]
fn offsets_that_reach_into_the_next_segment_are_damage() {
    sealed(6, async |_world, files, _shard, _log, sealed| {
        let file = SealedFile {
            end_offset: sealed[0].end_offset - 1,
            ..sealed[0].clone()
        };
        let report = scrub(&files, &file).await.unwrap();
        assert_eq!(report.damaged, 1);
        assert!(report.findings[0].why.contains("next segment begins at"));
    });
}

#[test]
fn what_the_device_does_not_give_is_damage_and_want_of_something_is_not() {
    sealed(7, async |world, files, _shard, log, sealed| {
        let fail = |kind, fault, skip| {
            world.add_fault(ScriptedFault {
                kind,
                path_contains: ".log".into(),
                skip,
                times: 1,
                fault,
            });
        };
        fail(OpKind::Read, Fault::Eio, 0);
        let report = scrub(&files, &sealed[0]).await.unwrap();
        assert_eq!((report.damaged, report.batches), (1, 0));
        assert!(
            report.findings[0].why.contains("cannot be read"),
            "{report:?}"
        );
        assert_eq!(report.unchecked_bytes, sealed[0].bytes);
        fail(OpKind::Open, Fault::Eio, 0);
        let report = scrub(&files, &sealed[0]).await.unwrap();
        assert!(
            report.findings[0].why.contains("cannot be opened"),
            "{report:?}"
        );
        assert!(log.is_sealed(&sealed[0]), "scrub condemns nothing");
        world.clear_faults();
        let report = scrub(&files, &sealed[0]).await.unwrap();
        assert_eq!(report.damaged, 0);
    });
}

#[test]
fn reads_that_are_cut_short_are_no_damage() {
    sealed(8, async |world, files, _shard, _log, sealed| {
        world.set_faults(FaultPlan {
            short_read_ppm: 600_000,
            ..FaultPlan::default()
        });
        for file in sealed.iter().cycle().take(40) {
            let report = scrub(&files, file).await.unwrap();
            assert_eq!(
                (report.damaged, report.unchecked_bytes),
                (0, 0),
                "{report:?}"
            );
        }
        assert!(world.faults().short_reads > 5);
    });
}

#[test]
fn a_segment_that_goes_while_it_is_read_is_not_sealed_any_more() {
    let config = LogConfig {
        retention_bytes: Some(20_000),
        file_delete_delay_ms: 0,
        ..small_segments()
    };
    let world = world(9);
    story(&world, async |rt| {
        let (_shard, log) = filled(&rt, 45, config).await;
        let sealed = log.sealed_files();
        let end = log.marks().log_end;
        log.set_high_watermark(end);
        assert!(log.retain().await.unwrap().segments > 0);
        assert!(!log.is_sealed(&sealed[0]));
        assert_eq!(
            scrub(&SimFiles::new(&rt), &sealed[0]).await,
            Err(ScrubError::Gone)
        );
        let left = log.sealed_files();
        assert!(left.len() < sealed.len() && left.iter().all(|file| log.is_sealed(file)));
        let cut_to = left.last().map_or(end, |file| file.base_offset + 1);
        log.truncate_to(cut_to).await.unwrap();
        assert!(left.last().is_none_or(|file| !log.is_sealed(file)));
        log.close().await.unwrap();
        assert!(log.sealed_files().is_empty());
        assert!(left.iter().all(|file| !log.is_sealed(file)), "closed");
    });
}

#[test]
fn a_reader_that_is_told_to_end_ends() {
    sealed(10, async |_world, files, _shard, _log, sealed| {
        files.windows.set(1);
        assert_eq!(
            scrub(&files, &sealed[0]).await,
            Err(ScrubError::Interrupted)
        );
    });
}

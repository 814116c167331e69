//! Segments in a directory of a test's own, and questions to the thread.
#![allow(dead_code)] // each test binary uses its part

use std::path::{Path, PathBuf};
use std::time::Duration;

use corelog_maintenance::{Done, Handle, Outcome};
use corelog_record::batch::patch_base_offset_and_epoch;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_runtime::blocking;
use corelog_storage::scrub::SealedFile;
use crossbeam::channel::{Receiver, bounded};

/// A rate that nothing reaches.
pub const NO_LIMIT: u64 = 1 << 50;

/// Longest wait for anything. Only a hang comes near it.
const POLL_MAX: Duration = Duration::from_secs(30);

/// A directory; kept when the test fails.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(test: &str) -> Dir {
        let name = format!("maintenance-{test}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        blocking::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A sealed segment of `count` batches of one record each, and its bytes.
    pub fn segment(&self, base: i64, count: i64) -> (SealedFile, Vec<u8>) {
        let mut bytes = Vec::new();
        for offset in base..base + count {
            let mut builder = BatchBuilder::new(Codec::None, 1_000 + offset);
            builder.append(1_000 + offset, None, Some(&[7; 10_000]), &[]);
            let mut batch = builder.build();
            patch_base_offset_and_epoch(&mut batch, offset, 1);
            bytes.extend_from_slice(&batch);
        }
        let file = SealedFile {
            dir: self.0.clone(),
            base_offset: base,
            end_offset: base + count,
            bytes: bytes.len() as u64,
        };
        blocking::write_file(file.path(), &bytes).unwrap();
        (file, bytes)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = blocking::remove_dir_all(&self.0);
        }
    }
}

/// Asks for a scrub.
pub fn ask(handle: &Handle, segment: &SealedFile) -> Receiver<Outcome> {
    let (sender, told) = bounded(1);
    let done = Done::new(move |outcome| sender.send(outcome).unwrap());
    assert!(handle.scrub(segment.clone(), done), "the thread runs");
    told
}

/// Asks a thread that has ended.
#[track_caller]
pub fn ask_in_vain(handle: &Handle, segment: &SealedFile) {
    let done = Done::new(|_| panic!("nobody is there to tell"));
    assert!(!handle.scrub(segment.clone(), done));
}

/// Asks, and waits.
pub fn scrub(handle: &Handle, segment: &SealedFile) -> Outcome {
    heard(&ask(handle, segment))
}

/// Waits for an answer.
#[track_caller]
pub fn heard(told: &Receiver<Outcome>) -> Outcome {
    told.recv_timeout(POLL_MAX).unwrap()
}

/// Waits until somebody in this process has the file open.
#[track_caller]
pub fn wait_until_open(path: &Path) {
    poll(|| is_open(path));
}

/// Waits until the thread has ended.
#[track_caller]
pub fn wait_until_down(handle: &Handle) {
    poll(|| !handle.is_up());
}

/// Somebody in this process has the file open.
pub fn is_open(path: &Path) -> bool {
    let mut open = blocking::read_dir("/proc/self/fd").unwrap();
    open.any(|fd| std::fs::read_link(fd.unwrap().path()).is_ok_and(|to| to == path))
}

#[track_caller]
fn poll(mut is_so: impl FnMut() -> bool) {
    let began = blocking::now();
    while !is_so() {
        assert!(began.elapsed() < POLL_MAX, "waited in vain");
        blocking::sleep(Duration::from_millis(1));
    }
}

//! The maintenance thread on a real file system: it finds what is wrong and where, keeps on when files
//! go, and ends with work in hand.

mod common;

use std::time::Duration;

use common::{Dir, NO_LIMIT, ask, heard, scrub};
use corelog_maintenance::Maintenance;
use corelog_runtime::blocking;
use corelog_storage::scrub::ScrubError;

/// Longest wait for the end of the thread. Only a hang comes near it.
const END_MAX: Duration = Duration::from_secs(30);

#[test]
fn whole_segments_are_whole_and_a_flipped_bit_is_found_where_it_is() {
    let dir = Dir::new("flip");
    let room = Maintenance::start();
    let handle = room.handle();
    handle.set_rate(NO_LIMIT);
    let (good, _) = dir.segment(0, 100);
    let report = scrub(&handle, &good).unwrap();
    assert_eq!((report.batches, report.damaged), (100, 0));
    assert!(report.bytes >= good.bytes, "all of it was read");
    // One bit, far behind the first window.
    let (bad, mut bytes) = dir.segment(100, 100);
    let size = bytes.len() / 100;
    bytes[70 * size + 5_000] ^= 0x10;
    blocking::write_file(bad.path(), &bytes).unwrap();
    let report = scrub(&handle, &bad).unwrap();
    assert_eq!((report.batches, report.damaged), (99, 1));
    assert_eq!(report.findings[0].position, 70 * size as u64);
    let kept = blocking::read_file(bad.path()).unwrap();
    assert!(kept == bytes, "nothing was changed");
    // The other one again, many times: executor and files are used anew and given back.
    for _ in 0..200 {
        assert_eq!(scrub(&handle, &good).unwrap().damaged, 0);
    }
    assert!(handle.is_up());
    assert!(room.join(END_MAX));
    assert!(!handle.is_up());
}

#[test]
fn empty_short_and_missing_files_are_told_and_do_not_spoil_the_next_one() {
    let dir = Dir::new("short");
    let room = Maintenance::start();
    let handle = room.handle();
    handle.set_rate(NO_LIMIT);
    let (good, _) = dir.segment(0, 30);
    let (bad, bytes) = dir.segment(100, 100);
    let size = bytes.len() / 100;
    // The first file that the executor sees on this device is empty.
    for (len, batches) in [(0, 0), (1, 0), (50 * size - 7, 49), (50 * size, 50)] {
        blocking::write_file(bad.path(), &bytes[..len]).unwrap();
        let report = scrub(&handle, &bad).unwrap();
        assert_eq!(report.batches, batches);
        let last = report.findings.last().unwrap();
        assert_eq!(last.position, len as u64);
        assert!(last.why.starts_with("the file has"), "{}", last.why);
        assert_eq!(scrub(&handle, &good).unwrap().damaged, 0);
    }
    blocking::remove_file(bad.path()).unwrap();
    assert_eq!(scrub(&handle, &bad), Err(ScrubError::Gone));
    assert_eq!(scrub(&handle, &good).unwrap().damaged, 0);
}

#[test]
fn a_segment_that_is_renamed_and_unlinked_while_it_is_read_is_read_to_its_end() {
    let dir = Dir::new("unlink");
    let room = Maintenance::start();
    let handle = room.handle();
    let (segment, bytes) = dir.segment(0, 300);
    // Seconds for the whole, so that the file goes in the middle.
    handle.set_rate(bytes.len() as u64 / 2);
    let told = ask(&handle, &segment);
    common::wait_until_open(&segment.path());
    let deleted = dir.path("00000000000000000000.log.deleted");
    blocking::rename(segment.path(), &deleted).unwrap();
    blocking::remove_file(&deleted).unwrap();
    handle.set_rate(NO_LIMIT);
    let report = heard(&told).unwrap();
    assert_eq!((report.batches, report.damaged), (300, 0));
}

#[test]
fn it_ends_in_the_middle_of_a_scrub_and_says_so_to_all_who_wait() {
    let dir = Dir::new("end");
    let room = Maintenance::start();
    let handle = room.handle();
    let (segment, _) = dir.segment(0, 100);
    handle.set_rate(1); // until the end of days
    let told: Vec<_> = (0..3).map(|_| ask(&handle, &segment)).collect();
    common::wait_until_open(&segment.path());
    assert!(told.iter().all(|told| told.is_empty()));
    room.stop();
    for told in &told {
        assert_eq!(heard(told), Err(ScrubError::Interrupted));
    }
    assert!(room.join(END_MAX));
    assert!(!common::is_open(&segment.path()), "the file was closed");
    // Who asks now is told at once.
    common::ask_in_vain(&handle, &segment);
}

#[test]
fn a_rate_of_zero_calls_off_what_is_under_way_and_a_new_one_lets_it_begin_again() {
    let dir = Dir::new("rate");
    let room = Maintenance::start();
    let handle = room.handle();
    let (segment, _) = dir.segment(0, 100);
    assert_eq!(
        scrub(&handle, &segment),
        Err(ScrubError::Interrupted),
        "the rate is 0"
    );
    handle.set_rate(1);
    let told = ask(&handle, &segment);
    common::wait_until_open(&segment.path());
    handle.set_rate(0);
    assert_eq!(heard(&told), Err(ScrubError::Interrupted));
    // What was read before is paid at the new rate: nobody waits for a debt of days.
    handle.set_rate(NO_LIMIT);
    assert_eq!(scrub(&handle, &segment).unwrap().batches, 100);
    drop(room);
    common::wait_until_down(&handle);
}

//! A limit of locked memory that the executor cannot do with: the thread says that it does not run, and
//! whoever asks is told.

mod common;

use common::{Dir, NO_LIMIT};
use corelog_maintenance::Maintenance;

#[test]
fn without_an_executor_the_thread_is_down_and_nothing_hangs() {
    let limit = libc::rlimit {
        rlim_cur: 64 << 10,
        rlim_max: 64 << 10,
    };
    // SAFETY: the struct lives as long as the call. This test has a process of its own.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
    let dir = Dir::new("memlock");
    let room = Maintenance::start();
    let handle = room.handle();
    handle.set_rate(NO_LIMIT);
    let (segment, _) = dir.segment(0, 10);
    common::wait_until_down(&handle);
    assert!(room.join(std::time::Duration::from_secs(30)));
    common::ask_in_vain(&handle, &segment);
}

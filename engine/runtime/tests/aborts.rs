//! What ends the process: a panic where the shard's state would be in doubt.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use corelog_runtime::shards::{specs, start_shards};
use corelog_runtime::{Rt, cpus};

const ROLE: &str = "CORELOG_TEST_ABORTS";

/// Runs one test of this file again, in a process of its own, playing a role that must abort.
fn aborts(test: &str, message: &str) {
    let this = std::env::current_exe().expect("this program");
    let child = Command::new(this)
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, "1")
        .output()
        .expect("the child ran");
    let errors = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{errors}");
    assert!(errors.contains(message), "{errors}");
}

fn is_child() -> bool {
    std::env::var_os(ROLE).is_some()
}

#[test]
fn a_panic_in_a_vital_task_aborts_the_process_and_names_the_task() {
    if !is_child() {
        let test = "a_panic_in_a_vital_task_aborts_the_process_and_names_the_task";
        return aborts(test, "task flusher panicked: on purpose: aborting");
    }
    let rt = common::rt();
    rt.spawn_vital("flusher", async { panic!("on purpose") })
        .detach();
    rt.block_on(std::future::pending::<()>());
}

#[test]
fn a_panic_that_escapes_a_shard_aborts_the_process_and_names_the_shard() {
    if !is_child() {
        let test = "a_panic_that_escapes_a_shard_aborts_the_process_and_names_the_shard";
        return aborts(test, "shard 1 panicked: on purpose: aborting");
    }
    let threads = start_shards(specs(&cpus::allowed(), Some(2), 0), |shard| {
        move |_rt: Rt| async move {
            assert!(shard.0 == 0, "on purpose");
            std::future::pending::<()>().await;
        }
    });
    for thread in threads.expect("rings") {
        thread.join().expect("no panic");
    }
}

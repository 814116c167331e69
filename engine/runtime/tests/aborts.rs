//! What ends the process: a panic where the shard's state would be in doubt.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use corelog_runtime::crash::{CrashNotes, set_notes};
use corelog_runtime::shards::{specs, start_shards};
use corelog_runtime::{Rt, cpus, vital};

const ROLE: &str = "CORELOG_TEST_ABORTS";

/// Runs one test of this file again, in a process of its own, playing a role that must abort.
fn aborts(test: &str, messages: &[&str]) {
    let this = std::env::current_exe().expect("this program");
    let child = Command::new(this)
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, "1")
        .output()
        .expect("the child ran");
    let errors = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{errors}");
    for message in messages {
        assert!(errors.contains(message), "{message:?} in {errors}");
    }
}

/// The same, for a child whose standard error nobody reads: its reader is gone, or takes nothing.
fn aborts_unheard(test: &str) {
    for is_gone in [true, false] {
        let this = std::env::current_exe().expect("this program");
        let mut child = Command::new(this)
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let reader = child.stderr.take().filter(|_| !is_gone);
        let status = child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{is_gone}");
        drop(reader);
    }
}

/// What a program says of itself.
fn notes() -> CrashNotes {
    CrashNotes {
        program: "program 1.2.3".to_owned(),
        advice: vec!["do: start it again".to_owned()],
        flush_log: Box::new(|| eprintln!("the log is flushed")),
    }
}

fn is_child() -> bool {
    std::env::var_os(ROLE).is_some()
}

#[test]
fn r60_a_panic_in_a_vital_task_aborts_the_process_and_says_what_happened() {
    if !is_child() {
        let test = "r60_a_panic_in_a_vital_task_aborts_the_process_and_says_what_happened";
        let told = [
            "program 1.2.3 ends itself",
            "a vital task panicked: on purpose",
            "shard 0, task \"flusher\"",
            file!(),
            "do: start it again",
            "the log is flushed",
        ];
        return aborts(test, &told);
    }
    set_notes(notes());
    let rt = common::rt();
    rt.spawn_vital("flusher", async { panic!("on purpose") })
        .detach();
    rt.block_on(std::future::pending::<()>());
}

#[test]
fn r60_a_panic_aborts_the_process_also_where_nobody_reads_what_it_says() {
    if !is_child() {
        return aborts_unheard(
            "r60_a_panic_aborts_the_process_also_where_nobody_reads_what_it_says",
        );
    }
    // More than a pipe holds.
    set_notes(CrashNotes {
        advice: vec!["word ".repeat(100_000)],
        flush_log: Box::new(|| {}),
        ..notes()
    });
    let threads = start_shards(specs(&cpus::allowed(), Some(1), 0), |_| {
        move |rt: Rt| async move {
            rt.spawn_vital("flusher", async { panic!("on purpose") })
                .detach();
            std::future::pending::<()>().await;
        }
    });
    for thread in threads.expect("rings") {
        let _ended = thread.join();
    }
    // The shard is gone, and the process lives on: what must not be.
}

#[test]
fn r60_a_panic_that_escapes_a_shard_aborts_the_process_and_names_the_shard() {
    if !is_child() {
        let test = "r60_a_panic_that_escapes_a_shard_aborts_the_process_and_names_the_shard";
        let told = [
            "a shard panicked: on purpose",
            "shard 1, task \"main\"",
            file!(),
        ];
        return aborts(test, &told);
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

#[test]
fn r60_a_panic_while_a_panic_is_dealt_with_is_told_too() {
    if !is_child() {
        let test = "r60_a_panic_while_a_panic_is_dealt_with_is_told_too";
        return aborts(test, &["the first one", "the second one"]);
    }
    struct Second;
    impl Drop for Second {
        fn drop(&mut self) {
            panic!("the second one");
        }
    }
    let threads = start_shards(specs(&cpus::allowed(), Some(1), 0), |_| {
        move |rt: Rt| async move {
            let task = rt.spawn("two", async {
                let _second = Second;
                panic!("the first one");
            });
            task.await;
        }
    });
    for thread in threads.expect("rings") {
        thread.join().expect("no panic");
    }
}

#[test]
fn r60_a_panic_inside_what_is_vital_to_others_aborts_the_process() {
    if !is_child() {
        let test = "r60_a_panic_inside_what_is_vital_to_others_aborts_the_process";
        return aborts(test, &["vital task panicked: in doubt", "task \"request\""]);
    }
    set_notes(notes());
    let rt = common::rt();
    let rt2 = rt.clone();
    let task = rt.spawn("request", async move {
        vital(async {
            rt2.yield_now().await;
            panic!("in doubt");
        })
        .await
    });
    rt.block_on(task);
}

#[test]
fn r60_a_panic_beside_what_is_vital_ends_its_task_alone() {
    let rt = common::rt();
    let (first, second) = (rt.clone(), rt.clone());
    let beside = rt.spawn("request", async move {
        // Waits, and is dropped by the panic: nothing inside it failed.
        let mut waiting = Box::pin(vital(std::future::pending::<()>()));
        std::future::poll_fn(|cx| {
            assert!(waiting.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        first.yield_now().await;
        panic!("on purpose");
    });
    let cancelled = rt.spawn("cancelled", vital(std::future::pending::<()>()));
    rt.block_on(async move {
        assert_eq!(beside.await, None);
        cancelled.cancel_and_wait().await;
        assert_eq!(second.counters().task_panics, 1);
    });
}

//! Every change of the disk is a crash point: what was committed is delivered again, in order.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Rt;
use corelog_runtime::sim::{
    CrashKind, Fault, OpKind, ScriptedFault, SimConfig, SimWorld, run_until_crash,
};
use corelog_storage::log_dir::{Identity, LogDir};

use super::LocalLog;
use crate::metadata_log::{AppliedContent, MetadataLog, Proposed};

const LOG_DIR: &str = "/data";

/// Proposes numbers, with snapshots between; notes each number once it is committed.
async fn history(rt: Rt, committed: Rc<RefCell<Vec<u8>>>) {
    rt.mkdir_all(Path::new(LOG_DIR))
        .await
        .expect("the simulated disk has room");
    rt.sync_dir("/").await.expect("the root is there");
    let log = LocalLog::open(&rt, Path::new(LOG_DIR), 1)
        .await
        .expect("a fresh log opens");
    let mut image = replay(&log).await;
    for number in 1..=12u8 {
        let term = log.leader_term().expect("this log leads");
        let Proposed::Committed(index) = log.propose(term, vec![number]).await else {
            return;
        };
        committed.borrow_mut().push(number);
        log.next_applied().await;
        image.push(number);
        if number % 4 == 0 {
            log.offer_snapshot(index, image.clone()).await;
        }
    }
}

/// All numbers up to the blank entry of this process's term.
async fn replay(log: &LocalLog) -> Vec<u8> {
    let mut image = Vec::new();
    loop {
        let applied = log.next_applied().await;
        match applied.content {
            AppliedContent::Snapshot(whole) => image = whole,
            AppliedContent::Records(number) => image.extend(number),
            AppliedContent::Blank if Some(applied.term) == log.leader_term() => return image,
            AppliedContent::Blank => {}
        }
    }
}

fn crashed_at(kind: CrashKind, at: u64, seed: u64) -> bool {
    let config = SimConfig {
        crash_at: Some(at),
        crash_kind: kind,
        ..SimConfig::default()
    };
    let world = SimWorld::new(seed, config);
    let committed = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&committed);
    let ended = run_until_crash(&world, |rt| history(rt, noted)).is_some();
    world.set_crash_at(None);
    let reopen = || {
        let found = run_until_crash(&world, |rt| async move {
            rt.mkdir_all(Path::new(LOG_DIR))
                .await
                .expect("made, or there");
            let log = LocalLog::open(&rt, Path::new(LOG_DIR), 1).await;
            let log = log.unwrap_or_else(|error| panic!("{kind:?} at {at}: {error}"));
            replay(&log).await
        });
        found.expect("no crash is planned")
    };
    let found = reopen();
    // What one process was given no power loss takes from the next: entries of a killed process may
    // have been in the page cache alone.
    world.power_loss();
    assert_eq!(reopen(), found, "{kind:?} at {at}, then power loss");
    let committed = committed.borrow();
    // What was proposed and not answered may be there too, and nothing else.
    assert!(
        found.starts_with(&committed),
        "{kind:?} at {at}: {committed:?} became {found:?}"
    );
    assert!(
        found.len() <= committed.len() + 1,
        "{kind:?} at {at}: {committed:?} became {found:?}"
    );
    ended
}

#[test]
fn r52_committed_metadata_survives_a_crash_at_every_change_of_the_disk() {
    for kind in [CrashKind::KillProcess, CrashKind::PowerLoss] {
        for seed in 0..8 {
            let mut at = 1;
            while !crashed_at(kind, at, seed) {
                at += 1;
            }
            assert!(at > 30, "the history has only {at} changes");
        }
    }
}

#[test]
fn a_missing_snapshot_is_damage_and_not_an_empty_cluster() {
    let world = SimWorld::new(1, SimConfig::default());
    run_until_crash(&world, |rt| history(rt, Rc::default())).expect("no crash is planned");
    let error = run_until_crash(&world, |rt| async move {
        let snapshot = Path::new(LOG_DIR).join(super::DIRECTORY).join("snapshot");
        rt.unlink(&snapshot).await.expect("it is there");
        LocalLog::open(&rt, Path::new(LOG_DIR), 1)
            .await
            .err()
            .map(|e| e.to_string())
    });
    let error = error.flatten().expect("the log must not open");
    assert!(error.contains("is missing"), "{error}");
}

/// A log directory of a machine whose disk has no room left beside the reserve.
async fn full_directory(rt: &Rt, world: &SimWorld) -> Rc<LogDir> {
    let identity = Identity {
        cluster_id: None,
        node_id: 1,
    };
    let dir = LogDir::open(rt, Path::new(LOG_DIR), identity, None).await;
    let dir = Rc::new(dir.expect("the simulated disk has room"));
    dir.set_reserve(8 << 20).await.expect("as much is free");
    world.set_capacity(world.used_bytes());
    dir
}

#[test]
fn r33_metadata_is_written_on_a_full_disk_out_of_the_reserve() {
    let world = SimWorld::new(5, SimConfig::default());
    let inner = world.clone();
    let told = Rc::new(Cell::new(false));
    let ended = run_until_crash(&world, |rt| async move {
        let dir = full_directory(&rt, &inner).await;
        let noted = Rc::clone(&told);
        dir.on_release(Rc::new(move || noted.set(true)));
        let log = LocalLog::open_in(&rt, Rc::clone(&dir), 1).await;
        let log = log.expect("the reserve is there for it");
        assert!(told.get(), "others are to leave what was given back alone");
        replay(&log).await;
        let term = log.leader_term().expect("this log leads");
        for number in 0..100 {
            let proposed = log.propose(term, vec![number; 10_000]).await;
            assert!(matches!(proposed, Proposed::Committed(_)), "{number}");
        }
        // Nothing is left: refused, and taken again when there is space.
        while dir.release_reserve().await {}
        inner.set_capacity(inner.used_bytes());
        let refused = log.propose(term, vec![1; 10_000]).await;
        assert_eq!(refused, Proposed::Unknown);
        inner.set_capacity(1 << 40);
        let proposed = log.propose(term, vec![1]).await;
        assert!(matches!(proposed, Proposed::Committed(_)));
    });
    assert!(ended.is_some());
}

#[test]
fn r33_a_snapshot_that_cannot_be_written_leaves_nothing_and_is_not_tried_at_once() {
    let world = SimWorld::new(7, SimConfig::default());
    let inner = world.clone();
    let ended = run_until_crash(&world, |rt| async move {
        rt.mkdir_all(Path::new(LOG_DIR)).await.expect("room");
        let log = LocalLog::open(&rt, Path::new(LOG_DIR), 1).await;
        let log = log.expect("a fresh log opens");
        let mut image = replay(&log).await;
        inner.add_fault(ScriptedFault {
            kind: OpKind::Open,
            path_contains: "snapshot".to_owned(),
            skip: 0,
            times: 1000,
            fault: Fault::NoSpace,
        });
        let tried = || inner.faults().no_space;
        let entries = || {
            let paths = inner.paths();
            paths
                .iter()
                .filter(|path| path.ends_with(".entries"))
                .count()
        };
        let term = log.leader_term().expect("this log leads");
        for number in 1..=20u8 {
            let proposed = log.propose(term, vec![number]).await;
            let Proposed::Committed(index) = proposed else {
                panic!("{number}: {proposed:?}");
            };
            image.push(number);
            log.offer_snapshot(index, image.clone()).await;
            assert_eq!(entries(), 1, "{number}");
        }
        assert_eq!(tried(), 1, "not with every change");
        rt.sleep(Duration::from_secs(2)).await;
        let Proposed::Committed(index) = log.propose(term, vec![21]).await else {
            panic!("the log takes entries");
        };
        image.push(21);
        log.offer_snapshot(index, image.clone()).await;
        assert_eq!(tried(), 2);
        inner.clear_faults();
        rt.sleep(Duration::from_secs(5)).await;
        log.offer_snapshot(index, image.clone()).await;
        assert!(inner.paths().iter().any(|path| path.ends_with("/snapshot")));
        assert_eq!(entries(), 1);
        // What is committed already is there: nothing is made anew, nothing is lost.
        log.offer_snapshot(index, image.clone()).await;
        drop(log);
        let log = LocalLog::open(&rt, Path::new(LOG_DIR), 1).await;
        assert_eq!(replay(&log.expect("it opens again")).await, image);
    });
    assert!(ended.is_some());
}

#[test]
fn r33_a_device_that_fails_under_the_metadata_log_is_told_once() {
    let world = SimWorld::new(6, SimConfig::default());
    let inner = world.clone();
    let ended = run_until_crash(&world, |rt| async move {
        rt.mkdir_all(Path::new(LOG_DIR)).await.expect("room");
        let log = LocalLog::open(&rt, Path::new(LOG_DIR), 1).await;
        let log = log.expect("a fresh log opens");
        replay(&log).await;
        let told = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&told);
        log.on_failure(Box::new(move |why| noted.borrow_mut().push(why.to_owned())));
        inner.add_fault(ScriptedFault {
            kind: OpKind::Write,
            path_contains: ".entries".to_owned(),
            skip: 0,
            times: 1,
            fault: Fault::Eio,
        });
        let term = log.leader_term().expect("this log leads");
        assert_eq!(log.propose(term, vec![1]).await, Proposed::Unknown);
        assert_eq!(log.propose(term, vec![2]).await, Proposed::NotLeader);
        assert_eq!(log.leader_term(), None);
        assert_eq!(told.borrow().len(), 1, "{told:?}");
    });
    assert!(ended.is_some());
}

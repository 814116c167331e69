//! Log directories on the simulated disk: identity, how the last run ended, checkpoints, crashes.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Rt;
use corelog_runtime::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimWorld, run_until_crash};
use corelog_storage::checkpoint_files::{
    CLEAN_MARKER, HIGH_WATERMARKS, META_PROPERTIES, OffsetMap, RECOVERY_POINTS,
};
use corelog_storage::log_dir::{
    HeldLock, Identity, LogDir, LogDirError, StartKind, process_lock, random_uuid,
    read_partition_metadata, write_partition_metadata,
};

const DIR: &str = "/data/logs";

fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}

/// Runs one process to its end.
fn run<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) -> F::Output {
    run_until_crash(world, main).expect("no crash was asked for")
}

/// The machine starts: its kernel has another boot id.
async fn boot(rt: &Rt, id: &str) {
    rt.mkdir_all("/proc/sys/kernel/random").await.unwrap();
    rt.write_atomic(
        "/proc/sys/kernel/random/boot_id",
        format!("{id}\n").into_bytes(),
    )
    .await
    .unwrap();
}

fn node(node_id: i32, cluster_id: Option<&str>) -> Identity {
    Identity {
        cluster_id: cluster_id.map(str::to_owned),
        node_id,
    }
}

async fn open(rt: &Rt) -> LogDir {
    LogDir::open(rt, Path::new(DIR), node(1, None), None)
        .await
        .unwrap()
}

async fn open_error(rt: &Rt, identity: Identity) -> LogDirError {
    LogDir::open(rt, Path::new(DIR), identity, None)
        .await
        .err()
        .expect("refused")
}

fn offsets(offset: i64) -> OffsetMap {
    OffsetMap::from([(("t".to_owned(), 0), offset), (("t".to_owned(), 1), 5)])
}

#[test]
fn the_first_start_makes_the_directory_and_power_loss_leaves_it() {
    for seed in 0..32 {
        let world = world(seed);
        let (cluster, id) = run(&world, |rt| async move {
            let dir = open(&rt).await;
            assert_eq!(dir.start_kind(), StartKind::Clean);
            assert_eq!(dir.cluster_id().len(), 22);
            (dir.cluster_id().to_owned(), dir.directory_id())
        });
        assert_ne!(id, [0; 16]);
        world.power_loss();
        run(&world, |rt| async move {
            let dir = open(&rt).await;
            assert_eq!((dir.cluster_id(), dir.directory_id()), (&*cluster, id));
        });
    }
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused() {
    run(&world(1), |rt| async move {
        LogDir::open(&rt, Path::new(DIR), node(1, Some("here")), None)
            .await
            .unwrap();
        let wrong = open_error(&rt, node(2, None)).await;
        assert!(
            matches!(
                wrong,
                LogDirError::WrongNode {
                    found: 1,
                    expected: 2,
                    ..
                }
            ),
            "{wrong}"
        );
        let wrong = open_error(&rt, node(1, Some("there"))).await;
        assert_eq!(
            wrong.to_string(),
            "log directory /data/logs belongs to cluster here, this is cluster there: correct log.dirs"
        );
        assert_eq!(open(&rt).await.cluster_id(), "here");
        let meta = Path::new(DIR).join(META_PROPERTIES);
        rt.write_atomic(&meta, b"version=1\nnode.id=1\n".to_vec())
            .await
            .unwrap();
        assert!(matches!(
            open_error(&rt, node(1, None)).await,
            LogDirError::Format(_)
        ));
        rt.unlink(&meta).await.unwrap();
        rt.mkdir("/data/logs/orders-3").await.unwrap();
        let wrong = open_error(&rt, node(1, None)).await.to_string();
        assert!(
            wrong.contains("/data/logs holds orders-3 but no meta.properties"),
            "{wrong}"
        );
    });
    run(&world(2), |rt| async move {
        let wrong = open_error(&rt, node(1, Some("a b"))).await;
        assert!(matches!(wrong, LogDirError::BadClusterId { .. }), "{wrong}");
    });
}

#[test]
fn r32_the_start_tells_a_clean_stop_from_a_dead_process_from_power_loss() {
    let world = world(3);
    run(&world, |rt| async move {
        boot(&rt, "aaaa-1").await;
        assert_eq!(open(&rt).await.start_kind(), StartKind::Clean);
    });
    world.kill_process();
    run(&world, |rt| async move {
        let dir = open(&rt).await;
        assert_eq!(dir.start_kind(), StartKind::ProcessDeath);
        dir.write_clean_marker(42).await.unwrap();
    });
    world.power_loss();
    run(&world, |rt| async move {
        boot(&rt, "bbbb-2").await;
        let dir = open(&rt).await;
        assert_eq!(
            (dir.start_kind(), dir.previous_broker_epoch()),
            (StartKind::Clean, 42)
        );
        let marker = rt.stat(Path::new(DIR).join(CLEAN_MARKER)).await;
        assert_eq!(
            marker.unwrap_err().kind(),
            std::io::ErrorKind::NotFound,
            "gone before an append"
        );
    });
    world.power_loss();
    run(&world, |rt| async move {
        boot(&rt, "cccc-3").await;
        let dir = open(&rt).await;
        assert_eq!(
            (dir.start_kind(), dir.previous_broker_epoch()),
            (StartKind::Unclean, -1)
        );
    });
    world.kill_process();
    run(&world, |rt| async move {
        let dir = open(&rt).await;
        assert_eq!(
            dir.start_kind(),
            StartKind::Unclean,
            "recovery of the power loss was never finished"
        );
        dir.mark_recovered().await.unwrap();
    });
    world.kill_process();
    run(&world, |rt| async move {
        assert_eq!(open(&rt).await.start_kind(), StartKind::ProcessDeath);
    });
}

#[test]
fn r31_the_clean_marker_is_durably_gone_before_open_answers() {
    for seed in 0..32 {
        let world = world(seed);
        run(&world, |rt| async move {
            boot(&rt, "aaaa-1").await;
            open(&rt).await.write_clean_marker(-1).await.unwrap();
            open(&rt).await;
        });
        world.power_loss();
        run(&world, |rt| async move {
            boot(&rt, "bbbb-2").await;
            assert_eq!(open(&rt).await.start_kind(), StartKind::Unclean);
        });
    }
}

#[test]
fn without_a_boot_id_or_with_an_unreadable_marker_the_start_is_unclean() {
    run(&world(4), |rt| async move {
        open(&rt).await;
        assert_eq!(open(&rt).await.start_kind(), StartKind::Unclean);
        rt.write_atomic(Path::new(DIR).join(CLEAN_MARKER), b"{".to_vec())
            .await
            .unwrap();
        assert_eq!(open(&rt).await.start_kind(), StartKind::Unclean);
        // As Kafka leaves it.
        let kafka = br#"{"version":0,"brokerEpoch":9}"#.to_vec();
        rt.write_atomic(Path::new(DIR).join(CLEAN_MARKER), kafka)
            .await
            .unwrap();
        let dir = open(&rt).await;
        assert_eq!(
            (dir.start_kind(), dir.previous_broker_epoch()),
            (StartKind::Clean, 9)
        );
    });
}

#[test]
fn directories_are_listed_by_what_they_are() {
    run(&world(5), |rt| async move {
        open(&rt).await;
        let deleted = "gone-0.00112233445566778899aabbccddeeff-delete";
        for name in [
            "t-10",
            "t-2",
            "a-b-0",
            deleted,
            "__cluster_metadata-0",
            "lost+found",
        ] {
            rt.mkdir(Path::new(DIR).join(name)).await.unwrap();
        }
        let dir = open(&rt).await;
        let found: Vec<_> = dir
            .partitions()
            .iter()
            .map(|p| (p.topic.as_str(), p.partition))
            .collect();
        assert_eq!(found, [("a-b", 0), ("t", 2), ("t", 10)]);
        assert_eq!(dir.partitions()[2].path, Path::new("/data/logs/t-10"));
        assert_eq!(dir.deleted(), [Path::new(DIR).join(deleted)]);
        let (at, id) = (&dir.partitions()[0].path, random_uuid(&rt));
        assert_eq!(read_partition_metadata(&rt, at).await.unwrap(), None);
        write_partition_metadata(&rt, at, &id).await.unwrap();
        assert_eq!(read_partition_metadata(&rt, at).await.unwrap(), Some(id));
    });
}

#[test]
fn checkpoints_read_back_lower_and_forget() {
    run(&world(6), |rt| async move {
        let dir = open(&rt).await;
        dir.write_recovery_points(&offsets(10), dir.lowered())
            .await
            .unwrap();
        dir.write_high_watermarks(&offsets(20), dir.lowered())
            .await
            .unwrap();
        dir.write_log_starts(&offsets(3), dir.lowered())
            .await
            .unwrap();
        dir.lower("t", 0, 15).await.unwrap();
        dir.lower("unknown", 0, 15).await.unwrap();
        let dir = open(&rt).await;
        let maps = (
            dir.recovery_points(),
            dir.high_watermarks(),
            dir.log_starts(),
        );
        assert_eq!(maps, (offsets(10), offsets(15), offsets(3)));
        dir.forget(&[("t".to_owned(), 0)]).await.unwrap();
        let dir = open(&rt).await;
        for map in [
            dir.recovery_points(),
            dir.high_watermarks(),
            dir.log_starts(),
        ] {
            assert_eq!(map, OffsetMap::from([(("t".to_owned(), 1), 5)]));
        }
    });
}

#[test]
fn r05_a_raise_whose_writer_went_away_is_written_by_the_next() {
    let world = world(8);
    let disk = world.clone();
    run(&world, |rt| async move {
        let dir = Rc::new(open(&rt).await);
        let raise = |partition: i32| {
            let dir = Rc::clone(&dir);
            async move { dir.raise_log_start("t", partition, 7, 9).await }
        };
        // The one in turn takes the next along, and ends while it writes.
        disk.add_fault(ScriptedFault {
            kind: OpKind::Write,
            path_contains: "checkpoint".to_owned(),
            skip: 2,
            times: 1,
            fault: Fault::Slow(Duration::from_secs(60)),
        });
        // It holds the turn while the two others line up.
        let first = rt.spawn("first", raise(0));
        let second = rt.spawn("second", {
            let (rt, raise) = (rt.clone(), raise(1));
            async move { rt.timeout(Duration::from_secs(1), raise).await.is_none() }
        });
        let third = rt.spawn("third", raise(2));
        first.await.expect("it ran").unwrap();
        assert_eq!(second.await, Some(true), "it was given up");
        third.await.expect("it ran").unwrap();
        let dir = open(&rt).await;
        for partition in [0, 2] {
            let key = ("t".to_owned(), partition);
            assert_eq!(dir.log_starts().get(&key), Some(&7), "{partition}");
            assert_eq!(dir.recovery_points().get(&key), Some(&9), "{partition}");
        }
    });
}

#[test]
fn r33_the_offsets_of_a_moved_partition_replace_those_that_are_there() {
    run(&world(9), |rt| async move {
        let from = open(&rt).await;
        from.write_log_starts(&offsets(3), from.lowered())
            .await
            .unwrap();
        from.write_recovery_points(&offsets(10), from.lowered())
            .await
            .unwrap();
        let into = Path::new("/data/more");
        let open_into = || LogDir::open(&rt, into, node(1, None), None);
        let dir = open_into().await.unwrap();
        dir.write_high_watermarks(&offsets(900), dir.lowered())
            .await
            .unwrap();
        let gathered = dir.lowered();
        let moved = ("t".to_owned(), 0);
        dir.take_over(&from, std::slice::from_ref(&moved))
            .await
            .unwrap();
        let stale = dir.write_high_watermarks(&offsets(900), gathered).await;
        assert!(!stale.unwrap(), "gathered before");
        let dir = open_into().await.unwrap();
        assert_eq!(dir.log_starts(), OffsetMap::from([(moved.clone(), 3)]));
        assert_eq!(
            dir.recovery_points(),
            OffsetMap::from([(moved.clone(), 10)])
        );
        let other = ("t".to_owned(), 1);
        assert_eq!(dir.high_watermarks(), OffsetMap::from([(other, 5)]));
        assert!(dir.is_checkpointed(&moved));
    });
}

#[test]
fn r32_a_damaged_checkpoint_is_set_aside_and_said() {
    run(&world(7), |rt| async move {
        let dir = open(&rt).await;
        dir.write_high_watermarks(&offsets(20), dir.lowered())
            .await
            .unwrap();
        let path = Path::new(DIR).join(RECOVERY_POINTS);
        rt.write_atomic(&path, b"0\n1\nt 0\n".to_vec())
            .await
            .unwrap();
        let dir = open(&rt).await;
        assert_eq!(
            (dir.recovery_points(), dir.high_watermarks()),
            (OffsetMap::new(), offsets(20))
        );
        let said: Vec<_> = dir
            .damaged()
            .iter()
            .map(|e| (e.file.as_str(), e.line))
            .collect();
        assert_eq!(said, [("/data/logs/recovery-point-offset-checkpoint", 3)]);
        let aside = Path::new(DIR).join(format!("{RECOVERY_POINTS}.bad"));
        assert_eq!(rt.read_whole(aside, 100).await.unwrap(), b"0\n1\nt 0\n");
        assert!(open(&rt).await.damaged().is_empty());
        rt.write_atomic(&path, b"again".to_vec()).await.unwrap();
        assert_eq!(open(&rt).await.damaged().len(), 1);
        let aside = Path::new(DIR).join(format!("{RECOVERY_POINTS}.bad1"));
        assert_eq!(rt.read_whole(aside, 100).await.unwrap(), b"again");
    });
}

#[test]
fn r32_power_loss_at_any_write_leaves_the_old_checkpoint_or_the_new() {
    let work = |rt: Rt| async move {
        let dir = open(&rt).await;
        for i in 1..6 {
            dir.write_recovery_points(&offsets(i), dir.lowered())
                .await
                .unwrap();
            dir.write_high_watermarks(&offsets(i), dir.lowered())
                .await
                .unwrap();
        }
    };
    let whole = world(0);
    run(&whole, work);
    let mut crashes = 0;
    for at in 0..whole.write_count() {
        let world = world(at);
        run(&world, |rt| async move {
            let dir = open(&rt).await;
            dir.write_recovery_points(&offsets(0), dir.lowered())
                .await
                .unwrap();
        });
        let before = world.write_count();
        world.set_crash_at(Some(before + at));
        let done = run_until_crash(&world, work);
        world.set_crash_at(None);
        crashes += u32::from(done.is_none());
        if done.is_some() {
            world.power_loss();
        }
        run(&world, |rt| async move {
            let dir = open(&rt).await;
            assert!(dir.damaged().is_empty());
            let (points, marks) = (dir.recovery_points(), dir.high_watermarks());
            assert!((0..6).any(|i| points == offsets(i)), "{points:?}");
            assert!(
                marks.is_empty() || (1..6).any(|i| marks == offsets(i)),
                "{marks:?}"
            );
            if done.is_some() {
                assert_eq!(
                    (points, marks),
                    (offsets(5), offsets(5)),
                    "{HIGH_WATERMARKS} was durable"
                );
            }
        });
    }
    assert!(crashes > 20, "{crashes}");
}

#[test]
fn a_directory_in_use_is_refused() {
    fn held(_: &Path) -> std::io::Result<Option<HeldLock>> {
        Ok(None)
    }
    run(&world(8), |rt| async move {
        let refused = LogDir::open(&rt, Path::new(DIR), node(1, None), Some(held))
            .await
            .err()
            .expect("refused");
        assert!(matches!(refused, LogDirError::Locked { .. }), "{refused}");
    });
    let lock = std::env::temp_dir().join(format!("corelog-lock-{}", std::process::id()));
    let first = process_lock(&lock).unwrap();
    assert!(first.is_some());
    assert!(
        process_lock(&lock).unwrap().is_none(),
        "held by another descriptor"
    );
    drop(first);
    assert!(process_lock(&lock).unwrap().is_some(), "free again");
    corelog_runtime::blocking::remove_file(&lock).unwrap();
}

//! The simulated disk's contract: what `kill -9` takes (docs/SIMULATED_DISK.md).

mod sim_support;

use std::time::Duration;

use corelog_runtime::sim::{CrashKind, SimConfig, SimDriver, SimWorld, run_until_crash};
use corelog_runtime::{BufferPool, FallocateMode, Op, Rt, ShardId};
use sim_support::*;

/// A process that dies with one direct write of 2 over 1 in flight (and one over the end).
fn killed_in_flight(seed: u64) -> SimWorld {
    let world = world(seed);
    let cut = world.clone();
    let out = run_until_crash(&world, |rt| async move {
        let file = durable_file(&rt, "/f", 1, 2).await;
        let op = |offset| Op::WriteAt {
            file: file.handle().clone(),
            bufs: blocks(&rt, 2, 2),
            offset,
            dsync: true,
        };
        let (inside, outside) = (rt.submit(op(0)), rt.submit(op(2 * BLOCK)));
        rt.sleep(Duration::from_nanos(1)).await;
        cut.kill_process();
        both(inside, outside).await
    });
    assert!(out.is_none());
    world
}

#[test]
fn r31_completed_writes_survive_kill_9() {
    for seed in 0..32 {
        let world = world(seed);
        run_then_kill(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            file.write_at(blocks(&rt, 1, 3), 0, false).await.unwrap();
            rt.rename("/f", "/g").await.unwrap();
            rt.mkdir("/d").await.unwrap();
        });
        assert_eq!(world.paths(), ["/d/", "/g"]);
        assert_eq!(
            sectors(&run(&world, |rt| async move { read_all(&rt, "/g").await })),
            [1; 24]
        );
    }
}

#[test]
fn what_kill_9_left_unflushed_is_still_volatile_and_the_next_process_can_flush_it() {
    let (mut lost, mut seeds) = (0, 0);
    for does_flush in [false, true] {
        for seed in 0..32 {
            let world = world(seed);
            run_then_kill(&world, |rt| async move {
                let file = durable_file(&rt, "/f", 1, 1).await;
                file.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
            });
            run_then_power_loss(&world, |rt| async move {
                let file = rt.open("/f", direct()).await.unwrap();
                if does_flush {
                    file.fdatasync().await.unwrap();
                }
            });
            let is_lost = sectors(&world.file_bytes("/f").unwrap()) != [2; 8];
            assert!(!(is_lost && does_flush));
            lost += u32::from(is_lost);
            seeds += 1;
        }
    }
    assert!(lost > 4 && seeds == 64, "{lost}");
}

#[test]
fn r31_in_flight_writes_of_a_killed_process_may_land_until_the_recovery_barrier_and_never_after() {
    let (mut landed_early, mut landed_later, mut never, mut barriers) = (0, 0, 0, 0);
    for seed in 0..128 {
        let world = killed_in_flight(seed);
        let (before, after) = run(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            let before = read_all(&rt, "/f").await;
            file.fallocate(FallocateMode::KeepSize, 0, 4096)
                .await
                .unwrap();
            let after = read_all(&rt, "/f").await;
            rt.sleep(Duration::from_secs(120)).await;
            assert_eq!(
                read_all(&rt, "/f").await,
                after,
                "nothing lands after the barrier"
            );
            (before, after)
        });
        let first = vec![1; 2 * BLOCK as usize];
        landed_early += u32::from(before != first);
        landed_later += u32::from(before != after);
        never += u32::from(after == first);
        barriers += world.faults().barriers_with_late_writes;
    }
    let counts = [landed_early, landed_later, never, barriers as u32];
    assert!(counts.iter().all(|count| *count > 4), "{counts:?}");
}

#[test]
fn without_the_barrier_a_late_write_lands_in_the_middle_of_the_next_process() {
    let surprised = (0..128).filter(|seed| {
        let world = killed_in_flight(*seed);
        run(&world, |rt| async move {
            let before = read_all(&rt, "/f").await;
            rt.sleep(Duration::from_secs(60)).await;
            read_all(&rt, "/f").await != before
        })
    });
    assert!(surprised.count() > 8);
}

#[test]
fn a_growing_ftruncate_and_other_fallocates_are_no_barrier() {
    let surprised = (0..128).filter(|seed| {
        let world = killed_in_flight(*seed);
        run(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            file.ftruncate(64 * BLOCK).await.unwrap();
            file.fallocate(FallocateMode::Extend, 0, 65 * BLOCK)
                .await
                .unwrap();
            let before = read_all(&rt, "/f").await;
            rt.sleep(Duration::from_secs(60)).await;
            read_all(&rt, "/f").await != before
        })
    });
    assert!(surprised.count() > 8);
}

#[test]
fn the_barrier_waits_for_the_process_s_own_writes_too() {
    for seed in 0..32 {
        let world = world(seed);
        run(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 1).await;
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs: blocks(&rt, 2, 1),
                offset: 0,
                dsync: false,
            };
            let write = rt.submit(op);
            file.fallocate(FallocateMode::KeepSize, 0, 4096)
                .await
                .unwrap();
            assert_eq!(sectors(&read_all(&rt, "/f").await), [2; 8]);
            drop(write.await);
        });
    }
}

#[test]
fn late_writes_are_volatile_too() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..128 {
        let world = killed_in_flight(seed);
        world.power_loss();
        let new = sectors(&world.file_bytes("/f").unwrap())[..16]
            .iter()
            .filter(|byte| **byte == 2)
            .count();
        seen.insert(new.min(1) + new / 16);
    }
    assert_eq!(seen.len(), 3, "none, some, all");
}

#[test]
fn handles_of_a_dead_process_are_void() {
    let world = world(1);
    let mut kept = None;
    run_then_kill(&world, |rt| {
        let kept = &mut kept;
        async move { *kept = Some(durable_file(&rt, "/f", 1, 1).await.handle().clone()) }
    });
    let handle = kept.unwrap();
    run(&world, |rt| async move {
        let file = corelog_runtime::File::from_handle(&rt, handle);
        assert_eq!(
            file.fdatasync().await.unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert_eq!(
            file.stat().await.unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_open_and_its_space_comes_back() {
    let world = world(1);
    run(&world, |rt| {
        let world = world.clone();
        async move {
            let file = durable_file(&rt, "/f", 1, 2).await;
            rt.unlink("/f").await.unwrap();
            assert_eq!(file.stat().await.unwrap().len, 2 * BLOCK);
            assert_eq!(world.used_bytes(), 2 * BLOCK);
            drop(file);
            assert_eq!(world.used_bytes(), 0);
        }
    });
}

#[test]
fn after_a_crash_nothing_completes_and_everything_drops_quietly() {
    let world = world(3);
    let rt = Rt::new(
        ShardId(0),
        Box::new(SimDriver::new(&world, 0)),
        BufferPool::new(0),
    );
    let task = rt.spawn("writer", {
        let rt = rt.clone();
        async move {
            let file = rt.open("/f", direct()).await.unwrap();
            loop {
                file.write_at(blocks(&rt, 1, 1), 0, false).await.unwrap();
            }
        }
    });
    rt.run_until_stalled();
    let held = rt.submit(Op::Mkdir { path: "/d".into() });
    world.kill_process();
    assert!(world.crashed());
    let polls = rt.counters().tasks_polled;
    let late = rt.submit(Op::Mkdir { path: "/e".into() });
    rt.run_until_stalled();
    assert!(
        rt.counters().tasks_polled <= polls + 1 && rt.counters().ops_in_flight >= 2,
        "nothing came back"
    );
    drop((held, late, task));
    rt.close();
    assert_eq!(rt.counters().ops_in_flight, 0);
    drop(rt);
    assert!(world.crashed());
    run(&world, |rt| async move {
        assert!(rt.read_dir("/e").await.is_err())
    });
    assert!(!world.crashed());
}

#[test]
fn a_driver_dropped_with_operations_in_flight_leaves_them_to_chance() {
    let sizes: std::collections::BTreeSet<usize> = (0..64)
        .map(|seed| {
            let world = world(seed);
            let rt = Rt::new(
                ShardId(0),
                Box::new(SimDriver::new(&world, 0)),
                BufferPool::new(0),
            );
            let file = rt.block_on(durable_file(&rt, "/f", 1, 1));
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs: blocks(&rt, 2, 1),
                offset: 0,
                dsync: false,
            };
            let write = rt.submit(op);
            rt.block_on(rt.sleep(Duration::from_micros(2)));
            drop((write, file, rt));
            run(&world, |rt| async move {
                rt.sleep(Duration::from_secs(60)).await;
                sectors(&read_all(&rt, "/f").await)
                    .into_iter()
                    .filter(|byte| *byte == 2)
                    .count()
            })
        })
        .collect();
    assert_eq!(sizes, [0, 8].into());
}

#[test]
fn a_kill_at_every_change_keeps_what_was_acknowledged() {
    let script = |acked: std::rc::Rc<std::cell::Cell<u8>>| {
        move |rt: Rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            for byte in 1..20u8 {
                file.write_at(
                    blocks(&rt, byte, 1),
                    u64::from(byte - 1) * BLOCK,
                    byte % 3 == 0,
                )
                .await
                .unwrap();
                acked.set(byte);
            }
        }
    };
    for at in 2..=20 {
        let config = SimConfig {
            crash_at: Some(at),
            crash_kind: CrashKind::KillProcess,
            ..SimConfig::default()
        };
        let world = SimWorld::new(at, config);
        let acked = std::rc::Rc::new(std::cell::Cell::new(0));
        assert!(run_until_crash(&world, script(acked.clone())).is_none());
        let got = run(&world, |rt| async move { read_all(&rt, "/f").await });
        let expected: Vec<u8> = (1..=acked.get()).flat_map(|byte| [byte; 8]).collect();
        assert_eq!(u64::from(acked.get()), at - 2);
        assert_eq!(sectors(&got[..expected.len() * 512]), expected);
    }
}

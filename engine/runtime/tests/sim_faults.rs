//! Faults, limits, clock and trace of the simulated machine (docs/SIMULATED_DISK.md).

mod sim_support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::driver::{Cached, Driver};
use corelog_runtime::sim::{
    Fault, FaultPlan, OpKind, ScriptedFault, SimConfig, SimDriver, SimWorld,
};
use corelog_runtime::{Advice, FallocateMode, Op, OpenOptions};
use sim_support::*;

fn script(kind: OpKind, path: &str, skip: u64, times: u64, fault: Fault) -> ScriptedFault {
    ScriptedFault {
        kind,
        path_contains: path.into(),
        skip,
        times,
        fault,
    }
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn scripted_faults_strike_the_chosen_operations_and_are_counted() {
    let world = world(1);
    world.add_fault(script(OpKind::Write, "/a", 1, 1, Fault::Eio));
    world.add_fault(script(OpKind::Read, "/a", 0, 1, Fault::Eio));
    world.add_fault(script(OpKind::Rename, "", 0, 1, Fault::Eio));
    world.add_fault(script(OpKind::Fallocate, "", 0, 1, Fault::NoSpace));
    run(&world, |rt| async move {
        let (a, b) = (
            durable_file(&rt, "/a", 1, 1).await,
            durable_file(&rt, "/b", 1, 1).await,
        );
        assert_eq!(
            errno(a.write_at(blocks(&rt, 2, 1), 0, false).await),
            libc::EIO
        );
        b.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
        a.write_at(blocks(&rt, 3, 1), 0, false).await.unwrap();
        assert_eq!(
            errno(a.read_at(rt.pool().get(4096), 0, 4096).await.0),
            libc::EIO
        );
        assert_eq!(errno(rt.rename("/a", "/c").await), libc::EIO);
        assert_eq!(
            errno(a.fallocate(FallocateMode::Extend, 0, 100).await),
            libc::ENOSPC
        );
        a.fallocate(FallocateMode::Extend, 0, 100).await.unwrap();
        assert!(rt.stat("/a").await.is_ok());
    });
    let faults = world.faults();
    assert_eq!(
        (
            faults.eio_writes,
            faults.eio_reads,
            faults.eio_others,
            faults.no_space
        ),
        (1, 1, 1, 1)
    );
}

#[test]
fn a_failed_write_may_have_reached_the_file_in_part() {
    let news: BTreeSet<usize> = (0..64)
        .map(|seed| {
            let world = world(seed);
            world.add_fault(script(OpKind::Write, "", 1, 1, Fault::Eio));
            run(&world, |rt| async move {
                let file = durable_file(&rt, "/f", 1, 2).await;
                assert_eq!(
                    errno(file.write_at(blocks(&rt, 2, 2), 0, true).await),
                    libc::EIO
                );
                sectors(&read_all(&rt, "/f").await)
                    .into_iter()
                    .filter(|byte| *byte == 2)
                    .count()
            })
        })
        .collect();
    assert!(
        news.contains(&0) && news.contains(&16) && news.len() > 3,
        "{news:?}"
    );
}

#[test]
fn after_a_failed_flush_a_later_flush_does_not_cover_what_it_should_have() {
    let mut lost = 0;
    for seed in 0..64 {
        let world = world(seed);
        world.add_fault(script(OpKind::Flush, "", 1, 1, Fault::Eio));
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 2).await;
            file.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
            assert_eq!(errno(file.fdatasync().await), libc::EIO);
            file.write_at(blocks(&rt, 3, 1), BLOCK, false)
                .await
                .unwrap();
            file.fdatasync().await.unwrap();
        });
        let got = sectors(&world.file_bytes("/f").unwrap());
        assert_eq!(got[8..], [3; 8], "writes after the failure are covered");
        lost += u32::from(got[..8] != [2; 8]);
    }
    assert!(lost > 8, "{lost}");
}

#[test]
fn a_full_file_system_answers_enospc_and_goes_on_when_space_returns() {
    let world = SimWorld::new(
        1,
        SimConfig {
            capacity_bytes: 8 * BLOCK,
            ..SimConfig::default()
        },
    );
    run(&world, |rt| {
        let world = world.clone();
        async move {
            let file = durable_file(&rt, "/f", 1, 4).await;
            let other = durable_file(&rt, "/g", 0, 0).await;
            assert_eq!(rt.statfs("/").await.unwrap().free_bytes, 4 * BLOCK);
            assert_eq!(
                errno(other.fallocate(FallocateMode::Extend, 0, 5 * BLOCK).await),
                libc::ENOSPC
            );
            assert_eq!(
                other.stat().await.unwrap().len,
                0,
                "a refused fallocate does nothing"
            );
            other
                .fallocate(FallocateMode::KeepSize, 0, 3 * BLOCK)
                .await
                .unwrap();
            file.write_at(blocks(&rt, 2, 4), 0, false).await.unwrap(); // overwriting needs nothing
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs: blocks(&rt, 2, 2),
                offset: 4 * BLOCK,
                dsync: false,
            };
            let (_, short) = rt.submit(op).await;
            assert!(
                matches!(short, Ok(corelog_runtime::Output::Len(4096))),
                "what has room is written"
            );
            assert_eq!(
                errno(file.write_at(blocks(&rt, 2, 1), 5 * BLOCK, false).await),
                libc::ENOSPC
            );
            other.write_at(blocks(&rt, 2, 3), 0, false).await.unwrap(); // allocated before
            file.ftruncate(BLOCK).await.unwrap();
            assert_eq!(world.used_bytes(), 4 * BLOCK);
            file.write_at(blocks(&rt, 2, 1), 5 * BLOCK, false)
                .await
                .unwrap();
            world.set_capacity(0);
            assert_eq!(
                errno(file.write_at(blocks(&rt, 2, 1), 9 * BLOCK, false).await),
                libc::ENOSPC
            );
        }
    });
    assert!(world.faults().no_space >= 4);
}

#[test]
fn short_writes_and_reads_move_whole_sectors_of_direct_files() {
    let faults = FaultPlan {
        short_write_ppm: 300_000,
        short_read_ppm: 300_000,
        slow_ppm: 50_000,
        ..FaultPlan::default()
    };
    let (mut writes, mut reads, mut slow) = (0, 0, 0);
    for seed in 0..64 {
        let world = SimWorld::new(
            seed,
            SimConfig {
                faults,
                ..SimConfig::default()
            },
        );
        run(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs: blocks(&rt, 7, 8),
                offset: 0,
                dsync: false,
            };
            let (_, result) = rt.submit(op).await;
            let Ok(corelog_runtime::Output::Len(written)) = result else {
                panic!()
            };
            assert!(written > 0 && written % 512 == 0);
            assert_eq!(file.stat().await.unwrap().len, written as u64);
            let op = Op::ReadAt {
                file: file.handle().clone(),
                buf: rt.pool().get(65536),
                offset: 0,
                len: 65536,
            };
            let (op, result) = rt.submit(op).await;
            let (Op::ReadAt { mut buf, .. }, Ok(corelog_runtime::Output::Len(read))) = (op, result)
            else {
                panic!()
            };
            assert!(
                read > 0
                    && read <= written
                    && buf.as_mut_slice()[..read].iter().all(|byte| *byte == 7)
            );
        });
        writes += world.faults().short_writes;
        reads += world.faults().short_reads;
        slow += world.faults().slow;
    }
    assert!(
        writes > 4 && reads > 4 && slow > 4,
        "{writes} {reads} {slow}"
    );
}

/// Several short reads in a row are not taken for the end of the file; its end is.
#[test]
fn reads_are_whole_however_often_they_are_cut_short() {
    let faults = FaultPlan {
        short_read_ppm: 300_000,
        ..FaultPlan::default()
    };
    let mut shorts = 0;
    for seed in 0..400 {
        let config = SimConfig {
            faults,
            ..SimConfig::default()
        };
        let world = SimWorld::new(seed, config);
        run(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            file.write_at(blocks(&rt, 7, 8), 0, false).await.unwrap();
            let whole = 8 * 4096;
            let (read, mut buf) = file.read_at(rt.pool().get(whole), 0, whole).await;
            assert_eq!(read.unwrap(), whole, "seed {seed}");
            assert!(buf.as_mut_slice()[..whole].iter().all(|byte| *byte == 7));
            file.ftruncate(20_001).await.unwrap();
            let (read, _) = file.read_at(rt.pool().get(whole), 0, whole).await;
            assert_eq!(read.unwrap(), 20_001, "seed {seed}");
        });
        shorts += world.faults().short_reads;
    }
    assert!(shorts > 200, "{shorts}");
}

#[test]
fn direct_io_refuses_what_is_not_aligned() {
    let world = world(1);
    run(&world, |rt| async move {
        let file = durable_file(&rt, "/f", 1, 2).await;
        assert_eq!(
            errno(file.write_at(blocks(&rt, 2, 1), 512, false).await),
            libc::EINVAL
        );
        let odd = blocks(&rt, 2, 1)[0].slice(..512);
        assert_eq!(
            errno(file.write_at(vec![odd], 0, false).await),
            libc::EINVAL
        );
        let shifted = blocks(&rt, 2, 2)[0].slice(512..512 + 4096);
        assert_eq!(
            errno(file.write_at(vec![shifted], 0, false).await),
            libc::EINVAL
        );
        assert_eq!(
            errno(file.read_at(rt.pool().get(4096), 512, 4096).await.0),
            libc::EINVAL
        );
        assert_eq!(
            errno(file.read_at(rt.pool().get(4096), 0, 100).await.0),
            libc::EINVAL
        );
        assert_eq!(file.stat().await.unwrap().dio_offset_align, 4096);
        let loose = rt.open("/f", buffered()).await.unwrap();
        loose
            .write_at(vec![vec![9; 3].into()], 4094, false)
            .await
            .unwrap();
        let got = read_all(&rt, "/f").await;
        assert_eq!(&got[4092..4099], [1, 1, 9, 9, 9, 1, 1]);
    });
    assert_eq!(world.faults().misaligned, 5);
    let refusing = SimWorld::new(
        1,
        SimConfig {
            dio_align_bytes: 0,
            write_zeroes: false,
            ..SimConfig::default()
        },
    );
    run(&refusing, |rt| async move {
        assert_eq!(
            errno(rt.open("/f", direct()).await.map(|_| ())),
            libc::EINVAL
        );
        let file = rt.open("/f", buffered()).await.unwrap();
        assert_eq!(
            errno(file.fallocate(FallocateMode::WriteZeroes, 0, 4096).await),
            libc::EOPNOTSUPP
        );
    });
}

#[test]
fn completions_come_in_any_order() {
    let orders: BTreeSet<Vec<u64>> = (0..32)
        .map(|seed| {
            let world = world(seed);
            run(&world, |rt| async move {
                let file = rt.open("/f", direct()).await.unwrap();
                let order = Rc::new(RefCell::new(Vec::new()));
                let mut tasks = Vec::new();
                for block in 0..4u64 {
                    let (file, order, bufs) = (file.clone(), order.clone(), blocks(&rt, 1, 1));
                    tasks.push(rt.spawn("write", async move {
                        file.write_at(bufs, block * BLOCK, false).await.unwrap();
                        order.borrow_mut().push(block);
                    }));
                }
                for task in tasks {
                    task.await.unwrap();
                }
                order.take()
            })
        })
        .collect();
    assert!(orders.len() > 12, "{}", orders.len());
}

#[test]
fn errors_are_those_of_the_kernel() {
    let world = world(1);
    run(&world, |rt| async move {
        rt.mkdir("/d").await.unwrap();
        let file = durable_file(&rt, "/d/f", 1, 1).await;
        let exclusive = OpenOptions {
            create_new: true,
            ..buffered()
        };
        let read_only = OpenOptions {
            read: true,
            ..OpenOptions::default()
        };
        assert_eq!(
            errno(rt.open("/d/f", exclusive).await.map(|_| ())),
            libc::EEXIST
        );
        assert_eq!(
            errno(rt.open("/no", read_only).await.map(|_| ())),
            libc::ENOENT
        );
        assert_eq!(
            errno(rt.open("/no/f", buffered()).await.map(|_| ())),
            libc::ENOENT
        );
        assert_eq!(
            errno(rt.open("/d/f/x", buffered()).await.map(|_| ())),
            libc::ENOTDIR
        );
        assert_eq!(
            errno(rt.open("/d", buffered()).await.map(|_| ())),
            libc::EISDIR
        );
        assert_eq!(errno(rt.mkdir("/d").await), libc::EEXIST);
        assert_eq!(errno(rt.rmdir("/d").await), libc::ENOTEMPTY);
        assert_eq!(errno(rt.rmdir("/d/f").await), libc::ENOTDIR);
        assert_eq!(errno(rt.unlink("/d").await), libc::EISDIR);
        assert_eq!(errno(rt.unlink("/d/g").await), libc::ENOENT);
        assert_eq!(errno(rt.rename("/d", "/d/e").await), libc::EINVAL);
        assert_eq!(errno(rt.rename("/d/f", "/d").await), libc::EISDIR);
        assert_eq!(errno(rt.read_dir("/d/f").await), libc::ENOTDIR);
        let reader = rt.open("/d/f", read_only).await.unwrap();
        assert_eq!(
            errno(reader.write_at(vec![vec![1].into()], 0, false).await),
            libc::EBADF
        );
        assert_eq!(errno(reader.ftruncate(0).await), libc::EBADF);
        assert_eq!(
            errno(file.fallocate(FallocateMode::Extend, u64::MAX, 2).await),
            libc::EFBIG
        );
        let names: Vec<String> = rt
            .read_dir("/")
            .await
            .unwrap()
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, ["d"]);
        rt.unlink("/d/f").await.unwrap();
        rt.rmdir("/d").await.unwrap();
    });
    assert!(world.paths().is_empty());
}

#[test]
fn the_clock_moves_only_with_turns_and_operations() {
    let world = world(1);
    let before = world.now_ns();
    assert_eq!(world.now_ns(), before);
    run(&world, |rt| {
        let world = world.clone();
        async move {
            let (start, wall) = (rt.now(), rt.wall_clock_ms());
            rt.sleep(Duration::from_secs(3600)).await;
            let slept = rt.now() - start;
            assert!(slept >= Duration::from_secs(3600) && slept < Duration::from_secs(3601));
            assert!((3_600_000..3_601_000).contains(&(rt.wall_clock_ms() - wall)));
            let (now, wall) = (world.now_ns(), rt.wall_clock_ms());
            world.step_wall_clock(-10_000);
            assert_eq!((world.now_ns(), rt.wall_clock_ms()), (now, wall - 10_000));
            assert_eq!(rt.blocking(|| 41 + 1).await, 42, "in place");
            let file = rt.open("/f", direct()).await.unwrap();
            let before = rt.wall_clock_ms();
            let written = file.write_at(blocks(&rt, 1, 1), 0, false).await;
            written.unwrap();
            let written = before..=rt.wall_clock_ms();
            world.step_wall_clock(10_000);
            assert!(written.contains(&file.stat().await.unwrap().modified_ms));
        }
    });
}

/// A bit of everything, with faults, a kill and a second process.
fn busy(seed: u64) -> (u64, u64) {
    let faults = FaultPlan {
        short_write_ppm: 100_000,
        slow_ppm: 50_000,
        eio_read_ppm: 20_000,
        ..FaultPlan::default()
    };
    let world = SimWorld::new(
        seed,
        SimConfig {
            faults,
            ..SimConfig::default()
        },
    );
    let main = |rt: corelog_runtime::Rt| async move {
        let file = rt.open("/f", direct()).await.unwrap();
        for round in 0..20u64 {
            let (byte, at) = (rt.random_u64() as u8, rt.random_u64() % 8);
            let write = file.write_at(blocks(&rt, byte, 2), at * BLOCK, round % 4 == 0);
            let _ = both(write, file.read_at(rt.pool().get(8192), 0, 8192)).await;
            let _ = both(file.fdatasync(), rt.write_atomic("/g", vec![byte; 100])).await;
        }
    };
    run_then_kill(&world, main);
    run_then_power_loss(&world, main);
    (
        world.trace_hash(),
        world
            .file_bytes("/f")
            .unwrap()
            .iter()
            .map(|byte| u64::from(*byte))
            .sum(),
    )
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let traces: BTreeSet<(u64, u64)> = (0..16).map(busy).collect();
    assert_eq!(traces, (0..16).map(busy).collect());
    assert_eq!(
        traces
            .iter()
            .map(|trace| trace.0)
            .collect::<BTreeSet<u64>>()
            .len(),
        16
    );
}

#[test]
fn a_planned_crash_changes_nothing_before_it() {
    let main = |rt: corelog_runtime::Rt| async move {
        let file = rt.open("/f", direct()).await.unwrap();
        for byte in 0..10 {
            file.write_at(blocks(&rt, byte, 1), 0, false).await.unwrap();
        }
        rt.now()
    };
    let end = |crash_at| {
        let world = SimWorld::new(
            5,
            SimConfig {
                crash_at,
                ..SimConfig::default()
            },
        );
        (
            corelog_runtime::sim::run_until_crash(&world, main),
            world.trace_hash(),
        )
    };
    assert_eq!(end(None), end(Some(12)), "11 changes: open and ten writes");
    assert!(end(Some(11)).0.is_none());
}

#[test]
fn a_cancelled_operation_still_completes() {
    let (mut cancelled, mut done) = (0, 0);
    for seed in 0..64 {
        let world = world(seed);
        run(&world, |rt| async move {
            drop(rt.submit(Op::Mkdir {
                path: "/queued".into(),
            }));
            let started = rt.submit(Op::Mkdir {
                path: "/started".into(),
            });
            rt.sleep(Duration::from_nanos(1)).await;
            drop(started);
            rt.drain().await;
            assert_eq!(rt.counters().ops_in_flight, 0);
        });
        let paths = world.paths();
        assert!(!paths.contains(&"/queued/".into()), "it had not begun");
        done += u32::from(paths.contains(&"/started/".into()));
        cancelled += world.faults().cancelled;
    }
    assert!(cancelled > 64 && done > 8, "{cancelled} {done}");
}

#[test]
fn the_page_cache_knows_what_buffered_reads_brought() {
    let world = world(1);
    let file = run(&world, |rt| async move {
        durable_file(&rt, "/f", 1, 64).await.handle().clone()
    });
    let mut driver = SimDriver::new(&world, 9);
    assert!(
        matches!(driver.is_cached(&file, 0, 1000), Ok(Cached::MissingAt(0))),
        "direct I/O leaves it alone"
    );
    let mut completions = Vec::new();
    driver.submit(Op::Open {
        path: "/f".into(),
        options: buffered(),
    });
    driver.turn(None, &mut completions);
    let Some(Ok(corelog_runtime::Output::File(file))) = completions.pop().map(|c| c.result) else {
        panic!()
    };
    let read = |offset| Op::ReadAt {
        file: file.clone(),
        buf: corelog_runtime::BufferPool::new(0).get(4096),
        offset,
        len: 1,
    };
    let (mut all, mut missing) = (0, 0);
    for _ in 0..200 {
        match driver.is_cached(&file, 100, 100_000).unwrap() {
            Cached::All => all += 1,
            Cached::MissingAt(at) => {
                assert!([100, 65_536].contains(&at));
                missing += 1;
                driver.submit(read(at));
                driver.turn(None, &mut completions);
            }
        }
    }
    assert!(all > 100 && missing > 2, "{all} {missing}");
}

#[test]
fn advice_touches_the_page_cache_alone() {
    let world = world(1);
    run(&world, |rt| async move {
        drop(durable_file(&rt, "/f", 1, 64).await);
        let file = rt.open("/f", buffered()).await.unwrap();
        let fill = async || {
            for _ in 0..64 {
                file.fadvise(Advice::WillNeed, 0, 0).await.unwrap();
                if rt.is_cached(file.handle(), 0, 262_144).unwrap() == Cached::All {
                    return;
                }
            }
            panic!("pages never came");
        };
        fill().await;
        file.fadvise(Advice::Random, 0, 0).await.unwrap();
        file.fadvise(Advice::Normal, 0, 0).await.unwrap();
        // Only windows that lie wholly in the range go: not the first, not the last.
        fill().await;
        file.fadvise(Advice::DontNeed, 1, 262_142).await.unwrap();
        let probe = rt.is_cached(file.handle(), 70_000, 1).unwrap();
        assert_eq!(probe, Cached::MissingAt(70_000));
        fill().await;
        file.fadvise(Advice::DontNeed, 0, 0).await.unwrap();
        let probe = rt.is_cached(file.handle(), 0, 1).unwrap();
        assert_eq!(probe, Cached::MissingAt(0));
        let error = file.fadvise(Advice::DontNeed, u64::MAX, 1).await;
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    });
    assert!(world.op_count(OpKind::Advise) >= 8);
    assert!(
        world
            .file_bytes("/f")
            .unwrap()
            .iter()
            .all(|&byte| byte == 1)
    );
}

#[test]
fn damage_is_visible_and_durable() {
    let world = world(1);
    run(&world, |rt| async move {
        drop(durable_file(&rt, "/f", 1, 1).await)
    });
    world.damage("/f", 4090, &[5; 20]).unwrap();
    world.power_loss();
    let got = world.file_bytes("/f").unwrap();
    assert_eq!(
        (got.len(), &got[4088..]),
        (4096, &[1, 1, 5, 5, 5, 5, 5, 5][..])
    );
    assert!(world.damage("/none", 0, &[1]).is_err());
}

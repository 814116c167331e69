//! The simulated disk's contract: what power loss takes (docs/SIMULATED_DISK.md).

mod sim_support;

use std::collections::BTreeSet;

use corelog_runtime::sim::{CrashMoment, Device, SimConfig, SimWorld, run_until_crash};
use corelog_runtime::{FallocateMode, Op, OpenOptions};
use sim_support::*;

#[test]
fn unflushed_sectors_survive_or_not_by_seed_and_are_never_mixed() {
    let (mut none, mut all, mut some) = (0, 0, 0);
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 4).await;
            file.write_at(blocks(&rt, 2, 4), 0, false).await.unwrap();
            assert_eq!(
                sectors(&read_all(&rt, "/f").await),
                [2; 32],
                "visible at once"
            );
        });
        let new = sectors(&world.file_bytes("/f").unwrap())
            .into_iter()
            .filter(|byte| *byte == 2)
            .count();
        match new {
            0 => none += 1,
            32 => all += 1,
            _ => some += 1,
        }
    }
    assert!(none > 3 && all > 3 && some > 3, "{none} {all} {some}");
}

#[test]
fn an_unflushed_rewrite_leaves_any_of_its_versions_per_sector() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 1).await;
            for byte in [2, 3] {
                file.write_at(blocks(&rt, byte, 1), 0, false).await.unwrap();
            }
        });
        seen.extend(sectors(&world.file_bytes("/f").unwrap()));
    }
    assert_eq!(seen, BTreeSet::from([1, 2, 3]));
}

#[test]
fn fdatasync_keeps_what_completed_before_its_submission_whatever_follows() {
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 2).await;
            file.write_at(blocks(&rt, 2, 2), 0, false).await.unwrap();
            file.fdatasync().await.unwrap();
            file.write_at(blocks(&rt, 3, 1), 0, false).await.unwrap();
        });
        let got = sectors(&world.file_bytes("/f").unwrap());
        assert!(
            got[..8].iter().all(|byte| [2, 3].contains(byte)) && got[8..] == [2; 8],
            "{got:?}"
        );
    }
}

#[test]
fn fdatasync_does_not_cover_a_write_in_flight_at_its_submission() {
    let mut lost = 0;
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 1).await;
            let (write, flush) =
                both(file.write_at(blocks(&rt, 2, 1), 0, false), file.fdatasync()).await;
            write.and(flush).unwrap();
        });
        lost += u32::from(sectors(&world.file_bytes("/f").unwrap()) != [2; 8]);
    }
    assert!(lost > 8, "{lost}");
}

#[test]
fn fdatasync_covers_its_own_file_only() {
    let mut lost = 0;
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let (a, b) = (
                durable_file(&rt, "/a", 1, 1).await,
                durable_file(&rt, "/b", 1, 1).await,
            );
            a.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
            b.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
            b.fdatasync().await.unwrap();
        });
        assert_eq!(sectors(&world.file_bytes("/b").unwrap()), [2; 8]);
        lost += u32::from(sectors(&world.file_bytes("/a").unwrap()) != [2; 8]);
    }
    assert!(lost > 8, "{lost}");
}

/// Block 0 written plainly, block 1 with RWF_DSYNC: how often block 0 was lost.
fn neighbours_lost(device: Device) -> u32 {
    let mut lost = 0;
    for seed in 0..64 {
        let world = SimWorld::new(
            seed,
            SimConfig {
                device,
                ..SimConfig::default()
            },
        );
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 1).await;
            file.write_at(blocks(&rt, 2, 1), 0, false).await.unwrap();
            file.write_at(blocks(&rt, 3, 1), BLOCK, true).await.unwrap();
        });
        let got = sectors(&world.file_bytes("/f").unwrap());
        assert_eq!(got[8..], [3; 8], "own bytes and the size that shows them");
        lost += u32::from(got[..8] != [2; 8]);
    }
    lost
}

#[test]
fn on_a_fua_device_a_dsync_write_makes_only_its_own_bytes_durable() {
    assert!(neighbours_lost(Device::Fua) > 8);
}

#[test]
fn on_a_flush_only_device_a_dsync_write_flushes_the_whole_device_cache() {
    assert_eq!(neighbours_lost(Device::FlushOnly), 0);
}

#[test]
fn a_flush_of_the_device_cache_leaves_the_sizes_of_other_files_volatile() {
    let (mut undone, mut done) = (0, 0);
    for seed in 0..64 {
        let world = SimWorld::new(
            seed,
            SimConfig {
                device: Device::FlushOnly,
                ..SimConfig::default()
            },
        );
        run_then_power_loss(&world, |rt| async move {
            let (cut, other) = (
                durable_file(&rt, "/cut", 1, 2).await,
                durable_file(&rt, "/other", 1, 1).await,
            );
            cut.ftruncate(512).await.unwrap();
            other.write_at(blocks(&rt, 2, 1), 0, true).await.unwrap();
        });
        match sectors(&world.file_bytes("/cut").unwrap()) {
            all if all == [1; 16] => undone += 1,
            rest => {
                assert_eq!(rest, [1]);
                done += 1;
            }
        }
    }
    assert!(undone > 8 && done > 8, "{undone} {done}");
}

#[test]
fn sizes_are_lost_without_flush_and_kept_with_it() {
    let mut sizes = BTreeSet::new();
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 1).await;
            file.write_at(blocks(&rt, 2, 1), BLOCK, false)
                .await
                .unwrap();
            file.fdatasync().await.unwrap();
            file.fallocate(FallocateMode::Extend, 0, 4 * BLOCK)
                .await
                .unwrap();
            file.write_at(blocks(&rt, 3, 1), 4 * BLOCK, false)
                .await
                .unwrap();
        });
        let got = world.file_bytes("/f").unwrap();
        assert_eq!(
            sectors(&got[..2 * BLOCK as usize]),
            [[1; 8], [2; 8]].concat()
        );
        assert!(
            got.len() < 3 * BLOCK as usize || sectors(&got)[16..32] == [0; 16],
            "allocated reads as zeros"
        );
        sizes.insert(got.len() as u64 / BLOCK);
    }
    assert_eq!(sizes, BTreeSet::from([2, 4, 5]));
}

#[test]
fn a_truncation_is_undone_or_done_whole_and_never_uncovers_old_bytes() {
    let (mut undone, mut done) = (0, 0);
    for seed in 0..128 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 4).await;
            file.ftruncate(BLOCK).await.unwrap();
            file.ftruncate(3 * BLOCK).await.unwrap();
            assert_eq!(sectors(&read_all(&rt, "/f").await)[8..], [0; 16]);
            file.write_at(blocks(&rt, 2, 1), BLOCK, false)
                .await
                .unwrap();
        });
        let got = sectors(&world.file_bytes("/f").unwrap());
        match got.len() {
            32 => {
                assert_eq!(got, [1; 32]);
                undone += 1;
            }
            8 => assert_eq!(got, [1; 8]),
            24 => {
                assert_eq!((&got[..8], &got[16..]), (&[1; 8][..], &[0; 8][..]));
                assert!(
                    got[8..16].iter().all(|byte| [0, 2].contains(byte)),
                    "{got:?}"
                );
                done += 1;
            }
            other => panic!("{other} sectors"),
        }
    }
    assert!(undone > 8 && done > 8, "{undone} {done}");
}

#[test]
fn a_truncation_is_durable_after_fdatasync() {
    for seed in 0..32 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 4).await;
            file.ftruncate(700).await.unwrap();
            file.fdatasync().await.unwrap();
            file.ftruncate(2 * BLOCK).await.unwrap();
        });
        let got = world.file_bytes("/f").unwrap();
        assert!([700, 2 * BLOCK as usize].contains(&got.len()));
        assert!(
            got[..700].iter().all(|byte| *byte == 1) && got[700..].iter().all(|byte| *byte == 0)
        );
    }
}

#[test]
fn names_need_the_directory_s_fsync_and_the_file_s_is_not_enough() {
    let (mut created, mut renamed, mut unlinked) = (0, 0, 0);
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            durable_file(&rt, "/old", 1, 1).await;
            durable_file(&rt, "/gone", 2, 1).await;
            let new = rt.open("/new", direct()).await.unwrap();
            new.write_at(blocks(&rt, 3, 1), 0, true).await.unwrap();
            new.fdatasync().await.unwrap();
            rt.rename("/old", "/renamed").await.unwrap();
            rt.unlink("/gone").await.unwrap();
        });
        let paths = world.paths();
        let has = |path: &str| paths.iter().any(|p| p == path);
        assert!(
            has("/old") != has("/renamed"),
            "a rename is atomic: {paths:?}"
        );
        let moved = world
            .file_bytes("/old")
            .or(world.file_bytes("/renamed"))
            .unwrap();
        assert_eq!(sectors(&moved), [1; 8]);
        if has("/new") {
            assert_eq!(
                sectors(&world.file_bytes("/new").unwrap()),
                [3; 8],
                "flushed bytes are there if the name is"
            );
        }
        created += u32::from(has("/new"));
        renamed += u32::from(has("/renamed"));
        unlinked += u32::from(!has("/gone"));
    }
    for count in [created, renamed, unlinked] {
        assert!((8..56).contains(&count), "{created} {renamed} {unlinked}");
    }
}

#[test]
fn names_are_durable_after_the_directory_s_fsync() {
    for seed in 0..32 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            rt.mkdir("/d").await.unwrap();
            rt.sync_dir("/").await.unwrap();
            for name in ["/d/a", "/d/b", "/d/c"] {
                rt.open(name, buffered()).await.unwrap();
            }
            rt.rename("/d/a", "/d/b").await.unwrap();
            rt.unlink("/d/c").await.unwrap();
            rt.sync_dir("/d").await.unwrap();
        });
        assert_eq!(world.paths(), ["/d/", "/d/b"]);
    }
}

#[test]
fn a_directory_s_fsync_does_not_cover_a_change_in_flight_at_its_submission() {
    let mut lost = 0;
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            let (made, synced) = both(rt.mkdir("/d"), rt.sync_dir("/")).await;
            made.and(synced).unwrap();
        });
        lost += u32::from(world.paths().is_empty());
    }
    assert!(lost > 8, "{lost}");
}

#[test]
fn no_name_gets_lost_when_it_is_given_to_another_file() {
    let (mut first, mut both_there) = (0, 0);
    for seed in 0..64 {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            durable_file(&rt, "/a", 1, 1).await;
            rt.rename("/a", "/b").await.unwrap();
            let second = rt.open("/a", direct()).await.unwrap();
            second.write_at(blocks(&rt, 2, 1), 0, true).await.unwrap();
        });
        let found = [world.file_bytes("/a"), world.file_bytes("/b")]
            .map(|bytes| bytes.map(|bytes| bytes[0]));
        assert!(
            [[Some(1), None], [None, Some(1)], [Some(2), Some(1)]].contains(&found),
            "{found:?}"
        );
        first += u32::from(found[1].is_none());
        both_there += u32::from(found[0] == Some(2));
    }
    assert!(first > 8 && both_there > 4, "{first} {both_there}");
}

#[test]
fn changes_of_one_name_survive_in_their_order_and_ordered_names_keep_a_prefix() {
    let mut gaps = [0, 0];
    for (index, ordered_names) in [false, true].into_iter().enumerate() {
        for seed in 0..64 {
            let world = SimWorld::new(
                seed,
                SimConfig {
                    ordered_names,
                    ..SimConfig::default()
                },
            );
            run_then_power_loss(&world, |rt| async move {
                for name in ["/a", "/b", "/c"] {
                    let temporary = format!("{name}.tmp");
                    rt.open(&temporary, buffered()).await.unwrap();
                    rt.rename(&temporary, name).await.unwrap();
                }
            });
            let paths = world.paths();
            let finished = ["/a", "/b", "/c"].map(|name| paths.iter().any(|path| path == name));
            gaps[index] += u32::from(finished.windows(2).any(|pair| !pair[0] && pair[1]));
        }
    }
    assert!(gaps[0] > 4 && gaps[1] == 0, "{gaps:?}");
}

#[test]
fn writes_in_flight_at_power_loss_reached_the_disk_in_part_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let world = world(seed);
        let cut = world.clone();
        run_until_crash(&world, |rt| async move {
            let file = durable_file(&rt, "/f", 1, 2).await;
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs: blocks(&rt, 2, 2),
                offset: 0,
                dsync: false,
            };
            let write = rt.submit(op);
            rt.sleep(std::time::Duration::from_nanos(1)).await;
            cut.power_loss();
            write.await
        });
        let new = sectors(&world.file_bytes("/f").unwrap())
            .into_iter()
            .filter(|byte| *byte == 2)
            .count();
        seen.insert(new.clamp(0, 16) == 16 || new == 0);
    }
    assert_eq!(seen.len(), 2, "whole or none, and in part");
}

#[test]
fn a_planned_crash_strikes_before_in_or_after_its_change_of_the_disk() {
    for moment in [CrashMoment::Before, CrashMoment::In, CrashMoment::After] {
        let (mut none, mut some, mut all) = (0, 0, 0);
        for seed in 0..48 {
            let config = SimConfig {
                crash_at: Some(5),
                crash_moment: Some(moment),
                ..SimConfig::default()
            };
            let world = SimWorld::new(seed, config);
            let out = run_until_crash(&world, |rt| async move {
                let file = durable_file(&rt, "/f", 1, 1).await; // open, write, fdatasync, sync_dir: 4
                file.write_at(blocks(&rt, 2, 1), 0, true).await.unwrap();
            });
            assert!(
                out.is_none() && world.write_count() == 5,
                "the fifth was never answered"
            );
            match sectors(&world.file_bytes("/f").unwrap())
                .iter()
                .filter(|byte| **byte == 2)
                .count()
            {
                0 => none += 1,
                8 => all += 1,
                _ => some += 1,
            }
        }
        match moment {
            CrashMoment::Before => assert_eq!((none, some, all), (48, 0, 0)),
            CrashMoment::In => assert!(some > 24, "{none} {some} {all}"),
            CrashMoment::After => assert_eq!(
                (none, some, all),
                (0, 0, 48),
                "durable, but nobody was told"
            ),
        }
    }
}

#[test]
fn a_crash_at_every_change_leaves_write_atomic_old_or_new() {
    let plain = |rt: corelog_runtime::Rt| async move {
        rt.write_atomic("/conf", vec![1; 3000]).await.unwrap();
        rt.write_atomic("/conf", vec![2; 5000]).await.unwrap();
    };
    let dry = world(7);
    run(&dry, plain);
    let (mut old, mut new) = (0, 0);
    for at in 1..=dry.write_count() {
        for seed in 0..16 {
            let world = SimWorld::new(
                seed,
                SimConfig {
                    crash_at: Some(at),
                    ..SimConfig::default()
                },
            );
            assert!(run_until_crash(&world, plain).is_none());
            let got = run(
                &world,
                |rt| async move { rt.read_whole("/conf", 10_000).await },
            );
            match got {
                Ok(bytes) if bytes == vec![1; 3000] => old += 1,
                Ok(bytes) if bytes == vec![2; 5000] => new += 1,
                Ok(bytes) => panic!("{} bytes at {at}, seed {seed}", bytes.len()),
                Err(_) => assert!(at <= dry.write_count() / 2, "the first was durable"),
            }
        }
    }
    assert!(old > 8 && new > 8);
}

#[test]
fn a_careless_replacement_of_a_file_is_caught() {
    // The same without fdatasync before the rename: some seed must show the hole.
    let caught = (0..64).any(|seed| {
        let world = world(seed);
        run_then_power_loss(&world, |rt| async move {
            rt.write_atomic("/conf", vec![1; 3000]).await.unwrap();
            let options = OpenOptions {
                write: true,
                create: true,
                ..OpenOptions::default()
            };
            let file = rt.open("/conf.tmp", options).await.unwrap();
            file.write_at(vec![vec![2; 5000].into()], 0, false)
                .await
                .unwrap();
            rt.rename("/conf.tmp", "/conf").await.unwrap();
            rt.sync_dir("/").await.unwrap();
        });
        let got = world.file_bytes("/conf").unwrap();
        got != vec![1; 3000] && got != vec![2; 5000]
    });
    assert!(caught);
}

//! The simulated disk against two small models: what is visible, and what may be left.

mod sim_support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use corelog_runtime::sim::{
    CrashKind, FaultCounters, FaultPlan, SimConfig, SimWorld, run_until_crash,
};
use corelog_runtime::{FallocateMode, Rt};
use sim_support::*;

const BLOCKS: u64 = 16;
const STEPS: usize = 200;

/// What a sector may hold after power loss, and what a reader sees.
#[derive(Clone)]
struct Sector {
    seen: u8,
    allowed: BTreeSet<u8>,
}

/// One file of fixed size, kept as sectors.
type Model = Rc<RefCell<Vec<Sector>>>;

fn write(model: &Model, block: u64, count: u64, byte: u8, is_acknowledged: bool) {
    for sector in &mut model.borrow_mut()[(block * 8) as usize..((block + count) * 8) as usize] {
        sector.allowed.insert(byte);
        if is_acknowledged {
            sector.seen = byte;
        }
    }
}

fn flush(model: &Model, sectors: std::ops::Range<usize>) {
    for sector in &mut model.borrow_mut()[sectors] {
        sector.allowed = [sector.seen].into();
    }
}

/// 200 steps of a process that checks what it reads; what it did is in the model.
async fn steps(rt: Rt, model: Model) {
    let file = rt.open("/f", direct()).await.unwrap();
    file.fallocate(FallocateMode::Extend, 0, BLOCKS * BLOCK)
        .await
        .unwrap();
    file.fdatasync().await.unwrap();
    rt.sync_dir("/").await.unwrap();
    *model.borrow_mut() = vec![
        Sector {
            seen: 0,
            allowed: [0].into()
        };
        (BLOCKS * 8) as usize
    ];
    for step in 0..STEPS {
        let chance = rt.random_u64();
        let (block, count) = (chance % BLOCKS, 1 + (chance >> 8) % 4);
        let (count, byte) = (count.min(BLOCKS - block), (step % 250) as u8 + 1);
        match (chance >> 16) % 8 {
            0..=3 => {
                let dsync = (chance >> 24).is_multiple_of(4);
                write(&model, block, count, byte, false);
                file.write_at(blocks(&rt, byte, count as usize), block * BLOCK, dsync)
                    .await
                    .unwrap();
                write(&model, block, count, byte, true);
                if dsync {
                    flush(&model, (block * 8) as usize..((block + count) * 8) as usize);
                }
            }
            4 => {
                file.fdatasync().await.unwrap();
                flush(&model, 0..(BLOCKS * 8) as usize);
            }
            5 => rt.write_atomic("/conf", vec![byte; 5000]).await.unwrap(),
            _ => {
                let len = (count * BLOCK) as usize;
                let (read, buf) = file.read_at(rt.pool().get(len), block * BLOCK, len).await;
                assert_eq!(read.unwrap(), len);
                let expected =
                    &model.borrow()[(block * 8) as usize..((block + count) * 8) as usize];
                assert_eq!(
                    sectors(&buf),
                    expected
                        .iter()
                        .map(|sector| sector.seen)
                        .collect::<Vec<u8>>()
                );
            }
        }
    }
}

fn check_survivors(world: &SimWorld, model: &Model, seed: u64) {
    let model = model.borrow();
    if model.is_empty() {
        return;
    }
    let got = sectors(&world.file_bytes("/f").unwrap());
    assert_eq!(got.len(), model.len(), "the size was durable, seed {seed}");
    for (index, (got, sector)) in got.iter().zip(model.iter()).enumerate() {
        assert!(
            sector.allowed.contains(got),
            "sector {index} holds {got}, not of {:?}, seed {seed}",
            sector.allowed
        );
    }
    if let Some(conf) = world.file_bytes("/conf") {
        assert!(conf.len() == 5000 && conf.iter().all(|byte| *byte == conf[0]));
    }
}

#[test]
fn power_loss_at_any_change_leaves_only_what_the_model_allows() {
    let mut faults = FaultCounters::default();
    for seed in 0..400 {
        let plan = FaultPlan {
            slow_ppm: 20_000,
            ..FaultPlan::default()
        };
        let config = SimConfig {
            crash_at: Some(1 + seed % 190),
            faults: plan,
            ..SimConfig::default()
        };
        let world = SimWorld::new(seed, config);
        let model = Model::default();
        if run_until_crash(&world, |rt| steps(rt, model.clone())).is_some() {
            world.power_loss();
        }
        check_survivors(&world, &model, seed);
        let met = world.faults();
        faults.sectors_kept += met.sectors_kept;
        faults.sectors_lost += met.sectors_lost;
        faults.names_lost += met.names_lost;
        faults.cut_writes += met.cut_writes;
    }
    let met = [
        faults.sectors_kept,
        faults.sectors_lost,
        faults.names_lost,
        faults.cut_writes,
    ];
    assert!(met.iter().all(|count| *count > 20), "{met:?}");
}

#[test]
fn kill_at_any_change_leaves_every_acknowledged_write() {
    for seed in 0..200 {
        let config = SimConfig {
            crash_at: Some(1 + seed % 190),
            crash_kind: CrashKind::KillProcess,
            ..SimConfig::default()
        };
        let world = SimWorld::new(seed, config);
        let model = Model::default();
        if run_until_crash(&world, |rt| steps(rt, model.clone())).is_some() {
            world.kill_process();
        }
        if model.borrow().is_empty() {
            continue;
        }
        let got = run(&world, |rt| async move {
            let file = rt.open("/f", direct()).await.unwrap();
            file.fallocate(FallocateMode::KeepSize, 0, 4096)
                .await
                .unwrap();
            read_all(&rt, "/f").await
        });
        // The one write in flight may be there, whole or in part.
        let unacknowledged: BTreeSet<u8> = sectors(&got)
            .into_iter()
            .zip(model.borrow().iter())
            .filter(|(got, sector)| *got != sector.seen && sector.allowed.contains(got))
            .map(|(got, _)| got)
            .collect();
        let wrong = sectors(&got)
            .into_iter()
            .zip(model.borrow().iter())
            .filter(|(got, s)| !s.allowed.contains(got))
            .count();
        assert!(
            unacknowledged.len() <= 1 && wrong == 0,
            "{unacknowledged:?} {wrong}, seed {seed}"
        );
    }
}

#[test]
fn the_contract_pages_name_every_test_and_no_other() {
    let page = concat!(
        include_str!("../../../docs/SIMULATED_DISK.md"),
        include_str!("../../../docs/SIMULATED_NETWORK.md"),
    );
    let sources = [
        include_str!("sim_net.rs"),
        include_str!("sim_sockets.rs"),
        include_str!("sim_power_loss.rs"),
        include_str!("sim_process.rs"),
        include_str!("sim_faults.rs"),
        include_str!("sim_model.rs"),
    ];
    let tests = |source: &'static str| {
        let after_attribute = source.split("#[test]\nfn ").skip(1);
        after_attribute.filter_map(|rest| rest.split('(').next())
    };
    let exist: BTreeSet<&str> = sources.into_iter().flat_map(tests).collect();
    let words = page.split('`').skip(1).step_by(2);
    let named: BTreeSet<&str> = words
        .filter_map(|word| word.strip_prefix("test:"))
        .collect();
    assert!(exist.len() > 40);
    assert_eq!(
        exist.difference(&named).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "not in the page"
    );
    assert_eq!(
        named.difference(&exist).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "no such test"
    );
}

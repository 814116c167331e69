//! kill -9 at bad moments: during a roll, a checkpoint, recovery, and with direct writes in flight.

use super::scene::{FAULT_LIMIT, Outcome, Scene, find, spec_on};
use crate::interop::Setting;
use crate::interop::freeze::Frozen;
use crate::interop::kill9::Chance;
use crate::interop::loop_device::{FileSystem, LoopDevice};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// Kills at most until enough of them met their moment.
const KILLS_MAX: u32 = 30;

fn hits_wanted(setting: &Setting) -> u32 {
    if setting.quick { 1 } else { 3 }
}

/// Kills at the sight of a file, again and again; a kill counts when the file is still there after it.
fn at_sight_of(
    setting: &Setting,
    mut scene: Scene<'_>,
    what: &str,
    is_it: &dyn Fn(&str) -> bool,
) -> Result<Outcome> {
    let (data, wanted) = (scene.spec.data.clone(), hits_wanted(setting));
    let (mut hits, mut kills) = (0, 0);
    while hits < wanted && kills < KILLS_MAX {
        let acked = scene.acked()?;
        scene.wait_for("load", |scene| Ok(scene.acked()? > acked + 200))?;
        let deadline = Instant::now() + FAULT_LIMIT;
        while find(&data, is_it).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        scene.kill()?;
        kills += 1;
        hits += u32::from(!find(&data, is_it).is_empty());
        scene.restart()?;
    }
    let told = format!("{hits} of {kills} kills came {what}");
    scene.end(if hits >= wanted { Ok(told) } else { Err(told) })
}

/// Between the making of the next segment's file and its roll, or while the old segment is sealed.
pub fn roll(setting: &Setting) -> Result<Outcome> {
    let spec = spec_on(setting, &setting.scratch.join("data"))?.set("log.segment.bytes=1048576");
    let scene = Scene::new(setting, spec, &[])?;
    at_sight_of(setting, scene, "during a roll", &|name| {
        name == "next.log.prepared"
    })
}

/// While index files, snapshots or the directory's checkpoints are written.
pub fn checkpoint(setting: &Setting) -> Result<Outcome> {
    let spec = spec_on(setting, &setting.scratch.join("data"))?
        .set("log.flush.offset.checkpoint.interval.ms=100")
        .set("replica.high.watermark.checkpoint.interval.ms=100");
    let scene = Scene::new(setting, spec, &[])?;
    at_sight_of(setting, scene, "during a checkpoint", &|name| {
        name.ends_with(".tmp")
    })
}

/// While retention deletes segments: their files have their new name and are not removed yet.
pub fn retention(setting: &Setting) -> Result<Outcome> {
    let spec = spec_on(setting, &setting.scratch.join("data"))?
        .set("log.retention.check.interval.ms=100")
        .set("log.flush.offset.checkpoint.interval.ms=500");
    let small = [
        "segment.bytes=1048576",
        "retention.bytes=2097152",
        "file.delete.delay.ms=300",
    ];
    let scene = Scene::new(setting, spec, &small)?;
    at_sight_of(
        setting,
        scene,
        "while retention deleted segments",
        &|name| name.ends_with(".deleted"),
    )
}

/// Recovery is killed before it is done, again and again.
pub fn recovery(setting: &Setting) -> Result<Outcome> {
    let spec = spec_on(setting, &setting.scratch.join("data"))?
        .set("log.flush.offset.checkpoint.interval.ms=3600000");
    let mut scene = Scene::new(setting, spec, &[])?;
    std::thread::sleep(Duration::from_secs(if setting.quick { 3 } else { 10 }));
    scene.kill()?;
    let (mut hits, mut kills, mut chance) = (0, 0, Chance::seeded());
    while hits < hits_wanted(setting) && kills < KILLS_MAX {
        scene.begin_restart()?;
        let begin = Instant::now();
        let says = |scene: &Scene<'_>, what: &str| {
            scene.broker.lines().iter().any(|line| line.contains(what))
        };
        while !says(&scene, "the last stop was not clean") && begin.elapsed() < FAULT_LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(chance.below(40)));
        let is_hit = says(&scene, "the last stop was not clean") && !says(&scene, "ready ");
        scene.kill()?;
        kills += 1;
        hits += u32::from(is_hit);
    }
    scene.restart()?;
    let recovered = scene
        .broker
        .lines()
        .iter()
        .filter(|line| line.contains("log recovered"))
        .count();
    let told = format!(
        "{hits} of {kills} kills came during recovery; the last start recovered {recovered} logs"
    );
    scene.end(if hits > 0 && recovered > 0 {
        Ok(told)
    } else {
        Err(told)
    })
}

/// Direct writes that the device has not finished when the broker is killed: its disk is a file on a file system that is
/// frozen meanwhile. They land after the thaw, while the next start recovers.
pub fn writes_in_flight(setting: &Setting) -> Result<Outcome> {
    let outer = LoopDevice::new(&setting.scratch, 2 << 30)?;
    let inner = outer.nested(1 << 30, FileSystem::Ext4)?;
    let outcome = killed_with_writes(setting, &outer, &inner);
    drop(inner);
    drop(outer);
    outcome
}

fn killed_with_writes(
    setting: &Setting,
    outer: &LoopDevice,
    inner: &LoopDevice,
) -> Result<Outcome> {
    let spec = spec_on(setting, &inner.mount.join("data"))?
        .set("replica.high.watermark.checkpoint.interval.ms=3600000")
        .set("log.flush.offset.checkpoint.interval.ms=3600000");
    let mut scene = Scene::new(setting, spec, &[])?;
    let frozen = Frozen::new(&outer.mount, &setting.scratch)?;
    let killed = wait_and_kill(&mut scene, inner);
    frozen.thaw()?;
    let in_flight = killed?;
    scene.restart()?;
    let told = format!("{in_flight} writes were in flight when the broker was gone");
    scene.end(if in_flight > 0 { Ok(told) } else { Err(told) })
}

fn wait_and_kill(scene: &mut Scene<'_>, inner: &LoopDevice) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while inner.writes_in_flight()? == 0 {
        ensure!(Instant::now() < deadline, "no write came to the device");
        std::thread::sleep(Duration::from_millis(1));
    }
    scene.kill()?;
    inner.writes_in_flight()
}

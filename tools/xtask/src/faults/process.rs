//! The process stops for half a minute; its wall clock goes back.

use super::scene::{Outcome, Scene, spec_on};
use crate::interop::Setting;
use anyhow::{Context, Result};
use std::time::Duration;

/// libfaketime, loaded into the one process: the kernel's time namespaces leave CLOCK_REALTIME alone.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
/// How far the clock goes back.
const BACK_SECONDS: u64 = 3_600;

/// SIGSTOP for 30 s (5 s with --quick), then SIGCONT.
pub fn stop(setting: &Setting) -> Result<Outcome> {
    let spec = spec_on(setting, &setting.scratch.join("data"))?.set("corelog.shards=2");
    let mut scene = Scene::new(setting, spec, &[])?;
    let stopped = Duration::from_secs(if setting.quick { 5 } else { 30 });
    scene.broker.signal(libc::SIGSTOP)?;
    // What was answered before may still be on its way.
    std::thread::sleep(Duration::from_secs(1));
    let before = scene.acked()?;
    std::thread::sleep(stopped);
    let meanwhile = scene.acked()? - before;
    scene.broker.signal(libc::SIGCONT)?;
    let hit = match meanwhile {
        0 => Ok(format!(
            "nothing was acknowledged for {} s",
            stopped.as_secs()
        )),
        count => Err(format!("{count} records were acknowledged meanwhile")),
    };
    scene.wait_for(
        "acknowledgements go on",
        |scene| Ok(scene.acked()? > before),
    )?;
    scene.end(hit)
}

/// The wall clock of the broker alone goes back an hour under load and returns; timestamps are the broker's.
pub fn clock_back(setting: &Setting) -> Result<Outcome> {
    let faketime = faketime()?;
    let offset = setting.scratch.join("clock");
    let set = |seconds: i64| std::fs::write(&offset, format!("{seconds:+}\n"));
    set(0)?;
    let mut spec = spec_on(setting, &setting.scratch.join("data"))?
        .set("log.flush.offset.checkpoint.interval.ms=1000")
        .set("log.roll.ms=60000");
    for (key, value) in [
        ("LD_PRELOAD", faketime),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ] {
        spec.env.push((key.to_owned(), value));
    }
    let mut scene = Scene::new(setting, spec, &["message.timestamp.type=LogAppendTime"])?;
    set(-(BACK_SECONDS as i64))?;
    let mut back_ms = 0;
    scene.wait_for("timestamps that go back", |scene| {
        back_ms = crate::process::number(&scene.ask("acked")?, "back_ms")?;
        Ok(back_ms > BACK_SECONDS * 900)
    })?;
    // Checkpoints and a restart while the clock is behind, then forward again.
    std::thread::sleep(Duration::from_secs(3));
    scene.kill()?;
    scene.restart()?;
    std::thread::sleep(Duration::from_secs(1));
    set(0)?;
    std::thread::sleep(Duration::from_secs(3));
    scene.end(Ok(format!(
        "the broker's timestamps went back {back_ms} ms (libfaketime)"
    )))
}

/// Where Debian put it.
fn faketime() -> Result<String> {
    let places = std::fs::read_dir("/usr/lib")?.flatten();
    let found = places
        .map(|place| place.path().join(FAKETIME))
        .find(|path| path.exists());
    let path = found.with_context(|| format!("no {FAKETIME}: run tools/interop/setup"))?;
    Ok(path.display().to_string())
}

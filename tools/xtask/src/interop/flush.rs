//! `flush`: the flush policy of a topic, switched while it is written, seen at the block device (R30).

use super::clients::CALL_LIMIT;
use super::loop_device::LoopDevice;
use super::subject::{Broker, Spec};
use super::{Setting, Suite};
use crate::process::{self, Dialogue, number};
use anyhow::Result;
use std::time::Duration;

const TOPIC: &str = "flushed";
const RECORDS: u64 = 10_000;
const PRODUCERS: u64 = 64;
const DISK_BYTES: u64 = 4 << 30;
const LIMIT: Duration = Duration::from_secs(300);
const IDLE_MS: u64 = 2_000;

struct Load<'a> {
    setting: &'a Setting,
    broker: &'a Broker,
    dialogue: Dialogue,
}

/// One line of the report.
struct Measured {
    acks: u64,
    device_flushes: u64,
    milliseconds: u64,
}

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let disk = LoopDevice::new(&setting.scratch, DISK_BYTES)?;
    let data = disk.mount.join("data");
    std::fs::create_dir_all(&data)?;
    let spec = Spec {
        log: setting.scratch.join("broker.log"),
        ..Spec::new(&data)
    };
    let broker = Broker::start(setting, &spec)?;
    setting
        .clients
        .create_topic(&setting.scratch, &broker.kafka, TOPIC, 1, &[])?;
    let mut helper = setting.clients.python("flush.py");
    helper.args([&broker.kafka, TOPIC, &disk.stat_file()?]);
    let dialogue = Dialogue::start(&mut helper, LIMIT)?;
    let mut load = Load {
        setting,
        broker: &broker,
        dialogue,
    };
    policies(&mut load, suite)?;
    load.dialogue.send("quit")?;
    drop(load);
    drop(broker);
    drop(disk);
    Ok(())
}

/// One producer that never stops; only the topic's configuration changes.
fn policies(load: &mut Load<'_>, suite: &mut Suite) -> Result<()> {
    load.dialogue.ask("start 1 1", LIMIT)?;
    let unset = load.measure("unset")?;
    suite.check(
        unset.device_flushes < 20,
        format!("unset: {} < 20 device flushes", unset.device_flushes),
    );

    load.switch(&["--add-config", "flush.messages=1"])?;
    let each = load.measure("flush.messages=1")?;
    let what = format!(
        "flush.messages=1: {} device flushes for {} acks",
        each.device_flushes, each.acks
    );
    suite.check(each.device_flushes >= each.acks, what);

    load.dialogue.ask("stop", LIMIT)?;
    load.dialogue.ask(&format!("start {PRODUCERS} 1"), LIMIT)?;
    let group = load.measure("flush.messages=1,producers=64")?;
    let what = format!(
        "{PRODUCERS} producers: {} device flushes for {} acks",
        group.device_flushes, group.acks
    );
    suite.check(
        group.device_flushes * 4 < group.acks && group.device_flushes > 0,
        what,
    );
    load.dialogue.ask("stop", LIMIT)?;

    load.dialogue.ask("start 1 1", LIMIT)?;
    load.switch(&["--add-config", "flush.messages=1000"])?;
    let thousand = load.measure("flush.messages=1000")?;
    let fits = (10..=30).contains(&thousand.device_flushes);
    suite.check(
        fits,
        format!(
            "flush.messages=1000: {} device flushes, 10 to 30",
            thousand.device_flushes
        ),
    );

    timed(load, suite)
}

/// flush.ms under load and at rest, and back to no policy.
fn timed(load: &mut Load<'_>, suite: &mut Suite) -> Result<()> {
    load.switch(&[
        "--delete-config",
        "flush.messages",
        "--add-config",
        "flush.ms=10",
    ])?;
    let timed = load.measure("flush.ms=10")?;
    // The change of the policy itself is a flush or two of the metadata log on the same device.
    let most = (110 * timed.milliseconds).div_ceil(1000) + 5;
    let what = format!(
        "flush.ms=10: {} device flushes in {} ms",
        timed.device_flushes, timed.milliseconds
    );
    suite.check(
        timed.device_flushes > 0 && timed.device_flushes <= most,
        what,
    );
    load.dialogue.ask("stop", LIMIT)?;
    let idle = load.idle()?;
    suite.check(
        idle == 0,
        format!("flush.ms=10, idle for {IDLE_MS} ms: {idle} device flushes"),
    );

    load.dialogue.ask("start 1 1", LIMIT)?;
    load.switch(&["--delete-config", "flush.ms"])?;
    let again = load.measure("unset")?;
    suite.check(
        again.device_flushes < 20,
        format!("unset again: {} < 20 device flushes", again.device_flushes),
    );
    load.dialogue.ask("stop", LIMIT)?;
    Ok(())
}

impl Load<'_> {
    /// Kafka's own tool, while the load goes on.
    fn switch(&self, change: &[&str]) -> Result<()> {
        let mut configs = self.setting.clients.kafka("kafka-configs");
        configs
            .args([
                "--bootstrap-server",
                &self.broker.kafka,
                "--alter",
                "--topic",
                TOPIC,
            ])
            .args(change);
        process::run(&mut configs, &self.setting.scratch, CALL_LIMIT)?.ok("kafka-configs")?;
        Ok(())
    }

    /// Counts over the next acknowledgements, and prints the line.
    fn measure(&mut self, policy: &str) -> Result<Measured> {
        let flushes_before = self.flushes();
        let line = self.dialogue.ask(&format!("measure {RECORDS}"), LIMIT)?;
        let flushes = match (flushes_before, self.flushes()) {
            (Some(before), Some(after)) => format!("{}", after - before),
            _ => "unknown".to_owned(),
        };
        let measured = Measured {
            acks: number(&line, "acks")?,
            device_flushes: number(&line, "device_flushes")?,
            milliseconds: number(&line, "milliseconds")?,
        };
        let ratio = measured.acks as f64 / measured.device_flushes.max(1) as f64;
        println!(
            "  policy={policy} acks={} flushes={flushes} device_flushes={} acks_per_flush={ratio:.1}",
            measured.acks, measured.device_flushes
        );
        Ok(measured)
    }

    /// What the broker counts itself; a broker without `/metrics` counts nothing.
    fn flushes(&self) -> Option<f64> {
        self.broker.metric("corelog_flushes_total", "").ok()
    }

    /// The least of three windows: the broker's checkpoints may fall into one of them, flush.ms would into each.
    fn idle(&mut self) -> Result<u64> {
        self.dialogue.ask("idle 200", LIMIT)?;
        let mut least = u64::MAX;
        for _ in 0..3 {
            let line = self.dialogue.ask(&format!("idle {IDLE_MS}"), LIMIT)?;
            least = least.min(number(&line, "device_flushes")?);
        }
        Ok(least)
    }
}

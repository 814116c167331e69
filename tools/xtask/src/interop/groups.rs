//! `groups`: consumer groups under the clients people use: who owns what, what a commit means, what Kafka's own tool
//! shows (R22, R23, R65).
//!
//! Four parts: [`read`] (every client reads real text as a group of three), [`churn`] (members join, leave and die),
//! [`kills`] (the broker dies), [`commands`] (kafka-consumer-groups line by line beside Kafka's).
//! `--against kafka` runs all of it against Apache Kafka: what fails there is wrong in the suite.

mod churn;
mod commands;
mod crowd;
mod judge;
mod kills;
mod member;
mod read;

use super::{Setting, Suite};
use crate::process::{Dialogue, word};
use anyhow::{Context, Result};
use std::time::Duration;

/// Of every topic that a group reads here.
const PARTITIONS: u32 = 12;
/// Members of a group that nothing happens to.
const MEMBERS: u32 = 3;
/// A member that was killed is missed after this long: the least that a broker allows by default.
const SESSION_MS: u32 = 6000;
/// For a group to settle, and for members to catch up.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// For one answer of the load.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);

/// A part: its name and what it runs.
type Part = (&'static str, fn(&Setting, &mut Suite) -> Result<()>);

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let parts: [Part; 4] = [
        ("read", read::run),
        ("churn", churn::run),
        ("kills", kills::run),
        ("commands", commands::run),
    ];
    for (name, part) in parts {
        if setting.part.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let begin = std::time::Instant::now();
        if let Err(error) = part(setting, suite) {
            suite.check(false, format!("{name} could not go on: {error:#}"));
        }
        println!("  ({name}: {:.0} s)", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The producer, and what a group has committed as seen from outside it.
struct Load(Dialogue);

impl Load {
    fn start(setting: &Setting, bootstrap: &str) -> Result<Load> {
        let mut helper = setting.clients.python("group_load.py");
        helper.arg(bootstrap);
        Ok(Load(Dialogue::start(&mut helper, ANSWER_LIMIT)?))
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.0.ask(line, ANSWER_LIMIT)
    }

    /// A group that begins at the start of every partition without resetting anything.
    fn commit_start(&mut self, group: &str, topic: &str) -> Result<()> {
        let zeros = vec!["0"; PARTITIONS as usize].join(",");
        self.ask(&format!("commit {group} {topic} {zeros}"))?;
        Ok(())
    }

    /// The committed offset of every partition; -1 where there is none.
    fn committed(&mut self, group: &str, topic: &str) -> Result<Vec<i64>> {
        let line = self.ask(&format!("committed {group} {topic} {PARTITIONS}"))?;
        let offsets = word(&line, "offsets").with_context(|| format!("no offsets in `{line}`"))?;
        offsets
            .split(',')
            .map(|offset| Ok(offset.parse()?))
            .collect()
    }
}

//! Every client reads real text as a group of three.

use super::crowd::{Crowd, sound, wait_for, wait_settled};
use super::member::{Client, Event, Plan, What};
use super::{Load, MEMBERS, PARTITIONS, SESSION_MS};
use crate::interop::clients::CALL_LIMIT;
use crate::interop::kcat::real_input;
use crate::interop::subject::{Broker, Spec};
use crate::interop::{Setting, Suite};
use crate::process::{self, command};
use anyhow::Result;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const CLIENTS: &[Client] = &[
    Client::Console,
    Client::Confluent,
    Client::KafkaPython,
    Client::Kafkajs,
    Client::Kcat,
];
const LINES_QUICK: usize = 120_000;
const READ_LIMIT: Duration = Duration::from_secs(600);

/// Runs the part.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let (path, lines) = numbered(setting)?;
    suite.check(
        lines.len() > 100_000,
        format!("the input has {} numbered lines", lines.len()),
    );
    let broker = Broker::start(
        setting,
        &Spec::new(&setting.dir("read")?).set("corelog.shards=4"),
    )?;
    let mut load = Load::start(setting, &broker.kafka)?;
    // Small inputs are a matter of starting clients: all at once. Large ones one after the other.
    let at_once = if setting.quick { CLIENTS.len() } else { 1 };
    for clients in CLIENTS.chunks(at_once) {
        let mut crowds = Vec::new();
        for client in clients {
            crowds.push(crowd(setting, &broker.kafka, *client, &mut load)?);
        }
        read(&mut crowds, &path, lines.len())?;
        for crowd in &mut crowds {
            judge(suite, crowd, &lines);
            let left = crowd.leave();
            suite.attempt(
                &format!("{}: all members left", crowd.plan.client.name()),
                left,
            );
        }
    }
    Ok(())
}

/// The package descriptions, each line with its number.
fn numbered(setting: &Setting) -> Result<(PathBuf, Vec<String>)> {
    let (input, _) = real_input(setting)?;
    let limit = if setting.quick {
        LINES_QUICK
    } else {
        usize::MAX
    };
    let text = std::fs::read_to_string(input)?;
    let lines: Vec<String> = text
        .lines()
        .take(limit)
        .enumerate()
        .map(|(number, line)| format!("{number} {line}"))
        .collect();
    let mut all = String::new();
    for line in &lines {
        let _ = writeln!(all, "{line}");
    }
    let path = setting.scratch.join("numbered");
    std::fs::write(&path, all)?;
    Ok((path, lines))
}

fn crowd(setting: &Setting, bootstrap: &str, client: Client, load: &mut Load) -> Result<Crowd> {
    let topic = format!("read-{}-{}", client.name(), std::process::id());
    load.ask(&format!("topic {topic} {PARTITIONS}"))?;
    load.commit_start(&topic, &topic)?;
    let mut crowd = Crowd::new(Plan {
        client,
        bootstrap: bootstrap.to_owned(),
        group: topic.clone(),
        topic,
        strategy: "range".to_owned(),
        session_ms: SESSION_MS * 5,
        classes: PathBuf::new(),
    });
    for _ in 0..MEMBERS {
        crowd.join(setting)?;
    }
    Ok(crowd)
}

/// First the members share the partitions, then the lines come.
fn read(crowds: &mut [Crowd], input: &Path, lines: usize) -> Result<()> {
    wait_settled(crowds, "three members share the partitions");
    for crowd in sound(crowds) {
        let mut produce = command("kcat");
        produce
            // A partition for every single record.
            .args(["-X", "sticky.partitioning.linger.ms=0"])
            .args([
                "-P",
                "-b",
                &crowd.plan.bootstrap,
                "-t",
                &crowd.plan.topic,
                "-l",
            ])
            .arg(input)
            .stdin(Stdio::null());
        let scratch = input.parent().unwrap_or(input);
        process::run(&mut produce, scratch, CALL_LIMIT)?.ok("kcat -P")?;
    }
    let is_record = |event: &&Event| matches!(event.what, What::Got { .. });
    let read = |crowd: &Crowd| {
        let events = crowd.members.iter().flat_map(|member| &member.events);
        events.filter(is_record).count() >= lines
    };
    wait_for(crowds, "every line is read", read, READ_LIMIT);
    Ok(())
}

/// One line of the report.
fn judge(suite: &mut Suite, crowd: &Crowd, lines: &[String]) {
    let name = crowd.plan.client.name();
    let members = crowd.members.iter();
    let members: Vec<_> = members.map(|m| (&m.owned, m.events.as_slice())).collect();
    let found = count(&members, lines);
    let owners: Vec<usize> = (0..PARTITIONS).map(|p| crowd.owners(p).len()).collect();
    let one = owners.iter().all(|count| *count == 1);
    let shown = if one {
        "1".to_owned()
    } else {
        format!("{owners:?}")
    };
    println!(
        "  {name} members={} partitions={} read={} lost={} owners_per_partition={shown}",
        members
            .iter()
            .filter(|(owned, _)| !owned.is_empty())
            .count(),
        found.partitions.len(),
        found.read,
        lines.len() - found.read,
    );
    if let Some(fault) = &crowd.fault {
        println!("    {fault}");
    }
    suite.check(
        one && found.read == lines.len() && found.partitions.len() == PARTITIONS as usize,
        format!("{name}: every line, every partition, one owner each"),
    );
    suite.check(
        found.doubled + found.changed + found.strangers == 0,
        format!(
            "{name}: once, unchanged, and from the owner of its partition: doubled={} changed={} \
             not_from_the_owner={}",
            found.doubled, found.changed, found.strangers
        ),
    );
}

#[derive(Default)]
struct Count {
    /// Distinct lines.
    read: usize,
    /// Deliveries of a line that was delivered already.
    doubled: usize,
    /// Deliveries of what is no line of the input.
    changed: usize,
    /// Deliveries by a member that does not own the partition.
    strangers: usize,
    /// Of all deliveries.
    partitions: BTreeSet<u32>,
}

/// Of what each member owns and said, against the input; line N of it begins with N.
fn count(members: &[(&BTreeSet<u32>, &[Event])], lines: &[String]) -> Count {
    let mut seen = vec![false; lines.len()];
    let mut found = Count::default();
    for (owned, events) in members {
        for event in *events {
            let What::Got {
                partition, value, ..
            } = &event.what
            else {
                continue;
            };
            found.partitions.insert(*partition);
            found.strangers += usize::from(!owned.contains(partition));
            let number = value
                .split(' ')
                .next()
                .and_then(|n| n.parse::<usize>().ok());
            match number.filter(|n| lines.get(*n) == Some(value)) {
                Some(number) if seen[number] => found.doubled += 1,
                Some(number) => seen[number] = true,
                None => found.changed += 1,
            }
        }
    }
    found.read = seen.iter().filter(|seen| **seen).count();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_doubled_changed_or_strange_is_counted() {
        let lines: Vec<String> = (0..5).map(|n| format!("{n} text")).collect();
        let got = |partition, value: &str| Event {
            at_ns: 0,
            what: What::Got {
                partition,
                offset: 0,
                value: value.to_owned(),
            },
        };
        let (one, two) = (BTreeSet::from([0]), BTreeSet::from([1]));
        let first = [got(0, "0 text"), got(0, "1 text"), got(1, "2 text")];
        let second = [got(1, "1 text"), got(1, "3 texd")];
        let found = count(&[(&one, &first), (&two, &second)], &lines);
        assert_eq!(
            (found.read, found.doubled, found.changed, found.strangers),
            (3, 1, 1, 1)
        );
        assert_eq!(found.partitions, BTreeSet::from([0, 1]));
    }
}

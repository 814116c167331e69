//! The broker is killed and started again under members that commit (R23, R31).

use super::churn::{finish, plan, report};
use super::crowd::{Crowd, wait_for, wait_settled};
use super::member::{Client, What, now_ns};
use super::{Load, MEMBERS, PARTITIONS, SESSION_MS, SETTLE_LIMIT};
use crate::interop::kill9::Chance;
use crate::interop::subject::{Broker, Spec, Subject};
use crate::interop::{Setting, Suite};
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Duration;

const GROUPS: &[(Client, &str)] = &[
    (Client::Confluent, "cooperative-sticky"),
    (Client::Java, "range"),
];
const TOPIC: &str = "kills";
const RATE: u32 = 1000;

/// Runs the part.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    if matches!(setting.subject, Subject::Running(_)) {
        println!("  kills: not against a broker that somebody else started");
        return Ok(());
    }
    let classes = setting.dir("classes")?;
    setting
        .clients
        .compile_java(&["GroupMember.java"], &classes, &setting.scratch)?;
    let mut spec = Spec::new(&setting.dir("kills")?)
        .set("corelog.shards=4")
        .set("group.initial.rebalance.delay.ms=0");
    let mut broker = Broker::start(setting, &spec)?;
    spec.port = broker.port()?;
    let mut load = Load::start(setting, &broker.kafka)?;
    load.ask(&format!("topic {TOPIC} {PARTITIONS}"))?;
    let mut crowds = Vec::new();
    for (client, strategy) in GROUPS {
        let mut plan = plan(&broker.kafka, *client, strategy, TOPIC, &classes);
        // Nobody may be missed while the broker starts.
        plan.session_ms = SESSION_MS * 5;
        let mut crowd = Crowd::new(plan);
        load.commit_start(&crowd.plan.group, TOPIC)?;
        for _ in 0..MEMBERS {
            crowd.join(setting)?;
        }
        crowds.push(crowd);
    }
    load.ask(&format!("load {TOPIC} {PARTITIONS} {RATE}"))?;
    wait_settled(&mut crowds, "three members share the partitions");
    let mut seen = vec![vec![0; PARTITIONS as usize]; crowds.len()];
    let mut chance = Chance::seeded();
    println!("  seed={}", chance.0);
    for round in 1..=setting.group_rounds {
        std::thread::sleep(Duration::from_millis(500 + chance.below(1500)));
        broker.kill()?;
        let killed_ns = now_ns();
        broker = Broker::start(setting, &spec)?;
        back(suite, round, &mut crowds, &mut load, &mut seen)?;
        wait_for(
            &mut crowds,
            &format!("round {round}: all partitions are committed again"),
            |crowd| commits_everywhere(crowd, killed_ns),
            SETTLE_LIMIT,
        );
    }
    finish(&mut crowds, &mut load, &setting.scratch, TOPIC)?;
    let found = report(suite, &crowds, &setting.scratch)?;
    for (crowd, found) in crowds.iter().zip(found) {
        let what = format!(
            "{}: the broker knew its members after every start, cast_out={}",
            crowd.name(),
            found.cast_out
        );
        suite.check(found.cast_out == 0, what);
    }
    Ok(())
}

/// What was confirmed as committed, or seen as committed before, is still committed.
fn back(
    suite: &mut Suite,
    round: u32,
    crowds: &mut [Crowd],
    load: &mut Load,
    seen: &mut [Vec<i64>],
) -> Result<()> {
    for (crowd, seen) in crowds.iter_mut().zip(seen) {
        // Before the question: what is confirmed later may be above the answer.
        crowd.advance()?;
        let confirmed = confirmed(crowd);
        let committed = load.committed(&crowd.plan.group, TOPIC)?;
        let gone_back = gone_back(&[&confirmed, seen], &committed);
        suite.check(
            gone_back.is_empty(),
            format!(
                "round {round}: {}: {} records committed, offsets that went back: {gone_back:?}",
                crowd.name(),
                committed.iter().sum::<i64>(),
            ),
        );
        *seen = committed;
    }
    Ok(())
}

/// The partitions whose committed offset is now below one that was known before.
fn gone_back(before: &[&Vec<i64>], now: &[i64]) -> Vec<String> {
    let known = |p: usize| before.iter().filter_map(|offsets| offsets.get(p)).max();
    now.iter()
        .enumerate()
        .filter_map(|(p, now)| {
            let known = known(p).filter(|known| *known > now)?;
            Some(format!("{p}: {known} to {now}"))
        })
        .collect()
}

fn confirmed(crowd: &Crowd) -> Vec<i64> {
    let mut highest = vec![0; PARTITIONS as usize];
    for event in crowd.members.iter().flat_map(|member| &member.events) {
        if let What::Committed { partition, next } = event.what
            && let Some(known) = highest.get_mut(partition as usize)
        {
            *known = next.max(*known);
        }
    }
    highest
}

fn commits_everywhere(crowd: &Crowd, since_ns: u64) -> bool {
    let mut partitions = BTreeSet::new();
    for member in &crowd.members {
        let recent = member
            .events
            .iter()
            .rev()
            .take_while(|event| event.at_ns > since_ns);
        partitions.extend(recent.filter_map(|event| match event.what {
            What::Committed { partition, .. } => Some(partition),
            _ => None,
        }));
    }
    partitions.len() == PARTITIONS as usize
}

#[cfg(test)]
mod tests {
    use super::gone_back;

    #[test]
    fn an_offset_that_went_back_is_found() {
        let (confirmed, seen) = (vec![5, 7, 1], vec![4, 9, 0]);
        assert!(gone_back(&[&confirmed, &seen], &[5, 9, 2]).is_empty());
        assert_eq!(
            gone_back(&[&confirmed, &seen], &[4, 9, -1]),
            ["0: 5 to 4", "2: 1 to -1"]
        );
        assert_eq!(gone_back(&[&confirmed, &seen], &[5, 8, 1]), ["1: 9 to 8"]);
    }
}

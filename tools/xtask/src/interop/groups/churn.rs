//! Members join, leave and die while the partitions are written, under every assignor (R22, R23).

use super::crowd::{Crowd, sound, wait_for, wait_settled};
use super::judge::{Findings, judge, read_written};
use super::member::{Client, Event, Member, Plan, What, now_ns};
use super::{Load, MEMBERS, PARTITIONS, SESSION_MS, SETTLE_LIMIT};
use crate::interop::subject::{Broker, Spec};
use crate::interop::{Setting, Suite};
use crate::process::number;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// librdkafka has no sticky assignor that is eager.
const QUICK: &[(Client, &str)] = &[
    (Client::Confluent, "range"),
    (Client::Confluent, "roundrobin"),
    (Client::Confluent, "cooperative-sticky"),
    (Client::Java, "sticky"),
];
const FULL: &[(Client, &str)] = &[
    (Client::Confluent, "range"),
    (Client::Confluent, "roundrobin"),
    (Client::Confluent, "cooperative-sticky"),
    (Client::Java, "range"),
    (Client::Java, "roundrobin"),
    (Client::Java, "sticky"),
    (Client::Java, "cooperative-sticky"),
];
const TOPIC: &str = "churn";
/// Records a second.
const RATE: u32 = 1000;

/// Runs the part: all groups read the same topic and go through the same steps at the same time.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let classes = setting.dir("classes")?;
    setting
        .clients
        .compile_java(&["GroupMember.java"], &classes, &setting.scratch)?;
    let spec = Spec::new(&setting.dir("churn")?)
        .set("corelog.shards=4")
        .set("group.initial.rebalance.delay.ms=0");
    let broker = Broker::start(setting, &spec)?;
    let mut load = Load::start(setting, &broker.kafka)?;
    load.ask(&format!("topic {TOPIC} {PARTITIONS}"))?;
    let mut crowds = Vec::new();
    for (client, strategy) in if setting.quick { QUICK } else { FULL } {
        let crowd = Crowd::new(plan(&broker.kafka, *client, strategy, TOPIC, &classes));
        load.commit_start(&crowd.plan.group, TOPIC)?;
        crowds.push(crowd);
    }
    let cycles = if setting.quick { 1 } else { 3 };
    steps(setting, &mut crowds, &mut load, cycles)?;
    finish(&mut crowds, &mut load, &setting.scratch, TOPIC)?;
    report(suite, &crowds, &setting.scratch)?;
    Ok(())
}

/// A plan for members that commit what they have processed and never reset.
pub fn plan(bootstrap: &str, client: Client, strategy: &str, topic: &str, classes: &Path) -> Plan {
    Plan {
        client,
        bootstrap: bootstrap.to_owned(),
        group: format!("{topic}-{}-{strategy}", client.name()),
        topic: topic.to_owned(),
        strategy: strategy.to_owned(),
        session_ms: SESSION_MS,
        classes: classes.to_path_buf(),
    }
}

fn steps(setting: &Setting, crowds: &mut [Crowd], load: &mut Load, cycles: u32) -> Result<()> {
    for crowd in crowds.iter_mut() {
        for _ in 0..MEMBERS {
            crowd.join(setting)?;
        }
    }
    load.ask(&format!("load {TOPIC} {PARTITIONS} {RATE}"))?;
    wait_settled(crowds, "three members share the partitions");
    for _ in 0..cycles {
        for crowd in sound(crowds) {
            crowd.join(setting)?;
        }
        settle_and_work(crowds, "a fourth member joined");
        for crowd in sound(crowds) {
            oldest(crowd)?.ask_to_leave();
        }
        settle_and_work(crowds, "a member left");
        wait_for(crowds, "it said so and ended", all_left, SETTLE_LIMIT);
        for crowd in sound(crowds) {
            oldest(crowd)?.kill()?;
        }
        settle_and_work(crowds, "a member was killed");
        for crowd in sound(crowds) {
            crowd.join(setting)?;
        }
        settle_and_work(crowds, "a member joined after the kill");
    }
    Ok(())
}

fn oldest(crowd: &mut Crowd) -> Result<&mut Member> {
    let name = crowd.name();
    let mut alive = crowd.members.iter_mut().filter(|m| m.alive);
    alive
        .next()
        .with_context(|| format!("{name} has no member"))
}

/// Whoever was asked to leave, and was not killed, has done it.
fn all_left(crowd: &Crowd) -> bool {
    let last = |member: &Member| member.events.last().map(|event| event.what.clone());
    let gone = crowd.members.iter().filter(|member| !member.alive);
    gone.map(last)
        .all(|last| matches!(last, Some(What::Left | What::Killed)))
}

/// Every living member has committed something since.
fn settle_and_work(crowds: &mut [Crowd], what: &str) {
    wait_settled(crowds, what);
    let since = now_ns();
    let works = |member: &Member| {
        let recent = |event: &&Event| event.at_ns > since;
        let mut recent = member.events.iter().rev().take_while(recent);
        !member.alive || recent.any(|event| matches!(event.what, What::Committed { .. }))
    };
    wait_for(
        crowds,
        &format!("{what}: all work again"),
        |crowd| crowd.members.iter().all(works),
        SETTLE_LIMIT,
    );
}

/// Ends the load, lets the members finish, and lets them leave.
pub fn finish(crowds: &mut [Crowd], load: &mut Load, scratch: &Path, topic: &str) -> Result<()> {
    let path = scratch.join("written");
    let stopped = load.ask(&format!("stop {}", path.display()))?;
    let failed = number(&stopped, "failed")?;
    ensure!(failed == 0, "{failed} records of the load failed");
    let mut ends = vec![0; PARTITIONS as usize];
    for partition in read_written(&path)?.values() {
        ends[*partition as usize] += 1;
    }
    let mut deadline = Instant::now() + SETTLE_LIMIT;
    for crowd in sound(crowds) {
        loop {
            crowd.advance()?;
            let committed = load.committed(&crowd.plan.group, topic)?;
            if committed == ends {
                break;
            }
            if Instant::now() > deadline {
                let fault = format!("committed {committed:?} of {ends:?}");
                crowd.fault = Some(fault);
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        deadline += Duration::from_secs(10);
    }
    for crowd in crowds {
        if let Err(error) = crowd.leave() {
            crowd.fault.get_or_insert(format!("{error:#}"));
        }
    }
    Ok(())
}

/// One line and one check per group; the findings in the order of the groups.
pub fn report(suite: &mut Suite, crowds: &[Crowd], scratch: &Path) -> Result<Vec<Findings>> {
    let written = read_written(&scratch.join("written"))?;
    let mut all = Vec::new();
    for crowd in crowds {
        let members: Vec<_> = crowd
            .members
            .iter()
            .map(|member| (member.name.as_str(), member.events.as_slice()))
            .collect();
        let found = judge(&members, &written);
        println!(
            "  {} members={} {}",
            crowd.name(),
            crowd.members.len(),
            found.line()
        );
        if let Some(fault) = &crowd.fault {
            println!("    {fault}");
        }
        suite.check(
            found.good() && crowd.fault.is_none(),
            format!(
                "{}: settled after every change, every record delivered, none again after its commit, one owner at a time",
                crowd.name()
            ),
        );
        all.push(found);
    }
    Ok(all)
}

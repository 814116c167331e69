//! One member of a group: a foreign client in a process of its own, and what it says happens to it.

use crate::interop::Setting;
use crate::process::{Guard, command};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

const LEAVE_LIMIT: Duration = Duration::from_secs(60);

/// Which client, with the name it goes by in the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// Kafka's console consumer.
    Console,
    /// librdkafka under Python.
    Confluent,
    /// kafka-python.
    KafkaPython,
    /// kafkajs.
    Kafkajs,
    /// `kcat -G`.
    Kcat,
    /// Kafka's own consumer under a small program that commits synchronously.
    Java,
}

impl Client {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Client::Console => "console-consumer",
            Client::Confluent => "confluent-kafka",
            Client::KafkaPython => "kafka-python",
            Client::Kafkajs => "kafkajs",
            Client::Kcat => "kcat",
            Client::Java => "java",
        }
    }
}

/// What a member has in common with the others of its group.
#[derive(Clone)]
pub struct Plan {
    /// The client.
    pub client: Client,
    /// `host:port` of the broker.
    pub bootstrap: String,
    /// Name of the group.
    pub group: String,
    /// The one topic.
    pub topic: String,
    /// Name of the assignor, as librdkafka spells it.
    pub strategy: String,
    /// session.timeout.ms.
    pub session_ms: u32,
    /// Where `javac` put GroupMember.
    pub classes: PathBuf,
}

/// Something a member said.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum What {
    /// These partitions came to it.
    Assigned(Vec<u32>),
    /// It gave these up.
    Revoked(Vec<u32>),
    /// These were taken away from it.
    Lost(Vec<u32>),
    /// A record was delivered.
    Got {
        /// Its partition.
        partition: u32,
        /// Its offset.
        offset: i64,
        /// Its value.
        value: String,
    },
    /// The broker said that everything below `next` is committed.
    Committed {
        /// The partition.
        partition: u32,
        /// The offset after the last that is committed.
        next: i64,
    },
    /// It wanted to reset an offset.
    Reset(String),
    /// A commit was refused or failed.
    Trouble(String),
    /// It left as asked.
    Left,
    /// It was killed (said by the suite).
    Killed,
}

/// With the machine's monotonic clock; 0 from clients that do not say when.
#[derive(Debug, Clone)]
pub struct Event {
    /// Nanoseconds.
    pub at_ns: u64,
    /// What happened.
    pub what: What,
}

/// A running member; dropped, it is killed.
pub struct Member {
    /// Its name in its group.
    pub name: String,
    /// All it has said.
    pub events: Vec<Event>,
    /// What it owns now.
    pub owned: BTreeSet<u32>,
    /// It has not been asked to leave and was not killed.
    pub alive: bool,
    client: Client,
    child: Guard,
    input: Option<ChildStdin>,
    followed: Vec<Follow>,
    words: PathBuf,
}

/// A file that grows, read in whole lines.
struct Follow {
    path: PathBuf,
    position: u64,
    parse: fn(&str) -> Option<Event>,
}

impl Member {
    /// Starts one; its files are `GROUP-NAME.*` in the suite's directory.
    pub fn start(setting: &Setting, plan: &Plan, name: &str) -> Result<Member> {
        let base = setting.scratch.join(format!("{}-{name}", plan.group));
        let (log, out, err) = (
            base.with_extension("events"),
            base.with_extension("out"),
            base.with_extension("err"),
        );
        File::create(&log)?;
        let mut start = program(setting, plan, name, &log);
        start
            .stdin(Stdio::piped())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        let mut child = Guard(
            start
                .spawn()
                .with_context(|| format!("cannot start {}", plan.client.name()))?,
        );
        let follow = |path: &Path, parse| Follow {
            path: path.to_path_buf(),
            position: 0,
            parse,
        };
        let followed = match plan.client {
            Client::Console => vec![follow(&err, console_says), follow(&out, console_printed)],
            Client::Kcat => vec![follow(&err, kcat_says), follow(&out, kcat_printed)],
            _ => vec![follow(&log, member_says)],
        };
        Ok(Member {
            name: name.to_owned(),
            events: Vec::new(),
            owned: BTreeSet::new(),
            alive: true,
            client: plan.client,
            input: child.0.stdin.take(),
            child,
            followed,
            words: err,
        })
    }

    /// Takes in what it has said since.
    pub fn advance(&mut self) -> Result<()> {
        let mut new = Vec::new();
        for follow in &mut self.followed {
            follow.read(&mut new)?;
        }
        for event in &new {
            match &event.what {
                What::Assigned(partitions) => self.owned.extend(partitions),
                What::Revoked(partitions) | What::Lost(partitions) => {
                    self.owned.retain(|owned| !partitions.contains(owned));
                }
                _ => {}
            }
        }
        self.events.append(&mut new);
        Ok(())
    }

    /// An error when a member that should live has ended.
    pub fn still_there(&mut self) -> Result<()> {
        if self.alive
            && let Some(status) = self.child.wait_for(Duration::ZERO)?
        {
            self.advance()?;
            let told = self
                .events
                .iter()
                .rev()
                .find_map(|event| match &event.what {
                    What::Reset(text) => Some(format!("it wanted to reset: {text}")),
                    What::Trouble(text) => Some(text.clone()),
                    _ => None,
                });
            let told = told.unwrap_or_default();
            bail!(
                "{} ended by itself ({status}): {told} {}",
                self.name,
                self.last_words()
            );
        }
        Ok(())
    }

    /// The end of what it wrote to standard error.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.words).unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(4)..].join("\n    ")
    }

    /// Asks it to leave the group.
    pub fn ask_to_leave(&mut self) {
        self.alive = false;
        self.input = None;
        if matches!(self.client, Client::Console | Client::Kcat) {
            self.child.signal(libc::SIGTERM);
        }
    }

    /// Waits until it has left; false when it did not end.
    pub fn wait_left(&mut self) -> Result<bool> {
        let ended = self.child.wait_for(LEAVE_LIMIT)?.is_some();
        self.advance()?;
        Ok(ended)
    }

    /// kill -9; the moment is one of its events.
    pub fn kill(&mut self) -> Result<()> {
        self.alive = false;
        self.child.signal(libc::SIGKILL);
        self.child.wait_for(LEAVE_LIMIT)?;
        self.advance()?;
        self.owned.clear();
        self.events.push(Event {
            at_ns: now_ns(),
            what: What::Killed,
        });
        Ok(())
    }
}

impl Follow {
    fn read(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        self.position += whole as u64;
        let text = String::from_utf8_lossy(&bytes[..whole]);
        events.extend(text.lines().filter_map(self.parse));
        Ok(())
    }
}

/// CLOCK_MONOTONIC, which the members' languages read as well.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn program(setting: &Setting, plan: &Plan, name: &str, log: &Path) -> Command {
    let session = plan.session_ms.to_string();
    let Plan {
        bootstrap,
        group,
        topic,
        strategy,
        ..
    } = plan;
    let mut start;
    match plan.client {
        Client::Console => {
            start = setting.clients.kafka("kafka-console-consumer");
            start.args(["--bootstrap-server", bootstrap, "--topic", topic]);
            start.args(["--group", group, "--from-beginning"]);
            for property in ["print.partition=true", "print.offset=true"] {
                start.args(["--formatter-property", property]);
            }
            start.args(["--command-property", &format!("client.id={name}")]);
            // The consumer's own words about its assignment.
            start.env("KAFKA_OPTS", "-Dinterop.log=INFO");
            start.env("KAFKA_HEAP_OPTS", "-Xmx256m");
        }
        Client::Kcat => {
            start = command("kcat");
            start.args(["-b", bootstrap, "-X", &format!("client.id={name}")]);
            start.args(["-X", "auto.offset.reset=earliest", "-u", "-f", "%p %o %s\n"]);
            start.args(["-G", group, topic]);
        }
        Client::Kafkajs => {
            start = setting.clients.node("group_member.js");
            start.args([bootstrap, group, topic, name]);
            start.arg(log).arg(session);
        }
        Client::Java => {
            start = setting.clients.java(&plan.classes, "GroupMember");
            start.args([bootstrap, group, topic, strategy, name]);
            start.arg(log).arg(session);
        }
        Client::Confluent | Client::KafkaPython => {
            start = setting.clients.python("group_member.py");
            start.args([plan.client.name(), bootstrap, group, topic, strategy, name]);
            start.arg(log).arg(session);
        }
    }
    start
}

/// The words of group_member.py.
fn member_says(line: &str) -> Option<Event> {
    let (at, rest) = line.split_once(' ')?;
    let at_ns = at.parse().ok()?;
    let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let what = match kind {
        "assigned" => What::Assigned(numbers(rest)),
        "revoked" => What::Revoked(numbers(rest)),
        "lost" => What::Lost(numbers(rest)),
        "got" => got(rest)?,
        "committed" => {
            let (partition, next) = rest.split_once(' ')?;
            What::Committed {
                partition: partition.parse().ok()?,
                next: next.parse().ok()?,
            }
        }
        "reset" => What::Reset(rest.to_owned()),
        "left" => What::Left,
        _ => What::Trouble(format!("{kind} {rest}")),
    };
    Some(Event { at_ns, what })
}

/// `PARTITION OFFSET VALUE`
fn got(text: &str) -> Option<What> {
    let mut parts = text.splitn(3, ' ');
    Some(What::Got {
        partition: parts.next()?.parse().ok()?,
        offset: parts.next()?.parse().ok()?,
        value: parts.next()?.to_owned(),
    })
}

fn kcat_printed(line: &str) -> Option<Event> {
    Some(untimed(got(line)?))
}

/// `% Group G rebalanced (memberid M): assigned: topic [0], topic [1]`
fn kcat_says(line: &str) -> Option<Event> {
    let (_, rest) = line.strip_prefix("% Group ")?.split_once("): ")?;
    let (kind, list) = rest.split_once(": ").unwrap_or((rest, ""));
    let partitions = list
        .split(']')
        .filter_map(|part| part.rsplit_once('[')?.1.parse().ok())
        .collect();
    match kind {
        "assigned" => Some(untimed(What::Assigned(partitions))),
        "revoked" => Some(untimed(What::Revoked(partitions))),
        _ => None,
    }
}

/// `Partition:P<TAB>Offset:O<TAB>VALUE`
fn console_printed(line: &str) -> Option<Event> {
    let mut parts = line.splitn(3, '\t');
    Some(untimed(What::Got {
        partition: parts.next()?.strip_prefix("Partition:")?.parse().ok()?,
        offset: parts.next()?.strip_prefix("Offset:")?.parse().ok()?,
        value: parts.next()?.to_owned(),
    }))
}

/// `... Adding newly assigned partitions: topic-0, topic-1 (class)`
fn console_says(line: &str) -> Option<Event> {
    let after = |words: &str| {
        let (_, list) = line.split_once(words)?;
        let list = list.split(" (").next()?.replace(['[', ']'], "");
        let partition = |name: &str| name.rsplit_once('-')?.1.trim().parse().ok();
        Some(list.split(',').filter_map(partition).collect())
    };
    if let Some(partitions) = after("Adding newly assigned partitions: ") {
        return Some(untimed(What::Assigned(partitions)));
    }
    after("Revoke previously assigned partitions ").map(|gone| untimed(What::Revoked(gone)))
}

fn untimed(what: What) -> Event {
    Event { at_ns: 0, what }
}

fn numbers(list: &str) -> Vec<u32> {
    list.split(',').filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_say_is_understood() {
        let what = |event: Option<Event>| event.expect("understood").what;
        assert_eq!(
            what(member_says("5 assigned 0,7,11")),
            What::Assigned(vec![0, 7, 11])
        );
        assert_eq!(
            what(member_says("5 got 3 17 9 text of it")),
            What::Got {
                partition: 3,
                offset: 17,
                value: "9 text of it".to_owned()
            }
        );
        assert_eq!(
            what(member_says("5 committed 3 18")),
            What::Committed {
                partition: 3,
                next: 18
            }
        );
        assert_eq!(
            what(kcat_says(
                "% Group g rebalanced (memberid kcat-1): assigned: a-b [0], a-b [11]"
            )),
            What::Assigned(vec![0, 11])
        );
        assert_eq!(
            what(console_says(
                "[x] INFO [Consumer clientId=c, groupId=g] Adding newly assigned partitions: a-b-0, a-b-10 (org.x)"
            )),
            What::Assigned(vec![0, 10])
        );
        assert_eq!(
            what(console_printed("Partition:2\tOffset:9\t4 a\tb")),
            What::Got {
                partition: 2,
                offset: 9,
                value: "4 a\tb".to_owned()
            }
        );
    }
}

//! kafka-consumer-groups prints over this broker what it prints over Kafka (R65).

use super::crowd::{Crowd, wait_for};
use super::member::{Client, Plan};
use super::{Load, SESSION_MS, SETTLE_LIMIT};
use crate::interop::clients::CALL_LIMIT;
use crate::interop::subject::{Broker, Spec, Subject};
use crate::interop::{Setting, Suite};
use crate::process::{self, Dialogue};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::PathBuf;

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;
const RECORDS: u32 = 100;
const GOLDEN: &str = "golden/kafka-consumer-groups.txt";

/// While `billing` has two members.
const WITH_MEMBERS: &[&str] = &[
    "--list",
    "--list --state --type",
    "--list --state stable",
    "--describe --group billing",
    "--describe --group billing --members",
    "--describe --group billing --members --verbose",
    "--describe --group billing --state",
    "--describe --group billing --offsets --verbose",
    "--describe --all-groups --state --verbose",
    "--reset-offsets --to-earliest --execute --group billing --topic orders",
    "--delete-offsets --group billing --topic orders",
    "--delete --group billing",
];
/// After both have left.
const WITHOUT_MEMBERS: &[&str] = &[
    "--list --state",
    "--describe --group billing",
    "--describe --group billing --members",
    "--describe --group billing --state",
    "--reset-offsets --to-earliest --execute --group billing --topic orders",
    "--describe --group billing",
    "--reset-offsets --to-datetime 2023-11-14T22:14:00.000 --execute --group billing --topic orders",
    "--describe --group billing",
    "--reset-offsets --shift-by 7 --execute --group billing --topic orders",
    "--reset-offsets --shift-by -3 --execute --group billing --topic orders:0,1",
    "--describe --group billing",
    "--reset-offsets --shift-by 1000 --execute --group billing --all-topics",
    "--reset-offsets --to-offset 5 --group billing --topic orders:2",
    "--reset-offsets --to-earliest --execute --group fresh --topic orders",
    "--describe --group fresh",
    "--delete-offsets --group billing --topic orders:0",
    "--describe --group billing",
    "--delete-offsets --group billing --topic orders",
    "--describe --group billing",
    "--delete --group billing --group fresh",
    "--delete --group billing",
    "--describe --group billing",
    "--describe --group billing --state",
    "--list",
    "--describe --group simple",
    "--describe --group simple --state",
    "--delete-offsets --group nobody --topic orders",
];

/// What each command printed, normalised.
type Printed = Vec<(&'static str, Vec<String>)>;

/// Runs the part.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let path = setting.clients.helper(GOLDEN);
    let ours = play(setting, "ours")?;
    if setting.record {
        std::fs::write(&path, render(&ours)).with_context(|| path.display().to_string())?;
        println!("  recorded {}", path.display());
    }
    let theirs = if setting.quick || setting.record {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        parse(&text)
    } else {
        let peer = Setting {
            subject: Subject::Kafka,
            clients: setting.clients.clone(),
            scratch: setting.scratch.clone(),
            planted: None,
            part: None,
            ..*setting
        };
        render_all(&play(&peer, "theirs")?)
    };
    let ours = render_all(&ours);
    suite.check(
        ours.len() == theirs.len(),
        format!("{} commands here, {} of Kafka", ours.len(), theirs.len()),
    );
    for (number, ((command, ours), (known, theirs))) in ours.iter().zip(&theirs).enumerate() {
        let same = command == known && ours == theirs;
        suite.check(same, format!("{}. {command}", number + 1));
        if !same {
            println!(
                "    {}\n   Kafka ({known}):\n    {}",
                ours.join("\n    "),
                theirs.join("\n    ")
            );
        }
    }
    Ok(())
}

/// The same steps on a fresh broker.
fn play(setting: &Setting, name: &str) -> Result<Printed> {
    let spec = Spec::new(&setting.dir(&format!("commands-{name}"))?)
        .set("corelog.shards=4")
        .set("group.initial.rebalance.delay.ms=0");
    let broker = Broker::start(setting, &spec)?;
    let mut load = Load::start(setting, &broker.kafka)?;
    // The records are years old.
    load.ask(&format!("topic {TOPIC} {PARTITIONS} retention.ms=-1"))?;
    load.ask(&format!("stamped {TOPIC} {PARTITIONS} {RECORDS}"))?;
    load.ask(&format!("commit billing {TOPIC} 10,20,30"))?;
    load.ask(&format!("commit simple {TOPIC} 1,2,3"))?;
    let mut tool = Tool::start(setting, &broker.kafka)?;
    let mut printed = Vec::new();
    let mut crowds = [Crowd::new(Plan {
        client: Client::Confluent,
        bootstrap: broker.kafka.clone(),
        group: "billing".to_owned(),
        topic: TOPIC.to_owned(),
        strategy: "range".to_owned(),
        session_ms: SESSION_MS * 5,
        classes: PathBuf::new(),
    })];
    crowds[0].join(setting)?;
    crowds[0].join(setting)?;
    // Range gives by the order of member ids, which begin with m1 and m2.
    let shared = |crowd: &Crowd| {
        let counts: Vec<usize> = crowd.members.iter().map(|m| m.owned.len()).collect();
        counts == [2, 1]
    };
    wait_for(
        &mut crowds,
        "two members share the partitions",
        shared,
        SETTLE_LIMIT,
    );
    let deadline = std::time::Instant::now() + SETTLE_LIMIT;
    while load.ask(&format!("committed billing {TOPIC} {PARTITIONS}"))? != "offsets=100,100,100" {
        anyhow::ensure!(
            std::time::Instant::now() < deadline,
            "the members do not read to the end"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    tool.play(WITH_MEMBERS, &mut printed)?;
    crowds[0].leave()?;
    tool.play(WITHOUT_MEMBERS, &mut printed)?;
    Ok(printed)
}

/// Kafka's tool: the script itself in a full run, all commands in one JVM in a quick one.
enum Tool<'a> {
    Script(&'a Setting, String),
    Jvm(Dialogue, String),
}

impl Tool<'_> {
    fn start<'a>(setting: &'a Setting, bootstrap: &str) -> Result<Tool<'a>> {
        if !setting.quick {
            return Ok(Tool::Script(setting, bootstrap.to_owned()));
        }
        let classes = setting.dir("tool-classes")?;
        setting
            .clients
            .compile_java(&["GroupTool.java"], &classes, &setting.scratch)?;
        let mut java = setting.clients.java(&classes, "GroupTool");
        Ok(Tool::Jvm(
            Dialogue::start(&mut java, CALL_LIMIT)?,
            bootstrap.to_owned(),
        ))
    }

    fn play(&mut self, commands: &[&'static str], printed: &mut Printed) -> Result<()> {
        for command in commands {
            let text = self.call(command)?;
            printed.push((command, normalise(&text)));
        }
        Ok(())
    }

    fn call(&mut self, command: &str) -> Result<String> {
        match self {
            Tool::Script(setting, bootstrap) => {
                let mut script = setting.clients.kafka("kafka-consumer-groups");
                script.args(["--bootstrap-server", bootstrap]);
                script.args(command.split(' '));
                let output = process::run(&mut script, &setting.scratch, CALL_LIMIT)?;
                Ok(format!(
                    "{}\n{}\nexit {}",
                    output.stdout, output.stderr, output.code
                ))
            }
            Tool::Jvm(dialogue, bootstrap) => {
                dialogue.send(&format!("--bootstrap-server {bootstrap} {command}"))?;
                let mut text = String::new();
                loop {
                    let line = dialogue.answer(CALL_LIMIT)?;
                    let _ = writeln!(text, "{line}");
                    if line.starts_with("exit ") {
                        return Ok(text);
                    }
                }
            }
        }
    }
}

/// What may differ between two runs goes: the random part of member ids, ports, widths of columns, the order of rows,
/// node ids, stack traces and lines of the client's log.
fn normalise(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("at ") && !line.starts_with("[20"))
        .map(|line| {
            let words: Vec<String> = line.split_whitespace().map(plain_word).collect();
            words.join(" ")
        })
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort();
    lines
}

fn plain_word(word: &str) -> String {
    if word.starts_with('(')
        && word.ends_with(')')
        && word[1..word.len() - 1].parse::<i32>().is_ok()
    {
        return "(NODE)".to_owned();
    }
    if word
        .strip_prefix("127.0.0.1:")
        .is_some_and(|port| port.parse::<u16>().is_ok())
    {
        return "HOST:PORT".to_owned();
    }
    without_uuid(word)
}

/// `m1-8d4c...-...` becomes `m1-UUID`.
fn without_uuid(word: &str) -> String {
    const LENGTH: usize = 36;
    let is_uuid = |text: &str| {
        text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    for start in 0..word.len().saturating_sub(LENGTH - 1) {
        if let Some(part) = word.get(start..start + LENGTH)
            && is_uuid(part)
        {
            return format!("{}UUID{}", &word[..start], &word[start + LENGTH..]);
        }
    }
    word.to_owned()
}

fn render(printed: &Printed) -> String {
    let mut text = String::from(
        "# What kafka-consumer-groups of Apache Kafka 4.3.1 prints over a broker of Apache Kafka 4.3.1, in the steps of\n\
         # tools/xtask/src/interop/groups/commands.rs, normalised and sorted as there.\n\
         # Made by `cargo xtask interop groups --quick --against kafka --record`; not to be edited.\n",
    );
    for (command, lines) in printed {
        let _ = writeln!(text, "$ {command}");
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn render_all(printed: &Printed) -> Vec<(String, Vec<String>)> {
    printed
        .iter()
        .map(|(command, lines)| ((*command).to_owned(), lines.clone()))
        .collect()
}

fn parse(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push((command.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = found.last_mut() {
            lines.push(line.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_differ_is_taken_out_and_nothing_else() {
        let text = "GROUP   COORDINATOR (ID)\nbilling 127.0.0.1:4711  (1)  m1-0c4a8a4e-1b2c-4d5e-8f90-a1b2c3d4e5f6 /127.0.0.1 7\n\tat org.x";
        assert_eq!(
            normalise(text),
            [
                "GROUP COORDINATOR (ID)",
                "billing HOST:PORT (NODE) m1-UUID /127.0.0.1 7"
            ]
        );
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let printed: Printed = vec![
            ("--list", vec!["a".to_owned(), "b".to_owned()]),
            ("--x", vec![]),
        ];
        assert_eq!(parse(&render(&printed)), render_all(&printed));
    }
}

//! `matrix`: every writer against every reader, keyed records over partitions, and records at the edges (R01, R03, R65).

use super::clients::CALL_LIMIT;
use super::kcat::same_bytes;
use super::subject::{Broker, Spec};
use super::{Setting, Suite};
use crate::process::{self, command};
use anyhow::Result;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const WRITERS: &[&str] = &[
    "confluent-kafka",
    "kafka-python",
    "kafkajs",
    "console-producer",
];
const READERS: &[&str] = &[
    "kcat",
    "kafka-python",
    "confluent-kafka",
    "console-consumer",
];
/// The console producer knows no binary values and no timestamps.
const ODD_WRITERS: &[&str] = &["confluent-kafka", "kafka-python", "kafkajs"];
const CHECKERS: &[&str] = &["confluent-kafka", "kafka-python"];
const LINES: u32 = 20_000;
const KEYED_PARTITIONS: u32 = 12;

struct Matrix<'a> {
    setting: &'a Setting,
    bootstrap: String,
    lines: PathBuf,
    keyed: PathBuf,
}

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let broker = Broker::start(
        setting,
        &Spec::new(&setting.dir("data")?).set("corelog.shards=4"),
    )?;
    let (lines, keyed) = (setting.scratch.join("lines"), setting.scratch.join("keyed"));
    std::fs::write(&lines, plain_lines())?;
    std::fs::write(&keyed, keyed_lines())?;
    let matrix = Matrix {
        setting,
        bootstrap: broker.kafka.clone(),
        lines,
        keyed,
    };
    for writer in WRITERS {
        matrix.plain(writer, suite)?;
        matrix.with_keys(writer, suite)?;
    }
    for writer in ODD_WRITERS {
        matrix.odd(writer, suite)?;
    }
    Ok(())
}

fn plain_lines() -> String {
    let mut text = String::new();
    for number in 0..LINES {
        let word = number.wrapping_mul(2_654_435_761);
        let _ = writeln!(
            text,
            "{number} {word:08x} {}",
            "lorem ipsum ".repeat((word % 7) as usize)
        );
    }
    text
}

fn keyed_lines() -> String {
    let mut text = String::new();
    for number in 0..LINES {
        let _ = writeln!(text, "key-{}:{number}", number.wrapping_mul(7919) % 500);
    }
    text
}

impl Matrix<'_> {
    fn topic(&self, kind: &str, writer: &str) -> String {
        format!("{kind}-{writer}-{}", std::process::id())
    }

    fn call(&self, command: &mut Command, what: &str) -> Result<String> {
        process::run(command, &self.setting.scratch, CALL_LIMIT)?.ok(what)
    }

    fn create(&self, topic: &str, partitions: u32, config: &[&str]) -> Result<()> {
        self.setting.clients.create_topic(
            &self.setting.scratch,
            &self.bootstrap,
            topic,
            partitions,
            config,
        )
    }

    fn plain(&self, writer: &str, suite: &mut Suite) -> Result<()> {
        let topic = self.topic("plain", writer);
        self.create(&topic, 1, &[])?;
        let mut write = self.writer(writer, "write", &topic, &self.lines)?;
        if suite
            .attempt(
                &format!("{writer} wrote {LINES} lines"),
                self.call(&mut write, writer),
            )
            .is_none()
        {
            return Ok(());
        }
        for reader in READERS {
            let mut read = self.reader(reader, &topic);
            let result = self
                .call(&mut read, reader)
                .and_then(|_| same_bytes(&self.setting.scratch.join("stdout"), &self.lines));
            suite.attempt(&format!("{writer} -> {reader} identical"), result);
        }
        Ok(())
    }

    fn with_keys(&self, writer: &str, suite: &mut Suite) -> Result<()> {
        let topic = self.topic("keyed", writer);
        self.create(&topic, KEYED_PARTITIONS, &[])?;
        let mut write = self.writer(writer, "keyed", &topic, &self.keyed)?;
        let done = self.call(&mut write, writer).and_then(|_| {
            for checker in CHECKERS {
                let mut check = self.setting.clients.python("matrix.py");
                check
                    .args(["check-keyed", checker, &self.bootstrap, &topic])
                    .arg(&self.keyed);
                self.call(&mut check, checker)?;
            }
            Ok(())
        });
        suite.attempt(
            &format!(
                "{writer}: {KEYED_PARTITIONS} partitions, every key in order, none missing or twice"
            ),
            done,
        );
        Ok(())
    }

    fn odd(&self, writer: &str, suite: &mut Suite) -> Result<()> {
        let topic = self.topic("odd", writer);
        self.create(&topic, 1, &["max.message.bytes=4194304"])?;
        let mut write = self.writer(writer, "odd", &topic, Path::new(""))?;
        if suite
            .attempt(
                &format!("{writer} wrote the odd records"),
                self.call(&mut write, writer),
            )
            .is_none()
        {
            return Ok(());
        }
        for checker in CHECKERS {
            let mut check = self.setting.clients.python("matrix.py");
            check.args(["check-odd", checker, &self.bootstrap, &topic, writer]);
            let what =
                format!("{writer} -> {checker}: nulls, empty, 64 headers and 1 MiB byte for byte");
            suite.attempt(&what, self.call(&mut check, checker).map(drop));
        }
        Ok(())
    }

    fn writer(&self, name: &str, action: &str, topic: &str, file: &Path) -> Result<Command> {
        let clients = &self.setting.clients;
        let mut command = match name {
            "console-producer" => {
                let mut command = clients.kafka("kafka-console-producer");
                command.args(["--bootstrap-server", &self.bootstrap, "--topic", topic]);
                if action == "keyed" {
                    command.args([
                        "--reader-property",
                        "parse.key=true",
                        "--reader-property",
                        "key.separator=:",
                    ]);
                }
                command.stdin(File::open(file)?);
                return Ok(command);
            }
            "kafkajs" => {
                let mut command = clients.node("matrix.js");
                command.args([action, &self.bootstrap, topic]);
                command
            }
            python => {
                let mut command = clients.python("matrix.py");
                command.args([action, python, &self.bootstrap, topic]);
                command
            }
        };
        if !file.as_os_str().is_empty() {
            command.arg(file);
        }
        Ok(command)
    }

    fn reader(&self, name: &str, topic: &str) -> Command {
        match name {
            "kcat" => {
                let mut kcat = command("kcat");
                kcat.args([
                    "-C",
                    "-b",
                    &self.bootstrap,
                    "-t",
                    topic,
                    "-p",
                    "0",
                    "-o",
                    "beginning",
                    "-e",
                    "-q",
                ]);
                kcat.stdin(Stdio::null());
                kcat
            }
            "console-consumer" => {
                let mut java = self.setting.clients.kafka("kafka-console-consumer");
                java.args([
                    "--bootstrap-server",
                    &self.bootstrap,
                    "--topic",
                    topic,
                    "--partition",
                    "0",
                ]);
                java.args([
                    "--offset",
                    "earliest",
                    "--timeout-ms",
                    "30000",
                    "--max-messages",
                    &LINES.to_string(),
                ]);
                java
            }
            python => {
                let mut read = self.setting.clients.python("matrix.py");
                read.args(["read", python, &self.bootstrap, topic]);
                read
            }
        }
    }
}

//! `start`: Kafka's property files as they are, refusals that a person can act on, and one broker per data directory.

use super::subject::{Broker, Spec, Subject, free_port, http_get};
use super::{Setting, Suite};
use crate::process::{self, root, word};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

const END_LIMIT: Duration = Duration::from_secs(30);

/// A property file with one bad value, and the words that the message must hold beside file, key and value.
const BAD_VALUES: &[(&str, &str, &str)] = &[
    ("num.partitions", "0", "1"),
    ("log.segment.bytes", "many", ""),
    ("log.flush.interval.messages", "0", "1"),
    ("log.retention.ms", "-2", "-1"),
    ("socket.request.max.bytes", "99999999999", ""),
];
const LINES_BEFORE: usize = 3;

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let Subject::Corelog(program) = &setting.subject else {
        bail!("this suite is about corelogd's own start")
    };
    let configs = root().join("engine/tests/configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&configs)
        .with_context(|| format!("no {}", configs.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "properties")
        })
        .collect();
    files.sort();
    suite.check(files.len() >= 2, format!("{} property files", files.len()));
    for file in &files {
        starts_with(setting, suite, program, file)?;
    }
    second_broker(setting, suite, program)?;
    for (key, value, bound) in BAD_VALUES {
        bad_value(setting, suite, program, key, value, bound)?;
    }
    Ok(())
}

/// The file is not touched; directory and ports go over it, under the file's own listener names, so that suites never
/// meet.
fn starts_with(setting: &Setting, suite: &mut Suite, program: &Path, file: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default().display().to_string();
    let listeners = format!(
        "PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}",
        free_port()?,
        free_port()?
    );
    let mut spec = Spec::new(&setting.dir("data")?)
        .set(&format!("listeners={listeners}"))
        .set(&format!("advertised.listeners={listeners}"));
    spec.args.push(file.display().to_string());
    let Some(mut broker) =
        suite.attempt(&format!("{name} starts"), Broker::corelog(program, &spec))
    else {
        return Ok(());
    };
    let ready = broker
        .lines()
        .into_iter()
        .find(|line| line.starts_with("ready "))
        .unwrap_or_default();
    let complete = ["kafka", "http", "shards", "partitions", "start_ms"]
        .iter()
        .all(|key| word(&ready, key).is_some());
    suite.check(complete, format!("{name}: `{ready}`"));
    suite.attempt(
        &format!("{name}: /health answers"),
        http_get(&broker.http, "/health"),
    );
    let code = broker.stop()?;
    suite.check(
        code == 0,
        format!("{name}: SIGTERM ends with exit code {code}"),
    );
    Ok(())
}

fn second_broker(setting: &Setting, suite: &mut Suite, program: &Path) -> Result<()> {
    let data = setting.dir("data")?;
    let first = Broker::corelog(program, &Spec::new(&data))?;
    let mut second = Broker::corelog_command(program, &Spec::new(&data));
    let end = process::run(&mut second, &setting.scratch, END_LIMIT)?;
    let says = end.stderr.lines().last().unwrap_or_default().to_owned();
    suite.check(
        end.code == 1 && end.stderr.contains(&data.display().to_string()),
        format!(
            "a second broker on the same directory is refused: exit {}, `{says}`",
            end.code
        ),
    );
    suite.attempt("the first one serves on", http_get(&first.http, "/health"));
    Ok(())
}

fn bad_value(
    setting: &Setting,
    suite: &mut Suite,
    program: &Path,
    key: &str,
    value: &str,
    bound: &str,
) -> Result<()> {
    let file = setting.scratch.join("bad.properties");
    let comments = "# a line before\n".repeat(LINES_BEFORE);
    std::fs::write(
        &file,
        format!("{comments}{key}={value}\nnum.io.threads=8\n"),
    )?;
    let mut spec = Spec::new(&setting.dir("data")?);
    spec.args.push(file.display().to_string());
    let mut start = Broker::corelog_command(program, &spec);
    let end = process::run(&mut start, &setting.scratch, END_LIMIT)?;
    let line = (LINES_BEFORE + 1).to_string();
    let names_all = ["bad.properties", line.as_str(), key, value, bound]
        .iter()
        .all(|part| end.stderr.contains(part));
    let says = end
        .stderr
        .lines()
        .find(|line| line.contains(key))
        .unwrap_or("nothing about the key")
        .to_owned();
    suite.check(
        end.code == 1 && names_all,
        format!("{key}={value} stops with exit {}: `{says}`", end.code),
    );
    Ok(())
}

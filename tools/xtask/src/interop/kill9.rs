//! `kill9`: nothing acknowledged is lost, doubled, reordered or moved when the broker is killed under load (R11, R31, R32).

use super::clients::CALL_LIMIT;
use super::dump_facts::{self, Facts};
use super::subject::{Broker, Spec, Subject};
use super::{Setting, Suite};
use crate::process::{self, Dialogue, number, word};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PARTITIONS: u32 = 12;
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// The bug that the suite must find, and how many kills it gets for that.
const PLANTED: &str = "ack-on-append";
const PLANTED_ROUNDS: u32 = 10;
/// What DumpLogSegments prints when a file is not as Kafka wants it.
const DUMP_COMPLAINTS: &[&str] = &["invalid bytes", "Exception", "Mismatch", "isvalid: false"];

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    match &setting.planted {
        Some(bug) => planted(setting, suite, bug),
        None => {
            real(setting, suite)?;
            match setting.subject {
                Subject::Corelog(_) => planted(setting, suite, PLANTED),
                Subject::Kafka | Subject::Running(_) => Ok(()),
            }
        }
    }
}

struct Totals {
    rounds: u32,
    in_flight_rounds: u32,
    line: String,
}

impl Totals {
    fn number(&self, key: &str) -> Result<u64> {
        number(&self.line, key)
    }
}

fn real(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let data = setting.dir("data")?;
    let spec = Spec::new(&data).set("corelog.shards=4");
    let totals = rounds(setting, &spec, setting.rounds, |_| true)?;
    println!(
        "  rounds={} acked={} lost={} duplicated={} reordered={} offset_moved={}",
        totals.rounds,
        totals.number("acked")?,
        totals.number("lost")?,
        totals.number("duplicated")?,
        totals.number("reordered")?,
        totals.number("offset_moved")?
    );
    suite.check(
        totals.number("acked")? > 0,
        format!("{} records acknowledged", totals.number("acked")?),
    );
    for key in ["lost", "duplicated", "reordered", "offset_moved"] {
        suite.check(
            totals.number(key)? == 0,
            format!("{key}={}", totals.number(key)?),
        );
    }
    let failed = totals.number("failed")?;
    suite.check(
        failed == 0,
        format!("the idempotent producer outlived every kill, failed={failed}"),
    );
    let needed = totals.rounds * 3 / 4;
    let what = format!(
        "{} of {} kills hit requests in flight, {needed} are needed",
        totals.in_flight_rounds, totals.rounds
    );
    suite.check(totals.in_flight_rounds >= needed, what);
    dump(setting, suite, &spec)
}

/// The same against a broker that acknowledges too early: a suite that cannot see that sees nothing.
fn planted(setting: &Setting, suite: &mut Suite, bug: &str) -> Result<()> {
    let program = super::build(Some("planted"))?;
    let broken = Setting {
        subject: Subject::Corelog(program),
        clients: setting.clients.clone(),
        scratch: setting.scratch.clone(),
        planted: None,
        part: None,
        ..*setting
    };
    let mut spec = Spec::new(&broken.dir("planted")?).set("corelog.shards=4");
    spec.args.extend(["--planted".to_owned(), bug.to_owned()]);
    let totals = rounds(&broken, &spec, PLANTED_ROUNDS, |line| {
        number(line, "lost").is_ok_and(|lost| lost == 0)
    })?;
    let lost = totals.number("lost")?;
    suite.check(
        lost > 0,
        format!(
            "planted {bug}: found after {} kills, lost={lost}",
            totals.rounds
        ),
    );
    Ok(())
}

/// Load, kill -9, restart, check; as often as `rounds` says and while `go_on` likes the last line.
fn rounds(
    setting: &Setting,
    spec: &Spec,
    rounds: u32,
    go_on: impl Fn(&str) -> bool,
) -> Result<Totals> {
    let mut spec = spec.clone();
    let mut broker = Broker::start(setting, &spec)?;
    spec.port = broker.port()?;
    let mut helper = setting.clients.python("kill9.py");
    helper.args([&broker.kafka, &PARTITIONS.to_string()]);
    let mut load = Dialogue::start(&mut helper, ANSWER_LIMIT)?;
    let mut chance = Chance::seeded();
    println!("  seed={}", chance.0);
    let mut totals = Totals {
        rounds: 0,
        in_flight_rounds: 0,
        line: String::new(),
    };
    while totals.rounds < rounds {
        totals.rounds += 1;
        load.ask("load", ANSWER_LIMIT)?;
        std::thread::sleep(Duration::from_millis(300 + chance.below(1700)));
        broker.kill()?;
        let killed = load.ask("killed", ANSWER_LIMIT)?;
        broker = Broker::start(setting, &spec)?;
        totals.line = load.ask("check", ANSWER_LIMIT)?;
        totals.in_flight_rounds += u32::from(number(&killed, "in_flight_at_kill")? > 0);
        println!(
            "  round={} {killed} bytes_cut={} {}",
            totals.rounds,
            bytes_cut(&broker),
            totals.line
        );
        if !go_on(&totals.line) {
            return Ok(totals);
        }
    }
    totals.line = load.ask("final", ANSWER_LIMIT)?;
    load.send("quit")?;
    let code = broker.stop()?;
    ensure!(
        code == 0 || matches!(setting.subject, Subject::Kafka),
        "SIGTERM ended with exit code {code}"
    );
    Ok(totals)
}

/// Sum over what recovery says it cut.
fn bytes_cut(broker: &Broker) -> u64 {
    let lines = broker.lines();
    let recovered = lines.iter().filter(|line| line.contains("recovered"));
    recovered
        .filter_map(|line| word(line, "bytes_cut")?.parse::<u64>().ok())
        .sum()
}

/// One more start and clean stop, then Kafka's own reader over every file.
fn dump(setting: &Setting, suite: &mut Suite, spec: &Spec) -> Result<()> {
    let mut broker = Broker::start(setting, spec)?;
    let code = broker.stop()?;
    suite.check(
        code == 0 || matches!(setting.subject, Subject::Kafka),
        format!("clean stop: exit code {code}"),
    );
    let mut files = Vec::new();
    find_files(&spec.data, &mut files)?;
    files.sort();
    ensure!(
        !files.is_empty(),
        "no log files below {}",
        spec.data.display()
    );
    let mut complaints = 0;
    let mut facts = Facts::new();
    for chunk in files.chunks(40) {
        let list: Vec<String> = chunk
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut dump = setting.clients.kafka("kafka-dump-log");
        dump.args(["--deep-iteration", "--files", &list.join(",")]);
        let output = process::run(&mut dump, &setting.scratch, CALL_LIMIT * 2)?;
        if output.code != 0 {
            complaints += 1;
            println!(
                "  DumpLogSegments ended with exit code {}: {}",
                output.code,
                output.tail()
            );
        }
        dump_facts::of_kafka(&output.stdout, &mut facts);
        for line in output.stdout.lines().chain(output.stderr.lines()) {
            if DUMP_COMPLAINTS
                .iter()
                .any(|complaint| line.contains(complaint))
            {
                complaints += 1;
                if complaints < 6 {
                    println!("  DumpLogSegments: {line}");
                }
            }
        }
    }
    suite.check(
        complaints == 0,
        format!(
            "DumpLogSegments over {} files: {complaints} complaints",
            files.len()
        ),
    );
    match setting.subject {
        Subject::Corelog(_) => dump_facts::compare(setting, suite, &files, &facts),
        Subject::Kafka | Subject::Running(_) => Ok(()),
    }
}

fn find_files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            // The metadata log is not a partition of records.
            if !path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("__cluster_metadata"))
            {
                find_files(&path, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|ending| ["log", "index", "timeindex"].iter().any(|e| ending == *e))
        {
            found.push(path);
        }
    }
    if found.len() > 10_000 {
        bail!("more than 10000 files below {}", dir.display());
    }
    Ok(())
}

/// xorshift: the moments of the kills; the seed is printed.
pub struct Chance(pub u64);

impl Chance {
    /// From the clock.
    pub fn seeded() -> Chance {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.subsec_nanos());
        Chance(u64::from(now) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

//! Foreign clients against the built broker.
//!
//! A suite is a function that starts brokers through [`subject`], drives clients nobody here wrote, and reports each
//! check on its [`Suite`]. Everything started is killed at the end, every wait is bounded, and all files live below
//! `target/interop/run`. A client that is missing is a failure that names `tools/interop/setup`.

pub mod barrier;
pub(crate) mod clients;
mod dump_facts;
mod flush;
pub(crate) mod freeze;
mod groups;
mod hostile;
mod kcat;
pub(crate) mod kill9;
pub(crate) mod loop_device;
mod matrix;
mod partitions;
mod ranges;
mod start;
pub(crate) mod subject;
mod tail;

use crate::process::{Guard, command, root, target_dir};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use clients::Clients;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use subject::Subject;

/// A suite: its name and what it runs.
type Run = fn(&Setting, &mut Suite) -> Result<()>;

/// In the order in which a failure is easiest to understand.
const SUITES: &[(&str, Run)] = &[
    ("start", start::run),
    ("ranges", ranges::run),
    ("kcat", kcat::run),
    ("matrix", matrix::run),
    ("flush", flush::run),
    ("tail", tail::run),
    ("groups", groups::run),
    ("hostile", hostile::run),
    ("partitions", partitions::run),
    ("kill9", kill9::run),
    ("barrier", barrier::run),
];

/// What a run with --quick leaves out, unless it is asked for by name.
const FULL_ONLY: &[&str] = &["hostile", "barrier"];

/// What `cargo xtask interop` can be told.
#[derive(Args, Clone)]
pub struct Options {
    /// One of: start, ranges, kcat, matrix, flush, tail, groups, hostile, partitions, kill9, barrier. All of them without a name.
    name: Option<String>,
    /// Smaller inputs and fewer rounds: minutes instead of an hour.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The full size; the default.
    #[arg(long)]
    full: bool,
    /// Kills in the kill9 suite (20; 4 with --quick) and of the broker in the groups suite (10; 3 with --quick).
    #[arg(long)]
    rounds: Option<u32>,
    /// Only the part of kill9 that runs against a broker with this bug planted.
    #[arg(long, value_name = "BUG")]
    planted: Option<String>,
    /// Run the clients against a broker that runs already; suites that must start one refuse.
    #[arg(long, value_name = "HOST:PORT", hide = true)]
    bootstrap: Option<String>,
    /// Use this corelogd instead of building one.
    #[arg(long, value_name = "PATH", hide = true)]
    program: Option<PathBuf>,
    /// The broker to run against. Against Apache Kafka (from the jars) a failure is one of the suite itself.
    #[arg(long, value_enum, default_value_t = Against::Corelog)]
    against: Against,
    /// With `groups --against kafka`: write what Kafka's tools print to tools/interop/golden.
    #[arg(long)]
    record: bool,
    /// Only this part of the groups suite: read, churn, kills or commands.
    #[arg(long)]
    part: Option<String>,
}

/// Whose broker.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The built `corelogd`.
    Corelog,
    /// Apache Kafka.
    Kafka,
}

/// What every suite is given.
pub struct Setting {
    /// The broker under test.
    pub subject: Subject,
    /// The foreign clients.
    pub clients: Clients,
    /// Small sizes.
    pub quick: bool,
    /// Kills in kill9.
    pub rounds: u32,
    /// Kills of the broker in groups.
    pub group_rounds: u32,
    /// What Kafka prints is to be kept.
    pub record: bool,
    /// The only part of groups that is wanted.
    pub part: Option<String>,
    /// The bug to plant, when only that part is wanted.
    pub planted: Option<String>,
    /// An empty directory of the suite's own.
    pub scratch: PathBuf,
}

impl Setting {
    /// For checks that are no suite of these: a broker of this program, files below `scratch`.
    pub(crate) fn of(program: PathBuf, clients: Clients, quick: bool, scratch: PathBuf) -> Setting {
        Setting {
            subject: Subject::Corelog(program),
            clients,
            quick,
            rounds: 0,
            group_rounds: 0,
            record: false,
            part: None,
            planted: None,
            scratch,
        }
    }

    /// A new empty directory below the suite's own.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

/// The checks of one suite.
pub struct Suite {
    passed: u32,
    failed: u32,
}

impl Suite {
    /// One check: `what` says what holds (or does not), with its numbers.
    pub fn check(&mut self, ok: bool, what: impl AsRef<str>) -> bool {
        let what = what.as_ref();
        if ok {
            self.passed += 1;
            println!("  ok: {what}");
        } else {
            self.failed += 1;
            println!("  FAILED: {what}");
        }
        ok
    }

    /// A step that can fail in itself counts as one check.
    pub fn attempt<T>(&mut self, what: &str, step: Result<T>) -> Option<T> {
        match step {
            Ok(value) => {
                self.check(true, what);
                Some(value)
            }
            Err(error) => {
                self.check(false, format!("{what}: {error:#}"));
                None
            }
        }
    }
}

/// Runs what was asked for; false when any check of any suite failed.
pub fn run(options: &Options) -> Result<bool> {
    let wanted: Vec<_> = match &options.name {
        None => SUITES
            .iter()
            .copied()
            .filter(|(name, _)| !options.quick || !FULL_ONLY.contains(name))
            .collect(),
        Some(name) => SUITES
            .iter()
            .copied()
            .filter(|(known, _)| known == name)
            .collect(),
    };
    if wanted.is_empty() {
        let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
        bail!("no suite of that name; there are {}", names.join(", "));
    }
    let clients = Clients::find()?;
    let subject = match (&options.bootstrap, options.against) {
        (Some(address), _) => Subject::Running(address.clone()),
        (None, Against::Kafka) => Subject::Kafka,
        (None, Against::Corelog) => Subject::Corelog(match &options.program {
            Some(program) => program.clone(),
            None => build(None)?,
        }),
    };
    let mut all_passed = true;
    for (name, suite) in wanted {
        all_passed &= run_one(name, suite, options, &subject, &clients)?;
    }
    Ok(all_passed)
}

fn run_one(
    name: &str,
    suite: Run,
    options: &Options,
    subject: &Subject,
    clients: &Clients,
) -> Result<bool> {
    let scratch = target_dir()
        .join("interop/run")
        .join(format!("{name}-{}", std::process::id()));
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;
    let context = Setting {
        subject: subject.clone(),
        clients: clients.clone(),
        quick: options.quick && !options.full,
        rounds: options.rounds.unwrap_or(if options.quick { 4 } else { 20 }),
        group_rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 10 }),
        record: options.record && options.against == Against::Kafka,
        part: options.part.clone(),
        planted: options.planted.clone(),
        scratch: scratch.clone(),
    };
    println!("{name}:");
    let begin = Instant::now();
    let mut result = Suite {
        passed: 0,
        failed: 0,
    };
    if let Err(error) = suite(&context, &mut result) {
        result.check(false, format!("the suite could not go on: {error:#}"));
    }
    if result.failed == 0 && result.passed == 0 {
        result.check(false, "nothing was checked");
    }
    println!("{name}: {} passed, {} failed", result.passed, result.failed);
    println!("  ({name} took {:.0} s)", begin.elapsed().as_secs_f64());
    if result.failed == 0 {
        std::fs::remove_dir_all(&scratch)?;
    } else {
        println!("  (logs and data: {})", scratch.display());
    }
    Ok(result.failed == 0)
}

/// Builds `corelogd` in release mode and gives its path. With a bug planted it goes to a folder of its own, so that
/// the real binary is never confused with it.
pub(crate) fn build(feature: Option<&str>) -> Result<PathBuf> {
    let dir = match feature {
        None => target_dir(),
        Some(feature) => target_dir().join(feature),
    };
    let mut cargo = command("cargo");
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "corelog-engine",
        "--bin",
        "corelogd",
    ]);
    cargo.arg("--target-dir").arg(&dir).current_dir(root());
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    let mut child = Guard(cargo.spawn().context("cannot run cargo")?);
    let status = child.wait_for(Duration::from_secs(3600))?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "corelogd did not build"
    );
    Ok(dir.join("release/corelogd"))
}

//! `cargo xtask fuzz`: libFuzzer on the stable toolchain.
//!
//! The fuzzer is built with the compiler's own coverage pass, switched on by flags, into a target directory of its
//! own. What it finds interesting stays in `WORK/TARGET` and is gone on with by the next run; `--keep` puts a minimal
//! part of it into `tools/fuzz/corpus/TARGET`, which `cargo test` replays. Needs a C++ compiler.

use crate::process::{Guard, command, root, target_dir};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// The target, `all`, or `list`.
    target: String,
    /// Seconds for each target; 0 only builds, and keeps where asked.
    #[arg(default_value_t = 60)]
    seconds: u64,
    /// Afterwards, put a minimal part of what was found into tools/fuzz/corpus.
    #[arg(long)]
    keep: bool,
    /// Resident memory at which an input counts as a find, MiB.
    #[arg(long, default_value_t = 1024)]
    rss_limit_mb: u64,
    /// Seconds after which an input counts as a find.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Most bytes and files kept of one target.
const KEPT_BYTES_MAX: u64 = 40 << 10;
const KEPT_FILES_MAX: usize = 120;
/// Beyond the seconds asked: reading the corpus, one last input, writing statistics.
const GRACE: Duration = Duration::from_secs(120);

/// One target, as the fuzzer lists it.
struct Target {
    name: String,
    max_len: String,
    what: String,
}

/// What became of a run.
struct Outcome {
    executions: u64,
    seconds: u64,
    finds: Vec<PathBuf>,
}

/// Builds, fuzzes, prints; false when something was found.
pub fn run(options: &Options) -> Result<bool> {
    let fuzzer = build()?;
    let all = list(&fuzzer)?;
    if options.target == "list" {
        for target in &all {
            println!("{:18} {}", target.name, target.what);
        }
        return Ok(true);
    }
    let chosen: Vec<&Target> = all
        .iter()
        .filter(|target| options.target == "all" || target.name == options.target)
        .collect();
    ensure!(!chosen.is_empty(), "no target {}", options.target);
    let mut lines = Vec::new();
    let mut clean = true;
    for target in chosen {
        if options.seconds > 0 {
            let outcome = fuzz(&fuzzer, target, options)?;
            for find in &outcome.finds {
                println!("fuzz: {}: found {}", target.name, find.display());
            }
            clean &= outcome.finds.is_empty();
            lines.push(line(target, &outcome));
            println!("{}", lines[lines.len() - 1]);
        }
        if options.keep {
            keep(&fuzzer, target)?;
        }
    }
    if lines.len() > 1 {
        println!("\n| target | seconds | executions | finds |\n|---|---|---|---|");
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(clean)
}

/// A row of the table in docs/RELIABILITY.md.
fn line(target: &Target, outcome: &Outcome) -> String {
    format!(
        "| {} | {} | {} | {} |",
        target.name,
        outcome.seconds,
        outcome.executions,
        outcome.finds.len()
    )
}

fn fuzz_dir() -> PathBuf {
    target_dir().join("fuzz")
}

/// The triple of this machine, as the compiler says it: with it, build scripts get no flags.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

fn build() -> Result<PathBuf> {
    let (directory, host) = (fuzz_dir(), host()?);
    let status = Command::new("nice")
        .args([
            "-n",
            "10",
            "cargo",
            "build",
            "--locked",
            "--profile",
            "fuzz",
        ])
        .args(["-p", "corelog-fuzz", "--bin", "corelog-fuzz"])
        .args(["--features", "libfuzzer", "--target", &host])
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &directory)
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the fuzzer does not build");
    Ok(directory.join(host).join("fuzz/corelog-fuzz"))
}

fn list(fuzzer: &Path) -> Result<Vec<Target>> {
    let output = command(fuzzer)
        .env("CORELOG_FUZZ_TARGET", "list")
        .output()?;
    ensure!(output.status.success(), "the fuzzer lists no targets");
    let text = String::from_utf8(output.stdout)?;
    let target = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(Target {
            name: words.next()?,
            max_len: words.next()?,
            what: words.next()?,
        })
    };
    Ok(text.lines().filter_map(target).collect())
}

fn corpus_dir(target: &Target) -> PathBuf {
    root().join("tools/fuzz/corpus").join(&target.name)
}

fn work_dir(target: &Target) -> Result<PathBuf> {
    let directory = fuzz_dir().join("work").join(&target.name);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The fuzzer, with lowest priority, on one target.
fn on(fuzzer: &Path, target: &Target) -> Command {
    let mut command = command("nice");
    command
        .args(["-n", "19"])
        .arg(fuzzer)
        .env("CORELOG_FUZZ_TARGET", &target.name)
        .env("RUST_BACKTRACE", "1");
    command
}

fn fuzz(fuzzer: &Path, target: &Target, options: &Options) -> Result<Outcome> {
    let (work, corpus) = (work_dir(target)?, corpus_dir(target));
    let finds = fuzz_dir().join("finds").join(&target.name);
    fs::create_dir_all(&finds)?;
    let before = files(&finds)?;
    let log = fuzz_dir().join(format!("{}.log", target.name));
    let begin = Instant::now();
    let mut command = on(fuzzer, target);
    command
        .env("CORELOG_FUZZ_SEEDS", &work)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={}", target.max_len))
        .arg(format!("-rss_limit_mb={}", options.rss_limit_mb))
        .arg(format!("-timeout={}", options.timeout))
        .arg(format!("-artifact_prefix={}/", finds.display()))
        .args(["-print_final_stats=1", "-reload=0", "-use_value_profile=1"])
        .arg(&work);
    if corpus.is_dir() {
        command.arg(&corpus);
    }
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?);
    let mut child = Guard(command.spawn().context("cannot run the fuzzer")?);
    let limit = Duration::from_secs(options.seconds) + GRACE;
    let Some(status) = child.wait_for(limit)? else {
        bail!("{} did not end; see {}", target.name, log.display());
    };
    let seconds = begin.elapsed().as_secs();
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let executions = executions(&text);
    let new = files(&finds)?;
    let new: Vec<_> = new
        .into_iter()
        .filter(|file| !before.contains(file))
        .collect();
    ensure!(
        status.success() != new.is_empty() || status.success(),
        "{} failed without a find; see {}",
        target.name,
        log.display()
    );
    Ok(Outcome {
        executions: executions.with_context(|| format!("no statistics in {}", log.display()))?,
        seconds,
        finds: new,
    })
}

/// The number of inputs tried, which libFuzzer prints at the end and at a find.
fn executions(log: &str) -> Option<u64> {
    let count = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    count.trim().parse().ok()
}

/// Replaces what is kept of a target by a minimal set of inputs that reaches all that the work does.
fn keep(fuzzer: &Path, target: &Target) -> Result<()> {
    let (work, corpus) = (work_dir(target)?, corpus_dir(target));
    let merged = fuzz_dir().join("merged").join(&target.name);
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    let mut command = on(fuzzer, target);
    command
        .env("CORELOG_FUZZ_SEEDS", &work)
        .args(["-merge=1", "-max_len=4096"])
        .args([&merged, &work]);
    if corpus.is_dir() {
        command.arg(&corpus);
    }
    let output = command.output().context("cannot run the fuzzer")?;
    ensure!(
        output.status.success(),
        "{}: the corpus does not merge: {}",
        target.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for file in files(&merged)? {
        found.push((fs::metadata(&file)?.len(), file));
    }
    // Smallest first: the most different inputs in few bytes.
    found.sort();
    if corpus.exists() {
        fs::remove_dir_all(&corpus)?;
    }
    fs::create_dir_all(&corpus)?;
    let (mut bytes, mut kept) = (0, 0);
    for (len, file) in &found {
        if bytes + len > KEPT_BYTES_MAX || kept == KEPT_FILES_MAX {
            break;
        }
        bytes += len;
        kept += 1;
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, corpus.join(&name.to_string_lossy()[..12]))?;
    }
    println!(
        "fuzz: {}: {kept} of {} inputs are kept, {bytes} bytes",
        target.name,
        found.len()
    );
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::executions;

    #[test]
    fn executions_are_read_from_the_statistics() {
        let log = "#2\tINITED cov: 1\nDone 700 runs\nstat::number_of_executed_units: 700\n";
        assert_eq!(executions(log), Some(700));
        assert_eq!(executions("#2\tINITED cov: 1\n"), None);
    }
}

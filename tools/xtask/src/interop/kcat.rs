//! `kcat`: real text through every codec comes back byte for byte (R03, R14, R65).

use super::clients::CALL_LIMIT;
use super::subject::{Broker, Spec};
use super::{Setting, Suite};
use crate::process::{self, command};
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const CODECS: &[&str] = &["none", "gzip", "snappy", "lz4", "zstd"];
const LINES_MIN: usize = 1_000_000;
const LINES_QUICK: usize = 200_000;

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let (input, lines) = real_input(setting)?;
    println!(
        "  input: {lines} lines, {} bytes",
        std::fs::metadata(&input)?.len()
    );
    if !setting.quick {
        suite.check(
            lines > LINES_MIN,
            format!("the input has over {LINES_MIN} lines: {lines}"),
        );
    }
    let broker = Broker::start(setting, &Spec::new(&setting.dir("data")?))?;
    for codec in CODECS {
        let topic = format!("kcat-{codec}-{}", std::process::id());
        setting
            .clients
            .create_topic(&setting.scratch, &broker.kafka, &topic, 1, &[])?;
        match round_trip(setting, &broker.kafka, &topic, codec, &input) {
            Ok(()) => suite.check(true, format!("{codec} identical")),
            Err(error) => suite.check(false, format!("{codec}: {error:#}")),
        };
    }
    Ok(())
}

/// The package descriptions of this Debian, without empty lines: text that nobody made for this test.
pub fn real_input(setting: &Setting) -> Result<(PathBuf, usize)> {
    let whole = process::run(
        command("apt-cache").arg("dumpavail"),
        &setting.scratch,
        CALL_LIMIT,
    )?;
    ensure!(
        whole.code == 0,
        "apt-cache dumpavail failed:\n    {}",
        whole.tail()
    );
    let limit = if setting.quick {
        LINES_QUICK
    } else {
        usize::MAX
    };
    let path = setting.scratch.join("in");
    let mut file = BufWriter::new(File::create(&path)?);
    let mut lines = 0;
    for line in whole
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .take(limit)
    {
        writeln!(file, "{line}")?;
        lines += 1;
    }
    file.flush()?;
    ensure!(
        lines > 1000,
        "apt-cache dumpavail printed only {lines} lines: run apt-get update"
    );
    Ok((path, lines))
}

fn round_trip(
    setting: &Setting,
    bootstrap: &str,
    topic: &str,
    codec: &str,
    input: &Path,
) -> Result<()> {
    let mut produce = command("kcat");
    produce
        .args([
            "-P", "-b", bootstrap, "-t", topic, "-p", "0", "-z", codec, "-l",
        ])
        .arg(input)
        .stdin(Stdio::null());
    process::run(&mut produce, &setting.scratch, CALL_LIMIT)?.ok("kcat -P")?;
    let mut consume = command("kcat");
    consume
        .args([
            "-C",
            "-b",
            bootstrap,
            "-t",
            topic,
            "-p",
            "0",
            "-o",
            "beginning",
            "-e",
            "-q",
        ])
        .stdin(Stdio::null());
    let got = process::run(&mut consume, &setting.scratch, CALL_LIMIT)?;
    ensure!(got.code == 0, "kcat -C: {}", got.tail());
    drop(got);
    same_bytes(&setting.scratch.join("stdout"), input)
}

/// Compares two files and names the first line that differs.
pub fn same_bytes(got: &Path, expected: &Path) -> Result<()> {
    let mut got = BufReader::new(File::open(got)?);
    let mut expected = BufReader::new(File::open(expected)?);
    let (mut a, mut b, mut number) = (Vec::new(), Vec::new(), 0_u64);
    loop {
        a.clear();
        b.clear();
        got.read_until(b'\n', &mut a)?;
        expected.read_until(b'\n', &mut b)?;
        number += 1;
        ensure!(
            a == b,
            "line {number} differs: got `{}`, expected `{}`",
            String::from_utf8_lossy(&a).trim_end(),
            String::from_utf8_lossy(&b).trim_end()
        );
        if a.is_empty() {
            return Ok(());
        }
    }
}

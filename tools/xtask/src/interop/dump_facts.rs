//! What `corelog dump` says of segments, held against Kafka's DumpLogSegments: the same batches at the same places.

use super::{Setting, Suite};
use crate::process::{self, Guard, command, root, target_dir, word};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Base offset, last offset, records, position and bytes of a batch.
type Batch = [i64; 5];

/// Batches by file.
pub type Facts = BTreeMap<String, Vec<Batch>>;

const KAFKAS_KEYS: [&str; 5] = ["baseOffset:", "lastOffset:", "count:", "position:", "size:"];
const OUR_KEYS: [&str; 5] = ["base_offset", "last_offset", "count", "position", "bytes"];
const CALL_LIMIT: Duration = Duration::from_secs(600);

/// Takes the batches of an output of DumpLogSegments.
pub fn of_kafka(output: &str, facts: &mut Facts) {
    let mut file = None;
    for line in output.lines() {
        if let Some(path) = line.strip_prefix("Dumping ") {
            file = path.ends_with(".log").then(|| path.to_owned());
        } else if line.starts_with("baseOffset:")
            && let Some(file) = &file
            && let Some(batch) = numbers(|key| after(line, key), KAFKAS_KEYS)
        {
            facts.entry(file.clone()).or_default().push(batch);
        }
    }
}

/// The word after a key.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()
}

fn of_corelog(output: &str) -> Facts {
    let mut facts = Facts::new();
    let mut file = String::new();
    for line in output.lines() {
        if let Some(path) = line.strip_prefix("file ") {
            path.clone_into(&mut file);
        } else if line.starts_with("batch ")
            && let Some(batch) = numbers(|key| word(line, key), OUR_KEYS)
        {
            facts.entry(file.clone()).or_default().push(batch);
        }
    }
    facts
}

fn numbers<'a>(value: impl Fn(&str) -> Option<&'a str>, keys: [&str; 5]) -> Option<Batch> {
    let mut batch = [0; 5];
    for (number, key) in batch.iter_mut().zip(keys) {
        *number = value(key)?.parse().ok()?;
    }
    Some(batch)
}

/// Dumps the same files with `corelog` and compares.
pub fn compare(
    setting: &Setting,
    suite: &mut Suite,
    files: &[PathBuf],
    kafkas: &Facts,
) -> Result<()> {
    let corelog = build()?;
    let logs = files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "log"));
    let mut dump = command(corelog);
    dump.arg("dump").args(logs);
    let output = process::run(&mut dump, &setting.scratch, CALL_LIMIT)?;
    let ours = of_corelog(&output.stdout);
    let differing = kafkas
        .iter()
        .filter(|(file, batches)| ours.get(*file) != Some(*batches));
    let differing: Vec<_> = differing.map(|(file, _)| file).collect();
    for file in differing.iter().take(5) {
        println!("  corelog dump and DumpLogSegments differ over {file}");
    }
    let batches: usize = kafkas.values().map(Vec::len).sum();
    suite.check(
        output.code == 0 && differing.is_empty() && batches > 0 && ours.len() == kafkas.len(),
        format!(
            "corelog dump, held against DumpLogSegments: {} files, {batches} batches, {} files differ, exit code {}",
            kafkas.len(),
            differing.len(),
            output.code
        ),
    );
    Ok(())
}

/// Builds `corelog` in release mode.
fn build() -> Result<PathBuf> {
    let mut cargo = command("cargo");
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "corelog-tools",
    ]);
    cargo
        .arg("--target-dir")
        .arg(target_dir())
        .current_dir(root());
    let mut child = Guard(cargo.spawn().context("cannot run cargo")?);
    let status = child.wait_for(Duration::from_secs(3600))?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "corelog did not build"
    );
    Ok(target_dir().join("release/corelog"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_give_the_same_facts() {
        let mut kafkas = Facts::new();
        of_kafka(
            "Dumping /d/t-0/00000000000000000000.log\nLog starting offset: 0\n\
             baseOffset: 0 lastOffset: 4 count: 5 baseSequence: -1 lastSequence: -1 producerId: -1 \
             position: 0 CreateTime: 17 size: 371 magic: 2 compresscodec: none crc: 1 isvalid: true\n\
             | offset: 0 CreateTime: 17 keySize: 1\nDumping /d/t-0/00000000000000000000.index\n\
             offset: 4 position: 0\n",
            &mut kafkas,
        );
        let ours = of_corelog(
            "file /d/t-0/00000000000000000000.log\nbatch base_offset=0 last_offset=4 count=5 \
             position=0 bytes=371 create_time=17 codec=none\nzeros position=371 bytes=9\n",
        );
        assert_eq!(ours, kafkas);
        assert_eq!(ours.values().next(), Some(&vec![[0, 4, 5, 0, 371]]));
    }
}

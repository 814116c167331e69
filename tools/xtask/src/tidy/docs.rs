//! Documents that must agree with what is built: docs/CONFIG.md and docs/PROMISES.md.

use super::Findings;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// docs/CONFIG.md is what `corelogd --config-docs` prints.
pub fn config(root: &Path, findings: &mut Findings) -> Result<()> {
    let printed = Command::new("cargo")
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "corelog-engine",
            "--bin",
            "corelogd",
            "--",
            "--config-docs",
        ])
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    if !printed.status.success() {
        findings.error(format!(
            "corelogd --config-docs failed: {}",
            last_line(&printed.stderr)
        ));
        return Ok(());
    }
    let expected = String::from_utf8(printed.stdout)?;
    let Ok(found) = std::fs::read_to_string(root.join("docs/CONFIG.md")) else {
        findings.error("docs/CONFIG.md is missing: `cargo run -- --config-docs > docs/CONFIG.md`");
        return Ok(());
    };
    if let Some(line) = first_difference(&found, &expected) {
        findings.error(format!(
            "docs/CONFIG.md:{line} is not what corelogd prints: `cargo run -- --config-docs > docs/CONFIG.md`"
        ));
    }
    Ok(())
}

fn last_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

fn first_difference(a: &str, b: &str) -> Option<usize> {
    let (mut a, mut b) = (a.lines(), b.lines());
    let mut number = 1;
    loop {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (x, y) if x != y => return Some(number),
            _ => number += 1,
        }
    }
}

/// Every row of docs/PROMISES.md names tests or suites that exist.
pub fn promises(root: &Path, files: &[PathBuf], findings: &mut Findings) -> Result<()> {
    let Ok(table) = std::fs::read_to_string(root.join("docs/PROMISES.md")) else {
        findings.error("docs/PROMISES.md is missing");
        return Ok(());
    };
    let mut tests = BTreeSet::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|ending| ending == "rs"))
    {
        let text = std::fs::read_to_string(root.join(file))?;
        tests.extend(test_names(&text).map(str::to_owned));
    }
    judge(&table, &tests, findings);
    Ok(())
}

/// Names of functions that carry a promise: `fn r31_...`.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let name = line
            .trim_start()
            .trim_start_matches("async ")
            .strip_prefix("fn ")?
            .split(['(', '<'])
            .next()?;
        promise_of(name).map(|_| name)
    })
}

/// `r31_...` belongs to `R31`.
fn promise_of(test: &str) -> Option<String> {
    let digits = test.strip_prefix('r')?.split('_').next()?;
    (digits.len() == 2 && digits.chars().all(|c| c.is_ascii_digit()) && test.len() > 4)
        .then(|| format!("R{digits}"))
}

/// A row is `| R31 | ... | names |`; every name like `r31_...` in it must exist, and one of them must be the row's.
fn judge(table: &str, tests: &BTreeSet<String>, findings: &mut Findings) {
    let mut rows = BTreeSet::new();
    for line in table.lines() {
        let Some(row) = line
            .strip_prefix("| R")
            .and_then(|rest| rest.split(" |").next())
        else {
            continue;
        };
        let row = format!("R{row}");
        let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let named: Vec<&str> = words.filter(|word| promise_of(word).is_some()).collect();
        for test in &named {
            if !tests.contains(*test) {
                findings.error(format!(
                    "docs/PROMISES.md: {row} names the test `{test}`, which does not exist"
                ));
            }
        }
        if !named
            .iter()
            .any(|test| promise_of(test).as_deref() == Some(&row))
        {
            findings.error(format!(
                "docs/PROMISES.md: {row} names no test `{}_...`",
                row.to_lowercase()
            ));
        }
        if !rows.insert(row.clone()) {
            findings.error(format!("docs/PROMISES.md: {row} has two rows"));
        }
    }
    if rows.is_empty() {
        findings.error("docs/PROMISES.md has no row `| R.. | ... |`");
    }
    for test in tests {
        let Some(row) = promise_of(test) else {
            continue;
        };
        if !rows.contains(&row) {
            findings.error(format!(
                "the test `{test}` holds {row}, which docs/PROMISES.md does not promise"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_needs_a_test_of_its_own_that_exists() {
        let tests: BTreeSet<String> = ["r31_kill".to_owned(), "r10_acks".to_owned()].into();
        let errors = |table: &str| {
            let mut findings = Findings::default();
            judge(table, &tests, &mut findings);
            findings.errors
        };
        assert!(errors("| R31 | x | `r31_kill` |\n| R10 | y | r10_acks, r31_kill |\n").is_empty());
        assert_eq!(
            errors("| R31 | x | `r31_kill` |\n| R10 | y | r31_kill |\n").len(),
            1
        );
        assert_eq!(
            errors("| R31 | x | r31_gone |\n| R10 | y | r10_acks |\n").len(),
            1
        );
        assert_eq!(errors("| R31 | x | r31_kill |\n").len(), 1);
        assert_eq!(errors("nothing").len(), 3);
    }

    #[test]
    fn tests_are_found_by_their_names() {
        let text = "    #[test]\n    fn r31_kill() {}\n    async fn r10_acks() {}\n    fn right() {}\n    fn r1_no() {}\n";
        assert_eq!(
            test_names(text).collect::<Vec<_>>(),
            ["r31_kill", "r10_acks"]
        );
    }

    #[test]
    fn the_first_different_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some(2));
    }
}

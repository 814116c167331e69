//! `cargo xtask tidy`: the rules of the house that no compiler checks.

mod docs;
mod edges;
mod source;

use crate::process::root;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// What a check found: errors fail it, warnings are printed.
#[derive(Default)]
pub struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    /// Something that must not be.
    pub fn error(&mut self, what: impl Into<String>) {
        self.errors.push(what.into());
    }

    /// Something to look at.
    pub fn warning(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

/// Runs all checks; false when one found an error.
pub fn run() -> Result<bool> {
    let root = root();
    let mut findings = Findings::default();
    let files = tracked_files(&root)?;
    edges::check(&root, &mut findings)?;
    source::check(&root, &files, &mut findings)?;
    docs::config(&root, &mut findings)?;
    docs::promises(&root, &files, &mut findings)?;
    for warning in &findings.warnings {
        println!("tidy: warning: {warning}");
    }
    for error in &findings.errors {
        println!("tidy: error: {error}");
    }
    println!(
        "tidy: {} errors, {} warnings, {} files",
        findings.errors.len(),
        findings.warnings.len(),
        files.len()
    );
    Ok(findings.errors.is_empty())
}

/// The files that are, or would be, committed, relative to the root.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::process::Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    anyhow::ensure!(
        listed.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let names = String::from_utf8(listed.stdout)?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|p| root.join(p).is_file())
        .collect())
}

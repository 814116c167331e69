//! The metadata log. Only the broker's own program knows its records: it prints them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Findings, Options};

/// Has `corelogd` print a metadata log; its exit code says whether it is whole.
pub fn dump(options: &Options, directory: &Path, findings: &mut Findings) -> Result<()> {
    let program = crate::corelogd::path(options.corelogd.as_deref());
    let output = Command::new(&program)
        .arg("--dump-metadata")
        .arg(directory)
        .output()
        .with_context(|| not_there(&program))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        say!("{line}");
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        findings.damage(directory, said.trim());
    }
    Ok(())
}

fn not_there(program: &Path) -> String {
    format!(
        "cannot run {}, which knows the metadata log; name it with --corelogd",
        program.display()
    )
}

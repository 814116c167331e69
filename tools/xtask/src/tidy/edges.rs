//! Who may import whom. A new edge changes this table and the picture in docs/ARCHITECTURE.md in the same commit.

use super::Findings;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A crate and the crates of ours that it may depend on. Dev-dependencies, and edges to `corelog-sim` that only
/// tests have, are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("corelog-record", &[]),
    ("corelog-runtime", &[]),
    ("corelog-storage", &["corelog-record", "corelog-runtime"]),
    (
        "corelog-maintenance",
        &["corelog-record", "corelog-runtime", "corelog-storage"],
    ),
    ("corelog-net", &["corelog-record", "corelog-runtime"]),
    ("corelog-core", &["corelog-record"]),
    (
        "corelog-engine",
        &[
            "corelog-record",
            "corelog-runtime",
            "corelog-storage",
            "corelog-maintenance",
            "corelog-net",
            "corelog-core",
        ],
    ),
    (
        "corelog-sim",
        &[
            "corelog-record",
            "corelog-runtime",
            "corelog-storage",
            "corelog-maintenance",
            "corelog-net",
            "corelog-core",
            "corelog-engine",
        ],
    ),
    (
        "corelog-bench",
        &["corelog-net", "corelog-record", "corelog-runtime"],
    ),
    (
        "corelog-tools",
        &[
            "corelog-net",
            "corelog-record",
            "corelog-runtime",
            "corelog-storage",
        ],
    ),
    (
        "corelog-fuzz",
        &[
            "corelog-record",
            "corelog-storage",
            "corelog-net",
            "corelog-core",
            "corelog-engine",
        ],
    ),
    ("xtask", &[]),
];

/// Reads `cargo metadata` and reports every other edge.
pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    judge(&serde_json::from_slice(&output.stdout)?, findings)
}

fn judge(metadata: &Value, findings: &mut Findings) -> Result<()> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let names: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            findings.error(format!("crate {name} is not in the table of edges"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let test_only = dependency["kind"].as_str() == Some("dev");
            if names.contains(&to) && !test_only && !allowed.contains(&to) {
                findings.error(format!("{name} must not depend on {to}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Findings, judge};
    use serde_json::json;

    #[test]
    fn an_edge_that_is_not_in_the_table_is_an_error_unless_only_tests_have_it() {
        let package = |name: &str, kind: serde_json::Value| {
            json!({"packages": [
                {"name": "corelog-storage", "dependencies": []},
                {"name": name, "dependencies": [
                    {"name": "corelog-storage", "kind": kind}, {"name": "bytes", "kind": null}]}]})
        };
        let errors = |metadata: &serde_json::Value| {
            let mut findings = Findings::default();
            judge(metadata, &mut findings).unwrap();
            findings.errors
        };
        assert_eq!(
            errors(&package("corelog-net", json!(null))),
            ["corelog-net must not depend on corelog-storage"]
        );
        assert_eq!(errors(&package("corelog-net", json!("build"))).len(), 1);
        assert!(errors(&package("corelog-net", json!("dev"))).is_empty());
        assert!(errors(&package("corelog-engine", json!(null))).is_empty());
        assert_eq!(
            errors(&package("corelog-new", json!(null))),
            ["crate corelog-new is not in the table of edges"]
        );
    }
}

//! `cargo xtask ci`: what must hold before a change is kept, in the order of how soon it fails.

use crate::process::{Guard, command, root};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Name and cargo arguments of each step.
const STEPS: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("tests", &["test", "--workspace", "--locked"]),
    (
        "documentation",
        &["doc", "--workspace", "--no-deps", "--locked"],
    ),
];

const STEP_LIMIT: Duration = Duration::from_secs(3600);

/// Runs every step; false when one failed. The first failure ends it.
pub fn run() -> Result<bool> {
    for (name, args) in STEPS {
        let begin = Instant::now();
        let mut cargo = command("cargo");
        cargo.args(*args).current_dir(root());
        if *name == "documentation" {
            cargo.env("RUSTDOCFLAGS", "-D warnings");
        }
        let mut child = Guard(cargo.spawn().context("cannot run cargo")?);
        let ok = child
            .wait_for(STEP_LIMIT)?
            .is_some_and(|status| status.success());
        println!(
            "ci: {name} {} in {:.0} s",
            if ok { "passed" } else { "failed" },
            begin.elapsed().as_secs_f64()
        );
        if !ok {
            return Ok(false);
        }
    }
    crate::tidy::run()
}

//! `cargo xtask`: everything the project checks about itself.
//!
//! It depends on no crate of the workspace: it runs cargo, the built binaries and foreign clients, and judges what they
//! print. It must never know how the broker works inside. Start reading at [`Task`]; `interop/mod.rs` lists the suites.

#![expect(
    clippy::disallowed_methods,
    reason = "the rule is for the broker; this tool runs beside it"
)]

mod ci;
mod faults;
mod fuzz;
mod interop;
mod process;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Checks of the source and of the built broker.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

/// What can be asked for.
#[derive(Subcommand)]
enum Task {
    /// The rules of the house: crate edges, banned calls, generated docs, promises and their tests.
    Tidy,
    /// Formatting, lints, tests, documentation and tidy.
    Ci,
    /// Foreign clients against the broker; each suite ends with `NAME: N passed, M failed`.
    Interop(interop::Options),
    /// Real faults, one script each: disks that fill, fail and stall, kills at bad moments, a clock that goes back.
    Faults(faults::Options),
    /// Hostile bytes for the decoders, made by libFuzzer; prints a line per target for docs/RELIABILITY.md.
    Fuzz(fuzz::Options),
    /// What the broker calls on a file before its recovery reads it; `interop barrier` runs it as a process of its own.
    #[command(hide = true)]
    Barrier {
        /// The file.
        file: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Tidy => tidy::run(),
        Task::Ci => ci::run(),
        Task::Interop(options) => interop::run(&options),
        Task::Faults(options) => faults::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Barrier { file } => interop::barrier::call(&file).map(|()| true),
    };
    finish(done)
}

/// `Ok(false)` is a check that failed and was reported; `Err` is a check that could not be made.
fn finish(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

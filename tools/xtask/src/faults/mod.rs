//! Real faults: disks that fill, fail, stall and turn read-only, processes that are stopped and killed at bad moments, a
//! clock that goes back. Each makes and removes what it needs, also after a failure, and prints one line:
//! `FAULT acked=N read=N lost=0 client_errors=CODES healed_ms=N restarts=N`. One that did not meet its fault fails.
//!
//! Start reading at [`FAULTS`]; `scene.rs` is what they share.

mod cleanup;
mod disk;
mod kills;
mod process;
mod scene;

use crate::interop::Setting;
use crate::interop::clients::Clients;
use crate::process::target_dir;
use anyhow::{Result, bail};
use clap::Args;
use scene::Outcome;
use std::path::PathBuf;
use std::time::Instant;

/// A fault: does its work below the scratch directory and tells how it went.
type Fault = fn(&Setting) -> Result<Outcome>;

/// Name, whether --quick has it, and what it does.
const FAULTS: &[(&str, bool, Fault)] = &[
    ("disk-full-ext4", true, disk::full_ext4),
    ("disk-full-xfs", false, disk::full_xfs),
    ("eio", true, disk::eio),
    ("read-only", true, disk::read_only),
    ("slow-disk", false, disk::slow),
    ("direct-io-refused", true, disk::direct_io_refused),
    ("stop", true, process::stop),
    ("clock-back", false, process::clock_back),
    ("kill-roll", true, kills::roll),
    ("kill-retention", true, kills::retention),
    ("kill-checkpoint", true, kills::checkpoint),
    ("kill-recovery", true, kills::recovery),
    ("kill-writes", true, kills::writes_in_flight),
];

/// What `cargo xtask faults` can be told.
#[derive(Args)]
pub struct Options {
    /// One of them, by name; all of them without a name.
    name: Option<String>,
    /// The cheap ones, shortened: less than three minutes.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// All of them at full length; the default.
    #[arg(long)]
    full: bool,
    /// Use this corelogd instead of building one.
    #[arg(long, value_name = "PATH", hide = true)]
    program: Option<PathBuf>,
}

/// Runs what was asked for; false when a fault was not met, or something acknowledged was lost.
pub fn run(options: &Options) -> Result<bool> {
    let is_wanted = |name: &str, quick: bool| match &options.name {
        Some(wanted) => wanted == name,
        None => quick || !options.quick,
    };
    let wanted: Vec<_> = FAULTS
        .iter()
        .filter(|(name, quick, _)| is_wanted(name, *quick))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = FAULTS.iter().map(|(name, ..)| *name).collect();
        bail!("no fault of that name; there are {}", names.join(", "));
    }
    let clients = Clients::find()?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => crate::interop::build(None)?,
    };
    let runs = target_dir().join("interop/run");
    std::fs::create_dir_all(&runs)?;
    cleanup::note_signals();
    cleanup::remove_leftovers(&runs, &runs)?;
    let (mut passed, mut failed) = (0, 0);
    for (name, _, fault) in wanted {
        if cleanup::is_stopped() {
            bail!("stopped by a signal");
        }
        let scratch = runs.join(format!("fault-{name}-{}", std::process::id()));
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)?;
        }
        std::fs::create_dir_all(&scratch)?;
        let quick = options.quick && !options.full;
        let setting = Setting::of(program.clone(), clients.clone(), quick, scratch.clone());
        println!("{name}:");
        let begin = Instant::now();
        let held = match fault(&setting) {
            Ok(outcome) => outcome.tell(),
            Err(error) => {
                println!("  FAILED: {error:#}");
                false
            }
        };
        println!("  ({name} took {:.0} s)", begin.elapsed().as_secs_f64());
        if held {
            passed += 1;
            std::fs::remove_dir_all(&scratch)?;
        } else {
            failed += 1;
            println!("  (logs and data: {})", scratch.display());
        }
    }
    println!("faults: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

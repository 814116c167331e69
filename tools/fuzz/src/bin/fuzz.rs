//! The fuzzer: libFuzzer's own command line, with the target named by the environment.
#![no_main]

use std::process::exit;
use std::sync::OnceLock;

use corelog_fuzz::{TARGETS, Target};

/// Names the target; `list` names them all, with their longest inputs.
const TARGET: &str = "CORELOG_FUZZ_TARGET";
/// A directory to write the target's seeds to, before anything is read.
const SEEDS: &str = "CORELOG_FUZZ_SEEDS";

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn start() {
    let name = std::env::var(TARGET).unwrap_or_default();
    if name == "list" {
        for target in TARGETS {
            println!("{} {} {}", target.name, target.max_len, target.what);
        }
        exit(0);
    }
    let Some(target) = corelog_fuzz::target(&name) else {
        eprintln!("{TARGET}={name}: no such target");
        exit(2);
    };
    if let Ok(directory) = std::env::var(SEEDS)
        && let Err(error) = write_seeds(target, &directory)
    {
        eprintln!("{directory}: {error}");
        exit(2);
    }
    CHOSEN.get_or_init(|| target);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule is for the broker; this tool runs beside it"
)]
fn write_seeds(target: &Target, directory: &str) -> std::io::Result<()> {
    for (at, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(format!("{directory}/seed-{at:04}"), seed)?;
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(init: start(), |data: &[u8]| {
    (CHOSEN.get().expect("chosen before the first input").run)(data)
});

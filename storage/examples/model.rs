//! Many histories of the model test, and a count of every fault and rare branch they met: a zero
//! is a failure, because then the histories say nothing of it.
//!
//! `model [--seeds N] [--from SEED] [--ops N] [--short N] [--planted BUG]`, or `model --seed SEED`
//! for one history, or with `--crash-at WRITE --kind kill|power` for one crash point of a short one.

#[path = "../tests/model/mod.rs"]
mod model;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use model::history::{Spec, Tally, run};
use model::oracle::Crash;

/// Operations of a history, and of one whose every write is a crash point.
const OPS: u64 = 200;
const SHORT_OPS: u64 = 14;

/// The history under way, for the last words of a panic.
static UNDER_WAY: Mutex<String> = Mutex::new(String::new());

struct Options {
    seeds: u64,
    from: u64,
    ops: u64,
    short: u64,
    seed: Option<u64>,
    crash_at: Option<u64>,
    kind: Crash,
    planted: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 300,
        from: 0,
        ops: OPS,
        short: 50,
        seed: None,
        crash_at: None,
        kind: Crash::PowerLoss,
        planted: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{name} {value}: not a number"))
        };
        match name.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--ops" => options.ops = number()?,
            "--short" => options.short = number()?,
            "--seed" => options.seed = Some(number()?),
            "--crash-at" => options.crash_at = Some(number()?),
            "--kind" if value == "kill" => options.kind = Crash::Kill,
            "--kind" if value == "power" => options.kind = Crash::PowerLoss,
            "--planted" => options.planted = Some(value),
            _ => return Err(format!("unknown option {name} {value}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        println!(
            "VIOLATION: a panic\n  {}",
            UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
        );
        hook(info);
    }));
    let mut tally = Tally::default();
    if let Some(seed) = options.seed {
        return one(&options, seed, &mut tally);
    }
    let mut violations = 0;
    for seed in options.from..options.from + options.seeds {
        let spec = Spec {
            planted: options.planted.clone(),
            ..Spec::random(seed, options.ops)
        };
        if let Err(violation) = run_noted(&spec, &mut tally) {
            violations += 1;
            println!("VIOLATION seed={seed}: {violation}\n  {}", command(&spec));
        }
    }
    let crash_points = crash_points(&options, &mut tally, &mut violations);
    println!(
        "crash points of {} short histories: {crash_points}",
        options.short
    );
    let zeros = report(&tally);
    println!("seeds={} violations={violations}", options.seeds);
    if violations > 0 || zeros > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_noted(spec: &Spec, tally: &mut Tally) -> Result<(u64, u64), String> {
    *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) = command(spec);
    run(spec, tally)
}

/// Every change of the disk of a short history is a crash point, by kill and by power loss.
fn crash_points(options: &Options, tally: &mut Tally, violations: &mut u64) -> u64 {
    let mut points = 0;
    for seed in options.from..options.from + options.short {
        let quiet = Spec {
            quiet: true,
            planted: options.planted.clone(),
            ..Spec::random(seed, SHORT_OPS)
        };
        let writes = match run_noted(&quiet, tally) {
            Ok((writes, _)) => writes,
            Err(violation) => {
                *violations += 1;
                println!("VIOLATION seed={seed}, no crash: {violation}");
                continue;
            }
        };
        for at in 1..=writes {
            for kind in [Crash::Kill, Crash::PowerLoss] {
                points += 1;
                let spec = Spec {
                    crash_at: Some((at, kind)),
                    ..quiet.clone()
                };
                if let Err(violation) = run_noted(&spec, tally) {
                    *violations += 1;
                    println!("VIOLATION seed={seed}: {violation}\n  {}", command(&spec));
                }
            }
        }
    }
    points
}

fn one(options: &Options, seed: u64, tally: &mut Tally) -> ExitCode {
    let random = Spec {
        planted: options.planted.clone(),
        ..Spec::random(seed, options.ops)
    };
    let spec = match options.crash_at {
        Some(at) => Spec {
            quiet: true,
            crash_at: Some((at, options.kind)),
            ops: SHORT_OPS,
            ..random
        },
        None => random,
    };
    let result = run_noted(&spec, tally);
    println!("{tally:#?}");
    match result {
        Ok((writes, hash)) => {
            println!("seed={seed} writes={writes} trace={hash:016x} violations=0");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("VIOLATION seed={seed}: {violation}\n  {}", command(&spec));
            ExitCode::FAILURE
        }
    }
}

/// The command that runs a history again.
fn command(spec: &Spec) -> String {
    let mut command = "cargo run --release -p corelog-storage ".to_owned();
    if spec.planted.is_some() {
        command += "--features planted ";
    }
    command += &format!("--example model -- --seed {} --ops {}", spec.seed, spec.ops);
    if let Some((at, kind)) = spec.crash_at {
        let kind = if kind == Crash::Kill { "kill" } else { "power" };
        command += &format!(" --crash-at {at} --kind {kind}");
    }
    if let Some(bug) = &spec.planted {
        command += &format!(" --planted {bug}");
    }
    command
}

/// Prints what was met; gives the number of zeros.
fn report(t: &Tally) -> u64 {
    let (s, f) = (&t.storage, &t.faults);
    let lines = [
        ("appends", t.appends),
        ("acknowledged", t.acks),
        ("duplicates recognised", t.duplicates),
        ("crash: kill -9", t.kills),
        ("crash: power loss", t.power_losses),
        ("crash before a write", t.crash_before),
        ("crash in a write", t.crash_in),
        ("crash after a write", t.crash_after),
        ("write cut in the middle", f.cut_writes),
        ("unflushed sectors lost", f.sectors_lost),
        ("unflushed sectors kept", f.sectors_kept),
        ("torn tails cut", s.torn_tails),
        ("reordered: batches behind a lost one", s.damages),
        ("sizes lost", f.sizes_lost),
        ("names lost", f.names_lost),
        ("late writes after kill", f.late_applied),
        ("late writes that never came", f.late_dropped),
        ("recovery barriers that waited", f.barriers_with_late_writes),
        ("EIO of a write", f.eio_writes),
        ("EIO of a flush", f.eio_flushes),
        ("EIO of a read", f.eio_reads),
        ("ENOSPC", f.no_space),
        ("appends refused for space", t.no_space),
        ("parts of the reserve given back", t.released),
        ("failures told to the directory's guard", t.told),
        ("short writes", f.short_writes),
        ("short reads", f.short_reads),
        ("slow completions", f.slow),
        ("logs that failed", s.failures),
        ("histories on a FUA device", t.fua_histories),
        ("histories on a flush-only device", t.flush_only_histories),
        ("histories with buffered I/O", t.buffered_histories),
        ("tail-block merges", s.tail_block_merges),
        ("writes queued behind another", s.queued_writes),
        ("RWF_DSYNC writes", s.durable_writes),
        ("fdatasync", s.flushes),
        ("zeroed bytes", s.zeroed_bytes),
        ("files opened again", s.reopens),
        ("idle files trimmed", s.idle_trims),
        ("rolls", s.rolls),
        ("rolls with a queued write", s.rolls_with_queued_write),
        ("recoveries", s.recoveries),
        ("clean starts", t.clean_opens),
        ("indexes rebuilt", s.indexes_rebuilt),
        ("cuts", s.cuts),
        ("cuts inside a batch", s.cuts_inside_batch),
        ("reads from the tail cache", s.tail_hits),
        ("reads from disk", s.tail_misses),
        ("records deleted on request", t.deletions),
        ("deletions past the high watermark", t.deletions_refused),
        ("log starts raised", s.log_start_raises),
        ("segments removed", s.segments_removed),
        ("active segments rolled by retention", s.retention_rolls),
        ("deleted files unlinked", s.files_unlinked),
        ("opened with a log start", t.starts_found),
        ("reads below the log start", t.reads_below_start),
        (
            "acknowledged, lost by power loss: policy unset",
            t.acked_lost_unset,
        ),
        (
            "acknowledged, lost by power loss: flush.messages=N",
            t.acked_lost_messages,
        ),
        (
            "acknowledged, lost by power loss: flush.ms",
            t.acked_lost_ms,
        ),
    ];
    let mut zeros = 0;
    for (name, count) in lines {
        let mark = if count == 0 { "  <-- never met" } else { "" };
        zeros += u64::from(count == 0);
        println!("{count:>12}  {name}{mark}");
    }
    zeros
}

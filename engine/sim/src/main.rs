//! `corelog-sim`: a whole broker from one seed, or from many.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use corelog_runtime::blocking;
use corelog_sim::history::TraceSink;
use corelog_sim::many::{self, Order};
use corelog_sim::plan::STEPS;

mod last_words;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds in which a planted bug must be found.
const PLANTED_SEEDS: u64 = 500;

/// Runs the broker over a simulated machine and network from seeds, with clients and faults, and
/// judges what the clients saw.
#[derive(Debug, Parser)]
#[command(name = "corelog-sim", version)]
struct Args {
    /// Runs one seed, with a readable trace.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Runs so many seeds.
    #[arg(long, conflicts_with = "minutes")]
    seeds: Option<u64>,
    /// First seed; without it, and with --minutes or --fresh, one that was not used before.
    #[arg(long)]
    from: Option<u64>,
    /// Begins at a seed that was not used before.
    #[arg(long)]
    fresh: bool,
    /// Runs fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Client operations of a history.
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Ends after so many violations.
    #[arg(long, default_value_t = 10)]
    violations_max: u64,
    /// Plants a known bug, which must be found: exit code 1.
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// With --seed: the broker's own log lines too.
    #[arg(long)]
    log: bool,
    /// With --seed: no trace, the outcome alone.
    #[arg(long)]
    quiet: bool,
}

/// Bugs that can be planted.
const BUGS: &[&str] = &[
    "ack-before-write",
    "flush-skips-a-waiter",
    "lost-tail-block-merge",
    "recovery-off-by-one",
    "cut-leaves-old-batches",
];

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(bug) = &args.planted {
        if !cfg!(feature = "planted") {
            eprintln!("corelog-sim: this build plants no bugs; build it with --features planted");
            return ExitCode::from(2);
        }
        if !BUGS.contains(&bug.as_str()) {
            eprintln!("corelog-sim: --planted {bug}: one of {}", BUGS.join(", "));
            return ExitCode::from(2);
        }
    }
    last_words::install(args.steps, args.planted.clone());
    match args.seed {
        Some(seed) => one(&args, seed),
        None => several(&args),
    }
}

fn one(args: &Args, seed: u64) -> ExitCode {
    if args.log {
        tracing_subscriber::fmt()
            .without_time()
            .with_writer(std::io::stdout)
            .init();
    }
    let trace: Option<TraceSink> = if args.quiet {
        None
    } else {
        Some(Box::new(|line: &str| println!("{line}")))
    };
    let outcome = many::one(seed, args.steps, args.planted.as_deref(), trace);
    if let Some(broken) = &outcome.broken {
        let again = many::command(seed, args.steps, args.planted.as_deref());
        println!("VIOLATION seed={seed}: {broken}\n  {again}");
    }
    println!(
        "seed={seed} turns={} virtual_ms={} trace={:016x} violations={}",
        outcome.turns,
        outcome.virtual_ns / 1_000_000,
        outcome.trace_hash,
        u8::from(outcome.broken.is_some())
    );
    ExitCode::from(u8::from(outcome.broken.is_some()))
}

/// A seed that was not used before: from the clock, far from the small fixed ones.
fn fresh_seed() -> u64 {
    (blocking::wall_clock_ms() as u64) << 20
}

fn several(args: &Args) -> ExitCode {
    let fresh = args.fresh || (args.minutes.is_some() && args.from.is_none());
    let minutes = args
        .minutes
        .map(|minutes| Duration::from_secs(60 * minutes));
    let planted_seeds = args.planted.as_ref().map(|_| PLANTED_SEEDS);
    let order = Order {
        from: args.from.unwrap_or(if fresh { fresh_seed() } else { 0 }),
        seeds: match (minutes, args.seeds.or(planted_seeds)) {
            (Some(_), _) => u64::MAX,
            (None, seeds) => seeds.unwrap_or(500),
        },
        until: minutes.map(|minutes| blocking::now() + minutes),
        steps: args.steps,
        jobs: args.jobs,
        violations_max: if args.planted.is_some() {
            1
        } else {
            args.violations_max
        },
        planted: args.planted.clone(),
    };
    println!("from seed {} with {} threads", order.from, order.jobs);
    let report = match many::all(&order) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("corelog-sim: {error}");
            return ExitCode::from(2);
        }
    };
    let never = report.tally.report();
    // A few seeds do not meet everything; nor does a run that a planted bug ended.
    let must_meet_all = report.seeds >= 300 && report.violations.is_empty();
    if must_meet_all && !never.is_empty() {
        println!("NEVER MET: {}", never.join("; "));
    }
    let per_minute = report.seeds as f64 * 60.0 / report.took.as_secs_f64().max(0.001);
    println!(
        "{} turns and {} s of virtual time in {:.1} s",
        report.turns,
        report.virtual_time.as_secs(),
        report.took.as_secs_f64()
    );
    println!(
        "seeds={} seeds_per_minute={per_minute:.0} violations={}",
        report.seeds,
        report.violations.len()
    );
    let failed = !report.violations.is_empty() || (must_meet_all && !never.is_empty());
    ExitCode::from(u8::from(failed))
}

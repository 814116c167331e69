//! Many histories on several threads, and what they met.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corelog_runtime::blocking;

use crate::history::{Outcome, TraceSink, run};
use crate::plan::Plan;
use crate::tally::Tally;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// First seed.
    pub from: u64,
    /// Seeds at most.
    pub seeds: u64,
    /// No seed is begun after this.
    pub until: Option<Instant>,
    /// Client operations of each.
    pub steps: u64,
    /// Threads.
    pub jobs: usize,
    /// Violations after which no further seed is begun.
    pub violations_max: u64,
    /// A bug to plant.
    pub planted: Option<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Histories.
    pub seeds: u64,
    /// Rules broken: seed, and what was seen.
    pub violations: Vec<(u64, String)>,
    /// What was met.
    pub tally: Tally,
    /// Turns of shards.
    pub turns: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// How long it took.
    pub took: Duration,
}

thread_local! {
    static UNDER_WAY: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed that this thread runs.
pub fn under_way() -> Option<u64> {
    UNDER_WAY.get()
}

/// The command that runs a seed again.
pub fn command(seed: u64, steps: u64, planted: Option<&str>) -> String {
    let features = if planted.is_some() {
        " --features planted"
    } else {
        ""
    };
    let bug = planted
        .map(|bug| format!(" --planted {bug}"))
        .unwrap_or_default();
    format!("cargo run --release -p corelog-sim{features} -- --seed {seed} --steps {steps}{bug}")
}

/// Runs one seed.
pub fn one(seed: u64, steps: u64, planted: Option<&str>, trace: Option<TraceSink>) -> Outcome {
    let mut plan = Plan::new(seed, steps);
    plan.planted = planted.map(str::to_owned);
    UNDER_WAY.set(Some(seed));
    let outcome = run(&plan, trace);
    UNDER_WAY.set(None);
    outcome
}

/// Runs them all; each violation is printed, with its command, when it is found.
pub fn all(order: &Order) -> std::io::Result<Report> {
    let began = blocking::now();
    let next = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let report = Arc::new(Mutex::new(Report::default()));
    let mut threads = Vec::new();
    for number in 0..order.jobs.max(1) {
        let (order, next) = (order.clone(), Arc::clone(&next));
        let (enough, report) = (Arc::clone(&enough), Arc::clone(&report));
        threads.push(blocking::spawn(&format!("seeds-{number}"), move || {
            work(&order, &next, &enough, &report);
        })?);
    }
    for thread in threads {
        // A panic has said its seed and ended the process.
        let _ended = thread.join();
    }
    let mut report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
    report.took = began.elapsed();
    Ok(report)
}

fn work(order: &Order, next: &AtomicU64, enough: &AtomicBool, report: &Mutex<Report>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let late = order.until.is_some_and(|until| blocking::now() >= until);
        if number >= order.seeds || late || enough.load(Ordering::Relaxed) {
            return;
        }
        let seed = order.from.wrapping_add(number);
        let outcome = one(seed, order.steps, order.planted.as_deref(), None);
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.seeds += 1;
        report.turns += outcome.turns;
        report.virtual_time += Duration::from_nanos(outcome.virtual_ns);
        report.tally.merge(&outcome.tally);
        if let Some(broken) = outcome.broken {
            let again = command(seed, order.steps, order.planted.as_deref());
            println!("VIOLATION seed={seed}: {broken}\n  {again}");
            report.violations.push((seed, broken));
            if report.violations.len() as u64 >= order.violations_max {
                enough.store(true, Ordering::Relaxed);
            }
        }
    }
}

//! Hostile clients against the built broker, and well-behaved producers beside them.
//!
//! Random bytes on 500 connections, 5,000 connections that say nothing (as many as there are files for), readers that never read, arrays of 2^31-1
//! elements, frames of 2 GB, frames that stop half-way. Printed: the broker's resident memory, and what the producers'
//! p99 becomes: windows with and without, in turns, and the medians. Latencies are judged by a generous bound only.

mod attacks;
mod wire;

use super::subject::{Broker, Spec};
use super::{Setting, Suite};
use anyhow::{Context, Result, bail, ensure};
use attacks::Attack;
use std::cell::Cell;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::{ANSWER_LIMIT, Client, batch_of};

/// Windows with and as many without.
const PAIRS: usize = 5;
/// Producers, each with one request in flight.
const PRODUCERS: usize = 4;
/// Partitions, each producer has its own.
const PARTITIONS: i32 = 8;
/// Memory the broker is told to keep to, and what the process may have in all.
const MEMORY_BYTES: u64 = 64 << 20;
const RSS_KIB_MAX: u64 = 256 << 10;
/// What the p99 may become at most: times, or milliseconds where it was far below one.
const RATIO_MAX: f64 = 50.0;
const P99_MS_ALWAYS_FINE: f64 = 50.0;

/// Sizes of a run.
struct Sizes {
    window: Duration,
    idle: usize,
    /// Bytes that the readers who never read ask for.
    stored_bytes: usize,
}

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let sizes = match setting.quick {
        true => Sizes {
            window: Duration::from_secs(2),
            idle: 5000,
            stored_bytes: 32 << 20,
        },
        false => Sizes {
            window: Duration::from_secs(10),
            idle: 5000,
            stored_bytes: 256 << 20,
        },
    };
    // The broker keeps a quarter of its files for connections; those of attacks need room beside.
    let room = raise_open_files() / 4;
    let (idle_most, idle_kept) = (
        room.min(sizes.idle + 20) - 20,
        room.min(sizes.idle + 800) - 800,
    );
    let spec = Spec::new(&setting.dir("data")?)
        .set(&format!("corelog.memory.bytes={MEMORY_BYTES}"))
        .set("corelog.shards=2")
        .set("socket.listen.backlog.size=4096");
    let mut broker = Broker::start(setting, &spec)?;
    let mut admin = Client::connect(&broker.kafka)?;
    admin.create_topic("t", PARTITIONS)?;
    admin.create_topic("stored", 1)?;
    store(&mut admin, sizes.stored_bytes)?;
    let before_kib = status_kib(&broker, "VmRSS:")?;
    println!("  resident before: {} MiB", before_kib >> 10);

    let producers = Producers::start(&broker.kafka)?;
    let mut idle = idle_connections(&broker, idle_most)?;
    let open = broker.metric("corelog_connections", "")?;
    let with_idle_kib = status_kib(&broker, "VmRSS:")?;
    suite.check(
        open as usize >= idle_most && idle_most >= 1000,
        format!(
            "{} idle connections are open, {} MiB resident",
            idle.len(),
            with_idle_kib >> 10
        ),
    );
    idle.truncate(idle_kept);
    let mut pairs = Vec::new();
    let mut hit = vec![0; Attack::ALL.len()];
    for pair in 0..PAIRS {
        // In turns, so that what else happens on the machine falls on both.
        let attacked_first = pair % 2 == 1;
        let mut p99 = [0.0; 2];
        for attacked in [attacked_first, !attacked_first] {
            let attackers = attacked.then(|| attacks::start(&broker.kafka));
            let of_window = producers.p99_ms(sizes.window);
            for (count, hits) in hit
                .iter_mut()
                .zip(attackers.map(attacks::Attackers::stop).unwrap_or_default())
            {
                *count += hits;
            }
            match of_window {
                Ok(of_window) => p99[usize::from(attacked)] = of_window,
                Err(error) => bail!("{error}: {:?}", producers.stop()),
            }
        }
        println!(
            "  pair {}: p99 {:.2} ms without, {:.2} ms with",
            pair + 1,
            p99[0],
            p99[1]
        );
        pairs.push(p99);
    }
    let produced = producers.stop();
    for (attack, count) in Attack::ALL.iter().zip(&hit) {
        suite.check(*count > 0, format!("{}: {count} times", attack.what()));
    }
    judge(suite, &pairs, produced.as_ref().copied().unwrap_or(0));
    suite.attempt("every produce was acknowledged", produced);
    let after_kib = status_kib(&broker, "VmRSS:")?;
    let peak_kib = status_kib(&broker, "VmHWM:")?;
    println!(
        "  RSS MiB: {} before, {} with idle connections, {} after, {} at most",
        before_kib >> 10,
        with_idle_kib >> 10,
        after_kib >> 10,
        peak_kib >> 10
    );
    suite.check(
        peak_kib < RSS_KIB_MAX,
        format!(
            "the most memory was {} MiB, below {} MiB",
            peak_kib >> 10,
            RSS_KIB_MAX >> 10
        ),
    );
    let panics = broker.metric("corelog_shard_task_panics_total", "")?;
    let refused = broker.metric("corelog_connections_refused_total", "")?;
    let stalls = broker.metric("corelog_shard_stalls_total", "")?;
    suite.check(panics == 0.0, "no task panicked");
    suite.check(
        refused > 0.0,
        format!("{refused} connections were refused; {stalls} stalls over 5 ms"),
    );
    drop(idle);
    suite.attempt(
        "the broker still creates topics",
        admin.create_topic("after", 1),
    );
    suite.check(broker.stop()? == 0, "the broker stops cleanly");
    Ok(())
}

fn judge(suite: &mut Suite, pairs: &[[f64; 2]], produced: u64) {
    let median = |at: usize| {
        let mut all: Vec<f64> = pairs.iter().map(|pair| pair[at]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (without, with) = (median(0), median(1));
    let ratio = with / without.max(0.001);
    suite.check(
        ratio <= RATIO_MAX || with <= P99_MS_ALWAYS_FINE,
        format!("producers' p99, medians of {PAIRS}: {without:.2} ms without, {with:.2} ms with: ratio={ratio:.2} ({produced} requests)"),
    );
}

/// Fills the topic that the readers who never read ask for.
fn store(client: &mut Client, bytes: usize) -> Result<()> {
    let batch = batch_of(512 << 10);
    for _ in 0..bytes.div_ceil(512 << 10) {
        client.produce("stored", 0, &batch)?;
    }
    Ok(())
}

fn idle_connections(broker: &Broker, count: usize) -> Result<Vec<TcpStream>> {
    let connect = |_| TcpStream::connect(&broker.kafka).context("an idle connection");
    let idle = (0..count).map(connect).collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while (broker.metric("corelog_connections", "")? as usize) < count && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(idle)
}

/// 5,000 connections have two ends, one of them here; the broker keeps a quarter of its files for its own.
fn raise_open_files() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 65_536,
        rlim_max: 65_536,
    };
    // SAFETY: a plain struct that lives through the calls. Without the right to raise it, it is as high as it may be.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

fn status_kib(broker: &Broker, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {field} in /proc"))
}

/// One request of a producer.
struct Sample {
    /// When it was sent; 0 = between two windows.
    window: u64,
    producer: i32,
    took_us: u64,
}

/// Well-behaved producers, which go on until they are stopped.
struct Producers {
    stop: Arc<AtomicBool>,
    /// Which window latencies belong to; 0 = none.
    window: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<u64>>>,
    windows: Cell<u64>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Producers {
    fn start(kafka: &str) -> Result<Producers> {
        let (stop, window) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut producers = Producers {
            stop,
            window,
            threads: Vec::new(),
            windows: Cell::new(0),
            samples: Arc::default(),
        };
        for partition in 0..PRODUCERS as i32 {
            let mut client = Client::connect(kafka)?;
            let (stop, window) = (Arc::clone(&producers.stop), Arc::clone(&producers.window));
            let samples = Arc::clone(&producers.samples);
            let batch = batch_of(1024);
            producers.threads.push(std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let of = window.load(Ordering::Relaxed);
                    let begin = Instant::now();
                    client.produce("t", partition, &batch)?;
                    let took = begin.elapsed().as_micros() as u64;
                    lock(&samples).push(Sample {
                        window: of,
                        producer: partition,
                        took_us: took,
                    });
                    count += 1;
                }
                Ok(count)
            }));
        }
        Ok(producers)
    }

    /// The 99th percentile of the requests sent from now on, for so long, in milliseconds; the answers to the last of
    /// them are waited for.
    fn p99_ms(&self, window: Duration) -> Result<f64> {
        let number = self.windows.get() + 1;
        self.windows.set(number);
        self.window.store(number, Ordering::Relaxed);
        std::thread::sleep(window);
        self.window.store(0, Ordering::Relaxed);
        let deadline = Instant::now() + ANSWER_LIMIT;
        let later = |all: &[Sample], producer| {
            let last = all.iter().rev().find(|sample| sample.producer == producer);
            last.is_some_and(|sample| sample.window == 0)
        };
        let mut took: Vec<u64> = loop {
            let mut all = lock(&self.samples);
            if (0..PRODUCERS as i32).all(|producer| later(&all, producer)) {
                let of_window = all.iter().filter(|sample| sample.window == number);
                let took = of_window.map(|sample| sample.took_us).collect();
                all.clear();
                break took;
            }
            drop(all);
            ensure!(
                Instant::now() < deadline,
                "a producer is not answered any more"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        took.sort_unstable();
        let at = (took.len() * 99).div_ceil(100).saturating_sub(1);
        // None at all: the requests before it took longer than the window.
        let p99 = took
            .get(at)
            .map_or(window.as_secs_f64() * 1000.0, |us| *us as f64 / 1000.0);
        Ok(p99)
    }

    /// Requests acknowledged, or the first error.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for thread in self.threads {
            count += thread
                .join()
                .map_err(|_| anyhow::anyhow!("a producer panicked"))??;
        }
        Ok(count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

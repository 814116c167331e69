//! What timers cost in the shard's wheel and in an ordered map, side by side: nanoseconds per
//! insert and cancel, and per insert and fire, beside 1, 1,000 and 100,000 standing timers.
//! Medians of five interleaved runs. A turn is what a shard does with its timers each time round
//! its loop: fire what is due, ask for the next deadline.
//!
//! `cargo run --release -p corelog-runtime --example timers [operations per run]`

#[path = "../src/wheel.rs"]
#[allow(dead_code)]
mod wheel;

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Wake, Waker};

use wheel::{TimerId, Wheel};

const RUNS: usize = 5;
const MS: u64 = 1_000_000;
/// Time that passes between two operations, in nanoseconds.
const STEP_NS: u64 = 5_000;

struct Nothing;

impl Wake for Nothing {
    fn wake(self: Arc<Self>) {}
}

fn thread_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The two candidates as a shard uses them.
trait Timers: Default {
    type Id: Copy;
    fn insert(&mut self, deadline_ns: u64, waker: Waker) -> Self::Id;
    fn cancel(&mut self, id: Self::Id) -> Option<Waker>;
    fn pop_due(&mut self, now_ns: u64) -> Option<Waker>;
    fn next_deadline_ns(&mut self) -> Option<u64>;
}

impl Timers for Wheel<Waker> {
    type Id = TimerId;

    fn insert(&mut self, deadline_ns: u64, waker: Waker) -> TimerId {
        Wheel::insert(self, deadline_ns, waker)
    }

    fn cancel(&mut self, id: TimerId) -> Option<Waker> {
        Wheel::cancel(self, id)
    }

    fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        Wheel::pop_due(self, now_ns)
    }

    fn next_deadline_ns(&mut self) -> Option<u64> {
        Wheel::next_deadline_ns(self)
    }
}

#[derive(Default)]
struct Map {
    waiting: BTreeMap<(u64, u64), Waker>,
    numbers: u64,
}

impl Timers for Map {
    type Id = (u64, u64);

    fn insert(&mut self, deadline_ns: u64, waker: Waker) -> (u64, u64) {
        let id = (deadline_ns, self.numbers);
        self.numbers += 1;
        self.waiting.insert(id, waker);
        id
    }

    fn cancel(&mut self, id: (u64, u64)) -> Option<Waker> {
        self.waiting.remove(&id)
    }

    fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now_ns).then(|| first.remove())
    }

    fn next_deadline_ns(&mut self) -> Option<u64> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One turn of the loop: fire what is due, ask for the next deadline.
fn turn<T: Timers>(timers: &mut T, now_ns: u64) -> u64 {
    let mut fired = 0;
    while let Some(waker) = timers.pop_due(now_ns) {
        waker.wake();
        fired += 1;
    }
    black_box(timers.next_deadline_ns());
    fired
}

/// Request time-outs: each operation registers one (500 ms ahead, or up to 30 s) and cancels the
/// oldest that stands, with a turn after each.
fn insert_cancel<T: Timers>(standing: usize, operations: u64, waker: &Waker) -> f64 {
    let (mut timers, mut chance) = (T::default(), Chance(7));
    let mut now_ns = 3_600_000 * MS;
    turn(&mut timers, now_ns);
    let mut ids = VecDeque::new();
    let mut deadline_ns = |now_ns: u64| match chance.below(2) {
        0 => now_ns + 500 * MS,
        _ => now_ns + 1_000 * MS + chance.below(29_000 * MS),
    };
    for _ in 0..standing {
        ids.push_back(timers.insert(deadline_ns(now_ns), waker.clone()));
    }
    let start = thread_ns();
    for _ in 0..operations {
        now_ns += STEP_NS;
        ids.push_back(timers.insert(deadline_ns(now_ns), waker.clone()));
        if let Some(id) = ids.pop_front() {
            black_box(timers.cancel(id));
        }
        turn(&mut timers, now_ns);
    }
    (thread_ns() - start) as f64 / operations as f64
}

/// Timers that fire: each operation registers one a little ahead, beside standing ones far ahead.
fn insert_fire<T: Timers>(standing: usize, operations: u64, waker: &Waker) -> f64 {
    let (mut timers, mut chance) = (T::default(), Chance(7));
    let mut now_ns = 3_600_000 * MS;
    turn(&mut timers, now_ns);
    for _ in 0..standing {
        timers.insert(
            now_ns + 600_000 * MS + chance.below(600_000 * MS),
            waker.clone(),
        );
    }
    let mut fired = 0;
    let start = thread_ns();
    for _ in 0..operations {
        now_ns += STEP_NS;
        timers.insert(now_ns + chance.below(5 * MS), waker.clone());
        fired += turn(&mut timers, now_ns);
    }
    let took = thread_ns() - start;
    assert!(fired > operations / 2, "they fire");
    took as f64 / operations as f64
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

fn main() {
    let operations = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let waker = Waker::from(Arc::new(Nothing));
    println!("ns per operation         standing    wheel      map");
    type Bench = fn(usize, u64, &Waker) -> f64;
    let benches: [(&str, Bench, Bench); 2] = [
        (
            "insert, cancel, turn",
            insert_cancel::<Wheel<Waker>>,
            insert_cancel::<Map>,
        ),
        (
            "insert, fire, turn",
            insert_fire::<Wheel<Waker>>,
            insert_fire::<Map>,
        ),
    ];
    for (name, wheel, map) in benches {
        for standing in [1, 1_000, 5_000, 100_000] {
            let (mut wheels, mut maps) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                wheels.push(wheel(standing, operations, &waker));
                maps.push(map(standing, operations, &waker));
            }
            let (wheels, maps) = (median(wheels), median(maps));
            println!("{name:24} {standing:8} {wheels:8.1} {maps:8.1}");
        }
    }
}

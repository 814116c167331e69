//! Latencies of one shard by stage: recorded in HDR histograms, told as Prometheus histograms.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Largest latency kept, in microseconds (one minute); longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Upper bounds of the buckets told, in microseconds; the last bucket has none.
const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A stretch of a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Produce: from the frame's head to its last byte, waiting for memory included.
    ProduceReceive,
    /// From a batch's place in its partition's order to its offsets: validation, and its turn.
    ProduceAdmission,
    /// From there until the kernel has completed its write, where the policy asks for no more.
    ProduceWrite,
    /// From there until it is on stable storage, where the flush policy asks for it.
    ProduceFlush,
    /// Handing the answer to the socket.
    ProduceSend,
    /// From the frame's last byte to its answer.
    ProduceTotal,
    /// Fetch: from the frame's head to its last byte, waiting for memory included.
    FetchReceive,
    /// From the frame's last byte to the answer's first: looking records up, and waiting for
    /// them where the client asked for that.
    FetchData,
    /// Handing the answer to the socket, reads from disk included.
    FetchSend,
}

impl Stage {
    /// All of them, in the order of their numbers.
    pub const ALL: [Stage; 9] = [
        Stage::ProduceReceive,
        Stage::ProduceAdmission,
        Stage::ProduceWrite,
        Stage::ProduceFlush,
        Stage::ProduceSend,
        Stage::ProduceTotal,
        Stage::FetchReceive,
        Stage::FetchData,
        Stage::FetchSend,
    ];

    /// API and stage, as labels.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Stage::ProduceReceive => ("Produce", "receive"),
            Stage::ProduceAdmission => ("Produce", "admission"),
            Stage::ProduceWrite => ("Produce", "write"),
            Stage::ProduceFlush => ("Produce", "flush"),
            Stage::ProduceSend => ("Produce", "send"),
            Stage::ProduceTotal => ("Produce", "total"),
            Stage::FetchReceive => ("Fetch", "receive"),
            Stage::FetchData => ("Fetch", "data"),
            Stage::FetchSend => ("Fetch", "send"),
        }
    }
}

/// Latencies of one stage.
#[derive(Debug)]
pub struct Latency {
    histogram: RefCell<Histogram<u64>>,
    sum_us: Cell<u64>,
}

impl Latency {
    /// None yet.
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)
            .expect("bounds and digits are constants in range");
        Latency {
            histogram: RefCell::new(histogram),
            sum_us: Cell::new(0),
        }
    }

    /// Adds one value.
    pub fn record(&self, took: Duration) {
        self.record_n(took, 1);
    }

    /// Adds the same value `count` times.
    pub fn record_n(&self, took: Duration, count: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histogram.borrow_mut().saturating_record_n(us, count);
        let sum = us.saturating_mul(count);
        self.sum_us.set(self.sum_us.get().saturating_add(sum));
    }

    /// Quantiles.
    pub fn summary(&self) -> LatencySummary {
        let histogram = self.histogram.borrow();
        LatencySummary {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }

    /// A copy as buckets.
    pub fn buckets(&self) -> Buckets {
        let histogram = self.histogram.borrow();
        let mut counts = [0; BOUNDS_US.len() + 1];
        for value in histogram.iter_recorded() {
            let at = BOUNDS_US.partition_point(|&bound| bound < value.value_iterated_to());
            counts[at] += value.count_at_value();
        }
        let bounds = BOUNDS_US.iter().map(|&us| seconds(us));
        Buckets {
            counts: bounds.chain([f64::INFINITY]).zip(counts).collect(),
            count: histogram.len(),
            sum_seconds: seconds(self.sum_us.get()),
        }
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Quantiles of a latency, in µs.
#[derive(Debug, Clone, Copy, Default)]
pub struct LatencySummary {
    /// Values recorded.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Largest.
    pub max_us: u64,
}

/// A histogram as Prometheus wants it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// Upper bounds in seconds, the last of which is infinite, and the values of each bucket alone.
    pub counts: Vec<(f64, u64)>,
    /// Values recorded.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum_seconds: f64,
}

impl Buckets {
    /// Of a histogram whose bucket `i` counts values below `2^i` µs, the last one all others.
    pub fn of_powers(counts: &[u64], sum_us: u64) -> Buckets {
        let last = counts.len().saturating_sub(1);
        let bound = |at: usize| {
            if at == last {
                f64::INFINITY
            } else {
                seconds(1 << at)
            }
        };
        Buckets {
            counts: (0..).map(bound).zip(counts.iter().copied()).collect(),
            count: counts.iter().sum(),
            sum_seconds: seconds(sum_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_in_the_bucket_that_holds_them() {
        let latency = Latency::new();
        latency.record(Duration::from_micros(40));
        latency.record_n(Duration::from_micros(700), 3);
        latency.record(Duration::from_secs(3600));
        let buckets = latency.buckets();
        let in_bucket = |bound: f64| {
            let found = buckets.counts.iter().find(|(b, _)| *b == bound);
            found.map(|&(_, count)| count)
        };
        assert_eq!(in_bucket(0.00005), Some(1));
        assert_eq!(in_bucket(0.001), Some(3));
        assert_eq!(in_bucket(f64::INFINITY), Some(1));
        assert_eq!(buckets.count, 5);
        assert_eq!(buckets.counts.iter().map(|(_, n)| n).sum::<u64>(), 5);
        assert!((buckets.sum_seconds - 3600.00214).abs() < 1e-6);
        assert_eq!(latency.summary().count, 5);
    }

    #[test]
    fn buckets_of_powers_of_two_keep_their_bounds() {
        let buckets = Buckets::of_powers(&[1, 0, 5, 2], 77);
        let bounds: Vec<_> = buckets.counts.iter().map(|(bound, _)| *bound).collect();
        assert_eq!(bounds, [1e-6, 2e-6, 4e-6, f64::INFINITY]);
        assert_eq!((buckets.count, buckets.sum_seconds), (8, 77e-6));
    }

    #[test]
    fn stages_are_numbered_in_their_order() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}

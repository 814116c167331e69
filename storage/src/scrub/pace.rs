//! How fast may be read.

use std::time::Duration;

/// What was lost by waking late, up to here, is caught up with.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);
const NANOS: i128 = 1_000_000_000;

/// Spreads reads over time: no more than a rate allows, whatever was not read before. The rate may
/// change at any time.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Bytes that were read and had no time yet, in billionths; negative: bytes that may be caught up.
    owed: i128,
    /// When time was given last, on a monotonic clock.
    seen: Duration,
}

impl Pace {
    /// Nothing was read yet.
    pub fn new() -> Pace {
        Pace::default()
    }

    /// Bytes were read.
    pub fn book(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(bytes as i128 * NANOS);
    }

    /// It is `now` on a monotonic clock, and since the last call the rate was this one: how long to
    /// wait before more is read, if it stays. A rate of 0 is taken for 1.
    pub fn wait(&mut self, now: Duration, bytes_per_second: u64) -> Duration {
        let rate = i128::from(bytes_per_second.max(1));
        let paid = |time: Duration| {
            i128::try_from(time.as_nanos()).map_or(i128::MAX, |n| n.saturating_mul(rate))
        };
        let since = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        self.owed = self
            .owed
            .saturating_sub(paid(since))
            .max(-paid(CATCH_UP_MAX));
        let nanos = u64::try_from(self.owed.max(0).saturating_add(rate - 1) / rate);
        Duration::from_nanos(nanos.unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Reads for so long, waking `late` after each pause; gives the bytes.
    fn read_for(pace: &mut Pace, from: Duration, long: Duration, rate: u64, late: Duration) -> u64 {
        let (mut now, mut bytes) = (from, 0);
        while now < from + long {
            bytes += 1000;
            pace.book(1000);
            let wait = pace.wait(now, rate);
            now += if wait.is_zero() {
                MS / 100
            } else {
                wait + late
            };
        }
        bytes
    }

    #[test]
    fn the_rate_is_kept_also_by_one_who_wakes_late() {
        for late in [0, 1, 10, 50] {
            let mut pace = Pace::new();
            let from = Duration::from_secs(1000);
            let bytes = read_for(&mut pace, from, 10_000 * MS, 100_000, late * MS);
            // The first read is free, and 100 ms may be caught up with.
            assert!((990_000..=1_012_000).contains(&bytes), "{late}: {bytes}");
        }
    }

    #[test]
    fn what_was_not_read_is_not_saved_up() {
        let mut pace = Pace::new();
        read_for(
            &mut pace,
            Duration::ZERO,
            1000 * MS,
            100_000,
            Duration::ZERO,
        );
        let later = Duration::from_secs(3600);
        let bytes = read_for(&mut pace, later, 1000 * MS, 100_000, Duration::ZERO);
        assert!((100_000..=112_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_changed_rate_binds_at_once_also_what_waits() {
        let mut pace = Pace::new();
        let now = Duration::from_secs(5);
        pace.book(5 + 100_000);
        assert_eq!(pace.wait(now, 1), Duration::from_secs(100_000));
        assert_eq!(pace.wait(now, 100_000), 1000 * MS);
        assert_eq!(pace.wait(now + 400 * MS, 100_000), 600 * MS);
        assert_eq!(pace.wait(now + 400 * MS, 1000), 60_000 * MS);
        assert_eq!(pace.wait(now + 60_400 * MS, 1000), Duration::ZERO);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut pace = Pace::new();
        for rate in [0, 1, u64::MAX] {
            for now in [Duration::ZERO, Duration::from_secs(1), Duration::MAX, MS] {
                for _ in 0..3 {
                    pace.book(usize::MAX);
                    pace.wait(now, rate);
                }
            }
        }
        let mut pace = Pace::new();
        pace.book(usize::MAX);
        assert!(pace.wait(MS, 0) > Duration::from_secs(1 << 30));
    }
}

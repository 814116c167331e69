//! The machine, examined: what it offers a broker, how good that is, and what to change.
//!
//! The broker's start makes the quick checks and logs what is not well; `corelog doctor` makes all
//! of them. Judgements are pure functions of what was read, and tested as such.

mod cpu;
mod disk;
mod kernel;
mod memory;
mod network;

use std::path::PathBuf;

use crate::blocking;

pub use disk::{FlushLatency, measure_flushes};
pub use memory::limit_bytes as memory_limit_bytes;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, worse than it could.
    Warn,
    /// The broker does not start, or is not safe.
    Bad,
}

impl Verdict {
    /// `ok`, `warn` or `bad`.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change and how; empty when there is nothing to.
    pub advice: String,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Check {
        Check {
            name: name.to_owned(),
            verdict: Verdict::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Warn,
            advice: advice.into(),
            ..Check::ok(name, found)
        }
    }

    fn bad(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Bad,
            ..Check::warn(name, found, advice)
        }
    }
}

/// What to examine.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// Log directories.
    pub log_dirs: Vec<PathBuf>,
    /// Segment files are to be written past the page cache.
    pub direct: bool,
    /// CPUs the shards run on; empty = all that are allowed.
    pub cpus: Vec<usize>,
    /// Connections the kernel is asked to queue (`socket.listen.backlog.size`).
    pub listen_backlog: u32,
    /// Also measure flushes, which takes a moment and writes to the directories.
    pub measure: bool,
}

/// Looks at everything, in the order of how much depends on it.
pub fn examine(what: &Examined) -> Vec<Check> {
    let mut checks = kernel::checks();
    for dir in &what.log_dirs {
        checks.extend(disk::checks(dir, what.direct, what.measure));
    }
    checks.extend(network::checks(what.listen_backlog));
    checks.extend(cpu::checks(&what.cpus));
    checks.extend(memory::checks());
    checks
}

/// Text of a file of /proc or /sys without white space around it; `None` when there is none.
fn read(path: &str) -> Option<String> {
    let text = blocking::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    read(path)?.parse().ok()
}

/// Bytes for people.
fn bytes(n: u64) -> String {
    match n {
        n if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        n if n >= 1 << 20 => format!("{:.0} MiB", n as f64 / f64::from(1 << 20)),
        n if n >= 1 << 10 => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_well_says_what_to_change() {
        let dir = std::env::temp_dir();
        let what = Examined {
            log_dirs: vec![dir, PathBuf::from("/no/such/directory")],
            direct: true,
            listen_backlog: 50,
            ..Examined::default()
        };
        let checks = examine(&what);
        assert!(checks.len() > 12, "{checks:?}");
        for check in &checks {
            assert!(!check.found.is_empty(), "{check:?}");
            let well = check.verdict == Verdict::Ok;
            assert_eq!(well, check.advice.is_empty(), "{check:?}");
        }
        let missing = checks.iter().find(|c| c.name.contains("/no/such"));
        assert_eq!(missing.map(|c| c.verdict), Some(Verdict::Bad));
    }

    #[test]
    fn bytes_are_told_in_units_of_their_size() {
        let told: Vec<_> = [5, 4 << 10, 64 << 20, 3 << 29].map(bytes).into();
        assert_eq!(told, ["5 bytes", "4 KiB", "64 MiB", "1.5 GiB"]);
    }
}

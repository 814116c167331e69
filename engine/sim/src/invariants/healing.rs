//! When the faults stop, the broker heals and serves everything within a bound of virtual time: without
//! a restart, unless an I/O error stopped one of its logs.

use std::time::Duration;

use super::Broken;

/// The bound.
pub const HEAL_MAX: Duration = Duration::from_secs(180);

/// What still fails.
pub fn still_ill(what: &str) -> Broken {
    format!("healing: {what} {HEAL_MAX:?} after the faults stopped")
}

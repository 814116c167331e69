//! Every request is answered, or its connection closed, within a bound of virtual time.

use std::time::Duration;

use super::Broken;

/// The bound. Above any sum of slow completions that the disk is told to have.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A client waited for [`ANSWER_MAX`] in vain, though its broker ran and its connection was whole.
pub fn timed_out(client: &str, what: &str) -> Broken {
    format!("answers: {client} got no answer to {what} within {ANSWER_MAX:?}")
}

//! A batch stands in the log at most as often as it was sent; that of an idempotent producer once.
//! A producer that keeps to the protocol is never refused for its sequence, unless power loss took
//! what it was told is there.

use super::Broken;
use crate::oracle::log::Sent;

/// A batch was met where it was not known to stand.
pub fn another(batch: u64, sent: &Sent, base: i64) -> Result<(), Broken> {
    if sent.idempotent
        && let Some(first) = sent.places.first()
    {
        return Err(format!(
            "duplicates: idempotent batch {batch} stands at {first} and at {base}"
        ));
    }
    if sent.pending == 0 {
        return Err(format!(
            "duplicates: batch {batch} stands at {base} (and at {:?}) more often than it was sent, or came back after it was lost",
            sent.places
        ));
    }
    Ok(())
}

/// The first batch of a producer without an answer was refused for its sequence.
pub fn refused(producer: u64, what: &str, may_be: bool) -> Result<(), Broken> {
    if may_be {
        return Ok(());
    }
    Err(format!(
        "duplicates: producer {producer}, whose earlier batches are all acknowledged, was refused: {what}"
    ))
}

/// A batch was taken though the one before it was not, from a producer that the log knows.
pub fn gap(producer: u64, forgotten: bool) -> Result<(), Broken> {
    if forgotten {
        return Ok(());
    }
    Err(format!(
        "duplicates: a batch of producer {producer} was taken, the one before it was not"
    ))
}

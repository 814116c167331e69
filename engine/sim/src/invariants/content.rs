//! What is read is what was sent: byte for byte, save for the base offset and the leader epoch that
//! the broker gives a batch, and nothing that nobody sent.

use bytes::Bytes;
use corelog_record::batch::{BatchHeader, LENGTH_OFFSET, MAGIC_OFFSET};

use super::Broken;

/// Compares a batch as read with the batch as sent.
pub fn check(sent: &Bytes, read: &[u8], header: &BatchHeader) -> Result<(), Broken> {
    let same_length =
        sent[LENGTH_OFFSET..LENGTH_OFFSET + 4] == read[LENGTH_OFFSET..LENGTH_OFFSET + 4];
    if same_length && sent[MAGIC_OFFSET..] == read[MAGIC_OFFSET..] {
        return Ok(());
    }
    Err(format!(
        "content: the batch at offset {} is not what was sent",
        header.base_offset
    ))
}

//! What is read is what was sent: byte for byte, save for the base offset and the leader epoch that
//! the broker gives a batch, and nothing that nobody sent. Where the topic wants another codec than the
//! producer's, the records are those that were sent, byte for byte when they are decompressed.

use bytes::Bytes;
use corelog_record::batch::{
    ATTRIBUTE_CODEC_MASK, BatchHeader, BatchView, LENGTH_OFFSET, MAGIC_OFFSET,
};
use corelog_record::codec::Codec;

/// No batch of a history decompresses to more.
const BYTES_MAX: usize = 1 << 20;

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

/// Compares a batch that was made anew with another codec with the batch as sent.
pub fn same_records(sent: &[u8], read: &[u8]) -> Result<(), Broken> {
    let (sent, read) = (view(sent)?, view(read)?);
    if !read.crc_ok() {
        return Err("content: a batch made anew has a wrong checksum".to_owned());
    }
    let mut as_sent = read.header;
    as_sent.base_offset = sent.header.base_offset;
    as_sent.partition_leader_epoch = sent.header.partition_leader_epoch;
    as_sent.length = sent.header.length;
    as_sent.crc = sent.header.crc;
    as_sent.attributes =
        as_sent.attributes & !ATTRIBUTE_CODEC_MASK | sent.header.attributes & ATTRIBUTE_CODEC_MASK;
    if as_sent != sent.header || payload(&sent)? != payload(&read)? {
        return Err(format!(
            "content: the batch at offset {} has other records than were sent",
            read.header.base_offset
        ));
    }
    Ok(())
}

/// A batch is stored with a codec that its topic had: `None` = the producer's.
pub fn codec(sent: Codec, stored: Codec, topic: &[Option<Codec>]) -> Result<(), Broken> {
    if topic.iter().any(|codec| codec.unwrap_or(sent) == stored) {
        return Ok(());
    }
    Err(format!(
        "content: a batch that was sent with {} is stored with {}, the topic had {topic:?}",
        sent.name(),
        stored.name()
    ))
}

/// Its codec.
pub fn codec_of(batch: &[u8]) -> Result<Codec, Broken> {
    let codec = view(batch)?.header.codec();
    codec.map_err(|error| format!("content: {error}"))
}

/// What its records are when they are decompressed.
pub fn records(batch: &[u8]) -> Result<Vec<u8>, Broken> {
    payload(&view(batch)?)
}

/// The key of its first record, which no other batch has.
pub fn first_key(batch: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
    let bad = |error: &dyn std::fmt::Display| format!("content: {error}");
    let view = view(batch)?;
    let records = view
        .decompressed_records(BYTES_MAX)
        .map_err(|error| bad(&error))?;
    match records.iter().next() {
        Some(Ok(record)) => Ok(record.key.map(<[u8]>::to_vec)),
        Some(Err(error)) => Err(bad(&error)),
        None => Ok(None),
    }
}

fn view(batch: &[u8]) -> Result<BatchView<'_>, Broken> {
    BatchView::parse(batch).map_err(|error| format!("content: a batch that is none: {error}"))
}

fn payload(view: &BatchView<'_>) -> Result<Vec<u8>, Broken> {
    let records = view.decompressed_records(BYTES_MAX);
    let records = records.map_err(|error| format!("content: {error}"))?;
    Ok(records.payload().to_vec())
}

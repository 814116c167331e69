//! Batches as producers send them.

use corelog_record::batch::{
    ATTRIBUTES_OFFSET, BatchIter, BatchView, CRC_OFFSET, HEADER_BYTES, LENGTH_OFFSET, LOG_OVERHEAD,
    MAGIC_OFFSET, MAGIC_V2, PARTITION_LEADER_EPOCH_OFFSET, TimestampType, crc32c,
    patch_base_offset_and_epoch,
};
use corelog_record::codec::memory_bytes;
use corelog_record::schemas::end_txn_marker::EndTxnMarker;
use corelog_record::validate::{Rejection, Rules, Validated, Validator, validate};

use crate::memory::bounded;
use crate::take;

/// Most bytes of records here.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;
/// What a check may hold beside the decompressor: its window, the text of an error.
const CHECK_BYTES: usize = 64 << 10;
/// A record that is refused is described; the smallest takes seven bytes.
const ERROR_BYTES_PER_BYTE: usize = 64;

/// Flag of the first byte: length, magic and CRC are made right.
const MENDED: u8 = 1;
const COMPACTED: u8 = 2;
const LOG_APPEND_TIME: u8 = 4;
const NARROW_TIMES: u8 = 8;
const SMALL_LIMITS: u8 = 16;

/// Every reader of a batch, and every rewrite of one that was taken.
pub fn batch(data: &[u8]) {
    let mut rest = data;
    let [flags, step] = take::<2>(&mut rest);
    let mut bytes = rest.to_vec();
    if flags & MENDED != 0 {
        mend(&mut bytes);
    }
    let rules = Rules {
        now_ms: 1_700_000_000_000,
        compacted: flags & COMPACTED != 0,
        timestamp_type: if flags & LOG_APPEND_TIME != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        },
        before_max_ms: if flags & NARROW_TIMES != 0 {
            1000
        } else {
            i64::MAX
        },
        after_max_ms: if flags & NARROW_TIMES != 0 {
            1000
        } else {
            3_600_000
        },
        decompressed_bytes_max: if flags & SMALL_LIMITS != 0 {
            256
        } else {
            DECOMPRESSED_BYTES_MAX
        },
        max_message_bytes: if flags & SMALL_LIMITS != 0 {
            512
        } else {
            1 << 20
        },
    };
    readers(&bytes);
    let limit = memory_of(&bytes, rules.decompressed_bytes_max)
        + CHECK_BYTES
        + ERROR_BYTES_PER_BYTE * bytes.len().max(rules.decompressed_bytes_max.min(16 << 10));
    let at_once = bounded("validate", limit, || validate(&bytes, &rules));
    let in_steps = bounded("validate in steps", limit, || {
        let mut validator = Validator::new(&bytes, rules);
        loop {
            if let Some(result) = validator.step(usize::from(step) * 8) {
                return result;
            }
        }
    });
    assert_eq!(at_once, in_steps);
    match at_once {
        Ok(validated) => taken(&mut bytes, &validated),
        Err(rejection) => refused(&rejection),
    }
}

/// Makes length, magic and CRC what they must be, so that the rest is looked at.
pub(crate) fn mend(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let length = (bytes.len() - LOG_OVERHEAD) as i32;
    bytes[LENGTH_OFFSET..PARTITION_LEADER_EPOCH_OFFSET].copy_from_slice(&length.to_be_bytes());
    bytes[MAGIC_OFFSET] = MAGIC_V2 as u8;
    let crc = crc32c(&bytes[ATTRIBUTES_OFFSET..]);
    bytes[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&crc.to_be_bytes());
}

/// What decompressing the batch may take, as the broker reckons it.
fn memory_of(bytes: &[u8], limit_bytes: usize) -> usize {
    match BatchView::parse(bytes) {
        Ok(view) => match view.header.codec() {
            Ok(codec) => memory_bytes(codec, view.payload(), limit_bytes),
            Err(_) => 0,
        },
        Err(_) => 0,
    }
}

/// Readers that trust nothing: header, batches one after the other, records, markers.
fn readers(bytes: &[u8]) {
    let mut end = 0;
    for item in BatchIter::new(bytes) {
        let Ok((position, header, batch)) = item else {
            break;
        };
        assert_eq!(position, end);
        assert_eq!(batch.len(), header.size_bytes());
        end += batch.len();
        let _ = (
            header.last_offset(),
            header.next_offset(),
            header.last_sequence(),
        );
        let mut again = [0; HEADER_BYTES];
        header.write(&mut again);
        assert_eq!(again, batch[..HEADER_BYTES]);
    }
    assert!(end <= bytes.len());
    let Ok(view) = BatchView::parse(bytes) else {
        return;
    };
    let _ = EndTxnMarker::of_batch(&view);
    let limit = memory_of(bytes, DECOMPRESSED_BYTES_MAX) + 3 * DECOMPRESSED_BYTES_MAX + CHECK_BYTES;
    let records = bounded("records", limit, || {
        view.decompressed_records(DECOMPRESSED_BYTES_MAX)
    });
    let Ok(records) = records else {
        return;
    };
    for record in &records {
        let Ok(record) = record else {
            break;
        };
        let headers = record.headers().count();
        assert_eq!(headers, record.header_count as usize);
    }
}

/// A batch that was taken is one that every client reads, before and after the broker's rewrites.
fn taken(bytes: &mut [u8], validated: &Validated) {
    let header = validated.header;
    let view = BatchView::parse(bytes).expect("it was validated");
    assert!(view.crc_ok());
    let records = view
        .decompressed_records(DECOMPRESSED_BYTES_MAX)
        .expect("it was validated");
    assert_eq!(records.payload().len(), validated.decompressed_bytes);
    let mut count = 0;
    let mut max_timestamp = -1;
    for record in &records {
        let record = record.expect("it was validated");
        assert_eq!(record.offset_delta, count);
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        max_timestamp = timestamp.max(max_timestamp);
        count += 1;
    }
    assert_eq!(count, header.records_count);
    if validated.timestamp_type == TimestampType::CreateTime {
        assert_eq!(validated.max_timestamp, max_timestamp);
    }
    if validated.needs_max_timestamp_rewrite {
        validated.rewrite_timestamps(bytes);
    }
    patch_base_offset_and_epoch(bytes, 1 << 40, 7);
    let view = BatchView::parse(bytes).expect("it was validated");
    assert_eq!(view.check_crc(), Ok(()));
    assert_eq!(view.header.max_timestamp, validated.max_timestamp);
    assert_eq!(view.header.timestamp_type(), validated.timestamp_type);
    assert_eq!(view.header.base_offset, 1 << 40);
}

fn refused(rejection: &Rejection) {
    assert!(!rejection.message.is_empty());
    assert!(rejection.batch_index_errors.len() <= 1000);
    assert!(rejection.error.error_code() > 0);
}

/// A batch of the target: flags, steps, bytes.
pub(crate) fn input(flags: u8, batch: &[u8]) -> Vec<u8> {
    let mut input = vec![flags, 9];
    input.extend_from_slice(batch);
    input
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelog_record::{BatchError, Codec};

    #[test]
    fn a_mended_batch_is_one_that_is_looked_into() {
        let mut bytes = vec![0; HEADER_BYTES];
        mend(&mut bytes);
        let view = BatchView::parse(&bytes).expect("mended");
        assert!(view.crc_ok() && view.header.codec() == Ok(Codec::None));
        assert_eq!(
            BatchView::parse(&bytes[..60]).map(drop),
            Err(BatchError::Truncated {
                need_bytes: 61,
                have_bytes: 60
            })
        );
    }
}

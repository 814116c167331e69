//! The one record of a control batch that ends a transaction in a partition.
//!
//! Key, big-endian: version i16 (0), type i16 (0 abort, 1 commit). Value: version i16 (0),
//! coordinator epoch i32. Bytes that a later version appends are ignored, as Kafka does.

use crate::batch::BatchView;
use crate::builder::BatchBuilder;
use crate::codec::Codec;
use crate::record::Record;

const TYPE_ABORT: i16 = 0;
const TYPE_COMMIT: i16 = 1;
const VERSION: i16 = 0;
/// A marker is stored uncompressed and is far smaller than this; more is not decompressed for it.
const PAYLOAD_BYTES_MAX: usize = 4096;

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// Whether the transaction was committed; aborted otherwise.
    pub committed: bool,
    /// Epoch of the transaction coordinator that wrote the marker.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// Reads the marker from the record of a control batch; `None` for control records of other
    /// types and for malformed ones.
    pub fn parse(record: &Record<'_>) -> Option<EndTxnMarker> {
        let (key, value) = (record.key?, record.value?);
        let (key_version, key) = key.split_first_chunk()?;
        let (value_version, value) = value.split_first_chunk()?;
        if i16::from_be_bytes(*key_version) < 0 || i16::from_be_bytes(*value_version) < 0 {
            return None;
        }
        let committed = match i16::from_be_bytes(*key.first_chunk()?) {
            TYPE_ABORT => false,
            TYPE_COMMIT => true,
            _ => return None,
        };
        Some(EndTxnMarker {
            committed,
            coordinator_epoch: i32::from_be_bytes(*value.first_chunk()?),
        })
    }

    /// The marker of a batch; `None` unless it is a control batch whose first record is one.
    pub fn of_batch(batch: &BatchView<'_>) -> Option<EndTxnMarker> {
        if !batch.header.is_control() {
            return None;
        }
        let records = batch.decompressed_records(PAYLOAD_BYTES_MAX).ok()?;
        EndTxnMarker::parse(&records.iter().next()?.ok()?)
    }

    /// A control batch with this marker, base offset 0.
    pub fn build_batch(&self, timestamp_ms: i64, producer_id: i64, producer_epoch: i16) -> Vec<u8> {
        let record_type = if self.committed {
            TYPE_COMMIT
        } else {
            TYPE_ABORT
        };
        let mut key = [0; 4];
        key[..2].copy_from_slice(&VERSION.to_be_bytes());
        key[2..].copy_from_slice(&record_type.to_be_bytes());
        let mut value = [0; 6];
        value[..2].copy_from_slice(&VERSION.to_be_bytes());
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        let mut builder = BatchBuilder::new(Codec::None, timestamp_ms)
            .producer(producer_id, producer_epoch, crate::batch::NO_SEQUENCE)
            .transactional()
            .control();
        builder.append(timestamp_ms, Some(&key), Some(&value), &[]);
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record_batch(key: Option<&[u8]>, value: Option<&[u8]>, control: bool) -> Vec<u8> {
        let builder = BatchBuilder::new(Codec::None, 0);
        let mut builder = if control { builder.control() } else { builder };
        builder.append(0, key, value, &[]);
        builder.build()
    }

    fn of(bytes: &[u8]) -> Option<EndTxnMarker> {
        EndTxnMarker::of_batch(&BatchView::parse(bytes).unwrap())
    }

    #[test]
    fn r12_only_markers_are_markers() {
        let value = [0, 0, 0, 0, 0, 7];
        let abort = Some(EndTxnMarker {
            committed: false,
            coordinator_epoch: 7,
        });
        assert_eq!(of(&record_batch(Some(&[0; 4]), Some(&value), true)), abort);
        assert_eq!(
            of(&record_batch(
                Some(&[0, 3, 0, 0, 9]),
                Some(&[0, 1, 0, 0, 0, 7, 9]),
                true
            )),
            abort
        );
        for (key, value, control) in [
            (Some(&[0u8; 4][..]), Some(&value[..]), false),
            (Some(&[0, 0, 0, 2]), Some(&value), true),
            (Some(&[0xff, 0xff, 0, 1]), Some(&value), true),
            (Some(&[0; 3]), Some(&value), true),
            (Some(&[0; 4]), Some(&value[..5]), true),
            (Some(&[0; 4]), None, true),
            (None, Some(&value), true),
        ] {
            assert_eq!(
                of(&record_batch(key, value, control)),
                None,
                "{key:?} {value:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn r12_markers_round_trip(committed in any::<bool>(), coordinator_epoch in any::<i32>(), pid in 0..i64::MAX) {
            let marker = EndTxnMarker { committed, coordinator_epoch };
            let bytes = marker.build_batch(5, pid, 1);
            let view = BatchView::parse(&bytes).unwrap();
            prop_assert!(view.crc_ok() && view.header.is_control() && view.header.is_transactional());
            prop_assert_eq!((view.header.producer_id, view.header.base_sequence), (pid, -1));
            prop_assert_eq!(EndTxnMarker::of_batch(&view), Some(marker));
        }
    }
}

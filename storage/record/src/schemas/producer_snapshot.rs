//! `<offset>.snapshot`: the last batch of every producer of a partition up to that offset.
//!
//! Layout, big-endian, as Kafka's ProducerSnapshot.json version 1: version i16 @0, CRC u32 @2
//! (CRC-32C of everything from byte 6 on), number of entries i32 @6, then 46 bytes per entry in the
//! order of [`ProducerSnapshotEntry`]'s fields. Bytes after the last entry are covered by the CRC
//! and refused.

use crate::batch::crc32c;
use std::fmt;

/// The version Kafka writes and Corelog writes.
pub const VERSION: i16 = 1;
const CRC_OFFSET: usize = 2;
const COUNT_OFFSET: usize = 6;
const ENTRIES_OFFSET: usize = 10;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 46;

/// What a partition remembers of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSnapshotEntry {
    /// The producer.
    pub producer_id: i64,
    /// Its current epoch.
    pub producer_epoch: i16,
    /// Sequence of its last record, or -1 when it has written none in this epoch.
    pub last_sequence: i32,
    /// Offset of its last record, or -1.
    pub last_offset: i64,
    /// Last sequence minus first sequence of its last batch.
    pub offset_delta: i32,
    /// Largest timestamp of its last batch, milliseconds.
    pub timestamp: i64,
    /// Epoch of the last transaction coordinator that wrote a marker for it, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, or -1.
    pub current_txn_first_offset: i64,
}

/// Why a snapshot was refused. The caller falls back to an older snapshot and replays the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not version 1.
    UnsupportedVersion(i16),
    /// The bytes do not match the CRC in the file.
    CrcMismatch {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The size of the file is not that of the entries it declares.
    InvalidSize {
        /// Entries declared, or -1 when the file is too short to declare any.
        entries: i32,
        /// Bytes of the file.
        have_bytes: usize,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::UnsupportedVersion(v) => {
                write!(f, "producer snapshot version {v} is not {VERSION}")
            }
            SnapshotError::CrcMismatch { stored, computed } => {
                write!(
                    f,
                    "producer snapshot is corrupt (stored crc = {stored}, computed crc = {computed})"
                )
            }
            SnapshotError::InvalidSize {
                entries,
                have_bytes,
            } => {
                write!(
                    f,
                    "producer snapshot of {have_bytes} bytes declares {entries} entries"
                )
            }
        }
    }
}

impl std::error::Error for SnapshotError {}

/// The bytes of a snapshot file.
pub fn encode(entries: &[ProducerSnapshotEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRIES_OFFSET + entries.len() * ENTRY_BYTES);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let count = i32::try_from(entries.len()).expect("fewer than 2^31 producers per partition");
    out.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.producer_id.to_be_bytes());
        out.extend_from_slice(&entry.producer_epoch.to_be_bytes());
        out.extend_from_slice(&entry.last_sequence.to_be_bytes());
        out.extend_from_slice(&entry.last_offset.to_be_bytes());
        out.extend_from_slice(&entry.offset_delta.to_be_bytes());
        out.extend_from_slice(&entry.timestamp.to_be_bytes());
        out.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&entry.current_txn_first_offset.to_be_bytes());
    }
    let crc = crc32c(&out[COUNT_OFFSET..]);
    out[CRC_OFFSET..COUNT_OFFSET].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a snapshot file. The number of entries must be exactly what the bytes hold, so nothing is
/// allocated on the word of the file alone.
pub fn decode(bytes: &[u8]) -> Result<Vec<ProducerSnapshotEntry>, SnapshotError> {
    let short = SnapshotError::InvalidSize {
        entries: -1,
        have_bytes: bytes.len(),
    };
    let (version, rest) = bytes.split_first_chunk().ok_or(short)?;
    let version = i16::from_be_bytes(*version);
    if version != VERSION {
        return Err(SnapshotError::UnsupportedVersion(version));
    }
    let (stored, covered) = rest.split_first_chunk().ok_or(short)?;
    let (count, body) = covered.split_first_chunk().ok_or(short)?;
    let (stored, computed) = (u32::from_be_bytes(*stored), crc32c(covered));
    if stored != computed {
        return Err(SnapshotError::CrcMismatch { stored, computed });
    }
    let entries = i32::from_be_bytes(*count);
    let (chunks, tail) = body.as_chunks::<ENTRY_BYTES>();
    if usize::try_from(entries) != Ok(chunks.len()) || !tail.is_empty() {
        return Err(SnapshotError::InvalidSize {
            entries,
            have_bytes: bytes.len(),
        });
    }
    Ok(chunks.iter().map(decode_entry).collect())
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> ProducerSnapshotEntry {
    fn at<const N: usize>(bytes: &[u8; ENTRY_BYTES], offset: usize) -> [u8; N] {
        *bytes[offset..]
            .first_chunk()
            .expect("the fields lie within the entry")
    }
    ProducerSnapshotEntry {
        producer_id: i64::from_be_bytes(at(bytes, 0)),
        producer_epoch: i16::from_be_bytes(at(bytes, 8)),
        last_sequence: i32::from_be_bytes(at(bytes, 10)),
        last_offset: i64::from_be_bytes(at(bytes, 14)),
        offset_delta: i32::from_be_bytes(at(bytes, 22)),
        timestamp: i64::from_be_bytes(at(bytes, 26)),
        coordinator_epoch: i32::from_be_bytes(at(bytes, 34)),
        current_txn_first_offset: i64::from_be_bytes(at(bytes, 38)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry() -> impl Strategy<Value = ProducerSnapshotEntry> {
        let first = (any::<i64>(), any::<i16>(), any::<i32>(), any::<i64>());
        (
            first,
            (any::<i32>(), any::<i64>(), any::<i32>(), any::<i64>()),
        )
            .prop_map(|(a, b)| ProducerSnapshotEntry {
                producer_id: a.0,
                producer_epoch: a.1,
                last_sequence: a.2,
                last_offset: a.3,
                offset_delta: b.0,
                timestamp: b.1,
                coordinator_epoch: b.2,
                current_txn_first_offset: b.3,
            })
    }

    #[test]
    fn r11_wrong_versions_and_sizes_are_refused() {
        assert_eq!(
            decode(&[]),
            Err(SnapshotError::InvalidSize {
                entries: -1,
                have_bytes: 0
            })
        );
        assert_eq!(
            decode(&[0, 1, 0]),
            Err(SnapshotError::InvalidSize {
                entries: -1,
                have_bytes: 3
            })
        );
        assert_eq!(
            decode(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(SnapshotError::UnsupportedVersion(2))
        );
        for count in [1i32, -1, i32::MAX] {
            let mut bytes = encode(&[]);
            bytes[COUNT_OFFSET..ENTRIES_OFFSET].copy_from_slice(&count.to_be_bytes());
            let crc = crc32c(&bytes[COUNT_OFFSET..]);
            bytes[CRC_OFFSET..COUNT_OFFSET].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(
                decode(&bytes),
                Err(SnapshotError::InvalidSize {
                    entries: count,
                    have_bytes: 10
                })
            );
        }
    }

    proptest! {
        #[test]
        fn r11_snapshots_round_trip_and_damage_is_noticed(
            entries in proptest::collection::vec(any_entry(), 0..20),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut bytes = encode(&entries);
            prop_assert_eq!(bytes.len(), ENTRIES_OFFSET + entries.len() * ENTRY_BYTES);
            prop_assert_eq!(decode(&bytes), Ok(entries));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}

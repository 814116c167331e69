//! Bytes of the metadata log: entries, the vote, the snapshot.
//!
//! All integers are big-endian; every unit ends in the CRC-32C of everything before it in the unit.
//! ```text
//! entry    = payload_length u32 | term u64 | index u64 | type u16 | version u16 | payload | crc u32
//! vote     = magic "CLVOTE01" | term u64 | voted_for i32 | crc u32
//! snapshot = magic "CLSNAP01" | term u64 | index u64 | payload_length u32 | payload | crc u32
//! ```
//! One entry is one atomic batch: its payload holds all records of the batch.

use corelog_record::batch::crc32c;

/// Bytes of an entry besides its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = 28;
/// Bytes before an entry's payload.
const ENTRY_HEADER_BYTES: usize = 24;
/// Largest payload of one entry (a topic of 100,000 partitions is below it).
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Bytes of the vote file.
pub const VOTE_BYTES: usize = 24;
const VOTE_MAGIC: &[u8; 8] = b"CLVOTE01";
const SNAPSHOT_MAGIC: &[u8; 8] = b"CLSNAP01";
const SNAPSHOT_HEADER_BYTES: usize = 28;

/// What the payload of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// Nothing: a leader's first entry of its term.
    Blank,
    /// A batch of metadata records.
    Records,
}

/// One entry of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Position in the log, from 1, dense.
    pub index: u64,
    /// What the payload is.
    pub entry_type: EntryType,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Appends one entry's bytes to `out`.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    assert!(
        entry.payload.len() <= PAYLOAD_BYTES_MAX,
        "a metadata batch of {} bytes",
        entry.payload.len()
    );
    let start = out.len();
    out.extend_from_slice(&(entry.payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&entry.term.to_be_bytes());
    out.extend_from_slice(&entry.index.to_be_bytes());
    let entry_type: u16 = match entry.entry_type {
        EntryType::Blank => 0,
        EntryType::Records => 1,
    };
    out.extend_from_slice(&entry_type.to_be_bytes());
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&entry.payload);
    let crc = crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// The entries of a log file, and where good bytes end.
#[derive(Debug)]
pub struct DecodedEntries {
    /// Entries in order.
    pub entries: Vec<Entry>,
    /// Length of the good prefix, in bytes.
    pub good_bytes: usize,
    /// Whole, valid entries lie beyond the first bad byte: this is damage, not a torn tail.
    pub damaged: bool,
}

/// Decodes the entries of a file whose first index is `first_index`.
///
/// Stops at the first entry that is cut short, fails its CRC or breaks the order of indexes.
pub fn decode_entries(bytes: &[u8], first_index: u64) -> DecodedEntries {
    let mut entries = Vec::new();
    let mut at = 0;
    let mut term = 0;
    while let Some((entry, size)) = decode_entry(&bytes[at..]) {
        if entry.index != first_index + entries.len() as u64 || entry.term < term {
            break;
        }
        term = entry.term;
        entries.push(entry);
        at += size;
    }
    let next_index = first_index.saturating_add(entries.len() as u64);
    let damaged =
        (at + 1..bytes.len()).any(|from| later_entry_at(&bytes[from..], next_index, term));
    DecodedEntries {
        entries,
        good_bytes: at,
        damaged,
    }
}

/// A whole, valid entry stands here that follows one of `next_index`. What it says of itself is held
/// against what can be true before its CRC is computed: the search tries every byte of a torn tail.
fn later_entry_at(bytes: &[u8], next_index: u64, term: u64) -> bool {
    let Some(header) = bytes.get(..ENTRY_HEADER_BYTES) else {
        return false;
    };
    let believable = u64_at(header, 4) >= term
        && u64_at(header, 12) > next_index
        && u16_at(header, 20) <= 1
        && u16_at(header, 22) == 0;
    believable && decode_entry(bytes).is_some()
}

fn decode_entry(bytes: &[u8]) -> Option<(Entry, usize)> {
    let header = bytes.get(..ENTRY_HEADER_BYTES)?;
    let length = u32_at(header, 0) as usize;
    if length > PAYLOAD_BYTES_MAX || bytes.len() < length + ENTRY_OVERHEAD_BYTES {
        return None;
    }
    let end = ENTRY_HEADER_BYTES + length;
    if crc32c(&bytes[..end]) != u32_at(bytes, end) {
        return None;
    }
    let entry_type = match (u16_at(header, 20), u16_at(header, 22)) {
        (0, 0) => EntryType::Blank,
        (1, 0) => EntryType::Records,
        _ => return None,
    };
    let entry = Entry {
        term: u64_at(header, 4),
        index: u64_at(header, 12),
        entry_type,
        payload: bytes[ENTRY_HEADER_BYTES..end].to_vec(),
    };
    Some((entry, end + 4))
}

/// Who this node voted for in its newest term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Newest term seen.
    pub term: u64,
    /// Node voted for in that term.
    pub voted_for: i32,
}

/// The vote file's bytes.
pub fn encode_vote(vote: Vote) -> Vec<u8> {
    let mut out = Vec::with_capacity(VOTE_BYTES);
    out.extend_from_slice(VOTE_MAGIC);
    out.extend_from_slice(&vote.term.to_be_bytes());
    out.extend_from_slice(&vote.voted_for.to_be_bytes());
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a vote file; `None` when it is not one or its CRC fails.
pub fn decode_vote(bytes: &[u8]) -> Option<Vote> {
    if bytes.len() != VOTE_BYTES
        || &bytes[..8] != VOTE_MAGIC
        || crc32c(&bytes[..20]) != u32_at(bytes, 20)
    {
        return None;
    }
    Some(Vote {
        term: u64_at(bytes, 8),
        voted_for: u32_at(bytes, 16) as i32,
    })
}

/// A whole image at one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Term of the last entry it holds.
    pub term: u64,
    /// Index of the last entry it holds.
    pub index: u64,
    /// The image as records.
    pub payload: Vec<u8>,
}

/// The snapshot file's bytes.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + snapshot.payload.len() + 4);
    out.extend_from_slice(SNAPSHOT_MAGIC);
    out.extend_from_slice(&snapshot.term.to_be_bytes());
    out.extend_from_slice(&snapshot.index.to_be_bytes());
    out.extend_from_slice(&(snapshot.payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&snapshot.payload);
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a snapshot file; `None` when it is not one, is cut short, or its CRC fails.
pub fn decode_snapshot(bytes: &[u8]) -> Option<Snapshot> {
    let header = bytes.get(..SNAPSHOT_HEADER_BYTES)?;
    let length = u32_at(header, 24) as usize;
    let end = SNAPSHOT_HEADER_BYTES.checked_add(length)?;
    if &header[..8] != SNAPSHOT_MAGIC
        || bytes.len() != end + 4
        || crc32c(&bytes[..end]) != u32_at(bytes, end)
    {
        return None;
    }
    Some(Snapshot {
        term: u64_at(header, 8),
        index: u64_at(header, 16),
        payload: bytes[SNAPSHOT_HEADER_BYTES..end].to_vec(),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 1..=count {
            let payload = vec![index as u8; index as usize * 3];
            encode_entry(
                &Entry {
                    term: 1,
                    index,
                    entry_type: EntryType::Records,
                    payload,
                },
                &mut bytes,
            );
        }
        bytes
    }

    #[test]
    fn entries_come_back_as_written() {
        let decoded = decode_entries(&log_of(5), 1);
        assert_eq!(decoded.entries.len(), 5);
        assert_eq!(decoded.entries[4].payload, vec![5u8; 15]);
        assert!(!decoded.damaged);
    }

    #[test]
    fn a_tail_torn_at_any_byte_keeps_the_entries_before_it() {
        let whole = log_of(3);
        let two = log_of(2).len();
        for cut in two..whole.len() {
            let decoded = decode_entries(&whole[..cut], 1);
            assert_eq!(
                (decoded.entries.len(), decoded.good_bytes, decoded.damaged),
                (2, two, false)
            );
        }
    }

    #[test]
    fn any_flipped_bit_before_valid_entries_is_reported_as_damage() {
        let whole = log_of(3);
        let one = log_of(1).len();
        for byte in 0..one {
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x10;
            let decoded = decode_entries(&bytes, 1);
            assert!(decoded.damaged && decoded.entries.is_empty(), "byte {byte}");
        }
    }

    #[test]
    fn vote_and_snapshot_refuse_every_flipped_byte() {
        let vote = encode_vote(Vote {
            term: 7,
            voted_for: 1,
        });
        assert_eq!(
            decode_vote(&vote),
            Some(Vote {
                term: 7,
                voted_for: 1
            })
        );
        let snapshot = Snapshot {
            term: 3,
            index: 99,
            payload: b"image".to_vec(),
        };
        let bytes = encode_snapshot(&snapshot);
        assert_eq!(decode_snapshot(&bytes), Some(snapshot));
        for at in 0..vote.len() {
            let mut bad = vote.clone();
            bad[at] ^= 1;
            assert_eq!(decode_vote(&bad), None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(decode_snapshot(&bad), None);
        }
        assert_eq!(decode_snapshot(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn golden_entry() {
        let mut bytes = Vec::new();
        encode_entry(
            &Entry {
                term: 2,
                index: 1,
                entry_type: EntryType::Blank,
                payload: Vec::new(),
            },
            &mut bytes,
        );
        assert_eq!(
            &bytes[..24],
            &[
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0
            ]
        );
        assert_eq!(bytes.len(), ENTRY_OVERHEAD_BYTES);
    }
}

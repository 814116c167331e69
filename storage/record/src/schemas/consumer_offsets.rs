//! Keys and values of `__consumer_offsets`: what groups have committed, and what they are.
//!
//! A key begins with the type of the record, i16 big-endian: 0 and 1 are a committed offset (0 as brokers before
//! 0.9 wrote it), 2 is the metadata of a classic group; the records of other group protocols are skipped. A value
//! begins with its version, i16. A record without a value removes what its key names. The fields follow in the
//! order of the structs; versions differ as Kafka's OffsetCommitValue.json and GroupMetadataValue.json say. Bytes
//! after the last field are ignored, as Kafka does.
//!
//! Strings and bytes are copied, so that what was decoded does not keep the batch it came from.

use super::fields::{Reader, SchemaError, Writer};
use bytes::Bytes;

/// The type of a committed offset as brokers before 0.9 wrote it; the same fields.
const TYPE_LEGACY_OFFSET_COMMIT: i16 = 0;
const TYPE_OFFSET_COMMIT: i16 = 1;
const TYPE_GROUP_METADATA: i16 = 2;

const VERSION_MAX: i16 = 4;
const FLEXIBLE_VERSION_MIN: i16 = 4;
/// The one version with an expire timestamp, written when there is one.
const OFFSET_COMMIT_VERSION_EXPIRE: i16 = 1;
const OFFSET_COMMIT_VERSION: i16 = 4;
const GROUP_METADATA_VERSION: i16 = 3;
const NO_TIMEOUT: i32 = -1;
const TAG_TOPIC_ID: u32 = 0;

/// No leader epoch, in [`OffsetCommitValue::leader_epoch`].
pub const NO_LEADER_EPOCH: i32 = -1;
/// No timestamp, in the fields that may lack one.
pub const NO_TIMESTAMP: i64 = -1;
/// No topic id, in [`OffsetCommitValue::topic_id`].
pub const NO_TOPIC_ID: [u8; 16] = [0; 16];

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The offset a group has committed in a partition; the value is an [`OffsetCommitValue`].
    OffsetCommit {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A classic group; the value is a [`GroupMetadataValue`].
    GroupMetadata {
        /// The group.
        group: String,
    },
    /// A record of another type, which is not read further. It cannot be written.
    Other {
        /// The type.
        version: i16,
    },
}

/// Reads the key of a record.
pub fn decode_key(bytes: &[u8]) -> Result<Key, SchemaError> {
    let mut r = Reader::new(bytes, false);
    match r.i16()? {
        TYPE_LEGACY_OFFSET_COMMIT | TYPE_OFFSET_COMMIT => Ok(Key::OffsetCommit {
            group: r.string()?,
            topic: r.string()?,
            partition: r.i32()?,
        }),
        TYPE_GROUP_METADATA => Ok(Key::GroupMetadata { group: r.string()? }),
        version => Ok(Key::Other { version }),
    }
}

impl Key {
    /// The bytes of the key. A name of more than [`super::STRING_BYTES_MAX`] bytes is an error, and so is `Other`.
    pub fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        let mut w;
        match self {
            Key::OffsetCommit {
                group,
                topic,
                partition,
            } => {
                w = Writer::new(TYPE_OFFSET_COMMIT, false);
                w.string(group)?;
                w.string(topic)?;
                w.i32(*partition);
            }
            Key::GroupMetadata { group } => {
                w = Writer::new(TYPE_GROUP_METADATA, false);
                w.string(group)?;
            }
            Key::Other { version } => return Err(SchemaError::UnsupportedVersion(*version)),
        }
        Ok(w.finish())
    }
}

/// The version of a value, and its fields.
fn begin(bytes: &[u8]) -> Result<(i16, Reader<'_>), SchemaError> {
    let (version, fields) = bytes.split_first_chunk().ok_or(SchemaError::Truncated)?;
    let version = i16::from_be_bytes(*version);
    match version {
        0..=VERSION_MAX => Ok((
            version,
            Reader::new(fields, version >= FLEXIBLE_VERSION_MIN),
        )),
        _ => Err(SchemaError::UnsupportedVersion(version)),
    }
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// The offset of the next record to read.
    pub offset: i64,
    /// Epoch of the leader that served the last record read, or [`NO_LEADER_EPOCH`].
    pub leader_epoch: i32,
    /// Whatever the client wanted to keep with it.
    pub metadata: String,
    /// When it was committed, milliseconds.
    pub commit_timestamp_ms: i64,
    /// When it expires, milliseconds, if the client said so; else [`NO_TIMESTAMP`].
    pub expire_timestamp_ms: i64,
    /// The topic's id when it was committed, or [`NO_TOPIC_ID`].
    pub topic_id: [u8; 16],
}

impl OffsetCommitValue {
    /// Reads a value of any version from 0 to 4.
    pub fn decode(bytes: &[u8]) -> Result<OffsetCommitValue, SchemaError> {
        let (version, mut r) = begin(bytes)?;
        let mut value = OffsetCommitValue {
            offset: r.i64()?,
            leader_epoch: if version >= 3 {
                r.i32()?
            } else {
                NO_LEADER_EPOCH
            },
            metadata: r.string()?,
            commit_timestamp_ms: r.i64()?,
            expire_timestamp_ms: if version == OFFSET_COMMIT_VERSION_EXPIRE {
                r.i64()?
            } else {
                NO_TIMESTAMP
            },
            topic_id: NO_TOPIC_ID,
        };
        r.tags(|tag, bytes| {
            if tag == TAG_TOPIC_ID {
                let len = bytes.len() as i64;
                value.topic_id = bytes
                    .try_into()
                    .map_err(|_| SchemaError::InvalidLength(len))?;
            }
            Ok(())
        })?;
        Ok(value)
    }

    /// The bytes of the value in the version that Kafka 4.3.1 writes: 4, or, with an expire timestamp, 1, which has
    /// neither leader epoch nor topic id.
    pub fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        let expires = self.expire_timestamp_ms != NO_TIMESTAMP;
        let version = if expires {
            OFFSET_COMMIT_VERSION_EXPIRE
        } else {
            OFFSET_COMMIT_VERSION
        };
        let mut w = Writer::new(version, !expires);
        w.i64(self.offset);
        if !expires {
            w.i32(self.leader_epoch);
        }
        w.string(&self.metadata)?;
        w.i64(self.commit_timestamp_ms);
        if expires {
            w.i64(self.expire_timestamp_ms);
        } else if self.topic_id == NO_TOPIC_ID {
            w.unsigned(0);
        } else {
            w.unsigned(1);
            w.unsigned(TAG_TOPIC_ID);
            w.unsigned(self.topic_id.len() as u32);
            w.raw(&self.topic_id);
        }
        Ok(w.finish())
    }
}

/// A classic group after a rebalance, or without members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadataValue {
    /// `consumer`, `connect` and so on; empty when there never was a member.
    pub protocol_type: String,
    /// Number of the last rebalance.
    pub generation: i32,
    /// The assignor its members agreed on; `None` without members.
    pub protocol: Option<String>,
    /// Member id of the leader; `None` without members.
    pub leader: Option<String>,
    /// When it came into its state, milliseconds, or [`NO_TIMESTAMP`].
    pub current_state_timestamp_ms: i64,
    /// Its members.
    pub members: Vec<MemberValue>,
}

/// A member of a classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberValue {
    /// The id the coordinator gave it.
    pub member_id: String,
    /// `group.instance.id`, for static members.
    pub group_instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// How long a rebalance waits for it, milliseconds. Where the record has none (version 0, or -1), the session
    /// time-out stands here, as in Kafka.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, milliseconds.
    pub session_timeout_ms: i32,
    /// What it gave for the protocol that was chosen.
    pub subscription: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

impl GroupMetadataValue {
    /// Reads a value of any version from 0 to 4.
    pub fn decode(bytes: &[u8]) -> Result<GroupMetadataValue, SchemaError> {
        let (version, mut r) = begin(bytes)?;
        let mut value = GroupMetadataValue {
            protocol_type: r.string()?,
            generation: r.i32()?,
            protocol: r.nullable_string()?,
            leader: r.nullable_string()?,
            current_state_timestamp_ms: if version >= 2 { r.i64()? } else { NO_TIMESTAMP },
            members: Vec::new(),
        };
        // Not reserved: an element in memory is many times its smallest encoding.
        for _ in 0..r.count(MemberValue::bytes_min(version))? {
            value.members.push(MemberValue::decode(version, &mut r)?);
        }
        r.tags(|_, _| Ok(()))?;
        Ok(value)
    }

    /// The bytes of the value in the version that Kafka 4.3.1 writes, 3.
    pub fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        let mut w = Writer::new(GROUP_METADATA_VERSION, false);
        w.string(&self.protocol_type)?;
        w.i32(self.generation);
        w.nullable_string(self.protocol.as_deref())?;
        w.nullable_string(self.leader.as_deref())?;
        w.i64(self.current_state_timestamp_ms);
        w.length(self.members.len())?;
        for member in &self.members {
            member.encode(&mut w)?;
        }
        Ok(w.finish())
    }
}

impl MemberValue {
    /// Bytes of a member with nothing in it.
    fn bytes_min(version: i16) -> usize {
        match version {
            0 => 18,
            1 | 2 => 22,
            3 => 24,
            _ => 15,
        }
    }

    fn decode(version: i16, r: &mut Reader<'_>) -> Result<MemberValue, SchemaError> {
        let member_id = r.string()?;
        let group_instance_id = if version >= 3 {
            r.nullable_string()?
        } else {
            None
        };
        let client_id = r.string()?;
        let client_host = r.string()?;
        let rebalance_timeout_ms = if version >= 1 { r.i32()? } else { NO_TIMEOUT };
        let session_timeout_ms = r.i32()?;
        let member = MemberValue {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: match rebalance_timeout_ms {
                NO_TIMEOUT => session_timeout_ms,
                given => given,
            },
            session_timeout_ms,
            subscription: Bytes::copy_from_slice(r.bytes()?),
            assignment: Bytes::copy_from_slice(r.bytes()?),
        };
        r.tags(|_, _| Ok(()))?;
        Ok(member)
    }

    fn encode(&self, w: &mut Writer) -> Result<(), SchemaError> {
        w.string(&self.member_id)?;
        w.nullable_string(self.group_instance_id.as_deref())?;
        w.string(&self.client_id)?;
        w.string(&self.client_host)?;
        w.i32(self.rebalance_timeout_ms);
        w.i32(self.session_timeout_ms);
        w.bytes(&self.subscription)?;
        w.bytes(&self.assignment)
    }
}

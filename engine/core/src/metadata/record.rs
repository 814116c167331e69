//! Records of the metadata log and their bytes.
//!
//! A batch is a row of records, each `type u16 | version u16 | length u32 | payload`, big-endian.
//! The layout is the same on disk and between nodes.
//!
//! Forward compatibility: a later version of a type may only append to its payload, so bytes
//! behind the known fields are ignored. A type this build does not know is an error, because
//! skipping it would lose state, unless its highest bit is set ([`IGNORABLE`]).

use std::fmt;

use super::codec::{
    Reader, put_count, put_i32_list, put_nullable_string, put_string, put_uuid_list,
};
use crate::Uuid;

/// Bit of a record type that says: a reader that does not know this type may skip it.
pub const IGNORABLE: u16 = 0x8000;

/// Bytes in front of each payload.
pub const RECORD_HEADER_BYTES: usize = 8;

/// What a configuration override belongs to; numbers are Kafka's `ConfigResource.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// A topic, by name.
    Topic,
    /// A broker, by decimal id, or the default of all brokers, by the empty name.
    Broker,
}

impl ResourceType {
    /// Kafka's number of the type.
    pub const fn id(self) -> i8 {
        match self {
            ResourceType::Topic => 2,
            ResourceType::Broker => 4,
        }
    }

    /// The type of Kafka's number, where we serve it.
    pub const fn from_id(id: i8) -> Option<Self> {
        match id {
            2 => Some(ResourceType::Topic),
            4 => Some(ResourceType::Broker),
            _ => None,
        }
    }
}

/// One advertised address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerEndpoint {
    /// Listener name, upper case.
    pub listener: String,
    /// Host as clients are told.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Changes nothing; moves the log's end.
    NoOp,
    /// A controller's first record of its term.
    EpochStart {
        /// The controller's term.
        epoch: u64,
        /// Its node id.
        node_id: i32,
    },
    /// A topic without partitions; its `Partition` records follow in the same batch.
    Topic {
        /// Name, legal by [`super::names::validate_topic_name`].
        name: String,
        /// Its id, never used before.
        topic_id: Uuid,
    },
    /// The whole state of a partition. A new one has the next free index of its topic.
    Partition {
        /// Topic it belongs to.
        topic_id: Uuid,
        /// Index inside the topic, from 0.
        index: i32,
        /// Brokers that hold it, the preferred leader first.
        replicas: Vec<i32>,
        /// In-sync replicas.
        isr: Vec<i32>,
        /// Leader, or -1.
        leader: i32,
        /// Grows with every change of leader or of its incarnation.
        leader_epoch: i32,
        /// Grows with every change of this record.
        partition_epoch: i32,
        /// Shard that owns it on its broker.
        shard: u16,
    },
    /// The topic is gone, with its partitions and overrides.
    RemoveTopic {
        /// Its id.
        topic_id: Uuid,
    },
    /// An override set or, with `None`, removed.
    Config {
        /// What it belongs to.
        resource_type: ResourceType,
        /// Topic name, broker id, or empty for the default of all brokers.
        resource_name: String,
        /// Key, as in the key table.
        key: String,
        /// Value as written by the client.
        value: Option<String>,
    },
    /// A broker's new incarnation.
    RegisterBroker {
        /// Node id.
        node_id: i32,
        /// Chosen at random by the process at its start.
        incarnation: Uuid,
        /// Grows with every incarnation.
        broker_epoch: i64,
        /// Advertised addresses by listener.
        endpoints: Vec<BrokerEndpoint>,
        /// `broker.rack`.
        rack: Option<String>,
    },
    /// The log directory that a replica's files are in; holds until the next one of the replica.
    ReplicaDirectory {
        /// Topic.
        topic_id: Uuid,
        /// Partition of the topic.
        index: i32,
        /// Broker whose directory it is.
        node_id: i32,
        /// `directory.id` of the directory.
        directory: Uuid,
    },
    /// The log directories of a broker that work.
    BrokerDirectories {
        /// Node id.
        node_id: i32,
        /// Their `directory.id`s, in the order of `log.dirs`.
        directories: Vec<Uuid>,
    },
    /// Producer ids below `next` are given out.
    ProducerIds {
        /// First id that is still free.
        next: i64,
    },
}

/// Why bytes are no metadata record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the record says.
    Truncated {
        /// Field.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A field that cannot mean anything.
    Malformed {
        /// Field.
        what: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A type that only a later version knows, and which may not be skipped.
    UnknownType {
        /// Type.
        record_type: u16,
        /// Version.
        version: u16,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Truncated { what, needed, left } => {
                write!(
                    f,
                    "metadata record: {what} needs {needed} bytes, {left} are left"
                )
            }
            RecordError::Malformed { what, reason } => {
                write!(f, "metadata record: {what}: {reason}")
            }
            RecordError::UnknownType {
                record_type,
                version,
            } => write!(
                f,
                "metadata record type {record_type} version {version} is unknown to this version"
            ),
        }
    }
}

impl std::error::Error for RecordError {}

const TYPE_NO_OP: u16 = 1 | IGNORABLE;
const TYPE_EPOCH_START: u16 = 2;
const TYPE_TOPIC: u16 = 3;
const TYPE_PARTITION: u16 = 4;
const TYPE_REMOVE_TOPIC: u16 = 5;
const TYPE_CONFIG: u16 = 6;
const TYPE_REGISTER_BROKER: u16 = 7;
const TYPE_PRODUCER_IDS: u16 = 8;
const TYPE_REPLICA_DIRECTORY: u16 = 9;
const TYPE_BROKER_DIRECTORIES: u16 = 10;

impl Record {
    /// Type number on disk.
    pub const fn record_type(&self) -> u16 {
        match self {
            Record::NoOp => TYPE_NO_OP,
            Record::EpochStart { .. } => TYPE_EPOCH_START,
            Record::Topic { .. } => TYPE_TOPIC,
            Record::Partition { .. } => TYPE_PARTITION,
            Record::RemoveTopic { .. } => TYPE_REMOVE_TOPIC,
            Record::Config { .. } => TYPE_CONFIG,
            Record::RegisterBroker { .. } => TYPE_REGISTER_BROKER,
            Record::ProducerIds { .. } => TYPE_PRODUCER_IDS,
            Record::ReplicaDirectory { .. } => TYPE_REPLICA_DIRECTORY,
            Record::BrokerDirectories { .. } => TYPE_BROKER_DIRECTORIES,
        }
    }

    /// Version of the payload that [`Record::encode_payload`] writes.
    pub const fn version(&self) -> u16 {
        0
    }

    /// Appends the payload, without its header.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Record::NoOp => {}
            Record::EpochStart { epoch, node_id } => {
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&node_id.to_be_bytes());
            }
            Record::Topic { name, topic_id } => {
                out.extend_from_slice(&topic_id.to_bytes());
                put_string(out, name);
            }
            Record::Partition {
                topic_id,
                index,
                replicas,
                isr,
                leader,
                leader_epoch,
                partition_epoch,
                shard,
            } => {
                out.extend_from_slice(&topic_id.to_bytes());
                out.extend_from_slice(&index.to_be_bytes());
                put_i32_list(out, replicas);
                put_i32_list(out, isr);
                out.extend_from_slice(&leader.to_be_bytes());
                out.extend_from_slice(&leader_epoch.to_be_bytes());
                out.extend_from_slice(&partition_epoch.to_be_bytes());
                out.extend_from_slice(&shard.to_be_bytes());
            }
            Record::RemoveTopic { topic_id } => out.extend_from_slice(&topic_id.to_bytes()),
            Record::Config {
                resource_type,
                resource_name,
                key,
                value,
            } => {
                out.push(resource_type.id() as u8);
                put_string(out, resource_name);
                put_string(out, key);
                put_nullable_string(out, value.as_deref());
            }
            Record::RegisterBroker {
                node_id,
                incarnation,
                broker_epoch,
                endpoints,
                rack,
            } => {
                out.extend_from_slice(&node_id.to_be_bytes());
                out.extend_from_slice(&incarnation.to_bytes());
                out.extend_from_slice(&broker_epoch.to_be_bytes());
                put_count(out, endpoints.len());
                for endpoint in endpoints {
                    put_string(out, &endpoint.listener);
                    put_string(out, &endpoint.host);
                    out.extend_from_slice(&endpoint.port.to_be_bytes());
                }
                put_nullable_string(out, rack.as_deref());
            }
            Record::ProducerIds { next } => out.extend_from_slice(&next.to_be_bytes()),
            Record::ReplicaDirectory {
                topic_id,
                index,
                node_id,
                directory,
            } => {
                out.extend_from_slice(&topic_id.to_bytes());
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(&node_id.to_be_bytes());
                out.extend_from_slice(&directory.to_bytes());
            }
            Record::BrokerDirectories {
                node_id,
                directories,
            } => {
                out.extend_from_slice(&node_id.to_be_bytes());
                put_uuid_list(out, directories);
            }
        }
    }

    /// Reads a payload. `None`: a type we do not know and may skip.
    ///
    /// # Errors
    /// Bytes that are too short, malformed, or of a type that may not be skipped.
    pub fn decode(
        record_type: u16,
        version: u16,
        payload: &[u8],
    ) -> Result<Option<Record>, RecordError> {
        let r = &mut Reader::new(payload);
        let record = match record_type {
            TYPE_NO_OP => Record::NoOp,
            TYPE_EPOCH_START => Record::EpochStart {
                epoch: r.u64("epoch")?,
                node_id: r.i32("node id")?,
            },
            TYPE_TOPIC => Record::Topic {
                topic_id: r.uuid("topic id")?,
                name: r.string("topic name")?,
            },
            TYPE_PARTITION => Record::Partition {
                topic_id: r.uuid("topic id")?,
                index: r.i32("partition index")?,
                replicas: r.i32_list("replicas")?,
                isr: r.i32_list("isr")?,
                leader: r.i32("leader")?,
                leader_epoch: r.i32("leader epoch")?,
                partition_epoch: r.i32("partition epoch")?,
                shard: r.u16("shard")?,
            },
            TYPE_REMOVE_TOPIC => Record::RemoveTopic {
                topic_id: r.uuid("topic id")?,
            },
            TYPE_CONFIG => Record::Config {
                resource_type: ResourceType::from_id(r.u8("resource type")? as i8).ok_or(
                    RecordError::Malformed {
                        what: "resource type",
                        reason: "unknown number",
                    },
                )?,
                resource_name: r.string("resource name")?,
                key: r.string("config key")?,
                value: r.nullable_string("config value")?,
            },
            TYPE_REGISTER_BROKER => decode_register_broker(r)?,
            TYPE_PRODUCER_IDS => Record::ProducerIds {
                next: r.i64("next producer id")?,
            },
            TYPE_REPLICA_DIRECTORY => Record::ReplicaDirectory {
                topic_id: r.uuid("topic id")?,
                index: r.i32("partition index")?,
                node_id: r.i32("node id")?,
                directory: r.uuid("directory id")?,
            },
            TYPE_BROKER_DIRECTORIES => Record::BrokerDirectories {
                node_id: r.i32("node id")?,
                directories: r.uuid_list("directory ids")?,
            },
            _ if record_type & IGNORABLE != 0 => return Ok(None),
            _ => {
                return Err(RecordError::UnknownType {
                    record_type,
                    version,
                });
            }
        };
        if version == 0 && r.remaining() > 0 {
            return Err(RecordError::Malformed {
                what: "payload",
                reason: "bytes behind the last field of version 0",
            });
        }
        Ok(Some(record))
    }
}

fn decode_register_broker(r: &mut Reader<'_>) -> Result<Record, RecordError> {
    let node_id = r.i32("node id")?;
    let incarnation = r.uuid("incarnation")?;
    let broker_epoch = r.i64("broker epoch")?;
    let count = r.count(10, "endpoints")?;
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        endpoints.push(BrokerEndpoint {
            listener: r.string("listener name")?,
            host: r.string("host")?,
            port: r.u16("port")?,
        });
    }
    let rack = r.nullable_string("rack")?;
    Ok(Record::RegisterBroker {
        node_id,
        incarnation,
        broker_epoch,
        endpoints,
        rack,
    })
}

/// The bytes of a batch.
pub fn encode_records(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * 64);
    for record in records {
        out.extend_from_slice(&record.record_type().to_be_bytes());
        out.extend_from_slice(&record.version().to_be_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        record.encode_payload(&mut out);
        let length = u32::try_from(out.len() - length_at - 4)
            .expect("a metadata record is shorter than 4 GiB");
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
    out
}

/// The records of a batch; those of unknown, ignorable types are left out.
///
/// # Errors
/// See [`Record::decode`].
pub fn decode_records(bytes: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    while reader.remaining() > 0 {
        let record_type = reader.u16("record type")?;
        let version = reader.u16("record version")?;
        let length = reader.u32("record length")? as usize;
        let payload = reader.bytes(length, "record payload")?;
        records.extend(Record::decode(record_type, version, payload)?);
    }
    Ok(records)
}

//! The cluster's metadata: records of the metadata log, the image they make, and the decisions
//! that turn requests into records.
//!
//! State moves only by [`image::Image::apply`]; [`controller`] only proposes.

mod codec;
pub mod controller;
pub mod image;
pub mod names;
pub mod record;

pub use controller::{
    BrokerRegistration, ControllerContext, FoundDirectories, allocate_producer_ids, alter_configs,
    create_partitions, create_topics, delete_topics, directories_offline,
    incremental_alter_configs, register_broker,
};
pub use image::{ApplyError, Broker, ConfigMap, Image, Partition, Topic};
pub use record::{
    BrokerEndpoint, Record, RecordError, ResourceType, decode_records, encode_records,
};

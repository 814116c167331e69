//! Configuration: one table of keys, the properties file, typed views, and what DescribeConfigs
//! tells of them.
//!
//! [`keys`] is the table. [`BrokerConfig`] is a checked properties file, [`TopicConfig`] what one
//! topic resolves to: topic override, then dynamic per broker, then dynamic default of all
//! brokers, then the file, then the default.

mod broker;
mod broker_keys;
mod describe;
mod docs;
mod error;
pub mod keys;
pub mod listeners;
mod more_keys;
mod properties;
mod reload;
mod topic;
mod topic_keys;
mod value;

pub use broker::{BrokerConfig, Cores, HttpListener, Setting, StorageIo, parse_override};
pub use describe::{
    ConfigSource, Described, Layers, SourcedValue, describe_broker, describe_cluster_default,
    describe_topic,
};
pub use docs::config_docs;
pub use error::{ConfigError, Place, Warning};
pub use keys::{ConfigKey, broker_key, topic_key};
pub use listeners::{Endpoint, Listener};
pub use properties::{Property, parse_properties};
pub use reload::{ChangedKey, Reload};
pub use topic::{CleanupPolicy, Compression, TimestampType, TopicConfig};
pub use value::{
    AlterError, AlterOp, Value, alter_list, validate_broker_dynamic, validate_topic_override,
};

//! What the tests share: a broker process, a blocking connection, topics and batches.

pub mod batches;
pub mod broker;
pub mod connection;
pub mod groups;
pub mod requests;

pub use batches::{Row, batch, noise, now_ms, parse_rows, sequenced, text_batch, texts, value};
pub use broker::{Broker, DataDir, poll};
pub use connection::{Connection, Sent};
pub use requests::{BROKER, BY_NAME_OFFSETS, TOPIC, topic_name};

//! Fetch, versions 4 to 18: the hot way out.
//!
//! A request is decoded like Produce's: names are slices of the frame. A response is header bytes with
//! holes for records: the engine says how long its ranges are, and [`ResponseBuilder`] gives back the
//! bytes between them. No record passes through here. Topics go by name up to version 12 and by topic
//! id from 13. Source: FetchRequest.json and FetchResponse.json of Kafka 4.3.

mod request;
mod response;

pub use request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
pub use response::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse,
    Part, RecordRange, ResponseBuilder, SnapshotId,
};

use crate::api::ApiKey;
pub use crate::produce::{LeaderIdAndEpoch, NodeEndpoint};
use crate::wire::{NO_TOPIC_ID, Reader, TopicId, WireError, WireStr, Writer};

/// First version that names topics by id.
pub const TOPIC_ID_VERSION: i16 = 13;

fn served(version: i16) -> Result<(), WireError> {
    match ApiKey::Fetch.serves(version) {
        true => Ok(()),
        false => Err(WireError::unsupported(
            "fetch",
            ApiKey::Fetch.number(),
            version,
        )),
    }
}

fn read_topic(version: i16, r: &mut Reader<'_>) -> Result<(WireStr, TopicId), WireError> {
    Ok(match version >= TOPIC_ID_VERSION {
        true => (WireStr::default(), r.uuid("topic_id")?),
        false => (r.string("topic")?, NO_TOPIC_ID),
    })
}

fn write_topic(version: i16, w: &mut Writer<'_>, name: &WireStr, topic_id: &TopicId) {
    match version >= TOPIC_ID_VERSION {
        true => w.uuid(topic_id),
        false => w.string(name),
    }
}

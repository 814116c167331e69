//! FindCoordinator and InitProducerId, as a broker without coordinators answers them.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::find_coordinator_request::FindCoordinatorRequestData;
use kacrab_protocol::generated::find_coordinator_response::{
    Coordinator, FindCoordinatorResponseData,
};
use kacrab_protocol::generated::init_producer_id_request::InitProducerIdRequestData;
use kacrab_protocol::generated::init_producer_id_response::InitProducerIdResponseData;

const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;

/// Answers FindCoordinator, versions 0 to 6: there is none yet, clients try again.
pub fn find_coordinator(
    version: i16,
    request: &FindCoordinatorRequestData,
) -> FindCoordinatorResponseData {
    let key_type = if version >= 1 { request.key_type } else { 0 };
    let highest = if version >= 6 {
        KEY_TYPE_SHARE
    } else {
        KEY_TYPE_TRANSACTION
    };
    let (code, message) = if (0..=highest).contains(&key_type) {
        (
            ErrorCode::CoordinatorNotAvailable,
            "The coordinator is not available.".to_owned(),
        )
    } else {
        (
            ErrorCode::InvalidRequest,
            format!("Unknown coordinator key type {key_type}"),
        )
    };
    if version < 4 {
        return FindCoordinatorResponseData::default()
            .with_error_code(code.code())
            .with_error_message((version >= 1).then(|| crate::client_message(&message)))
            .with_node_id(-1)
            .with_port(-1);
    }
    let coordinators = request.coordinator_keys.iter().map(|key| {
        Coordinator::default()
            .with_key(key.clone())
            .with_error_code(code.code())
            .with_error_message(Some(crate::client_message(&message)))
            .with_node_id(-1)
            .with_port(-1)
    });
    FindCoordinatorResponseData::default().with_coordinators(coordinators.collect())
}

/// What to do about an InitProducerId.
#[derive(Debug, Clone, PartialEq)]
pub enum InitProducerId {
    /// Take a free producer id and answer [`init_producer_id_answer`].
    NeedsProducerId,
    /// Answer this.
    Refused(InitProducerIdResponseData),
}

/// Decides InitProducerId, versions 0 to 5. A producer without a transactional id always gets a
/// new id in epoch 0, as in Kafka.
pub fn init_producer_id(request: &InitProducerIdRequestData) -> InitProducerId {
    let refuse = |code| InitProducerId::Refused(init_producer_id_error(code));
    if (request.producer_id == -1) != (request.producer_epoch == -1) {
        return refuse(ErrorCode::InvalidRequest);
    }
    match request.transactional_id.as_ref().map(KafkaString::as_str) {
        None => InitProducerId::NeedsProducerId,
        Some("") => refuse(ErrorCode::InvalidRequest),
        Some(_) => refuse(ErrorCode::NotCoordinator),
    }
}

/// The answer with a producer id.
pub fn init_producer_id_answer(producer_id: i64) -> InitProducerIdResponseData {
    InitProducerIdResponseData::default()
        .with_producer_id(producer_id)
        .with_producer_epoch(0)
}

/// The answer with an error, as when no block of ids could be had.
pub fn init_producer_id_error(code: ErrorCode) -> InitProducerIdResponseData {
    InitProducerIdResponseData::default()
        .with_error_code(code.code())
        .with_producer_id(-1)
        .with_producer_epoch(-1)
}

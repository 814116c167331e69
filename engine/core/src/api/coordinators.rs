//! FindCoordinator, and InitProducerId as a broker without transactions answers it.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::find_coordinator_request::FindCoordinatorRequestData;
use kacrab_protocol::generated::find_coordinator_response::{
    Coordinator, FindCoordinatorResponseData,
};
use kacrab_protocol::generated::init_producer_id_request::InitProducerIdRequestData;
use kacrab_protocol::generated::init_producer_id_response::InitProducerIdResponseData;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;

/// Where a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorNode {
    /// Node id of the broker.
    pub node_id: i32,
    /// Its host, as this client's listener is advertised.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Whether a FindCoordinator asks for those of groups.
pub fn asks_for_groups(version: i16, request: &FindCoordinatorRequestData) -> bool {
    key_type(version, request) == KEY_TYPE_GROUP
        && (version < 4 || !request.coordinator_keys.is_empty())
}

/// Answers FindCoordinator, versions 0 to 6. `lookup` says where the coordinator of a group is.
/// There is none of transactions yet: clients try again. There are no share groups.
pub fn find_coordinator(
    version: i16,
    request: &FindCoordinatorRequestData,
    mut lookup: impl FnMut(&str) -> Result<CoordinatorNode, ErrorCode>,
) -> FindCoordinatorResponseData {
    let key_type = key_type(version, request);
    let mut find = |key: &str| match key_type {
        KEY_TYPE_GROUP => lookup(key).map_err(|code| (code, code.to_string())),
        KEY_TYPE_TRANSACTION => {
            let code = ErrorCode::CoordinatorNotAvailable;
            Err((code, code.to_string()))
        }
        KEY_TYPE_SHARE => Err((
            ErrorCode::InvalidRequest,
            "Share groups are not served.".to_owned(),
        )),
        _ => Err((
            ErrorCode::InvalidRequest,
            format!("Unknown coordinator key type {key_type}"),
        )),
    };
    if version < 4 {
        let response = FindCoordinatorResponseData::default();
        return match find(request.key.as_str()) {
            // Versions 1 to 3 say NONE in words, as Kafka does.
            Ok(node) => response
                .with_error_message((version >= 1).then(|| KafkaString::from_static("NONE")))
                .with_node_id(node.node_id)
                .with_host(KafkaString::from(node.host))
                .with_port(i32::from(node.port)),
            Err((code, message)) => response
                .with_error_code(code.code())
                .with_error_message((version >= 1).then(|| crate::client_message(&message)))
                .with_node_id(-1)
                .with_port(-1),
        };
    }
    let coordinators = request.coordinator_keys.iter().map(|key| {
        let coordinator = Coordinator::default().with_key(key.clone());
        match find(key.as_str()) {
            Ok(node) => coordinator
                .with_error_message(Some(KafkaString::default()))
                .with_node_id(node.node_id)
                .with_host(KafkaString::from(node.host))
                .with_port(i32::from(node.port)),
            Err((code, message)) => coordinator
                .with_error_code(code.code())
                .with_error_message(Some(crate::client_message(&message)))
                .with_node_id(-1)
                .with_port(-1),
        }
    });
    FindCoordinatorResponseData::default().with_coordinators(coordinators.collect())
}

fn key_type(version: i16, request: &FindCoordinatorRequestData) -> i8 {
    if version >= 1 {
        request.key_type
    } else {
        KEY_TYPE_GROUP
    }
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

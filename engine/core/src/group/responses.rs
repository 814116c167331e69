//! Answers to requests that fail as a whole.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::describe_groups_response::DescribedGroup;
use kacrab_protocol::generated::leave_group_response::LeaveGroupResponseData;
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;
use kacrab_protocol::generated::offset_delete_response::OffsetDeleteResponseData;
use kacrab_protocol::generated::offset_fetch_response::OffsetFetchResponseGroup;

use super::admin::deleted;
use super::membership::{heartbeat_response, lacks_protocol};
use super::offsets::commit_response;
use super::rebalance::{join_error, sync_error};
use super::types::{Client, GroupSettings, Request, Response};

/// Length of the random part of a member's id, with the dash before it.
const MEMBER_ID_SUFFIX_BYTES: usize = 37;

/// The answer to a request that fails as a whole.
pub fn error_response(request: &Request, error: ErrorCode) -> Response {
    let code = error.code();
    match request {
        Request::Join { version, request } => {
            join_error(*version, request.member_id.as_str(), error)
        }
        Request::Sync { .. } => sync_error(error),
        Request::Heartbeat { .. } => heartbeat_response(error),
        Request::Leave { .. } => {
            Response::Leave(LeaveGroupResponseData::default().with_error_code(code))
        }
        Request::OffsetCommit {
            version, topics, ..
        } => Response::OffsetCommit(commit_response(*version, topics, |_| error)),
        Request::OffsetFetch { group, .. } => Response::OffsetFetch(
            OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(code),
        ),
        Request::OffsetDelete { .. } => {
            Response::OffsetDelete(OffsetDeleteResponseData::default().with_error_code(code))
        }
        Request::Describe { group_id, .. } => Response::Describe(
            DescribedGroup::default()
                .with_group_id(KafkaString::from(group_id.clone()))
                .with_error_code(code),
        ),
        Request::Delete { group_id } => deleted(group_id, error),
        Request::List { .. } => {
            Response::List(ListGroupsResponseData::default().with_error_code(code))
        }
    }
}

/// What is wrong with a request whatever the group.
///
/// # Errors
/// INVALID_GROUP_ID, INVALID_SESSION_TIMEOUT, INCONSISTENT_GROUP_PROTOCOL; and, for texts that no
/// record can hold, UNKNOWN_SERVER_ERROR as from Kafka, which fails over them.
pub(super) fn check(
    settings: &GroupSettings,
    client: &Client,
    request: &Request,
) -> Result<(), ErrorCode> {
    let named = |group_id: &str| match group_id {
        "" => Err(ErrorCode::InvalidGroupId),
        _ => Ok(()),
    };
    let fits = |text: &str| text.len() <= super::TEXT_BYTES_MAX - MEMBER_ID_SUFFIX_BYTES;
    let all_fit = match request {
        Request::Join { request, .. } => {
            named(request.group_id.as_str())?;
            let bounds = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
            if !bounds.contains(&request.session_timeout_ms) {
                return Err(ErrorCode::InvalidSessionTimeout);
            }
            let instance = request.group_instance_id.iter();
            fits(request.group_id.as_str())
                && fits(request.protocol_type.as_str())
                && fits(&client.id)
                && fits(&client.host)
                && instance.map(KafkaString::as_str).all(fits)
                && request.protocols.iter().all(|p| fits(p.name.as_str()))
        }
        Request::Sync { version, request } => {
            named(request.group_id.as_str())?;
            if lacks_protocol(*version, request) {
                return Err(ErrorCode::InconsistentGroupProtocol);
            }
            true
        }
        Request::Heartbeat { request } => {
            named(request.group_id.as_str())?;
            true
        }
        Request::Leave { request, .. } => {
            named(request.group_id.as_str())?;
            true
        }
        Request::OffsetDelete { request } => {
            named(request.group_id.as_str())?;
            true
        }
        Request::OffsetCommit {
            group_id, topics, ..
        } => fits(group_id) && topics.iter().all(|topic| fits(&topic.name)),
        Request::OffsetFetch { .. }
        | Request::Describe { .. }
        | Request::Delete { .. }
        | Request::List { .. } => true,
    };
    if all_fit {
        Ok(())
    } else {
        Err(ErrorCode::UnknownServerError)
    }
}

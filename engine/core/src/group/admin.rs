//! DescribeGroups, ListGroups and DeleteGroups.

use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::delete_groups_response::DeletableGroupResult;
use kacrab_protocol::generated::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kacrab_protocol::generated::list_groups_response::ListedGroup;

use super::context::{Context, Removal, RemovalReply};
use super::offsets::write_removals_at_once;
use super::state::{Group, GroupState};
use super::types::Response;

/// From this version on a group that is not there is an error.
const DESCRIBE_VERSION_WITH_NOT_FOUND: i16 = 6;
const DESCRIBE_VERSION_WITH_OPERATIONS: i16 = 3;
const DESCRIBE_VERSION_WITH_INSTANCE: i16 = 4;
/// "Authorized operations were not asked for."
const OPERATIONS_OMITTED: i32 = i32::MIN;
/// All operations on a group, as bits of Kafka's `AclOperation`: read, delete, describe, describe
/// configs, alter configs. There are no ACLs: everybody has them.
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
/// The type of the groups here.
const GROUP_TYPE: &str = "classic";

fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// The answer to a DescribeGroups.
pub(super) fn describe(
    group: Option<&Group>,
    version: i16,
    group_id: &str,
    include_operations: bool,
) -> DescribedGroup {
    let asked = include_operations && version >= DESCRIBE_VERSION_WITH_OPERATIONS;
    let operations = if asked {
        GROUP_OPERATIONS
    } else {
        OPERATIONS_OMITTED
    };
    let response = DescribedGroup::default()
        .with_group_id(text(group_id))
        .with_error_message(None)
        .with_authorized_operations(operations);
    let Some(group) = group.filter(|group| group.state != GroupState::Dead) else {
        let response = response.with_group_state(text(GroupState::Dead.name()));
        if version < DESCRIBE_VERSION_WITH_NOT_FOUND {
            return response;
        }
        let message = crate::client_message(&format!("Group {group_id} not found."));
        return response
            .with_error_code(ErrorCode::GroupIdNotFound.code())
            .with_error_message(Some(message))
            .with_authorized_operations(OPERATIONS_OMITTED);
    };
    let stable = group.state == GroupState::Stable;
    let protocol = group.protocol.as_deref().filter(|_| stable);
    let members = group.members.values().map(|member| {
        let instance = member.group_instance_id.as_deref();
        DescribedGroupMember::default()
            .with_member_id(text(&member.id))
            .with_group_instance_id(
                instance
                    .filter(|_| version >= DESCRIBE_VERSION_WITH_INSTANCE)
                    .map(text),
            )
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(protocol.map(|p| member.metadata(p)).unwrap_or_default())
            .with_member_assignment(member.assignment.clone())
    });
    response
        .with_group_state(text(group.state.name()))
        .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
        .with_protocol_data(text(protocol.unwrap_or_default()))
        .with_members(members.collect())
}

/// What a ListGroups wants; empty lists want everything.
pub(super) struct ListFilter {
    states: Vec<String>,
    types: Vec<String>,
}

impl ListFilter {
    pub fn new(states: &[String], types: &[String]) -> ListFilter {
        let lower = |names: &[String]| {
            let names = names.iter();
            names.map(|name| name.trim().to_lowercase()).collect()
        };
        ListFilter {
            states: lower(states),
            types: lower(types),
        }
    }

    pub fn wants(&self, group: &Group) -> bool {
        let in_state = |state: &String| state.eq_ignore_ascii_case(group.state.name());
        (self.states.is_empty() || self.states.iter().any(in_state))
            && (self.types.is_empty() || self.types.iter().any(|name| name == GROUP_TYPE))
    }
}

/// A group in the answer to a ListGroups.
pub(super) fn listed(group: &Group) -> ListedGroup {
    ListedGroup::default()
        .with_group_id(text(&group.id))
        .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
        .with_group_state(text(group.state.name()))
        .with_group_type(text(GROUP_TYPE))
}

/// The answer to a DeleteGroups.
pub(super) fn deleted(group_id: &str, error: ErrorCode) -> Response {
    Response::Delete(
        DeletableGroupResult::default()
            .with_group_id(text(group_id))
            .with_error_code(error.code()),
    )
}

impl Group {
    /// Takes a DeleteGroups: the group is dead while its tombstones are written.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND.
    pub fn delete(&mut self, ctx: &mut Context, token: u64) -> Result<(), ErrorCode> {
        match self.state {
            GroupState::Empty => {}
            GroupState::Dead => return Err(ErrorCode::GroupIdNotFound),
            _ => return Err(ErrorCode::NonEmptyGroup),
        }
        let mut removals = self.all_offset_removals(ctx);
        removals.push(Removal::Group(Arc::clone(&self.id)));
        self.state = GroupState::Dead;
        let reply = RemovalReply::DeleteGroup {
            token,
            group: Arc::clone(&self.id),
        };
        write_removals_at_once(ctx, removals, reply);
        Ok(())
    }
}

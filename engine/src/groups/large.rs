//! Answers about groups that may be much larger than their requests.

use corelog_net::cold::ColdMessage;
use corelog_net::cold::messages::delete_groups_response::DeleteGroupsResponseData;
use corelog_net::cold::messages::describe_groups_response::DescribeGroupsResponseData;
use corelog_net::cold::messages::heartbeat_response::HeartbeatResponseData;
use corelog_net::cold::messages::join_group_response::JoinGroupResponseData;
use corelog_net::cold::messages::leave_group_response::LeaveGroupResponseData;
use corelog_net::cold::messages::list_groups_response::ListGroupsResponseData;
use corelog_net::cold::messages::offset_commit_response::OffsetCommitResponseData;
use corelog_net::cold::messages::offset_delete_response::OffsetDeleteResponseData;
use corelog_net::cold::messages::offset_fetch_response::OffsetFetchResponseData;
use corelog_net::cold::messages::sync_group_response::SyncGroupResponseData;

use crate::connection::ErrorCodes;

/// Bytes of an element besides its texts.
const ELEMENT_BYTES: usize = 64;

/// An answer that says how large it is before it is encoded.
pub trait Large: ColdMessage + ErrorCodes {
    /// About how many bytes it takes; 0 where its request takes as many.
    fn about_bytes(&self) -> usize {
        0
    }
}

impl Large for JoinGroupResponseData {
    fn about_bytes(&self) -> usize {
        let members = self.members.iter();
        members.map(|m| m.metadata.len() + ELEMENT_BYTES).sum()
    }
}

impl Large for SyncGroupResponseData {
    fn about_bytes(&self) -> usize {
        self.assignment.len()
    }
}

impl Large for DescribeGroupsResponseData {
    fn about_bytes(&self) -> usize {
        let members = self.groups.iter().flat_map(|group| &group.members);
        let bytes = members
            .map(|m| m.member_metadata.len() + m.member_assignment.len() + 4 * ELEMENT_BYTES);
        bytes.sum::<usize>() + self.groups.len() * ELEMENT_BYTES
    }
}

impl Large for ListGroupsResponseData {
    fn about_bytes(&self) -> usize {
        let groups = self.groups.iter();
        groups
            .map(|g| g.group_id.as_str().len() + ELEMENT_BYTES)
            .sum()
    }
}

impl Large for OffsetFetchResponseData {
    fn about_bytes(&self) -> usize {
        let text = |metadata: &Option<_>| metadata.as_ref().map_or(0, kept_bytes);
        let of_one = self.topics.iter().flat_map(|topic| &topic.partitions);
        let of_one = of_one.map(|p| text(&p.metadata) + ELEMENT_BYTES);
        let topics = self.groups.iter().flat_map(|group| &group.topics);
        let of_groups = topics.flat_map(|topic| &topic.partitions);
        let of_groups = of_groups.map(|p| text(&p.metadata) + ELEMENT_BYTES);
        of_one.sum::<usize>() + of_groups.sum::<usize>()
    }
}

fn kept_bytes(text: &corelog_net::cold::messages::KafkaString) -> usize {
    text.as_str().len()
}

impl Large for HeartbeatResponseData {}
impl Large for LeaveGroupResponseData {}
impl Large for OffsetCommitResponseData {}
impl Large for OffsetDeleteResponseData {}
impl Large for DeleteGroupsResponseData {}

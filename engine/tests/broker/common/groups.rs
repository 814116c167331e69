//! What members of groups and their administrators ask, on a [`Connection`].

use bytes::Bytes;
use corelog_net::cold::messages::KafkaUuid;
use corelog_net::cold::messages::describe_groups_request::DescribeGroupsRequestData;
use corelog_net::cold::messages::describe_groups_response::DescribedGroup;
use corelog_net::cold::messages::find_coordinator_request::FindCoordinatorRequestData;
use corelog_net::cold::messages::heartbeat_request::HeartbeatRequestData;
use corelog_net::cold::messages::join_group_request::{
    JoinGroupRequestData, JoinGroupRequestProtocol,
};
use corelog_net::cold::messages::join_group_response::JoinGroupResponseData;
use corelog_net::cold::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use corelog_net::cold::messages::list_groups_request::ListGroupsRequestData;
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use corelog_net::cold::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use corelog_net::cold::messages::sync_group_request::{
    SyncGroupRequestAssignment, SyncGroupRequestData,
};
use corelog_net::cold::messages::sync_group_response::SyncGroupResponseData;
use corelog_net::error_code::ErrorCode;

use super::{BY_NAME_OFFSETS, Broker, Connection, poll, topic_name};

/// A topic id as the generated structs have it.
pub fn uuid(bytes: [u8; 16]) -> KafkaUuid {
    let number = u128::from_be_bytes(bytes);
    KafkaUuid::from_parts((number >> 64) as u64, number as u64)
}

/// Error code as an enum.
pub fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}

/// A JoinGroup of a consumer that speaks one protocol.
pub fn join_request(group: &str, member: &str) -> JoinGroupRequestData {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(topic_name("range"))
        .with_metadata(Bytes::from_static(b"subscription"));
    JoinGroupRequestData::default()
        .with_group_id(topic_name(group))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(topic_name(member))
        .with_protocol_type(topic_name("consumer"))
        .with_protocols(vec![protocol])
}

/// A SyncGroup; the leader's has assignments.
pub fn sync_request(
    group: &str,
    member: &str,
    generation: i32,
    assignments: &[(&str, &str)],
) -> SyncGroupRequestData {
    let assignment = |&(member, bytes): &(&str, &str)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(topic_name(member))
            .with_assignment(Bytes::copy_from_slice(bytes.as_bytes()))
    };
    SyncGroupRequestData::default()
        .with_group_id(topic_name(group))
        .with_generation_id(generation)
        .with_member_id(topic_name(member))
        .with_protocol_type(Some(topic_name("consumer")))
        .with_protocol_name(Some(topic_name("range")))
        .with_assignments(assignments.iter().map(assignment).collect())
}

/// An OffsetCommit of one partition by nobody's member.
pub fn commit_request(
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> OffsetCommitRequestData {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(topic_name("text")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequestData::default()
        .with_group_id(topic_name(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

/// An OffsetFetch of one partition of a group.
pub fn fetch_group(group: &str, topic: &str, partition: i32) -> OffsetFetchRequestGroup {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![partition]);
    OffsetFetchRequestGroup::default()
        .with_group_id(topic_name(group))
        .with_member_epoch(-1)
        .with_topics(Some(vec![topic]))
}

impl Connection {
    /// Waits until the coordinator of a group is there and has loaded.
    #[track_caller]
    pub fn find_coordinator(&mut self, broker: &Broker, group: &str) {
        let request =
            FindCoordinatorRequestData::default().with_coordinator_keys(vec![topic_name(group)]);
        let answer = self.call(&request).coordinators.remove(0);
        assert_eq!(code(answer.error_code), ErrorCode::None, "{answer:?}");
        assert_eq!(answer.port, i32::from(broker.kafka.port()));
        poll("the coordinator to load", || {
            (code(self.describe_group(group).error_code) != ErrorCode::CoordinatorLoadInProgress)
                .then_some(())
        });
    }

    /// Joins for the first time: asks for a member id and joins with it. Sends only.
    pub fn begin_join(&mut self, group: &str) -> (String, super::Sent) {
        let answer = self.call(&join_request(group, ""));
        assert_eq!(code(answer.error_code), ErrorCode::MemberIdRequired);
        let member = answer.member_id.to_string();
        let sent = self.send(9, &join_request(group, &member));
        (member, sent)
    }

    /// The end of a join.
    #[track_caller]
    pub fn end_join(&mut self, sent: super::Sent) -> JoinGroupResponseData {
        let answer: JoinGroupResponseData = self.answer_as(sent);
        assert_eq!(code(answer.error_code), ErrorCode::None, "{answer:?}");
        answer
    }

    /// Joins as the only new member.
    #[track_caller]
    pub fn join(&mut self, group: &str) -> JoinGroupResponseData {
        let (_, sent) = self.begin_join(group);
        self.end_join(sent)
    }

    /// SyncGroup.
    pub fn sync(
        &mut self,
        group: &str,
        member: &str,
        generation: i32,
        assignments: &[(&str, &str)],
    ) -> SyncGroupResponseData {
        self.call(&sync_request(group, member, generation, assignments))
    }

    /// Heartbeat.
    pub fn heartbeat(&mut self, group: &str, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequestData::default()
            .with_group_id(topic_name(group))
            .with_member_id(topic_name(member))
            .with_generation_id(generation);
        code(self.call(&request).error_code)
    }

    /// LeaveGroup of one member.
    pub fn leave(&mut self, group: &str, member: &str) -> ErrorCode {
        let member = MemberIdentity::default().with_member_id(topic_name(member));
        let request = LeaveGroupRequestData::default()
            .with_group_id(topic_name(group))
            .with_members(vec![member]);
        let answer = self.call(&request);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        code(answer.members[0].error_code)
    }

    /// Commits one offset without being a member.
    pub fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> ErrorCode {
        self.commit_as(&commit_request(group, topic, partition, offset))
    }

    /// The first partition's answer to an OffsetCommit by topic name.
    pub fn commit_as(&mut self, request: &OffsetCommitRequestData) -> ErrorCode {
        let sent = self.send(BY_NAME_OFFSETS, request);
        let answer: corelog_net::cold::messages::offset_commit_response::OffsetCommitResponseData =
            self.answer_as(sent);
        code(answer.topics[0].partitions[0].error_code)
    }

    /// A committed offset, -1 for none.
    #[track_caller]
    pub fn committed(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        let request = OffsetFetchRequestData::default()
            .with_groups(vec![fetch_group(group, topic, partition)]);
        let sent = self.send(BY_NAME_OFFSETS, &request);
        let mut answer: corelog_net::cold::messages::offset_fetch_response::OffsetFetchResponseData =
            self.answer_as(sent);
        let group = answer.groups.remove(0);
        assert_eq!(code(group.error_code), ErrorCode::None, "{group:?}");
        let partition = &group.topics[0].partitions[0];
        assert_eq!(code(partition.error_code), ErrorCode::None, "{partition:?}");
        partition.committed_offset
    }

    /// DescribeGroups of one group.
    pub fn describe_group(&mut self, group: &str) -> DescribedGroup {
        let request = DescribeGroupsRequestData::default().with_groups(vec![topic_name(group)]);
        self.call(&request).groups.remove(0)
    }

    /// Names of all groups, in order.
    #[track_caller]
    pub fn list_groups(&mut self) -> Vec<String> {
        let answer = self.call(&ListGroupsRequestData::default());
        assert_eq!(code(answer.error_code), ErrorCode::None);
        let mut names: Vec<_> = answer
            .groups
            .iter()
            .map(|g| g.group_id.to_string())
            .collect();
        names.sort();
        names
    }
}

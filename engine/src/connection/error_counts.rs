//! Error codes of answers, for the counters. Produce and Fetch count theirs where they arise.

use corelog_net::cold::messages as m;

/// An answer whose error codes are counted.
pub trait ErrorCodes {
    /// Calls `each` with every code, 0 (no error) included.
    fn each(&self, each: &mut dyn FnMut(i16));
}

macro_rules! codes {
    ($($module:ident :: $data:ident ( $self:ident, $each:ident ) $body:block)+) => {$(
        impl ErrorCodes for m::$module::$data {
            fn each(&$self, $each: &mut dyn FnMut(i16)) $body
        }
    )+};
}

codes! {
    metadata_response::MetadataResponseData(self, each) {
        self.topics.iter().for_each(|topic| each(topic.error_code));
    }
    create_topics_response::CreateTopicsResponseData(self, each) {
        self.topics.iter().for_each(|topic| each(topic.error_code));
    }
    delete_topics_response::DeleteTopicsResponseData(self, each) {
        self.responses.iter().for_each(|topic| each(topic.error_code));
    }
    create_partitions_response::CreatePartitionsResponseData(self, each) {
        self.results.iter().for_each(|topic| each(topic.error_code));
    }
    incremental_alter_configs_response::IncrementalAlterConfigsResponseData(self, each) {
        self.responses.iter().for_each(|resource| each(resource.error_code));
    }
    alter_configs_response::AlterConfigsResponseData(self, each) {
        self.responses.iter().for_each(|resource| each(resource.error_code));
    }
    describe_configs_response::DescribeConfigsResponseData(self, each) {
        self.results.iter().for_each(|resource| each(resource.error_code));
    }
    init_producer_id_response::InitProducerIdResponseData(self, each) {
        each(self.error_code);
    }
    describe_cluster_response::DescribeClusterResponseData(self, each) {
        each(self.error_code);
    }
    describe_topic_partitions_response::DescribeTopicPartitionsResponseData(self, each) {
        self.topics.iter().for_each(|topic| each(topic.error_code));
    }
    describe_log_dirs_response::DescribeLogDirsResponseData(self, each) {
        each(self.error_code);
        self.results.iter().for_each(|dir| each(dir.error_code));
    }
    elect_leaders_response::ElectLeadersResponseData(self, each) {
        each(self.error_code);
        let topics = self.replica_election_results.iter();
        topics.flat_map(|topic| &topic.partition_result).for_each(|p| each(p.error_code));
    }
    list_partition_reassignments_response::ListPartitionReassignmentsResponseData(self, each) {
        each(self.error_code);
    }
    list_config_resources_response::ListConfigResourcesResponseData(self, each) {
        each(self.error_code);
    }
    list_offsets_response::ListOffsetsResponseData(self, each) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    offset_for_leader_epoch_response::OffsetForLeaderEpochResponseData(self, each) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    delete_records_response::DeleteRecordsResponseData(self, each) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    describe_producers_response::DescribeProducersResponseData(self, each) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    find_coordinator_response::FindCoordinatorResponseData(self, each) {
        each(self.error_code);
        self.coordinators.iter().for_each(|found| each(found.error_code));
    }
    join_group_response::JoinGroupResponseData(self, each) {
        each(self.error_code);
    }
    sync_group_response::SyncGroupResponseData(self, each) {
        each(self.error_code);
    }
    heartbeat_response::HeartbeatResponseData(self, each) {
        each(self.error_code);
    }
    leave_group_response::LeaveGroupResponseData(self, each) {
        each(self.error_code);
        self.members.iter().for_each(|member| each(member.error_code));
    }
    offset_commit_response::OffsetCommitResponseData(self, each) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    offset_fetch_response::OffsetFetchResponseData(self, each) {
        each(self.error_code);
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
        for group in &self.groups {
            each(group.error_code);
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.for_each(|partition| each(partition.error_code));
        }
    }
    offset_delete_response::OffsetDeleteResponseData(self, each) {
        each(self.error_code);
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| each(partition.error_code));
    }
    list_groups_response::ListGroupsResponseData(self, each) {
        each(self.error_code);
    }
    describe_groups_response::DescribeGroupsResponseData(self, each) {
        self.groups.iter().for_each(|group| each(group.error_code));
    }
    delete_groups_response::DeleteGroupsResponseData(self, each) {
        self.results.iter().for_each(|group| each(group.error_code));
    }
}

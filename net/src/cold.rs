//! All messages but Produce and Fetch: generated structs of `kacrab-protocol`, with our ranges and headers.
//!
//! The structs are re-exported under [`messages`], so that no other room names the crate for its wire use.
//! Decoding is bounded by what was received, but a byte may become many: take
//! [`decode_charge_bytes`] of memory first.

use bytes::{Bytes, BytesMut};
use kacrab_protocol::ProtocolError;

use crate::api::{ApiKey, COLD_DECODE_FACTOR};
use crate::frame::begin_request;
use crate::response::{begin_response, close_frame};
use crate::wire::{WireError, WireErrorKind};

/// The generated structs, one module per message.
pub mod messages {
    pub use kacrab_protocol::generated::{
        alter_configs_request, alter_configs_response, api_versions_request, api_versions_response,
        consumer_protocol_assignment, create_partitions_request, create_partitions_response,
        create_topics_request, create_topics_response, delete_groups_request,
        delete_groups_response, delete_records_request, delete_records_response,
        delete_topics_request, delete_topics_response, describe_cluster_request,
        describe_cluster_response, describe_configs_request, describe_configs_response,
        describe_groups_request, describe_groups_response, describe_log_dirs_request,
        describe_log_dirs_response, describe_producers_request, describe_producers_response,
        describe_topic_partitions_request, describe_topic_partitions_response,
        elect_leaders_request, elect_leaders_response, find_coordinator_request,
        find_coordinator_response, heartbeat_request, heartbeat_response,
        incremental_alter_configs_request, incremental_alter_configs_response,
        init_producer_id_request, init_producer_id_response, join_group_request,
        join_group_response, leave_group_request, leave_group_response,
        list_config_resources_request, list_config_resources_response, list_groups_request,
        list_groups_response, list_offsets_request, list_offsets_response,
        list_partition_reassignments_request, list_partition_reassignments_response,
        metadata_request, metadata_response, offset_commit_request, offset_commit_response,
        offset_delete_request, offset_delete_response, offset_fetch_request, offset_fetch_response,
        offset_for_leader_epoch_request, offset_for_leader_epoch_response, sync_group_request,
        sync_group_response,
    };
    pub use kacrab_protocol::{KafkaString, KafkaUuid, RawTaggedField};
}

use messages::*;

/// A generated struct that is the body of a request or a response.
pub trait ColdMessage: Sized {
    /// Its API.
    const API: ApiKey;

    /// Decodes a body; a version that is not served is an error.
    fn decode(version: i16, body: &Bytes) -> Result<Self, WireError>;

    /// Appends a body; a field set that the version lacks and may not be left out is an error.
    fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError>;
}

/// A [`ColdMessage`] that is a request, with the response it gets.
pub trait ColdCall: ColdMessage {
    /// The response.
    type Response: ColdMessage;
}

/// Elements for which the generated decoders reserve capacity before they have read them.
const PREALLOCATED_ELEMENTS_MAX: usize = 1024;

/// Bytes of one element on each level of nesting, added up.
const PREALLOCATED_ELEMENT_BYTES: usize = 256;

fn codec_error(what: &'static str, error: ProtocolError) -> WireError {
    WireError::new(what, 0, WireErrorKind::Codec(error.to_string()))
}

macro_rules! cold {
    ($($api:ident: $request_module:ident::$request:ident => $response_module:ident::$response:ident;)*) => {
        /// The body of any request but Produce and Fetch.
        #[derive(Debug, Clone, PartialEq)]
        pub enum ColdRequest {
            $(
                #[doc = concat!("A ", stringify!($api), " request.")]
                $api($request_module::$request),
            )*
        }

        impl ColdRequest {
            /// Decodes the body of a request. Produce and Fetch, and versions that are not served, are errors.
            pub fn decode(api: ApiKey, version: i16, body: &Bytes) -> Result<ColdRequest, WireError> {
                match api {
                    $(ApiKey::$api => <$request_module::$request>::decode(version, body).map(ColdRequest::$api),)*
                    ApiKey::Produce | ApiKey::Fetch => {
                        Err(WireError::unsupported("cold request", api.number(), version))
                    }
                }
            }

            /// Appends the body, in the version given; see [`ColdMessage::encode`].
            pub fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError> {
                match self {
                    $(ColdRequest::$api(request) => request.encode(version, buf),)*
                }
            }

            /// The API of the request.
            pub fn api(&self) -> ApiKey {
                match self {
                    $(ColdRequest::$api(_) => ApiKey::$api,)*
                }
            }
        }

        /// Decodes the body of an answer as the client does, and encodes it again: for tools that hold the
        /// codecs against each other. Produce and Fetch have codecs of their own.
        pub fn recode_response(api: ApiKey, version: i16, body: &Bytes) -> Result<BytesMut, WireError> {
            let mut buf = BytesMut::new();
            match api {
                $(ApiKey::$api => <$response_module::$response>::decode(version, body)?.encode(version, &mut buf)?,)*
                ApiKey::Produce | ApiKey::Fetch => {
                    return Err(WireError::unsupported("cold response", api.number(), version));
                }
            }
            Ok(buf)
        }

        $(
            cold!(@message $api, $request_module::$request, concat!(stringify!($api), " request"));
            cold!(@message $api, $response_module::$response, concat!(stringify!($api), " response"));

            impl ColdCall for $request_module::$request {
                type Response = $response_module::$response;
            }
        )*
    };
    (@message $api:ident, $module:ident::$message:ident, $what:expr) => {
        impl ColdMessage for $module::$message {
            const API: ApiKey = ApiKey::$api;

            fn decode(version: i16, body: &Bytes) -> Result<Self, WireError> {
                if !Self::API.serves(version) {
                    return Err(WireError::unsupported($what, Self::API.number(), version));
                }
                $module::$message::read(&mut body.clone(), version).map_err(|e| codec_error($what, e))
            }

            fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError> {
                if !Self::API.serves(version) {
                    return Err(WireError::unsupported($what, Self::API.number(), version));
                }
                self.write(buf, version).map_err(|e| codec_error($what, e))
            }
        }
    };
}

cold! {
    ListOffsets: list_offsets_request::ListOffsetsRequestData => list_offsets_response::ListOffsetsResponseData;
    Metadata: metadata_request::MetadataRequestData => metadata_response::MetadataResponseData;
    OffsetCommit: offset_commit_request::OffsetCommitRequestData => offset_commit_response::OffsetCommitResponseData;
    OffsetFetch: offset_fetch_request::OffsetFetchRequestData => offset_fetch_response::OffsetFetchResponseData;
    FindCoordinator: find_coordinator_request::FindCoordinatorRequestData => find_coordinator_response::FindCoordinatorResponseData;
    JoinGroup: join_group_request::JoinGroupRequestData => join_group_response::JoinGroupResponseData;
    Heartbeat: heartbeat_request::HeartbeatRequestData => heartbeat_response::HeartbeatResponseData;
    LeaveGroup: leave_group_request::LeaveGroupRequestData => leave_group_response::LeaveGroupResponseData;
    SyncGroup: sync_group_request::SyncGroupRequestData => sync_group_response::SyncGroupResponseData;
    DescribeGroups: describe_groups_request::DescribeGroupsRequestData => describe_groups_response::DescribeGroupsResponseData;
    ListGroups: list_groups_request::ListGroupsRequestData => list_groups_response::ListGroupsResponseData;
    ApiVersions: api_versions_request::ApiVersionsRequestData => api_versions_response::ApiVersionsResponseData;
    CreateTopics: create_topics_request::CreateTopicsRequestData => create_topics_response::CreateTopicsResponseData;
    DeleteTopics: delete_topics_request::DeleteTopicsRequestData => delete_topics_response::DeleteTopicsResponseData;
    DeleteRecords: delete_records_request::DeleteRecordsRequestData => delete_records_response::DeleteRecordsResponseData;
    InitProducerId: init_producer_id_request::InitProducerIdRequestData => init_producer_id_response::InitProducerIdResponseData;
    OffsetForLeaderEpoch: offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData => offset_for_leader_epoch_response::OffsetForLeaderEpochResponseData;
    DescribeConfigs: describe_configs_request::DescribeConfigsRequestData => describe_configs_response::DescribeConfigsResponseData;
    AlterConfigs: alter_configs_request::AlterConfigsRequestData => alter_configs_response::AlterConfigsResponseData;
    DescribeLogDirs: describe_log_dirs_request::DescribeLogDirsRequestData => describe_log_dirs_response::DescribeLogDirsResponseData;
    CreatePartitions: create_partitions_request::CreatePartitionsRequestData => create_partitions_response::CreatePartitionsResponseData;
    DeleteGroups: delete_groups_request::DeleteGroupsRequestData => delete_groups_response::DeleteGroupsResponseData;
    ElectLeaders: elect_leaders_request::ElectLeadersRequestData => elect_leaders_response::ElectLeadersResponseData;
    IncrementalAlterConfigs: incremental_alter_configs_request::IncrementalAlterConfigsRequestData => incremental_alter_configs_response::IncrementalAlterConfigsResponseData;
    ListPartitionReassignments: list_partition_reassignments_request::ListPartitionReassignmentsRequestData => list_partition_reassignments_response::ListPartitionReassignmentsResponseData;
    OffsetDelete: offset_delete_request::OffsetDeleteRequestData => offset_delete_response::OffsetDeleteResponseData;
    DescribeCluster: describe_cluster_request::DescribeClusterRequestData => describe_cluster_response::DescribeClusterResponseData;
    DescribeProducers: describe_producers_request::DescribeProducersRequestData => describe_producers_response::DescribeProducersResponseData;
    ListConfigResources: list_config_resources_request::ListConfigResourcesRequestData => list_config_resources_response::ListConfigResourcesResponseData;
    DescribeTopicPartitions: describe_topic_partitions_request::DescribeTopicPartitionsRequestData => describe_topic_partitions_response::DescribeTopicPartitionsResponseData;
}

/// Bytes of memory that decoding a cold body may take at most: what its smallest elements become, and
/// the capacity that arrays get ahead of their elements (as many as bytes are left, 1024 at most).
pub fn decode_charge_bytes(body_bytes: usize) -> usize {
    let ahead = body_bytes.min(PREALLOCATED_ELEMENTS_MAX) * PREALLOCATED_ELEMENT_BYTES;
    body_bytes
        .saturating_mul(COLD_DECODE_FACTOR)
        .saturating_add(ahead)
}

/// A whole response frame, size field included.
pub fn encode_response<T: ColdMessage>(
    version: i16,
    correlation_id: i32,
    body: &T,
) -> Result<BytesMut, WireError> {
    let mut buf = BytesMut::with_capacity(256);
    begin_response(&mut buf, T::API, version, correlation_id);
    body.encode(version, &mut buf)?;
    close_frame(&mut buf, 0)?;
    Ok(buf)
}

/// A whole request frame, size field included.
pub fn encode_request<T: ColdCall>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &T,
) -> Result<BytesMut, WireError> {
    let mut buf = BytesMut::with_capacity(256);
    begin_request(&mut buf, T::API, version, correlation_id, client_id);
    body.encode(version, &mut buf)?;
    close_frame(&mut buf, 0)?;
    Ok(buf)
}

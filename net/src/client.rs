//! The one client: replication, bench and tools speak to brokers through it.
//!
//! One connection on one shard. Requests go out in the order in which they are made, many may be in
//! flight, and answers come back in the same order; a wrong correlation id, a broken frame or a
//! time-out ends the connection, because what follows can no longer be told apart. Versions are the
//! highest that both ends serve.

mod connection;
mod error;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_runtime::Rt;

use crate::api::ApiKey;
use crate::cold::messages::api_versions_request::ApiVersionsRequestData;
use crate::cold::messages::api_versions_response::ApiVersionsResponseData;
use crate::cold::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use crate::cold::messages::list_offsets_response::ListOffsetsPartitionResponse;
use crate::cold::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use crate::cold::messages::metadata_response::MetadataResponseData;
use crate::cold::{ColdCall, ColdMessage};
use crate::error_code::ErrorCode;
use crate::fetch::{FetchRequest, FetchResponse};
use crate::frame::begin_request;
use crate::produce::{ProduceRequest, ProduceResponse};
use crate::response::close_frame;
use crate::wire::WireStr;

use connection::Connection;
pub use connection::PendingResponse;
pub use error::ClientError;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What it calls itself in every request.
    pub client_id: Option<String>,
    /// Longest wait for the connection, and for the answer of one request.
    pub request_timeout: Duration,
    /// Longest answer, in bytes. A longer one ends the connection.
    pub response_bytes_max: usize,
}

impl Default for ClientConfig {
    /// Kafka's 30 s, and 64 MiB.
    fn default() -> ClientConfig {
        ClientConfig {
            client_id: Some("corelog".into()),
            request_timeout: Duration::from_secs(30),
            response_bytes_max: 64 << 20,
        }
    }
}

/// A connection to one broker. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct Client {
    connection: Rc<Connection>,
    versions: Rc<[(ApiKey, i16)]>,
}

impl Client {
    /// Connects and asks what the broker serves.
    pub async fn connect(
        rt: &Rt,
        addr: SocketAddr,
        config: ClientConfig,
    ) -> Result<Client, ClientError> {
        let connection = Connection::open(rt, addr, config).await?;
        let versions = negotiate(&connection).await?;
        Ok(Client {
            connection: Rc::new(connection),
            versions,
        })
    }

    /// The highest version of an API that both ends serve.
    pub fn version(&self, api: ApiKey) -> Result<i16, ClientError> {
        let found = self.versions.iter().find(|row| row.0 == api);
        found.map(|row| row.1).ok_or(ClientError::NotServed { api })
    }

    /// Sends a request whose body `encode` appends, now, and gives the body of its answer, later. Requests go out in
    /// the order of these calls, whenever their answers are awaited. Not for Produce with acks=0, which has no answer.
    pub fn request(
        &self,
        api: ApiKey,
        version: i16,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), crate::WireError>,
    ) -> Result<PendingResponse, ClientError> {
        let correlation_id = self.connection.next_correlation_id();
        let mut buf = BytesMut::with_capacity(256);
        begin_request(
            &mut buf,
            api,
            version,
            correlation_id,
            self.connection.client_id(),
        );
        encode(&mut buf)?;
        close_frame(&mut buf, 0)?;
        self.connection
            .enqueue(api, version, correlation_id, vec![buf.freeze()])
    }

    /// Any request but Produce and Fetch, in the highest common version.
    pub async fn call<T: ColdCall>(&self, body: &T) -> Result<T::Response, ClientError> {
        self.call_at(self.version(T::API)?, body).await
    }

    /// Any request but Produce and Fetch, in a given version.
    pub async fn call_at<T: ColdCall>(
        &self,
        version: i16,
        body: &T,
    ) -> Result<T::Response, ClientError> {
        call_on(&self.connection, version, body).await
    }

    /// Produces in a given version (13 takes topic ids, older ones names). The request is on its way when this
    /// returns; the answer is awaited on what it gives. acks=0 gets an empty answer once the bytes are sent.
    pub fn produce(
        &self,
        version: i16,
        request: &ProduceRequest,
    ) -> Result<impl Future<Output = Result<ProduceResponse, ClientError>> + 'static, ClientError>
    {
        let correlation_id = self.connection.next_correlation_id();
        let pieces = request.encode_frame(version, correlation_id, self.connection.client_id())?;
        let pending = match request.acks {
            0 => self.connection.enqueue_unanswered(pieces)?,
            _ => self
                .connection
                .enqueue(ApiKey::Produce, version, correlation_id, pieces)?,
        };
        let answered = request.acks != 0;
        Ok(async move {
            let body = pending.await?;
            match answered {
                true => Ok(ProduceResponse::decode(version, &body)?),
                false => Ok(ProduceResponse::default()),
            }
        })
    }

    /// Fetches in a given version (13 and above take topic ids, older ones names); records are slices of the answer.
    /// The request is on its way when this returns.
    pub fn fetch(
        &self,
        version: i16,
        request: &FetchRequest,
    ) -> Result<
        impl Future<Output = Result<FetchResponse<Bytes>, ClientError>> + 'static,
        ClientError,
    > {
        let pending = self.request(ApiKey::Fetch, version, |buf| request.encode(version, buf))?;
        Ok(async move { Ok(FetchResponse::decode(version, &pending.await?)?) })
    }

    /// Brokers, and the named topics, or all for `None`. Missing topics are not created.
    pub async fn metadata(
        &self,
        topics: Option<&[&str]>,
    ) -> Result<MetadataResponseData, ClientError> {
        let version = self.version(ApiKey::Metadata)?;
        let named = |name: &&str| {
            MetadataRequestTopic::default().with_name(Some(WireStr::from(*name).into()))
        };
        let topics = match topics {
            Some(topics) => Some(topics.iter().map(named).collect()),
            // Version 0 asks for all topics by naming none.
            None if version == 0 => Some(Vec::new()),
            None => None,
        };
        // Up to version 3 the broker decides alone whether a missing topic is created, and the field must be unset.
        let request = MetadataRequestData::default()
            .with_topics(topics)
            .with_allow_auto_topic_creation(version < 4);
        self.call_at(version, &request).await
    }

    /// The offset for a timestamp in milliseconds, or for -1 = the end, -2 = the start, -3 = the record
    /// with the largest timestamp. `isolation_level` 1 ends at the last stable offset.
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: i32,
        timestamp: i64,
        isolation_level: i8,
    ) -> Result<ListOffsetsPartitionResponse, ClientError> {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(WireStr::from(topic).into())
            .with_partitions(vec![asked]);
        let request = ListOffsetsRequestData::default()
            .with_replica_id(-1)
            .with_isolation_level(isolation_level)
            .with_topics(vec![topic]);
        let response = self.call(&request).await?;
        let answers = response
            .topics
            .into_iter()
            .flat_map(|topic| topic.partitions);
        answers
            .into_iter()
            .find(|answer| answer.partition_index == partition)
            .ok_or(ClientError::MissingAnswer)
    }
}

async fn call_on<T: ColdCall>(
    connection: &Connection,
    version: i16,
    body: &T,
) -> Result<T::Response, ClientError> {
    let correlation_id = connection.next_correlation_id();
    let frame = crate::cold::encode_request(version, correlation_id, connection.client_id(), body)?;
    let pending = connection.enqueue(T::API, version, correlation_id, vec![frame.freeze()])?;
    Ok(T::Response::decode(version, &pending.await?)?)
}

/// Asks with our highest version. A broker that lacks it answers in version 0 with its range of ApiVersions
/// (KIP-511), or, when old, with the error alone.
async fn negotiate(connection: &Connection) -> Result<Rc<[(ApiKey, i16)]>, ClientError> {
    let api = ApiKey::ApiVersions;
    let mut version = api.max_version();
    let response = loop {
        let request = match version {
            3.. => ApiVersionsRequestData::default()
                .with_client_software_name("corelog".to_string().into())
                .with_client_software_version(env!("CARGO_PKG_VERSION").to_string().into()),
            _ => ApiVersionsRequestData::default(),
        };
        let correlation_id = connection.next_correlation_id();
        let frame =
            crate::cold::encode_request(version, correlation_id, connection.client_id(), &request)?;
        let body = connection
            .enqueue(api, version, correlation_id, vec![frame.freeze()])?
            .await?;
        let unsupported = body.starts_with(&ErrorCode::UnsupportedVersion.code().to_be_bytes());
        let response =
            ApiVersionsResponseData::decode(if unsupported { 0 } else { version }, &body)?;
        if !unsupported {
            break response;
        }
        let offered = response
            .api_keys
            .iter()
            .find(|row| row.api_key == api.number());
        let next = offered.map_or(0, |row| row.max_version);
        if next < 0 || next >= version {
            return Err(ClientError::NotServed { api });
        }
        version = next;
    };
    let error = ErrorCode::from_code(response.error_code);
    if !error.is_none() {
        return Err(ClientError::Refused { api, error });
    }
    let common = |row: &crate::cold::messages::api_versions_response::ApiVersion| {
        let api = ApiKey::from_i16(row.api_key)?;
        let version = row.max_version.min(api.max_version());
        (version >= row.min_version.max(api.min_version())).then_some((api, version))
    };
    Ok(response.api_keys.iter().filter_map(common).collect())
}

//! Group requests on the connection's shard: to the coordinator of the group, and back.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use corelog_core::group::{Client, Request, Response, error_response, partition_of};
use corelog_core::metadata::Image;
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_net::cold::messages::heartbeat_request::HeartbeatRequestData;
use corelog_net::cold::messages::heartbeat_response::HeartbeatResponseData;
use corelog_net::cold::messages::join_group_request::JoinGroupRequestData;
use corelog_net::cold::messages::join_group_response::JoinGroupResponseData;
use corelog_net::cold::messages::leave_group_request::LeaveGroupRequestData;
use corelog_net::cold::messages::leave_group_response::LeaveGroupResponseData;
use corelog_net::cold::messages::sync_group_request::SyncGroupRequestData;
use corelog_net::cold::messages::sync_group_response::SyncGroupResponseData;
use corelog_net::cold::{ColdMessage, ColdRequest, encode_response};
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;
use kacrab_protocol::generated::ErrorCode;

use super::{find, offsets, several};
use crate::connection::{Connection, ErrorCodes, peer};
use crate::request_memory::Held;
use crate::shard::Shard;
use crate::shard::message::{GroupCall, Request as Message, Response as Answer};

/// Most protocols of one member. Clients name one per assignor; each one that is kept takes many
/// times its bytes on the wire.
const PROTOCOLS_MAX: usize = 1024;

/// Why there is no answer: the connection is being closed, its peer is gone, or the coordinator's
/// shard is.
#[derive(Debug)]
pub struct Gone;

/// Who asks, and from where.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The connection's shard.
    pub shard: &'a Rc<Shard>,
    /// The connection.
    pub connection: &'a Rc<Connection>,
    /// Version, client id, correlation id.
    pub frame: &'a RequestFrame,
}

/// Answers a group request; the bytes are a whole frame. `None`: the connection is to be closed.
///
/// `decoded` is the memory of the decoded request; a request that may wait long gives it back.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &RequestFrame,
    request: ColdRequest,
    decoded: Held,
) -> Result<Option<Bytes>, WireError> {
    let asker = Asker {
        shard,
        connection,
        frame,
    };
    match request {
        ColdRequest::FindCoordinator(request) => {
            asker.encode(Ok(find::find_coordinator(asker, &request).await))
        }
        ColdRequest::JoinGroup(request) => asker.encode(join(asker, request, decoded).await),
        ColdRequest::SyncGroup(request) => asker.encode(sync(asker, request, decoded).await),
        ColdRequest::Heartbeat(request) => asker.encode(heartbeat(asker, request).await),
        ColdRequest::LeaveGroup(request) => asker.encode(leave(asker, request).await),
        ColdRequest::OffsetCommit(request) => asker.encode(offsets::commit(asker, request).await),
        ColdRequest::OffsetFetch(request) => asker.encode(offsets::fetch(asker, request).await),
        ColdRequest::OffsetDelete(request) => asker.encode(offsets::delete(asker, request).await),
        ColdRequest::ListGroups(request) => asker.encode(several::list(asker, &request).await),
        ColdRequest::DescribeGroups(request) => {
            asker.encode(several::describe(asker, &request).await)
        }
        ColdRequest::DeleteGroups(request) => asker.encode(several::delete(asker, &request).await),
        other => {
            let (api, version) = (other.api().number(), frame.version);
            Err(WireError::unsupported("group request", api, version))
        }
    }
}

async fn join(
    asker: Asker<'_>,
    request: JoinGroupRequestData,
    decoded: Held,
) -> Result<JoinGroupResponseData, Gone> {
    let refused = (request.protocols.len() > PROTOCOLS_MAX).then_some(ErrorCode::InvalidRequest);
    let group_id = request.group_id.clone();
    let version = asker.frame.version;
    let request = Request::Join { version, request };
    let answer = asker.ask_long(group_id.as_str(), request, refused, decoded);
    match answer.await? {
        Response::Join(response) => Ok(response),
        _ => Err(Gone),
    }
}

async fn sync(
    asker: Asker<'_>,
    request: SyncGroupRequestData,
    decoded: Held,
) -> Result<SyncGroupResponseData, Gone> {
    let group_id = request.group_id.clone();
    let version = asker.frame.version;
    let request = Request::Sync { version, request };
    let answer = asker.ask_long(group_id.as_str(), request, None, decoded);
    match answer.await? {
        Response::Sync(response) => Ok(response),
        _ => Err(Gone),
    }
}

async fn heartbeat(
    asker: Asker<'_>,
    request: HeartbeatRequestData,
) -> Result<HeartbeatResponseData, Gone> {
    let group_id = request.group_id.clone();
    let request = Request::Heartbeat { request };
    match asker.ask(group_id.as_str(), request).await? {
        Response::Heartbeat(response) => Ok(response),
        _ => Err(Gone),
    }
}

async fn leave(
    asker: Asker<'_>,
    request: LeaveGroupRequestData,
) -> Result<LeaveGroupResponseData, Gone> {
    let group_id = request.group_id.clone();
    let version = asker.frame.version;
    let request = Request::Leave { version, request };
    match asker.ask(group_id.as_str(), request).await? {
        Response::Leave(response) => Ok(response),
        _ => Err(Gone),
    }
}

/// The coordinator's partition of a group and the shard that owns it; `None` while there is no
/// offsets topic.
pub fn coordinator_of(image: &Image, group_id: &str) -> Option<(i32, ShardId)> {
    let topic = image.topic(CONSUMER_OFFSETS_TOPIC)?;
    let partition = partition_of(group_id, i32::try_from(topic.partitions.len()).ok()?);
    let owner = topic.partition(partition)?.shard;
    Some((partition, ShardId(owner)))
}

impl<'a> Asker<'a> {
    fn encode<T: ColdMessage + ErrorCodes>(
        self,
        answer: Result<T, Gone>,
    ) -> Result<Option<Bytes>, WireError> {
        let Ok(body) = answer else {
            return Ok(None);
        };
        let frame = self.frame;
        let api = frame.api.number();
        body.each(&mut |code| self.shard.stats.count_error(api, code));
        let bytes = encode_response(frame.version, frame.correlation_id, &body)?;
        Ok(Some(bytes.freeze()))
    }

    /// Asks the coordinator of a group.
    pub async fn ask(self, group_id: &str, request: Request) -> Result<Response, Gone> {
        self.send(group_id, request).answer(self.connection).await
    }

    /// Asks for what may take as long as other members like. The memory of the decoded request is
    /// given back; what the request keeps while it waits is charged to a share of its own.
    async fn ask_long(
        self,
        group_id: &str,
        request: Request,
        refused: Option<ErrorCode>,
        decoded: Held,
    ) -> Result<Response, Gone> {
        if let Some(code) = refused {
            return Ok(error_response(&request, code));
        }
        let kept = self.frame.body.len();
        let Some(_parked) = self.shard.request_memory.try_park(kept) else {
            return Ok(error_response(&request, ErrorCode::CoordinatorNotAvailable));
        };
        let asked = self.send(group_id, request);
        drop(decoded);
        let peer = peer::closed(self.shard, self.connection);
        let mut answer = None;
        crate::race::race(
            async { answer = Some(asked.answer(self.connection).await) },
            peer,
        )
        .await;
        answer.unwrap_or(Err(Gone))
    }

    /// Sends a request to the coordinator of a group, at once.
    pub fn send(self, group_id: &str, request: Request) -> Asked {
        match coordinator_of(&self.shard.image(), group_id) {
            Some((partition, owner)) => self.send_to(partition, owner, request),
            None => Asked::Answered(error_response(&request, ErrorCode::NotCoordinator)),
        }
    }

    /// Sends a request to the coordinator of one partition, at once.
    pub fn send_to(self, partition: i32, owner: ShardId, request: Request) -> Asked {
        let id = self.shard.new_wait_id();
        let client = Client {
            id: self
                .frame
                .client_id
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            host: self.connection.peer_host().to_owned(),
        };
        let call = GroupCall {
            id,
            partition,
            client,
            request,
        };
        let answer = self.shard.call(owner, Message::Group(Box::new(call)));
        let cancel = Cancel {
            shard: Rc::clone(self.shard),
            owner,
            partition,
            id,
            answered: false,
        };
        Asked::Sent(Box::pin(answer), cancel)
    }
}

type AnswerFuture = Pin<Box<dyn Future<Output = Option<Answer>>>>;

/// A request that is on its way.
pub enum Asked {
    /// It was answered without a coordinator.
    Answered(Response),
    /// It was sent to the coordinator's shard.
    Sent(AnswerFuture, Cancel),
}

impl Asked {
    /// The coordinator's answer; `Gone` when the connection is being closed before it comes.
    pub async fn answer(self, connection: &Connection) -> Result<Response, Gone> {
        let (answer, mut cancel) = match self {
            Asked::Answered(response) => return Ok(response),
            Asked::Sent(answer, cancel) => (answer, cancel),
        };
        let mut found = None;
        crate::race::race(async { found = answer.await }, connection.closing()).await;
        match found {
            Some(Answer::Group(response)) => {
                cancel.answered = true;
                Ok(*response)
            }
            _ => Err(Gone),
        }
    }
}

/// Tells the coordinator, when dropped before the answer, that nobody waits for it any more.
pub struct Cancel {
    shard: Rc<Shard>,
    owner: ShardId,
    partition: i32,
    id: u64,
    answered: bool,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if !self.answered {
            let (partition, id) = (self.partition, self.id);
            let request = Message::CancelGroup { partition, id };
            self.shard.cast(self.owner, request);
        }
    }
}

//! Group requests on the connection's shard: to the coordinator of the group, and back.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use corelog_core::group::{Client, Request, Response, error_response, partition_of};
use corelog_core::metadata::Image;
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_net::cold::ColdRequest;
use corelog_net::cold::messages::heartbeat_request::HeartbeatRequestData;
use corelog_net::cold::messages::heartbeat_response::HeartbeatResponseData;
use corelog_net::cold::messages::join_group_request::JoinGroupRequestData;
use corelog_net::cold::messages::join_group_response::JoinGroupResponseData;
use corelog_net::cold::messages::leave_group_request::LeaveGroupRequestData;
use corelog_net::cold::messages::leave_group_response::LeaveGroupResponseData;
use corelog_net::cold::messages::sync_group_request::SyncGroupRequestData;
use corelog_net::cold::messages::sync_group_response::SyncGroupResponseData;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;
use kacrab_protocol::generated::ErrorCode;

use super::large::Large;
use super::{find, offsets, several};
use crate::connection::aside::{ANSWER_HERE_BYTES_MAX, is_heavy, reply};
use crate::connection::{Connection, peer};
use crate::request_memory::{Answering, SMALL_BYTES_MAX};
use crate::shard::Shard;
use crate::shard::message::{GroupCall, Request as Message, Response as Answer};

/// Most protocols of one member. Clients name one per assignor; each one that is kept takes many
/// times its bytes on the wire.
const PROTOCOLS_MAX: usize = 1024;
/// Most assignments of one SyncGroup: more members than any group has.
const ASSIGNMENTS_MAX: usize = 65_536;
/// Members that leave in one step of their coordinator.
const LEAVE_AT_ONCE: usize = 1024;

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

/// The bytes of a whole frame, and the memory that they are kept in.
type Encoded = (Bytes, Option<Answering>);

/// Answers a group request. `None`: the connection is to be closed.
///
/// `decoded` is the memory of the decoded request; a request that may wait long gives it back.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &RequestFrame,
    request: ColdRequest,
    decoded: Answering,
) -> Result<Option<Encoded>, WireError> {
    let asker = Asker {
        shard,
        connection,
        frame,
    };
    match request {
        ColdRequest::FindCoordinator(request) => {
            let answer = find::find_coordinator(asker, request).await?;
            Ok(Some((answer, Some(decoded))))
        }
        ColdRequest::JoinGroup(request) => asker.encode(join(asker, request, decoded).await).await,
        ColdRequest::SyncGroup(request) => asker.encode(sync(asker, request, decoded).await).await,
        ColdRequest::Heartbeat(request) => asker.work(decoded, heartbeat(asker, request)).await,
        ColdRequest::LeaveGroup(request) => asker.work(decoded, leave(asker, request)).await,
        ColdRequest::OffsetCommit(request) => {
            asker.work(decoded, offsets::commit(asker, request)).await
        }
        ColdRequest::OffsetFetch(request) => {
            asker.work(decoded, offsets::fetch(asker, request)).await
        }
        ColdRequest::OffsetDelete(request) => {
            asker.work(decoded, offsets::delete(asker, request)).await
        }
        ColdRequest::ListGroups(request) => {
            asker.work(decoded, several::list(asker, &request)).await
        }
        ColdRequest::DescribeGroups(request) => {
            asker.work(decoded, several::describe(asker, request)).await
        }
        ColdRequest::DeleteGroups(request) => {
            asker.work(decoded, several::delete(asker, request)).await
        }
        other => {
            let (api, version) = (other.api().number(), frame.version);
            Err(WireError::unsupported("group request", api, version))
        }
    }
}

async fn join(
    asker: Asker<'_>,
    request: JoinGroupRequestData,
    decoded: Answering,
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
    decoded: Answering,
) -> Result<SyncGroupResponseData, Gone> {
    let refused =
        (request.assignments.len() > ASSIGNMENTS_MAX).then_some(ErrorCode::InvalidRequest);
    let group_id = request.group_id.clone();
    let version = asker.frame.version;
    let request = Request::Sync { version, request };
    let answer = asker.ask_long(group_id.as_str(), request, refused, decoded);
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
    mut request: LeaveGroupRequestData,
) -> Result<LeaveGroupResponseData, Gone> {
    let group_id = request.group_id.clone();
    let version = asker.frame.version;
    let mut members = std::mem::take(&mut request.members).into_iter();
    let mut all: Option<LeaveGroupResponseData> = None;
    loop {
        let request = request
            .clone()
            .with_members(members.by_ref().take(LEAVE_AT_ONCE).collect());
        let request = Request::Leave { version, request };
        let Response::Leave(left) = asker.ask(group_id.as_str(), request).await? else {
            return Err(Gone);
        };
        let failed = left.error_code != 0;
        match &mut all {
            Some(all) if failed => all.error_code = left.error_code,
            Some(all) => all.members.extend(left.members),
            None => all = Some(left),
        }
        if failed || members.len() == 0 {
            return all.ok_or(Gone);
        }
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
    /// Finds an answer while the memory of the decoded request is held.
    async fn work<T: Large + Send + 'static>(
        self,
        decoded: Answering,
        work: impl Future<Output = Result<T, Gone>>,
    ) -> Result<Option<Encoded>, WireError> {
        let answer = work.await;
        drop(decoded);
        self.encode(answer).await
    }

    /// Encodes an answer; one that is large has memory first.
    async fn encode<T: Large + Send + 'static>(
        self,
        answer: Result<T, Gone>,
    ) -> Result<Option<Encoded>, WireError> {
        let Ok(body) = answer else {
            return Ok(None);
        };
        let bytes = body.about_bytes();
        let kept = if bytes > SMALL_BYTES_MAX {
            match self.connection.keep(self.shard, bytes).await {
                Some(held) => Some(Answering::Kept(held)),
                None => return Ok(None),
            }
        } else {
            None
        };
        let heavy = is_heavy(self.frame) || bytes > ANSWER_HERE_BYTES_MAX;
        let bytes = reply(self.shard, self.frame, heavy, move || body).await?;
        Ok(Some((bytes, kept)))
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
        decoded: Answering,
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

//! FindCoordinator: the first one makes the topic.

use bytes::Bytes;
use corelog_core::api as answers;
use corelog_core::api::CoordinatorNode;
use corelog_core::metadata::Image;
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_net::cold::messages::find_coordinator_request::FindCoordinatorRequestData;
use corelog_net::wire::WireError;
use kacrab_protocol::generated::ErrorCode;

use super::requests::{Asker, coordinator_of};
use crate::connection::aside::{is_heavy, reply};
use crate::connection::changes::ask_controller;
use crate::controller::AdminRequest;

/// Answers FindCoordinator. Where the offsets topic is missing it is made first: the client would
/// only come back for it.
pub async fn find_coordinator(
    asker: Asker<'_>,
    request: FindCoordinatorRequestData,
) -> Result<Bytes, WireError> {
    let version = asker.frame.version;
    let asks = answers::asks_for_groups(version, &request);
    if asks && asker.shard.image().topic(CONSUMER_OFFSETS_TOPIC).is_none() {
        let names = vec![CONSUMER_OFFSETS_TOPIC.to_owned()];
        ask_controller(asker.shard, false, AdminRequest::AutoCreate(names)).await;
    }
    let image = asker.shard.image();
    let listener = asker.connection.listener().to_owned();
    let build = move || {
        answers::find_coordinator(version, &request, |group_id| {
            leader_of(&image, &listener, group_id).ok_or(ErrorCode::CoordinatorNotAvailable)
        })
    };
    reply(asker.shard, asker.frame, is_heavy(asker.frame), build).await
}

/// Where the leader of a group's partition of the offsets topic listens.
fn leader_of(image: &Image, listener: &str, group_id: &str) -> Option<CoordinatorNode> {
    let (partition, _) = coordinator_of(image, group_id)?;
    let topic = image.topic(CONSUMER_OFFSETS_TOPIC)?;
    let broker = image.broker(topic.partition(partition)?.leader)?;
    let endpoint = broker.endpoint(listener)?;
    Some(CoordinatorNode {
        node_id: broker.node_id,
        host: endpoint.host.clone(),
        port: endpoint.port,
    })
}

//! Requests that name several groups, or all: each goes to its coordinator, the answers come back
//! in the order of the request.

use std::collections::BTreeSet;

use corelog_core::group::{Request, Response};
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::delete_groups_request::DeleteGroupsRequestData;
use corelog_net::cold::messages::delete_groups_response::DeleteGroupsResponseData;
use corelog_net::cold::messages::describe_groups_request::DescribeGroupsRequestData;
use corelog_net::cold::messages::describe_groups_response::DescribeGroupsResponseData;
use corelog_net::cold::messages::list_groups_request::ListGroupsRequestData;
use corelog_net::cold::messages::list_groups_response::ListGroupsResponseData;
use corelog_runtime::ShardId;
use kacrab_protocol::generated::ErrorCode;

use super::ASKED_AT_ONCE;
use super::requests::{Asker, Gone};
use crate::connection::aside::{discard, is_heavy};

/// Answers ListGroups: the groups of all partitions. One that still loads is an error of the
/// whole, as in Kafka; one that is nobody's has no groups.
pub async fn list(
    asker: Asker<'_>,
    request: &ListGroupsRequestData,
) -> Result<ListGroupsResponseData, Gone> {
    let image = asker.shard.image();
    let partitions = image
        .topic(CONSUMER_OFFSETS_TOPIC)
        .map_or(&[][..], |topic| &topic.partitions);
    let texts = |list: &[KafkaString]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let asked: Vec<_> = (0..)
        .zip(partitions)
        .map(|(index, partition)| {
            let request = Request::List {
                states_filter: texts(&request.states_filter),
                types_filter: texts(&request.types_filter),
            };
            asker.send_to(index, ShardId(partition.shard), request)
        })
        .collect();
    let mut all = ListGroupsResponseData::default();
    for ask in asked {
        let Response::List(mut listed) = ask.answer(asker.connection).await? else {
            return Err(Gone);
        };
        match listed.error_code {
            0 => all.groups.append(&mut listed.groups),
            code if code == ErrorCode::NotCoordinator.code() => {}
            code => all.error_code = code,
        }
    }
    if all.error_code != 0 {
        all.groups.clear();
    }
    Ok(all)
}

/// Answers DescribeGroups: each group once, however often it is named, since an answer may be much
/// larger than its question.
pub async fn describe(
    asker: Asker<'_>,
    request: DescribeGroupsRequestData,
) -> Result<DescribeGroupsResponseData, Gone> {
    let ask = |group_id: &KafkaString| {
        let request = Request::Describe {
            version: asker.frame.version,
            group_id: group_id.to_string(),
            include_authorized_operations: request.include_authorized_operations,
        };
        asker.send(group_id.as_str(), request)
    };
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for names in request.groups.chunks(ASKED_AT_ONCE) {
        let once = names.iter().filter(|name| seen.insert(name.as_str()));
        let asked: Vec<_> = once.map(ask).collect();
        for ask in asked {
            match ask.answer(asker.connection).await? {
                Response::Describe(group) => groups.push(group),
                _ => return Err(Gone),
            }
        }
    }
    drop(seen);
    discard(asker.shard, is_heavy(asker.frame), request).await;
    Ok(DescribeGroupsResponseData::default().with_groups(groups))
}

/// Answers DeleteGroups: a group that is named twice is deleted, and answered, once.
pub async fn delete(
    asker: Asker<'_>,
    request: DeleteGroupsRequestData,
) -> Result<DeleteGroupsResponseData, Gone> {
    let mut seen = BTreeSet::new();
    let mut results = Vec::new();
    for names in request.groups_names.chunks(ASKED_AT_ONCE) {
        let mut asked = Vec::new();
        for name in names.iter().filter(|name| seen.insert(name.as_str())) {
            let group_id = name.to_string();
            asked.push(asker.send(name.as_str(), Request::Delete { group_id }));
        }
        for ask in asked {
            match ask.answer(asker.connection).await? {
                Response::Delete(result) => results.push(result),
                _ => return Err(Gone),
            }
        }
        asker.shard.rt.yield_if_needed().await;
    }
    drop(seen);
    discard(asker.shard, is_heavy(asker.frame), request).await;
    Ok(DeleteGroupsResponseData::default().with_results(results))
}

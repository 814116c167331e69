//! What the coordinator of a group knows and does.

use super::plan::{Partition, Step};
use super::{Cluster, check};
use anyhow::{Context, Result, bail};
use corelog_net::api::ApiKey;
use corelog_net::client::Client;
use corelog_net::cold::ColdCall;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::consumer_protocol_assignment::ConsumerProtocolAssignmentData;
use corelog_net::cold::messages::delete_groups_request::DeleteGroupsRequestData;
use corelog_net::cold::messages::describe_groups_request::DescribeGroupsRequestData;
use corelog_net::cold::messages::describe_groups_response::DescribedGroupMember;
use corelog_net::cold::messages::find_coordinator_request::FindCoordinatorRequestData;
use corelog_net::cold::messages::list_groups_request::ListGroupsRequestData;
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use corelog_net::cold::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup,
};
use corelog_net::error_code::ErrorCode;
use std::collections::BTreeMap;
use std::time::Duration;

const KEY_TYPE_GROUP: i8 = 0;
/// From this version on FindCoordinator takes many keys.
const FIND_MANY_VERSION: i16 = 4;
/// From this version on OffsetFetch takes many groups.
const FETCH_MANY_VERSION: i16 = 8;
/// From the next version on OffsetFetch and OffsetCommit take topic ids.
const NAMED_VERSION_MAX: i16 = 9;
/// The newest version of the assignments that consumers share among themselves.
const ASSIGNMENT_VERSION_MAX: i16 = 3;
const NO_OFFSET: i64 = -1;

/// A coordinator that is starting or moving is asked again, 20 s in all.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(200);

/// A group as brokers list it.
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `consumer` for consumers; empty when offsets are all it has.
    pub protocol_type: String,
    /// Its state; empty when the broker is too old to say.
    pub state: String,
}

/// A group as its coordinator describes it.
pub struct Described {
    /// Its state.
    pub state: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor its members agreed on.
    pub protocol: String,
    /// `None` when the group is of a protocol that is described otherwise.
    pub members: Option<Vec<Member>>,
}

/// A member of a group.
pub struct Member {
    /// Its id.
    pub id: String,
    /// `group.instance.id`, or empty.
    pub instance_id: String,
    /// Where it connected from.
    pub host: String,
    /// `client.id`.
    pub client_id: String,
    /// The partitions it reads.
    pub assigned: Vec<Partition>,
}

fn is_passing(error: i16) -> bool {
    matches!(
        ErrorCode::from_code(error),
        ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
    )
}

/// Where the group is coordinated, and the error code.
async fn find(cluster: &Cluster, group: &str) -> Result<(Option<Client>, i16)> {
    let key = KafkaString::from(group.to_owned());
    let version = cluster.any.version(ApiKey::FindCoordinator)?;
    let mut request = FindCoordinatorRequestData::default();
    request = match version {
        0 => request.with_key(key),
        1..FIND_MANY_VERSION => request.with_key(key).with_key_type(KEY_TYPE_GROUP),
        _ => request
            .with_key_type(KEY_TYPE_GROUP)
            .with_coordinator_keys(vec![key]),
    };
    let response = cluster.any.call_at(version, &request).await?;
    let (host, port, error, message) = if version < FIND_MANY_VERSION {
        let message = response.error_message;
        (response.host, response.port, response.error_code, message)
    } else {
        let found = response.coordinators.into_iter().next();
        let found = found.context("the broker said nothing about the group's coordinator")?;
        (
            found.host,
            found.port,
            found.error_code,
            found.error_message,
        )
    };
    if is_passing(error) {
        return Ok((None, error));
    }
    check(error, message.as_ref()).with_context(|| format!("coordinator of group {group}"))?;
    let client = cluster.broker_at(host.as_str(), port).await?;
    Ok((Some(client), error))
}

/// Asks the coordinator of a group, and asks again while `error_of` the answer is one that passes. The version is the
/// highest common one up to `version_max`, and is given with the answer.
async fn ask<T: ColdCall>(
    cluster: &Cluster,
    group: &str,
    version_max: i16,
    request: impl Fn(i16) -> T,
    error_of: impl Fn(&T::Response) -> i16,
) -> Result<T::Response> {
    let mut error = 0;
    for _ in 0..TRIES {
        let (client, code) = find(cluster, group).await?;
        error = code;
        if let Some(client) = client {
            let version = client.version(T::API)?.min(version_max);
            let response = client.call_at(version, &request(version)).await?;
            error = error_of(&response);
            if !is_passing(error) {
                return Ok(response);
            }
        }
        cluster.rt.sleep(PAUSE).await;
    }
    check(error, None).with_context(|| format!("group {group}"))?;
    bail!("group {group} has no coordinator");
}

/// The groups of all brokers.
pub async fn list(cluster: &Cluster) -> Result<Vec<Listed>> {
    let metadata = cluster.any.metadata(Some(&[])).await?;
    let mut groups = Vec::new();
    for broker in &metadata.brokers {
        let client = cluster.broker_at(broker.host.as_str(), broker.port).await?;
        let of_broker = list_of(cluster, &client).await;
        groups.extend(of_broker.with_context(|| format!("broker {}", broker.node_id))?);
    }
    Ok(groups)
}

async fn list_of(cluster: &Cluster, client: &Client) -> Result<Vec<Listed>> {
    let mut response = client.call(&ListGroupsRequestData::default()).await?;
    for _ in 1..TRIES {
        if !is_passing(response.error_code) {
            break;
        }
        cluster.rt.sleep(PAUSE).await;
        response = client.call(&ListGroupsRequestData::default()).await?;
    }
    check(response.error_code, None)?;
    let listed = response.groups.into_iter().map(|group| Listed {
        name: group.group_id.to_string(),
        protocol_type: group.protocol_type.to_string(),
        state: group.group_state.to_string(),
    });
    Ok(listed.collect())
}

/// The group, if there is one.
pub async fn described(cluster: &Cluster, name: &str) -> Result<Option<Described>> {
    let request =
        DescribeGroupsRequestData::default().with_groups(vec![KafkaString::from(name.to_owned())]);
    let response = ask(
        cluster,
        name,
        i16::MAX,
        |_| request.clone(),
        |response| response.groups.first().map_or(0, |group| group.error_code),
    )
    .await?;
    let group = response.groups.into_iter().next();
    let group = group.context("the broker said nothing about the group")?;
    if ErrorCode::from_code(group.error_code) == ErrorCode::GroupIdNotFound {
        // It may be there and of a protocol that this API does not describe.
        let listed = list(cluster)
            .await?
            .into_iter()
            .find(|listed| listed.name == name);
        return Ok(listed.map(|listed| Described {
            state: listed.state,
            protocol_type: listed.protocol_type,
            protocol: String::new(),
            members: None,
        }));
    }
    check(group.error_code, group.error_message.as_ref())
        .with_context(|| format!("group {name}"))?;
    // So did older versions say that there is no such group.
    if group.group_state.as_str() == "Dead" {
        return Ok(None);
    }
    let is_consumer = group.protocol_type.as_str() == "consumer";
    let members = group
        .members
        .iter()
        .map(|member| describe_member(member, is_consumer));
    Ok(Some(Described {
        state: group.group_state.to_string(),
        protocol_type: group.protocol_type.to_string(),
        protocol: group.protocol_data.to_string(),
        members: Some(members.collect()),
    }))
}

/// Assignments of other protocols than that of consumers are bytes that mean nothing here.
fn describe_member(member: &DescribedGroupMember, is_consumer: bool) -> Member {
    let mut assigned = match is_consumer {
        true => partitions_of(&member.member_assignment).unwrap_or_default(),
        false => Vec::new(),
    };
    assigned.sort();
    let instance_id = member.group_instance_id.as_ref();
    Member {
        id: member.member_id.to_string(),
        instance_id: instance_id.map_or(String::new(), KafkaString::to_string),
        host: member.client_host.to_string(),
        client_id: member.client_id.to_string(),
        assigned,
    }
}

/// The partitions in an assignment, which a client has made: `None` if it is none.
fn partitions_of(assignment: &bytes::Bytes) -> Option<Vec<Partition>> {
    let version = i16::from_be_bytes(*assignment.first_chunk()?);
    if version < 0 {
        return None;
    }
    // Later versions only append fields.
    let version = version.min(ASSIGNMENT_VERSION_MAX);
    let mut fields = assignment.slice(2..);
    let assignment = ConsumerProtocolAssignmentData::read(&mut fields, version).ok()?;
    let mut partitions = Vec::new();
    for topic in &assignment.assigned_partitions {
        let of_topic = topic.partitions.iter();
        partitions.extend(of_topic.map(|index| (topic.topic.to_string(), *index)));
    }
    Some(partitions)
}

/// The offsets the group has committed; none for a group that is not there.
pub async fn committed(cluster: &Cluster, name: &str) -> Result<BTreeMap<Partition, i64>> {
    let group = || KafkaString::from(name.to_owned());
    let request = |version| match version {
        FETCH_MANY_VERSION.. => {
            let all = OffsetFetchRequestGroup::default().with_group_id(group());
            OffsetFetchRequestData::default().with_groups(vec![all.with_topics(None)])
        }
        _ => OffsetFetchRequestData::default()
            .with_group_id(group())
            .with_topics(None),
    };
    let response = ask(cluster, name, NAMED_VERSION_MAX, request, |response| {
        let of_group = response.groups.first().map(|group| group.error_code);
        of_group.unwrap_or(response.error_code)
    })
    .await?;
    let mut offsets = Vec::new();
    let mut error = response.error_code;
    for group in response.groups {
        error = group.error_code;
        for topic in group.topics {
            for p in topic.partitions {
                let partition = (topic.name.to_string(), p.partition_index);
                offsets.push((partition, p.committed_offset, p.error_code));
            }
        }
    }
    for topic in response.topics {
        for p in topic.partitions {
            let partition = (topic.name.to_string(), p.partition_index);
            offsets.push((partition, p.committed_offset, p.error_code));
        }
    }
    if ErrorCode::from_code(error) != ErrorCode::GroupIdNotFound {
        check(error, None).with_context(|| format!("group {name}"))?;
    }
    let mut committed = BTreeMap::new();
    for (partition, offset, error) in offsets {
        let (topic, index) = &partition;
        check(error, None).with_context(|| format!("{topic}-{index}"))?;
        if offset != NO_OFFSET {
            committed.insert(partition, offset);
        }
    }
    Ok(committed)
}

/// Commits the offsets of a plan. The coordinator refuses when the group has members by now.
pub async fn commit(cluster: &Cluster, name: &str, steps: &[Step]) -> Result<()> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for step in steps {
        let (topic, index) = &step.partition;
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*index)
            .with_committed_offset(step.to)
            .with_committed_metadata(Some(KafkaString::default()));
        topics.entry(topic).or_default().push(partition);
    }
    let named = |(topic, partitions): (&str, _)| {
        OffsetCommitRequestTopic::default()
            .with_name(KafkaString::from(topic.to_owned()))
            .with_partitions(partitions)
    };
    let request = OffsetCommitRequestData::default()
        .with_group_id(KafkaString::from(name.to_owned()))
        .with_topics(topics.into_iter().map(named).collect());
    let response = ask(
        cluster,
        name,
        NAMED_VERSION_MAX,
        |_| request.clone(),
        |response| {
            let mut answers = response.topics.iter().flat_map(|topic| &topic.partitions);
            answers
                .find_map(|p| is_passing(p.error_code).then_some(p.error_code))
                .unwrap_or(0)
        },
    )
    .await?;
    let mut answered = 0;
    for topic in &response.topics {
        for partition in &topic.partitions {
            let place = || format!("{}-{}", topic.name, partition.partition_index);
            check(partition.error_code, None).with_context(place)?;
            answered += 1;
        }
    }
    if answered != steps.len() {
        bail!(
            "the broker answered for {answered} of {} partitions",
            steps.len()
        );
    }
    Ok(())
}

/// Deletes a group without members.
pub async fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    let request = DeleteGroupsRequestData::default()
        .with_groups_names(vec![KafkaString::from(name.to_owned())]);
    let response = ask(
        cluster,
        name,
        i16::MAX,
        |_| request.clone(),
        |response| {
            response
                .results
                .first()
                .map_or(0, |result| result.error_code)
        },
    )
    .await?;
    let result = response.results.first();
    let result = result.context("the broker said nothing about the group")?;
    check(result.error_code, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Version 1, two topics of one and two partitions, no user data.
    const ASSIGNMENT: &[u8] = &[
        0, 1, 0, 0, 0, 2, 0, 1, b'b', 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, b'a', 0, 0, 0, 2, 0, 0, 0, 1,
        0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
    ];

    fn member(assignment: &[u8]) -> DescribedGroupMember {
        DescribedGroupMember::default().with_member_assignment(Bytes::copy_from_slice(assignment))
    }

    #[test]
    fn assignments_are_read_sorted_and_later_versions_too() {
        let expected = [
            ("a".to_owned(), 0),
            ("a".to_owned(), 1),
            ("b".to_owned(), 7),
        ];
        for version in [0, 1, 3, 4, 99] {
            let mut bytes = ASSIGNMENT.to_vec();
            bytes[1] = version;
            bytes.extend(if version > 3 { &[1, 2, 3][..] } else { &[] });
            let member = describe_member(&member(&bytes), true);
            assert_eq!(member.assigned, expected, "version {version}");
        }
        assert!(
            describe_member(&member(ASSIGNMENT), false)
                .assigned
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_assignment_assigns_nothing() {
        for end in 0..ASSIGNMENT.len() {
            let cut = &ASSIGNMENT[..end];
            assert!(
                partitions_of(&Bytes::copy_from_slice(cut)).is_none(),
                "{end}"
            );
        }
        let mut bytes = ASSIGNMENT.to_vec();
        bytes[0] = 0xff;
        assert!(describe_member(&member(&bytes), true).assigned.is_empty());
        bytes[0] = 0;
        bytes[2..6].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(describe_member(&member(&bytes), true).assigned.is_empty());
    }

    #[test]
    fn only_errors_of_a_coordinator_on_its_way_pass() {
        let passing = (-1..=200).filter(|code| is_passing(*code));
        assert_eq!(passing.collect::<Vec<_>>(), [14, 15, 16]);
    }
}

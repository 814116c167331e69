//! Offsets of the log, from the leaders of the partitions.

use super::plan::{Partition, Scope};
use super::{Cluster, check};
use anyhow::{Context, Result, bail};
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Timestamps that ListOffsets understands as places.
pub const LATEST: i64 = -1;
/// See [`LATEST`].
pub const EARLIEST: i64 = -2;
const NO_OFFSET: i64 = -1;
/// What consumers say; a follower would say its id.
const NO_REPLICA: i32 = -1;

/// The partitions that are meant: they must be there.
pub async fn in_scope(cluster: &Cluster, scopes: &[Scope]) -> Result<BTreeSet<Partition>> {
    let mut found = BTreeSet::new();
    for scope in scopes {
        let (_, topic) = cluster.topic(&scope.topic).await?;
        let all: BTreeSet<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        let wanted = scope.partitions.clone();
        for index in wanted.unwrap_or_else(|| all.iter().copied().collect()) {
            if !all.contains(&index) {
                bail!("topic {} has no partition {index}", scope.topic);
            }
            found.insert((scope.topic.clone(), index));
        }
    }
    Ok(found)
}

/// Where partitions end. One that is gone or has no leader is left out, so that the rest is told.
pub async fn ends(
    cluster: &Cluster,
    partitions: &BTreeSet<Partition>,
) -> Result<BTreeMap<Partition, i64>> {
    let mut there = BTreeSet::new();
    for (topic, indexes) in by_topic(partitions) {
        if cluster
            .leaders(topic)
            .await
            .is_ok_and(|leaders| indexes.iter().all(|index| leaders.of(*index).is_ok()))
        {
            there.extend(indexes.into_iter().map(|index| (topic.to_owned(), index)));
        }
    }
    at(cluster, &there, LATEST).await
}

/// Offsets by timestamp (milliseconds, or a place). Partitions without such an offset are left out; any error is one.
pub async fn at(
    cluster: &Cluster,
    partitions: &BTreeSet<Partition>,
    timestamp: i64,
) -> Result<BTreeMap<Partition, i64>> {
    let mut by_leader: BTreeMap<SocketAddr, Vec<ListOffsetsTopic>> = BTreeMap::new();
    for (topic, indexes) in by_topic(partitions) {
        let leaders = cluster.leaders(topic).await?;
        let mut of_leader: BTreeMap<SocketAddr, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for index in indexes {
            let asked = ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_timestamp(timestamp);
            of_leader.entry(leaders.of(index)?).or_default().push(asked);
        }
        for (leader, asked) in of_leader {
            let topic = ListOffsetsTopic::default()
                .with_name(KafkaString::from(topic.to_owned()))
                .with_partitions(asked);
            by_leader.entry(leader).or_default().push(topic);
        }
    }
    let mut offsets = BTreeMap::new();
    for (leader, topics) in by_leader {
        let request = ListOffsetsRequestData::default()
            .with_replica_id(NO_REPLICA)
            .with_topics(topics);
        let response = cluster.broker(leader).await?.call(&request).await?;
        for topic in response.topics {
            for p in topic.partitions {
                let place = || format!("{}-{}", topic.name, p.partition_index);
                check(p.error_code, None).with_context(place)?;
                if p.offset != NO_OFFSET {
                    offsets.insert((topic.name.to_string(), p.partition_index), p.offset);
                }
            }
        }
    }
    Ok(offsets)
}

fn by_topic(partitions: &BTreeSet<Partition>) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, index) in partitions {
        topics.entry(topic).or_default().push(*index);
    }
    topics
}

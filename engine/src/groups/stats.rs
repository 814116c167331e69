//! What the coordinators of a shard count, and what a scrape is told of their groups.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use corelog_core::group::{GroupCounts, Response};
use corelog_runtime::ShardId;

use crate::shard::Shard;
use crate::shard::message::{OffsetQuery, PartitionKey, Request, Response as Answer};
use crate::shard::read::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP};
use crate::stats::{ShardStats, add};

/// Committed offsets one shard tells of; the others are counted.
pub const SERIES_MAX: usize = 2000;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Coordinators that were loaded.
    pub loads: Cell<u64>,
    /// Coordinators that could not be loaded.
    pub load_failures: Cell<u64>,
    /// Time taken by loads, in µs.
    pub load_us: Cell<u64>,
    /// Offsets committed.
    pub offset_commits: Cell<u64>,
    /// Rebalances that ended with a new generation.
    pub rebalances: Cell<u64>,
}

impl Counters {
    /// Counts what an answer says was done.
    pub fn count(&self, response: &Response) {
        match response {
            Response::OffsetCommit(response) => {
                let partitions = response.topics.iter().flat_map(|t| &t.partitions);
                let committed = partitions.filter(|p| p.error_code == 0).count();
                add(&self.offset_commits, committed as u64);
            }
            // Each generation has one leader, who alone is told the members.
            Response::Join(response) if response.error_code == 0 => {
                let leads = response.leader == response.member_id;
                add(
                    &self.rebalances,
                    u64::from(leads && !response.skip_assignment),
                );
            }
            _ => {}
        }
    }
}

/// One committed offset.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Records from it to the high watermark that are still in the log; `None` while that is not
    /// known.
    pub lag: Option<i64>,
}

/// Copy of a shard's groups for a scrape.
#[derive(Debug, Clone, Default)]
pub struct GroupStats {
    /// Groups by state.
    pub counts: GroupCounts,
    /// Committed offsets, at most [`SERIES_MAX`].
    pub committed: Vec<Committed>,
    /// Committed offsets that are not among them.
    pub left_out: u64,
}

/// Adds the groups of a shard to a copy of its counters. Asks the shards that own the partitions
/// for their high watermarks and log starts.
pub async fn add_groups(shard: &Rc<Shard>, stats: &mut ShardStats) {
    let counters = &shard.groups.counters;
    stats.others.extend([
        (
            "corelog_group_coordinator_loads",
            "Group coordinators loaded from their partitions.",
            counters.loads.get(),
        ),
        (
            "corelog_group_coordinator_load_failures",
            "Group coordinators that could not be loaded; their groups are not served.",
            counters.load_failures.get(),
        ),
        (
            "corelog_group_coordinator_load_microseconds",
            "Time taken by loads of group coordinators.",
            counters.load_us.get(),
        ),
        (
            "corelog_group_offset_commits",
            "Offsets committed by groups.",
            counters.offset_commits.get(),
        ),
        (
            "corelog_group_rebalances",
            "Rebalances of groups that ended in a new generation.",
            counters.rebalances.get(),
        ),
    ]);
    let mut groups = GroupStats::default();
    for hosted in shard.groups.all() {
        if !hosted.is_active() {
            continue;
        }
        hosted.look(|core| {
            let counts = core.group_counts();
            groups.counts.empty += counts.empty;
            groups.counts.preparing_rebalance += counts.preparing_rebalance;
            groups.counts.completing_rebalance += counts.completing_rebalance;
            groups.counts.stable += counts.stable;
            groups.counts.dead += counts.dead;
            for (group, topic, partition, offset) in core.committed() {
                if groups.committed.len() == SERIES_MAX {
                    groups.left_out += 1;
                    continue;
                }
                groups.committed.push(Committed {
                    group: group.to_owned(),
                    topic: topic.to_owned(),
                    partition,
                    offset,
                    lag: None,
                });
            }
        });
        shard.rt.yield_if_needed().await;
    }
    find_lags(shard, &mut groups.committed).await;
    stats.groups = groups;
}

/// Fills in how far the offsets are behind the high watermarks of their partitions. Records that
/// were deleted are no part of it: nobody can fetch them any more.
async fn find_lags(shard: &Rc<Shard>, committed: &mut [Committed]) {
    let image = shard.image();
    let mut by_owner: BTreeMap<u16, (Vec<OffsetQuery>, Vec<usize>)> = BTreeMap::new();
    for (at, offset) in committed.iter().enumerate() {
        let Some(topic) = image.topic(&offset.topic) else {
            continue;
        };
        let Some(partition) = topic.partition(offset.partition) else {
            continue;
        };
        let (queries, places) = by_owner.entry(partition.shard).or_default();
        let key = PartitionKey {
            topic_id: topic.id,
            partition: offset.partition,
        };
        queries.extend(
            [EARLIEST_TIMESTAMP, LATEST_TIMESTAMP].map(|timestamp| OffsetQuery {
                key,
                timestamp,
                current_leader_epoch: -1,
            }),
        );
        places.push(at);
    }
    let ask = |(owner, (queries, places))| {
        let answer = shard.call(ShardId(owner), Request::Offsets(queries));
        (answer, places)
    };
    let asked: Vec<_> = by_owner.into_iter().map(ask).collect();
    for (answer, places) in asked {
        let Some(Answer::Offsets(found)) = answer.await else {
            continue;
        };
        for (at, ends) in places.into_iter().zip(found.as_chunks::<2>().0) {
            let [Ok(start), Ok(end)] = ends else { continue };
            let from = committed[at].offset.max(start.offset);
            committed[at].lag = Some((end.offset - from).max(0));
        }
    }
}

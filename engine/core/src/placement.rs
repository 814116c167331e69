//! Which shard of a broker owns a partition, and which of its log directories holds it.
//!
//! The directory with the fewest partitions, then the first in the order of `log.dirs`. The shard with the fewest partitions of that topic, then the fewest overall, then the lowest
//! number: one hot topic is spread first, and the same image always gives the same answer.

use crate::Uuid;
use crate::metadata::Image;

/// Counts of partitions per shard of one broker, kept up to date while a batch is decided.
#[derive(Debug, Clone)]
pub struct Placement {
    overall: Vec<u64>,
}

impl Placement {
    /// Counts what `node_id` holds in this image. `shards` is the broker's number of shards,
    /// at least 1; partitions on shards beyond it are not counted.
    pub fn new(image: &Image, node_id: i32, shards: u16) -> Self {
        let mut overall = vec![0u64; usize::from(shards.max(1))];
        for topic in image.topics() {
            for partition in topic
                .partitions
                .iter()
                .filter(|p| p.replicas.contains(&node_id))
            {
                if let Some(count) = overall.get_mut(usize::from(partition.shard)) {
                    *count += 1;
                }
            }
        }
        Self { overall }
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.overall.len()).unwrap_or(u16::MAX)
    }

    /// Counts of one topic that the image has, to begin a [`TopicPlacement`] with.
    pub fn of_topic(&mut self, image: &Image, topic_id: &Uuid, node_id: i32) -> TopicPlacement<'_> {
        let mut of_topic = vec![0u64; self.overall.len()];
        let partitions = image
            .topic_by_id(topic_id)
            .map_or(&[][..], |topic| &topic.partitions);
        for partition in partitions.iter().filter(|p| p.replicas.contains(&node_id)) {
            if let Some(count) = of_topic.get_mut(usize::from(partition.shard)) {
                *count += 1;
            }
        }
        TopicPlacement {
            overall: &mut self.overall,
            of_topic,
        }
    }
}

/// Places the partitions of one topic.
#[derive(Debug)]
pub struct TopicPlacement<'a> {
    overall: &'a mut Vec<u64>,
    of_topic: Vec<u64>,
}

impl TopicPlacement<'_> {
    /// The shard of the topic's next partition; it is counted from now on.
    pub fn place(&mut self) -> u16 {
        let best = (0..self.overall.len())
            .min_by_key(|&shard| (self.of_topic[shard], self.overall[shard], shard))
            .unwrap_or(0);
        self.of_topic[best] += 1;
        self.overall[best] += 1;
        u16::try_from(best).unwrap_or(0)
    }
}

/// Counts of partitions per log directory of one broker, kept up to date while a batch is decided.
#[derive(Debug, Clone)]
pub struct DirectoryPlacement {
    counts: Vec<(Uuid, u64)>,
}

impl DirectoryPlacement {
    /// Counts what `node_id` holds in each of `online`, its directories that work.
    pub fn new(image: &Image, node_id: i32, online: &[Uuid]) -> Self {
        let mut counts: Vec<(Uuid, u64)> = online.iter().map(|id| (*id, 0)).collect();
        for topic in image.topics() {
            for partition in &topic.partitions {
                let of_node = partition.directory(node_id);
                if let Some(count) = counts.iter_mut().find(|(id, _)| Some(*id) == of_node) {
                    count.1 += 1;
                }
            }
        }
        Self { counts }
    }

    /// The directory of the next partition, which is counted from now on; `None` when there are no
    /// directories.
    pub fn place(&mut self) -> Option<Uuid> {
        // The first of equals: `min_by_key` gives that one.
        let fewest = self.counts.iter_mut().min_by_key(|(_, count)| *count)?;
        fewest.1 += 1;
        Some(fewest.0)
    }
}

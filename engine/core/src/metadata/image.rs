//! The metadata image: everything the cluster has agreed on, as of one log index.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::record::{BrokerEndpoint, Record, ResourceType};
use crate::Uuid;

/// Overrides of one resource: key to value as written.
pub type ConfigMap = BTreeMap<String, String>;

/// A partition's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// In-sync replicas.
    pub isr: Vec<i32>,
    /// Leader, or -1.
    pub leader: i32,
    /// Grows with every change of leader or of its incarnation.
    pub leader_epoch: i32,
    /// Grows with every change.
    pub partition_epoch: i32,
    /// Shard that owns it on its broker.
    pub shard: u16,
    /// Log directories of replicas, by node id, where they are known.
    pub directories: Vec<(i32, Uuid)>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: Arc<str>,
    /// Id, for ever this topic's.
    pub id: Uuid,
    /// Partitions by index.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// The partition of that index, if there is one; any `i32` may be asked.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Replicas of the first partition: what a client sees as the topic's factor.
    pub fn replication_factor(&self) -> i16 {
        let replicas = self
            .partitions
            .first()
            .map_or(0, |partition| partition.replicas.len());
        i16::try_from(replicas).unwrap_or(i16::MAX)
    }
}

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Node id.
    pub node_id: i32,
    /// Random id of its current process.
    pub incarnation: Uuid,
    /// Grows with every incarnation.
    pub broker_epoch: i64,
    /// Advertised addresses by listener.
    pub endpoints: Vec<BrokerEndpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Ids of its log directories that work, in the order of its configuration.
    pub directories: Vec<Uuid>,
}

impl Broker {
    /// False for a partition of this broker whose log directory does not work.
    pub fn has_online(&self, partition: &Partition) -> bool {
        let directory = partition.directory(self.node_id);
        directory.is_none_or(|id| self.directories.contains(&id))
    }

    /// The address of a listener.
    pub fn endpoint(&self, listener: &str) -> Option<&BrokerEndpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.listener == listener)
    }
}

/// A record that does not fit the image before it: the log is damaged or was written by a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyError {
    /// Log index of the batch.
    pub index: u64,
    /// What does not fit.
    pub reason: String,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata log index {}: {}", self.index, self.reason)
    }
}

impl std::error::Error for ApplyError {}

/// The image. Cloning copies pointers; an applied batch copies only the maps it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    version: u64,
    epoch: u64,
    controller_id: i32,
    topics: Arc<BTreeMap<Arc<str>, Arc<Topic>>>,
    topic_names: Arc<BTreeMap<Uuid, Arc<str>>>,
    topic_configs: Arc<BTreeMap<String, Arc<ConfigMap>>>,
    broker_configs: Arc<BTreeMap<String, Arc<ConfigMap>>>,
    brokers: Arc<BTreeMap<i32, Arc<Broker>>>,
    next_producer_id: i64,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            version: 0,
            epoch: 0,
            controller_id: -1,
            topics: Arc::default(),
            topic_names: Arc::default(),
            topic_configs: Arc::default(),
            broker_configs: Arc::default(),
            brokers: Arc::default(),
            next_producer_id: 0,
        }
    }
}

impl Image {
    /// The image of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of the last applied batch; 0 = none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Term of the last controller that started one; 0 = none.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Node id of that controller, or -1.
    pub fn controller_id(&self) -> i32 {
        self.controller_id
    }

    /// First producer id that is not given out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// Topic by id.
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<Topic>> {
        self.topic(self.topic_names.get(id)?)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl DoubleEndedIterator<Item = &Arc<Topic>> + ExactSizeIterator {
        self.topics.values()
    }

    /// Topics from a name on, by name.
    pub fn topics_from<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<Topic>> + use<'a> {
        self.topics
            .range::<str, _>((std::ops::Bound::Included(name), std::ops::Bound::Unbounded))
            .map(|(_, topic)| topic)
    }

    /// Brokers by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// A broker by id.
    pub fn broker(&self, node_id: i32) -> Option<&Arc<Broker>> {
        self.brokers.get(&node_id)
    }

    /// Overrides of a topic, if it has any.
    pub fn topic_config(&self, topic: &str) -> Option<&Arc<ConfigMap>> {
        self.topic_configs.get(topic)
    }

    /// Dynamic configuration of a broker by decimal id, or of all brokers by the empty name.
    pub fn broker_config(&self, name: &str) -> Option<&Arc<ConfigMap>> {
        self.broker_configs.get(name)
    }

    /// The image after one batch of the log.
    ///
    /// A batch at or below [`Image::version`] was applied before (delivery is at least once) and
    /// changes nothing. `self` is never changed: readers keep what they hold.
    ///
    /// # Errors
    /// A record that names what does not exist, or that exists already; nothing is applied then.
    pub fn apply(&self, index: u64, records: &[Record]) -> Result<Image, ApplyError> {
        if index <= self.version {
            return Ok(self.clone());
        }
        let mut next = self.clone();
        for record in records {
            next.apply_record(record)
                .map_err(|reason| ApplyError { index, reason })?;
        }
        next.version = index;
        Ok(next)
    }

    /// The image that a snapshot describes.
    ///
    /// # Errors
    /// Records that contradict each other.
    pub fn from_snapshot(index: u64, records: &[Record]) -> Result<Image, ApplyError> {
        let mut image = Image::new();
        for record in records {
            image
                .apply_record(record)
                .map_err(|reason| ApplyError { index, reason })?;
        }
        image.version = index;
        Ok(image)
    }

    /// The records that make this image from an empty one; its version is not among them.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        if self.epoch > 0 || self.controller_id >= 0 {
            records.push(Record::EpochStart {
                epoch: self.epoch,
                node_id: self.controller_id,
            });
        }
        if self.next_producer_id > 0 {
            records.push(Record::ProducerIds {
                next: self.next_producer_id,
            });
        }
        for broker in self.brokers.values() {
            records.push(Record::RegisterBroker {
                node_id: broker.node_id,
                incarnation: broker.incarnation,
                broker_epoch: broker.broker_epoch,
                endpoints: broker.endpoints.clone(),
                rack: broker.rack.clone(),
            });
            if !broker.directories.is_empty() {
                records.push(Record::BrokerDirectories {
                    node_id: broker.node_id,
                    directories: broker.directories.clone(),
                });
            }
        }
        for topic in self.topics.values() {
            records.push(Record::Topic {
                name: topic.name.to_string(),
                topic_id: topic.id,
            });
            for (index, partition) in (0..).zip(&topic.partitions) {
                records.push(partition.to_record(topic.id, index));
                let replicas = partition.directories.iter();
                records.extend(
                    replicas.map(|&(node_id, directory)| Record::ReplicaDirectory {
                        topic_id: topic.id,
                        index,
                        node_id,
                        directory,
                    }),
                );
            }
        }
        for (resource_type, configs) in [
            (ResourceType::Topic, &self.topic_configs),
            (ResourceType::Broker, &self.broker_configs),
        ] {
            for (name, overrides) in configs.iter() {
                records.extend(overrides.iter().map(|(key, value)| Record::Config {
                    resource_type,
                    resource_name: name.clone(),
                    key: key.clone(),
                    value: Some(value.clone()),
                }));
            }
        }
        records
    }

    fn apply_record(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::NoOp => {}
            Record::EpochStart { epoch, node_id } => {
                self.epoch = *epoch;
                self.controller_id = *node_id;
            }
            Record::Topic { name, topic_id } => self.add_topic(name, *topic_id)?,
            Record::Partition {
                topic_id, index, ..
            } => {
                self.set_partition(topic_id, *index, Partition::from_record(record))?;
            }
            Record::RemoveTopic { topic_id } => {
                let name = Arc::make_mut(&mut self.topic_names)
                    .remove(topic_id)
                    .ok_or_else(|| format!("remove of unknown topic id {topic_id}"))?;
                Arc::make_mut(&mut self.topics).remove(&name);
                if self.topic_configs.contains_key(&*name) {
                    Arc::make_mut(&mut self.topic_configs).remove(&*name);
                }
            }
            Record::Config {
                resource_type,
                resource_name,
                key,
                value,
            } => {
                self.set_config(*resource_type, resource_name, key, value.as_deref())?;
            }
            Record::RegisterBroker {
                node_id,
                incarnation,
                broker_epoch,
                endpoints,
                rack,
            } => {
                let broker = Broker {
                    node_id: *node_id,
                    incarnation: *incarnation,
                    broker_epoch: *broker_epoch,
                    endpoints: endpoints.clone(),
                    rack: rack.clone(),
                    directories: self
                        .brokers
                        .get(node_id)
                        .map_or_else(Vec::new, |before| before.directories.clone()),
                };
                Arc::make_mut(&mut self.brokers).insert(*node_id, Arc::new(broker));
            }
            Record::ReplicaDirectory {
                topic_id,
                index,
                node_id,
                directory,
            } => self.set_directory(topic_id, *index, *node_id, *directory)?,
            Record::BrokerDirectories {
                node_id,
                directories,
            } => {
                let broker = Arc::make_mut(&mut self.brokers)
                    .get_mut(node_id)
                    .ok_or_else(|| format!("log directories of unknown broker {node_id}"))?;
                Arc::make_mut(broker).directories.clone_from(directories);
            }
            Record::ProducerIds { next } => {
                if *next < self.next_producer_id {
                    return Err(format!(
                        "next producer id {next} is below {}: ids would be given out twice",
                        self.next_producer_id
                    ));
                }
                self.next_producer_id = *next;
            }
        }
        Ok(())
    }

    fn add_topic(&mut self, name: &str, id: Uuid) -> Result<(), String> {
        if self.topics.contains_key(name) {
            return Err(format!("topic {name} exists already"));
        }
        if self.topic_names.contains_key(&id) {
            return Err(format!("topic id {id} exists already"));
        }
        let name: Arc<str> = Arc::from(name);
        let topic = Topic {
            name: name.clone(),
            id,
            partitions: Vec::new(),
        };
        Arc::make_mut(&mut self.topics).insert(name.clone(), Arc::new(topic));
        Arc::make_mut(&mut self.topic_names).insert(id, name);
        Ok(())
    }

    fn set_partition(
        &mut self,
        topic_id: &Uuid,
        index: i32,
        partition: Option<Partition>,
    ) -> Result<(), String> {
        let name = self
            .topic_names
            .get(topic_id)
            .ok_or_else(|| format!("partition {index} of unknown topic id {topic_id}"))?;
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(name)
            .ok_or_else(|| format!("topic id {topic_id} has no topic"))?;
        let topic = Arc::make_mut(topic);
        let mut partition = partition.ok_or("not a partition record")?;
        let at = usize::try_from(index).map_err(|_| format!("partition index {index}"))?;
        match at.cmp(&topic.partitions.len()) {
            std::cmp::Ordering::Less => {
                // Where files are is said by records of its own.
                partition.directories = std::mem::take(&mut topic.partitions[at].directories);
                let replicas = &partition.replicas;
                partition
                    .directories
                    .retain(|(node_id, _)| replicas.contains(node_id));
                topic.partitions[at] = partition;
            }
            std::cmp::Ordering::Equal => topic.partitions.push(partition),
            std::cmp::Ordering::Greater => {
                return Err(format!(
                    "partition {index} of {name} leaves a hole: the topic has {}",
                    topic.partitions.len()
                ));
            }
        }
        Ok(())
    }

    fn set_directory(
        &mut self,
        topic_id: &Uuid,
        index: i32,
        node_id: i32,
        directory: Uuid,
    ) -> Result<(), String> {
        let unknown =
            || format!("log directory of unknown partition {index} of topic id {topic_id}");
        let name = self.topic_names.get(topic_id).ok_or_else(unknown)?;
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(name)
            .ok_or_else(unknown)?;
        let at = usize::try_from(index).map_err(|_| unknown())?;
        let partition = Arc::make_mut(topic)
            .partitions
            .get_mut(at)
            .ok_or_else(unknown)?;
        let of_node = partition.directories.iter_mut();
        match of_node.into_iter().find(|(id, _)| *id == node_id) {
            Some(known) => known.1 = directory,
            None => partition.directories.push((node_id, directory)),
        }
        Ok(())
    }

    fn set_config(
        &mut self,
        resource_type: ResourceType,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), String> {
        let configs = match resource_type {
            ResourceType::Topic if value.is_some() && !self.topics.contains_key(name) => {
                return Err(format!("config {key} of unknown topic {name}"));
            }
            ResourceType::Topic => &mut self.topic_configs,
            ResourceType::Broker => &mut self.broker_configs,
        };
        let configs = Arc::make_mut(configs);
        match value {
            Some(value) => {
                let overrides = configs.entry(name.to_owned()).or_default();
                Arc::make_mut(overrides).insert(key.to_owned(), value.to_owned());
            }
            None => {
                if let Some(overrides) = configs.get_mut(name) {
                    Arc::make_mut(overrides).remove(key);
                    if overrides.is_empty() {
                        configs.remove(name);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Partition {
    /// Id of the log directory that a broker holds it in, where that is known.
    pub fn directory(&self, node_id: i32) -> Option<Uuid> {
        let mut known = self.directories.iter();
        known.find(|(id, _)| *id == node_id).map(|(_, id)| *id)
    }

    /// The record that sets this state, but for the directories.
    pub fn to_record(&self, topic_id: Uuid, index: i32) -> Record {
        Record::Partition {
            topic_id,
            index,
            replicas: self.replicas.clone(),
            isr: self.isr.clone(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            shard: self.shard,
        }
    }

    fn from_record(record: &Record) -> Option<Partition> {
        match record {
            Record::Partition {
                replicas,
                isr,
                leader,
                leader_epoch,
                partition_epoch,
                shard,
                ..
            } => Some(Partition {
                replicas: replicas.clone(),
                isr: isr.clone(),
                leader: *leader,
                leader_epoch: *leader_epoch,
                partition_epoch: *partition_epoch,
                shard: *shard,
                directories: Vec::new(),
            }),
            _ => None,
        }
    }
}

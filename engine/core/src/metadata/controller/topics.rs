//! CreateTopics and DeleteTopics.

use std::collections::{BTreeMap, BTreeSet};

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use kacrab_protocol::generated::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponseData,
};
use kacrab_protocol::generated::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequestData,
};
use kacrab_protocol::generated::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponseData,
};

use super::{
    ControllerContext, MAX_NEW_PARTITIONS_PER_REQUEST, Refusal, brokers_for, check_assignment,
    configs::check_overrides, duplicates, new_partition, online_directories, place_in, spread,
    text,
};
use crate::Uuid;
use crate::config::{BrokerConfig, Layers, describe_topic};
use crate::metadata::image::{ConfigMap, Image};
use crate::metadata::names::{
    CLUSTER_METADATA_TOPIC, CONSUMER_OFFSETS_TOPIC, collision_key, is_internal, validate_topic_name,
};
use crate::metadata::record::{Record, ResourceType};
use crate::placement::{DirectoryPlacement, Placement};

/// A CreateTopics request for topics that were asked for by name: the broker's defaults, or, for
/// `__consumer_offsets`, what `offsets.topic.*` say.
pub fn auto_create_request(
    image: &Image,
    broker: &BrokerConfig,
    names: &[String],
) -> CreateTopicsRequestData {
    let topics = names.iter().map(|name| {
        if name == CONSUMER_OFFSETS_TOPIC {
            return consumer_offsets_topic(image, broker);
        }
        CreatableTopic::default()
            .with_name(text(name.clone()))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
    });
    CreateTopicsRequestData::default().with_topics(topics.collect())
}

/// Replicas that `__consumer_offsets` gets: as many as configured, at most one per broker.
pub fn consumer_offsets_replication_factor(image: &Image, broker: &BrokerConfig) -> i16 {
    let brokers = i16::try_from(image.brokers().len()).unwrap_or(i16::MAX);
    broker.offsets_topic_replication_factor.min(brokers.max(1))
}

/// `__consumer_offsets` as this broker makes it: compacted, and flushed before anything in it is
/// acknowledged.
fn consumer_offsets_topic(image: &Image, broker: &BrokerConfig) -> CreatableTopic {
    let config = |name: &str, value: String| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    };
    let segment_bytes = broker.offsets_topic_segment_bytes.to_string();
    CreatableTopic::default()
        .with_name(text(CONSUMER_OFFSETS_TOPIC))
        .with_num_partitions(broker.offsets_topic_num_partitions)
        .with_replication_factor(consumer_offsets_replication_factor(image, broker))
        .with_configs(vec![
            config("cleanup.policy", "compact".to_owned()),
            config("compression.type", "producer".to_owned()),
            config("segment.bytes", segment_bytes),
            config("flush.messages", "1".to_owned()),
        ])
}

/// Decides CreateTopics. `new_topic_id` gives random ids that were never used.
///
/// With `validate_only` there are no records. Each topic stands or falls by itself.
pub fn create_topics(
    image: &Image,
    context: &ControllerContext<'_>,
    request: &CreateTopicsRequestData,
    new_topic_id: &mut dyn FnMut() -> Uuid,
) -> (Vec<Record>, CreateTopicsResponseData) {
    let twice = duplicates(request.topics.iter().map(|topic| &topic.name));
    let mut creation = Creation {
        image,
        context,
        placement: Placement::new(image, context.broker.node_id, context.shards),
        directories: online_directories(image, context.broker.node_id),
        collisions: collisions(image),
        partitions_left: MAX_NEW_PARTITIONS_PER_REQUEST,
        records: Vec::new(),
    };
    let mut results: Vec<CreatableTopicResult> = twice
        .iter()
        .map(|name| {
            let message = "Duplicate topic name.".to_owned();
            refused(name, (ErrorCode::InvalidRequest, message))
        })
        .collect();
    for topic in &request.topics {
        let name = topic.name.as_str();
        if twice.contains(&name) {
            continue;
        }
        let result = creation.create(topic, new_topic_id);
        results.push(result.unwrap_or_else(|refusal| refused(name, refusal)));
    }
    let records = if request.validate_only {
        Vec::new()
    } else {
        creation.records
    };
    (
        records,
        CreateTopicsResponseData::default().with_topics(results),
    )
}

fn refused(name: &str, (code, message): Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(text(name))
        .with_error_code(code.code())
        .with_error_message(Some(crate::client_message(&message)))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
}

/// Existing names by what they collide in.
fn collisions(image: &Image) -> BTreeMap<String, String> {
    let names = image.topics().map(|topic| &*topic.name);
    names
        .filter(|name| name.contains(['.', '_']))
        .map(|name| (collision_key(name), name.to_owned()))
        .collect()
}

struct Creation<'a> {
    image: &'a Image,
    context: &'a ControllerContext<'a>,
    placement: Placement,
    directories: DirectoryPlacement,
    collisions: BTreeMap<String, String>,
    partitions_left: usize,
    records: Vec<Record>,
}

impl Creation<'_> {
    fn create(
        &mut self,
        topic: &CreatableTopic,
        new_topic_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<CreatableTopicResult, Refusal> {
        let name = topic.name.as_str();
        self.check_name(name)?;
        let overrides = self.overrides(topic)?;
        let assignment = self.assignment(topic)?;
        if assignment.len() > self.partitions_left {
            return Err((
                ErrorCode::PolicyViolation,
                format!(
                    "Excessively large number of partitions per request: at most {MAX_NEW_PARTITIONS_PER_REQUEST}."
                ),
            ));
        }
        self.partitions_left -= assignment.len();
        if name.contains(['.', '_']) {
            self.collisions.insert(collision_key(name), name.to_owned());
        }
        let topic_id = new_topic_id();
        let partitions = assignment.len();
        let factor = assignment.first().map_or(0, Vec::len);
        self.records.push(Record::Topic {
            name: name.to_owned(),
            topic_id,
        });
        let node_id = self.context.broker.node_id;
        let mut shards = self.placement.of_topic(self.image, &topic_id, node_id);
        for (index, replicas) in (0..).zip(assignment) {
            let partition = new_partition(replicas, shards.place());
            self.records.push(partition.to_record(topic_id, index));
            let at = (topic_id, index);
            self.records
                .extend(place_in(&mut self.directories, &partition, at, node_id));
        }
        self.records
            .extend(overrides.iter().map(|(key, value)| Record::Config {
                resource_type: ResourceType::Topic,
                resource_name: name.to_owned(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
        Ok(CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic_id)
            .with_num_partitions(i32::try_from(partitions).unwrap_or(i32::MAX))
            .with_replication_factor(i16::try_from(factor).unwrap_or(i16::MAX))
            .with_configs(Some(self.effective_configs(&overrides))))
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        validate_topic_name(name).map_err(|reason| (ErrorCode::InvalidTopicException, reason))?;
        if name == CLUSTER_METADATA_TOPIC {
            return Err((
                ErrorCode::InvalidRequest,
                format!("Creation of internal topic {name} is prohibited."),
            ));
        }
        if self.image.topic(name).is_some() {
            return Err((
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            ));
        }
        if name.contains(['.', '_'])
            && let Some(other) = self.collisions.get(&collision_key(name))
        {
            return Err((
                ErrorCode::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {other}"),
            ));
        }
        Ok(())
    }

    fn overrides(&self, topic: &CreatableTopic) -> Result<ConfigMap, Refusal> {
        let mut overrides = ConfigMap::new();
        for config in &topic.configs {
            let key = config.name.as_str();
            let Some(value) = &config.value else {
                return Err((
                    ErrorCode::InvalidConfig,
                    format!("Null value not supported for topic configs: {key}"),
                ));
            };
            if overrides
                .insert(key.to_owned(), value.as_str().to_owned())
                .is_some()
            {
                return Err((
                    ErrorCode::InvalidRequest,
                    format!("The configuration {key} is there twice."),
                ));
            }
        }
        check_overrides(self.image, self.context, &overrides)
            .map_err(|error| (ErrorCode::InvalidConfig, error.to_string()))?;
        Ok(overrides)
    }

    /// Replicas of every partition.
    fn assignment(&self, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
        if !topic.assignments.is_empty() {
            return self.manual_assignment(topic);
        }
        if topic.num_partitions < -1 || topic.num_partitions == 0 {
            return Err((
                ErrorCode::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.".to_owned(),
            ));
        }
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            return Err((
                ErrorCode::InvalidReplicationFactor,
                "Replication factor was set to an invalid non-positive value.".to_owned(),
            ));
        }
        let broker = self.context.broker;
        let partitions = match topic.num_partitions {
            -1 => broker.num_partitions,
            partitions => partitions,
        };
        let factor = match topic.replication_factor {
            -1 => broker.default_replication_factor,
            factor => factor,
        };
        let factor = usize::try_from(factor).unwrap_or(0);
        let brokers = brokers_for(self.image, factor)?;
        // Before the list is made: the count is the client's.
        let partitions = usize::try_from(partitions).unwrap_or(0);
        let partitions = partitions.min(MAX_NEW_PARTITIONS_PER_REQUEST + 1);
        let begin = self.image.topics().len();
        Ok((0..partitions)
            .map(|index| spread(&brokers, factor, begin + index))
            .collect())
    }

    fn manual_assignment(&self, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
        if topic.replication_factor != -1 {
            return Err((
                ErrorCode::InvalidRequest,
                "A manual partition assignment was specified, but replication factor was not set to -1.".to_owned(),
            ));
        }
        if topic.num_partitions != -1 {
            return Err((
                ErrorCode::InvalidRequest,
                "A manual partition assignment was specified, but numPartitions was not set to -1."
                    .to_owned(),
            ));
        }
        let refuse = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
        let mut by_index: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let mut factor = None;
        for assignment in &topic.assignments {
            let index = assignment.partition_index;
            check_assignment(self.image, &assignment.broker_ids, factor)?;
            factor = Some(assignment.broker_ids.len());
            if by_index
                .insert(index, assignment.broker_ids.clone())
                .is_some()
            {
                return refuse(format!(
                    "Found multiple manual partition assignments for partition {index}"
                ));
            }
        }
        if !by_index.keys().copied().eq((0..).take(by_index.len())) {
            return refuse(
                "partitions should be a consecutive 0-based integer sequence".to_owned(),
            );
        }
        Ok(by_index.into_values().collect())
    }

    fn effective_configs(&self, overrides: &ConfigMap) -> Vec<CreatableTopicConfigs> {
        let layers = Layers {
            topic: Some(overrides),
            ..Layers::of(self.image, self.context.broker, None)
        };
        describe_topic(&layers)
            .into_iter()
            .map(|described| {
                CreatableTopicConfigs::default()
                    .with_name(text(described.key.name))
                    .with_value(described.value.map(text))
                    .with_read_only(described.read_only)
                    .with_config_source(described.source.id())
                    .with_is_sensitive(described.key.sensitive())
            })
            .collect()
    }
}

/// Decides DeleteTopics: by names (below version 6), by names or ids (from 6 on).
pub fn delete_topics(
    image: &Image,
    context: &ControllerContext<'_>,
    version: i16,
    request: &DeleteTopicsRequestData,
) -> (Vec<Record>, DeleteTopicsResponseData) {
    let by_name = |name: &kacrab_protocol::KafkaString| {
        DeleteTopicState::default().with_name(Some(name.clone()))
    };
    let states: Vec<DeleteTopicState> = if version < 6 {
        request.topic_names.iter().map(by_name).collect()
    } else {
        request.topics.clone()
    };
    let mut deletion = Deletion {
        image,
        enabled: context.broker.delete_topic_enable,
        version,
        names_twice: counted(states.iter().filter_map(|state| state.name.as_ref())),
        ids_twice: repeated_ids(&states),
        ids_named: states
            .iter()
            .filter(|state| state.name.is_none())
            .map(|state| state.topic_id)
            .collect(),
        answered: BTreeSet::new(),
        records: Vec::new(),
    };
    let mut responses = Vec::with_capacity(states.len());
    for state in &states {
        responses.extend(deletion.delete(state));
    }
    let response = DeleteTopicsResponseData::default().with_responses(responses);
    (deletion.records, response)
}

fn counted<'a>(names: impl Iterator<Item = &'a kacrab_protocol::KafkaString>) -> BTreeSet<String> {
    duplicates(names).into_iter().map(str::to_owned).collect()
}

fn repeated_ids(states: &[DeleteTopicState]) -> BTreeSet<Uuid> {
    let mut seen = BTreeSet::new();
    let ids = states
        .iter()
        .map(|state| state.topic_id)
        .filter(|id| !id.is_nil());
    ids.filter(|id| !seen.insert(*id)).collect()
}

struct Deletion<'a> {
    image: &'a Image,
    enabled: bool,
    version: i16,
    names_twice: BTreeSet<String>,
    ids_twice: BTreeSet<Uuid>,
    ids_named: BTreeSet<Uuid>,
    answered: BTreeSet<(Option<String>, Uuid)>,
    records: Vec<Record>,
}

impl Deletion<'_> {
    /// `None`: a repetition of what has been answered.
    fn delete(&mut self, state: &DeleteTopicState) -> Option<DeletableTopicResult> {
        let name = state.name.as_ref().map(|name| name.as_str().to_owned());
        let result = DeletableTopicResult::default()
            .with_name(state.name.clone())
            .with_topic_id(state.topic_id);
        let repeated = name
            .as_ref()
            .is_some_and(|name| self.names_twice.contains(name))
            || self.ids_twice.contains(&state.topic_id);
        if repeated && !self.answered.insert((name.clone(), state.topic_id)) {
            return None;
        }
        Some(match self.decide(name.as_deref(), state.topic_id) {
            Ok((name, topic_id)) => {
                self.records.push(Record::RemoveTopic { topic_id });
                result.with_name(Some(text(name))).with_topic_id(topic_id)
            }
            Err((code, message)) => result
                .with_error_code(code.code())
                .with_error_message(Some(crate::client_message(&message))),
        })
    }

    fn decide(&self, name: Option<&str>, id: Uuid) -> Result<(String, Uuid), Refusal> {
        let invalid = |message: &str| Err((ErrorCode::InvalidRequest, message.to_owned()));
        if !self.enabled {
            let code = match self.version {
                ..3 => ErrorCode::InvalidRequest,
                _ => ErrorCode::TopicDeletionDisabled,
            };
            return Err((code, "Topic deletion is disabled.".to_owned()));
        }
        let topic = match (name, id.is_nil()) {
            (None, true) => return invalid("Neither topic name nor id were specified."),
            (Some(_), false) => {
                return invalid("You may not specify both topic name and topic id.");
            }
            (Some(name), true) if self.names_twice.contains(name) => {
                return invalid("Duplicate topic name.");
            }
            (None, false) if self.ids_twice.contains(&id) => return invalid("Duplicate topic id."),
            (Some(name), true) => self.image.topic(name).ok_or_else(|| {
                let message = "This server does not host this topic-partition.".to_owned();
                (ErrorCode::UnknownTopicOrPartition, message)
            })?,
            (None, false) => self.image.topic_by_id(&id).ok_or_else(|| {
                let message = "This server does not host this topic ID.".to_owned();
                (ErrorCode::UnknownTopicId, message)
            })?,
        };
        if name.is_some() && self.ids_named.contains(&topic.id) {
            return invalid("The provided topic name maps to an ID that was already supplied.");
        }
        if is_internal(&topic.name) {
            return Err((
                ErrorCode::InvalidRequest,
                format!("Deletion of internal topic {} is prohibited.", topic.name),
            ));
        }
        Ok((topic.name.to_string(), topic.id))
    }
}

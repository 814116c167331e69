//! CreatePartitions: a topic's count may grow, never shrink.

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::create_partitions_request::{
    CreatePartitionsRequestData, CreatePartitionsTopic,
};
use kacrab_protocol::generated::create_partitions_response::{
    CreatePartitionsResponseData, CreatePartitionsTopicResult,
};

use super::{
    ControllerContext, MAX_NEW_PARTITIONS_PER_REQUEST, Refusal, brokers_for, check_assignment,
    duplicates, new_partition, online_directories, place_in, spread, text,
};
use crate::metadata::image::{Image, Topic};
use crate::metadata::record::Record;
use crate::placement::Placement;

/// Decides CreatePartitions. With `validate_only` there are no records.
pub fn create_partitions(
    image: &Image,
    context: &ControllerContext<'_>,
    request: &CreatePartitionsRequestData,
) -> (Vec<Record>, CreatePartitionsResponseData) {
    let twice = duplicates(request.topics.iter().map(|topic| &topic.name));
    let node_id = context.broker.node_id;
    let mut placement = Placement::new(image, node_id, context.shards);
    let mut directories = online_directories(image, node_id);
    let mut records = Vec::new();
    let mut left = MAX_NEW_PARTITIONS_PER_REQUEST;
    let answer = |name: &str, outcome: Result<(), Refusal>| {
        let result = CreatePartitionsTopicResult::default().with_name(text(name));
        match outcome {
            Ok(()) => result,
            Err((code, message)) => result
                .with_error_code(code.code())
                .with_error_message(Some(crate::client_message(&message))),
        }
    };
    let mut results = Vec::with_capacity(request.topics.len());
    for name in &twice {
        let refusal = (
            ErrorCode::InvalidRequest,
            "Duplicate topic name.".to_owned(),
        );
        results.push(answer(name, Err(refusal)));
    }
    for wanted in &request.topics {
        let name = wanted.name.as_str();
        if twice.contains(&name) {
            continue;
        }
        let outcome = new_replicas(image, wanted, left).map(|(topic, added)| {
            left -= added.len();
            let mut shards = placement.of_topic(image, &topic.id, node_id);
            let first = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            for (index, replicas) in (first..).zip(added) {
                let partition = new_partition(replicas, shards.place());
                records.push(partition.to_record(topic.id, index));
                let at = (topic.id, index);
                records.extend(place_in(&mut directories, &partition, at, node_id));
            }
        });
        results.push(answer(name, outcome));
    }
    if request.validate_only {
        records.clear();
    }
    (
        records,
        CreatePartitionsResponseData::default().with_results(results),
    )
}

/// Replicas of the partitions to add.
fn new_replicas<'a>(
    image: &'a Image,
    wanted: &CreatePartitionsTopic,
    left: usize,
) -> Result<(&'a Topic, Vec<Vec<i32>>), Refusal> {
    let name = wanted.name.as_str();
    let topic = image.topic(name).ok_or_else(|| {
        let message = "This server does not host this topic-partition.".to_owned();
        (ErrorCode::UnknownTopicOrPartition, message)
    })?;
    let have = topic.partitions.len();
    let count = usize::try_from(wanted.count).unwrap_or(0);
    if count == have {
        return Err((
            ErrorCode::InvalidPartitions,
            format!("Topic already has {have} partition(s)."),
        ));
    }
    let Some(added) = count.checked_sub(have) else {
        return Err((
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {name} currently has {have} partition(s); {} would not be an increase.",
                wanted.count
            ),
        ));
    };
    if added > left {
        return Err((
            ErrorCode::PolicyViolation,
            format!(
                "Excessively large number of partitions per request: at most {MAX_NEW_PARTITIONS_PER_REQUEST}."
            ),
        ));
    }
    let factor = topic
        .partitions
        .first()
        .map_or(1, |partition| partition.replicas.len());
    let Some(assignments) = &wanted.assignments else {
        let brokers = brokers_for(image, factor)?;
        let replicas = (have..count)
            .map(|index| spread(&brokers, factor, index))
            .collect();
        return Ok((topic, replicas));
    };
    if assignments.len() != added {
        return Err((
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            ),
        ));
    }
    for assignment in assignments {
        check_assignment(image, &assignment.broker_ids, Some(factor))?;
    }
    let replicas = assignments
        .iter()
        .map(|assignment| assignment.broker_ids.clone())
        .collect();
    Ok((topic, replicas))
}

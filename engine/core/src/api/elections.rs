//! ElectLeaders, versions 0 to 2, and ListPartitionReassignments.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::elect_leaders_request::ElectLeadersRequestData;
use kacrab_protocol::generated::elect_leaders_response::{
    ElectLeadersResponseData, PartitionResult, ReplicaElectionResult,
};
use kacrab_protocol::generated::list_partition_reassignments_request::ListPartitionReassignmentsRequestData;
use kacrab_protocol::generated::list_partition_reassignments_response::ListPartitionReassignmentsResponseData;

use super::text;
use crate::metadata::{Image, Partition};

/// `ElectionType` of Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Election {
    /// The first replica is to lead.
    Preferred,
    /// Any replica is to lead where none does.
    Unclean,
}

impl Election {
    fn from_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(Election::Preferred),
            1 => Some(Election::Unclean),
            _ => None,
        }
    }
}

/// Code and sentence for one partition.
type Outcome = (ErrorCode, KafkaString);

/// Answers ElectLeaders. Every partition has one replica: it leads, and then no election is needed,
/// or its broker is away, and then nobody else can.
///
/// When all partitions are asked for, those that need no election are left out, as in Kafka.
pub fn elect_leaders(
    image: &Image,
    version: i16,
    request: &ElectLeadersRequestData,
) -> ElectLeadersResponseData {
    let id = if version >= 1 {
        request.election_type
    } else {
        0
    };
    let Some(election) = Election::from_id(id) else {
        let said = text(format!("Unknown election type {id}"));
        return refused(request, (ErrorCode::InvalidRequest, said));
    };
    let told = Sentences::new();
    let results: Vec<ReplicaElectionResult> = match &request.topic_partitions {
        None => image
            .topics()
            .map(|topic| {
                let indexes = 0..topic.partitions.len() as i32;
                let outcomes =
                    indexes.map(|index| (index, told.elect(image, &topic.name, index, election)));
                let needed =
                    outcomes.filter(|(_, (code, _))| *code != ErrorCode::ElectionNotNeeded);
                of_topic(text(&*topic.name), needed)
            })
            .collect(),
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let name = topic.topic.as_str();
                let indexes = topic.partitions.iter().copied();
                let outcomes =
                    indexes.map(|index| (index, told.elect(image, name, index, election)));
                of_topic(topic.topic.clone(), outcomes)
            })
            .collect(),
    };
    ElectLeadersResponseData::default().with_replica_election_results(results)
}

/// One error for all that was named, and, where the version has it, for the request.
fn refused(request: &ElectLeadersRequestData, outcome: Outcome) -> ElectLeadersResponseData {
    let named = request.topic_partitions.iter().flatten();
    let results = named.map(|topic| {
        let indexes = topic.partitions.iter();
        let outcomes = indexes.map(|index| (*index, outcome.clone()));
        of_topic(topic.topic.clone(), outcomes)
    });
    ElectLeadersResponseData::default()
        .with_error_code(outcome.0.code())
        .with_replica_election_results(results.collect())
}

fn of_topic(
    name: KafkaString,
    outcomes: impl Iterator<Item = (i32, Outcome)>,
) -> ReplicaElectionResult {
    let results = outcomes.map(|(index, (code, said))| {
        PartitionResult::default()
            .with_partition_id(index)
            .with_error_code(code.code())
            .with_error_message(Some(said))
    });
    ReplicaElectionResult::default()
        .with_topic(name)
        .with_partition_result(results.collect())
}

/// Sentences that many partitions share: an answer costs little more than its question.
struct Sentences {
    not_needed: KafkaString,
    no_preferred: KafkaString,
    no_eligible: KafkaString,
    unknown: KafkaString,
}

impl Sentences {
    fn new() -> Self {
        Sentences {
            not_needed: text("Leader election not needed for topic partition."),
            no_preferred: text("The preferred leader was not available."),
            no_eligible: text("Eligible topic partition leaders are not available."),
            unknown: text("This server does not host this topic-partition."),
        }
    }

    fn elect(&self, image: &Image, topic: &str, index: i32, election: Election) -> Outcome {
        let found = image.topic(topic).and_then(|topic| topic.partition(index));
        let Some(partition) = found else {
            return (ErrorCode::UnknownTopicOrPartition, self.unknown.clone());
        };
        let leads = |id: i32| partition.leader == id && image.broker(id).is_some();
        match election {
            Election::Preferred if preferred(partition).is_some_and(leads) => {
                (ErrorCode::ElectionNotNeeded, self.not_needed.clone())
            }
            Election::Unclean if leads(partition.leader) => {
                (ErrorCode::ElectionNotNeeded, self.not_needed.clone())
            }
            Election::Preferred => (
                ErrorCode::PreferredLeaderNotAvailable,
                self.no_preferred.clone(),
            ),
            Election::Unclean => (
                ErrorCode::EligibleLeadersNotAvailable,
                self.no_eligible.clone(),
            ),
        }
    }
}

fn preferred(partition: &Partition) -> Option<i32> {
    partition.replicas.first().copied()
}

/// Answers ListPartitionReassignments: nothing moves between brokers, whatever is asked for.
pub fn list_partition_reassignments(
    _request: &ListPartitionReassignmentsRequestData,
) -> ListPartitionReassignmentsResponseData {
    ListPartitionReassignmentsResponseData::default()
}

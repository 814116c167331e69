//! Consumer groups: members over real sockets, offsets that outlive the process, answers that wait.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use corelog_core::group::partition_of;
use corelog_net::cold::messages::delete_groups_request::DeleteGroupsRequestData;
use corelog_net::cold::messages::describe_groups_request::DescribeGroupsRequestData;
use corelog_net::cold::messages::offset_commit_response::OffsetCommitResponseData;
use corelog_net::cold::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use corelog_net::cold::messages::offset_fetch_request::OffsetFetchRequestData;
use corelog_net::cold::messages::offset_fetch_response::OffsetFetchResponseData;
use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::groups::{code, commit_request, fetch_group, join_request, uuid};
use crate::common::*;

const OFFSETS: &str = "__consumer_offsets";
/// A new group does not wait for further members.
const AT_ONCE: &str = "group.initial.rebalance.delay.ms=0";
const FEW: &str = "offsets.topic.num.partitions=8";

#[test]
fn r22_two_members_share_a_group_and_rebalance_as_they_come_and_go() {
    let dir = DataDir::new("groups-two");
    let broker = dir.start_with(4, &[AT_ONCE, FEW]);
    let mut one = broker.connect();
    let mut two = broker.connect();
    one.find_coordinator(&broker, "g");

    let alone = one.join("g");
    let first = alone.member_id.to_string();
    assert_eq!((alone.generation_id, &alone.leader), (1, &alone.member_id));
    let synced = one.sync("g", &first, 1, &[(&first, "all")]);
    assert_eq!(&synced.assignment[..], b"all");
    assert_eq!(one.heartbeat("g", &first, 1), ErrorCode::None);

    // The second waits until the first has heard of it and joins again.
    let (second, joining) = two.begin_join("g");
    poll("the first hears of the rebalance", || {
        (one.heartbeat("g", &first, 1) == ErrorCode::RebalanceInProgress).then_some(())
    });
    assert!(two.is_silent());
    let again = one.send(9, &join_request("g", &first));
    let (again, joined) = (one.end_join(again), two.end_join(joining));
    assert_eq!((again.generation_id, joined.generation_id), (2, 2));
    assert_eq!((again.members.len(), joined.members.len()), (2, 0));
    assert_eq!(joined.leader.as_str(), first);

    // The follower's answer waits for the leader's assignment.
    let waiting = two.send(5, &groups::sync_request("g", &second, 2, &[]));
    let assignments = [(first.as_str(), "a"), (second.as_str(), "b")];
    assert_eq!(&one.sync("g", &first, 2, &assignments).assignment[..], b"a");
    let synced: corelog_net::cold::messages::sync_group_response::SyncGroupResponseData =
        two.answer_as(waiting);
    assert_eq!(&synced.assignment[..], b"b");
    let described = one.describe_group("g");
    assert_eq!(
        (described.group_state.as_str(), described.members.len()),
        ("Stable", 2)
    );
    assert_eq!(described.members[0].client_host.as_str(), "/127.0.0.1");

    assert_eq!(two.leave("g", &second), ErrorCode::None);
    assert_eq!(two.heartbeat("g", &second, 2), ErrorCode::UnknownMemberId);
    assert_eq!(
        one.heartbeat("g", &first, 2),
        ErrorCode::RebalanceInProgress
    );
    let last = one.send(9, &join_request("g", &first));
    assert_eq!(one.end_join(last).generation_id, 3);
    assert!(broker.metric("corelog_group_rebalances_total", &[]) >= 3);
}

#[test]
fn r23_offsets_and_generations_outlive_a_clean_stop_and_kill_9() {
    let dir = DataDir::new("groups-restart");
    let mut broker = dir.start_with(4, &[AT_ONCE, FEW]);
    let mut client = broker.connect();
    client.create_topic("t", 3, &[]);
    client.find_coordinator(&broker, "g");
    let member = client.join("g").member_id.to_string();
    client.sync("g", &member, 1, &[(&member, "all")]);
    for round in 0..4 {
        for (at, group) in ["g", "h", "i", "j", "k"].iter().enumerate() {
            let mut request = commit_request(group, "t", 1, 10 * round + at as i64);
            if *group == "g" {
                request = request
                    .with_member_id(topic_name(&member))
                    .with_generation_id_or_member_epoch(1);
            }
            assert_eq!(client.commit_as(&request), ErrorCode::None);
        }
        drop(client);
        if round % 2 == 0 {
            broker.kill();
        } else {
            broker.stop();
        }
        broker = dir.start_with(4, &[AT_ONCE, FEW]);
        client = broker.connect();
        for (at, group) in ["g", "h", "i", "j", "k"].iter().enumerate() {
            client.find_coordinator(&broker, group);
            assert_eq!(client.committed(group, "t", 1), 10 * round + at as i64);
            assert_eq!(client.committed(group, "t", 0), -1);
        }
        // The member is still one, in the same generation, with its assignment.
        assert_eq!(client.heartbeat("g", &member, 1), ErrorCode::None);
        assert_eq!(&client.sync("g", &member, 1, &[]).assignment[..], b"all");
    }
}

#[test]
fn r23_while_a_coordinator_loads_no_answer_denies_what_is_stored() {
    let dir = DataDir::new("groups-load");
    let broker = dir.start_with(2, &[AT_ONCE, FEW]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.find_coordinator(&broker, "g");
    for offset in 0..300 {
        assert_eq!(client.commit("g", "t", 0, offset), ErrorCode::None);
    }
    broker.kill();
    let broker = dir.start_with(2, &[AT_ONCE, FEW]);
    let mut client = broker.connect();
    let request = OffsetFetchRequestData::default().with_groups(vec![fetch_group("g", "t", 0)]);
    poll("the offset", || {
        let sent = client.send(BY_NAME_OFFSETS, &request);
        let answer: OffsetFetchResponseData = client.answer_as(sent);
        let group = &answer.groups[0];
        match code(group.error_code) {
            ErrorCode::None => {
                assert_eq!(group.topics[0].partitions[0].committed_offset, 299);
                Some(())
            }
            error => {
                assert_eq!(error, ErrorCode::CoordinatorLoadInProgress);
                None
            }
        }
    });
}

#[test]
fn r23_the_end_of_a_topic_is_that_of_its_offsets() {
    let dir = DataDir::new("groups-deleted");
    let broker = dir.start_with(4, &[FEW]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.create_topic("kept", 1, &[]);
    client.find_coordinator(&broker, "g");
    assert_eq!(client.commit("g", "t", 0, 5), ErrorCode::None);
    assert_eq!(client.commit("g", "kept", 0, 6), ErrorCode::None);
    assert_eq!(client.delete_topic("t"), ErrorCode::None);
    poll("the offset to go", || {
        (client.committed("g", "t", 0) == -1).then_some(())
    });
    assert_eq!(
        client.commit("g", "t", 0, 7),
        ErrorCode::UnknownTopicOrPartition
    );
    // A topic of the same name begins without offsets, now and after a restart.
    client.create_topic("t", 1, &[]);
    assert_eq!(client.committed("g", "t", 0), -1);
    broker.stop();
    let broker = dir.start_with(4, &[FEW]);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "g");
    assert_eq!(client.committed("g", "t", 0), -1);
    assert_eq!(client.committed("g", "kept", 0), 6);
}

#[test]
fn r23_clients_do_not_write_to_the_offsets_topic() {
    let dir = DataDir::new("groups-internal");
    let broker = dir.start_with(2, &[FEW]);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "g");
    for partition in 0..8 {
        let refused = client.produce_error(OFFSETS, partition, text_batch(&["x"]));
        assert_eq!(refused, ErrorCode::InvalidTopicException);
    }
    assert_eq!(client.delete_topic(OFFSETS), ErrorCode::InvalidRequest);
    let topic = client.metadata(Some(&[OFFSETS]), false).topics.remove(0);
    assert_eq!((topic.is_internal, topic.partitions.len()), (true, 8));
    for (key, value) in [("cleanup.policy", "compact"), ("flush.messages", "1")] {
        let config = client.config(TOPIC, OFFSETS, key);
        assert_eq!(config.value.unwrap().as_str(), value);
    }
    let warned = broker.stop();
    let lines = warned.lines();
    let named = lines.filter(|line| line.contains("offsets.topic.replication.factor"));
    assert_eq!(named.count(), 1, "{warned}");
}

/// A batch that is damaged at rest: its coordinator is none, is logged and counted; the others serve.
#[test]
fn r23_a_damaged_partition_of_the_offsets_topic_stops_its_groups_alone() {
    let dir = DataDir::new("groups-damaged");
    let broker = dir.start_with(2, &[FEW]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let damaged = partition_of("g", 8);
    let other = (0..).map(|n| format!("other-{n}"));
    let mut other = other.filter(|name| partition_of(name, 8) != damaged);
    let other = other.next().unwrap();
    for group in ["g", &other] {
        client.find_coordinator(&broker, group);
        for offset in 0..=59 {
            assert_eq!(client.commit(group, "t", 0, offset), ErrorCode::None);
        }
    }
    broker.stop();

    let file = dir.files(OFFSETS, damaged, "log").remove(0);
    // Before the last index entry: a clean start looks only at what comes after.
    let options = OpenOptions::new().read(true).write(true).to_owned();
    let opened = blocking::open_file_with(&file, &options).unwrap();
    let mut whole = [0; 2];
    opened.read_exact_at(&mut whole, 100).unwrap();
    opened.write_all_at(b"??", 100).unwrap();

    let broker = dir.start_with(2, &[FEW]);
    let mut client = broker.connect();
    poll("the load to fail", || {
        (broker.metric("corelog_group_coordinator_load_failures_total", &[]) >= 1).then_some(())
    });
    // It is tried again now and then, and says so while it is.
    let refused = client.commit("g", "t", 0, 6);
    let expected = [
        ErrorCode::NotCoordinator,
        ErrorCode::CoordinatorLoadInProgress,
    ];
    assert!(expected.contains(&refused), "{refused:?}");
    client.find_coordinator(&broker, &other);
    assert_eq!(client.committed(&other, "t", 0), 59);
    assert_eq!(client.commit(&other, "t", 0, 60), ErrorCode::None);
    // Somebody mends it: no restart is needed.
    opened.write_all_at(&whole, 100).unwrap();
    poll("the coordinator to serve", || {
        (client.commit("g", "t", 0, 60) == ErrorCode::None).then_some(())
    });
    assert_eq!(client.committed("g", "t", 0), 60);
    let log = broker.stop();
    assert_eq!(log.matches("could not be loaded").count(), 1, "{log}");
}

#[test]
fn r23_metadata_makes_the_offsets_topic_as_configured() {
    let dir = DataDir::new("groups-metadata");
    let broker = dir.start_with(2, &[FEW]);
    let mut client = broker.connect();
    let topic = client.metadata(Some(&[OFFSETS]), true).topics.remove(0);
    assert_eq!(
        (code(topic.error_code), topic.partitions.len()),
        (ErrorCode::None, 8)
    );
    assert_eq!(
        client
            .config(TOPIC, OFFSETS, "cleanup.policy")
            .value
            .unwrap()
            .as_str(),
        "compact"
    );
}

#[test]
fn r22_requests_for_several_groups_are_answered_in_their_order() {
    let dir = DataDir::new("groups-several");
    let broker = dir.start_with(4, &[AT_ONCE]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let names: Vec<String> = (0..40).map(|n| format!("group-{n}")).collect();
    for (offset, name) in (0..).zip(&names) {
        client.find_coordinator(&broker, name);
        assert_eq!(client.commit(name, "t", 0, offset), ErrorCode::None);
    }
    let member = client.join("group-7").member_id.to_string();
    client.sync("group-7", &member, 1, &[(&member, "all")]);

    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(client.list_groups(), sorted);

    let groups: Vec<_> = names.iter().rev().map(|n| fetch_group(n, "t", 0)).collect();
    let request = OffsetFetchRequestData::default().with_groups(groups);
    let sent = client.send(BY_NAME_OFFSETS, &request);
    let answer: OffsetFetchResponseData = client.answer_as(sent);
    let found = answer.groups.iter();
    let found: Vec<_> = found
        .map(|g| {
            (
                g.group_id.to_string(),
                g.topics[0].partitions[0].committed_offset,
            )
        })
        .collect();
    let expected: Vec<_> = names.iter().cloned().rev().zip((0..40).rev()).collect();
    assert_eq!(found, expected);

    let keys = |names: &[String]| names.iter().map(|n| topic_name(n)).collect::<Vec<_>>();
    let request = DescribeGroupsRequestData::default().with_groups(keys(&names));
    let described = client.call(&request).groups;
    for (name, group) in names.iter().zip(&described) {
        let state = if name == "group-7" { "Stable" } else { "Empty" };
        assert_eq!(
            (group.group_id.as_str(), group.group_state.as_str()),
            (name.as_str(), state)
        );
    }

    let mut twice = keys(&names);
    twice.push(topic_name("group-0"));
    twice.push(topic_name("nobody"));
    let request = DeleteGroupsRequestData::default().with_groups_names(twice);
    let deleted = client.call(&request).results;
    assert_eq!(deleted.len(), 41);
    for result in &deleted {
        let expected = match result.group_id.as_str() {
            "group-7" => ErrorCode::NonEmptyGroup,
            "nobody" => ErrorCode::GroupIdNotFound,
            _ => ErrorCode::None,
        };
        assert_eq!(code(result.error_code), expected, "{result:?}");
    }
    assert_eq!(client.list_groups(), ["group-7"]);
}

#[test]
fn r22_a_client_that_goes_away_while_it_joins_is_let_go_and_its_member_stays() {
    let dir = DataDir::new("groups-gone");
    let overrides = [AT_ONCE, FEW, "group.min.session.timeout.ms=100"];
    let broker = dir.start_with(4, &overrides);
    let mut one = broker.connect();
    one.find_coordinator(&broker, "g");
    let first = one.join("g").member_id.to_string();
    one.sync("g", &first, 1, &[(&first, "all")]);
    let before = broker.metric("corelog_connections", &[]);
    let mut two = broker.connect();
    let (_, _waiting) = two.begin_join("g");
    poll("the rebalance", || {
        (one.heartbeat("g", &first, 1) == ErrorCode::RebalanceInProgress).then_some(())
    });
    assert_eq!(broker.metric("corelog_connections", &[]), before + 1);
    drop(two);
    // Its connection is not held until the rebalance ends.
    poll("the connection to end", || {
        (broker.metric("corelog_connections", &[]) == before).then_some(())
    });
    // The member itself stays in the rebalance, as with Kafka.
    let again = one.send(9, &join_request("g", &first));
    assert_eq!(one.end_join(again).members.len(), 2);
}

#[test]
fn r22_group_max_size_is_kept() {
    let dir = DataDir::new("groups-size");
    let broker = dir.start_with(2, &[AT_ONCE, FEW, "group.max.size=1"]);
    let mut one = broker.connect();
    one.find_coordinator(&broker, "g");
    let first = one.join("g").member_id.to_string();
    one.sync("g", &first, 1, &[(&first, "all")]);
    let mut two = broker.connect();
    let refused = two.call(&join_request("g", ""));
    assert_eq!(code(refused.error_code), ErrorCode::GroupMaxSizeReached);
    assert_eq!(one.heartbeat("g", &first, 1), ErrorCode::None);
}

#[test]
fn r23_topics_are_named_by_id_and_what_does_not_exist_is_said() {
    let dir = DataDir::new("groups-ids");
    let broker = dir.start_with(4, &[FEW]);
    let mut client = broker.connect();
    let id = client.create_topic("t", 2, &[]);
    client.find_coordinator(&broker, "g");
    let unknown = [7; 16];
    let commit = |id: [u8; 16], partition: i32| {
        let mut request = commit_request("g", "", partition, 3);
        request.topics[0].topic_id = uuid(id);
        request
    };
    for (request, expected) in [
        (commit(id, 1), ErrorCode::None),
        (commit(id, 2), ErrorCode::UnknownTopicOrPartition),
        (commit(unknown, 0), ErrorCode::UnknownTopicId),
    ] {
        let answer: OffsetCommitResponseData = client.call(&request);
        let topic = &answer.topics[0];
        assert_eq!(topic.topic_id, request.topics[0].topic_id);
        assert_eq!(code(topic.partitions[0].error_code), expected);
    }
    assert_eq!(
        client.commit("g", "nope", 0, 1),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(client.committed("g", "t", 1), 3);

    let mut asked = fetch_group("g", "", 1);
    let topics = asked.topics.as_mut().unwrap();
    topics[0].topic_id = uuid(id);
    let mut strange = topics[0].clone();
    strange.topic_id = uuid(unknown);
    topics.insert(0, strange);
    let all = fetch_group("g", "", 0).with_topics(None);
    let request = OffsetFetchRequestData::default().with_groups(vec![asked, all]);
    let answer = client.call(&request);
    let of_group = |at: usize| {
        let topics = answer.groups[at].topics.iter();
        let row = topics.map(|t| {
            let partition = &t.partitions[0];
            (
                t.topic_id.to_bytes(),
                partition.committed_offset,
                code(partition.error_code),
            )
        });
        row.collect::<Vec<_>>()
    };
    let known = (id, 3, ErrorCode::None);
    assert_eq!(
        of_group(0),
        [known, (unknown, -1, ErrorCode::UnknownTopicId)]
    );
    assert_eq!(of_group(1), [known]);

    let partition = |index| OffsetDeleteRequestPartition::default().with_partition_index(index);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(topic_name("t"))
        .with_partitions(vec![partition(1), partition(5)]);
    let request = OffsetDeleteRequestData::default()
        .with_group_id(topic_name("g"))
        .with_topics(vec![topic]);
    let answer = client.call(&request);
    assert_eq!(answer.error_code, 0);
    let mut codes: Vec<_> = answer.topics[0]
        .partitions
        .iter()
        .map(|p| (p.partition_index, code(p.error_code)))
        .collect();
    codes.sort_by_key(|row| row.0);
    assert_eq!(
        codes,
        [
            (1, ErrorCode::None),
            (5, ErrorCode::UnknownTopicOrPartition)
        ]
    );
    assert_eq!(client.committed("g", "t", 1), -1);
}

#[test]
fn r61_lag_and_committed_offsets_are_told() {
    let dir = DataDir::new("groups-lag");
    let broker = dir.start_with(4, &[FEW]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["a", "b", "c"]));
    client.find_coordinator(&broker, "g");
    assert_eq!(client.commit("g", "t", 0, 1), ErrorCode::None);
    let labels = ["group=\"g\"", "topic=\"t\"", "partition=\"0\""];
    assert_eq!(broker.metric("corelog_group_committed_offset", &labels), 1);
    assert_eq!(broker.metric("corelog_group_lag", &labels), 2);
    assert_eq!(broker.metric("corelog_groups", &["state=\"Empty\""]), 1);
    assert_eq!(broker.metric("corelog_group_offset_commits_total", &[]), 1);
    assert_eq!(
        broker.metric("corelog_group_coordinator_loads_total", &[]),
        8
    );
    assert_eq!(broker.metric("corelog_group_series_left_out", &[]), 0);
}

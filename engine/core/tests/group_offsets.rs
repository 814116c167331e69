//! The rules of committed offsets, one by one.

mod group_common;

use corelog_core::Uuid;
use corelog_core::group::{Event, GroupSettings, Request, Response, WriteError};
use group_common::*;
use kacrab_protocol::generated::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

const RETENTION_MS: i64 = 7 * 24 * 3_600_000;

fn with_metadata(mut request: Request, text: &str) -> Request {
    if let Request::OffsetCommit { topics, .. } = &mut request {
        topics[0].partitions[0].metadata = Some(text.to_owned());
    }
    request
}

fn delete_offset(group: &str, topic: &str) -> Request {
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(text(topic))
        .with_partitions(vec![OffsetDeleteRequestPartition::default()]);
    Request::OffsetDelete {
        request: OffsetDeleteRequestData::default()
            .with_group_id(text(group))
            .with_topics(vec![topic]),
    }
}

fn error(d: &mut Driver, request: Request) -> i16 {
    code(&d.answer(request))
}

#[test]
fn r23_offsets_are_seen_when_they_are_written_and_not_before() {
    let mut d = Driver::quick();
    d.auto = false;
    let first = d.ask(commit("g", "", -1, &[("t", 0, 5)]));
    let second = d.ask(commit("g", "", -1, &[("t", 0, 6)]));
    let third = d.ask(commit("g", "", -1, &[("t", 0, 7)]));
    assert_eq!(d.fetch("g", "t", 0), -1);
    let stable = d.ask(fetch("g", Some(&[("t", 0)]), true));
    assert!(d.is_parked(first) && d.is_parked(stable));
    d.finish(Ok(()));
    assert_eq!(commit_code(&d.take(first)), NONE);
    assert_eq!(d.fetch("g", "t", 0), 5);
    d.finish(Err(WriteError::NotEnoughReplicas));
    assert_eq!(commit_code(&d.take(second)), COORDINATOR_NOT_AVAILABLE);
    assert_eq!(d.fetch("g", "t", 0), 5);
    assert!(d.is_parked(stable));
    d.finish(Ok(()));
    assert_eq!(commit_code(&d.take(third)), NONE);
    let Response::OffsetFetch(seen) = d.take(stable) else {
        panic!("not a fetch");
    };
    let partition = &seen.topics[0].partitions[0];
    assert_eq!(partition.committed_offset, 7);
    assert_eq!(partition.committed_leader_epoch, 3);
    assert_eq!(partition.metadata, Some(text("m")));
    assert_eq!(d.reloaded().committed(), d.committed());
}

#[test]
fn r23_commits_are_taken_from_members_of_the_generation() {
    let mut d = Driver::quick();
    let (id, generation) = d.stable("g");
    let offsets: &[(&str, i32, i64)] = &[("t", 0, 1)];
    let cases = [
        (id.as_str(), generation, None, NONE),
        (id.as_str(), generation - 1, None, ILLEGAL_GENERATION),
        (id.as_str(), -1, None, ILLEGAL_GENERATION),
        ("nobody", generation, None, UNKNOWN_MEMBER_ID),
        ("", -1, None, UNKNOWN_MEMBER_ID),
        (id.as_str(), generation, Some("i"), UNKNOWN_MEMBER_ID),
    ];
    for (member, generation, instance, expected) in cases {
        let mut request = commit("g", member, generation, offsets);
        if let Request::OffsetCommit {
            group_instance_id, ..
        } = &mut request
        {
            *group_instance_id = instance.map(str::to_owned);
        }
        assert_eq!(
            d.commit(request),
            expected,
            "{member} {generation} {instance:?}"
        );
    }
    // A group that is not there; old clients know one code for it.
    for (version, expected) in [(8, ILLEGAL_GENERATION), (9, GROUP_ID_NOT_FOUND)] {
        let mut request = commit("absent", "m", 3, offsets);
        if let Request::OffsetCommit { version: v, .. } = &mut request {
            *v = version;
        }
        assert_eq!(d.commit(request), expected);
    }
}

#[test]
fn r23_a_commit_keeps_its_member_alive() {
    let mut d = Driver::quick();
    let (id, generation) = d.stable("g");
    for offset in 0..5 {
        d.advance(SESSION_MS - 1);
        assert_eq!(
            d.commit(commit("g", &id, generation, &[("t", 0, offset)])),
            NONE
        );
    }
    assert_eq!(d.state("g"), "Stable");
}

#[test]
fn r23_metadata_is_as_long_as_the_configuration_allows() {
    let mut d = Driver::new(GroupSettings {
        offset_metadata_max_bytes: 4,
        ..GroupSettings::default()
    });
    let one = || commit("g", "", -1, &[("t", 0, 1)]);
    assert_eq!(d.commit(with_metadata(one(), "four")), NONE);
    assert_eq!(
        d.commit(with_metadata(one(), "fünf")),
        NONE,
        "characters count"
    );
    assert_eq!(
        d.commit(with_metadata(one(), "fifth")),
        OFFSET_METADATA_TOO_LARGE
    );
    let mut both = commit("g", "", -1, &[("t", 1, 1), ("t", 2, 2)]);
    if let Request::OffsetCommit { topics, .. } = &mut both {
        topics[0].partitions[0].metadata = Some("too long".to_owned());
    }
    let token = d.ask(both);
    let Response::OffsetCommit(answer) = d.take(token) else {
        panic!("not a commit");
    };
    let codes = answer.topics.iter().map(|t| t.partitions[0].error_code);
    assert_eq!(codes.collect::<Vec<_>>(), [OFFSET_METADATA_TOO_LARGE, NONE]);
    assert_eq!((d.fetch("g", "t", 1), d.fetch("g", "t", 2)), (-1, 2));
    // No configuration makes a record longer than its format.
    let mut d = Driver::new(GroupSettings {
        offset_metadata_max_bytes: 1_000_000,
        ..GroupSettings::default()
    });
    let long = "x".repeat(32_768);
    assert_eq!(
        d.commit(with_metadata(one(), &long)),
        OFFSET_METADATA_TOO_LARGE
    );
}

#[test]
fn r23_what_the_caller_refused_is_echoed_and_not_stored() {
    let mut d = Driver::quick();
    for version in [9, 10] {
        let mut request = commit("g", "", -1, &[("gone", 0, 1), ("t", 0, 2)]);
        if let Request::OffsetCommit {
            topics, version: v, ..
        } = &mut request
        {
            topics[0].partitions[0].error_code = 3;
            *v = version;
        }
        let Response::OffsetCommit(answer) = d.answer(request) else {
            panic!("not a commit");
        };
        let codes = answer.topics.iter().map(|t| t.partitions[0].error_code);
        assert_eq!(codes.collect::<Vec<_>>(), [3, NONE]);
        let by_id = version >= 10;
        assert_eq!(answer.topics[1].name, text(if by_id { "" } else { "t" }));
        assert_eq!(answer.topics[1].topic_id.is_nil(), !by_id);
    }
    assert_eq!(d.committed(), [("g".to_owned(), "t".to_owned(), 0, 2)]);
}

#[test]
fn r23_all_offsets_of_a_group_can_be_fetched_and_unknown_ones_are_minus_one() {
    let mut d = Driver::quick();
    assert_eq!(
        d.commit(commit("g", "", -1, &[("t", 0, 5), ("u", 3, 6)])),
        NONE
    );
    let Response::OffsetFetch(all) = d.answer(fetch("g", None, false)) else {
        panic!("not a fetch");
    };
    let seen: Vec<_> = all
        .topics
        .iter()
        .flat_map(|t| {
            t.partitions
                .iter()
                .map(|p| (t.name.as_str(), p.partition_index))
        })
        .collect();
    assert_eq!(seen, [("t", 0), ("u", 3)]);
    for (group, topic, partition) in [("g", "t", 9), ("g", "v", 0), ("absent", "t", 0)] {
        assert_eq!(d.fetch(group, topic, partition), -1);
    }
    let Response::OffsetFetch(none) = d.answer(fetch("absent", None, false)) else {
        panic!("not a fetch");
    };
    assert!(none.topics.is_empty() && none.error_code == NONE);
}

#[test]
fn r23_offsets_expire_when_their_group_was_empty_long_enough() {
    let mut d = Driver::quick();
    let (id, generation) = d.stable("g");
    assert_eq!(d.commit(commit("g", &id, generation, &[("t", 0, 1)])), NONE);
    for _ in 0..3 {
        for _ in 0..(RETENTION_MS / 9000) {
            d.now_ms += 9000;
            d.answer(heartbeat("g", &id, generation, None));
        }
        d.advance(0);
        assert_eq!(
            d.fetch("g", "t", 0),
            1,
            "an active group keeps what it reads"
        );
    }
    d.answer(leave("g", &[(&id, None)]));
    d.advance(RETENTION_MS - 1);
    assert_eq!(d.fetch("g", "t", 0), 1);
    d.advance(600_000);
    assert_eq!(d.fetch("g", "t", 0), -1);
    assert_eq!(d.state("g"), "Dead");
    let loaded = d.reloaded();
    assert!(loaded.committed().is_empty());
    assert_eq!(loaded.coordinator.group_counts(), Default::default());
}

#[test]
fn r23_a_simple_groups_offsets_expire_one_by_one_since_their_commit() {
    let mut d = Driver::quick();
    assert_eq!(d.commit(commit("g", "", -1, &[("t", 0, 1)])), NONE);
    d.advance(RETENTION_MS / 2);
    assert_eq!(d.commit(commit("g", "", -1, &[("t", 1, 2)])), NONE);
    d.advance(RETENTION_MS / 2 + 600_000);
    assert_eq!((d.fetch("g", "t", 0), d.fetch("g", "t", 1)), (-1, 2));
    d.advance(RETENTION_MS / 2 + 600_000);
    assert_eq!(d.state("g"), "Dead");
}

#[test]
fn r23_a_stable_group_loses_offsets_of_topics_it_no_longer_reads() {
    let mut d = Driver::quick();
    assert_eq!(
        d.commit(commit("g", "", -1, &[("left", 0, 1), ("t", 0, 2)])),
        NONE
    );
    let (id, generation) = d.stable("g");
    let until_ms = d.now_ms + RETENTION_MS;
    while d.now_ms < until_ms {
        d.now_ms += 9000;
        d.answer(heartbeat("g", &id, generation, None));
    }
    d.advance(0);
    assert_eq!((d.fetch("g", "left", 0), d.fetch("g", "t", 0)), (-1, 2));
}

#[test]
fn r23_old_clients_say_how_long_their_offsets_are_kept() {
    let mut d = Driver::quick();
    for (version, partition) in [(4, 0), (5, 1)] {
        let mut request = commit("g", "", -1, &[("t", partition, 1)]);
        if let Request::OffsetCommit {
            version: v,
            retention_time_ms,
            ..
        } = &mut request
        {
            (*v, *retention_time_ms) = (version, 1000);
        }
        assert_eq!(d.commit(request), NONE);
    }
    let mut loaded = d.reloaded();
    for d in [&mut d, &mut loaded] {
        d.advance(600_000);
        assert_eq!(d.fetch("g", "t", 0), -1);
        assert_eq!(d.fetch("g", "t", 1), 1, "newer ones are not asked");
    }
}

#[test]
fn r23_an_expiry_that_is_not_written_never_was() {
    let mut d = Driver::quick();
    assert_eq!(d.commit(commit("g", "", -1, &[("t", 0, 1)])), NONE);
    d.auto = false;
    d.advance(RETENTION_MS + 600_000 - 1);
    while !d.writes.is_empty() {
        assert_eq!(d.state("g"), "Dead");
        d.finish(Err(WriteError::Storage));
    }
    assert_eq!(d.state("g"), "Empty");
    assert_eq!(d.fetch("g", "t", 0), 1);
    d.auto = true;
    d.advance(600_000);
    assert_eq!(d.state("g"), "Dead");
}

#[test]
fn r23_many_tombstones_are_written_in_parts() {
    let mut d = Driver::quick();
    let offsets: Vec<(&str, i32, i64)> = (0..2500).map(|partition| ("t", partition, 1)).collect();
    assert_eq!(d.commit(commit("g", "", -1, &offsets)), NONE);
    d.auto = false;
    d.advance(RETENTION_MS + 600_000 - 1);
    let sizes: Vec<usize> = d.writes.iter().map(|(_, records)| records.len()).collect();
    assert_eq!(sizes, [1000, 1000, 501]);
    // The middle one fails: what is left is a simple group, as a load would say.
    d.finish(Ok(()));
    d.finish(Err(WriteError::TooLarge));
    d.finish(Ok(()));
    assert_eq!(d.committed().len(), 1000);
    assert_eq!(d.reloaded().committed(), d.committed());
    assert_eq!(d.state("g"), "Empty");
}

#[test]
fn r23_offsets_of_topics_in_use_are_not_deleted() {
    let mut d = Driver::quick();
    assert_eq!(
        d.commit(commit("g", "", -1, &[("t", 0, 1), ("u", 0, 2)])),
        NONE
    );
    let (id, _) = d.stable("g");
    assert_eq!(
        error(&mut d, delete_offset("g", "t")),
        GROUP_SUBSCRIBED_TO_TOPIC
    );
    assert_eq!(error(&mut d, delete_offset("g", "u")), NONE);
    assert_eq!((d.fetch("g", "t", 0), d.fetch("g", "u", 0)), (1, -1));
    d.answer(leave("g", &[(&id, None)]));
    d.auto = false;
    let token = d.ask(delete_offset("g", "t"));
    d.finish(Err(WriteError::NotLeader));
    assert_eq!(code(&d.take(token)), NOT_COORDINATOR);
    assert_eq!(d.fetch("g", "t", 0), 1);
    let token = d.ask(delete_offset("g", "t"));
    assert!(d.is_parked(token));
    d.finish(Ok(()));
    assert_eq!(code(&d.take(token)), NONE);
    assert_eq!(d.fetch("g", "t", 0), -1);
    // What was never committed is deleted at once.
    assert_eq!(error(&mut d, delete_offset("g", "t")), NONE);
    assert_eq!(
        error(&mut d, delete_offset("absent", "t")),
        GROUP_ID_NOT_FOUND
    );
}

#[test]
fn r23_offsets_of_members_that_are_no_consumers_are_not_deleted_under_them() {
    let mut d = Driver::quick();
    let mut request = join_data("g", "", None, &[("any", &["t"])]);
    request.protocol_type = text("connect");
    let token = d.ask(Request::Join {
        version: 3,
        request,
    });
    d.advance(0);
    d.take(token);
    assert_eq!(error(&mut d, delete_offset("g", "t")), NON_EMPTY_GROUP);
}

#[test]
fn r23_a_deleted_group_is_gone_with_everything_that_was_being_committed() {
    let mut d = Driver::quick();
    assert_eq!(d.commit(commit("g", "", -1, &[("t", 0, 1)])), NONE);
    d.auto = false;
    let commits = d.ask(commit("g", "", -1, &[("t", 7, 2)]));
    let failed = d.ask(delete("g"));
    d.finish(Ok(()));
    assert_eq!(commit_code(&d.take(commits)), NONE);
    d.finish(Err(WriteError::TimedOut));
    assert_eq!(code(&d.take(failed)), COORDINATOR_NOT_AVAILABLE);
    assert_eq!((d.fetch("g", "t", 0), d.fetch("g", "t", 7)), (1, 2));
    assert_eq!(d.state("g"), "Empty");
    let commits = d.ask(commit("g", "", -1, &[("t", 8, 3)]));
    let token = d.ask(delete("g"));
    d.finish(Ok(()));
    assert_eq!(commit_code(&d.take(commits)), NONE);
    assert!(d.is_parked(token));
    d.finish(Ok(()));
    assert_eq!(code(&d.take(token)), NONE);
    assert_eq!(d.state("g"), "Dead");
    assert!(d.committed().is_empty() && d.reloaded().committed().is_empty());
    assert_eq!(error(&mut d, delete("g")), GROUP_ID_NOT_FOUND);
}

#[test]
fn r23_offsets_of_deleted_topics_are_dropped_and_their_successors_kept() {
    let mut d = Driver::quick();
    let old = Uuid::from_parts(7, 7);
    let new = Uuid::from_parts(8, 8);
    assert_eq!(
        d.commit(commit("g", "", -1, &[("t", 0, 1), ("u", 0, 2)])),
        NONE
    );
    let mut successor = commit("g", "", -1, &[("t", 1, 3)]);
    if let Request::OffsetCommit { topics, .. } = &mut successor {
        topics[0].topic_id = new;
    }
    d.auto = false;
    let token = d.ask(successor);
    let late = d.ask(commit("g", "", -1, &[("t", 2, 4)]));
    d.event(Event::TopicsDeleted(vec![("t".to_owned(), old)]));
    d.auto = true;
    d.advance(0);
    while !d.writes.is_empty() {
        d.finish(Ok(()));
    }
    assert_eq!(
        (commit_code(&d.take(token)), commit_code(&d.take(late))),
        (NONE, NONE)
    );
    let left: Vec<i64> = d.committed().into_iter().map(|(_, _, _, o)| o).collect();
    assert_eq!(left, [3, 2]);
    assert_eq!(d.reloaded().committed(), d.committed());
}

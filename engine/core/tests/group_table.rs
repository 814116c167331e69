//! Every request in every state of a group.

mod group_common;

use corelog_core::group::{Event, GroupSettings, Request, Response};
use group_common::*;
use kacrab_protocol::generated::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

/// Where the group is when the request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Unloaded,
    Absent,
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

const STATES: [State; 8] = [
    State::Loading,
    State::Unloaded,
    State::Absent,
    State::Empty,
    State::PreparingRebalance,
    State::CompletingRebalance,
    State::Stable,
    State::Dead,
];

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    JoinNew,
    JoinKnown,
    Sync,
    Heartbeat,
    Leave,
    Commit,
    CommitSimple,
    Fetch,
    OffsetDelete,
    Describe,
    Delete,
    List,
}

const ASKS: [Ask; 12] = [
    Ask::JoinNew,
    Ask::JoinKnown,
    Ask::Sync,
    Ask::Heartbeat,
    Ask::Leave,
    Ask::Commit,
    Ask::CommitSimple,
    Ask::Fetch,
    Ask::OffsetDelete,
    Ask::Describe,
    Ask::Delete,
    Ask::List,
];

/// Every kind of request is asked: a new one fails to compile here.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::Join { .. } => "Join",
        Request::Sync { .. } => "Sync",
        Request::Heartbeat { .. } => "Heartbeat",
        Request::Leave { .. } => "Leave",
        Request::OffsetCommit { .. } => "OffsetCommit",
        Request::OffsetFetch { .. } => "OffsetFetch",
        Request::OffsetDelete { .. } => "OffsetDelete",
        Request::Describe { .. } => "Describe",
        Request::Delete { .. } => "Delete",
        Request::List { .. } => "List",
    }
}

const KINDS: usize = 10;

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Answered at once with this code, nothing is written.
    Code(i16),
    /// Answered at once with this code, and something is written that nobody waits for.
    CodeAndWrite(i16),
    /// Waits for other members or for time.
    Parked,
    /// Waits for its write, then this code.
    Written(i16),
}

use Outcome::{Code, CodeAndWrite, Parked, Written};

/// Brings a group `g` into a state; its member (or the one it had) and generation. Offset
/// (`old`, 0) is committed wherever there is a group.
fn bring(state: State) -> (Driver, String, i32) {
    if state == State::Loading {
        return (Driver::loading(GroupSettings::default()), "m".to_owned(), 1);
    }
    let mut d = Driver::quick();
    if state == State::Absent {
        return (d, "m".to_owned(), 1);
    }
    assert_eq!(d.commit(commit("g", "", -1, &[("old", 0, 5)])), NONE);
    let (id, generation) = d.stable("g");
    match state {
        State::Loading | State::Absent | State::Stable => {}
        State::Unloaded => d.event(Event::Unloaded),
        State::Empty => {
            d.answer(leave("g", &[(&id, None)]));
        }
        State::PreparingRebalance => {
            // A second member waits for the first.
            let (_, token) = d.enter("g");
            assert!(d.is_parked(token));
        }
        State::CompletingRebalance => {
            let token = d.ask(join("g", &id, None));
            assert_eq!(join_of(d.take(token)).error_code, NONE);
            return (d, id, generation + 1);
        }
        State::Dead => {
            d.answer(leave("g", &[(&id, None)]));
            d.auto = false;
            let token = d.ask(delete("g"));
            assert!(d.is_parked(token));
            return (d, id, generation + 1);
        }
    }
    (d, id, generation)
}

fn request(ask: Ask, id: &str, generation: i32) -> Request {
    match ask {
        Ask::JoinNew => join("g", "", None),
        Ask::JoinKnown => join("g", id, None),
        Ask::Sync => sync("g", id, generation, &[(id, b"new")]),
        Ask::Heartbeat => heartbeat("g", id, generation, None),
        Ask::Leave => leave("g", &[(id, None)]),
        Ask::Commit => commit("g", id, generation, &[("t", 0, 9)]),
        Ask::CommitSimple => commit("g", "", -1, &[("t", 0, 9)]),
        Ask::Fetch => fetch("g", Some(&[("old", 0)]), false),
        Ask::OffsetDelete => {
            let partition = OffsetDeleteRequestPartition::default();
            let topic = OffsetDeleteRequestTopic::default()
                .with_name(text("old"))
                .with_partitions(vec![partition]);
            Request::OffsetDelete {
                request: OffsetDeleteRequestData::default()
                    .with_group_id(text("g"))
                    .with_topics(vec![topic]),
            }
        }
        Ask::Describe => Request::Describe {
            version: 6,
            group_id: "g".to_owned(),
            include_authorized_operations: true,
        },
        Ask::Delete => delete("g"),
        Ask::List => list(&[], &[]),
    }
}

/// The table; a row that is missing does not compile.
fn expected(state: State, ask: Ask) -> Outcome {
    use State::*;
    match (state, ask) {
        (Loading, Ask::Heartbeat) => Code(NONE),
        (Loading, _) => Code(COORDINATOR_LOAD_IN_PROGRESS),
        (Unloaded, _) => Code(NOT_COORDINATOR),

        (Absent, Ask::JoinNew) => CodeAndWrite(MEMBER_ID_REQUIRED),
        (Absent, Ask::JoinKnown) => Code(UNKNOWN_MEMBER_ID),
        (Absent, Ask::Sync) => Code(UNKNOWN_MEMBER_ID),
        (Absent, Ask::Heartbeat) => Code(UNKNOWN_MEMBER_ID),
        (Absent, Ask::Leave) => Code(UNKNOWN_MEMBER_ID),
        (Absent, Ask::Commit) => Code(GROUP_ID_NOT_FOUND),
        (Absent, Ask::CommitSimple) => Written(NONE),
        (Absent, Ask::Fetch) => Code(NONE),
        (Absent, Ask::OffsetDelete) => Code(GROUP_ID_NOT_FOUND),
        (Absent, Ask::Describe) => Code(GROUP_ID_NOT_FOUND),
        (Absent, Ask::Delete) => Code(GROUP_ID_NOT_FOUND),
        (Absent, Ask::List) => Code(NONE),

        (Empty, Ask::JoinNew) => Code(MEMBER_ID_REQUIRED),
        (Empty, Ask::JoinKnown) => Code(UNKNOWN_MEMBER_ID),
        (Empty, Ask::Sync) => Code(UNKNOWN_MEMBER_ID),
        (Empty, Ask::Heartbeat) => Code(UNKNOWN_MEMBER_ID),
        (Empty, Ask::Leave) => Code(UNKNOWN_MEMBER_ID),
        (Empty, Ask::Commit) => Code(UNKNOWN_MEMBER_ID),
        (Empty, Ask::CommitSimple) => Written(NONE),
        (Empty, Ask::Fetch) => Code(NONE),
        (Empty, Ask::OffsetDelete) => Written(NONE),
        (Empty, Ask::Describe) => Code(NONE),
        (Empty, Ask::Delete) => Written(NONE),
        (Empty, Ask::List) => Code(NONE),

        (PreparingRebalance, Ask::JoinNew) => Code(MEMBER_ID_REQUIRED),
        // It was the last: the rebalance completes.
        (PreparingRebalance, Ask::JoinKnown) => Code(NONE),
        (PreparingRebalance, Ask::Sync) => Code(REBALANCE_IN_PROGRESS),
        (PreparingRebalance, Ask::Heartbeat) => Code(REBALANCE_IN_PROGRESS),
        (PreparingRebalance, Ask::Leave) => Code(NONE),
        (PreparingRebalance, Ask::Commit) => Written(NONE),
        (PreparingRebalance, Ask::CommitSimple) => Code(UNKNOWN_MEMBER_ID),
        (PreparingRebalance, Ask::Fetch) => Code(NONE),
        (PreparingRebalance, Ask::OffsetDelete) => Written(NONE),
        (PreparingRebalance, Ask::Describe) => Code(NONE),
        (PreparingRebalance, Ask::Delete) => Code(NON_EMPTY_GROUP),
        (PreparingRebalance, Ask::List) => Code(NONE),

        (CompletingRebalance, Ask::JoinNew) => Code(MEMBER_ID_REQUIRED),
        (CompletingRebalance, Ask::JoinKnown) => Code(NONE),
        (CompletingRebalance, Ask::Sync) => Written(NONE),
        (CompletingRebalance, Ask::Heartbeat) => Code(NONE),
        (CompletingRebalance, Ask::Leave) => CodeAndWrite(NONE),
        (CompletingRebalance, Ask::Commit) => Code(REBALANCE_IN_PROGRESS),
        (CompletingRebalance, Ask::CommitSimple) => Code(UNKNOWN_MEMBER_ID),
        (CompletingRebalance, Ask::Fetch) => Code(NONE),
        (CompletingRebalance, Ask::OffsetDelete) => Written(NONE),
        (CompletingRebalance, Ask::Describe) => Code(NONE),
        (CompletingRebalance, Ask::Delete) => Code(NON_EMPTY_GROUP),
        (CompletingRebalance, Ask::List) => Code(NONE),

        (Stable, Ask::JoinNew) => Code(MEMBER_ID_REQUIRED),
        // The leader asks for a rebalance, and is the only member.
        (Stable, Ask::JoinKnown) => Code(NONE),
        (Stable, Ask::Sync) => Code(NONE),
        (Stable, Ask::Heartbeat) => Code(NONE),
        (Stable, Ask::Leave) => CodeAndWrite(NONE),
        (Stable, Ask::Commit) => Written(NONE),
        (Stable, Ask::CommitSimple) => Code(UNKNOWN_MEMBER_ID),
        (Stable, Ask::Fetch) => Code(NONE),
        (Stable, Ask::OffsetDelete) => Written(NONE),
        (Stable, Ask::Describe) => Code(NONE),
        (Stable, Ask::Delete) => Code(NON_EMPTY_GROUP),
        (Stable, Ask::List) => Code(NONE),

        (Dead, Ask::JoinNew) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::JoinKnown) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::Sync) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::Heartbeat) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::Leave) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::Commit) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::CommitSimple) => Code(COORDINATOR_NOT_AVAILABLE),
        (Dead, Ask::Fetch) => Code(NONE),
        (Dead, Ask::OffsetDelete) => Code(GROUP_ID_NOT_FOUND),
        (Dead, Ask::Describe) => Code(GROUP_ID_NOT_FOUND),
        (Dead, Ask::Delete) => Code(GROUP_ID_NOT_FOUND),
        (Dead, Ask::List) => Code(NONE),
    }
}

#[test]
fn r22_every_request_in_every_state_is_answered_as_kafka_does() {
    let mut kinds: Vec<&str> = ASKS
        .iter()
        .map(|ask| kind(&request(*ask, "m", 1)))
        .collect();
    kinds.dedup();
    assert_eq!(kinds.len(), KINDS, "every kind of request is asked");
    for state in STATES {
        for ask in ASKS {
            let row = expected(state, ask);
            let (mut d, id, generation) = bring(state);
            if !matches!(state, State::Loading | State::Unloaded) {
                let counts = d.coordinator.group_counts();
                let counted = [
                    (State::Empty, counts.empty),
                    (State::PreparingRebalance, counts.preparing_rebalance),
                    (State::CompletingRebalance, counts.completing_rebalance),
                    (State::Stable, counts.stable),
                    (State::Dead, counts.dead),
                ];
                for (counted, number) in counted {
                    assert_eq!(
                        number,
                        usize::from(counted == state),
                        "{state:?}: {counted:?}"
                    );
                }
            }
            d.auto = false;
            let writes = d.writes.len();
            let token = d.ask(request(ask, &id, generation));
            let wrote = d.writes.len() > writes;
            let outcome = if !d.is_parked(token) {
                let code = code(&d.take(token));
                if wrote {
                    CodeAndWrite(code)
                } else {
                    Code(code)
                }
            } else if wrote {
                while d.is_parked(token) {
                    d.finish(Ok(()));
                }
                Written(code(&d.take(token)))
            } else {
                Parked
            };
            assert_eq!(outcome, row, "{ask:?} in {state:?}");
        }
    }
}

#[test]
fn r22_describe_says_dead_for_unknown_groups_and_not_found_from_version_6() {
    let mut d = Driver::quick();
    for version in 0..=6 {
        let request = Request::Describe {
            version,
            group_id: "nobody".to_owned(),
            include_authorized_operations: true,
        };
        let Response::Describe(group) = d.answer(request) else {
            panic!("not a description");
        };
        assert_eq!(group.group_state, text("Dead"));
        let found = (group.error_code, group.error_message.is_some());
        assert_eq!(found, if version < 6 { (0, false) } else { (69, true) });
    }
}

#[test]
fn r22_members_metadata_is_described_while_the_group_is_stable() {
    let (mut d, id, _) = bring(State::Stable);
    let group = d.describe("g");
    assert_eq!(group.protocol_data, text("range"));
    assert_eq!(group.members[0].member_id, text(&id));
    assert_eq!(group.members[0].member_metadata, subscription(&["t"]));
    assert_eq!(group.members[0].member_assignment, &b"all"[..]);
    assert_eq!(group.members[0].client_host, text("/127.0.0.1"));
    let (mut d, _, _) = bring(State::PreparingRebalance);
    let group = d.describe("g");
    assert_eq!(group.protocol_data, text(""));
    assert_eq!(group.members.len(), 2);
    assert!(group.members.iter().all(|m| m.member_metadata.is_empty()));
}

#[test]
fn r22_groups_are_listed_by_state_and_type_whatever_the_case() {
    let mut d = Driver::quick();
    d.stable("busy");
    assert_eq!(d.commit(commit("simple", "", -1, &[("t", 0, 1)])), NONE);
    let cases: [(&[&str], &[&str], &[&str]); 8] = [
        (&[], &[], &["busy", "simple"]),
        (&["stable"], &[], &["busy"]),
        (&["STABLE", "Empty"], &[], &["busy", "simple"]),
        (&["Dead"], &[], &[]),
        (&["nonsense"], &[], &[]),
        (&[], &["Classic"], &["busy", "simple"]),
        (&[], &["consumer"], &[]),
        (&["empty"], &["classic", "share"], &["simple"]),
    ];
    for (states, types, expected) in cases {
        let Response::List(listed) = d.answer(list(states, types)) else {
            panic!("not a list");
        };
        let names: Vec<&str> = listed.groups.iter().map(|g| g.group_id.as_str()).collect();
        assert_eq!(names, expected, "{states:?} {types:?}");
        assert!(
            listed
                .groups
                .iter()
                .all(|g| g.group_type == text("classic"))
        );
    }
}

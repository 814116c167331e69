//! The rules of membership, one by one.

mod group_common;

use corelog_core::group::{Event, GroupSettings, Request, Response, WriteError};
use group_common::*;
use kacrab_protocol::generated::leave_group_request::LeaveGroupRequestData;

/// Two members of a stable group; the first leads. Ids and generation.
fn stable_pair(d: &mut Driver) -> (String, String, i32) {
    let (first, _) = d.stable("g");
    let (second, waits) = d.enter("g");
    let token = d.ask(join("g", &first, None));
    let joined = join_of(d.take(token));
    assert_eq!(join_of(d.take(waits)).generation_id, joined.generation_id);
    assert_eq!(joined.leader, text(&first));
    let generation = joined.generation_id;
    let follows = d.ask(sync("g", &second, generation, &[]));
    assert!(d.is_parked(follows));
    let plan: [(&str, &[u8]); 2] = [(&first, b"1"), (&second, b"2")];
    let leads = d.ask(sync("g", &first, generation, &plan));
    assert_eq!(sync_of(d.take(leads)).assignment, &b"1"[..]);
    assert_eq!(sync_of(d.take(follows)).assignment, &b"2"[..]);
    (first, second, generation)
}

fn error(d: &mut Driver, request: Request) -> i16 {
    code(&d.answer(request))
}

#[test]
fn r22_new_members_get_an_id_first_and_lose_it_if_they_do_not_use_it() {
    let mut d = Driver::quick();
    let named = join_of(d.answer(join("g", "", None)));
    assert_eq!(named.error_code, MEMBER_ID_REQUIRED);
    let id = named.member_id.as_str().to_owned();
    assert!(
        id.starts_with("client-") && id.len() == "client-".len() + 36,
        "{id}"
    );
    d.advance(SESSION_MS - 1);
    let used = d.ask(join("g", &id, None));
    d.advance(0);
    assert_eq!(join_of(d.take(used)).error_code, NONE);

    let named = join_of(d.answer(join("h", "", None)));
    d.advance(SESSION_MS);
    let late = join("h", named.member_id.as_str(), None);
    assert_eq!(error(&mut d, late), UNKNOWN_MEMBER_ID);

    // Old clients, and static members, join at once.
    let old = d.ask(join_as(3, "old", "", None, &[("range", &["t"])]));
    let fixed = d.ask(join("static", "", Some("i")));
    d.advance(0);
    assert_eq!(join_of(d.take(old)).error_code, NONE);
    let fixed = join_of(d.take(fixed));
    assert_eq!(fixed.error_code, NONE);
    assert!(fixed.member_id.as_str().starts_with("i-"));
}

#[test]
fn r22_a_pending_member_holds_up_the_rebalance_until_it_joins_or_its_time_is_over() {
    let mut d = Driver::quick();
    let (first, _) = d.stable("g");
    assert_eq!(error(&mut d, join("g", "", None)), MEMBER_ID_REQUIRED);
    let waits = d.ask(join("g", &first, None));
    assert!(d.is_parked(waits));
    d.advance(SESSION_MS - 1);
    assert!(d.is_parked(waits));
    d.advance(1);
    assert_eq!(join_of(d.take(waits)).generation_id, 2);
}

#[test]
fn r22_the_first_rebalance_waits_for_members_as_long_as_they_keep_coming() {
    let mut d = Driver::new(GroupSettings::default());
    let (_, first) = d.enter("g");
    d.advance(2999);
    assert!(d.is_parked(first));
    let (_, second) = d.enter("g");
    d.advance(1);
    assert!(d.is_parked(first), "somebody came: the wait is extended");
    d.advance(2999);
    assert!(d.is_parked(first));
    d.advance(1);
    assert_eq!(join_of(d.take(first)).generation_id, 1);
    assert_eq!(join_of(d.take(second)).generation_id, 1);
}

#[test]
fn r22_the_first_rebalance_waits_no_longer_than_the_rebalance_timeout() {
    let mut d = Driver::new(GroupSettings::default());
    let (_, first) = d.enter("g");
    let started_ms = d.now_ms;
    while d.is_parked(first) {
        d.enter("g");
        d.advance(1000);
    }
    let took_ms = d.now_ms - started_ms;
    assert!(took_ms <= REBALANCE_MS + 3000, "{took_ms}");
    assert!(took_ms >= REBALANCE_MS - 3000, "{took_ms}");
}

#[test]
fn r22_who_does_not_rejoin_in_time_is_out_unless_it_is_static() {
    let mut d = Driver::quick();
    let (first, second, generation) = stable_pair(&mut d);
    let waits = d.ask(join("g", &first, None));
    // The second member is alive, but does not join.
    for _ in 0..REBALANCE_MS / 5000 {
        assert!(d.is_parked(waits));
        let beat = heartbeat("g", &second, generation, None);
        assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
        d.advance(5000);
    }
    let joined = join_of(d.take(waits));
    assert_eq!(joined.members.len(), 1);
    let beat = heartbeat("g", &second, generation, None);
    assert_eq!(error(&mut d, beat), UNKNOWN_MEMBER_ID);

    // A static member is kept in the next generation.
    let (fixed, generation) = stable_static(&mut d, "s");
    let (_, waits) = d.enter("s");
    for _ in 0..REBALANCE_MS / 5000 {
        let beat = heartbeat("s", &fixed, generation, Some("i"));
        assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
        d.advance(5000);
    }
    let joined = join_of(d.take(waits));
    assert_eq!(joined.members.len(), 2);
    assert_eq!(
        joined.leader, joined.member_id,
        "the leader did not come: another leads"
    );
}

#[test]
fn r22_who_does_not_sync_in_time_is_out() {
    let mut d = Driver::quick();
    let (first, _) = d.stable("g");
    let (second, waits) = d.enter("g");
    let token = d.ask(join("g", &first, None));
    let generation = join_of(d.take(token)).generation_id;
    d.take(waits);
    // The leader assigns; the other one never asks, but lives.
    let token = d.ask(sync("g", &first, generation, &[(&first, b"1")]));
    assert_eq!(sync_of(d.take(token)).error_code, NONE);
    for _ in 0..REBALANCE_MS / 5000 {
        for id in [&first, &second] {
            assert_eq!(error(&mut d, heartbeat("g", id, generation, None)), NONE);
        }
        d.advance(5000);
    }
    let beat = heartbeat("g", &second, generation, None);
    assert_eq!(error(&mut d, beat), UNKNOWN_MEMBER_ID);
    let beat = heartbeat("g", &first, generation, None);
    assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
}

#[test]
fn r22_the_protocol_is_one_that_all_know_and_most_prefer() {
    let mut d = Driver::new(GroupSettings::default());
    let known: [&[(&str, &[&str])]; 3] = [
        &[("a", &["t"]), ("b", &["t"]), ("only", &["t"])],
        &[("b", &["t"]), ("a", &["t"])],
        &[("b", &["t"]), ("a", &["t"])],
    ];
    let tokens = known.map(|protocols| d.ask(join_as(3, "g", "", None, protocols)));
    d.advance(6000);
    for token in tokens {
        assert_eq!(join_of(d.take(token)).protocol_name, Some(text("b")));
    }
    let alien = join_as(3, "g", "", None, &[("only", &["t"])]);
    assert_eq!(error(&mut d, alien), INCONSISTENT_GROUP_PROTOCOL);
    let mut other = join_data("g", "", None, &[("b", &["t"])]);
    other.protocol_type = text("connect");
    let other = Request::Join {
        version: 9,
        request: other,
    };
    assert_eq!(error(&mut d, other), INCONSISTENT_GROUP_PROTOCOL);
    let nothing = join_as(9, "new", "", None, &[]);
    assert_eq!(error(&mut d, nothing), INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(d.state("new"), "Dead", "a refused join leaves nothing");
}

#[test]
fn r22_requests_out_of_bounds_are_refused() {
    let mut d = Driver::quick();
    for session_ms in [5999, 1_800_001, -1] {
        let mut request = join_data("g", "", None, &[("range", &["t"])]);
        request.session_timeout_ms = session_ms;
        let request = Request::Join {
            version: 9,
            request,
        };
        assert_eq!(error(&mut d, request), INVALID_SESSION_TIMEOUT);
    }
    for request in [
        join("", "", None),
        sync("", "m", 1, &[]),
        heartbeat("", "m", 1, None),
        leave("", &[("m", None)]),
    ] {
        assert_eq!(error(&mut d, request), INVALID_GROUP_ID);
    }
    let long = "x".repeat(32_768);
    assert_eq!(error(&mut d, join(&long, "", None)), UNKNOWN_SERVER_ERROR);
    let instance = join("g", "", Some(&long));
    assert_eq!(error(&mut d, instance), UNKNOWN_SERVER_ERROR);
    let unnamed = Request::Sync {
        version: 5,
        request: sync_data("g", "m", 1, &[]),
    };
    assert_eq!(error(&mut d, unnamed), INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn r22_a_full_group_takes_nobody() {
    let mut d = Driver::new(GroupSettings {
        initial_rebalance_delay_ms: 0,
        max_size: 1,
        ..GroupSettings::default()
    });
    let (first, generation) = d.stable("g");
    assert_eq!(error(&mut d, join("g", "", None)), GROUP_MAX_SIZE_REACHED);
    assert_eq!(
        error(&mut d, heartbeat("g", &first, generation, None)),
        NONE
    );
    let again = d.ask(join("g", &first, None));
    assert_eq!(
        join_of(d.take(again)).error_code,
        NONE,
        "a member may rejoin"
    );
}

#[test]
fn r22_silent_members_are_out_after_their_session_and_the_others_rebalance() {
    let mut d = Driver::quick();
    let (first, second, generation) = stable_pair(&mut d);
    d.advance(SESSION_MS - 1);
    assert_eq!(
        error(&mut d, heartbeat("g", &first, generation, None)),
        NONE
    );
    d.advance(1);
    let beat = heartbeat("g", &second, generation, None);
    assert_eq!(error(&mut d, beat), UNKNOWN_MEMBER_ID);
    let beat = heartbeat("g", &first, generation, None);
    assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
    let beat = heartbeat("g", &first, generation - 1, None);
    assert_eq!(error(&mut d, beat), ILLEGAL_GENERATION);
    let token = d.ask(join("g", &first, None));
    assert_eq!(join_of(d.take(token)).generation_id, generation + 1);
}

#[test]
fn r22_new_members_wait_no_longer_than_five_minutes() {
    let mut d = Driver::quick();
    let (first, _) = d.stable("g");
    let mut slow = join_data("g", &first, None, &[("range", &["t"])]);
    slow.rebalance_timeout_ms = 3_600_000;
    let token = d.ask(Request::Join {
        version: 9,
        request: slow,
    });
    let generation = join_of(d.take(token)).generation_id;
    let token = d.ask(sync("g", &first, generation, &[]));
    d.take(token);
    let (_, waits) = d.enter("g");
    for _ in 0..59 {
        d.advance(5000);
        let beat = heartbeat("g", &first, generation, None);
        assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
        assert!(d.is_parked(waits));
    }
    d.advance(5000);
    assert_eq!(join_of(d.take(waits)).error_code, UNKNOWN_MEMBER_ID);
}

#[test]
fn r22_a_follower_that_rejoins_unchanged_gets_the_generation_and_a_leader_rebalances() {
    let mut d = Driver::quick();
    let (first, second, generation) = stable_pair(&mut d);
    let same = join_of(d.answer(join("g", &second, None)));
    assert_eq!((same.error_code, same.generation_id), (NONE, generation));
    assert!(same.members.is_empty());
    let changed = d.ask(join_as(9, "g", &second, None, &[("range", &["t", "u"])]));
    assert!(d.is_parked(changed));
    assert_eq!(d.state("g"), "PreparingRebalance");
    let token = d.ask(join("g", &first, None));
    assert_eq!(join_of(d.take(token)).generation_id, generation + 1);
    assert_eq!(join_of(d.take(changed)).generation_id, generation + 1);
}

#[test]
fn r22_leaving_members_are_told_one_by_one() {
    let mut d = Driver::quick();
    let (first, second, _) = stable_pair(&mut d);
    let request = leave("g", &[(&second, None), ("nobody", None), ("", Some("i"))]);
    let left = leave_of(d.answer(request));
    let codes: Vec<i16> = left
        .members
        .iter()
        .map(|member| member.error_code)
        .collect();
    assert_eq!(codes, [NONE, UNKNOWN_MEMBER_ID, UNKNOWN_MEMBER_ID]);
    assert_eq!(left.error_code, NONE);
    assert_eq!(d.state("g"), "PreparingRebalance");
    let old = |id: &str| Request::Leave {
        version: 2,
        request: LeaveGroupRequestData::default()
            .with_group_id(text("g"))
            .with_member_id(text(id)),
    };
    assert_eq!(
        leave_of(d.answer(old("nobody"))).error_code,
        UNKNOWN_MEMBER_ID
    );
    let last = leave_of(d.answer(old(&first)));
    assert_eq!((last.error_code, last.members.len()), (NONE, 0));
    assert_eq!(d.state("g"), "Empty");
    // An administrator removes a static member by its instance.
    stable_static(&mut d, "s");
    let left = leave_of(d.answer(leave("s", &[("", Some("i"))])));
    assert_eq!(left.members[0].error_code, NONE);
    assert_eq!(d.state("s"), "Empty");
}

#[test]
fn r22_an_assignment_that_is_not_stored_is_not_given_to_anybody() {
    let mut d = Driver::quick();
    let (id, token) = d.enter("g");
    d.advance(0);
    let generation = join_of(d.take(token)).generation_id;
    d.auto = false;
    let token = d.ask(sync("g", &id, generation, &[(&id, b"1")]));
    assert!(d.is_parked(token));
    assert_eq!(d.state("g"), "CompletingRebalance");
    d.finish(Err(WriteError::Storage));
    assert_eq!(sync_of(d.take(token)).error_code, NOT_COORDINATOR);
    let beat = heartbeat("g", &id, generation, None);
    assert_eq!(error(&mut d, beat), REBALANCE_IN_PROGRESS);
    let token = d.ask(join("g", &id, None));
    assert_eq!(join_of(d.take(token)).generation_id, generation + 1);
}

#[test]
fn r22_a_rebalance_sends_back_those_who_wait_for_their_assignment() {
    let mut d = Driver::quick();
    let (first, second, _) = stable_pair(&mut d);
    let leads = d.ask(join("g", &first, None));
    let follows = d.ask(join("g", &second, None));
    let generation = join_of(d.take(leads)).generation_id;
    assert_eq!(join_of(d.take(follows)).generation_id, generation);
    let waits = d.ask(sync("g", &second, generation, &[]));
    assert!(d.is_parked(waits));
    d.answer(leave("g", &[(&first, None)]));
    assert_eq!(sync_of(d.take(waits)).error_code, REBALANCE_IN_PROGRESS);
}

#[test]
fn r22_a_group_that_could_not_be_created_is_not_there() {
    let mut d = Driver::quick();
    d.auto = false;
    let token = d.ask(join("g", "", Some("i")));
    d.finish(Err(WriteError::TooLarge));
    assert_eq!(join_of(d.take(token)).error_code, UNKNOWN_SERVER_ERROR);
    assert_eq!(d.state("g"), "Dead");
    assert!(d.log.is_empty());
}

#[test]
fn r22_loaded_members_have_a_whole_session_from_when_loading_ended() {
    let mut d = Driver::quick();
    let (id, generation) = d.stable("g");
    let mut loaded = Driver::loading(d.settings.clone());
    loaded.event(Event::Load(d.log.clone()));
    loaded.now_ms = d.now_ms + 1_000_000;
    loaded.event(Event::Loaded);
    assert_eq!(loaded.describe("g"), d.describe("g"));
    loaded.advance(SESSION_MS - 1);
    assert_eq!(
        error(&mut loaded, heartbeat("g", &id, generation, None)),
        NONE
    );
    loaded.advance(SESSION_MS);
    assert_eq!(loaded.state("g"), "Empty");
    let empty = loaded.reloaded().describe("g");
    assert_eq!(empty.group_state, text("Empty"), "and that is stored");
    assert_eq!(empty.protocol_type, text("consumer"));
}

#[test]
fn r22_records_that_make_no_sense_are_skipped_and_counted() {
    let mut d = Driver::quick();
    d.stable("g");
    let mut log = d.log.clone();
    let good = log.last().unwrap().clone();
    for end in 0..good.key.len() {
        let mut bad = good.clone();
        bad.key = good.key.slice(..end);
        log.push(bad);
    }
    for end in 0..good.value.as_ref().unwrap().len() {
        let mut bad = good.clone();
        bad.value = Some(good.value.as_ref().unwrap().slice(..end));
        log.push(bad);
    }
    let bad = (log.len() - d.log.len()) as u64;
    let mut loaded = Driver::loading(d.settings.clone());
    loaded.event(Event::Load(log));
    loaded.event(Event::Loaded);
    assert_eq!(loaded.coordinator.unreadable_records(), bad);
    assert_eq!(loaded.describe("g"), d.describe("g"));
}

#[test]
fn r22_who_waits_is_told_when_the_partition_goes() {
    let mut d = Driver::quick();
    let (first, second, generation) = stable_pair(&mut d);
    let joins = d.ask(join("g", &first, None));
    d.auto = false;
    let commits = d.ask(commit("g", &second, generation, &[("t", 0, 1)]));
    let fetches = d.ask(fetch("g", None, true));
    let deletes = {
        d.ask(commit("simple", "", -1, &[("t", 0, 1)]));
        d.finish(Ok(()));
        d.take(commits);
        d.take(fetches);
        d.finish(Ok(()));
        d.ask(delete("simple"))
    };
    let commits = d.ask(commit("g", &second, generation, &[("t", 0, 2)]));
    let fetches = d.ask(fetch("g", None, true));
    d.event(Event::Unloaded);
    for token in [joins, commits, fetches, deletes] {
        assert_eq!(code(&d.take(token)), NOT_COORDINATOR);
    }
    assert_eq!(d.coordinator.next_deadline_ms(), None);
}

#[test]
fn r22_a_cancelled_request_is_not_answered_and_its_member_stays() {
    let mut d = Driver::quick();
    let (first, _) = d.stable("g");
    let (_, gone) = d.enter("g");
    d.event(Event::Cancelled { token: gone });
    let token = d.ask(join("g", &first, None));
    let Response::Join(joined) = d.take(token) else {
        panic!("not a join");
    };
    assert_eq!(joined.members.len(), 2);
    assert!(d.is_parked(gone));
}

#[test]
fn r22_an_assignment_is_for_its_generation_and_protocol() {
    let mut d = Driver::quick();
    let (id, generation) = d.stable("g");
    for wrong in [generation - 1, generation + 1, -1] {
        assert_eq!(
            error(&mut d, sync("g", &id, wrong, &[])),
            ILLEGAL_GENERATION
        );
    }
    let named = |kind: &str, name: &str| Request::Sync {
        version: 5,
        request: sync_data("g", &id, generation, &[])
            .with_protocol_type(Some(text(kind)))
            .with_protocol_name(Some(text(name))),
    };
    assert_eq!(
        error(&mut d, named("consumer", "sticky")),
        INCONSISTENT_GROUP_PROTOCOL
    );
    assert_eq!(
        error(&mut d, named("connect", "range")),
        INCONSISTENT_GROUP_PROTOCOL
    );
    let right = sync_of(d.answer(named("consumer", "range")));
    assert_eq!(
        (right.error_code, &right.assignment[..]),
        (NONE, &b"all"[..])
    );
    assert_eq!(right.protocol_name, Some(text("range")));
}

#[test]
fn r22_a_rebalance_ends_when_the_last_who_is_awaited_is_out() {
    let mut d = Driver::quick();
    let (first, second, generation) = stable_pair(&mut d);
    let waits = d.ask(join("g", &first, None));
    d.advance(SESSION_MS - 1);
    assert!(d.is_parked(waits));
    d.advance(1);
    let joined = join_of(d.take(waits));
    assert_eq!(
        (joined.generation_id, joined.members.len()),
        (generation + 1, 1)
    );
    let beat = heartbeat("g", &second, generation, None);
    assert_eq!(error(&mut d, beat), UNKNOWN_MEMBER_ID);
}

#[test]
fn r22_who_leaves_is_not_kept_waiting() {
    let mut d = Driver::quick();
    let (first, second, _) = stable_pair(&mut d);
    // It joins with other topics, and leaves before the leader has come.
    let joins = d.ask(join_as(9, "g", &second, None, &[("range", &["u"])]));
    assert!(d.is_parked(joins));
    d.answer(leave("g", &[(&second, None)]));
    assert_eq!(join_of(d.take(joins)).error_code, UNKNOWN_MEMBER_ID);
    // And one that waits for its assignment.
    let (third, waits) = d.enter("g");
    let token = d.ask(join("g", &first, None));
    let generation = join_of(d.take(token)).generation_id;
    d.take(waits);
    let syncs = d.ask(sync("g", &third, generation, &[]));
    assert!(d.is_parked(syncs));
    d.answer(leave("g", &[(&third, None)]));
    assert_eq!(sync_of(d.take(syncs)).error_code, UNKNOWN_MEMBER_ID);
}

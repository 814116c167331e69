//! The rules of static members, one by one.

mod group_common;

use corelog_core::group::{Request, WriteError};
use group_common::*;

fn error(d: &mut Driver, request: Request) -> i16 {
    code(&d.answer(request))
}

#[test]
fn r22_a_restarted_static_member_keeps_its_place_without_a_rebalance() {
    let mut d = Driver::quick();
    let (old, generation) = stable_static(&mut d, "g");
    d.auto = false;
    let token = d.ask(join("g", "", Some("i")));
    assert!(d.is_parked(token), "told only when it is stored");
    d.finish(Ok(()));
    let joined = join_of(d.take(token));
    assert_eq!(
        (joined.error_code, joined.generation_id),
        (NONE, generation)
    );
    assert!(joined.skip_assignment, "it leads, and need not assign");
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(d.state("g"), "Stable");
    let new = joined.member_id.as_str().to_owned();
    let kept = sync_of(d.answer(sync("g", &new, generation, &[])));
    assert_eq!(kept.assignment, &b"s"[..]);
    for request in [
        heartbeat("g", &old, generation, Some("i")),
        join("g", &old, Some("i")),
        leave("g", &[(&old, Some("i"))]),
    ] {
        assert_eq!(error(&mut d, request), FENCED_INSTANCE_ID);
    }
    assert_eq!(
        error(&mut d, heartbeat("g", &new, generation, Some("x"))),
        UNKNOWN_MEMBER_ID
    );
    assert_eq!(d.reloaded().describe("g"), d.describe("g"));

    // An old client must not take itself for the leader.
    d.auto = true;
    let joined = join_of(d.answer(join_as(5, "g", "", Some("i"), &[("range", &["t"])])));
    assert_ne!(joined.leader, joined.member_id);
    assert!(joined.members.is_empty() && !joined.skip_assignment);
}

#[test]
fn r22_a_static_swap_that_is_not_stored_never_was() {
    let mut d = Driver::quick();
    let (old, generation) = stable_static(&mut d, "g");
    let before = d.describe("g");
    d.auto = false;
    let failed = d.ask(join("g", "", Some("i")));
    let later = d.ask(join("g", "", Some("i")));
    assert_eq!(join_of(d.take(failed)).error_code, FENCED_INSTANCE_ID);
    d.finish(Err(WriteError::NotLeader));
    assert!(d.is_parked(later));
    d.finish(Err(WriteError::NotEnoughReplicas));
    assert_eq!(join_of(d.take(later)).error_code, COORDINATOR_NOT_AVAILABLE);
    assert_eq!(d.describe("g"), before);
    let beat = heartbeat("g", &old, generation, Some("i"));
    assert_eq!(error(&mut d, beat), NONE);
}

#[test]
fn r22_a_static_member_that_changes_the_protocol_rebalances() {
    let mut d = Driver::quick();
    stable_static(&mut d, "g");
    let request = join_as(
        9,
        "g",
        "",
        Some("i"),
        &[("sticky", &["t"]), ("range", &["t"])],
    );
    let token = d.ask(request);
    let joined = join_of(d.take(token));
    assert_eq!(joined.protocol_name, Some(text("sticky")));
    assert_eq!(joined.generation_id, 2);
}

#[test]
fn r22_a_static_swap_that_a_rebalance_overtakes_is_part_of_it() {
    let mut d = Driver::quick();
    stable_static(&mut d, "g");
    let (_, waits) = d.enter("g");
    let token = d.ask(join("g", "", Some("i")));
    let joined = join_of(d.take(token));
    let (leader, generation) = (joined.member_id.as_str().to_owned(), joined.generation_id);
    let other = join_of(d.take(waits)).member_id.as_str().to_owned();
    for id in [&leader, &other] {
        d.ask(sync("g", id, generation, &[]));
    }
    assert_eq!(d.state("g"), "Stable");
    d.auto = false;
    let swaps = d.ask(join("g", "", Some("i")));
    let (_, third) = d.enter("g");
    assert!(d.is_parked(third));
    d.finish(Ok(()));
    assert!(
        d.is_parked(swaps),
        "it waits for the rebalance that came between"
    );
    let last = d.ask(join("g", &other, None));
    for token in [swaps, third, last] {
        assert_eq!(join_of(d.take(token)).generation_id, generation + 1);
    }
}

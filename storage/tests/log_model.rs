//! The log against its model on the simulated disk. A failing seed is run again, with more to see,
//! by the command that its message prints.

mod model;

use corelog_storage::flush_policy::FlushPolicy;
use model::history::{Spec, Tally, run};

fn run_all(specs: impl Iterator<Item = Spec>) -> Tally {
    let mut tally = Tally::default();
    for spec in specs {
        if let Err(violation) = run(&spec, &mut tally) {
            panic!(
                "{violation}\n{spec:?}\nrun it alone: cargo run -p corelog-storage --example model -- --seed {} --ops {}",
                spec.seed, spec.ops
            );
        }
    }
    tally
}

/// What was acknowledged as written survives kill -9, as flushed power loss; nothing cut comes
/// back; bytes are equal and offsets dense.
#[test]
fn r31_r32_random_histories_keep_what_was_promised() {
    let tally = run_all((0..300).map(|seed| Spec::random(seed, 200)));
    assert!(tally.kills > 100 && tally.power_losses > 100, "{tally:?}");
    assert!(
        tally.storage.recoveries > 100 && tally.storage.rolls > 100 && tally.storage.cuts > 100,
        "{tally:?}"
    );
}

/// Same seed, same history, down to every completion.
#[test]
fn a_history_is_its_seed() {
    for seed in [1, 2, 5] {
        let spec = Spec::random(seed, 120);
        let one = run(&spec, &mut Tally::default());
        let other = run(&spec, &mut Tally::default());
        assert_eq!(one, other);
    }
}

fn with_policy(seeds: std::ops::Range<u64>, policy: FlushPolicy) -> Tally {
    run_all(seeds.map(|seed| Spec {
        policy: Some(policy),
        ..Spec::random(seed, 80)
    }))
}

/// Third column of the flush table, first row: without a policy power loss does take
/// acknowledged records.
#[test]
fn r30_policy_unset_loses_acknowledged_records_by_power_loss() {
    let tally = with_policy(1000..1080, FlushPolicy::default());
    assert!(
        tally.acked_lost_unset > 0,
        "the third column was never reached: {tally:?}"
    );
}

/// Second row: no acknowledged record is lost. The oracle fails at the first one.
#[test]
fn r30_flush_messages_1_loses_nothing_acknowledged() {
    let tally = with_policy(
        2000..2060,
        FlushPolicy {
            messages: Some(1),
            ms: None,
        },
    );
    assert!(tally.power_losses > 10 && tally.acks > 1000, "{tally:?}");
    assert_eq!(
        tally.acked_lost_unset + tally.acked_lost_messages + tally.acked_lost_ms,
        0
    );
}

/// Third row: at most N-1. The oracle counts per power loss.
#[test]
fn r30_flush_messages_n_loses_less_than_n() {
    let tally = with_policy(
        3000..3080,
        FlushPolicy {
            messages: Some(20),
            ms: None,
        },
    );
    assert!(
        tally.acked_lost_messages > 0,
        "the third column was never reached: {tally:?}"
    );
}

/// Fourth row: only what was acknowledged less than T and one flush before.
#[test]
fn r30_flush_ms_loses_only_the_last_moments() {
    let tally = with_policy(
        4000..4080,
        FlushPolicy {
            messages: None,
            ms: Some(40),
        },
    );
    assert!(
        tally.acked_lost_ms > 0,
        "the third column was never reached: {tally:?}"
    );
}

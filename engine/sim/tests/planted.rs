//! Known bugs that the invariants must find: `cargo test --release -p corelog-sim --features planted`.
#![cfg(feature = "planted")]

use corelog_sim::many::{self, Order};
use corelog_sim::plan::STEPS;

/// Seeds within which each must be found.
const SEEDS: u64 = 500;

fn finds(bug: &str) {
    let order = Order {
        from: 0,
        seeds: SEEDS,
        until: None,
        steps: STEPS,
        jobs: 2,
        violations_max: 1,
        planted: Some(bug.to_owned()),
    };
    let report = many::all(&order).expect("threads for the seeds");
    assert!(
        !report.violations.is_empty(),
        "{bug} was not found in {SEEDS} seeds"
    );
}

#[test]
fn r31_an_acknowledgement_before_the_write_is_found() {
    finds("ack-before-write");
}

#[test]
fn r30_a_flush_that_skips_a_waiter_is_found() {
    finds("flush-skips-a-waiter");
}

#[test]
fn r31_a_lost_tail_block_merge_is_found() {
    finds("lost-tail-block-merge");
}

#[test]
fn r32_an_off_by_one_in_recovery_is_found() {
    finds("recovery-off-by-one");
}

#[test]
fn r32_a_cut_that_leaves_old_batches_is_found() {
    finds("cut-leaves-old-batches");
}

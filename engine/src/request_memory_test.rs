//! Shares of request memory, and who is given up inside them.

use corelog_runtime::Rt;
use corelog_runtime::sim::{SimConfig, SimWorld, run_until_crash};

use super::*;

const SOON: Duration = Duration::from_millis(1);

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rt) -> F + 'static) {
    let world = SimWorld::new(1, SimConfig::default());
    let done = run_until_crash(&world, |rt| async move {
        test(rt).await;
        true
    });
    assert_eq!(done, Some(true));
}

#[test]
fn r20_large_requests_that_wait_for_other_clients_are_bounded_and_small_ones_are_not() {
    let memory = RequestMemory::new(8 << 20);
    let large = memory.try_park(600 << 10);
    assert!(large.is_some());
    assert!(memory.try_park(600 << 10).is_none());
    assert!((0..100_000).all(|_| memory.try_park(1 << 10).is_some()));
    drop(large);
    assert!(memory.try_park(600 << 10).is_some());
}

#[test]
fn r20_small_requests_do_not_wait_for_large_ones() {
    run(|rt| async move {
        let memory = RequestMemory::new(1 << 20);
        let (one, other) = (memory.connection(), memory.connection());
        // As much as a large request gets, and one that waits for it.
        let held = memory.acquire(&one, 64 << 20).await;
        let mut waiting = Box::pin(memory.acquire(&other, 1 << 19));
        assert!(rt.timeout(SOON, &mut waiting).await.is_none());
        assert!(memory.is_contended(1 << 19) && !memory.is_contended(100));
        drop(memory.acquire(&other, 100).await);
        drop(held);
        drop(waiting.await);
        assert!(!memory.is_contended(1 << 19));
    });
}

#[test]
fn r20_no_connection_has_all_of_a_shards_request_memory() {
    run(|rt| async move {
        let memory = RequestMemory::new(8 << 20);
        for bytes in [32 << 10, 200 << 10, 1 << 20, 100 << 20] {
            let (greedy, modest) = (memory.connection(), memory.connection());
            let mut held = Vec::new();
            while let Some(one) = rt.timeout(SOON, memory.acquire(&greedy, bytes)).await {
                held.push(one);
            }
            assert!(!held.is_empty(), "{bytes}");
            // The greedy one waits in a line of its own.
            let mut next = Box::pin(memory.acquire(&greedy, bytes));
            assert!(rt.timeout(SOON, &mut next).await.is_none());
            assert!(!memory.is_contended(bytes));
            for small_or_large in [1 << 10, 1 << 20] {
                let other = memory.acquire(&modest, small_or_large);
                assert!(rt.timeout(SOON, other).await.is_some(), "{bytes}");
            }
            held.clear();
            assert!(rt.timeout(SOON, next).await.is_some());
        }
        // One request that is larger than all there is gets in, alone.
        let (one, other) = (memory.connection(), memory.connection());
        let held = memory.acquire(&one, usize::MAX).await;
        let mut second = Box::pin(memory.acquire(&other, usize::MAX));
        assert!(rt.timeout(SOON, &mut second).await.is_none());
        drop(held);
        assert!(rt.timeout(SOON, second).await.is_some());
    });
}

#[test]
fn r20_slow_bodies_are_given_up_while_others_wait_for_their_memory() {
    let hopeless = |elapsed_s, still_s, bytes, contended| {
        let progress = Progress {
            elapsed: Duration::from_secs(elapsed_s),
            still: Duration::from_secs(still_s),
            bytes,
        };
        progress.is_hopeless(contended)
    };
    // Nobody waits: only who stands still is given up.
    assert!(!hopeless(9, 9, 0, false));
    assert!(hopeless(10, 10, 0, false));
    assert!(!hopeless(100_000, 9, 10 << 20, false));
    // Others wait: a dribble is not enough, a decent pace is.
    assert!(!hopeless(4, 4, 0, true));
    assert!(hopeless(5, 5, 0, true));
    assert!(hopeless(5, 0, 1 << 20, true));
    assert!(!hopeless(5, 0, 5 << 19, true));
    assert!(!hopeless(60, 1, 30 << 20, true));
    assert!(hopeless(61, 1, 30 << 20, true));
}

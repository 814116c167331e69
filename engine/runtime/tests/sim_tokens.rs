//! An operation of the twin keeps its token until its completion is handed out.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use corelog_runtime::sim::{ProcessId, Sim, SimConfig, SimWorld, Stop};
use corelog_runtime::{BufferPool, ShardId};

/// A cancelled operation and one submitted in the same turn both complete: nothing is left in
/// flight, and the shard can end.
#[test]
fn an_operation_submitted_in_the_turn_of_a_cancel_loses_nothing() {
    let world = SimWorld::new(1, SimConfig::default());
    let mut sim = Sim::new(&world);
    let addr = SocketAddr::from(([10, 0, 0, 1], 9092));
    let (listener, _) = world.listen(ProcessId::MAIN, addr, 8).unwrap();
    sim.spawn_shard(
        ProcessId::MAIN,
        ShardId(0),
        BufferPool::new(0),
        move |rt| async move {
            for _ in 0..3 {
                {
                    let mut accept = pin!(rt.accept(&listener));
                    let first = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx).is_pending()));
                    assert!(first.await, "nobody connects");
                    rt.sleep(Duration::from_millis(1)).await;
                }
                // The accept was just cancelled: this one comes before its completion is known.
                assert!(rt.stat("/").await.is_ok());
            }
            rt.sleep(Duration::from_millis(1)).await;
            assert_eq!(rt.counters().ops_in_flight, 0);
        },
    );
    assert_eq!(sim.run(), Stop::Ended(ProcessId::MAIN));
}

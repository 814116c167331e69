//! Messages between shards on real rings, and from foreign threads.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use corelog_runtime::gateway::Full;
use corelog_runtime::shards::{specs, start_shards};
use corelog_runtime::{MeshSeed, Reply, Rt, ShardId, blocking, cpus, mesh, sync};

/// Runs one main per shard, each on its own thread; ends when all have ended.
fn run_shards<Req, Resp, F>(
    shards: u16,
    capacity: usize,
    main: impl Fn(Rt, MeshSeed<Req, Resp>) -> F + Clone + Send + 'static,
) where
    Req: Send + 'static,
    Resp: Send + 'static,
    F: Future<Output = ()>,
{
    let mut seeds = mesh::<Req, Resp>(shards.into(), capacity).into_iter();
    let threads = start_shards(specs(&cpus::allowed(), Some(shards), 1 << 20), |shard| {
        let seed = seeds.next().expect("one per shard");
        assert_eq!(seed.shard(), shard);
        let main = main.clone();
        move |rt: Rt| main(rt, seed)
    });
    for thread in threads.expect("rings") {
        thread.join().expect("no panic");
    }
}

/// Waits until every shard got here.
async fn meet(rt: &Rt, arrived: &AtomicU64, shards: u64) {
    arrived.fetch_add(1, Ordering::SeqCst);
    while arrived.load(Ordering::SeqCst) < shards {
        rt.sleep(Duration::from_millis(1)).await;
    }
}

fn every_call_is_answered(shards: u16, capacity: usize, calls: u64) {
    let arrived = Arc::new(AtomicU64::new(0));
    run_shards(shards, capacity, move |rt, seed: MeshSeed<u64, u64>| {
        let arrived = arrived.clone();
        async move {
            let handler = |_from, req: u64, reply: Reply<u64>| reply.send(req + 1);
            let mesh = seed.join(&rt, handler);
            let tasks: Vec<_> = (0..8u64)
                .map(|task| {
                    let mesh = mesh.clone();
                    rt.spawn("caller", async move {
                        for call in 0..calls {
                            let to = ShardId(((task + call) % u64::from(shards)) as u16);
                            let request = task << 32 | call;
                            assert_eq!(mesh.call(to, request).await, Some(request + 1));
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            meet(&rt, &arrived, shards.into()).await;
        }
    });
}

#[test]
fn every_call_is_answered_between_2_shards() {
    every_call_is_answered(2, 1024, 2000);
}

#[test]
fn every_call_is_answered_between_4_shards_with_inboxes_of_one() {
    every_call_is_answered(4, 1, 500);
}

#[test]
fn order_per_pair_of_shards_holds_through_full_inboxes() {
    const MESSAGES: u64 = 20_000;
    let arrived = Arc::new(AtomicU64::new(0));
    run_shards(3, 4, move |rt, seed: MeshSeed<u64, ()>| {
        let arrived = arrived.clone();
        async move {
            let next = Rc::new(RefCell::new([0u64; 3]));
            let (seen, changed) = (next.clone(), sync::Notify::new());
            let notify = changed.clone();
            let mesh = seed.join(&rt, move |from, req, _reply| {
                let mut seen = seen.borrow_mut();
                let expected = &mut seen[usize::from(from.0)];
                assert_eq!(req, *expected, "from {from:?}");
                *expected += 1;
                notify.notify_all();
            });
            for number in 0..MESSAGES {
                for to in (0..3).map(ShardId) {
                    mesh.cast(to, number);
                }
                if number % 1000 == 0 {
                    rt.yield_now().await;
                }
            }
            loop {
                let notified = changed.notified();
                if next.borrow().iter().all(|&count| count == MESSAGES) {
                    break;
                }
                notified.await;
            }
            meet(&rt, &arrived, 3).await;
            assert_eq!(mesh.backlog(), 0);
        }
    });
}

#[test]
fn a_call_to_itself_goes_straight_to_the_handler() {
    let rt = common::rt();
    let seed = mesh::<u8, u8>(1, 1).pop().expect("one");
    let calls = Rc::new(Cell::new(0));
    let seen = calls.clone();
    let mesh = seed.join(&rt, move |from, req, reply| {
        assert_eq!(from, ShardId(0));
        seen.set(seen.get() + 1);
        reply.send(req * 2);
    });
    let call = mesh.call(ShardId(0), 21);
    assert_eq!(calls.get(), 1, "before anything was awaited");
    assert_eq!(rt.block_on(call), Some(42));
    rt.close();
}

#[test]
fn a_dropped_reply_and_an_unknown_shard_answer_none() {
    let rt = common::rt();
    let seed = mesh::<u8, u8>(1, 1).pop().expect("one");
    let mesh = seed.join(&rt, |_from, _req, reply| drop(reply));
    rt.block_on(async {
        assert_eq!(mesh.call(ShardId(0), 1).await, None);
        assert_eq!(mesh.call(ShardId(9), 1).await, None);
        mesh.cast(ShardId(9), 1);
        drop(mesh.call(ShardId(0), 1));
    });
    rt.close();
}

#[test]
fn calls_to_a_shard_that_ends_answer_none() {
    let ready = Arc::new(AtomicBool::new(false));
    run_shards(2, 64, move |rt, seed: MeshSeed<u8, u8>| {
        let ready = ready.clone();
        async move {
            let me = seed.shard();
            // Requests are kept and never answered.
            let kept = Rc::new(RefCell::new(Vec::new()));
            let keep = kept.clone();
            let mesh = seed.join(&rt, move |_from, _req, reply| keep.borrow_mut().push(reply));
            if me == ShardId(1) {
                while kept.borrow().len() < 10 {
                    rt.sleep(Duration::from_millis(1)).await;
                }
                return;
            }
            let calls: Vec<_> = (0..10).map(|n| mesh.call(ShardId(1), n)).collect();
            for call in calls {
                assert_eq!(call.await, None);
            }
            ready.store(true, Ordering::SeqCst);
            assert_eq!(
                mesh.call(ShardId(1), 0).await,
                None,
                "and later ones at once"
            );
        }
    });
}

#[test]
fn a_foreign_thread_wakes_a_shard_that_sleeps_without_timers() {
    let (gateways, gateway) = mpsc::channel();
    let shard = blocking::spawn("shard", move || {
        let rt = common::rt();
        let seed = mesh::<u64, u64>(1, 8).pop().expect("one");
        gateways.send(seed.gateway()).expect("the test listens");
        let (done, finished) = sync::oneshot();
        let done = RefCell::new(Some(done));
        let _mesh = seed.join(&rt, move |_from, req, reply| {
            reply.send(req + 1);
            if req == u64::MAX - 1 {
                drop(done.borrow_mut().take());
            }
        });
        assert_eq!(rt.block_on(finished), None::<()>);
        rt.close();
        rt.counters().turns
    });
    let gateway = gateway.recv().expect("the shard runs");
    for number in 0..500 {
        let answer = gateway.send(ShardId(0), number).expect("room");
        assert_eq!(answer.wait(), Some(number + 1));
    }
    let (sender, answers) = mpsc::channel();
    let tell = move |answer| sender.send(answer).expect("the test listens");
    gateway.send_with(ShardId(0), 7, tell).expect("room");
    assert_eq!(answers.recv().expect("called back"), Some(8));
    assert_eq!(
        gateway.send(ShardId(0), u64::MAX - 1).expect("room").wait(),
        Some(u64::MAX)
    );
    let turns = shard.expect("a thread").join().expect("no panic");
    assert!(
        turns < 10_000,
        "{turns} turns: the shard slept between requests"
    );
    assert_eq!(
        gateway.send(ShardId(0), 1).map(|_| ()),
        Err(Full),
        "the shard has ended"
    );
    assert_eq!(
        gateway.send(ShardId(1), 1).map(|_| ()),
        Err(Full),
        "there is no such shard"
    );
}

#[test]
fn a_full_inbox_refuses_foreign_requests_and_tells_their_callback() {
    let seeds = mesh::<u8, u8>(1, 2);
    let gateway = seeds[0].gateway();
    let first = gateway.send(ShardId(0), 1).expect("room");
    let _second = gateway.send(ShardId(0), 2).expect("room");
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let callback = move |answer: Option<u8>| tell.store(answer.is_none(), Ordering::SeqCst);
    assert_eq!(gateway.send_with(ShardId(0), 3, callback), Err(Full));
    assert!(told.load(Ordering::SeqCst));
    assert!(
        first.wait_timeout(Duration::ZERO).is_err(),
        "nobody serves yet"
    );
}

#[test]
fn many_foreign_threads_and_shards_at_once_lose_nothing() {
    let (gateways, gateway) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let shards = blocking::spawn("shards", move || {
        run_shards(4, 16, move |rt, seed: MeshSeed<u64, u64>| {
            if seed.shard() == ShardId(0) {
                gateways.send(seed.gateway()).expect("the test listens");
            }
            let stopped = stopped.clone();
            async move {
                let hop = Rc::new(RefCell::new(None::<corelog_runtime::Mesh<u64, u64>>));
                let (next, spawner) = (hop.clone(), rt.clone());
                let mesh = seed.join(&rt, move |_from, req, reply: Reply<u64>| {
                    if req == 0 {
                        return reply.send(0);
                    }
                    // Around the shards, one hop per count.
                    let mesh = next.borrow().clone().expect("set before the first turn");
                    let to = ShardId((mesh.shard().0 + 1) % 4);
                    let around = async move {
                        if let Some(hops) = mesh.call(to, req - 1).await {
                            reply.send(hops + 1);
                        }
                    };
                    spawner.spawn("hop", around).detach();
                });
                *hop.borrow_mut() = Some(mesh);
                while !stopped.load(Ordering::SeqCst) {
                    rt.sleep(Duration::from_millis(2)).await;
                }
                hop.borrow_mut().take();
            }
        });
    });
    let gateway = gateway.recv().expect("the shards run");
    let clients: Vec<_> = (0..3u64)
        .map(|client| {
            let gateway = gateway.clone();
            let body = move || {
                for number in 0..200u64 {
                    let to = ShardId(((client + number) % 4) as u16);
                    let hops = number % 9;
                    let answer = loop {
                        match gateway.send(to, hops) {
                            Ok(answer) => break answer,
                            Err(Full) => blocking::sleep(Duration::from_micros(50)),
                        }
                    };
                    assert_eq!(answer.wait(), Some(hops));
                }
            };
            blocking::spawn("client", body).expect("a thread")
        })
        .collect();
    for client in clients {
        client.join().expect("no panic");
    }
    stop.store(true, Ordering::SeqCst);
    shards.expect("a thread").join().expect("no panic");
}

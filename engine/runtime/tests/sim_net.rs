//! The simulated network's contract (docs/SIMULATED_NETWORK.md).

mod sim_support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::sim::{
    CrashKind, Loss, NetConfig, NetFaultPlan, ProcessId, Sim, SimConfig, SimWorld, Stop,
};
use corelog_runtime::{BufferPool, Mesh, Rt, ShardId, SocketHandle, mesh};

const BROKER: ProcessId = ProcessId::MAIN;

fn addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 9092))
}

fn pool() -> BufferPool {
    BufferPool::new(1 << 20)
}

/// Sends back what comes, through the other shard of the mesh.
async fn echo(rt: Rt, other: Mesh<Vec<u8>, Vec<u8>>, to: ShardId, socket: SocketHandle) {
    let mut buf = rt.pool().get(4096);
    loop {
        let (got, back) = rt.recv(&socket, buf, 0, 4096, false).await;
        buf = back;
        match got {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let Some(bytes) = other.call(to, buf[..n].to_vec()).await else {
                    return;
                };
                if rt
                    .send(&socket, vec![Bytes::from(bytes)], false)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}

fn start_echo(sim: &mut Sim, shards: usize) {
    sim.start(BROKER);
    let (listener, _) = sim.world().listen(BROKER, addr(), 16).unwrap();
    for seed in mesh::<Vec<u8>, Vec<u8>>(shards, 8) {
        let listener = listener.clone();
        let shard = seed.shard();
        sim.spawn_shard(BROKER, shard, pool(), move |rt| async move {
            let mesh = seed.join(&rt, |_, bytes, reply| reply.send(bytes));
            loop {
                if shard == ShardId(0) {
                    let Ok(socket) = rt.accept(&listener).await else {
                        continue;
                    };
                    let to = ShardId((rt.random_u64() % shards as u64) as u16);
                    rt.spawn("echo", echo(rt.clone(), mesh.clone(), to, socket))
                        .detach();
                } else {
                    rt.sleep(Duration::from_secs(3600)).await;
                }
            }
        });
    }
}

/// Sends `messages` and awaits each echo; connects again when a connection is lost. Counts losses.
async fn client(rt: Rt, messages: u32, lost: Rc<Cell<u32>>) {
    let mut at = 0;
    'connect: while at < messages {
        let Ok(socket) = rt.connect(addr()).await else {
            lost.set(lost.get() + 1);
            rt.sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut buf = rt.pool().get(4096);
        while at < messages {
            let bytes: Vec<u8> = (0..1 + rt.random_u64() % 3000)
                .map(|n| (n as u32 ^ at) as u8)
                .collect();
            if rt
                .send(&socket, vec![Bytes::from(bytes.clone())], false)
                .await
                .is_err()
            {
                lost.set(lost.get() + 1);
                continue 'connect;
            }
            let (got, back) = rt.recv(&socket, buf, 0, bytes.len(), true).await;
            buf = back;
            match got {
                Ok(n) if n == bytes.len() => assert_eq!(&buf[..], &bytes[..]),
                _ => {
                    lost.set(lost.get() + 1);
                    continue 'connect;
                }
            }
            at += 1;
        }
    }
}

fn echo_run(seed: u64, faults: NetFaultPlan, kills: u32) -> (u64, u32, SimWorld) {
    let config = SimConfig {
        net: NetConfig {
            faults,
            ..NetConfig::default()
        },
        ..SimConfig::default()
    };
    let world = SimWorld::new(seed, config);
    let mut sim = Sim::new(&world);
    let clients = world.add_process("clients");
    start_echo(&mut sim, 2);
    let (lost, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (counted, ended) = (lost.clone(), done.clone());
    sim.spawn_shard(clients, ShardId(0), pool(), |rt| async move {
        let tasks: Vec<_> = (0..4)
            .map(|_| rt.spawn("client", client(rt.clone(), 25, counted.clone())))
            .collect();
        for task in tasks {
            task.await.expect("no panic");
            ended.set(ended.get() + 1);
        }
    });
    for _ in 0..kills {
        world.crash_within(
            BROKER,
            world.now_ns(),
            world.now_ns() + 50_000_000,
            CrashKind::KillProcess,
        );
    }
    loop {
        match sim.run() {
            Stop::Died(BROKER) => {
                sim.run_for(Duration::from_millis(5));
                start_echo(&mut sim, 2);
            }
            Stop::Ended(process) if process == clients => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(done.get(), 4);
    (world.trace_hash(), lost.get(), world)
}

/// A world, its scheduler, and a process of clients.
fn world_of(seed: u64, net: NetConfig) -> (SimWorld, Sim, ProcessId) {
    let world = SimWorld::new(
        seed,
        SimConfig {
            net,
            ..SimConfig::default()
        },
    );
    let sim = Sim::new(&world);
    let clients = world.add_process("clients");
    (world, sim, clients)
}

/// What a client's receive or send ended with, and when.
type Seen = Rc<RefCell<Vec<(&'static str, Option<i32>, u64)>>>;

fn code<T>(result: &std::io::Result<T>) -> Option<i32> {
    result.as_ref().err().and_then(std::io::Error::raw_os_error)
}

/// Receives until the connection ends.
async fn listen_on(rt: Rt, name: &'static str, socket: SocketHandle, seen: Seen) -> usize {
    let mut received = 0;
    loop {
        let (got, _) = rt.recv(&socket, rt.pool().get(4096), 0, 4096, false).await;
        match got {
            Ok(n) if n > 0 => received += n,
            end => {
                seen.borrow_mut().push((name, code(&end), rt.now().0));
                return received;
            }
        }
    }
}

/// One connection over which the client sends `bytes`; both ends receive until it is over. Gives
/// what they saw, and the bytes the broker got.
fn talk(sim: &mut Sim, clients: ProcessId, bytes: usize) -> (Seen, Rc<Cell<usize>>) {
    let (seen, received) = (Seen::default(), Rc::new(Cell::new(0)));
    let (listener, _) = sim.world().listen(BROKER, addr(), 16).unwrap();
    let (log, count) = (seen.clone(), received.clone());
    sim.spawn_shard(BROKER, ShardId(0), pool(), move |rt| async move {
        let socket = rt.accept(&listener).await.unwrap();
        count.set(listen_on(rt, "broker", socket, log).await);
    });
    let log = seen.clone();
    sim.spawn_shard(clients, ShardId(0), pool(), move |rt| async move {
        let socket = rt.connect(addr()).await.unwrap();
        let _may_be_lost = rt.send(&socket, vec![vec![7; bytes].into()], false).await;
        listen_on(rt, "client", socket, log).await;
    });
    (seen, received)
}

#[test]
fn echoes_come_back() {
    for seed in 0..20 {
        let (hash, lost, _) = echo_run(seed, NetFaultPlan::default(), 0);
        assert_eq!(lost, 0);
        assert_eq!(hash, echo_run(seed, NetFaultPlan::default(), 0).0);
    }
}

/// Every fault often enough to be met in a few seeds.
fn rough() -> NetFaultPlan {
    NetFaultPlan {
        split_ppm: 200_000,
        slow_ppm: 10_000,
        reset_ppm: 20_000,
        silence_ppm: 10_000,
        refuse_ppm: 50_000,
        abort_ppm: 50_000,
        slow_peer_ppm: 100_000,
        cut_ppm: 5_000,
    }
}

#[test]
fn clients_live_on_over_faults_and_kills_and_the_same_seed_gives_the_same_trace() {
    let (mut lost, mut kills, mut half_sent) = (0, 0, 0);
    for seed in 0..30 {
        let (hash, seed_lost, world) = echo_run(seed, rough(), 2);
        let (again, _, other) = echo_run(seed, rough(), 2);
        assert_eq!(
            (hash, world.net_counters()),
            (again, other.net_counters()),
            "seed {seed}"
        );
        lost += seed_lost;
        kills += world.faults().kills;
        half_sent += world.net_counters().half_sent;
    }
    assert!(
        lost > 100 && kills > 20 && half_sent > 20,
        "{lost} {kills} {half_sent}"
    );
}

#[test]
fn every_fault_of_the_plan_is_met_and_counted() {
    let mut sum = [0; 12];
    for seed in 100..140 {
        let n = echo_run(seed, rough(), 0).2.net_counters();
        let counts = [
            n.connections,
            n.splits,
            n.slow,
            n.resets,
            n.silences,
            n.half_sent,
            n.refused,
            n.aborted,
            n.slow_peers,
            n.cuts,
            n.held_by_cuts,
            n.timed_out,
        ];
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    assert!(sum.iter().all(|count| *count > 4), "{sum:?}");
}

#[test]
fn a_lost_connection_delivers_a_prefix_and_each_end_learns_of_it_at_its_own_time() {
    for (loss, errno) in [
        (Loss::Reset, libc::ECONNRESET),
        (Loss::Silence, libc::ETIMEDOUT),
    ] {
        let mut prefixes = BTreeSet::new();
        for seed in 0..24 {
            let faults = NetFaultPlan {
                reset_ppm: 1_000_000 * u32::from(loss == Loss::Reset),
                silence_ppm: 1_000_000 * u32::from(loss == Loss::Silence),
                ..NetFaultPlan::default()
            };
            let net = NetConfig {
                faults,
                ..NetConfig::default()
            };
            let (_world, mut sim, clients) = world_of(seed, net);
            let (seen, received) = talk(&mut sim, clients, 10_000);
            while sim.run() != Stop::Idle {}
            let seen = seen.borrow();
            assert_eq!(seen.len(), 2);
            assert!(
                seen.iter().all(|(_, code, _)| *code == Some(errno)),
                "{seen:?}"
            );
            assert_ne!(seen[0].2, seen[1].2);
            prefixes.insert(received.get());
        }
        assert!(prefixes.len() > 16 && *prefixes.last().unwrap() <= 10_000);
    }
}

#[test]
fn connections_are_lost_when_the_test_says_so() {
    for (loss, errno) in [
        (Loss::Reset, libc::ECONNRESET),
        (Loss::Silence, libc::ETIMEDOUT),
    ] {
        let (world, mut sim, clients) = world_of(3, NetConfig::default());
        let (seen, received) = talk(&mut sim, clients, 10_000);
        assert_eq!(sim.run_for(Duration::from_millis(50)), Stop::Deadline);
        world.break_connections(clients, loss);
        while sim.run() != Stop::Idle {}
        assert!(
            seen.borrow()
                .iter()
                .all(|(_, code, _)| *code == Some(errno))
        );
        assert_eq!((seen.borrow().len(), received.get()), (2, 10_000));
    }
}

#[test]
fn a_killed_process_s_kernel_closes_its_connections_and_nobody_listens() {
    for unread in [false, true] {
        let (world, mut sim, clients) = world_of(1, NetConfig::default());
        let (listener, _) = world.listen(BROKER, addr(), 16).unwrap();
        sim.spawn_shard(BROKER, ShardId(0), pool(), move |rt| async move {
            let _held = rt.accept(&listener).await.unwrap();
            std::future::pending::<()>().await;
        });
        let seen = Seen::default();
        let log = seen.clone();
        sim.spawn_shard(clients, ShardId(0), pool(), move |rt| async move {
            let socket = rt.connect(addr()).await.unwrap();
            if unread {
                rt.send(&socket, vec![vec![1; 10].into()], false)
                    .await
                    .unwrap();
            }
            listen_on(rt.clone(), "client", socket, log.clone()).await;
            let again = rt.connect(addr()).await;
            log.borrow_mut().push(("connect", code(&again), 0));
            rt.sleep(Duration::from_secs(1)).await;
            rt.connect(addr()).await.unwrap();
        });
        assert_eq!(sim.run_for(Duration::from_millis(20)), Stop::Deadline);
        sim.kill(BROKER);
        assert!(!world.is_alive(BROKER) && world.crashed());
        assert_eq!(sim.run_for(Duration::from_millis(500)), Stop::Deadline);
        let end = unread.then_some(libc::ECONNRESET);
        let codes: Vec<_> = seen.borrow().iter().map(|seen| seen.1).collect();
        assert_eq!(codes, [end, Some(libc::ECONNREFUSED)]);
        start_echo(&mut sim, 1);
        assert_eq!(sim.run(), Stop::Ended(clients));
    }
}

#[test]
fn a_machine_without_power_leaves_silence_or_a_reset() {
    let mut codes = BTreeSet::new();
    for seed in 0..32 {
        let (world, mut sim, clients) = world_of(seed, NetConfig::default());
        let (seen, _) = talk(&mut sim, clients, 10_000);
        assert_eq!(sim.run_for(Duration::from_millis(20)), Stop::Deadline);
        world.power_loss();
        assert_eq!(sim.run(), Stop::Died(BROKER));
        assert_eq!(sim.run(), Stop::Ended(clients));
        assert_eq!(seen.borrow().len(), 1, "the dead see nothing");
        codes.insert(seen.borrow()[0].1.unwrap());
    }
    assert_eq!(codes, [libc::ECONNRESET, libc::ETIMEDOUT].into());
}

#[test]
fn sockets_of_a_dead_process_are_void() {
    let (world, mut sim, clients) = world_of(1, NetConfig::default());
    let (listener, _) = world.listen(BROKER, addr(), 16).unwrap();
    sim.kill(BROKER);
    sim.start(BROKER);
    let kept = listener.clone();
    sim.spawn_shard(BROKER, ShardId(0), pool(), |rt| async move {
        assert_eq!(code(&rt.accept(&kept).await), Some(libc::EBADF));
    });
    assert_eq!(sim.run(), Stop::Ended(BROKER));
    sim.start(BROKER);
    let (_second, _) = world.listen(BROKER, addr(), 16).unwrap();
    drop(listener);
    sim.spawn_shard(clients, ShardId(0), pool(), |rt| async move {
        rt.connect(addr())
            .await
            .expect("the second one listens still");
    });
    assert_eq!(sim.run(), Stop::Ended(clients));
}

#[test]
fn a_process_dies_at_the_moment_that_the_test_or_the_seed_chose() {
    for by_seed in [false, true] {
        let (world, mut sim, clients) = world_of(5, NetConfig::default());
        let (_seen, _) = talk(&mut sim, clients, 10);
        let at_ns = if by_seed {
            world.crash_within(clients, 30_000_000, 90_000_000, CrashKind::KillProcess)
        } else {
            world.crash_at_ns(clients, 50_000_000, CrashKind::KillProcess);
            50_000_000
        };
        assert_eq!(sim.run(), Stop::Died(clients));
        let late_ns = world.now_ns() - at_ns;
        assert!(late_ns < 1_000_000, "{late_ns}");
        assert_eq!(sim.run(), Stop::Ended(BROKER), "its peer reads the end");
    }
}

#[test]
fn a_cut_link_holds_bytes_back_and_one_way_means_one() {
    for one_way in [false, true] {
        let (world, mut sim, clients) = world_of(1, NetConfig::default());
        start_echo(&mut sim, 1);
        let times = Rc::new(RefCell::new(Vec::new()));
        let log = times.clone();
        let cut = world.clone();
        sim.spawn_shard(clients, ShardId(0), pool(), move |rt| async move {
            let socket = rt.connect(addr()).await.unwrap();
            let began = rt.now();
            if one_way {
                cut.cut_one_way(BROKER, clients, Duration::from_secs(5));
            } else {
                cut.cut_link(BROKER, clients, Duration::from_secs(5));
            }
            rt.send(&socket, vec![vec![1; 10].into()], false)
                .await
                .unwrap();
            let (got, _) = rt.recv(&socket, rt.pool().get(10), 0, 10, true).await;
            assert_eq!(got.unwrap(), 10);
            log.borrow_mut().push(rt.now() - began);
        });
        while sim.run() != Stop::Ended(clients) {}
        assert!(times.borrow()[0] > Duration::from_secs(5));
        // The echo was on its way back already when only that way was cut.
        let counters = world.net_counters();
        assert_eq!(counters.held_by_cuts, 1, "{counters:?}");
    }
}

#[test]
fn a_cut_that_lasts_too_long_ends_connections_and_connects() {
    let (world, mut sim, clients) = world_of(1, NetConfig::default());
    let (listener, _) = world.listen(BROKER, addr(), 16).unwrap();
    sim.spawn_shard(BROKER, ShardId(0), pool(), move |rt| async move {
        let socket = rt.accept(&listener).await.unwrap();
        world.cut_link(BROKER, clients, Duration::from_secs(3600));
        let bytes = vec![vec![1; 10].into()];
        rt.send(&socket, bytes, false).await.unwrap();
        let (got, _) = rt.recv(&socket, rt.pool().get(10), 0, 10, true).await;
        assert_eq!(code(&got), Some(libc::ETIMEDOUT));
        std::future::pending::<()>().await;
    });
    sim.spawn_shard(clients, ShardId(0), pool(), move |rt| async move {
        let connected = rt.connect(addr()).await;
        if let Ok(socket) = connected {
            let (got, _) = rt.recv(&socket, rt.pool().get(10), 0, 10, true).await;
            assert_eq!(code(&got), Some(libc::ETIMEDOUT));
        }
        assert_eq!(code(&rt.connect(addr()).await), Some(libc::ETIMEDOUT));
    });
    assert_eq!(sim.run(), Stop::Ended(clients));
}

#[test]
fn an_idle_world_takes_no_turns_and_time_jumps() {
    let (world, mut sim, clients) = world_of(1, NetConfig::default());
    start_echo(&mut sim, 2);
    sim.spawn_shard(clients, ShardId(0), pool(), |rt| async move {
        rt.sleep(Duration::from_secs(86_400)).await;
        std::future::pending::<()>().await;
    });
    assert_eq!(sim.run_for(Duration::from_secs(3_000)), Stop::Deadline);
    let steps = sim.steps();
    assert!(steps < 50, "{steps}");
    assert_eq!(sim.run_for(Duration::from_secs(200_000)), Stop::Deadline);
    assert!(world.now_ns() >= 203_000_000_000_000);
    assert!(sim.steps() - steps < 300, "one a wake-up: {}", sim.steps());
    sim.kill(BROKER);
    assert_eq!(sim.run(), Stop::Idle, "the client waits for ever");
}

#[test]
fn who_turns_next_is_the_seed_s_choice() {
    let order = |seed| {
        let (_world, mut sim, _) = world_of(seed, NetConfig::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        for shard in 0..4 {
            let order = order.clone();
            sim.spawn_shard(BROKER, ShardId(shard), pool(), move |rt| async move {
                order.borrow_mut().push(rt.shard().0);
            });
        }
        assert_eq!(sim.run(), Stop::Ended(BROKER));
        order.take()
    };
    let orders: BTreeSet<Vec<u16>> = (0..64).map(order).collect();
    assert!(orders.len() > 12, "{}", orders.len());
    assert_eq!(order(7), order(7));
}

#[test]
fn a_long_computation_yields_now_and_then() {
    let (world, mut sim, clients) = world_of(1, NetConfig::default());
    let between = Rc::new(Cell::new(0));
    let count = between.clone();
    sim.spawn_shard(clients, ShardId(0), pool(), |rt| async move {
        let (other, is_over) = (rt.clone(), Rc::new(Cell::new(false)));
        let ends = is_over.clone();
        let beside = rt.spawn("beside", async move {
            while !ends.get() {
                count.set(count.get() + 1);
                other.yield_now().await;
            }
        });
        let inner = rt.clone();
        let long = rt.spawn("long", async move {
            for _ in 0..20_000 {
                inner.yield_if_needed().await;
            }
        });
        long.await.unwrap();
        is_over.set(true);
        beside.await.unwrap();
        assert_eq!(rt.counters().stalls, 0, "no look takes so long");
    });
    assert_eq!(sim.run(), Stop::Ended(clients));
    let busy = world.faults().busy_polls;
    assert!(busy > 10 && between.get() > 10, "{busy} {}", between.get());
}

#[test]
fn clients_have_no_disk() {
    let (_world, mut sim, clients) = world_of(1, NetConfig::default());
    sim.spawn_shard(clients, ShardId(0), pool(), |rt| async move {
        assert_eq!(code(&rt.mkdir("/d").await), Some(libc::ENOSYS));
        assert_eq!(rt.blocking(|| 7).await, 7);
    });
    assert_eq!(sim.run(), Stop::Ended(clients));
}

#[test]
fn panics_of_a_shard_s_main_and_of_vital_tasks_come_out() {
    for vital in [false, true] {
        let (_world, mut sim, clients) = world_of(1, NetConfig::default());
        sim.spawn_shard(clients, ShardId(0), pool(), move |rt| async move {
            assert!(vital, "the main future");
            rt.spawn_vital("vital", async { panic!("a vital task") })
                .await;
        });
        let run = std::panic::AssertUnwindSafe(|| sim.run());
        let panic = std::panic::catch_unwind(run).unwrap_err();
        let text = panic.downcast_ref::<&str>().unwrap();
        assert_eq!(
            *text,
            if vital {
                "a vital task"
            } else {
                "the main future"
            }
        );
    }
}

#[test]
fn the_readable_trace_tells_every_event_and_changes_nothing() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let run = |told: Option<Arc<Mutex<Vec<String>>>>, note: &str| {
        let (world, mut sim, clients) = world_of(9, NetConfig::default());
        if let Some(told) = told {
            world.set_trace(Some(Box::new(move |line| {
                told.lock().unwrap().push(line.to_owned());
            })));
        }
        talk(&mut sim, clients, 100);
        sim.run_for(Duration::from_millis(20));
        world.note(note);
        sim.kill(BROKER);
        world.trace_hash()
    };
    let hash = run(None, "half way");
    assert_eq!(run(Some(told.clone()), "half way"), hash);
    assert_ne!(run(None, "elsewhere"), hash);
    let told = told.lock().unwrap();
    let parts = [
        "connect 10.0.0.1:9092 = socket",
        "gets 100 bytes",
        "clients/0 send",
        "half way",
        "main dies",
        "turn main/0",
    ];
    for part in parts {
        assert!(
            told.iter().any(|line| line.contains(part)),
            "{part}: {told:#?}"
        );
    }
}

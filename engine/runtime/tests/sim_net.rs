//! The simulated network's contract (docs/SIMULATED_NETWORK.md).

mod sim_support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::sim::{
    CrashKind, NetConfig, NetFaultPlan, ProcessId, Sim, SimConfig, SimWorld, Stop,
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

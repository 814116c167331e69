//! Events per second of the twin: clients whose bytes two shards of a broker send back, over a file.
//!
//! `cargo run --release -p corelog-runtime --example sim_echo -- [seeds] [requests]`

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::sim::{NetConfig, NetFaultPlan, ProcessId, Sim, SimConfig, SimWorld, Stop};
use corelog_runtime::{
    BLOCK_BYTES, BufferPool, File, Mesh, OpenOptions, Rt, ShardId, SocketHandle, blocking, mesh,
};

const CLIENTS: u32 = 8;
const REQUEST_BYTES: usize = 1024;

type Echo = Mesh<Bytes, Bytes>;

fn addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 9092))
}

async fn serve(rt: Rt, mesh: Echo, to: ShardId, file: File, socket: SocketHandle) {
    let (mut buf, mut at) = (rt.pool().get(4096), 0);
    loop {
        let (got, back) = rt.recv(&socket, buf, 0, REQUEST_BYTES, true).await;
        buf = back;
        if !matches!(got, Ok(REQUEST_BYTES)) {
            return;
        }
        let mut block = rt.pool().get(BLOCK_BYTES);
        block.set_len(BLOCK_BYTES);
        block.as_mut_slice()[..REQUEST_BYTES].copy_from_slice(&buf[..REQUEST_BYTES]);
        let block = block.freeze();
        let written = file.write_at(vec![block.clone()], at, false).await;
        at += BLOCK_BYTES as u64;
        let answer = mesh.call(to, block.slice(..REQUEST_BYTES)).await;
        let (Ok(()), Some(answer)) = (written, answer) else {
            return;
        };
        if rt.send(&socket, vec![answer], false).await.is_err() {
            return;
        }
    }
}

async fn accept(rt: Rt, mesh: Echo, listener: SocketHandle) {
    let options = OpenOptions {
        read: true,
        write: true,
        create: true,
        direct: true,
        ..OpenOptions::default()
    };
    let mut next = 0u16;
    while let Ok(socket) = rt.accept(&listener).await {
        let Ok(file) = rt.open(format!("/log-{next}"), options).await else {
            return;
        };
        let to = ShardId(next % 2);
        next += 1;
        rt.spawn("serve", serve(rt.clone(), mesh.clone(), to, file, socket))
            .detach();
    }
}

async fn client(rt: Rt, requests: u32) {
    let mut left = requests;
    while left > 0 {
        let Ok(socket) = rt.connect(addr()).await else {
            rt.sleep(Duration::from_millis(5)).await;
            continue;
        };
        let mut buf = rt.pool().get(4096);
        while left > 0 {
            let bytes = Bytes::from(vec![left as u8; REQUEST_BYTES]);
            if rt.send(&socket, vec![bytes], false).await.is_err() {
                break;
            }
            let (got, back) = rt.recv(&socket, buf, 0, REQUEST_BYTES, true).await;
            buf = back;
            if !matches!(got, Ok(REQUEST_BYTES)) {
                break;
            }
            left -= 1;
        }
    }
}

fn run(seed: u64, requests: u32) -> (u64, u64) {
    let config = SimConfig {
        net: NetConfig {
            faults: NetFaultPlan {
                split_ppm: 50_000,
                reset_ppm: 500,
                ..NetFaultPlan::default()
            },
            ..NetConfig::default()
        },
        ..SimConfig::default()
    };
    let world = SimWorld::new(seed, config);
    let mut sim = Sim::new(&world);
    let clients = world.add_process("clients");
    let (listener, _) = world
        .listen(ProcessId::MAIN, addr(), 128)
        .expect("a new world");
    for seed in mesh::<Bytes, Bytes>(2, 64) {
        let listener = listener.clone();
        let shard = seed.shard();
        let pool = BufferPool::new(1 << 20);
        sim.spawn_shard(ProcessId::MAIN, shard, pool, move |rt| async move {
            let mesh = seed.join(&rt, |_, bytes, reply| reply.send(bytes));
            if shard == ShardId(0) {
                accept(rt.clone(), mesh.clone(), listener).await;
            }
            std::future::pending::<()>().await;
        });
    }
    let pool = BufferPool::new(1 << 20);
    sim.spawn_shard(clients, ShardId(0), pool, |rt| async move {
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|_| rt.spawn("client", client(rt.clone(), requests / CLIENTS)))
            .collect();
        for task in tasks {
            task.await.expect("clients do not panic");
        }
    });
    assert_eq!(sim.run(), Stop::Ended(clients));
    (world.event_count(), sim.steps())
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let (seeds, requests) = (
        numbers.next().unwrap_or(200u32),
        numbers.next().unwrap_or(400u32),
    );
    let began = blocking::now();
    let (mut events, mut steps) = (0, 0);
    for seed in 0..u64::from(seeds) {
        let (seed_events, seed_steps) = run(seed, requests);
        events += seed_events;
        steps += seed_steps;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds of {requests} requests in {seconds:.2} s: {:.0} seeds/min, {:.2} M events/s \
         ({} events and {} turns a seed), {:.2} us per request",
        f64::from(seeds) / seconds * 60.0,
        events as f64 / seconds / 1e6,
        events / u64::from(seeds),
        steps / u64::from(seeds),
        seconds * 1e6 / (f64::from(seeds) * f64::from(requests)),
    );
}

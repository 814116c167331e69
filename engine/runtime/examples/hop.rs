//! What a message between two shards costs when both sleep in between: round trips per second and
//! CPU time of the asking thread per round trip.
//!
//! `cargo run --release -p corelog-runtime --example hop [round trips]`

use corelog_runtime::shards::{specs, start_shards};
use corelog_runtime::{Reply, Rt, ShardId, cpus, mesh};

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn main() {
    let hops = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000u64);
    let mut seeds = mesh::<u64, u64>(2, 64).into_iter();
    let threads = start_shards(specs(&cpus::allowed(), Some(2), 0), |shard| {
        let seed = seeds.next().expect("one per shard");
        move |rt: Rt| async move {
            let mesh = seed.join(&rt, |_from, req, reply: Reply<u64>| reply.send(req + 1));
            if shard == ShardId(1) {
                return std::future::pending().await;
            }
            let (start, cpu) = (rt.now(), thread_cpu_ns());
            for hop in 0..hops {
                assert_eq!(mesh.call(ShardId(1), hop).await, Some(hop + 1));
            }
            let (took, cpu) = (rt.now() - start, thread_cpu_ns() - cpu);
            println!(
                "{:.2} us per round trip, {:.2} us CPU here",
                took.as_secs_f64() * 1e6 / hops as f64,
                cpu as f64 / 1e3 / hops as f64
            );
            std::process::exit(0);
        }
    });
    for thread in threads.expect("rings") {
        thread.join().expect("no panic");
    }
}

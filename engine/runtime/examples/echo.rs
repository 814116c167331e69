//! How much one shard costs per small request: 64 connections on loopback, one request of 1 KiB in
//! flight on each, echoed by one shard and driven by another. Prints CPU time per request of the
//! serving thread, which says more than requests per second on a machine that does other things.
//!
//! `cargo run --release -p corelog-runtime --example echo [seconds]`

use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::shards::{specs, start_shards};
use corelog_runtime::{Rt, ShardId, SocketHandle, cpus, listen};

const CONNECTIONS: usize = 64;
const REQUEST_BYTES: usize = 1024;

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn serve(rt: Rt, socket: SocketHandle, served: std::rc::Rc<std::cell::Cell<u64>>) {
    loop {
        let buf = rt.pool().get(REQUEST_BYTES);
        let (received, buf) = rt.recv(&socket, buf, 0, REQUEST_BYTES, false).await;
        if !matches!(received, Ok(1..)) {
            return;
        }
        served.set(served.get() + 1);
        if rt.send(&socket, vec![buf.freeze()], false).await.is_err() {
            return;
        }
    }
}

async fn ask(rt: Rt, socket: SocketHandle) {
    let request = Bytes::from(vec![1; REQUEST_BYTES]);
    let mut buf = rt.pool().get(REQUEST_BYTES);
    loop {
        if rt
            .send(&socket, vec![request.clone()], false)
            .await
            .is_err()
        {
            return;
        }
        let (received, back) = rt.recv(&socket, buf, 0, REQUEST_BYTES, true).await;
        if !matches!(received, Ok(REQUEST_BYTES)) {
            return;
        }
        buf = back;
    }
}

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let (listener, addr) = listen(loopback, 128).expect("listen");
    let server = move |rt: Rt| async move {
        let served = std::rc::Rc::new(std::cell::Cell::new(0));
        for _ in 0..CONNECTIONS {
            let socket = rt.accept(&listener).await.expect("accept");
            rt.spawn("serve", serve(rt.clone(), socket, served.clone()))
                .detach();
        }
        rt.sleep(Duration::from_millis(200)).await;
        let (before, cpu, from) = (rt.counters(), thread_cpu_ns(), served.replace(0));
        let start = rt.now();
        rt.sleep(Duration::from_secs(seconds)).await;
        let (after, cpu) = (rt.counters(), thread_cpu_ns() - cpu);
        let took = rt.now() - start;
        let requests = served.get().max(1);
        println!(
            "{:.0} requests/s, {:.2} us CPU per request, {:.2} requests per enter, {from} before",
            requests as f64 / took.as_secs_f64(),
            cpu as f64 / 1000.0 / requests as f64,
            requests as f64 / (after.driver.enters - before.driver.enters) as f64,
        );
        std::process::exit(0);
    };
    let client = move |rt: Rt| async move {
        for _ in 0..CONNECTIONS {
            let socket = rt.connect(addr).await.expect("connect");
            rt.spawn("ask", ask(rt.clone(), socket)).detach();
        }
        std::future::pending::<()>().await;
    };
    let (mut server, mut client) = (Some(server), Some(client));
    let specs = specs(&cpus::allowed(), Some(2), 1 << 24);
    let threads = start_shards(specs, |shard| {
        let server = if shard == ShardId(0) {
            server.take()
        } else {
            None
        };
        let client = if shard == ShardId(1) {
            client.take()
        } else {
            None
        };
        move |rt: Rt| async move {
            if let Some(server) = server {
                server(rt.clone()).await;
            }
            if let Some(client) = client {
                client(rt).await;
            }
        }
    });
    for thread in threads.expect("rings") {
        thread.join().expect("no panic");
    }
}

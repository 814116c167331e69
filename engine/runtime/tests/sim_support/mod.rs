//! Small helpers of the tests of the simulated machine.
#![allow(dead_code)]

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use corelog_runtime::sim::{SimConfig, SimWorld, run_until_crash};
use corelog_runtime::{BLOCK_BYTES, File, OpenOptions, Rt};

pub const BLOCK: u64 = BLOCK_BYTES as u64;

pub fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}

pub fn direct() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        create: true,
        direct: true,
        ..OpenOptions::default()
    }
}

pub fn buffered() -> OpenOptions {
    OpenOptions {
        direct: false,
        ..direct()
    }
}

/// Whole blocks of one byte, aligned as direct I/O asks.
pub fn blocks(rt: &Rt, byte: u8, count: usize) -> Vec<Bytes> {
    let mut buf = rt.pool().get(count * BLOCK_BYTES);
    buf.as_mut_slice()[..count * BLOCK_BYTES].fill(byte);
    buf.set_len(count * BLOCK_BYTES);
    vec![buf.freeze()]
}

/// Makes `/f` durable with `count` blocks of `byte`.
pub async fn durable_file(rt: &Rt, path: &str, byte: u8, count: usize) -> File {
    let file = rt.open(path, direct()).await.unwrap();
    if count > 0 {
        file.write_at(blocks(rt, byte, count), 0, false)
            .await
            .unwrap();
    }
    file.fdatasync().await.unwrap();
    rt.sync_dir("/").await.unwrap();
    file
}

pub async fn read_all(rt: &Rt, path: &str) -> Vec<u8> {
    rt.read_whole(path, 1 << 20).await.unwrap()
}

/// Runs a process that does not crash.
pub fn run<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) -> F::Output {
    run_until_crash(world, main).expect("nobody planned a crash")
}

/// Runs a process, then cuts the power while it idles with all it holds.
pub fn run_then_power_loss<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) {
    let cut = world.clone();
    let out = run_until_crash(world, |rt| {
        let main = main(rt);
        async move {
            main.await;
            cut.power_loss();
        }
    });
    assert!(out.is_none() && world.crashed());
}

pub fn run_then_kill<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) {
    let cut = world.clone();
    let out = run_until_crash(world, |rt| {
        let main = main(rt);
        async move {
            main.await;
            cut.kill_process();
        }
    });
    assert!(out.is_none() && world.crashed());
}

/// The byte of each 512-byte sector; a mixed sector is a failure.
pub fn sectors(bytes: &[u8]) -> Vec<u8> {
    let whole = |sector: &[u8]| {
        assert!(
            sector.iter().all(|byte| *byte == sector[0]),
            "a sector is mixed"
        );
        sector[0]
    };
    bytes.chunks(512).map(whole).collect()
}

/// Awaits both, polled in turn.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b): (Pin<Box<A>>, Pin<Box<B>>) = (Box::pin(a), Box::pin(b));
    let (mut got_a, mut got_b) = (None, None);
    std::future::poll_fn(|cx| {
        if got_a.is_none()
            && let Poll::Ready(out) = a.as_mut().poll(cx)
        {
            got_a = Some(out);
        }
        if got_b.is_none()
            && let Poll::Ready(out) = b.as_mut().poll(cx)
        {
            got_b = Some(out);
        }
        if got_a.is_some() && got_b.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    (got_a.unwrap(), got_b.unwrap())
}

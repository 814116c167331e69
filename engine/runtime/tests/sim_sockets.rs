//! The simulated network's contract: sockets (docs/SIMULATED_NETWORK.md).

mod sim_support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::driver::Cached;
use corelog_runtime::sim::{NetConfig, NetFaultPlan, ProcessId, SimConfig, SimWorld};
use corelog_runtime::{Op, Output, Rt, SocketHandle, sockets};
use sim_support::*;

const MAIN: ProcessId = ProcessId::MAIN;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// A world whose buffers hold 64 KiB.
fn small(seed: u64, faults: NetFaultPlan) -> SimWorld {
    let net = NetConfig {
        buffer_bytes: (64 << 10, 64 << 10),
        faults,
        ..NetConfig::default()
    };
    SimWorld::new(
        seed,
        SimConfig {
            net,
            ..SimConfig::default()
        },
    )
}

async fn pair(world: &SimWorld, rt: &Rt) -> (SocketHandle, SocketHandle) {
    let (listener, addr) = world.listen(MAIN, addr(0), 16).unwrap();
    let (client, server) = both(rt.connect(addr), rt.accept(&listener)).await;
    (client.unwrap(), server.unwrap())
}

/// What the future says to a connected pair in a world of this seed.
fn with_pair<F: Future>(
    world: &SimWorld,
    story: impl FnOnce(Rt, SocketHandle, SocketHandle) -> F,
) -> F::Output {
    run(world, |rt| {
        let world = world.clone();
        async move {
            let (client, server) = pair(&world, &rt).await;
            story(rt, client, server).await
        }
    })
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

async fn recv(rt: &Rt, socket: &SocketHandle, len: usize, all: bool) -> std::io::Result<Vec<u8>> {
    let buf = rt.pool().get(len);
    let (got, buf) = rt.recv(socket, buf, 0, len, all).await;
    got.map(|n| buf[..n].to_vec())
}

fn counting(len: usize) -> Bytes {
    (0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

#[test]
fn bytes_arrive_whole_and_in_order_however_they_are_cut() {
    let plan = NetFaultPlan {
        split_ppm: 500_000,
        ..NetFaultPlan::default()
    };
    let (mut pieces, mut splits) = (0, 0);
    for seed in 0..16 {
        let world = small(seed, plan);
        let whole = counting(300_000);
        pieces += with_pair(&world, |rt, client, server| async move {
            let bufs: Vec<Bytes> = whole.chunks(7_001).map(Bytes::copy_from_slice).collect();
            let (sending, to) = (rt.clone(), client.clone());
            let sender = rt.spawn(
                "sender",
                async move { sending.send(&to, bufs, false).await },
            );
            let (mut got, mut pieces) = (Vec::new(), 0);
            while got.len() < whole.len() {
                got.extend(recv(&rt, &server, 65_536, false).await.unwrap());
                pieces += 1;
            }
            assert!(got == whole, "seed {seed}");
            sender.await.unwrap().unwrap();
            pieces
        });
        splits += world.net_counters().splits;
    }
    assert!(splits > 8 && pieces > 100, "{splits} {pieces}");
}

#[test]
fn a_receive_of_all_waits_for_all_and_gives_what_there_is_at_the_end() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            for part in [b"ab", b"cd", b"ef"] {
                rt.send(&client, vec![Bytes::from_static(part)], false)
                    .await
                    .unwrap();
                rt.sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(recv(&rt, &server, 5, true).await.unwrap(), b"abcde");
            let rest = async {
                rt.sleep(Duration::from_millis(1)).await;
                drop(client);
            };
            assert_eq!(
                both(recv(&rt, &server, 5, true), rest).await.0.unwrap(),
                b"f"
            );
            assert_eq!(recv(&rt, &server, 5, true).await.unwrap(), b"");
        },
    );
}

#[test]
fn a_reader_that_never_reads_pushes_back_and_a_third_of_the_room_wakes_the_sender() {
    let world = small(1, NetFaultPlan::default());
    with_pair(&world, |rt, client, server| async move {
        let bytes = counting(100_000);
        let left = rt.send_now(&client, vec![bytes], false).await.unwrap();
        assert_eq!(left.iter().map(Bytes::len).sum::<usize>(), 100_000 - 65_536);
        assert_eq!(rt.send_now(&client, left, false).await.unwrap().len(), 1);
        let long = Duration::from_secs(3600);
        assert!(rt.timeout(long, rt.poll_writable(&client)).await.is_none());
        let waiting = rt.send(&client, vec![counting(10)], false);
        assert!(rt.timeout(long, waiting).await.is_none());
        recv(&rt, &server, 20_000, true).await.unwrap();
        assert!(rt.timeout(long, rt.poll_writable(&client)).await.is_none());
        recv(&rt, &server, 5_000, true).await.unwrap();
        rt.poll_writable(&client).await.unwrap();
    });
    assert!(world.net_counters().pushed_back > 2);
}

#[test]
fn bytes_of_which_more_follow_wait_for_it_but_not_for_ever() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            let send = |text: &'static str, more| {
                rt.send(&client, vec![Bytes::from_static(text.as_bytes())], more)
            };
            send("head", true).await.unwrap();
            let soon = Duration::from_millis(50);
            assert!(
                rt.timeout(soon, recv(&rt, &server, 99, false))
                    .await
                    .is_none()
            );
            send("body", false).await.unwrap();
            assert_eq!(recv(&rt, &server, 99, false).await.unwrap(), b"headbody");
            send("lone", true).await.unwrap();
            assert_eq!(recv(&rt, &server, 99, false).await.unwrap(), b"lone");
        },
    );
}

#[test]
fn a_peer_that_closed_reads_as_the_end_and_sending_to_it_fails_after_a_while() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            rt.send(&server, vec![counting(4)], false).await.unwrap();
            drop(server);
            rt.poll_closed(&client).await.unwrap();
            assert_eq!(recv(&rt, &client, 99, false).await.unwrap().len(), 4);
            assert_eq!(recv(&rt, &client, 99, false).await.unwrap().len(), 0);
            rt.send(&client, vec![counting(4)], false).await.unwrap();
            rt.sleep(Duration::from_millis(5)).await;
            let send = async || errno(rt.send(&client, vec![counting(4)], false).await);
            assert_eq!(send().await, Some(libc::ECONNRESET));
            assert_eq!(send().await, Some(libc::EPIPE));
        },
    );
}

#[test]
fn a_peer_that_closes_over_unread_bytes_resets_the_connection() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            rt.send(&client, vec![counting(4)], false).await.unwrap();
            rt.sleep(Duration::from_millis(5)).await;
            drop(server);
            assert_eq!(
                errno(recv(&rt, &client, 9, false).await),
                Some(libc::ECONNRESET)
            );
            assert_eq!(recv(&rt, &client, 9, false).await.unwrap().len(), 0);
        },
    );
}

#[test]
fn shutdown_ends_what_is_in_flight_and_the_peer_sees_the_end() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            let closed = rt.poll_closed(&server);
            let receives = both(recv(&rt, &server, 9, false), closed);
            let shut = async {
                rt.sleep(Duration::from_millis(1)).await;
                rt.shutdown(&server).await.unwrap();
            };
            let ((got, closed), ()) = both(receives, shut).await;
            assert_eq!(got.unwrap(), b"");
            closed.unwrap();
            let sent = rt.send(&server, vec![counting(4)], false).await;
            assert_eq!(errno(sent), Some(libc::EPIPE));
            assert_eq!(recv(&rt, &client, 9, false).await.unwrap(), b"");
            assert_eq!(errno(rt.shutdown(&server).await), None);
        },
    );
}

#[test]
fn a_cancelled_receive_swallows_nothing_and_gives_what_it_had() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            let soon = Duration::from_millis(2);
            assert!(
                rt.timeout(soon, recv(&rt, &server, 9, false))
                    .await
                    .is_none()
            );
            rt.drain().await;
            assert_eq!(rt.counters().ops_in_flight, 0);
            rt.send(&client, vec![counting(4)], false).await.unwrap();
            rt.sleep(soon).await;
            let all = rt.submit(Op::Recv {
                socket: server.clone(),
                buf: rt.pool().get(9),
                at: 0,
                len: 9,
                all: true,
            });
            rt.sleep(soon).await;
            rt.drain().await;
            assert!(matches!(all.await.1.unwrap(), Output::Len(4)));
        },
    );
}

#[test]
fn a_cancelled_operation_and_a_new_one_in_the_same_turn_both_complete() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, client, server| async move {
            let soon = Duration::from_millis(2);
            for _ in 0..4 {
                assert!(
                    rt.timeout(soon, recv(&rt, &server, 9, false))
                        .await
                        .is_none()
                );
                let stat = rt.submit(Op::StatPath { path: "/".into() });
                assert!(matches!(stat.await.1.unwrap(), Output::Stat(_)));
            }
            rt.sleep(soon).await;
            assert_eq!(rt.counters().ops_in_flight, 0);
            drop(client);
        },
    );
}

#[test]
fn sockets_know_their_addresses_and_an_address_has_one_listener() {
    let world = small(1, NetFaultPlan::default());
    with_pair(&world.clone(), |rt, client, server| async move {
        let (near, far) = (sockets::local_addr(&client), sockets::peer_addr(&client));
        assert_eq!(sockets::peer_addr(&server).unwrap(), near.unwrap());
        assert_eq!(sockets::local_addr(&server).unwrap(), far.unwrap());
        let (first, at) = world.listen(MAIN, addr(9092), 1).unwrap();
        assert_eq!(at, addr(9092));
        let second = world.listen(MAIN, addr(9092), 1);
        assert_eq!(errno(second), Some(libc::EADDRINUSE));
        drop(first);
        let refused = rt.connect(addr(9092)).await;
        assert_eq!(errno(refused), Some(libc::ECONNREFUSED));
        world.listen(MAIN, addr(9092), 1).unwrap();
    });
}

#[test]
fn a_full_queue_of_a_listener_lets_connects_wait_and_time_out() {
    let world = small(1, NetFaultPlan::default());
    run(&world.clone(), |rt| async move {
        let (listener, at) = world.listen(MAIN, addr(0), 1).unwrap();
        let _first = rt.connect(at).await.unwrap();
        let connect = rt.connect(at);
        let taken = async {
            rt.sleep(Duration::from_secs(3)).await;
            rt.accept(&listener).await.unwrap()
        };
        both(connect, taken).await.0.unwrap();
        assert_eq!(errno(rt.connect(at).await), Some(libc::ETIMEDOUT));
        assert!(world.net_counters().full_backlogs > 3);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    with_pair(
        &small(1, NetFaultPlan::default()),
        |rt, _client, server| async move {
            for (at, len) in [(0, 4097), (4096, 1), (usize::MAX, 2), (0, 0)] {
                let (result, buf) = rt.recv(&server, rt.pool().get(4096), at, len, false).await;
                assert_eq!(errno(result), Some(libc::EINVAL));
                assert_eq!(buf.capacity(), 4096, "the buffer came back");
            }
            assert_eq!(errno(rt.accept(&server).await), Some(libc::EINVAL));
        },
    );
}

#[test]
fn sendfile_sends_cached_bytes_and_says_would_block_when_the_socket_is_full() {
    let world = small(1, NetFaultPlan::default());
    with_pair(&world, |rt, client, server| async move {
        let file = rt.open("/f", buffered()).await.unwrap();
        let whole = counting(100_000);
        file.write_at(vec![whole.clone()], 0, false).await.unwrap();
        let (mut sent, mut got, mut blocked) = (0, Vec::new(), 0);
        while got.len() < whole.len() {
            // Memory pressure may have taken a page.
            if let Cached::MissingAt(at) = rt.is_cached(file.handle(), 0, whole.len()).unwrap() {
                file.read_at(rt.pool().get(4096), at, 4096).await.0.unwrap();
                continue;
            }
            match rt.send_file(&client, file.handle(), sent, whole.len()) {
                Ok(0) => {}
                Ok(n) => {
                    sent += n as u64;
                    continue;
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    blocked += 1;
                }
            }
            got.extend(recv(&rt, &server, 8_192, false).await.unwrap());
        }
        assert!(got == whole && blocked > 0);
        assert_eq!(rt.send_file(&client, file.handle(), sent, 10).unwrap(), 0);
    });
    assert_eq!(world.net_counters().sendfiles_uncached, 0);
}

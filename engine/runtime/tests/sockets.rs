//! Sockets over a real ring, on loopback.

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::{TempDir, rt};
use corelog_runtime::{OpenOptions, Rt, SocketHandle, listen, sockets};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

async fn pair(rt: &Rt) -> (SocketHandle, SocketHandle) {
    let (listener, addr) = listen(loopback(), 16).expect("listen");
    let (inner, to) = (rt.clone(), addr);
    let client = rt.spawn("client", async move {
        inner.connect(to).await.expect("connect")
    });
    let server = rt.accept(&listener).await.expect("accept");
    (client.await.expect("no panic"), server)
}

#[test]
fn accepted_sockets_have_the_buffers_of_their_listener() {
    let rt = rt();
    rt.block_on(async {
        let (listener, to) = listen(loopback(), 16).expect("listen");
        sockets::set_buffer_bytes(&listener, 20_000, 30_000).expect("set");
        let inner = rt.clone();
        let client = rt.spawn("client", async move { inner.connect(to).await });
        let server = rt.accept(&listener).await.expect("accept");
        // The kernel doubles what it is told.
        assert_eq!(
            sockets::buffer_bytes(&server).expect("sizes"),
            (40_000, 60_000)
        );
        let client = client.await.expect("no panic").expect("connect");
        assert_ne!(sockets::buffer_bytes(&client).expect("sizes").1, 60_000);
    });
}

#[test]
fn bytes_arrive_whole_and_in_order_in_both_directions() {
    let rt = rt();
    rt.block_on(async {
        let (client, server) = pair(&rt).await;
        assert_eq!(
            sockets::peer_addr(&client).ok(),
            sockets::local_addr(&server).ok()
        );
        // More buffers than one send takes, more bytes than the kernel buffers.
        let bufs: Vec<Bytes> = (0..200u32)
            .map(|n| Bytes::from(vec![n as u8; 20_000]))
            .collect();
        let expected: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        let (inner, to) = (rt.clone(), client.clone());
        let sender = rt.spawn("sender", async move { inner.send(&to, bufs, false).await });
        let mut got = Vec::new();
        let mut buf = rt.pool().get(65536);
        while got.len() < expected.len() {
            let (received, back) = rt.recv(&server, buf, 0, 65536, false).await;
            assert!(received.expect("recv") > 0);
            got.extend_from_slice(&back);
            buf = back;
        }
        assert!(got == expected);
        sender.await.expect("no panic").expect("send");
        rt.send(
            &server,
            vec![Bytes::from_static(b"head"), Bytes::from_static(b"body")],
            true,
        )
        .await
        .expect("send");
        rt.send(&server, vec![Bytes::from_static(b"end")], false)
            .await
            .expect("send");
        let (received, buf) = rt.recv(&client, buf, 100, 11, true).await;
        assert_eq!(received.expect("recv all"), 11);
        assert_eq!(&buf[100..111], b"headbodyend");
        drop(server);
        let (received, _buf) = rt.recv(&client, buf, 0, 10, false).await;
        assert_eq!(received.expect("end of stream"), 0);
    });
}

#[test]
fn a_dropped_receive_leaves_its_buffer_with_the_kernel_until_it_is_cancelled() {
    let rt = rt();
    rt.block_on(async {
        let (client, server) = pair(&rt).await;
        let recv = rt.recv(&server, rt.pool().get(4096), 0, 4096, false);
        assert!(rt.timeout(Duration::from_millis(2), recv).await.is_none());
        // Its completion is not in yet: the buffer must not be among the free ones.
        assert_eq!(rt.counters().ops_in_flight, 1);
        assert_eq!(rt.pool().free_bytes(), 0);
        rt.drain().await;
        assert_eq!(rt.counters().ops_in_flight, 0);
        assert_eq!(rt.pool().free_bytes(), 4096);
        // The socket is whole: nothing was swallowed.
        rt.send(&client, vec![Bytes::from_static(b"after")], false)
            .await
            .expect("send");
        let (received, buf) = rt.recv(&server, rt.pool().get(4096), 0, 5, true).await;
        assert_eq!((received.expect("recv"), &buf[..]), (5, &b"after"[..]));
    });
}

#[test]
fn shutdown_ends_a_receive_in_flight() {
    let rt = rt();
    rt.block_on(async {
        let (_client, server) = pair(&rt).await;
        let (inner, socket) = (rt.clone(), server.clone());
        let receiver = rt.spawn("receiver", async move {
            let buf = inner.pool().get(4096);
            inner.recv(&socket, buf, 0, 100, false).await.0
        });
        rt.sleep(Duration::from_millis(1)).await;
        rt.shutdown(&server).await.expect("shutdown");
        assert_eq!(receiver.await.expect("no panic").expect("recv"), 0);
    });
}

#[test]
fn a_peer_that_closes_is_noticed_beside_a_receive_and_unread_bytes() {
    let rt = rt();
    rt.block_on(async {
        for unread in [false, true] {
            let (client, server) = pair(&rt).await;
            let closed = rt.poll_closed(&server);
            let mut closed = Box::pin(closed);
            let soon = Duration::from_millis(2);
            assert!(rt.timeout(soon, &mut closed).await.is_none());
            if unread {
                rt.send(&client, vec![Bytes::from_static(b"last")], false)
                    .await
                    .expect("send");
                drop(client);
                closed.await.expect("closed");
            } else {
                let recv = rt.recv(&server, rt.pool().get(4096), 0, 4096, false);
                let mut recv = Box::pin(recv);
                assert!(rt.timeout(soon, &mut recv).await.is_none());
                drop(client);
                closed.await.expect("closed");
                assert_eq!(recv.await.0.expect("recv"), 0);
                continue;
            }
            let (received, buf) = rt.recv(&server, rt.pool().get(4096), 0, 4096, false).await;
            assert_eq!((received.expect("recv"), &buf[..]), (4, &b"last"[..]));
        }
    });
}

#[test]
fn a_send_that_does_not_wait_gives_back_what_a_full_socket_does_not_take() {
    let rt = rt();
    rt.block_on(async {
        let (client, server) = pair(&rt).await;
        let whole = Bytes::from((0..300_000u32).map(|n| n as u8).collect::<Vec<_>>());
        let mut sent = 0;
        let mut bufs = vec![whole.clone(); 3];
        // The peer does not read: the socket is full at some point.
        while !bufs.is_empty() || sent < (64 << 20) {
            let before: usize = bufs.iter().map(Bytes::len).sum();
            bufs = rt.send_now(&client, bufs, false).await.expect("send");
            let left: usize = bufs.iter().map(Bytes::len).sum();
            sent += before - left;
            if left == before && before > 0 {
                break;
            }
            if bufs.is_empty() {
                bufs = vec![whole.clone(); 3];
            }
        }
        assert!(!bufs.is_empty() && sent > 0, "{sent}");
        let writable = rt.poll_writable(&client);
        assert!(
            rt.timeout(Duration::from_millis(2), writable)
                .await
                .is_none()
        );
        let mut got = Vec::new();
        let mut buf = rt.pool().get(65536);
        while got.len() < sent {
            let (received, back) = rt.recv(&server, buf, 0, 65536, false).await;
            received.expect("recv");
            got.extend_from_slice(&back);
            buf = back;
        }
        assert_eq!(got.len(), sent, "what was given back was not sent");
        assert!(
            (0..)
                .zip(&got)
                .all(|(at, &byte)| byte == (at % 300_000) as u8)
        );
        rt.poll_writable(&client).await.expect("room again");
    });
}

#[test]
fn sending_to_a_closed_peer_is_an_error_not_a_signal() {
    let rt = rt();
    rt.block_on(async {
        let (client, server) = pair(&rt).await;
        drop(server);
        let mut failed = None;
        for _ in 0..100 {
            let sent = rt
                .send(&client, vec![Bytes::from(vec![0; 100_000])], false)
                .await;
            if let Err(error) = sent {
                failed = Some(error.kind());
                break;
            }
        }
        let kind = failed.expect("the peer is gone");
        assert!(
            matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{kind}"
        );
    });
}

#[test]
fn connecting_to_nobody_is_refused() {
    let rt = rt();
    rt.block_on(async {
        let (listener, addr) = listen(loopback(), 1).expect("listen");
        drop(listener);
        let refused = rt
            .connect(addr)
            .await
            .map(|_| ())
            .expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn bounds_of_a_receive_are_checked() {
    let rt = rt();
    rt.block_on(async {
        let (_client, server) = pair(&rt).await;
        for (at, len) in [(0, 4097), (4096, 1), (usize::MAX, 2), (0, 0)] {
            let (result, buf) = rt.recv(&server, rt.pool().get(4096), at, len, false).await;
            assert_eq!(
                result.expect_err("out of bounds").kind(),
                ErrorKind::InvalidInput
            );
            assert_eq!(buf.capacity(), 4096, "the buffer came back");
        }
    });
}

#[test]
fn sendfile_moves_cached_bytes_and_says_would_block_when_the_socket_is_full() {
    let (rt, dir) = (rt(), TempDir::new("sendfile"));
    rt.block_on(async {
        let (client, server) = pair(&rt).await;
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            ..Default::default()
        };
        let file = rt.open(dir.join("f"), options).await.expect("open");
        let content: Vec<u8> = (0..8_000_000u32).map(|n| (n >> 8) as u8).collect();
        let whole = Bytes::from(content.clone());
        file.write_at(vec![whole], 0, false).await.expect("write");
        let (inner, from) = (rt.clone(), server.clone());
        let mut sent = 0;
        let mut blocked = 0;
        // A receive in flight on the same socket must survive the switch of its mode.
        let (reader, socket) = (rt.clone(), client.clone());
        let request = rt.spawn("request", async move {
            let buf = reader.pool().get(4096);
            let (result, buf) = reader.recv(&socket, buf, 0, 4, true).await;
            result.map(|_| buf.to_vec())
        });
        let receiver = rt.spawn("receiver", async move {
            let mut got = Vec::new();
            let mut buf = inner.pool().get(1 << 20);
            while got.len() < 8_000_000 {
                inner.sleep(Duration::from_micros(200)).await;
                let (received, back) = inner.recv(&from, buf, 0, 1 << 20, false).await;
                assert!(received.expect("recv") > 0);
                got.extend_from_slice(&back);
                buf = back;
            }
            got
        });
        while sent < content.len() {
            match rt.send_file(&client, file.handle(), sent as u64, content.len() - sent) {
                Ok(bytes) => sent += bytes,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    blocked += 1;
                    rt.poll_writable(&client).await.expect("poll");
                }
            }
        }
        assert!(receiver.await.expect("no panic") == content);
        assert!(blocked > 0, "a full socket never blocks the shard");
        rt.send(&server, vec![Bytes::from_static(b"done")], false)
            .await
            .expect("send");
        assert_eq!(request.await.expect("no panic").expect("recv"), b"done");
        assert_eq!(rt.counters().driver.sendfile_bytes, 8_000_000);
    });
}

#[test]
fn many_connections_echo_at_once() {
    let rt = rt();
    rt.block_on(async {
        let (listener, addr) = listen(loopback(), 128).expect("listen");
        let inner = rt.clone();
        let server = rt.spawn("server", async move {
            for _ in 0..100 {
                let socket = inner.accept(&listener).await.expect("accept");
                let rt = inner.clone();
                let echo = async move {
                    let mut buf = rt.pool().get(4096);
                    loop {
                        let (received, back) = rt.recv(&socket, buf, 0, 4096, false).await;
                        if received.expect("recv") == 0 {
                            return;
                        }
                        let bytes = Bytes::copy_from_slice(&back);
                        rt.send(&socket, vec![bytes], false).await.expect("send");
                        buf = back;
                    }
                };
                inner.spawn("echo", echo).detach();
            }
        });
        let clients: Vec<_> = (0..100u8)
            .map(|number| {
                let rt = rt.clone();
                rt.clone().spawn("client", async move {
                    let socket = rt.connect(addr).await.expect("connect");
                    let mut buf = rt.pool().get(4096);
                    for round in 0..20u8 {
                        let bytes = Bytes::from(vec![number ^ round; 500]);
                        rt.send(&socket, vec![bytes.clone()], false)
                            .await
                            .expect("send");
                        let (received, back) = rt.recv(&socket, buf, 0, 500, true).await;
                        assert_eq!(received.expect("recv"), 500);
                        assert_eq!(&back[..], &bytes[..]);
                        buf = back;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic");
        }
        server.await.expect("no panic");
    });
}

#[test]
fn draining_also_ends_operations_submitted_meanwhile() {
    let rt = rt();
    rt.block_on(async {
        let (_client, server) = pair(&rt).await;
        let (inner, socket) = (rt.clone(), server.clone());
        let stubborn = rt.spawn("stubborn", async move {
            let mut cancelled = 0;
            while cancelled < 3 {
                let buf = inner.pool().get(4096);
                let (result, _buf) = inner.recv(&socket, buf, 0, 10, false).await;
                let error = result.expect_err("nothing is sent");
                assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                cancelled += 1;
            }
        });
        // Keeps the drain from ending until the task above has seen its last cancellation.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let inner = rt.clone();
        let holder = rt.spawn("holder", async move {
            inner
                .blocking(move || held.recv().expect_err("only dropped"))
                .await
        });
        let inner = rt.clone();
        let drained = rt.spawn("drain", async move { inner.drain().await });
        stubborn.await.expect("no panic");
        assert!(!drained.is_finished(), "work on a helper is awaited");
        drop(release);
        drained.await.expect("no panic");
        holder.await.expect("no panic");
        assert_eq!(rt.counters().ops_in_flight, 0);
    });
}

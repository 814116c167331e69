//! Files over a real ring and a real file system.

mod common;

use std::io::ErrorKind;

use bytes::Bytes;
use common::{TempDir, rt};
use corelog_runtime::driver::Cached;
use corelog_runtime::{
    Advice, BLOCK_BYTES, ChunkWriter, FallocateMode, Op, OpenOptions, Output, blocking,
    check_direct_io,
};

fn direct() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        create: true,
        direct: true,
        ..OpenOptions::default()
    }
}

fn buffered() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        create: true,
        ..OpenOptions::default()
    }
}

#[test]
fn names_that_are_not_utf8_are_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let (rt, dir) = (rt(), TempDir::new("not-utf8"));
    let strange = std::ffi::OsStr::from_bytes(b"caf\xe9");
    blocking::write_file(dir.0.join(strange), "").expect("room");
    blocking::write_file(dir.0.join("plain"), "").expect("room");
    let found = rt.block_on(rt.read_dir(&dir.0)).expect("a list");
    let names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["plain"]);
}

#[test]
fn direct_writes_with_dsync_come_back_by_direct_and_buffered_reads() {
    let (rt, dir) = (rt(), TempDir::new("direct"));
    check_direct_io(&dir.0).expect("tests run on a file system with direct I/O");
    rt.block_on(async {
        let file = rt.open(dir.join("log"), direct()).await.expect("open");
        file.fallocate(FallocateMode::Extend, 0, 1 << 20)
            .await
            .expect("fallocate");
        let stat = file.stat().await.expect("stat");
        assert_eq!(stat.len, 1 << 20);
        let day_ms = 86_400_000;
        assert!(
            (stat.modified_ms - rt.wall_clock_ms()).abs() < day_ms,
            "today"
        );
        let mut chunk = ChunkWriter::new(rt.pool(), 65536);
        let payload: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        chunk.append(&payload);
        file.write_at(vec![chunk.write_slice(0)], 0, true)
            .await
            .expect("write");
        assert!(!chunk.is_frozen(), "the operation and its buffers are gone");
        chunk.append(&payload);
        // The tail block once more, in two buffers.
        let (tail, rest) = {
            let whole = chunk.write_slice(8192);
            (whole.slice(..4096), whole.slice(4096..))
        };
        file.write_at(vec![tail, rest], 8192, true)
            .await
            .expect("vectored write");
        let (read, buf) = file.read_at(rt.pool().get(20480), 0, 20480).await;
        assert_eq!(read.expect("read"), 20480);
        assert_eq!(&buf[..10_000], &payload[..]);
        assert_eq!(&buf[10_000..20_000], &payload[..]);
        assert!(buf[20_000..].iter().all(|&byte| byte == 0));
        let again = rt.open(dir.join("log"), buffered()).await.expect("open");
        let (read, buf) = again.read_at(buf, 9_999, 2).await;
        assert_eq!(read.expect("read"), 2);
        assert_eq!(&buf[..], &[payload[9_999], payload[0]]);
    });
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    let (rt, dir) = (rt(), TempDir::new("eof"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), buffered()).await.expect("open");
        file.write_at(vec![Bytes::from(vec![7; 5000])], 0, false)
            .await
            .expect("write");
        let (read, buf) = file.read_at(rt.pool().get(8192), 4000, 8192).await;
        assert_eq!(read.expect("read"), 1000);
        assert_eq!(buf.len(), 1000);
        let (read, buf) = file.read_at(buf, 5000, 10).await;
        assert_eq!(read.expect("read"), 0);
        let (read, buf) = file.read_at(buf, 0, 1 << 20).await;
        assert_eq!(
            read.expect_err("beyond the buffer").kind(),
            ErrorKind::InvalidInput
        );
        assert!(buf.capacity() >= 8192, "the buffer came back");
    });
}

#[test]
fn more_buffers_than_one_call_takes_are_written_whole() {
    let (rt, dir) = (rt(), TempDir::new("vectors"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), buffered()).await.expect("open");
        let bufs: Vec<Bytes> = (0..3000u32)
            .map(|n| Bytes::from(vec![n as u8; 7]))
            .collect();
        let expected: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        file.write_at(bufs, 0, false).await.expect("write");
        let whole = rt.read_whole(dir.join("f"), 30_000).await.expect("read");
        assert_eq!(whole, expected);
        let short = rt.read_whole(dir.join("f"), 20_999).await;
        assert_eq!(short.expect_err("too long").kind(), ErrorKind::InvalidData);
        assert_eq!(
            rt.read_whole(dir.join("f"), 21_000)
                .await
                .expect("exact")
                .len(),
            21_000
        );
    });
}

#[test]
fn names_are_made_renamed_listed_and_removed() {
    let (rt, dir) = (rt(), TempDir::new("names"));
    rt.block_on(async {
        let deep = dir.join("a/b/c");
        rt.mkdir_all(&deep).await.expect("mkdir_all");
        rt.mkdir_all(&deep).await.expect("again");
        assert!(rt.stat(&deep).await.expect("stat").is_dir);
        rt.write_atomic(deep.join("two"), b"22".to_vec())
            .await
            .expect("write");
        rt.write_atomic(deep.join("one"), b"1".to_vec())
            .await
            .expect("write");
        rt.write_atomic(deep.join("one"), b"11".to_vec())
            .await
            .expect("replace");
        rt.mkdir(deep.join("sub")).await.expect("mkdir");
        let names = |entries: Vec<corelog_runtime::DirEntry>| -> Vec<(String, bool)> {
            entries
                .into_iter()
                .map(|entry| (entry.name, entry.is_dir))
                .collect()
        };
        let listed = names(rt.read_dir(&deep).await.expect("read_dir"));
        let file = |name: &str| (name.to_owned(), false);
        assert_eq!(listed, [file("one"), ("sub".to_owned(), true), file("two")]);
        assert_eq!(
            rt.read_whole(deep.join("one"), 10).await.expect("read"),
            b"11"
        );
        rt.rename(deep.join("two"), deep.join("three"))
            .await
            .expect("rename");
        rt.sync_dir(&deep).await.expect("sync_dir");
        rt.unlink(deep.join("one")).await.expect("unlink");
        rt.rmdir(deep.join("sub")).await.expect("rmdir");
        assert_eq!(
            names(rt.read_dir(&deep).await.expect("read_dir")),
            [file("three")]
        );
        let gone = rt.stat(deep.join("one")).await.expect_err("removed");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        let busy = rt
            .mkdir_all(deep.join("three/x"))
            .await
            .expect_err("a file is in the way");
        assert_eq!(busy.kind(), ErrorKind::NotADirectory);
        let space = rt.statfs(&deep).await.expect("statfs");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    });
}

#[test]
fn create_new_refuses_what_exists_and_truncate_cuts() {
    let (rt, dir) = (rt(), TempDir::new("create"));
    rt.block_on(async {
        let new = OpenOptions {
            write: true,
            create_new: true,
            ..OpenOptions::default()
        };
        let file = rt.open(dir.join("f"), new).await.expect("open");
        file.write_at(vec![Bytes::from_static(b"0123456789")], 0, false)
            .await
            .expect("write");
        file.fdatasync().await.expect("fdatasync");
        file.ftruncate(4).await.expect("ftruncate");
        assert_eq!(file.stat().await.expect("stat").len, 4);
        file.fallocate(FallocateMode::KeepSize, 0, 1 << 20)
            .await
            .expect("fallocate");
        assert_eq!(file.stat().await.expect("stat").len, 4, "the size was kept");
        let again = rt
            .open(dir.join("f"), new)
            .await
            .map(|_| ())
            .expect_err("exists");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let missing = rt.open(
            dir.join("g"),
            OpenOptions {
                read: true,
                ..Default::default()
            },
        );
        assert_eq!(
            missing.await.map(|_| ()).expect_err("none").kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn dropped_file_operations_give_their_buffers_back_at_their_last_completion() {
    let (rt, dir) = (rt(), TempDir::new("dropped"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), direct()).await.expect("open");
        let mut chunk = ChunkWriter::new(rt.pool(), 65536);
        chunk.append(&[9; 60_000]);
        for _ in 0..50 {
            let bufs = vec![chunk.write_slice(0)];
            let op = Op::WriteAt {
                file: file.handle().clone(),
                bufs,
                offset: 0,
                dsync: true,
            };
            drop(rt.submit(op));
            assert!(chunk.is_frozen(), "the kernel may still read it");
        }
        rt.drain().await;
        assert!(!chunk.is_frozen());
        assert_eq!(rt.counters().ops_in_flight, 0);
        file.write_at(vec![chunk.write_slice(0)], 0, true)
            .await
            .expect("write");
        let (read, buf) = file.read_at(rt.pool().get(4096), 0, BLOCK_BYTES).await;
        assert_eq!(read.expect("read"), BLOCK_BYTES);
        assert!(buf.iter().all(|&byte| byte == 9));
    });
}

#[test]
fn more_operations_than_the_ring_has_room_for_all_complete() {
    let (rt, dir) = (rt(), TempDir::new("many"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), buffered()).await.expect("open");
        let ops: Vec<_> = (0..1000u64)
            .map(|n| {
                let bufs = vec![Bytes::from(n.to_be_bytes().to_vec())];
                rt.submit(Op::WriteAt {
                    file: file.handle().clone(),
                    bufs,
                    offset: n * 8,
                    dsync: false,
                })
            })
            .collect();
        for op in ops {
            assert!(matches!(op.await.1, Ok(Output::Len(8))));
        }
        let whole = rt.read_whole(dir.join("f"), 8000).await.expect("read");
        let expected: Vec<u8> = (0..1000u64).flat_map(u64::to_be_bytes).collect();
        assert_eq!(whole, expected);
    });
}

#[test]
fn the_cache_probe_finds_what_was_just_written_through_the_cache() {
    let (rt, dir) = (rt(), TempDir::new("cached"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), buffered()).await.expect("open");
        file.write_at(vec![Bytes::from(vec![1; 300_000])], 0, false)
            .await
            .expect("write");
        let cached = rt.is_cached(file.handle(), 0, 300_000).expect("probe");
        assert_eq!(cached, Cached::All);
        let beyond = rt
            .is_cached(file.handle(), 0, 300_001)
            .expect_err("beyond the end");
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        // Written past the cache: the first probe misses.
        let other = rt.open(dir.join("g"), direct()).await.expect("open");
        let mut buf = rt.pool().get(65536);
        buf.set_len(65536);
        other
            .write_at(vec![buf.freeze()], 0, true)
            .await
            .expect("write");
        let view = rt.open(dir.join("g"), buffered()).await.expect("open");
        let cached = rt.is_cached(view.handle(), 8192, 100).expect("probe");
        assert_eq!(cached, Cached::MissingAt(8192));
    });
}

#[test]
fn advice_drops_pages_ends_read_ahead_and_begins_reads() {
    let (rt, dir) = (rt(), TempDir::new("advice"));
    rt.block_on(async {
        let file = rt.open(dir.join("f"), buffered()).await.expect("open");
        let len = 1 << 20;
        file.write_at(vec![Bytes::from(vec![3; len])], 0, false)
            .await
            .expect("write");
        file.fdatasync().await.expect("flush");
        let cached = || rt.is_cached(file.handle(), 0, len).expect("probe");
        assert_eq!(cached(), Cached::All);
        // By another descriptor: the pages are the file's.
        let other = rt.open(dir.join("f"), direct()).await.expect("open");
        other
            .fadvise(Advice::DontNeed, 0, 0)
            .await
            .expect("drop pages");
        file.fadvise(Advice::Random, 0, 0)
            .await
            .expect("no read-ahead");
        assert_eq!(cached(), Cached::MissingAt(0));
        let (read, buf) = file.read_at(rt.pool().get(1), 0, 1).await;
        assert_eq!((read.expect("read"), buf[0]), (1, 3));
        assert_eq!(cached(), Cached::MissingAt(64 << 10), "no page beside it");
        file.fadvise(Advice::WillNeed, 0, 1 << 40)
            .await
            .expect("a length beyond 32 bits");
        // A byte of each page waits for the reads that were begun.
        for at in (0..len as u64).step_by(4096) {
            let (read, _) = file.read_at(rt.pool().get(1), at, 1).await;
            assert_eq!(read.expect("read"), 1);
        }
        assert_eq!(cached(), Cached::All);
        file.fadvise(Advice::Normal, 0, 0)
            .await
            .expect("read-ahead again");
        let error = file.fadvise(Advice::Normal, 0, u64::MAX).await;
        assert_eq!(
            error.expect_err("a negative length").kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_path_with_a_nul_is_an_error_not_a_panic() {
    let rt = rt();
    rt.block_on(async {
        let error = rt.stat("a\0b").await.expect_err("no such path can be");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_lock_excludes_a_second_taker_until_it_is_dropped() {
    let dir = TempDir::new("lock");
    let path = dir.join(".lock");
    let lock = corelog_runtime::blocking::lock_file(&path)
        .expect("lock")
        .expect("free");
    assert!(
        corelog_runtime::blocking::lock_file(&path)
            .expect("lock")
            .is_none()
    );
    drop(lock);
    assert!(
        corelog_runtime::blocking::lock_file(&path)
            .expect("lock")
            .is_some()
    );
}

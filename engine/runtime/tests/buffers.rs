//! Pools, buffers, and the freezing rules of chunks.

use bytes::Bytes;
use corelog_runtime::{BLOCK_BYTES, BufferPool, ChunkWriter};
use proptest::prelude::*;

#[test]
fn buffers_are_aligned_zeroed_and_large_enough() {
    let pool = BufferPool::new(1 << 20);
    for len in [
        0,
        1,
        4095,
        4096,
        4097,
        70_000,
        1 << 20,
        (1 << 20) + 1,
        5_000_000,
    ] {
        let mut buf = pool.get(len);
        assert!(buf.capacity() >= len && buf.capacity().is_multiple_of(BLOCK_BYTES));
        assert_eq!(buf.len(), 0);
        assert!(
            buf.as_mut_slice()
                .as_ptr()
                .addr()
                .is_multiple_of(BLOCK_BYTES)
        );
        assert!(buf.as_mut_slice().iter().all(|&byte| byte == 0));
    }
}

#[test]
fn returned_buffers_are_reused_up_to_the_limit() {
    let pool = BufferPool::new(8192);
    let bufs: Vec<_> = (0..4).map(|_| pool.get(4096)).collect();
    assert_eq!(pool.allocated_bytes(), 16384);
    drop(bufs);
    assert_eq!((pool.allocated_bytes(), pool.free_bytes()), (8192, 8192));
    let _buf = pool.get(100);
    assert_eq!((pool.allocated_bytes(), pool.free_bytes()), (8192, 4096));
    drop(pool.get((1 << 20) + 1));
    assert_eq!(
        pool.allocated_bytes(),
        8192,
        "larger than a class: not kept"
    );
}

#[test]
fn a_frozen_buffer_returns_from_another_thread() {
    let pool = BufferPool::new(1 << 20);
    let mut buf = pool.get(10);
    buf.as_mut_slice()[..5].copy_from_slice(b"hello");
    buf.set_len(5);
    let bytes = buf.freeze();
    let half = bytes.slice(1..3);
    let thread = corelog_runtime::blocking::spawn("other", move || assert_eq!(&half[..], b"el"));
    thread.expect("a thread").join().expect("no panic");
    assert_eq!(pool.free_bytes(), 0);
    drop(bytes);
    assert_eq!(pool.free_bytes(), 4096);
}

#[test]
#[should_panic(expected = "length above capacity")]
fn a_length_above_the_capacity_is_refused() {
    BufferPool::new(0).get(1).set_len(4097);
}

#[test]
fn a_write_slice_is_padded_with_zeros_even_in_reused_memory() {
    let pool = BufferPool::new(1 << 20);
    let mut dirty = pool.get(4096);
    dirty.as_mut_slice().fill(0xff);
    drop(dirty);
    let mut chunk = ChunkWriter::new(&pool, 4096);
    chunk.append(b"abc");
    let write = chunk.write_slice(0);
    assert_eq!(write.len(), BLOCK_BYTES);
    assert_eq!(&write[..3], b"abc");
    assert!(write[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_live_write_slice_freezes_its_last_block_and_no_other() {
    let pool = BufferPool::new(0);
    let mut chunk = ChunkWriter::new(&pool, 16384);
    chunk.append(&[1; 5000]);
    let write = chunk.write_slice(0);
    assert_eq!(write.len(), 8192);
    assert!(chunk.is_frozen());
    let clone = write.slice(10..20);
    drop(write);
    assert!(chunk.is_frozen(), "a clone lives");
    chunk.skip_to_block();
    assert!(!chunk.is_frozen(), "the next block is free");
    chunk.append(&[2; 10]);
    assert_eq!(chunk.filled(), 8202);
    drop(clone);
    chunk.append(&[3; 10]);
    let aligned = {
        let mut chunk = ChunkWriter::new(&pool, 8192);
        chunk.append(&[4; 4096]);
        let write = chunk.write_slice(0);
        assert!(!chunk.is_frozen(), "whole blocks freeze nothing to come");
        chunk.append(&[5; 1]);
        write
    };
    assert!(
        aligned.iter().all(|&byte| byte == 4),
        "slices keep the chunk alive"
    );
}

#[test]
#[should_panic(expected = "a write of this block is in flight")]
fn appending_to_a_frozen_block_is_refused() {
    let pool = BufferPool::new(0);
    let mut chunk = ChunkWriter::new(&pool, 8192);
    chunk.append(b"x");
    let _write = chunk.write_slice(0);
    chunk.append(b"y");
}

#[test]
#[should_panic(expected = "the chunk is full")]
fn appending_beyond_the_capacity_is_refused() {
    let mut chunk = ChunkWriter::new(&BufferPool::new(0), 4096);
    chunk.append(&[0; 4097]);
}

#[test]
#[should_panic(expected = "only filled bytes are shared")]
fn slices_end_at_the_filled_prefix() {
    let mut chunk = ChunkWriter::new(&BufferPool::new(0), 4096);
    chunk.append(b"abc");
    let _slice = chunk.slice(0, 4);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Skip,
    Slice(usize, usize),
    Write(usize),
    DropOldest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..3000).prop_map(Step::Append),
        1 => Just(Step::Skip),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Step::Slice(a, b)),
        2 => any::<usize>().prop_map(Step::Write),
        2 => Just(Step::DropOldest),
    ]
}

proptest! {
    #[test]
    fn slices_never_change_while_the_chunk_grows(steps in proptest::collection::vec(step(), 1..60)) {
        let pool = BufferPool::new(1 << 20);
        let mut chunk = ChunkWriter::new(&pool, 65536);
        let mut model: Vec<u8> = Vec::new();
        let mut live: Vec<(Bytes, Vec<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    if bytes.len() <= chunk.remaining() && !chunk.is_frozen() {
                        chunk.append(&bytes);
                        model.extend_from_slice(&bytes);
                    }
                }
                Step::Skip => {
                    chunk.skip_to_block();
                    model.resize(model.len().next_multiple_of(BLOCK_BYTES), 0);
                }
                Step::Slice(a, b) => {
                    let (a, b) = (a % (model.len() + 1), b % (model.len() + 1));
                    let (start, end) = (a.min(b), a.max(b));
                    live.push((chunk.slice(start, end), model[start..end].to_vec()));
                }
                Step::Write(block) => {
                    let start = block % (model.len() / BLOCK_BYTES + 1) * BLOCK_BYTES;
                    let mut expected = model[start..].to_vec();
                    expected.resize(expected.len().next_multiple_of(BLOCK_BYTES), 0);
                    live.push((chunk.write_slice(start), expected));
                }
                Step::DropOldest => {
                    if !live.is_empty() {
                        live.remove(0);
                    }
                }
            }
            prop_assert_eq!(chunk.filled(), model.len());
            for (slice, expected) in &live {
                prop_assert_eq!(&slice[..], &expected[..]);
            }
        }
    }
}

//! The hot path allocates nothing per record: header, CRC and validation of uncompressed records.
//! And no length that bytes merely declare is allocated.

mod common;

use common::{rules, sample_batch};
use corelog_record::{BatchHeader, BatchView, Codec, validate};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LARGEST_BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is going away has no counter any more.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        let _ = LARGEST_BYTES.try_with(|n| n.set(n.get().max(layout.size())));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(1u64)))),
        1
    );
}

#[test]
fn a_declared_length_alone_allocates_nothing() {
    use corelog_record::codec::decompress;
    // A raw snappy block of 8 bytes that declares 1 GiB.
    let block = [0x80, 0x80, 0x80, 0x80, 0x04, 0, 0, 0];
    LARGEST_BYTES.set(0);
    assert!(decompress(Codec::Snappy, &block, usize::MAX).is_err());
    // A producer snapshot that declares 2^31 - 1 entries.
    let snapshot = [
        &[0, 1][..],
        &crc32c::crc32c(&[0x7f, 0xff, 0xff, 0xff]).to_be_bytes(),
    ]
    .concat();
    let snapshot = [&snapshot[..], &[0x7f, 0xff, 0xff, 0xff]].concat();
    assert!(corelog_record::schemas::producer_snapshot::decode(&snapshot).is_err());
    assert!(
        LARGEST_BYTES.get() < 1 << 20,
        "{} bytes at once",
        LARGEST_BYTES.get()
    );
}

#[test]
fn uncompressed_batches_are_checked_without_an_allocation() {
    let batch = sample_batch(Codec::None, 500, 1_000);
    let n = allocations(|| {
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.records_count, 500);
        assert!(BatchView::parse(&batch).unwrap().crc_ok());
        assert!(validate(&batch, &rules()).is_ok());
    });
    assert_eq!(n, 0);
}

#[test]
fn compressed_batches_cost_the_same_allocations_however_many_records_they_hold() {
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let of = |count| {
            let batch = sample_batch(codec, count, 10);
            allocations(|| assert!(validate(&batch, &rules()).is_ok()))
        };
        assert_eq!(of(2), of(2_000), "{codec}");
    }
}

//! How much a piece of work holds at most: an allocator that counts, and a bound to hold it against.
//!
//! Counted is what Rust code allocates, thread by thread. The one decoder that is not Rust, zstd's,
//! takes its memory elsewhere: `corelog_record::codec::memory_bytes` tells it beforehand.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which notes what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    if held > PEAK.get() {
        PEAK.set(held);
    }
}

// SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new lie side by side while one is copied into the other.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does the work, and tells the most bytes held meanwhile beyond what was held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let value = work();
    (usize::try_from(PEAK.get() - before).unwrap_or(0), value)
}

/// Does the work.
///
/// # Panics
/// When it held more than `limit_bytes`.
#[track_caller]
pub fn bounded<T>(what: &str, limit_bytes: usize, work: impl FnOnce() -> T) -> T {
    let (peak, value) = peak_of(work);
    assert!(
        peak <= limit_bytes,
        "{what}: {peak} bytes held, {limit_bytes} are allowed"
    );
    value
}

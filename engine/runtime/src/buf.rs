//! Aligned memory: pooled buffers for direct I/O and append-only chunks shared with readers.
//!
//! Everything here is `Send`: a buffer may be freed on another thread than the one it came from
//! and finds its way back to its pool.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::SegQueue;

/// Unit of direct I/O in bytes: alignment of memory, file offsets and lengths.
pub const BLOCK_BYTES: usize = 4096;

/// Capacities of pooled buffers in bytes, ascending.
const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Owned, zero-initialised, block-aligned memory without a pool.
struct Region {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a Region owns its memory alone, like a Box<[u8]>; nothing in it is bound to a thread.
unsafe impl Send for Region {}
// SAFETY: shared access to a Region only reads the pointer and the capacity; who may touch the
// bytes is decided by the owners below.
unsafe impl Sync for Region {}

impl Region {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("capacities stay below isize::MAX")
    }

    /// `capacity` is a positive multiple of [`BLOCK_BYTES`].
    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        match NonNull::new(ptr) {
            Some(ptr) => Self { ptr, capacity },
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout and freed once, here.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) }
    }
}

struct PoolInner {
    free: [SegQueue<Region>; CLASS_BYTES.len()],
    free_bytes: AtomicUsize,
    free_bytes_max: usize,
    allocated_bytes: AtomicUsize,
}

/// Source of aligned buffers. Cheap to clone; free lists are lock-free, so buffers may be
/// returned by any thread.
#[derive(Clone)]
pub struct BufferPool(Arc<PoolInner>);

impl BufferPool {
    /// Makes a pool that keeps at most `free_bytes_max` bytes of returned buffers for reuse.
    pub fn new(free_bytes_max: usize) -> Self {
        Self(Arc::new(PoolInner {
            free: std::array::from_fn(|_| SegQueue::new()),
            free_bytes: AtomicUsize::new(0),
            free_bytes_max,
            allocated_bytes: AtomicUsize::new(0),
        }))
    }

    /// Gives an empty buffer (`len() == 0`) with room for at least `len` bytes. Sizes above the
    /// largest class are rounded up to whole blocks and are not kept for reuse.
    pub fn get(&self, len: usize) -> AlignedBuf {
        AlignedBuf {
            block: self.block(len),
            len: 0,
        }
    }

    /// Bytes obtained from the allocator and not given back: those in use and those kept free.
    pub fn allocated_bytes(&self) -> usize {
        self.0.allocated_bytes.load(Ordering::Relaxed)
    }

    /// Bytes kept for reuse.
    pub fn free_bytes(&self) -> usize {
        self.0.free_bytes.load(Ordering::Relaxed)
    }

    fn block(&self, len: usize) -> Block {
        let class = CLASS_BYTES.iter().position(|&bytes| len <= bytes);
        let capacity = match class {
            Some(class) => CLASS_BYTES[class],
            None => len
                .checked_next_multiple_of(BLOCK_BYTES)
                .expect("a length that fits memory"),
        };
        let reused = class.and_then(|class| self.0.free[class].pop());
        let region = match reused {
            Some(region) => {
                self.0.free_bytes.fetch_sub(capacity, Ordering::Relaxed);
                region
            }
            None => {
                self.0
                    .allocated_bytes
                    .fetch_add(capacity, Ordering::Relaxed);
                Region::new(capacity)
            }
        };
        Block {
            region: Some(region),
            pool: self.0.clone(),
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("allocated_bytes", &self.allocated_bytes())
            .field("free_bytes", &self.free_bytes())
            .finish()
    }
}

impl PoolInner {
    fn put_back(&self, region: Region) {
        let capacity = region.capacity;
        if let Some(class) = CLASS_BYTES.iter().position(|&bytes| bytes == capacity) {
            // Reserve room first, so that racing threads cannot overshoot the limit together.
            let kept = self.free_bytes.fetch_add(capacity, Ordering::Relaxed);
            if kept + capacity <= self.free_bytes_max {
                self.free[class].push(region);
                return;
            }
            self.free_bytes.fetch_sub(capacity, Ordering::Relaxed);
        }
        self.allocated_bytes.fetch_sub(capacity, Ordering::Relaxed);
    }
}

/// A region on loan from its pool.
struct Block {
    /// Present until drop.
    region: Option<Region>,
    pool: Arc<PoolInner>,
}

impl Block {
    fn region(&self) -> &Region {
        self.region.as_ref().expect("present until drop")
    }

    fn ptr(&self) -> *mut u8 {
        self.region().ptr.as_ptr()
    }

    fn capacity(&self) -> usize {
        self.region().capacity
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.pool.put_back(region);
        }
    }
}

/// Block-aligned owned memory, always initialised (zeros when fresh, older bytes when reused).
///
/// `Send`; goes back to its pool on drop, from any thread.
pub struct AlignedBuf {
    block: Block,
    len: usize,
}

impl AlignedBuf {
    /// Bytes of memory, a multiple of [`BLOCK_BYTES`].
    pub fn capacity(&self) -> usize {
        self.block.capacity()
    }

    /// Bytes in use, from the start.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No byte is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the bytes in use; panics when `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length above capacity");
        self.len = len;
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory is owned, initialised and at least `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.block.ptr(), self.len) }
    }

    /// All bytes up to the capacity, whatever the length.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: owned alone (&mut self), initialised, `capacity` bytes long.
        unsafe { std::slice::from_raw_parts_mut(self.block.ptr(), self.capacity()) }
    }

    /// Makes the bytes in use immutable and shared, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// Memory of a chunk with the number of live write slices over each block's unfinished tail.
struct Chunk {
    block: Block,
    /// Per block: write slices alive that end in it beyond the bytes filled at their making.
    frozen: Box<[AtomicU32]>,
}

// SAFETY: bytes below the writer's `filled` never change, so that slices of them may be read from
// any thread; bytes above it are touched only by the one ChunkWriter, which asserts that no write
// slice covers them. `frozen` is atomic.
unsafe impl Sync for Chunk {}

/// Single-writer, append-only, block-aligned memory whose filled prefix is shared without copies.
///
/// `Send`, with one owner: the only one who writes.
pub struct ChunkWriter {
    chunk: Arc<Chunk>,
    filled: usize,
}

impl ChunkWriter {
    /// Takes at least `capacity` bytes from the pool.
    pub fn new(pool: &BufferPool, capacity: usize) -> Self {
        let block = pool.block(capacity.max(1));
        let blocks = block.capacity() / BLOCK_BYTES;
        let frozen = (0..blocks).map(|_| AtomicU32::new(0)).collect();
        Self {
            chunk: Arc::new(Chunk { block, frozen }),
            filled: 0,
        }
    }

    /// Bytes of memory, a multiple of [`BLOCK_BYTES`].
    pub fn capacity(&self) -> usize {
        self.chunk.block.capacity()
    }

    /// Bytes appended (and skipped) so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.filled
    }

    /// Copies `bytes` behind the filled prefix. Panics when they do not fit, or when a live write
    /// slice freezes the block they would touch ([`ChunkWriter::is_frozen`]).
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "the chunk is full");
        if bytes.is_empty() {
            return;
        }
        assert!(!self.is_frozen(), "a write of this block is in flight");
        // SAFETY: the range [filled, filled + len) lies in the chunk; no slice covers it (slices
        // end at `filled`, and write slices beyond it are excluded by the assertion above, later
        // blocks are covered by none); `bytes` cannot overlap it, as it is a shared borrow.
        unsafe {
            let to = self.chunk.block.ptr().add(self.filled);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.filled += bytes.len();
    }

    /// Moves to the next block boundary; the bytes skipped read as zeros.
    pub fn skip_to_block(&mut self) {
        self.zero_padding();
        self.filled = self.filled.next_multiple_of(BLOCK_BYTES);
    }

    /// Shares `[start, end)` of the filled prefix without a copy. The slice keeps the chunk alive.
    pub fn slice(&self, start: usize, end: usize) -> Bytes {
        assert!(
            start <= end && end <= self.filled,
            "only filled bytes are shared"
        );
        Bytes::from_owner(ChunkSlice {
            chunk: self.chunk.clone(),
            start,
            end,
            frozen_block: None,
        })
    }

    /// Shares `[start, filled)` padded with zeros to a whole block, for a direct write. `start` is
    /// block aligned. While the slice or a clone of it lives, its last block takes no appends.
    pub fn write_slice(&mut self, start: usize) -> Bytes {
        assert!(
            start.is_multiple_of(BLOCK_BYTES) && start <= self.filled,
            "write slices start at a filled block"
        );
        self.zero_padding();
        let end = self.filled.next_multiple_of(BLOCK_BYTES);
        let frozen_block = (end != self.filled).then_some(self.filled / BLOCK_BYTES);
        if let Some(block) = frozen_block {
            self.chunk.frozen[block].fetch_add(1, Ordering::Relaxed);
        }
        Bytes::from_owner(ChunkSlice {
            chunk: self.chunk.clone(),
            start,
            end,
            frozen_block,
        })
    }

    /// A live write slice covers the block the next append would touch.
    pub fn is_frozen(&self) -> bool {
        if self.filled.is_multiple_of(BLOCK_BYTES) {
            return false;
        }
        // Acquire pairs with the release in ChunkSlice::drop: its reads are over.
        self.chunk.frozen[self.filled / BLOCK_BYTES].load(Ordering::Acquire) != 0
    }

    /// Zeroes from `filled` to its block's end, unless a live write slice did so already.
    fn zero_padding(&mut self) {
        let end = self.filled.next_multiple_of(BLOCK_BYTES);
        if end == self.filled || self.is_frozen() {
            return;
        }
        // SAFETY: [filled, end) lies in the chunk (capacities are whole blocks), and no slice
        // covers it: none ends beyond `filled` but write slices, and the block is not frozen.
        unsafe {
            std::ptr::write_bytes(
                self.chunk.block.ptr().add(self.filled),
                0,
                end - self.filled,
            )
        }
    }
}

impl fmt::Debug for ChunkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkWriter")
            .field("filled", &self.filled)
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// Owner behind a `Bytes` of a chunk.
struct ChunkSlice {
    chunk: Arc<Chunk>,
    start: usize,
    end: usize,
    frozen_block: Option<usize>,
}

impl AsRef<[u8]> for ChunkSlice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: in bounds and initialised; the writer never changes bytes below its `filled` at
        // the making of this slice, nor the padding of the block frozen by it.
        unsafe {
            std::slice::from_raw_parts(
                self.chunk.block.ptr().add(self.start),
                self.end - self.start,
            )
        }
    }
}

impl Drop for ChunkSlice {
    fn drop(&mut self) {
        if let Some(block) = self.frozen_block {
            self.chunk.frozen[block].fetch_sub(1, Ordering::Release);
        }
    }
}

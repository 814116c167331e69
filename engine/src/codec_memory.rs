//! Memory of codecs on one shard: taken before a batch is decompressed or compressed.
//!
//! A batch of a few bytes may make a decoder fill a window of 128 MiB, and thousands of connections
//! may send one at once. What a batch can cost is told by its bytes beforehand; batches wait for
//! one another where that is more than there is. Who holds memory here waits for nobody but the
//! codec, or has its turn in its partition's order: nobody waits in a circle.

use corelog_record::BatchHeader;
use corelog_record::batch::HEADER_BYTES;
use corelog_record::codec::{Codec, memory_bytes};
use corelog_runtime::sync::{Permit, Semaphore};

/// State of a compressor: gzip's and snappy's tables, lz4's block, zstd's smallest context.
const COMPRESSOR_BYTES: usize = 1 << 20;
/// What zstd's tables take at most per byte of its content, at the highest levels.
const ZSTD_TABLE_FACTOR: usize = 8;

/// The shard's share.
#[derive(Debug)]
pub struct CodecMemory {
    bytes: Semaphore,
    bytes_max: usize,
    jobs: Semaphore,
}

impl CodecMemory {
    /// Shares out `bytes`. A batch that needs more than all of it gets all of it.
    pub fn new(bytes: usize) -> CodecMemory {
        let bytes_max = bytes.max(1);
        CodecMemory {
            bytes: Semaphore::new(bytes_max),
            bytes_max,
            jobs: Semaphore::new(1),
        }
    }

    /// Waits for memory to decompress a batch with; `None` when it takes none.
    pub async fn to_read(&self, batch: &[u8], limit_bytes: usize) -> Option<Permit> {
        match decompressor_bytes(batch, limit_bytes) {
            0 => None,
            bytes => Some(self.bytes.acquire(bytes.min(self.bytes_max)).await),
        }
    }

    /// Waits for memory to make a batch anew with another codec, and for this shard's turn on the
    /// threads that do so: one batch at a time.
    pub async fn to_recompress(&self, terms: &RecompressTerms<'_>) -> (Permit, Permit) {
        let job = self.jobs.acquire(1).await;
        let bytes = terms.bytes().min(self.bytes_max);
        (job, self.bytes.acquire(bytes).await)
    }
}

/// What decides the cost of a recompression.
#[derive(Debug, Clone, Copy)]
pub struct RecompressTerms<'a> {
    /// The batch as it came.
    pub batch: &'a [u8],
    /// Bytes of its records.
    pub decompressed_bytes: usize,
    /// The codec it gets.
    pub codec: Codec,
    /// Most bytes of the new batch.
    pub batch_bytes_max: usize,
}

impl RecompressTerms<'_> {
    fn bytes(&self) -> usize {
        let read = decompressor_bytes(self.batch, self.decompressed_bytes);
        let tables = match self.codec {
            Codec::Zstd => self.decompressed_bytes.saturating_mul(ZSTD_TABLE_FACTOR),
            Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 => 0,
        };
        // The new batch is no larger than it may be, nor much larger than what goes into it.
        let out = self
            .decompressed_bytes
            .saturating_mul(2)
            .min(self.batch_bytes_max);
        COMPRESSOR_BYTES
            .saturating_add(read)
            .saturating_add(tables)
            .saturating_add(out)
    }
}

fn decompressor_bytes(batch: &[u8], limit_bytes: usize) -> usize {
    // What is no batch is not decompressed.
    let codec = BatchHeader::parse(batch).and_then(|header| header.codec());
    match (codec, batch.get(HEADER_BYTES..)) {
        (Ok(codec), Some(payload)) => memory_bytes(codec, payload, limit_bytes),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use corelog_record::BatchBuilder;
    use corelog_runtime::sim::{SimConfig, SimWorld, run_until_crash};
    use std::time::Duration;

    use super::*;

    fn bomb() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::Zstd, 0);
        builder.append(0, None, Some(&vec![0; 32 << 20]), &[]);
        builder.build()
    }

    #[test]
    fn r20_batches_that_decompress_to_much_wait_for_one_another_and_others_do_not() {
        let bomb = bomb();
        assert!(bomb.len() < 16 << 10);
        let world = SimWorld::new(1, SimConfig::default());
        let done = run_until_crash(&world, |rt| async move {
            let memory = CodecMemory::new(4 << 20);
            let first = memory.to_read(&bomb, 256 << 20).await;
            assert!(first.is_some());
            let soon = Duration::from_millis(1);
            let mut second = Box::pin(memory.to_read(&bomb, 256 << 20));
            assert!(rt.timeout(soon, &mut second).await.is_none());
            // A batch that is not compressed, and bytes that are no batch, cost nothing.
            let mut plain = BatchBuilder::new(Codec::None, 0);
            plain.append(0, None, None, &[]);
            assert!(memory.to_read(&plain.build(), 256 << 20).await.is_none());
            assert!(memory.to_read(&[0xff; 200], 256 << 20).await.is_none());
            drop(first);
            assert!(second.await.is_some());
            true
        });
        assert_eq!(done, Some(true));
    }
}

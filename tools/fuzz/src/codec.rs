//! Decompression: whole and piece by piece alike, within the limit on what comes out and within
//! the memory that was told beforehand.

use corelog_record::codec::{Codec, CodecError, Decompressor, compress, decompress, memory_bytes};

use crate::memory::bounded;
use crate::take;

/// Errors, and the decoder's own struct.
const SLACK_BYTES: usize = 4096;

/// gzip.
pub fn gzip(data: &[u8]) {
    check(Codec::Gzip, data);
}

/// snappy.
pub fn snappy(data: &[u8]) {
    check(Codec::Snappy, data);
}

/// lz4.
pub fn lz4(data: &[u8]) {
    check(Codec::Lz4, data);
}

/// zstd.
pub fn zstd(data: &[u8]) {
    check(Codec::Zstd, data);
}

fn check(codec: Codec, data: &[u8]) {
    let mut rest = data;
    let [limit, step] = take::<2>(&mut rest);
    // 0, 1, 3, 7 ... 32 KiB - 1, or one of two larger ones.
    let limit_bytes = match limit & 15 {
        15 => 1 << 20,
        n => (1usize << n) - 1,
    };
    let step = usize::from(step).max(1);
    let memory = memory_bytes(codec, rest, limit_bytes) + SLACK_BYTES;
    let piecewise = bounded("decompressor", memory + step, || {
        let mut chunk = vec![0; step];
        let mut decompressor = Decompressor::new(codec, rest, limit_bytes)?;
        let mut hash = Hash::default();
        loop {
            match decompressor.read_chunk(&mut chunk)? {
                0 => break,
                n => hash.update(&chunk[..n]),
            }
        }
        assert_eq!(decompressor.read_chunk(&mut chunk), Ok(0), "the end stays");
        assert_eq!(decompressor.produced_bytes(), hash.bytes);
        Ok::<_, CodecError>(hash)
    });
    // The output doubles as it grows, and starts at up to 1 MiB that the limit bounds.
    let whole = bounded("decompress", memory + 3 * limit_bytes, || {
        decompress(codec, rest, limit_bytes)
    });
    match (&piecewise, &whole) {
        (Ok(hash), Ok(out)) => {
            assert!(out.len() <= limit_bytes);
            let mut expected = Hash::default();
            expected.update(out);
            assert_eq!(*hash, expected);
            assert_eq!(
                decompress(codec, &compress(codec, None, out), limit_bytes).as_ref(),
                Ok(out)
            );
        }
        // What is said of a damaged stream depends on where the decoder meets the damage.
        (Err(CodecError::Corrupt { .. }), Err(CodecError::Corrupt { .. })) => {}
        (Err(one), Err(other)) => assert_eq!(one, other),
        _ => panic!("{piecewise:?} in steps of {step}, {whole:?} at once"),
    }
}

/// FNV-1a, and how many bytes.
#[derive(Debug, PartialEq, Eq)]
struct Hash {
    value: u64,
    bytes: usize,
}

impl Default for Hash {
    fn default() -> Hash {
        Hash {
            value: 0xcbf2_9ce4_8422_2325,
            bytes: 0,
        }
    }
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.value = (self.value ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.bytes += bytes.len();
    }
}

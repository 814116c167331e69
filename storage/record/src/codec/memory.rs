//! What a decompressor will hold, told from the compressed bytes alone, before it takes any.

use super::{Codec, lz4};

/// State of an inflater: a window of 32 KiB, tables and buffers.
const GZIP_BYTES: usize = 128 << 10;
/// State of a zstd decoder: its tables, and buffers for one block of input and output.
const ZSTD_BYTES: usize = 512 << 10;
/// Largest block of zstd, compressed or not.
const ZSTD_BLOCK_BYTES_MAX: usize = 128 << 10;
/// Fewest bytes a block takes: its header, and the byte it repeats.
const ZSTD_BLOCK_BYTES_MIN: usize = 4;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Most bytes that a [`super::Decompressor`] of this payload holds at once, besides its output,
/// when at most `limit_bytes` may come out. Costs a look at the frame headers. What a payload
/// merely announces does not count: memory is taken for what its bytes can become.
pub fn memory_bytes(codec: Codec, payload: &[u8], limit_bytes: usize) -> usize {
    match codec {
        Codec::None => 0,
        Codec::Gzip => GZIP_BYTES,
        // One block, or all of an unframed payload, as far as the limit allows.
        Codec::Snappy => {
            let expanded = payload.len().saturating_mul(super::SNAPPY_EXPANSION_MAX);
            2 * expanded.min(limit_bytes)
        }
        Codec::Lz4 => {
            let expanded = payload.len().saturating_mul(lz4::EXPANSION_MAX);
            expanded.min(lz4::BLOCK_BYTES_MAX)
        }
        Codec::Zstd => ZSTD_BYTES + zstd_window_bytes(payload, limit_bytes),
    }
}

/// The largest window of the frames, as far as it can be filled: pages of a window that nothing
/// was written to are not in memory.
fn zstd_window_bytes(payload: &[u8], limit_bytes: usize) -> usize {
    let mut window = 0;
    let mut rest = payload;
    while !rest.is_empty() {
        window = window.max(zstd_frame_window_bytes(rest));
        match zstd::zstd_safe::find_frame_compressed_size(rest) {
            Ok(len) if len > 0 && len < rest.len() => rest = &rest[len..],
            // The last frame, or one that the decoder does not get past either.
            _ => break,
        }
    }
    let blocks = payload.len() / ZSTD_BLOCK_BYTES_MIN + 1;
    let window = usize::try_from(window).unwrap_or(usize::MAX);
    window
        .min(limit_bytes)
        .min(blocks.saturating_mul(ZSTD_BLOCK_BYTES_MAX))
}

/// The window that the header of a frame announces; 0 when it is no frame of data, or not whole.
fn zstd_frame_window_bytes(frame: &[u8]) -> u64 {
    let Some((ZSTD_MAGIC, [descriptor, fields @ ..])) = frame
        .split_first_chunk::<4>()
        .map(|(magic, rest)| (*magic, rest))
    else {
        return 0;
    };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(window) = fields.first() else {
            return 0;
        };
        let base = 1u64 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    // Without a window of its own, the frame is its window: its size follows the dictionary's id.
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = 1usize << (descriptor >> 6);
    let Some(size) = fields.get(dictionary_bytes..dictionary_bytes + size_bytes) else {
        return 0;
    };
    let mut size_le = [0; 8];
    size_le[..size_bytes].copy_from_slice(size);
    let size = u64::from_le_bytes(size_le);
    // Two bytes count from 256 on.
    if size_bytes == 2 { size + 256 } else { size }
}

#[cfg(test)]
mod tests {
    use super::super::compress;
    use super::*;

    fn zstd_of(level: i32, log: u32, bytes: &[u8], pledged: bool) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        encoder.window_log(log).unwrap();
        if pledged {
            encoder
                .set_pledged_src_size(Some(bytes.len() as u64))
                .unwrap();
            encoder.include_contentsize(true).unwrap();
        }
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_window_of_a_zstd_frame_is_read_from_its_header() {
        for log in [10, 17, 21, 27] {
            let frame = zstd_of(1, log, &[7; 100], false);
            assert_eq!(zstd_frame_window_bytes(&frame), 1 << log);
        }
        for len in [10usize, 255, 256, 300, 65_791, 65_792, 100_000] {
            let frame = zstd_of(1, 20, &vec![7; len], true);
            assert_eq!(zstd_frame_window_bytes(&frame), len as u64, "{len} bytes");
        }
        assert_eq!(zstd_frame_window_bytes(b"\x28\xb5\x2f\xfd"), 0);
        assert_eq!(zstd_frame_window_bytes(b"\x28\xb5\x2f\xfd\x20"), 0);
        assert_eq!(zstd_frame_window_bytes(b"not zstd"), 0);
    }

    #[test]
    fn the_largest_window_of_all_frames_counts_as_far_as_it_can_be_filled() {
        let data = vec![7; 1 << 20];
        let mut frames = zstd_of(1, 17, &data, false);
        frames.extend(zstd_of(1, 27, &data, false));
        let told = |payload: &[u8], limit| memory_bytes(Codec::Zstd, payload, limit) - ZSTD_BYTES;
        assert_eq!(told(&frames, 1 << 20), 1 << 20, "the limit");
        let blocks = frames.len() / ZSTD_BLOCK_BYTES_MIN + 1;
        let fill = blocks * ZSTD_BLOCK_BYTES_MAX;
        assert!(fill < 1 << 27);
        assert_eq!(told(&frames, 1 << 28), fill, "what the bytes can become");
    }

    #[test]
    fn a_few_bytes_are_told_to_cost_little_whatever_they_announce() {
        let lz4 = compress(Codec::Lz4, None, b"abc");
        assert!(memory_bytes(Codec::Lz4, &lz4, 1 << 28) < 16 << 10);
        let snappy = b"\xff\xff\xff\xff\x0f";
        assert!(memory_bytes(Codec::Snappy, snappy, 1 << 28) < 1 << 10);
        let zstd = zstd_of(1, 27, b"abc", false);
        assert!(memory_bytes(Codec::Zstd, &zstd, 1 << 28) < 2 << 20);
    }
}

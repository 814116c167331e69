//! Every codec both ways, against another implementation, and against hostile streams.

mod common;

use bytes::Bytes;
use common::{build, sample, sample_batch};
use corelog_record::codec::{Decompressor, SNAPPY_MAGIC, compress, decompress};
use corelog_record::{BatchBuilder, BatchView, Codec, CodecError};
use kafka_protocol::records::{
    Compression, Record as OracleRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType as OracleTimestampType,
};
use proptest::prelude::*;
use std::io::{Read, Write};

const COMPRESSED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn oracle_compression(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn oracle_records(count: usize, value_bytes: usize) -> Vec<OracleRecord> {
    sample(count, value_bytes)
        .into_iter()
        .enumerate()
        .map(|(i, plain)| OracleRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: OracleTimestampType::Creation,
            offset: i as i64,
            sequence: i as i32 - 1,
            timestamp: plain.timestamp,
            key: plain.key.map(Bytes::from),
            value: plain.value.map(Bytes::from),
            headers: plain
                .headers
                .into_iter()
                .map(|(k, v)| (k.into(), v.map(Bytes::from)))
                .collect(),
        })
        .collect()
}

#[test]
fn r14_another_implementation_reads_what_the_builder_makes() {
    for codec in Codec::ALL {
        for (count, value_bytes) in [(1, 0), (3, 10), (500, 1_000)] {
            let batch = sample_batch(codec, count, value_bytes);
            let read = RecordBatchDecoder::decode(&mut Bytes::from(batch)).unwrap();
            let expected = oracle_records(count, value_bytes);
            assert_eq!(read.records.len(), count, "{codec}");
            for (ours, theirs) in expected.iter().zip(&read.records) {
                assert_eq!(
                    (&ours.key, &ours.value, &ours.headers),
                    (&theirs.key, &theirs.value, &theirs.headers)
                );
                assert_eq!(
                    (ours.timestamp, ours.offset),
                    (theirs.timestamp, theirs.offset)
                );
            }
        }
    }
}

#[test]
fn r14_what_another_implementation_makes_is_read() {
    for codec in Codec::ALL {
        let records = oracle_records(300, 700);
        let mut out = bytes::BytesMut::new();
        let options = RecordEncodeOptions {
            version: 2,
            compression: oracle_compression(codec),
        };
        RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
        let view = BatchView::parse(&out).unwrap();
        assert!(view.crc_ok());
        assert_eq!(view.header.codec().unwrap(), codec);
        let decompressed = view.decompressed_records(1 << 20).unwrap();
        let mut count = 0;
        for (record, expected) in decompressed.iter().zip(&records) {
            let record = record.unwrap();
            assert_eq!(record.key, expected.key.as_deref(), "{codec}");
            assert_eq!(record.value, expected.value.as_deref());
            assert_eq!(record.header_count as usize, expected.headers.len());
            count += 1;
        }
        assert_eq!(count, 300);
    }
}

#[test]
fn r14_levels_are_taken_and_clamped() {
    let bytes = build(BatchBuilder::new(Codec::None, 0), &sample(200, 500));
    for codec in COMPRESSED {
        for level in [None, Some(i32::MIN), Some(1), Some(9), Some(i32::MAX)] {
            let compressed = compress(codec, level, &bytes);
            assert_eq!(
                decompress(codec, &compressed, bytes.len()).unwrap(),
                bytes,
                "{codec} {level:?}"
            );
        }
    }
    let ratio = |level| compress(Codec::Zstd, Some(level), &bytes).len();
    assert!(
        ratio(19) <= ratio(-100),
        "a higher level does not make more bytes here"
    );
}

#[test]
fn snappy_raw_blocks_and_concatenated_framing_are_read() {
    let text = b"raw block ".repeat(10_000);
    let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw, text.len()).unwrap(), text);
    let framed = compress(Codec::Snappy, None, &text);
    assert!(framed.starts_with(&SNAPPY_MAGIC));
    let twice = [framed.clone(), framed].concat();
    assert_eq!(
        decompress(Codec::Snappy, &twice, 2 * text.len()).unwrap(),
        text.repeat(2)
    );
}

#[test]
fn gzip_members_and_zstd_frames_may_follow_each_other() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let twice = [
            compress(codec, None, b"one, "),
            compress(codec, None, b"two"),
        ]
        .concat();
        assert_eq!(decompress(codec, &twice, 100).unwrap(), b"one, two");
    }
}

#[test]
fn lz4_frames_with_dependent_blocks_are_refused() {
    let frame = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
    encoder.write_all(&b"abc".repeat(100)).unwrap();
    let linked = encoder.finish().unwrap();
    assert!(matches!(
        decompress(Codec::Lz4, &linked, 1_000),
        Err(CodecError::Corrupt { .. })
    ));
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let text: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(n) >> 5) as u8)
        .collect();
    for codec in COMPRESSED {
        let whole = compress(codec, None, &text);
        let step = 1 + whole.len() / 500;
        for cut in (1..whole.len())
            .step_by(step)
            .chain(whole.len() - 20..whole.len())
        {
            let result = decompress(codec, &whole[..cut], text.len());
            // Snappy framing has no end mark: a cut between blocks shows only in the number of
            // records.
            let between_blocks =
                codec == Codec::Snappy && result.as_ref().is_ok_and(|out| out.len() % 32_768 == 0);
            assert!(
                result.is_err() || between_blocks,
                "{codec} cut at {cut} of {}",
                whole.len()
            );
        }
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let zeros = vec![0u8; 32 << 20];
    let limit_bytes = 1 << 20;
    for codec in COMPRESSED {
        let bomb = compress(codec, None, &zeros);
        assert!(bomb.len() < zeros.len() / 15, "{codec} compresses zeros");
        assert_eq!(
            decompress(codec, &bomb, limit_bytes),
            Err(CodecError::LimitExceeded { limit_bytes }),
            "{codec}"
        );
        let mut reader = Decompressor::new(codec, &bomb, limit_bytes).unwrap();
        let mut out = Vec::new();
        assert!(reader.read_to_end(&mut out).is_err());
        assert!(out.len() <= limit_bytes);
        assert_eq!(
            decompress(codec, &bomb, zeros.len()).map(|out| out.len()),
            Ok(zeros.len()),
            "{codec}"
        );
    }
    let raw_bomb = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    assert_eq!(
        decompress(Codec::Snappy, &raw_bomb, limit_bytes),
        Err(CodecError::LimitExceeded { limit_bytes })
    );
}

#[test]
fn a_snappy_length_that_its_bytes_cannot_hold_is_refused_before_the_allocation() {
    // A declared length of 2^31 in a block of 8 bytes.
    let block = [0x80, 0x80, 0x80, 0x80, 0x08, 0, 0, 0];
    assert!(matches!(
        decompress(Codec::Snappy, &block, usize::MAX),
        Err(CodecError::Corrupt {
            codec: Codec::Snappy,
            ..
        })
    ));
    let long_block = [
        &SNAPPY_MAGIC[..],
        &[0, 0, 0, 1, 0, 0, 0, 1],
        &[0xff, 0xff, 0xff, 0xff],
        &[0; 8],
    ]
    .concat();
    assert!(matches!(
        decompress(Codec::Snappy, &long_block, usize::MAX),
        Err(CodecError::Corrupt { .. })
    ));
}

#[test]
fn the_limit_is_exact() {
    for codec in Codec::ALL {
        let compressed = compress(codec, None, &[7; 1_000]);
        assert_eq!(
            decompress(codec, &compressed, 1_000).unwrap(),
            [7; 1_000],
            "{codec}"
        );
        assert_eq!(
            decompress(codec, &compressed, 999),
            Err(CodecError::LimitExceeded { limit_bytes: 999 })
        );
        let empty = compress(codec, None, b"");
        assert_eq!(decompress(codec, &empty, 0).unwrap(), b"", "{codec}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn r14_round_trip(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..3_000),
            (proptest::collection::vec(any::<u8>(), 1..50), 1usize..5_000).prop_map(|(unit, n)| unit.repeat(n)),
        ],
        codec in proptest::sample::select(&Codec::ALL[..]),
        chunk_bytes in 1usize..70_000,
    ) {
        let compressed = compress(codec, None, &bytes);
        prop_assert_eq!(&decompress(codec, &compressed, bytes.len()).unwrap(), &bytes);
        let mut reader = Decompressor::new(codec, &compressed, bytes.len()).unwrap();
        let mut out = Vec::new();
        let mut chunk = vec![0; chunk_bytes];
        loop {
            let n = reader.read_chunk(&mut chunk).unwrap();
            if n == 0 { break; }
            out.extend_from_slice(&chunk[..n]);
        }
        prop_assert_eq!(out, bytes);
        prop_assert_eq!(reader.read_chunk(&mut chunk), Ok(0));
    }

    #[test]
    fn damaged_streams_are_refused_or_stay_below_the_limit(
        codec in proptest::sample::select(&COMPRESSED[..]),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..6),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut stream = compress(codec, None, &b"some text to damage, ".repeat(300));
        for (at, bit) in flips {
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
        }
        if cut { stream.truncate(keep.index(stream.len())); }
        if let Ok(out) = decompress(codec, &stream, 20_000) { prop_assert!(out.len() <= 20_000); }
    }

    #[test]
    fn any_bytes_are_refused_or_stay_below_the_limit(
        codec in proptest::sample::select(&COMPRESSED[..]),
        magic in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut stream = if magic { compress(codec, None, b"")[..4].to_vec() } else { Vec::new() };
        stream.extend_from_slice(&bytes);
        if let Ok(out) = decompress(codec, &stream, 10_000) { prop_assert!(out.len() <= 10_000); }
    }
}

#[test]
fn zstd_frames_are_held_against_what_they_announce_however_they_are_read() {
    // One block of five bytes and an empty last one, in a frame that announces 13,825 bytes.
    let frame = b"\x28\xb5\x2f\xfd\x60\x01\x35\x28\0\0\0\x2f\xfd\x20\0\x01\0\0";
    let expected = decompress(Codec::Zstd, frame, 1 << 20);
    assert!(matches!(expected, Err(CodecError::Corrupt { .. })));
    for step in [1, 4, 5, 6, 200, 100_000] {
        let mut out = vec![0; step];
        let mut reader = Decompressor::new(Codec::Zstd, frame, 1 << 20).unwrap();
        let end = loop {
            match reader.read_chunk(&mut out) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        assert!(
            matches!(end, Err(CodecError::Corrupt { .. })),
            "in steps of {step}"
        );
    }
    // Frames of known and unknown size, one skipped, one empty.
    let mut frames = compress(Codec::Zstd, None, b"one");
    frames.extend(b"\x50\x2a\x4d\x18\x03\0\0\0abc");
    frames.extend(compress(Codec::Zstd, None, b""));
    frames.extend(zstd::bulk::compress(b" two", 1).unwrap());
    assert_eq!(decompress(Codec::Zstd, &frames, 100).unwrap(), b"one two");
    for len in 1..frames.len() {
        let cut = decompress(Codec::Zstd, &frames[..len], 100);
        assert!(
            cut.is_err() || b"one two".starts_with(&cut.unwrap()),
            "{len}"
        );
    }
}

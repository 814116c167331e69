//! Idempotence: retries are recognised, gaps refused, through snapshots and cuts.

use corelog_record::{BatchBuilder, BatchHeader, Codec};
use corelog_storage::producer_state::{
    ProducerError, ProducerState, Recalled, Sequenced, Truncated,
};
use proptest::prelude::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A batch of `count` records of producer 7.
fn batch(epoch: i16, sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset,
        last_offset_delta: count - 1,
        records_count: count,
        producer_id: 7,
        producer_epoch: epoch,
        base_sequence: sequence,
        base_timestamp: 1000,
        max_timestamp: 1000,
        ..BatchHeader::parse(&BatchBuilder::new(Codec::None, 0).build()).unwrap()
    }
}

fn state_of(batches: &[BatchHeader]) -> ProducerState {
    let mut state = ProducerState::new(0);
    for b in batches {
        state.on_batch(b);
    }
    state
}

fn out_of_order(s: &ProducerState, b: &BatchHeader) -> bool {
    matches!(s.check(b), Err(ProducerError::OutOfOrderSequence { .. }))
}

#[test]
fn r11_a_retry_of_any_of_the_last_five_batches_gives_its_first_offsets() {
    let batches: Vec<_> = (0..6)
        .map(|i| batch(0, i * 2, 2, i64::from(i) * 2 + 100))
        .collect();
    let s = state_of(&batches);
    for b in &batches[1..] {
        let retry = BatchHeader {
            base_offset: 0,
            ..*b
        };
        match s.check(&retry) {
            Ok(Sequenced::Duplicate(known)) => {
                assert_eq!(
                    (known.base_offset, known.last_offset),
                    (b.base_offset, b.last_offset())
                );
                assert_eq!(known.timestamp, 1000);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(out_of_order(&s, &batches[0]), "the sixth last is forgotten");
    assert!(
        out_of_order(&s, &batch(0, 2, 1, 0)),
        "part of a batch is no retry"
    );
    assert!(out_of_order(&s, &batch(0, 13, 1, 0)), "a gap");
    assert_eq!(s.check(&batch(0, 12, 1, 0)), Ok(Sequenced::Next));
    assert_eq!(s.end_offset(), 112);
}

#[test]
fn r11_epochs_fence_and_begin_at_zero() {
    let s = state_of(&[batch(3, 0, 5, 0)]);
    assert_eq!(
        s.check(&batch(2, 5, 1, 0)),
        Err(ProducerError::InvalidProducerEpoch {
            producer_id: 7,
            epoch: 2,
            current_epoch: 3
        })
    );
    assert!(
        out_of_order(&s, &batch(4, 5, 1, 0)),
        "a new epoch that does not begin at 0"
    );
    assert_eq!(s.check(&batch(4, 0, 1, 0)), Ok(Sequenced::Next));
    let s = state_of(&[batch(3, 0, 5, 0), batch(4, 0, 5, 5)]);
    match s.check(&batch(4, 0, 5, 0)) {
        Ok(Sequenced::Duplicate(known)) => {
            assert_eq!(known.base_offset, 5, "not the old epoch's batch")
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        s.check(&batch(3, 0, 5, 0)),
        Err(ProducerError::InvalidProducerEpoch { .. })
    ));
}

#[test]
fn r11_sequences_wrap_from_the_greatest_to_zero() {
    let s = state_of(&[batch(0, i32::MAX - 1, 2, 0)]);
    assert_eq!(s.check(&batch(0, 0, 1, 0)), Ok(Sequenced::Next));
    assert!(out_of_order(&s, &batch(0, 1, 1, 0)));
    let across = batch(0, i32::MAX, 3, 0);
    assert_eq!(across.last_sequence(), 1);
    let s = state_of(&[across]);
    assert!(matches!(s.check(&across), Ok(Sequenced::Duplicate(_))));
    assert_eq!(s.check(&batch(0, 2, 1, 0)), Ok(Sequenced::Next));
    let again = ProducerState::decode_snapshot(3, &s.encode_snapshot(), 1000, DAY_MS).unwrap();
    assert!(
        matches!(again.check(&across), Ok(Sequenced::Duplicate(_))),
        "the first sequence survives the wrap"
    );
}

#[test]
fn r11_an_unknown_or_expired_producer_may_begin_anywhere() {
    let mut s = ProducerState::new(0);
    assert_eq!(s.check(&batch(9, 1234, 1, 0)), Ok(Sequenced::Next));
    s.on_batch(&batch(9, 1234, 1, 0));
    assert_eq!(s.expire(1000 + DAY_MS - 1, DAY_MS), 0);
    assert_eq!(s.active(1000 + DAY_MS - 1, DAY_MS).len(), 1);
    assert_eq!(s.active(1000 + DAY_MS, DAY_MS), []);
    assert!(out_of_order(&s, &batch(9, 0, 1, 0)));
    assert_eq!(s.expire(1000 + DAY_MS, DAY_MS), 1);
    assert!(s.is_empty());
    assert_eq!(s.check(&batch(9, 99, 1, 0)), Ok(Sequenced::Next));
    let none = BatchHeader {
        producer_id: -1,
        base_sequence: -1,
        producer_epoch: -1,
        ..batch(0, 0, 1, 1)
    };
    s.on_batch(&none);
    assert_eq!(
        (s.check(&none), s.len(), s.end_offset()),
        (Ok(Sequenced::Next), 0, 2)
    );
}

#[test]
fn a_snapshot_keeps_the_last_batch_of_each_producer() {
    let mut s = state_of(&[batch(1, 0, 2, 0), batch(1, 2, 3, 2)]);
    s.on_batch(&BatchHeader {
        producer_id: 8,
        max_timestamp: 5,
        ..batch(0, 0, 1, 5)
    });
    let bytes = s.encode_snapshot();
    let again = ProducerState::decode_snapshot(6, &bytes, 1000, DAY_MS).unwrap();
    assert_eq!(again.len(), 2);
    assert!(
        matches!(again.check(&batch(1, 2, 3, 0)), Ok(Sequenced::Duplicate(d)) if d.base_offset == 2)
    );
    assert!(
        out_of_order(&again, &batch(1, 0, 2, 0)),
        "older batches are not in it"
    );
    assert_eq!(again.check(&batch(1, 5, 1, 0)), Ok(Sequenced::Next));
    assert_eq!(again.encode_snapshot(), bytes);
    let later = ProducerState::decode_snapshot(6, &bytes, 6 + DAY_MS, DAY_MS).unwrap();
    assert_eq!(later.len(), 1, "expired producers are left out");
    for i in 0..bytes.len() {
        let mut torn = bytes.clone();
        torn[i] ^= 1;
        assert!(ProducerState::decode_snapshot(6, &torn, 0, DAY_MS).is_err());
        assert!(ProducerState::decode_snapshot(6, &bytes[..i], 0, DAY_MS).is_err());
    }
}

#[test]
fn r11_what_a_snapshot_leaves_out_is_recalled_once() {
    let sent: Vec<_> = (0..8)
        .map(|n| batch(1, 2 * n, 2, i64::from(2 * n)))
        .collect();
    let other_epoch = batch(0, 5, 1, 100);
    let bytes = state_of(&sent[..7]).encode_snapshot();
    let load = || ProducerState::decode_snapshot(14, &bytes, 1000, DAY_MS).unwrap();
    let recalled = |batches: &[BatchHeader]| {
        let mut found = Recalled::default();
        batches.iter().for_each(|b| found.on_batch(b));
        found
    };
    let mut s = load();
    assert_eq!(s.recall_below(&sent[3]), Some(14));
    assert_eq!(s.recall_below(&other_epoch), None, "no retry of this epoch");
    // The log also holds what came before the five, and what came after the snapshot.
    s.on_batch(&sent[7]);
    s.recall(recalled(&sent));
    let known = |s: &ProducerState, b: &BatchHeader| matches!(s.check(b), Ok(Sequenced::Duplicate(d)) if d.base_offset == b.base_offset);
    for (n, b) in sent.iter().enumerate() {
        assert_eq!(known(&s, b), n >= 3, "{n}");
    }
    assert_eq!(s.recall_below(&sent[0]), None, "only once");
    assert_eq!(s.check(&batch(1, 16, 1, 0)), Ok(Sequenced::Next));
    // Nothing found: refused as before.
    let mut s = load();
    s.recall(recalled(&[other_epoch]));
    assert!(out_of_order(&s, &sent[5]) && known(&s, &sent[6]));
}

#[test]
fn a_cut_through_a_producers_batches_asks_for_a_reload() {
    let plain = BatchHeader {
        producer_id: -1,
        ..batch(0, 0, 5, 5)
    };
    let mut s = state_of(&[batch(0, 0, 5, 0), plain]);
    assert_eq!(s.truncate_to(10), Truncated::Kept);
    assert_eq!(
        s.truncate_to(5),
        Truncated::Kept,
        "only batches without a producer went"
    );
    assert_eq!((s.len(), s.end_offset()), (1, 5));
    assert_eq!(s.truncate_to(4), Truncated::MustReload);
    assert_eq!((s.len(), s.end_offset()), (0, 4));
    s.restart_at(50);
    assert_eq!(s.end_offset(), 50);
}

#[test]
fn open_transactions_hold_the_first_unstable_offset() {
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    let data = |b: BatchHeader| BatchHeader {
        attributes: TRANSACTIONAL,
        ..b
    };
    let mut s = state_of(&[data(batch(0, 0, 1, 10)), data(batch(0, 1, 1, 11))]);
    s.on_batch(&BatchHeader {
        producer_id: 8,
        ..data(batch(0, 0, 1, 12))
    });
    assert_eq!(s.first_unstable_offset(), Some(10));
    assert_eq!(
        s.expire(i64::MAX, DAY_MS),
        0,
        "an open transaction keeps its producer"
    );
    let again = ProducerState::decode_snapshot(13, &s.encode_snapshot(), i64::MAX, DAY_MS).unwrap();
    assert_eq!(again.first_unstable_offset(), Some(10));
    let marker = BatchHeader {
        attributes: TRANSACTIONAL | CONTROL,
        base_sequence: -1,
        ..batch(1, 0, 1, 13)
    };
    let told = s.active(i64::MAX, DAY_MS);
    assert_eq!(told.len(), 2, "an open transaction does not expire");
    assert_eq!(Some(told[0].txn_first_offset), s.first_unstable_offset());
    assert_eq!(told[0].coordinator_epoch, -1);
    s.on_marker(&marker, 4);
    let told = s.active(marker.max_timestamp, DAY_MS);
    assert_eq!(
        (told[0].txn_first_offset, told[0].coordinator_epoch),
        (-1, 4)
    );
    let told = s.active(i64::MAX, DAY_MS);
    assert_eq!(
        (told.len(), told[0].producer_id),
        (1, 8),
        "the other is expired, and not yet swept"
    );
    assert_eq!((s.first_unstable_offset(), s.end_offset()), (Some(12), 14));
    assert_eq!(
        s.check(&batch(1, 0, 1, 0)),
        Ok(Sequenced::Next),
        "the marker's epoch begins at 0"
    );
}

proptest! {
    #[test]
    fn r11_a_correct_client_with_five_in_flight_is_never_refused_nor_doubled(
        start in prop::sample::select(vec![0, 5, i32::MAX - 20]),
        steps in prop::collection::vec((1i32..6, 0usize..6), 1..60),
    ) {
        let mut s = ProducerState::new(0);
        let mut sent: Vec<BatchHeader> = Vec::new();
        let mut sequence = start;
        for (count, retry) in steps {
            let next = batch(0, sequence, count, s.end_offset());
            prop_assert_eq!(s.check(&next), Ok(Sequenced::Next));
            s.on_batch(&next);
            sequence = next.last_sequence().checked_add(1).unwrap_or(0);
            sent.push(next);
            if retry < 5 && retry < sent.len() {
                let old = sent[sent.len() - 1 - retry];
                match s.check(&BatchHeader { base_offset: 0, ..old }) {
                    Ok(Sequenced::Duplicate(known)) => prop_assert_eq!(known.base_offset, old.base_offset),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        let mut replayed = ProducerState::new(0);
        sent.iter().for_each(|b| replayed.on_batch(b));
        prop_assert_eq!(replayed, s);
    }
}

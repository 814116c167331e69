//! Offsets: every batch has its own, they are dense from the log's start on, and a producer's batches
//! stand in the order in which it sent them.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::log::{Placed, Read};

/// `base..next` takes no offset of another batch; `None` when this very batch stands there already.
pub fn place(
    placed: &BTreeMap<i64, Placed>,
    batch: u64,
    base: i64,
    next: i64,
) -> Result<Option<()>, Broken> {
    if let Some(here) = placed.get(&base)
        && here.batch == batch
        && here.next == next
    {
        return Ok(None);
    }
    let before = placed.range(..next).next_back();
    match before {
        Some((&at, other)) if other.next > base => Err(format!(
            "offsets: batch {batch} stands at {base}..{next}, batch {} at {at}..{}",
            other.batch, other.next
        )),
        _ => Ok(Some(())),
    }
}

/// Batches read one after the other leave no hole.
pub fn dense(reads: &[Read]) -> Result<(), Broken> {
    for pair in reads.windows(2) {
        if pair[0].next != pair[1].base {
            return Err(format!(
                "offsets: batch {}..{} is followed by {}",
                pair[0].base, pair[0].next, pair[1].base
            ));
        }
    }
    Ok(())
}

/// Sequences of each producer id ascend with the offsets.
pub fn in_order(reads: &[Read]) -> Result<(), Broken> {
    let mut last: BTreeMap<(i64, i16), (i32, i64)> = BTreeMap::new();
    for read in reads {
        let Some((id, epoch, sequence)) = read.producer else {
            continue;
        };
        if let Some((before, at)) = last.insert((id, epoch), (sequence, read.base))
            && before >= sequence
        {
            return Err(format!(
                "offsets: producer {id} has sequence {before} at {at} and {sequence} at {}",
                read.base
            ));
        }
    }
    Ok(())
}

/// Batches of one connection, sent one after the other, are in the log in that order.
pub fn ascending(bases: &[i64]) -> Result<(), Broken> {
    match bases.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!(
            "offsets: of two batches of one connection the first is at {}, the second at {}",
            pair[0], pair[1]
        )),
        None => Ok(()),
    }
}

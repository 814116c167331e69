//! Cold requests of a size that clients choose: what may take long is done by a helper thread, or
//! element by element with pauses, so that no shard stands still for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use corelog_net::cold::{ColdMessage, encode_response};
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;

use super::ErrorCodes;
use crate::shard::Shard;

/// Bodies above this are decoded, and their answers made, by a helper: small elements become many
/// structs, and their answers are longer than they are.
const HERE_BYTES_MAX: usize = 2 << 10;

/// Answers about as long as this, and longer, are encoded by a helper.
pub const ANSWER_HERE_BYTES_MAX: usize = 16 << 10;

/// Whether a request is one for a helper.
pub fn is_heavy(frame: &RequestFrame) -> bool {
    frame.body.len() > HERE_BYTES_MAX
}

/// Does `work` on a helper when it is heavy. What it drops at its end it drops there.
pub async fn aside<T: Send + 'static>(
    shard: &Shard,
    heavy: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if heavy {
        shard.rt.blocking(work).await
    } else {
        work()
    }
}

/// Drops what a request was worked on with; where that is much, on a helper.
pub async fn discard<T: Send + 'static>(shard: &Shard, heavy: bool, value: T) {
    aside(shard, heavy, move || drop(value)).await;
}

/// Makes the answer to `frame` with `build`, as a whole frame, and counts its error codes.
pub async fn reply<T: ColdMessage + ErrorCodes>(
    shard: &Shard,
    frame: &RequestFrame,
    heavy: bool,
    build: impl FnOnce() -> T + Send + 'static,
) -> Result<Bytes, WireError> {
    let (version, correlation_id) = (frame.version, frame.correlation_id);
    let encode = move || encode(version, correlation_id, &build());
    let (bytes, codes) = aside(shard, heavy, encode).await?;
    count(shard, frame, codes);
    Ok(bytes)
}

/// How often each error code is in an answer.
pub type Codes = BTreeMap<i16, u64>;

/// A whole frame and its error codes.
pub fn encode<T: ColdMessage + ErrorCodes>(
    version: i16,
    correlation_id: i32,
    body: &T,
) -> Result<(Bytes, Codes), WireError> {
    let mut codes = Codes::new();
    body.each(&mut |code| {
        if code != 0 {
            *codes.entry(code).or_default() += 1;
        }
    });
    let bytes = encode_response(version, correlation_id, body)?;
    Ok((bytes.freeze(), codes))
}

/// Counts the error codes of an answer to `frame`.
pub fn count(shard: &Shard, frame: &RequestFrame, codes: Codes) {
    for (code, times) in codes {
        shard.stats.count_errors(frame.api.number(), code, times);
    }
}

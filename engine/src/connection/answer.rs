//! Answers on their way to the socket, and the memory that they are kept in.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use corelog_net::fetch::Part;

use super::fetch::RangeRef;
use super::send::{self, SendError};
use super::{Connection, End, reader};
use crate::request_memory::{Answering, Progress, SMALL_BYTES_MAX};
use crate::shard::Shard;

/// Sends the answer of a Fetch. Records weigh nothing while they wait; a large header keeps memory
/// of the shard until all has left, and a client that does not take it is given up.
pub async fn send_fetch(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    parts: Vec<Part<RangeRef>>,
) -> Result<(), End> {
    let header = parts.iter().map(|part| match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Records(..) => 0,
    });
    let size = header.sum();
    let rt = &shard.rt;
    let mut sending = pin!(send::send(shard, connection, parts));
    if size <= SMALL_BYTES_MAX {
        return sending.await.map_err(End::Send);
    }
    let _held = connection.keep(shard, size).await.ok_or(End::Closing)?;
    connection.last_used.set(rt.now());
    loop {
        if let Some(sent) = rt.timeout(reader::LOOK_EVERY, &mut sending).await {
            return sent.map_err(End::Send);
        }
        let still = rt
            .now()
            .saturating_duration_since(connection.last_used.get());
        let progress = Progress {
            elapsed: still,
            still,
            bytes: 0,
        };
        if progress.is_hopeless(shard.request_memory.is_contended(size)) {
            return Err(End::Closing);
        }
    }
}

/// Sends the answer of a cold request. A large one keeps memory until it has left, and leaves in
/// pieces: a client that does not take them is given up.
pub async fn send_cold(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    answer: Bytes,
    memory: Option<Answering>,
) -> Result<(), End> {
    let io = |error| End::Send(SendError::Io(error));
    let rt = &shard.rt;
    let size = answer.len();
    if size <= SMALL_BYTES_MAX {
        drop(memory);
        let sent = rt.send(&connection.socket, vec![answer], false).await;
        connection.last_used.set(rt.now());
        return sent.map_err(io);
    }
    let mut kept = match memory {
        Some(Answering::Kept(held)) => held,
        working => {
            drop(working);
            connection.keep(shard, size).await.ok_or(End::Closing)?
        }
    };
    // The answer alone is left.
    kept.shrink_to(size);
    let began = rt.now();
    for at in (0..size).step_by(send::CHUNK_BYTES) {
        let end = size.min(at + send::CHUNK_BYTES);
        let step = rt.send(&connection.socket, vec![answer.slice(at..end)], end < size);
        let contended = || shard.request_memory.is_contended(size);
        let sent = reader::patiently(rt, began, at, contended, step).await;
        sent.ok_or(End::Closing)?.map_err(io)?;
        connection.last_used.set(rt.now());
    }
    Ok(())
}

//! Retries of batches that a producer snapshot left out: it holds the last batch of each producer,
//! a client may have five in flight over a restart. The log itself tells the others.

use std::rc::Rc;

use corelog_record::batch::BatchHeader;

use super::{AppendError, LogInner, ReadError};
use crate::log::appender::refusal;
use crate::log::read::View;
use crate::log::scan::Scanner;
use crate::producer_state::{ProducerError, Recalled, Sequenced};

/// How far back batches are looked for: five of the largest that a client makes by default, and as
/// much again of others.
const RECALL_BYTES: u64 = 10 << 20;
/// Window of the scan.
const WINDOW_BYTES: usize = 64 << 10;

impl LogInner {
    /// Judges a batch of a client. The caller holds the gate. When the log cannot be read the batch
    /// is refused with an error that asks the client to try again.
    pub async fn check_sequence(
        self: &Rc<Self>,
        header: &BatchHeader,
    ) -> Result<Sequenced, AppendError> {
        let (judged, below) = {
            let producers = &self.state.borrow().producers;
            let judged = producers.check(header);
            let refused = matches!(judged, Err(ProducerError::OutOfOrderSequence { .. }));
            let below = producers.recall_below(header).filter(|_| refused);
            (judged, below)
        };
        let Some(below) = below else {
            return judged.map_err(refusal);
        };
        let found = match self.batches_of_producers(below).await {
            Ok(found) => found,
            Err(ReadError::Io(why)) => return Err(AppendError::DirOffline(why)),
            Err(error) => {
                tracing::warn!(topic = self.topic, partition = self.partition, %error,
                    "batches of producers cannot be looked up; their retries are refused");
                Recalled::default()
            }
        };
        let mut state = self.state.borrow_mut();
        state.producers.recall(found);
        state.producers.check(header).map_err(refusal)
    }

    /// Batches of producers in the last [`RECALL_BYTES`] below an offset.
    async fn batches_of_producers(self: &Rc<Self>, below: i64) -> Result<Recalled, ReadError> {
        let mut stretches = self.stretches_below(below).await?;
        let mut found = Recalled::default();
        while let Some((view, mut position)) = stretches.pop() {
            let budget = WINDOW_BYTES.min(self.shard.limits().cold_read_bytes);
            let _permit = self.shard.cold_reads.acquire(budget).await;
            let file = view.file.clone();
            let mut scanner = Scanner::new(&self.rt, file, view.size, WINDOW_BYTES);
            while let Some(header) = self.header_at(&mut scanner, &view, position).await? {
                if header.base_offset >= below {
                    break;
                }
                found.on_batch(&header);
                position += header.size_bytes() as u64;
                self.rt.yield_if_needed().await;
            }
            self.shard
                .count(|c| c.cold_read_bytes += scanner.bytes_read);
        }
        Ok(found)
    }

    /// Where to begin to read, per segment, newest first.
    async fn stretches_below(self: &Rc<Self>, below: i64) -> Result<Vec<(View, u64)>, ReadError> {
        let mut stretches = Vec::new();
        let (mut end_offset, mut left) = (below, RECALL_BYTES);
        while let Some(segment) = self.segment_of(end_offset - 1) {
            let view = self.view(&segment).await?;
            let base = view.shared.base_offset();
            let end = if end_offset < view.end_offset {
                view.index.position_for(end_offset)
            } else {
                view.size
            };
            let from = end.saturating_sub(left);
            let start = view.index.boundary(base, from, i64::MAX);
            stretches.push((view, start));
            left = left.saturating_sub(end - start);
            if left == 0 {
                break;
            }
            end_offset = base;
        }
        Ok(stretches)
    }
}

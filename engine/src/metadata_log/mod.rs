//! The seam to the metadata log: batches are proposed, committed batches come back in order.
//!
//! On one node the log is [`local::LocalLog`], a quorum of one over the same files that a quorum of
//! several uses. The controller changes its state only when a batch is applied.

pub mod dump;
pub mod format;
pub mod local;

use std::future::Future;
use std::pin::Pin;

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// Committed at this index; it is, or will be, delivered by [`MetadataLog::next_applied`].
    Committed(u64),
    /// Refused: this node does not lead in the proposer's term.
    NotLeader,
    /// It may be committed later, never, or after the leader changed.
    Unknown,
}

/// A committed batch, or a whole image where entries were skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Term of the batch.
    pub term: u64,
    /// Index of the batch; after a snapshot the next one is `index + 1`.
    pub index: u64,
    /// What was committed.
    pub content: AppliedContent,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppliedContent {
    /// A leader's first entry of its term.
    Blank,
    /// One atomic batch of encoded records.
    Records(Vec<u8>),
    /// The whole image as encoded records: replaces all state.
    Snapshot(Vec<u8>),
}

impl AppliedContent {
    /// Bytes of its encoded records.
    pub fn bytes(&self) -> usize {
        match self {
            AppliedContent::Blank => 0,
            AppliedContent::Records(payload) | AppliedContent::Snapshot(payload) => payload.len(),
        }
    }
}

/// A future of this thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The replicated log of cluster metadata, as the controller sees it.
pub trait MetadataLog {
    /// Term in which this node leads, if it does.
    fn leader_term(&self) -> Option<u64>;

    /// Proposes one atomic batch of encoded records. `Committed` = durable on a quorum.
    fn propose(&self, term: u64, payload: Vec<u8>) -> LocalBoxFuture<'_, Proposed>;

    /// The next committed batch, in order. After a restart delivery begins again at the last
    /// snapshot (at least once).
    fn next_applied(&self) -> LocalBoxFuture<'_, Applied>;

    /// Offers an image of everything up to `index`, so that entries up to there can be dropped.
    fn offer_snapshot(&self, index: u64, image: Vec<u8>) -> LocalBoxFuture<'_, ()>;

    /// Bytes of entries since the last snapshot.
    fn bytes_since_snapshot(&self) -> u64;
}

//! One rule per file. Each says what it saw when it does not hold; the oracle passes that on.

pub mod answers;
pub mod commits;
pub mod content;
pub mod duplicates;
pub mod durability;
pub mod healing;
pub mod high_watermark;
pub mod log_start;
pub mod memory;
pub mod metadata;
pub mod offsets;
pub mod owners;
pub mod sessions;

/// A rule does not hold: which, and what was seen.
pub type Broken = String;

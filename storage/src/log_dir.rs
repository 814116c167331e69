//! One directory of `log.dirs`.

/// What the last run left, and so how much of a log must be believed or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartKind {
    /// It stopped cleanly (or this is the first start): every log is whole and flushed.
    Clean,
    /// The process died, the kernel did not: whatever was `written` is there.
    ProcessDeath,
    /// Anything else, power loss included: only what was flushed is there for sure.
    Unclean,
}

//! Incremental fetch sessions: only the next request of a session that is there is obeyed, and its
//! answer leaves out no news and no data that the client can not have yet.

use corelog_net::error_code::ErrorCode;

use super::Broken;

/// A request of a session, and what it was answered as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Its epoch was wrong on purpose.
    pub errs: bool,
    /// The session was of a process that is dead.
    pub of_dead: bool,
    /// It was made on another connection, which another shard may have had.
    pub elsewhere: bool,
    /// An earlier request has no answer: its epoch may have been counted.
    pub is_unsure: bool,
    /// The answer's error.
    pub error: ErrorCode,
    /// The session.
    pub id: i32,
    /// The session in the answer.
    pub told_id: i32,
}

/// The answer to a request of a session is one of those that it may have.
pub fn answered(asked: &Asked) -> Result<(), Broken> {
    let what = match asked.error {
        ErrorCode::None if asked.of_dead => "a session of a dead process is obeyed",
        ErrorCode::None if asked.errs && !asked.is_unsure => "a wrong epoch is obeyed",
        ErrorCode::None if asked.told_id != asked.id => "the answer is of another session",
        ErrorCode::FetchSessionIdNotFound if !asked.of_dead && !asked.elsewhere => {
            "a session is gone though nothing happened to it"
        }
        ErrorCode::InvalidFetchSessionEpoch if !asked.errs && !asked.is_unsure => {
            "the next epoch is refused"
        }
        _ => return Ok(()),
    };
    Err(format!("sessions: {what}: {asked:?}"))
}

/// An answer has a partition that is not in the session.
pub fn stranger(partition: i32) -> Broken {
    format!("sessions: an answer has partition {partition}, which nobody asked for")
}

/// A partition of a request, and what its answer does not say of it.
#[derive(Debug, Clone, Copy)]
pub struct Absent {
    /// Its number.
    pub partition: i32,
    /// The answer may leave out what is no news.
    pub is_incremental: bool,
    /// It is left out.
    pub is_absent: bool,
    /// High watermark and log start that the session told last.
    pub told: Option<(i64, i64)>,
    /// High watermark known when the request was made.
    pub high_watermark: i64,
    /// Log start known then.
    pub start: i64,
    /// Where the client is.
    pub next: i64,
    /// There are records for it.
    pub has_data: bool,
    /// No partition has records, or an error.
    pub whole_answer_is_empty: bool,
    /// Answers in a row with records for others alone.
    pub starved: u64,
    /// How many are fair.
    pub starved_max: u64,
}

/// A partition is left out only if nothing is new, and not for ever while it has records.
pub fn absent(it: &Absent) -> Result<(), Broken> {
    let is_news = match it.told {
        None => true,
        Some((high_watermark, start)) => it.high_watermark > high_watermark || it.start > start,
    };
    let what = if it.is_absent && !it.is_incremental {
        "a full answer leaves a partition out"
    } else if it.is_absent && is_news {
        "an incremental answer leaves news out"
    } else if it.has_data && it.whole_answer_is_empty {
        "an answer is empty though there are records"
    } else if it.starved > it.starved_max {
        "a partition gets nothing while others do"
    } else {
        return Ok(());
    };
    Err(format!("sessions: {what}: {it:?}"))
}

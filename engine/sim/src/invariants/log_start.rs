//! The begin of a partition: what clients were told of it never goes back, whatever happens to the
//! broker, and it goes on only over what somebody wanted to go: up to an offset of DeleteRecords, or
//! over whole batches that retention may take, by age or because enough stays without them.

use super::Broken;

/// What may have been allowed since the begin was known last: the widest of what was set meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Everything below this offset was to be deleted.
    pub deleted: i64,
    /// Least `retention.bytes`; `None` = no limit.
    pub bytes: Option<u64>,
    /// Least `retention.ms`; `None` = no limit.
    pub ms: Option<u64>,
    /// The wall clock, ms.
    pub now_ms: i64,
}

/// A batch that is gone, or of which a part is.
#[derive(Debug, Clone, Copy)]
pub struct Gone {
    /// Its base offset.
    pub base: i64,
    /// Offset after its last record.
    pub next: i64,
    /// Its greatest timestamp, ms.
    pub timestamp_ms: i64,
    /// Bytes behind it, at most.
    pub bytes_behind: u64,
}

/// Why a batch may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// DeleteRecords.
    Deleted,
    /// `retention.bytes`.
    Size,
    /// `retention.ms`.
    Age,
}

/// An answer told `seen`; when it was asked for, `floor` had been told.
pub fn never_back(seen: i64, floor: i64) -> Result<(), Broken> {
    if seen < floor {
        return Err(format!("log start: {seen} after {floor} was told"));
    }
    Ok(())
}

/// A log that begins at `start` may lack this batch, or what of it lies below.
pub fn may_lack(gone: &Gone, start: i64, allowed: &Allowed) -> Result<Why, Broken> {
    if gone.next.min(start) <= allowed.deleted {
        return Ok(Why::Deleted);
    }
    if gone.next > start {
        return Err(format!(
            "log start: {start} is inside the batch {}..{}, which nobody asked for; {allowed:?}",
            gone.base, gone.next
        ));
    }
    let is_old = |ms: u64| i128::from(allowed.now_ms) - i128::from(gone.timestamp_ms) > ms.into();
    if allowed.ms.is_some_and(is_old) {
        return Ok(Why::Age);
    }
    if allowed.bytes.is_some_and(|most| gone.bytes_behind >= most) {
        return Ok(Why::Size);
    }
    Err(format!(
        "log start: {start} leaves out {gone:?}, which is neither old enough nor too much; {allowed:?}"
    ))
}

/// DeleteRecords up to `offset` was acknowledged with the low watermark `told`.
pub fn deleted(offset: i64, told: i64) -> Result<(), Broken> {
    if told < offset {
        return Err(format!(
            "log start: records up to {offset} are deleted, the low watermark is {told}"
        ));
    }
    Ok(())
}

/// A fetch of an offset below a log start that was told is refused.
pub fn below(from: i64, floor: i64) -> Result<(), Broken> {
    if from < floor {
        return Err(format!("log start: {from} was read after {floor} was told"));
    }
    Ok(())
}

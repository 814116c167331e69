//! The high watermark is never seen to go back, except over a power loss to where the log then ends.

use super::Broken;

/// An answer whose request was made when `floor` had been seen.
pub fn check(seen: i64, floor: i64) -> Result<(), Broken> {
    if seen < floor {
        return Err(format!("high watermark: {seen} after {floor} was seen"));
    }
    Ok(())
}

//! No record is lost below the level that was promised for it: what was acknowledged or read is
//! written and survives kill -9; what power loss may take says the flush table.

use corelog_storage::flush_policy::FlushPolicy;

use super::Broken;
use crate::oracle::log::Placed;
use crate::tally::Tally;

/// What happened to the broker since its logs were last looked through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fall {
    /// Its machine lost power.
    pub power_lost: bool,
    /// It stopped cleanly, and nothing else happened.
    pub clean: bool,
    /// When, ns.
    pub at_ns: u64,
    /// Flushes or writes failed with EIO in its life.
    pub io_errors: bool,
    /// Longest flush believable, ns.
    pub flush_ns_max: u64,
}

/// Judges what is gone from one partition; `policies` are those that may have bound each batch.
pub fn judge(
    lost: &[(i64, Placed, Vec<FlushPolicy>)],
    fall: &Fall,
    tally: &mut Tally,
) -> Result<(), Broken> {
    let mut by_messages: Vec<(u64, u64)> = Vec::new();
    for (base, placed, policies) in lost {
        let known = match (placed.acked_ns, placed.seen) {
            (Some(_), _) => "acknowledged",
            (None, true) => "read",
            (None, false) => continue,
        };
        let what = format!("{known} batch {} at {base}..{}", placed.batch, placed.next);
        if fall.clean {
            return Err(format!("durability: a clean stop took the {what}"));
        }
        if !fall.power_lost {
            return Err(format!("durability: kill -9 took the {what}"));
        }
        let records = (placed.next - base) as u64;
        let [policy] = policies[..] else {
            // It was being changed: the laxest holds.
            if policies.iter().all(|p| p.messages == Some(1)) {
                return Err(format!(
                    "durability: flush.messages=1: power loss took the {what}"
                ));
            }
            continue;
        };
        if let Some(most) = policy.messages {
            let lost = match by_messages.iter_mut().find(|(n, _)| *n == most) {
                Some((_, lost)) => {
                    *lost += records;
                    *lost
                }
                None => {
                    by_messages.push((most, records));
                    records
                }
            };
            if lost >= most {
                return Err(format!(
                    "durability: flush.messages={most}: power loss took {lost} records, the last of them the {what}"
                ));
            }
            tally.add(
                "acknowledged, lost by power loss: flush.messages=N",
                records,
            );
        }
        if let (Some(ms), Some(acked_ns)) = (policy.ms, placed.acked_ns) {
            let age_ns = fall.at_ns.saturating_sub(acked_ns);
            let most_ns = (ms + 1) * 1_000_000 + fall.flush_ns_max;
            if age_ns > most_ns && !fall.io_errors {
                return Err(format!(
                    "durability: flush.ms={ms}: power loss took the {what}, {age_ns} ns after its acknowledgement"
                ));
            }
            tally.add("acknowledged, lost by power loss: flush.ms", records);
        }
        if policy == FlushPolicy::default() {
            tally.add("acknowledged, lost by power loss: policy unset", records);
        }
    }
    Ok(())
}

//! Kernel, io_uring and limits of the process.

use super::{Check, bytes, read};
use crate::env::{
    EnvError, NOFILE_WANTED, check_environment, memlock_bytes, open_files_max, uring_abilities,
};

/// Open files below which segments and connections soon run out.
const NOFILE_MIN: u64 = 4096;
/// Locked memory that rings and, later, registered buffers want.
const MEMLOCK_WANTED: u64 = 8 << 20;

pub(super) fn checks() -> Vec<Check> {
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut checks = Vec::new();
    match check_environment() {
        Ok(_) => {
            checks.push(Check::ok("kernel", kernel));
            checks.push(uring(&uring_abilities()));
        }
        Err(error @ EnvError::KernelTooOld(_)) => {
            checks.push(Check::bad("kernel", kernel, error.to_string()));
        }
        Err(error) => {
            checks.push(Check::ok("kernel", kernel));
            checks.push(Check::bad("io_uring", "refused", error.to_string()));
        }
    }
    checks.push(open_files(open_files_max()));
    checks.push(memlock(memlock_bytes()));
    checks
}

fn uring(abilities: &[(&'static str, bool)]) -> Check {
    let list = |wanted: bool| {
        let of = abilities.iter().filter(|(_, has)| *has == wanted);
        of.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (has, lacks) = (list(true), list(false));
    if lacks.is_empty() {
        Check::ok("io_uring", format!("works; has {has}"))
    } else {
        let found = format!("works; lacks {lacks}");
        Check::warn(
            "io_uring",
            found,
            "a newer kernel: what it lacks is done by helper threads or system calls meanwhile",
        )
    }
}

fn open_files(max: u64) -> Check {
    let found = format!("{max} open files");
    let advice = format!(
        "raise the limit with `ulimit -Hn {NOFILE_WANTED}`, or LimitNOFILE= of the unit: \
         connections and segments count"
    );
    match max {
        0..NOFILE_MIN => Check::bad("nofile", found, advice),
        NOFILE_MIN..NOFILE_WANTED => Check::warn("nofile", found, advice),
        _ => Check::ok("nofile", found),
    }
}

fn memlock(limit: Option<u64>) -> Check {
    match limit {
        None => Check::ok("memlock", "no limit"),
        Some(limit) if limit >= MEMLOCK_WANTED => Check::ok("memlock", bytes(limit)),
        Some(limit) => Check::warn(
            "memlock",
            bytes(limit),
            "raise the limit with `ulimit -l unlimited`, or LimitMEMLOCK=infinity of the unit",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn limits_are_judged_by_what_a_broker_needs() {
        let verdicts = [1024, NOFILE_MIN, NOFILE_WANTED].map(|n| open_files(n).verdict);
        assert_eq!(verdicts, [Verdict::Bad, Verdict::Warn, Verdict::Ok]);
        let verdicts = [Some(65_536), Some(MEMLOCK_WANTED), None].map(|n| memlock(n).verdict);
        assert_eq!(verdicts, [Verdict::Warn, Verdict::Ok, Verdict::Ok]);
        let lacking = uring(&[("ftruncate", false), ("msg_ring", true)]);
        assert_eq!(lacking.verdict, Verdict::Warn);
        assert!(lacking.found.contains("lacks ftruncate"), "{lacking:?}");
    }
}

//! CPUs: which may be used, and pinning.

use std::fmt;
use std::sync::OnceLock;

/// CPUs the process may use, ascending. Asked once, at the first call: make it before any thread
/// is pinned.
pub fn allowed() -> Vec<usize> {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    // A system that does not tell is treated as one CPU: shards then share it, unpinned.
    ALLOWED
        .get_or_init(|| affinity::get_thread_affinity().unwrap_or_else(|_| vec![0]))
        .clone()
}

/// A CPU list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuListError {
    /// Part of the list is neither a number nor a range.
    Syntax(String),
    /// None of the CPUs listed is allowed.
    NoneAllowed(String),
}

impl fmt::Display for CpuListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(part) => write!(
                f,
                "`{part}` is not a CPU list: write `all`, or numbers and ranges such as `0-3,8`"
            ),
            Self::NoneAllowed(list) => write!(
                f,
                "this process may use none of the CPUs `{list}`: look at its cpuset (`taskset -p`)"
            ),
        }
    }
}

impl std::error::Error for CpuListError {}

/// Reads `all`, `0` or `0-3,8`, cut to `allowed`; ascending, without repetition.
pub fn parse_cpu_list(list: &str, allowed: &[usize]) -> Result<Vec<usize>, CpuListError> {
    let list = list.trim();
    if list.eq_ignore_ascii_case("all") {
        return Ok(allowed.to_vec());
    }
    let mut ranges = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last => ranges.push(first..=last),
            _ => return Err(CpuListError::Syntax(part.to_owned())),
        }
    }
    let listed = |cpu: &usize| ranges.iter().any(|range| range.contains(cpu));
    let mut cpus: Vec<usize> = allowed.iter().copied().filter(listed).collect();
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.is_empty() {
        Err(CpuListError::NoneAllowed(list.to_owned()))
    } else {
        Ok(cpus)
    }
}

/// Binds the calling thread to one CPU; false when the system refuses.
pub fn pin(cpu: usize) -> bool {
    // The mask of the affinity crate has room for 1024 CPUs.
    cpu < 1024 && affinity::set_thread_affinity([cpu]).is_ok()
}

/// Frees the calling thread of the pinning it inherited.
pub(crate) fn use_all_allowed() {
    // A refusal leaves the thread where it is, which is slow and not wrong.
    let _refused = affinity::set_thread_affinity(allowed());
}

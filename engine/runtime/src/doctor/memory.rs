//! Memory: how much there is for the process, and how the kernel treats it.

use super::{Check, bytes, number, read};

/// Memory below which little is left beside the caches.
const MEMORY_MIN: u64 = 256 << 20;
/// Swappiness above this takes pages of the broker for the sake of file pages.
const SWAPPINESS_MAX: u32 = 10;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![size(ram_bytes(), group_limit_bytes())];
    let thp = read("/sys/kernel/mm/transparent_hugepage/enabled");
    checks.extend(thp.as_deref().and_then(selected).map(huge_pages));
    let swaps = read("/proc/swaps").unwrap_or_default();
    let swappiness = number("/proc/sys/vm/swappiness").unwrap_or(0);
    checks.push(swap(swaps.lines().count() > 1, swappiness));
    checks
}

/// Memory the process may have: the smaller of RAM and its control groups' limits. `None` when the
/// system does not say.
pub fn limit_bytes() -> Option<u64> {
    match (ram_bytes(), group_limit_bytes()) {
        (Some(ram), Some(group)) => Some(ram.min(group)),
        (one, other) => one.or(other),
    }
}

fn ram_bytes() -> Option<u64> {
    mem_total(&read("/proc/meminfo")?)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of the process's control groups, from its own up to the root; both versions.
fn group_limit_bytes() -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        files.extend(limit_files(line));
    }
    // In a container the path told may be that of the host, and the limit at the root.
    files.push("/sys/fs/cgroup/memory.max".to_owned());
    files.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned());
    files.iter().filter_map(|file| limit(&read(file)?)).min()
}

/// Files with limits of one line of `/proc/self/cgroup`: of the group and those around it.
fn limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
    else {
        return Vec::new();
    };
    let (root, file) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|c| c == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    let mut files = Vec::new();
    let mut path = path.trim_end_matches('/');
    while !path.is_empty() {
        files.push(format!("{root}{path}/{file}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    files
}

/// A limit as control groups write it; version 1 says "none" by a number no machine has.
fn limit(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&bytes: &u64| bytes < 1 << 60)
}

fn size(ram: Option<u64>, group: Option<u64>) -> Check {
    let name = "memory";
    let ram_text = ram.map_or_else(|| "unknown".to_owned(), bytes);
    let group_text = group.map_or_else(|| "no limit".to_owned(), bytes);
    let found = format!("RAM {ram_text}, container: {group_text}");
    match ram.into_iter().chain(group).min() {
        Some(least) if least < MEMORY_MIN => Check::warn(
            name,
            found,
            "give it 256 MiB or more, or set corelog.memory.bytes (32 MiB at least)",
        ),
        _ => Check::ok(name, found),
    }
}

/// The choice in brackets: `always [madvise] never`.
fn selected(text: &str) -> Option<&str> {
    text.split_once('[')?
        .1
        .split_once(']')
        .map(|(name, _)| name)
}

fn huge_pages(found: &str) -> Check {
    let name = "transparent huge pages";
    if found == "always" {
        let advice = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`: always makes \
                      the kernel stop the process to put pages together, and memory grow";
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

fn swap(on: bool, swappiness: u32) -> Check {
    let name = "swap";
    match (on, swappiness) {
        (false, _) => Check::ok(name, "none"),
        (true, 0..=SWAPPINESS_MAX) => Check::ok(name, format!("swappiness {swappiness}")),
        (true, _) => Check::warn(
            name,
            format!("swappiness {swappiness}"),
            "`sysctl -w vm.swappiness=1`: a shard that waits for its own memory stalls all clients",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn limits_of_both_versions_of_control_groups_are_found() {
        assert_eq!(
            limit_files("0::/system.slice/corelogd.service"),
            [
                "/sys/fs/cgroup/system.slice/corelogd.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max"
            ]
        );
        assert_eq!(
            limit_files("9:memory:/docker/1"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes"
            ]
        );
        assert!(limit_files("4:cpu,cpuacct:/x").is_empty());
        assert!(limit_files("nonsense").is_empty());
        assert_eq!(limit("max"), None);
        assert_eq!(limit("9223372036854771712"), None);
        assert_eq!(limit("536870912"), Some(512 << 20));
    }

    #[test]
    fn memory_and_how_it_is_treated_are_judged() {
        let total = "MemTotal:       24576 kB\nMemFree: 1 kB\n";
        assert_eq!(mem_total(total), Some(24576 * 1024));
        assert_eq!(mem_total("nothing"), None);
        assert_eq!(size(Some(8 << 30), None).verdict, Verdict::Ok);
        assert_eq!(size(Some(8 << 30), Some(64 << 20)).verdict, Verdict::Warn);
        assert_eq!(selected("always [madvise] never"), Some("madvise"));
        assert_eq!(huge_pages("always").verdict, Verdict::Warn);
        assert_eq!(huge_pages("madvise").verdict, Verdict::Ok);
        assert_eq!(swap(false, 60).verdict, Verdict::Ok);
        assert_eq!(swap(true, 60).verdict, Verdict::Warn);
        assert_eq!(swap(true, 1).verdict, Verdict::Ok);
    }
}

//! Nothing stays behind: a signal ends the run through every drop, and what a killed run left is removed by the next.

use crate::process::{command, run};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Control groups made here end in the process id, as directories do.
const CGROUPS: &str = "/sys/fs/cgroup/blkio";
/// How names begin.
pub const CGROUP_PREFIX: &str = "corelog-fault-";
const DIR_PREFIX: &str = "fault-";

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted, and end nothing but the children that get them.
pub fn note_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic, nothing else.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

/// One of them came.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Removes mounts, loop devices, directories and control groups of runs that are gone.
pub fn remove_leftovers(runs: &Path, scratch: &Path) -> Result<()> {
    let mut dead: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(runs).with_context(|| runs.display().to_string())? {
        let entry = entry?;
        if is_of_dead_run(&entry.file_name().to_string_lossy(), DIR_PREFIX) {
            dead.push(entry.path());
        }
    }
    let is_below = |path: &str| dead.iter().any(|dir| Path::new(path).starts_with(dir));
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let points: Vec<&str> = points.filter(|point| is_below(point)).collect();
    for point in points.iter().rev() {
        let mut umount = command("umount");
        run(umount.arg("--lazy").arg(point), scratch, LIMIT)?.ok("umount of a leftover")?;
    }
    let mut list = command("losetup");
    list.args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
    let devices = run(&mut list, scratch, LIMIT)?.stdout;
    for line in devices.lines() {
        let mut words = line.split_whitespace();
        if let (Some(device), Some(file)) = (words.next(), words.next())
            && is_below(file)
        {
            let mut detach = command("losetup");
            detach.arg("--detach").arg(device);
            run(&mut detach, scratch, LIMIT)?.ok("losetup --detach of a leftover")?;
        }
    }
    for group in std::fs::read_dir(CGROUPS).into_iter().flatten().flatten() {
        if is_of_dead_run(&group.file_name().to_string_lossy(), CGROUP_PREFIX) {
            // One that is still in use stays for the next run.
            let _ = std::fs::remove_dir(group.path());
        }
    }
    Ok(())
}

/// `<prefix>...<process id>` of a process that is gone.
fn is_of_dead_run(name: &str, prefix: &str) -> bool {
    let id = name
        .strip_prefix(prefix)
        .and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok());
    id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_that_are_gone_leave_something_behind() {
        let own = std::process::id();
        assert!(!is_of_dead_run(&format!("fault-eio-{own}"), DIR_PREFIX));
        assert!(is_of_dead_run(
            "fault-disk-full-ext4-4294967295",
            DIR_PREFIX
        ));
        assert!(is_of_dead_run("corelog-fault-4294967295", CGROUP_PREFIX));
        assert!(!is_of_dead_run("fault-eio", DIR_PREFIX));
        assert!(!is_of_dead_run("kill9-4294967295", DIR_PREFIX));
    }
}

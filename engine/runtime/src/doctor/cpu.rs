//! CPUs: which are allowed, how they are clocked, and the clock they read.

use super::{Check, read};
use crate::cpus;

pub(super) fn checks(shards: &[usize]) -> Vec<Check> {
    let allowed = cpus::allowed();
    let used = if shards.is_empty() {
        &allowed[..]
    } else {
        shards
    };
    let quota = read("/sys/fs/cgroup/cpu.max").as_deref().and_then(cpu_max);
    let mut checks = vec![allowance(allowed.len(), used.len(), quota)];
    let governor = |cpu: &usize| {
        read(&format!(
            "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
        ))
    };
    let governors: Vec<String> = used.iter().filter_map(governor).collect();
    checks.push(frequency(&governors));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    checks.extend(read(clock).map(|found| clocksource(&found)));
    checks
}

/// CPUs that a control group (version 2) grants; `None` = no limit.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

fn allowance(allowed: usize, used: usize, quota: Option<f64>) -> Check {
    let name = "cpus";
    let found = format!("{used} for shards, {allowed} allowed");
    match quota {
        Some(quota) if quota < used as f64 => Check::warn(
            name,
            format!("{found}, {quota:.1} granted by the control group"),
            "shards that are halted by a quota stall all their clients: grant whole CPUs, or set \
             corelog.cores to as many as are granted",
        ),
        _ => Check::ok(name, found),
    }
}

fn frequency(governors: &[String]) -> Check {
    let name = "cpu frequency";
    let slow = governors.iter().find(|governor| *governor != "performance");
    match (governors.first(), slow) {
        (None, _) => Check::ok(name, "not governed by this kernel"),
        (Some(_), None) => Check::ok(name, "performance"),
        (Some(_), Some(slow)) => Check::warn(
            name,
            slow.as_str(),
            "`cpupower frequency-set -g performance`: other governors raise the clock too late \
             for short requests",
        ),
    }
}

fn clocksource(found: &str) -> Check {
    let name = "clocksource";
    match found {
        "hpet" | "acpi_pm" | "jiffies" => Check::warn(
            name,
            found,
            "every look at the clock is a slow device access: boot with `clocksource=tsc`, or see \
             the kernel's log for why the tsc is not used",
        ),
        other => Check::ok(name, other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn quotas_governors_and_clocks_are_judged() {
        assert_eq!(cpu_max("max 100000"), None);
        assert_eq!(cpu_max("150000 100000"), Some(1.5));
        assert_eq!(cpu_max(""), None);
        assert_eq!(allowance(8, 4, None).verdict, Verdict::Ok);
        assert_eq!(allowance(8, 4, Some(4.0)).verdict, Verdict::Ok);
        assert_eq!(allowance(8, 4, Some(3.5)).verdict, Verdict::Warn);
        let governed = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&n| n.to_owned()).collect();
            frequency(&names).verdict
        };
        assert_eq!(governed(&[]), Verdict::Ok);
        assert_eq!(governed(&["performance", "performance"]), Verdict::Ok);
        assert_eq!(governed(&["performance", "powersave"]), Verdict::Warn);
        assert_eq!(clocksource("tsc").verdict, Verdict::Ok);
        assert_eq!(clocksource("hpet").verdict, Verdict::Warn);
    }
}

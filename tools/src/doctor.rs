//! `corelog doctor`: the machine, examined as the broker's start does it, and flushes measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use corelog_runtime::doctor::{Check, Examined, Verdict, examine};

/// `socket.listen.backlog.size` where no configuration is read.
const LISTEN_BACKLOG: u32 = 50;
/// Width of the table.
const TABLE_COLUMNS: u16 = 120;

/// What to examine.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The broker's configuration file: its directories, CPUs and limits are examined.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A log directory, in place of those of the configuration.
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// The broker's program, which reads the configuration; without it, the one beside this
    /// program.
    #[arg(long, value_name = "PATH")]
    corelogd: Option<PathBuf>,
}

/// Examines and prints; false when something is bad.
pub fn run(options: &Options) -> Result<bool> {
    let mut what = Examined {
        direct: true,
        listen_backlog: LISTEN_BACKLOG,
        measure: true,
        ..Examined::default()
    };
    let mut checks = Vec::new();
    if options.config.is_some() || options.data.is_empty() {
        checks.push(read_config(options, &mut what)?);
    }
    if !options.data.is_empty() {
        what.log_dirs.clone_from(&options.data);
    }
    for dir in &mut what.log_dirs {
        *dir = nearest(dir);
    }
    checks.extend(examine(&what));
    if options.json {
        say!("{}", json(&checks));
    } else {
        say!("{}", table(&checks));
        let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
        let (ok, warn, bad) = (
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Bad),
        );
        say!("{ok} ok, {warn} warn, {bad} bad");
    }
    Ok(checks.iter().all(|check| check.verdict != Verdict::Bad))
}

/// Asks the broker's program what the configuration says. An error in the file is a finding.
fn read_config(options: &Options, what: &mut Examined) -> Result<Check> {
    let program = crate::corelogd::path(options.corelogd.as_deref());
    let output = Command::new(&program)
        .args(&options.config)
        .arg("--check-config")
        .output()
        .with_context(|| {
            let program = program.display();
            format!("cannot run {program}, which reads the configuration; name it with --corelogd, or name directories with --data")
        })?;
    let found = options.config.as_ref().map_or_else(
        || "built-in defaults".to_owned(),
        |file| file.display().to_string(),
    );
    let name = "configuration".to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let advice = said.trim().trim_start_matches("corelogd: ").to_owned();
        let verdict = Verdict::Bad;
        return Ok(Check {
            name,
            verdict,
            found,
            advice,
        });
    }
    take(&String::from_utf8_lossy(&output.stdout), what);
    let (verdict, advice) = (Verdict::Ok, String::new());
    Ok(Check {
        name,
        verdict,
        found,
        advice,
    })
}

/// Takes from `key=value` lines what is examined.
fn take(settings: &str, what: &mut Examined) {
    let value = |key: &str| {
        let mut lines = settings.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let dirs = value("log.dirs").or_else(|| value("log.dir")).unwrap_or("");
    what.log_dirs = dirs
        .split(',')
        .map(str::trim)
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .collect();
    what.direct = value("corelog.storage.io") != Some("buffered");
    what.listen_backlog = value("socket.listen.backlog.size")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let allowed = corelog_runtime::cpus::allowed();
    let list = value("corelog.cores").unwrap_or("all");
    what.cpus = corelog_runtime::cpus::parse_cpu_list(list, &allowed).unwrap_or_default();
}

/// A directory, or, as long as the broker has not made it, the nearest one around it.
fn nearest(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let there = absolute.ancestors().find(|path| path.exists());
    there.unwrap_or(dir).to_owned()
}

fn table(checks: &[Check]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(TABLE_COLUMNS)
        .set_header(["", "what", "found", "what to change"]);
    for check in checks {
        table.add_row([
            check.verdict.name(),
            &check.name,
            &check.found,
            &check.advice,
        ]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(6)));
    }
    table
}

fn json(checks: &[Check]) -> String {
    let check = |check: &Check| {
        serde_json::json!({
            "check": check.name,
            "verdict": check.verdict.name(),
            "found": check.found,
            "advice": check.advice,
        })
    };
    let checks: Vec<_> = checks.iter().map(check).collect();
    serde_json::json!({ "checks": checks }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_taken_as_the_broker_prints_them() {
        let mut what = Examined::default();
        take(
            "log.dir=./corelog-data\nlog.dirs=/a, /b\ncorelog.storage.io=buffered\n\
             socket.listen.backlog.size=50\ncorelog.cores=all\n",
            &mut what,
        );
        assert_eq!(what.log_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(!what.direct && !what.cpus.is_empty());
        assert_eq!(what.listen_backlog, 50);
        take("log.dir=./corelog-data\n", &mut what);
        assert_eq!(what.log_dirs, [PathBuf::from("./corelog-data")]);
        assert!(what.direct);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_examined_where_it_will_be() {
        assert_eq!(nearest(Path::new("/no/such/directory")), Path::new("/"));
        assert_eq!(nearest(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn findings_are_told_as_table_and_as_json() {
        let checks = [Check {
            name: "swap \"x\"".to_owned(),
            verdict: Verdict::Warn,
            found: "swappiness 60".to_owned(),
            advice: "set it to 1".to_owned(),
        }];
        let text = table(&checks).to_string();
        assert!(
            text.contains("warn") && text.contains("set it to 1"),
            "{text}"
        );
        let parsed: serde_json::Value = serde_json::from_str(&json(&checks)).expect("JSON");
        assert_eq!(parsed["checks"][0]["verdict"], "warn");
        assert_eq!(parsed["checks"][0]["check"], "swap \"x\"");
    }
}

//! `corelog group`.
//!
//! [`coordinator`] asks the broker that coordinates a group, [`offsets`] the leaders of its partitions, [`plan`] says
//! where offsets are to go.

mod coordinator;
mod datetime;
mod offsets;
mod plan;

use crate::cluster::{Cluster, check};
use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, Subcommand};
use coordinator::{Member, described};
use plan::{Facts, Partition, Scope, Step, Target, check_inactive, table};
use std::collections::{BTreeMap, BTreeSet};

/// What a column holds when there is nothing to say.
const NOTHING: &str = "-";

/// What can be done with consumer groups.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prints all groups, their protocol types and states.
    List,
    /// Prints the offsets of a group and how far they are behind, or its members.
    Describe {
        /// The group.
        name: String,
        /// Prints the members and what is assigned to them instead of the offsets.
        #[arg(long)]
        members: bool,
    },
    /// Moves the offsets of a group that has no members. Prints what it would do, and does it only with --execute.
    Reset(Reset),
    /// Deletes groups that have no members, and their offsets.
    Delete {
        /// The groups.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Which offsets go where.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("scope").required(true))]
#[command(group = ArgGroup::new("target").required(true))]
pub struct Reset {
    /// The group.
    name: String,
    /// A topic, or some of its partitions; may be repeated.
    #[arg(long, group = "scope", value_name = "TOPIC[:PARTITION,...]")]
    topic: Vec<Scope>,
    /// Every partition the group has an offset of.
    #[arg(long, group = "scope", conflicts_with = "topic")]
    all_topics: bool,
    /// To the first record.
    #[arg(long, group = "target")]
    to_earliest: bool,
    /// To the end.
    #[arg(long, group = "target")]
    to_latest: bool,
    /// To this offset.
    #[arg(long, group = "target", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record of that time or later, such as 2026-01-31T12:30:00.000; UTC unless it says otherwise.
    #[arg(long, group = "target", value_name = "ISO 8601", value_parser = datetime::parse_ms)]
    to_datetime: Option<i64>,
    /// So many records on, or back when negative.
    #[arg(
        long,
        group = "target",
        value_name = "N",
        allow_negative_numbers = true
    )]
    shift_by: Option<i64>,
    /// Makes the changes.
    #[arg(long)]
    execute: bool,
}

impl Reset {
    /// The parser lets exactly one through.
    fn target(&self) -> Result<Target> {
        let given = [
            self.to_earliest.then_some(Target::Earliest),
            self.to_latest.then_some(Target::Latest),
            self.to_offset.map(Target::Offset),
            self.to_datetime.map(Target::Datetime),
            self.shift_by.map(Target::ShiftBy),
        ];
        let given = given.into_iter().flatten().next();
        given.context("nothing says where the offsets are to go")
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, command: Command) -> Result<()> {
    match command {
        Command::List => list(cluster).await,
        Command::Describe { name, members } => describe(cluster, &name, members).await,
        Command::Reset(reset) => reset_offsets(cluster, &reset).await,
        Command::Delete { names } => delete(cluster, &names).await,
    }
}

fn say_table<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    for line in table(header, rows) {
        crate::say!("{line}");
    }
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { NOTHING } else { text }.to_owned()
}

fn number(value: Option<i64>) -> String {
    value.map_or(NOTHING.to_owned(), |value| value.to_string())
}

async fn list(cluster: &Cluster) -> Result<()> {
    let mut groups = coordinator::list(cluster).await?;
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |group: coordinator::Listed| {
        let (kind, state) = (or_nothing(&group.protocol_type), or_nothing(&group.state));
        [group.name, kind, state]
    };
    let rows: Vec<_> = groups.into_iter().map(row).collect();
    say_table(["GROUP", "PROTOCOL-TYPE", "STATE"], &rows);
    Ok(())
}

async fn describe(cluster: &Cluster, name: &str, members: bool) -> Result<()> {
    let Some(group) = described(cluster, name).await? else {
        bail!("there is no group {name}");
    };
    crate::say!(
        "group={name} state={} protocol-type={} protocol={} members={}",
        group.state,
        or_nothing(&group.protocol_type),
        or_nothing(&group.protocol),
        group
            .members
            .as_ref()
            .map_or("unknown".to_owned(), |members| members.len().to_string())
    );
    if members {
        let known = group.members.with_context(|| {
            format!("group {name} is not of the classic protocol: its members cannot be asked for")
        })?;
        say_members(&known);
        return Ok(());
    }
    let known = group.members.unwrap_or_default();
    let committed = coordinator::committed(cluster, name).await?;
    say_offsets(cluster, &known, &committed).await
}

fn say_members(members: &[Member]) {
    let row = |member: &Member| {
        let assigned: Vec<_> = member
            .assigned
            .iter()
            .map(|(topic, index)| format!("{topic}-{index}"))
            .collect();
        [
            member.id.clone(),
            or_nothing(&member.instance_id),
            or_nothing(&member.host),
            or_nothing(&member.client_id),
            assigned.len().to_string(),
            or_nothing(&assigned.join(",")),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    say_table(
        [
            "MEMBER",
            "INSTANCE",
            "HOST",
            "CLIENT-ID",
            "PARTITIONS",
            "ASSIGNMENT",
        ],
        &rows,
    );
}

/// Partitions with an offset or an owner; members without a partition follow.
async fn say_offsets(
    cluster: &Cluster,
    members: &[Member],
    committed: &BTreeMap<Partition, i64>,
) -> Result<()> {
    let mut owners = BTreeMap::new();
    for member in members {
        for partition in &member.assigned {
            owners.insert(partition, member);
        }
    }
    let partitions: BTreeSet<Partition> = committed
        .keys()
        .chain(owners.keys().copied())
        .cloned()
        .collect();
    let ends = offsets::ends(cluster, &partitions).await?;
    let of_member = |member: Option<&Member>| {
        let text =
            |part: fn(&Member) -> &str| member.map_or(NOTHING.into(), |m| or_nothing(part(m)));
        [text(|m| &m.id), text(|m| &m.host), text(|m| &m.client_id)]
    };
    let mut rows = Vec::new();
    for partition in &partitions {
        let (offset, end) = (
            committed.get(partition).copied(),
            ends.get(partition).copied(),
        );
        let lag = offset
            .zip(end)
            .map(|(offset, end)| end.saturating_sub(offset).max(0));
        let [member, host, client] = of_member(owners.get(partition).copied());
        let (topic, index) = partition;
        rows.push([
            topic.clone(),
            index.to_string(),
            number(offset),
            number(end),
            number(lag),
            member,
            host,
            client,
        ]);
    }
    for idle in members.iter().filter(|member| member.assigned.is_empty()) {
        let [member, host, client] = of_member(Some(idle));
        let [topic, index, offset, end, lag] = std::array::from_fn(|_| NOTHING.to_owned());
        rows.push([topic, index, offset, end, lag, member, host, client]);
    }
    say_table(
        [
            "TOPIC",
            "PARTITION",
            "COMMITTED",
            "LOG-END",
            "LAG",
            "MEMBER",
            "HOST",
            "CLIENT-ID",
        ],
        &rows,
    );
    Ok(())
}

async fn reset_offsets(cluster: &Cluster, reset: &Reset) -> Result<()> {
    let (name, target) = (reset.name.as_str(), reset.target()?);
    // A group that is not there gets its first offsets, as with Kafka's tool.
    if let Some(group) = described(cluster, name).await? {
        check_inactive(name, &group.state)?;
    }
    let committed = coordinator::committed(cluster, name).await?;
    let partitions = if reset.all_topics {
        committed.keys().cloned().collect()
    } else {
        offsets::in_scope(cluster, &reset.topic).await?
    };
    if partitions.is_empty() {
        bail!("group {name} has no offsets: name the topics");
    }
    let facts = gather(cluster, target, &partitions, &committed).await?;
    let steps = plan::plan(target, &facts)?;
    say_plan(&steps);
    if !reset.execute {
        crate::say!("nothing was changed: add --execute to do it");
        return Ok(());
    }
    coordinator::commit(cluster, name, &steps).await?;
    crate::say!("changed {} offsets of group {name}", steps.len());
    Ok(())
}

async fn gather(
    cluster: &Cluster,
    target: Target,
    partitions: &BTreeSet<Partition>,
    committed: &BTreeMap<Partition, i64>,
) -> Result<BTreeMap<Partition, Facts>> {
    let starts = offsets::at(cluster, partitions, offsets::EARLIEST).await?;
    let ends = offsets::at(cluster, partitions, offsets::LATEST).await?;
    let at_time = match target {
        Target::Datetime(ms) => offsets::at(cluster, partitions, ms).await?,
        _ => BTreeMap::new(),
    };
    let mut facts = BTreeMap::new();
    for partition in partitions {
        let (topic, index) = partition;
        let known = |offsets: &BTreeMap<Partition, i64>| {
            let missing = || format!("{topic}-{index}: the broker said nothing about its offsets");
            offsets.get(partition).copied().with_context(missing)
        };
        let of_partition = Facts {
            committed: committed.get(partition).copied(),
            start: known(&starts)?,
            end: known(&ends)?,
            at_time: at_time.get(partition).copied(),
        };
        facts.insert(partition.clone(), of_partition);
    }
    Ok(facts)
}

fn say_plan(steps: &[Step]) {
    let row = |step: &Step| {
        let (topic, index) = &step.partition;
        [
            topic.clone(),
            index.to_string(),
            number(step.from),
            step.to.to_string(),
            step.note.to_owned(),
        ]
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    say_table(["TOPIC", "PARTITION", "COMMITTED", "NEW-OFFSET", ""], &rows);
}

async fn delete(cluster: &Cluster, names: &[String]) -> Result<()> {
    let mut failed = None;
    for name in names {
        match coordinator::delete(cluster, name).await {
            Ok(()) => crate::say!("deleted {name}"),
            // The others are tried all the same.
            Err(error) => {
                if let Some(before) = failed.replace(error.context(format!("group {name}"))) {
                    eprintln!("corelog: {before:#}");
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use clap::error::ErrorKind;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        let words = ["group"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words)
            .map(|line| line.command)
            .map_err(|error| error.kind())
    }

    fn reset(line: &str) -> Reset {
        match parse(line) {
            Ok(Command::Reset(reset)) => reset,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn groups_are_named_and_deleted_by_name_only() {
        assert!(matches!(parse("list"), Ok(Command::List)));
        assert!(matches!(
            parse("describe g"),
            Ok(Command::Describe { members: false, .. })
        ));
        assert!(matches!(
            parse("describe g --members"),
            Ok(Command::Describe { members: true, .. })
        ));
        let Ok(Command::Delete { names }) = parse("delete a b") else {
            panic!("delete takes names");
        };
        assert_eq!(names, ["a", "b"]);
        let missing = Some(ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("delete").err(), missing);
        assert_eq!(parse("describe").err(), missing);
    }

    #[test]
    fn a_reset_has_one_scope_and_one_target() {
        let given = reset("reset g --topic a --topic b:0,2 --to-earliest");
        assert_eq!(given.name, "g");
        assert_eq!(given.topic.len(), 2);
        assert_eq!(given.topic[1].partitions, Some(vec![0, 2]));
        assert!(!given.execute && !given.all_topics);
        assert!(reset("reset g --all-topics --to-latest --execute").execute);
        for (line, kind) in [
            ("reset g --to-earliest", ErrorKind::MissingRequiredArgument),
            ("reset g --all-topics", ErrorKind::MissingRequiredArgument),
            (
                "reset --all-topics --to-latest",
                ErrorKind::MissingRequiredArgument,
            ),
            (
                "reset g --all-topics --topic a --to-latest",
                ErrorKind::ArgumentConflict,
            ),
            (
                "reset g --all-topics --to-latest --to-earliest",
                ErrorKind::ArgumentConflict,
            ),
            (
                "reset g --all-topics --to-offset 1 --shift-by 1",
                ErrorKind::ArgumentConflict,
            ),
            (
                "reset g --all-topics --to-offset -1",
                ErrorKind::UnknownArgument,
            ),
            (
                "reset g --all-topics --to-offset=-1",
                ErrorKind::ValueValidation,
            ),
            (
                "reset g --all-topics --to-datetime yesterday",
                ErrorKind::ValueValidation,
            ),
            (
                "reset g --topic a:x --to-latest",
                ErrorKind::ValueValidation,
            ),
        ] {
            assert_eq!(parse(line).err(), Some(kind), "{line}");
        }
    }

    #[test]
    fn a_reset_goes_where_it_was_told() {
        for (target, expected) in [
            ("--to-earliest", Target::Earliest),
            ("--to-latest", Target::Latest),
            ("--to-offset 42", Target::Offset(42)),
            (
                "--to-datetime 1970-01-01T00:00:01.500",
                Target::Datetime(1500),
            ),
            ("--shift-by -7", Target::ShiftBy(-7)),
            ("--shift-by 7", Target::ShiftBy(7)),
        ] {
            let given = reset(&format!("reset g --all-topics {target}"));
            assert_eq!(given.target().unwrap(), expected, "{target}");
        }
    }
}

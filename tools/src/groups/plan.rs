//! Where the offsets of a group are to go: nothing here speaks to a broker.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A partition of a topic.
pub type Partition = (String, i32);

/// `TOPIC` or `TOPIC:PARTITION,PARTITION...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The topic.
    pub topic: String,
    /// Its partitions; all of them for `None`.
    pub partitions: Option<Vec<i32>>,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        let error = || format!("`{text}` is neither TOPIC nor TOPIC:PARTITION,PARTITION...");
        let (topic, list) = match text.split_once(':') {
            Some((topic, list)) => (topic, Some(list)),
            None => (text, None),
        };
        if topic.is_empty() {
            return Err(error());
        }
        let number = |item: &str| item.parse().ok().filter(|number| *number >= 0);
        let partitions = match list {
            Some(list) => Some(
                list.split(',')
                    .map(number)
                    .collect::<Option<_>>()
                    .ok_or_else(error)?,
            ),
            None => None,
        };
        Ok(Scope {
            topic: topic.to_owned(),
            partitions,
        })
    }
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The first record that is there.
    Earliest,
    /// The end.
    Latest,
    /// An offset.
    Offset(i64),
    /// The first record with this timestamp or a later one, milliseconds; the end if there is none.
    Datetime(i64),
    /// So many records on, or back.
    ShiftBy(i64),
}

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The group's offset.
    pub committed: Option<i64>,
    /// Offset of the first record.
    pub start: i64,
    /// Offset after the last record.
    pub end: i64,
    /// The first record at [`Target::Datetime`] or later.
    pub at_time: Option<i64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Of this partition.
    pub partition: Partition,
    /// From here.
    pub from: Option<i64>,
    /// To here.
    pub to: i64,
    /// Why it is not what was asked for.
    pub note: &'static str,
}

/// The changes, by partition. As in Kafka's tool, an offset that is not there becomes the nearest one that is, and
/// only what is committed can be shifted.
pub fn plan(target: Target, partitions: &BTreeMap<Partition, Facts>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (partition, facts) in partitions {
        let (wanted, mut note) = match target {
            Target::Earliest => (facts.start, ""),
            Target::Latest => (facts.end, ""),
            Target::Offset(offset) => (offset, ""),
            Target::Datetime(_) => match facts.at_time {
                Some(offset) => (offset, ""),
                None => (facts.end, "no record is that late: the end"),
            },
            Target::ShiftBy(by) => match facts.committed {
                Some(committed) => (committed.saturating_add(by), ""),
                None => {
                    let (topic, index) = partition;
                    bail!("the group has no offset of {topic}-{index} that could be shifted");
                }
            },
        };
        let to = if wanted > facts.end {
            note = "beyond the end: the end";
            facts.end
        } else if wanted < facts.start {
            note = "before the start: the start";
            facts.start
        } else {
            wanted
        };
        steps.push(Step {
            partition: partition.clone(),
            from: facts.committed,
            to,
            note,
        });
    }
    Ok(steps)
}

/// Offsets are changed under nobody's feet: the group must be without members, or not be there at all.
pub fn check_inactive(group: &str, state: &str) -> Result<()> {
    match state {
        "Empty" | "Dead" => Ok(()),
        _ => bail!("group {group} is in use (state {state}): stop its members first"),
    }
}

/// Lines of columns as wide as their widest cell.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let head = header.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let padded: Vec<_> = cells.map(|(cell, w)| format!("{cell:w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(facts: &[Facts]) -> BTreeMap<Partition, Facts> {
        let named = |(index, facts): (usize, &Facts)| (("t".to_owned(), index as i32), *facts);
        facts.iter().enumerate().map(named).collect()
    }

    fn facts(committed: Option<i64>, at_time: Option<i64>) -> Facts {
        Facts {
            committed,
            start: 10,
            end: 100,
            at_time,
        }
    }

    fn targets(target: Target, facts: &[Facts]) -> Vec<(i64, bool)> {
        let steps = plan(target, &partitions(facts)).unwrap();
        let short = |step: &Step| (step.to, step.note.is_empty());
        steps.iter().map(short).collect()
    }

    #[test]
    fn a_scope_is_a_topic_or_some_of_its_partitions() {
        let scope = |topic: &str, partitions: Option<&[i32]>| Scope {
            topic: topic.to_owned(),
            partitions: partitions.map(<[i32]>::to_vec),
        };
        assert_eq!("orders".parse(), Ok(scope("orders", None)));
        assert_eq!("orders:3".parse(), Ok(scope("orders", Some(&[3]))));
        assert_eq!("o:0,2,1".parse(), Ok(scope("o", Some(&[0, 2, 1]))));
        for text in [
            "",
            ":",
            ":1",
            "t:",
            "t:1,",
            "t:x",
            "t:-1",
            "t:1:2",
            "t:1, 2",
            "t:99999999999",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }

    #[test]
    fn r23_offsets_go_where_they_were_told_to_go() {
        let two = [facts(Some(50), Some(60)), facts(None, None)];
        assert_eq!(targets(Target::Earliest, &two), [(10, true); 2]);
        assert_eq!(targets(Target::Latest, &two), [(100, true); 2]);
        assert_eq!(targets(Target::Offset(42), &two), [(42, true); 2]);
        assert_eq!(
            targets(Target::Datetime(7), &two),
            [(60, true), (100, false)]
        );
        assert_eq!(targets(Target::ShiftBy(-5), &two[..1]), [(45, true)]);
        assert_eq!(targets(Target::ShiftBy(5), &two[..1]), [(55, true)]);
        let steps = plan(Target::Earliest, &partitions(&two)).unwrap();
        assert_eq!((steps[0].from, steps[1].from), (Some(50), None));
        assert_eq!(steps[1].partition, ("t".to_owned(), 1));
    }

    #[test]
    fn r23_offsets_that_are_not_there_become_the_nearest_ones() {
        let one = [facts(Some(50), None)];
        for (target, to) in [
            (Target::Offset(9), 10),
            (Target::Offset(101), 100),
            (Target::ShiftBy(-41), 10),
            (Target::ShiftBy(51), 100),
            (Target::ShiftBy(i64::MIN), 10),
            (Target::ShiftBy(i64::MAX), 100),
        ] {
            assert_eq!(targets(target, &one), [(to, false)], "{target:?}");
        }
        assert_eq!(targets(Target::Offset(10), &one), [(10, true)]);
        assert_eq!(targets(Target::Offset(100), &one), [(100, true)]);
    }

    #[test]
    fn r23_what_is_not_committed_cannot_be_shifted() {
        let two = [facts(Some(50), None), facts(None, None)];
        let error = plan(Target::ShiftBy(1), &partitions(&two)).unwrap_err();
        assert!(error.to_string().contains("t-1"), "{error}");
    }

    #[test]
    fn r23_groups_with_members_are_left_alone() {
        for state in ["Empty", "Dead"] {
            assert!(check_inactive("g", state).is_ok());
        }
        for state in [
            "Stable",
            "PreparingRebalance",
            "CompletingRebalance",
            "Assigning",
            "Reconciling",
            "",
        ] {
            assert!(check_inactive("g", state).is_err(), "{state}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let lines = table(["A", "LONG"], &[row("éé", "x"), row("1", "")]);
        assert_eq!(lines, ["A   LONG", "éé  x", "1"]);
    }
}

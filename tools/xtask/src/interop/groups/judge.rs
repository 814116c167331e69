//! What the members of a group said, put in one order and judged.

use super::PARTITIONS;
use super::member::{Event, What};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What was found.
#[derive(Default, Debug)]
pub struct Findings {
    /// Records that the load wrote.
    pub written: usize,
    /// Deliveries.
    pub delivered: usize,
    /// Records delivered to nobody.
    pub lost: usize,
    /// Records whose value is not the one written there.
    pub changed: usize,
    /// Deliveries of a record after somebody had its commit confirmed.
    pub after_commit: usize,
    /// Records delivered more than once before they were committed: allowed.
    pub again: usize,
    /// Times a partition came to a member while another still had it.
    pub two_owners: usize,
    /// Deliveries to a member that did not own the partition.
    pub strangers: usize,
    /// Resets of an offset.
    pub resets: usize,
    /// Members that the group went on without.
    pub cast_out: usize,
    /// The first of each.
    pub examples: BTreeMap<&'static str, String>,
}

impl Findings {
    /// Nothing that must not be.
    pub fn good(&self) -> bool {
        self.written > 0
            && self.lost
                + self.changed
                + self.after_commit
                + self.two_owners
                + self.strangers
                + self.resets
                == 0
    }

    /// One line of the report.
    pub fn line(&self) -> String {
        let mut line = format!(
            "written={} delivered={} lost={} changed={} delivered_after_commit={} delivered_again={} two_owners={} \
             not_from_the_owner={} resets={} cast_out={}",
            self.written,
            self.delivered,
            self.lost,
            self.changed,
            self.after_commit,
            self.again,
            self.two_owners,
            self.strangers,
            self.resets,
            self.cast_out
        );
        for example in self.examples.values() {
            line.push_str("\n    ");
            line.push_str(example);
        }
        line
    }

    fn tell(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        self.examples.entry(kind).or_insert_with(example);
    }
}

/// What the load wrote: `NUMBER PARTITION OFFSET` per line. The offset of a record that was acknowledged as a
/// duplicate is not always known, so it is no part of the judgement.
pub fn read_written(path: &Path) -> Result<BTreeMap<u64, u32>> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let mut parts = line.split(' ');
            let mut next = || parts.next().with_context(|| format!("`{line}`"));
            Ok((next()?.parse()?, next()?.parse()?))
        })
        .collect()
}

/// Puts the events of all members in the order of the machine's clock.
pub fn judge(members: &[(&str, &[Event])], written: &BTreeMap<u64, u32>) -> Findings {
    let mut events: Vec<(u64, usize, &What)> = Vec::new();
    for (index, (_, said)) in members.iter().enumerate() {
        events.extend(said.iter().map(|event| (event.at_ns, index, &event.what)));
    }
    // Stable: what one member said at one moment stays in its order.
    events.sort_by_key(|(at_ns, ..)| *at_ns);
    let mut table = Table {
        members,
        written,
        found: Findings {
            written: written.len(),
            ..Findings::default()
        },
        committed: vec![0; PARTITIONS as usize],
        owners: vec![BTreeSet::new(); PARTITIONS as usize],
        overlaps: BTreeSet::new(),
        late: Vec::new(),
        seen: BTreeMap::new(),
        places: BTreeMap::new(),
    };
    for (_, member, what) in events {
        table.take(member, what);
    }
    table.finish()
}

struct Table<'a> {
    members: &'a [(&'a str, &'a [Event])],
    written: &'a BTreeMap<u64, u32>,
    found: Findings,
    /// By partition: the offset after the last one known as committed.
    committed: Vec<i64>,
    owners: Vec<BTreeSet<usize>>,
    /// (partition, the older owner): no fault when the group turns out to have gone on without that one.
    overlaps: BTreeSet<(u32, usize)>,
    /// Deliveries after a commit: (partition, to whom, which); the same holds for them.
    late: Vec<(u32, usize, String)>,
    /// The value found at each place of the log, and the place of each value.
    seen: BTreeMap<(u32, i64), u64>,
    places: BTreeMap<u64, (u32, i64)>,
}

impl Table<'_> {
    fn take(&mut self, member: usize, what: &What) {
        match what {
            What::Assigned(partitions) => self.assigned(member, partitions),
            What::Revoked(partitions) => self.released(member, partitions),
            What::Lost(partitions) => {
                self.found.cast_out += usize::from(!partitions.is_empty());
                self.forgive(member, partitions);
                self.released(member, partitions);
            }
            What::Killed | What::Left => {
                for owners in &mut self.owners {
                    owners.remove(&member);
                }
            }
            What::Got {
                partition,
                offset,
                value,
            } => self.got(member, *partition, *offset, value),
            What::Committed { partition, next } => {
                if let Some(known) = self.committed.get_mut(*partition as usize) {
                    *known = (*known).max(*next);
                }
            }
            What::Reset(text) => {
                self.found.resets += 1;
                let name = self.members[member].0;
                self.found
                    .tell("reset", || format!("reset: {name}: {text}"));
            }
            What::Trouble(_) => {}
        }
    }

    /// The group had gone on without this member, and it did not know: what it did meanwhile was no longer the group's.
    fn forgive(&mut self, member: usize, partitions: &[u32]) {
        for partition in partitions {
            if self.overlaps.remove(&(*partition, member)) {
                self.late
                    .retain(|(p, who, _)| (*p, *who) != (*partition, member));
            }
        }
    }

    fn assigned(&mut self, member: usize, partitions: &[u32]) {
        for partition in partitions {
            let Some(owners) = self.owners.get_mut(*partition as usize) else {
                continue;
            };
            self.overlaps.extend(
                owners
                    .iter()
                    .filter(|older| **older != member)
                    .map(|older| (*partition, *older)),
            );
            owners.insert(member);
        }
    }

    fn released(&mut self, member: usize, partitions: &[u32]) {
        for partition in partitions {
            if let Some(owners) = self.owners.get_mut(*partition as usize) {
                owners.remove(&member);
            }
        }
    }

    fn got(&mut self, member: usize, partition: u32, offset: i64, value: &str) {
        let name = self.members[member].0;
        let found = &mut self.found;
        found.delivered += 1;
        let place = format!("{name} got {partition}@{offset} = {value}");
        let number = value.parse().unwrap_or(u64::MAX);
        let (at, before) = ((partition, offset), self.seen.get(&(partition, offset)));
        found.again += usize::from(before.is_some());
        let known = self.written.get(&number) == Some(&partition)
            && before.is_none_or(|before| *before == number)
            && self.places.get(&number).is_none_or(|place| *place == at);
        if !known {
            found.changed += 1;
            found.tell("changed", || format!("never written so: {place}"));
        }
        self.seen.insert(at, number);
        self.places.insert(number, at);
        if self
            .committed
            .get(partition as usize)
            .is_some_and(|known| offset < *known)
        {
            self.late.push((partition, member, place.clone()));
        }
        if !self
            .owners
            .get(partition as usize)
            .is_some_and(|owners| owners.contains(&member))
        {
            found.strangers += 1;
            found.tell("stranger", || format!("not its owner: {place}"));
        }
    }

    fn finish(mut self) -> Findings {
        self.found.after_commit = self.late.len();
        if let Some((.., place)) = self.late.first() {
            let example = format!("delivered after its commit: {place}");
            self.found.examples.insert("after_commit", example);
        }
        self.found.two_owners = self.overlaps.len();
        if let Some((partition, older)) = self.overlaps.first() {
            let name = self.members[*older].0;
            self.found.tell("two_owners", || {
                format!("two owners: partition {partition} went on while {name} had it")
            });
        }
        let missing = || {
            self.written
                .iter()
                .filter(|(number, _)| !self.places.contains_key(number))
        };
        self.found.lost = missing().count();
        if let Some((number, partition)) = missing().next() {
            let example = format!("delivered to nobody: {number} of partition {partition}");
            self.found.examples.insert("lost", example);
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(rows: &[(u64, What)]) -> Vec<Event> {
        let event = |(at_ns, what): &(u64, What)| Event {
            at_ns: *at_ns,
            what: what.clone(),
        };
        rows.iter().map(event).collect()
    }

    fn got(offset: i64) -> What {
        What::Got {
            partition: 0,
            offset,
            value: (offset * 12).to_string(),
        }
    }

    fn committed(next: i64) -> What {
        What::Committed { partition: 0, next }
    }

    fn written() -> BTreeMap<u64, u32> {
        BTreeMap::from([(0, 0), (12, 0)])
    }

    fn judged(one: &[(u64, What)], two: &[(u64, What)]) -> Findings {
        let (one, two) = (events(one), events(two));
        judge(&[("one", &one), ("two", &two)], &written())
    }

    #[test]
    fn a_group_that_hands_over_after_its_commits_is_good() {
        let one = [
            (1, What::Assigned(vec![0])),
            (2, got(0)),
            (3, committed(1)),
            (4, What::Revoked(vec![0])),
        ];
        let two = [(5, What::Assigned(vec![0])), (6, got(1)), (7, committed(2))];
        let found = judged(&one, &two);
        assert!(found.good(), "{}", found.line());
    }

    #[test]
    fn a_delivery_before_the_commit_may_come_again() {
        let one = [(1, What::Assigned(vec![0])), (2, got(0)), (3, What::Killed)];
        let two = [(4, What::Assigned(vec![0])), (5, got(0)), (6, got(1))];
        let found = judged(&one, &two);
        assert!(found.good() && found.again == 1, "{}", found.line());
    }

    #[test]
    fn a_delivery_after_the_commit_is_found() {
        let one = [
            (1, What::Assigned(vec![0])),
            (2, got(0)),
            (3, committed(1)),
            (4, What::Killed),
        ];
        let two = [(5, What::Assigned(vec![0])), (6, got(0)), (7, got(1))];
        let found = judged(&one, &two);
        assert!(!found.good() && found.after_commit == 1, "{}", found.line());
    }

    #[test]
    fn two_owners_are_found_unless_the_older_was_cast_out() {
        let two = [(3, What::Assigned(vec![0])), (4, got(1))];
        let mut one = vec![(1, What::Assigned(vec![0])), (2, got(0))];
        let found = judged(&one, &two);
        assert!(!found.good() && found.two_owners == 1, "{}", found.line());
        one.push((5, What::Lost(vec![0])));
        let found = judged(&one, &two);
        assert!(found.good() && found.cast_out == 1, "{}", found.line());
    }

    #[test]
    fn a_member_that_was_cast_out_may_be_late_to_know() {
        let mut one = vec![(1, What::Assigned(vec![0])), (5, got(0))];
        let two = [
            (2, What::Assigned(vec![0])),
            (3, got(0)),
            (4, committed(1)),
            (7, got(1)),
        ];
        let found = judged(&one, &two);
        assert!(!found.good() && found.after_commit == 1, "{}", found.line());
        one.push((6, What::Lost(vec![0])));
        let found = judged(&one, &two);
        assert!(found.good() && found.again == 1, "{}", found.line());
    }

    #[test]
    fn lost_records_strangers_and_resets_are_found() {
        let found = judged(&[(1, What::Assigned(vec![0])), (2, got(0))], &[]);
        assert!(!found.good() && found.lost == 1, "{}", found.line());
        let found = judged(&[(1, What::Assigned(vec![0])), (2, got(0))], &[(3, got(1))]);
        assert!(!found.good() && found.strangers == 1, "{}", found.line());
        let all = [
            (1, What::Assigned(vec![0])),
            (2, got(0)),
            (3, got(1)),
            (4, What::Reset(String::new())),
        ];
        let found = judged(&all, &[]);
        assert!(!found.good() && found.resets == 1, "{}", found.line());
    }
}

//! A partition has one owner in each generation of a group, and nobody of an older generation is
//! obeyed once a newer one has its assignments.

use std::collections::BTreeMap;

use super::Broken;

#[derive(Debug, Default)]
struct Generation {
    /// Partition to member.
    owners: BTreeMap<i32, String>,
    /// When its first assignment was seen, ns.
    from_ns: u64,
}

/// Groups as their members see them.
#[derive(Debug, Default)]
pub struct Owners {
    groups: BTreeMap<String, BTreeMap<i32, Generation>>,
}

impl Owners {
    /// A member was given its partitions.
    pub fn assigned(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        partitions: &[i32],
        now_ns: u64,
    ) -> Result<(), Broken> {
        let known = self
            .groups
            .entry(group.to_owned())
            .or_default()
            .entry(generation)
            .or_insert_with(|| Generation {
                from_ns: now_ns,
                ..Generation::default()
            });
        for &partition in partitions {
            let owner = known
                .owners
                .entry(partition)
                .or_insert_with(|| member.to_owned());
            if owner != member {
                return Err(format!(
                    "owners: partition {partition} of {group} belongs to {owner} and to {member} in generation {generation}"
                ));
            }
        }
        Ok(())
    }

    /// A member's request of this generation, made at `asked_ns`, was obeyed.
    pub fn obeyed(
        &self,
        group: &str,
        generation: i32,
        member: &str,
        what: &str,
        asked_ns: u64,
    ) -> Result<(), Broken> {
        let newer = self.groups.get(group).and_then(|generations| {
            generations
                .range(generation + 1..)
                .find(|(_, newer)| newer.from_ns < asked_ns)
        });
        match newer {
            Some((newer, _)) => Err(format!(
                "owners: {what} of {member} of {group} in generation {generation} was obeyed after generation {newer} had its assignments"
            )),
            None => Ok(()),
        }
    }

    /// The group has nobody left and may begin again with its first generation.
    pub fn forget(&mut self, group: &str) {
        self.groups.remove(group);
    }
}

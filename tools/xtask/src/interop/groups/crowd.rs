//! A group: its members, and whether they share the partitions as they should.

use super::member::{Member, Plan};
use super::{PARTITIONS, SETTLE_LIMIT};
use crate::interop::Setting;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// The members of one group, also those that left or were killed.
pub struct Crowd {
    /// What they have in common.
    pub plan: Plan,
    /// In the order in which they started.
    pub members: Vec<Member>,
    /// Why nothing more is asked of it; the other groups go on.
    pub fault: Option<String>,
}

impl Crowd {
    /// A group without members.
    pub fn new(plan: Plan) -> Crowd {
        Crowd {
            plan,
            members: Vec::new(),
            fault: None,
        }
    }

    /// The group's name in the report.
    pub fn name(&self) -> String {
        format!("{} {}", self.plan.client.name(), self.plan.strategy)
    }

    /// One more member.
    pub fn join(&mut self, setting: &Setting) -> Result<()> {
        let name = format!("m{}", self.members.len() + 1);
        self.members
            .push(Member::start(setting, &self.plan, &name)?);
        Ok(())
    }

    /// Takes in what all of them have said since.
    pub fn advance(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.advance()?;
            member.still_there()?;
        }
        Ok(())
    }

    /// Every partition has one owner among the living, and no living member has two more than another.
    pub fn settled(&self) -> bool {
        let shares: Vec<_> = self.members.iter().filter(|m| m.alive).collect();
        let counts = || shares.iter().map(|m| m.owned.len());
        let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
        (0..PARTITIONS).all(|p| self.owners(p).len() == 1) && most - least <= 1
    }

    /// Who owns this partition now.
    pub fn owners(&self, partition: u32) -> Vec<&str> {
        let owns = |m: &&Member| m.alive && m.owned.contains(&partition);
        self.members
            .iter()
            .filter(owns)
            .map(|m| m.name.as_str())
            .collect()
    }

    /// For a message.
    pub fn shares(&self) -> String {
        let share = |m: &Member| format!("{}={:?}", m.name, m.owned);
        let alive = self.members.iter().filter(|m| m.alive);
        alive.map(share).collect::<Vec<_>>().join(" ")
    }

    /// Asks everybody to leave and waits for it.
    pub fn leave(&mut self) -> Result<()> {
        let alive: Vec<_> = self.members.iter_mut().filter(|m| m.alive).collect();
        let mut leaving = Vec::new();
        for member in alive {
            member.ask_to_leave();
            leaving.push(member);
        }
        for member in leaving {
            let left = member.wait_left()?;
            ensure!(
                left,
                "{} did not leave: {}",
                member.name,
                member.last_words()
            );
        }
        Ok(())
    }
}

/// The groups that have done all that was asked of them so far.
pub fn sound(crowds: &mut [Crowd]) -> impl Iterator<Item = &mut Crowd> {
    crowds.iter_mut().filter(|crowd| crowd.fault.is_none())
}

/// Waits until `done` holds for every group; one for which it does not has a fault from then on.
pub fn wait_for(crowds: &mut [Crowd], what: &str, done: impl Fn(&Crowd) -> bool, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        let mut waiting = false;
        for crowd in sound(crowds) {
            let state = crowd.advance().map(|()| done(crowd));
            crowd.fault = match state {
                Err(error) => Some(format!("{what}: {error:#}")),
                Ok(false) if late => Some(format!(
                    "{what}: not within {} s; {}",
                    limit.as_secs(),
                    crowd.shares()
                )),
                Ok(ready) => {
                    waiting |= !ready;
                    None
                }
            };
        }
        if !waiting {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until every group shares its partitions as it should.
pub fn wait_settled(crowds: &mut [Crowd], what: &str) {
    wait_for(crowds, what, Crowd::settled, SETTLE_LIMIT);
}

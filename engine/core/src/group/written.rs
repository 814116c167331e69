//! The ends of writes: what was asked for happens, or never happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::offset_fetch_request::OffsetFetchRequestGroup;

use super::admin;
use super::context::{Context, Effect, Pending, Removal, RemovalReply};
use super::coordinator::GroupCoordinator;
use super::offsets;
use super::state::{CommittedOffset, Group, GroupState};
use super::types::{Response, WriteError};
use crate::Uuid;

impl GroupCoordinator {
    /// A write ended.
    pub(super) fn written(&mut self, write: u64, result: Result<(), WriteError>) {
        match self.ctx.pending.pop_front() {
            Some(Pending::Write {
                write: expected,
                effect,
            }) => {
                assert_eq!(
                    write, expected,
                    "writes end in the order they were asked for"
                );
                match result {
                    Ok(()) => self.stored(effect),
                    Err(error) => self.not_stored(effect, error.response_code()),
                }
            }
            // Unloaded: nobody waits for it.
            None => return,
            Some(Pending::Fetch { .. }) => unreachable!("answered with the write before it"),
        }
        while let Some(Pending::Fetch { .. }) = self.ctx.pending.front() {
            if let Some(Pending::Fetch { token, group }) = self.ctx.pending.pop_front() {
                self.answer_fetch(token, &group);
            }
        }
    }

    pub(super) fn answer_fetch(&mut self, token: u64, request: &OffsetFetchRequestGroup) {
        let group = self.groups.get(request.group_id.as_str());
        let response = offsets::fetch(group, request);
        self.ctx.reply(token, Response::OffsetFetch(response));
    }

    /// The group, which is made where it is not: one without members that only has offsets.
    pub(super) fn group_or_simple(&mut self, id: &str) -> &mut Group {
        if !self.groups.contains_key(id) {
            let id: Arc<str> = Arc::from(id);
            self.groups
                .insert(Arc::clone(&id), Group::new(Arc::clone(&id), None));
        }
        self.groups.get_mut(id).expect("it was just looked for")
    }

    /// Drops what is known of a group but its offsets, which keep a simple group alive.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(group) = self.groups.remove(id) {
            self.ctx.timers.cancel_group(&group.id);
            if !group.offsets.is_empty() {
                self.group_or_simple(id).offsets = group.offsets;
            }
        }
    }

    fn stored(&mut self, effect: Effect) {
        match effect {
            Effect::Commit {
                token,
                group,
                response,
                offsets,
                ..
            } => {
                let group = self.group_or_simple(&group);
                for offset in offsets {
                    group.put_offset(offset.topic, offset.partition, offset.value);
                }
                self.ctx.reply(token, Response::OffsetCommit(response));
            }
            Effect::Remove { removals, reply } => {
                removals.iter().for_each(|removal| self.removed(removal));
                match reply {
                    RemovalReply::Nobody => {}
                    RemovalReply::OffsetDelete { token, response } => {
                        self.ctx.reply(token, Response::OffsetDelete(response));
                    }
                    RemovalReply::DeleteGroup { token, group } => {
                        self.ctx
                            .reply(token, admin::deleted(&group, ErrorCode::None));
                    }
                }
            }
            Effect::Assignment {
                group,
                generation,
                assignments,
            } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.awaits_assignment(generation)
                {
                    group.assign(&mut self.ctx, assignments);
                }
            }
            Effect::StaticSwap(swap) => {
                if let Some(group) = self.groups.get_mut(&swap.group) {
                    group.swap_stored(&mut self.ctx, &swap);
                }
            }
            Effect::NewGroup { .. } | Effect::EmptyGroup => {}
        }
    }

    fn removed(&mut self, removal: &Removal) {
        match removal {
            Removal::Offset {
                group,
                topic,
                partition,
            } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.remove_offset(topic, *partition);
                }
            }
            Removal::Group(id) => self.forget(id),
        }
    }

    fn not_stored(&mut self, effect: Effect, error: ErrorCode) {
        match effect {
            Effect::Assignment {
                group, generation, ..
            } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.awaits_assignment(generation)
                {
                    group.reset_assignments(&mut self.ctx, error);
                    group.prepare_rebalance(&mut self.ctx);
                }
            }
            Effect::StaticSwap(swap) => {
                if let Some(group) = self.groups.get_mut(&swap.group) {
                    group.swap_failed(&mut self.ctx, *swap, error);
                }
            }
            Effect::NewGroup { group } => self.uncreate(&group, error),
            effect => {
                if let Effect::Remove { removals, .. } = &effect {
                    for removal in removals {
                        self.not_removed(removal);
                    }
                }
                self.refuse(effect, error);
            }
        }
    }

    /// A dead group lives on when its tombstone could not be written.
    fn not_removed(&mut self, removal: &Removal) {
        if let Removal::Group(id) = removal
            && let Some(group) = self.groups.get_mut(id)
            && group.state == GroupState::Dead
        {
            group.state = GroupState::Empty;
        }
    }

    /// A group that a join created could not be stored: unless it has come further meanwhile, it
    /// never was.
    fn uncreate(&mut self, id: &Arc<str>, error: ErrorCode) {
        let Some(group) = self.groups.get(id) else {
            return;
        };
        let begun = match group.state {
            GroupState::Empty => group.generation > 0,
            GroupState::PreparingRebalance => group.generation > 0,
            _ => true,
        };
        if begun {
            return;
        }
        for member in group.members.values() {
            group.turn_away(&mut self.ctx, member, "", error);
        }
        self.forget(id);
    }
}

/// Tombstones of the offsets of topics that are gone, written or being written. A topic that was
/// made again under the same name has another id, and its offsets stay.
pub(super) fn of_deleted_topics(
    groups: &BTreeMap<Arc<str>, Group>,
    ctx: &Context,
    deleted: &BTreeMap<&str, Uuid>,
) -> Vec<Removal> {
    let is_gone = |topic: &str, offset: &CommittedOffset| {
        deleted
            .get(topic)
            .is_some_and(|id| id.is_nil() || offset.topic_id.is_nil() || offset.topic_id == *id)
    };
    let mut keys: BTreeSet<(Arc<str>, String, i32)> = BTreeSet::new();
    for group in groups.values() {
        for (topic, partitions) in &group.offsets {
            let gone = partitions
                .iter()
                .filter(|(_, offset)| is_gone(topic, offset));
            keys.extend(gone.map(|(index, _)| (Arc::clone(&group.id), topic.clone(), *index)));
        }
    }
    for pending in &ctx.pending {
        if let Pending::Write {
            effect: Effect::Commit { group, offsets, .. },
            ..
        } = pending
        {
            for offset in offsets {
                let key = (
                    Arc::from(group.as_str()),
                    offset.topic.clone(),
                    offset.partition,
                );
                // The last commit decides: one for the topic's successor stays.
                if is_gone(&offset.topic, &offset.value) {
                    keys.insert(key);
                } else {
                    keys.remove(&key);
                }
            }
        }
    }
    keys.into_iter()
        .map(|(group, topic, partition)| Removal::Offset {
            group,
            topic,
            partition,
        })
        .collect()
}

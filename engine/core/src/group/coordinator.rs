//! The coordinator's outer shape: events in, commands out.

use std::collections::BTreeMap;
use std::sync::Arc;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;

use super::admin::{self, ListFilter};
use super::context::{Context, Effect, Pending, RemovalReply};
use super::join::Join;
use super::membership::{heartbeat_response, leave_unknown};
use super::offsets::{self, Commit};
use super::rebalance::{join_error, sync_error};
use super::records::{self, Loaded};
use super::responses::{check, error_response};
use super::state::{Group, GroupState};
use super::timers::{TimerKey, TimerKind};
use super::types::{
    Client, Command, Event, GroupCounts, GroupSettings, Input, LoadRecord, Request, Response,
};
use crate::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Unloaded,
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct GroupCoordinator {
    phase: Phase,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    pub(super) ctx: Context,
    next_sweep_ms: Option<i64>,
    unreadable_records: u64,
}

impl GroupCoordinator {
    /// A coordinator that is loading: requests are answered COORDINATOR_LOAD_IN_PROGRESS (and
    /// heartbeats with success) until [`Event::Loaded`].
    pub fn new(settings: GroupSettings) -> GroupCoordinator {
        GroupCoordinator {
            phase: Phase::Loading,
            groups: BTreeMap::new(),
            ctx: Context::new(settings),
            next_sweep_ms: None,
            unreadable_records: 0,
        }
    }

    /// Takes an event and says what is to be done, in order.
    pub fn handle(&mut self, input: Input, event: Event) -> Vec<Command> {
        self.ctx.now_ms = input.now_ms;
        self.ctx.random = input.random;
        match event {
            Event::Load(records) => {
                if self.phase == Phase::Loading {
                    records.iter().for_each(|record| self.load(record));
                }
            }
            Event::Loaded => self.loaded(),
            Event::Unloaded => self.unloaded(),
            Event::Request {
                token,
                client,
                request,
            } => self.request(token, client, request),
            Event::Written { write, result } => self.written(write, result),
            Event::Tick => self.tick(),
            Event::TopicsDeleted(topics) => self.topics_deleted(&topics),
            Event::SettingsChanged(settings) => {
                let interval_ms = settings.offsets_retention_check_interval_ms;
                let latest_ms = input.now_ms.saturating_add(interval_ms);
                self.next_sweep_ms = self.next_sweep_ms.map(|at_ms| at_ms.min(latest_ms));
                self.ctx.settings = settings;
            }
            Event::Cancelled { token } => {
                self.ctx.open.remove(&token);
            }
        }
        std::mem::take(&mut self.ctx.commands)
    }

    /// When the next [`Event::Tick`] is due, milliseconds since the epoch. It may lie in the past.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let timer_ms = self.ctx.timers.next_ms();
        timer_ms.into_iter().chain(self.next_sweep_ms).min()
    }

    /// The committed offsets: group, topic, partition, offset.
    pub fn committed(&self) -> impl Iterator<Item = (&str, &str, i32, i64)> {
        self.groups.values().flat_map(|group| {
            group.offsets.iter().flat_map(|(topic, partitions)| {
                let offsets = partitions.iter();
                offsets.map(|(index, value)| (&*group.id, topic.as_str(), *index, value.offset))
            })
        })
    }

    /// How many groups there are in each state.
    pub fn group_counts(&self) -> GroupCounts {
        let mut counts = GroupCounts::default();
        for group in self.groups.values() {
            *match group.state {
                GroupState::Empty => &mut counts.empty,
                GroupState::PreparingRebalance => &mut counts.preparing_rebalance,
                GroupState::CompletingRebalance => &mut counts.completing_rebalance,
                GroupState::Stable => &mut counts.stable,
                GroupState::Dead => &mut counts.dead,
            } += 1;
        }
        counts
    }

    /// How many records of the partition made no sense when it was loaded; they were skipped.
    pub fn unreadable_records(&self) -> u64 {
        self.unreadable_records
    }

    fn load(&mut self, record: &LoadRecord) {
        match records::read(record) {
            Loaded::Offset {
                group,
                topic,
                partition,
                value: Some(value),
            } => self
                .group_or_simple(&group)
                .put_offset(topic, partition, value),
            Loaded::Offset {
                group,
                topic,
                partition,
                value: None,
            } => {
                if let Some(group) = self.groups.get_mut(group.as_str()) {
                    group.remove_offset(&topic, partition);
                }
            }
            Loaded::Group {
                group,
                value: Some(value),
            } => {
                let mut loaded = records::to_group(&group, value);
                if let Some(before) = self.groups.remove(group.as_str()) {
                    loaded.offsets = before.offsets;
                }
                self.groups.insert(Arc::clone(&loaded.id), loaded);
            }
            Loaded::Group { group, value: None } => self.forget(&group),
            Loaded::Other => {}
            Loaded::Unreadable => self.unreadable_records += 1,
        }
    }

    fn loaded(&mut self) {
        if self.phase != Phase::Loading {
            return;
        }
        self.phase = Phase::Active;
        let ctx = &mut self.ctx;
        let interval_ms = ctx.settings.offsets_retention_check_interval_ms;
        self.next_sweep_ms = Some(ctx.now_ms.saturating_add(interval_ms));
        // What emptied and then lost its last offset, before a sweep could write its tombstone,
        // comes back as a group with nothing in it; the next sweep ends it.
        for group in self.groups.values_mut() {
            for member_id in group.members.keys() {
                group.restart_session(ctx, member_id);
            }
            if group.members.len() > ctx.settings.max_size {
                // The limit was lowered: members have a chance to commit before some are refused.
                group.prepare_rebalance(ctx);
            }
        }
    }

    /// Nobody is served here any more.
    fn unloaded(&mut self) {
        self.phase = Phase::Unloaded;
        let error = ErrorCode::NotCoordinator;
        for group in self.groups.values() {
            for member in group.members.values() {
                group.turn_away(&mut self.ctx, member, &member.id, error);
            }
        }
        for pending in std::mem::take(&mut self.ctx.pending) {
            match pending {
                Pending::Fetch { token, group } => {
                    let request = Request::OffsetFetch {
                        group,
                        require_stable: true,
                    };
                    self.ctx.reply(token, error_response(&request, error));
                }
                Pending::Write { effect, .. } => self.refuse(effect, error),
            }
        }
        self.groups.clear();
        self.ctx.timers.clear();
        self.next_sweep_ms = None;
    }

    /// Answers whoever waits for a write that is not stored, and changes nothing.
    pub(super) fn refuse(&mut self, effect: Effect, error: ErrorCode) {
        match effect {
            Effect::Commit {
                token,
                version,
                topics,
                ..
            } => {
                let response = offsets::commit_response(version, &topics, |_| error);
                self.ctx.reply(token, Response::OffsetCommit(response));
            }
            Effect::Remove { reply, .. } => match reply {
                RemovalReply::Nobody => {}
                RemovalReply::OffsetDelete {
                    token,
                    mut response,
                } => {
                    response.topics.clear();
                    response.error_code = error.code();
                    self.ctx.reply(token, Response::OffsetDelete(response));
                }
                RemovalReply::DeleteGroup { token, group } => {
                    self.ctx.reply(token, admin::deleted(&group, error));
                }
            },
            Effect::StaticSwap(swap) => {
                self.ctx
                    .reply(swap.token, join_error(swap.version, "", error));
            }
            Effect::NewGroup { .. } | Effect::EmptyGroup | Effect::Assignment { .. } => {}
        }
    }

    fn tick(&mut self) {
        while let Some(TimerKey { group, kind }) = self.ctx.timers.pop_due(self.ctx.now_ms) {
            let Some(group) = self.groups.get_mut(&group) else {
                continue;
            };
            match kind {
                TimerKind::Join => group.join_timer(&mut self.ctx),
                TimerKind::Sync => group.sync_timer(&mut self.ctx),
                TimerKind::Session(member_id) => group.session_timer(&mut self.ctx, &member_id),
            }
        }
        if self
            .next_sweep_ms
            .is_some_and(|at_ms| at_ms <= self.ctx.now_ms)
        {
            let interval_ms = self.ctx.settings.offsets_retention_check_interval_ms;
            self.next_sweep_ms = Some(self.ctx.now_ms.saturating_add(interval_ms.max(1)));
            let mut removals = Vec::new();
            for group in self.groups.values_mut() {
                removals.extend(group.expire(&self.ctx));
            }
            offsets::write_removals(&mut self.ctx, &removals, RemovalReply::Nobody);
        }
    }

    fn topics_deleted(&mut self, topics: &[(String, Uuid)]) {
        if self.phase != Phase::Active {
            return;
        }
        let deleted: BTreeMap<&str, Uuid> =
            topics.iter().map(|(n, id)| (n.as_str(), *id)).collect();
        let removals = super::written::of_deleted_topics(&self.groups, &self.ctx, &deleted);
        offsets::write_removals(&mut self.ctx, &removals, RemovalReply::Nobody);
    }

    fn request(&mut self, token: u64, client: Client, request: Request) {
        self.ctx.open.insert(token);
        let refused = match check(&self.ctx.settings, &client, &request) {
            Err(error) => Some(error),
            Ok(()) => match (self.phase, &request) {
                (Phase::Active, _) => None,
                (Phase::Unloaded, _) => Some(ErrorCode::NotCoordinator),
                // A member that is kept waiting is not to think it lost its group.
                (Phase::Loading, Request::Heartbeat { .. }) => Some(ErrorCode::None),
                (Phase::Loading, _) => Some(ErrorCode::CoordinatorLoadInProgress),
            },
        };
        if let Some(error) = refused {
            self.ctx.reply(token, error_response(&request, error));
            return;
        }
        match request {
            Request::Join { version, request } => self.join(token, version, client, &request),
            Request::Sync { version, request } => {
                match self.groups.get_mut(request.group_id.as_str()) {
                    Some(group) => group.sync(&mut self.ctx, token, version, &request),
                    None => self
                        .ctx
                        .reply(token, sync_error(ErrorCode::UnknownMemberId)),
                }
            }
            Request::Heartbeat { request } => {
                let error = match self.groups.get_mut(request.group_id.as_str()) {
                    Some(group) => group.heartbeat(&mut self.ctx, &request),
                    None => ErrorCode::UnknownMemberId,
                };
                self.ctx.reply(token, heartbeat_response(error));
            }
            Request::Leave { version, request } => {
                let response = match self.groups.get_mut(request.group_id.as_str()) {
                    Some(group) => Response::Leave(group.leave(&mut self.ctx, version, &request)),
                    None => leave_unknown(version, &request),
                };
                self.ctx.reply(token, response);
            }
            request => self.offset_or_admin(token, request),
        }
    }

    fn join(&mut self, token: u64, version: i16, client: Client, request: &JoinGroupRequestData) {
        let group_id = request.group_id.as_str();
        let join = Join::new(token, version, client, request);
        if let Some(group) = self.groups.get_mut(group_id) {
            return group.join(&mut self.ctx, join);
        }
        if !join.member_id.is_empty() {
            let error = join_error(version, &join.member_id, ErrorCode::UnknownMemberId);
            return self.ctx.reply(token, error);
        }
        let mut group = Group::new(Arc::from(group_id), Some(self.ctx.now_ms));
        let record = records::new_group(&group);
        group.join(&mut self.ctx, join);
        if group.members.is_empty() && group.pending_join.is_empty() {
            return;
        }
        let effect = Effect::NewGroup {
            group: Arc::clone(&group.id),
        };
        self.groups.insert(Arc::clone(&group.id), group);
        self.ctx.write(vec![record], effect);
    }

    fn offset_or_admin(&mut self, token: u64, request: Request) {
        match request {
            Request::OffsetCommit {
                version,
                group_id,
                generation,
                member_id,
                group_instance_id,
                retention_time_ms,
                topics,
            } => {
                let group = self.groups.get_mut(group_id.as_str());
                let commit = Commit {
                    token,
                    version,
                    group_id,
                    generation,
                    member_id,
                    group_instance_id,
                    retention_time_ms,
                    topics,
                };
                offsets::commit(&mut self.ctx, group, commit);
            }
            Request::OffsetFetch {
                group,
                require_stable,
            } => {
                if require_stable && !self.ctx.pending.is_empty() {
                    self.ctx.pending.push_back(Pending::Fetch { token, group });
                } else {
                    self.answer_fetch(token, &group);
                }
            }
            Request::OffsetDelete { ref request } => {
                let error = match self.groups.get(request.group_id.as_str()) {
                    Some(group) => group.delete_offsets(&mut self.ctx, token, request).err(),
                    None => Some(ErrorCode::GroupIdNotFound),
                };
                if let Some(error) = error {
                    let request = Request::OffsetDelete {
                        request: request.clone(),
                    };
                    self.ctx.reply(token, error_response(&request, error));
                }
            }
            Request::Describe {
                version,
                group_id,
                include_authorized_operations: operations,
            } => {
                let group = self.groups.get(group_id.as_str());
                let described = admin::describe(group, version, &group_id, operations);
                self.ctx.reply(token, Response::Describe(described));
            }
            Request::Delete { group_id } => {
                let error = match self.groups.get_mut(group_id.as_str()) {
                    Some(group) => group.delete(&mut self.ctx, token).err(),
                    None => Some(ErrorCode::GroupIdNotFound),
                };
                if let Some(error) = error {
                    self.ctx.reply(token, admin::deleted(&group_id, error));
                }
            }
            Request::List {
                states_filter,
                types_filter,
            } => {
                let filter = ListFilter::new(&states_filter, &types_filter);
                let groups = self.groups.values().filter(|group| filter.wants(group));
                let response = ListGroupsResponseData::default()
                    .with_groups(groups.map(admin::listed).collect());
                self.ctx.reply(token, Response::List(response));
            }
            Request::Join { .. }
            | Request::Sync { .. }
            | Request::Heartbeat { .. }
            | Request::Leave { .. } => unreachable!("taken by `request`"),
        }
    }
}

//! The rebalance: who joins, when joining ends, and who leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::join_group_response::{
    JoinGroupResponseData, JoinGroupResponseMember,
};
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::context::{Context, Effect};
use super::records;
use super::state::{Group, GroupState, Member, Parked};
use super::timers::TimerKind;
use super::types::Response;

/// How long a member that has no id yet may wait for its first rebalance: it cannot send
/// heartbeats, and if it is gone nobody tells.
pub(super) const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;

/// Versions of JoinGroup.
const JOIN_VERSION_WITH_INSTANCE: i16 = 5;
const JOIN_VERSION_WITH_PROTOCOL_TYPE: i16 = 7;
/// Version of SyncGroup.
const SYNC_VERSION_WITH_PROTOCOL: i16 = 5;

fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// A refusal of a JoinGroup.
pub(super) fn join_error(version: i16, member_id: &str, error: ErrorCode) -> Response {
    let response = JoinGroupResponseData::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_member_id(text(member_id));
    Response::Join(fit_join(version, response))
}

/// Leaves out what the version does not have.
fn fit_join(version: i16, mut response: JoinGroupResponseData) -> JoinGroupResponseData {
    if version < JOIN_VERSION_WITH_PROTOCOL_TYPE {
        response.protocol_type = None;
        response.protocol_name.get_or_insert_default();
    }
    if version < JOIN_VERSION_WITH_INSTANCE {
        for member in &mut response.members {
            member.group_instance_id = None;
        }
    }
    response
}

/// A refusal of a SyncGroup.
pub(super) fn sync_error(error: ErrorCode) -> Response {
    Response::Sync(SyncGroupResponseData::default().with_error_code(error.code()))
}

impl Group {
    /// The answer to a member's JoinGroup: the generation as it is.
    pub fn join_response(&self, version: i16, member_id: &str) -> JoinGroupResponseData {
        let protocol = self.protocol.as_deref();
        let mut response = JoinGroupResponseData::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(protocol.map(text))
            .with_leader(text(self.leader.as_deref().unwrap_or_default()))
            .with_member_id(text(member_id));
        if self.is_leader(member_id) {
            let members = self.members.values().map(|member| {
                JoinGroupResponseMember::default()
                    .with_member_id(text(&member.id))
                    .with_group_instance_id(member.group_instance_id.as_deref().map(text))
                    .with_metadata(member.metadata(protocol.unwrap_or_default()))
            });
            response.members = members.collect();
        }
        fit_join(version, response)
    }

    /// The answer to a member's SyncGroup: its assignment.
    pub fn sync_response(&self, version: i16, assignment: Bytes) -> Response {
        let mut response = SyncGroupResponseData::default().with_assignment(assignment);
        if version >= SYNC_VERSION_WITH_PROTOCOL {
            response.protocol_type = self.protocol_type.as_deref().map(text);
            response.protocol_name = self.protocol.as_deref().map(text);
        }
        Response::Sync(response)
    }

    /// Starts a member's session anew.
    pub fn restart_session(&self, ctx: &mut Context, member_id: &str) {
        if let Some(member) = self.members.get(member_id) {
            let after_ms = i64::from(member.session_timeout_ms.max(0));
            ctx.set_timer(
                &self.id,
                TimerKind::Session(Arc::clone(&member.id)),
                after_ms,
            );
        }
    }

    pub fn end_session(&self, ctx: &mut Context, member_id: &Arc<str>) {
        ctx.cancel_timer(&self.id, TimerKind::Session(Arc::clone(member_id)));
    }

    /// Takes a member out and tells it so, if it waits. It may join again.
    pub fn expel(&mut self, ctx: &mut Context, member_id: &Arc<str>) {
        if let Some(member) = self.remove(member_id) {
            self.turn_away(ctx, &member, "", ErrorCode::UnknownMemberId);
        }
        self.end_session(ctx, member_id);
    }

    /// Answers what a member waits for that is no longer one.
    pub fn turn_away(&self, ctx: &mut Context, member: &Member, named: &str, error: ErrorCode) {
        if let Some(Parked { token, version }) = member.join {
            ctx.reply(token, join_error(version, named, error));
        }
        if let Some(Parked { token, .. }) = member.sync {
            ctx.reply(token, sync_error(error));
        }
    }

    /// After something changed that asks for a new generation.
    pub fn rebalance_or_complete(&mut self, ctx: &mut Context) {
        match self.state {
            GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare_rebalance(ctx);
            }
            GroupState::PreparingRebalance => self.maybe_complete_join(ctx),
            GroupState::Dead => {}
        }
    }

    /// Begins to gather the members of the next generation. A group that was empty waits for
    /// more of them to come.
    pub fn prepare_rebalance(&mut self, ctx: &mut Context) {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignments(ctx, ErrorCode::RebalanceInProgress);
        }
        self.pending_sync.clear();
        ctx.cancel_timer(&self.id, TimerKind::Sync);
        let initial = self.state == GroupState::Empty;
        self.transition(GroupState::PreparingRebalance, ctx.now_ms);
        self.new_member_added = false;
        self.initial_delay = None;
        if initial {
            let delay_ms = ctx.settings.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial_delay = Some((delay_ms, remaining_ms));
            ctx.set_timer(&self.id, TimerKind::Join, delay_ms);
        } else if self.has_all_joined() {
            self.complete_join(ctx);
        } else {
            ctx.set_timer(&self.id, TimerKind::Join, self.rebalance_timeout_ms());
        }
    }

    /// Ends the joining when everybody is there, unless more are awaited.
    pub fn maybe_complete_join(&mut self, ctx: &mut Context) {
        if self.state == GroupState::PreparingRebalance
            && self.initial_delay.is_none()
            && self.has_all_joined()
        {
            self.complete_join(ctx);
        }
    }

    /// The time for joining is over, or the initial delay; the delay is extended while members
    /// keep coming, up to the rebalance time-out.
    pub fn join_timer(&mut self, ctx: &mut Context) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        if let Some((delay_ms, remaining_ms)) = self.initial_delay
            && self.new_member_added
            && remaining_ms != 0
        {
            self.new_member_added = false;
            let next_ms = ctx
                .settings
                .initial_rebalance_delay_ms
                .clamp(0, remaining_ms);
            self.initial_delay = Some((next_ms, (remaining_ms - delay_ms).max(0)));
            ctx.set_timer(&self.id, TimerKind::Join, next_ms);
            return;
        }
        self.complete_join(ctx);
    }

    /// Ends the joining: who has not come is out (static members until their session ends), and
    /// a new generation begins.
    pub fn complete_join(&mut self, ctx: &mut Context) {
        ctx.cancel_timer(&self.id, TimerKind::Join);
        let missing: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.join.is_none() && member.group_instance_id.is_none())
            .map(|member| Arc::clone(&member.id))
            .collect();
        for member_id in &missing {
            self.expel(ctx, member_id);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members, none of which came: their sessions decide.
            self.initial_delay = None;
            ctx.set_timer(&self.id, TimerKind::Join, self.rebalance_timeout_ms());
            return;
        }
        self.initial_delay = None;
        self.begin_generation(ctx.now_ms);
        if self.state == GroupState::Empty {
            self.leader = None;
            let record = records::group(self, |_| Bytes::new());
            ctx.write(vec![record], Effect::EmptyGroup);
            return;
        }
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in ids {
            if let Some(Parked { token, version }) = self.take_join(&member_id) {
                ctx.reply(
                    token,
                    Response::Join(self.join_response(version, &member_id)),
                );
            }
            self.restart_session(ctx, &member_id);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
            }
            self.pending_sync.insert(member_id);
        }
        ctx.set_timer(&self.id, TimerKind::Sync, self.rebalance_timeout_ms());
    }

    /// Nobody has an assignment; who waits for one is told why.
    pub fn reset_assignments(&mut self, ctx: &mut Context, error: ErrorCode) {
        self.assignment_in_flight = false;
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(ctx, |_, _, _| sync_error(error));
    }

    /// The leader's assignment is stored: everybody may have theirs.
    pub fn assign(&mut self, ctx: &mut Context, mut assignments: BTreeMap<Arc<str>, Bytes>) {
        self.assignment_in_flight = false;
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
        }
        self.answer_syncs(ctx, |group, version, member| {
            group.sync_response(version, member.assignment.clone())
        });
        self.transition(GroupState::Stable, ctx.now_ms);
    }

    /// Answers all that wait for their assignment; their sessions start anew, since they were not
    /// watched meanwhile.
    fn answer_syncs(
        &mut self,
        ctx: &mut Context,
        response: impl Fn(&Group, i16, &Member) -> Response,
    ) {
        let waiting: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.sync.is_some())
            .map(|member| Arc::clone(&member.id))
            .collect();
        for member_id in waiting {
            let parked = self.members.get_mut(&member_id).and_then(|m| m.sync.take());
            if let (Some(Parked { token, version }), Some(member)) =
                (parked, self.members.get(&member_id))
            {
                ctx.reply(token, response(self, version, member));
            }
            self.restart_session(ctx, &member_id);
        }
    }

    /// The time for asking for assignments is over: who has not asked is out.
    pub fn sync_timer(&mut self, ctx: &mut Context) {
        let due = matches!(
            self.state,
            GroupState::CompletingRebalance | GroupState::Stable
        );
        if !due || self.pending_sync.is_empty() {
            return;
        }
        for member_id in std::mem::take(&mut self.pending_sync) {
            self.expel(ctx, &member_id);
        }
        self.prepare_rebalance(ctx);
    }

    /// A session, or the time for an id that was given out, is over.
    pub fn session_timer(&mut self, ctx: &mut Context, member_id: &Arc<str>) {
        if self.pending_join.remove(member_id) {
            if self.state == GroupState::PreparingRebalance && self.has_all_joined() {
                self.complete_join(ctx);
            }
            return;
        }
        if self.members.get(member_id).is_none_or(Member::is_waiting) {
            return;
        }
        self.expel(ctx, member_id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(ctx),
            GroupState::PreparingRebalance if self.has_all_joined() => self.complete_join(ctx),
            _ => {}
        }
    }

    /// A member asked for its assignment: when all have, nobody is late any more.
    pub fn has_synced(&mut self, ctx: &mut Context, member_id: &str) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            ctx.cancel_timer(&self.id, TimerKind::Sync);
        }
    }
}

//! JoinGroup.

use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;

use super::context::{Context, Effect, StaticSwap};
use super::rebalance::{NEW_MEMBER_JOIN_TIMEOUT_MS, join_error};
use super::records;
use super::state::{Group, GroupState, Member, Parked, Protocols};
use super::timers::TimerKind;
use super::types::{Client, Response};

/// From this version on a member gets its id first and joins with it.
const VERSION_WITH_KNOWN_MEMBER_ID: i16 = 4;
/// From this version on a leader can be told not to assign.
const VERSION_WITH_SKIP_ASSIGNMENT: i16 = 9;

/// A JoinGroup.
pub(super) struct Join {
    pub token: u64,
    pub version: i16,
    pub client: Client,
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub protocol_type: String,
    pub protocols: Protocols,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
}

impl Join {
    pub fn new(token: u64, version: i16, client: Client, request: &JoinGroupRequestData) -> Join {
        let mut protocols: Protocols = Vec::new();
        for protocol in &request.protocols {
            let name = protocol.name.as_str();
            if !protocols.iter().any(|(known, _)| known == name) {
                // Copied: the bytes of the request are not kept alive for it.
                let metadata = Bytes::copy_from_slice(&protocol.metadata);
                protocols.push((name.to_owned(), metadata));
            }
        }
        let instance = request.group_instance_id.as_ref();
        Join {
            token,
            version,
            client,
            member_id: request.member_id.as_str().to_owned(),
            group_instance_id: instance.map(|id| id.as_str().to_owned()),
            protocol_type: request.protocol_type.as_str().to_owned(),
            protocols,
            session_timeout_ms: request.session_timeout_ms,
            // Version 0 has none.
            rebalance_timeout_ms: if version == 0 || request.rebalance_timeout_ms < 0 {
                request.session_timeout_ms
            } else {
                request.rebalance_timeout_ms
            },
        }
    }

    fn parked(&self) -> Parked {
        Parked {
            token: self.token,
            version: self.version,
        }
    }

    fn timeouts_ms(&self) -> (i32, i32) {
        (self.rebalance_timeout_ms, self.session_timeout_ms)
    }

    fn refuse(&self, ctx: &mut Context, named: &str, error: ErrorCode) {
        ctx.reply(self.token, join_error(self.version, named, error));
    }
}

impl Group {
    /// Takes a JoinGroup.
    pub fn join(&mut self, ctx: &mut Context, join: Join) {
        if self.state == GroupState::Dead {
            join.refuse(ctx, &join.member_id, ErrorCode::CoordinatorNotAvailable);
        } else if !self.has_room_for(ctx, &join.member_id) {
            if let Some((id, _)) = self.members.get_key_value(join.member_id.as_str()) {
                let id = Arc::clone(id);
                self.expel(ctx, &id);
                self.maybe_complete_join(ctx);
            }
            self.pending_join.remove(join.member_id.as_str());
            join.refuse(ctx, "", ErrorCode::GroupMaxSizeReached);
        } else if !self.supports(&join.protocol_type, &join.protocols) {
            join.refuse(ctx, &join.member_id, ErrorCode::InconsistentGroupProtocol);
        } else if join.member_id.is_empty() {
            self.join_new(ctx, join);
        } else if let Some(id) = self.pending_join.get(join.member_id.as_str()) {
            if join.group_instance_id.is_some() {
                // Ids are given out to dynamic members only: no client of Kafka's does this.
                join.refuse(ctx, &join.member_id, ErrorCode::UnknownServerError);
                return;
            }
            let id = Arc::clone(id);
            self.join_with_id(ctx, join, id);
        } else {
            self.join_again(ctx, join);
        }
    }

    /// An empty group takes everybody. While members join, those that wait count; else all do.
    fn has_room_for(&self, ctx: &Context, member_id: &str) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.join.is_some())
                    || self.awaiting_join() < ctx.settings.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < ctx.settings.max_size
            }
        }
    }

    /// A member without an id.
    fn join_new(&mut self, ctx: &mut Context, join: Join) {
        if let Some(instance) = &join.group_instance_id {
            let new_id = ctx.new_member_id(instance);
            match self.static_members.get(instance).cloned() {
                Some(old_id) => self.join_in_place(ctx, join, &old_id, &new_id),
                None => self.join_with_id(ctx, join, new_id),
            }
            return;
        }
        let new_id = ctx.new_member_id(&join.client.id);
        if join.version < VERSION_WITH_KNOWN_MEMBER_ID {
            self.join_with_id(ctx, join, new_id);
            return;
        }
        let session_ms = i64::from(join.session_timeout_ms.max(0));
        ctx.set_timer(
            &self.id,
            TimerKind::Session(Arc::clone(&new_id)),
            session_ms,
        );
        join.refuse(ctx, &new_id, ErrorCode::MemberIdRequired);
        self.pending_join.insert(new_id);
    }

    /// A member that is new to the group.
    fn join_with_id(&mut self, ctx: &mut Context, join: Join, id: Arc<str>) {
        if self.initial_delay.is_some() {
            self.new_member_added = true;
        }
        let parked = join.parked();
        let member = Member {
            id: Arc::clone(&id),
            group_instance_id: join.group_instance_id,
            client_id: join.client.id,
            client_host: join.client.host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            join: Some(parked),
            sync: None,
            is_new: true,
        };
        self.add(member, &join.protocol_type);
        ctx.set_timer(&self.id, TimerKind::Session(id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete(ctx);
    }

    /// A member that says who it is.
    fn join_again(&mut self, ctx: &mut Context, join: Join) {
        let instance = join.group_instance_id.as_deref();
        if let Err(error) = self.check_member(&join.member_id, instance) {
            join.refuse(ctx, &join.member_id, error);
            return;
        }
        let same = self
            .members
            .get(join.member_id.as_str())
            .is_some_and(|member| member.protocols == join.protocols);
        let answer_at_once = match self.state {
            // It did not get our answer: it gets it again.
            GroupState::CompletingRebalance => same,
            // The leader may have seen changes that the group has not.
            GroupState::Stable => same && !self.is_leader(&join.member_id),
            GroupState::PreparingRebalance => false,
            GroupState::Empty | GroupState::Dead => {
                join.refuse(ctx, &join.member_id, ErrorCode::UnknownMemberId);
                return;
            }
        };
        if answer_at_once {
            let response = self.join_response(join.version, &join.member_id);
            ctx.reply(join.token, Response::Join(response));
            return;
        }
        self.update_and_park(ctx, &join.member_id.clone(), join);
        self.rebalance_or_complete(ctx);
    }

    fn update_and_park(&mut self, ctx: &mut Context, member_id: &str, join: Join) {
        let (parked, timeouts_ms) = (join.parked(), join.timeouts_ms());
        self.update(member_id, join.protocols, timeouts_ms);
        if let Some(before) = self.park_join(member_id, parked) {
            // The member asked twice; the first asker is told to ask again.
            let error = join_error(before.version, member_id, ErrorCode::RebalanceInProgress);
            ctx.reply(before.token, error);
        }
    }

    /// A static member that was restarted takes the place it had, under a new id.
    fn join_in_place(&mut self, ctx: &mut Context, join: Join, old_id: &str, new_id: &Arc<str>) {
        let old_leader = self.leader.clone();
        let (token, version) = (join.token, join.version);
        let Some(old) = self.replace_static(old_id, new_id) else {
            return join.refuse(ctx, "", ErrorCode::UnknownMemberId);
        };
        self.turn_away(ctx, &old, old_id, ErrorCode::FencedInstanceId);
        self.end_session(ctx, &old.id);
        self.update_and_park(ctx, new_id, join);
        self.restart_session(ctx, new_id);
        match self.state {
            GroupState::Stable if self.select_protocol() == self.protocol => {
                let record = records::group(self, |member| member.assignment.clone());
                let swap = StaticSwap {
                    group: Arc::clone(&self.id),
                    group_instance_id: old.group_instance_id.clone().unwrap_or_default(),
                    new_member_id: Arc::clone(new_id),
                    old_member: Member {
                        join: None,
                        sync: None,
                        ..old
                    },
                    old_leader,
                    generation: self.generation,
                    token,
                    version,
                };
                ctx.write(vec![record], Effect::StaticSwap(Box::new(swap)));
            }
            // While the leader assigns, it may assign to the old id: it has to begin anew.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(ctx),
            _ => self.maybe_complete_join(ctx),
        }
    }

    /// The change of a static member is stored. Where a rebalance came between, the member is
    /// part of it and waits on.
    pub fn swap_stored(&mut self, ctx: &mut Context, swap: &StaticSwap) {
        if !self.is_swap_waiting(swap) {
            return;
        }
        self.take_join(&swap.new_member_id);
        let mut response = self.join_response(swap.version, &swap.new_member_id);
        if swap.version >= VERSION_WITH_SKIP_ASSIGNMENT {
            response.skip_assignment = self.is_leader(&swap.new_member_id);
        } else {
            // An old client that is told it leads would assign, and wait for a rebalance.
            let leader = swap.old_leader.as_deref().unwrap_or_default();
            response.leader = KafkaString::from(leader.to_owned());
            response.members.clear();
        }
        ctx.reply(swap.token, Response::Join(response));
    }

    /// The change of a static member could not be stored: it never was.
    pub fn swap_failed(&mut self, ctx: &mut Context, mut swap: StaticSwap, error: ErrorCode) {
        if self.state != GroupState::Stable || self.generation != swap.generation {
            // The rebalance that came between stores it.
            return;
        }
        if self.static_members.get(&swap.group_instance_id) != Some(&swap.new_member_id) {
            // Somebody took its place in turn: should that fail too, ours comes back.
            for effect in ctx.effects() {
                if let Effect::StaticSwap(later) = effect
                    && later.group == swap.group
                    && later.old_member.id == swap.new_member_id
                {
                    swap.old_member.assignment = later.old_member.assignment.clone();
                    later.old_member = swap.old_member;
                    later.old_leader = swap.old_leader;
                    return;
                }
            }
            return;
        }
        let parked = self.take_join(&swap.new_member_id);
        let old = swap.old_member;
        let old_id = Arc::clone(&old.id);
        let timeouts_ms = (old.rebalance_timeout_ms, old.session_timeout_ms);
        let replaced = self.replace_static(&swap.new_member_id, &old_id);
        self.update(&old_id, old.protocols, timeouts_ms);
        ctx.cancel_timer(&self.id, TimerKind::Session(swap.new_member_id));
        self.restart_session(ctx, &old_id);
        if let Some(Parked { token, version }) = parked {
            ctx.reply(token, join_error(version, "", error));
        }
        if let Some(Parked { token, .. }) = replaced.and_then(|member| member.sync) {
            ctx.reply(
                token,
                super::rebalance::sync_error(ErrorCode::UnknownMemberId),
            );
        }
    }

    fn is_swap_waiting(&self, swap: &StaticSwap) -> bool {
        let waiting = self.members.get(&swap.new_member_id).and_then(|m| m.join);
        self.state == GroupState::Stable
            && self.generation == swap.generation
            && waiting.is_some_and(|parked| parked.token == swap.token)
    }
}

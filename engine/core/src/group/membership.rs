//! SyncGroup, Heartbeat and LeaveGroup.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::heartbeat_response::HeartbeatResponseData;
use kacrab_protocol::generated::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use kacrab_protocol::generated::leave_group_response::{LeaveGroupResponseData, MemberResponse};
use kacrab_protocol::generated::sync_group_request::SyncGroupRequestData;

use super::context::{Context, Effect};
use super::rebalance::sync_error;
use super::records;
use super::state::{Group, GroupState, Parked};
use super::types::Response;

/// From this version on SyncGroup must name protocol type and protocol.
const SYNC_VERSION_WITH_PROTOCOL: i16 = 5;
/// From this version on LeaveGroup has a list of members.
const LEAVE_VERSION_WITH_MEMBERS: i16 = 3;

/// Whether both are known and they differ.
fn differ(asked: Option<&KafkaString>, known: Option<&str>) -> bool {
    matches!((asked, known), (Some(asked), Some(known)) if asked.as_str() != known)
}

/// Whether a SyncGroup lacks what its version must have.
pub(super) fn lacks_protocol(version: i16, request: &SyncGroupRequestData) -> bool {
    version >= SYNC_VERSION_WITH_PROTOCOL
        && (request.protocol_type.is_none() || request.protocol_name.is_none())
}

impl Group {
    fn check_sync(&self, request: &SyncGroupRequestData) -> Result<(), ErrorCode> {
        match self.state {
            GroupState::Empty => return Err(ErrorCode::UnknownMemberId),
            GroupState::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            _ => {}
        }
        let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
        self.check_member(request.member_id.as_str(), instance)?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        if differ(
            request.protocol_type.as_ref(),
            self.protocol_type.as_deref(),
        ) || differ(request.protocol_name.as_ref(), self.protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Takes a SyncGroup. The leader's brings the assignments: they are stored first.
    pub fn sync(
        &mut self,
        ctx: &mut Context,
        token: u64,
        version: i16,
        request: &SyncGroupRequestData,
    ) {
        if let Err(error) = self.check_sync(request) {
            ctx.reply(token, sync_error(error));
            return;
        }
        let member_id = request.member_id.as_str();
        if self.state == GroupState::Stable {
            self.has_synced(ctx, member_id);
            let member = self.members.get(member_id);
            let assignment = member.map(|m| m.assignment.clone()).unwrap_or_default();
            ctx.reply(token, self.sync_response(version, assignment));
            return;
        }
        if let Some(member) = self.members.get_mut(member_id)
            && let Some(before) = member.sync.replace(Parked { token, version })
        {
            // The member asked twice; the first asker is told to join again.
            ctx.reply(before.token, sync_error(ErrorCode::RebalanceInProgress));
        }
        self.has_synced(ctx, member_id);
        if !self.is_leader(member_id) || self.assignment_in_flight {
            return;
        }
        let assignments: BTreeMap<Arc<str>, Bytes> = request
            .assignments
            .iter()
            .filter_map(|entry| {
                let (id, _) = self.members.get_key_value(entry.member_id.as_str())?;
                // Copied: the bytes of the request are not kept alive for it.
                Some((Arc::clone(id), Bytes::copy_from_slice(&entry.assignment)))
            })
            .collect();
        let record = records::group(self, |member| {
            assignments.get(&member.id).cloned().unwrap_or_default()
        });
        self.assignment_in_flight = true;
        let effect = Effect::Assignment {
            group: Arc::clone(&self.id),
            generation: self.generation,
            assignments,
        };
        ctx.write(vec![record], effect);
    }

    /// Whether the assignments of that generation are still awaited.
    pub fn awaits_assignment(&self, generation: i32) -> bool {
        self.state == GroupState::CompletingRebalance && self.generation == generation
    }

    /// Takes a Heartbeat.
    pub fn heartbeat(&mut self, ctx: &mut Context, request: &HeartbeatRequestData) -> ErrorCode {
        if self.state == GroupState::Dead {
            return ErrorCode::CoordinatorNotAvailable;
        }
        let member_id = request.member_id.as_str();
        let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
        if let Err(error) = self.check_member(member_id, instance) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.restart_session(ctx, member_id);
        match self.state {
            GroupState::PreparingRebalance => ErrorCode::RebalanceInProgress,
            _ => ErrorCode::None,
        }
    }

    /// Takes a LeaveGroup.
    pub fn leave(
        &mut self,
        ctx: &mut Context,
        version: i16,
        request: &LeaveGroupRequestData,
    ) -> LeaveGroupResponseData {
        if self.state == GroupState::Dead {
            return LeaveGroupResponseData::default()
                .with_error_code(ErrorCode::CoordinatorNotAvailable.code());
        }
        let identities = leaving(version, request);
        let codes: Vec<ErrorCode> = identities
            .iter()
            .map(|identity| {
                self.leave_one(ctx, identity)
                    .err()
                    .unwrap_or(ErrorCode::None)
            })
            .collect();
        if codes.contains(&ErrorCode::None) {
            match self.state {
                GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(ctx),
                GroupState::PreparingRebalance => self.maybe_complete_join(ctx),
                GroupState::Empty | GroupState::Dead => {}
            }
        }
        leave_response(version, &identities, &codes)
    }

    fn leave_one(&mut self, ctx: &mut Context, who: &MemberIdentity) -> Result<(), ErrorCode> {
        let member_id = who.member_id.as_str();
        let instance = who.group_instance_id.as_ref().map(KafkaString::as_str);
        let id = if member_id.is_empty() {
            // An administrator removes a static member by its instance.
            let holder = instance.and_then(|instance| self.static_members.get(instance));
            Arc::clone(holder.ok_or(ErrorCode::UnknownMemberId)?)
        } else if let Some(id) = self.pending_join.take(member_id) {
            self.end_session(ctx, &id);
            return Ok(());
        } else {
            self.check_member(member_id, instance)?;
            Arc::from(member_id)
        };
        self.expel(ctx, &id);
        Ok(())
    }
}

/// The members that want to leave.
fn leaving(version: i16, request: &LeaveGroupRequestData) -> Vec<MemberIdentity> {
    if version >= LEAVE_VERSION_WITH_MEMBERS {
        return request.members.clone();
    }
    vec![MemberIdentity::default().with_member_id(request.member_id.clone())]
}

fn leave_response(
    version: i16,
    identities: &[MemberIdentity],
    codes: &[ErrorCode],
) -> LeaveGroupResponseData {
    let response = LeaveGroupResponseData::default();
    if version < LEAVE_VERSION_WITH_MEMBERS {
        let code = codes.first().copied().unwrap_or(ErrorCode::None);
        return response.with_error_code(code.code());
    }
    let members = identities.iter().zip(codes).map(|(identity, code)| {
        MemberResponse::default()
            .with_member_id(identity.member_id.clone())
            .with_group_instance_id(identity.group_instance_id.clone())
            .with_error_code(code.code())
    });
    response.with_members(members.collect())
}

/// The answer to a LeaveGroup of a group that is not there.
pub(super) fn leave_unknown(version: i16, request: &LeaveGroupRequestData) -> Response {
    let identities = leaving(version, request);
    let codes = vec![ErrorCode::UnknownMemberId; identities.len()];
    Response::Leave(leave_response(version, &identities, &codes))
}

/// The answer to a Heartbeat.
pub(super) fn heartbeat_response(error: ErrorCode) -> Response {
    Response::Heartbeat(HeartbeatResponseData::default().with_error_code(error.code()))
}

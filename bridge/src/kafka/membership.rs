//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: the life of a group member.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse, join_group_response::JoinGroupResponseMember,
        leave_group_request::MemberIdentity, leave_group_response::MemberResponse,
    },
    protocol::StrBytes,
};

use super::{
    call::{Call, Work},
    groups::{error_code, outcome_code},
};
use crate::group::{Join, JoinRefused, Joined, JoinedMember, Leaver, Membership, Protocol, Sync, Synced};

pub(super) fn join_group(mut call: Call) -> Work {
    Box::pin(async move {
        let request: JoinGroupRequest = call.decode()?;
        let group = arc(&request.group_id);
        if let Err(error) = call.authorize_groups() {
            return call.answer(&refused_response(error.code(), request.member_id));
        }
        let join = to_join(&call, request);
        let response = match call.server.groups.join(&group, join).await {
            Ok(joined) => joined_response(joined),
            Err(JoinRefused { error, member_id }) => refused_response(error_code(error), text(&member_id)),
        };
        call.answer(&response)
    })
}

fn refused_response(error_code: i16, member_id: StrBytes) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error_code)
        .with_protocol_name(Some(StrBytes::default()))
        .with_member_id(member_id)
}

fn to_join(call: &Call, request: JoinGroupRequest) -> Join {
    let session_timeout_ms = request.session_timeout_ms.try_into().unwrap_or(0);
    let protocols = request.protocols.into_iter().map(|p| Protocol { name: arc(&p.name), metadata: own(&p.metadata) });
    Join {
        member_id: arc(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(arc),
        client_id: arc(&call.client_id),
        client_host: format!("/{}", call.client.peer.ip()).into(),
        session_timeout_ms,
        // Version 0 has none: the session timeout is both.
        rebalance_timeout_ms: request.rebalance_timeout_ms.try_into().unwrap_or(session_timeout_ms),
        protocol_type: arc(&request.protocol_type),
        protocols: protocols.collect(),
        can_retry_with_id: call.version >= 4,
        can_skip_assignment: call.version >= 9,
    }
}

fn joined_response(joined: Joined) -> JoinGroupResponse {
    let member = |member: JoinedMember| {
        JoinGroupResponseMember::default()
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_ref().map(text))
            .with_metadata(member.metadata)
    };
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(Some(text(&joined.protocol_type)))
        .with_protocol_name(Some(text(&joined.protocol)))
        .with_leader(text(&joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(&joined.member_id))
        .with_members(joined.members.into_iter().map(member).collect())
}

pub(super) fn sync_group(mut call: Call) -> Work {
    Box::pin(async move {
        let request: SyncGroupRequest = call.decode()?;
        if let Err(error) = call.authorize_groups() {
            return call.answer(&SyncGroupResponse::default().with_error_code(error.code()));
        }
        let group = arc(&request.group_id);
        let assignments = request.assignments.iter();
        let sync = Sync {
            member: Membership {
                member_id: arc(&request.member_id),
                instance_id: request.group_instance_id.as_ref().map(arc),
                generation: request.generation_id,
            },
            protocol_type: request.protocol_type.as_ref().map(arc),
            protocol: request.protocol_name.as_ref().map(arc),
            assignments: assignments.map(|a| (arc(&a.member_id), own(&a.assignment))).collect(),
        };
        drop(request); // it would hold the frame while this waits
        let response = match call.server.groups.sync(&group, sync).await {
            Ok(synced) => synced_response(synced),
            Err(error) => SyncGroupResponse::default().with_error_code(error_code(error)),
        };
        call.answer(&response)
    })
}

fn synced_response(synced: Synced) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_protocol_type(Some(text(&synced.protocol_type)))
        .with_protocol_name(Some(text(&synced.protocol)))
        .with_assignment(synced.assignment)
}

pub(super) fn heartbeat(mut call: Call) -> Work {
    Box::pin(async move {
        let request: HeartbeatRequest = call.decode()?;
        if let Err(error) = call.authorize_groups() {
            return call.answer(&HeartbeatResponse::default().with_error_code(error.code()));
        }
        let who = Membership {
            member_id: arc(&request.member_id),
            instance_id: request.group_instance_id.as_ref().map(arc),
            generation: request.generation_id,
        };
        let outcome = call.server.groups.heartbeat(&request.group_id, &who);
        call.answer(&HeartbeatResponse::default().with_error_code(outcome_code(outcome)))
    })
}

pub(super) fn leave_group(mut call: Call) -> Work {
    Box::pin(async move {
        let request: LeaveGroupRequest = call.decode()?;
        if let Err(error) = call.authorize_groups() {
            return call.answer(&LeaveGroupResponse::default().with_error_code(error.code()));
        }
        let leavers: Vec<Leaver> = match call.version {
            ..3 => vec![Leaver { member_id: arc(&request.member_id), instance_id: None }],
            _ => {
                let leaver = |m: &MemberIdentity| {
                    let instance_id = m.group_instance_id.as_ref().map(arc);
                    Leaver { member_id: arc(&m.member_id), instance_id }
                };
                request.members.iter().map(leaver).collect()
            }
        };
        let outcomes = call.server.groups.leave(&request.group_id, &leavers);
        let mut response = LeaveGroupResponse::default();
        if call.version < 3 {
            let alone = outcomes.into_iter().next().unwrap_or(Ok(()));
            response.error_code = outcome_code(alone);
        } else {
            let each = leavers.iter().zip(outcomes).map(|(leaver, outcome)| {
                MemberResponse::default()
                    .with_member_id(text(&leaver.member_id))
                    .with_group_instance_id(leaver.instance_id.as_ref().map(text))
                    .with_error_code(outcome_code(outcome))
            });
            response.members = each.collect();
        }
        call.answer(&response)
    })
}

pub(super) fn arc(text: &StrBytes) -> Arc<str> {
    text.as_str().into()
}

pub(super) fn text(text: &Arc<str>) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

/// A copy that does not keep the whole request alive.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

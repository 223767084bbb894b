//! DescribeGroups, ListGroups, DeleteGroups: groups as tools see them.

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
        ListGroupsRequest, ListGroupsResponse,
        delete_groups_response::DeletableGroupResult,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        list_groups_response::ListedGroup,
    },
    protocol::StrBytes,
};

use super::{
    call::{Call, ConnectionError, Work},
    membership::{arc, text},
    server::CONSUMER,
};
use crate::group::{DescribedMember, State};

/// What a group is called that nobody knows.
const DEAD: &str = "Dead";

pub(super) fn describe_groups(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DescribeGroupsRequest = call.decode()?;
        let groups = request.groups.into_iter().map(|group| describe(&call, group));
        let response = DescribeGroupsResponse::default().with_groups(groups.collect());
        call.answer(&response)
    })
}

fn describe(call: &Call, group: GroupId) -> DescribedGroup {
    let described = DescribedGroup::default();
    if let Err(error) = call.authorize_groups() {
        return described.with_group_id(group).with_error_code(error.code());
    }
    let described = match call.server.groups.describe(&group) {
        Some(description) => described
            .with_group_state(StrBytes::from_static_str(description.state.name()))
            .with_protocol_type(text(&description.protocol_type))
            .with_protocol_data(text(&description.protocol))
            .with_members(description.members.into_iter().map(describe_member).collect()),
        None if call.server.offsets.knows(&group) => described
            .with_group_state(StrBytes::from_static_str(State::Empty.name()))
            .with_protocol_type(StrBytes::from_static_str(CONSUMER)),
        None => described.with_group_state(StrBytes::from_static_str(DEAD)),
    };
    described.with_group_id(group)
}

fn describe_member(member: DescribedMember) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(&member.member_id))
        .with_group_instance_id(member.instance_id.as_ref().map(text))
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}

pub(super) fn list_groups(mut call: Call) -> Work {
    Box::pin(async move {
        let request: ListGroupsRequest = call.decode()?;
        if !call.may_use_groups() {
            return call.answer(&ListGroupsResponse::default());
        }
        let among =
            |filter: &[StrBytes], name: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(name));
        let listed = call.server.overviews_by_name().into_iter().filter(|group| {
            among(&request.states_filter, group.state.name()) && among(&request.types_filter, "classic")
        });
        let listed = listed.map(|group| {
            ListedGroup::default()
                .with_group_id(GroupId(text(&group.group)))
                .with_protocol_type(text(&group.protocol_type))
                .with_group_state(StrBytes::from_static_str(group.state.name()))
                .with_group_type(StrBytes::from_static_str("classic"))
        });
        let response = ListGroupsResponse::default().with_groups(listed.collect());
        call.answer(&response)
    })
}

pub(super) fn delete_groups(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DeleteGroupsRequest = call.decode()?;
        let mut response = DeleteGroupsResponse::default();
        for group in request.groups_names {
            let error_code = delete(&call, &group).await?;
            let result = DeletableGroupResult::default().with_group_id(group);
            response.results.push(result.with_error_code(error_code));
        }
        call.answer(&response)
    })
}

async fn delete(call: &Call, group: &GroupId) -> Result<i16, ConnectionError> {
    if let Err(error) = call.authorize_groups() {
        return Ok(error.code());
    }
    if call.server.groups.is_in_use(group) {
        return Ok(ResponseError::NonEmptyGroup.code());
    }
    let deleted = call.server.offsets.forget(&arc(group)).await?;
    if !deleted {
        return Ok(ResponseError::GroupIdNotFound.code());
    }
    tracing::info!(group = %group.as_str(), peer = %call.client.peer, "group deleted");
    Ok(0)
}

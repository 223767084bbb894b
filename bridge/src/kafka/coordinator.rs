//! FindCoordinator and DescribeCluster: there is one broker, and it is everything.

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest, FindCoordinatorResponse,
        describe_cluster_response::DescribeClusterBroker, find_coordinator_response::Coordinator,
    },
    protocol::StrBytes,
};

use super::call::{Call, Work};

/// FindCoordinator's key types.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn find_coordinator(mut call: Call) -> Work {
    Box::pin(async move {
        let request: FindCoordinatorRequest = call.decode()?;
        let found = find(&call, request.key_type);
        let response = if call.version >= 4 {
            let coordinators = request.coordinator_keys.into_iter();
            let coordinators = coordinators.map(|key| found.clone().with_key(key));
            FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
        } else {
            FindCoordinatorResponse::default()
                .with_error_code(found.error_code)
                .with_error_message(found.error_message)
                .with_node_id(found.node_id)
                .with_host(found.host)
                .with_port(found.port)
        };
        call.answer(&response)
    })
}

fn find(call: &Call, key_type: i8) -> Coordinator {
    let refused = |error: ResponseError, message| {
        Coordinator::default()
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_static_str(message)))
    };
    match key_type {
        GROUP if call.authorize_groups().is_err() => {
            refused(ResponseError::GroupAuthorizationFailed, "not allowed to use consumer groups")
        }
        GROUP => Coordinator::default()
            .with_node_id(BrokerId(call.server.config.node_id))
            .with_host(call.client.host.clone())
            .with_port(call.client.port)
            .with_error_message(Some(StrBytes::default())),
        // The one error that every client's transactional producer gives up on at once.
        TRANSACTION => refused(ResponseError::TransactionalIdAuthorizationFailed, "transactions are not served"),
        _ => refused(ResponseError::InvalidRequest, "only groups have a coordinator here"),
    }
}

pub(super) fn describe_cluster(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DescribeClusterRequest = call.decode()?;
        let response = DescribeClusterResponse::default();
        if request.endpoint_type != 1 {
            let refused = response
                .with_error_code(ResponseError::UnsupportedEndpointType.code())
                .with_endpoint_type(request.endpoint_type)
                .with_error_message(Some(StrBytes::from_static_str("there are no controller endpoints")));
            return call.answer(&refused);
        }
        let node_id = BrokerId(call.server.config.node_id);
        let broker = DescribeClusterBroker::default()
            .with_broker_id(node_id)
            .with_host(call.client.host.clone())
            .with_port(call.client.port);
        let response = response
            .with_cluster_id(call.server.cluster_id.clone())
            .with_controller_id(node_id)
            .with_brokers(vec![broker]);
        call.answer(&response)
    })
}

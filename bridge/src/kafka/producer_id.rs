//! InitProducerId: a number for an idempotent producer.

use kafka_protocol::{
    ResponseError,
    messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId},
};

use super::call::{Call, Work};

pub(super) fn init_producer_id(mut call: Call) -> Work {
    Box::pin(async move {
        let request: InitProducerIdRequest = call.decode()?;
        if let Some(transactional_id) = request.transactional_id {
            tracing::info!(
                peer = %call.client.peer,
                transactional_id = %transactional_id.as_str(),
                "a transactional producer was refused: transactions are not served"
            );
            let error = ResponseError::TransactionalIdAuthorizationFailed;
            let refused = InitProducerIdResponse::default().with_error_code(error.code()).with_producer_epoch(-1);
            return call.answer(&refused);
        }
        // Also to a producer that has one: a new id, with epoch 0, is as good as a new epoch.
        let lane = &call.client.lane;
        let (producer_id, ticket) = call.server.bridge.new_producer_id(lane);
        lane.wait(ticket).await?;
        let response = InitProducerIdResponse::default().with_producer_id(ProducerId(producer_id));
        call.answer(&response)
    })
}

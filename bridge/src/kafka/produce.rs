//! Produce: record batches into the log. Answered when they are on disk.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse, TopicName,
        produce_request::PartitionProduceData,
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::StrBytes,
};

use super::{
    access::Operation,
    call::{Answer, Call, ConnectionError, FoundTopic, Work, find_partition, finish_frame},
    metrics::add,
};
use crate::{
    Partition, ProduceSlot, Produced, Ticket,
    batch::{self, BatchError, Header},
};

/// Codec number of zstd in a batch's attributes, and the first version whose clients know it.
const ZSTD: i16 = 4;
const ZSTD_FROM: i16 = 7;
/// Below, batches have a format that is not served.
const SERVED_FROM: i16 = 3;

/// The first version whose clients know the error of a disk that takes nothing.
const STORAGE_ERROR_FROM: i16 = 4;

/// A request, submitted: what is left is to wait.
struct Submitted {
    topics: Vec<(TopicName, Vec<(i32, Outcome)>)>,
    last_ticket: Option<Ticket>,
    acks: i16,
}

/// A batch on its way, or what is wrong with it.
type Outcome = Result<OnItsWay, Refused>;

struct OnItsWay {
    slot: ProduceSlot,
    partition: Arc<Partition>,
    records: usize,
}

struct Refused(ResponseError, String);

impl From<ResponseError> for Refused {
    fn from(error: ResponseError) -> Refused {
        Refused(error, error.to_string())
    }
}

/// Submits at once: several requests of one client share a commit, in their order.
pub(super) fn produce(mut call: Call) -> Work {
    match submit(&mut call) {
        Ok(submitted) => Box::pin(finish(call, submitted)),
        Err(error) => Box::pin(async move { Err(error) }),
    }
}

fn submit(call: &mut Call) -> Result<Submitted, ConnectionError> {
    let request = decode(call)?;
    let acceptable = check_request(call, &request);
    let mut submitted =
        Submitted { topics: Vec::with_capacity(request.topic_data.len()), last_ticket: None, acks: request.acks };
    for data in request.topic_data {
        let topic = call.topic(Operation::Write, &data.name);
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for data in data.partition_data {
            let index = data.index;
            let outcome = match acceptable {
                Ok(()) => submit_one(call, &topic, data),
                Err(error) => Err(error.into()),
            };
            let outcome = outcome.map(|(way, ticket)| {
                submitted.last_ticket = submitted.last_ticket.max(Some(ticket));
                way
            });
            partitions.push((index, outcome));
        }
        submitted.topics.push((data.name, partitions));
    }
    Ok(submitted)
}

/// The codec knows no version below 3; but they only lack its first field.
fn decode(call: &mut Call) -> Result<ProduceRequest, ConnectionError> {
    if call.version >= SERVED_FROM {
        return call.decode();
    }
    call.check_shape()?;
    call.prepend(&(-1_i16).to_be_bytes()); // no transactional id
    call.decode_as(SERVED_FROM)
}

fn check_request(call: &Call, request: &ProduceRequest) -> Result<(), ResponseError> {
    if call.version < SERVED_FROM {
        Err(ResponseError::UnsupportedVersion)
    } else if !matches!(request.acks, -1..=1) {
        Err(ResponseError::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        Err(ResponseError::TransactionalIdAuthorizationFailed)
    } else {
        Ok(())
    }
}

fn submit_one(call: &Call, topic: &FoundTopic, data: PartitionProduceData) -> Result<(OnItsWay, Ticket), Refused> {
    let partition = find_partition(topic, data.index)?;
    let bytes = data.records.unwrap_or_default();
    let header = check_batch(call, &bytes)?;
    if topic.as_ref().is_ok_and(|topic| topic.config().settings.compact) {
        check_keys(&bytes, &header)?;
    }
    check_room(call)?;
    let (slot, ticket) = call.client.lane.produce(partition, &bytes);
    let records = usize::try_from(header.record_count).unwrap_or(0);
    Ok((OnItsWay { slot, partition: partition.clone(), records }, ticket))
}

fn check_batch(call: &Call, bytes: &Bytes) -> Result<Header, Refused> {
    let max = call.server.config.message_bytes_max;
    if bytes.is_empty() {
        return Err(Refused(ResponseError::InvalidRecord, "there is no record batch".into()));
    }
    if bytes.len() > max {
        let message = format!("a batch of {} bytes; at most {max}", bytes.len());
        return Err(Refused(ResponseError::MessageTooLarge, message));
    }
    let header = batch::validate_produced(bytes).map_err(|error| {
        let code = match error {
            BatchError::Corrupt(_) => ResponseError::CorruptMessage,
            BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        };
        Refused(code, error.to_string())
    })?;
    if header.attributes & 7 == ZSTD && call.version < ZSTD_FROM {
        return Err(ResponseError::UnsupportedCompressionType.into());
    }
    Ok(header)
}

/// J9, J8: nothing is taken that cannot be written. Clients try again, for as long as they would for a lost leader.
fn check_room(call: &Call) -> Result<(), Refused> {
    let Some(shut) = call.server.bridge.shut() else { return Ok(()) };
    add(&call.server.metrics().refused_batches, 1);
    let code = match call.version {
        STORAGE_ERROR_FROM.. => ResponseError::KafkaStorageError,
        _ => ResponseError::NotLeaderOrFollower,
    };
    Err(Refused(code, shut.to_string()))
}

/// A topic that is compacted keeps records by their keys: each has one.
fn check_keys(bytes: &[u8], header: &Header) -> Result<(), Refused> {
    if header.compressed() {
        return Ok(());
    }
    let mut records = batch::records(bytes, header);
    // One that does not parse was refused before.
    while let Ok(Some(record)) = records.next() {
        if record.key.is_none() {
            let message = "a record without a key: the topic is compacted, which goes by keys";
            return Err(Refused(ResponseError::InvalidRecord, message.into()));
        }
    }
    Ok(())
}

async fn finish(call: Call, submitted: Submitted) -> Answer {
    if let Some(ticket) = submitted.last_ticket {
        call.client.lane.wait(ticket).await?;
    }
    let wants_answer = submitted.acks != 0;
    let topics = submitted.topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, outcome)| respond(&call, index, outcome));
        TopicProduceResponse::default().with_name(name).with_partition_responses(partitions.collect())
    });
    let response = ProduceResponse::default().with_responses(topics.collect());
    if wants_answer {
        return match call.version {
            ..SERVED_FROM => Ok(Some(answer_old(&call, &response))),
            _ => call.answer(&response),
        };
    }
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    match partitions.map(|p| p.error_code).find(|code| *code != 0) {
        Some(code) => Err(ConnectionError::UnansweredProduce(code)),
        None => Ok(None),
    }
}

fn respond(call: &Call, index: i32, outcome: Outcome) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index).with_base_offset(-1);
    let produced = outcome.and_then(|way| {
        let produced = way.slot.get();
        // A slot is filled before its ticket is durable.
        Ok((produced.ok_or(ResponseError::UnknownServerError)?, way))
    });
    let error = match produced {
        Ok((Produced::Appended { base_offset, duplicate }, way)) => {
            if !duplicate {
                add(&call.server.metrics().produced_records, way.records);
            }
            return response.with_base_offset(base_offset).with_log_start_offset(way.partition.log_start());
        }
        Ok((Produced::OutOfOrderSequence, _)) => ResponseError::OutOfOrderSequenceNumber.into(),
        Ok((Produced::InvalidProducerEpoch, _)) => ResponseError::InvalidProducerEpoch.into(),
        Ok((Produced::UnknownTopic, _)) => ResponseError::UnknownTopicOrPartition.into(),
        Err(refused) => refused,
    };
    let Refused(code, message) = error;
    let (peer, code) = (call.client.peer, code.code());
    tracing::debug!(%peer, partition = index, code, message, "produce refused");
    response.with_error_code(code).with_error_message(Some(StrBytes::from_string(message)))
}

/// The answer in versions 0 to 2, which the codec does not know.
fn answer_old(call: &Call, response: &ProduceResponse) -> Bytes {
    let mut frame = call.frame(0, 256);
    put_count(&mut frame, response.responses.len());
    for topic in &response.responses {
        // It came with an i16 for its length.
        frame.put_i16(topic.name.len() as i16);
        frame.put_slice(topic.name.as_bytes());
        put_count(&mut frame, topic.partition_responses.len());
        for partition in &topic.partition_responses {
            frame.put_i32(partition.index);
            frame.put_i16(partition.error_code);
            frame.put_i64(partition.base_offset);
            if call.version >= 2 {
                frame.put_i64(partition.log_append_time_ms);
            }
        }
    }
    if call.version >= 1 {
        frame.put_i32(response.throttle_time_ms);
    }
    finish_frame(frame)
}

/// Counts of what came in one request: at most shape's bound.
fn put_count(frame: &mut impl BufMut, count: usize) {
    frame.put_i32(count as i32);
}

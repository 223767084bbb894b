//! Fetch: record batches out of the log, as they are stored. Waits for more when there is little.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        FetchRequest, FetchResponse, TopicName,
        fetch_request::FetchPartition,
        fetch_response::{FetchableTopicResponse, PartitionData},
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Server,
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
    leader_epoch::check_epoch,
    list_offsets::storage_error,
    metrics::add,
};
use crate::{Partition, batch::Header};

/// Most bytes of batches in one answer, whatever the client would take.
const FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait for more, whatever the client would bear.
const WAIT_MS_MAX: u64 = 300_000;
/// Isolation level read_committed.
const READ_COMMITTED: i8 = 1;

/// A partition asked for.
struct Part {
    index: i32,
    /// Where to read, or what is wrong.
    source: Result<Arc<Partition>, ResponseError>,
    next_offset: i64,
    bytes_max: usize,
    records: Vec<Bytes>,
    bytes: usize,
    /// Its next batch does not fit any more.
    is_full: bool,
}

pub(super) fn fetch(mut call: Call) -> Work {
    Box::pin(async move {
        let request: FetchRequest = call.decode()?;
        if request.session_id != 0 {
            // There are no sessions: the client goes on without.
            let error = ResponseError::FetchSessionIdNotFound;
            return call.answer(&FetchResponse::default().with_error_code(error.code()));
        }
        let mut topics = plan(&call, &request);
        let goal = Goal::of(&request);
        gather_until(&goal, &mut topics).await;
        forget_forbidden(&call, &mut topics);
        let response = respond(&topics, request.isolation_level == READ_COMMITTED);
        let bytes = parts(&topics).map(|part| part.bytes).sum();
        add(&call.server.metrics().fetched_bytes, bytes);
        drop(topics);
        call.answer(&response)
    })
}

/// A topic asked for.
struct Asked {
    name: TopicName,
    topic: FoundTopic,
    parts: Vec<Part>,
}

type Plan = Vec<Asked>;

fn parts(topics: &Plan) -> impl Iterator<Item = &Part> {
    topics.iter().flat_map(|asked| &asked.parts)
}

fn plan(call: &Call, request: &FetchRequest) -> Plan {
    let topics = request.topics.iter().map(|asked| {
        let topic = call.topic(Operation::Read, &asked.topic);
        let parts = asked.partitions.iter();
        let parts = parts.map(|partition| plan_part(&call.server, &topic, partition)).collect();
        Asked { name: asked.topic.clone(), topic, parts }
    });
    topics.collect()
}

/// It may have waited for minutes: what may not be read any more by then is not given.
fn forget_forbidden(call: &Call, topics: &mut Plan) {
    for asked in topics {
        if asked.parts.iter().all(|part| part.source.is_err()) {
            continue;
        }
        if let Err(error) = call.authorize(Operation::Read, &asked.name) {
            asked.fail(error);
        }
    }
}

impl Asked {
    fn fail(&mut self, error: ResponseError) {
        for part in &mut self.parts {
            *part = Part { source: Err(error), records: Vec::new(), bytes: 0, ..*part };
        }
    }

    /// Another one of its name is not what was asked for.
    fn fail_if_gone(&mut self) {
        if self.topic.as_ref().is_ok_and(|topic| topic.is_gone()) {
            self.fail(ResponseError::UnknownTopicOrPartition);
        }
    }
}

fn plan_part(server: &Server, topic: &FoundTopic, asked: &FetchPartition) -> Part {
    let source = find_partition(topic, asked.partition).and_then(|partition| {
        check_epoch(server, asked.current_leader_epoch)?;
        Ok(partition.clone())
    });
    Part {
        index: asked.partition,
        source,
        next_offset: asked.fetch_offset,
        bytes_max: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
        records: Vec::new(),
        bytes: 0,
        is_full: false,
    }
}

/// How much is enough, and how long to wait for it.
struct Goal {
    bytes_min: usize,
    bytes_max: usize,
    deadline: Instant,
}

impl Goal {
    fn of(request: &FetchRequest) -> Goal {
        let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0).min(WAIT_MS_MAX);
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
        Goal {
            bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
            bytes_max,
            deadline: Instant::now() + Duration::from_millis(wait_ms),
        }
    }
}

/// Reads, and waits for appends, until the goal is met, an error is to be told, or time is up.
async fn gather_until(goal: &Goal, topics: &mut Plan) {
    let appended = Arc::new(Notify::new());
    loop {
        let time_is_up = Instant::now() >= goal.deadline;
        if !time_is_up {
            // Before reading: an append from here on is noticed, and that it is deleted.
            for partition in parts(topics).filter_map(|part| part.source.as_ref().ok()) {
                partition.wake_on_append(&appended);
            }
        }
        topics.iter_mut().for_each(Asked::fail_if_gone);
        let bytes = gather(goal, topics).await;
        let is_enough = bytes >= goal.bytes_min || parts(topics).any(|part| part.source.is_err() || part.is_full);
        if is_enough || time_is_up {
            return;
        }
        // Elapsed or woken: both look again.
        timeout_at(goal.deadline, appended.notified()).await.ok();
    }
}

/// Reads what can be read now; gives the bytes held by then.
async fn gather(goal: &Goal, topics: &mut Plan) -> usize {
    let mut total: usize = parts(topics).map(|part| part.bytes).sum();
    for part in topics.iter_mut().flat_map(|asked| &mut asked.parts) {
        total += part.read(goal.bytes_max.saturating_sub(total), total == 0).await;
    }
    total
}

impl Part {
    /// Reads into a room of `bytes_left`; the very first batch of an answer needs none.
    async fn read(&mut self, bytes_left: usize, is_first: bool) -> usize {
        let Ok(partition) = self.source.clone() else {
            return 0;
        };
        let bytes_left = bytes_left.min(self.bytes_max.saturating_sub(self.bytes));
        let nothing_new = partition.high_watermark() == self.next_offset;
        if self.is_full || nothing_new {
            return 0;
        }
        if bytes_left == 0 && !is_first {
            self.is_full = true;
            return 0;
        }
        let read = match partition.check_visible(self.next_offset) {
            Ok(()) => partition.read(self.next_offset, bytes_left.max(1)).await,
            Err(gone) => Err(gone),
        };
        match read {
            Ok(bytes) => self.take(bytes, bytes_left, is_first),
            // Retention passed by what was next: the client asks for it itself.
            Err(_) if self.bytes > 0 => {
                self.is_full = true;
                0
            }
            Err(error) => {
                self.source = Err(storage_error(&partition, &error));
                0
            }
        }
    }

    fn take(&mut self, bytes: Bytes, bytes_left: usize, is_first: bool) -> usize {
        if bytes.len() > bytes_left && !is_first {
            self.is_full = true;
            return 0;
        }
        match offset_after(&bytes) {
            Some(offset) => self.next_offset = offset,
            None => {
                self.is_full = true;
                return 0;
            }
        }
        let taken = bytes.len();
        self.bytes += taken;
        self.records.push(bytes);
        taken
    }

    fn records(&self) -> Bytes {
        match self.records.as_slice() {
            [] => Bytes::new(),
            [all] => all.clone(),
            pieces => {
                let mut all = BytesMut::with_capacity(self.bytes);
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }
    }
}

/// The offset after the last of these whole batches.
fn offset_after(mut batches: &[u8]) -> Option<i64> {
    let mut next = None;
    while !batches.is_empty() {
        let header = Header::parse(batches).ok()?;
        next = Some(header.base_offset + i64::from(header.last_offset_delta) + 1);
        batches = batches.get(header.total_bytes()..)?;
    }
    next
}

fn respond(topics: &Plan, committed_only: bool) -> FetchResponse {
    let responses = topics.iter().map(|asked| {
        let partitions = asked.parts.iter().map(|part| respond_part(part, committed_only));
        FetchableTopicResponse::default().with_topic(asked.name.clone()).with_partitions(partitions.collect())
    });
    FetchResponse::default().with_responses(responses.collect())
}

fn respond_part(part: &Part, committed_only: bool) -> PartitionData {
    let data = PartitionData::default()
        .with_partition_index(part.index)
        .with_aborted_transactions(committed_only.then(Vec::new));
    match &part.source {
        Err(error) => data.with_error_code(error.code()).with_high_watermark(-1),
        Ok(partition) => {
            // Read after the records: never below what they reach.
            let high_watermark = partition.high_watermark();
            data.with_high_watermark(high_watermark)
                .with_last_stable_offset(high_watermark)
                .with_log_start_offset(partition.log_start())
                .with_records(Some(part.records()))
        }
    }
}

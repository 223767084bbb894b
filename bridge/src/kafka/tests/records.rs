//! Produce, Fetch, ListOffsets.

use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, MetadataRequest, ProduceRequest, ProduceResponse, TopicName,
    fetch_request::{FetchPartition, FetchTopic},
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
};

use super::{Broker, Peer, batch_of, text, values_in, with_broker};
use crate::kafka::ConnectionError;

fn topic() -> TopicName {
    TopicName(text("t"))
}

async fn connect(broker: &Broker) -> Peer {
    let mut peer = broker.connect();
    let asked = MetadataRequestTopic::default().with_name(Some(topic()));
    let made = peer.ask(4, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
    assert_eq!(made.topics[0].error_code, 0);
    peer
}

fn produce(partition: i32, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let data = TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_topic_data(vec![data])
}

/// Error code and base offset of the only partition.
fn outcome(response: &ProduceResponse) -> (i16, i64) {
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

fn fetch(partition: i32, offset: i64) -> FetchRequest {
    let partition =
        FetchPartition::default().with_partition(partition).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    FetchRequest::default().with_min_bytes(1).with_max_bytes(1 << 20).with_max_wait_ms(20_000).with_topics(vec![asked])
}

fn fetched(response: &FetchResponse) -> Vec<String> {
    values_in(response.responses[0].partitions[0].records.as_deref().unwrap_or_default())
}

#[test]
fn what_is_produced_is_fetched() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let first = peer.ask(9, &produce(0, batch_of(&["a", "b"]))).await;
        assert_eq!(outcome(&first), (0, 0));
        let second = peer.ask(7, &produce(0, batch_of(&["c"]))).await;
        assert_eq!(outcome(&second), (0, 2));
        let all = peer.ask(12, &fetch(0, 0).with_min_bytes(140)).await;
        assert_eq!(fetched(&all), ["a", "b", "c"]);
        let partition = &all.responses[0].partitions[0];
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (3, 3));
        assert_eq!(partition.aborted_transactions, None);
        // Whole batches, from the one that holds the offset.
        assert_eq!(fetched(&peer.ask(4, &fetch(0, 1)).await), ["a", "b", "c"]);
        assert_eq!(fetched(&peer.ask(11, &fetch(0, 2)).await), ["c"]);
        let counted = broker.server.metrics().produced_records.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(counted, 3);
    });
}

#[test]
fn pipelined_produces_keep_their_order() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        for i in 0..50 {
            peer.send(9, &produce(0, batch_of(&[&i.to_string()]))).await;
        }
        for i in 0..50 {
            assert_eq!(outcome(&peer.receive(9).await), (0, i));
        }
    });
}

#[test]
fn a_fetch_waits_for_an_append() {
    with_broker(async |broker| {
        let mut reader = connect(&broker).await;
        let mut writer = connect(&broker).await;
        reader.send(12, &fetch(1, 0)).await;
        let early = tokio::time::timeout(Duration::from_millis(50), reader.receive_frame()).await;
        assert!(early.is_err(), "answered with nothing to tell");
        writer.ask(9, &produce(1, batch_of(&["now"]))).await;
        assert_eq!(fetched(&reader.receive(12).await), ["now"]);
    });
}

#[test]
fn a_fetch_gathers_up_to_its_minimum() {
    with_broker(async |broker| {
        let mut reader = connect(&broker).await;
        let mut writer = connect(&broker).await;
        let batch = batch_of(&["some value"]);
        let enough = 3 * batch.len() as i32;
        reader.send(12, &fetch(0, 0).with_min_bytes(enough)).await;
        for _ in 0..3 {
            writer.ask(9, &produce(0, batch.clone())).await;
        }
        assert_eq!(fetched(&reader.receive(12).await).len(), 3);
    });
}

#[test]
fn a_fetch_of_nothing_ends_with_its_time() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let response = peer.ask(12, &fetch(0, 0).with_max_wait_ms(10)).await;
        assert!(fetched(&response).is_empty());
        assert_eq!(response.responses[0].partitions[0].error_code, 0);
    });
}

#[test]
fn a_client_that_hangs_up_ends_its_waiting_fetch() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        peer.send(12, &fetch(0, 0)).await;
        tokio::task::yield_now().await;
        assert!(peer.hang_up().await.is_ok()); // at once, not after 20 s
    });
}

#[test]
fn sizes_are_honoured_but_one_batch_always_comes() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let batch = batch_of(&["x".repeat(500).as_str()]);
        for _ in 0..4 {
            peer.ask(9, &produce(0, batch.clone())).await;
        }
        let small = fetch(0, 0).with_max_bytes(10);
        assert_eq!(fetched(&peer.ask(12, &small).await).len(), 1);
        let mut two = fetch(0, 0).with_min_bytes(1 << 20).with_max_wait_ms(50);
        two.topics[0].partitions[0].partition_max_bytes = (batch.len() * 5 / 2) as i32;
        assert_eq!(fetched(&peer.ask(12, &two).await).len(), 2);
    });
}

#[test]
fn offsets_outside_the_log_and_strangers_are_told() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let code = |response: FetchResponse| response.responses[0].partitions[0].error_code;
        assert_eq!(code(peer.ask(12, &fetch(0, 1)).await), 1, "OFFSET_OUT_OF_RANGE");
        assert_eq!(code(peer.ask(12, &fetch(2, 0)).await), 3, "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(code(peer.ask(12, &fetch(-1, 0)).await), 3);
        let mut future = fetch(0, 0);
        future.topics[0].partitions[0].current_leader_epoch = broker.bridge.epoch() + 1;
        assert_eq!(code(peer.ask(12, &future).await), 75, "UNKNOWN_LEADER_EPOCH");
        let mut past = fetch(0, 0);
        past.topics[0].partitions[0].current_leader_epoch = broker.bridge.epoch() - 1;
        assert_eq!(code(peer.ask(12, &past).await), 74, "FENCED_LEADER_EPOCH");
        let session = fetch(0, 0).with_session_id(4);
        assert_eq!(peer.ask(12, &session).await.error_code, 70, "FETCH_SESSION_ID_NOT_FOUND");
    });
}

#[test]
fn bad_batches_are_refused_one_by_one() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let mut torn = batch_of(&["a"]).to_vec();
        torn[65] ^= 1;
        let cases = [
            (produce(0, torn.into()), 2),
            (produce(9, batch_of(&["a"])), 3),
            (produce(0, Bytes::new()), 87),
            (produce(0, batch_of(&["x".repeat(100_000).as_str()])), 10),
            (produce(0, batch_of(&["a"])).with_acks(2), 21),
            (produce(0, batch_of(&["a"])).with_transactional_id(Some(text("t").into())), 53),
        ];
        for (request, expected) in cases {
            assert_eq!(outcome(&peer.ask(9, &request).await), (expected, -1));
        }
        assert_eq!(outcome(&peer.ask(9, &produce(0, batch_of(&["good"]))).await), (0, 0));
    });
}

#[test]
fn a_producer_that_wants_no_answer_gets_none() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        peer.send(9, &produce(0, batch_of(&["quiet"])).with_acks(0)).await;
        assert_eq!(outcome(&peer.ask(9, &produce(0, batch_of(&["loud"]))).await), (0, 1));
        peer.send(9, &produce(5, batch_of(&["lost"])).with_acks(0)).await;
        assert!(matches!(peer.ended().await, Err(ConnectionError::UnansweredProduce(3))));
    });
}

/// Versions 0 to 2 are there to be seen, not to be used.
#[test]
fn old_produce_is_answered_in_its_own_format() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let body = [
            &[0, 1, 0, 0, 0, 9][..],   // acks, timeout
            &[0, 0, 0, 1, 0, 1, b't'], // one topic
            &[0, 0, 0, 1, 0, 0, 0, 0], // partition 0
            &[0, 0, 0, 3, 1, 2, 3],    // some old message set
        ];
        for version in 0..3 {
            peer.send_body(0, version, &body.concat()).await;
            let (_, mut answer) = peer.receive_frame().await;
            assert_eq!((answer.get_i32(), answer.get_i16(), answer.get_u8()), (1, 1, b't'));
            assert_eq!((answer.get_i32(), answer.get_i32()), (1, 0));
            assert_eq!((answer.get_i16(), answer.get_i64()), (35, -1));
            let rest = [0, 4, 12][version as usize];
            assert_eq!(answer.remaining(), rest, "version {version}");
        }
    });
}

#[test]
fn offsets_are_listed() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        peer.ask(9, &produce(0, batch_of(&["at 1000", "at 1001", "at 1002"]))).await;
        peer.ask(12, &fetch(0, 0)).await; // it can be read now
        for (timestamp, expected) in
            [(-1, (3, -1)), (-2, (0, -1)), (-3, (2, 1002)), (1001, (1, 1001)), (2000, (-1, -1))]
        {
            let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
            let asked = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
            let response = peer.ask(7, &ListOffsetsRequest::default().with_topics(vec![asked])).await;
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.offset, partition.timestamp), expected, "timestamp {timestamp}");
        }
    });
}

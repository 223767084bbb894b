//! What `/metrics` shows, gathered when it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bridge::metrics::COMMIT_BUCKETS_US;
use bridge::{Bridge, kafka};
use broker::Broker;

use crate::admin::AdminState;
use crate::admin::metrics::{Histogram, MetricSink};

/// Adds every source.
pub fn add(state: &AdminState, bridge: &Bridge, broker: &Arc<Broker>, server: &Arc<kafka::Server>) {
    state.add_source(Box::new(build_info));
    let (log, clients, kafka) = (bridge.clone(), broker.clone(), server.clone());
    state.add_source(Box::new(move |sink| mqtt(sink, &clients)));
    state.add_source(Box::new(move |sink| journal(sink, &log)));
    let log = bridge.clone();
    state.add_source(Box::new(move |sink| topics(sink, &log)));
    state.add_source(Box::new(move |sink| kafka_server(sink, &kafka)));
}

fn build_info(sink: &mut MetricSink) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    sink.gauge("millstream_build_info", "The version that runs; always 1.", &version, 1.0);
}

fn mqtt(sink: &mut MetricSink, broker: &Broker) {
    let counts = broker.counts();
    let (subscriptions, retained, retained_bytes) = broker.sizes();
    for (name, help, value) in [
        ("millstream_mqtt_clients", "MQTT clients connected now.", counts.connected),
        ("millstream_mqtt_sessions", "MQTT sessions, connected or not.", counts.sessions),
        ("millstream_mqtt_subscriptions", "Subscriptions of all sessions.", subscriptions as u64),
        ("millstream_mqtt_retained_messages", "Retained messages.", retained as u64),
        ("millstream_mqtt_retained_bytes", "Bytes of retained messages.", retained_bytes as u64),
    ] {
        sink.gauge(name, help, &[], value as f64);
    }
    for (name, help, value) in [
        ("millstream_mqtt_connects_total", "CONNECT packets accepted.", counts.connects),
        ("millstream_mqtt_faults_total", "Connections closed for a fault of the client's.", counts.faults),
        ("millstream_mqtt_received_bytes_total", "Bytes read from MQTT clients.", counts.bytes_in),
        ("millstream_mqtt_sent_bytes_total", "Bytes written to MQTT clients.", counts.bytes_out),
        ("millstream_mqtt_mapped_total", "Messages handed to the log by a rule.", counts.appended),
    ] {
        sink.counter(name, help, &[], value);
    }
    for (qos, value) in [("0", counts.received_qos0), ("1", counts.received_qos1), ("2", counts.received_qos2)] {
        sink.counter("millstream_mqtt_received_messages_total", "PUBLISH packets received.", &[("qos", qos)], value);
    }
    for (qos, value) in [("0", counts.sent_qos0), ("1_2", counts.sent_qos12)] {
        sink.counter("millstream_mqtt_sent_messages_total", "PUBLISH packets sent.", &[("qos", qos)], value);
    }
    for (reason, value) in [
        ("slow_client", counts.dropped_slow),
        ("queue_full", counts.dropped_queue_full),
        ("expired", counts.dropped_expired),
        ("too_large", counts.dropped_too_large),
        ("unreadable", counts.dropped_unreadable),
    ] {
        let help = "Messages that did not reach a subscriber.";
        sink.counter("millstream_mqtt_dropped_messages_total", help, &[("reason", reason)], value);
    }
}

fn journal(sink: &mut MetricSink, bridge: &Bridge) {
    let m = bridge.metrics();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (name, help, counter) in [
        ("millstream_journal_commits_total", "Group commits.", &m.commits),
        ("millstream_journal_fsyncs_total", "fdatasync calls on the journal.", &m.fsyncs),
        ("millstream_journal_written_bytes_total", "Bytes written to the journal.", &m.journal_bytes),
        ("millstream_log_written_bytes_total", "Bytes written to segments of topics.", &m.segment_bytes),
        ("millstream_log_records_total", "Records appended to topics.", &m.records),
        ("millstream_checkpoints_total", "Checkpoints completed.", &m.checkpoints),
    ] {
        sink.counter(name, help, &[], load(counter));
    }
    let bounds: Vec<f64> = COMMIT_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).collect();
    let counts: Vec<u64> = m.commit_latency.iter().map(load).collect();
    let sum = load(&m.commit_latency_sum_us) as f64 / 1e6;
    let histogram = Histogram { bounds: &bounds, counts: &counts, sum };
    sink.histogram("millstream_journal_commit_seconds", "From gathering a group to its durability.", &[], histogram);
    let help = "Journal bytes that no checkpoint covers yet.";
    sink.gauge("millstream_journal_uncheckpointed_bytes", help, &[], bridge.uncheckpointed_bytes() as f64);
}

fn topics(sink: &mut MetricSink, bridge: &Bridge) {
    for topic in bridge.topics() {
        for partition in &topic.partitions {
            let index = partition.index.to_string();
            let labels = [("topic", topic.name.as_str()), ("partition", index.as_str())];
            let end = partition.high_watermark() as f64;
            sink.gauge("millstream_log_end_offset", "Offset after the last record.", &labels, end);
            sink.gauge("millstream_log_size_bytes", "Bytes of segments.", &labels, partition.size_bytes() as f64);
        }
    }
}

fn kafka_server(sink: &mut MetricSink, server: &kafka::Server) {
    let m = server.metrics();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (name, help, counter) in [
        ("millstream_kafka_connections_total", "Kafka connections accepted.", &m.connections),
        ("millstream_kafka_requests_total", "Kafka requests.", &m.requests),
        ("millstream_kafka_received_bytes_total", "Bytes read from Kafka clients.", &m.bytes_in),
        ("millstream_kafka_sent_bytes_total", "Bytes written to Kafka clients.", &m.bytes_out),
        ("millstream_kafka_fetched_bytes_total", "Bytes of record batches fetched.", &m.fetched_bytes),
        ("millstream_kafka_produced_records_total", "Records produced by Kafka clients.", &m.produced_records),
        ("millstream_kafka_group_rebalances_total", "Consumer group rebalances.", &m.group_rebalances),
    ] {
        sink.counter(name, help, &[], load(counter));
    }
}

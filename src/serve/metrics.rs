//! What `/metrics` shows, gathered when it is asked for. METRICS.md lists it; a test holds the two together.
//!
//! Here: the process's parts as wholes. [`log`]: partitions and groups, whose number is the user's affair and
//! therefore bounded. [`process`]: what the operating system knows of us.

mod log;
mod process;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bridge::metrics::{
    CHECKPOINT_BUCKETS_US, COMMIT_BUCKETS_RECORDS, COMMIT_BUCKETS_US, Observed, Purpose, disk as disk_of,
};
use bridge::{Bridge, kafka};
use broker::Broker;
use broker::dead_letter::Reason;
use broker::stats::{Counts, Limit};

use crate::admin::AdminState;
use crate::admin::metrics::{Histogram, MetricSink};

use super::reload::Running;

/// Adds every source.
pub fn add(state: &AdminState, data_dir: &Path, running: &Running) {
    let (bridge, broker, data_dir) = (running.bridge.clone(), running.broker.clone(), data_dir.to_owned());
    let (server, tls) = (running.front.server.clone(), running.tls.clone());
    state.add_source(Box::new(move |sink| {
        let counts = broker.counts();
        build_info(sink);
        if let Some(tls) = &tls {
            let help = "When the server's certificate ends, since 1970.";
            sink.gauge("millstream_tls_certificate_expiry_seconds", help, &[], tls.not_after_s() as f64);
        }
        mqtt_connections(sink, &counts);
        mqtt_messages(sink, &counts);
        dead_letters(sink, &counts);
        mqtt_sessions(sink, &counts, &broker);
        journal(sink, &bridge);
        compaction(sink, &bridge);
        disk(sink);
        disk_takes(sink, &bridge);
        disk_refused(sink, &counts, &server);
        kafka_server(sink, &server);
        written_per_received(sink, &counts, &server);
        log::add(sink, &bridge, &server);
        process::add(sink, &data_dir);
    }));
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn build_info(sink: &mut MetricSink) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    sink.gauge("millstream_build_info", "The version that runs; always 1.", &version, 1.0);
}

fn mqtt_connections(sink: &mut MetricSink, counts: &Counts) {
    sink.gauge("millstream_mqtt_connections", "MQTT clients connected now.", &[], counts.connected as f64);
    sink.counter("millstream_mqtt_connects_total", "CONNECT packets accepted.", &[], counts.connects);
    for (reason, value) in [
        ("busy", counts.refused_busy),
        ("rate", counts.refused_rate),
        ("address", counts.refused_address),
        ("proxy", counts.refused_proxy),
        ("timeout", counts.refused_timeout),
        ("handshake", counts.refused_handshake),
        ("no_connect", counts.refused_no_connect),
        ("version", counts.refused_version),
        ("unauthorized", counts.refused_unauthorized),
        ("invalid", counts.refused_invalid),
    ] {
        let help = "Connections that ended before their CONNECT was accepted.";
        sink.counter("millstream_mqtt_refused_connections_total", help, &[("reason", reason)], value);
    }
    let help = "Connections accepted later than they came: mqtt.max_connection_rate.";
    sink.counter("millstream_mqtt_delayed_connections_total", help, &[], counts.delayed);
    for (reason, value) in [
        ("client", counts.closed_by_client),
        ("lost", counts.closed_lost),
        ("keep_alive", counts.closed_keep_alive),
        ("taken_over", counts.closed_taken_over),
        ("protocol_error", counts.faults),
        ("server", counts.closed_by_server),
    ] {
        let help = "Connections that ended after their CONNECT was accepted.";
        sink.counter("millstream_mqtt_closed_connections_total", help, &[("reason", reason)], value);
    }
    let help = "Connections closed because their client broke the protocol.";
    sink.counter("millstream_mqtt_protocol_errors_total", help, &[], counts.faults);
    let help = "Packets of all kinds received from MQTT clients that were let in.";
    sink.counter("millstream_mqtt_received_packets_total", help, &[], counts.packets_received());
    let help = "Packets of all kinds sent to MQTT clients that were let in.";
    sink.counter("millstream_mqtt_sent_packets_total", help, &[], counts.packets_sent());
    let help = "Bytes read from MQTT clients that were let in, without TLS and WebSocket.";
    sink.counter("millstream_mqtt_received_bytes_total", help, &[], counts.bytes_in);
    let help = "Bytes written to MQTT clients that were let in, without TLS and WebSocket.";
    sink.counter("millstream_mqtt_sent_bytes_total", help, &[], counts.bytes_out);
}

fn mqtt_messages(sink: &mut MetricSink, counts: &Counts) {
    for (name, help, by_qos) in [
        (
            "millstream_mqtt_received_messages_total",
            "PUBLISH packets received, resent and refused ones included.",
            [counts.received_qos0, counts.received_qos1, counts.received_qos2],
        ),
        (
            "millstream_mqtt_sent_messages_total",
            "PUBLISH packets sent, resent ones included.",
            [counts.sent_qos0, counts.sent_qos1, counts.sent_qos2],
        ),
        (
            "millstream_mqtt_received_payload_bytes_total",
            "Bytes of the payloads of PUBLISH packets received.",
            [counts.received_bytes_qos0, counts.received_bytes_qos1, counts.received_bytes_qos2],
        ),
        (
            "millstream_mqtt_sent_payload_bytes_total",
            "Bytes of the payloads of PUBLISH packets sent.",
            [counts.sent_bytes_qos0, counts.sent_bytes_qos1, counts.sent_bytes_qos2],
        ),
    ] {
        for (qos, value) in ["0", "1", "2"].into_iter().zip(by_qos) {
            sink.counter(name, help, &[("qos", qos)], value);
        }
    }
    for (reason, value) in [
        ("topic", counts.refused_topics),
        ("rights", counts.refused_rights),
        ("payload", counts.refused_payloads),
        ("retained", counts.refused_retained),
    ] {
        let help = "Messages that were not taken from their publisher.";
        sink.counter("millstream_mqtt_refused_messages_total", help, &[("reason", reason)], value);
    }
    for (limit, value) in Limit::ALL.iter().zip(counts.limits) {
        let help = "Times that a client reached a limit.";
        sink.counter("millstream_mqtt_limits_reached_total", help, &[("limit", limit.key())], value);
    }
    let help = "Time that clients were not read because they were too fast.";
    sink.counter_seconds("millstream_mqtt_paused_seconds_total", help, &[], counts.paused_ms as f64 / 1000.0);
    let help = "Clients that are not read now because they were too fast. Once a second.";
    sink.gauge("millstream_mqtt_paused_clients", help, &[], counts.paused as f64);
    let help = "Messages handed to the log by a rule.";
    sink.counter("millstream_mqtt_mapped_messages_total", help, &[], counts.appended);
    for (reason, value) in [
        ("slow_client", counts.dropped_slow),
        ("queue_full", counts.dropped_queue_full),
        ("memory_qos0", counts.dropped_memory_qos0),
        ("memory_queued", counts.dropped_memory_queued),
        ("expired", counts.dropped_expired),
        ("too_large", counts.dropped_too_large),
        ("unreadable", counts.dropped_unreadable),
        ("session_ended", counts.dropped_session_ended),
        ("rights", counts.dropped_rights),
        ("disk_full", counts.dropped_disk_full),
    ] {
        let help = "Messages that were due to a subscriber and were never sent to it.";
        sink.counter("millstream_mqtt_dropped_messages_total", help, &[("reason", reason)], value);
    }
}

fn dead_letters(sink: &mut MetricSink, counts: &Counts) {
    for (reason, value) in Reason::ALL.iter().zip(counts.dead_letters) {
        let help = "Records handed to bridge.dead_letter_topic.";
        sink.counter("millstream_dead_letters_total", help, &[("reason", reason.name())], value);
    }
    let help = "Messages given up without a dead letter, while the journal was too far behind or the disk full.";
    sink.counter("millstream_dead_letters_missed_total", help, &[], counts.dead_letters_missed);
}

fn mqtt_sessions(sink: &mut MetricSink, counts: &Counts, broker: &Broker) {
    for (durable, connected, value) in [
        ("true", "true", counts.durable_connected),
        ("true", "false", counts.durable_away),
        ("false", "true", counts.passing_connected),
    ] {
        let labels = [("durable", durable), ("connected", connected)];
        let help = "Sessions; one that is not durable ends with its connection. Once a second.";
        sink.gauge("millstream_mqtt_sessions", help, &labels, value as f64);
    }
    let help = "Sessions that ended because their time was over.";
    sink.counter("millstream_mqtt_expired_sessions_total", help, &[], counts.sessions_expired);
    for (durable, value) in [("true", counts.queued_durable), ("false", counts.queued_passing)] {
        let help = "QoS 1 and 2 messages that wait to be sent. Once a second.";
        sink.gauge("millstream_mqtt_queued_messages", help, &[("durable", durable)], value as f64);
    }
    let help = "1: more than mqtt.max_buffered_bytes wait for clients, and messages are dropped; 2: twice as much, and \
                new clients are refused. Once a second.";
    sink.gauge("millstream_mqtt_memory_pressure", help, &[], counts.pressure as f64);
    let (subscriptions, retained, retained_bytes) = broker.sizes();
    for (name, help, value) in [
        (
            "millstream_mqtt_queued_bytes",
            "Memory of messages that wait for sessions that are not durable; the others' are in the log. Once a second.",
            counts.queued_passing_bytes,
        ),
        (
            "millstream_mqtt_longest_queue_messages",
            "The longest queue of one session, as mqtt.max_queued_messages bounds it. Once a second.",
            counts.longest_queue,
        ),
        (
            "millstream_mqtt_inflight_messages",
            "QoS 1 and 2 messages sent to connected clients and not acknowledged. Once a second.",
            counts.in_flight,
        ),
        (
            "millstream_mqtt_outbox_bytes",
            "Bytes that wait until their clients read. Once a second.",
            counts.outbox_bytes,
        ),
        ("millstream_mqtt_subscriptions", "Subscriptions of all sessions.", subscriptions as u64),
        ("millstream_mqtt_retained_messages", "Retained messages.", retained as u64),
        (
            "millstream_mqtt_retained_bytes",
            "Retained messages, as mqtt.max_retained_bytes counts them.",
            retained_bytes as u64,
        ),
    ] {
        sink.gauge(name, help, &[], value as f64);
    }
    for (reason, value) in [("messages", counts.not_retained_messages), ("bytes", counts.not_retained_bytes)] {
        let help = "Messages that were not retained: as many are, or as large ones, as may be.";
        sink.counter("millstream_mqtt_not_retained_messages_total", help, &[("reason", reason)], value);
    }
    let help = "Retained messages removed because their lifetime was over.";
    sink.counter("millstream_mqtt_retained_expired_messages_total", help, &[], counts.retained_expired);
}

fn journal(sink: &mut MetricSink, bridge: &Bridge) {
    let m = bridge.metrics();
    let help = "Group commits, by the time from gathering a group to its durability.";
    histogram(sink, "millstream_journal_commit_seconds", help, (&COMMIT_BUCKETS_US, 1e6), &m.commit_us);
    let help = "Group commits, by the records in them; le=\"0\": changes of state alone.";
    histogram(sink, "millstream_journal_commit_records", help, (&COMMIT_BUCKETS_RECORDS, 1.0), &m.commit_records);
    let help = "Checkpoints completed, by their duration.";
    histogram(sink, "millstream_checkpoint_seconds", help, (&CHECKPOINT_BUCKETS_US, 1e6), &m.checkpoint_us);
    let help = "Bytes handed to the journal and not durable yet.";
    sink.gauge("millstream_journal_backlog_bytes", help, &[], bridge.backlog_bytes() as f64);
    let help = "Journal bytes that no checkpoint covers yet.";
    sink.gauge("millstream_journal_uncheckpointed_bytes", help, &[], bridge.uncheckpointed_bytes() as f64);
    let (in_use, full, spare) = bridge.journal_files();
    for (state, files) in [("in_use", in_use), ("full", full), ("spare", spare)] {
        let help = "Journal files: being written, full and waiting for a checkpoint, ready for use.";
        sink.gauge("millstream_journal_files", help, &[("state", state)], files as f64);
    }
}

fn compaction(sink: &mut MetricSink, bridge: &Bridge) {
    let counted = &bridge.metrics().compaction;
    for (outcome, runs) in [("done", &counted.runs), ("failed", &counted.failures)] {
        let help = "Compactions of a partition.";
        sink.counter("millstream_log_compactions_total", help, &[("outcome", outcome)], load(runs));
    }
    for (direction, bytes) in [("read", &counted.read_bytes), ("written", &counted.written_bytes)] {
        let help = "Bytes that compaction read and wrote.";
        sink.counter("millstream_log_compaction_bytes_total", help, &[("direction", direction)], load(bytes));
    }
    let help = "Records that compaction took out.";
    sink.counter("millstream_log_compacted_records_total", help, &[], load(&counted.records_gone));
    let help = "How much of the closed segments of the dirtiest compacted partition is new, when last looked.";
    let ratio = load(&counted.dirtiest_permille) as f64 / 1000.0;
    sink.gauge("millstream_log_compaction_dirty_ratio", help, &[], ratio);
}

/// `per_unit` of what was observed make one of what the name says.
fn histogram<const N: usize>(
    sink: &mut MetricSink,
    name: &str,
    help: &str,
    (bounds, per_unit): (&[u64], f64),
    observed: &Observed<N>,
) {
    let bounds: Vec<f64> = bounds.iter().map(|bound| *bound as f64 / per_unit).collect();
    let counts: Vec<u64> = observed.counts.iter().map(load).collect();
    let sum = load(&observed.sum) as f64 / per_unit;
    sink.histogram(name, help, &[], Histogram { bounds: &bounds, counts: &counts, sum });
}

fn disk(sink: &mut MetricSink) {
    for purpose in Purpose::ALL {
        let (of, labels) = (disk_of(purpose), [("file", purpose.name())]);
        if purpose != Purpose::Folder {
            let help = "Bytes written to files of the data folder.";
            sink.counter("millstream_disk_written_bytes_total", help, &labels, load(&of.written_bytes));
        }
        let help = "fsync and fdatasync calls that succeeded.";
        sink.counter("millstream_disk_syncs_total", help, &labels, load(&of.syncs));
        let help = "Writes and syncs that failed.";
        sink.counter("millstream_disk_errors_total", help, &labels, load(&of.errors));
        let help = "Ranges of files found damaged, by the start or by a read; readers go on behind them.";
        sink.counter("millstream_disk_damaged_ranges_total", help, &labels, load(&of.damaged));
    }
}

fn disk_takes(sink: &mut MetricSink, bridge: &Bridge) {
    let help = "Whether what has to be written is taken: 0 while the disk is full, or has failed.";
    sink.gauge("millstream_disk_open", help, &[], bridge.is_open().into());
    let help = "Bytes that have to be free for that: what no checkpoint covers yet, and disk_reserve_bytes.";
    sink.gauge("millstream_disk_needed_bytes", help, &[], bridge.room_bytes().1 as f64);
    for (thread, age) in bridge.disk_ages() {
        let help = "For how long the write or sync has been under way that a thread is at; 0: it is at none.";
        sink.gauge("millstream_disk_operation_seconds", help, &[("thread", thread)], age.as_secs_f64());
    }
    let help = "Times that a write or sync took longer than 5 s.";
    sink.counter("millstream_disk_stalls_total", help, &[], load(&bridge.metrics().stalls));
}

fn disk_refused(sink: &mut MetricSink, counts: &Counts, server: &kafka::Server) {
    let kafka = server.metrics();
    for (what, value) in [
        ("message", counts.refused_disk_messages),
        ("qos0_log", counts.refused_disk_qos0),
        ("qos0_retained", counts.refused_disk_retained),
        ("subscription", counts.refused_disk_subscriptions),
        ("session", counts.refused_disk_sessions),
        ("batch", load(&kafka.refused_batches)),
        ("topic", load(&kafka.refused_topics)),
    ] {
        let help = "What was not taken because the disk is full, or has failed.";
        sink.counter("millstream_disk_refused_total", help, &[("what", what)], value);
    }
    let help = "Clients that are not read now because their message has to be written and the disk is full. \
                Once a second.";
    sink.gauge("millstream_disk_waiting_clients", help, &[], counts.waiting_for_disk as f64);
}

/// Without the zeros: each journal file is filled with them once, so they would drown what a day brings.
fn written_per_received(sink: &mut MetricSink, counts: &Counts, server: &kafka::Server) {
    let purposes = Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Zeros);
    let written: u64 = purposes.map(|purpose| load(&disk_of(purpose).written_bytes)).sum();
    let ratio = match counts.bytes_in + load(&server.metrics().bytes_in) {
        0 => f64::NAN,
        received => written as f64 / received as f64,
    };
    let help = "Bytes written to the data folder, file=\"zeros\" excepted, per byte read from MQTT and Kafka clients, \
                since the start; NaN before the first.";
    sink.gauge("millstream_written_bytes_per_received_byte", help, &[], ratio);
}

fn kafka_server(sink: &mut MetricSink, server: &kafka::Server) {
    let m = server.metrics();
    // In this order: one that closes in between is not counted below zero.
    let closed = load(&m.connections_closed);
    let open = load(&m.connections) - closed;
    sink.gauge("millstream_kafka_connections", "Kafka connections open now.", &[], open as f64);
    for (name, help, counter) in [
        ("millstream_kafka_connects_total", "Kafka connections accepted.", &m.connections),
        ("millstream_kafka_authentications_total", "SASL authentications that succeeded.", &m.authentications),
        (
            "millstream_kafka_failed_authentications_total",
            "SASL authentications that failed.",
            &m.authentications_failed,
        ),
        ("millstream_kafka_unauthorized_total", "Topics and groups refused for lack of rights.", &m.unauthorized),
        ("millstream_kafka_requests_total", "Kafka requests.", &m.requests),
        ("millstream_kafka_received_bytes_total", "Bytes read from Kafka clients, without TLS.", &m.bytes_in),
        ("millstream_kafka_sent_bytes_total", "Bytes written to Kafka clients, without TLS.", &m.bytes_out),
        ("millstream_kafka_fetched_bytes_total", "Bytes of record batches fetched.", &m.fetched_bytes),
        ("millstream_kafka_produced_records_total", "Records produced by Kafka clients.", &m.produced_records),
        ("millstream_kafka_group_rebalances_total", "Generations begun, over all groups.", &m.group_rebalances),
    ] {
        sink.counter(name, help, &[], load(counter));
    }
}

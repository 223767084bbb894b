//! Partitions and consumer groups. Both are as many as users make them, so what is shown of them is bounded, and
//! what is left out is said.

use std::sync::atomic::Ordering;

use bridge::{Bridge, kafka};

use crate::admin::metrics::MetricSink;

/// Partitions shown; each has three samples.
const PARTITIONS_MAX: usize = 10_000;
/// Pairs of a group and a partition whose lag is shown.
const LAGS_MAX: usize = 10_000;
/// Groups whose state and members are shown.
const GROUPS_MAX: usize = 10_000;

pub(super) fn add(sink: &mut MetricSink, bridge: &Bridge, server: &kafka::Server) {
    retention(sink, bridge);
    let left_out = [
        ("partitions", partitions(sink, bridge, PARTITIONS_MAX)),
        ("group_partitions", lags(sink, server, LAGS_MAX)),
        ("groups", groups(sink, server, GROUPS_MAX)),
    ];
    for (of, count) in left_out {
        let help = "What is not shown here because there are more than 10,000 of it.";
        sink.gauge("millstream_metrics_left_out", help, &[("of", of)], count as f64);
    }
}

fn retention(sink: &mut MetricSink, bridge: &Bridge) {
    let retired = bridge.metrics().retired_segments.load(Ordering::Relaxed);
    let help = "Segments that retention and deletions took off the disk.";
    sink.counter("millstream_log_deleted_segments_total", help, &[], retired);
    let help =
        "Bytes of segments that Kafka clients see nothing of: queues need them, or they go with the next checkpoint.";
    sink.gauge("millstream_log_pinned_bytes", help, &[], bridge.unseen_bytes() as f64);
}

fn partitions(sink: &mut MetricSink, bridge: &Bridge, max: usize) -> usize {
    let topics = bridge.topics_and_hidden();
    let all = topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    for (topic, partition) in all.clone().take(max) {
        let index = partition.index.to_string();
        let labels = [("topic", topic.name.as_str()), ("partition", index.as_str())];
        let start = partition.log_start() as f64;
        sink.gauge("millstream_log_start_offset", "Offset of the first record held.", &labels, start);
        let end = partition.high_watermark() as f64;
        sink.gauge("millstream_log_end_offset", "Offset after the last record.", &labels, end);
        let size = partition.size_bytes() as f64;
        sink.gauge("millstream_log_size_bytes", "Bytes of record batches held.", &labels, size);
    }
    all.count().saturating_sub(max)
}

fn lags(sink: &mut MetricSink, server: &kafka::Server, max: usize) -> usize {
    let (lags, left_out) = server.lags(max);
    for lag in lags {
        let partition = lag.partition.to_string();
        let labels = [("group", &*lag.group), ("topic", &*lag.topic.name), ("partition", &*partition)];
        let help = "Records from what a group committed to the end of the partition.";
        sink.gauge("millstream_kafka_group_lag_records", help, &labels, lag.records as f64);
    }
    left_out
}

fn groups(sink: &mut MetricSink, server: &kafka::Server, max: usize) -> usize {
    let (groups, left_out) = server.group_overviews(max);
    for group in groups {
        let help = "Members of a group.";
        sink.gauge("millstream_kafka_group_members", help, &[("group", &group.group)], group.members as f64);
        let labels = [("group", &*group.group), ("state", group.state.name())];
        let help = "The state of a group, by Kafka's names; always 1.";
        sink.gauge("millstream_kafka_group_state", help, &labels, 1.0);
    }
    left_out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bridge::{Durability, Options};

    use super::*;

    #[test]
    fn partitions_beyond_the_bound_are_counted_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            data_dir: folder.path().to_owned(),
            durability: Durability::Os,
            commit_interval: Duration::ZERO,
            topic_defaults: bridge::Settings { segment_bytes: 1 << 20, ..bridge::Settings::default() },
            checkpoint_bytes: 1 << 24,
            checkpoint_interval: Duration::from_secs(60),
            reserve_bytes: 0,
        };
        let bridge = Bridge::open(options).expect("a new folder opens");
        bridge.create_topic(&bridge.lane(), "t", 3, BTreeMap::new()).expect("a topic");
        let shown = |max| {
            let mut sink = MetricSink::default();
            let left_out = partitions(&mut sink, &bridge, max);
            (sink.into_text().matches("millstream_log_end_offset{").count(), left_out)
        };
        // With the one that only queues need there are four.
        assert_eq!((shown(4), shown(3), shown(0)), ((4, 0), (3, 1), (0, 4)));
    }
}

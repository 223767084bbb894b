//! Prometheus' text format, version 0.0.4, written directly.
//!
//! Not `prometheus-client`: its encoder writes OpenMetrics, and a family's samples must come from
//! one collector, while here every shard adds its samples to the same families.

use std::{collections::BTreeMap, fmt::Write as _};

/// Takes samples and puts those of one name together, as the format wants it.
#[derive(Default)]
pub struct MetricSink {
    families: BTreeMap<String, Family>,
}

struct Family {
    kind: &'static str,
    help: String,
    samples: String,
}

/// Observations counted by size.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<'a> {
    /// Upper bounds (inclusive), rising, without infinity.
    pub bounds: &'a [f64],
    /// How many fell below each bound and not below the one before; the last is what exceeded all.
    pub counts: &'a [u64],
    /// Of all observations.
    pub sum: f64,
}

impl MetricSink {
    /// A count that only grows. `name` ends in `_total`; `labels` are (name, value).
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let samples = self.family(name, "counter", help);
        push_sample(samples, name, labels, &value.to_string());
    }

    /// The same in seconds, which come in parts. `name` ends in `_seconds_total`.
    pub fn counter_seconds(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let samples = self.family(name, "counter", help);
        push_sample(samples, name, labels, &number(value));
    }

    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let samples = self.family(name, "gauge", help);
        push_sample(samples, name, labels, &number(value));
    }

    /// A distribution.
    pub fn histogram(&mut self, name: &str, help: &str, labels: &[(&str, &str)], of: Histogram<'_>) {
        debug_assert_eq!(of.counts.len(), of.bounds.len() + 1, "{name}");
        let samples = self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let bounds = of.bounds.iter().copied().chain([f64::INFINITY]);
        let mut cumulated = 0_u64;
        for (bound, count) in bounds.zip(of.counts) {
            cumulated = cumulated.saturating_add(*count);
            let bound = number(bound);
            let with_bound: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            push_sample(samples, &bucket, &with_bound, &cumulated.to_string());
        }
        push_sample(samples, &format!("{name}_sum"), labels, &number(of.sum));
        push_sample(samples, &format!("{name}_count"), labels, &cumulated.to_string());
    }

    fn family(&mut self, name: &str, kind: &'static str, help: &str) -> &mut String {
        let family = self.families.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            help: help.replace('\\', r"\\").replace('\n', r"\n"),
            samples: String::new(),
        });
        debug_assert_eq!(family.kind, kind, "{name} is of two kinds");
        &mut family.samples
    }

    /// All of it, by name.
    pub(crate) fn into_text(self) -> String {
        let mut text = String::new();
        for (name, Family { kind, help, samples }) in self.families {
            // Writing to a String does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text
    }
}

fn push_sample(to: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    to.push_str(name);
    for (at, (label, text)) in labels.iter().enumerate() {
        let separator = if at == 0 { '{' } else { ',' };
        let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let _ = write!(to, "{separator}{label}=\"{text}\"");
    }
    let close = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(to, "{close} {value}");
}

/// Rust writes infinity as `inf`, Prometheus as `+Inf`.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_whole_and_in_order() {
        let mut sink = MetricSink::default();
        sink.gauge("b_bytes", "B.", &[], 1.5);
        sink.counter("a_total", "A.", &[("of", "x")], u64::MAX);
        sink.gauge("b_bytes", "B.", &[("of", "y")], f64::NEG_INFINITY);
        assert_eq!(
            sink.into_text(),
            "# HELP a_total A.\n# TYPE a_total counter\na_total{of=\"x\"} 18446744073709551615\n\
             # HELP b_bytes B.\n# TYPE b_bytes gauge\nb_bytes 1.5\nb_bytes{of=\"y\"} -Inf\n"
        );
    }

    #[test]
    fn text_is_escaped() {
        let mut sink = MetricSink::default();
        sink.counter("a_total", "one\ntwo\\", &[("of", "a\"b\\c\nd")], 1);
        assert_eq!(
            sink.into_text(),
            "# HELP a_total one\\ntwo\\\\\n# TYPE a_total counter\na_total{of=\"a\\\"b\\\\c\\nd\"} 1\n"
        );
    }

    #[test]
    fn buckets_cumulate() {
        let mut sink = MetricSink::default();
        let of = Histogram { bounds: &[0.001, 0.1], counts: &[2, 0, 3], sum: 4.25 };
        sink.histogram("commit_seconds", "C.", &[("disk", "a")], of);
        assert_eq!(
            sink.into_text(),
            "# HELP commit_seconds C.\n# TYPE commit_seconds histogram\n\
             commit_seconds_bucket{disk=\"a\",le=\"0.001\"} 2\n\
             commit_seconds_bucket{disk=\"a\",le=\"0.1\"} 2\n\
             commit_seconds_bucket{disk=\"a\",le=\"+Inf\"} 5\n\
             commit_seconds_sum{disk=\"a\"} 4.25\ncommit_seconds_count{disk=\"a\"} 5\n"
        );
    }
}

//! Prometheus' text format, version 0.0.4, read strictly: what a lenient parser forgives is an error here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::http;

/// What one scrape told, by family.
#[derive(Debug, Default)]
pub struct Scrape {
    /// In the order they came.
    pub families: Vec<Family>,
}

/// Samples of one name, or of one histogram.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it says of itself.
    pub help: String,
    /// In the order they came.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The family's name; with a suffix in a histogram.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// What was measured.
    pub value: f64,
}

impl Scrape {
    /// Asks an admin listener.
    #[track_caller]
    pub fn of(admin: SocketAddr) -> Scrape {
        let answer = http::get(admin, "/metrics").expect("an answer");
        assert_eq!(answer.status, 200);
        match Scrape::parse(&answer.body) {
            Ok(scrape) => scrape,
            Err(why) => panic!("{why}\n{}", answer.body),
        }
    }

    /// The text as families; says what breaks the format, or the conventions that hold for all metrics.
    pub fn parse(text: &str) -> Result<Scrape, String> {
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let mut scrape = Scrape::default();
        for line in text.lines() {
            scrape.line(line).map_err(|why| format!("{why}: {line}"))?;
        }
        let mut names = BTreeSet::new();
        for family in &scrape.families {
            let check = if names.insert(&family.name) { family.check() } else { Err("it comes twice".into()) };
            check.map_err(|why: String| format!("{}: {why}", family.name))?;
        }
        Ok(scrape)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            let family = Family { name: name.into(), kind: String::new(), help: help.into(), samples: Vec::new() };
            self.families.push(family);
            return Ok(());
        }
        let family = self.families.last_mut().ok_or("before any HELP")?;
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            if name != family.name || !family.kind.is_empty() || !family.samples.is_empty() {
                return Err("TYPE stands once, behind its HELP".into());
            }
            family.kind = kind.into();
            return Ok(());
        }
        if line.starts_with('#') || line.is_empty() {
            return Err("neither HELP nor TYPE nor a sample".into());
        }
        let sample = Sample::parse(line)?;
        if family.samples.iter().any(|other| other.name == sample.name && other.labels == sample.labels) {
            return Err("this sample came before".into());
        }
        family.samples.push(sample);
        Ok(())
    }

    /// The family of this name.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The value of a sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let mut samples = self.families.iter().flat_map(|family| &family.samples);
        samples.find(|sample| sample.name == name && sample.labels == labels).map(|sample| sample.value)
    }

    /// The sum over all samples of a name.
    pub fn sum(&self, name: &str) -> f64 {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        samples.filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }
}

impl Family {
    /// Names of the labels of its samples, `le` excepted.
    pub fn label_names(&self) -> BTreeSet<&str> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names.map(String::as_str).filter(|name| *name != "le").collect()
    }

    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name, true) {
            return Err("not a name".into());
        }
        if self.help.is_empty() || self.samples.is_empty() {
            return Err("without a text or without samples".into());
        }
        let is_counter = self.kind == "counter";
        if self.name.ends_with("_total") != is_counter {
            return Err("_total is for counters, all of them".into());
        }
        match &*self.kind {
            "counter" | "gauge" => match self.samples.iter().find(|sample| sample.name != self.name) {
                Some(stranger) => Err(format!("{} does not belong to it", stranger.name)),
                None if is_counter && self.samples.iter().any(|s| !s.value.is_finite() || s.value < 0.0) => {
                    Err("a counter below zero, or without a bound".into())
                }
                None => Ok(()),
            },
            "histogram" => self.check_histogram(),
            other => Err(format!("of type {other:?}")),
        }
    }

    /// One histogram without labels besides `le`; there are no others.
    fn check_histogram(&self) -> Result<(), String> {
        let named = |suffix: &str| {
            let name = format!("{}{suffix}", self.name);
            self.samples.iter().filter(move |sample| sample.name == name).collect::<Vec<_>>()
        };
        let (buckets, sums, counts) = (named("_bucket"), named("_sum"), named("_count"));
        if sums.len() != 1 || counts.len() != 1 || buckets.len() + 2 != self.samples.len() {
            return Err("not buckets, one sum and one count".into());
        }
        let mut before = (f64::NEG_INFINITY, 0.0);
        for bucket in buckets {
            let bound = bucket.labels.get("le").and_then(|le| value(le)).ok_or("a bucket without a bound")?;
            if bound <= before.0 || bucket.value < before.1 {
                return Err(format!("buckets do not rise at le={bound}"));
            }
            before = (bound, bucket.value);
        }
        match before == (f64::INFINITY, counts[0].value) {
            true => Ok(()),
            false => Err("the last bucket is not +Inf with the count".into()),
        }
    }
}

impl Sample {
    fn parse(line: &str) -> Result<Sample, String> {
        let name_end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, mut rest) = line.split_at(name_end);
        if !is_name(name, true) {
            return Err("not a name".into());
        }
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
                let (text, after) = unescape(after)?;
                if !is_name(label, false) || labels.insert(label.to_owned(), text).is_some() {
                    return Err(format!("the label {label:?}"));
                }
                if let Some(after) = after.strip_prefix('}') {
                    rest = after;
                    break;
                }
                rest = after.strip_prefix(',').ok_or("labels that do not end")?;
            }
        }
        let number = rest.strip_prefix(' ').ok_or("no space before the value")?;
        // A time stamp may follow in this format; ours has none.
        let value = value(number).ok_or("not a number")?;
        Ok(Sample { name: name.into(), labels, value })
    }
}

/// The value of a label up to its closing quotation mark, and what follows.
fn unescape(quoted: &str) -> Result<(String, &str), String> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((text, &quoted[at + 1..])),
            '\\' => text.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                _ => return Err("an unknown escape".into()),
            }),
            other => text.push(other),
        }
    }
    Err("a label's value that does not end".into())
}

fn is_name(name: &str, colons: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// As Prometheus writes numbers; Rust would take "inf" and "infinity", too.
fn value(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Scrape;

    const GOOD: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{of=\"x\\\"\\\\\\n}\",b=\"\"} 1\na_total 2\n\
                        # HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 3\n\
                        h_sum 7.5\nh_count 3\n# HELP g G.\n# TYPE g gauge\ng NaN\n";

    #[test]
    fn what_is_right_is_read() {
        let scrape = Scrape::parse(GOOD).expect("good");
        assert_eq!(scrape.value("a_total", &[("b", ""), ("of", "x\"\\\n}")]), Some(1.0));
        assert_eq!((scrape.sum("a_total"), scrape.value("h_count", &[])), (3.0, Some(3.0)));
        assert!(scrape.value("g", &[]).is_some_and(f64::is_nan));
        assert_eq!(scrape.value("a_total", &[("of", "y")]), None);
    }

    #[test]
    fn what_is_wrong_is_noticed() {
        for (from, to) in [
            ("a_total 2\n", "a_total{of=\"x\\\"\\\\\\n}\",b=\"\"} 2\n"),
            ("a_total 2\n", "a_total -2\n"),
            ("a_total 2\n", "a_total 2 1700000000\n"),
            ("a_total 2\n", "b_total 2\n"),
            ("a_total 2\n", "a_total inf\n"),
            ("a_total 2\n", "\n"),
            ("a_total 2\n", "a_total{1=\"\"} 2\n"),
            ("a_total 2\n", "a_total{b=\"\\t\"} 2\n"),
            ("# TYPE a_total counter\n", ""),
            ("# TYPE a_total counter\n", "# TYPE a_total gauge\n"),
            ("# TYPE g gauge\n", "# TYPE g gauge\n# TYPE g gauge\n"),
            ("# HELP g G.\n# TYPE g gauge\ng NaN\n", "# HELP a_total A.\n# TYPE a_total counter\na_total 4\n"),
            ("# HELP g G.\n# TYPE g gauge\ng NaN\n", "# HELP g G.\n# TYPE g counter\ng 1\n"),
            ("h_count 3\n", "h_count 4\n"),
            ("h_bucket{le=\"0.5\"} 1\n", "h_bucket{le=\"0.5\"} 4\n"),
            ("h_sum 7.5\n", ""),
            ("g NaN\n", "g NaN"),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD);
            assert!(Scrape::parse(&bad).is_err(), "{from:?} → {to:?}");
        }
    }
}

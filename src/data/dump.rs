//! `millstream log dump`: records and frames as lines of text.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, UNIX_EPOCH};

use bridge::batch::Record;
use bridge::state::Change;
use bridge::tools::{Contents, FrameLine, Line};

use crate::cli::DumpArgs;

use super::configuration;

/// A topic of this name comes first.
const JOURNAL: &str = "journal";

/// There is nothing of this name.
#[derive(Debug, thiserror::Error)]
#[error("no {0} in this folder; there are: {1}")]
struct Unknown(String, String);

pub fn dump(args: &DumpArgs) -> Result<(), Box<dyn Error>> {
    let config = configuration(&args.folder)?;
    let mut contents = Contents::open(&config.data_dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let Some(topic) = &args.topic else {
        for name in contents.names() {
            writeln!(out, "{name}")?;
        }
        return Ok(writeln!(out, "{JOURNAL}")?);
    };
    let ended = match contents.partitions(topic) {
        Some(partitions) => {
            let wanted: Vec<u32> = match args.partition {
                Some(index) if !partitions.contains(&index) => {
                    return Err(Unknown(format!("partition {index} of {topic}"), said(&partitions)).into());
                }
                Some(index) => vec![index],
                None => partitions,
            };
            wanted.into_iter().try_for_each(|index| records(&contents, args, topic, index, &mut out))
        }
        None if topic == JOURNAL => frames(&mut contents, args, &mut out),
        None => return Err(Unknown(format!("topic {topic}"), contents.names().join(" ")).into()),
    };
    match ended.and_then(|()| Ok(out.flush()?)) {
        // Whoever read it has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        ended => ended,
    }
}

fn said(partitions: &[u32]) -> String {
    partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn records(
    contents: &Contents,
    args: &DumpArgs,
    topic: &str,
    partition: u32,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let (mut left, mut written) = (args.max, Ok(()));
    contents.records(topic, partition, args.from, |line| {
        if left == 0 {
            return false;
        }
        left -= 1;
        written = match line {
            Line::Record(record) => writeln!(out, "{partition} {}", text_of(topic, &record)),
            Line::Compressed(first, last) => writeln!(out, "{partition} {first}-{last} a compressed batch"),
            Line::Unreadable(first) => writeln!(out, "{partition} {first} does not parse"),
        };
        written.is_ok()
    })?;
    Ok(written?)
}

fn text_of(topic: &str, record: &Record<'_>) -> String {
    let mut text = record.offset.to_string();
    if topic.starts_with("__") && topic != "__mqtt" {
        let _to_a_string_always = write!(text, " {}", state_of(record));
        return text;
    }
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(record.timestamp_ms).unwrap_or(0));
    let time = humantime::format_rfc3339_millis(at);
    let _to_a_string_always = write!(text, " {time} key={}", value_of(record.key));
    for (name, value) in record.headers {
        let _to_a_string_always = write!(text, " {}={}", name.escape_ascii(), value_of(value));
    }
    let _to_a_string_always = write!(text, " value={}", value_of(record.value));
    text
}

/// Keyed state: a space, a key, a value.
fn state_of(record: &Record<'_>) -> String {
    let key = record.key.unwrap_or_default();
    let Some((space, key)) = key.split_first() else { return "no key".to_owned() };
    let entry = record.value.and_then(|mut value| Change::decode(&mut value));
    let value = match entry.filter(|_| *space == 5) {
        Some(Change::Enqueue(_, _, entry)) => {
            let at = entry.pointer;
            let released = if entry.released { " released" } else { "" };
            format!("topic {} partition {} offset {}{released}", at.topic, at.partition, at.offset)
        }
        _ => value_of(record.value),
    };
    format!("space={space} key={} value={value}", value_of(Some(key)))
}

/// Text where it is text, else bytes in hex.
fn value_of(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let is_plain = |text: &&str| !text.chars().any(char::is_control);
    match std::str::from_utf8(bytes).ok().filter(is_plain) {
        Some(text) => format!("{text:?}"),
        None => {
            let mut hex = "0x".to_owned();
            for byte in bytes {
                let _to_a_string_always = write!(hex, "{byte:02x}");
            }
            hex
        }
    }
}

fn frames(contents: &mut Contents, args: &DumpArgs, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let (mut left, mut written) = (args.max, Ok(()));
    contents.frames(|frame| {
        if i64::try_from(frame.lsn).is_ok_and(|lsn| lsn < args.from) {
            return true;
        }
        if left == 0 {
            return false;
        }
        left -= 1;
        written = write_frame(out, &frame);
        written.is_ok()
    })?;
    Ok(written?)
}

fn write_frame(out: &mut impl Write, frame: &FrameLine) -> io::Result<()> {
    let FrameLine { file, position, lsn, durable_lsn, batches, changes } = frame;
    writeln!(out, "{lsn} {file} byte {position}, durable before it {durable_lsn}")?;
    for (topic, partition, first, last) in batches {
        writeln!(out, "  batch: topic {topic} partition {partition} offsets {first}-{last}")?;
    }
    changes.iter().try_for_each(|change| writeln!(out, "  {change}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_anything_else_is_hex() {
        assert_eq!(value_of(Some(b"21.5")), "\"21.5\"");
        assert_eq!(value_of(Some(&[0, 255])), "0x00ff");
        assert_eq!(value_of(Some(b"a\nb")), "0x610a62", "one line a record");
        assert_eq!(value_of(None), "null");
    }
}

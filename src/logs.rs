//! Logs: one line per event on stderr, for people or as JSON.
//!
//! Text: `2026-11-20T12:00:00.000Z INFO  client connected client=kitchen-7 peer=10.0.0.7:51234`.
//! Whatever a client sends us, an event stays one line: control characters are escaped.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    time::SystemTime,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::SetGlobalDefaultError,
};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter, SubscriberBuilder, format::Writer,
        time::FormatTime,
    },
    registry::LookupSpan,
};

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no directive.
    #[error("log_level: {0}")]
    Level(String),
    /// They were set up before.
    #[error("logs: {0}")]
    Installed(#[from] SetGlobalDefaultError),
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Is `text` a level or a list of directives (`info,broker=debug`)? The error says what would be right.
///
/// `EnvFilter` alone would take a misspelt level for the name of a module and log nothing at all.
pub fn check_level(text: &str) -> Result<(), String> {
    if text.contains(char::is_whitespace) {
        return Err("must have no spaces".to_owned());
    }
    for directive in text.split(',') {
        let is_level = LEVELS.contains(&&*directive.to_ascii_lowercase());
        if !is_level && !directive.contains('=') {
            return Err(format!("{directive:?} is none of {}", LEVELS.join(", ")));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends the events of this process to stderr from here on.
pub fn install(format: LogFormat, level: &str) -> Result<(), LogError> {
    check_level(level).map_err(LogError::Level)?;
    let ansi = io::stderr().is_terminal();
    Ok(tracing::subscriber::set_global_default(subscriber(format, level, ansi, io::stderr))?)
}

fn subscriber<W>(format: LogFormat, level: &str, ansi: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = SubscriberBuilder::default()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(writer)
        // The alternative is `eprintln!`, which panics when stderr's reader has gone.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(builder.fmt_fields(Pairs).event_format(Line { ansi }).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).with_timer(Utc).finish()),
    }
}

/// Time of an event: UTC, RFC 3339, milliseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

/// The text format.
struct Line {
    ansi: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        Utc.format_time(&mut writer)?;
        let level = event.metadata().level();
        match colour(level).filter(|_| self.ansi) {
            Some(colour) => write!(writer, " \x1b[{colour}m{level:<5}\x1b[0m ")?,
            None => write!(writer, " {level:<5} ")?,
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(writer, "{}{}", fields.message, fields.pairs)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(pairs) = span.extensions().get::<FormattedFields<N>>() {
                write!(writer, "{}", pairs.fields)?;
            }
        }
        writeln!(writer)
    }
}

fn colour(level: &Level) -> Option<u8> {
    match *level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        _ => None,
    }
}

/// Fields of a span, in the form of [`Line`].
struct Pairs;

impl<'w> FormatFields<'w> for Pairs {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields::default();
        fields.record(&mut visitor);
        writer.write_str(&visitor.pairs)
    }
}

/// The message, and every other field as ` key=value`.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            push_escaped(&mut self.message, value);
            return;
        }
        let plain = |c: char| c.is_alphanumeric() || (c.is_ascii_graphic() && c != '"' && c != '=');
        // Writing to a String does not fail.
        let _ = if !value.is_empty() && value.chars().all(plain) {
            write!(self.pairs, " {}={value}", field.name())
        } else {
            write!(self.pairs, " {}={value:?}", field.name())
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn push_escaped(to: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            to.extend(c.escape_default());
        } else {
            to.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tracing::{info, info_span, warn};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, ansi: bool, events: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(format, level, ansi, move || writer.clone());
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(captured.0.lock().clone()).expect("UTF-8")
    }

    /// The line without its time, whose form is checked.
    fn after_time(line: &str) -> &str {
        let (time, rest) = line.split_at("2026-11-20T12:00:00.000Z".len());
        assert!(humantime::parse_rfc3339(time).is_ok() && time.ends_with('Z'), "{time}");
        rest
    }

    #[test]
    fn text_is_time_level_message_fields() {
        let peer: std::net::SocketAddr = ([10, 0, 0, 7], 5123).into();
        let line = logged(LogFormat::Text, "info", false, || {
            info!(client = "kitchen 7", %peer, qos = 1, "client connected");
        });
        assert_eq!(after_time(&line), " INFO  client connected client=\"kitchen 7\" peer=10.0.0.7:5123 qos=1\n");
    }

    #[test]
    fn span_fields_follow() {
        let line = logged(LogFormat::Text, "info", false, || {
            info_span!("connection", client = "a").in_scope(|| info!(n = 1, "x"));
        });
        assert_eq!(after_time(&line), " INFO  x n=1 client=a\n");
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let evil = "a\n2026 ERROR fake\x1b[2J";
        let text = logged(LogFormat::Text, "info", false, || info!(client = %evil, "seen {evil}"));
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\x1b'));
        let json = logged(LogFormat::Json, "info", false, || info!(client = %evil, "seen {evil}"));
        assert_eq!(json.lines().count(), 1);
        assert!(!json.contains('\x1b'));
    }

    #[test]
    fn levels_and_directives_filter() {
        let events = || {
            info!(target: "a", "one");
            warn!(target: "b", "two");
        };
        assert!(logged(LogFormat::Text, "off", false, events).is_empty());
        assert_eq!(logged(LogFormat::Text, "warn", false, events).lines().count(), 1);
        let directed = logged(LogFormat::Text, "off,a=info", false, events);
        assert!(directed.contains("one") && !directed.contains("two"), "{directed}");
    }

    #[test]
    fn json_is_an_object_with_the_fields_at_its_top() {
        let line = logged(LogFormat::Json, "info", false, || info!(client = "a", "hello"));
        assert!(line.starts_with("{\"timestamp\":\"20") && line.ends_with("}\n"), "{line}");
        assert!(line.contains("\"level\":\"INFO\",\"message\":\"hello\",\"client\":\"a\""), "{line}");
    }

    #[test]
    fn colour_only_where_asked_for() {
        let events = || warn!("x");
        assert!(logged(LogFormat::Text, "info", true, events).contains("\x1b[33mWARN \x1b[0m"));
        assert!(!logged(LogFormat::Text, "info", false, events).contains('\x1b'));
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for good in ["info", "TRACE", "off", "info,broker=debug", "warn,bridge::journal=trace"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["", "inof", "info,", "info,broker", "broker=loud", "info broker"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}

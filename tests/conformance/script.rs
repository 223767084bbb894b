//! What the transcripts are written with.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use support::broker::Broker;
use support::mqtt::{Client, Connect, Packet, Prop, Publish, Version};
use support::ports::{Lease, lease};
use support::{eventually, http};

pub use support::mqtt::Version::{V5, V311};

/// Ends the broker and removes its folder when the test process has ended, however that was: a `static` is
/// never dropped. What is read is a pipe whose other end closes then.
const WATCH: &str = r#"trap "" INT TERM; folder=$1; shift; "$@" </dev/null & child=$!; read -r never; kill -9 $child; rm -rf "$folder""#;

/// A broker that all tests share, and its WebSocket port.
struct Shared {
    broker: Broker,
    ws: Lease,
    /// Holds our end of the pipe.
    _watch: Child,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (broker, ws) = (Broker::prepared(), lease());
        let serve = broker.command();
        let mut watch = Command::new("sh");
        watch.arg("-c").arg(WATCH).arg("sh").arg(broker.folder());
        watch.arg(serve.get_program()).args(serve.get_args());
        watch.env("MILLSTREAM__MQTT__WS", format!("127.0.0.1:{}", ws.port));
        // Few enough to exceed it, and more than one burst.
        watch.env("MILLSTREAM__MQTT__RECEIVE_MAXIMUM", "1000");
        watch.env("MILLSTREAM__MQTT__RESPONSE_INFORMATION", "answers/{client_id}");
        // One line in the log for each connection and fault is of no use here.
        watch.env("MILLSTREAM__LOG_LEVEL", "error");
        watch.stdin(Stdio::piped()).stdout(Stdio::null());
        let watch = watch.spawn().expect("a shell, and the binary is built");
        let ready = || http::get(broker.admin(), "/ready").ok().filter(|answer| answer.status == 200);
        eventually("the broker is ready", ready);
        Shared { broker, ws, _watch: watch }
    })
}

/// The broker that all tests share.
pub fn broker() -> &'static Broker {
    &shared().broker
}

/// The port of its WebSocket listener.
pub fn ws_port() -> u16 {
    shared().ws.port
}

/// A client identifier or topic that no other test uses: `a7`.
pub fn fresh() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("a{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A fresh client, clean, whose session ends with its connection.
#[track_caller]
pub fn join(version: Version) -> Client {
    broker().connect(Connect::new(version, &fresh()))
}

/// The client that this CONNECT makes.
#[track_caller]
pub fn join_as(connect: &Connect) -> Client {
    broker().connect(connect.clone())
}

/// A connection on which nothing was said.
#[track_caller]
pub fn bare(version: Version) -> Client {
    Client::bare(broker().mqtt(), version)
}

/// Publishes from a client of its own, at QoS 1 so that it has arrived.
#[track_caller]
pub fn publish(topic: &str, payload: &str) {
    broker().publish(Publish::new(topic, payload).qos(1));
}

/// Says these bytes on a good connection, which must be closed for it; the reason code of the DISCONNECT.
#[track_caller]
pub fn closed_for(version: Version, bytes: &[u8]) -> Option<u8> {
    let mut client = join(version);
    client.send(bytes);
    client.expect_closed()
}

/// Says these bytes first thing, which must close the connection; the code of the refusing CONNACK.
#[track_caller]
pub fn refused_for(version: Version, bytes: &[u8]) -> Option<u8> {
    let mut client = bare(version);
    client.send(bytes);
    refusal(&mut client)
}

/// The code of the refusing CONNACK, if there is one, and then the end.
#[track_caller]
pub fn refusal(client: &mut Client) -> Option<u8> {
    let code = match client.try_recv(support::PATIENCE) {
        Err(support::mqtt::Lost::Closed) => return None,
        Ok(Packet::ConnAck(connack)) => {
            assert!(connack.code != 0 && !connack.session_present, "{connack:?}");
            connack.code
        }
        other => panic!("a refusal was due, came {other:?}"),
    };
    assert_eq!(client.expect_closed(), None, "nothing behind CONNACK");
    Some(code)
}

// ---- bytes ----

/// A fixed header: the first byte, and the length of what follows in the fewest bytes.
pub fn header(first_byte: u8, mut length: usize) -> Vec<u8> {
    let mut out = vec![first_byte];
    loop {
        let seven_bits = (length % 128) as u8;
        length /= 128;
        out.push(if length == 0 { seven_bits } else { seven_bits | 0x80 });
        if length == 0 {
            return out;
        }
    }
}

/// A packet: its first byte, and the parts of its body.
pub fn packet(first_byte: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [header(first_byte, body.len()), body].concat()
}

/// A string or binary data: two bytes of length, and the bytes.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a short field");
    [&length.to_be_bytes(), bytes].concat()
}

/// CONNECT with these flags, this much of a payload behind the client identifier, and no properties.
pub fn connect(version: Version, flags: u8, behind_id: &[&[u8]]) -> Vec<u8> {
    let id = field(fresh());
    let head: &[u8] = match version {
        V311 => b"\0\x04MQTT\x04",
        V5 => b"\0\x04MQTT\x05",
    };
    let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
    packet(0x10, &[head, &[flags, 0, 60], properties, &id, &behind_id.concat()])
}

/// The property length of 5.0 for no properties; nothing before.
pub fn no_properties(version: Version) -> &'static [u8] {
    if version == V5 { b"\0" } else { b"" }
}

/// PUBLISH with this first byte: a topic of these bytes, what comes behind it, and no properties.
pub fn publish_bytes(version: Version, first_byte: u8, topic: &[u8], id: &[u8], payload: &[u8]) -> Vec<u8> {
    packet(first_byte, &[&field(topic), id, no_properties(version), payload])
}

/// SUBSCRIBE 1 to one filter, with these options.
pub fn subscribe_bytes(version: Version, filter: impl AsRef<[u8]>, options: u8) -> Vec<u8> {
    packet(0x82, &[b"\0\x01", no_properties(version), &field(filter), &[options]])
}

/// UNSUBSCRIBE 1 from one filter.
pub fn unsubscribe_bytes(version: Version, filter: impl AsRef<[u8]>) -> Vec<u8> {
    packet(0xA2, &[b"\0\x01", no_properties(version), &field(filter)])
}

/// What a closed connection of this version is told: in 5.0 this reason code, before nothing.
pub fn told(version: Version, reason: u8) -> Option<u8> {
    (version == V5).then_some(reason)
}

/// The user properties among these.
pub fn user_properties(props: &[Prop]) -> Vec<Prop> {
    props.iter().filter(|prop| matches!(prop, Prop::UserProperty(..))).cloned().collect()
}

//! Chapter 6: MQTT in WebSocket messages, by a client of a few lines: it knows frames, and nothing of MQTT.

use crate::script::{V5, V311, connect, publish_bytes, subscribe_bytes, ws_port};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use support::mqtt::Version;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

struct WebSocket {
    stream: TcpStream,
    /// The answer to the upgrade request.
    head: String,
    /// Payload of the messages so far, not taken yet.
    inbound: Vec<u8>,
}

impl WebSocket {
    /// Asks for an upgrade, offering these subprotocols.
    fn open(offered: Option<&str>) -> WebSocket {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ws_port())).expect("the server listens");
        stream.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an open socket");
        let offered = offered.map(|names| format!("Sec-WebSocket-Protocol: {names}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{offered}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("an open socket");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        WebSocket { stream, head: String::from_utf8(head).expect("text"), inbound: Vec::new() }
    }

    /// One frame, masked as a client's are. `last`: it ends its message.
    fn send_frame(&mut self, opcode: u8, last: bool, payload: &[u8]) {
        let first_byte = if last { 0x80 | opcode } else { opcode };
        let mut frame = match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => vec![first_byte, 0x80 | length],
            _ => [&[first_byte, 0xFE][..], &(payload.len() as u16).to_be_bytes()].concat(),
        };
        let mask = [0x5A, 0xC3, 0x0F, 0x99];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).expect("an open socket");
    }

    fn send(&mut self, payload: &[u8]) {
        self.send_frame(BINARY, true, payload);
    }

    /// Fills the buffer; false when the server closed. That it is silent is a fault.
    #[track_caller]
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read_exact(buffer) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither a frame nor the end"),
            Err(_) => false,
        }
    }

    /// The next frame's opcode and payload; `None` when the server closed.
    #[track_caller]
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        if !self.read(&mut head) {
            return None;
        }
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                assert!(self.read(&mut length), "closed inside a frame");
                u16::from_be_bytes(length).into()
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        assert!(self.read(&mut payload), "closed inside a frame");
        Some((head[0] & 0x0F, payload))
    }

    /// The next packet, whatever frames it came in; they have to be binary.
    #[track_caller]
    fn packet(&mut self) -> Vec<u8> {
        loop {
            // All packets here are short: one byte of length.
            if let Some(length) = self.inbound.get(1).map(|length| 2 + usize::from(*length))
                && self.inbound.len() >= length
            {
                return self.inbound.drain(..length).collect();
            }
            let (opcode, payload) = self.frame().expect("a packet was due");
            // A message may go on in further frames.
            assert!(matches!(opcode, BINARY | 0), "opcode {opcode}");
            self.inbound.extend(payload);
        }
    }

    /// The server closes, without another packet.
    #[track_caller]
    fn closed(mut self) {
        while let Some((opcode, payload)) = self.frame() {
            assert_eq!(opcode, CLOSE, "came {payload:02x?}");
        }
    }
}

fn let_in(version: Version) -> WebSocket {
    let mut client = WebSocket::open(Some("mqtt"));
    client.send(&connect(version, 0x02, &[]));
    assert_eq!(client.packet()[..1], [0x20]);
    client
}

fn binary_frames_alone(version: Version) {
    // The server's are, as `packet` sees to. A text frame ends it, whatever it says and whenever it comes.
    let mut client = let_in(version);
    client.send(b"\xC0\0");
    assert_eq!(client.packet(), b"\xD0\0");
    client.send_frame(TEXT, true, b"\x30\x04\0\x01ax");
    client.closed();
    let mut client = let_in(version);
    client.send_frame(TEXT, true, b"");
    client.closed();
    let mut client = WebSocket::open(Some("mqtt"));
    client.send_frame(TEXT, true, b"CONNECT");
    client.closed();
}

#[test]
fn mqtt5_6_0_0_1() {
    binary_frames_alone(V5);
}

#[test]
fn mqtt311_6_0_0_1() {
    binary_frames_alone(V311);
}

fn frames_and_packets_need_not_meet(version: Version) {
    let topic = crate::script::fresh();
    let message = publish_bytes(version, 0x30, topic.as_bytes(), b"", b"x");
    let all = [connect(version, 0x02, &[]), subscribe_bytes(version, &topic, 0), message.clone(), b"\xC0\0".to_vec()]
        .concat();
    let check = |client: &mut WebSocket| {
        let first_bytes: Vec<u8> = (0..4).map(|_| client.packet()[0]).collect();
        assert_eq!(first_bytes, [0x20, 0x90, 0x30, 0xD0]);
    };
    // A message for all, one for each byte, and one message of many frames.
    for piece in [all.len(), 1, 7] {
        let mut client = WebSocket::open(Some("mqtt"));
        all.chunks(piece).for_each(|bytes| client.send(bytes));
        check(&mut client);
    }
    let mut client = WebSocket::open(Some("mqtt"));
    client.send_frame(BINARY, false, &all[..3]);
    client.send_frame(0, false, b"");
    client.send_frame(0, false, &all[3..20]);
    client.send_frame(0, true, &all[20..]);
    check(&mut client);
}

#[test]
fn mqtt5_6_0_0_2() {
    frames_and_packets_need_not_meet(V5);
}

#[test]
fn mqtt311_6_0_0_2() {
    frames_and_packets_need_not_meet(V311);
}

#[test]
fn mqtt5_6_0_0_3() {
    // What a client has to offer; without it there is no upgrade.
    for offered in [None, Some("soap"), Some("MQTTX, chat")] {
        let refused = WebSocket::open(offered);
        assert!(!refused.head.starts_with("HTTP/1.1 101"), "{}", refused.head);
    }
}

fn mqtt_is_chosen() {
    for offered in ["mqtt", "mqtt, mqttv3.1", "mqttv3.1, mqtt", "soap,mqtt"] {
        let client = WebSocket::open(Some(offered));
        assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
        let chosen = client.head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol").then(|| value.trim().to_owned())
        });
        assert_eq!(chosen.as_deref(), Some("mqtt"), "of {offered}");
    }
}

#[test]
fn mqtt5_6_0_0_4() {
    mqtt_is_chosen();
}

#[test]
fn mqtt311_6_0_0_4() {
    mqtt_is_chosen();
}

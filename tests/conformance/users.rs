//! What takes users to show: a broker of its own that knows two.

use crate::script::{V5, V311, field, packet, refusal};
use std::io::Write;
use std::process::{Command, Stdio};
use support::broker::{Broker, binary};
use support::mqtt::{Client, Packet, Version};

/// Knows alice and bob, by the passwords `alice's` and `bob's`.
pub fn with_users() -> Broker {
    let broker = Broker::prepared();
    let file = broker.folder().join("passwd");
    for user in ["alice", "bob"] {
        let mut passwd = Command::new(binary());
        passwd.arg("passwd").arg(&file).args([user, "--password-stdin"]).stdin(Stdio::piped());
        let mut child = passwd.spawn().expect("the binary is built");
        writeln!(child.stdin.take().expect("piped"), "{user}'s").expect("it reads");
        assert!(child.wait().expect("our own child").success());
    }
    let mut broker = broker.config(&format!("password_file = {:?}\n", file.display().to_string()));
    broker.restart();
    broker
}

/// CONNECT of a client that is to have a session, by this user and password.
fn connect(version: Version, id: &str, user: &str, password: &str) -> Vec<u8> {
    let head: &[u8] = match version {
        V5 => b"\0\x04MQTT\x05\xC0\0\x3C\x05\x11\0\0\0\x3C",
        V311 => b"\0\x04MQTT\x04\xC0\0\x3C",
    };
    packet(0x10, &[head, &field(id), &field(user), &field(password)])
}

fn saying(broker: &Broker, version: Version, bytes: &[u8]) -> Client {
    let mut client = Client::bare(broker.mqtt(), version);
    client.send(bytes);
    client
}

/// An identifier is refused when its session is another user's.
fn the_identifier_of_another_user(version: Version, code: u8) {
    let broker = with_users();
    let mut alice = saying(&broker, version, &connect(version, "device", "alice", "alice's"));
    assert!(matches!(alice.recv(), Packet::ConnAck(connack) if connack.code == 0));
    let mut bob = saying(&broker, version, &connect(version, "device", "bob", "bob's"));
    assert_eq!(refusal(&mut bob), Some(code));
    // It is still hers, connected or not.
    alice.ping();
    alice.disconnect();
    let mut bob = saying(&broker, version, &connect(version, "device", "bob", "bob's"));
    assert_eq!(refusal(&mut bob), Some(code));
    let mut alice = saying(&broker, version, &connect(version, "device", "alice", "alice's"));
    assert!(matches!(alice.recv(), Packet::ConnAck(connack) if connack.session_present));
}

#[test]
fn mqtt5_3_1_3_8() {
    the_identifier_of_another_user(V5, 0x85);
}

#[test]
fn mqtt311_3_1_3_9_of_another_user() {
    the_identifier_of_another_user(V311, 2);
}

#[test]
fn mqtt5_3_1_4_2_password() {
    let broker = with_users();
    for (user, password) in [("alice", "bob's"), ("mallory", "alice's"), ("alice", "")] {
        let mut client = saying(&broker, V5, &connect(V5, "device", user, password));
        assert_eq!(refusal(&mut client), Some(0x86));
    }
    let mut client = saying(&broker, V5, &packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C\0", &field("device")]));
    assert_eq!(refusal(&mut client), Some(0x87));
}

#[test]
fn mqtt311_3_2_2_5_password() {
    let broker = with_users();
    let mut client = saying(&broker, V311, &connect(V311, "device", "alice", "bob's"));
    assert_eq!(refusal(&mut client), Some(4));
    let mut client = saying(&broker, V311, &packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3C", &field("device")]));
    assert_eq!(refusal(&mut client), Some(5));
}

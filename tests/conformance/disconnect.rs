//! Chapter 3.14: DISCONNECT.

use crate::script::{V5, V311, bare, closed_for, connect, field, fresh, join, join_as, packet};
use support::mqtt::{Client, Connect, Lost, Packet, Prop};

/// The bytes of the DISCONNECT that this client is sent for these bytes, and then the end.
fn disconnect_for(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    client.send(bytes);
    let disconnect = client.recv_bytes();
    assert_eq!(disconnect[0], 0xE0, "{disconnect:02x?}");
    assert_eq!(client.try_recv(support::PATIENCE), Err(Lost::Closed), "nothing behind it");
    disconnect
}

/// An alias that was never set: refused with a long reason.
const UNKNOWN_ALIAS: &[u8] = b"\x30\x06\0\0\x03\x23\0\x07";

/// Table 3-10, the rows a server sends.
const CODES: [u8; 28] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

#[test]
fn mqtt5_3_14_2_1() {
    let faults: [&[u8]; 8] = [
        b"\0\0",
        UNKNOWN_ALIAS,
        b"\x30\x04\0\x01#\0",
        b"\x82\x08\0\x01\0\0\x02a#\0",
        b"\x30\x07\0\x01a\x03\x23\0\0",
        b"\x30\xFF\xFF\xFF\x7F",
        b"\x10\0",
        b"\xF0\0",
    ];
    for bytes in faults {
        let code = disconnect_for(&mut join(V5), bytes)[2];
        assert!(CODES.contains(&code) && code >= 0x80, "{code:#04x} for {bytes:02x?}");
    }
    let connect = Connect::v5(&fresh());
    let mut older = join_as(&connect);
    let _newer = join_as(&connect);
    assert!(CODES.contains(&older.recv_bytes()[2]));
}

#[test]
fn mqtt5_3_14_4_1() {
    let mut client = join(V5);
    // Questions that stand behind the fault get no answer.
    let bytes = [UNKNOWN_ALIAS, b"\xC0\0\xC0\0"].concat();
    disconnect_for(&mut client, &bytes);
}

#[test]
fn mqtt5_3_14_4_2() {
    let mut client = join(V5);
    client.send(b"\0\0");
    assert!(matches!(client.recv(), Packet::Disconnect { reason: 0x81, .. }));
    assert_eq!(client.try_recv(support::PATIENCE), Err(Lost::Closed));
}

#[test]
fn mqtt5_3_14_0_1() {
    // Whatever is wrong before CONNACK is answered by a CONNACK, or not at all.
    let with_method = packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C", b"\x04\x15\0\x01m", &field(fresh())]);
    for bytes in [b"\xC0\0".to_vec(), b"\0\0".to_vec(), connect(V5, 0x03, &[]), with_method] {
        let mut client = bare(V5);
        client.send(&bytes);
        match client.try_recv(support::PATIENCE) {
            Err(Lost::Closed) => continue,
            Ok(Packet::ConnAck(connack)) => assert!(connack.code >= 0x80, "{connack:?}"),
            other => panic!("came {other:?}"),
        }
        assert_eq!(client.try_recv(support::PATIENCE), Err(Lost::Closed));
    }
}

#[test]
fn mqtt5_3_14_2_2() {
    let connect = Connect::v5(&fresh()).durable();
    let mut older = join_as(&connect);
    let _newer = join_as(&connect);
    let Packet::Disconnect { reason: 0x8E, props } = older.recv() else { panic!("DISCONNECT was due") };
    assert!(!props.iter().any(|prop| matches!(prop, Prop::SessionExpiryS(_))), "{props:?}");
    let mut violator = join_as(&connect);
    violator.send(b"\0\0");
    let Packet::Disconnect { reason: 0x81, props } = violator.recv() else { panic!("DISCONNECT was due") };
    assert!(!props.iter().any(|prop| matches!(prop, Prop::SessionExpiryS(_))), "{props:?}");
}

/// A DISCONNECT with a reason string where it fits, and without where it does not.
#[test]
fn mqtt5_3_14_2_3() {
    for most in [16, 20, 30, 40, 1000] {
        let mut client = join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(most)));
        let disconnect = disconnect_for(&mut client, UNKNOWN_ALIAS);
        assert!(disconnect.len() <= most as usize, "{} bytes", disconnect.len());
        assert_eq!(disconnect[2], 0x82);
    }
}

#[test]
fn mqtt5_3_14_2_4() {
    let connect = Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(16));
    let mut older = join_as(&connect);
    let _newer = join_as(&connect);
    older.expect_bytes(b"\xE0\x01\x8E");
}

#[test]
fn mqtt5_3_14_1_1() {
    for flags in 1..16 {
        assert_eq!(closed_for(V5, &[0xE0 | flags, 0]), Some(0x81), "{flags:#06b}");
    }
    // Reason codes that a client may not send, and what else may not stand there.
    for bytes in [&b"\xE0\x01\x8E"[..], b"\xE0\x01\x01", b"\xE0\x03\0\0x", b"\xE0\x05\0\x03\x1C\0\0"] {
        assert!(closed_for(V5, bytes).is_some_and(|reason| matches!(reason, 0x81 | 0x82)), "{bytes:02x?}");
    }
    // A session expiry where CONNECT had none.
    assert_eq!(closed_for(V5, b"\xE0\x07\0\x05\x11\0\0\0\x01"), Some(0x82));
}

#[test]
fn mqtt311_3_14_1_1() {
    for flags in 1..16 {
        assert_eq!(closed_for(V311, &[0xE0 | flags, 0]), None, "{flags:#06b}");
    }
    assert_eq!(closed_for(V311, b"\xE0\x01\0"), None);
}

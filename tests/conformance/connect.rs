//! Chapter 3.1: CONNECT, what may stand in it and what the server makes of it.

use crate::script::{
    V5, V311, bare, broker, connect, field, fresh, join, join_as, no_properties, packet, publish, refusal, refused_for,
    told,
};
use support::mqtt::{Client, Connect, Prop, Publish, Version};

/// CONNECT with this protocol name and level.
fn speaking(name: &[u8], level: u8) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { b"\0" } else { b"" };
    packet(0x10, &[&field(name), &[level, 0x02, 0, 60], properties, &field(fresh())])
}

fn another_name_is_refused(name: &[u8]) {
    for level in [4, 5] {
        let code = refused_for(if level == 5 { V5 } else { V311 }, &speaking(name, level));
        assert!(matches!(code, None | Some(0x01 | 0x84)), "{code:?}");
    }
}

#[test]
fn mqtt5_3_1_2_1() {
    for name in [&b"MQTTX"[..], b"mqtt", b"", b"HTTP"] {
        another_name_is_refused(name);
    }
}

#[test]
fn mqtt311_3_1_2_1() {
    another_name_is_refused(b"MQTZ");
}

#[test]
fn mqtt5_3_1_2_2() {
    for level in [6, 7, 100, 255] {
        assert!(matches!(refused_for(V5, &speaking(b"MQTT", level)), None | Some(0x84)), "level {level}");
    }
}

#[test]
fn mqtt311_3_1_2_2() {
    for level in [0, 1, 2, 3] {
        let mut client = bare(V311);
        client.send(&speaking(b"MQTT", level));
        client.expect_bytes(b"\x20\x02\0\x01");
        assert_eq!(client.expect_closed(), None, "level {level}");
    }
}

/// CONNECT with these flags is malformed: 5.0 clients may be told so, others are just closed.
#[track_caller]
fn malformed(version: Version, flags: u8, behind_id: &[&[u8]]) {
    assert_eq!(refused_for(version, &connect(version, flags, behind_id)), told(version, 0x81), "flags {flags:#04x}");
}

fn the_reserved_flag_is_0(version: Version) {
    malformed(version, 0x01, &[]);
    malformed(version, 0x03, &[]);
}

#[test]
fn mqtt5_3_1_2_3() {
    the_reserved_flag_is_0(V5);
}

#[test]
fn mqtt311_3_1_2_3() {
    the_reserved_flag_is_0(V311);
}

// ---- the will's flags ----

fn the_wills_fields_are_there(version: Version) {
    // Will Flag 1 and nothing behind the client identifier, or a topic alone.
    malformed(version, 0x06, &[]);
    malformed(version, 0x06, &[no_properties(version), b"\0\x01w"]);
    if version == V5 {
        // No will properties.
        malformed(version, 0x06, &[b"\0\x01w", b"\0\x01x"]);
    }
    let mut client = bare(version);
    client.send(&connect(version, 0x06, &[no_properties(version), b"\0\x01w", b"\0\0"]));
    assert_eq!(client.recv_bytes()[3], 0);
    client.send(b"\xE0\0");
}

#[test]
fn mqtt5_3_1_2_9() {
    the_wills_fields_are_there(V5);
}

#[test]
fn mqtt311_3_1_2_9() {
    the_wills_fields_are_there(V311);
}

fn will_qos_without_will(version: Version) {
    malformed(version, 0x0A, &[]);
    malformed(version, 0x12, &[]);
}

#[test]
fn mqtt5_3_1_2_11() {
    will_qos_without_will(V5);
}

#[test]
fn mqtt311_3_1_2_11() {
    will_qos_without_will(V311);
    malformed(V311, 0x22, &[]);
    // A topic and a message nobody announced.
    malformed(V311, 0x02, &[b"\0\x01w", b"\0\x01x"]);
}

#[test]
fn mqtt311_3_1_2_13() {
    will_qos_without_will(V311);
}

fn will_qos_3(version: Version) {
    malformed(version, 0x1E, &[no_properties(version), b"\0\x01w", b"\0\x01x"]);
    for flags in [0x06, 0x0E, 0x16] {
        let mut client = bare(version);
        client.send(&connect(version, flags, &[no_properties(version), b"\0\x01w", b"\0\x01x"]));
        assert_eq!(client.recv_bytes()[3], 0);
        client.send(b"\xE0\0");
        assert_eq!(client.expect_closed(), None);
    }
}

#[test]
fn mqtt5_3_1_2_12() {
    will_qos_3(V5);
}

#[test]
fn mqtt311_3_1_2_14() {
    will_qos_3(V311);
}

#[test]
fn mqtt5_3_1_2_13() {
    malformed(V5, 0x22, &[]);
}

#[test]
fn mqtt311_3_1_2_15() {
    malformed(V311, 0x22, &[]);
}

// ---- user name and password ----

/// CONNECT with these flags and this much behind the client identifier is let in.
#[track_caller]
fn well_formed(version: Version, flags: u8, behind_id: &[&[u8]]) {
    let mut client = bare(version);
    client.send(&connect(version, flags, behind_id));
    assert_eq!(client.recv_bytes()[3], 0, "flags {flags:#04x}");
}

fn a_user_name_nobody_announced(version: Version) {
    malformed(version, 0x02, &[b"\0\x01u"]);
    well_formed(version, 0x02, &[]);
}

#[test]
fn mqtt5_3_1_2_16() {
    a_user_name_nobody_announced(V5);
}

#[test]
fn mqtt311_3_1_2_18() {
    a_user_name_nobody_announced(V311);
}

fn a_user_name_that_is_missing(version: Version) {
    malformed(version, 0x82, &[]);
    well_formed(version, 0x82, &[b"\0\x01u"]);
}

#[test]
fn mqtt5_3_1_2_17() {
    a_user_name_that_is_missing(V5);
}

#[test]
fn mqtt311_3_1_2_19() {
    a_user_name_that_is_missing(V311);
}

fn a_password_nobody_announced(version: Version) {
    malformed(version, 0x82, &[b"\0\x01u", b"\0\x01p"]);
}

#[test]
fn mqtt5_3_1_2_18() {
    a_password_nobody_announced(V5);
}

#[test]
fn mqtt311_3_1_2_20() {
    a_password_nobody_announced(V311);
}

fn a_password_that_is_missing(version: Version) {
    malformed(version, 0xC2, &[b"\0\x01u"]);
    well_formed(version, 0xC2, &[b"\0\x01u", b"\0\x02\0\xFF"]);
}

#[test]
fn mqtt5_3_1_2_19() {
    a_password_that_is_missing(V5);
    // 5.0 has passwords without user name.
    malformed(V5, 0x42, &[]);
    well_formed(V5, 0x42, &[b"\0\x01p"]);
}

#[test]
fn mqtt311_3_1_2_21() {
    a_password_that_is_missing(V311);
}

#[test]
fn mqtt311_3_1_2_22() {
    malformed(V311, 0x42, &[b"\0\x01p"]);
}

// ---- what the client asks for ----

#[test]
fn mqtt5_3_1_2_28() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).with(Prop::RequestResponseInfo(0))] {
        let props = join_as(&connect).connack.props.clone();
        assert!(!props.iter().any(|prop| matches!(prop, Prop::ResponseInfo(_))), "{props:?}");
    }
    // It has some to give.
    let id = fresh();
    let props = join_as(&Connect::v5(&id).with(Prop::RequestResponseInfo(1))).connack.props.clone();
    assert!(props.contains(&Prop::ResponseInfo(format!("answers/{id}"))), "{props:?}");
}

#[test]
fn mqtt5_3_1_2_29() {
    let mut client = join_as(&Connect::v5(&fresh()).with(Prop::RequestProblemInfo(0)));
    let topic = field(fresh());
    // A refused message at QoS 1 and 2, a filter that was never there, an identifier never used: nothing but codes.
    client.send(&packet(0x32, &[&field("$SYS/x"), b"\0\x01\0", b"x"]));
    client.expect_bytes(b"\x40\x03\0\x01\x87");
    client.send(&packet(0x34, &[&field("$SYS/x"), b"\0\x02\0", b"x"]));
    client.expect_bytes(b"\x50\x03\0\x02\x87");
    client.send(&packet(0xA2, &[b"\0\x03\0", &topic]));
    client.expect_bytes(b"\xB0\x04\0\x03\0\x11");
    client.send(b"\x62\x02\0\x04");
    client.expect_bytes(b"\x70\x03\0\x04\x92");
    client.send(b"\x50\x02\0\x05");
    client.expect_bytes(b"\x62\x03\0\x05\x92");
    client.send(&packet(0x82, &[b"\0\x06\0", &topic, b"\0"]));
    client.expect_bytes(b"\x90\x04\0\x06\0\0");
    let deep = field("/".repeat(300));
    client.send(&packet(0x82, &[b"\0\x07\0", &deep, b"\0"]));
    client.expect_bytes(b"\x90\x04\0\x07\0\x8F");
    // To who wants to know it says more.
    let mut curious = join_as(&Connect::v5(&fresh()).with(Prop::RequestProblemInfo(1)));
    curious.send(&packet(0x82, &[b"\0\x07\0", &deep, b"\0"]));
    assert!(curious.recv_bytes().len() > 6);
    // A message's own user properties are another matter.
    let name = String::from_utf8(topic[2..].to_vec()).expect("text");
    client.send_publish(&Publish::new(&name, "x").with(Prop::user("k", "v")));
    assert_eq!(client.expect_publish().props, [Prop::user("k", "v")]);
}

// ---- the client identifier ----

fn the_identifier_is_the_sessions(version: Version) {
    let (one, other) = (fresh(), fresh());
    let mut first = join_as(&Connect::new(version, &one).durable());
    first.subscribe(&format!("id/{one}"), 1);
    first.disconnect();
    let second = join_as(&Connect::new(version, &other).durable());
    assert!(!second.connack.session_present, "another client");
    // Not the same but for case, either.
    let third = join_as(&Connect::new(version, &one.to_uppercase()).durable());
    assert!(!third.connack.session_present, "another client");
    publish(&format!("id/{one}"), "1");
    let mut back = join_as(&Connect::new(version, &one).durable());
    assert!(back.connack.session_present);
    assert_eq!(back.take().text(), "1");
}

#[test]
fn mqtt5_3_1_3_2() {
    the_identifier_is_the_sessions(V5);
}

#[test]
fn mqtt311_3_1_3_2() {
    the_identifier_is_the_sessions(V311);
}

fn the_identifier_is_there(version: Version) {
    let head: &[u8] = if version == V5 { b"\0\x04MQTT\x05\x02\0\x3C\0" } else { b"\0\x04MQTT\x04\x02\0\x3C" };
    assert_eq!(refused_for(version, &packet(0x10, &[head])), told(version, 0x81));
    assert_eq!(refused_for(version, &packet(0x10, &[head, b"\0\x05ab"])), told(version, 0x81));
}

#[test]
fn mqtt5_3_1_3_3() {
    the_identifier_is_there(V5);
}

#[test]
fn mqtt311_3_1_3_3() {
    the_identifier_is_there(V311);
}

fn the_identifier_is_text(version: Version) {
    let head: &[u8] = if version == V5 { b"\0\x04MQTT\x05\x02\0\x3C\0" } else { b"\0\x04MQTT\x04\x02\0\x3C" };
    for id in [&b"\xFF"[..], b"a\xED\xA0\x80", b"a\0"] {
        assert_eq!(refused_for(version, &packet(0x10, &[head, &field(id)])), told(version, 0x81), "{id:?}");
    }
}

#[test]
fn mqtt5_3_1_3_4() {
    the_identifier_is_text(V5);
}

#[test]
fn mqtt311_3_1_3_4() {
    the_identifier_is_text(V311);
}

fn common_identifiers_are_allowed(version: Version) {
    // Both versions' tests run at once, and neither is to take the other's client over.
    let shortest = if version == V5 { "5" } else { "3" };
    for id in ["123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHI", "JKLMNOPQRSTUVWXYZ0", ""] {
        let id = format!("{shortest}{id}");
        let client = Client::connect(broker().mqtt(), &Connect::new(version, &id));
        assert_eq!(client.connack.code, 0, "{id}");
    }
}

#[test]
fn mqtt5_3_1_3_5() {
    common_identifiers_are_allowed(V5);
}

#[test]
fn mqtt311_3_1_3_5() {
    common_identifiers_are_allowed(V311);
}

fn assigned(client: &Client) -> String {
    let assigned = client.connack.props.iter().find_map(|prop| match prop {
        Prop::AssignedClientId(id) => Some(id.clone()),
        _ => None,
    });
    assigned.expect("an assigned client identifier")
}

#[test]
fn mqtt5_3_1_3_6() {
    let (mut first, mut second) = (join_as(&Connect::v5("")), join_as(&Connect::v5("")));
    assert_ne!(assigned(&first), assigned(&second));
    // Neither takes the other over.
    first.ping();
    second.ping();
}

#[test]
fn mqtt5_3_1_3_7() {
    let mut first = join_as(&Connect::v5("").with(Prop::SessionExpiryS(60)));
    let id = assigned(&first);
    let topic = fresh();
    first.subscribe(&topic, 1);
    drop(first);
    publish(&topic, "1");
    let mut back = join_as(&Connect::v5(&id).durable());
    assert!(back.connack.session_present);
    assert_eq!(back.take().text(), "1");
}

#[test]
fn mqtt311_3_1_3_6() {
    let (mut first, mut second) = (join_as(&Connect::v311("")), join_as(&Connect::v311("")));
    let topic = fresh();
    first.subscribe(&topic, 0);
    // It has an identifier of its own: the second does not take over.
    second.ping();
    publish(&topic, "1");
    assert_eq!(first.take().text(), "1");
}

#[test]
fn mqtt311_3_1_3_8() {
    let mut client = bare(V311);
    client.send(b"\x10\x0C\0\x04MQTT\x04\0\0\x3C\0\0");
    client.expect_bytes(b"\x20\x02\0\x02");
    assert_eq!(client.expect_closed(), None);
}

#[test]
fn mqtt311_3_1_3_9() {
    // The identifier the server has to reject is the empty one of a session that is to last.
    let mut client = bare(V311);
    client.send(b"\x10\x12\0\x04MQTT\x04\x80\0\x3C\0\0\0\x04user");
    client.expect_bytes(b"\x20\x02\0\x02");
    assert_eq!(client.expect_closed(), None);
}

fn the_will_topic_is_text(version: Version) {
    for topic in [&b"\xFF"[..], b"w\xED\xA0\x80", b"w\0"] {
        malformed(version, 0x06, &[no_properties(version), &field(topic), b"\0\x01x"]);
    }
}

#[test]
fn mqtt5_3_1_3_11() {
    the_will_topic_is_text(V5);
}

#[test]
fn mqtt311_3_1_3_10() {
    the_will_topic_is_text(V311);
}

fn the_user_name_is_text(version: Version) {
    for name in [&b"\xFF"[..], b"u\xED\xA0\x80", b"u\0"] {
        malformed(version, 0x82, &[&field(name)]);
    }
}

#[test]
fn mqtt5_3_1_3_12() {
    the_user_name_is_text(V5);
}

#[test]
fn mqtt311_3_1_3_11() {
    the_user_name_is_text(V311);
}

// ---- 3.1.4 ----

#[test]
fn mqtt5_3_1_4_1() {
    let head: &[u8] = b"\0\x04MQTT\x05\x02\0\x3C";
    let cases: [(&str, Vec<u8>, u8); 7] = [
        ("bytes behind the last field", packet(0x10, &[head, b"\0\0\x01a", b"x"]), 0x81),
        ("properties longer than the packet", packet(0x10, &[head, b"\x7F\0\x01a"]), 0x81),
        ("a property of PUBLISH", packet(0x10, &[head, b"\x03\x23\0\x01", b"\0\x01a"]), 0x81),
        ("Receive Maximum 0", packet(0x10, &[head, b"\x03\x21\0\0", b"\0\x01a"]), 0x82),
        ("Maximum Packet Size 0", packet(0x10, &[head, b"\x05\x27\0\0\0\0", b"\0\x01a"]), 0x82),
        ("Session Expiry twice", packet(0x10, &[head, b"\x0A\x11\0\0\0\0\x11\0\0\0\0", b"\0\x01a"]), 0x82),
        ("authentication data without a method", packet(0x10, &[head, b"\x04\x16\0\x01x", b"\0\x01a"]), 0x82),
    ];
    for (what, bytes, code) in cases {
        assert_eq!(refused_for(V5, &bytes), Some(code), "{what}");
    }
    // Flags of the fixed header: closed, whatever it is told.
    refused_for(V5, &[&[0x11][..], &connect(V5, 0x02, &[])[1..]].concat());
}

#[test]
fn mqtt311_3_1_4_1() {
    let head: &[u8] = b"\0\x04MQTT\x04\x02\0\x3C";
    for bytes in [
        packet(0x10, &[head, b"\0\x01a", b"x"]),
        packet(0x10, &[b"\0\x04MQTT\x04\x03\0\x3C", b"\0\x01a"]),
        packet(0x10, &[head, b"\0\x09a"]),
        packet(0x11, &[head, b"\0\x01a"]),
    ] {
        let mut client = bare(V311);
        client.send(&bytes);
        // Without a CONNACK.
        assert_eq!(client.expect_closed(), None, "{bytes:?}");
    }
}

#[test]
fn mqtt5_3_1_4_2() {
    // A will that may not be published, and an authentication that is not offered.
    let connect = Connect::v5(&fresh()).will(Publish::new("$SYS/broker/x", "x"));
    let mut client = Client::connect(broker().mqtt(), &connect);
    assert_eq!(client.connack.code, 0x87);
    assert_eq!(client.expect_closed(), None);
    let connect = Connect::v5(&fresh()).with(Prop::AuthMethod("none-such".into()));
    let mut client = Client::connect(broker().mqtt(), &connect);
    assert_eq!(client.connack.code, 0x8C);
    assert_eq!(client.expect_closed(), None);
}

fn the_older_connection_goes(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let connect = if durable { connect.durable() } else { connect };
        let mut older = join_as(&connect);
        let mut newer = join_as(&connect);
        assert_eq!(older.expect_closed(), told(version, 0x8E));
        newer.ping();
    }
}

#[test]
fn mqtt5_3_1_4_3() {
    the_older_connection_goes(V5);
}

#[test]
fn mqtt311_3_1_4_2() {
    the_older_connection_goes(V311);
}

fn clean_start_is_processed(version: Version) {
    let connect = Connect::new(version, &fresh()).durable();
    let topic = fresh();
    join_as(&connect).subscribe(&topic, 1);
    let mut back = join_as(&connect);
    assert!(back.connack.session_present, "0: resumed");
    publish(&topic, "1");
    assert_eq!(back.take().text(), "1");
    let mut clean = join_as(&connect.clone().clean(true));
    assert!(!clean.connack.session_present, "1: begun anew");
    clean.subscribe(&format!("{topic}/end"), 1);
    publish(&topic, "2");
    publish(&format!("{topic}/end"), "end");
    assert!(clean.take_until("end").is_empty());
}

#[test]
fn mqtt5_3_1_4_4() {
    clean_start_is_processed(V5);
}

#[test]
fn mqtt311_3_1_4_3() {
    clean_start_is_processed(V311);
}

#[test]
fn mqtt5_3_1_4_5() {
    let mut client = bare(V5);
    client.send(&connect(V5, 0x02, &[]));
    assert!(matches!(client.recv_bytes()[..], [0x20, _, 0, 0, ..]));
}

#[test]
fn mqtt311_3_1_4_4() {
    let mut client = bare(V311);
    client.send(&connect(V311, 0x02, &[]));
    client.expect_bytes(b"\x20\x02\0\0");
}

fn nothing_behind_a_refusal_is_processed(version: Version, refused: &[u8]) {
    let topic = fresh();
    let mut watcher = join(version);
    watcher.subscribe(&topic, 1);
    let message = crate::script::publish_bytes(version, 0x31, topic.as_bytes(), b"", b"behind a refusal");
    let mut client = bare(version);
    client.send(&[refused, &message].concat());
    refusal(&mut client);
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
    let mut late = join(version);
    late.subscribe(&topic, 1);
    publish(&topic, "end");
    assert!(late.take_until("end").is_empty(), "not retained, either");
}

#[test]
fn mqtt5_3_1_4_6() {
    nothing_behind_a_refusal_is_processed(V5, &speaking(b"MQTT", 9));
    nothing_behind_a_refusal_is_processed(V5, &connect(V5, 0x03, &[]));
    let with_method = packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C", b"\x04\x15\0\x01m", b"\0\x01a"]);
    nothing_behind_a_refusal_is_processed(V5, &with_method);
}

#[test]
fn mqtt311_3_1_4_5() {
    nothing_behind_a_refusal_is_processed(V311, &speaking(b"MQTT", 2));
    nothing_behind_a_refusal_is_processed(V311, b"\x10\x0C\0\x04MQTT\x04\0\0\x3C\0\0");
}

//! Chapters 3.8 and 3.9: SUBSCRIBE and SUBACK.

use crate::script::{
    V5, V311, broker, closed_for, field, fresh, join, join_as, no_properties, packet, publish, subscribe_bytes, told,
};
use support::mqtt::{Client, Connect, NO_LOCAL, Prop, Publish, Version};

fn filters_are_text(version: Version) {
    for filter in [&b"\xFF"[..], b"a/\xED\xA0\x80", b"a\0"] {
        assert_eq!(closed_for(version, &subscribe_bytes(version, filter, 0)), told(version, 0x81), "{filter:?}");
    }
    let mut client = join(version);
    assert_eq!(client.subscribe("Ünï/çø∂é/\u{1F600}", 1), 1);
}

#[test]
fn mqtt5_3_8_3_1() {
    filters_are_text(V5);
}

#[test]
fn mqtt311_3_8_3_1() {
    filters_are_text(V311);
}

fn a_filter_at_least(version: Version) {
    let bytes = packet(0x82, &[b"\0\x01", no_properties(version)]);
    assert_eq!(closed_for(version, &bytes), told(version, 0x82));
    // A filter without its options.
    let bytes = packet(0x82, &[b"\0\x01", no_properties(version), b"\0\x01a"]);
    assert_eq!(closed_for(version, &bytes), told(version, 0x81));
}

#[test]
fn mqtt5_3_8_3_2() {
    a_filter_at_least(V5);
}

#[test]
fn mqtt311_3_8_3_3() {
    a_filter_at_least(V311);
}

#[test]
fn mqtt311_3_8_3_2() {
    let (mut client, root) = (join(V311), fresh());
    client.subscribe(&format!("{root}/+/c"), 1);
    client.subscribe(&format!("{root}/x/#"), 1);
    publish(&format!("{root}/b/c"), "1");
    publish(&format!("{root}/x/y/z"), "2");
    assert_eq!((client.take().text(), client.take().text()), ("1".into(), "2".into()));
}

#[test]
fn mqtt5_3_8_3_4() {
    for filter in ["$share/g/a", "$share/g/#"] {
        assert_eq!(closed_for(V5, &subscribe_bytes(V5, filter, 1 | NO_LOCAL)), Some(0x82));
    }
}

#[test]
fn mqtt5_3_8_3_5() {
    for options in [0x40, 0x80, 0xC0, 0x41] {
        assert_eq!(closed_for(V5, &subscribe_bytes(V5, "a", options)), Some(0x81), "{options:#04x}");
    }
    // QoS 3 and Retain Handling 3 are protocol errors.
    for options in [0x03, 0x30] {
        assert_eq!(closed_for(V5, &subscribe_bytes(V5, "a", options)), Some(0x82), "{options:#04x}");
    }
}

#[test]
fn mqtt311_3_8_3_4() {
    for options in [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x81] {
        assert_eq!(closed_for(V311, &subscribe_bytes(V311, "a", options)), None, "{options:#04x}");
    }
    // Also when good filters stand before it.
    let bytes = packet(0x82, &[b"\0\x01", b"\0\x01a\x01", b"\0\x01b\x03"]);
    assert_eq!(closed_for(V311, &bytes), None);
}

/// SUBACK for these filters and options, under identifier 0x0102; its codes.
fn codes(client: &mut Client, version: Version, filters: &[(&str, u8)]) -> Vec<u8> {
    let body: Vec<u8> = filters.iter().flat_map(|(filter, options)| [field(filter), vec![*options]].concat()).collect();
    client.send(&packet(0x82, &[b"\x01\x02", no_properties(version), &body]));
    let suback = client.recv_bytes();
    assert!(suback.starts_with(&[0x90, suback[1], 1, 2]), "{suback:02x?}");
    // A refusal may have a reason string in front of them.
    let properties = if version == V5 { 1 + usize::from(suback[4]) } else { 0 };
    suback[4 + properties..].to_vec()
}

fn subscribe_is_answered(version: Version) {
    let mut client = join(version);
    assert_eq!(codes(&mut client, version, &[(&fresh(), 0)]).len(), 1);
    // And again.
    let filter = fresh();
    assert_eq!(codes(&mut client, version, &[(&filter, 0)]).len(), 1);
    assert_eq!(codes(&mut client, version, &[(&filter, 0)]).len(), 1);
}

#[test]
fn mqtt5_3_8_4_1() {
    subscribe_is_answered(V5);
}

#[test]
fn mqtt311_3_8_4_1() {
    subscribe_is_answered(V311);
}

fn suback_has_the_identifier(version: Version) {
    let mut client = join(version);
    for id in [[0, 1], [0xFF, 0xFF], [0x12, 0x34]] {
        client.send(&packet(0x82, &[&id, no_properties(version), &field(fresh()), b"\x01"]));
        let suback = client.recv_bytes();
        assert_eq!((suback[0], &suback[2..4]), (0x90, &id[..]));
    }
}

#[test]
fn mqtt5_3_8_4_2() {
    suback_has_the_identifier(V5);
}

#[test]
fn mqtt311_3_8_4_2() {
    suback_has_the_identifier(V311);
}

/// The copies that come of one message.
fn copies(client: &mut Client, topic: &str) -> Vec<Publish> {
    let end = fresh();
    client.subscribe(&end, 1);
    broker().publish(Publish::new(topic, "x").qos(2));
    publish(&end, "end");
    std::iter::repeat_with(|| client.take()).take_while(|got| got.text() != "end").collect()
}

fn the_same_filter_replaces(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let (mut client, topic) = (join_as(&if durable { connect.durable() } else { connect }), fresh());
        for qos in [2, 0, 1, 1] {
            assert_eq!(client.subscribe(&topic, qos), qos);
            let got: Vec<u8> = copies(&mut client, &topic).iter().map(|got| got.qos).collect();
            assert_eq!(got, [qos], "one copy, at the new QoS");
        }
    }
}

#[test]
fn mqtt5_3_8_4_3() {
    the_same_filter_replaces(V5);
    // Its identifier and its No Local with it.
    let (mut client, topic) = (join(V5), fresh());
    client.subscribe_with(&[(&topic, 1 | NO_LOCAL)], &[Prop::SubscriptionId(5)]);
    client.subscribe(&topic, 1);
    client.publish(Publish::new(&topic, "own").qos(1));
    let got = client.take();
    assert_eq!((got.text().as_str(), got.props), ("own", vec![]));
}

/// Retained messages come again, and of those that are on their way meanwhile none is lost.
fn replacing_loses_nothing(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let (mut client, root) = (join_as(&if durable { connect.durable() } else { connect }), fresh());
        let (kept, flowing) = (format!("{root}/kept"), format!("{root}/flowing"));
        broker().publish(Publish::new(&kept, "kept").qos(1).retain());
        let filter = format!("{root}/+");
        client.subscribe(&filter, 1);
        assert_eq!(client.take().text(), "kept");
        let mut from = join(version);
        for n in 1..=20 {
            from.send_publish(&Publish::new(&flowing, n.to_string()).qos(1).id(n));
            if n % 5 == 0 {
                client.send(&subscribe_bytes(version, &filter, 1 + (n / 5 % 2) as u8));
            }
        }
        let mut got = client.take_until("20");
        publish(&flowing, "end");
        got.extend(client.take_until("end"));
        assert_eq!(got.iter().filter(|payload| *payload == "kept").count(), 4);
        got.retain(|payload| payload != "kept");
        assert_eq!(got, (1..20).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn mqtt5_3_8_4_4() {
    replacing_loses_nothing(V5);
}

#[test]
fn mqtt311_3_8_4_3() {
    the_same_filter_replaces(V311);
    replacing_loses_nothing(V311);
}

fn several_filters_are_several_subscribes(version: Version) {
    let (mut client, root) = (join(version), fresh());
    let filters = [format!("{root}/a"), format!("{root}/b"), format!("{root}/a")];
    let codes = codes(&mut client, version, &[(&filters[0], 0), (&filters[1], 1), (&filters[2], 2)]);
    assert_eq!(codes, [0, 1, 2]);
    // The third replaced the first.
    let got: Vec<u8> = copies(&mut client, &filters[0]).iter().map(|got| got.qos).collect();
    assert_eq!(got, [2]);
    let got: Vec<u8> = copies(&mut client, &filters[1]).iter().map(|got| got.qos).collect();
    assert_eq!(got, [1]);
}

#[test]
fn mqtt5_3_8_4_5() {
    several_filters_are_several_subscribes(V5);
}

#[test]
fn mqtt311_3_8_4_4() {
    several_filters_are_several_subscribes(V311);
}

/// Filters of which one is refused: it is too deep.
fn a_code_for_each_filter(version: Version) -> Vec<u8> {
    let deep = "/".repeat(300);
    let mut client = join(version);
    let filters: Vec<(String, u8)> = (0..9).map(|n| (if n == 4 { deep.clone() } else { fresh() }, n % 3)).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
    codes(&mut client, version, &filters)
}

#[test]
fn mqtt5_3_8_4_6() {
    assert_eq!(a_code_for_each_filter(V5).len(), 9);
}

#[test]
fn mqtt5_3_8_4_7() {
    assert_eq!(a_code_for_each_filter(V5), [0, 1, 2, 0, 0x8F, 2, 0, 1, 2]);
}

#[test]
fn mqtt311_3_8_4_5() {
    assert_eq!(a_code_for_each_filter(V311), [0, 1, 2, 0, 0x80, 2, 0, 1, 2]);
}

fn the_lesser_qos(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let mut client = join_as(&if durable { connect.durable() } else { connect });
        for granted in [0, 1, 2] {
            let topic = fresh();
            assert_eq!(client.subscribe(&topic, granted), granted);
            for published in [0, 1, 2] {
                broker().publish(Publish::new(&topic, "x").qos(published));
                assert_eq!(client.take().qos, published.min(granted));
            }
        }
    }
}

#[test]
fn mqtt5_3_8_4_8() {
    the_lesser_qos(V5);
}

#[test]
fn mqtt311_3_8_4_6() {
    the_lesser_qos(V311);
}

// ---- SUBACK ----

fn codes_in_the_order_of_the_filters(version: Version) {
    let mut client = join(version);
    let names: Vec<String> = (0..30).map(|_| fresh()).collect();
    let filters: Vec<(&str, u8)> =
        names.iter().zip([2, 0, 1].into_iter().cycle()).map(|(f, q)| (f.as_str(), q)).collect();
    let asked: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
    assert_eq!(codes(&mut client, version, &filters), asked);
}

#[test]
fn mqtt5_3_9_3_1() {
    codes_in_the_order_of_the_filters(V5);
}

#[test]
fn mqtt311_3_9_3_1() {
    codes_in_the_order_of_the_filters(V311);
}

#[test]
fn mqtt5_3_9_3_2() {
    const CODES: [u8; 12] = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    let codes = a_code_for_each_filter(V5);
    assert!(codes.iter().all(|code| CODES.contains(code)), "{codes:02x?}");
}

#[test]
fn mqtt311_3_9_3_2() {
    let codes = a_code_for_each_filter(V311);
    assert!(codes.iter().all(|code| matches!(code, 0 | 1 | 2 | 0x80)), "{codes:02x?}");
}

/// A client that takes no more than the least SUBACK, with a refusal in it, and the CONNACK.
#[test]
fn mqtt5_3_9_2_1() {
    let mut client = join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(24)));
    client.send(&subscribe_bytes(V5, "/".repeat(300), 0));
    client.expect_bytes(b"\x90\x04\0\x01\0\x8F");
}

#[test]
fn mqtt5_3_9_2_2() {
    let mut client = join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(24)));
    let filters: Vec<u8> = (0..19).flat_map(|_| [field(fresh()), vec![0]].concat()).collect();
    client.send(&packet(0x82, &[b"\0\x01\0", &filters]));
    client.expect_bytes(&[&b"\x90\x16\0\x01\0"[..], &[0; 19]].concat());
}

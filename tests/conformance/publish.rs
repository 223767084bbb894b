//! Chapter 3.3: PUBLISH, but for what is retained and for QoS.

use crate::script::{
    V5, V311, broker, closed_for, field, fresh, join, join_as, no_properties, packet, publish, publish_bytes, told,
    user_properties,
};
use support::mqtt::{AckKind, Client, Connect, NO_LOCAL, Packet, Prop, Publish, Version};

// ---- DUP ----

fn what_is_sent_again_has_dup(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    for qos in [1, 2] {
        broker().publish(Publish::new(&topic, "x").qos(qos));
        assert!(!client.expect_publish().dup);
    }
    drop(client);
    let mut client = join_as(&connect);
    for _ in [1, 2] {
        assert!(client.expect_publish().dup);
    }
}

#[test]
fn mqtt5_3_3_1_1() {
    what_is_sent_again_has_dup(V5);
}

#[test]
fn mqtt311_3_3_1_1() {
    what_is_sent_again_has_dup(V311);
}

fn qos_0_has_no_dup(version: Version) {
    assert_eq!(closed_for(version, &publish_bytes(version, 0x38, b"a", b"", b"x")), told(version, 0x81));
    // What is cut down to QoS 0 on its way loses its DUP.
    let (mut to, topic) = (join(version), fresh());
    to.subscribe(&topic, 0);
    let mut from = join(version);
    from.send_publish(&Publish::new(&topic, "x").qos(1).id(1).dup());
    let got = to.expect_publish();
    assert_eq!((got.qos, got.dup), (0, false));
}

#[test]
fn mqtt5_3_3_1_2() {
    qos_0_has_no_dup(V5);
}

#[test]
fn mqtt311_3_3_1_2() {
    qos_0_has_no_dup(V311);
}

fn dup_is_not_passed_on(version: Version) {
    let (mut to, topic) = (join(version), fresh());
    to.subscribe(&topic, 2);
    let mut from = join(version);
    for qos in [1, 2] {
        from.send_publish(&Publish::new(&topic, "x").qos(qos).id(qos.into()).dup());
        assert!(!to.expect_publish().dup);
    }
}

#[test]
fn mqtt5_3_3_1_3() {
    dup_is_not_passed_on(V5);
}

#[test]
fn mqtt311_3_3_1_3() {
    dup_is_not_passed_on(V311);
}

fn qos_3_is_malformed(version: Version) {
    for first_byte in [0x36, 0x37, 0x3E, 0x3F] {
        let bytes = publish_bytes(version, first_byte, b"a", b"\0\x01", b"x");
        assert_eq!(closed_for(version, &bytes), told(version, 0x81));
    }
}

#[test]
fn mqtt5_3_3_1_4() {
    qos_3_is_malformed(V5);
}

#[test]
fn mqtt311_3_3_1_4() {
    qos_3_is_malformed(V311);
}

// ---- topic name ----

fn the_topic_name_comes_first(version: Version) {
    assert_eq!(closed_for(version, b"\x30\0"), told(version, 0x81));
    assert_eq!(closed_for(version, b"\x30\x01\0"), told(version, 0x81));
    assert_eq!(closed_for(version, &publish_bytes(version, 0x30, b"\xC3\x28", b"", b"x")), told(version, 0x81));
    let (mut client, topic) = (join(version), fresh());
    client.subscribe(&topic, 0);
    let bytes = packet(0x30, &[&field(&topic), no_properties(version), b"x"]);
    client.send(&bytes);
    client.expect_bytes(&bytes);
}

#[test]
fn mqtt5_3_3_2_1() {
    the_topic_name_comes_first(V5);
}

#[test]
fn mqtt311_3_3_2_1() {
    the_topic_name_comes_first(V311);
}

fn no_wildcards_in_a_topic_name(version: Version) {
    for topic in ["#", "+", "a/#", "a/+/b", "a#", "+a"] {
        let bytes = publish_bytes(version, 0x32, topic.as_bytes(), b"\0\x01", b"x");
        assert_eq!(closed_for(version, &bytes), told(version, 0x81), "{topic}");
    }
}

#[test]
fn mqtt5_3_3_2_2() {
    no_wildcards_in_a_topic_name(V5);
}

#[test]
fn mqtt311_3_3_2_2() {
    no_wildcards_in_a_topic_name(V311);
}

fn the_topic_name_matches_the_filter(version: Version) {
    let (mut client, root) = (join(version), fresh());
    client.subscribe(&format!("{root}/+/x"), 1);
    for topic in ["a/x", "a/y", "b/x", "x", "a/b/x"] {
        publish(&format!("{root}/{topic}"), topic);
    }
    client.subscribe(&format!("{root}/end"), 1);
    publish(&format!("{root}/end"), "end");
    for due in ["a/x", "b/x", "end"] {
        let got = client.take();
        assert_eq!((got.topic, got.payload), (format!("{root}/{due}"), due.as_bytes().to_vec()));
    }
}

#[test]
fn mqtt5_3_3_2_3() {
    the_topic_name_matches_the_filter(V5);
}

#[test]
fn mqtt311_3_3_2_3() {
    the_topic_name_matches_the_filter(V311);
}

// ---- properties on their way ----

/// What becomes of a message with these properties: live at each QoS, to a session that was away, and retained.
#[track_caller]
fn forwarded(props: &[Prop]) -> Vec<Vec<Prop>> {
    let topic = fresh();
    let message = props.iter().fold(Publish::new(&topic, "x"), |message, prop| message.with(prop.clone()));
    let absent = Connect::v5(&fresh()).durable();
    join_as(&absent).subscribe(&topic, 1);
    let mut live = join(V5);
    live.subscribe(&topic, 2);
    let mut got = Vec::new();
    for qos in [0, 1, 2] {
        broker().publish(message.clone().qos(qos));
        got.push(live.take().props);
    }
    broker().publish(message.qos(1).retain());
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    got.push(late.take().props);
    got.push(join_as(&absent).take().props);
    got
}

/// They all come as they went.
#[track_caller]
fn unaltered(props: &[Prop]) {
    for got in forwarded(props) {
        assert_eq!(got, props);
    }
}

#[test]
fn mqtt5_3_3_2_4() {
    unaltered(&[Prop::PayloadFormat(1)]);
    unaltered(&[Prop::PayloadFormat(0)]);
}

#[test]
fn mqtt5_3_3_2_15() {
    unaltered(&[Prop::ResponseTopic("answers/é/to me".into())]);
}

#[test]
fn mqtt5_3_3_2_16() {
    unaltered(&[Prop::CorrelationData(vec![0, 255, 1, 128])]);
    unaltered(&[Prop::CorrelationData(vec![])]);
}

#[test]
fn mqtt5_3_3_2_17() {
    unaltered(&[Prop::user("", ""), Prop::user("a name", "a value: é \u{1F600}"), Prop::user("mqtt.topic", "x")]);
}

#[test]
fn mqtt5_3_3_2_18() {
    let pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("a", "2"), ("b", "1")].map(|(n, v)| Prop::user(n, v));
    for got in forwarded(&pairs) {
        assert_eq!(user_properties(&got), pairs);
    }
}

#[test]
fn mqtt5_3_3_2_20() {
    unaltered(&[Prop::ContentType("text/plain; charset=utf-8".into())]);
}

fn a_property_that_is_no_string(id: u8) {
    for text in [&b"\xFF"[..], b"a\xED\xA0\x80", b"a\0"] {
        let property = [&[id][..], &field(text)].concat();
        let bytes = packet(0x30, &[b"\0\x01a", &[property.len() as u8], &property]);
        assert_eq!(closed_for(V5, &bytes), Some(0x81), "{text:?}");
    }
}

#[test]
fn mqtt5_3_3_2_13() {
    a_property_that_is_no_string(0x08);
}

#[test]
fn mqtt5_3_3_2_14() {
    for topic in ["#", "a/+", "a+b"] {
        let property = [&[0x08][..], &field(topic)].concat();
        let bytes = packet(0x30, &[b"\0\x01a", &[property.len() as u8], &property]);
        assert!(closed_for(V5, &bytes).is_some_and(|reason| matches!(reason, 0x81 | 0x82 | 0x90)), "{topic}");
    }
}

#[test]
fn mqtt5_3_3_2_19() {
    a_property_that_is_no_string(0x03);
}

// ---- topic alias ----

/// PUBLISH at QoS 0 with an alias, and with a topic or none.
fn aliased(topic: &str, alias: u16) -> Vec<u8> {
    packet(0x30, &[&field(topic), b"\x03\x23", &alias.to_be_bytes(), b"x"])
}

fn alias_maximum(client: &Client) -> u16 {
    let maximum = client.connack.props.iter().find_map(|prop| match prop {
        Prop::TopicAliasMaximum(maximum) => Some(*maximum),
        _ => None,
    });
    maximum.expect("aliases are offered")
}

#[test]
fn mqtt5_3_3_2_7() {
    let (connect, topic) = (Connect::v5(&fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.send(&aliased(&topic, 1));
    client.ping();
    drop(client);
    let mut client = join_as(&connect);
    client.send(&aliased("", 1));
    assert_eq!(client.expect_closed(), Some(0x82));
}

#[test]
fn mqtt5_3_3_2_8() {
    assert_eq!(closed_for(V5, &aliased("a", 0)), Some(0x94));
}

#[test]
fn mqtt5_3_3_2_9() {
    let mut client = join(V5);
    let beyond = alias_maximum(&client) + 1;
    client.send(&aliased("a", beyond));
    assert_eq!(client.expect_closed(), Some(0x94));
}

#[test]
fn mqtt5_3_3_2_12() {
    let (mut to, root) = (join(V5), fresh());
    to.subscribe(&format!("{root}/+"), 0);
    let mut from = join(V5);
    let all = 1..=alias_maximum(&from);
    for alias in all.clone() {
        from.send(&aliased(&format!("{root}/{alias}"), alias));
    }
    for alias in all.clone() {
        from.send(&aliased("", alias));
    }
    for alias in all.clone().chain(all) {
        let got = to.expect_publish();
        assert_eq!(got.topic, format!("{root}/{alias}"));
        assert!(got.props.is_empty(), "the alias is the publisher's: {:?}", got.props);
    }
    // An alias may be given to another topic.
    from.send(&aliased(&format!("{root}/new"), 1));
    from.send(&aliased("", 1));
    for _ in 0..2 {
        assert_eq!(to.expect_publish().topic, format!("{root}/new"));
    }
}

/// The aliases of what a client with these properties gets, when a topic comes again and again.
fn aliases_for(connect: Connect) -> Vec<u16> {
    let (mut client, root) = (join_as(&connect), fresh());
    client.subscribe(&format!("{root}/#"), 1);
    for n in 0..6 {
        publish(&format!("{root}/{}", n % 3), "x");
    }
    publish(&format!("{root}/end"), "end");
    let mut aliases = Vec::new();
    loop {
        let got = client.take();
        aliases.extend(got.props.iter().filter_map(|prop| match prop {
            Prop::TopicAlias(alias) => Some(*alias),
            _ => None,
        }));
        if got.text() == "end" {
            return aliases;
        }
    }
}

#[test]
fn mqtt5_3_1_2_26() {
    let aliases = aliases_for(Connect::v5(&fresh()).with(Prop::TopicAliasMaximum(2)));
    assert!(aliases.iter().all(|alias| (1..=2).contains(alias)), "{aliases:?}");
}

#[test]
fn mqtt5_3_1_2_27() {
    assert!(aliases_for(Connect::v5(&fresh())).is_empty());
    assert!(aliases_for(Connect::v5(&fresh()).with(Prop::TopicAliasMaximum(0))).is_empty());
}

#[test]
fn mqtt5_3_3_2_11() {
    let aliases = aliases_for(Connect::v5(&fresh()).with(Prop::TopicAliasMaximum(1)));
    assert!(aliases.iter().all(|alias| *alias == 1), "{aliases:?}");
}

/// Whoever follows the aliases gets every topic right: live and from a queue, at each QoS, and after coming back.
#[test]
fn mqtt5_3_3_2_11_resolved() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let connect = connect.with(Prop::TopicAliasMaximum(2)).with(Prop::ReceiveMaximum(3));
        let root = fresh();
        let mut client = join_as(&connect);
        client.subscribe(&format!("{root}/#"), 1);
        for _ in 0..2 {
            let mut known: [Option<String>; 2] = [None, None];
            let mut from = join(V5);
            for n in 0..24 {
                let topic = format!("{root}/topic {}", n % 4);
                from.send_publish(&Publish::new(&topic, &topic).qos(n as u8 % 2).id(n + 1));
            }
            let mut short = 0;
            for _ in 0..24 {
                let got = client.take();
                let alias = got.props.iter().find_map(|prop| match prop {
                    Prop::TopicAlias(alias) => Some(usize::from(*alias)),
                    _ => None,
                });
                short += u32::from(got.topic.is_empty());
                let topic = match alias {
                    Some(alias) if got.topic.is_empty() => known[alias - 1].clone().expect("set on this connection"),
                    Some(alias) => known[alias - 1].insert(got.topic.clone()).clone(),
                    None => got.topic.clone(),
                };
                assert_eq!(topic, got.text());
            }
            assert!(short > 0, "they were of use");
            drop(client);
            client = join_as(&connect);
            client.subscribe(&format!("{root}/#"), 1);
        }
    }
}

// ---- 3.3.4 ----

fn a_publish_is_answered_by_its_qos(version: Version) {
    let (mut client, topic) = (join(version), fresh());
    let bytes = |first_byte, id: &[u8]| publish_bytes(version, first_byte, topic.as_bytes(), id, b"x");
    // Nothing, PUBACK, PUBREC.
    client.send(&[bytes(0x30, b""), b"\xC0\0".to_vec()].concat());
    client.expect_bytes(b"\xD0\0");
    client.send(&bytes(0x32, b"\0\x07"));
    let ack = client.recv_bytes();
    assert!(ack[0] == 0x40 && ack[2..4] == [0, 7], "{ack:?}");
    client.send(&bytes(0x34, b"\0\x08"));
    let ack = client.recv_bytes();
    assert!(ack[0] == 0x50 && ack[2..4] == [0, 8], "{ack:?}");
}

#[test]
fn mqtt5_3_3_4_1() {
    a_publish_is_answered_by_its_qos(V5);
}

#[test]
fn mqtt311_3_3_4_1() {
    a_publish_is_answered_by_its_qos(V311);
}

fn overlapping_subscriptions_give_the_greatest_qos(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let mut client = join_as(&if durable { connect.durable() } else { connect });
        let root = fresh();
        let (plus, hash, plain) = (format!("{root}/+"), format!("{root}/#"), format!("{root}/x"));
        client.subscribe_with(&[(&plus, 1), (&hash, 2), (&plain, 0)], &[]);
        broker().publish(Publish::new(&plain, "1").qos(2));
        broker().publish(Publish::new(&plain, "end").qos(2));
        let greatest = std::iter::repeat_with(|| client.take()).take_while(|got| got.text() == "1").map(|got| got.qos);
        assert_eq!(greatest.max(), Some(2));
    }
}

#[test]
fn mqtt5_3_3_4_2() {
    overlapping_subscriptions_give_the_greatest_qos(V5);
}

#[test]
fn mqtt311_3_3_5_1() {
    overlapping_subscriptions_give_the_greatest_qos(V311);
}

fn ids(publish: &Publish) -> Vec<u32> {
    let ids = publish.props.iter().filter_map(|prop| match prop {
        Prop::SubscriptionId(id) => Some(*id),
        _ => None,
    });
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    ids
}

/// The identifiers of each copy of one message, for a client with three overlapping subscriptions of which two
/// have one.
fn ids_of_copies(connect: &Connect) -> Vec<Vec<u32>> {
    let (mut client, root) = (join_as(connect), fresh());
    client.subscribe_with(&[(&format!("{root}/+"), 1)], &[Prop::SubscriptionId(7)]);
    client.subscribe_with(&[(&format!("{root}/#"), 1)], &[Prop::SubscriptionId(268_435_455)]);
    client.subscribe_with(&[(&format!("{root}/x"), 1)], &[]);
    client.subscribe(&format!("{root}/end/end"), 1);
    publish(&format!("{root}/x"), "1");
    publish(&format!("{root}/end/end"), "end");
    std::iter::repeat_with(|| client.take()).take_while(|got| got.text() == "1").map(|got| ids(&got)).collect()
}

#[test]
fn mqtt5_3_3_4_3() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let mut all = ids_of_copies(&connect).concat();
        all.sort_unstable();
        assert_eq!(all, [7, 268_435_455]);
    }
}

#[test]
fn mqtt5_3_3_4_4() {
    // A session that ends with its connection gets a single copy.
    let copies = ids_of_copies(&Connect::v5(&fresh()));
    assert_eq!(copies, [[7, 268_435_455]]);
    // A retained message has the identifier of the subscription that made it come.
    let (mut client, topic) = (join(V5), fresh());
    broker().publish(Publish::new(&topic, "kept").qos(1).retain());
    client.subscribe_with(&[(&topic, 1)], &[Prop::SubscriptionId(9)]);
    assert_eq!(ids(&client.take()), [9]);
}

#[test]
fn mqtt5_3_3_4_5() {
    // A durable one gets a copy for each subscription that has an identifier.
    let copies = ids_of_copies(&Connect::v5(&fresh()).durable());
    assert!(copies.iter().all(|ids| !ids.is_empty()), "{copies:?}");
    // An identifier is replaced with its subscription, and goes with it.
    let (mut client, topic) = (join(V5), fresh());
    for (props, due) in
        [(vec![Prop::SubscriptionId(1)], vec![1]), (vec![Prop::SubscriptionId(2)], vec![2]), (vec![], vec![])]
    {
        client.subscribe_with(&[(&topic, 1)], &props);
        publish(&topic, "x");
        assert_eq!(ids(&client.take()), due);
    }
}

#[test]
fn mqtt5_3_3_4_6() {
    assert_eq!(closed_for(V5, b"\x30\x06\0\x01a\x02\x0B\x01"), Some(0x82));
}

#[test]
fn mqtt311_3_3_5_2() {
    // There is no way to say no: it is acknowledged, and goes nowhere.
    let mut client = join(V311);
    client.subscribe("$SYS/forbidden", 2);
    client.send_publish(&Publish::new("$SYS/forbidden", "x").qos(1).id(1));
    match client.try_recv(support::PATIENCE) {
        Ok(Packet::Ack(ack)) => assert_eq!((ack.kind, ack.id), (AckKind::PubAck, 1)),
        Err(support::mqtt::Lost::Closed) => return,
        other => panic!("PUBACK was due, came {other:?}"),
    }
    assert!(client.sent_so_far().is_empty());
}

// ---- Maximum Packet Size of the client ----

#[test]
fn mqtt5_3_1_2_24() {
    let topic = fresh();
    let mut client = join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(60)));
    client.subscribe(&topic, 2);
    for qos in [0, 1, 2] {
        for bytes in 30..60 {
            broker().publish(Publish::new(&topic, vec![b'x'; bytes]).qos(qos));
        }
        broker().publish(Publish::new(&topic, "end").qos(qos));
    }
    let mut ends = 0;
    while ends < 3 {
        let bytes = client.recv_bytes();
        assert!(bytes.len() <= 60, "{} bytes", bytes.len());
        let qos = bytes[0] >> 1 & 3;
        let id_at = 2 + 2 + topic.len();
        if bytes[0] >> 4 == 3 && qos > 0 {
            client.send(&[if qos == 1 { 0x40 } else { 0x50 }, 2, bytes[id_at], bytes[id_at + 1]]);
        } else if bytes[0] == 0x62 {
            client.send(&[0x70, 2, bytes[2], bytes[3]]);
        }
        ends += u32::from(bytes.ends_with(b"end"));
    }
    // A SUBACK that would be too large is not sent either: the client is told so instead.
    let filters: Vec<Vec<u8>> = (0..60).map(|n| [&field(format!("{topic}/{n}"))[..], b"\0"].concat()).collect();
    client.send(&packet(0x82, &[b"\x7F\0\0", &filters.concat()]));
    loop {
        let bytes = client.recv_bytes();
        assert!(bytes.len() <= 60, "{} bytes", bytes.len());
        if bytes[0] == 0xE0 {
            assert_eq!(bytes[2], 0x95);
            break;
        }
    }
    assert_eq!(client.expect_closed(), None);
}

#[test]
fn mqtt5_3_1_2_25() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let topic = fresh();
        let connect = connect.with(Prop::MaximumPacketBytes(60)).with(Prop::ReceiveMaximum(1));
        let mut small = join_as(&connect);
        small.subscribe(&topic, 1);
        let mut large = join(V5);
        large.subscribe(&topic, 1);
        // As if they had been sent and acknowledged: they take no part in the window, and others get them.
        for _ in 0..3 {
            publish(&topic, &"x".repeat(100));
        }
        publish(&topic, "end");
        assert!(small.take_until("end").is_empty());
        assert_eq!(large.take_until("end").len(), 3);
    }
}

// ---- 3.8.3.1, here because it is about what is forwarded ----

#[test]
fn mqtt5_3_8_3_3() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let (mut client, topic) = (join_as(&connect), fresh());
        client.subscribe(&topic, 1 | NO_LOCAL);
        client.publish(Publish::new(&topic, "own").qos(1));
        client.publish(Publish::new(&topic, "own").qos(0));
        publish(&topic, "another's");
        assert!(client.take_until("another's").is_empty());
    }
}

/// Where subscriptions overlap, those without No Local get the client's own messages, in their way.
#[test]
fn mqtt5_3_8_3_3_overlapping() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let (mut client, root) = (join_as(&connect), fresh());
        let topic = format!("{root}/x");
        client.subscribe_with(&[(&format!("{root}/+"), 2 | NO_LOCAL)], &[Prop::SubscriptionId(1)]);
        client.subscribe_with(&[(&topic, 1)], &[Prop::SubscriptionId(2)]);
        client.publish(Publish::new(&topic, "own").qos(2));
        let got = client.take();
        assert_eq!((got.text().as_str(), got.qos, ids(&got)), ("own", 1, vec![2]));
        broker().publish(Publish::new(&topic, "another's").qos(2));
        let got = client.take();
        assert_eq!((got.text().as_str(), got.qos), ("another's", 2));
    }
}

/// What was retained was published by someone, too.
#[test]
fn mqtt5_3_8_3_3_retained() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let (mut client, root) = (join_as(&connect), fresh());
        client.publish(Publish::new(&format!("{root}/own"), "own").qos(1).retain());
        broker().publish(Publish::new(&format!("{root}/other"), "another's").qos(1).retain());
        client.subscribe(&format!("{root}/+"), 1 | NO_LOCAL);
        publish(&format!("{root}/end"), "end");
        assert_eq!(client.take_until("end"), ["another's"]);
        client.subscribe(&format!("{root}/own"), 1);
        assert_eq!(client.take().text(), "own");
    }
}

//! What clients are told of themselves: where answers may go, where else to go, and why they did not get their way.

use super::refused;
use support::broker::Broker;
use support::mqtt::{AckKind, Client, Connect, Packet, Prop, Publish};

fn response_information(props: &[Prop]) -> Option<&str> {
    props.iter().find_map(|prop| match prop {
        Prop::ResponseInfo(text) => Some(text.as_str()),
        _ => None,
    })
}

#[test]
fn response_information_is_for_who_asks() {
    let broker = Broker::with_config("[mqtt]\nresponse_information = \"answers/{client_id}/{user}\"\n");
    let asks = |id: &str| Connect::v5(id).with(Prop::RequestResponseInfo(1));
    let props = broker.connect(asks("c").user("u")).connack.props.clone();
    assert_eq!(response_information(&props), Some("answers/c/u"));
    for silent in [Connect::v5("c").with(Prop::RequestResponseInfo(0)), Connect::v5("c")] {
        assert_eq!(response_information(&broker.connect(silent).connack.props), None);
    }
    // Where there is no room for it, it is left out.
    let long = "c".repeat(100);
    assert!(response_information(&broker.connect(asks(&long)).connack.props).is_some());
    let small = asks(&long).with(Prop::MaximumPacketBytes(60));
    assert_eq!(response_information(&broker.connect(small).connack.props), None);
    assert_eq!(response_information(&Broker::start().connect(asks("c")).connack.props), None, "nothing by default");
    let words = Broker::prepared().config("[mqtt]\nresponse_information = \"{topic}\"\n").fails_to_start();
    assert!(words.contains("there are {client_id} and {user}"), "{words}");
}

#[test]
fn a_full_server_names_another_one() {
    for (config, code, props) in [
        ("", 0x97, vec![Prop::ReasonString("mqtt.max_connections are there already".into())]),
        (
            "server_reference = \"b.example:1883\"\n",
            0x9C,
            vec![
                Prop::ReasonString("mqtt.max_connections are there already".into()),
                Prop::ServerReference("b.example:1883".into()),
            ],
        ),
    ] {
        let broker = Broker::with_config(&format!("[mqtt]\nmax_connections = 1\n{config}"));
        let mut first = broker.connect(Connect::v5("first"));
        let told = refused(&broker, Connect::v5("second"));
        assert_eq!((told.code, &told.props), (code, &props));
        // No text makes it larger than the client takes.
        let told = refused(&broker, Connect::v5("second").with(Prop::MaximumPacketBytes(30)));
        assert_eq!(told.code, code);
        assert!(!told.props.iter().any(|prop| matches!(prop, Prop::ReasonString(_))), "{told:?}");
        let told = refused(&broker, Connect::v5("second").with(Prop::MaximumPacketBytes(5)));
        assert_eq!((told.code, told.props.len()), (code, 0));
        assert_eq!(refused(&broker, Connect::v311("second")).code, 3);
        first.ping();
        super::reached(&broker, "max_connections", 4);
    }
}

#[test]
fn a_server_that_ends_names_another_one() {
    let mut broker = Broker::with_config("");
    let mut client = broker.connect(Connect::v5("a"));
    let mut old = broker.connect(Connect::v311("old"));
    // It is known only now that it will.
    broker.write_config("[mqtt]\nserver_reference = \"b.example\"\n");
    broker.reload();
    assert!(broker.sigterm_and_wait().0.success());
    let Packet::Disconnect { reason, props } = client.recv() else { panic!("DISCONNECT was due") };
    assert_eq!(reason, 0x9C);
    assert!(props.contains(&Prop::ServerReference("b.example".into())), "{props:?}");
    assert_eq!((client.expect_closed(), old.expect_closed()), (None, None));
}

/// The packets that refuse: of a message at QoS 1 and 2, of a subscription, and of an identifier that nobody knows.
fn refusals(client: &mut Client) -> [Vec<u8>; 4] {
    let long = "a/".repeat(10);
    client.send_publish(&Publish::new(&long, "x").qos(1).id(1));
    let puback = client.recv_bytes();
    client.send_publish(&Publish::new(&long, "x").qos(2).id(2));
    let pubrec = client.recv_bytes();
    client.send(&[b"\x82\x1A\0\x03\0\0\x14", long.as_bytes(), b"\0"].concat()[..]);
    let suback = client.recv_bytes();
    client.send_ack(AckKind::PubRel, 9);
    [puback, pubrec, suback, client.recv_bytes()]
}

#[test]
fn a_refusal_says_why_to_who_wants_to_know() {
    let broker = Broker::with_config("[mqtt]\nmax_topic_levels = 2\n");
    let bare: [&[u8]; 4] =
        [b"\x40\x03\0\x01\x90", b"\x50\x03\0\x02\x90", b"\x90\x04\0\x03\0\x8F", b"\x70\x03\0\x09\x92"];
    let silent = [
        Connect::v5("a").with(Prop::RequestProblemInfo(0)),
        // There is no room for it.
        Connect::v5("a").with(Prop::MaximumPacketBytes(40)),
    ];
    for connect in silent {
        assert_eq!(refusals(&mut broker.connect(connect)), bare);
    }
    let told = refusals(&mut broker.connect(Connect::v5("a").with(Prop::RequestProblemInfo(1))));
    for (packet, text) in told.iter().zip(["topic name", "topic name", "topic filter", "packet identifier"]) {
        let length = packet.len();
        assert!(String::from_utf8_lossy(packet).contains(text), "{packet:02x?} of {length} bytes");
    }
    // And DISCONNECT, which may say it to anyone.
    let mut client = broker.connect(Connect::v5("a").with(Prop::RequestProblemInfo(0)));
    client.send_publish(&Publish::new("t", "x").with(Prop::TopicAlias(99)));
    let Packet::Disconnect { reason: 0x94, props } = client.recv() else { panic!("DISCONNECT 0x94 was due") };
    assert!(matches!(&props[..], [Prop::ReasonString(text)] if text.contains("topic alias 99")), "{props:?}");
}

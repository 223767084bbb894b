//! What a server may leave out, as chapter 3.2.2.3 has it. The broker that all tests share leaves nothing out; this one
//! has QoS 0 alone, and no retained messages.

use support::broker::Broker;
use support::mqtt::{Client, Connect, Prop, Publish};

const LITTLE: &str = "[mqtt]\nmax_qos = 0\nretain_available = false\n";

/// One for each test.
fn little() -> Broker {
    Broker::with_config(LITTLE)
}

/// The code with which this CONNECT is refused.
#[track_caller]
fn refused(broker: &Broker, connect: &Connect) -> u8 {
    let mut client = Client::connect(broker.mqtt(), connect);
    let code = client.connack.code;
    assert!(code >= 0x80 && !client.connack.session_present, "{:?}", client.connack);
    assert_eq!(client.expect_closed(), None);
    code
}

#[test]
fn mqtt5_3_2_2_9_below_2() {
    let little = little();
    let client = little.connect(Connect::v5("a"));
    assert!(client.connack.props.contains(&Prop::MaximumQos(0)), "{:?}", client.connack);
    assert!(client.connack.props.contains(&Prop::RetainAvailable(0)), "{:?}", client.connack);
}

#[test]
fn mqtt5_3_2_2_10_below_2() {
    let little = little();
    let mut client = little.connect(Connect::v5("a"));
    assert_eq!(client.subscribe_with(&[("a", 0), ("b", 1), ("c", 2)], &[]), [0, 0, 0]);
    client.send_publish(&Publish::new("c", "x"));
    assert_eq!(client.take().text(), "x");
}

#[test]
fn mqtt5_3_2_2_12() {
    let little = little();
    for qos in [1, 2] {
        assert_eq!(refused(&little, &Connect::v5("a").will(Publish::new("w", "x").qos(qos))), 0x9B);
    }
    little.connect(Connect::v5("a").will(Publish::new("w", "x")));
}

#[test]
fn mqtt5_3_2_2_13() {
    let little = little();
    assert_eq!(refused(&little, &Connect::v5("a").will(Publish::new("w", "x").retain())), 0x9A);
}

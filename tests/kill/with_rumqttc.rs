//! rumqttc, both of its halves, as publishers, and as a subscriber at QoS 1.
//!
//! What rumqttc 0.25 cannot do is left to other clients or made up for here. As a subscriber at QoS 2 it forgets, when
//! the connection is lost, which messages it has, and calls their PUBREL a breach of the protocol. Packet ids start
//! again at the number of messages that may be under way, and what is sent again is sent by id: so that order
//! holds, none is used twice. And what waits to be sent again, when the connection is lost a second time, comes before
//! what was sent again already ([`in_order`]).

use rumqttc::v5;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::load::{END, FILTER, Got, Load, Run, Sent};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

/// Messages under way at once.
const WINDOW: usize = 16;
/// Of a packet; in 3.1.1 rumqttc takes 10 KiB if it is not told otherwise.
const MAX_BYTES: usize = 1 << 20;
/// Requests that rumqttc holds until they are sent; more than the window.
const REQUESTS: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
const ABSENCE_LIMIT: Duration = Duration::from_secs(60);
/// Silence after the last message that means nothing more will come.
const QUIET: Duration = Duration::from_millis(500);

/// What the broker said.
#[derive(Debug)]
enum Heard {
    Connected {
        session_present: bool,
    },
    Subscribed,
    Acknowledged(u16),
    Message(String, String),
    /// Or why the connection ended.
    Lost(String),
}

enum Client {
    V311(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// All of them.
pub fn join(load: &mut Load, mqtt: SocketAddr) {
    for (version, qos) in [("3.1.1", 1), ("5.0", 1), ("3.1.1", 2), ("5.0", 2)] {
        let sent = Sent::new(&format!("rumqttc-{version}-{qos}"), qos);
        load.publish(move |run| on_this_thread(publish(version, mqtt, sent, run)));
    }
    let name = "rumqttc-subscriber";
    // Its session is there before it takes part: it is in one runtime until then, and in another afterwards.
    on_this_thread(async {
        let (client, mut heard) = connect("3.1.1", name, mqtt);
        client.subscribe().await;
        while !matches!(next(&mut heard).await, Heard::Subscribed) {}
    });
    load.subscribe(move |run| on_this_thread(receive(name, mqtt, run)));
}

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Connects again and again for as long as the client is there.
fn connect(version: &str, name: &str, mqtt: SocketAddr) -> (Client, UnboundedReceiver<Heard>) {
    let (tell, heard) = unbounded_channel();
    let (host, port) = (mqtt.ip().to_string(), mqtt.port());
    let client = if version == "5.0" {
        let mut options = v5::MqttOptions::new(name, host, port);
        options.set_clean_start(false).set_session_expiry_interval(Some(u32::MAX));
        let (client, events) = v5::AsyncClient::new(options, REQUESTS);
        tokio::spawn(drive_5(events, tell));
        Client::V5(client)
    } else {
        let mut options = rumqttc::MqttOptions::new(name, host, port);
        options.set_clean_session(false).set_inflight(u16::MAX).set_max_packet_size(MAX_BYTES, MAX_BYTES);
        let (client, events) = rumqttc::AsyncClient::new(options, REQUESTS);
        tokio::spawn(drive_311(events, tell));
        Client::V311(client)
    };
    (client, heard)
}

impl Client {
    async fn publish(&self, topic: String, qos: u8, payload: String) {
        match self {
            Client::V311(client) => {
                let qos = if qos == 1 { rumqttc::QoS::AtLeastOnce } else { rumqttc::QoS::ExactlyOnce };
                client.publish(topic, qos, false, payload).await.expect("it is driven");
            }
            Client::V5(client) => {
                let at = v5::mqttbytes::QoS::AtLeastOnce;
                let qos = if qos == 1 { at } else { v5::mqttbytes::QoS::ExactlyOnce };
                client.publish(topic, qos, false, payload).await.expect("it is driven");
            }
        }
    }

    async fn subscribe(&self) {
        match self {
            Client::V311(client) => client.subscribe(FILTER, rumqttc::QoS::AtLeastOnce).await.expect("it is driven"),
            Client::V5(client) => {
                client.subscribe(FILTER, v5::mqttbytes::QoS::AtLeastOnce).await.expect("it is driven");
            }
        }
    }
}

async fn next(heard: &mut UnboundedReceiver<Heard>) -> Heard {
    let next = timeout(ABSENCE_LIMIT, heard.recv()).await;
    next.expect("the broker answers").expect("it is driven")
}

async fn publish(version: &str, mqtt: SocketAddr, mut sent: Sent, run: &Run) -> Sent {
    let (client, mut heard) = connect(version, &sent.name, mqtt);
    while !matches!(next(&mut heard).await, Heard::Connected { .. }) {}
    let mut acknowledged = HashSet::new();
    let (mut drained_by, mut lost) = (None, String::new());
    while !run.is_aborted() {
        while let Ok(heard) = heard.try_recv() {
            match heard {
                Heard::Acknowledged(id) => _ = acknowledged.insert(id),
                Heard::Connected { session_present } => assert!(session_present, "the session is lost"),
                Heard::Lost(why) => lost = why,
                other => panic!("a publisher got {other:?}"),
            }
        }
        let under_way = sent.count as usize - acknowledged.len();
        if run.is_draining() {
            if under_way == 0 {
                break;
            }
            let deadline = *drained_by.get_or_insert_with(|| Instant::now() + ABSENCE_LIMIT);
            assert!(Instant::now() < deadline, "{under_way} of {} are not acknowledged: {lost}", sent.name);
        } else if under_way < WINDOW {
            client.publish(sent.topic(sent.count), sent.qos, sent.payload(sent.count)).await;
            sent.count += 1;
            assert!(sent.count < u64::from(u16::MAX), "no id is used twice");
        }
        sleep(PAUSE).await;
    }
    sent
}

async fn receive(name: &str, mqtt: SocketAddr, run: &Run) -> Got {
    let (_client, mut heard) = connect("3.1.1", name, mqtt);
    let mut got = Got { name: name.to_owned(), qos: 1, is_part: false, messages: Vec::new() };
    let mut ended = false;
    while !run.is_aborted() {
        match timeout(QUIET, heard.recv()).await {
            Ok(Some(Heard::Message(topic, payload))) => {
                ended |= topic == END;
                got.messages.push((topic, payload));
            }
            Ok(Some(Heard::Connected { session_present })) => assert!(session_present, "the session is lost"),
            Ok(Some(Heard::Lost(_))) => {}
            Ok(other) => panic!("a subscriber got {other:?}"),
            Err(_) if ended => break,
            Err(_) => {}
        }
    }
    got
}

/// What waits to be sent again, as it was sent: by id, for no id is used twice; then releases, then what is new.
fn in_order<R>(pending: &mut VecDeque<R>, publish_id: impl Fn(&R) -> Option<u16>) {
    let place = |request: &R| match publish_id(request) {
        Some(0) => (2, 0),
        Some(id) => (0, id),
        None => (1, 0),
    };
    pending.make_contiguous().sort_by_key(place);
}

/// Until nobody listens any more.
async fn drive_311(mut events: rumqttc::EventLoop, tell: UnboundedSender<Heard>) {
    use rumqttc::{Event, Packet, Request};
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                Heard::Connected { session_present: connack.session_present }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Heard::Subscribed,
            Ok(Event::Incoming(Packet::PubAck(ack))) => Heard::Acknowledged(ack.pkid),
            Ok(Event::Incoming(Packet::PubComp(ack))) => Heard::Acknowledged(ack.pkid),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                Heard::Message(publish.topic, String::from_utf8_lossy(&publish.payload).into_owned())
            }
            Ok(_) => continue,
            Err(error) => {
                in_order(&mut events.pending, |request| match request {
                    Request::Publish(publish) => Some(publish.pkid),
                    _ => None,
                });
                sleep(Duration::from_millis(20)).await;
                Heard::Lost(error.to_string())
            }
        };
        if tell.send(heard).is_err() {
            return;
        }
    }
}

/// The same in 5.0.
async fn drive_5(mut events: v5::EventLoop, tell: UnboundedSender<Heard>) {
    use v5::{Event, Request, mqttbytes::v5::Packet};
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                Heard::Connected { session_present: connack.session_present }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Heard::Subscribed,
            Ok(Event::Incoming(Packet::PubAck(ack))) => Heard::Acknowledged(ack.pkid),
            Ok(Event::Incoming(Packet::PubComp(ack))) => Heard::Acknowledged(ack.pkid),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                Heard::Message(text(&publish.topic), text(&publish.payload))
            }
            Ok(_) => continue,
            Err(error) => {
                in_order(&mut events.pending, |request| match request {
                    Request::Publish(publish) => Some(publish.pkid),
                    _ => None,
                });
                sleep(Duration::from_millis(20)).await;
                Heard::Lost(error.to_string())
            }
        };
        if tell.send(heard).is_err() {
            return;
        }
    }
}

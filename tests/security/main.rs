//! Who comes in, by which way, as whom and with which rights: the built binary against clients that
//! speak TLS and WebSocket, that lie about who they are, and that are not clients at all.

mod acl;
mod garbage;
mod kafka;
mod reload;
mod tls;
mod users;
mod websocket;

use support::broker::Broker;
use support::certs::Certs;
use support::mqtt::{Client, Connect, Publish, Version};

/// Certificates in a broker's folder, under this name.
#[track_caller]
fn certs(broker: &Broker, name: &str) -> Certs {
    Certs::make(&broker.folder().join(name))
}

/// A client that was let in.
#[track_caller]
fn accepted(client: Client) -> Client {
    assert_eq!(client.connack.code, 0, "refused: {:?}", client.connack);
    client
}

/// The client subscribes to a topic, publishes to it at QoS 1 and gets its message.
#[track_caller]
fn talks_to_itself(client: &mut Client, topic: &str) {
    assert_eq!(client.subscribe(topic, 1), 1);
    assert_eq!(client.publish(Publish::new(topic, "x").qos(1)), 0);
    assert_eq!(client.take().text(), "x");
}

/// The code of the CONNACK, success or not.
#[track_caller]
fn code(broker: &Broker, connect: Connect) -> u8 {
    Client::connect(broker.mqtt(), &connect).connack.code
}

/// CONNECT of a user.
fn of(version: Version, client_id: &str, user: &str, password: &str) -> Connect {
    Connect::new(version, client_id).user(user).password(password)
}

/// A payload in which every part differs from its neighbours.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8 ^ (n / 251) as u8).collect()
}

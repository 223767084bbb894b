//! Listeners of one broker, each with its own address, protocol and limits: the built binary.

mod limits;
mod proxy;
mod settings;
mod unix;

use support::broker::Broker;
use support::mqtt::{Client, Publish};
use support::prometheus::Scrape;

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

/// Waits until so many connections were refused for this reason.
#[track_caller]
fn refused(broker: &Broker, reason: &str, count: f64) {
    support::eventually(&format!("{count} refused for {reason}"), || {
        let scrape = Scrape::of(broker.admin());
        let found = scrape.value("millstream_mqtt_refused_connections_total", &[("reason", reason)]);
        (found == Some(count)).then_some(())
    });
}

//! Who may publish and read what, by the lines of the ACL file.

use crate::{accepted, code, of};
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Client, Connect, Publish, VERSIONS, Version};
use support::passwords;

/// Rights of every kind. `root` sees and says all.
const ACL: &str = "\
# anonymous clients
topic read public/#
topic anonymous/box

user alice
topic read news/#
topic deny news/secret/#
topic write inbox/+
topic readwrite both/#
topic $SYS/spoof

user root
topic #
kafka read mqtt

# everyone
pattern devices/%c/state
pattern write homes/%u/in
pattern read homes/%u/out
pattern deny both/%c/locked
";

/// A broker with alice, bob (who has no section), root, and anonymous clients; each user's password is its name.
#[track_caller]
fn start() -> Broker {
    let toml = "password_file = \"passwd\"\nacl_file = \"acl\"\n[mqtt]\nallow_anonymous = true";
    let mut broker = Broker::prepared().config(toml);
    let users = ["alice", "bob", "root"].map(|name| (name, name));
    passwords::write(&broker.folder().join("passwd"), &users);
    broker.write("acl", ACL);
    broker.restart();
    broker
}

/// CONNECT of a user, or of nobody.
fn connect_as(user: Option<&str>, version: Version, client_id: &str) -> Connect {
    match user {
        Some(user) => of(version, client_id, user, user),
        None => Connect::new(version, client_id),
    }
}

#[track_caller]
fn client(broker: &Broker, user: &str, version: Version, client_id: &str) -> Client {
    accepted(Client::connect(broker.mqtt(), &of(version, client_id, user, user)))
}

/// Root says these, in order.
#[track_caller]
fn root_says(broker: &Broker, topics: &[&str], retain: bool) {
    let mut root = client(broker, "root", Version::V5, "root-says");
    for topic in topics {
        let mut message = Publish::new(topic, topic).qos(1);
        message.retain = retain;
        assert!(root.publish(message) < 0x80);
    }
    root.disconnect();
}

/// The texts of what has come by the time of a ping.
#[track_caller]
fn texts(client: &mut Client) -> Vec<String> {
    client.sent_so_far().iter().map(Publish::text).collect()
}

#[test]
fn each_line_gives_what_it_says() {
    let broker = start();
    let (alice, bob, root, nobody) = (Some("alice"), Some("bob"), Some("root"), None);
    for (who, topic, may_read, may_write) in [
        (nobody, "public/a", true, false),
        (nobody, "anonymous/box", true, true),
        (nobody, "news/a", false, false),
        (nobody, "homes/a/in", false, false),
        (alice, "public/a", false, false),
        (alice, "anonymous/box", false, false),
        (alice, "news/a", true, false),
        (alice, "news/secret/a", false, false),
        (alice, "inbox/a", false, true),
        (alice, "inbox/a/b", false, false),
        (alice, "both/a", true, true),
        (alice, "both/me/locked", false, false),
        (alice, "both/you/locked", true, true),
        (alice, "homes/alice/in", false, true),
        (alice, "homes/alice/out", true, false),
        (alice, "homes/bob/out", false, false),
        (bob, "homes/bob/out", true, false),
        (bob, "both/a", false, false),
        (root, "any/thing", true, true),
        (root, "both/me/locked", false, false),
        (nobody, "devices/me/state", true, true),
        (alice, "devices/me/state", true, true),
        (bob, "devices/you/state", false, false),
    ] {
        for version in VERSIONS {
            let mut client = accepted(Client::connect(broker.mqtt(), &connect_as(who, version, "me")));
            let refusal = if version == Version::V5 { 0x87 } else { 0x80 };
            let subscribed = client.subscribe(topic, 1);
            assert_eq!(subscribed, if may_read { 1 } else { refusal }, "{who:?} reads {topic}");
            let published = client.publish(Publish::new(topic, "x").qos(1));
            let refused = version == Version::V5 && !may_write;
            assert_eq!(published == 0x87, refused, "{who:?} writes {topic}: {published:#04x}");
            let came = client.sent_so_far().len();
            assert_eq!(came, usize::from(may_read && may_write), "{who:?} and {topic}");
        }
    }
}

#[test]
fn a_client_id_cannot_widen_a_pattern() {
    let broker = start();
    for id in ["+", "#", "a/b", "me/state/../you"] {
        let mut client = client(&broker, "bob", Version::V5, id);
        for topic in ["devices/you/state", "devices/a/b/state", "devices/+/state", "devices/#"] {
            assert_eq!(client.subscribe(topic, 1), 0x87, "{id} reads {topic}");
        }
        assert_eq!(client.publish(Publish::new("devices/you/state", "x").qos(1)), 0x87, "{id}");
        assert_eq!(client.publish(Publish::new("devices/a/b/state", "x").qos(1)), 0x87, "{id}");
    }
}

#[test]
fn what_may_not_be_published_is_dropped_and_the_connection_stays() {
    let broker = start();
    let mut watcher = client(&broker, "root", Version::V5, "watcher");
    watcher.subscribe("#", 2);
    root_says(&broker, &["news/kept"], true);
    assert_eq!(watcher.take().text(), "news/kept");
    for version in VERSIONS {
        let refusal = if version == Version::V5 { 0x87 } else { 0 };
        let mut alice = client(&broker, "alice", version, "a");
        alice.send_publish(&Publish::new("forbidden", "0"));
        assert_eq!(alice.publish(Publish::new("forbidden", "1").qos(1)), refusal);
        assert_eq!(alice.publish(Publish::new("forbidden", "2").qos(2)), refusal);
        // Nor does it change what is retained.
        assert_eq!(alice.publish(Publish::new("news/kept", "forged").qos(1).retain()), refusal);
        assert_eq!(alice.publish(Publish::new("news/kept", "").qos(1).retain()), refusal);
        // Refused and allowed ones at once: answered in order, one for one.
        for id in 101..=120 {
            let topic = if id % 3 == 0 { "inbox/a" } else { "forbidden" };
            alice.send_publish(&Publish::new(topic, id.to_string()).qos(1).id(id));
        }
        for id in 101..=120 {
            let expected = if id % 3 == 0 { 0 } else { refusal };
            assert_eq!(alice.expect_ack(AckKind::PubAck, id), expected, "{id}");
        }
        for id in (101..=120).filter(|id| id % 3 == 0) {
            assert_eq!(watcher.take().text(), id.to_string());
        }
        assert_eq!(alice.publish(Publish::new("inbox/a", "allowed").qos(2)), 0);
        assert_eq!(watcher.take().text(), "allowed");
    }
    assert_eq!(texts(&mut watcher), [""; 0]);
    let mut late = client(&broker, "root", Version::V5, "late");
    late.subscribe("news/#", 1);
    assert_eq!(late.take().text(), "news/kept");
    // The log has none of it.
    let logged = Kafka::at(broker.kafka()).as_user("root", "root").texts("mqtt", 17);
    assert_eq!(logged.len(), 17, "{logged:?}");
    assert!(logged.iter().all(|text| !["0", "1", "2", "forged", ""].contains(&text.as_str())), "{logged:?}");
}

/// Of these, alice may read the first and the last.
const SAID: [&str; 4] = ["news/first", "other", "news/secret/x", "both/last"];

#[test]
fn a_wide_subscription_gets_only_what_may_be_read() {
    let broker = start();
    root_says(&broker, &SAID, true);
    for version in VERSIONS {
        // Retained.
        let mut alice = client(&broker, "alice", version, "a");
        assert_eq!(alice.subscribe("#", 1), 1);
        let mut kept = [alice.take(), alice.take()].map(|got| got.text());
        kept.sort();
        assert_eq!(kept, ["both/last", "news/first"]);
        assert_eq!(texts(&mut alice), [""; 0]);
        // Live.
        root_says(&broker, &SAID, false);
        assert_eq!(alice.take_until("both/last"), ["news/first"]);
        alice.disconnect();
        // Queued for an absent session.
        let connect = of(version, "absent", "alice", "alice").durable();
        let mut alice = accepted(Client::connect(broker.mqtt(), &connect));
        assert_eq!(alice.subscribe("+/#", 1), 1);
        (0..2).for_each(|_| assert!(alice.take().retain));
        alice.disconnect();
        root_says(&broker, &SAID, false);
        let mut alice = accepted(Client::connect(broker.mqtt(), &connect));
        assert_eq!(alice.take_until("both/last"), ["news/first"]);
        assert_eq!(texts(&mut alice), [""; 0]);
        alice.unsubscribe("+/#");
        // Shared.
        assert_eq!(alice.subscribe("$share/group/#", 1), 1);
        root_says(&broker, &SAID, false);
        assert_eq!(alice.take_until("both/last"), ["news/first"]);
        assert_eq!(texts(&mut alice), [""; 0]);
        alice.unsubscribe("$share/group/#");
        alice.disconnect();
    }
}

#[test]
fn a_queue_is_judged_again_when_it_is_taken() {
    let mut broker = start();
    let connect = of(Version::V5, "absent", "alice", "alice").durable();
    // After a restart what waits may have been sent before; that makes no right.
    for restarts in [false, true] {
        broker.write("acl", ACL);
        assert!(broker.reload().contains("INFO  reloaded"));
        let mut alice = accepted(Client::connect(broker.mqtt(), &connect));
        alice.subscribe("#", 1);
        alice.disconnect();
        root_says(&broker, &SAID, false);
        // The rights that made the queue are gone when she is back.
        broker.write("acl", &ACL.replace("topic read news/#", "topic read olds/#"));
        match restarts {
            true => broker.kill9_and_restart(),
            false => assert!(broker.reload().contains("INFO  reloaded")),
        }
        let mut alice = accepted(Client::connect(broker.mqtt(), &connect));
        assert!(alice.connack.session_present);
        assert_eq!(alice.take_until("both/last"), [""; 0]);
        alice.disconnect();
    }
}

#[test]
fn a_subscription_that_can_match_nothing_is_refused() {
    let broker = start();
    for (version, refusal) in [(Version::V311, 0x80), (Version::V5, 0x87)] {
        let mut alice = client(&broker, "alice", version, "a");
        for filter in ["other", "other/#", "inbox/#", "news/secret/#", "homes/+/in", "$share/g/other/+"] {
            assert_eq!(alice.subscribe(filter, 1), refusal, "{filter}");
        }
        // Each for itself.
        let codes = alice.subscribe_with(&[("news/+", 1), ("other", 1), ("+/+", 2), ("both/#", 0)], &[]);
        assert_eq!(codes, [1, refusal, 2, 0]);
        assert_eq!(alice.publish(Publish::new("both/a", "x").qos(1)), 0);
        alice.ping();
    }
}

#[test]
fn a_will_to_a_forbidden_topic_is_refused_with_its_connection() {
    let broker = start();
    let mut watcher = client(&broker, "root", Version::V5, "watcher");
    watcher.subscribe("#", 1);
    for (version, refusal) in [(Version::V311, 5), (Version::V5, 0x87)] {
        let connect = |topic| of(version, "a", "alice", "alice").will(Publish::new(topic, topic).qos(1));
        assert_eq!(code(&broker, connect("forbidden")), refusal);
        assert_eq!(code(&broker, connect("news/read-only")), refusal);
        // An allowed one is sent; the client goes without a word.
        drop(accepted(Client::connect(broker.mqtt(), &connect("inbox/will"))));
        assert_eq!(watcher.take().text(), "inbox/will");
    }
    assert_eq!(texts(&mut watcher), [""; 0]);
}

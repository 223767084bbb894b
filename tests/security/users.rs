//! Passwords, anonymous clients, and whose a session is.

use crate::{accepted, code, of};
use std::net::TcpListener;
use support::broker::{Broker, Way};
use support::mqtt::{Client, Connect, Lost, Publish, VERSIONS, Version};
use support::passwords;
use support::ports::lease;
use support::stream::{Duplex, tcp};
use support::tls::Tls;

const USERS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];

/// A broker that knows alice and bob.
#[track_caller]
fn start(toml: &str) -> Broker {
    let mut broker = Broker::prepared().config(&format!("password_file = \"passwd\"\n{toml}"));
    passwords::write(&broker.folder().join("passwd"), &USERS);
    broker.restart();
    broker
}

#[test]
fn only_the_right_password_comes_in() {
    let broker = start("");
    for version in VERSIONS {
        let (wrong, none) = if version == Version::V5 { (&[0x86][..], &[0x87][..]) } else { (&[4, 5][..], &[5][..]) };
        let ask = |user, password| code(&broker, of(version, "a", user, password));
        assert_eq!(ask("alice", "wonderland"), 0);
        assert_eq!(ask("bob", "builder"), 0);
        for (user, password) in [
            ("alice", "builder"),
            ("alice", ""),
            ("alice", "wonderland "),
            ("alice", "wonderlan"),
            ("Alice", "wonderland"),
            ("alice\u{e9}", "wonderland"),
            ("mallory", "wonderland"),
            ("", "wonderland"),
        ] {
            let code = ask(user, password);
            assert!(wrong.contains(&code), "{user}, {password}: {code:#04x}");
        }
        let without = code(&broker, Connect::new(version, "a").user("alice"));
        assert!(wrong.contains(&without), "no password: {without:#04x}");
        let nobody = code(&broker, Connect::new(version, "a"));
        assert!(none.contains(&nobody), "nobody: {nobody:#04x}");
    }
    // A password without a name: 5.0 has such a thing, 3.1.1 forbids it.
    let nameless = code(&broker, Connect::v5("a").password("wonderland"));
    assert!(matches!(nameless, 0x86 | 0x87), "{nameless:#04x}");
    let nameless = Client::try_connect(broker.mqtt(), &Connect::v311("a").password("wonderland"));
    assert_eq!(nameless.map(|_| ()), Err(Lost::Closed));
}

#[test]
fn the_log_says_who_was_refused_and_never_the_password() {
    let broker = start("");
    for (connect, named) in [
        (of(Version::V5, "a", "alice", "Sesame?"), "\"alice\""),
        (of(Version::V5, "a", "mallory", "Sesame?"), "\"mallory\""),
        (Connect::v5("a"), "anonymous"),
    ] {
        let stream = tcp(broker.mqtt());
        let peer = stream.peer();
        assert!(Client::over(stream, &connect).connack.code >= 0x80);
        broker.log_line(&[&peer, "refused", named]);
    }
    // A name cannot write lines of its own.
    let stream = tcp(broker.mqtt());
    let peer = stream.peer();
    let _ = Client::try_over(stream, &of(Version::V5, "a", "x\nforged\u{1b}[31m", "Sesame?"));
    broker.log_line(&[&peer]);
    let words = broker.stderr();
    assert!(!words.lines().any(|line| line.starts_with("forged")) && !words.contains('\u{1b}'), "{words}");
    assert!(!words.contains("Sesame"));
}

#[test]
fn without_a_password_file_this_machine_is_served() {
    let broker = Broker::start();
    for version in VERSIONS {
        // Nobody can say whether a name is true, so it does not count.
        for connect in [Connect::new(version, "a"), of(version, "a", "alice", "x")] {
            let mut client = broker.connect(connect);
            assert!(client.publish(Publish::new("t", "x").qos(1)) < 0x80);
        }
    }
}

#[test]
fn mosquittos_hashes_are_accepted() {
    let mut broker = Broker::prepared().config("password_file = \"passwd\"");
    // PBKDF2-HMAC-SHA512 of "builder", 101 rounds, as mosquitto_passwd writes it.
    broker.write(
        "passwd",
        "bob:$7$101$bWlsbHN0cmVhbTEy$joxf+2IfHLFHyn6TGA6lBCBLz9DGu7srR36LKjKonlVVfCwlvITkzJpJPeRrYlf1\
         +OG4olSxXRINEQMeOrUoNA==\n",
    );
    broker.restart();
    assert_eq!(code(&broker, of(Version::V5, "a", "bob", "builder")), 0);
    assert_eq!(code(&broker, of(Version::V5, "a", "bob", "wonderland")), 0x86);
}

#[test]
fn a_session_is_its_users_alone() {
    let mut broker = start("");
    for version in VERSIONS {
        let alice = of(version, "shared-id", "alice", "wonderland").durable();
        let mut hers = accepted(Client::connect(broker.mqtt(), &alice));
        hers.subscribe("t", 1);
        let not_his = |broker: &Broker| {
            for clean in [true, false] {
                let bob = of(version, "shared-id", "bob", "builder").clean(clean);
                let code = code(broker, bob);
                let expected: &[u8] = if version == Version::V5 { &[0x85, 0x87] } else { &[2, 5] };
                assert!(expected.contains(&code), "{code:#04x}");
            }
        };
        let publish = |broker: &Broker, text: &str| {
            let mut bob = accepted(Client::connect(broker.mqtt(), &of(version, "other-id", "bob", "builder")));
            assert_eq!(bob.publish(Publish::new("t", text).qos(1)), 0);
        };
        // While she is there.
        not_his(&broker);
        hers.ping();
        // While she is away, and after a restart.
        hers.disconnect();
        publish(&broker, "1");
        not_his(&broker);
        publish(&broker, "2");
        broker.kill9_and_restart();
        not_his(&broker);
        publish(&broker, "3");
        let mut hers = accepted(Client::connect(broker.mqtt(), &alice));
        assert!(hers.connack.session_present);
        assert_eq!([hers.take(), hers.take(), hers.take()].map(|got| got.text()), ["1", "2", "3"]);
        hers.disconnect();
        // Once it is gone, the id is free.
        accepted(Client::connect(broker.mqtt(), &of(version, "shared-id", "alice", "wonderland"))).disconnect();
        let bob = accepted(Client::connect(broker.mqtt(), &of(version, "shared-id", "bob", "builder")));
        assert!(!bob.connack.session_present);
        bob.disconnect();
    }
}

#[test]
fn anonymous_clients_come_in_where_the_configuration_says_so() {
    // "auto" with a password file: only_the_right_password_comes_in.
    let broker = start("[mqtt]\nallow_anonymous = true");
    assert_eq!(code(&broker, Connect::v5("a")), 0);
    assert_eq!(code(&broker, Connect::v311("a")), 0);
    // A wrong password makes nobody anonymous.
    assert_eq!(code(&broker, of(Version::V5, "a", "alice", "builder")), 0x86);
    assert_eq!(code(&broker, of(Version::V5, "a", "mallory", "builder")), 0x86);

    let broker = Broker::prepared().config("[mqtt]\nallow_anonymous = false").listen(&[Way::MqttTls]);
    let certs = crate::certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    assert_eq!(code(&broker, Connect::v5("a")), 0x87);
    assert_eq!(code(&broker, Connect::v311("a")), 5);
    // A certificate is a name.
    let over = |tls: Tls| Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v5("a")).connack.code;
    assert_eq!(over(Tls::trusting(&certs)), 0x87);
    assert_eq!(over(Tls::trusting(&certs).showing(&certs, "client")), 0);
}

#[test]
fn others_are_served_only_where_somebody_is_known() {
    let port = lease().port;
    let (open, keys) = (format!("0.0.0.0:{port}"), "certfile = \"certs/server.crt\"\nkeyfile = \"certs/server.key\"");
    for (section, key) in [("mqtt", "ws"), ("mqtt", "wss"), ("kafka", "tcp"), ("kafka", "tls")] {
        let toml = format!("[{section}]\n{key} = \"{open}\"\n[tls]\n{keys}");
        let broker = Broker::prepared().config(&toml).kafka_by_config();
        crate::certs(&broker, "certs");
        let words = broker.fails_to_start();
        assert!(words.contains(&format!("{section}.{key}")) && words.lines().count() == 1, "{words}");
        assert!(words.contains("password_file") && words.contains("allow_anonymous = true"), "{words}");
    }
    // Nobody listens there now.
    TcpListener::bind(&open).expect("nothing was opened");

    // With users, or by name, it starts, and says that passwords can be overheard.
    let mut broker = Broker::prepared();
    passwords::write(&broker.folder().join("passwd"), &USERS);
    broker.write_config(&format!("password_file = \"passwd\"\n[mqtt]\nws = \"{open}\""));
    broker.restart();
    broker.log_line(&["WARN", "mqtt.ws", "TLS"]);
    broker.kill9();
    broker.write_config(&format!("[mqtt]\nallow_anonymous = true\nws = \"{open}\""));
    broker.restart();
    broker.kill9();

    // Where certificates of a CA are names, who has none stays out.
    let certs = crate::certs(&broker, "certs");
    broker.write_config(&format!("[mqtt]\ntls = \"{open}\"\n[tls]\ncerts = \"certs\""));
    broker.restart();
    let over = |tls: Tls| Client::over(tls.connect(([127, 0, 0, 1], port).into()), &Connect::v5("a")).connack.code;
    assert_eq!(over(Tls::trusting(&certs)), 0x87);
    assert_eq!(over(Tls::trusting(&certs).showing(&certs, "client")), 0);
}

//! Shared subscriptions.

use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::{AckKind, Client, Connect, Packet, Publish, VERSIONS};

fn members(broker: &Broker, filter: &str) -> Vec<Client> {
    (0..3)
        .map(|n| {
            let version = VERSIONS[n % 2];
            let mut member = broker.connect(Connect::new(version, &format!("member{n}")));
            assert_eq!(member.subscribe(filter, 1), 1);
            member
        })
        .collect()
}

/// What each member gets until they have `count` between them; each is acknowledged.
fn collect(members: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let deadline = Instant::now() + support::PATIENCE;
    let mut got = vec![Vec::new(); members.len()];
    while got.iter().map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < deadline, "{count} were due: {got:?}");
        for (member, got) in members.iter_mut().zip(&mut got) {
            if let Ok(Packet::Publish(publish)) = member.try_recv(Duration::from_millis(5)) {
                if publish.qos > 0 {
                    member.send_ack(AckKind::PubAck, publish.id);
                }
                got.push(publish.text());
            }
        }
    }
    for (member, got) in members.iter_mut().zip(&mut got) {
        let more = member.sent_so_far();
        got.extend(more.iter().map(Publish::text));
    }
    got
}

fn numbers(count: usize) -> Vec<String> {
    let mut numbers: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    numbers.sort();
    numbers
}

#[test]
fn messages_are_split_over_the_members() {
    for qos in [0, 1, 2] {
        let broker = Broker::start();
        let mut members = members(&broker, "$share/g/jobs/#");
        let mut from = broker.connect(Connect::v311("from"));
        for n in 0..60 {
            from.publish(Publish::new(&format!("jobs/{n}"), n.to_string()).qos(qos));
        }
        let got = collect(&mut members, 60);
        let mut all = got.concat();
        all.sort();
        assert_eq!(all, numbers(60), "QoS {qos}: none lost, none doubled");
        let shares: Vec<usize> = got.iter().map(Vec::len).collect();
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    }
}

#[test]
fn each_group_gets_everything_and_so_does_a_plain_subscriber() {
    let broker = Broker::start();
    let mut one = broker.connect(Connect::v5("one"));
    one.subscribe("$share/one/t", 1);
    let mut two = broker.connect(Connect::v5("two"));
    two.subscribe_with(&[("$share/two/t", 1), ("t", 1)], &[]);
    for n in 0..10 {
        broker.publish(Publish::new("t", n.to_string()).qos(1));
    }
    let mut got = collect(std::slice::from_mut(&mut one), 10).concat();
    got.sort();
    assert_eq!(got, numbers(10));
    let got = collect(std::slice::from_mut(&mut two), 20).concat();
    assert_eq!(got.len(), 20);
}

#[test]
fn the_rest_go_on_when_a_member_leaves() {
    let broker = Broker::start();
    let mut members = members(&broker, "$share/g/t");
    members.remove(0).disconnect();
    let mut leaving = members.remove(0);
    leaving.unsubscribe("$share/g/t");
    let mut from = broker.connect(Connect::v311("from"));
    for n in 0..10 {
        from.publish(Publish::new("t", n.to_string()).qos(1));
    }
    let mut got = collect(&mut members, 10).concat();
    got.sort();
    assert_eq!(got, numbers(10));
    assert!(leaving.sent_so_far().is_empty());
}

#[test]
fn a_share_of_absent_durable_members_is_kept_for_them() {
    let mut broker = Broker::start();
    let connect = || Connect::v5("worker").durable();
    let mut worker = broker.connect(connect());
    worker.subscribe("$share/g/t", 1);
    worker.disconnect();
    for n in 0..10 {
        broker.publish(Publish::new("t", n.to_string()).qos(1));
    }
    broker.kill9_and_restart();
    let mut worker = broker.connect(connect());
    assert!(worker.connack.session_present);
    let mut got = collect(std::slice::from_mut(&mut worker), 10).concat();
    got.sort();
    assert_eq!(got, numbers(10));
}

#[test]
fn a_malformed_share_is_refused() {
    let broker = Broker::start();
    for filter in ["$share/g", "$share//t", "$share/g+/t", "$share/g/"] {
        let mut client = broker.connect(Connect::v5("a"));
        let id_and_filter = [&[0, 1, 0, 0, filter.len() as u8], filter.as_bytes(), &[1]].concat();
        let mut subscribe = vec![0x82, id_and_filter.len() as u8];
        subscribe.extend(id_and_filter);
        client.send(&subscribe);
        match client.try_recv(support::PATIENCE) {
            Ok(Packet::SubAck { codes, .. }) => assert!(codes[0] >= 0x80, "{filter} granted"),
            Ok(Packet::Disconnect { reason, .. }) => assert!(reason >= 0x80, "{filter}"),
            Err(support::mqtt::Lost::Closed) => {}
            other => panic!("{filter}: {other:?}"),
        }
    }
}

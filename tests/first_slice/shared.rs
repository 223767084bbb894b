//! Shared subscriptions.

use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::Version::{V5, V311};
use support::mqtt::{AckKind, Client, Connect, Packet, Prop, Publish, VERSIONS, Version};

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

/// A member of group `g` on `t`; `name` says what kind.
fn member(broker: &Broker, version: Version, name: &str, durable: bool) -> Client {
    let connect = Connect::new(version, name);
    let mut member = broker.connect(if durable { connect.durable() } else { connect });
    member.subscribe("$share/g/t", 2);
    member
}

/// Everything a client has got and gets until something is published to `end`, taken.
fn taken(broker: &Broker, member: &mut Client) -> Vec<String> {
    member.subscribe("end", 1);
    broker.publish(Publish::new("end", "end").qos(1));
    member.take_until("end")
}

#[test]
fn what_a_member_had_not_acknowledged_goes_to_others_when_its_session_ends() {
    let kinds = [
        (V5, true, true),
        (V5, true, false),
        (V311, true, true),
        (V5, false, true),
        (V5, false, false),
        (V311, false, false),
    ];
    // On one shard, and from one to the other.
    let shards = ["shards = 1\n", "shards = 2\n"];
    for ((version, durable, heir_is_durable), shards) in
        kinds.iter().flat_map(|kind| shards.map(|shards| (*kind, shards)))
    {
        let broker = Broker::with_config(shards);
        let mut first = member(&broker, version, "first", durable);
        for (text, qos) in [("1", 1), ("2", 1), ("q", 2), ("3", 1)] {
            broker.publish(Publish::new("t", text).qos(qos));
        }
        assert_eq!(first.take().text(), "1");
        let got: Vec<_> = (0..3).map(|_| first.expect_publish().text()).collect();
        assert_eq!(got, ["2", "q", "3"], "not acknowledged");
        let mut heir = if durable {
            first.disconnect();
            // It never sees these.
            broker.publish(Publish::new("t", "4").qos(1));
            broker.publish(Publish::new("t", "5").qos(2));
            let heir = member(&broker, version, "heir", heir_is_durable);
            broker.connect(Connect::new(version, "first")).disconnect();
            heir
        } else {
            let heir = member(&broker, version, "heir", heir_is_durable);
            first.disconnect();
            heir
        };
        let due: &[&str] = if durable { &["2", "3", "4", "5"] } else { &["2", "3"] };
        let got: Vec<_> = due.iter().map(|_| heir.take().text()).collect();
        assert_eq!(got, due, "{version:?} {durable} {heir_is_durable}");
        assert_eq!(taken(&broker, &mut heir), [""; 0], "and nothing twice, nor what was in flight at QoS 2");
    }
}

#[test]
fn a_member_that_unsubscribes_before_it_leaves_takes_nothing_along() {
    for durable in [true, false] {
        let broker = Broker::start();
        let mut first = member(&broker, V5, "first", durable);
        for text in ["1", "2"] {
            broker.publish(Publish::new("t", text).qos(1));
        }
        first.expect_publish();
        first.expect_publish();
        let mut heir = member(&broker, V5, "heir", true);
        first.unsubscribe("$share/g/t");
        first.disconnect_with(0, &[Prop::SessionExpiryS(0)]);
        assert_eq!([heir.take().text(), heir.take().text()], ["1", "2"], "{durable}");
    }
}

#[test]
fn also_when_the_broker_was_restarted_in_between() {
    for restart in [Broker::kill9_and_restart, Broker::restart_gracefully] {
        let mut broker = Broker::start();
        let mut first = member(&broker, V5, "first", true);
        member(&broker, V5, "heir", true).disconnect();
        for text in ["1", "2"] {
            broker.publish(Publish::new("t", text).qos(1));
            first.expect_publish();
        }
        first.unsubscribe("$share/g/t");
        drop(first);
        restart(&mut broker);
        broker.connect(Connect::v5("first")).disconnect();
        let mut heir = broker.connect(Connect::v5("heir").durable());
        assert_eq!([heir.take().text(), heir.take().text()], ["1", "2"]);
    }
}

#[test]
fn what_moves_has_the_heirs_own_identifier_and_what_was_published_with_it() {
    for heir_is_durable in [true, false] {
        let broker = Broker::start();
        let mut first = broker.connect(Connect::v5("first").durable());
        first.subscribe_with(&[("$share/g/t", 1), ("$share/h/t", 1)], &[Prop::SubscriptionId(7)]);
        let user = Prop::user("a", "b");
        broker.publish(Publish::new("t", "x").qos(1).with(user.clone()).with(Prop::MessageExpiryS(1000)));
        for _ in 0..2 {
            assert!(first.expect_publish().props.contains(&Prop::SubscriptionId(7)));
        }
        let heir = Connect::v5("heir");
        let mut heir = broker.connect(if heir_is_durable { heir.durable() } else { heir });
        heir.subscribe_with(&[("$share/h/t", 1)], &[Prop::SubscriptionId(9)]);
        drop(first);
        broker.connect(Connect::v5("first")).disconnect();
        let moved = heir.take();
        assert!(moved.props.contains(&Prop::SubscriptionId(9)) && !moved.props.contains(&Prop::SubscriptionId(7)));
        assert!(moved.props.contains(&user) && !moved.dup);
        let left = moved.props.iter().find_map(|prop| if let Prop::MessageExpiryS(s) = prop { Some(*s) } else { None });
        assert!((900..=1000).contains(&left.expect("its lifetime goes on")));
        // Of the other group there is nobody.
        assert_eq!(taken(&broker, &mut heir), [""; 0]);
    }
}

#[test]
fn what_moves_survives_a_crash_before_and_after() {
    let mut broker = Broker::start();
    let mut first = member(&broker, V5, "first", true);
    member(&broker, V5, "heir", true).disconnect();
    for n in 0..20 {
        broker.publish(Publish::new("t", n.to_string()).qos(1 + n % 2));
    }
    // Every message went to the one that was there; it acknowledges none.
    (0..20).for_each(|_| drop(first.expect_publish()));
    drop(first);
    broker.kill9_and_restart();
    let mut ended = broker.connect(Connect::v5("first"));
    ended.subscribe("end", 1);
    broker.kill9_and_restart();
    let mut heir = broker.connect(Connect::v5("heir").durable());
    assert!(heir.connack.session_present);
    let got: Vec<_> = (0..10).map(|_| heir.take().text()).collect();
    let due: Vec<_> = (0..20).step_by(2).map(|n| n.to_string()).collect();
    assert_eq!(got, due, "at QoS 2 it may have had them");
    assert_eq!(taken(&broker, &mut heir), [""; 0]);
}

#[test]
fn members_that_are_closed_together_hand_nothing_to_each_other_for_ever() {
    let mut broker = Broker::with_config("shards = 1\n");
    let mut members = members(&broker, "$share/g/t");
    for n in 0..30 {
        broker.publish(Publish::new("t", n.to_string()).qos(1));
    }
    // They acknowledge nothing.
    members.iter_mut().for_each(|member| drop(member.expect_publish()));
    let (status, _) = broker.sigterm_and_wait();
    assert!(status.success(), "{status}: {}", broker.stderr());
}

#[test]
fn what_was_on_its_way_to_a_member_that_ends_goes_to_others() {
    for shards in ["shards = 1\n", "shards = 2\n"] {
        for heir_is_durable in [true, false] {
            // Nothing is durable before all of it was said.
            let broker = Broker::with_config(&format!("commit_interval_ms = 200\n{shards}"));
            let first = member(&broker, V5, "first", true);
            let mut heir = member(&broker, V5, "heir", heir_is_durable);
            let mut observer = broker.connect(Connect::v311("observer"));
            observer.subscribe("t", 0);
            let mut from = broker.connect(Connect::v311("from"));
            for n in 0..10 {
                from.send_publish(&Publish { id: n + 1, ..Publish::new("t", n.to_string()).qos(1) });
            }
            (0..10).for_each(|_| drop(observer.expect_publish()));
            first.disconnect_with(0, &[Prop::SessionExpiryS(0)]);
            let mut got: Vec<_> = (0..10).map(|_| heir.take().text()).collect();
            got.sort();
            assert_eq!(got, numbers(10));
            assert_eq!(taken(&broker, &mut heir), [""; 0]);
        }
    }
}

#[test]
fn what_waits_for_members_that_are_away_goes_to_who_is_there() {
    let mut broker = Broker::with_config("shards = 2\n");
    for name in ["a", "b", "c"] {
        member(&broker, V5, name, true).disconnect();
    }
    for n in 0..30 {
        broker.publish(Publish::new("t", n.to_string()).qos(1 + n % 2));
    }
    broker.kill9_and_restart();
    // Of those that may have been sent before the crash nobody knows; of the others every one is for who is there.
    for n in 30..60 {
        broker.publish(Publish::new("t", n.to_string()).qos(1 + n % 2));
    }
    let mut worker = broker.connect(Connect::v5("a").durable());
    let mut got: Vec<String> = Vec::new();
    while (30..60).any(|n: usize| !got.contains(&n.to_string())) {
        got.push(worker.take().text());
    }
    drop(worker);
    broker.kill9_and_restart();
    // What it did not get the others still have, and nobody has anything twice.
    for name in ["a", "b", "c"] {
        let mut member = broker.connect(Connect::v5(name).durable());
        got.extend(taken(&broker, &mut member).into_iter().filter(|text| !text.is_empty()));
        member.disconnect_with(0, &[Prop::SessionExpiryS(3600)]);
    }
    got.sort();
    assert_eq!(got, numbers(60));
}

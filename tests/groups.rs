//! Several members of one group, one of which dies without a word.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::kafka::{Kafka, poll_record};
use support::mqtt::{Connect, Publish};

/// Set for a child process of a test: the bootstrap address its member joins at.
const MEMBER: &str = "MILLSTREAM_TEST_GROUP_MEMBER";
const GROUP: &str = "backend";

fn publish_numbers(broker: &Broker, numbers: std::ops::Range<u32>) {
    let mut client = broker.connect(Connect::v311("numbers"));
    for n in numbers {
        let topic = format!("sensors/{}", n % 40);
        client.publish(Publish::new(&topic, n.to_string()).qos(1).id(1));
    }
    client.disconnect();
}

fn assigned(member: &BaseConsumer) -> BTreeSet<i32> {
    let assignment = member.assignment().expect("an assignment");
    let elements = assignment.elements();
    elements.iter().map(|element| element.partition()).collect()
}

/// Polls all until their partitions are these many in total, none with two members.
#[track_caller]
fn poll_until_shared(members: &[&BaseConsumer], total: usize, seen: &mut BTreeSet<u32>) {
    let deadline = Instant::now() + 3 * support::PATIENCE;
    loop {
        for member in members {
            while let Some(record) = poll_record(member, Duration::from_millis(20)) {
                seen.insert(record.text().parse().expect("a number"));
            }
        }
        let shares: Vec<_> = members.iter().map(|member| assigned(member)).collect();
        let distinct: BTreeSet<i32> = shares.iter().flatten().copied().collect();
        let held: usize = shares.iter().map(BTreeSet::len).sum();
        if held == total && distinct.len() == total && shares.iter().all(|s| !s.is_empty()) {
            return;
        }
        assert!(Instant::now() < deadline, "shared as {shares:?}");
    }
}

/// Polls all until every number below `count` has been seen.
#[track_caller]
fn poll_until_seen(members: &[&BaseConsumer], count: u32, seen: &mut BTreeSet<u32>) {
    let deadline = Instant::now() + 3 * support::PATIENCE;
    while seen.len() < count as usize {
        for member in members {
            if let Some(record) = poll_record(member, Duration::from_millis(20)) {
                seen.insert(record.text().parse().expect("a number"));
            }
        }
        assert!(Instant::now() < deadline, "{} of {count}", seen.len());
    }
    assert_eq!(*seen, BTreeSet::from_iter(0..count));
}

#[test]
fn partitions_are_shared_and_given_back() {
    for strategy in ["range", "roundrobin", "cooperative-sticky"] {
        let broker = Broker::start();
        let kafka = Kafka::at(broker.kafka());
        publish_numbers(&broker, 0..100);
        let settings = [("partition.assignment.strategy", strategy)];
        let join = || kafka.join_with(GROUP, "mqtt", &settings);
        let mut seen = BTreeSet::new();
        let one = join();
        poll_until_shared(&[&one], 4, &mut seen);
        let two = join();
        poll_until_shared(&[&one, &two], 4, &mut seen);
        let three = join();
        poll_until_shared(&[&one, &two, &three], 4, &mut seen);
        // A member that leaves gives its partitions back at once, not after a timeout.
        let left = Instant::now();
        drop(two);
        poll_until_shared(&[&one, &three], 4, &mut seen);
        let elapsed = left.elapsed();
        assert!(elapsed < Duration::from_secs(5), "{strategy}: {elapsed:?}");
        poll_until_seen(&[&one, &three], 100, &mut seen);
    }
}

/// A group member in a process of its own, so that it can be killed without a goodbye
/// (librdkafka's threads would go on sending heartbeats for a consumer that was forgotten).
struct MemberProcess {
    child: Child,
    records: Receiver<u32>,
}

impl MemberProcess {
    fn start(kafka: Kafka) -> MemberProcess {
        let bootstrap = kafka.config().get("bootstrap.servers").map(str::to_owned);
        let test = std::env::current_exe().expect("a running test has a path");
        let mut child = Command::new(test)
            .args(["--exact", "member_process", "--ignored", "--nocapture"])
            .env(MEMBER, bootstrap.expect("it is set"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test can be started again");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, records) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("record ") {
                    let number = number.parse().expect("a number");
                    if sender.send(number).is_err() {
                        return;
                    }
                }
            }
        });
        MemberProcess { child, records }
    }

    fn kill9(mut self) -> Vec<u32> {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        self.records.iter().collect()
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        // Gone already after kill9.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the child process of the test below"]
fn member_process() {
    let Ok(bootstrap) = std::env::var(MEMBER) else {
        return;
    };
    let kafka = Kafka::at(bootstrap.parse().expect("an address"));
    let member = kafka.join(GROUP, "mqtt");
    loop {
        // Each is told before it is committed, so what is told covers what is committed.
        if let Some(record) = poll_record(&member, Duration::from_millis(100)) {
            println!("record {}", record.text());
            let _ = member.commit_consumer_state(CommitMode::Async);
        }
    }
}

#[test]
fn the_rest_take_over_when_a_member_dies() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..200);
    let mut seen = BTreeSet::new();
    let one = kafka.join(GROUP, "mqtt");
    let two = kafka.join(GROUP, "mqtt");
    poll_until_shared(&[&one, &two], 4, &mut seen);
    let mortal = MemberProcess::start(kafka);

    // Once it holds a partition, it gets new records.
    let deadline = Instant::now() + 3 * support::PATIENCE;
    let mut published = 200;
    let first = loop {
        publish_numbers(&broker, published..published + 40);
        published += 40;
        for member in [&one, &two] {
            if let Some(record) = poll_record(member, Duration::from_millis(20)) {
                seen.insert(record.text().parse().expect("a number"));
            }
        }
        if let Ok(number) = mortal.records.try_recv() {
            break number;
        }
        assert!(Instant::now() < deadline, "the third member gets nothing");
    };
    seen.insert(first);

    seen.extend(mortal.kill9());
    let died = Instant::now();
    publish_numbers(&broker, published..published + 40);
    published += 40;
    poll_until_shared(&[&one, &two], 4, &mut seen);
    let elapsed = died.elapsed();
    // Session timeout 6 s; the rest have a heartbeat each half second.
    assert!(elapsed < Duration::from_secs(10), "after {elapsed:?}");
    poll_until_seen(&[&one, &two], published, &mut seen);
}

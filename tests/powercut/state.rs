//! What is no message survives too: retained values, subscriptions and Kafka topics, as they were acknowledged, and the
//! state of an idempotent Kafka producer.

use crate::disk::ForgetfulDisk;
use crate::{CONFIG, cut_and_restart, rounds_and_seed, start_on, until_the_next_cut};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;
use support::PATIENCE;
use support::broker::Broker;
use support::kafka::Kafka;
use support::kafka_wire::KafkaWire;
use support::load::Run;
use support::mqtt::{Ack, Client, Connect, Lost, Packet, Publish, Version, subscribe, unsubscribe};
use support::random::Random;

/// The topic of the Kafka producer.
const PRODUCED: &str = "produced";
/// What the keeper of the subscriptions always gets.
const END: &str = "end";
/// Retained topics, and filters.
const KEYS: u64 = 6;

/// One thing that can be there or not, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Retained(u64),
    Subscription(u64),
    Topic(u64),
}

impl Key {
    fn name(self) -> String {
        match self {
            Key::Retained(place) => format!("retained/{place}"),
            Key::Subscription(place) => format!("subscribed/{place}"),
            Key::Topic(number) => format!("made.{number}"),
        }
    }
}

type State = BTreeMap<Key, u64>;

/// What was acknowledged, and what may have been done beyond it.
#[derive(Debug, Clone, Default)]
struct Known {
    acknowledged: State,
    perhaps: Option<(Key, Option<u64>)>,
}

impl Known {
    fn settle(&mut self) {
        if let Some((key, value)) = self.perhaps.take() {
            set(&mut self.acknowledged, key, value);
        }
    }

    /// Holds what was found against it, and knows it from now on.
    fn check(&mut self, found: State) {
        let mut beyond = self.acknowledged.clone();
        if let Some((key, value)) = self.perhaps.take() {
            set(&mut beyond, key, value);
        }
        assert!(
            found == self.acknowledged || found == beyond,
            "found {found:?}, due {:?} or {beyond:?}",
            self.acknowledged
        );
        self.acknowledged = found;
    }
}

fn set(state: &mut State, key: Key, value: Option<u64>) {
    match value {
        Some(value) => _ = state.insert(key, value),
        None => _ = state.remove(&key),
    }
}

fn keeper(mqtt: SocketAddr) -> Client {
    Client::connect(mqtt, &Connect::v5("keeper").durable())
}

/// Sets and removes one after the other until the broker is gone. Numbers are from `first` on.
fn change(mqtt: SocketAddr, kafka: SocketAddr, known: &mut Known, first: u64, mut random: Random) {
    let mut client = keeper(mqtt);
    let mut wire = KafkaWire::on(TcpStream::connect(kafka).expect("it listens"));
    for n in first.. {
        let place = random.within(0, KEYS);
        let is_set = random.within(0, 3) > 0;
        let (key, value) = match random.within(0, 9) {
            0 => (Key::Topic(n), Some(0)),
            1..5 => (Key::Retained(place), is_set.then_some(n)),
            _ => (Key::Subscription(place), is_set.then_some(0)),
        };
        known.perhaps = Some((key, value));
        let done = match key {
            Key::Topic(_) => create_topic(&mut wire, &key.name()),
            _ => ask(&mut client, key, value),
        };
        match done {
            Ok(()) => known.settle(),
            Err(Lost::Closed) => return,
            Err(Lost::Silent) => panic!("no answer to {key:?}"),
        }
    }
}

fn create_topic(wire: &mut KafkaWire<TcpStream>, name: &str) -> Result<(), Lost> {
    // CreateTopics 2: one topic, its name; a partition, a replica, no assignments, no settings; a second; for real.
    let length = (name.len() as i16).to_be_bytes();
    let rest = [0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0xE8, 0];
    let body = [&[0, 0, 0, 1], &length[..], name.as_bytes(), &rest].concat();
    let answer = wire.ask(19, 2, &body).map_err(|_| Lost::Closed)?;
    // Throttle time, count, name, error code.
    let error = &answer[10 + name.len()..][..2];
    assert_eq!(error, [0, 0], "{name} is not made");
    Ok(())
}

/// Asks for one change and waits for its answer.
fn ask(client: &mut Client, key: Key, value: Option<u64>) -> Result<(), Lost> {
    const ID: u16 = 1;
    let name = key.name();
    match (key, value) {
        (Key::Subscription(_), Some(_)) => client.try_send(&subscribe(Version::V5, ID, &[(&name, 1)], &[]))?,
        (Key::Subscription(_), None) => client.try_send(&unsubscribe(Version::V5, ID, &name))?,
        (_, value) => {
            let payload = value.map_or(String::new(), |value| value.to_string());
            client.try_send_publish(&Publish::new(&name, payload).retain().qos(1).id(ID))?;
        }
    }
    match client.try_recv(PATIENCE)? {
        Packet::Disconnect { .. } => Err(Lost::Closed),
        Packet::Ack(Ack { reason: ..0x80, .. }) | Packet::SubAck { .. } | Packet::UnsubAck { .. } => Ok(()),
        other => panic!("{key:?} is answered with {other:?}"),
    }
}

/// What is there after a start.
fn found_in(broker: &Broker) -> State {
    let mut state = State::new();
    let mut reader = broker.connect(Connect::v5("reader"));
    reader.subscribe("retained/#", 1);
    for message in reader.sent_so_far() {
        let place = message.topic.rsplit('/').next().and_then(|place| place.parse().ok());
        state.insert(Key::Retained(place.expect("a number")), message.text().parse().expect("a number"));
    }
    for place in 0..KEYS {
        broker.publish(Publish::new(&Key::Subscription(place).name(), place.to_string()).qos(1));
    }
    broker.publish(Publish::new(END, "end").qos(1));
    let mut keeper = keeper(broker.mqtt());
    assert!(keeper.connack.session_present, "the session is lost");
    let places = keeper.take_until("end").into_iter().map(|place| place.parse().expect("a number"));
    state.extend(places.map(|place| (Key::Subscription(place), 0)));
    let topics = Kafka::at(broker.kafka()).topics();
    let made = topics.keys().filter_map(|name| name.strip_prefix("made.")?.parse().ok());
    state.extend(made.map(|number| (Key::Topic(number), 0)));
    state
}

/// Produces numbers until the run drains, and waits for their acknowledgements; gives how many.
fn produce(kafka: Kafka, run: &Run) -> u64 {
    let mut config = kafka.config();
    config.set("enable.idempotence", "true").set("linger.ms", "2");
    let producer: BaseProducer = config.create().expect("a producer");
    let mut count = 0;
    while !run.is_draining() && !run.is_aborted() {
        let (key, number) = ("k", count.to_string());
        match producer.send(BaseRecord::to(PRODUCED).key(key).payload(&number)) {
            Ok(()) => count += 1,
            Err((error, _)) => panic!("not sent: {error}"),
        }
        producer.poll(Duration::from_millis(5));
    }
    producer.flush(3 * PATIENCE).expect("each is answered in time");
    count
}

#[test]
fn state_is_as_it_was_acknowledged() {
    let (rounds, seed) = rounds_and_seed();
    let mut random = Random::seeded(seed);
    let disk = ForgetfulDisk::new();
    let mut broker = start_on(&disk, &format!("commit_interval_ms = 5\n{CONFIG}"));
    let (mqtt, address) = (broker.mqtt(), broker.kafka());
    let kafka = Kafka::at(address);
    keeper(mqtt).subscribe(END, 1);
    kafka.create_topic(PRODUCED, 2, &[]).expect("a topic");
    let run = Run::default();
    let count = thread::scope(|scope| {
        let _abort = run.abort_on_panic();
        let producer = scope.spawn(|| produce(kafka, &run));
        let mut known = Known::default();
        for round in 0..rounds {
            let changes = Random::seeded(random.within(0, u64::MAX));
            thread::scope(|scope| {
                scope.spawn(|| change(mqtt, address, &mut known, round * 1_000_000, changes));
                until_the_next_cut(&mut random);
                cut_and_restart(&mut broker, &disk, round, &mut random);
            });
            known.check(found_in(&broker));
        }
        eprintln!("in the end {:?}", known.acknowledged);
        run.drain();
        producer.join().expect("the producer failed, see above")
    });
    let texts = kafka.texts(PRODUCED, count as usize);
    let numbers: Vec<u64> = texts.iter().map(|text| text.parse().expect("a number")).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "each once, in order");
}

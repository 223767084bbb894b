//! What is no message survives too, as it was acknowledged: retained values, subscriptions, Kafka topics made and
//! deleted, records deleted, and the state of an idempotent Kafka producer.

use crate::changes::{Key, Known, PLACES, SHORTENED, State, keeper};
use crate::disk::ForgetfulDisk;
use crate::{CONFIG, cut_and_restart, rounds_and_seed, start_on, until_the_next_cut};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::thread;
use std::time::Duration;
use support::PATIENCE;
use support::broker::Broker;
use support::kafka::Kafka;
use support::load::Run;
use support::mqtt::{Connect, Publish};
use support::random::Random;

/// The topic of the Kafka producer.
const PRODUCED: &str = "produced";
/// Of the topic that loses them; more than a run deletes.
const RECORDS: usize = 20_000;
/// What the keeper of the subscriptions always gets.
const END: &str = "end";
/// What is there after a start.
fn found_in(broker: &Broker) -> State {
    let mut state = State::new();
    let mut reader = broker.connect(Connect::v5("reader"));
    reader.subscribe("retained/#", 1);
    for message in reader.sent_so_far() {
        let place = message.topic.rsplit('/').next().and_then(|place| place.parse().ok());
        state.insert(Key::Retained(place.expect("a number")), message.text().parse().expect("a number"));
    }
    for place in 0..PLACES {
        broker.publish(Publish::new(&Key::Subscription(place).name(), place.to_string()).qos(1));
    }
    broker.publish(Publish::new(END, "end").qos(1));
    let mut keeper = keeper(broker.mqtt());
    assert!(keeper.connack.session_present, "the session is lost");
    let places = keeper.take_until("end").into_iter().map(|place| place.parse().expect("a number"));
    state.extend(places.map(|place| (Key::Subscription(place), 0)));
    let kafka = Kafka::at(broker.kafka());
    let topics = kafka.topics();
    let made = topics.keys().filter_map(|name| name.strip_prefix("made.")?.parse().ok());
    state.extend(made.map(|number| (Key::Topic(number), 0)));
    state.insert(Key::Start, kafka.watermarks(SHORTENED, 0).0 as u64);
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
    kafka.create_topic(SHORTENED, 1, &[]).expect("a topic");
    kafka.produce(SHORTENED, &[("k", "v"); RECORDS], &[]);
    let run = Run::default();
    let count = thread::scope(|scope| {
        let _abort = run.abort_on_panic();
        let producer = scope.spawn(|| produce(kafka, &run));
        let mut known = Known::of(found_in(&broker));
        for round in 0..rounds {
            let changes = Random::seeded(random.within(0, u64::MAX));
            thread::scope(|scope| {
                scope.spawn(|| known.change(mqtt, address, round * 1_000_000, changes));
                until_the_next_cut(&mut random);
                cut_and_restart(&mut broker, &disk, round, &mut random);
            });
            known.check(found_in(&broker));
        }
        eprintln!("in the end {known:?}");
        run.drain();
        producer.join().expect("the producer failed, see above")
    });
    let texts = kafka.texts(PRODUCED, count as usize);
    let numbers: Vec<u64> = texts.iter().map(|text| text.parse().expect("a number")).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "each once, in order");
}

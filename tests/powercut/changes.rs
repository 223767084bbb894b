//! Changes of state that a client asks for one by one, and what is known of the state when the answer to the last of
//! them never came.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use support::PATIENCE;
use support::kafka_wire::KafkaWire;
use support::mqtt::{Ack, Client, Connect, Lost, Packet, Publish, Version, subscribe, unsubscribe};
use support::random::Random;

/// A Kafka topic of one partition whose records are deleted bit by bit.
pub const SHORTENED: &str = "shortened";
/// Retained topics, and filters.
pub const PLACES: u64 = 6;

/// One thing that can be there or not, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A retained message: a number.
    Retained(u64),
    /// A subscription of the keeper's.
    Subscription(u64),
    /// A Kafka topic.
    Topic(u64),
    /// The first offset of [`SHORTENED`].
    Start,
}

impl Key {
    /// The name of the topic, or the filter.
    pub fn name(self) -> String {
        match self {
            Key::Retained(place) => format!("retained/{place}"),
            Key::Subscription(place) => format!("subscribed/{place}"),
            Key::Topic(number) => format!("made.{number}"),
            Key::Start => SHORTENED.to_owned(),
        }
    }
}

pub type State = BTreeMap<Key, u64>;

type Change = (Key, Option<u64>);

/// What was acknowledged, and what may have been done beyond it.
#[derive(Debug)]
pub struct Known {
    acknowledged: State,
    perhaps: Option<Change>,
}

impl Known {
    /// This, and nothing under way.
    pub fn of(acknowledged: State) -> Known {
        Known { acknowledged, perhaps: None }
    }

    fn with_perhaps(&self) -> State {
        let mut state = self.acknowledged.clone();
        match self.perhaps {
            Some((key, Some(value))) => _ = state.insert(key, value),
            Some((key, None)) => _ = state.remove(&key),
            None => {}
        }
        state
    }

    /// Holds what was found against it, and knows that from now on.
    pub fn check(&mut self, found: State) {
        let (due, perhaps) = (&self.acknowledged, self.with_perhaps());
        assert!(found == *due || found == perhaps, "found {found:?}, due {due:?}, perhaps {:?}", self.perhaps);
        *self = Known::of(found);
    }

    /// Asks for one change after the other until the broker is gone. New numbers are from `first` on.
    pub fn change(&mut self, mqtt: SocketAddr, kafka: SocketAddr, first: u64, mut random: Random) {
        let mut client = keeper(mqtt);
        let mut wire = KafkaWire::on(TcpStream::connect(kafka).expect("it listens"));
        for n in first.. {
            let change = self.next(n, &mut random);
            self.perhaps = Some(change);
            let done = match change {
                (Key::Topic(_) | Key::Start, _) => ask_kafka(&mut wire, change).map_err(|_| Lost::Closed),
                _ => ask(&mut client, change),
            };
            match done {
                Ok(()) => *self = Known::of(self.with_perhaps()),
                Err(Lost::Closed) => return,
                Err(Lost::Silent) => panic!("no answer to {change:?}"),
            }
        }
    }

    fn next(&self, n: u64, random: &mut Random) -> Change {
        let place = random.within(0, PLACES);
        let is_set = random.within(0, 3) > 0;
        let topics = || self.acknowledged.keys().filter(|key| matches!(key, Key::Topic(_)));
        match random.within(0, 12) {
            0 => (Key::Topic(n), Some(0)),
            1 if topics().count() > 4 => (*topics().nth(place as usize % 5).expect("there are five"), None),
            2 | 3 => (Key::Start, Some(self.acknowledged.get(&Key::Start).unwrap_or(&0) + 1 + place)),
            4..8 => (Key::Retained(place), is_set.then_some(n)),
            _ => (Key::Subscription(place), is_set.then_some(0)),
        }
    }
}

/// Whose subscriptions they are.
pub fn keeper(mqtt: SocketAddr) -> Client {
    Client::connect(mqtt, &Connect::v5("keeper").durable())
}

fn ask(client: &mut Client, (key, value): Change) -> Result<(), Lost> {
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

/// One topic is made or deleted, or cut at its front; `Err` when the connection is gone.
fn ask_kafka(wire: &mut KafkaWire<TcpStream>, (key, value): Change) -> io::Result<()> {
    const ONE: [u8; 4] = [0, 0, 0, 1];
    const SECOND_MS: [u8; 4] = [0, 0, 3, 0xE8];
    let name = key.name();
    let named = [&ONE[..], &(name.len() as i16).to_be_bytes(), name.as_bytes()].concat();
    // Behind the throttle time, the number of topics and the name.
    let answer = 4 + named.len();
    let (answer, error_at) = match (key, value) {
        (Key::Start, value) => {
            let offset = value.expect("a start").to_be_bytes();
            let partition = [&ONE[..], &[0; 4], &offset].concat();
            (wire.ask(21, 0, &[&named[..], &partition, &SECOND_MS].concat())?, answer + 16)
        }
        (_, None) => (wire.ask(20, 1, &[&named[..], &SECOND_MS].concat())?, answer),
        // A partition, a replica, no assignments, no settings; for real.
        (_, Some(_)) => {
            let partitions = [0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            (wire.ask(19, 2, &[&named[..], &partitions, &SECOND_MS, &[0]].concat())?, answer)
        }
    };
    assert_eq!(answer[error_at..][..2], [0, 0], "{key:?} {value:?} is answered with {answer:?}");
    Ok(())
}

//! A publisher that resumes as [MQTT-4.4.0-1] says: after a reconnect it sends again each
//! PUBLISH and PUBREL that was not answered, with the ids and in the order they had.

use crate::run::Run;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use support::PATIENCE;
use support::mqtt::{Ack, AckKind, Client, Connect, Lost, Packet, Publish, Version};

/// Messages under way at once.
const WINDOW: usize = 16;
/// Few ids, so that each is used again soon.
const IDS: u16 = 40;
/// Topics of each publisher: order counts within one.
const TOPICS: u64 = 3;
/// Between two messages, so that a run is a steady load and not a flood.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct UnderWay {
    id: u16,
    sequence: u64,
    /// PUBREC has come and PUBREL is sent (QoS 2).
    released: bool,
}

/// One publishing client with a durable session.
#[derive(Debug)]
pub struct Publisher {
    name: String,
    qos: u8,
    address: SocketAddr,
    connect: Connect,
    had_session: bool,
    under_way: VecDeque<UnderWay>,
    last_id: u16,
    /// The number of messages sent; after a run each of them was acknowledged.
    pub sent: u64,
}

impl Publisher {
    /// A publisher that has not connected yet.
    pub fn new(name: &str, version: Version, qos: u8, address: SocketAddr) -> Publisher {
        Publisher {
            name: name.to_owned(),
            qos,
            address,
            connect: Connect::new(version, name).durable(),
            had_session: false,
            under_way: VecDeque::new(),
            last_id: 0,
            sent: 0,
        }
    }

    /// Its topics.
    pub fn topics(&self) -> impl Iterator<Item = String> {
        (0..TOPICS).map(|n| self.topic(n))
    }

    /// The topic of its message of this number.
    pub fn topic(&self, sequence: u64) -> String {
        format!("kill/q{}/{}/{}", self.qos, self.name, sequence % TOPICS)
    }

    /// The numbers it sent to this topic of its own.
    pub fn sequences_of(&self, topic: &str) -> Vec<u64> {
        let of_topic = (0..self.sent).filter(|sequence| self.topic(*sequence) == topic);
        of_topic.collect()
    }

    /// Publishes through all kills until the run drains and all is acknowledged.
    pub fn run(&mut self, run: &Run) {
        let _abort = run.abort_on_panic();
        while let Ok(client) = run.connect(self.address, &self.connect) {
            match self.publish_on(client, run) {
                Ok(()) => return,
                Err(Lost::Closed) => {}
                Err(Lost::Silent) => panic!("no answer: {:?}", self.under_way),
            }
        }
    }

    fn publish_on(&mut self, mut client: Client, run: &Run) -> Result<(), Lost> {
        assert!(client.connack.session_present || !self.had_session, "the session of {} is lost", self.name);
        self.had_session = true;
        self.resume(&mut client)?;
        loop {
            if !run.is_draining() && self.under_way.len() < WINDOW {
                self.publish_next(&mut client)?;
                thread::sleep(PAUSE);
            }
            if self.under_way.is_empty() && run.is_draining() {
                return Ok(());
            }
            let full = run.is_draining() || self.under_way.len() == WINDOW;
            let wait = if full { PATIENCE } else { Duration::from_micros(100) };
            match client.try_recv(wait) {
                Ok(Packet::Ack(ack)) => self.answered(ack, &mut client)?,
                Ok(other) => panic!("a publisher got {other:?}"),
                Err(Lost::Silent) if !full => {}
                Err(lost) => return Err(lost),
            }
        }
    }

    fn resume(&mut self, client: &mut Client) -> Result<(), Lost> {
        for message in &self.under_way {
            if message.released {
                client.try_send_ack(AckKind::PubRel, message.id)?;
            } else {
                client.try_send_publish(&self.packet(message.id, message.sequence).dup())?;
            }
        }
        Ok(())
    }

    fn packet(&self, id: u16, sequence: u64) -> Publish {
        let payload = format!("{}:{sequence}", self.name);
        Publish::new(&self.topic(sequence), payload).qos(self.qos).id(id)
    }

    fn publish_next(&mut self, client: &mut Client) -> Result<(), Lost> {
        loop {
            self.last_id = self.last_id % IDS + 1;
            let id = self.last_id;
            if self.under_way.iter().all(|message| message.id != id) {
                break;
            }
        }
        let message = UnderWay { id: self.last_id, sequence: self.sent, released: false };
        let packet = self.packet(message.id, message.sequence);
        // It counts as sent even if the connection is lost now: it is sent again.
        self.under_way.push_back(message);
        self.sent += 1;
        client.try_send_publish(&packet)
    }

    fn answered(&mut self, ack: Ack, client: &mut Client) -> Result<(), Lost> {
        match ack.kind {
            AckKind::PubAck | AckKind::PubRec => {
                assert!(ack.reason < 0x80, "refused: {ack:?}");
                let waiting = self.under_way.iter().position(|message| !message.released);
                let place = waiting.unwrap_or_else(|| panic!("nobody waits for {ack:?}"));
                let message = &mut self.under_way[place];
                // [MQTT-4.6.0-2], [MQTT-4.6.0-3]: answers come in the order of the PUBLISHes.
                assert_eq!(message.id, ack.id, "{} got {ack:?} out of order", self.name);
                if self.qos == 1 {
                    self.under_way.remove(place);
                    return Ok(());
                }
                message.released = true;
                client.try_send_ack(AckKind::PubRel, ack.id)
            }
            AckKind::PubComp => {
                // 0x92, unknown, when the release before the kill was complete.
                let released = |message: &UnderWay| message.released && message.id == ack.id;
                let place = self.under_way.iter().position(released);
                self.under_way.remove(place.unwrap_or_else(|| panic!("nobody waits for {ack:?}")));
                Ok(())
            }
            AckKind::PubRel => panic!("a publisher got {ack:?}"),
        }
    }
}

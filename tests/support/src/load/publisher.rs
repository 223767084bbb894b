//! A publisher that resumes as [MQTT-4.4.0-1] says: after a reconnect it sends again each
//! PUBLISH and PUBREL that was not answered, with the ids and in the order they had.

use super::run::Run;
use super::sent::Sent;
use crate::PATIENCE;
use crate::mqtt::{Ack, AckKind, Client, Connect, Lost, Packet, Publish, Version};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// Messages under way at once.
const WINDOW: usize = 16;
/// Few ids, so that each is used again soon.
const IDS: u16 = 40;
/// Between two messages, so that a run is a steady load and not a flood.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct UnderWay {
    id: u16,
    number: u64,
    /// PUBREC has come and PUBREL is sent (QoS 2).
    released: bool,
}

/// One publishing client with a durable session.
#[derive(Debug)]
pub struct Publisher {
    sent: Sent,
    address: SocketAddr,
    connect: Connect,
    had_session: bool,
    forgiving: bool,
    under_way: VecDeque<UnderWay>,
    last_id: u16,
}

impl Publisher {
    /// A publisher that has not connected yet.
    pub fn new(name: &str, version: Version, qos: u8, address: SocketAddr) -> Publisher {
        Publisher {
            sent: Sent::new(name, qos),
            address,
            connect: Connect::new(version, name).durable(),
            had_session: false,
            forgiving: false,
            under_way: VecDeque::new(),
            last_id: 0,
        }
    }

    /// One at QoS 1 and one at QoS 2 in each version.
    pub fn of_each_kind(address: SocketAddr) -> Vec<Publisher> {
        let kinds = [(Version::V311, 1), (Version::V5, 1), (Version::V311, 2), (Version::V5, 2)];
        let publisher = |(n, (version, qos))| Publisher::new(&format!("p{n}"), version, qos, address);
        kinds.into_iter().enumerate().map(publisher).collect()
    }

    /// It goes on when its session is lost.
    pub fn forgiving(self) -> Publisher {
        Publisher { forgiving: true, ..self }
    }

    /// Publishes until the run drains and all is acknowledged, however often the broker goes away.
    pub fn run(mut self, run: &Run) -> Sent {
        while let Ok(client) = run.connect(self.address, &self.connect) {
            match self.publish_on(client, run) {
                Ok(()) => break,
                Err(Lost::Closed) => {}
                Err(Lost::Silent) => panic!("no answer: {:?}", self.under_way),
            }
        }
        self.sent
    }

    fn publish_on(&mut self, mut client: Client, run: &Run) -> Result<(), Lost> {
        let kept = client.connack.session_present || !self.had_session || self.forgiving;
        assert!(kept, "the session of {} is lost", self.sent.name);
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
                Ok(Packet::Disconnect { .. }) => return Err(Lost::Closed),
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
                client.try_send_publish(&self.packet(message.id, message.number).dup())?;
            }
        }
        Ok(())
    }

    fn packet(&self, id: u16, number: u64) -> Publish {
        let sent = &self.sent;
        Publish::new(&sent.topic(number), sent.payload(number)).qos(sent.qos).id(id)
    }

    fn publish_next(&mut self, client: &mut Client) -> Result<(), Lost> {
        loop {
            self.last_id = self.last_id % IDS + 1;
            let id = self.last_id;
            if self.under_way.iter().all(|message| message.id != id) {
                break;
            }
        }
        let message = UnderWay { id: self.last_id, number: self.sent.count, released: false };
        let packet = self.packet(message.id, message.number);
        // It counts as sent even if the connection is lost now: it is sent again.
        self.under_way.push_back(message);
        self.sent.count += 1;
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
                assert_eq!(message.id, ack.id, "{} got {ack:?} out of order", self.sent.name);
                if self.sent.qos == 1 {
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

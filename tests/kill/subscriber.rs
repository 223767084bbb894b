//! A durable subscriber that keeps its side of the protocol through all kills.

use crate::run::Run;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use support::mqtt::{AckKind, Client, Connect, Lost, Packet, Publish, Version};

/// Silence after the last message that means nothing more will come.
const QUIET: Duration = Duration::from_millis(500);

/// One subscribing client with a durable session.
#[derive(Debug)]
pub struct Subscriber {
    /// Its client id.
    pub name: String,
    qos: u8,
    address: SocketAddr,
    connect: Connect,
    /// QoS 2 ids received and not yet released: what comes with one of them is a repeat.
    held: HashSet<u16>,
    /// Topic and payload of each message, in order; at QoS 2 repeats are left out.
    pub got: Vec<(String, String)>,
    ended: bool,
}

impl Subscriber {
    /// A subscriber that has not connected yet.
    pub fn new(name: &str, version: Version, qos: u8, address: SocketAddr) -> Subscriber {
        Subscriber {
            name: name.to_owned(),
            qos,
            address,
            connect: Connect::new(version, name).durable(),
            held: HashSet::new(),
            got: Vec::new(),
            ended: false,
        }
    }

    /// Makes the session.
    pub fn subscribe(&mut self) {
        let mut client = Client::connect(self.address, &self.connect);
        assert_eq!(client.subscribe("kill/#", self.qos), self.qos);
    }

    /// Receives through all kills until the message `end`, and what may come behind it.
    pub fn run(&mut self, run: &Run) {
        let _abort = run.abort_on_panic();
        while let Ok(client) = run.connect(self.address, &self.connect) {
            let present = client.connack.session_present;
            assert!(present, "the session of {} is lost", self.name);
            match self.receive_on(client, run) {
                Err(Lost::Closed) => {}
                Ok(()) | Err(Lost::Silent) => return,
            }
        }
    }

    fn receive_on(&mut self, mut client: Client, run: &Run) -> Result<(), Lost> {
        loop {
            match client.try_recv(QUIET) {
                Ok(Packet::Publish(publish)) => self.received(publish, &mut client)?,
                Ok(Packet::Ack(ack)) if ack.kind == AckKind::PubRel => {
                    self.held.remove(&ack.id);
                    client.try_send_ack(AckKind::PubComp, ack.id)?;
                }
                Ok(other) => panic!("a subscriber got {other:?}"),
                Err(Lost::Silent) if self.ended || run.is_aborted() => return Ok(()),
                Err(Lost::Silent) => {}
                Err(Lost::Closed) => return Err(Lost::Closed),
            }
        }
    }

    fn received(&mut self, publish: Publish, client: &mut Client) -> Result<(), Lost> {
        let is_new = publish.qos < 2 || self.held.insert(publish.id);
        if is_new {
            self.ended |= publish.topic == "kill/end";
            self.got.push((publish.topic.clone(), publish.text()));
        }
        match publish.qos {
            1 => client.try_send_ack(AckKind::PubAck, publish.id),
            2 => client.try_send_ack(AckKind::PubRec, publish.id),
            _ => panic!("published at QoS 1 or 2, got {publish:?}"),
        }
    }
}

//! A durable subscriber that keeps its side of the protocol whatever happens to the broker.

use super::run::Run;
use super::sent::Got;
use super::{END, FILTER};
use crate::mqtt::{AckKind, Client, Connect, Lost, Packet, Publish, Version};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// What those share who share: all but the last message, which each of them gets.
const SHARED: &str = "$share/members/load/+/+/+";
const ABSENCE: Duration = Duration::from_millis(100);
/// Silence after the last message that means nothing more will come.
const QUIET: Duration = Duration::from_millis(500);

/// One subscribing client with a durable session.
#[derive(Debug)]
pub struct Subscriber {
    got: Got,
    address: SocketAddr,
    connect: Connect,
    filters: Vec<&'static str>,
    /// Whether it is away until the publishers are done.
    is_late: bool,
    /// Messages after which it goes away for a while.
    leaves_after: usize,
    /// QoS 2 ids received and not yet released: what comes with one of them is a repeat.
    held: HashSet<u16>,
    ended: bool,
}

impl Subscriber {
    /// A subscriber that has not connected yet.
    pub fn new(name: &str, version: Version, qos: u8, address: SocketAddr) -> Subscriber {
        Subscriber {
            got: Got { name: name.to_owned(), qos, is_part: false, messages: Vec::new() },
            address,
            connect: Connect::new(version, name).durable(),
            filters: vec![FILTER],
            is_late: false,
            leaves_after: usize::MAX,
            held: HashSet::new(),
            ended: false,
        }
    }

    /// It is away until the publishers are done.
    pub fn late(self) -> Subscriber {
        Subscriber { is_late: true, ..self }
    }

    /// It gets a part of what is published; somebody else has the rest.
    pub fn in_part(mut self) -> Subscriber {
        self.got.is_part = true;
        self
    }

    /// It shares what is published with the others of this kind, and goes away again and again.
    pub fn sharing(self) -> Subscriber {
        Subscriber { filters: vec![SHARED, END], leaves_after: 300, ..self.in_part() }
    }

    /// Makes the session.
    pub fn subscribe(&self) {
        let mut client = Client::connect(self.address, &self.connect);
        for filter in &self.filters {
            assert_eq!(client.subscribe(filter, self.got.qos), self.got.qos);
        }
    }

    /// Receives until the last message and what may come behind it, however often the broker goes away.
    pub fn run(mut self, run: &Run) -> Got {
        while self.is_late && !run.is_draining() && !run.is_aborted() {
            thread::sleep(ABSENCE);
        }
        while let Ok(client) = run.connect(self.address, &self.connect) {
            let present = client.connack.session_present;
            assert!(present, "the session of {} is lost", self.got.name);
            match self.receive_on(client, run) {
                Err(Lost::Closed) => {}
                Ok(()) | Err(Lost::Silent) => break,
            }
        }
        self.got
    }

    fn receive_on(&mut self, mut client: Client, run: &Run) -> Result<(), Lost> {
        let leaves_at = self.got.messages.len().saturating_add(self.leaves_after);
        loop {
            if self.got.messages.len() >= leaves_at && !run.is_draining() {
                drop(client);
                thread::sleep(ABSENCE);
                return Err(Lost::Closed);
            }
            match client.try_recv(QUIET) {
                Ok(Packet::Publish(publish)) => self.received(publish, &mut client)?,
                Ok(Packet::Ack(ack)) if ack.kind == AckKind::PubRel => {
                    self.held.remove(&ack.id);
                    client.try_send_ack(AckKind::PubComp, ack.id)?;
                }
                Ok(Packet::Disconnect { .. }) => return Err(Lost::Closed),
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
            self.ended |= publish.topic == END;
            self.got.messages.push((publish.topic.clone(), publish.text()));
        }
        match publish.qos {
            1 => client.try_send_ack(AckKind::PubAck, publish.id),
            2 => client.try_send_ack(AckKind::PubRec, publish.id),
            _ => panic!("published at QoS 1 or 2, got {publish:?}"),
        }
    }
}

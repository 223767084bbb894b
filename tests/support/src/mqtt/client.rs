//! A client that does what its script says and nothing by itself: no hidden ping, no hidden
//! acknowledgement, no hidden reconnect. Every wait ends at a deadline.

use super::packet::{Ack, AckKind, ConnAck, Connect, Packet, Prop, Publish, Version};
use super::wire;
use crate::PATIENCE;
use crate::stream::Duplex;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Why no packet came.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// Not in time; the connection is open.
    Silent,
    /// The server closed the connection.
    Closed,
}

/// One connection to the broker.
#[derive(Debug)]
pub struct Client {
    stream: Box<dyn Duplex>,
    version: Version,
    inbound: Vec<u8>,
    /// Read while the script waited for something else, in order.
    set_aside: VecDeque<Packet>,
    last_id: u16,
    /// What the server answered to CONNECT.
    pub connack: ConnAck,
}

impl Client {
    /// Connects; `Err` when the server is not there or goes away before its CONNACK.
    pub fn try_connect(address: SocketAddr, connect: &Connect) -> Result<Client, Lost> {
        let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
            return Err(Lost::Closed);
        };
        stream.set_nodelay(true).expect("an open socket");
        Client::try_over(stream, connect)
    }

    /// Says CONNECT on this stream; `Err` when the server goes away before its CONNACK.
    pub fn try_over(stream: impl Duplex + 'static, connect: &Connect) -> Result<Client, Lost> {
        let mut client = Client::on(stream, connect.version);
        client.try_send(&wire::connect(connect))?;
        match client.try_recv(PATIENCE)? {
            Packet::ConnAck(connack) => client.connack = connack,
            other => panic!("CONNACK comes first, not {other:?}"),
        }
        Ok(client)
    }

    /// Connects; the server must be there, but may refuse (see [`Client::connack`]).
    #[track_caller]
    pub fn connect(address: SocketAddr, connect: &Connect) -> Client {
        match Client::try_connect(address, connect) {
            Ok(client) => client,
            Err(lost) => panic!("no CONNACK from {address}: {lost:?}"),
        }
    }

    /// Says CONNECT on this stream; the server must answer, but may refuse (see [`Client::connack`]).
    #[track_caller]
    pub fn over(stream: impl Duplex + 'static, connect: &Connect) -> Client {
        match Client::try_over(stream, connect) {
            Ok(client) => client,
            Err(lost) => panic!("no CONNACK: {lost:?}"),
        }
    }

    /// A bare connection on which nothing has been said.
    #[track_caller]
    pub fn bare(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        stream.set_nodelay(true).expect("an open socket");
        Client::on(stream, version)
    }

    /// A client on this stream, on which it has said nothing of MQTT.
    pub fn on(stream: impl Duplex + 'static, version: Version) -> Client {
        Client {
            stream: Box::new(stream),
            version,
            inbound: Vec::new(),
            set_aside: VecDeque::new(),
            last_id: 0,
            connack: ConnAck { session_present: false, code: 0, props: Vec::new() },
        }
    }

    // ---- sending ----

    /// Sends these bytes; `Err` when the connection is gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.stream.write_all(bytes).map_err(|_| Lost::Closed)
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("an open connection");
    }

    /// Sends PUBLISH as it is; `Err` when the connection is gone.
    pub fn try_send_publish(&mut self, publish: &Publish) -> Result<(), Lost> {
        self.try_send(&wire::publish(self.version, publish))
    }

    /// Sends PUBLISH as it is, and does not wait for the answer.
    #[track_caller]
    pub fn send_publish(&mut self, publish: &Publish) {
        self.send(&wire::publish(self.version, publish));
    }

    /// Sends an acknowledgement; `Err` when the connection is gone.
    pub fn try_send_ack(&mut self, kind: AckKind, id: u16) -> Result<(), Lost> {
        self.try_send(&wire::ack(kind, id))
    }

    /// Sends an acknowledgement.
    #[track_caller]
    pub fn send_ack(&mut self, kind: AckKind, id: u16) {
        self.send(&wire::ack(kind, id));
    }

    /// Says goodbye with this reason and closes.
    #[track_caller]
    pub fn disconnect_with(mut self, reason: u8, props: &[Prop]) {
        self.send(&wire::disconnect(self.version, reason, props));
        // A server that has read the DISCONNECT closes; waiting for it makes "after" certain.
        let deadline = Instant::now() + PATIENCE;
        while self.try_recv(PATIENCE) != Err(Lost::Closed) {
            assert!(Instant::now() < deadline, "not closed after DISCONNECT");
        }
    }

    /// Says goodbye and closes.
    #[track_caller]
    pub fn disconnect(self) {
        self.disconnect_with(0, &[]);
    }

    // ---- receiving ----

    /// The next packet, waiting at most so long.
    ///
    /// Panics when the server breaks the protocol.
    pub fn try_recv(&mut self, wait: Duration) -> Result<Packet, Lost> {
        match self.set_aside.pop_front() {
            Some(packet) => Ok(packet),
            None => self.read_packet(Instant::now() + wait),
        }
    }

    fn read_packet(&mut self, deadline: Instant) -> Result<Packet, Lost> {
        loop {
            match wire::take_packet(self.version, &mut self.inbound) {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => self.read_more(deadline)?,
                Err(malformed) => panic!("the server broke the protocol: {}", malformed.0),
            }
        }
    }

    fn read_more(&mut self, deadline: Instant) -> Result<(), Lost> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Lost::Silent);
        }
        self.stream.wait_at_most(left).expect("a timeout that is not zero");
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Lost::Closed),
            Ok(count) => {
                self.inbound.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Lost::Silent),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Lost::Closed),
        }
    }

    /// The next packet as it came, byte for byte.
    #[track_caller]
    pub fn recv_bytes(&mut self) -> Vec<u8> {
        assert!(self.set_aside.is_empty(), "read before: {:?}", self.set_aside);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(length) = wire::packet_length(&self.inbound) {
                return self.inbound.drain(..length).collect();
            }
            if let Err(lost) = self.read_more(deadline) {
                panic!("a packet was due: {lost:?}; came {:02x?}", self.inbound);
            }
        }
    }

    /// The next packet, which must be these bytes.
    #[track_caller]
    pub fn expect_bytes(&mut self, due: &[u8]) {
        let came = self.recv_bytes();
        assert_eq!(came, due, "came {came:02x?}, due {due:02x?}");
    }

    /// The next packet.
    #[track_caller]
    pub fn recv(&mut self) -> Packet {
        match self.try_recv(PATIENCE) {
            Ok(packet) => packet,
            Err(lost) => panic!("a packet was due: {lost:?}"),
        }
    }

    /// The first packet that `wanted` turns into something; what comes before it is kept for
    /// later, in order.
    #[track_caller]
    pub fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
        for place in 0..self.set_aside.len() {
            if let Some(found) = wanted(&self.set_aside[place]) {
                self.set_aside.remove(place);
                return found;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read_packet(deadline) {
                Ok(packet) => match wanted(&packet) {
                    Some(found) => return found,
                    None => self.set_aside.push_back(packet),
                },
                Err(lost) => panic!("{what} was due: {lost:?}; set aside {:?}", self.set_aside),
            }
        }
    }

    /// Waits for this acknowledgement of this id and gives its reason code.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: AckKind, id: u16) -> u8 {
        self.expect(&format!("{kind:?} {id}"), |packet| match packet {
            Packet::Ack(ack) if (ack.kind, ack.id) == (kind, id) => Some(ack.reason),
            _ => None,
        })
    }

    /// The next PUBLISH, which must be the next packet; not acknowledged.
    #[track_caller]
    pub fn expect_publish(&mut self) -> Publish {
        match self.recv() {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH was due, came {other:?}"),
        }
    }

    /// The next PUBLISH, acknowledged as its QoS asks.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let publish = self.expect("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        });
        match publish.qos {
            0 => {}
            1 => self.send_ack(AckKind::PubAck, publish.id),
            _ => {
                self.send_ack(AckKind::PubRec, publish.id);
                self.expect_ack(AckKind::PubRel, publish.id);
                self.send_ack(AckKind::PubComp, publish.id);
            }
        }
        publish
    }

    /// Takes PUBLISHes, acknowledging each, up to and with the one that has this payload, and
    /// gives the payloads before it.
    #[track_caller]
    pub fn take_until(&mut self, last_payload: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let text = self.take().text();
            if text == last_payload {
                return before;
            }
            before.push(text);
        }
    }

    /// Waits until the server closes, and gives the reason code of the DISCONNECT before it,
    /// if there was one. Anything else that comes is a fault.
    #[track_caller]
    pub fn expect_closed(&mut self) -> Option<u8> {
        let mut reason = None;
        loop {
            match self.try_recv(PATIENCE) {
                Err(Lost::Closed) => return reason,
                Ok(Packet::Disconnect { reason: given, .. }) if reason.is_none() => {
                    reason = Some(given);
                }
                other => panic!("the connection was to be closed, came {other:?}"),
            }
        }
    }

    // ---- exchanges ----

    /// Publishes and completes the handshake of the message's QoS; gives the last reason code.
    #[track_caller]
    pub fn publish(&mut self, publish: Publish) -> u8 {
        let mut publish = publish;
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.fresh_id();
        }
        let id = publish.id;
        self.send_publish(&publish);
        match publish.qos {
            0 => 0,
            1 => self.expect_ack(AckKind::PubAck, id),
            _ => {
                let reason = self.expect_ack(AckKind::PubRec, id);
                if reason >= 0x80 {
                    return reason;
                }
                self.send_ack(AckKind::PubRel, id);
                self.expect_ack(AckKind::PubComp, id)
            }
        }
    }

    /// Subscribes to one filter, with its options byte; gives the code of the SUBACK.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(&[(filter, options)], &[])[0]
    }

    /// Subscribes to several filters with properties; gives the codes of the SUBACK.
    #[track_caller]
    pub fn subscribe_with(&mut self, filters: &[(&str, u8)], props: &[Prop]) -> Vec<u8> {
        let asked = self.fresh_id();
        self.send(&wire::subscribe(self.version, asked, filters, props));
        let codes = self.expect("SUBACK", |packet| match packet {
            Packet::SubAck { id, codes } if *id == asked => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), filters.len(), "one code for each filter");
        codes
    }

    /// Unsubscribes from one filter.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: &str) {
        let asked = self.fresh_id();
        self.send(&wire::unsubscribe(self.version, asked, filter));
        self.expect("UNSUBACK", |packet| match packet {
            Packet::UnsubAck { id, .. } if *id == asked => Some(()),
            _ => None,
        });
    }

    /// PINGREQ and its answer. What the server had sent before is set aside.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        self.expect("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }

    /// What the server has sent by the time it answers a ping: each PUBLISH among it.
    #[track_caller]
    pub fn sent_so_far(&mut self) -> Vec<Publish> {
        self.ping();
        let publishes = self.set_aside.iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            Packet::Ack(Ack { .. }) => None,
            other => panic!("unasked {other:?}"),
        });
        let publishes = publishes.collect();
        self.set_aside.clear();
        publishes
    }

    fn fresh_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).expect("a script is short");
        self.last_id
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, Lost};
    use crate::mqtt::{AckKind, Connect, Publish};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread::{self, JoinHandle};

    /// A server that plays its part of a transcript: reads exactly, then answers.
    fn server(parts: Vec<(&'static [u8], &'static [u8])>) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let play = move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for (heard, answer) in parts {
                let mut buffer = vec![0; heard.len()];
                stream.read_exact(&mut buffer).expect("the client's part");
                assert_eq!(buffer, heard);
                stream.write_all(answer).expect("an open connection");
            }
        };
        (address, thread::spawn(play))
    }

    const CONNECT: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a";

    #[test]
    fn a_transcript_with_packets_that_cross() {
        let (address, server) = server(vec![
            (CONNECT, b"\x20\x02\0\0"),
            // A message arrives before the SUBACK, cut in two.
            (b"\x82\x06\0\x01\0\x01#\x01", b"\x32\x06\0\x01t\0\x09"),
            (b"", b"x\x90\x03\0\x01\x01"),
            (b"\x40\x02\0\x09", b""),
            (b"\x34\x06\0\x01t\0\x02y", b"\x50\x02\0\x02"),
            (b"\x62\x02\0\x02", b"\x70\x02\0\x02"),
        ]);
        let mut client = Client::connect(address, &Connect::v311("a"));
        assert_eq!(client.subscribe("#", 1), 1);
        let got = client.take();
        assert_eq!((got.id, got.text().as_str()), (9, "x"));
        assert_eq!(client.publish(Publish::new("t", "y").qos(2)), 0);
        assert_eq!(client.expect_closed(), None);
        server.join().expect("the server's part is played");
    }

    #[test]
    fn what_is_lost_is_told_apart() {
        let (address, server) =
            server(vec![(CONNECT, b"\x20\x02\x01\0"), (b"\xC0\0", b"\xD0\0"), (b"\x40\x02\0\x01", b"")]);
        let mut client = Client::connect(address, &Connect::v311("a"));
        assert!(client.connack.session_present);
        let moment = std::time::Duration::from_millis(1);
        assert_eq!(client.try_recv(moment), Err(Lost::Silent));
        assert!(client.sent_so_far().is_empty());
        client.send_ack(AckKind::PubAck, 1);
        assert_eq!(client.try_recv(crate::PATIENCE), Err(Lost::Closed));
        server.join().expect("the server's part is played");
    }
}

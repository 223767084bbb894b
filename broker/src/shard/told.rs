//! What a client is told of itself: CONNACK, DISCONNECT and, where it did not get its way, why. A reason string never
//! makes a packet larger than the client takes, and is not for who wants no problem information [MQTT-3.1.2-29].

use crate::codec::{
    Ack, ConnAck, Connect, ReasonCode, Version, encode_ack, encode_disconnect, encode_suback, encode_suback_with,
};
use crate::config::Config;
use crate::listener::Client;
use crate::response_information;
use crate::session::{Close, Link};

use super::Shard;

/// The largest packet that the client of this CONNECT takes.
pub(super) fn packet_bytes_max(connect: &Connect<'_>) -> usize {
    connect.maximum_packet_size.map_or(usize::MAX, |bytes| bytes as usize)
}

impl Shard {
    /// The CONNACK of a client that is let in; without response information where that makes it too large.
    pub(super) fn connack(&self, connect: &Connect<'_>, client: &Client, present: bool) -> Box<[u8]> {
        let limits = &client.listener.clients;
        let asked = connect.request_response_information;
        let information = asked.then_some(&client.listener.response_information).and_then(|template| {
            let user = client.identity.name().or(connect.username);
            response_information::of(template, &client.id, user)
        });
        let ack = ConnAck {
            session_present: present,
            receive_maximum: Some(limits.receive_maximum),
            maximum_packet_size: Some(limits.max_packet_size),
            assigned_client_id: client.assigned.then_some(&client.id),
            maximum_qos: limits.max_qos,
            retain_available: limits.retain_available,
            wildcard_subscription_available: limits.wildcard_subscriptions,
            shared_subscription_available: limits.shared_subscriptions,
            topic_alias_maximum: limits.topic_alias_maximum,
            server_keep_alive_s: limits.keep_alive_s(connect).filter(|told| *told != connect.keep_alive_s),
            response_information: information.as_deref(),
            ..ConnAck::new(ReasonCode::Success)
        };
        let mut packet = Vec::new();
        ack.encode(&mut packet, connect.version);
        if packet.len() > packet_bytes_max(connect) && ack.response_information.is_some() {
            packet.clear();
            ConnAck { response_information: None, ..ack }.encode(&mut packet, connect.version);
        }
        packet.into()
    }

    /// The CONNACK of a client that is not: where there are too many others, it may name another server.
    pub(super) fn refusal(&self, connect: &Connect<'_>, client: &Client, reason: ReasonCode, why: &str) -> Box<[u8]> {
        let server = &*self.config.of(&client.listener).server_reference;
        let is_busy = matches!(reason, ReasonCode::QuotaExceeded | ReasonCode::ServerBusy);
        // Whose session it is, and what has become of a user, is no stranger's affair.
        let is_told = !matches!(reason, ReasonCode::NotAuthorized | ReasonCode::ClientIdentifierNotValid);
        let mut ack = ConnAck::new(reason);
        ack.reason_string = is_told.then_some(why);
        if is_busy && !server.is_empty() {
            (ack.reason, ack.server_reference) = (ReasonCode::UseAnotherServer, Some(server));
        }
        let bare = ConnAck::new(ack.reason);
        let mut packet = Vec::new();
        for ack in [ack, ConnAck { reason_string: None, ..ack }, bare] {
            packet.clear();
            ack.encode(&mut packet, connect.version);
            if packet.len() <= packet_bytes_max(connect) {
                break;
            }
        }
        packet.into()
    }
}

impl Link {
    /// Everything it still has to write, a 5.0 DISCONNECT with the reason for its end included; who is closed because
    /// the server ends may be told of another one.
    pub fn farewell(&mut self, config: &Config) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.outbox);
        let (mut reason, why) = match &self.closing {
            Some(Close::ByServer(reason, why)) => (*reason, *why),
            Some(Close::Fault(reason, what)) => (*reason, what.as_str()),
            _ => return bytes,
        };
        // Nothing comes before CONNACK [MQTT-3.14.0-1].
        if self.version != Version::V5 || !self.ready {
            return bytes;
        }
        let mut server = Some(&*config.of(&self.listener).server_reference);
        server = server.filter(|server| reason == ReasonCode::ServerShuttingDown && !server.is_empty());
        if server.is_some() {
            reason = ReasonCode::UseAnotherServer;
        }
        let start = bytes.len();
        // No text may make it too large [MQTT-3.14.2-3].
        for (why, server) in [(Some(why), server), (None, server), (None, None)] {
            bytes.truncate(start);
            encode_disconnect(&mut bytes, reason, why, server);
            if bytes.len() - start <= self.packet_bytes_max {
                break;
            }
        }
        bytes
    }

    /// Appends an acknowledgement of ours, with the reason if it is a refusal.
    pub(super) fn put_ack(&self, out: &mut Vec<u8>, ack: Ack) {
        let start = out.len();
        encode_ack(out, self.version, ack, self.reason_string(ack.reason));
        if out.len() - start > self.packet_bytes_max {
            out.truncate(start);
            encode_ack(out, self.version, ack, None);
        }
    }

    /// Appends a SUBACK, with the reason of the first refusal in it. Without, it is known to fit.
    pub(super) fn put_suback(&self, out: &mut Vec<u8>, packet_id: u16, reasons: &[ReasonCode]) {
        let refused = reasons.iter().find(|reason| reason.is_error());
        let start = out.len();
        if let Some(why) = refused.and_then(|reason| self.reason_string(*reason)) {
            encode_suback_with(out, packet_id, reasons, why);
            if out.len() - start <= self.packet_bytes_max {
                return;
            }
            out.truncate(start);
        }
        encode_suback(out, self.version, packet_id, reasons.iter().copied());
    }

    fn reason_string(&self, reason: ReasonCode) -> Option<&'static str> {
        let is_told = reason.is_error() && self.problem_information && self.version == Version::V5;
        is_told.then(|| explained(reason)).flatten()
    }
}

/// What an acknowledgement's refusal means here.
fn explained(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::NotAuthorized => "this client has no right to it, or nobody has",
        ReasonCode::TopicNameInvalid => "the topic name is longer or deeper than this server allows",
        ReasonCode::TopicFilterInvalid => "the topic filter is longer or deeper than this server allows",
        ReasonCode::PacketIdentifierNotFound => "nothing is under way with this packet identifier",
        ReasonCode::QuotaExceeded => {
            "this server has no room for it: as much is there as it allows, or its disk is full"
        }
        ReasonCode::PayloadFormatInvalid => "the payload is not UTF-8, as its format indicator says",
        ReasonCode::SharedSubscriptionsNotSupported => "this server has no shared subscriptions",
        ReasonCode::WildcardSubscriptionsNotSupported => "this server takes no filters with wildcards",
        _ => return None,
    })
}

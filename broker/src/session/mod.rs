//! What the server knows of a client, connected or not. Pure: [`window`], [`queue`], [`rates`] and [`aliases`] are state
//! machines, the rest is data; `shard` moves it.

pub mod aliases;
pub mod queue;
pub mod rates;
pub mod subscriptions;
pub mod window;

use std::sync::Arc;
use std::task::Waker;

use ahash::HashMap;
use bridge::Ticket;

use crate::codec::{Connect, QoS, ReasonCode, Version};
use crate::config::{ClientLimits, ListenerConfig};
use crate::router::SessionRef;

use aliases::Aliases;
use queue::Queue;
use rates::Rates;
use subscriptions::Subscriptions;
use window::Window;

/// Session expiry that never comes.
pub const NEVER: u32 = u32::MAX;

/// What a queue entry keeps of a delivery: QoS in bits 0 and 1, retain in 2, whether it came by a shared subscription
/// in 3; from 4 that one's [`share_key`], else the Subscription Identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u32);

/// Tells a shared subscription from the others of a session (S7), in 28 bits and never 0. It is stored, so it must stay
/// what it is: FNV-1a. Two of one session that have the same are as likely as one in 2^28.
pub fn share_key(group: &str, filter: &str) -> u32 {
    let bytes = group.bytes().chain([b'/']).chain(filter.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash ^ hash >> 28) & 0x0fff_ffff).max(1)
}

impl Tag {
    /// `id` is 0 for none, and under 2^28.
    pub fn new(qos: QoS, retain: bool, id: u32) -> Tag {
        Tag(qos as u32 | u32::from(retain) << 2 | id << 4)
    }

    /// Of a shared subscription.
    pub fn shared(qos: QoS, retain: bool, key: u32) -> Tag {
        Tag(Tag::new(qos, retain, key).0 | 8)
    }

    /// Effective QoS.
    pub fn qos(self) -> QoS {
        QoS::from_bits((self.0 & 3) as u8).unwrap_or(QoS::AtMostOnce)
    }

    /// The retain flag to send.
    pub fn retain(self) -> bool {
        self.0 & 4 != 0
    }

    /// Subscription Identifier, unless it came by a shared one.
    pub fn id(self) -> Option<u32> {
        Some(self.0 >> 4).filter(|id| *id != 0 && self.share().is_none())
    }

    /// The key of the shared subscription that it came by.
    pub fn share(self) -> Option<u32> {
        (self.0 & 8 != 0).then_some(self.0 >> 4)
    }
}

/// Whether an expiry time (0 never) has come.
pub fn now_before(expires_s: u32, now_s: u32) -> bool {
    expires_s != 0 && expires_s <= now_s
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// What all shards may know.
    pub me: Arc<SessionRef>,
    /// That it is there is durable with this ticket.
    pub made: Ticket,
    /// What it subscribed to.
    pub subscriptions: Subscriptions,
    /// QoS 2 received and not released, with the ticket of its frame (S4).
    pub inbound: HashMap<u16, Ticket>,
    /// QoS 1 and 2 on their way to the client.
    pub out: Out,
    /// The client, while it is there.
    pub link: Option<Link>,
    /// Seconds it outlives its connection; 0 not at all.
    pub expiry_s: u32,
    /// To be published when the client is lost.
    pub will: Option<Will>,
    /// User name, if it gave one.
    pub user: Option<Box<str>>,
    /// When it ends, in milliseconds of the process, while the client is away.
    pub ends_at_ms: Option<u64>,
    /// When its will is published, in milliseconds of the process, while the client is away.
    pub will_at_ms: Option<u64>,
    /// Reads of its queue are waiting for the disk.
    pub cold: bool,
    /// What it sent and got.
    pub traffic: Traffic,
}

/// What a session's client sent and got, over all its connections since the process started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// PUBLISH packets received.
    pub messages_in: u64,
    /// PUBLISH packets put into its output buffer.
    pub messages_out: u64,
    /// Bytes of packets received, CONNECT excepted.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// How QoS 1 and 2 go out.
#[derive(Debug)]
pub enum Out {
    /// The session ends with its connection.
    Window(Window),
    /// It is durable.
    Queue(Queue),
}

/// A subscription's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Maximum QoS granted.
    pub qos: QoS,
    /// Not what the session published itself.
    pub no_local: bool,
    /// Keep the retain flag.
    pub retain_as_published: bool,
    /// Subscription Identifier.
    pub id: Option<u32>,
}

/// A will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: Box<str>,
    /// Payload.
    pub payload: Box<[u8]>,
    /// QoS.
    pub qos: QoS,
    /// Retain.
    pub retain: bool,
    /// Seconds after the client was lost.
    pub delay_s: u32,
    /// Encoded properties to forward.
    pub properties: Box<[u8]>,
    /// Lifetime from its publication.
    pub expiry_s: Option<u32>,
}

impl Will {
    /// As a CONNECT has it.
    pub fn of(connect: &Connect<'_>) -> Option<Will> {
        connect.will.map(|will| Will {
            topic: will.topic.into(),
            payload: will.payload.into(),
            qos: will.qos,
            retain: will.retain,
            delay_s: will.delay_s,
            properties: will.properties.forwardable().into(),
            expiry_s: will.properties.message_expiry_s,
        })
    }
}

/// A session's connection, as its shard sees it. The connection's task moves the bytes.
#[derive(Debug)]
pub struct Link {
    /// Never given twice.
    pub id: u64,
    /// Peer address, for the log.
    pub peer: Arc<str>,
    /// When it was let in, in seconds since 1970.
    pub since_s: u32,
    /// What it speaks.
    pub version: Version,
    /// Its CONNACK is in the outbox: others may follow.
    pub ready: bool,
    /// To be written.
    pub outbox: Vec<u8>,
    /// Taken from the outbox and not written yet.
    pub unwritten_bytes: usize,
    /// The task, when it waits.
    pub waker: Option<Waker>,
    /// Why it is to be closed, once the outbox is written.
    pub closing: Option<Close>,
    /// 0 off.
    pub keep_alive_s: u16,
    /// When it last said a whole packet, or got on with a large one, in milliseconds of the process.
    pub heard_ms: u64,
    /// Bytes of an unfinished packet that had come by then.
    pub begun_bytes: usize,
    /// The largest packet it takes.
    pub packet_bytes_max: usize,
    /// Acknowledgements that wait for their commit.
    pub held: usize,
    /// QoS 1 and 2 messages it sent on this connection that are not acknowledged to the end.
    pub unanswered: u16,
    /// Topic aliases it set.
    pub aliases: HashMap<u16, Box<str>>,
    /// Topic aliases we set for it, if it allows any.
    pub outbound_aliases: Option<Box<Aliases>>,
    /// Where it came in, as it was set then: it was told at CONNACK, whatever a reload makes of it.
    pub listener: Arc<ListenerConfig>,
    /// Only this machine can come in there.
    pub loopback: bool,
    /// The topic it published to last, if it may, and the rights' generation that said so.
    pub may_publish: Option<(u64, Box<str>)>,
    /// Not to be read until the journal has caught up.
    pub stalled: bool,
    /// It said something that has to be written while the journal was behind: so it may again, and is not read then.
    pub writes: bool,
    /// Not to be read until there is room on the disk: its next message has to be written.
    pub waits_for_disk: bool,
    /// What it is held to, if to any rate.
    pub rates: Option<Box<Rates>>,
    /// Whether it wants reason strings (3.1.2.11.7).
    pub problem_information: bool,
    /// Limits it reached, by their bit: the log has them once.
    pub told: u32,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client said so; whether its will is to be published.
    ByClient {
        /// DISCONNECT with reason 0x04.
        with_will: bool,
    },
    /// The server says why; in 5.0 by a DISCONNECT.
    ByServer(ReasonCode, &'static str),
    /// The client broke the protocol.
    Fault(ReasonCode, String),
    /// The connection was lost.
    Lost(String),
}

impl Link {
    /// What its client is held to.
    pub fn limits(&self) -> &ClientLimits {
        &self.listener.clients
    }

    /// Bytes that wait to be written.
    pub fn backlog_bytes(&self) -> usize {
        self.outbox.len() + self.unwritten_bytes
    }

    /// Lets the task run, if it waits.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

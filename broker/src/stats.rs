//! What the broker counts. Each shard counts in plain numbers and shows them once a turn; what would have to be
//! kept up with at every message it sums up once a second ([`Depths`]).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::codec::{QoS, ReasonCode};
use crate::dead_letter::Reason;
use crate::router::SessionRef;
use crate::session::{Close, Link, Out, Session};

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $key:literal,)*) => {
        /// A limit that a client can reach.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $($(#[$doc])* $name,)* }

        impl Limit {
            /// All of them, in their order.
            pub const ALL: &[Limit] = &[$(Limit::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Limit::ALL.len();

            /// The name of the setting.
            pub fn key(self) -> &'static str {
                match self { $(Limit::$name => $key,)* }
            }

            /// Why a client with a will beyond it is not let in.
            pub fn said_of_a_will(self) -> &'static str {
                match self { $(Limit::$name => concat!("its will is not within ", $key),)* }
            }
        }
    };
}

limits! {
    /// One more connection.
    MaxConnections = "max_connections",
    /// A packet.
    MaxPacketSize = "max_packet_size",
    /// QoS 1 and 2 messages under way.
    ReceiveMaximum = "receive_maximum",
    /// A topic alias above it.
    TopicAliasMaximum = "topic_alias_maximum",
    /// A QoS above it.
    MaxQos = "max_qos",
    /// A message to be retained.
    RetainAvailable = "retain_available",
    /// A filter with wildcards.
    WildcardSubscriptions = "wildcard_subscriptions",
    /// `$share/`.
    SharedSubscriptions = "shared_subscriptions",
    /// A topic name or filter.
    MaxTopicBytes = "max_topic_bytes",
    /// A topic name or filter.
    MaxTopicLevels = "max_topic_levels",
    /// One more subscription.
    MaxSubscriptions = "max_subscriptions",
    /// A keep alive below it, above `max_keepalive_s`, or none.
    KeepAlive = "keepalive_s",
    /// A pause, for too many PUBLISH packets.
    MaxMessageRate = "max_message_rate",
    /// A pause, for too many bytes.
    MaxByteRate = "max_byte_rate",
    /// A new client, for lack of memory.
    MaxBufferedBytes = "max_buffered_bytes",
    /// A payload that is not UTF-8.
    CheckPayloadFormat = "check_payload_format",
}

macro_rules! counts {
    (sum { $($(#[$doc:meta])* $name:ident),* $(,)? } max { $($(#[$max_doc:meta])* $max:ident),* $(,)? }) => {
        /// A shard's own counts.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$max_doc])* pub $max: u64,)*
            /// Times that clients reached each [`Limit`].
            pub limits: [u64; Limit::COUNT],
            /// Dead letters for each [`Reason`].
            pub dead_letters: [u64; Reason::COUNT],
        }

        /// The counts as others may read them.
        #[derive(Debug, Default)]
        pub struct Shown {
            $($(#[$doc])* pub $name: AtomicU64,)*
            $($(#[$max_doc])* pub $max: AtomicU64,)*
            /// Times that clients reached each [`Limit`].
            pub limits: [AtomicU64; Limit::COUNT],
            /// Dead letters for each [`Reason`].
            pub dead_letters: [AtomicU64; Reason::COUNT],
        }

        impl Shown {
            /// Makes a shard's counts visible.
            pub fn show(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)*
                $(self.$max.store(counts.$max, Ordering::Relaxed);)*
                self.limits.iter().zip(counts.limits).for_each(|(shown, n)| shown.store(n, Ordering::Relaxed));
                let letters = self.dead_letters.iter().zip(counts.dead_letters);
                letters.for_each(|(shown, n)| shown.store(n, Ordering::Relaxed));
            }

            /// What is visible.
            pub fn read(&self) -> Counts {
                let mut counts = Counts::default();
                self.add_to(&mut counts);
                counts
            }

            /// Adds what is visible to `sum`.
            pub fn add_to(&self, sum: &mut Counts) {
                $(sum.$name += self.$name.load(Ordering::Relaxed);)*
                $(sum.$max = sum.$max.max(self.$max.load(Ordering::Relaxed));)*
                sum.limits.iter_mut().zip(&self.limits).for_each(|(sum, n)| *sum += n.load(Ordering::Relaxed));
                let letters = sum.dead_letters.iter_mut().zip(&self.dead_letters);
                letters.for_each(|(sum, n)| *sum += n.load(Ordering::Relaxed));
            }
        }
    };
}

counts! {
    sum {
        /// Clients connected now.
        connected,
        /// CONNECTs accepted.
        connects,
        /// Connections closed for a fault of the client's.
        faults,
        /// Connections that ended with a DISCONNECT of the client's.
        closed_by_client,
        /// Connections that were lost.
        closed_lost,
        /// Connections closed: silent for longer than their keep alive.
        closed_keep_alive,
        /// Connections closed: another one came with their client id.
        closed_taken_over,
        /// Connections closed for other reasons of the server's.
        closed_by_server,
        /// Refused: there are too many others.
        refused_busy,
        /// Refused: more came a second than may, and most of them from its address.
        refused_rate,
        /// Refused: its address has too many connections.
        refused_address,
        /// Refused: no proxy that is trusted, or it did not say for whom it connects.
        refused_proxy,
        /// Accepted later than they came, as more came a second than may.
        delayed,
        /// Refused: no CONNECT in time.
        refused_timeout,
        /// Refused: TLS or WebSocket did not come about.
        refused_handshake,
        /// Refused: it was closed before its CONNECT was whole, or did not begin with one.
        refused_no_connect,
        /// Refused: a version of MQTT that is not spoken.
        refused_version,
        /// Refused: who the client is, or says it is.
        refused_unauthorized,
        /// Refused: anything else about its CONNECT.
        refused_invalid,
        /// Packets received from clients that were let in, but for their CONNECT.
        packets_in,
        /// Packets put into output buffers, but for PUBLISH.
        packets_out,
        /// Sessions whose time was over.
        sessions_expired,
        /// PUBLISH packets received, QoS 0.
        received_qos0,
        /// PUBLISH packets received, QoS 1.
        received_qos1,
        /// PUBLISH packets received, QoS 2.
        received_qos2,
        /// Bytes of payloads received, QoS 0.
        received_bytes_qos0,
        /// Bytes of payloads received, QoS 1.
        received_bytes_qos1,
        /// Bytes of payloads received, QoS 2.
        received_bytes_qos2,
        /// PUBLISH packets sent, QoS 0.
        sent_qos0,
        /// PUBLISH packets sent, QoS 1.
        sent_qos1,
        /// PUBLISH packets sent, QoS 2.
        sent_qos2,
        /// Bytes of payloads sent, QoS 0.
        sent_bytes_qos0,
        /// Bytes of payloads sent, QoS 1.
        sent_bytes_qos1,
        /// Bytes of payloads sent, QoS 2.
        sent_bytes_qos2,
        /// PUBLISH packets received and not taken: their topic may not be published to by anyone.
        refused_topics,
        /// Bytes read from clients.
        bytes_in,
        /// Bytes written to clients.
        bytes_out,
        /// Milliseconds that clients were not read because they were too fast.
        paused_ms,
        /// Messages appended to the log.
        appended,
        /// Dropped: QoS 0 for a client that does not read.
        dropped_slow,
        /// Dropped: a queue was full.
        dropped_queue_full,
        /// Dropped: QoS 0 for a client with a backlog, while memory was scarce.
        dropped_memory_qos0,
        /// Dropped: beyond a client's fair share, while memory was scarce.
        dropped_memory_queued,
        /// Dropped: it expired in a queue.
        dropped_expired,
        /// Dropped: larger than the client takes.
        dropped_too_large,
        /// Dropped: what a queue pointed to could not be read.
        dropped_unreadable,
        /// Dropped: retained, and there was no room to queue it.
        dropped_disk_full,
        /// Dropped: its session ended before it could be sent.
        dropped_session_ended,
        /// Given up while the journal was too far behind, or the disk too full, for a dead letter.
        dead_letters_missed,
        /// Messages whose payload is not what it is said to be.
        refused_payloads,
        /// Messages, wills among them, that their publisher may not publish there.
        refused_rights,
        /// Dropped: its subscriber no longer may have it.
        dropped_rights,
        /// PUBLISH packets not taken: there is no place for more retained messages.
        refused_retained,
        /// PUBLISH packets that had to be written and were not taken, or had to wait, because the disk takes nothing.
        refused_disk_messages,
        /// QoS 0 messages that a rule maps and that are not in the log, for the same reason.
        refused_disk_qos0,
        /// QoS 0 messages that were to be retained and are not.
        refused_disk_retained,
        /// Subscriptions that were not made.
        refused_disk_subscriptions,
        /// Clients that were not let in.
        refused_disk_sessions,
        /// Messages not retained, those of `refused_retained` among them: `max_retained_messages`.
        not_retained_messages,
        /// The same: `max_retained_bytes`.
        not_retained_bytes,
        /// Retained messages whose lifetime was over.
        retained_expired,
        /// Durable sessions whose client is connected. This and all below once a second.
        durable_connected,
        /// Durable sessions whose client is away.
        durable_away,
        /// Sessions that end with their connection.
        passing_connected,
        /// Messages not sent yet in queues of durable sessions.
        queued_durable,
        /// Messages that wait for a place in the window of a session that ends with its connection.
        queued_passing,
        /// Bytes of those.
        queued_passing_bytes,
        /// QoS 1 and 2 messages sent to connected clients and not acknowledged.
        in_flight,
        /// Bytes that wait to be written to clients.
        outbox_bytes,
        /// Clients for which any of those wait.
        buffering,
        /// Clients that are not read now because they were too fast.
        paused,
        /// Clients that are not read now because their message has to be written and the disk is full.
        waiting_for_disk,
    }
    max {
        /// Messages of the longest queue, as `max_queued_messages` counts them.
        longest_queue,
        /// 1: more than `max_buffered_bytes` wait for clients, and messages are dropped; 2: twice as much.
        pressure,
    }
}

impl Counts {
    /// Packets of all kinds received from clients that were let in.
    pub fn packets_received(&self) -> u64 {
        self.packets_in + self.connects
    }

    /// Packets of all kinds sent to them.
    pub fn packets_sent(&self) -> u64 {
        self.packets_out + self.sent_qos0 + self.sent_qos1 + self.sent_qos2
    }

    /// Connections that were accepted, whatever became of them.
    pub fn accepted(&self) -> u64 {
        let refused = self.refused_busy + self.refused_timeout + self.refused_handshake + self.refused_no_connect;
        self.connects + refused + self.refused_version + self.refused_unauthorized + self.refused_invalid
    }

    /// A PUBLISH was received.
    #[inline]
    pub fn received(&mut self, qos: QoS, payload_bytes: usize) {
        let (messages, bytes) = match qos {
            QoS::AtMostOnce => (&mut self.received_qos0, &mut self.received_bytes_qos0),
            QoS::AtLeastOnce => (&mut self.received_qos1, &mut self.received_bytes_qos1),
            QoS::ExactlyOnce => (&mut self.received_qos2, &mut self.received_bytes_qos2),
        };
        *messages += 1;
        *bytes += payload_bytes as u64;
    }

    /// A PUBLISH was put into an output buffer.
    #[inline]
    pub fn sent(&mut self, qos: QoS, payload_bytes: usize) {
        let (messages, bytes) = match qos {
            QoS::AtMostOnce => (&mut self.sent_qos0, &mut self.sent_bytes_qos0),
            QoS::AtLeastOnce => (&mut self.sent_qos1, &mut self.sent_bytes_qos1),
            QoS::ExactlyOnce => (&mut self.sent_qos2, &mut self.sent_bytes_qos2),
        };
        *messages += 1;
        *bytes += payload_bytes as u64;
    }

    /// A connection ended, for this reason.
    pub fn closed(&mut self, why: &Close) {
        *match why {
            Close::ByClient { .. } => &mut self.closed_by_client,
            Close::Lost(_) => &mut self.closed_lost,
            Close::Fault(..) => &mut self.faults,
            Close::ByServer(ReasonCode::KeepAliveTimeout, _) => &mut self.closed_keep_alive,
            Close::ByServer(ReasonCode::SessionTakenOver, _) => &mut self.closed_taken_over,
            Close::ByServer(..) => &mut self.closed_by_server,
        } += 1;
    }

    /// A connection was refused, with this reason if its client could be told one.
    pub fn refused(&mut self, told: Option<ReasonCode>) {
        *match told {
            None => &mut self.refused_no_connect,
            Some(ReasonCode::QuotaExceeded | ReasonCode::ServerBusy) => &mut self.refused_busy,
            Some(ReasonCode::UnsupportedProtocolVersion) => &mut self.refused_version,
            Some(
                ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized | ReasonCode::BadAuthenticationMethod,
            ) => &mut self.refused_unauthorized,
            Some(_) => &mut self.refused_invalid,
        } += 1;
    }
}

/// Why a message that was due to a session is not sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// QoS 0, and its client does not read.
    SlowClient,
    /// Its queue is full.
    QueueFull,
    /// The message expired while it waited.
    Expired,
    /// Its client takes no packet of this size.
    TooLarge,
    /// The log did not give it back.
    Unreadable,
    /// It no longer may have it.
    Rights,
    /// QoS 0, and its client has a backlog while memory is scarce.
    MemoryQos0,
    /// It has more than its share while memory is scarce.
    MemoryQueued,
    /// It would have to be stored for it.
    DiskFull,
}

/// What a session was not sent.
#[derive(Debug, Default)]
pub struct Drops([AtomicU32; 9]);

impl Drops {
    /// How many for which reason, as metrics name it.
    pub fn by_reason(&self) -> [(&'static str, u32); 9] {
        let names = [
            "slow_client",
            "queue_full",
            "expired",
            "too_large",
            "unreadable",
            "rights",
            "memory_qos0",
            "memory_queued",
            "disk_full",
        ];
        let mut counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        names.map(|name| (name, counts.next().unwrap_or(0)))
    }
}

impl Counts {
    /// A message was due to a session, of any shard, and is never sent to it.
    pub fn dropped(&mut self, why: Dropped, session: &SessionRef) {
        self.dropped_many(why, 1, session);
    }

    /// Several were, for the same reason.
    pub fn dropped_many(&mut self, why: Dropped, messages: usize, session: &SessionRef) {
        *match why {
            Dropped::SlowClient => &mut self.dropped_slow,
            Dropped::QueueFull => &mut self.dropped_queue_full,
            Dropped::Expired => &mut self.dropped_expired,
            Dropped::TooLarge => &mut self.dropped_too_large,
            Dropped::Unreadable => &mut self.dropped_unreadable,
            Dropped::Rights => &mut self.dropped_rights,
            Dropped::MemoryQos0 => &mut self.dropped_memory_qos0,
            Dropped::MemoryQueued => &mut self.dropped_memory_queued,
            Dropped::DiskFull => &mut self.dropped_disk_full,
        } += messages as u64;
        session.drops.0[why as usize].fetch_add(messages as u32, Ordering::Relaxed);
    }
}

/// What a shard's sessions hold, summed up while it looks at each of them anyway.
#[derive(Debug, Default)]
pub struct Depths(Counts);

impl Depths {
    /// Adds one session; a few numbers that it has at hand.
    pub fn add(&mut self, session: &Session) {
        let Depths(sum) = self;
        let connected = session.link.is_some();
        *match (session.me.durable, connected) {
            (true, true) => &mut sum.durable_connected,
            (true, false) => &mut sum.durable_away,
            (false, _) => &mut sum.passing_connected,
        } += 1;
        let mut holds_bytes = false;
        let queued = match &session.out {
            Out::Queue(queue) => {
                let (unsent, in_flight) = if connected { queue.standing() } else { (queue.len(), 0) };
                sum.queued_durable += unsent as u64;
                sum.in_flight += in_flight as u64;
                queue.len()
            }
            Out::Window(window) => {
                let (waiting, waiting_bytes) = window.waiting();
                sum.queued_passing += waiting as u64;
                sum.queued_passing_bytes += (waiting_bytes + window.kept_bytes()) as u64;
                sum.in_flight += window.in_flight() as u64;
                holds_bytes = waiting > 0;
                waiting
            }
        };
        sum.longest_queue = sum.longest_queue.max(queued as u64);
        let is_paused = |link: &Link| link.rates.as_ref().is_some_and(|rates| rates.is_paused());
        sum.paused += u64::from(session.link.as_ref().is_some_and(is_paused));
        sum.waiting_for_disk += u64::from(session.link.as_ref().is_some_and(|link| link.waits_for_disk));
        let backlog_bytes = session.link.as_ref().map_or(0, |link| link.backlog_bytes());
        sum.outbox_bytes += backlog_bytes as u64;
        sum.buffering += u64::from(holds_bytes || backlog_bytes > 0);
    }

    /// Puts the sums into `counts`.
    pub fn put_into(self, counts: &mut Counts) {
        let Depths(sum) = self;
        counts.durable_connected = sum.durable_connected;
        counts.durable_away = sum.durable_away;
        counts.passing_connected = sum.passing_connected;
        counts.queued_durable = sum.queued_durable;
        counts.queued_passing = sum.queued_passing;
        counts.queued_passing_bytes = sum.queued_passing_bytes;
        counts.in_flight = sum.in_flight;
        counts.outbox_bytes = sum.outbox_bytes;
        counts.paused = sum.paused;
        counts.waiting_for_disk = sum.waiting_for_disk;
        counts.buffering = sum.buffering;
        counts.longest_queue = sum.longest_queue;
    }
}

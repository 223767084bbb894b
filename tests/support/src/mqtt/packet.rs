//! The packets of a script, as plain values.

use super::wire;

/// The protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1
    V311,
    /// MQTT 5.0
    V5,
}

/// A property of MQTT 5.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prop {
    /// 1: whether the payload is UTF-8 text
    PayloadFormat(u8),
    /// 2: seconds a message is worth delivering
    MessageExpiryS(u32),
    /// 3
    ContentType(String),
    /// 8
    ResponseTopic(String),
    /// 9
    CorrelationData(Vec<u8>),
    /// 11
    SubscriptionId(u32),
    /// 17: seconds a session outlives its connection
    SessionExpiryS(u32),
    /// 18
    AssignedClientId(String),
    /// 19
    ServerKeepAliveS(u16),
    /// 21
    AuthMethod(String),
    /// 22
    AuthData(Vec<u8>),
    /// 23
    RequestProblemInfo(u8),
    /// 24
    WillDelayS(u32),
    /// 25
    RequestResponseInfo(u8),
    /// 26
    ResponseInfo(String),
    /// 28
    ServerReference(String),
    /// 31
    ReasonString(String),
    /// 33
    ReceiveMaximum(u16),
    /// 34
    TopicAliasMaximum(u16),
    /// 35
    TopicAlias(u16),
    /// 36
    MaximumQos(u8),
    /// 37
    RetainAvailable(u8),
    /// 38
    UserProperty(String, String),
    /// 39
    MaximumPacketBytes(u32),
    /// 40
    WildcardsAvailable(u8),
    /// 41
    SubscriptionIdsAvailable(u8),
    /// 42
    SharedAvailable(u8),
}

impl Prop {
    /// A user property.
    pub fn user(name: &str, value: &str) -> Prop {
        Prop::UserProperty(name.to_owned(), value.to_owned())
    }
}

/// A will, as part of CONNECT.
#[derive(Debug, Clone)]
pub struct Will {
    pub(super) message: Publish,
}

impl Will {
    /// The message to be published when the connection is lost.
    pub fn new(message: Publish) -> Will {
        Will { message }
    }
}

/// CONNECT, to be filled in step by step.
#[derive(Debug, Clone)]
pub struct Connect {
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) clean: bool,
    pub(super) keep_alive_s: u16,
    pub(super) will: Option<Will>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) props: Vec<Prop>,
}

impl Connect {
    /// A clean connection that ends its session when it closes.
    pub fn new(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive_s: 60,
            will: None,
            user: None,
            password: None,
            props: Vec::new(),
        }
    }

    /// A clean connection in 3.1.1.
    pub fn v311(client_id: &str) -> Connect {
        Connect::new(Version::V311, client_id)
    }

    /// A clean connection in 5.0.
    pub fn v5(client_id: &str) -> Connect {
        Connect::new(Version::V5, client_id)
    }

    /// Takes up an existing session, and lets it outlive this connection.
    pub fn durable(self) -> Connect {
        match self.version {
            Version::V311 => self.clean(false),
            Version::V5 => self.clean(false).with(Prop::SessionExpiryS(3600)),
        }
    }

    /// Sets clean session (3.1.1) or clean start (5.0).
    pub fn clean(mut self, clean: bool) -> Connect {
        self.clean = clean;
        self
    }

    /// Sets the keep-alive.
    pub fn keep_alive_s(mut self, seconds: u16) -> Connect {
        self.keep_alive_s = seconds;
        self
    }

    /// Leaves a will.
    pub fn will(mut self, message: Publish) -> Connect {
        self.will = Some(Will::new(message));
        self
    }

    /// Gives a user name.
    pub fn user(mut self, name: &str) -> Connect {
        self.user = Some(name.to_owned());
        self
    }

    /// Gives a password.
    pub fn password(mut self, password: &str) -> Connect {
        self.password = Some(password.as_bytes().to_vec());
        self
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        wire::connect(self)
    }

    /// Adds a property (5.0).
    pub fn with(mut self, prop: Prop) -> Connect {
        self.props.push(prop);
        self
    }
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server had a session for this client id.
    pub session_present: bool,
    /// Return code (3.1.1) or reason code (5.0); 0 is success.
    pub code: u8,
    /// Properties (5.0).
    pub props: Vec<Prop>,
}

/// PUBLISH, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Sent before, perhaps.
    pub dup: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// To be kept, or delivered from what was kept.
    pub retain: bool,
    /// The topic name.
    pub topic: String,
    /// The packet id; 0 lets the client choose one.
    pub id: u16,
    /// Properties (5.0).
    pub props: Vec<Prop>,
    /// The message itself.
    pub payload: Vec<u8>,
}

impl Publish {
    /// A QoS 0 message.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        Publish {
            dup: false,
            qos: 0,
            retain: false,
            topic: topic.to_owned(),
            id: 0,
            props: Vec::new(),
            payload: payload.as_ref().to_vec(),
        }
    }

    /// Sets the quality of service.
    pub fn qos(mut self, qos: u8) -> Publish {
        self.qos = qos;
        self
    }

    /// Sets the packet id.
    pub fn id(mut self, id: u16) -> Publish {
        self.id = id;
        self
    }

    /// Sets the DUP flag.
    pub fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }

    /// Sets the retain flag.
    pub fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }

    /// Adds a property (5.0).
    pub fn with(mut self, prop: Prop) -> Publish {
        self.props.push(prop);
        self
    }

    /// The packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        wire::publish(version, self)
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Which of the four acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// QoS 1
    PubAck,
    /// QoS 2, first answer
    PubRec,
    /// QoS 2, release
    PubRel,
    /// QoS 2, complete
    PubComp,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Which one.
    pub kind: AckKind,
    /// The packet id it answers.
    pub id: u16,
    /// The reason code; 0 when absent and always 0 in 3.1.1.
    pub reason: u8,
}

/// What a server can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK
    ConnAck(ConnAck),
    /// PUBLISH
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP
    Ack(Ack),
    /// SUBACK with a code for each filter
    SubAck {
        /// The packet id it answers.
        id: u16,
        /// One code for each filter.
        codes: Vec<u8>,
    },
    /// UNSUBACK with a code for each filter (none in 3.1.1)
    UnsubAck {
        /// The packet id it answers.
        id: u16,
        /// One code for each filter.
        codes: Vec<u8>,
    },
    /// PINGRESP
    PingResp,
    /// DISCONNECT (5.0)
    Disconnect {
        /// Why.
        reason: u8,
        /// Properties.
        props: Vec<Prop>,
    },
}

//! One request on its way: from its header to the bytes of its answer.

use std::{future::Future, io, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::ApiKey,
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use super::{
    Api, Server,
    access::Operation,
    find_api,
    metrics::add,
    sasl::Identity,
    shape::{self, ShapeError},
};
use crate::{JournalFailed, Lane, Partition, Topic};

/// Why a connection was closed. A client that hangs up between requests is no error.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The client hung up in the middle of a request.
    #[error("peer: hung up in the middle of a request")]
    CutRequest,
    /// Nothing came, or nothing was taken, for too long.
    #[error("peer: idle for {0} s")]
    Idle(u64),
    /// A request's length is negative or above the bound.
    #[error("peer: a request of {bytes} bytes, at most {bytes_max} here; this is not Kafka, or it is too large")]
    BadLength {
        /// The length it announces.
        bytes: i32,
        /// The bound. It is lower for a client that is not authenticated.
        bytes_max: i32,
    },
    /// The beginning of another protocol.
    #[error("peer: {0}")]
    OtherProtocol(&'static str),
    /// A request without a whole header.
    #[error("peer: malformed request header: {0}")]
    MalformedHeader(&'static str),
    /// A request for something that is not served.
    #[error("peer: api key {key} version {version} is not served")]
    NotServed {
        /// The API.
        key: i16,
        /// Its version.
        version: i16,
    },
    /// A request of a client that has to say first who it is.
    #[error("peer: sent {0:?} before it authenticated; it must use SASL PLAIN on this listener")]
    MustAuthenticate(ApiKey),
    /// It did not say in time who it is.
    #[error("peer: not authenticated within {0} s; it must use SASL PLAIN on this listener")]
    AuthenticationTooSlow(u64),
    /// A user name and a password that were not accepted.
    #[error("peer: user {user:?} was not authenticated: {reason}")]
    NotAuthenticated {
        /// The beginning of the name it gave.
        user: String,
        /// Why not.
        reason: String,
    },
    /// SASL, and not as it is served here.
    #[error("peer: SASL: {0}")]
    Sasl(String),
    /// What the client proved to be is not so any more.
    #[error("peer: its user was removed, or changed, since it connected")]
    NoLongerAllowed,
    /// A request that does not decode.
    #[error("peer: malformed {api:?} request, version {version}: {reason}")]
    Malformed {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What is wrong.
        reason: String,
    },
    /// A producer that wants no answers can learn of an error only by the connection's end.
    #[error("peer: produced without wanting an answer, and failed: error code {0}")]
    UnansweredProduce(i16),
    /// What became of a request is unknown (J8); saying nothing is all that is true.
    #[error(transparent)]
    Journal(#[from] JournalFailed),
    /// An answer of ours that does not encode: our fault.
    #[error("server: answer to {api:?} version {version} does not encode: {reason}")]
    Encode {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What the codec said.
        reason: String,
    },
}

/// The answer to a request, framed; `None` where the client wants none.
pub(super) type Answer = Result<Option<Bytes>, ConnectionError>;

/// A request being worked on. Nothing happens before the first poll, except to a Produce.
pub(super) type Work = Pin<Box<dyn Future<Output = Answer>>>;

/// A topic that a request names, or what is wrong with it.
pub(super) type FoundTopic = Result<Arc<Topic>, ResponseError>;

/// A partition of it.
pub(super) fn find_partition(topic: &FoundTopic, index: i32) -> Result<&Arc<Partition>, ResponseError> {
    let partitions = &topic.as_ref().map_err(|error| *error)?.partitions;
    let partition = usize::try_from(index).ok().and_then(|index| partitions.get(index));
    partition.ok_or(ResponseError::UnknownTopicOrPartition)
}

/// The client side of a connection.
pub(super) struct Client {
    pub peer: SocketAddr,
    /// What this client is told the broker's address is: that of the listener it came in on.
    pub host: StrBytes,
    pub port: i32,
    pub lane: Lane,
    pub identity: Identity,
}

/// A request: its header, decoded, and its body, not yet.
pub(super) struct Call {
    pub server: Arc<Server>,
    pub client: Rc<Client>,
    pub client_id: StrBytes,
    pub version: i16,
    pub api: &'static Api,
    correlation_id: i32,
    body: Bytes,
}

/// What a request turned out to be.
pub(super) enum Incoming {
    Call(Call),
    /// ApiVersions in a version of the future; only its correlation id can be understood.
    UnknownApiVersions(i32),
}

impl Call {
    /// Reads the header of `frame` and finds the API.
    pub fn open(server: &Arc<Server>, client: &Rc<Client>, mut frame: Bytes) -> Result<Incoming, ConnectionError> {
        if frame.len() < 8 {
            return Err(ConnectionError::MalformedHeader("less than 8 bytes"));
        }
        let (key, version) = (frame.get_i16(), frame.get_i16());
        let correlation_id = frame.get_i32();
        let api = find_api(key).ok_or(ConnectionError::NotServed { key, version })?;
        if !(api.min..=api.max).contains(&version) {
            return match api.key {
                ApiKey::ApiVersions => Ok(Incoming::UnknownApiVersions(correlation_id)),
                _ => Err(ConnectionError::NotServed { key, version }),
            };
        }
        let client_id = read_client_id(&mut frame)?;
        if version >= api.flexible_from {
            let bytes = shape::check_tags(&frame);
            let bytes = bytes.map_err(|_| ConnectionError::MalformedHeader("tagged fields"))?;
            frame.advance(bytes);
        }
        Ok(Incoming::Call(Call {
            server: server.clone(),
            client: client.clone(),
            client_id,
            version,
            api,
            correlation_id,
            body: frame,
        }))
    }

    /// Starts the work on it.
    pub fn start(self) -> Work {
        (self.api.handler)(self)
    }

    /// Whether the client may do this with a topic, be there one or not.
    pub fn may(&self, operation: Operation, topic: &str) -> bool {
        self.client.identity.may(&self.server, operation, topic)
    }

    /// The same, for a request that is refused if it may not.
    pub fn authorize(&self, operation: Operation, topic: &str) -> Result<(), ResponseError> {
        self.allowed(self.may(operation, topic), ResponseError::TopicAuthorizationFailed)
    }

    /// The topic, if the client may do this with it, and if there is one: in this order.
    pub fn topic(&self, operation: Operation, name: &str) -> FoundTopic {
        self.authorize(operation, name)?;
        self.server.bridge.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)
    }

    /// Whether the client may have to do with consumer groups.
    pub fn may_use_groups(&self) -> bool {
        self.client.identity.may_use_groups(&self.server)
    }

    /// The same, for a request that is refused if it may not.
    pub fn authorize_groups(&self) -> Result<(), ResponseError> {
        self.allowed(self.may_use_groups(), ResponseError::GroupAuthorizationFailed)
    }

    fn allowed(&self, allowed: bool, error: ResponseError) -> Result<(), ResponseError> {
        if allowed {
            return Ok(());
        }
        add(&self.server.metrics().unauthorized, 1);
        tracing::debug!(peer = %self.client.peer, api = ?self.api.key, %error, "not allowed");
        Err(error)
    }

    /// Decodes the body, which is given up: its buffer is free when the request is done with.
    pub fn decode<T: Decodable>(&mut self) -> Result<T, ConnectionError> {
        self.check_shape()?;
        self.decode_as(self.version)
    }

    /// Decodes the body as if it were of another version. Its shape was checked.
    pub fn decode_as<T: Decodable>(&mut self, version: i16) -> Result<T, ConnectionError> {
        let decoded = T::decode(&mut std::mem::take(&mut self.body), version);
        decoded.map_err(|error| self.malformed(error.to_string()))
    }

    /// Makes sure that the lengths in the body are true, so that the codec can be let loose on it.
    pub fn check_shape(&self) -> Result<usize, ConnectionError> {
        let checked = shape::check(&self.body, self.api.request, self.version, self.is_flexible());
        checked.map_err(|error: ShapeError| self.malformed(error.to_string()))
    }

    /// Puts `bytes` before the body.
    pub fn prepend(&mut self, bytes: &[u8]) {
        self.body = [bytes, &self.body].concat().into();
    }

    fn malformed(&self, reason: String) -> ConnectionError {
        let (api, version) = (self.api.key, self.version);
        ConnectionError::Malformed { api, version, reason }
    }

    fn is_flexible(&self) -> bool {
        self.version >= self.api.flexible_from
    }

    /// Frames a response.
    pub fn answer<T: Encodable + HeaderVersion>(&self, response: &T) -> Answer {
        let version = self.version;
        let framed = response.compute_size(version).and_then(|body_bytes| {
            let mut frame = self.frame(T::header_version(version), body_bytes);
            response.encode(&mut frame, version).map(|()| frame)
        });
        match framed {
            Ok(frame) => Ok(Some(finish_frame(frame))),
            Err(error) => {
                let (api, reason) = (self.api.key, error.to_string());
                Err(ConnectionError::Encode { api, version, reason })
            }
        }
    }

    /// A frame with its header, to be filled by hand and given to [`finish_frame`].
    pub fn frame(&self, header_version: i16, body_bytes: usize) -> BytesMut {
        let mut frame = start_frame(self.correlation_id, body_bytes);
        if header_version >= 1 {
            frame.put_u8(0); // no tagged fields
        }
        frame
    }
}

/// A frame up to its correlation id.
pub(super) fn start_frame(correlation_id: i32, body_bytes: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(9 + body_bytes);
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    frame
}

/// Fills in the length of a frame. The length is an i32 on the wire: 2 GiB and more cannot be said,
/// and every answer is bounded far below.
pub(super) fn finish_frame(mut frame: BytesMut) -> Bytes {
    let bytes = frame.len().saturating_sub(4) as u32;
    if let Some(length) = frame.first_chunk_mut() {
        *length = bytes.to_be_bytes();
    }
    frame.freeze()
}

fn read_client_id(frame: &mut Bytes) -> Result<StrBytes, ConnectionError> {
    let malformed = ConnectionError::MalformedHeader("client id");
    let bytes = match frame.try_get_i16() {
        Ok(-1) => return Ok(StrBytes::default()),
        Ok(bytes) => usize::try_from(bytes).ok(),
        Err(_) => None,
    };
    match bytes.filter(|bytes| *bytes <= frame.len()) {
        // A copy: it would keep the whole request alive as long as it is worked on.
        Some(bytes) => match std::str::from_utf8(&frame.split_to(bytes)) {
            Ok(text) => Ok(StrBytes::from_string(text.to_owned())),
            Err(_) => Err(malformed),
        },
        None => Err(malformed),
    }
}

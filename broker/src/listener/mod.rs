//! Accepts clients, reads their CONNECT, makes sure who they are and brings them to the shard that owns their
//! session.
//!
//! - `accept`: connections as they come
//! - [`door`]: what a listener's have in common, and how many there may be
//! - [`socket`]: TCP and Unix sockets; [`proxy`]: for whom a proxy connects
//! - [`transport`]: what carries their bytes
//! - [`tls`]: handshakes and certificates, for Kafka's listeners too
//! - [`websocket`]: messages made a stream
//! - here: from the first byte to admission

mod accept;
pub mod door;
pub mod proxy;
pub mod socket;
pub mod tls;
pub mod transport;
pub mod websocket;

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::auth::{Access, Identity, Proof, Refusal, User};
use crate::codec::{Connect, DecodeError, ReasonCode, Version, connect_version, frame};
use crate::shard::{Mail, Rejected, Shared, refuse_topic};
use crate::{ListenerConfig, connection, limits};

use accept::Guest;
pub use accept::{Incoming, Listener, accept, come_in, leaves_files};
use door::{Bite, Door};
use proxy::Header;
use socket::{Origin, Socket, Stream};
use tls::Tls;
use transport::Transport;

/// First byte of a CONNECT.
const CONNECT: u8 = 0x10;
/// Bytes of a CONNACK of 5.0 that says no more than why.
const REFUSAL_BYTES: u32 = 5;
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What carries MQTT on a listener.
#[derive(Clone)]
pub enum Carrier {
    /// TCP.
    Tcp,
    /// TLS.
    Tls(Arc<Tls>),
    /// WebSocket.
    Ws,
    /// WebSocket on TLS.
    Wss(Arc<Tls>),
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Carrier::Tcp => "Tcp",
            Carrier::Tls(_) => "Tls",
            Carrier::Ws => "Ws",
            Carrier::Wss(_) => "Wss",
        })
    }
}

/// A client that may come in, on its way to its shard.
pub struct Arrival {
    transport: Transport,
    /// Who it is.
    pub client: Client,
    /// Its CONNECT and whatever came behind it.
    input: Vec<u8>,
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Client {
    /// Client id.
    pub id: Arc<str>,
    /// The server chose it.
    pub assigned: bool,
    /// As whom.
    pub identity: Identity,
    /// Where from, for the log.
    pub peer: Arc<str>,
    /// Where it came in.
    pub listener: Arc<ListenerConfig>,
    /// Only this machine can come in there, and by itself: by no proxy, and for no web page of another.
    pub loopback: bool,
    /// Clients connected at its listener when it came to its shard.
    pub at_listener: usize,
}

/// Takes in a client that was let in by another shard.
pub async fn arrive(shared: Shared, mut arrival: Arrival) {
    match arrival.transport.resume() {
        Ok(()) => admit(shared, arrival).await,
        Err(error) => {
            tracing::warn!(peer = &*arrival.client.peer, %error, "a connection could not be moved to its shard");
        }
    }
}

/// From the first byte to the client's shard.
async fn welcome(shared: Shared, guest: Guest<Stream>) {
    let Guest { stream, origin, visit, config } = guest;
    stream.set_nodelay();
    let Some(mut arrival) = shake_hands(&shared, Socket::new(stream, visit), origin, config).await else { return };
    arrival.transport.visit().let_in();
    let (here, target) = {
        let shard = shared.borrow();
        (shard.index, shard.shard_of(&arrival.client.id))
    };
    if here == target {
        return admit(shared, arrival).await;
    }
    match arrival.transport.park() {
        Ok(()) => shared.borrow().send(target, Mail::Arrival(Box::new(arrival))),
        Err(error) => {
            tracing::warn!(peer = &*arrival.client.peer, %error, "a connection could not be moved to its shard");
        }
    }
}

async fn admit(shared: Shared, arrival: Arrival) {
    let Arrival { mut transport, mut client, mut input } = arrival;
    client.at_listener = transport.visit().door().clients();
    let admitted = {
        let mut shard = shared.borrow_mut();
        shard.read_clock();
        shard.counts.bytes_in += input.len() as u64;
        // It was decoded when it was read, and is again: it borrows from the bytes.
        let Ok(Some(found)) = frame(&input, client.listener.clients.max_packet_size) else { return };
        let Ok(connect) = Connect::decode(&found) else { return };
        let admitted = shard.connect(&connect, &client);
        let length = found.length;
        // What is left is kept as long as the connection lasts.
        input = input.split_off(length);
        admitted
    };
    match admitted {
        // A task of its own: this one has room for what came before, some 2 KB.
        Ok(admitted) => {
            transport.visit().is_client();
            drop(tokio::task::spawn_local(connection::run(shared, transport, admitted, input)));
        }
        Err(Rejected { reason, why, answer }) => {
            shared.borrow_mut().counts.refused(Some(reason));
            if matches!(reason, ReasonCode::QuotaExceeded | ReasonCode::ServerBusy) {
                transport.visit().door().say(Bite::Full, &format!("refused: {why}"), &client.peer);
            } else {
                let (client, peer, user) = (&*client.id, &*client.peer, client.identity.name());
                tracing::warn!(peer, client, user, "refused: {why}");
            }
            connection::say_last(&mut transport, &answer).await;
        }
    }
}

/// A client that is not let in.
struct Refused {
    answer: Option<(Version, ReasonCode)>,
    why: String,
}

impl Refused {
    fn silently(why: impl Into<String>) -> Refused {
        Refused { answer: None, why: why.into() }
    }

    fn with(version: Version, reason: ReasonCode, why: impl Into<String>) -> Refused {
        Refused { answer: Some((version, reason)), why: why.into() }
    }
}

/// PROXY header, TLS, WebSocket, CONNECT, credentials; says in the log why it came to nothing.
async fn shake_hands(
    shared: &Shared,
    mut socket: Socket,
    mut origin: Origin,
    config: Arc<ListenerConfig>,
) -> Option<Arrival> {
    let access = shared.borrow().router.access.clone();
    let door = &*socket.visit().door().clone();
    let end = Instant::now() + config.connect_timeout;
    let is_proxied = config.proxies.is_some();
    if is_proxied {
        origin = introduced(shared, &mut socket, origin, &config, door, end).await?;
    }
    let peer = origin.peer;
    let late = || {
        shared.borrow_mut().counts.refused_timeout += 1;
        door.refuses(false, &format!("no CONNECT within {} s", config.connect_timeout.as_secs()), &peer);
    };
    let opened = timeout_at(end, open(door, socket, &config)).await;
    let (mut transport, certified) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => {
            shared.borrow_mut().counts.refused_handshake += 1;
            door.refuses(false, &why, &peer);
            return None;
        }
        Err(_) => {
            late();
            return None;
        }
    };
    let Ok(read) = timeout_at(end, read_connect(&mut transport, config.clients.max_packet_size, is_proxied)).await
    else {
        late();
        return None;
    };
    // Whoever comes by a proxy may be anywhere, and so may be whoever wrote a page that a browser here shows.
    let loopback = door.loopback && !is_proxied && !transport.is_strangers_page();
    // A reload may have come while it took its time.
    let config = shared.borrow().config.of(&door.config).clone();
    let proved = match read {
        Ok(input) => prove(&access, &config, loopback, certified, &input).await.map(|claim| (claim, input)),
        Err(refused) => Err(refused),
    };
    match proved {
        Ok((Claim { id, assigned, identity }, input)) => {
            let client = Client { id, assigned, identity, peer, listener: config, loopback, at_listener: 0 };
            Some(Arrival { transport, client, input })
        }
        Err(Refused { answer, why }) => {
            shared.borrow_mut().counts.refused(answer.map(|(_, reason)| reason));
            door.refuses(answer.is_some(), &why, &peer);
            if let Some((version, reason)) = answer {
                connection::refuse(&mut transport, version, reason).await;
            }
            None
        }
    }
}

/// Where a proxy says its client is from; `None` when that is the end of it.
async fn introduced(
    shared: &Shared,
    socket: &mut Socket,
    origin: Origin,
    config: &ListenerConfig,
    door: &Door,
    end: Instant,
) -> Option<Origin> {
    let header = match timeout_at(end, socket.read_proxy_header()).await {
        Ok(Ok(header)) => header,
        Ok(Err(why)) => {
            shared.borrow_mut().counts.refused_proxy += 1;
            door.refuses(false, &why, &origin.peer);
            return None;
        }
        Err(_) => {
            shared.borrow_mut().counts.refused_timeout += 1;
            let timeout_s = config.connect_timeout.as_secs();
            door.refuses(false, &format!("no PROXY header within {timeout_s} s"), &origin.peer);
            return None;
        }
    };
    let (ip, origin) = match header {
        Header::From(address) => {
            (Some(address.ip()), Origin { peer: address.to_string().into(), ip: Some(address.ip()) })
        }
        // A proxy that wants to know whether we are there has nothing more to say, whether it closes or waits.
        Header::Local if !matches!(timeout_at(end, socket.peek()).await, Ok(Ok(Some(_)))) => {
            tracing::debug!(peer = &*origin.peer, listener = door.name(), "a proxy's health check");
            return None;
        }
        Header::Local | Header::Unknown => (origin.counted(), origin),
    };
    if let Some(ip) = ip
        && let Err(bite) = socket.visit().is_from(ip, config)
    {
        door.bites(bite, &mut shared.borrow_mut().counts, &origin.peer);
        return None;
    }
    Some(origin)
}

/// The transport a listener speaks, and the user name that a certificate proves. Handshakes are boxed: a connection that
/// waits to say CONNECT has no room for them.
async fn open(door: &Door, socket: Socket, config: &ListenerConfig) -> Result<(Transport, Option<Arc<str>>), String> {
    // The largest packet in one message, and a few of its neighbours.
    let message_max = config.clients.max_packet_size as usize + limits::READ_BYTES;
    match &door.carrier {
        Carrier::Tcp => Ok((Transport::Plain(socket), None)),
        Carrier::Ws => {
            speaks_http(&socket).await?;
            let ws = Box::pin(websocket::accept(socket, &config.ws_path, &config.ws_origins, message_max)).await?;
            Ok((Transport::Ws(Box::new(ws)), None))
        }
        Carrier::Tls(tls) => {
            speaks_tls(&socket).await?;
            let accepted = Box::pin(tls.accept(socket)).await?;
            Ok((Transport::Tls(Box::new(accepted.stream)), accepted.name))
        }
        Carrier::Wss(tls) => {
            speaks_tls(&socket).await?;
            let accepted = Box::pin(tls.accept(socket)).await?;
            let ws = websocket::accept(accepted.stream, &config.ws_path, &config.ws_origins, message_max);
            let ws = Box::pin(ws).await?;
            Ok((Transport::Wss(Box::new(ws)), accepted.name))
        }
    }
}

/// A client on the wrong port is told apart from one whose TLS is broken.
async fn speaks_tls(socket: &Socket) -> Result<(), String> {
    match socket.peek().await {
        Ok(None) => Err("it closed the connection before it said anything".to_owned()),
        Ok(Some(CONNECT)) => {
            Err("plain MQTT where TLS is spoken: give the client the CA, or the plain port".to_owned())
        }
        // The handshake gives the client an alert, and the log the rest of the reasons.
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn speaks_http(socket: &Socket) -> Result<(), String> {
    match socket.peek().await {
        Ok(None) => Err("it closed the connection before it said anything".to_owned()),
        Ok(Some(CONNECT)) => Err("MQTT without WebSocket where WebSocket is spoken".to_owned()),
        Ok(Some(TLS_HANDSHAKE)) => Err("TLS where plain WebSocket is spoken".to_owned()),
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads until a whole CONNECT is there that makes sense; gives all that was read.
async fn read_connect(stream: &mut Transport, packet_max: u32, is_proxied: bool) -> Result<Vec<u8>, Refused> {
    let mut input = Vec::with_capacity(512);
    let not_mqtt = |input: &[u8], otherwise: &str| Refused::silently(not_mqtt(input, is_proxied, otherwise));
    loop {
        match stream.read_buf(&mut input).await {
            Ok(0) => return Err(Refused::silently("closed before a CONNECT was complete")),
            Ok(_) => {}
            Err(error) => return Err(Refused::silently(error.to_string())),
        }
        let found = match frame(&input, packet_max) {
            Ok(Some(found)) => found,
            // Another protocol is noticed by its first byte, not after a time-out.
            Ok(None) if input[0] == CONNECT => continue,
            Ok(None) => return Err(not_mqtt(&input, "its first packet is not a CONNECT")),
            Err(error) => return Err(not_mqtt(&input, &format!("not MQTT: {error}"))),
        };
        let answer_in = connect_version(&found).ok();
        let connect = Connect::decode(&found).map_err(|error| undecodable(&error, answer_in))?;
        if connect.maximum_packet_size.is_some_and(|bytes| bytes < REFUSAL_BYTES) {
            let why = "its Maximum Packet Size leaves no room even for a refusal [MQTT-3.1.2-24]";
            return Err(Refused::silently(why));
        }
        if connect.authentication_method.is_some() {
            let why = "it asks for an authentication method; none is offered";
            return Err(Refused::with(connect.version, ReasonCode::BadAuthenticationMethod, why));
        }
        // As deep as no PUBLISH may be, or in the server's own tree: it would be published unasked later.
        if let Some((will, reason)) = connect.will.and_then(|will| Some((will, refuse_topic(will.topic)?))) {
            let why = format!("its will's topic of {} bytes is refused", will.topic.len());
            return Err(Refused::with(connect.version, reason, why));
        }
        return Ok(input);
    }
}

fn not_mqtt(input: &[u8], is_proxied: bool, otherwise: &str) -> String {
    match input {
        [TLS_HANDSHAKE, ..] => "TLS where plain MQTT is spoken: the client wants the port of mqtt.tls".to_owned(),
        [b'G', b'E', b'T', b' ', ..] => {
            "HTTP where MQTT is spoken: WebSocket clients want the port of mqtt.ws".to_owned()
        }
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] if is_proxied => {
            "a second PROXY header: of several proxies in a row only the last one may send one".to_owned()
        }
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
            "a PROXY header where MQTT is spoken: proxies want a [[mqtt.listener]] with proxy_protocol = true"
                .to_owned()
        }
        _ => otherwise.to_owned(),
    }
}

fn undecodable(error: &DecodeError, version: Option<Version>) -> Refused {
    let answer = match error {
        DecodeError::UnsupportedProtocol { answer_in, .. } => Some((*answer_in, error.reason())),
        _ => version.map(|version| (version, error.reason())),
    };
    Refused { answer, why: error.to_string() }
}

/// Who a client says it is, as far as it was proved.
struct Claim {
    id: Arc<str>,
    assigned: bool,
    identity: Identity,
}

/// Whether anonymous clients are let in: as configured, else on loopback as long as there are no users.
pub fn anonymous_allowed(configured: Option<bool>, loopback: bool, access: &Access) -> bool {
    configured.unwrap_or(loopback && !access.has_users())
}

/// Makes sure who a client is, by the CONNECT at the front of `input` and what its certificate proved.
async fn prove(
    access: &Access,
    config: &ListenerConfig,
    loopback: bool,
    certified: Option<Arc<str>>,
    input: &[u8],
) -> Result<Claim, Refused> {
    // It was framed and decoded once; this cannot fail.
    let found = frame(input, config.clients.max_packet_size).ok().flatten();
    let connect = found.as_ref().and_then(|found| Connect::decode(found).ok());
    let Some(connect) = connect else { return Err(Refused::silently("its CONNECT does not decode")) };
    let anonymous = anonymous_allowed(config.allow_anonymous, loopback, access);
    let identity = match (certified, connect.username) {
        // As Mosquitto: a name in the CONNECT does not count beside a certificate's.
        (Some(name), _) => Identity::User(User { name, proof: Proof::Certificate }),
        (None, Some(name)) if access.has_users() => {
            let password = connect.password.unwrap_or_default();
            access.authenticate(name, password).await.map_err(|refusal| {
                let reason = match refusal {
                    Refusal::WrongPassword => ReasonCode::BadUserNameOrPassword,
                    Refusal::Busy => ReasonCode::ServerBusy,
                };
                Refused::with(connect.version, reason, format!("user {:?}: {refusal}", shortened(name)))
            })?
        }
        // Nobody can say whether the name is true: it is let in as anyone would be, or not at all.
        (None, _) if anonymous => Identity::Anonymous,
        (None, name) => {
            let why = match name {
                Some(_) => "it gives a user name, and no password_file says who may come in",
                None if config.allow_anonymous.is_none() && !access.has_users() => {
                    "it gives no user name; allow_anonymous = \"auto\" lets in this machine's clients, and no web pages of \
                     others but those that ws_origins names"
                }
                None => "it gives no user name, and anonymous clients are not allowed here",
            };
            return Err(Refused::with(connect.version, ReasonCode::NotAuthorized, why));
        }
    };
    let assigned = connect.client_id.is_empty();
    let id: Arc<str> = if assigned { random_client_id().into() } else { connect.client_id.into() };
    if let Some(will) = connect.will
        && !access.may_publish(&identity, &id, will.topic)
    {
        let why = format!("it may not publish its will to {:?}", shortened(will.topic));
        return Err(Refused::with(connect.version, ReasonCode::NotAuthorized, why));
    }
    Ok(Claim { id, assigned, identity })
}

/// What a peer says, short enough for a line of the log.
pub(crate) fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(limits::LOGGED_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn random_client_id() -> String {
    // PROOF: getrandom fails only where the kernel has no getrandom(2); Linux has had it since 3.17.
    let number = getrandom::u64().expect("the kernel gives random numbers");
    format!("auto-{number:016x}")
}

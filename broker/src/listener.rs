//! Accepts clients, reads their CONNECT and brings them to the shard that owns their session.

use std::cell::Cell;
use std::net::{self, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::codec::{Connect, DecodeError, ReasonCode, Version, connect_version, frame};
use crate::connection;
use crate::limits;
use crate::shard::{Mail, Shared, refuse_topic};

/// A client on its way to its shard.
pub struct Arrival {
    stream: net::TcpStream,
    peer: Arc<str>,
    client: ClientId,
    /// Its CONNECT and whatever came behind it.
    input: Vec<u8>,
}

/// Who a client is.
struct ClientId {
    name: Arc<str>,
    /// The server chose it.
    assigned: bool,
}

/// Accepts clients until the shard ends.
pub async fn accept(shared: Shared, listener: net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    let handshakes = Rc::new(Cell::new(0));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: others will close some.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if handshakes.get() >= limits::HANDSHAKES_MAX {
            tracing::warn!(%peer, "refused: too many connections have not sent their CONNECT");
            shared.borrow_mut().counts.refused_busy += 1;
            continue;
        }
        handshakes.set(handshakes.get() + 1);
        let (shared, handshakes) = (shared.clone(), handshakes.clone());
        tokio::task::spawn_local(async move {
            let brought = handshake(&shared, stream, peer).await;
            handshakes.set(handshakes.get() - 1);
            if let Some((stream, arrival)) = brought {
                admit(shared, stream, arrival.peer, arrival.client, arrival.input).await;
            }
        });
    }
}

/// The rest of a client's arrival, on this shard.
struct Here {
    peer: Arc<str>,
    client: ClientId,
    input: Vec<u8>,
}

/// Reads a CONNECT; gives the client when it belongs here, else sends it on or away.
async fn handshake(shared: &Shared, mut stream: TcpStream, peer: SocketAddr) -> Option<(TcpStream, Here)> {
    let config = shared.borrow().config.clone();
    // A failure shows at the first read.
    let _ = stream.set_nodelay(true);
    let peer: Arc<str> = peer.to_string().into();
    let read = read_connect(&mut stream, config.max_packet_size);
    let (input, client) = match tokio::time::timeout(config.connect_timeout, read).await {
        Err(_) => {
            tracing::info!(peer = &*peer, "closed: no CONNECT within {} s", config.connect_timeout.as_secs());
            shared.borrow_mut().counts.refused_timeout += 1;
            return None;
        }
        Ok(Err(Refused { answer, why })) => {
            tracing::info!(peer = &*peer, "refused: {why}");
            shared.borrow_mut().counts.refused(answer.map(|(_, reason)| reason));
            if let Some((version, reason)) = answer {
                connection::refuse(&mut stream, version, reason).await;
            }
            return None;
        }
        Ok(Ok(read)) => read,
    };
    let (here, target) = {
        let shard = shared.borrow();
        (shard.index, shard.shard_of(&client.name))
    };
    if here == target {
        return Some((stream, Here { peer, client, input }));
    }
    match stream.into_std() {
        Ok(stream) => {
            let arrival = Arrival { stream, peer, client, input };
            shared.borrow().send(target, Mail::Arrival(Box::new(arrival)));
        }
        Err(error) => tracing::warn!(peer = &*peer, %error, "a connection could not be moved to its shard"),
    }
    None
}

/// Takes in a client that another shard accepted.
pub async fn arrive(shared: Shared, arrival: Arrival) {
    match TcpStream::from_std(arrival.stream) {
        Ok(stream) => admit(shared, stream, arrival.peer, arrival.client, arrival.input).await,
        Err(error) => tracing::warn!(peer = &*arrival.peer, %error, "a connection could not be moved to its shard"),
    }
}

async fn admit(shared: Shared, stream: TcpStream, peer: Arc<str>, client: ClientId, mut input: Vec<u8>) {
    let admitted = {
        let mut shard = shared.borrow_mut();
        shard.read_clock();
        shard.counts.bytes_in += input.len() as u64;
        // It was decoded when it was read, and is again: it borrows from the bytes.
        let Ok(Some(found)) = frame(&input, shard.config.max_packet_size) else { return };
        let Ok(connect) = Connect::decode(&found) else { return };
        let admitted = shard.connect(&connect, &client.name, client.assigned, &peer);
        let length = found.length;
        input.drain(..length);
        admitted
    };
    connection::run(shared, stream, admitted, input).await;
}

/// A client that is not let in.
struct Refused {
    answer: Option<(Version, ReasonCode)>,
    why: String,
}

/// Reads until a whole CONNECT is there; gives all that was read and who the client is.
async fn read_connect(stream: &mut TcpStream, packet_max: u32) -> Result<(Vec<u8>, ClientId), Refused> {
    let mut input = Vec::with_capacity(512);
    loop {
        let got = stream.read_buf(&mut input).await;
        match got {
            Ok(0) => return Err(Refused { answer: None, why: "closed before a CONNECT was complete".into() }),
            Ok(_) => {}
            Err(error) => return Err(Refused { answer: None, why: error.to_string() }),
        }
        let found = match frame(&input, packet_max) {
            Ok(Some(found)) => found,
            // Another protocol is noticed by its first byte, not after a time-out.
            Ok(None) if input[0] == 0x10 => continue,
            Ok(None) => return Err(Refused { answer: None, why: "its first packet is not a CONNECT".into() }),
            Err(error) => return Err(Refused { answer: None, why: format!("not MQTT: {error}") }),
        };
        let answer_in = connect_version(&found).ok();
        let connect = Connect::decode(&found).map_err(|error| refused(&error, answer_in))?;
        if connect.authentication_method.is_some() {
            let answer = Some((connect.version, ReasonCode::BadAuthenticationMethod));
            return Err(Refused { answer, why: "it asks for an authentication method; none is offered".into() });
        }
        // As deep as no PUBLISH may be, or in the server's own tree: it would be published unasked later.
        if let Some((will, reason)) = connect.will.and_then(|will| Some((will, refuse_topic(will.topic)?))) {
            let why = format!("its will's topic of {} bytes is refused", will.topic.len());
            return Err(Refused { answer: Some((connect.version, reason)), why });
        }
        let assigned = connect.client_id.is_empty();
        let name = if assigned { random_client_id().into() } else { connect.client_id.into() };
        return Ok((input, ClientId { name, assigned }));
    }
}

fn refused(error: &DecodeError, version: Option<Version>) -> Refused {
    let answer = match error {
        DecodeError::UnsupportedProtocol { answer_in, .. } => Some((*answer_in, error.reason())),
        _ => version.map(|version| (version, error.reason())),
    };
    Refused { answer, why: error.to_string() }
}

fn random_client_id() -> String {
    // PROOF: getrandom fails only where the kernel has no getrandom(2); Linux has had it since 3.17.
    let number = getrandom::u64().expect("the kernel gives random numbers");
    format!("auto-{number:016x}")
}

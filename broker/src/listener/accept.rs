//! Connections as they come to a listener: who is turned away before it said a word, and on which thread the others
//! shake hands.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::door::{Bite, Door, Pace, Rate, Visit};
use super::socket::{Acceptor, Listening, Origin, Parked, Stream};
use super::{Carrier, welcome};
use crate::shard::{Mail, Shared};
use crate::{ListenerConfig, limits};

/// A bound, non-blocking socket and what is spoken on it.
#[derive(Debug)]
pub struct Listener {
    /// Its settings; a reload changes them by their name.
    pub config: Arc<ListenerConfig>,
    /// Where clients come in.
    pub socket: Listening,
    /// What carries MQTT.
    pub carrier: Carrier,
}

/// A connection that was accepted and has said nothing yet.
pub(super) struct Guest<S> {
    pub stream: S,
    pub origin: Origin,
    pub visit: Visit,
    /// Its listener's settings when it came: whether a proxy speaks for it does not change any more.
    pub config: Arc<ListenerConfig>,
}

/// One for another shard.
pub struct Incoming(Guest<Parked>);

/// Accepts clients until the shard ends.
pub async fn accept(shared: Shared, listener: Listener) {
    let Listener { config, socket, carrier } = listener;
    let door = Arc::new(Door::new(config, carrier, socket.is_loopback()));
    let name = door.name();
    let acceptor = match Acceptor::new(socket) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(name, %error, "a listener cannot be used"),
    };
    let mut rate = Rate::new(Instant::now());
    let mut next = 0;
    loop {
        let (stream, origin) = match acceptor.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: others will close some.
                tracing::warn!(name, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let config = shared.borrow().config.of(&door.config).clone();
        let bites = |bite| door.bites(bite, &mut shared.borrow_mut().counts, &origin.peer);
        let visit = match begin(&door, &config, &stream, &origin) {
            Ok(visit) => visit,
            Err(bite) => {
                bites(bite);
                drop(stream);
                if bite == Bite::Files {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                continue;
            }
        };
        // A proxy's address does not say whose connection it is.
        let counted = origin.counted().filter(|_| config.proxies.is_none());
        match rate.comes(counted, config.max_connection_rate, Instant::now()) {
            Pace::Now => {}
            Pace::After(wait) => {
                bites(Bite::Delay);
                tokio::time::sleep(wait).await;
            }
            Pace::Never => {
                bites(Bite::Rate);
                continue;
            }
        }
        if let Carrier::Tcp | Carrier::Ws = door.carrier {
            tokio::task::spawn_local(welcome(shared.clone(), Guest { stream, origin, visit, config }));
            continue;
        }
        // A handshake's arithmetic is worth sharing among the shards.
        match stream.park() {
            Ok(stream) => {
                let shard = shared.borrow();
                next = (next + 1) % shard.config.shards;
                shard.send(next, Mail::Incoming(Box::new(Incoming(Guest { stream, origin, visit, config }))));
            }
            Err(error) => {
                tracing::warn!(name, peer = &*origin.peer, %error, "a connection could not be moved to a shard");
            }
        }
    }
}

/// Whether there is room for a connection, as far as can be told before it says a word.
fn begin(door: &Arc<Door>, config: &ListenerConfig, stream: &Stream, origin: &Origin) -> Result<Visit, Bite> {
    if !leaves_files(stream) {
        return Err(Bite::Files);
    }
    let Some(proxies) = &config.proxies else {
        let mut visit = Visit::begin(door, config)?;
        if let Some(ip) = origin.counted() {
            visit.is_from(ip, config)?;
        }
        return Ok(visit);
    };
    // Whoever may open a Unix socket is trusted by that.
    match origin.ip {
        Some(ip) if !proxies.contain(ip) => Err(Bite::NoProxy),
        _ => Visit::begin(door, config),
    }
}

/// Whether enough open files are left beside a connection: the log must never wait for one, whoever connects how
/// often. The kernel gives the lowest number that is free.
pub fn leaves_files(connection: &impl AsRawFd) -> bool {
    let Some(max) = getrlimit(Resource::Nofile).current else { return true };
    u64::try_from(connection.as_raw_fd()).is_ok_and(|number| number < max - limits::FILES_RESERVED.min(max / 4))
}

/// Takes in a connection that another shard accepted.
pub async fn come_in(shared: Shared, incoming: Incoming) {
    let Incoming(Guest { stream, origin, visit, config }) = incoming;
    match stream.resume() {
        Ok(stream) => welcome(shared, Guest { stream, origin, visit, config }).await,
        Err(error) => {
            let (name, peer) = (visit.door().name(), &*origin.peer);
            tracing::warn!(name, peer, %error, "a connection could not be moved to a shard");
        }
    }
}

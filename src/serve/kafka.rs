//! Kafka's listeners: connections go to the shards' threads in turn, and shake hands there.

use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bridge::{Bridge, Lane, kafka};
use broker::Broker;
use broker::auth::{Access, Proof, User};
use broker::listener::anonymous_allowed;
use broker::listener::tls::Tls;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::access::{anonymous, named};
use crate::config;

/// From accept to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What all of Kafka's listeners share.
pub struct Front {
    pub bridge: Bridge,
    pub broker: Arc<Broker>,
    pub server: Arc<kafka::Server>,
    pub access: Arc<Access>,
    /// As in force: a reload changes it.
    pub settings: Arc<RwLock<config::Kafka>>,
    pub shards: u16,
}

/// Accepts connections of one listener until it is dropped.
pub async fn accept(front: &Arc<Front>, listener: Option<TcpListener>, tls: Option<Arc<Tls>>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let name = if tls.is_some() { "kafka.tls" } else { "kafka.tcp" };
    let loopback = listener.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback());
    let lanes: Vec<Lane> = (0..front.shards).map(|_| front.bridge.lane()).collect();
    let mut next = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: others will close some.
                warn!(name, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !broker::listener::leaves_files(&stream) {
            warn!(name, %peer, "refused: the limit of open files (ulimit -n) is near");
            drop(stream);
            // Whoever tries again and again is not to fill the log.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        next = (next + 1) % lanes.len();
        let connection = Connection { front: front.clone(), name, peer, loopback, lane: lanes[next].clone() };
        let tls = tls.clone();
        let job = move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> { Box::pin(connection.serve(stream, tls)) };
        front.broker.run_on(next, Box::new(job));
    }
}

struct Connection {
    front: Arc<Front>,
    name: &'static str,
    peer: SocketAddr,
    loopback: bool,
    lane: Lane,
}

impl Connection {
    async fn serve(self, stream: net::TcpStream, tls: Option<Arc<Tls>>) {
        let peer = self.peer;
        let (stream, advertised) = match self.join_thread(stream, tls.is_some()) {
            Ok(joined) => joined,
            Err(error) => return debug!(%peer, %error, "a Kafka connection went before it was served"),
        };
        let settings = self.front.settings.read().allow_anonymous;
        let allowed = anonymous_allowed(settings, self.loopback, &self.front.access);
        let anonymous = allowed.then(|| anonymous(self.loopback));
        let Some(tls) = tls else {
            let entry = kafka::Entry { advertised, principal: anonymous };
            return self.talk(stream, entry).await;
        };
        let refused = |why: &str| info!(%peer, listener = self.name, "refused: {why}");
        let accepted = match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(why)) => return refused(&why),
            Err(_) => return refused(&format!("no TLS handshake within {} s", HANDSHAKE.as_secs())),
        };
        let certified = accepted.name.map(|name| named(User { name, proof: Proof::Certificate }));
        let entry = kafka::Entry { advertised, principal: certified.or(anonymous) };
        self.talk(accepted.stream, entry).await;
    }

    fn join_thread(&self, stream: net::TcpStream, is_tls: bool) -> std::io::Result<(TcpStream, (String, u16))> {
        let stream = TcpStream::from_std(stream)?;
        let settings = self.front.settings.read();
        let configured = if is_tls { &settings.advertised_tls } else { &settings.advertised };
        let advertised = match configured {
            Some(advertised) => advertised.clone(),
            None => {
                let local = stream.local_addr()?;
                (local.ip().to_canonical().to_string(), local.port())
            }
        };
        drop(settings);
        Ok((stream, advertised))
    }

    async fn talk<S>(self, stream: S, entry: kafka::Entry)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        // It says itself why a connection ended.
        let _ = self.front.server.clone().serve(stream, self.peer, entry, self.lane).await;
    }
}

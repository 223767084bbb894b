//! The sockets: bound before anything is opened, listened on when there is someone to answer.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use broker::listener::socket::Listening;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

use super::unix::{self, SocketFile};
use crate::config::{Address, Config, Endpoint, ListenerConfig, Protocol};

/// Connections the kernel holds until they are accepted.
pub const BACKLOG: u32 = 4_096;

/// One of each; `None` where it is off.
pub struct Listeners<T> {
    pub mqtt: Option<T>,
    pub mqtt_tls: Option<T>,
    pub mqtt_ws: Option<T>,
    pub mqtt_wss: Option<T>,
    pub kafka: Option<T>,
    pub kafka_tls: Option<T>,
    pub admin: Option<T>,
}

impl<T> Listeners<T> {
    fn try_map<U>(self, mut change: impl FnMut(T) -> io::Result<Option<U>>) -> io::Result<Listeners<U>> {
        let mut each = |one: Option<T>| one.map_or(Ok(None), &mut change);
        Ok(Listeners {
            mqtt: each(self.mqtt)?,
            mqtt_tls: each(self.mqtt_tls)?,
            mqtt_ws: each(self.mqtt_ws)?,
            mqtt_wss: each(self.mqtt_wss)?,
            kafka: each(self.kafka)?,
            kafka_tls: each(self.kafka_tls)?,
            admin: each(self.admin)?,
        })
    }
}

/// Bound sockets that do not listen yet: clients are turned away until there is someone to answer.
pub fn bind(config: &Config, runtime: &Runtime) -> io::Result<Listeners<TcpSocket>> {
    let _inside = runtime.enter();
    let Config { mqtt, kafka, admin, .. } = config;
    let wanted = Listeners {
        mqtt: Some(("mqtt.tcp", &mqtt.tcp)),
        mqtt_tls: Some(("mqtt.tls", &mqtt.tls)),
        mqtt_ws: Some(("mqtt.ws", &mqtt.ws)),
        mqtt_wss: Some(("mqtt.wss", &mqtt.wss)),
        kafka: Some(("kafka.tcp", &kafka.tcp)),
        kafka_tls: Some(("kafka.tls", &kafka.tls)),
        admin: Some(("admin.http", &admin.http)),
    };
    wanted.try_map(|(key, address)| bind_first(key, address))
}

/// From here on clients are heard.
pub fn listen(sockets: Listeners<TcpSocket>) -> io::Result<Listeners<TcpListener>> {
    sockets.try_map(|socket| socket.listen(BACKLOG).map(Some))
}

/// Where a listener listens, as the log says it.
pub fn said(listener: &Option<TcpListener>) -> Option<String> {
    Some(listener.as_ref()?.local_addr().ok()?.to_string())
}

/// One of `[[mqtt.listener]]`, bound.
pub struct Further<T> {
    pub name: String,
    pub protocol: Protocol,
    pub socket: T,
}

/// What one is bound to.
pub enum Bound {
    Tcp(TcpSocket),
    Unix(unix::Place),
}

/// As [`bind`], those of `[[mqtt.listener]]`.
pub fn bind_further(config: &Config, runtime: &Runtime) -> io::Result<Vec<Further<Bound>>> {
    let _inside = runtime.enter();
    let bind = |listener: &ListenerConfig| {
        let socket = match &listener.address {
            Endpoint::Net(address) => {
                // PROOF: `off` is refused where it is read.
                Bound::Tcp(bind_first("mqtt.listener", address)?.ok_or(io::ErrorKind::InvalidInput)?)
            }
            Endpoint::Unix(path) => Bound::Unix(unix::Place::take(path, listener.unix_mode)?),
        };
        Ok(Further { name: listener.name(), protocol: listener.protocol, socket })
    };
    config.mqtt.listener.iter().map(bind).collect()
}

/// From here on clients are heard; by a Unix socket, as long as its file is kept.
pub fn listen_further(bound: Vec<Further<Bound>>) -> io::Result<Vec<(Further<Listening>, Option<SocketFile>)>> {
    let listen = |Further { name, protocol, socket }| {
        let (socket, file) = match socket {
            Bound::Tcp(socket) => (Listening::Tcp(socket.listen(BACKLOG)?.into_std()?), None),
            Bound::Unix(place) => {
                let (socket, file) = place.listen()?;
                (Listening::Unix(socket), Some(file))
            }
        };
        Ok((Further { name, protocol, socket }, file))
    };
    bound.into_iter().map(listen).collect()
}

/// Where they listen and what they speak, as the log says it.
pub fn said_further(all: &[(Further<Listening>, Option<SocketFile>)]) -> Option<String> {
    let said = |(listener, _): &(Further<Listening>, _)| {
        let at = match &listener.socket {
            Listening::Tcp(socket) => socket.local_addr().map_or_else(|_| listener.name.clone(), |at| at.to_string()),
            Listening::Unix(_) => listener.name.clone(),
        };
        format!("{at} ({})", listener.protocol.name())
    };
    (!all.is_empty()).then(|| all.iter().map(said).collect::<Vec<_>>().join(", "))
}

fn bind_first(key: &str, address: &Address) -> io::Result<Option<TcpSocket>> {
    let Some(host_port) = address.host_port() else { return Ok(None) };
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{key} = \"{address}\": {error}"));
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in host_port.to_socket_addrs().map_err(told)? {
        match bind_one(at) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => failed = error,
        }
    }
    Err(told(failed))
}

fn bind_one(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

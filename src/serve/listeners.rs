//! The sockets: bound before anything is opened, listened on when there is someone to answer.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

use crate::config::{Address, Config};

/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 4_096;

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

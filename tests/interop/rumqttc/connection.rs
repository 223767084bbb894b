//! One client: the same calls for both of rumqttc's halves, which share no types.

use std::{env, fs, time::Duration};

use rumqttc::{LastWill, MqttOptions, QoS, TlsConfiguration, Transport, v5};
use tokio::{sync::mpsc, task::JoinHandle, time};

use crate::Told;

const LOCK: &str = include_str!("../../../Cargo.lock");
/// For each answer of the broker.
const DEADLINE: Duration = Duration::from_secs(20);
/// Requests that rumqttc holds until they are sent.
const REQUESTS: usize = 200;

/// Of the crate, which does not say it itself.
pub fn rumqttc_version() -> &'static str {
    let entry = LOCK.split_once("name = \"rumqttc\"\nversion = \"").map(|(_, behind)| behind);
    entry.and_then(|entry| entry.split('"').next()).unwrap_or("unknown")
}

/// Of MQTT.
#[derive(Clone, Copy)]
pub enum Version {
    V311,
    V5,
}

impl Version {
    pub fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// How to connect. TLS and user name are as the environment says.
pub struct Options {
    pub version: Version,
    pub address: String,
    pub id: String,
    /// Keep the session when the connection has ended?
    pub keep: bool,
    /// The topic of a will that says "gone".
    pub will: Option<String>,
    pub password: String,
}

/// What the broker said.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Connected { session_present: bool },
    Subscribed,
    Acknowledged,
    Message { topic: String, qos: u8, retain: bool, payload: String },
}

enum Client {
    V311(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connected client and the task that drives it.
pub struct Connection {
    client: Client,
    heard: mpsc::UnboundedReceiver<Result<Heard, String>>,
    driver: JoinHandle<()>,
    /// Messages that came while something else was waited for.
    messages: Vec<Heard>,
    pub session_present: bool,
}

impl Connection {
    pub async fn open(options: Options) -> Told<Self> {
        let (tell, heard) = mpsc::unbounded_channel();
        let (client, driver) = match options.version {
            Version::V311 => {
                let (client, events) = rumqttc::AsyncClient::new(options_311(&options)?, REQUESTS);
                (Client::V311(client), tokio::spawn(drive_311(events, tell)))
            }
            Version::V5 => {
                let (client, events) = v5::AsyncClient::new(options_5(&options)?, REQUESTS);
                (Client::V5(client), tokio::spawn(drive_5(events, tell)))
            }
        };
        let mut connection = Self { client, heard, driver, messages: Vec::new(), session_present: false };
        match connection.next().await? {
            Heard::Connected { session_present } => connection.session_present = session_present,
            other => return Err(format!("{other:?} instead of a CONNACK").into()),
        }
        Ok(connection)
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Told {
        match &self.client {
            Client::V311(client) => client.subscribe(filter, qos).await?,
            Client::V5(client) => client.subscribe(filter, qos_5(qos)).await?,
        }
        self.until(&Heard::Subscribed).await
    }

    /// With QoS 1 and 2 it is over when the broker has acknowledged it.
    pub async fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) -> Told {
        let payload = payload.to_owned();
        match &self.client {
            Client::V311(client) => client.publish(topic, qos, retain, payload).await?,
            Client::V5(client) => client.publish(topic, qos_5(qos), retain, payload).await?,
        }
        if qos == QoS::AtMostOnce { Ok(()) } else { self.until(&Heard::Acknowledged).await }
    }

    pub async fn take(&mut self, count: usize) -> Told<Vec<Heard>> {
        while self.messages.len() < count {
            let heard = self.next().await?;
            self.messages.push(heard);
        }
        Ok(std::mem::take(&mut self.messages))
    }

    /// Says DISCONNECT and waits until the broker has closed the connection.
    pub async fn close(mut self) -> Told {
        match &self.client {
            Client::V311(client) => client.disconnect().await?,
            Client::V5(client) => client.disconnect().await?,
        }
        Ok(time::timeout(DEADLINE, &mut self.driver).await??)
    }

    /// Ends the connection without a word.
    pub fn cut(self) {
        self.driver.abort();
    }

    async fn until(&mut self, due: &Heard) -> Told {
        loop {
            let heard = self.next().await?;
            if heard == *due {
                return Ok(());
            }
            self.messages.push(heard);
        }
    }

    async fn next(&mut self) -> Told<Heard> {
        let heard = time::timeout(DEADLINE, self.heard.recv()).await.map_err(|_| "no answer within 20 s")?;
        Ok(heard.ok_or("the connection has ended")??)
    }
}

fn transport() -> Told<Transport> {
    let Ok(ca) = env::var("INTEROP_CA") else { return Ok(Transport::tcp()) };
    // rumqttc asks for the process' provider; a second connection finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let simple = TlsConfiguration::Simple { ca: fs::read(ca)?, alpn: None, client_auth: None };
    Ok(Transport::tls_with_config(simple))
}

fn host_and_port(address: &str) -> Told<(&str, u16)> {
    let (host, port) = address.rsplit_once(':').ok_or("an address is host:port")?;
    Ok((host, port.parse()?))
}

fn options_311(options: &Options) -> Told<MqttOptions> {
    let (host, port) = host_and_port(&options.address)?;
    let mut mqtt = MqttOptions::new(&options.id, host, port);
    mqtt.set_transport(transport()?).set_clean_session(!options.keep);
    if let Some(topic) = &options.will {
        mqtt.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
    }
    if let Ok(user) = env::var("INTEROP_USER") {
        mqtt.set_credentials(user, &options.password);
    }
    Ok(mqtt)
}

fn options_5(options: &Options) -> Told<v5::MqttOptions> {
    let (host, port) = host_and_port(&options.address)?;
    let mut mqtt = v5::MqttOptions::new(&options.id, host, port);
    mqtt.set_transport(transport()?).set_clean_start(!options.keep);
    mqtt.set_session_expiry_interval(options.keep.then_some(3_600));
    if let Some(topic) = &options.will {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        mqtt.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, "gone", qos, false, None));
    }
    if let Ok(user) = env::var("INTEROP_USER") {
        mqtt.set_credentials(user, &options.password);
    }
    Ok(mqtt)
}

fn qos_5(qos: QoS) -> v5::mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

/// Until the connection ends or nobody listens any more. (The event loop would connect again.)
async fn drive_311(mut events: rumqttc::EventLoop, tell: mpsc::UnboundedSender<Result<Heard, String>>) {
    use rumqttc::{ConnectionError, Event, Packet};
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                Ok(Heard::Connected { session_present: connack.session_present })
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Ok(Heard::Subscribed),
            Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Ok(Heard::Acknowledged),
            Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Heard::Message {
                topic: publish.topic,
                qos: publish.qos as u8,
                retain: publish.retain,
                payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            }),
            Ok(_) => continue,
            Err(ConnectionError::ConnectionRefused(code)) => Err(format!("refused: {code:?}")),
            Err(error) => Err(error.to_string()),
        };
        let ended = heard.is_err();
        if tell.send(heard).is_err() || ended {
            return;
        }
    }
}

async fn drive_5(mut events: v5::EventLoop, tell: mpsc::UnboundedSender<Result<Heard, String>>) {
    use v5::{ConnectionError, Event, mqttbytes::v5::Packet};
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                Ok(Heard::Connected { session_present: connack.session_present })
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Ok(Heard::Subscribed),
            Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Ok(Heard::Acknowledged),
            Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Heard::Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                qos: publish.qos as u8,
                retain: publish.retain,
                payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            }),
            Ok(_) => continue,
            Err(ConnectionError::ConnectionRefused(code)) => Err(format!("refused: {code:?}")),
            Err(error) => Err(error.to_string()),
        };
        let ended = heard.is_err();
        if tell.send(heard).is_err() || ended {
            return;
        }
    }
}

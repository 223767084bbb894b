//! One client: the same calls for both of rumqttc's halves, which share no types.

use std::{collections::HashMap, env, fs, time::Duration};

use rumqttc::{
    LastWill, MqttOptions, QoS, TlsConfiguration, Transport,
    v5::{
        self,
        mqttbytes::v5::{Filter, LastWillProperties, PublishProperties, SubscribeProperties},
    },
};
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
    /// How long the session is kept when the connection has ended; 3.1.1 knows kept (not 0) or not.
    pub keep_s: u32,
    /// The topic of a will that says "gone".
    pub will: Option<String>,
    pub will_delay_s: u32,
    /// Topic aliases that the broker may set.
    pub alias_max: u16,
    pub password: String,
}

/// What the broker said.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Connected { session_present: bool },
    Subscribed,
    Acknowledged,
    Message(Message),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub payload: String,
    /// None in 3.1.1.
    pub properties: PublishProperties,
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
    messages: Vec<Message>,
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

    /// With what 5.0 adds.
    pub async fn subscribe_5(&mut self, filter: Filter, identifier: Option<usize>) -> Told {
        self.ask_5(filter, identifier).await?;
        self.until(&Heard::Subscribed).await
    }

    /// The same without waiting for the answer.
    pub async fn ask_5(&self, filter: Filter, identifier: Option<usize>) -> Told {
        let properties = SubscribeProperties { id: identifier, user_properties: Vec::new() };
        Ok(self.v5()?.subscribe_many_with_properties([filter], properties).await?)
    }

    /// With QoS 1, and what 5.0 adds.
    pub async fn publish_5(&mut self, topic: &str, retain: bool, payload: &str, properties: PublishProperties) -> Told {
        let (qos, payload) = (v5::mqttbytes::QoS::AtLeastOnce, payload.to_owned());
        self.v5()?.publish_with_properties(topic, qos, retain, payload, properties).await?;
        self.until(&Heard::Acknowledged).await
    }

    fn v5(&self) -> Told<&v5::AsyncClient> {
        match &self.client {
            Client::V311(_) => Err("3.1.1 does not have this".into()),
            Client::V5(client) => Ok(client),
        }
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

    pub async fn take(&mut self, count: usize) -> Told<Vec<Message>> {
        while self.messages.len() < count {
            self.next_message().await?;
        }
        Ok(std::mem::take(&mut self.messages))
    }

    /// The payloads that came before this one, which nothing follows.
    pub async fn take_until(&mut self, last: &str) -> Told<Vec<String>> {
        while self.messages.last().is_none_or(|message| message.payload != last) {
            self.next_message().await?;
        }
        self.messages.pop();
        Ok(std::mem::take(&mut self.messages).into_iter().map(|message| message.payload).collect())
    }

    /// Why the broker ended the connection.
    pub async fn ended(&mut self) -> Told<String> {
        loop {
            match time::timeout(DEADLINE, self.heard.recv()).await?.ok_or("it ended without a reason")? {
                Ok(_) => {}
                Err(why) => return Ok(why),
            }
        }
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
            self.keep(heard)?;
        }
    }

    async fn next_message(&mut self) -> Told {
        let heard = self.next().await?;
        self.keep(heard)
    }

    fn keep(&mut self, heard: Heard) -> Told {
        let Heard::Message(message) = heard else {
            return Err(format!("{heard:?} instead of a message").into());
        };
        self.messages.push(message);
        Ok(())
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
    mqtt.set_transport(transport()?).set_clean_session(options.keep_s == 0);
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
    mqtt.set_transport(transport()?).set_clean_start(options.keep_s == 0);
    mqtt.set_session_expiry_interval((options.keep_s > 0).then_some(options.keep_s));
    mqtt.set_topic_alias_max((options.alias_max > 0).then_some(options.alias_max));
    if let Some(topic) = &options.will {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let delay = LastWillProperties {
            delay_interval: Some(options.will_delay_s),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        mqtt.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, "gone", qos, false, Some(delay)));
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
            Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Heard::Message(Message {
                topic: publish.topic,
                qos: publish.qos as u8,
                retain: publish.retain,
                payload: String::from_utf8_lossy(&publish.payload).into_owned(),
                properties: PublishProperties::default(),
            })),
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
    let mut aliases = HashMap::new();
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                Ok(Heard::Connected { session_present: connack.session_present })
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Ok(Heard::Subscribed),
            Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Ok(Heard::Acknowledged),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let properties = publish.properties.unwrap_or_default();
                let mut topic = String::from_utf8_lossy(&publish.topic).into_owned();
                // rumqttc tells of a message before it looks its alias up.
                match properties.topic_alias {
                    Some(alias) if topic.is_empty() => topic = aliases.get(&alias).cloned().unwrap_or_default(),
                    Some(alias) => _ = aliases.insert(alias, topic.clone()),
                    None => {}
                }
                Ok(Heard::Message(Message {
                    topic,
                    qos: publish.qos as u8,
                    retain: publish.retain,
                    payload: String::from_utf8_lossy(&publish.payload).into_owned(),
                    properties,
                }))
            }
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

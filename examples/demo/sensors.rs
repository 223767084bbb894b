//! Simulated sensors: rumqttc, MQTT 3.1.1 over TLS, QoS 1.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, interval};

use crate::account::Account;
use crate::broker::Broker;

/// How many.
pub const COUNT: u32 = 6;
/// Each says something this often.
const EVERY: Duration = Duration::from_millis(10);
/// Messages under way, per sensor.
const INFLIGHT: u16 = 100;

/// All sensors, in a thread of their own.
pub struct Sensors {
    stop: Arc<AtomicBool>,
    patience: Arc<std::sync::Mutex<Duration>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Sensors {
    /// They connect and begin.
    pub fn start(broker: &Broker, account: &Arc<Account>) -> Result<Sensors, Box<dyn Error>> {
        let tls = Arc::new(tls(broker)?);
        let (host, port) = broker.mqtt_tls.rsplit_once(':').ok_or("no port")?;
        let (host, port) = (host.to_owned(), port.parse::<u16>()?);
        let stop = Arc::new(AtomicBool::new(false));
        let patience = Arc::new(std::sync::Mutex::new(Duration::ZERO));
        let (asked, granted, account) = (stop.clone(), patience.clone(), account.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let all = async move {
            let mut tasks = tokio::task::JoinSet::new();
            for sensor in 0..COUNT {
                let mut options = MqttOptions::new(format!("sensor-{sensor}"), host.clone(), port);
                options.set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.clone())));
                options.set_inflight(INFLIGHT).set_clean_session(true);
                let (client, events) = AsyncClient::new(options, 10);
                tasks.spawn(run(sensor, client, events, asked.clone(), granted.clone(), account.clone()));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| error.to_string())??;
            }
            Ok(())
        };
        let thread = thread::spawn(move || runtime.block_on(all));
        Ok(Sensors { stop, patience, thread })
    }

    /// They say nothing more, and wait for what is not acknowledged yet.
    pub fn stop(self, patience: Duration) -> Result<(), Box<dyn Error>> {
        *self.patience.lock().map_err(|_| "a sensor panicked")? = patience;
        self.stop.store(true, Ordering::Release);
        Ok(self.thread.join().map_err(|_| "a sensor panicked")??)
    }
}

/// The CA of the broker's fresh certificate, and no other.
fn tls(broker: &Broker) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(broker.ca_file())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Publishes until it is to stop, then until everything is acknowledged.
async fn run(
    sensor: u32,
    client: AsyncClient,
    mut events: EventLoop,
    stop: Arc<AtomicBool>,
    patience: Arc<std::sync::Mutex<Duration>>,
    account: Arc<Account>,
) -> Result<(), String> {
    let topic = format!("sensors/site-{}/{sensor}/temp", sensor % 3);
    let mut clock = interval(EVERY);
    let (mut asked, mut sent) = (0, 0);
    // Packet identifiers under way, and the numbers they stand for.
    let mut under_way: HashMap<u16, u64> = HashMap::new();
    let mut deadline = None;
    while !(stop.load(Ordering::Acquire) && sent == asked && under_way.is_empty()) {
        if stop.load(Ordering::Acquire) {
            let granted = *patience.lock().map_err(|_| "the demo panicked")?;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + granted);
            if Instant::now() > deadline {
                return Err(format!("sensor {sensor}: {} messages were never acknowledged", under_way.len()));
            }
        }
        tokio::select! {
            _ = clock.tick() => {
                let payload = format!("{{\"sensor\":{sensor},\"n\":{asked},\"celsius\":{}.5}}", 20 + asked % 5);
                // Refused while its window is full: a real sensor would keep the value for later.
                if !stop.load(Ordering::Acquire) && client.try_publish(&topic, QoS::AtLeastOnce, false, payload).is_ok() {
                    asked += 1;
                }
            }
            event = events.poll() => match event.map_err(|error| format!("sensor {sensor}: {error}"))? {
                Event::Outgoing(Outgoing::Publish(id)) => {
                    account.sent((sensor, sent));
                    under_way.insert(id, sent);
                    sent += 1;
                }
                Event::Incoming(Packet::PubAck(ack)) => {
                    if let Some(number) = under_way.remove(&ack.pkid) {
                        account.acknowledged((sensor, number));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

//! A sensor in Rust, with rumqttc: MQTT 5.0, QoS 1, a reading per second.
//!
//!     cargo run --example sensor
//!     cargo run --example sensor -- --broker gateway.local:8883 --ca certs/ca.crt --user kitchen --password-file secret
//!
//! It goes on where it was when the connection breaks: the broker keeps its session for an hour, and what was not
//! acknowledged is sent again. `--count N` ends it after N acknowledged readings.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

#[derive(Parser)]
struct Arguments {
    /// Where Millstream takes MQTT
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    /// The CA of its certificate, where it speaks TLS
    #[arg(long)]
    ca: Option<PathBuf>,
    /// User name, and the file with the password
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// What the sensor is called
    #[arg(long, default_value = "kitchen")]
    name: String,
    /// Seconds between readings
    #[arg(long, default_value_t = 1.0)]
    every: f64,
    /// Ends after this many acknowledged readings
    #[arg(long)]
    count: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (host, port) = arguments.broker.rsplit_once(':').ok_or("--broker is host:port")?;
    let mut options = MqttOptions::new(format!("sensor-{}", arguments.name), host, port.parse()?);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_clean_start(false).set_session_expiry_interval(Some(3_600));
    if let Some(ca) = &arguments.ca {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(trusting(ca)?)));
    }
    if let (Some(user), Some(file)) = (&arguments.user, &arguments.password_file) {
        options.set_credentials(user, std::fs::read_to_string(file)?.trim_end());
    }

    let (client, mut events) = AsyncClient::new(options, 10);
    let topic = format!("sensors/{}/temp", arguments.name);
    let mut clock = tokio::time::interval(Duration::from_secs_f64(arguments.every));
    let (mut readings, mut acknowledged) = (0_u64, 0_u64);
    loop {
        tokio::select! {
            _ = clock.tick(), if arguments.count.is_none_or(|count| readings < count) => {
                let celsius = 21.0 + (readings % 10) as f64 / 10.0;
                // Refused while ten readings wait: the broker is away for longer than we care to remember.
                if client.try_publish(&topic, QoS::AtLeastOnce, false, format!("{celsius:.1}")).is_ok() {
                    readings += 1;
                }
            }
            event = events.poll() => match event {
                Ok(Event::Incoming(Packet::PubAck(_))) => {
                    acknowledged += 1;
                    println!("{acknowledged} of {readings} readings are on the broker's disk");
                    if Some(acknowledged) == arguments.count {
                        return Ok(client.disconnect().await?);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{error}; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Believes certificates of this CA, and no others.
fn trusting(ca: &PathBuf) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

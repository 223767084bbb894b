//! Runs the broker until it is told to stop: opens the log, starts the shards, binds the listeners, and at
//! the end lets everything reach the disk.

mod metrics;

use std::error::Error;
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridge::{Bridge, Lane, kafka};
use broker::Broker;
use broker::mapping::Rule;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, error, info, warn};

use crate::admin::{self, AdminState, Readiness};
use crate::config::{Address, Config};
use crate::logs;

/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 4_096;
/// From SIGTERM to the end of the process.
const STOP: Duration = Duration::from_millis(4_500);
/// Of these, for acknowledging what was received and closing clients.
const DRAIN: Duration = Duration::from_millis(2_500);
/// How often the journal's health is looked at.
const HEALTH: Duration = Duration::from_millis(250);

/// Starts everything, says `ready`, and returns after SIGTERM or Ctrl-C; with an error when the journal
/// failed, for a supervisor to start it again (J8).
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    logs::install(config.log_format, &config.log_level)?;
    die_on_panic();
    raise_open_files_limit();
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is opened: a used port is the commonest reason not to start.
    let sockets = Sockets::bind(&config, &runtime)?;
    let bridge = Bridge::open(bridge_options(&config))?;
    info!(data_dir = %config.data_dir.display(), "log opened: {}", bridge.summary());
    let rules = if config.bridge.enabled { rules(&config)? } else { Vec::new() };
    let broker = Arc::new(Broker::start(broker_config(&config), &bridge, rules)?);
    let served = runtime.block_on(serve(&config, &bridge, &broker, sockets));
    let end = Instant::now() + STOP;
    broker.stop(Instant::now() + DRAIN);
    let complete = bridge.close(end);
    info!(checkpoint = if complete { "complete" } else { "not complete: the next start replays more" }, "stopped");
    served
}

async fn serve(config: &Config, bridge: &Bridge, broker: &Arc<Broker>, sockets: Sockets) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal()?;
    let [mqtt, kafka_listener, admin_listener] = sockets.listen()?;
    let addresses = [&mqtt, &kafka_listener, &admin_listener].map(said);

    let server = kafka::Server::new(bridge.clone(), kafka_config(config));
    let state = Arc::new(AdminState::new());
    metrics::add(&state, &config.data_dir, bridge, broker, &server);
    let timers = server.clone();
    broker.run_on(0, Box::new(move || Box::pin(timers.run_timers())));
    if let Some(listener) = mqtt {
        broker.listen(listener.into_std()?);
    }
    let kafka = async {
        match kafka_listener {
            Some(listener) => accept_kafka(config, bridge, broker, &server, listener).await,
            None => std::future::pending().await,
        }
    };
    let admin = async {
        match admin_listener {
            Some(listener) => admin::serve(listener, state.clone(), std::future::pending()).await,
            None => std::future::pending().await,
        }
    };
    state.set_readiness(Readiness::Ready);
    if let Some(hint) = config.how_to_open() {
        info!("{hint}");
    }
    let [mqtt, kafka_at, admin_at] = addresses;
    info!(mqtt, kafka = kafka_at, admin = admin_at, "ready");
    tokio::select! {
        () = stop => {
            info!("stopping");
            Ok(())
        }
        failed = journal_failure(bridge, &state) => Err(failed.into()),
        () = kafka => Ok(()),
        () = admin => Ok(()),
    }
}

/// Completes when the journal takes no more.
async fn journal_failure(bridge: &Bridge, state: &AdminState) -> bridge::JournalFailed {
    loop {
        if let Some(failed) = bridge.failure() {
            state.set_readiness(Readiness::NotReady(failed.to_string()));
            error!(error = %failed, "exiting, so that a restart can recover what is on the disk");
            return failed;
        }
        tokio::time::sleep(HEALTH).await;
    }
}

/// Spreads Kafka connections over the shards' threads.
async fn accept_kafka(
    config: &Config,
    bridge: &Bridge,
    broker: &Broker,
    server: &Arc<kafka::Server>,
    listener: TcpListener,
) {
    let lanes: Vec<Lane> = (0..config.shard_count()).map(|_| bridge.lane()).collect();
    let mut next = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: others will close some.
                warn!(%error, "cannot accept a Kafka connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let advertised = match (&config.kafka.advertised, stream.local_addr()) {
            (Some(advertised), _) => advertised.clone(),
            (None, Ok(local)) => (local.ip().to_string(), local.port()),
            (None, Err(error)) => {
                debug!(%peer, %error, "a Kafka connection went before it was served");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        next = (next + 1) % lanes.len();
        let (server, lane) = (server.clone(), lanes[next].clone());
        let job = move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(serve_kafka(server, stream, peer, advertised, lane))
        };
        broker.run_on(next, Box::new(job));
    }
}

async fn serve_kafka(
    server: Arc<kafka::Server>,
    stream: net::TcpStream,
    peer: SocketAddr,
    advertised: (String, u16),
    lane: Lane,
) {
    let stream = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return warn!(%peer, %error, "a Kafka connection could not be moved to its thread"),
    };
    if let Err(error) = server.serve(stream, peer, advertised, lane).await {
        info!(%peer, "Kafka connection closed: {error}");
    }
}

fn bridge_options(config: &Config) -> bridge::Options {
    bridge::Options {
        data_dir: config.data_dir.clone(),
        durability: config.durability,
        commit_interval: Duration::from_millis(config.commit_interval_ms.into()),
        segment_bytes_max: config.bridge.segment_bytes,
        checkpoint_bytes: config.bridge.checkpoint_bytes,
        checkpoint_interval: Duration::from_secs(config.bridge.checkpoint_interval_s.into()),
    }
}

fn broker_config(config: &Config) -> broker::Config {
    broker::Config {
        shards: config.shard_count().into(),
        max_packet_size: config.mqtt.max_packet_size,
        max_inflight_messages: config.mqtt.max_inflight_messages,
        receive_maximum: config.mqtt.receive_maximum,
        max_queued_messages: config.mqtt.max_queued_messages as usize,
        max_queued_bytes: usize::try_from(config.mqtt.max_queued_bytes).unwrap_or(usize::MAX),
        connect_timeout: Duration::from_secs(config.mqtt.connect_timeout_s.into()),
    }
}

fn kafka_config(config: &Config) -> kafka::Config {
    let kafka = &config.kafka;
    kafka::Config {
        node_id: kafka.node_id,
        auto_create_topics: kafka.auto_create_topics_enable,
        num_partitions: kafka.num_partitions,
        group_initial_rebalance_delay_ms: kafka.group_initial_rebalance_delay_ms.into(),
        group_min_session_timeout_ms: kafka.group_min_session_timeout_ms.into(),
        group_max_session_timeout_ms: kafka.group_max_session_timeout_ms.into(),
        message_bytes_max: kafka.message_max_bytes as usize,
    }
}

fn rules(config: &Config) -> Result<Vec<Rule>, broker::mapping::RuleError> {
    let parse = |rule: &crate::config::RuleConfig| {
        Rule::parse(&rule.filter, &rule.topic, &rule.key, rule.partitions, rule.empty_as_null)
    };
    config.bridge.rule.iter().map(parse).collect()
}

fn said(listener: &Option<TcpListener>) -> String {
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

/// Connections and segments are files, and many systems begin with 1,024.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, files = ?limit.current, "the limit of open files stays as it is");
    }
}

/// A panic anywhere ends the process: what is on the disk is right, a shard that is half alive is not, and a
/// supervisor starts it again.
fn die_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        error!("a fault of Millstream's own, please report it: {panic}");
        std::process::exit(101);
    }));
}

/// Bound sockets that do not listen yet: clients are turned away until there is someone to answer.
struct Sockets([Option<TcpSocket>; 3]);

impl Sockets {
    fn bind(config: &Config, runtime: &runtime::Runtime) -> io::Result<Sockets> {
        let _inside = runtime.enter();
        Ok(Sockets([
            bind("mqtt.tcp", &config.mqtt.tcp)?,
            bind("kafka.tcp", &config.kafka.tcp)?,
            bind("admin.http", &config.admin.http)?,
        ]))
    }

    fn listen(self) -> io::Result<[Option<TcpListener>; 3]> {
        let [mqtt, kafka, admin] = self.0.map(|socket| socket.map(|socket| socket.listen(BACKLOG)).transpose());
        Ok([mqtt?, kafka?, admin?])
    }
}

fn bind(key: &str, address: &Address) -> io::Result<Option<TcpSocket>> {
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

/// Completes at SIGTERM or Ctrl-C; both are caught from here on. SIGHUP, which would end the process, does
/// nothing: there is nothing to reload yet.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => info!("SIGHUP: nothing can be reloaded yet; restart to change the configuration"),
            }
        }
    })
}

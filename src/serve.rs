//! Runs the broker until it is told to stop: opens the log, starts the shards, binds the listeners, and at
//! the end lets everything reach the disk.
//!
//! - `listeners`: sockets, `unix` among them; `settings`: the configuration as each part takes it
//! - `kafka`: connections of Kafka clients; `access`: users, in the Kafka server's words
//! - `reload`: SIGHUP; `metrics`: what is shown

mod access;
mod kafka;
mod listeners;
mod metrics;
mod reload;
mod settings;
mod unix;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridge::{Bridge, Trouble};
use broker::Broker;
use broker::auth::Access;
use broker::listener::socket::Listening;
use broker::listener::tls::{Tls, TlsError};
use broker::listener::{Carrier, Listener};
use parking_lot::RwLock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::api::Api;
use crate::admin::gate::{Gate, Token};
use crate::admin::{self, AdminState, Readiness};
use crate::config::{Config, Loaded, Protocol};
use crate::{logs, memory};

use access::KafkaAccess;
use listeners::{Bound, Further, Listeners, said};
use reload::{Running, Source};

/// From SIGTERM to the end of the process.
const STOP: Duration = Duration::from_millis(4_500);
/// Of these, for acknowledging what was received and closing clients.
const DRAIN: Duration = Duration::from_millis(2_500);
/// How often the disk's health is looked at.
const HEALTH: Duration = Duration::from_millis(250);

/// Starts everything, says `ready`, and returns after SIGTERM or Ctrl-C; with an error when the journal
/// failed, for a supervisor to start it again (J8). At SIGHUP `source` gives the configuration anew.
pub fn run(loaded: Loaded, source: Source) -> Result<(), Box<dyn Error>> {
    let config = loaded.config.clone();
    logs::install(config.log_format, &config.log_level)?;
    die_on_panic();
    raise_open_files_limit();
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    // From here on: one that comes during a long start would end the process, and systemd takes that for an end it
    // was asked for.
    let hangup = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup())?
    };
    // Before anything is opened: a used port is the commonest reason not to start.
    let sockets = (listeners::bind(&config, &runtime)?, listeners::bind_further(&config, &runtime)?);
    let tls = open_tls(&config)?;
    let access = Arc::new(Access::open(&settings::auth_files(&config))?);
    let admin_token = Arc::new(RwLock::new(Token::read(config.admin.token_file.as_deref())?));
    let bridge = Bridge::open(settings::bridge(&config))?;
    info!(data_dir = %config.data_dir.display(), "log opened: {}", bridge.summary());
    let mapping = settings::mapping(&config)?;
    let broker = Arc::new(Broker::start(settings::broker(&config), &bridge, mapping, access.clone())?);
    let settings = Arc::new(RwLock::new(config.kafka.clone()));
    let kafka_access = Arc::new(KafkaAccess { access: access.clone(), settings: settings.clone() });
    let server = bridge::kafka::Server::new(bridge.clone(), settings::kafka(&config), kafka_access);
    let front = Arc::new(kafka::Front {
        bridge: bridge.clone(),
        broker: broker.clone(),
        server,
        access: access.clone(),
        settings,
        shards: config.shard_count(),
    });
    let running = Running {
        source,
        at_start: loaded,
        bridge: bridge.clone(),
        broker: broker.clone(),
        access,
        tls,
        front,
        admin_token,
    };
    let served = runtime.block_on(serve(&config, &running, sockets, hangup));
    let end = Instant::now() + STOP;
    broker.stop(Instant::now() + DRAIN);
    let complete = bridge.close(end);
    // A reload may wait for a disk that takes nothing.
    runtime.shutdown_background();
    info!(checkpoint = if complete { "complete" } else { "not complete: the next start replays more" }, "stopped");
    served
}

/// Reads the files that the configuration names, as a start would.
pub fn check_files(config: &Config) -> Result<(), Box<dyn Error>> {
    open_tls(config)?;
    Access::open(&settings::auth_files(config))?;
    Token::read(config.admin.token_file.as_deref())?;
    Ok(())
}

/// `None` where nothing speaks TLS.
fn open_tls(config: &Config) -> Result<Option<Arc<Tls>>, TlsError> {
    let files = if config.serves_tls() { settings::tls_files(config) } else { None };
    Ok(files.map(|files| Tls::open(&files)).transpose()?.map(Arc::new))
}

async fn serve(
    config: &Config,
    running: &Running,
    (sockets, further): (Listeners<TcpSocket>, Vec<Further<Bound>>),
    hangup: Signal,
) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal(running, hangup)?;
    let all = listeners::listen(sockets)?;
    let further = listeners::listen_further(further)?;
    let mqtt_further = listeners::said_further(&further);
    let (mqtt, mqtt_tls, mqtt_ws) = (said(&all.mqtt), said(&all.mqtt_tls), said(&all.mqtt_ws));
    let (mqtt_wss, kafka, kafka_tls) = (said(&all.mqtt_wss), said(&all.kafka), said(&all.kafka_tls));
    let admin_at = said(&all.admin);

    let Running { bridge, broker, front, tls, .. } = running;
    let state = Arc::new(AdminState::new());
    metrics::add(&state, &config.data_dir, running);
    let timers = front.server.clone();
    broker.run_on(0, Box::new(move || Box::pin(timers.run_timers())));
    let settings = settings::broker(config);
    let listen = |name: &str, socket: Listening, protocol: Protocol| {
        let carrier = match protocol {
            Protocol::Mqtt => Some(Carrier::Tcp),
            Protocol::Mqtts => tls.clone().map(Carrier::Tls),
            Protocol::Ws => Some(Carrier::Ws),
            Protocol::Wss => tls.clone().map(Carrier::Wss),
        };
        // PROOF: `settings` has one of each name, and the check wants certificates where TLS is spoken.
        let config = settings.listener(name).expect("a listener's settings").clone();
        broker.listen(Listener { config, socket, carrier: carrier.expect("certificates") });
    };
    for (name, socket, protocol) in [
        ("mqtt.tcp", all.mqtt, Protocol::Mqtt),
        ("mqtt.tls", all.mqtt_tls, Protocol::Mqtts),
        ("mqtt.ws", all.mqtt_ws, Protocol::Ws),
        ("mqtt.wss", all.mqtt_wss, Protocol::Wss),
    ] {
        if let Some(socket) = socket {
            listen(name, Listening::Tcp(socket.into_std()?), protocol);
        }
    }
    // Removed when nobody is heard any more.
    let mut socket_files = Vec::new();
    for (Further { name, protocol, socket }, file) in further {
        socket_files.extend(file);
        listen(&name, socket, protocol);
    }
    let admin = async {
        match all.admin {
            Some(listener) => {
                let loopback = listener.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback());
                let gate = Gate { token: running.admin_token.clone(), loopback };
                let api = Api { broker: broker.clone(), gate };
                admin::serve(listener, state.clone(), Some(api), std::future::pending()).await;
            }
            None => std::future::pending().await,
        }
    };
    if let Some(hint) = config.how_to_open() {
        info!("{hint}");
    }
    let off = || "off".to_owned();
    let (mqtt, kafka, admin_at) = (mqtt.unwrap_or_else(off), kafka.unwrap_or_else(off), admin_at.unwrap_or_else(off));
    info!(mqtt, mqtt_tls, mqtt_ws, mqtt_wss, mqtt_further, kafka, kafka_tls, admin = admin_at, "ready");
    tokio::select! {
        () = stop => {
            info!("stopping");
            Ok(())
        }
        failed = look_at_disk(bridge, &state, config.degrades_on_disk_error) => Err(failed.into()),
        () = kafka::accept(front, all.kafka, None) => Ok(()),
        () = kafka::accept(front, all.kafka_tls, tls.clone()) => Ok(()),
        () = admin => Ok(()),
        () = memory::give_back() => Ok(()),
    }
}

/// Tells `/ready` what the disk does. Completes when the journal has failed, unless the broker `degrades`.
async fn look_at_disk(bridge: &Bridge, state: &AdminState, degrades: bool) -> bridge::JournalFailed {
    let mut told = None;
    loop {
        let trouble = bridge.trouble();
        let readiness = match &trouble {
            Some(trouble) => Readiness::NotReady(trouble.to_string()),
            None => Readiness::Ready,
        };
        state.set_readiness(readiness);
        match trouble {
            Some(Trouble::Failed(failed)) if !degrades => {
                error!(error = %failed, "exiting, so that a restart can recover what is on the disk");
                return failed;
            }
            Some(Trouble::Failed(failed)) if told.is_none() => {
                error!(error = %failed, "from here on nothing is stored, until a restart: on_disk_error = \"degraded\"");
                told = Some(failed);
            }
            _ => {}
        }
        tokio::time::sleep(HEALTH).await;
    }
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

/// Completes at SIGTERM or Ctrl-C; both are caught from here on, during a reload, too. SIGHUP reloads.
fn stop_signal(running: &Running, mut hangup: Signal) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reloads = async move {
        while hangup.recv().await.is_some() {
            running.reload().await;
        }
        std::future::pending().await
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = reloads => {}
        }
    })
}

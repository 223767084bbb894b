//! One process: the bridge's steps, and the shards with the tasks of their connections, on one thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bridge::sim::disk::SimulatedDisk;
use bridge::sim::steps::Steps;
use bridge::{Bridge, Durability};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::auth::{Access, Files, Identity};
use crate::codec::{Connect, QoS};
use crate::listener::Client;
use crate::mapping::{Mapping, Rule};
use crate::router::Router;
use crate::shard::{self, Shard, Shared};
use crate::start::{Recovered, make_topics};
use crate::{ClientLimits, Config, ListenerConfig, connection};

use super::pipe::{ClientEnd, pipe};

/// What a seed sets.
#[derive(Clone, Debug)]
pub struct Settings {
    pub shards: usize,
    pub max_queued_messages: usize,
    pub drops_oldest: bool,
    pub max_inflight_messages: u16,
    pub dead_letters: bool,
}

/// Where they go in the log.
pub const DEAD_LETTERS: &str = "dead";

pub struct Process {
    pub bridge: Bridge,
    pub steps: Steps,
    pub router: Arc<Router>,
    local: LocalSet,
    runtime: Runtime,
    shards: Vec<Shared>,
    listener: Arc<ListenerConfig>,
}

/// Why one did not come up.
#[derive(Debug)]
pub enum NotUp {
    /// The disk ended, or failed a sync: it exits, and is started again.
    Ended,
    Wrong(String),
}

impl Process {
    pub fn start(disk: &SimulatedDisk, settings: &Settings) -> Result<Process, NotUp> {
        let may_fail = |error: String| if disk.has_ended() { NotUp::Ended } else { NotUp::Wrong(error) };
        let (bridge, mut steps) = Steps::open(disk, options()).map_err(|error| may_fail(error.to_string()))?;
        match Process::recover(&bridge, &mut steps, settings, disk) {
            Ok((recovered, shards)) => {
                let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
                let runtime = runtime.map_err(|error| NotUp::Wrong(error.to_string()))?;
                let local = LocalSet::new();
                let shards: Vec<Shared> = shards.into_iter().map(|shard| Rc::new(RefCell::new(shard))).collect();
                for shard in &shards {
                    local.spawn_local(shard::run(shard.clone()));
                }
                let listener = recovered.config.listeners[0].clone();
                Ok(Process { bridge, steps, router: recovered.router, local, runtime, shards, listener })
            }
            Err(why) => {
                steps.end(disk);
                Err(why)
            }
        }
    }

    /// As [`Broker::start`](crate::Broker::start), with the committer's steps taken where that waits for them.
    fn recover(
        bridge: &Bridge,
        steps: &mut Steps,
        settings: &Settings,
        disk: &SimulatedDisk,
    ) -> Result<(Recovered, Vec<Shard>), NotUp> {
        let wrong = |error: String| if disk.has_ended() { NotUp::Ended } else { NotUp::Wrong(error) };
        let lane = bridge.lane();
        let (rules, dead_letters) =
            make_topics(bridge, &lane, mapping(settings)).map_err(|error| wrong(error.to_string()))?;
        commit_all(bridge, steps)?;
        let access = Access::open(&Files::default()).map_err(|error| wrong(error.to_string()))?;
        let mut recovered = Recovered::new(config(settings), bridge, rules, Arc::new(access));
        let mut shards = Vec::new();
        for (index, sessions) in std::mem::take(&mut recovered.sessions).into_iter().enumerate() {
            let Recovered { router, config, mailboxes, .. } = &recovered;
            let (router, config, mailboxes) = (router.clone(), config.clone(), mailboxes.clone());
            let mut shard = Shard::new(index, bridge.clone(), router, config, mailboxes, dead_letters.clone());
            sessions.into_iter().for_each(|session| shard.recover(session));
            let ended = std::mem::take(&mut recovered.ended);
            ended.into_iter().for_each(|(queue, held)| shard.recover_ended(queue, held));
            shards.push(shard);
        }
        for shard in &mut shards {
            // It hands on and waits; what it waits for is the next line's.
            let _pending = Box::pin(shard.recovered()).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        commit_all(bridge, steps)?;
        Ok((recovered, shards))
    }

    /// Lets tasks that are ready run, for so many rounds.
    pub fn run(&self, rounds: u64) {
        self.runtime.block_on(self.local.run_until(async {
            for _ in 0..rounds {
                tokio::task::yield_now().await;
            }
        }));
    }

    /// Timers hear that time has passed; the clock has been set.
    pub fn pass(&self, ms: u64) {
        self.runtime.block_on(self.local.run_until(tokio::time::advance(Duration::from_millis(ms))));
    }

    /// A client's CONNECT comes to its shard.
    pub fn connect(&self, connect: &Connect<'_>) -> Result<ClientEnd, String> {
        let shared = &self.shards[shard::shard_of(connect.client_id, self.shards.len())];
        let client = Client {
            id: connect.client_id.into(),
            assigned: false,
            identity: Identity::Anonymous,
            peer: "sim".into(),
            listener: self.listener.clone(),
            loopback: true,
            at_listener: 0,
        };
        let admitted = {
            let mut shard = shared.borrow_mut();
            shard.read_clock();
            shard.connect(connect, &client).map_err(|rejected| rejected.why.to_owned())?
        };
        let (ours, theirs) = pipe();
        self.local.spawn_local(connection::run(shared.clone(), theirs, admitted, Vec::new()));
        Ok(ours)
    }

    /// Whether everything submitted is durable.
    pub fn is_durable(&self) -> bool {
        self.bridge.backlog_bytes() == 0
    }

    /// It ends here.
    pub fn end(self, disk: &SimulatedDisk) {
        self.steps.end(disk);
    }
}

fn commit_all(bridge: &Bridge, steps: &mut Steps) -> Result<(), NotUp> {
    steps.commit().map_err(|_| NotUp::Ended)?;
    while bridge.backlog_bytes() > 0 {
        steps.apply().map_err(NotUp::Wrong)?;
        steps.commit().map_err(|_| NotUp::Ended)?;
    }
    Ok(())
}

fn options() -> bridge::Options {
    bridge::Options {
        data_dir: "/data".into(),
        durability: Durability::Fsync,
        commit_interval: Duration::ZERO,
        topic_defaults: bridge::Settings { segment_bytes: 8 << 10, ..Default::default() },
        checkpoint_bytes: 24 << 10,
        checkpoint_interval: Duration::from_secs(60),
        reserve_bytes: 16 << 10,
    }
}

fn mapping(settings: &Settings) -> Mapping {
    let rule = |filter: &str, topic: &str, partitions| Rule::parse(filter, topic, "{topic}", partitions, false);
    let rules = vec![rule("a/#", "a", 2).expect("a rule"), rule("w/#", "w", 1).expect("a rule")];
    Mapping { rules, dead_letters: settings.dead_letters.then(|| DEAD_LETTERS.to_owned()) }
}

fn config(settings: &Settings) -> Config {
    let clients = ClientLimits {
        max_packet_size: 1 << 20,
        max_inflight_messages: settings.max_inflight_messages,
        receive_maximum: 10,
        max_keepalive_s: 0,
        min_keepalive_s: 0,
        max_qos: QoS::ExactlyOnce,
        retain_available: true,
        wildcard_subscriptions: true,
        shared_subscriptions: true,
        topic_alias_maximum: 0,
        max_topic_bytes: 100,
        max_topic_levels: 10,
        max_subscriptions: 100,
        max_message_rate: 0,
        max_byte_rate: 0,
        check_payload_format: false,
    };
    let listener = ListenerConfig {
        name: "sim".to_owned(),
        connect_timeout: Duration::from_secs(10),
        ws_path: String::new(),
        ws_origins: Vec::new(),
        max_connections: 0,
        max_connection_rate: 0,
        max_connections_per_address: 0,
        max_handshakes: 0,
        max_handshakes_per_address: 0,
        proxies: None,
        allow_anonymous: Some(true),
        response_information: String::new(),
        server_reference: String::new(),
        clients,
    };
    Config {
        shards: settings.shards,
        max_queued_messages: settings.max_queued_messages,
        max_queued_bytes: 1 << 20,
        drops_oldest: settings.drops_oldest,
        max_buffered_bytes: 64 << 20,
        max_retained_messages: 0,
        max_retained_bytes: 0,
        max_connections: 0,
        sys_interval: Duration::ZERO,
        certificates_name_users: false,
        degrades_on_disk_error: false,
        listeners: vec![Arc::new(listener)],
    }
}

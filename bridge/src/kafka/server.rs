//! What all connections share.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    access::{Access, Principal},
    call::{Client, ConnectionError},
    connection,
    groups::Groups,
    metrics::{Metrics, add},
    offsets::{Offsets, Place},
    sasl::Identity,
};
use crate::group::{Overview, State};
use crate::{Bridge, Lane, Topic, group};

/// Groups with members, at once.
const GROUPS_MAX: usize = 10_000;
/// Members of one group.
const GROUP_MEMBERS_MAX: usize = 1_000;
/// Bytes of one member's subscription, and of one assignment.
const MEMBER_METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all members' subscriptions and assignments.
const GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The type of groups that consumers form.
pub(super) const CONSUMER: &str = "consumer";

/// How far a group is behind in one partition.
#[derive(Clone, Debug)]
pub struct Lag {
    /// Which group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: Arc<Topic>,
    /// Index of the partition.
    pub partition: u32,
    /// Records from what it committed to the end.
    pub records: u64,
}

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// This broker's number, the only one of the cluster.
    pub node_id: i32,
    /// Makes a topic when a client asks for its metadata, and allows it.
    pub auto_create_topics: bool,
    /// Partitions of a topic whose creator names no number.
    pub num_partitions: u32,
    /// How long a group that was empty waits for more members after the first.
    pub group_initial_rebalance_delay_ms: u64,
    /// Shortest session timeout a group member may ask for.
    pub group_min_session_timeout_ms: u64,
    /// Longest session timeout a group member may ask for.
    pub group_max_session_timeout_ms: u64,
    /// Largest record batch taken.
    pub message_bytes_max: usize,
}

/// How clients come in by one listener.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Host and port that clients of this listener reach the broker at.
    pub advertised: (String, u16),
    /// Who the client is: let in as that, be it nobody in particular where that is allowed, or who
    /// its certificate says. `None`: it must authenticate by SASL before anything else.
    pub principal: Option<Principal>,
}

/// The Kafka protocol server of one bridge. Shared by all threads that serve connections.
pub struct Server {
    pub(super) bridge: Bridge,
    pub(super) config: Config,
    pub(super) access: Arc<dyn Access>,
    pub(super) cluster_id: StrBytes,
    pub(super) groups: Groups,
    pub(super) offsets: Offsets,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Takes the committed offsets out of what was recovered, and is ready to serve.
    pub fn new(bridge: Bridge, config: Config, access: Arc<dyn Access>) -> Arc<Server> {
        let metrics = Arc::new(Metrics::default());
        let limits = group::Limits {
            session_timeout_min_ms: config.group_min_session_timeout_ms,
            session_timeout_max_ms: config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
            groups_max: GROUPS_MAX,
            members_max: GROUP_MEMBERS_MAX,
            metadata_bytes_max: MEMBER_METADATA_BYTES_MAX,
            total_bytes_max: GROUP_BYTES_MAX,
        };
        Arc::new(Server {
            cluster_id: StrBytes::from_string(base64url(bridge.cluster_id())),
            groups: Groups::new(limits, metrics.clone()),
            offsets: Offsets::recover(&bridge),
            bridge,
            config,
            access,
            metrics,
        })
    }

    /// Serves one connection until it ends. `lane` is the calling thread's.
    pub async fn serve<S>(
        self: Arc<Self>,
        stream: S,
        peer: SocketAddr,
        entry: Entry,
        lane: Lane,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (host, port) = entry.advertised;
        let (host, port) = (StrBytes::from_string(host), port.into());
        let client = Client { peer, host, port, lane, identity: Identity::new(entry.principal) };
        add(&self.metrics.connections, 1);
        let ended = connection::serve(self.clone(), client, stream).await;
        add(&self.metrics.connections_closed, 1);
        match &ended {
            Ok(()) => tracing::debug!(%peer, "kafka connection closed"),
            Err(reason) => tracing::info!(%peer, %reason, "kafka connection closed"),
        }
        ended
    }

    /// Lets time pass for consumer groups: sessions, rebalances. Runs as long as the server; to be
    /// spawned once.
    pub async fn run_timers(self: Arc<Self>) {
        self.groups.run_timers().await;
    }

    /// How far groups that committed are behind, in the order of groups, topics (by id) and partitions, as far
    /// as `max` of them; and how many are left out.
    pub fn lags(&self, max: usize) -> (Vec<Lag>, usize) {
        let (positions, left_out) = self.offsets.positions(max);
        let topics: HashMap<u32, Arc<Topic>> = self.bridge.topics().into_iter().map(|t| (t.id, t)).collect();
        let lag = |(group, place, offset): (Arc<str>, Place, i64)| {
            let topic = topics.get(&place.topic_id)?.clone();
            let end = topic.partitions.get(place.partition as usize)?.high_watermark();
            // The end was read after the offset; an offset committed beyond it is the client's affair.
            let records = u64::try_from(end - offset).unwrap_or(0);
            Some(Lag { group, topic, partition: place.partition, records })
        };
        (positions.into_iter().filter_map(lag).collect(), left_out)
    }

    /// Every group that has members or committed something, by name, as far as `max` of them; and how many are
    /// left out.
    pub fn group_overviews(&self, max: usize) -> (Vec<Overview>, usize) {
        let mut groups = self.overviews_by_name();
        let left_out = groups.len().saturating_sub(max);
        groups.truncate(max);
        (groups, left_out)
    }

    /// Every group, those known by their offsets alone included.
    pub(super) fn overviews_by_name(&self) -> Vec<Overview> {
        let empty = |group: Arc<str>| {
            // Only consumers commit offsets: so it is theirs when a group is known by its offsets alone.
            let overview =
                Overview { group: group.clone(), protocol_type: CONSUMER.into(), state: State::Empty, members: 0 };
            (group, overview)
        };
        let mut groups: BTreeMap<Arc<str>, Overview> = self.offsets.groups().into_iter().map(empty).collect();
        groups.extend(self.groups.list().into_iter().map(|overview| (overview.group.clone(), overview)));
        groups.into_values().collect()
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// 16 bytes as Kafka shows them: 22 characters, no padding.
fn base64url(bytes: [u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = u128::from_be_bytes(bytes);
    // 21 digits of 6 bits from the top; 2 bits are left for the last one.
    let top = (0..21).map(|i| (value >> (122 - 6 * i)) & 63);
    let digits = top.chain([(value & 3) << 4]);
    digits.map(|d| char::from(DIGITS[d as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::base64url;

    #[test]
    fn cluster_ids_look_like_kafkas() {
        assert_eq!(base64url([0; 16]), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(base64url([255; 16]), "_____________________w");
        assert_eq!(base64url(*b"0123456789abcdef"), "MDEyMzQ1Njc4OWFiY2RlZg");
    }
}

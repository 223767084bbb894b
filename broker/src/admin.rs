//! What an administrator may ask of a running broker, from any thread: sessions and retained messages, told and removed.

use std::sync::Arc;

use bridge::JournalFailed;
use bridge::state::Change;
use tokio::sync::oneshot;

use crate::codec::Version;
use crate::limits;
use crate::router::retained::Retained;
use crate::session::{Options, Traffic};
use crate::shard::{Visit, shard_of};
use crate::start::Broker;
use crate::store;

/// A session, whether or not its client is there.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// Its client.
    pub client_id: Arc<str>,
    /// The user name it gave.
    pub user: Option<Box<str>>,
    /// Its client's connection.
    pub connection: Option<ConnectionInfo>,
    /// Seconds it outlives its connection; `None`: it never ends by itself.
    pub expiry_s: Option<u32>,
    /// Seconds until it ends, while its client is away.
    pub ends_in_s: Option<u64>,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages that wait to be sent.
    pub queued: usize,
    /// QoS 1 and 2 messages sent on this connection and not acknowledged.
    pub in_flight: usize,
    /// What it sent and got.
    pub traffic: Traffic,
    /// What it was not sent, by reason.
    pub dropped: [(&'static str, u32); 9],
}

/// A client's connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Where from.
    pub peer: Arc<str>,
    /// The listener's setting.
    pub listener: String,
    /// What it speaks.
    pub version: Version,
    /// 0 off.
    pub keep_alive_s: u16,
    /// Since when, in seconds since 1970.
    pub since_s: u32,
    /// Bytes that wait until it reads.
    pub outbox_bytes: usize,
}

/// Sessions in the order of their client ids.
#[derive(Clone, Debug, Default)]
pub struct ClientList {
    /// As many as were asked for.
    pub clients: Vec<ClientInfo>,
    /// There are more behind them.
    pub truncated: bool,
}

/// A session with what it subscribed to.
#[derive(Clone, Debug)]
pub struct ClientDetails {
    /// The session.
    pub info: ClientInfo,
    /// Filters and options, in order; the first [`limits::LISTED_SUBSCRIPTIONS_MAX`].
    pub subscriptions: Vec<(Box<str>, Options)>,
}

/// What became of a session that an administrator wanted gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its client was there, and is told and closed.
    pub disconnected: bool,
    /// The session has ended, durably.
    pub ended: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unanswered {
    /// The shard is no more.
    #[error("the server is stopping")]
    Stopping,
    /// It would not be durable.
    #[error(transparent)]
    Journal(#[from] JournalFailed),
}

impl Broker {
    /// The first sessions whose client ids come after `after`.
    pub async fn clients(&self, after: Option<Box<str>>, max: usize) -> Result<ClientList, Unanswered> {
        let mut answers = Vec::new();
        for shard in 0..self.shards() {
            let (answer, told) = oneshot::channel();
            let after = after.clone();
            self.visit(
                shard,
                Box::new(move |shared| {
                    Box::pin(async move {
                        // Whoever asked may have gone.
                        let _ = answer.send(crate::shard::list_clients(&shared, after.as_deref(), max).await);
                    })
                }),
            );
            answers.push(told);
        }
        let mut all = ClientList::default();
        for told in answers {
            let mut list = told.await.map_err(|_| Unanswered::Stopping)?;
            all.clients.append(&mut list.clients);
            all.truncated |= list.truncated;
        }
        all.clients.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        all.truncated |= all.clients.len() > max;
        all.clients.truncate(max);
        Ok(all)
    }

    /// The session of a client id, if there is one.
    pub async fn client(&self, client_id: &str) -> Result<Option<ClientDetails>, Unanswered> {
        let (answer, told) = oneshot::channel();
        let id: Box<str> = client_id.into();
        let visit: Visit = Box::new(move |shared| {
            Box::pin(async move {
                let _ = answer.send(shared.borrow().client_details(&id));
            })
        });
        self.visit(shard_of(client_id, self.shards()), visit);
        told.await.map_err(|_| Unanswered::Stopping)
    }

    /// Closes a client's connection, and with `ends` ends its session; `None` when there is no such session. What has
    /// to be durable is when this completes.
    pub async fn remove_client(&self, client_id: &str, ends: bool) -> Result<Option<Removed>, Unanswered> {
        let (answer, told) = oneshot::channel();
        let id: Box<str> = client_id.into();
        let visit: Visit = Box::new(move |shared| {
            Box::pin(async move {
                let _ = answer.send(crate::shard::remove_client(&shared, &id, ends).await);
            })
        });
        self.visit(shard_of(client_id, self.shards()), visit);
        Ok(told.await.map_err(|_| Unanswered::Stopping)??)
    }

    /// Retained messages that match a filter, as many as `max`, in no order. Looks at all that could match: not for a
    /// thread that others wait for.
    pub fn retained(&self, filter: &str, max: usize) -> Vec<Arc<Retained>> {
        self.router().retained.first_matching(filter, unix_s(), max)
    }

    /// Removes these retained messages, or what their topics have by now; how many there were. Durable when it completes.
    pub async fn remove_retained(&self, messages: &[Arc<Retained>]) -> Result<usize, JournalFailed> {
        let lane = self.admin_lane();
        let mut removed = 0;
        for some in messages.chunks(limits::RETAINED_REMOVED_AT_ONCE_MAX) {
            let changes = self.router().retained.remove_all(some.iter().map(|message| &*message.topic));
            removed += changes.len();
            if changes.is_empty() {
                continue;
            }
            let ticket = {
                let mut operation = lane.begin();
                for (topic, order) in changes {
                    operation.change_in_order(order, Change::Delete(store::RETAINED, topic.as_bytes()));
                }
                operation.submit()
            };
            lane.flush();
            lane.wait(ticket).await?;
        }
        Ok(removed)
    }
}

fn unix_s() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}

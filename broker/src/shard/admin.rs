//! Sessions, told to an administrator and removed by one.

use std::collections::BinaryHeap;
use std::sync::Arc;

use bridge::{JournalFailed, Ticket};

use crate::admin::{ClientDetails, ClientInfo, ClientList, ConnectionInfo, Removed};
use crate::codec::ReasonCode;
use crate::limits;
use crate::session::{Close, NEVER, Out, Session};

use super::{Shard, Shared};

/// The first sessions of a shard whose client ids come after `after`. Others have their turn meanwhile.
pub async fn list_clients(shared: &Shared, after: Option<&str>, max: usize) -> ClientList {
    let mut first: BinaryHeap<(Arc<str>, u32)> = BinaryHeap::new();
    let mut truncated = false;
    let mut slot = 0;
    while slot < shared.borrow().sessions.capacity() {
        {
            let shard = shared.borrow();
            let end = slot + limits::LISTED_AT_ONCE_MAX;
            let some = (slot..end).filter_map(|slot| Some((slot as u32, shard.sessions.get(slot)?)));
            for (slot, session) in some.filter(|(_, session)| after.is_none_or(|after| *session.me.client_id > *after))
            {
                let full = first.len() == max;
                truncated |= full;
                if full && first.peek().is_none_or(|(last, _)| *last <= session.me.client_id) {
                    continue;
                }
                first.push((session.me.client_id.clone(), slot));
                if full {
                    first.pop();
                }
            }
            slot = end;
        }
        tokio::task::yield_now().await;
    }
    let shard = shared.borrow();
    let mut clients = Vec::with_capacity(first.len());
    for (client_id, slot) in first.into_sorted_vec() {
        // It may have ended meanwhile, and another one have its place.
        let session = shard.sessions.get(slot as usize).filter(|session| session.me.client_id == client_id);
        clients.extend(session.map(|session| shard.client_info(session)));
    }
    ClientList { clients, truncated }
}

/// Closes a client's connection, and with `ends` ends its session.
pub async fn remove_client(shared: &Shared, client_id: &str, ends: bool) -> Result<Option<Removed>, JournalFailed> {
    let (removed, ticket, lane) = {
        let mut shard = shared.borrow_mut();
        shard.read_clock();
        let Some(slot) = shard.by_client.get(client_id).copied() else { return Ok(None) };
        let (removed, ticket) = shard.throw_out(slot, ends);
        shard.hand_on_all();
        (removed, ticket, shard.lane.clone())
    };
    lane.wait(ticket).await?;
    Ok(Some(removed))
}

impl Shard {
    /// The session of a client id, if there is one here.
    pub fn client_details(&self, client_id: &str) -> Option<ClientDetails> {
        let slot = *self.by_client.get(client_id)?;
        let session = self.sessions.get(slot as usize)?;
        let mut subscriptions: Vec<_> =
            session.subscriptions.iter().map(|(filter, options)| (filter.into(), *options)).collect();
        subscriptions.sort_by(|(a, _): &(Box<str>, _), (b, _)| a.cmp(b));
        subscriptions.truncate(limits::LISTED_SUBSCRIPTIONS_MAX);
        Some(ClientDetails { info: self.client_info(session), subscriptions })
    }

    fn client_info(&self, session: &Session) -> ClientInfo {
        let (queued, in_flight) = match &session.out {
            Out::Queue(queue) if session.link.is_some() => queue.standing(),
            Out::Queue(queue) => (queue.len(), 0),
            Out::Window(window) => (window.waiting().0, window.in_flight()),
        };
        let connection = session.link.as_ref().map(|link| ConnectionInfo {
            peer: link.peer.clone(),
            listener: link.listener.name.clone(),
            version: link.version,
            keep_alive_s: link.keep_alive_s,
            since_s: link.since_s,
            outbox_bytes: link.backlog_bytes(),
        });
        let ends_at_ms = session.ends_at_ms.filter(|_| connection.is_none());
        ClientInfo {
            client_id: session.me.client_id.clone(),
            user: session.user.clone(),
            connection,
            expiry_s: Some(session.expiry_s).filter(|expiry_s| *expiry_s != NEVER),
            ends_in_s: ends_at_ms.map(|at_ms| at_ms.saturating_sub(self.now.up_ms).div_ceil(1000)),
            subscriptions: session.subscriptions.len(),
            queued,
            in_flight,
            traffic: session.traffic,
            dropped: session.me.drops.by_reason(),
        }
    }

    /// What became of it, and when that is durable.
    fn throw_out(&mut self, slot: u32, ends: bool) -> (Removed, Ticket) {
        let session = &mut self.sessions[slot as usize];
        if ends {
            session.expiry_s = 0;
        }
        let disconnected = match session.link.as_mut() {
            Some(link) => {
                let by_us = Close::ByServer(ReasonCode::AdministrativeAction, "an administrator closed the connection");
                link.close(by_us.clone());
                // What it was closed for before counts: it may have said goodbye.
                let why = link.closing.clone().unwrap_or(by_us);
                // Its task finds that the session has another link, or none: it writes this farewell and ends.
                let (id, farewell) = (link.id, link.farewell(&self.config));
                self.farewells.insert(id, farewell);
                self.disconnected(slot, id, &why);
                true
            }
            None => {
                if ends {
                    self.end(slot);
                }
                false
            }
        };
        let ended = self.sessions.get(slot as usize).is_none();
        (Removed { disconnected, ended }, self.lane.submitted())
    }
}

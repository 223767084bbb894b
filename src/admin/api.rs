//! What the admin listener tells of sessions and retained messages, and what it changes about them, in JSON.
//!
//! ```text
//! GET    /clients?limit=N&after=ID       sessions in the order of their client ids
//! GET    /clients/ID                     one, with its subscriptions
//! DELETE /clients/ID?session=true        closes its connection; with session=true ends the session, too
//! GET    /retained?filter=F&limit=N      retained messages
//! DELETE /retained?filter=F              removes them, durably
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use broker::Broker;
use broker::admin::{ClientDetails, ClientInfo};
use broker::codec::topic::validate_filter;
use serde_json::{Map, Value, json};
use tokio::time;
use tracing::info;

use super::gate::{Gate, Refusal};
use super::query;

/// What there is to ask, and who may.
#[derive(Clone)]
pub struct Api {
    /// Who is asked.
    pub broker: Arc<Broker>,
    /// Who may ask.
    pub gate: Gate,
}

/// From a request to its answer; what was begun goes on.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Entries of a list, unless the request says how many.
const LISTED: usize = 100;
/// Sessions in one answer.
const CLIENTS_MAX: usize = 1_000;
/// Retained messages in one answer.
const RETAINED_MAX: usize = 10_000;

/// An answer, or a status with what is wrong.
type Answer = Result<Value, (StatusCode, String)>;

/// The calls, for whom the gate lets through.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/clients", get(clients))
        .route("/clients/{id}", get(client).delete(remove_client))
        .route("/retained", get(retained).delete(remove_retained))
        .route_layer(middleware::from_fn_with_state(api.gate.clone(), gated))
        .with_state(api)
}

async fn gated(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(Refusal::NoToken) => {
            let answer = said(Err((StatusCode::UNAUTHORIZED, Refusal::NoToken.words().to_owned())));
            ([(WWW_AUTHENTICATE, "Bearer")], answer).into_response()
        }
        Err(refusal) => said(Err((StatusCode::FORBIDDEN, refusal.words().to_owned()))),
    }
}

async fn clients(State(api): State<Api>, uri: Uri) -> Response {
    let answer = async {
        let [limit, after] = parameters(&uri, ["limit", "after"])?;
        let list =
            api.broker.clients(after.map(Into::into), limit_of(limit, CLIENTS_MAX)?).await.map_err(unavailable)?;
        let clients: Vec<Value> = list.clients.iter().map(client_json).collect();
        Ok(json!({ "clients": clients, "truncated": list.truncated }))
    };
    in_time(answer).await
}

async fn client(State(api): State<Api>, Path(id): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let [] = parameters(&uri, [])?;
        match api.broker.client(&id).await.map_err(unavailable)? {
            Some(details) => Ok(details_json(&details)),
            None => Err(no_session()),
        }
    };
    in_time(answer).await
}

async fn remove_client(State(api): State<Api>, Path(id): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let [session] = parameters(&uri, ["session"])?;
        let ends = match session.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(bad("session must be true or false".into())),
        };
        let removed = api.broker.remove_client(&id, ends).await.map_err(unavailable)?.ok_or_else(no_session)?;
        info!(client = id, removed.disconnected, removed.ended, "removed by an administrator");
        Ok(json!({ "disconnected": removed.disconnected, "session_ended": removed.ended }))
    };
    in_time(answer).await
}

async fn retained(State(api): State<Api>, uri: Uri) -> Response {
    let answer = async {
        let [filter, limit] = parameters(&uri, ["filter", "limit"])?;
        let (filter, limit) = (filter_of(filter)?, limit_of(limit, RETAINED_MAX)?);
        let mut found = blocking(move || api.broker.retained(&filter, limit + 1)).await?;
        let truncated = found.len() > limit;
        found.truncate(limit);
        found.sort_by(|a, b| a.topic.cmp(&b.topic));
        let messages = found.iter().map(|message| {
            json!({
                "topic": message.topic,
                "client_id": message.client_id,
                "qos": message.qos as u8,
                "payload_bytes": message.payload.len(),
                "expires_s": Some(message.expires_s).filter(|expires_s| *expires_s != 0),
            })
        });
        Ok(json!({ "retained": messages.collect::<Vec<_>>(), "truncated": truncated }))
    };
    in_time(answer).await
}

async fn remove_retained(State(api): State<Api>, uri: Uri) -> Response {
    let answer = async {
        let [filter] = parameters(&uri, ["filter"])?;
        let filter = filter_of(filter)?;
        // On its own: it is not to stop half way when the client goes, or time is over.
        let removal = tokio::spawn(async move {
            let (broker, wanted) = (api.broker.clone(), filter.clone());
            let messages = blocking(move || broker.retained(&wanted, usize::MAX)).await?;
            let removed = api.broker.remove_retained(&messages).await.map_err(unavailable)?;
            info!(filter, removed, "retained messages removed by an administrator");
            Ok(json!({ "removed": removed }))
        });
        removal.await.map_err(unavailable)?
    };
    in_time(answer).await
}

async fn in_time(answer: impl Future<Output = Answer>) -> Response {
    let late = |_| Err(unavailable("not done yet; what was begun goes on"));
    said(time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late))
}

fn said(answer: Answer) -> Response {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err((status, error)) => (status, json!({ "error": error })),
    };
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], format!("{body}\n")).into_response()
}

/// Work that looks at many retained messages.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, (StatusCode, String)> {
    tokio::task::spawn_blocking(work).await.map_err(unavailable)
}

fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[Option<String>; N], (StatusCode, String)> {
    query::parse(uri.query().unwrap_or_default(), names).map_err(bad)
}

fn limit_of(limit: Option<String>, max: usize) -> Result<usize, (StatusCode, String)> {
    let Some(limit) = limit else { return Ok(LISTED) };
    let fits = limit.parse().ok().filter(|limit| (1..=max).contains(limit));
    fits.ok_or_else(|| bad(format!("limit must be a number from 1 to {max}")))
}

fn filter_of(filter: Option<String>) -> Result<String, (StatusCode, String)> {
    let usable = filter.filter(|filter| validate_filter(filter).is_ok() && !filter.starts_with("$share/"));
    usable.ok_or_else(|| bad("filter must be a topic filter; in a URL # is written %23".into()))
}

fn bad(what: String) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, what)
}

fn no_session() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "no session has this client id".to_owned())
}

fn unavailable(what: impl ToString) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, what.to_string())
}

fn client_json(client: &ClientInfo) -> Value {
    let connection = client.connection.as_ref().map(|connection| {
        json!({
            "peer": &*connection.peer,
            "listener": connection.listener,
            "version": connection.version.to_string(),
            "keep_alive_s": connection.keep_alive_s,
            "since_s": connection.since_s,
            "outbox_bytes": connection.outbox_bytes,
        })
    });
    let dropped: Map<String, Value> =
        client.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), json!(count))).collect();
    json!({
        "client_id": &*client.client_id,
        "user": client.user,
        "connected": connection.is_some(),
        "connection": connection,
        "session_expiry_s": client.expiry_s,
        "session_ends_in_s": client.ends_in_s,
        "subscriptions": client.subscriptions,
        "queued_messages": client.queued,
        "inflight_messages": client.in_flight,
        "received_messages": client.traffic.messages_in,
        "received_bytes": client.traffic.bytes_in,
        "sent_messages": client.traffic.messages_out,
        "sent_bytes": client.traffic.bytes_out,
        "dropped_messages": dropped,
    })
}

fn details_json(details: &ClientDetails) -> Value {
    let mut client = client_json(&details.info);
    let filters = details.subscriptions.iter().map(|(filter, options)| {
        json!({
            "filter": filter,
            "qos": options.qos as u8,
            "no_local": options.no_local,
            "retain_as_published": options.retain_as_published,
            "id": options.id,
        })
    });
    client["subscribed"] = filters.collect();
    client["subscribed_truncated"] = json!(details.subscriptions.len() < details.info.subscriptions);
    client
}

//! The admin listener: `GET /live`, `GET /ready`, `GET /metrics`, for whoever reaches it, and for fewer the [`api`].
//!
//! - [`api`]: sessions and retained messages; [`gate`]: who may ask for them; [`query`]: what of
//! - [`metrics`]: Prometheus' text format
//! - here: connections, health
//!
//! hyper is driven directly, not by `axum::serve`, which knows no timeouts: whoever connects gets
//! one request, a bounded head and a few seconds.

pub mod api;
pub mod gate;
pub mod metrics;
mod query;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::RwLock;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time,
};
use tracing::warn;

use metrics::MetricSink;

/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// From accept to the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What remains of requests in progress at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept: without file descriptors left, the next fails at once too.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What `/ready` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Every listener accepts connections.
    Ready,
    /// Why not.
    NotReady(String),
}

/// Writes the metrics of one part of the program when they are asked for. The parts count in plain
/// atomics; there is no registry on the hot path.
pub type Source = Box<dyn Fn(&mut MetricSink) + Send + Sync>;

/// What the admin listener tells.
pub struct AdminState {
    readiness: RwLock<Readiness>,
    sources: RwLock<Vec<Source>>,
}

impl AdminState {
    /// Not ready, no metrics.
    pub fn new() -> Self {
        let readiness = Readiness::NotReady("starting".to_owned());
        Self { readiness: RwLock::new(readiness), sources: RwLock::default() }
    }

    /// From here on `/ready` answers so.
    pub fn set_readiness(&self, readiness: Readiness) {
        *self.readiness.write() = readiness;
    }

    /// From here on `/metrics` includes this.
    pub fn add_source(&self, source: Source) {
        self.sources.write().push(source);
    }

    fn metrics(&self) -> String {
        let mut sink = MetricSink::default();
        for source in self.sources.read().iter() {
            source(&mut sink);
        }
        sink.into_text()
    }
}

/// Serves until `shutdown` completes; requests in progress get a second more.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AdminState>,
    api: Option<api::Api>,
    shutdown: impl Future<Output = ()>,
) {
    let router = api.map(api::router).unwrap_or_default().merge(router(state));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed; were it, nothing more would be accepted.
            let permit = permits.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (permit, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone());
                    connections.spawn(async move {
                        // Whatever goes wrong is the client's affair, and it has been told.
                        let _ = time::timeout(CONNECTION_TIMEOUT, connection).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "admin: accept failed");
                    time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let _ = time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/live", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(state)
}

async fn ready(State(state): State<Arc<AdminState>>) -> (StatusCode, String) {
    match &*state.readiness.read() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics_text(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics())
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "GET /live, /ready, /metrics, /clients, /clients/ID, /retained; DELETE /clients/ID, /retained\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    struct Server {
        address: SocketAddr,
        state: Arc<AdminState>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    async fn server() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = Arc::new(AdminState::new());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(serve(listener, state.clone(), None, shutdown));
        Server { address, state, stop, task }
    }

    /// Everything the server says to these bytes. A reset after the answer is an end, too.
    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn readiness_follows_the_state() {
        let server = server().await;
        let answer = get(server.address, "/live").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let answer = get(server.address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("starting\n"), "{answer}");
        server.state.set_readiness(Readiness::Ready);
        let answer = get(server.address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
        server.state.set_readiness(Readiness::NotReady("journal failed".to_owned()));
        let answer = get(server.address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("journal failed\n"));
    }

    #[tokio::test]
    async fn metrics_come_from_every_source() {
        let server = server().await;
        for shard in ["0", "1"] {
            server.state.add_source(Box::new(move |sink| {
                sink.counter("millstream_x_total", "X.", &[("shard", shard)], 7);
            }));
        }
        let answer = get(server.address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert_eq!(
            body,
            "# HELP millstream_x_total X.\n# TYPE millstream_x_total counter\n\
             millstream_x_total{shard=\"0\"} 7\nmillstream_x_total{shard=\"1\"} 7\n"
        );
    }

    #[tokio::test]
    async fn anything_else_is_not_found() {
        let server = server().await;
        assert!(get(server.address, "/").await.starts_with("HTTP/1.1 404"));
        assert!(get(server.address, "/metrics/").await.starts_with("HTTP/1.1 404"));
        let post = b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        assert!(ask(server.address, post).await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn garbage_and_oversized_heads_end_the_connection() {
        let server = server().await;
        let answer = ask(server.address, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        let mut long = b"GET /live HTTP/1.1\r\nX: ".to_vec();
        long.resize(HEAD_BYTES_MAX * 2, b'a');
        let answer = ask(server.address, &long).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(get(server.address, "/live").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_disconnected() {
        let server = server().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(server.address).await.expect("connect"));
        }
        // Every place is taken; this one is served once the silent ones are gone.
        assert!(get(server.address, "/live").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_does_not_wait_for_the_silent() {
        let server = server().await;
        let _silent = TcpStream::connect(server.address).await.expect("connect");
        assert!(get(server.address, "/live").await.starts_with("HTTP/1.1 200"));
        server.stop.send(()).expect("running");
        server.task.await.expect("no panic");
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}

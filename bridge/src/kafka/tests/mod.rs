//! The server as clients see it: requests and answers over a pipe, on a real data folder.

mod access;
mod configs;
mod deletion;
mod disk;
mod every_version;
mod flush;
mod groups;
mod hostile;
mod records;
mod sasl;
mod wire;

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request, StrBytes};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    task::{JoinHandle, LocalSet, spawn_local},
};

use super::{Access, Config, ConnectionError, Entry, Open, Principal, Server, find_api};
use crate::{Bridge, Durability, Options, batch};

/// A broker on a folder that goes with it.
struct Broker {
    folder: TempDir,
    bridge: Bridge,
    server: Arc<Server>,
}

fn open(folder: &TempDir) -> Bridge {
    let options = Options {
        data_dir: folder.path().to_owned(),
        durability: Durability::Os,
        commit_interval: Duration::ZERO,
        topic_defaults: crate::Settings { segment_bytes: 1 << 20, ..crate::Settings::default() },
        checkpoint_bytes: 1 << 24,
        checkpoint_interval: Duration::from_secs(60),
        reserve_bytes: 0,
    };
    Bridge::open(options).expect("the folder opens")
}

impl Broker {
    fn start() -> Broker {
        Broker::start_on(TempDir::new().expect("a temporary folder"), Arc::new(Open))
    }

    fn start_on(folder: TempDir, access: Arc<dyn Access>) -> Broker {
        let bridge = open(&folder);
        let config = Config {
            node_id: 7,
            auto_create_topics: true,
            num_partitions: 2,
            group_initial_rebalance_delay_ms: 0,
            group_min_session_timeout_ms: 100,
            group_max_session_timeout_ms: 60_000,
            message_bytes_max: 100_000,
        };
        let server = Server::new(bridge.clone(), config, access);
        Broker { folder, bridge, server }
    }

    fn restart(self) -> Broker {
        assert!(self.bridge.close(Instant::now() + Duration::from_secs(20)), "closes in time");
        let Broker { folder, bridge, server } = self;
        drop((bridge, server));
        Broker::start_on(folder, Arc::new(Open))
    }

    fn connect(&self) -> Peer {
        self.connect_as(Some(Principal::Anonymous { token: 0 }))
    }

    /// With `None`, the client has to authenticate.
    fn connect_as(&self, principal: Option<Principal>) -> Peer {
        self.connect_over(principal, |stream| stream)
    }

    /// The server sees the stream as `wrap` makes it.
    fn connect_over<S>(&self, principal: Option<Principal>, wrap: impl FnOnce(DuplexStream) -> S) -> Peer
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let peer = ([127, 0, 0, 1], 50_000).into();
        let entry = Entry { advertised: ("broker.example".to_owned(), 9092), principal };
        let serving = self.server.clone().serve(wrap(theirs), peer, entry, self.bridge.lane());
        Peer { stream: ours, serving: spawn_local(serving), correlation_id: 0 }
    }
}

/// A client, byte by byte.
struct Peer {
    stream: DuplexStream,
    serving: JoinHandle<Result<(), ConnectionError>>,
    correlation_id: i32,
}

impl Peer {
    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).expect("the request encodes");
        self.send_body(R::KEY, version, &body).await;
    }

    async fn send_body(&mut self, key: i16, version: i16, body: &[u8]) {
        self.correlation_id += 1;
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(self.correlation_id);
        frame.put_i16(4);
        frame.put_slice(b"test");
        if find_api(key).is_some_and(|api| version >= api.flexible_from) {
            frame.put_u8(0);
        }
        frame.put_slice(body);
        self.send_frame(&frame).await;
    }

    async fn send_frame(&mut self, frame: &[u8]) {
        self.stream.write_i32(frame.len() as i32).await.expect("written");
        self.stream.write_all(frame).await.expect("written");
    }

    /// The next answer, after its correlation id.
    async fn receive_frame(&mut self) -> (i32, Bytes) {
        let length = match self.stream.read_i32().await {
            Ok(length) => length,
            Err(_) => panic!("no answer, but: {:?}", (&mut self.serving).await),
        };
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame).await.expect("a whole answer");
        let mut frame = Bytes::from(frame);
        (frame.get_i32(), frame)
    }

    async fn receive<T: Decodable + HeaderVersion>(&mut self, version: i16) -> T {
        let (_, mut frame) = self.receive_frame().await;
        if T::header_version(version) >= 1 {
            assert_eq!(frame.get_u8(), 0, "no tagged fields");
        }
        let response = T::decode(&mut frame, version).expect("the answer decodes");
        assert!(frame.is_empty(), "bytes behind the answer");
        response
    }

    async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.receive(version).await
    }

    /// How the server ended the connection.
    async fn ended(self) -> Result<(), ConnectionError> {
        self.serving.await.expect("no panic")
    }

    async fn hang_up(self) -> Result<(), ConnectionError> {
        drop(self.stream);
        self.serving.await.expect("no panic")
    }
}

/// Runs a test of one broker on one thread, with the timers of its groups.
fn with_broker(test: impl AsyncFnOnce(Rc<Broker>)) {
    with_broker_of(Arc::new(Open), test);
}

fn with_broker_of(access: Arc<dyn Access>, test: impl AsyncFnOnce(Rc<Broker>)) {
    let broker = Broker::start_on(TempDir::new().expect("a temporary folder"), access);
    on_one_thread(async {
        spawn_local(broker.server.clone().run_timers());
        test(Rc::new(broker)).await;
    });
}

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, test).await.expect("the test hangs");
    });
}

/// A batch of records with these values.
fn batch_of(values: &[&str]) -> Bytes {
    let mut builder = batch::Builder::default();
    builder.restart(0);
    for (i, value) in values.iter().enumerate() {
        let mut body = Vec::new();
        batch::encode_body(&mut body, None, Some(value.as_bytes()), std::iter::empty());
        builder.push(1_000 + i as i64, &body);
    }
    Bytes::copy_from_slice(builder.finish(-1))
}

/// The values in whole batches, in order.
fn values_in(mut batches: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    while !batches.is_empty() {
        let header = batch::Header::parse(batches).expect("a batch");
        let (one, rest) = batches.split_at(header.total_bytes());
        let mut records = batch::records(one, &header);
        while let Some(record) = records.next().expect("a record") {
            values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
        }
        batches = rest;
    }
    values
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

//! One connection: bytes to requests, answers to bytes, in the order of the requests.

use std::{collections::VecDeque, future::poll_fn, io::IoSlice, rc::Rc, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, timeout},
};

use super::{
    Server, api_versions,
    call::{Answer, Call, Client, ConnectionError, Incoming, Work},
    metrics::add,
};

/// Largest request taken. Its buffer grows with what arrives, not with what is announced.
const REQUEST_BYTES_MAX: i32 = 100 * 1024 * 1024;
/// Requests of one connection read and not yet answered.
const PENDING_REQUESTS_MAX: usize = 64;
/// Bytes of those requests; one request may be larger.
const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Room for one read, at least.
const READ_BYTES: usize = 8 * 1024;
/// Answers not yet written, above which no further request is worked on.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// Answers handed to the socket at once.
const OUTBOX_SLICES_MAX: usize = 16;
/// A connection on which nothing happens for so long is closed, as Kafka does.
const IDLE_SECONDS_MAX: u64 = 600;
/// How long work that a client has left behind may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves one connection until it ends.
pub(super) async fn serve<S>(server: Arc<Server>, client: Client, stream: S) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection {
        server,
        client: Rc::new(client),
        reader,
        writer,
        inbox: BytesMut::new(),
        pending: VecDeque::new(),
        pending_bytes: 0,
        outbox: Outbox::default(),
    };
    connection.run().await
}

struct Connection<S> {
    server: Arc<Server>,
    client: Rc<Client>,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    /// What came of requests not yet whole.
    inbox: BytesMut,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    outbox: Outbox,
}

/// A request that is not answered yet.
struct Pending {
    work: Work,
    request_bytes: usize,
    parks: bool,
}

/// Answers on their way out.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

/// What happened on the connection.
enum Event {
    Answered(Answer),
    Wrote(usize),
    Read(usize),
    Idle,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self) -> Result<(), ConnectionError> {
        let mut idle_from = Instant::now();
        loop {
            while self.has_room()
                && let Some(frame) = self.next_frame()?
            {
                self.start(frame)?;
            }
            match self.next_event(idle_from).await? {
                Event::Answered(answer) => {
                    self.forget_answered();
                    if let Some(frame) = answer? {
                        self.outbox.push(frame);
                    }
                }
                Event::Wrote(bytes) => {
                    self.outbox.advance(bytes);
                    add(&self.server.metrics().bytes_out, bytes);
                }
                Event::Read(0) => return self.hung_up().await,
                Event::Read(bytes) => add(&self.server.metrics().bytes_in, bytes),
                Event::Idle => return Err(ConnectionError::Idle(IDLE_SECONDS_MAX)),
            }
            idle_from = Instant::now();
        }
    }

    fn has_room(&self) -> bool {
        self.pending.len() < PENDING_REQUESTS_MAX && self.pending_bytes < PENDING_BYTES_MAX
    }

    /// Answers before reading: what a client sent before it hung up is worked on as far as it goes.
    async fn next_event(&mut self, idle_from: Instant) -> Result<Event, ConnectionError> {
        let may_read = self.has_room();
        let may_work = !self.pending.is_empty() && self.outbox.bytes < OUTBOX_BYTES_MAX;
        // While a request is worked on, silence is the client waiting for us.
        let may_idle = self.pending.is_empty() || !self.outbox.is_empty();
        let idle = idle_from + Duration::from_secs(IDLE_SECONDS_MAX);
        let Connection { reader, writer, inbox, pending, outbox, .. } = self;
        if inbox.capacity() - inbox.len() < READ_BYTES / 4 {
            inbox.reserve(READ_BYTES.max(inbox.len())); // at most twice what has arrived
        }
        tokio::select! {
            biased;
            answer = first_answer(pending), if may_work => Ok(Event::Answered(answer)),
            wrote = outbox.write_to(writer), if !outbox.is_empty() => Ok(Event::Wrote(wrote?)),
            read = reader.read_buf(inbox), if may_read => Ok(Event::Read(read?)),
            () = tokio::time::sleep_until(idle), if may_idle => Ok(Event::Idle),
        }
    }

    /// Takes a whole request out of the inbox.
    fn next_frame(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        let Some(length) = self.inbox.first_chunk() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let bytes = match usize::try_from(length) {
            Ok(bytes) if length <= REQUEST_BYTES_MAX => bytes,
            _ => return Err(ConnectionError::BadLength(length)),
        };
        if self.inbox.len() - 4 < bytes {
            return Ok(None);
        }
        self.inbox.advance(4);
        let frame = self.inbox.split_to(bytes).freeze();
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new(); // an idle connection holds no buffer of a large request
        }
        Ok(Some(frame))
    }

    fn start(&mut self, frame: Bytes) -> Result<(), ConnectionError> {
        let request_bytes = frame.len();
        add(&self.server.metrics().requests, 1);
        let (work, parks) = match Call::open(&self.server, &self.client, frame)? {
            Incoming::Call(call) => {
                tracing::debug!(
                    peer = %self.client.peer,
                    api = ?call.api.key,
                    version = call.version,
                    bytes = request_bytes,
                    "request"
                );
                match &*self.client.who.borrow() {
                    None if call.api.key == ApiKey::ApiVersions => {}
                    None => return Err(ConnectionError::MustAuthenticate(call.api.key)),
                    Some(who) if self.server.access.is_current(who) => {}
                    Some(_) => return Err(ConnectionError::NoLongerAllowed),
                }
                let parks = call.api.parks;
                (call.start(), parks)
            }
            Incoming::UnknownApiVersions(correlation_id) => {
                let answer = api_versions::unknown_version(correlation_id);
                (Box::pin(async move { Ok(Some(answer)) }) as Work, false)
            }
        };
        self.pending_bytes += request_bytes;
        self.pending.push_back(Pending { work, request_bytes, parks });
        Ok(())
    }

    fn forget_answered(&mut self) {
        if let Some(answered) = self.pending.pop_front() {
            self.pending_bytes -= answered.request_bytes;
        }
    }

    /// The client is gone: what waits for something to happen ends, what it asked for last (a
    /// commit, a farewell to its group) is still done.
    async fn hung_up(&mut self) -> Result<(), ConnectionError> {
        if !self.inbox.is_empty() {
            return Err(ConnectionError::CutRequest);
        }
        self.pending.retain(|pending| !pending.parks);
        let finish = async {
            while !self.pending.is_empty() {
                let answer = first_answer(&mut self.pending).await;
                self.pending.pop_front();
                answer?;
            }
            Ok(())
        };
        timeout(FAREWELL, finish).await.unwrap_or(Ok(()))
    }
}

async fn first_answer(pending: &mut VecDeque<Pending>) -> Answer {
    poll_fn(|cx| match pending.front_mut() {
        Some(first) => first.work.as_mut().poll(cx),
        None => std::task::Poll::Ready(Ok(None)),
    })
    .await
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    async fn write_to(&self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); OUTBOX_SLICES_MAX];
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
        }
        let count = self.frames.len().min(OUTBOX_SLICES_MAX);
        match writer.write_vectored(&slices[..count]).await? {
            0 => Err(std::io::ErrorKind::WriteZero.into()),
            bytes => Ok(bytes),
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(frame) = self.frames.front_mut() {
            if bytes < frame.len() {
                frame.advance(bytes);
                return;
            }
            bytes -= frame.len();
            self.frames.pop_front();
        }
    }
}

//! One connection: bytes to requests, answers to bytes, in the order of the requests.

use std::{collections::VecDeque, future::poll_fn, io::IoSlice, rc::Rc, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Server, api_versions,
    call::{Answer, Call, Client, ConnectionError, Incoming, Work},
    metrics::add,
    sasl,
};

/// Largest request taken. Its buffer grows with what arrives, not with what is announced.
const REQUEST_BYTES_MAX: i32 = 100 * 1024 * 1024;
/// Largest request of a client that has to authenticate first.
const STRANGERS_REQUEST_BYTES_MAX: i32 = 64 * 1024;
/// Such a client is closed if it has not authenticated after so long.
const AUTHENTICATION_SECONDS_MAX: u64 = 10;
/// How long the answer is kept back that refuses a client, as Kafka does: who tries passwords, or
/// the same one again and again as librdkafka does, has to wait for it.
const REFUSAL: Duration = Duration::from_millis(100);
/// How long it may then take to hang up, before we do.
const LEAVE: Duration = Duration::from_millis(200);
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
        rechecks: server.rechecks.subscribe(),
        server,
        client: Rc::new(client),
        reader,
        writer,
        inbox: BytesMut::new(),
        pending: VecDeque::new(),
        pending_bytes: 0,
        outbox: Outbox::default(),
    };
    let ended = connection.run().await;
    connection.pending.clear();
    // A TLS client is told that this is the end, and not a cut.
    let _ = timeout(FAREWELL, connection.writer.shutdown()).await;
    ended
}

struct Connection<S> {
    server: Arc<Server>,
    rechecks: watch::Receiver<()>,
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
    decides_who: bool,
}

/// Answers on their way out.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Something was put in since all of it was last flushed.
    is_unflushed: bool,
    /// Nobody takes it any more.
    is_given_up: bool,
}

/// What happened on the connection.
enum Event {
    Answered(Answer),
    Wrote(usize),
    Read(usize),
    UsersChanged,
    TimeIsUp,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self) -> Result<(), ConnectionError> {
        let mut idle_from = Instant::now();
        let authenticated_by = idle_from + Duration::from_secs(AUTHENTICATION_SECONDS_MAX);
        loop {
            while self.has_room()
                && let Some(frame) = self.next_frame()?
            {
                self.start(frame)?;
            }
            match self.next_event(idle_from, authenticated_by).await? {
                Event::Answered(answer) => {
                    self.forget_answered();
                    let answer = answer?;
                    // Again: a Fetch may have waited for minutes.
                    self.check_current()?;
                    if let Some(frame) = answer {
                        self.outbox.push(frame);
                    }
                    if let Some(reason) = self.client.identity.take_refusal() {
                        self.say_the_last().await;
                        return Err(reason);
                    }
                }
                Event::Wrote(bytes) => {
                    self.outbox.advance(bytes);
                    add(&self.server.metrics().bytes_out, bytes);
                }
                Event::Read(0) => return self.hung_up().await,
                Event::Read(bytes) => add(&self.server.metrics().bytes_in, bytes),
                Event::UsersChanged => {
                    self.check_current()?;
                    continue; // the client has done nothing
                }
                Event::TimeIsUp if !self.client.identity.is_known() => {} // seen before the next event
                Event::TimeIsUp => return Err(ConnectionError::Idle(IDLE_SECONDS_MAX)),
            }
            idle_from = Instant::now();
        }
    }

    fn has_room(&self) -> bool {
        match self.pending.back() {
            None => true,
            Some(last) if last.decides_who || !self.client.identity.is_known() => false,
            Some(_) => self.pending.len() < PENDING_REQUESTS_MAX && self.pending_bytes < PENDING_BYTES_MAX,
        }
    }

    fn check_current(&self) -> Result<(), ConnectionError> {
        match self.client.identity.is_current(&self.server) {
            true => Ok(()),
            false => Err(ConnectionError::NoLongerAllowed),
        }
    }

    /// Answers before reading: what a client sent before it hung up is worked on as far as it goes.
    async fn next_event(&mut self, idle_from: Instant, authenticated_by: Instant) -> Result<Event, ConnectionError> {
        let may_read = self.has_room();
        let may_work = !self.pending.is_empty() && self.outbox.bytes < OUTBOX_BYTES_MAX;
        // While a request is worked on, silence is the client waiting for us.
        let may_idle = self.pending.is_empty() || self.outbox.is_busy();
        let idle = idle_from + Duration::from_secs(IDLE_SECONDS_MAX);
        let is_stranger = !self.client.identity.is_known();
        if is_stranger && Instant::now() >= authenticated_by {
            return Err(ConnectionError::AuthenticationTooSlow(AUTHENTICATION_SECONDS_MAX));
        }
        let due = if is_stranger { authenticated_by } else { idle };
        let Connection { reader, writer, inbox, pending, outbox, rechecks, .. } = self;
        if inbox.capacity() - inbox.len() < READ_BYTES / 4 {
            inbox.reserve(READ_BYTES.max(inbox.len())); // at most twice what has arrived
        }
        tokio::select! {
            biased;
            Ok(()) = rechecks.changed() => Ok(Event::UsersChanged),
            answer = first_answer(pending), if may_work => Ok(Event::Answered(answer)),
            wrote = outbox.write_to(writer), if outbox.is_busy() => match wrote {
                // It hears no answer any more. What it said before it left may still be unread.
                Err(error) if is_end(&error) => {
                    outbox.give_up();
                    Ok(Event::Wrote(0))
                }
                wrote => Ok(Event::Wrote(wrote?)),
            },
            read = reader.read_buf(inbox), if may_read => match read {
                Err(error) if is_end(&error) => Ok(Event::Read(0)),
                read => Ok(Event::Read(read?)),
            },
            () = tokio::time::sleep_until(due), if may_idle || is_stranger => Ok(Event::TimeIsUp),
        }
    }

    /// Takes a whole request out of the inbox.
    fn next_frame(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        let Some(length) = self.inbox.first_chunk() else {
            return Ok(None);
        };
        let is_settled = self.client.identity.is_known() && !self.client.identity.awaits_token();
        let bytes_max = if is_settled { REQUEST_BYTES_MAX } else { STRANGERS_REQUEST_BYTES_MAX };
        let bytes = request_bytes(*length, bytes_max)?;
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
        self.check_current()?;
        let request_bytes = frame.len();
        add(&self.server.metrics().requests, 1);
        let pending = match self.client.identity.awaits_token() {
            true => {
                let work = sasl::token(self.server.clone(), self.client.clone(), frame);
                Pending { work, request_bytes, parks: false, decides_who: true }
            }
            false => self.start_request(frame)?,
        };
        self.pending_bytes += request_bytes;
        self.pending.push_back(pending);
        Ok(())
    }

    fn start_request(&self, frame: Bytes) -> Result<Pending, ConnectionError> {
        let request_bytes = frame.len();
        match Call::open(&self.server, &self.client, frame)? {
            Incoming::Call(call) => {
                let (api, version) = (call.api, call.version);
                tracing::debug!(peer = %self.client.peer, api = ?api.key, version, bytes = request_bytes, "request");
                let is_for_strangers = api.decides_who || api.key == ApiKey::ApiVersions;
                if !is_for_strangers && !self.client.identity.is_known() {
                    return Err(ConnectionError::MustAuthenticate(api.key));
                }
                Ok(Pending { work: call.start(), request_bytes, parks: api.parks, decides_who: api.decides_who })
            }
            Incoming::UnknownApiVersions(correlation_id) => {
                let answer = api_versions::unknown_version(correlation_id);
                let work: Work = Box::pin(async move { Ok(Some(answer)) });
                Ok(Pending { work, request_bytes, parks: false, decides_who: false })
            }
        }
    }

    /// Lets a client that is refused have its answer, after a while.
    async fn say_the_last(&mut self) {
        tokio::time::sleep(REFUSAL).await;
        let Connection { server, writer, outbox, .. } = self;
        let say = async {
            while outbox.is_busy() {
                let bytes = outbox.write_to(writer).await?;
                outbox.advance(bytes);
                add(&server.metrics().bytes_out, bytes);
            }
            Ok::<(), std::io::Error>(())
        };
        // If it takes nothing, or is gone, it need not be told.
        let _ = timeout(FAREWELL, say).await;
        // kafka-python throws away what it finds together with the end of the connection; and what
        // nobody reads would turn that end into a reset, which may overtake the answer.
        let mut unread = [0; 512];
        let leave = async { while self.reader.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {} };
        let _ = timeout(LEAVE, leave).await;
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

/// Whether an error is a client's way of hanging up; TLS calls an end without close_notify one.
fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

async fn first_answer(pending: &mut VecDeque<Pending>) -> Answer {
    poll_fn(|cx| match pending.front_mut() {
        Some(first) => first.work.as_mut().poll(cx),
        None => std::task::Poll::Ready(Ok(None)),
    })
    .await
}

/// The length of a request, from its first bytes.
fn request_bytes(length: [u8; 4], bytes_max: i32) -> Result<usize, ConnectionError> {
    let bytes = i32::from_be_bytes(length);
    match usize::try_from(bytes) {
        Ok(bytes_ok) if bytes <= bytes_max => Ok(bytes_ok),
        _ => Err(match &length {
            [0x16, 0x03, ..] => ConnectionError::OtherProtocol("this is TLS; this listener is plain"),
            [0x10, ..] => ConnectionError::OtherProtocol("this is MQTT; this listener speaks the Kafka protocol"),
            b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"PRI " => {
                ConnectionError::OtherProtocol("this is HTTP; this listener speaks the Kafka protocol")
            }
            _ => ConnectionError::BadLength { bytes, bytes_max },
        }),
    }
}

impl Outbox {
    /// Whether something is still to be written, or to be flushed: what a TLS stream takes it may
    /// hold back until the socket can take it.
    fn is_busy(&self) -> bool {
        self.is_unflushed
    }

    fn push(&mut self, frame: Bytes) {
        if self.is_given_up {
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        self.is_unflushed = true;
    }

    /// Writes some of it; then, when all is written, flushes, which is nothing for a plain socket.
    async fn write_to(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<usize> {
        if self.frames.is_empty() {
            writer.flush().await?;
            self.is_unflushed = false;
            return Ok(0);
        }
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

    fn give_up(&mut self) {
        *self = Outbox { is_given_up: true, ..Outbox::default() };
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

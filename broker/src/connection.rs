//! One task per client, the only I/O loop: bytes in to the shard, bytes out from the outbox. An idle
//! connection holds no buffer; what is kept of a cut packet is its bytes and nothing more.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::codec::{self, ReasonCode};
use crate::limits;
use crate::session::{Close, Out};
use crate::shard::{Admitted, Shared};

/// How most connections are lost.
const CLOSED: &str = "the client closed it without DISCONNECT";
/// The first byte of a DISCONNECT.
const DISCONNECT: u8 = 0xe0;

thread_local! {
    /// Where every connection of a shard reads into.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::READ_BYTES]);
}

/// A connection's bytes on their way.
struct Connection<S> {
    shared: Shared,
    stream: S,
    at: Admitted,
    /// A packet that is cut, or packets that wait for the journal.
    partial: Vec<u8>,
    /// Being written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// TLS and WebSocket gather; nothing may lie there while the task sleeps.
    unflushed: bool,
    /// The client has closed it, and takes nothing more. What it said before is still read: its DISCONNECT, without
    /// which its will would be sent.
    gone: Option<io::Error>,
}

/// Why the loop ended.
enum End {
    /// The session's link says so.
    Closing,
    /// The session belongs to another connection now.
    Replaced,
    Lost(String),
}

/// Serves an admitted client until either side ends it. `rest` is what was read behind its CONNECT. No `async fn`, whose
/// arguments would be kept beside what they became.
pub fn run<S: AsyncRead + AsyncWrite + Unpin>(
    shared: Shared,
    stream: S,
    at: Admitted,
    rest: Vec<u8>,
) -> impl Future<Output = ()> {
    let mut connection =
        Connection { shared, stream, at, partial: rest, out: Vec::new(), written: 0, unflushed: false, gone: None };
    async move {
        let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
        // Apart, so that a connection that goes on has no room for its end.
        Box::pin(connection.end(end)).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..limits::READS_PER_TURN {
            if let Err(error) = self.write_unless_gone(cx) {
                return Poll::Ready(End::Lost(error.to_string()));
            }
            let (appetite, clogged, waits, has_rates) = {
                let mut shard = self.shared.borrow_mut();
                let appetite = shard.appetite(self.at.slot, self.at.link);
                let Some(session) = shard.linked(self.at.slot, self.at.link) else {
                    return Poll::Ready(End::Replaced);
                };
                let Some(link) = session.link.as_mut() else { return Poll::Ready(End::Replaced) };
                if link.closing.is_some() {
                    return Poll::Ready(End::Closing);
                }
                if !link.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    link.waker = Some(cx.waker().clone());
                }
                (appetite, link.is_clogged(), link.waits_for_disk, link.rates.is_some())
            };
            if waits && !clogged {
                return self.poll_read_ahead(cx);
            }
            if appetite == 0 {
                // What waits to be written to it waits for ever.
                return match self.gone.take_if(|_| clogged) {
                    Some(error) => Poll::Ready(End::Lost(error.to_string())),
                    None => Poll::Pending,
                };
            }
            if has_rates && self.pauses() {
                return Poll::Pending;
            }
            if !self.partial.is_empty() && self.receive_partial() {
                continue;
            }
            match self.poll_read(cx, appetite) {
                Poll::Pending => return self.flush_and_wait(cx),
                Poll::Ready(Ok(0)) => return Poll::Ready(End::Lost(CLOSED.into())),
                Poll::Ready(Ok(_)) => {}
                // TLS calls an end without close_notify an error.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(End::Lost(CLOSED.into()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(End::Lost(error.to_string())),
            }
        }
        if let Err(error) = self.write_unless_gone(cx) {
            return Poll::Ready(End::Lost(error.to_string()));
        }
        // Others have their turn; this one is not done.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn pauses(&self) -> bool {
        self.shared.borrow_mut().pauses(&self.shared, self.at.slot, self.at.link)
    }

    /// Nothing to read: what the reads before it left in the outbox goes out before the task sleeps.
    fn flush_and_wait(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.write_unless_gone(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(End::Lost(error.to_string())),
        }
    }

    /// Handles what was kept, for now there may be room; whether it got anywhere.
    fn receive_partial(&mut self) -> bool {
        let mut shard = self.shared.borrow_mut();
        shard.read_clock();
        let consumed = shard.receive(self.at.slot, self.at.link, &self.partial);
        self.partial.drain(..consumed.bytes);
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        consumed.bytes > 0 || consumed.stalled
    }

    /// Reads once and hands on every whole packet.
    fn poll_read(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<usize>> {
        if self.partial.len() >= limits::READ_BYTES / 2 {
            return self.poll_read_large(cx);
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            let until = limits::READ_BYTES.min(kept + bytes_max);
            let mut read = ReadBuf::new(&mut buffer[kept..until]);
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let got = read.filled().len();
            let input = &buffer[..kept + got];
            let mut shard = self.shared.borrow_mut();
            shard.read_clock();
            shard.has_read(self.at.slot, self.at.link, got);
            let consumed = shard.receive(self.at.slot, self.at.link, input);
            let rest = &input[consumed.bytes..];
            if rest.is_empty() && kept == 0 {
                return Poll::Ready(Ok(got));
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
            if rest.is_empty() {
                self.partial = Vec::new();
            }
            Poll::Ready(Ok(got))
        })
    }

    /// The same for a packet that outgrows the shared buffer: it is gathered where it is kept.
    fn poll_read_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let max = self.shared.borrow_mut().inbound_bytes_max(self.at.slot, self.at.link);
        let length = match codec::header(&self.partial, max) {
            Ok(Some(header)) => header.packet_length(),
            _ => self.partial.len() + 1,
        };
        let kept = self.partial.len();
        // Never far ahead of what has really come.
        let room = length.saturating_sub(kept).clamp(1, kept.max(limits::READ_BYTES));
        self.partial.resize(kept + room, 0);
        let mut read = ReadBuf::new(&mut self.partial[kept..]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        let got = read.filled().len();
        self.partial.truncate(kept + got);
        std::task::ready!(polled)?;
        if got > 0 {
            self.shared.borrow_mut().has_read(self.at.slot, self.at.link, got);
            self.receive_partial();
        }
        Poll::Ready(Ok(got))
    }

    /// Reads on while nothing is taken, as far as it shows whether the client is still there: the disk may stay full for
    /// days, and who gives up comes back by another connection.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.partial.len() < limits::READ_AHEAD_BYTES {
            let mut room = [0; 1024];
            let mut read = ReadBuf::new(&mut room);
            let why = match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.shared.borrow_mut().has_read(self.at.slot, self.at.link, read.filled().len());
                    self.partial.extend_from_slice(read.filled());
                    continue;
                }
                Poll::Ready(Ok(())) => CLOSED.into(),
                Poll::Ready(Err(error)) => error.to_string(),
            };
            if !self.said_goodbye() {
                return Poll::Ready(End::Lost(why));
            }
            let mut shard = self.shared.borrow_mut();
            let session = shard.linked(self.at.slot, self.at.link);
            if let Some(link) = session.and_then(|session| session.link.as_mut()) {
                link.close(Close::ByClient { with_will: false });
            }
            return Poll::Ready(End::Closing);
        }
        Poll::Pending
    }

    /// Whether the last packet that was read is a DISCONNECT, without which the will would be sent.
    fn said_goodbye(&self) -> bool {
        let max = self.shared.borrow_mut().inbound_bytes_max(self.at.slot, self.at.link);
        let mut rest = &self.partial[..];
        let mut last = 0;
        while let Ok(Some(header)) = codec::header(rest, max)
            && let Some(behind) = rest.get(header.packet_length()..)
        {
            (last, rest) = (rest[0], behind);
        }
        last == DISCONNECT
    }

    /// Writes what there is. A client that closes with messages unread resets the connection: then reading comes to
    /// an end as well, behind what there is to read.
    fn write_unless_gone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        if self.gone.is_some() {
            return Ok(());
        }
        match self.poll_write(cx) {
            Err(error) if matches!(error.kind(), ConnectionReset | BrokenPipe) => {
                self.gone = Some(error);
                Ok(())
            }
            written => written,
        }
    }

    /// Writes what there is until the socket takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.written == self.out.len() && !self.next_outbox() {
                return self.poll_flush(cx);
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.unflushed = true;
                    let mut shard = self.shared.borrow_mut();
                    shard.counts.bytes_out += n as u64;
                    let left = self.out.len() - self.written;
                    if let Some(session) = shard.linked(self.at.slot, self.at.link) {
                        session.traffic.bytes_out += n as u64;
                        if let Some(link) = session.link.as_mut() {
                            link.unwritten_bytes = left;
                        }
                    }
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.unflushed = false;
            return flushed;
        }
        Ok(())
    }

    /// Takes what the shard put out since; whether there is any.
    fn next_outbox(&mut self) -> bool {
        let mut shard = self.shared.borrow_mut();
        let (slot, link) = (self.at.slot, self.at.link);
        let drained = std::mem::take(&mut self.out);
        self.written = 0;
        shard.give_buffer(drained);
        let has_more = shard.linked(slot, link).is_some_and(|session| match (&session.link, &session.out) {
            (Some(link), Out::Window(window)) => link.outbox.is_empty() && window.waiting().0 > 0,
            (Some(link), Out::Queue(queue)) => link.outbox.is_empty() && !queue.is_empty(),
            (None, _) => false,
        });
        if has_more {
            shard.pump(slot);
        }
        let Some(link) = shard.linked(slot, link).and_then(|session| session.link.as_mut()) else { return false };
        self.out = std::mem::take(&mut link.outbox);
        link.unwritten_bytes = self.out.len();
        !self.out.is_empty()
    }

    /// Says goodbye as far as the client still listens, and tells the session.
    async fn end(mut self, end: End) {
        let (slot, link_id) = (self.at.slot, self.at.link);
        let (why, farewell) = match end {
            End::Replaced => (None, self.shared.borrow_mut().take_farewell(link_id)),
            End::Lost(how) => {
                // Taken over and lost at once: there is no one left to say farewell to.
                self.shared.borrow_mut().take_farewell(link_id);
                (Some(Close::Lost(how)), None)
            }
            End::Closing => {
                let mut shard = self.shared.borrow_mut();
                let config = shard.config.clone();
                match shard.linked(slot, link_id).and_then(|session| session.link.as_mut()) {
                    Some(link) => (link.closing.clone(), Some(link.farewell(&config))),
                    None => (None, shard.take_farewell(link_id)),
                }
            }
        };
        if let Some(why) = why {
            let mut shard = self.shared.borrow_mut();
            shard.read_clock();
            shard.disconnected(slot, link_id, &why);
        }
        if let Some(farewell) = farewell {
            self.out.extend_from_slice(&farewell);
            let write = self.stream.write_all(&self.out[self.written..]);
            let written = tokio::time::timeout(Duration::from_secs(limits::CLOSE_S), write).await;
            if matches!(written, Ok(Ok(()))) {
                self.shared.borrow_mut().counts.bytes_out += (self.out.len() - self.written) as u64;
                close(&mut self.stream).await;
            }
        }
    }
}

/// What a refused client is told before it is closed.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, version: codec::Version, reason: ReasonCode) {
    let mut packet = Vec::new();
    codec::ConnAck::new(reason).encode(&mut packet, version);
    say_last(stream, &packet).await;
}

/// Writes a last packet and closes.
pub async fn say_last<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, packet: &[u8]) {
    let write = stream.write_all(packet);
    if matches!(tokio::time::timeout(Duration::from_secs(limits::CLOSE_S), write).await, Ok(Ok(()))) {
        close(stream).await;
    }
}

/// Closes so that the client can read what was written last: with input left unread, the system would answer
/// with a reset, and that overtakes it.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let wait = Duration::from_secs(limits::CLOSE_S);
    // What TLS and WebSocket have gathered goes out here: a client that takes nothing would keep it waiting forever.
    if !matches!(tokio::time::timeout(wait, stream.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let drain = async {
        let mut sink = [0; 1024];
        let mut left = limits::CLOSE_BYTES_MAX;
        while let Ok(n @ 1..) = stream.read(&mut sink).await {
            let Some(less) = left.checked_sub(n) else { return };
            left = less;
        }
    };
    let _ = tokio::time::timeout(wait, drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what it is given, as TLS and WebSocket do, and gets rid of none of it.
    struct Gathers;

    impl AsyncRead for Gathers {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Gathers {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_client_that_takes_nothing_is_closed_all_the_same() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let mut stream = Gathers;
            let refused = refuse(&mut stream, codec::Version::V5, ReasonCode::NotAuthorized);
            tokio::time::timeout(Duration::from_secs(60), refused).await.expect("it ends");
        });
    }
}

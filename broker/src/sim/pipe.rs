//! A connection without a socket: what the client writes, the broker's task reads, and the other way round.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug, Default)]
struct Ends {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    client_is_gone: bool,
    server_is_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Bytes that lie there until the client takes them.
const TO_CLIENT_BYTES_MAX: usize = 2 << 10;

/// The client's end; the connection is lost when it is dropped.
#[derive(Debug)]
pub struct ClientEnd(Rc<RefCell<Ends>>);

/// What is left of it when the connection is lost.
#[derive(Debug)]
pub struct LostEnd(Rc<RefCell<Ends>>);

/// The broker's end.
pub struct ServerEnd(Rc<RefCell<Ends>>);

pub fn pipe() -> (ClientEnd, ServerEnd) {
    let ends = Rc::new(RefCell::new(Ends::default()));
    (ClientEnd(ends.clone()), ServerEnd(ends))
}

impl ClientEnd {
    pub fn write(&self, bytes: &[u8]) {
        let mut ends = self.0.borrow_mut();
        ends.to_server.extend_from_slice(bytes);
        wake(&mut ends.reader);
    }

    /// What has come since.
    pub fn take(&self) -> Vec<u8> {
        let mut ends = self.0.borrow_mut();
        wake(&mut ends.writer);
        std::mem::take(&mut ends.to_client)
    }

    /// The connection is lost, with the last bytes that the broker has not read yet.
    pub fn lose(self, bytes: u64) -> LostEnd {
        let mut ends = self.0.borrow_mut();
        let left = ends.to_server.len().saturating_sub(bytes as usize);
        ends.to_server.truncate(left);
        drop(ends);
        LostEnd(self.0.clone())
    }

    /// Whether nothing comes any more.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().server_is_gone
    }

    /// Whether the broker has read everything.
    pub fn is_read(&self) -> bool {
        let ends = self.0.borrow();
        ends.to_server.is_empty() || ends.server_is_gone
    }
}

impl LostEnd {
    /// Whether the broker knows, and has read the rest.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().server_is_gone
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let mut ends = self.0.borrow_mut();
        ends.client_is_gone = true;
        wake(&mut ends.reader);
        wake(&mut ends.writer);
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.0.borrow_mut().server_is_gone = true;
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.0.borrow_mut();
        if ends.to_server.is_empty() && !ends.client_is_gone {
            ends.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = ends.to_server.len().min(buffer.remaining());
        buffer.put_slice(&ends.to_server[..bytes]);
        ends.to_server.drain(..bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.0.borrow_mut();
        if ends.client_is_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.len().min(TO_CLIENT_BYTES_MAX.saturating_sub(ends.to_client.len()));
        if taken == 0 && !bytes.is_empty() {
            ends.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        ends.to_client.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().server_is_gone = true;
        Poll::Ready(Ok(()))
    }
}

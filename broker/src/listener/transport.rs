//! A client's bytes: TCP, TLS or WebSocket. One type for all, so that the rest does not care.

use std::io;
use std::net;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::websocket::WebSocket;

/// What carries MQTT.
pub enum Transport {
    /// TCP as it is.
    Tcp(Socket),
    /// TLS on it.
    Tls(Box<TlsStream<Socket>>),
    /// WebSocket messages.
    Ws(Box<WebSocket<Socket>>),
    /// The same on TLS.
    Wss(Box<WebSocket<TlsStream<Socket>>>),
}

impl Transport {
    /// Leaves this thread's reactor: the transport can be sent to another shard, where it is resumed. A
    /// TlsStream cannot be rebuilt from its parts, so its socket is changed in place.
    pub fn park(&mut self) -> io::Result<()> {
        self.socket().park()
    }

    /// Joins this thread's reactor.
    pub fn resume(&mut self) -> io::Result<()> {
        self.socket().resume()
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Transport::Tcp(socket) => socket,
            Transport::Tls(tls) => tls.get_mut().0,
            Transport::Ws(ws) => ws.get_mut(),
            Transport::Wss(ws) => ws.get_mut().get_mut().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(tls) => poll_fill(tls, cx, buf),
            Transport::Ws(ws) => poll_fill(ws, cx, buf),
            Transport::Wss(ws) => poll_fill(ws, cx, buf),
        }
    }
}

/// Takes as many TLS records or messages as are there: each is a read of its own, and small.
fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buf.filled().len();
    ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
    let mut got = buf.filled().len();
    while got > before && buf.remaining() > 0 {
        // An error or the end is found again by the next read.
        match Pin::new(&mut *stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > got => got = buf.filled().len(),
            _ => break,
        }
    }
    Poll::Ready(Ok(()))
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Transport::Ws(ws) => Pin::new(ws).poll_write(cx, bytes),
            Transport::Wss(ws) => Pin::new(ws).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Transport::Ws(ws) => Pin::new(ws).poll_flush(cx),
            Transport::Wss(ws) => Pin::new(ws).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Transport::Ws(ws) => Pin::new(ws).poll_shutdown(cx),
            Transport::Wss(ws) => Pin::new(ws).poll_shutdown(cx),
        }
    }
}

/// A TCP connection that can leave one thread's reactor and join another's.
pub struct Socket(State);

enum State {
    Registered(TcpStream),
    Parked(net::TcpStream),
    /// Between the two, or after a failed move.
    Gone,
}

impl Socket {
    /// Of this thread's reactor.
    pub fn new(stream: TcpStream) -> Socket {
        Socket(State::Registered(stream))
    }

    /// The first byte that came, left where it is; `None` at the end.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let State::Registered(stream) = &self.0 else { return Err(gone()) };
        let mut first = [0];
        Ok((stream.peek(&mut first).await? > 0).then_some(first[0]))
    }

    fn park(&mut self) -> io::Result<()> {
        if let State::Registered(stream) = std::mem::replace(&mut self.0, State::Gone) {
            self.0 = State::Parked(stream.into_std()?);
        }
        Ok(())
    }

    fn resume(&mut self) -> io::Result<()> {
        if let State::Parked(stream) = std::mem::replace(&mut self.0, State::Gone) {
            self.0 = State::Registered(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn registered(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.get_mut().0 {
            State::Registered(stream) => Ok(Pin::new(stream)),
            _ => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is on its way to another thread")
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.registered()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.registered()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered()?.poll_shutdown(cx)
    }
}

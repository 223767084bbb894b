//! Where clients come in and what they come by, of the operating system: TCP and Unix sockets as one.

use std::io;
use std::net::{self, IpAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net as unix;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::door::Visit;
use super::proxy::{self, Header};

/// A bound, non-blocking socket that listens.
#[derive(Debug)]
pub enum Listening {
    /// Reached over a network, be it this machine's own.
    Tcp(net::TcpListener),
    /// A file of this machine.
    Unix(unix::UnixListener),
}

impl Listening {
    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Listening::Tcp(socket) => socket.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback()),
            Listening::Unix(_) => true,
        }
    }
}

/// The same, of this thread's reactor.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub fn new(socket: Listening) -> io::Result<Acceptor> {
        Ok(match socket {
            Listening::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        })
    }

    pub async fn accept(&self) -> io::Result<(Stream, Origin)> {
        match self {
            Acceptor::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Stream::Tcp(stream), Origin { peer: peer.to_string().into(), ip: Some(peer.ip()) }))
            }
            Acceptor::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(who) => format!("unix:pid={},uid={}", who.pid().unwrap_or_default(), who.uid()),
                    Err(_) => "unix".to_owned(),
                };
                Ok((Stream::Unix(stream), Origin { peer: peer.into(), ip: None }))
            }
        }
    }
}

/// Where a connection is from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// For the log.
    pub peer: Arc<str>,
    /// `None`: from a Unix socket.
    pub ip: Option<IpAddr>,
}

impl Origin {
    /// The address whose connections are counted together. All of this machine have one: that of a proxy, perhaps, so
    /// they are not.
    pub fn counted(&self) -> Option<IpAddr> {
        self.ip.filter(|ip| !ip.to_canonical().is_loopback())
    }
}

/// A connection of either kind.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Small packets are sent at once.
    pub fn set_nodelay(&self) {
        if let Stream::Tcp(stream) = self {
            // A failure shows at the first read.
            let _ = stream.set_nodelay(true);
        }
    }

    /// Leaves this thread's reactor.
    pub fn park(self) -> io::Result<Parked> {
        Ok(match self {
            Stream::Tcp(stream) => Parked::Tcp(stream.into_std()?),
            Stream::Unix(stream) => Parked::Unix(stream.into_std()?),
        })
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// A connection of no reactor: it can be sent to another thread.
pub enum Parked {
    /// Over TCP.
    Tcp(net::TcpStream),
    /// Over a Unix socket.
    Unix(unix::UnixStream),
}

impl Parked {
    /// Joins this thread's reactor.
    pub fn resume(self) -> io::Result<Stream> {
        Ok(match self {
            Parked::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Parked::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A client's connection that can leave one thread's reactor and join another's.
pub struct Socket {
    state: State,
    visit: Visit,
}

enum State {
    Registered(Stream),
    Parked(Parked),
    /// Between the two, or after a failed move.
    Gone,
}

impl Socket {
    /// Of this thread's reactor.
    pub fn new(stream: Stream, visit: Visit) -> Socket {
        Socket { state: State::Registered(stream), visit }
    }

    /// Its place among the connections of its listener.
    pub fn visit(&mut self) -> &mut Visit {
        &mut self.visit
    }

    /// The first byte that came, left where it is; `None` at the end.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let count = match &self.state {
            State::Registered(Stream::Tcp(stream)) => stream.peek(&mut first).await?,
            State::Registered(Stream::Unix(stream)) => {
                let peek = || Ok(recv(stream, &mut first, RecvFlags::PEEK)?.1);
                stream.async_io(Interest::READABLE, peek).await?
            }
            _ => return Err(gone()),
        };
        Ok((count > 0).then_some(first[0]))
    }

    /// Reads a proxy's header and nothing of what is behind it: that may be TLS. The error is the reason for the log.
    pub async fn read_proxy_header(&mut self) -> Result<Header, String> {
        let mut input = Vec::new();
        loop {
            match proxy::parse(&input) {
                Ok(Some((header, _))) => return Ok(header),
                Ok(None) => {}
                Err(error) => return Err(error.to_string()),
            }
            let mut due = (&mut *self).take(proxy::missing(&input) as u64);
            match due.read_buf(&mut input).await {
                Ok(0) => return Err("it closed the connection before its PROXY header was whole".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    pub(super) fn park(&mut self) -> io::Result<()> {
        if let State::Registered(stream) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::Parked(stream.park()?);
        }
        Ok(())
    }

    pub(super) fn resume(&mut self) -> io::Result<()> {
        if let State::Parked(stream) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::Registered(stream.resume()?);
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is on its way to another thread")
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match &mut this.state {
            State::Registered(Stream::Tcp(stream)) => ready!(Pin::new(stream).poll_read(cx, buf))?,
            State::Registered(Stream::Unix(stream)) => ready!(Pin::new(stream).poll_read(cx, buf))?,
            _ => return Poll::Ready(Err(gone())),
        }
        Poll::Ready(this.visit.sent(buf.filled().len() - before))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().state {
            State::Registered(Stream::Tcp(stream)) => Pin::new(stream).poll_write(cx, bytes),
            State::Registered(Stream::Unix(stream)) => Pin::new(stream).poll_write(cx, bytes),
            _ => Poll::Ready(Err(gone())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().state {
            State::Registered(Stream::Tcp(stream)) => Pin::new(stream).poll_shutdown(cx),
            State::Registered(Stream::Unix(stream)) => Pin::new(stream).poll_shutdown(cx),
            _ => Poll::Ready(Err(gone())),
        }
    }
}

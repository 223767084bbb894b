//! A client's bytes: as they are, TLS or WebSocket. One type for all, so that the rest does not care.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::door::Visit;
use super::socket::Socket;
use super::websocket::WebSocket;

/// What carries MQTT.
pub enum Transport {
    /// The bytes of a TCP or Unix socket as they are.
    Plain(Socket),
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

    /// Its place among the connections of its listener.
    pub fn visit(&mut self) -> &mut Visit {
        self.socket().visit()
    }

    /// Whether a web page of another machine speaks by it that `ws_origins` does not name.
    pub fn is_strangers_page(&self) -> bool {
        match self {
            Transport::Plain(_) | Transport::Tls(_) => false,
            Transport::Ws(ws) => ws.is_strangers_page,
            Transport::Wss(ws) => ws.is_strangers_page,
        }
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => tls.get_mut().0,
            Transport::Ws(ws) => ws.get_mut(),
            Transport::Wss(ws) => ws.get_mut().get_mut().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
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
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Transport::Ws(ws) => Pin::new(ws).poll_write(cx, bytes),
            Transport::Wss(ws) => Pin::new(ws).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Transport::Ws(ws) => Pin::new(ws).poll_flush(cx),
            Transport::Wss(ws) => Pin::new(ws).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Transport::Ws(ws) => Pin::new(ws).poll_shutdown(cx),
            Transport::Wss(ws) => Pin::new(ws).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::websocket;
    use futures_util::SinkExt;
    use std::future::poll_fn;
    use tokio_tungstenite::client_async;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::http::HeaderValue;

    async fn fill(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
        let mut room = [0; 64];
        let mut buf = ReadBuf::new(&mut room);
        poll_fn(|cx| poll_fill(stream, cx, &mut buf)).await?;
        Ok(buf.filled().to_vec())
    }

    #[test]
    fn what_ends_a_websocket_stream_is_not_skipped_when_it_is_read_along() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(4096);
            let mut request = "ws://localhost/".into_client_request().expect("a request");
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
            let (server, client) = tokio::join!(websocket::accept(ours, "", &[], 4096), client_async(request, theirs));
            let (mut server, (mut client, _)) = (server.expect("an upgrade"), client.expect("an upgrade"));
            for message in [Message::binary("before"), Message::text("text"), Message::binary("behind")] {
                client.send(message).await.expect("room");
            }
            assert_eq!(fill(&mut server).await.expect("binary"), b"before");
            for _ in 0..2 {
                let error = fill(&mut server).await.expect_err("text");
                assert!(error.to_string().contains("text message"), "{error}");
            }
        });
    }
}

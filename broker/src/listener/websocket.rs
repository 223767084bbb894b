//! MQTT over WebSocket [MQTT-6.0.0]: binary messages whose borders mean nothing, made a stream of bytes.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// What we speak, the better one first.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// Room for one read; the crate's own 128 KiB would be each idle connection's.
const READ_BYTES: usize = 4 << 10;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 8 << 10;
/// Payload of a message of ours.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Bytes that wait for a client that does not read; a message of ours and pongs.
const UNWRITTEN_BYTES_MAX: usize = 64 << 10;

/// A WebSocket connection as a stream of the bytes in its binary messages.
pub struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// What is left of the message that was read last.
    message: Bytes,
    /// A page of another machine opened it, and nobody named that one.
    pub is_strangers_page: bool,
    /// Why no more is read: said at every further read, for the first may have been one too many.
    failed: Option<String>,
}

/// Answers the upgrade request on `path` (empty: on any) of a page of one of `origins` (none: of any) and chooses the
/// subprotocol. `message_bytes_max` bounds what a client's message may take in memory before it is whole. The error is
/// the reason for the log.
pub async fn accept<S>(
    stream: S,
    path: &str,
    origins: &[String],
    message_bytes_max: usize,
) -> Result<WebSocket<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(UNWRITTEN_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let mut is_strangers_page = false;
    // The crate's trait wants this error by value.
    #[allow(clippy::result_large_err)]
    let answer = |request: &Request, response| {
        if !path.is_empty() && request.uri().path() != path {
            return Err(refusal(StatusCode::NOT_FOUND, "MQTT is spoken on another path"));
        }
        if !is_welcome(request, origins) {
            return Err(refusal(StatusCode::FORBIDDEN, "ws_origins does not name the page's Origin"));
        }
        is_strangers_page = origins.is_empty() && !request.headers().get_all(ORIGIN).iter().all(is_of_this_machine);
        choose_subprotocol(request, response)
    };
    match accept_hdr_async_with_config(stream, answer, Some(config)).await {
        Ok(inner) => Ok(WebSocket { inner, message: Bytes::new(), is_strangers_page, failed: None }),
        Err(error) => Err(format!("no WebSocket: {error}")),
    }
}

/// Browsers tell the page that connects; what is no browser tells what it likes, or nothing.
fn is_welcome(request: &Request, origins: &[String]) -> bool {
    let named =
        |origin: &HeaderValue| origins.iter().any(|known| origin.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
    origins.is_empty() || request.headers().get_all(ORIGIN).iter().all(named)
}

/// A browser on this machine lends its pages this machine's address, wherever they are from.
fn is_of_this_machine(origin: &HeaderValue) -> bool {
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map_or("", |(_, host)| host);
    let name = match host.strip_prefix('[') {
        Some(ip) => ip.split_once(']').map_or("", |(ip, _)| ip),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(format!("{why}\n")));
    *refusal.status_mut() = status;
    refusal
}

#[allow(clippy::result_large_err)]
fn choose_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> =
        offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
    match SUBPROTOCOLS.iter().find(|ours| offered.contains(ours)) {
        Some(chosen) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
            Ok(response)
        }
        None => Err(refusal(StatusCode::BAD_REQUEST, "offer the WebSocket subprotocol mqtt or mqttv3.1")),
    }
}

impl<S> WebSocket<S> {
    /// What it runs on.
    pub fn get_mut(&mut self) -> &mut S
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.inner.get_mut()
    }
}

fn told(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {other}")),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.message.is_empty() {
            if let Some(why) = &this.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why.clone())));
            }
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.message = bytes,
                Some(Ok(Message::Text(_))) => {
                    let why = "WebSocket: a text message; MQTT takes binary ones [MQTT-6.0.0-1]";
                    this.failed = Some(why.to_owned());
                }
                // Pings are answered by the crate; a close is followed by the end.
                Some(Ok(_)) => {}
                Some(Err(error)) => this.failed = Some(told(error).to_string()),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = this.message.split_to(this.message.len().min(buf.remaining()));
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().inner;
        ready!(Pin::new(&mut *inner).poll_ready(cx)).map_err(told)?;
        let taken = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        let message = Message::Binary(Bytes::copy_from_slice(taken));
        Pin::new(inner).start_send(message).map_err(told)?;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(told)
    }

    /// Says goodbye in its protocol; what it runs on is closed when the connection is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut self.get_mut().inner;
        match ready!(Pin::new(&mut *inner).poll_close(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(told(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_this_machine_is_one_by_a_name_that_cannot_be_anybody_elses() {
        let is = |origin: &'static str| is_of_this_machine(&HeaderValue::from_static(origin));
        for origin in ["http://localhost", "https://LOCALHOST:3000", "http://127.0.0.1:8080", "http://[::1]:1"] {
            assert!(is(origin), "{origin}");
        }
        for origin in
            ["https://evil.example", "http://localhost.evil.example", "http://10.0.0.1", "null", "", "http://["]
        {
            assert!(!is(origin), "{origin}");
        }
    }
}

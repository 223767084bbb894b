//! The WebSocket glue over a socket that gives and takes what it likes. The first byte chooses: a client's frames,
//! well formed, whose payloads have to come out as one stream; anything behind a good handshake; or anything at all.

#![no_main]

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use broker::listener::websocket::accept;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HANDSHAKE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Both directions of a socket. How much goes at once, and whether it makes wait, is written in `cuts`.
struct Socket {
    unread: Vec<u8>,
    written: Vec<u8>,
    cuts: Vec<u8>,
    turn: usize,
}

impl Socket {
    /// `None`: not now.
    fn cut(&mut self, cx: &Context<'_>) -> Option<usize> {
        self.turn += 1;
        match self.cuts.get(self.turn % self.cuts.len().max(1)).copied().unwrap_or(255) {
            // Never twice in a row.
            0 if self.turn % 2 == 0 => {
                cx.waker().wake_by_ref();
                None
            }
            cut => Some(usize::from(cut).max(1)),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(cut) = self.cut(cx) else { return Poll::Pending };
        let bytes = cut.min(self.unread.len()).min(buf.remaining());
        buf.put_slice(&self.unread.drain(..bytes).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(cut) = self.cut(cx) else { return Poll::Pending };
        let taken = &bytes[..cut.min(bytes.len())];
        self.written.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls until it is done; who is never woken is hung.
fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(done) = poll(&mut cx) {
            return done;
        }
    }
    panic!("it never ends");
}

fuzz_target!(|input: &[u8]| {
    let [mode, cuts, rest @ ..] = input else { return };
    let (cuts, rest) = rest.split_at(usize::from(*cuts % 16).min(rest.len()));
    match mode % 3 {
        0 => {
            let (frames, expected) = frames(rest);
            let (read, error) = exchange(HANDSHAKE, &frames, cuts).expect("a good handshake");
            assert_eq!((read, error), (expected, None));
        }
        1 if !rest.is_empty() => {
            let (read, _) = exchange(HANDSHAKE, rest, cuts).expect("a good handshake");
            assert!(read.len() <= rest.len());
        }
        _ => {
            exchange(rest, b"", cuts);
        }
    }
});

/// What is read until the end, and the error that ended it; `None` without a handshake. What is read is written back,
/// and has to be found in what was written. `behind` comes when the handshake was answered, as clients have to wait.
fn exchange(handshake: &[u8], behind: &[u8], cuts: &[u8]) -> Option<(Vec<u8>, Option<io::ErrorKind>)> {
    // A handshake in crumbs is an attack, says the crate, and is right; what is one by itself may come so.
    let early = if behind.is_empty() { cuts } else { b"" };
    let socket = Socket { unread: handshake.to_vec(), written: Vec::new(), cuts: early.to_vec(), turn: 0 };
    let mut accepting = pin!(accept(socket, "/mqtt", &[], MESSAGE_BYTES_MAX));
    let mut ws = wait(|cx| accepting.as_mut().poll(cx)).ok()?;
    let answer = ws.get_mut().written.len();
    ws.get_mut().unread.extend_from_slice(behind);
    ws.get_mut().cuts = cuts.to_vec();
    let (mut read, mut room) = (Vec::new(), [0; 300]);
    let error = loop {
        let mut buf = ReadBuf::new(&mut room);
        match wait(|cx| Pin::new(&mut ws).poll_read(cx, &mut buf)) {
            Err(error) => break Some(error.kind()),
            Ok(()) if buf.filled().is_empty() => break None,
            Ok(()) => read.extend_from_slice(buf.filled()),
        }
    };
    if error.is_none() && !read.is_empty() {
        let mut unwritten = &read[..];
        while !unwritten.is_empty() {
            match wait(|cx| Pin::new(&mut ws).poll_write(cx, unwritten)) {
                Ok(bytes) => unwritten = &unwritten[bytes..],
                // It said goodbye.
                Err(_) => return Some((read, error)),
            }
        }
        if wait(|cx| Pin::new(&mut ws).poll_flush(cx)).is_ok() {
            assert_eq!(binary_payloads(&ws.get_mut().written[answer..]), read);
        }
    }
    Some((read, error))
}

/// A client's messages, cut into frames, with pings between: each takes a byte that says what it is, one for how long
/// it is, and its payload. And the stream that they are.
fn frames(mut input: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut frames, mut expected) = (Vec::new(), Vec::new());
    let mut inside = false;
    while let [kind, length, rest @ ..] = input {
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        input = rest;
        if kind % 4 == 3 {
            frame(&mut frames, 0x89, &payload[..payload.len().min(125)]);
            continue;
        }
        let last = kind % 4 != 2;
        frame(&mut frames, if last { 0x80 } else { 0 } | if inside { 0 } else { 2 }, payload);
        expected.extend_from_slice(payload);
        inside = !last;
    }
    if inside {
        frame(&mut frames, 0x80, b"");
    }
    // Goodbye, for an end without is an error.
    frame(&mut frames, 0x88, &[]);
    (frames, expected)
}

fn frame(out: &mut Vec<u8>, first_byte: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    out.push(first_byte);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The payloads of the binary messages that a server wrote.
fn binary_payloads(mut written: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [first_byte, short, rest @ ..] = written {
        let (length, rest) = match short {
            0..126 => (usize::from(*short), rest),
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            _ => panic!("longer than a message of ours"),
        };
        let (payload, rest) = rest.split_at(length);
        if *first_byte == 0x82 {
            out.extend_from_slice(payload);
        }
        written = rest;
    }
    out
}

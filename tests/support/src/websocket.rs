//! A WebSocket client of RFC 6455 with its frames made by hand, so that a script can cut and join
//! them as it likes. Strict where a server must be exact: no mask, no odd bits, binary messages only.

use crate::PATIENCE;
use crate::stream::Duplex;
use std::io::{self, Read, Write};
use std::time::Duration;

/// The opcode of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A further part of a message.
    More = 0,
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// Close.
    Close = 8,
    /// Ping.
    Ping = 9,
    /// Pong.
    Pong = 10,
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether its message ends with it.
    pub last: bool,
    /// What it is.
    pub opcode: Opcode,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// What a server says to an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status line and the headers.
    pub head: String,
}

impl Answer {
    /// The status code.
    pub fn status(&self) -> u16 {
        let code = self.head.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no HTTP: {:?}", self.head))
    }

    /// A header, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.to_ascii_lowercase() == name).then(|| value.trim())
        })
    }
}

/// A connection in WebSocket messages: written bytes go out as binary messages, a read gives what
/// binary messages bring.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    /// From the server, not yet a whole frame.
    raw: Vec<u8>,
    /// Out of messages, not yet read.
    inbound: Vec<u8>,
    /// Bytes of a message and of a frame, when a script wants small ones.
    cut: Option<(usize, usize)>,
    /// The code of the close frame that came.
    pub closed: Option<u16>,
}

/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl<S: Duplex> WebSocket<S> {
    /// Asks for an upgrade with these subprotocols, and gives the connection if the server agrees.
    pub fn ask(stream: S, path: &str, protocols: Option<&str>) -> Result<(WebSocket<S>, Answer), Answer> {
        WebSocket::ask_from("http://localhost", stream, path, protocols)
    }

    /// The same as a script of a page of this origin.
    pub fn ask_from(
        origin: &str,
        mut stream: S,
        path: &str,
        protocols: Option<&str>,
    ) -> Result<(WebSocket<S>, Answer), Answer> {
        let offered = protocols.map_or_else(String::new, |names| format!("Sec-WebSocket-Protocol: {names}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Origin: {origin}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offered}\r\n"
        );
        stream.write_all(request.as_bytes()).expect("an open connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let read = stream.read(&mut byte);
            if !matches!(read, Ok(1)) {
                panic!("an answer to an upgrade was due, came {read:?} after {:?}", String::from_utf8_lossy(&head));
            }
            head.push(byte[0]);
        }
        let answer = Answer { head: String::from_utf8(head).expect("ASCII") };
        if answer.status() != 101 {
            return Err(answer);
        }
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(answer.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
        let socket = WebSocket { stream, raw: Vec::new(), inbound: Vec::new(), cut: None, closed: None };
        Ok((socket, answer))
    }

    /// Upgrades for MQTT.
    #[track_caller]
    pub fn open(stream: S) -> WebSocket<S> {
        match WebSocket::ask(stream, "/mqtt", Some("mqtt")) {
            Ok((socket, answer)) => {
                assert_eq!(answer.header("sec-websocket-protocol"), Some("mqtt"));
                socket
            }
            Err(answer) => panic!("no upgrade: {answer:?}"),
        }
    }

    /// From now on, written bytes go out in messages of so many bytes and frames of so many.
    pub fn cut(mut self, message_bytes: usize, frame_bytes: usize) -> WebSocket<S> {
        self.cut = Some((message_bytes, frame_bytes));
        self
    }

    /// Sends one frame as it is.
    pub fn send_frame(&mut self, last: bool, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![u8::from(last) << 7 | opcode as u8];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xFFFF => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame)
    }

    /// What carries the frames.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next frame.
    #[track_caller]
    pub fn recv_frame(&mut self) -> Frame {
        self.stream.wait_at_most(PATIENCE).expect("an open socket");
        self.frame().unwrap_or_else(|error| panic!("a frame was due: {error}"))
    }

    fn frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.raw) {
                return Ok(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.raw.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn send_message(&mut self, message: &[u8], frame_bytes: usize) -> io::Result<()> {
        let count = message.len().div_ceil(frame_bytes);
        for (n, part) in message.chunks(frame_bytes).enumerate() {
            let opcode = if n == 0 { Opcode::Binary } else { Opcode::More };
            self.send_frame(n + 1 == count, opcode, part)?;
        }
        Ok(())
    }
}

/// Takes the first whole frame.
fn take_frame(raw: &mut Vec<u8>) -> Option<Frame> {
    let (first, length) = (*raw.first()?, *raw.get(1)?);
    assert_eq!(first & 0x70, 0, "no extension was agreed on");
    assert_eq!(length & 0x80, 0, "a server does not mask");
    let (head, length) = match length {
        126 => (4, usize::from(u16::from_be_bytes(raw.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(raw.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let payload = raw.get(head..head + length)?.to_vec();
    raw.drain(..head + length);
    let opcode = match first & 0x0F {
        0 => Opcode::More,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        other => panic!("a server of MQTT does not send frames of opcode {other}"),
    };
    Some(Frame { last: first & 0x80 != 0, opcode, payload })
}

impl<S: Duplex> Read for WebSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.inbound.is_empty() {
            let frame = match self.frame() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                frame => frame?,
            };
            match frame.opcode {
                Opcode::Binary | Opcode::More => self.inbound = frame.payload,
                Opcode::Close => {
                    self.closed = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Ok(0);
                }
                Opcode::Ping => self.send_frame(true, Opcode::Pong, &frame.payload)?,
                Opcode::Pong | Opcode::Text => {}
            }
        }
        let count = buffer.len().min(self.inbound.len());
        buffer[..count].copy_from_slice(&self.inbound[..count]);
        self.inbound.drain(..count);
        Ok(count)
    }
}

impl<S: Duplex> Write for WebSocket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.cut {
            None => self.send_frame(true, Opcode::Binary, bytes)?,
            Some((message_bytes, frame_bytes)) => {
                for message in bytes.chunks(message_bytes) {
                    self.send_message(message, frame_bytes)?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<S: Duplex> Duplex for WebSocket<S> {
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        self.stream.wait_at_most(wait)
    }

    fn peer(&self) -> String {
        self.stream.peer()
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Opcode, take_frame};

    #[test]
    fn frames_are_those_of_the_standard() {
        // RFC 6455, section 5.7: a fragmented message, here binary.
        let mut raw = b"\x02\x03Hel\x80\x02lo\x8A".to_vec();
        let frame = |last, opcode, payload: &[u8]| Some(Frame { last, opcode, payload: payload.to_vec() });
        assert_eq!(take_frame(&mut raw), frame(false, Opcode::Binary, b"Hel"));
        assert_eq!(take_frame(&mut raw), frame(true, Opcode::More, b"lo"));
        assert_eq!(take_frame(&mut raw), None);
        let mut raw = [b"\x82\x7E\x01\0".to_vec(), vec![7; 256]].concat();
        assert_eq!(take_frame(&mut raw), frame(true, Opcode::Binary, &[7; 256]));
        assert!(raw.is_empty());
    }
}

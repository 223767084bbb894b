//! What a scripted client speaks over: TCP, TLS, WebSocket messages, or one in the other.

use crate::PATIENCE;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes both ways. A read that has nothing in time fails with `WouldBlock`, and loses nothing.
pub trait Duplex: Read + Write + Send + Debug {
    /// How long a read may wait from now on.
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()>;

    /// Our end of the connection, as the server's log names it.
    fn peer(&self) -> String;
}

impl Duplex for TcpStream {
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(wait))
    }

    fn peer(&self) -> String {
        self.local_addr().expect("a connected socket").to_string()
    }
}

/// A connection on which every wait ends.
#[track_caller]
pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
    stream.set_nodelay(true).expect("an open socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("an open socket");
    stream
}

/// Reads until the server closes, and gives what it had sent; panics when it does not close.
#[track_caller]
pub fn read_to_close(stream: &mut impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("not closed; it said {said:?}"),
            // A reset is a close too.
            Err(_) => return said,
        }
    }
}

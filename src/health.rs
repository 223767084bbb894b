//! `millstream health`: asks a running broker whether it is ready, for images without a shell.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use crate::config::Address;

/// For the whole question; a container engine's own limit is 30 s.
const DEADLINE: Duration = Duration::from_secs(3);
/// Of the answer; what `/ready` says is a line.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Why a broker is not to be called healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// `millstream health off`.
    #[error("off is nobody to ask: name the admin listener, as in millstream health 127.0.0.1:9180")]
    Off,
    /// Nothing listens there, or it did not answer in time.
    #[error("{address} does not answer: {source}")]
    Unreachable {
        /// Who was asked.
        address: Address,
        /// What went wrong.
        source: io::Error,
    },
    /// It runs, and does not serve.
    #[error("{address} is not ready: {answer}")]
    NotReady {
        /// Who was asked.
        address: Address,
        /// What it said.
        answer: String,
    },
}

/// Is the broker with this admin listener ready?
pub fn check(address: &Address) -> Result<(), HealthError> {
    let (host, port) = address.host_port().ok_or(HealthError::Off)?;
    let answer =
        ask((reachable(host), port)).map_err(|source| HealthError::Unreachable { address: address.clone(), source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status_line = head.lines().next().unwrap_or_default();
    if status_line.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let said = if body.trim().is_empty() { status_line } else { body.trim() };
    Err(HealthError::NotReady { address: address.clone(), answer: said.to_owned() })
}

/// An address to listen on may say "every interface", which is nowhere to connect to.
fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        _ => host,
    }
}

fn ask(address: (&str, u16)) -> io::Result<String> {
    let end = Instant::now() + DEADLINE;
    let mut stream = connect(address, end)?;
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left(end)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// To the first of a name's addresses that accepts.
fn connect(address: (&str, u16), end: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// Answers one request, on an address that it chose.
    fn answers(answer: &'static str) -> (Address, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut asked = [0; 1_024];
            let count = stream.read(&mut asked).expect("a request");
            stream.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        // As in a configuration that serves every interface.
        (format!("0.0.0.0:{port}").parse().expect("an address"), served)
    }

    #[test]
    fn ready_is_healthy() {
        let (address, served) = answers("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
        check(&address).expect("healthy");
        assert!(served.join().expect("served").starts_with("GET /ready HTTP/1.1\r\n"));
    }

    #[test]
    fn not_ready_is_told_with_its_reason() {
        let (address, served) = answers("HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n");
        let told = check(&address).expect_err("not healthy").to_string();
        assert!(told.ends_with("is not ready: starting"), "{told}");
        served.join().expect("served");
    }

    #[test]
    fn nonsense_is_not_healthy() {
        for answer in ["", "200", "SSH-2.0-x 200 OK\r\n\r\n"] {
            let (address, served) = answers(answer);
            assert!(matches!(check(&address), Err(HealthError::NotReady { .. })), "{answer:?}");
            served.join().expect("served");
        }
    }

    #[test]
    fn nobody_there_is_told_at_once() {
        let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
        let address: Address = free.to_string().parse().expect("an address");
        assert!(matches!(check(&address), Err(HealthError::Unreachable { .. })));
        assert!(matches!(check(&Address::Off), Err(HealthError::Off)));
    }
}

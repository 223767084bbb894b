//! Clients that come by a Unix socket.

use crate::{accepted, talks_to_itself};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::PATIENCE;
use support::broker::Broker;
use support::mqtt::{Client, Connect, Publish};
use support::stream::Duplex;
use support::websocket::WebSocket;

/// Our end of one.
#[derive(Debug)]
struct Unix(UnixStream);

impl Unix {
    fn to(path: &Path) -> Unix {
        let stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
        Unix(stream)
    }
}

impl Read for Unix {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Unix {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Duplex for Unix {
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(wait))
    }

    fn peer(&self) -> String {
        format!("unix:pid={}", std::process::id())
    }
}

fn listener(path: &Path, rest: &str) -> String {
    format!("[[mqtt.listener]]\naddress = \"unix:{}\"\n{rest}", path.display())
}

/// A broker with these listeners in its own folder.
fn with_sockets(all: &[(&str, &str)]) -> (Broker, Vec<PathBuf>) {
    let broker = Broker::prepared();
    let paths: Vec<_> = all.iter().map(|(name, _)| broker.folder().join(name)).collect();
    let config: String = paths.iter().zip(all).map(|(path, (_, rest))| listener(path, rest)).collect();
    let mut broker = broker.config(&format!("shards = 2\n{config}"));
    broker.restart();
    (broker, paths)
}

#[test]
fn clients_come_by_it_with_and_without_websocket() {
    let (broker, paths) = with_sockets(&[("plain", ""), ("ws", "protocol = \"ws\"\nws_path = \"/mqtt\"\n")]);
    let mut clients = Vec::new();
    // Ids enough for both threads.
    for n in 0..8 {
        let connect = |way: &str| Connect::v5(&format!("{way} {n}"));
        clients.push(accepted(Client::over(Unix::to(&paths[0]), &connect("plain"))));
        clients.push(accepted(Client::over(WebSocket::open(Unix::to(&paths[1])), &connect("ws"))));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        talks_to_itself(client, &format!("t/{n}"));
    }
    // More than a socket buffers, to and fro.
    let large = vec![7; 700_000];
    for client in &mut clients[..4] {
        assert_eq!(client.subscribe("large", 1), 1);
        assert_eq!(client.publish(Publish::new("large", &large).qos(1)), 0);
        assert!(client.take().payload == large);
        client.unsubscribe("large");
    }
    let line = broker.log_line(&["connected", "plain 0"]);
    assert!(line.contains(&format!("unix:pid={}", std::process::id())), "{line}");
    let mut wrong = Unix::to(&paths[1]);
    wrong.write_all(&Connect::v5("x").bytes()).expect("open");
    broker.log_line(&["MQTT without WebSocket where WebSocket is spoken"]);
}

#[test]
fn a_session_goes_on_over_tcp() {
    let (broker, paths) = with_sockets(&[("m", "")]);
    let connect = Connect::v5("a").durable();
    let mut first = accepted(Client::over(Unix::to(&paths[0]), &connect));
    first.subscribe("t", 1);
    let mut second = broker.connect(connect.clone());
    assert!(second.connack.session_present);
    assert_eq!(first.expect_closed(), Some(0x8E));
    broker.publish(Publish::new("t", "x").qos(1));
    assert_eq!(second.take().text(), "x");
    assert!(accepted(Client::over(Unix::to(&paths[0]), &connect)).connack.session_present);
}

#[test]
fn its_permissions_are_those_that_were_asked_for() {
    let (broker, paths) = with_sockets(&[("a", ""), ("b", "unix_mode = \"0600\"\n"), ("c", "unix_mode = \"666\"\n")]);
    let mode = |path: &PathBuf| fs::metadata(path).expect("a socket").permissions().mode() & 0o777;
    assert_eq!(paths.iter().map(mode).collect::<Vec<_>>(), [0o660, 0o600, 0o666]);
    let names = fs::read_dir(broker.folder()).expect("its folder").map(|entry| entry.expect("an entry").file_name());
    let beside: Vec<_> = names.filter(|name| name.to_string_lossy().contains('.')).collect();
    assert_eq!(beside, ["millstream.toml"], "nothing is left of their making");
}

#[test]
fn a_socket_nobody_listens_on_is_replaced_and_one_somebody_does_is_not() {
    let (mut broker, paths) = with_sockets(&[("m", "")]);
    let mut other = Broker::prepared().config(&listener(&paths[0], ""));
    let said = other.fails_to_start();
    assert!(said.contains("another process listens there") && said.contains("/m\""), "{said}");
    // It does no harm to the one that is there.
    accepted(Client::over(Unix::to(&paths[0]), &Connect::v5("a")));
    broker.kill9();
    assert!(paths[0].exists() && UnixStream::connect(&paths[0]).is_err());
    other.restart();
    accepted(Client::over(Unix::to(&paths[0]), &Connect::v5("a")));
    assert!(broker.fails_to_start().contains("another process listens there"));
    let (status, _) = other.sigterm_and_wait();
    assert!(status.success() && !paths[0].exists(), "it is removed at the end");
    broker.restart();
    // Another one's that took its place stays.
    fs::remove_file(&paths[0]).expect("its socket");
    let _taken = UnixListener::bind(&paths[0]).expect("a free name");
    broker.sigterm_and_wait();
    assert!(paths[0].exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let broker = Broker::prepared();
    let path = broker.folder().join("precious");
    fs::write(&path, "data").expect("a writable folder");
    let broker = broker.config(&listener(&path, ""));
    let said = broker.fails_to_start();
    assert!(said.contains("something else than a socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "data");
    let broker = Broker::prepared();
    let nowhere = broker.folder().join("no/such/folder");
    let broker = broker.config(&listener(&nowhere, ""));
    assert!(broker.fails_to_start().contains("No such file or directory"));
}

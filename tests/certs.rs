//! `millstream certs`, the built binary: what it makes, and whether TLS peers take it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};

const FILES: [&str; 6] = ["ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key"];

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.arg("certs").arg(dir).args(arguments).output().expect("the binary runs")
}

fn make(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("millstream: ") && output.stdout.is_empty(), "{errors}");
    errors
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn certificate(dir: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(dir.join(format!("{name}.crt"))).expect("a certificate")
}

fn key(dir: &Path, name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).expect("a key")
}

fn roots(dir: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(dir, "ca")).expect("a CA");
    Arc::new(roots)
}

/// The clock of a peer, in days from now.
#[derive(Debug)]
struct Clock(f64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        Some(UnixTime::since_unix_epoch(Duration::from_secs_f64(now + self.0 * 86_400.0)))
    }
}

/// Who meets whom.
struct Peers<'a> {
    /// The server's folder.
    server: &'a Path,
    /// The client's folder, and which certificate of it it shows.
    client: (&'a Path, Option<&'a str>),
    /// What the client calls the server.
    name: &'a str,
    client_days: f64,
    server_days: f64,
}

/// A handshake over memory with client certificates required; the client's certificate as the server saw it.
fn handshake(peers: Peers<'_>) -> Result<CertificateDer<'static>, rustls::Error> {
    let provider = Arc::new(default_provider());
    let (folder, shown) = peers.client;
    let client = ClientConfig::builder_with_details(provider.clone(), Arc::new(Clock(peers.client_days)))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(folder));
    let client = match shown {
        Some(name) => client.with_client_auth_cert(vec![certificate(folder, name)], key(folder, name))?,
        None => client.with_no_client_auth(),
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(peers.server), provider.clone()).build();
    let server = ServerConfig::builder_with_details(provider, Arc::new(Clock(peers.server_days)))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.expect("a CA"))
        .with_single_cert(vec![certificate(peers.server, "server")], key(peers.server, "server"))?;
    let name = ServerName::try_from(peers.name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    client.writer().write_all(b"hello").expect("buffered");
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        hand_over(&mut client, &mut server)?;
        hand_over(&mut server, &mut client)?;
    }
    let mut got = [0; 5];
    server.reader().read_exact(&mut got).expect("sent");
    assert_eq!(&got, b"hello");
    Ok(server.peer_certificates().expect("required")[0].clone().into_owned())
}

fn hand_over<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("memory");
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory");
        to.process_new_packets()?;
    }
    Ok(())
}

fn meet(dir: &Path, name: &str) -> Result<CertificateDer<'static>, rustls::Error> {
    handshake(Peers { server: dir, client: (dir, Some("client")), name, client_days: 0.0, server_days: 0.0 })
}

/// Whether the certificate's subject, or issuer, has this common name.
fn has_common_name(certificate: &[u8], name: &str) -> bool {
    let mut attribute = vec![0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, u8::try_from(name.len()).expect("short")];
    attribute.extend_from_slice(name.as_bytes());
    certificate.windows(attribute.len()).any(|window| window == attribute)
}

#[test]
fn six_files_with_secret_keys() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("some/where");
    let said = make(&dir, &[]);
    assert_eq!(names_in(&dir), FILES);
    for name in FILES {
        let mode = fs::metadata(dir.join(name)).expect("made").mode() & 0o777;
        assert_eq!(mode & !0o644, 0, "{name}: {mode:o}");
        if name.ends_with(".key") {
            assert_eq!(mode, 0o600, "{name}");
        }
        assert!(said.contains(name), "{said}");
    }
    assert!(said.contains("localhost, ") && said.contains("127.0.0.1, ::1"), "{said}");
}

#[test]
fn both_sides_take_each_others_certificates_by_every_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path();
    let said = make(dir, &["--name", "gateway.example", "--name", "192.0.2.77", "--name", "2001:db8::7"]);
    let names = said.lines().find_map(|line| line.split_once("its names: ")).expect("a line on the server's").1;
    let names: Vec<_> = names.split(", ").collect();
    for wanted in ["localhost", "127.0.0.1", "::1", "gateway.example", "192.0.2.77", "2001:db8::7"] {
        assert!(names.contains(&wanted), "{wanted} in {names:?}");
    }
    // The host's own name and addresses among them.
    for name in &names {
        let seen = meet(dir, name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(has_common_name(&seen, "client"));
    }
    for stranger in ["other.example", "192.0.2.78"] {
        assert!(meet(dir, stranger).is_err(), "{stranger}");
    }
}

#[test]
fn another_ca_is_not_trusted_by_either_side() {
    let (one, other) = (tempfile::tempdir().expect("temporary folder"), tempfile::tempdir().expect("temporary folder"));
    let (one, other) = (one.path(), other.path());
    make(one, &[]);
    make(other, &[]);
    let meet = |client| handshake(Peers { server: one, client, name: "localhost", client_days: 0.0, server_days: 0.0 });
    assert!(meet((one, Some("client"))).is_ok());
    assert!(meet((other, Some("client"))).is_err(), "the server is of another CA");
    assert!(meet((one, None)).is_err(), "no certificate at all");
    // Trusts the right CA, shows another's certificate.
    for name in ["client.crt", "client.key"] {
        fs::copy(other.join(name), one.join(name.replace("client", "stranger"))).expect("copied");
    }
    assert!(meet((one, Some("stranger"))).is_err(), "the client is of another CA");
    // A server's certificate is none for a client.
    assert!(meet((one, Some("server"))).is_err(), "for servers only");
}

#[test]
fn certificates_hold_from_a_day_ago_for_the_days_asked_for() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path();
    make(dir, &["--days", "30"]);
    let at = |client_days, server_days| {
        handshake(Peers { server: dir, client: (dir, Some("client")), name: "localhost", client_days, server_days })
    };
    for day in [-0.9, 0.0, 29.9] {
        assert!(at(day, day).is_ok(), "{day}");
    }
    for day in [-1.1, 30.1] {
        assert!(at(day, 0.0).is_err() && at(0.0, day).is_err(), "{day}");
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path();
    make(dir, &[]);
    let at = |days| {
        handshake(Peers {
            server: dir,
            client: (dir, Some("client")),
            name: "localhost",
            client_days: days,
            server_days: days,
        })
    };
    assert!(at(824.9).is_ok() && at(825.1).is_err());
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path();
    make(dir, &[]);
    let before: Vec<_> = FILES.map(|name| fs::read(dir.join(name)).expect("readable")).into();
    let errors = refused(dir, &[]);
    assert!(errors.contains("ca.crt: is there already"), "{errors}");
    let after: Vec<_> = FILES.map(|name| fs::read(dir.join(name)).expect("readable")).into();
    assert!(before == after);
    assert_eq!(names_in(dir), FILES);

    // Even one of them is enough, and the others are not made.
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("client.key"), "mine").expect("written");
    refused(folder.path(), &[]);
    assert_eq!(names_in(folder.path()), ["client.key"]);
}

#[test]
fn further_clients_are_made_by_the_ca_that_is_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path();
    let errors = refused(dir, &["--client", "sensor-1"]);
    assert!(errors.contains("ca.crt: cannot be read") && names_in(dir).is_empty(), "{errors}");
    make(dir, &[]);
    make(dir, &["--client", "sensor 1@plant"]);
    let seen = handshake(Peers {
        server: dir,
        client: (dir, Some("sensor 1@plant")),
        name: "localhost",
        client_days: 0.0,
        server_days: 0.0,
    })
    .expect("taken");
    assert!(has_common_name(&seen, "sensor 1@plant"));
    assert_eq!(fs::metadata(dir.join("sensor 1@plant.key")).expect("made").mode() & 0o777, 0o600);
    let made = names_in(dir);
    for name in ["sensor 1@plant", "client", "ca", "server"] {
        let errors = refused(dir, &["--client", name]);
        assert!(errors.contains("is there already"), "{errors}");
    }
    for name in ["", "a/b", "../a", ".a", "a:b", &"x".repeat(65)] {
        refused(dir, &["--client", name]);
    }
    // Another CA's key.
    let other = tempfile::tempdir().expect("temporary folder");
    make(other.path(), &[]);
    fs::copy(other.path().join("ca.key"), dir.join("ca.key")).expect("copied");
    let errors = refused(dir, &["--client", "late"]);
    assert!(errors.contains("is not the key of ca.crt"), "{errors}");
    assert_eq!(names_in(dir), made);
    // A certificate that may not make others.
    for (from, to) in [("server.crt", "ca.crt"), ("server.key", "ca.key")] {
        fs::copy(dir.join(from), dir.join(to)).expect("copied");
    }
    let errors = refused(dir, &["--client", "late"]);
    assert!(errors.contains("is not for signing certificates"), "{errors}");
}

#[test]
fn a_name_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let errors = refused(folder.path(), &["--name", "10.0.0"]);
    assert!(errors.contains("\"10.0.0\": is neither a host name nor an IP address"), "{errors}");
    assert_eq!(run(folder.path(), &["--days", "0"]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["--client", "a", "--name", "b"]).status.code(), Some(2));
    assert!(names_in(folder.path()).is_empty());
}

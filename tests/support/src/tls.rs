//! A TLS client that says why a handshake failed. Each write becomes one record (up to 16 KiB), so a
//! script decides what shares a record.

use crate::certs::Certs;
use crate::stream::{Duplex, tcp};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A connection whose handshake is done.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Duplex for TlsStream {
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        self.sock.wait_at_most(wait)
    }

    fn peer(&self) -> String {
        self.sock.peer()
    }
}

/// Whom a client trusts, who it is, and how it speaks.
#[derive(Debug, Clone)]
pub struct Tls {
    trusted: Certs,
    shown: Option<(Certs, String)>,
    versions: Vec<&'static SupportedProtocolVersion>,
    name: String,
}

impl Tls {
    /// A client that trusts this CA, shows no certificate and calls the server `localhost`.
    pub fn trusting(certs: &Certs) -> Tls {
        Tls { trusted: certs.clone(), shown: None, versions: vec![&TLS13, &TLS12], name: "localhost".into() }
    }

    /// Shows the certificate of this name when asked for one.
    pub fn showing(mut self, certs: &Certs, name: &str) -> Tls {
        self.shown = Some((certs.clone(), name.to_owned()));
        self
    }

    /// Speaks 1.2 only.
    pub fn v12(mut self) -> Tls {
        self.versions = vec![&TLS12];
        self
    }

    /// Speaks 1.3 only.
    pub fn v13(mut self) -> Tls {
        self.versions = vec![&TLS13];
        self
    }

    /// Expects the server to be this host.
    pub fn calling(mut self, name: &str) -> Tls {
        self.name = name.to_owned();
        self
    }

    /// Connects; the handshake must succeed. (In 1.3 a server that refuses the client's certificate
    /// says so after it.)
    #[track_caller]
    pub fn connect(&self, address: SocketAddr) -> TlsStream {
        self.on(tcp(address)).unwrap_or_else(|error| panic!("no TLS with {address}: {error}"))
    }

    /// Shakes hands on this socket.
    pub fn on(&self, socket: TcpStream) -> io::Result<TlsStream> {
        let mut stream = StreamOwned::new(self.connection(), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        // The last flight of 1.3.
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// A connection on which nothing has been said.
    pub fn connection(&self) -> ClientConnection {
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        ClientConnection::new(Arc::new(self.config()), name).expect("a configuration that fits")
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.trusted, "ca")).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions);
        let builder = builder.expect("known versions").with_root_certificates(roots);
        self.identified(builder)
    }

    fn identified(&self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> ClientConfig {
        let Some((certs, name)) = &self.shown else {
            return builder.with_no_client_auth();
        };
        let key = PrivateKeyDer::from_pem_file(certs.file(&format!("{name}.key"))).expect("a key");
        builder.with_client_auth_cert(vec![certificate(certs, name)], key).expect("they belong together")
    }
}

fn certificate(certs: &Certs, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certs.file(&format!("{name}.crt"))).expect("a certificate")
}

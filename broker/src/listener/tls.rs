//! TLS for listeners, of MQTT and of Kafka: certificate, key and CA from files, read again on request.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{AlertDescription, InvalidMessage, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Days before a certificate's end from which a start and a reload warn of it.
const EXPIRY_WARNING_DAYS: i64 = 21;
const DAY_S: i64 = 86_400;

/// Where certificates are, and what is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate in PEM, with those between it and the root behind it.
    pub certificate: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
    /// CAs whose client certificates are believed, in PEM; none: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Clients without a certificate are refused.
    pub require_certificate: bool,
    /// The common name of a client's certificate is its user name.
    pub use_identity_as_username: bool,
}

/// Why there is no TLS; the configuration's or its files' fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or does not parse.
    #[error("{}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The key is not the certificate's.
    #[error("{} is not the key of {}: {why}", key.display(), certificate.display())]
    Pair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What the library said.
        why: rustls::Error,
    },
}

/// The TLS side of listeners. A reload changes what new connections get.
pub struct Tls {
    current: ArcSwap<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    identity: bool,
    not_after_s: i64,
}

/// A client whose handshake is done.
pub struct Accepted<S> {
    /// Its bytes, decrypted.
    pub stream: TlsStream<S>,
    /// The name its certificate proves, where that counts as a user name.
    pub name: Option<Arc<str>>,
}

impl Tls {
    /// Reads the files.
    pub fn open(files: &Files) -> Result<Tls, TlsError> {
        Ok(Tls { current: ArcSwap::from_pointee(load(files)?) })
    }

    /// Reads them again. On an error, what was in force stays so. Connections that are open stay open.
    pub fn reload(&self, files: &Files) -> Result<(), TlsError> {
        self.current.store(Arc::new(load(files)?));
        Ok(())
    }

    /// When the server's certificate ends, in seconds since 1970.
    pub fn not_after_s(&self) -> i64 {
        self.current.load().not_after_s
    }

    /// Shakes hands. The error is the reason for the log: the client has been told by an alert.
    pub async fn accept<S>(&self, stream: S) -> Result<Accepted<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.load_full();
        let stream = current.acceptor.accept(stream).await.map_err(|error| why_refused(&error))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let name = match certificate.filter(|_| current.identity) {
            Some(certificate) => Some(common_name(certificate).ok_or("its certificate has no common name to go by")?),
            None => None,
        };
        Ok(Accepted { stream, name })
    }
}

fn load(files: &Files) -> Result<Current, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
        file_error(&files.key, unread(error, "a private key (PKCS#8, PKCS#1 or SEC1, unencrypted)"))
    })?;
    let not_after_s = check_validity(&files.certificate, &chain)?;
    let provider = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    // PROOF: it fails only when the provider has no cipher suite for the versions; ring has.
    let builder = builder.expect("ring serves TLS 1.2 and 1.3");
    let verifier: Arc<dyn ClientCertVerifier> = match &files.client_ca {
        Some(ca) => client_verifier(ca, files.require_certificate, provider)?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(|why| {
        let (key, certificate) = (files.key.clone(), files.certificate.clone());
        TlsError::Pair { key, certificate, why }
    })?;
    // A fleet that comes back resumes without the costly half of a handshake; tickets are kept by the clients.
    if let Ok(ticketer) = provider::Ticketer::new() {
        config.ticketer = ticketer;
    }
    let identity = files.use_identity_as_username && files.client_ca.is_some();
    Ok(Current { acceptor: TlsAcceptor::from(Arc::new(config)), identity, not_after_s })
}

fn client_verifier(
    ca: &Path,
    require: bool,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| file_error(ca, error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !require {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error: VerifierBuilderError| file_error(ca, error.to_string()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| file_error(file, unread(error, "certificates")))?;
    match found.is_empty() {
        true => Err(file_error(file, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned())),
        false => Ok(found),
    }
}

/// Warns of a certificate that is not valid now, or not for much longer; gives its end.
fn check_validity(file: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    // PROOF: `certificates` gives at least one.
    let parsed = X509Certificate::from_der(&chain[0]);
    let (_, parsed) = parsed.map_err(|error| file_error(file, format!("is no X.509 certificate: {error}")))?;
    let validity = parsed.validity();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let (from_s, to_s) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let (file, until) = (file.display(), &validity.not_after);
    if now_s > to_s {
        tracing::error!(%file, "the server's certificate has expired ({until}): clients will refuse it");
    } else if now_s < from_s {
        tracing::warn!(%file, "the server's certificate is valid from {} on: is this machine's clock right?", validity.not_before);
    } else if to_s - now_s < EXPIRY_WARNING_DAYS * DAY_S {
        tracing::warn!(%file, "the server's certificate ends {until}: renew it, then send SIGHUP");
    }
    Ok(to_s)
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.into())
}

fn file_error(file: &Path, why: String) -> TlsError {
    TlsError::File { file: file.to_owned(), why }
}

fn unread(error: pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("holds no PEM with {wanted}"),
        other => format!("does not parse as PEM with {wanted}: {other:?}"),
    }
}

/// What went wrong in words that say what to do.
fn why_refused(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection during the TLS handshake".to_owned(),
            _ => format!("TLS handshake: {error}"),
        };
    };
    let mut why = format!("TLS handshake: {tls}");
    let hint = match tls {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => "it does not speak TLS",
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
            "it does not trust our certificate: give it the CA (ca.crt)"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it finds our certificate expired; is one of the clocks wrong?"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateUnknown) => {
            "it does not accept our certificate: has it the CA, and does the certificate have the name it connects to?"
        }
        rustls::Error::NoCertificatesPresented => "it sent no certificate, and tls.require_certificate = true",
        rustls::Error::InvalidCertificate(_) => "its certificate is not valid under tls.cafile",
        rustls::Error::PeerIncompatible(_) => "we speak TLS 1.2 and 1.3 only",
        _ => return why,
    };
    let _ = write!(why, " ({hint})");
    why
}

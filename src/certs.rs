//! `millstream certs`: certificates for development and small sites, by a certificate authority of one's own.
//!
//! ECDSA on P-256, which every TLS client of the last ten years knows and small boards sign fast with. No file is ever
//! overwritten: a new CA would shut out every client that trusts the old one.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use broker::auth::{NameError, check_name};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3_650;
/// X.509's bound on a common name, in characters.
const COMMON_NAME_CHARS_MAX: usize = 64;
/// The user name of the client certificate that is made along.
const CLIENT: &str = "client";
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Arguments of `millstream certs`.
#[derive(Debug, Args)]
pub struct CertsArgs {
    /// The folder for the files; made if it is not there
    dir: PathBuf,
    /// A further host name or address that clients reach the server by; may be given several times
    #[arg(long = "name", value_name = "HOST", conflicts_with = "client")]
    names: Vec<String>,
    /// Days that the server's and clients' certificates are valid; the CA's is for ten years
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=i64::from(CA_DAYS)))]
    days: u32,
    /// Only make NAME.crt and NAME.key, for the user NAME, by the CA that is in the folder already
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    #[error("{0}: is there already; nothing is ever overwritten: move it away, or name another folder")]
    Exists(PathBuf),
    #[error("{0}: cannot be written: {1}")]
    Write(PathBuf, io::Error),
    #[error(
        "{0}: cannot be read: {1}; --client needs the folder that millstream certs made, with its ca.crt and ca.key"
    )]
    Read(PathBuf, io::Error),
    #[error("{0}: is no certificate of a CA, or no key, in PEM: {1}")]
    Ca(PathBuf, String),
    #[error("{0}: is not the key of ca.crt beside it")]
    WrongKey(PathBuf),
    #[error("--name {0:?}: is neither a host name nor an IP address")]
    Host(String),
    #[error("--client: {0}")]
    User(#[from] NameError),
    #[error(
        "--client {0:?}: must not be longer than {COMMON_NAME_CHARS_MAX} characters, begin with a dot or have a slash in it"
    )]
    Client(String),
    #[error("the clock of this machine is before 1970: set it")]
    Clock,
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A file to be.
struct Output {
    name: String,
    text: String,
    mode: u32,
}

/// A certificate and its key, to be `name.crt` and `name.key`.
fn pair(name: &str, certificate: String, key: &KeyPair) -> [Output; 2] {
    [
        Output { name: format!("{name}.crt"), text: certificate, mode: CERTIFICATE_MODE },
        Output { name: format!("{name}.key"), text: key.serialize_pem(), mode: KEY_MODE },
    ]
}

/// Makes what was asked for; says what, in lines for people.
pub fn run(args: &CertsArgs) -> Result<String, CertsError> {
    match &args.client {
        Some(client) => further_client(&args.dir, client, args.days),
        None => everything(&args.dir, &args.names, args.days),
    }
}

fn everything(dir: &Path, names: &[String], days: u32) -> Result<String, CertsError> {
    let host = host_name();
    let server_names = server_names(host.as_deref(), &addresses(), names)?;
    let files = ["ca", "server", CLIENT].map(|name| [format!("{name}.crt"), format!("{name}.key")]);
    refuse_existing(dir, files.as_flattened())?;

    let ca = new_ca()?;
    let (server, server_key) = leaf(&ca, &common_name(host.as_deref()), &server_names, Purpose::Server, days)?;
    let (client, client_key) = leaf(&ca, CLIENT, &[], Purpose::Client, days)?;
    let mut outputs = Vec::new();
    outputs.extend(pair("ca", ca.pem(), ca.key()));
    outputs.extend(pair("server", server, &server_key));
    outputs.extend(pair(CLIENT, client, &client_key));
    write_all(dir, &outputs)?;

    let mut said = String::new();
    let dir = dir.display();
    let mut say = |file: &str, what: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(said, "{dir}/{file:<12}{what}");
    };
    say("ca.crt", "for whoever connects: trust this");
    say("ca.key", "makes further certificates: keep it secret, and off the gateway");
    say("server.crt", &format!("for the broker, {days} days; its names: {}", list(&server_names)));
    say("server.key", "for the broker: keep it secret");
    say("client.crt", &format!("for a client, {days} days; its user name: {CLIENT}"));
    say("client.key", "for the client: keep it secret");
    Ok(said)
}

fn further_client(dir: &Path, client: &str, days: u32) -> Result<String, CertsError> {
    check_name(client)?;
    if client.chars().count() > COMMON_NAME_CHARS_MAX || client.starts_with('.') || client.contains('/') {
        return Err(CertsError::Client(client.to_owned()));
    }
    refuse_existing(dir, &[format!("{client}.crt"), format!("{client}.key")])?;
    let ca = open_ca(dir)?;
    let (certificate, key) = leaf(&ca, client, &[], Purpose::Client, days)?;
    write_all(dir, &pair(client, certificate, &key))?;
    let dir = dir.display();
    Ok(format!(
        "{dir}/{client}.crt  for a client, {days} days; its user name: {client}\n\
         {dir}/{client}.key  for the client: keep it secret\n"
    ))
}

fn new_ca() -> Result<CertifiedIssuer<'static, KeyPair>, CertsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // Two CAs of one name make clients try the wrong one, and tell of a bad signature instead of an unknown CA.
    let id: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Millstream development CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS)?;
    Ok(CertifiedIssuer::self_signed(params, key)?)
}

fn open_ca(dir: &Path) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| CertsError::Read(path.to_owned(), error));
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let (certificate_pem, key_pem) = (read(&certificate)?, read(&key)?);
    let bad = |path: &Path, why: &dyn ToString| CertsError::Ca(path.to_owned(), why.to_string());
    let signing = KeyPair::from_pem(&key_pem).map_err(|error| bad(&key, &error))?;
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| bad(&certificate, &error))?;
    if !certifies(&der, &signing) {
        return Err(CertsError::WrongKey(key));
    }
    let ca = Issuer::from_ca_cert_der(&der, signing).map_err(|error| bad(&certificate, &error))?;
    if !ca.key_usages().contains(&KeyUsagePurpose::KeyCertSign) {
        return Err(bad(&certificate, &"it is not for signing certificates"));
    }
    Ok(ca)
}

/// Whether the certificate is for this key: its public half, too long to be there by chance, stands in it.
fn certifies(certificate: &[u8], key: &KeyPair) -> bool {
    let public = key.public_key_raw();
    certificate.windows(public.len()).any(|window| window == public)
}

enum Purpose {
    Server,
    Client,
}

fn leaf(
    ca: &Issuer<'_, KeyPair>,
    name: &str,
    names: &[SanType],
    purpose: Purpose,
    days: u32,
) -> Result<(String, KeyPair), CertsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    set_validity(&mut params, days)?;
    Ok((params.signed_by(&key, ca)?.pem(), key))
}

/// From a day ago, as the clocks of gateways are off.
fn set_validity(params: &mut CertificateParams, days: u32) -> Result<(), CertsError> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| CertsError::Clock)?;
    let now = rcgen::date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = now - DAY;
    params.not_after = now + DAY * days;
    Ok(())
}

/// The name this machine gives itself.
fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_ascii_lowercase();
    is_host_name(&name).then_some(name)
}

fn common_name(host: Option<&str>) -> String {
    host.filter(|host| host.len() <= COMMON_NAME_CHARS_MAX).unwrap_or("millstream").to_owned()
}

/// Those of its interfaces; none when they cannot be read, as there are `--name` and the loopback ones.
fn addresses() -> Vec<IpAddr> {
    if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect()
}

/// What clients may call the server, each once.
fn server_names(host: Option<&str>, addresses: &[IpAddr], further: &[String]) -> Result<Vec<SanType>, CertsError> {
    let mut hosts = vec!["localhost".to_owned()];
    if let Some(host) = host {
        let first = host.split('.').next().unwrap_or(host);
        hosts.extend([host.to_owned(), first.to_owned(), format!("{first}.local")]);
    }
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    ips.extend(addresses);
    for name in further {
        if let Ok(ip) = name.parse() {
            ips.push(ip);
        } else if is_host_name(name.strip_prefix("*.").unwrap_or(name)) {
            hosts.push(name.to_ascii_lowercase());
        } else {
            return Err(CertsError::Host(name.clone()));
        }
    }
    let mut names = Vec::new();
    let (mut known_hosts, mut known_ips) = (BTreeSet::new(), BTreeSet::new());
    for host in hosts.into_iter().filter(|host| known_hosts.insert(host.clone())) {
        names.push(SanType::DnsName(host.try_into()?));
    }
    names.extend(ips.into_iter().filter(|ip| known_ips.insert(*ip)).map(SanType::IpAddress));
    Ok(names)
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let all_digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // 10.0.0 is a mistyped address.
    name.len() <= 253 && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(all_digits)
}

fn list(names: &[SanType]) -> String {
    let words: Vec<_> = names
        .iter()
        .filter_map(|name| match name {
            SanType::DnsName(host) => Some(host.to_string()),
            SanType::IpAddress(ip) => Some(ip.to_string()),
            _ => None,
        })
        .collect();
    words.join(", ")
}

fn refuse_existing(dir: &Path, names: &[String]) -> Result<(), CertsError> {
    // Even a link that leads nowhere is something.
    let exists = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
    match names.iter().map(|name| dir.join(name)).find(exists) {
        Some(path) => Err(CertsError::Exists(path)),
        None => Ok(()),
    }
}

/// All or none.
fn write_all(dir: &Path, outputs: &[Output]) -> Result<(), CertsError> {
    fs::create_dir_all(dir).map_err(|error| CertsError::Write(dir.to_owned(), error))?;
    for (i, output) in outputs.iter().enumerate() {
        let path = dir.join(&output.name);
        if let Err(error) = write_new(&path, output) {
            // What is there already is not ours; a file cut short is.
            let ours = if error.kind() == io::ErrorKind::AlreadyExists { i } else { i + 1 };
            for made in &outputs[..ours] {
                let _ = fs::remove_file(dir.join(&made.name));
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => CertsError::Exists(path),
                _ => CertsError::Write(path, error),
            });
        }
    }
    Ok(())
}

fn write_new(path: &Path, output: &Output) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(output.mode).open(path)?;
    file.write_all(output.text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_every_name_once() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let further = ["Gateway.Example", "192.0.2.7", "*.plant.example", "gw"].map(str::to_owned);
        let addresses = [ip("127.0.0.1"), ip("192.0.2.7"), ip("2001:db8::7")];
        let names = server_names(Some("gw.site.example"), &addresses, &further).expect("names");
        assert_eq!(
            list(&names),
            "localhost, gw.site.example, gw, gw.local, gateway.example, *.plant.example, \
             127.0.0.1, ::1, 192.0.2.7, 2001:db8::7"
        );
        assert_eq!(list(&server_names(None, &[], &[]).expect("names")), "localhost, 127.0.0.1, ::1");
        for bad in
            ["", "a b", "-a", "a-", "a..b", "10.0.0", "10.0.0.256", "ü.example", "*", "*.", "a.*", &"x".repeat(64)]
        {
            let result = server_names(None, &[], &[bad.to_owned()]);
            assert!(matches!(result, Err(CertsError::Host(_))), "{bad}");
        }
    }

    #[test]
    fn a_long_host_name_is_no_common_name() {
        assert_eq!(common_name(Some("gw")), "gw");
        assert_eq!(common_name(Some(&"x".repeat(65))), "millstream");
        assert_eq!(common_name(None), "millstream");
    }
}

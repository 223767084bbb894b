//! `host:port` or `off`, and `unix:` with a path.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

/// Bytes of a Unix socket's path: an address has room for 107 and its end, and a name beside it is used for a moment.
const SOCKET_PATH_BYTES_MAX: usize = 96;

/// Where a listener listens. Names are resolved when it binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Not at all.
    Off,
    /// On every address `host` resolves to.
    At {
        /// A name or IP address; IPv6 without brackets.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No colon, as in `1883` or `localhost`.
    #[error("must be host:port (as 127.0.0.1:1883) or off")]
    NotHostPort,
    /// As in `:1883`.
    #[error("has no host: write 127.0.0.1 for this machine only, 0.0.0.0 or [::] for every interface")]
    NoHost,
    /// As in `localhost:http`.
    #[error("port must be a number from 0 to 65535")]
    BadPort,
    /// As in `::1:1883`.
    #[error("an IPv6 address goes in brackets, as [::1]:1883")]
    BadIpv6,
    /// As in `300.0.0.1:1883` or `my host:1883`.
    #[error("host must be a name or an IP address")]
    BadHost,
}

impl Address {
    /// Host and port, as `TcpListener::bind` takes them; `None` when off.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        match self {
            Self::Off => None,
            Self::At { host, port } => Some((host, *port)),
        }
    }

    /// Can only this machine reach it? A name other than `localhost` counts as "no": what it
    /// resolves to may change.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Off => true,
            Self::At { host, .. } => match host.parse::<IpAddr>() {
                Ok(ip) => ip.to_canonical().is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NotHostPort)?;
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let host = check_host(host)?;
        // `u16::from_str` would take "+1883".
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::BadPort);
        }
        let port = port.parse().map_err(|_| AddressError::BadPort)?;
        Ok(Self::At { host: host.to_owned(), port })
    }
}

fn check_host(host: &str) -> Result<&str, AddressError> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AddressError::BadIpv6)?;
        // A zone, as in fe80::1%eth0, is the resolver's business.
        let ip = inner.split_once('%').map_or(inner, |(ip, _zone)| ip);
        return match ip.parse::<Ipv6Addr>() {
            Ok(_) => Ok(inner),
            Err(_) => Err(AddressError::BadIpv6),
        };
    }
    if host.contains(':') {
        return Err(AddressError::BadIpv6);
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if !named || (numeric && host.parse::<Ipv4Addr>().is_err()) {
        return Err(AddressError::BadHost);
    }
    Ok(host)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Where one of the further listeners listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// On TCP.
    Net(Address),
    /// On a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// As [`Address::is_loopback`].
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Net(address) => address.is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Is it one that nothing else can have? A port that the system chooses is not.
    pub fn is_fixed(&self) -> bool {
        match self {
            Self::Net(address) => address.host_port().is_some_and(|(_, port)| port != 0),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            None if text == "off" => Err("must be host:port or unix:/path; to switch it off take it out".to_owned()),
            None => text.parse().map(Self::Net).map_err(|error: AddressError| error.to_string()),
            Some(path) if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
                Err("a Unix socket has a path from the root, as unix:/run/millstream/mqtt.sock".to_owned())
            }
            Some(path) if path.len() > SOCKET_PATH_BYTES_MAX => {
                Err(format!("the path of a Unix socket has {SOCKET_PATH_BYTES_MAX} bytes at most"))
            }
            Some(path) => Ok(Self::Unix(path.into())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones_come_back_as_written() {
        for text in ["off", "127.0.0.1:1883", "[::1]:0", "[fe80::1%eth0]:1883", "a-b.c_d:65535"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn bad_ones_are_told_apart() {
        use AddressError::{BadHost, BadIpv6, BadPort, NoHost, NotHostPort};
        for (text, error) in [
            ("", NotHostPort),
            ("1883", NotHostPort),
            ("Off", NotHostPort),
            (":1883", NoHost),
            ("localhost:", BadPort),
            ("localhost:+1", BadPort),
            ("localhost:65536", BadPort),
            ("::1:1883", BadIpv6),
            ("[::1:1883", BadIpv6),
            ("[127.0.0.1]:1883", BadIpv6),
            ("300.0.0.1:1883", BadHost),
            ("my host:1883", BadHost),
            ("tcp//h:1883", BadHost),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_listener_has_a_port_or_a_path() {
        for text in ["127.0.0.1:1883", "[::1]:0", "unix:/run/m.sock", "unix:/a b"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        for text in ["off", "1883", "unix:", "unix:m.sock", "unix:/run/", "unix:/\0", "Unix:/m", &long] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let unix: Endpoint = "unix:/run/m.sock".parse().expect("a path");
        assert!(unix.is_loopback() && unix.is_fixed());
        assert!(!"[::1]:0".parse::<Endpoint>().expect("an address").is_fixed());
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        for text in ["off", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
            assert!(text.parse::<Address>().expect(text).is_loopback(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1"] {
            assert!(!text.parse::<Address>().expect(text).is_loopback(), "{text}");
        }
    }
}

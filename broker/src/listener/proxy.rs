//! The header by which a proxy says for whom it connects: the PROXY protocol, versions 1 and 2. Pure.
//!
//! What a proxy knows of its client's certificate (PP2_TYPE_SSL) is not used: who a client is, it proves here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::limits;

/// How version 2 begins; nothing else does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// Bytes of the longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Bytes of the shortest: `PROXY UNKNOWN` and its end.
const LINE_BYTES_MIN: usize = 15;
/// Bytes of version 2 before its addresses.
const FIXED_BYTES: usize = 16;
/// Bytes before a TLV's value.
const TLV_BYTES: usize = 3;
/// The TLV that holds the header's own CRC-32C.
const CRC32C: u8 = 0x03;

/// Whom a proxy connects for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nobody: the connection is the proxy's own, usually to see whether we are there.
    Local,
    /// A client of whom it says nothing that we use: UNKNOWN, or it came by a Unix socket or datagrams.
    Unknown,
    /// A client at this address.
    From(SocketAddr),
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else begins so.
    #[error("no PROXY header, and proxy_protocol is on here: have the proxy send one (HAProxy: send-proxy-v2)")]
    Absent,
    /// A line that is none of version 1.
    #[error("a PROXY header of version 1 that is malformed: {0}")]
    Line(&'static str),
    /// A header that is none of version 2.
    #[error("a PROXY header of version 2 that is malformed: {0}")]
    Binary(&'static str),
    /// More than anyone needs.
    #[error("a PROXY header of {0} bytes; at most {max} are taken", max = limits::PROXY_HEADER_BYTES_MAX)]
    TooLong(usize),
    /// What came is not what was sent.
    #[error("the checksum (CRC-32C) of its PROXY header is wrong")]
    Checksum,
}

/// The header at the front of `input` and its length; `None` while it is not whole.
pub fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    if begins(input, SIGNATURE) {
        return parse_binary(input);
    }
    if !begins(input, WORD) {
        return Err(ProxyError::Absent);
    }
    let line = &input[..input.len().min(LINE_BYTES_MAX)];
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => match line[..end].strip_suffix(b"\r") {
            Some(line) => parse_line(line).map(|header| Some((header, end + 1))),
            None => Err(ProxyError::Line("it does not end with CR and LF")),
        },
        None if input.len() >= LINE_BYTES_MAX => Err(ProxyError::Line("it does not end within 107 bytes")),
        None => Ok(None),
    }
}

/// Bytes that must follow before an unfinished header can be whole: who reads no more than these takes nothing that
/// is the client's.
pub fn missing(input: &[u8]) -> usize {
    let whole = if input.len() < LINE_BYTES_MIN {
        LINE_BYTES_MIN
    } else if begins(input, SIGNATURE) {
        binary_bytes(input).unwrap_or(FIXED_BYTES)
    } else {
        input.len() + if input.ends_with(b"\r") { 1 } else { 2 }
    };
    whole.saturating_sub(input.len()).max(1)
}

/// Whether `input`, as far as it goes, is the beginning of `of`, or begins with it.
fn begins(input: &[u8], of: &[u8]) -> bool {
    input.iter().zip(of).all(|(byte, expected)| byte == expected)
}

fn parse_line(line: &[u8]) -> Result<Header, ProxyError> {
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Line("it is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Header::Unknown);
    }
    let mut rest = || words.next().unwrap_or_default();
    let (source, destination, port, destination_port) = (rest(), rest(), rest(), rest());
    if words.next().is_some() {
        return Err(ProxyError::Line("it has more than two addresses and ports"));
    }
    let addresses: (Option<IpAddr>, Option<IpAddr>) = match family {
        "TCP4" => (address::<Ipv4Addr>(source), address::<Ipv4Addr>(destination)),
        "TCP6" => (address::<Ipv6Addr>(source), address::<Ipv6Addr>(destination)),
        _ => return Err(ProxyError::Line("its protocol is none of TCP4, TCP6 and UNKNOWN")),
    };
    match (addresses, line_port(port), line_port(destination_port)) {
        ((Some(ip), Some(_)), Some(port), Some(_)) => Ok(Header::From((ip, port).into())),
        ((Some(_), Some(_)), ..) => Err(ProxyError::Line("its ports are none")),
        _ => Err(ProxyError::Line("its addresses are none of its protocol")),
    }
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<A>().ok().map(Into::into)
}

/// `u16::from_str` would take "+1" and "01".
fn line_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Of a header of version 2 with its addresses and TLVs.
fn binary_bytes(input: &[u8]) -> Option<usize> {
    let length = input.get(FIXED_BYTES - 2..FIXED_BYTES)?;
    Some(FIXED_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]])))
}

fn parse_binary(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let command = match input.get(12) {
        None => return Ok(None),
        Some(0x20) => Header::Local,
        Some(0x21) => Header::Unknown,
        Some(_) => return Err(ProxyError::Binary("its version is not 2, or its command neither LOCAL nor PROXY")),
    };
    let (family, transport) = match input.get(13) {
        None => return Ok(None),
        Some(byte) if byte >> 4 <= 3 && byte & 0x0F <= 2 => (byte >> 4, byte & 0x0F),
        Some(_) => return Err(ProxyError::Binary("its address family or protocol is unknown")),
    };
    let Some(length) = binary_bytes(input) else { return Ok(None) };
    if length > limits::PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong(length));
    }
    let Some(header) = input.get(..length) else { return Ok(None) };
    // What stands behind these is to be passed over, whatever it is.
    if command == Header::Local || family == 0 {
        return Ok(Some((command, length)));
    }
    let address_bytes = [0, 12, 36, 216][usize::from(family)];
    let body = &header[FIXED_BYTES..];
    let Some((addresses, tlvs)) = body.split_at_checked(address_bytes) else {
        return Err(ProxyError::Binary("it is too short for its addresses"));
    };
    check_tlvs(header, tlvs)?;
    let source = match (family, transport) {
        (1, 1) => take::<4>(addresses, 0).zip(take::<2>(addresses, 8)).map(|(ip, port)| (IpAddr::from(ip), port)),
        (2, 1) => take::<16>(addresses, 0).zip(take::<2>(addresses, 32)).map(|(ip, port)| (IpAddr::from(ip), port)),
        _ => None,
    };
    let from = |(ip, port)| Header::From((ip, u16::from_be_bytes(port)).into());
    Ok(Some((source.map_or(Header::Unknown, from), length)))
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// That each ends within the header, and that the checksum is right where there is one.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), ProxyError> {
    while !tlvs.is_empty() {
        let Some((&[kind, high, low], rest)) = tlvs.split_first_chunk::<TLV_BYTES>() else {
            return Err(ProxyError::Binary("a TLV of it is cut"));
        };
        let Some((value, rest)) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()) else {
            return Err(ProxyError::Binary("a TLV of it is longer than what is left"));
        };
        if kind == CRC32C {
            let told = value.try_into().map(u32::from_be_bytes);
            let told = told.map_err(|_| ProxyError::Binary("its checksum is not of 4 bytes"))?;
            // It was made with zeros in its own place.
            let at = header.len() - rest.len();
            let crc = crc32c::crc32c(&header[..at - 4]);
            let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &[0; 4]), &header[at..]);
            if crc != told {
                return Err(ProxyError::Checksum);
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// Addresses and networks, as a proxy's may be: `127.0.0.1, 10.0.0.0/8, fd00::/8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

/// Why a text is no list of networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no network: write them as 10.1.2.3, 10.0.0.0/8, fd00::/8, with commas between")]
pub struct NetworksError(String);

impl Networks {
    /// Whether an address is in one of them. IPv4 counts as such where it comes in IPv6's clothes.
    pub fn contain(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0
            .iter()
            .any(|(network, bits)| network.is_ipv4() == ip.is_ipv4() && prefix(*network, *bits) == prefix(ip, *bits))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first bits of an address.
fn prefix(ip: IpAddr, bits: u8) -> u128 {
    let (value, of) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    value.checked_shr(of - u32::from(bits)).unwrap_or(0)
}

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let words = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
        words
            .map(|word| network(word).ok_or_else(|| NetworksError(word.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn network(word: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = match word.split_once('/') {
        Some((ip, bits)) => (ip, Some(line_port(bits)?)),
        None => (word, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(max);
    // Inside IPv6 an IPv4 address has 96 bits before it.
    let inside = max - if ip.to_canonical().is_ipv4() { 32 } else { max };
    let bits = bits.checked_sub(inside).filter(|_| bits <= max)?;
    Some((ip.to_canonical(), u8::try_from(bits).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: &str = "192.168.0.1:56324";

    fn from(address: &str) -> Header {
        Header::From(address.parse().expect("an address"))
    }

    /// Version 2, with this command, family and protocol, and what is behind its length.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        [octets(source.ip()), octets(destination.ip()), ports].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
    }

    fn encode(source: SocketAddr, destination: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
        let family = if source.is_ipv4() { 0x11 } else { 0x21 };
        binary(0x21, family, &[addresses(source, destination), tlvs.to_vec()].concat())
    }

    fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
        header.extend(tlv(CRC32C, &[0; 4]));
        let length = (header.len() - FIXED_BYTES) as u16;
        header[14..16].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&crc);
        header
    }

    #[test]
    fn lines_of_the_specification_are_understood() {
        for (line, header) in [
            ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", from(V4)),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", from("255.255.255.255:65535")),
            ("PROXY TCP6 2001:db8::1 ::1 1 0\r\n", from("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", Header::Unknown),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 \
                 65535\r\n",
                Header::Unknown,
            ),
        ] {
            assert_eq!(parse(format!("{line}rest").as_bytes()), Ok(Some((header, line.len()))), "{line}");
        }
    }

    #[test]
    fn lines_that_are_wrong_are_refused() {
        for line in [
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 056 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 +56 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
            "PROXY TCP4 192.168.0.256 192.168.0.11 1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 443\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 443\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 443\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 443\r\n",
            "PROXY \r\n",
            "PROXY \u{e9}\r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Err(ProxyError::Line(_))), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(endless.as_bytes()), Err(ProxyError::Line("it does not end within 107 bytes")));
        for other in ["\x10\x0c", "PROXYX", "GET / HTTP/1.1", "\x16\x03", "\r\n\r\n\0\r\nQUIX", "proxy "] {
            assert_eq!(parse(other.as_bytes()), Err(ProxyError::Absent), "{other:?}");
        }
    }

    #[test]
    fn version_2_knows_commands_families_and_protocols() {
        let source = addresses(V4.parse().expect("one"), "192.168.0.11:443".parse().expect("one"));
        let v6 = addresses("[2001:db8::1]:7".parse().expect("one"), "[::1]:8".parse().expect("one"));
        for (command, family, body, header) in [
            (0x21, 0x11, &source[..], from(V4)),
            (0x21, 0x21, &v6, from("[2001:db8::1]:7")),
            // Datagrams, no protocol, Unix sockets, nothing.
            (0x21, 0x12, &source, Header::Unknown),
            (0x21, 0x10, &source, Header::Unknown),
            (0x21, 0x31, &[b'/'; 216], Header::Unknown),
            (0x21, 0x00, b"", Header::Unknown),
            (0x21, 0x00, b"\x01", Header::Unknown),
            (0x20, 0x00, b"", Header::Local),
            (0x20, 0x11, &source, Header::Local),
            (0x20, 0x11, b"short", Header::Local),
        ] {
            let bytes = binary(command, family, body);
            assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))), "{command:x} {family:x}");
        }
        for (command, family, body) in [
            (0x11, 0x11, &source[..]),
            (0x22, 0x11, &source),
            (0x21, 0x41, &source),
            (0x21, 0x13, &source),
            (0x21, 0x11, &source[..11]),
            (0x21, 0x21, &source),
            (0x21, 0x31, &source),
        ] {
            let refused = parse(&binary(command, family, body));
            assert!(matches!(refused, Err(ProxyError::Binary(_))), "{command:x} {family:x}: {refused:?}");
        }
        let endless = [&SIGNATURE[..], b"\x21\x11\xff\xff"].concat();
        assert_eq!(parse(&endless), Err(ProxyError::TooLong(65_551)));
    }

    #[test]
    fn tlvs_are_passed_over_and_the_checksum_is_checked() {
        let (source, destination) = (V4.parse().expect("one"), "10.0.0.1:1".parse().expect("one"));
        // What a proxy says of a certificate is its affair.
        let ssl = tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x22, b"alice")].concat());
        let header = encode(source, destination, &[tlv(0x01, b"mqtt"), ssl, tlv(0x04, &[0; 9])].concat());
        assert_eq!(parse(&header), Ok(Some((from(V4), header.len()))));
        let checked = with_checksum(header);
        assert_eq!(parse(&checked), Ok(Some((from(V4), checked.len()))));
        for at in [17, 27, 31, checked.len() - 1] {
            let mut wrong = checked.clone();
            wrong[at] ^= 1;
            assert_eq!(parse(&wrong), Err(ProxyError::Checksum), "{at}");
        }
        for cut in [&b"\x01"[..], b"\x01\0", b"\x01\0\x01", b"\x03\0\x03abc"] {
            let refused = parse(&encode(source, destination, cut));
            assert!(matches!(refused, Err(ProxyError::Binary(_))), "{cut:?}: {refused:?}");
        }
    }

    #[test]
    fn networks_contain_their_addresses_and_no_others() {
        let networks: Networks = "127.0.0.1, 10.0.0.0/8 ,::1,fd00::/8,::ffff:192.0.2.0/120".parse().expect("a list");
        for ip in ["127.0.0.1", "10.255.0.1", "::1", "fdff::1", "::ffff:10.1.1.1", "192.0.2.9"] {
            assert!(networks.contain(ip.parse().expect("an address")), "{ip}");
        }
        for ip in ["127.0.0.2", "11.0.0.0", "::2", "fe00::", "::ffff:11.1.1.1", "192.0.3.1", "::a00:1"] {
            assert!(!networks.contain(ip.parse().expect("an address")), "{ip}");
        }
        assert!("0.0.0.0/0".parse::<Networks>().expect("all of IPv4").contain(Ipv4Addr::LOCALHOST.into()));
        assert!("".parse::<Networks>().expect("none").is_empty());
        for text in ["10.0.0.0/33", "10.0.0.0/+8", "10.0.0/8", "localhost", "::/129", "::ffff:1.2.3.4/8", "10.0.0.1,"] {
            assert!(text.parse::<Networks>().is_err(), "{text}");
        }
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
            .prop_flat_map(|ip| any::<u16>().prop_map(move |port| (ip, port).into()))
    }

    /// Whole headers of both versions and what they say.
    fn any_header() -> impl Strategy<Value = (Vec<u8>, Header)> {
        let tlvs = proptest::collection::vec((4..=255_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..5);
        (any_address(), any_address(), tlvs, 0..3).prop_map(|(source, mut destination, tlvs, form)| {
            if source.is_ipv4() != destination.is_ipv4() {
                destination = source;
            }
            let tlvs: Vec<u8> = tlvs.iter().flat_map(|(kind, value)| tlv(*kind, value)).collect();
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let bytes = match form {
                0 => encode(source, destination, &tlvs),
                1 => with_checksum(encode(source, destination, &tlvs)),
                _ => {
                    let (port, other) = (source.port(), destination.port());
                    format!("PROXY {family} {} {} {port} {other}\r\n", source.ip(), destination.ip()).into()
                }
            };
            (bytes, Header::From(source))
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..3_usize) {
            let start = [&b""[..], WORD, &SIGNATURE[..]][start];
            let input = [start, &bytes].concat();
            if let Ok(Some((_, length))) = parse(&input) {
                prop_assert!(length <= input.len());
            }
            prop_assert!(missing(&input) > 0);
        }

        #[test]
        fn a_header_is_read_to_its_last_byte_and_no_further((header, said) in any_header(), rest in any::<[u8; 3]>()) {
            let sent = [&header[..], &rest].concat();
            prop_assert_eq!(parse(&sent), Ok(Some((said, header.len()))));
            let mut read = 0;
            while read < header.len() {
                prop_assert_eq!(parse(&sent[..read]), Ok(None));
                read += missing(&sent[..read]);
            }
            prop_assert_eq!(read, header.len());
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Ok(None), "{}", end);
            }
        }
    }
}

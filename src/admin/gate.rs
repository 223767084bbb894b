//! Who may ask the admin listener for more than its health: whoever has the token; without one, whoever is on this
//! machine and is no web page.

use std::fs;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use parking_lot::RwLock;

/// Characters of a token: fewer can be guessed.
const TOKEN_CHARS_MIN: usize = 16;
/// More would be a mistake, and may not fit into a request.
const TOKEN_CHARS_MAX: usize = 1_024;

/// What `admin.token_file` holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Reads the file; `None` when there is none to be read.
    pub fn read(file: Option<&Path>) -> Result<Option<Token>, String> {
        let Some(file) = file else { return Ok(None) };
        let told = |what: &str| format!("admin.token_file = {:?}: {what}", file.display().to_string());
        let text = fs::read_to_string(file).map_err(|error| told(&error.to_string()))?;
        let token = text.trim_end_matches(['\r', '\n']);
        if !(TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let what = format!(
                "holds no token: one line of {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} letters, digits and signs, as \
                 openssl rand -hex 32 makes it"
            );
            return Err(told(&what));
        }
        Ok(Some(Token(token.into())))
    }

    /// Takes as long for a token that is nearly right as for any other of its length.
    fn is(&self, given: &str) -> bool {
        let (known, given) = (self.0.as_bytes(), given.as_bytes());
        let differs = known.iter().zip(given).fold(0, |differs, (a, b)| black_box(differs | (a ^ b)));
        known.len() == given.len() && differs == 0
    }
}

/// Decides. Shared with a reload, which may bring another token.
#[derive(Clone)]
pub struct Gate {
    /// As in force.
    pub token: Arc<RwLock<Option<Token>>>,
    /// Only this machine reaches the listener.
    pub loopback: bool,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is missing or wrong.
    NoToken,
    /// There is no token, and others reach the listener.
    NotConfigured,
    /// By a name that any web page's server may have taken.
    StrangeHost,
    /// A web page sent it.
    FromBrowser,
}

impl Refusal {
    /// What the client is told.
    pub fn words(self) -> &'static str {
        match self {
            Refusal::NoToken => "the token of admin.token_file is wanted: Authorization: Bearer TOKEN",
            Refusal::NotConfigured => {
                "others reach this listener: set admin.token_file, or admin.http to a loopback address"
            }
            Refusal::StrangeHost => "without admin.token_file the host must be localhost, 127.0.0.1 or [::1]",
            Refusal::FromBrowser => "web pages may not change anything: the request has an Origin",
        }
    }
}

impl Gate {
    /// Whether a request may be answered.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) && headers.contains_key(ORIGIN) {
            return Err(Refusal::FromBrowser);
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match &*self.token.read() {
            Some(token) => {
                let (scheme, given) = text(AUTHORIZATION).and_then(|value| value.split_once(' ')).unwrap_or_default();
                match scheme.eq_ignore_ascii_case("Bearer") && token.is(given.trim()) {
                    true => Ok(()),
                    false => Err(Refusal::NoToken),
                }
            }
            None if !self.loopback => Err(Refusal::NotConfigured),
            // A page whose name was made to lead here would be let in by the browser (DNS rebinding).
            None => match text(HOST).is_some_and(is_this_machine) {
                true => Ok(()),
                false => Err(Refusal::StrangeHost),
            },
        }
    }
}

/// Whether a Host header names this machine by a name that cannot be anybody else's.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(ip) => ip.split_once(']').map_or("", |(ip, _)| ip),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "0123456789abcdef";

    fn gate(token: Option<&str>, loopback: bool) -> Gate {
        Gate { token: Arc::new(RwLock::new(token.map(|token| Token(token.into())))), loopback }
    }

    fn check(gate: &Gate, method: Method, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (axum::http::HeaderName::from_static(name), value.parse().expect("a header's value")));
        gate.check(&method, &pairs.collect())
    }

    #[test]
    fn without_a_token_only_this_machine_is_let_in_by_its_own_name() {
        let here = gate(None, true);
        for host in ["localhost", "LocalHost:9180", "127.0.0.1", "127.0.0.1:9180", "127.8.0.1", "[::1]:9180", "[::1]"] {
            assert_eq!(check(&here, Method::DELETE, &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:9180", "localhost.evil.example", "10.0.0.1", "::1", "[::1", "", "[]"]
        {
            assert_eq!(check(&here, Method::GET, &[("host", host)]), Err(Refusal::StrangeHost), "{host}");
        }
        assert_eq!(check(&here, Method::GET, &[]), Err(Refusal::StrangeHost));
        assert_eq!(check(&gate(None, false), Method::GET, &[("host", "localhost")]), Err(Refusal::NotConfigured));
    }

    #[test]
    fn a_token_is_wanted_wherever_one_is_set() {
        for gate in [gate(Some(RIGHT), true), gate(Some(RIGHT), false)] {
            let asks =
                |value: &str| check(&gate, Method::DELETE, &[("host", "evil.example"), ("authorization", value)]);
            assert_eq!(asks(&format!("Bearer {RIGHT}")), Ok(()));
            assert_eq!(asks(&format!("bearer {RIGHT}")), Ok(()));
            let wrong =
                ["", "Bearer", "Bearer ", RIGHT, "Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Basic x"];
            for wrong in
                wrong.map(str::to_owned).into_iter().chain([format!("Bearer {RIGHT}0"), format!("Basic {RIGHT}")])
            {
                assert_eq!(asks(&wrong), Err(Refusal::NoToken), "{wrong}");
            }
            assert_eq!(check(&gate, Method::GET, &[("host", "localhost")]), Err(Refusal::NoToken));
        }
    }

    #[test]
    fn web_pages_change_nothing() {
        let origin = [("host", "localhost"), ("origin", "null"), ("authorization", "Bearer 0123456789abcdef")];
        for gate in [gate(None, true), gate(Some(RIGHT), true)] {
            assert_eq!(check(&gate, Method::DELETE, &origin), Err(Refusal::FromBrowser));
            assert_eq!(check(&gate, Method::POST, &origin), Err(Refusal::FromBrowser));
            assert_eq!(check(&gate, Method::GET, &origin), Ok(()));
        }
    }

    #[test]
    fn a_token_file_holds_one_line_that_cannot_be_guessed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("token");
        let read = |text: &str| {
            fs::write(&file, text).expect("a writable folder");
            Token::read(Some(&file)).map_err(|error| assert!(error.contains("admin.token_file"), "{error}"))
        };
        for good in [RIGHT, "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert!(read(good).is_ok_and(|token| token.is_some_and(|token| token.is(RIGHT))), "{good:?}");
        }
        for bad in
            ["", "\n", "short", "0123456789 abcdef", "0123456789abcdef\nmore", "0123456789abcdé!", &"x".repeat(1_025)]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(Token::read(Some(Path::new("/nonexistent"))).is_err());
        assert!(Token::read(None).is_ok_and(|token| token.is_none()));
    }
}

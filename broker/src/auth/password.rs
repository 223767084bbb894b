//! Password hashes: argon2id for new ones, and what Mosquitto's `mosquitto_passwd` wrote.

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ring::{digest, pbkdf2};

use super::random_bytes;

/// KiB of memory that a new argon2id hash takes, in [`NEW_PASSES`] passes: OWASP's smallest advice, as gateways are
/// small.
const NEW_MEMORY_KIB: u32 = 19_456;
/// See [`NEW_MEMORY_KIB`].
const NEW_PASSES: u32 = 2;
const NEW_SALT_BYTES: usize = 16;
const NEW_HASH_BYTES: usize = 32;

/// KiB of memory that a line may ask for.
pub const MEMORY_KIB_MAX: u32 = 128 << 10;
/// KiB of memory times passes that a line may ask for: about one second of a small core.
pub const WORK_KIB_MAX: u32 = 512 << 10;
/// Lanes that a line may ask for.
pub const LANES_MAX: u32 = 16;
/// PBKDF2 iterations that a line may ask for: about one second of a small core.
pub const ITERATIONS_MAX: u32 = 500_000;
/// Bytes of a hash: below, guessing it is too easy.
const HASH_BYTES_MIN: usize = 16;
const HASH_BYTES_MAX: usize = 64;
const SALT_BYTES_MAX: usize = 64;

/// PHC strings come without padding, Mosquitto's with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash a password: {0}")]
pub struct HashError(argon2::Error);

/// Why a line's hash is refused; does not quote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// No `$` at its start.
    #[error("has a password in plain text; set it anew by millstream passwd")]
    PlainText,
    /// Another scheme.
    #[error("has a hash of a kind that is not known ($argon2id$, $7$ and $6$ are); set it anew by millstream passwd")]
    Scheme,
    /// One of these, but cut or garbled.
    #[error("has a damaged hash; set it anew by millstream passwd")]
    Damaged,
    /// More than the bounds above.
    #[error(
        "has a hash that asks for too much work or too little (argon2id: at most m={MEMORY_KIB_MAX}, m*t={WORK_KIB_MAX}, \
         p={LANES_MAX}; $7$: at most {ITERATIONS_MAX} iterations); set it anew by millstream passwd"
    )]
    Work,
}

/// Makes an argon2id hash as a PHC string, with a salt of its own.
pub fn hash(password: &[u8]) -> Result<String, HashError> {
    let salt: [u8; NEW_SALT_BYTES] = random_bytes();
    let mut hash = [0; NEW_HASH_BYTES];
    let params = Params::new(NEW_MEMORY_KIB, NEW_PASSES, 1, Some(NEW_HASH_BYTES)).map_err(HashError)?;
    argon2id(&params).hash_password_into(password, &salt, &mut hash).map_err(HashError)?;
    let (salt, hash) = (BASE64.encode(salt), BASE64.encode(hash));
    Ok(format!("$argon2id$v=19$m={NEW_MEMORY_KIB},t={NEW_PASSES},p=1${salt}${hash}"))
}

fn argon2id(params: &Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
}

/// A hash out of the password file. Has no `Debug`: it is to appear in no log.
pub struct Stored {
    scheme: Scheme,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

enum Scheme {
    Argon2id(Params),
    Pbkdf2(NonZeroU32),
    /// One round of SHA-512 over password and salt.
    Sha512,
}

impl Stored {
    /// Reads `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, `$7$iterations$salt$hash` or `$6$salt$hash`.
    pub fn parse(text: &str) -> Result<Stored, StoredError> {
        let fields: Vec<&str> = text.strip_prefix('$').ok_or(StoredError::PlainText)?.splitn(7, '$').collect();
        let (scheme, salt, hash) = match fields[..] {
            ["argon2id", "v=19", params, salt, hash] => {
                let hash = decode(hash, HASH_BYTES_MIN)?;
                (Scheme::Argon2id(parse_params(params, hash.len())?), decode(salt, argon2::MIN_SALT_LEN)?, hash)
            }
            ["7", iterations, salt, hash] => {
                let iterations: NonZeroU32 = iterations.parse().map_err(|_| StoredError::Damaged)?;
                if iterations.get() > ITERATIONS_MAX {
                    return Err(StoredError::Work);
                }
                (Scheme::Pbkdf2(iterations), decode(salt, 1)?, decode(hash, HASH_BYTES_MIN)?)
            }
            ["6", salt, hash] => (Scheme::Sha512, decode(salt, 1)?, decode(hash, digest::SHA512_OUTPUT_LEN)?),
            ["argon2id" | "6" | "7", ..] => return Err(StoredError::Damaged),
            _ => return Err(StoredError::Scheme),
        };
        Ok(Stored { scheme, salt, hash })
    }

    /// What no password fits, for as much work as a new hash.
    pub fn decoy() -> Stored {
        let params = Params::new(NEW_MEMORY_KIB, NEW_PASSES, 1, Some(NEW_HASH_BYTES));
        let scheme = Scheme::Argon2id(params.expect("as `hash` uses them, which a test calls"));
        let random: [u8; NEW_HASH_BYTES] = random_bytes();
        Stored { scheme, salt: vec![0; NEW_SALT_BYTES], hash: random.to_vec() }
    }

    /// Whether it is this password's. Takes tens of milliseconds, and memory: the error is that there is none.
    pub fn verify(&self, password: &[u8]) -> Result<bool, HashError> {
        match &self.scheme {
            Scheme::Argon2id(params) => {
                let mut hash = vec![0; self.hash.len()];
                argon2id(params).hash_password_into(password, &self.salt, &mut hash).map_err(HashError)?;
                Ok(same(&hash, &self.hash))
            }
            Scheme::Pbkdf2(iterations) => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                Ok(pbkdf2::verify(algorithm, *iterations, &self.salt, password, &self.hash).is_ok())
            }
            Scheme::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                Ok(same(context.finish().as_ref(), &self.hash))
            }
        }
    }
}

fn decode(text: &str, bytes_min: usize) -> Result<Vec<u8>, StoredError> {
    let bytes = BASE64.decode(text).map_err(|_| StoredError::Damaged)?;
    let bytes_max = SALT_BYTES_MAX.max(HASH_BYTES_MAX);
    if (bytes_min..=bytes_max).contains(&bytes.len()) { Ok(bytes) } else { Err(StoredError::Damaged) }
}

fn parse_params(text: &str, hash_bytes: usize) -> Result<Params, StoredError> {
    let (mut memory_kib, mut passes, mut lanes) = (None, None, None);
    for param in text.split(',') {
        let (name, value) = param.split_once('=').ok_or(StoredError::Damaged)?;
        let place = match name {
            "m" => &mut memory_kib,
            "t" => &mut passes,
            "p" => &mut lanes,
            _ => return Err(StoredError::Damaged),
        };
        let value: u32 = value.parse().map_err(|_| StoredError::Damaged)?;
        if place.replace(value).is_some() {
            return Err(StoredError::Damaged);
        }
    }
    let (Some(memory_kib), Some(passes), Some(lanes)) = (memory_kib, passes, lanes) else {
        return Err(StoredError::Damaged);
    };
    let work_kib = memory_kib.checked_mul(passes);
    if memory_kib > MEMORY_KIB_MAX || lanes > LANES_MAX || work_kib.is_none_or(|work| work > WORK_KIB_MAX) {
        return Err(StoredError::Work);
    }
    Params::new(memory_kib, passes, lanes, Some(hash_bytes)).map_err(|_| StoredError::Work)
}

/// In the same time wherever they differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made by mosquitto_passwd 2.0.11.
    const PBKDF2: &str = "$7$101$LR8VLSCyHrIZN23S$Lhn43AZkdB6muK3GUFBgGIiw+hmwD/KRNgGb74iD8Hji8Ndaz0hxwX6CCsyYhNr2fjOza4F3Ox2Sqnw/5Thljw==";
    const PBKDF2_UTF8: &str = "$7$101$kr/NNLXRvFhjtWKj$vmvxPZHO1SLwDH6HManCzxe+kQK08+O/eRI58y8Yk1VnVqHtXr3DnTy7hGjP9kFhLV6QqLnfNncJJDMexKqzcQ==";
    const SHA512: &str =
        "$6$EGhR3NUDdrDxxy4c$CVm10osYSMTpHb4lvCG1znCJdRVLrnX0SMuNYhtq3YiY+i3Q0GE1792+n7CDbUjDHZ7noZEpB+/Rq4vSIvYQvQ==";
    // Made by the argon2 command of Debian.
    const ARGON2_CLI: &str =
        "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$S2BNiLp0pxEA8XhDY6uA1HxbwJLcx3lwi+5l/94Kvsk";
    const ARGON2_LANES: &str = "$argon2id$v=19$m=1024,t=3,p=4$YW5vdGhlciBzYWx0$FE4YWE3Y9kyT1JjJIyRKT19U5+DKrVyh";

    fn fits(stored: &str, password: &str) -> bool {
        Stored::parse(stored)
            .unwrap_or_else(|error| panic!("{stored}: {error}"))
            .verify(password.as_bytes())
            .expect("memory")
    }

    #[test]
    fn what_others_wrote_is_verified() {
        for (stored, password) in [
            (PBKDF2, "wonderland"),
            (PBKDF2_UTF8, "päss wörd"),
            (SHA512, "builder"),
            (ARGON2_CLI, "wonderland"),
            (ARGON2_LANES, "päss wörd"),
        ] {
            assert!(fits(stored, password), "{stored}");
            assert!(!fits(stored, "Wonderland"), "{stored}");
            assert!(!fits(stored, ""), "{stored}");
            assert!(!fits(stored, &format!("{password}x")), "{stored}");
        }
        // A shorter PBKDF2 key is the beginning of the longer one.
        let (head, hash) = PBKDF2.rsplit_once('$').expect("fields");
        let short = BASE64.encode(&BASE64.decode(hash).expect("base64")[..32]);
        assert!(fits(&format!("{head}${short}"), "wonderland"));
    }

    #[test]
    fn a_new_hash_is_argon2id_salted_and_verifies() {
        let (one, other) = (hash(b"secret").expect("memory"), hash(b"secret").expect("memory"));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, other);
        assert!(fits(&one, "secret") && fits(&other, "secret") && !fits(&one, "secrets"));
        assert!(!Stored::decoy().verify(b"secret").expect("memory"));
    }

    #[test]
    fn what_is_no_hash_is_told_by_kind() {
        let bytes = |n| BASE64.encode(vec![7; n]);
        let argon2 = |params: &str| format!("$argon2id$v=19${params}${}${}", bytes(16), bytes(32));
        let sha512 = |salt, hash| format!("$6${}${}", bytes(salt), bytes(hash));
        for (text, error) in [
            ("", StoredError::PlainText),
            ("secret", StoredError::PlainText),
            ("$", StoredError::Scheme),
            ("$2y$10$abcdefghijklmnopqrstuv", StoredError::Scheme),
            ("$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", StoredError::Scheme),
            ("$6$", StoredError::Damaged),
            ("$7$101$abc", StoredError::Damaged),
            ("$7$0$LR8VLSCyHrIZN23S$aGFzaGhhc2hoYXNoaGFzaA==", StoredError::Damaged),
            ("$7$-1$LR8VLSCyHrIZN23S$aGFzaGhhc2hoYXNoaGFzaA==", StoredError::Damaged),
            ("$7$500001$LR8VLSCyHrIZN23S$aGFzaGhhc2hoYXNoaGFzaA==", StoredError::Work),
            ("$7$101$LR8VLSCyHrIZN23S$c2hvcnQ=", StoredError::Damaged),
            ("$argon2id$v=16$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", StoredError::Damaged),
        ] {
            assert_eq!(Stored::parse(text).err(), Some(error), "{text}");
        }
        for (text, error) in [
            (sha512(12, 63), StoredError::Damaged),
            (sha512(0, 64), StoredError::Damaged),
            (sha512(65, 64), StoredError::Damaged),
            (format!("{}$x", sha512(12, 64)), StoredError::Damaged),
            (argon2("m=131073,t=1,p=1"), StoredError::Work),
            (argon2("m=65536,t=9,p=1"), StoredError::Work),
            (argon2("m=65536,t=4294967295,p=1"), StoredError::Work),
            (argon2("m=65536,t=1,p=17"), StoredError::Work),
            (argon2("m=7,t=1,p=1"), StoredError::Work),
            (argon2("m=8,t=1,p=2"), StoredError::Work),
            (argon2("m=4096,t=0,p=1"), StoredError::Work),
            (argon2("m=4096,t=1,p=0"), StoredError::Work),
            (argon2("m=4096,t=1"), StoredError::Damaged),
            (argon2("m=4096,m=4096,t=1,p=1"), StoredError::Damaged),
            (argon2("m=4096,t=1,p=1,x=1"), StoredError::Damaged),
            (argon2("m=99999999999,t=1,p=1"), StoredError::Damaged),
        ] {
            assert_eq!(Stored::parse(&text).err(), Some(error), "{text}");
        }
        assert!(Stored::parse(&argon2("t=3,p=4,m=65536")).is_ok());
    }

    #[test]
    fn sameness_looks_at_length_and_every_byte() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"xbc") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r"(\$(argon2id|[67]|v=19|m=8,t=1,p=1|[0-9]{0,12}|[A-Za-z0-9+/=]{0,30})){0,8}|.*") {
            let _ = Stored::parse(&text);
        }
    }
}

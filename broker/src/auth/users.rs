//! The password file: `name:hash` per line, as Mosquitto has it.

use std::{
    fs::Metadata,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use ahash::AHashMap;
use ring::hmac;

use super::{AccessError, Problems, keyed, lines, password::Stored, read};
use crate::limits::{USER_NAME_BYTES_MAX, USERS_MAX};

/// Why a name cannot be a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("a user name must not be empty")]
    Empty,
    /// More than an MQTT string holds.
    #[error("a user name must not be longer than {USER_NAME_BYTES_MAX} bytes")]
    Long,
    /// Ends the name in the file.
    #[error("a user name must not contain a colon")]
    Colon,
    /// A line feed and its kin.
    #[error("a user name must not contain control characters")]
    Control,
    /// The file would lose them.
    #[error("a user name must not begin or end with a blank")]
    Blank,
    /// Would be a comment.
    #[error("a user name must not begin with #")]
    Comment,
}

/// Whether a line of the password file can begin with this name.
pub fn check_name(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        _ if name.len() > USER_NAME_BYTES_MAX => Err(NameError::Long),
        _ if name.contains(':') => Err(NameError::Colon),
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ if name.trim_ascii() != name => Err(NameError::Blank),
        _ if name.starts_with('#') => Err(NameError::Comment),
        _ => Ok(()),
    }
}

/// One line.
pub(super) struct Entry {
    name: Arc<str>,
    stored: Stored,
    /// Of the line.
    fingerprint: u64,
    /// Of the password, once it was verified: so that a fleet that comes back costs one HMAC per client, and those
    /// who guess passwords cannot make it wait.
    verified: OnceLock<hmac::Tag>,
}

impl Entry {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether the password of this tag was verified before.
    pub(super) fn remembers(&self, tag: &hmac::Tag) -> bool {
        self.verified.get().is_some_and(|verified| super::password::same(verified.as_ref(), tag.as_ref()))
    }

    /// The password of this tag was verified. The first one stays: others that fit a line are rare.
    pub(super) fn remember(&self, tag: &hmac::Tag) {
        let _ = self.verified.set(*tag);
    }
}

/// All lines.
pub(super) struct Users {
    by_name: AHashMap<Arc<str>, Arc<Entry>>,
    in_order: Vec<Arc<Entry>>,
}

impl Users {
    /// Takes over what is remembered of lines that have not changed since `old`.
    pub(super) fn load(file: &Path, key: &hmac::Key, old: Option<&Users>) -> Result<Users, AccessError> {
        let text = read(file)?;
        if std::fs::metadata(file).is_ok_and(|file| others_can_read(&file)) {
            tracing::warn!(file = %file.display(), "anyone on this machine can read the password file: chmod o-r it");
        }
        Users::parse(file, &text, key, old)
    }

    pub(super) fn parse(file: &Path, text: &str, key: &hmac::Key, old: Option<&Users>) -> Result<Users, AccessError> {
        let mut problems = Problems::of(file);
        let mut users = Users { by_name: AHashMap::new(), in_order: Vec::new() };
        for (line, text) in lines(text) {
            if users.in_order.len() == USERS_MAX {
                problems.at(line, format!("is one user more than the {USERS_MAX} there may be"));
                break;
            }
            match parse_line(text, key, old) {
                Err(what) => problems.at(line, what),
                Ok(user) if users.by_name.contains_key(&user.name) => {
                    problems.at(line, format!("user {:?} has a line above already; delete one of them", user.name));
                }
                Ok(user) => {
                    users.by_name.insert(user.name.clone(), user.clone());
                    users.in_order.push(user);
                }
            }
        }
        problems.result(users)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(name)
    }

    /// Some user, always the same for a name: lines of several kinds take several times to verify, and a name that
    /// is not there must take one of them.
    pub(super) fn decoy(&self, key: &hmac::Key, name: &str) -> Option<&Arc<Entry>> {
        let number = number(&keyed(key, [b"decoy", name.as_bytes()]));
        let at = number.checked_rem(self.in_order.len() as u64)?;
        self.in_order.get(at as usize)
    }
}

fn parse_line(line: &str, key: &hmac::Key, old: Option<&Users>) -> Result<Arc<Entry>, String> {
    // Not quoted: without a colon it may be a password.
    let (name, hash) =
        line.split_once(':').ok_or("has no colon; a line is name:hash, as millstream passwd writes it")?;
    let (name, hash) = (name.trim_ascii(), hash.trim_ascii());
    check_name(name).map_err(|error| error.to_string())?;
    let fingerprint = number(&keyed(key, [b"line", name.as_bytes(), b":", hash.as_bytes()]));
    if let Some(same) = old.and_then(|old| old.get(name)).filter(|old| old.fingerprint == fingerprint) {
        return Ok(same.clone());
    }
    let stored = Stored::parse(hash).map_err(|error| format!("user {name:?} {error}"))?;
    Ok(Arc::new(Entry { name: name.into(), stored, fingerprint, verified: OnceLock::new() }))
}

fn number(tag: &hmac::Tag) -> u64 {
    let (first, _) = tag.as_ref().split_first_chunk().expect("a SHA-256 tag has 32 bytes");
    u64::from_be_bytes(*first)
}

fn others_can_read(file: &Metadata) -> bool {
    file.permissions().mode() & 0o004 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$6$EGhR3NUDdrDxxy4c$CVm10osYSMTpHb4lvCG1znCJdRVLrnX0SMuNYhtq3YiY+i3Q0GE1792+n7CDbUjDHZ7noZEpB+/Rq4vSIvYQvQ==";

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"test")
    }

    fn parse(text: &str) -> Result<Users, String> {
        Users::parse(Path::new("passwd"), text, &key(), None).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_comments_and_blanks_as_mosquitto_reads_them() {
        let text = format!("\u{feff}# users\r\n\r\n   \n alice : {HASH} \r\n#bob:{HASH}\nname with space:{HASH}");
        let users = parse(&text).expect("valid");
        assert_eq!(users.in_order.iter().map(|user| &*user.name).collect::<Vec<_>>(), ["alice", "name with space"]);
        assert!(users.get("alice").is_some() && users.get(" alice ").is_none() && users.get("bob").is_none());
        assert_ne!(users.in_order[0].fingerprint, users.in_order[1].fingerprint);
        assert!(parse("").expect("valid").decoy(&key(), "alice").is_none());
        assert!(users.decoy(&key(), "nobody").is_some());
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_without_the_secret() {
        let text =
            format!("alice:secret1\nsecret2\nbob:{HASH}\nbob:{HASH}\n:{HASH}\ncarl:$1$secret3\ndora:{HASH}:secret4\n");
        let Err(error) = parse(&text) else { panic!("mistakes") };
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 6, "{error}");
        for (line, begin) in lines.iter().zip([
            "passwd:1: user \"alice\" has a password in plain text;",
            "passwd:2: has no colon;",
            "passwd:4: user \"bob\" has a line above already;",
            "passwd:5: a user name must not be empty",
            "passwd:6: user \"carl\" has a hash of a kind that is not known",
            "passwd:7: user \"dora\" has a damaged hash",
        ]) {
            assert!(line.starts_with(begin), "{line}");
        }
        assert!(!error.contains("secret") && !error.contains("EGhR3"), "{error}");
    }

    #[test]
    fn mistakes_and_users_are_bounded() {
        let Err(error) = parse(&"x\n".repeat(500)) else { panic!("mistakes") };
        assert!(error.ends_with("\nand 480 more"), "{error}");
        let many: String = (0..=USERS_MAX).map(|i| format!("u{i}:{HASH}\n")).collect();
        let Err(error) = parse(&many) else { panic!("too many") };
        assert!(error.contains(&format!("passwd:{}: is one user more", USERS_MAX + 1)), "{error}");
    }

    #[test]
    fn an_unchanged_line_keeps_what_is_remembered_of_it() {
        let old = parse(&format!("a:{HASH}\nb:{HASH}")).expect("valid");
        let tag = hmac::sign(&key(), b"password");
        old.get("a").expect("there").remember(&tag);
        old.get("b").expect("there").remember(&tag);
        let changed = HASH.replace("EGhR", "EGhS");
        let text = format!("a:{HASH}\nb:{changed}");
        let Ok(new) = Users::parse(Path::new("passwd"), &text, &key(), Some(&old)) else { panic!("valid") };
        assert!(new.get("a").expect("there").remembers(&tag));
        assert!(!new.get("b").expect("there").remembers(&tag));
        assert!(!new.get("a").expect("there").remembers(&hmac::sign(&key(), b"other")));
    }

    #[test]
    fn names() {
        assert_eq!(check_name("a b/ü#+$%"), Ok(()));
        for (name, error) in [
            ("", NameError::Empty),
            ("a:b", NameError::Colon),
            ("a\nb", NameError::Control),
            ("a\0", NameError::Control),
            (" a", NameError::Blank),
            ("#a", NameError::Comment),
        ] {
            assert_eq!(check_name(name), Err(error));
        }
        assert_eq!(check_name(&"x".repeat(65_536)), Err(NameError::Long));
    }
}

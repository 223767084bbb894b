//! What `fuzz/` drives, and nothing else: built with `--cfg fuzzing` only.

use std::{path::Path, sync::LazyLock};

use ring::hmac;

use super::{
    acl::{Acl, Right},
    users::Users,
};
use crate::codec::topic::validate_topic_name;

/// Reads an access control list and asks it about each of these: a filter that is a topic is read by whoever may
/// read that topic.
pub fn acl_file<'a>(text: &str, users: &[&'a str], topics: impl Iterator<Item = &'a str> + Clone) {
    let Ok(acl) = Acl::parse(Path::new("acl"), text) else { return };
    for user in users.iter().copied().map(Some).chain([None]) {
        acl.any_log(user);
        for topic in topics.clone() {
            acl.log(Right::Read, user, topic);
            acl.topic(Right::Write, user, "id", topic);
            let reads = acl.topic(Right::Read, user, "id", topic);
            if validate_topic_name(topic).is_ok() && !topic.starts_with("$share/") {
                assert_eq!(acl.filter(user, "id", topic), reads, "{topic:?} of {user:?}");
            }
        }
    }
}

/// Reads a password file; what is wrong with it is told within a bound.
pub fn password_file(text: &str) {
    static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, b"fuzz"));
    match Users::parse(Path::new("passwd"), text, &KEY, None) {
        Ok(users) => drop(users.decoy(&KEY, "somebody")),
        Err(error) => drop(error.to_string()),
    }
}

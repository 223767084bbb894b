//! The MQTT half's users, as the Kafka server asks for them.

use std::sync::Arc;

use bridge::kafka;
use broker::auth::{Access, Identity, Proof, Refusal, User};
use broker::listener::anonymous_allowed;
use parking_lot::RwLock;

use crate::config;

/// [`Access`], asked in the Kafka server's words.
pub struct KafkaAccess {
    pub access: Arc<Access>,
    /// As in force: whether anonymous clients are let in.
    pub settings: Arc<RwLock<config::Kafka>>,
}

/// What no fingerprint of a password file's line is, but for one in 2^64.
const CERTIFICATE: u64 = u64::MAX;

/// The tokens of anonymous clients: whether they came in where only this machine does.
const FROM_AFAR: u64 = 0;
const LOOPBACK: u64 = 1;

/// Who has proved nothing, as the Kafka server keeps it.
pub fn anonymous(loopback: bool) -> kafka::Principal {
    kafka::Principal::Anonymous { token: if loopback { LOOPBACK } else { FROM_AFAR } }
}

/// Who has proved a name, as the Kafka server keeps it.
pub fn named(User { name, proof }: User) -> kafka::Principal {
    let token = match proof {
        Proof::Password(fingerprint) => fingerprint,
        Proof::Certificate => CERTIFICATE,
    };
    kafka::Principal::User { name, token }
}

fn identity(principal: &kafka::Principal) -> Identity {
    match principal {
        kafka::Principal::Anonymous { .. } => Identity::Anonymous,
        kafka::Principal::User { name, token } => {
            let proof = match *token {
                CERTIFICATE => Proof::Certificate,
                fingerprint => Proof::Password(fingerprint),
            };
            Identity::User(User { name: name.clone(), proof })
        }
    }
}

impl kafka::Access for KafkaAccess {
    fn authenticate(&self, name: String, password: Vec<u8>) -> kafka::Authentication {
        let access = self.access.clone();
        Box::pin(async move {
            match access.authenticate(&name, &password).await {
                Ok(Identity::User(user)) => Ok(named(user)),
                // No password proves that somebody is nobody.
                Ok(Identity::Anonymous) | Err(Refusal::WrongPassword) => {
                    Err(kafka::AuthenticationError::WrongCredentials)
                }
                Err(Refusal::Busy) => Err(kafka::AuthenticationError::Busy),
            }
        })
    }

    fn is_current(&self, who: &kafka::Principal) -> bool {
        match who {
            kafka::Principal::Anonymous { token } => {
                anonymous_allowed(self.settings.read().allow_anonymous, *token == LOOPBACK, &self.access)
            }
            user => self.access.is_current(&identity(user)),
        }
    }

    fn may(&self, who: &kafka::Principal, operation: kafka::Operation, topic: &str) -> bool {
        if !self.access.has_acl() {
            return true;
        }
        let who = identity(who);
        match operation {
            kafka::Operation::Describe => {
                self.access.may_read_log(&who, topic)
                    || self.access.may_write_log(&who, topic)
                    || self.access.may_manage_log(&who, topic)
            }
            kafka::Operation::Read => self.access.may_read_log(&who, topic),
            kafka::Operation::Write => self.access.may_write_log(&who, topic),
            kafka::Operation::Manage => self.access.may_manage_log(&who, topic),
        }
    }

    fn may_use_groups(&self, who: &kafka::Principal) -> bool {
        !self.access.has_acl() || self.access.may_read_any_log(&identity(who))
    }
}

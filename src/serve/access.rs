//! The MQTT half's users, as the Kafka server asks for them.

use std::sync::Arc;

use bridge::kafka;
use broker::auth::{Access, Identity, Proof, Refusal, User};

/// [`Access`], asked in the Kafka server's words.
pub struct KafkaAccess(pub Arc<Access>);

/// What no fingerprint of a password file's line is, but for one in 2^64.
const CERTIFICATE: u64 = u64::MAX;

/// Who a client is, as the Kafka server keeps it.
pub fn principal(identity: Identity) -> kafka::Principal {
    match identity {
        Identity::Anonymous => kafka::Principal::Anonymous,
        Identity::User(User { name, proof }) => {
            let token = match proof {
                Proof::Password(fingerprint) => fingerprint,
                Proof::Certificate => CERTIFICATE,
            };
            kafka::Principal::User { name, token }
        }
    }
}

fn identity(principal: &kafka::Principal) -> Identity {
    match principal {
        kafka::Principal::Anonymous => Identity::Anonymous,
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
        let access = self.0.clone();
        Box::pin(async move {
            match access.authenticate(&name, &password).await {
                Ok(identity) => Ok(principal(identity)),
                Err(Refusal::WrongPassword) => Err(kafka::AuthenticationError::WrongCredentials),
                Err(Refusal::Busy) => Err(kafka::AuthenticationError::Busy),
            }
        })
    }

    fn is_current(&self, who: &kafka::Principal) -> bool {
        self.0.is_current(&identity(who))
    }

    fn may(&self, who: &kafka::Principal, operation: kafka::Operation, topic: &str) -> bool {
        if !self.0.has_acl() {
            return true;
        }
        let who = identity(who);
        match operation {
            kafka::Operation::Describe => self.0.may_read_log(&who, topic) || self.0.may_write_log(&who, topic),
            kafka::Operation::Read => self.0.may_read_log(&who, topic),
            kafka::Operation::Write => self.0.may_write_log(&who, topic),
        }
    }

    fn may_use_groups(&self, who: &kafka::Principal) -> bool {
        !self.0.has_acl() || self.0.may_read_any_log(&identity(who))
    }
}

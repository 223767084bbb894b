//! Who a client is and what it may do. This server knows no users: it asks [`Access`].

use std::{future::Future, pin::Pin, sync::Arc};

/// Who a client is, as far as it has been proved. [`Access`] gives it and is asked with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous {
        /// [`Access`]'s own, to know whether nobody in particular is still let in where this one came in.
        token: u64,
    },
    /// A user that has proved to be it.
    User {
        /// The user's name.
        name: Arc<str>,
        /// [`Access`]'s own, to know what has changed since. Two tokens of one name are one user.
        token: u64,
    },
}

/// What is to be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// See that it exists, and where. Whoever may do anything else with it may also do this.
    Describe,
    /// Fetch from it, and commit how far.
    Read,
    /// Produce to it, or make it.
    Write,
    /// Make it, delete it or records of it, and change its settings.
    Manage,
}

/// Why a name and its password were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// The client's fault; it is told so, and not which of them.
    #[error("invalid username or password")]
    WrongCredentials,
    /// Ours: the client is told nothing, for it would take it as its own fault, and may come back.
    #[error("too many passwords to be checked at once")]
    Busy,
}

/// The answer to a name and a password, when it is known. Not `Send`: it runs on the thread of its
/// connection; and it borrows nothing, for the connection may end before it.
pub type Authentication = Pin<Box<dyn Future<Output = Result<Principal, AuthenticationError>>>>;

/// Knows the users and their rights.
pub trait Access: Send + Sync {
    /// Whether the password is this user's. Dropping the answer is giving up.
    fn authenticate(&self, name: String, password: Vec<u8>) -> Authentication;

    /// Still who it was, and let in: false once its user was removed or got another password, or
    /// nobody in particular is let in any more. Asked before and after each request, and of all when
    /// [`Server::recheck`](super::Server::recheck) says so: it must be cheap.
    fn is_current(&self, who: &Principal) -> bool;

    /// Whether it may do this with the topic. Asked for each topic of each request.
    fn may(&self, who: &Principal, operation: Operation, topic: &str) -> bool;

    /// Whether it may join, see and delete consumer groups, and commit for them.
    fn may_use_groups(&self, who: &Principal) -> bool;
}

/// Everyone may do everything, and every password is right: there are no users.
#[derive(Clone, Copy, Debug)]
pub struct Open;

impl Access for Open {
    fn authenticate(&self, name: String, _password: Vec<u8>) -> Authentication {
        Box::pin(std::future::ready(Ok(Principal::User { name: name.into(), token: 0 })))
    }

    fn is_current(&self, _who: &Principal) -> bool {
        true
    }

    fn may(&self, _who: &Principal, _operation: Operation, _topic: &str) -> bool {
        true
    }

    fn may_use_groups(&self, _who: &Principal) -> bool {
        true
    }
}

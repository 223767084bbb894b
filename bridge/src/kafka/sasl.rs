//! SaslHandshake and SaslAuthenticate: a client proves who it is, by PLAIN (RFC 4616).
//!
//! After SaslHandshake version 1 the token comes in a SaslAuthenticate request; after version 0 as
//! a frame of its own, without a header (KIP-43), where an empty frame says yes and the end of the
//! connection says no. Whatever goes wrong ends the connection, after the answer that tells it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse},
    protocol::StrBytes,
};

use super::{
    Server,
    access::{AuthenticationError, Operation, Principal},
    call::{Call, Client, ConnectionError, Work},
    metrics::add,
};

/// The one mechanism there is.
const PLAIN: &str = "PLAIN";
/// Bytes of a user name.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes of a password; some are whole signed tokens.
const PASSWORD_BYTES_MAX: usize = 16 * 1024;
/// Characters of what a stranger sent that are shown in the log.
const SHOWN_CHARS_MAX: usize = 64;
/// What Kafka says. Not which of the two, and not whether there is such a user.
const WRONG_CREDENTIALS: &str = "Authentication failed: Invalid username or password";

/// Who the client of a connection is, and how far it has come in saying so.
pub(super) struct Identity {
    who: RefCell<Option<Principal>>,
    step: Cell<Step>,
    /// It proved by SASL to be `who`: on this connection it will be no other.
    is_proved: Cell<bool>,
    refusal: Cell<Option<ConnectionError>>,
}

/// What a client says next if it authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Handshake,
    Authenticate,
    /// A token without a header.
    Token,
}

impl Identity {
    pub fn new(who: Option<Principal>) -> Identity {
        Identity {
            who: RefCell::new(who),
            step: Cell::new(Step::Handshake),
            is_proved: Cell::new(false),
            refusal: Cell::new(None),
        }
    }

    /// Whether it may send anything but what authenticates it.
    pub fn is_known(&self) -> bool {
        self.who.borrow().is_some()
    }

    /// Whether its next frame is a token.
    pub fn awaits_token(&self) -> bool {
        self.step.get() == Step::Token
    }

    /// Why the connection is to end, if it is.
    pub fn take_refusal(&self) -> Option<ConnectionError> {
        self.refusal.take()
    }

    /// Whether it is unknown, or still who it was.
    pub fn is_current(&self, server: &Server) -> bool {
        self.who.borrow().as_ref().is_none_or(|who| server.access.is_current(who))
    }

    pub fn may(&self, server: &Server, operation: Operation, topic: &str) -> bool {
        self.who.borrow().as_ref().is_some_and(|who| server.access.may(who, operation, topic))
    }

    pub fn may_use_groups(&self, server: &Server) -> bool {
        self.who.borrow().as_ref().is_some_and(|who| server.access.may_use_groups(who))
    }

    /// Takes on what was proved; whoever has proved to be somebody is nobody else afterwards.
    fn accept(&self, proved: &Principal) -> bool {
        let mut who = self.who.borrow_mut();
        if self.is_proved.get() && who.as_ref().map(name) != Some(name(proved)) {
            return false;
        }
        self.is_proved.set(true);
        *who = Some(proved.clone());
        true
    }
}

fn name(who: &Principal) -> Option<&str> {
    match who {
        Principal::Anonymous => None,
        Principal::User { name, .. } => Some(name),
    }
}

/// A step that failed: what the client is told, if anything, and why its connection ends.
struct Refused {
    told: Option<String>,
    reason: ConnectionError,
}

fn refuse(server: &Server, client: &Client, reason: ConnectionError) {
    add(&server.metrics().authentications_failed, 1);
    client.identity.refusal.set(Some(reason));
}

pub(super) fn sasl_handshake(mut call: Call) -> Work {
    Box::pin(async move {
        let request: SaslHandshakeRequest = call.decode()?;
        let response = SaslHandshakeResponse::default().with_mechanisms(vec![StrBytes::from_static_str(PLAIN)]);
        let step = &call.client.identity.step;
        let refused = if step.get() != Step::Handshake {
            Some((ResponseError::IllegalSaslState, "a second SaslHandshake".to_owned()))
        } else if &*request.mechanism != PLAIN {
            let asked = shown(&request.mechanism);
            let message = format!("mechanism {asked:?} is not served; the client must use {PLAIN}");
            Some((ResponseError::UnsupportedSaslMechanism, message))
        } else {
            step.set(if call.version == 0 { Step::Token } else { Step::Authenticate });
            None
        };
        match refused {
            None => call.answer(&response),
            Some((error, message)) => {
                refuse(&call.server, &call.client, ConnectionError::Sasl(message));
                call.answer(&response.with_error_code(error.code()))
            }
        }
    })
}

pub(super) fn sasl_authenticate(mut call: Call) -> Work {
    Box::pin(async move {
        let request: SaslAuthenticateRequest = call.decode()?;
        let response = SaslAuthenticateResponse::default();
        if call.client.identity.step.replace(Step::Handshake) != Step::Authenticate {
            let message = "SaslAuthenticate without a SaslHandshake before it";
            refuse(&call.server, &call.client, ConnectionError::Sasl(message.to_owned()));
            let message = Some(StrBytes::from_static_str(message));
            let response = response.with_error_code(ResponseError::IllegalSaslState.code());
            return call.answer(&response.with_error_message(message));
        }
        match authenticate(&call.server, &call.client, &request.auth_bytes).await {
            Ok(()) => call.answer(&response.with_error_message(None)),
            Err(Refused { told, reason }) => {
                refuse(&call.server, &call.client, reason);
                let Some(message) = told else { return Ok(None) };
                let response = response.with_error_code(ResponseError::SaslAuthenticationFailed.code());
                call.answer(&response.with_error_message(Some(StrBytes::from_string(message))))
            }
        }
    })
}

/// A token that came without a header. There is no way to say what is wrong with it.
pub(super) fn token(server: Arc<Server>, client: Rc<Client>, token: Bytes) -> Work {
    Box::pin(async move {
        client.identity.step.set(Step::Handshake);
        match authenticate(&server, &client, &token).await {
            Ok(()) => Ok(Some(Bytes::from_static(&[0; 4]))),
            Err(Refused { reason, .. }) => {
                refuse(&server, &client, reason);
                Ok(None)
            }
        }
    })
}

async fn authenticate(server: &Server, client: &Client, token: &[u8]) -> Result<(), Refused> {
    let (name, password) = read_plain(token).map_err(|fault| {
        let message = format!("Invalid SASL/PLAIN response: {fault}");
        Refused { reason: ConnectionError::Sasl(message.clone()), told: Some(message) }
    })?;
    let user = shown(name);
    let failed = |told: Option<&str>, reason: &str| {
        let reason = ConnectionError::NotAuthenticated { user: user.clone(), reason: reason.to_owned() };
        Refused { told: told.map(str::to_owned), reason }
    };
    match server.access.authenticate(name.to_owned(), password.into()).await {
        Ok(who) if client.identity.accept(&who) => {
            add(&server.metrics().authentications, 1);
            tracing::debug!(peer = %client.peer, user, "kafka client authenticated");
            Ok(())
        }
        Ok(_) => {
            let message = "Cannot change principals during re-authentication";
            Err(failed(Some(message), "the connection is another user's already"))
        }
        Err(error @ AuthenticationError::WrongCredentials) => Err(failed(Some(WRONG_CREDENTIALS), &error.to_string())),
        // Said to be its own fault, a client would give up; without an answer it tries again.
        Err(error @ AuthenticationError::Busy) => Err(failed(None, &error.to_string())),
    }
}

/// User name and password out of `[authzid] NUL authcid NUL passwd`.
fn read_plain(token: &[u8]) -> Result<(&str, &str), &'static str> {
    let mut parts = token.split(|byte| *byte == 0);
    let (Some(act_as), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("expected three parts with a NUL between them");
    };
    if name.len() > NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
        return Err("user name or password too long");
    }
    if name.is_empty() || password.is_empty() {
        return Err("user name or password empty");
    }
    if !act_as.is_empty() && act_as != name {
        return Err("nobody may act as another user: leave the authorization id empty");
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "user name or password not UTF-8");
    Ok((text(name)?, text(password)?))
}

/// As much of it as the log is to have; to be escaped there.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tokens_are_read_strictly() {
        assert_eq!(read_plain(b"\0ann\0secret"), Ok(("ann", "secret")));
        assert_eq!(read_plain(b"ann\0ann\0 se cret "), Ok(("ann", " se cret ")));
        let longest = [b"\0", &[b'n'; NAME_BYTES_MAX][..], b"\0", &[b'p'; PASSWORD_BYTES_MAX]].concat();
        assert!(read_plain(&longest).is_ok());
        let too_long = [&longest[..], b"p"].concat();
        let bad: [&[u8]; 9] = [
            b"",
            b"ann",
            b"ann\0secret",
            b"\0ann\0",
            b"\0\0secret",
            b"\0ann\0a\0b",
            b"bob\0ann\0x",
            b"\0\xff\0x",
            &too_long,
        ];
        for token in bad {
            assert!(read_plain(token).is_err(), "{token:?}");
        }
    }
}

//! Who a client is and what it may do.
//!
//! - `users`: the password file, `name:hash` per line; [`password`]: the hashes
//! - `acl`: the access control list, in Mosquitto's syntax with one addition for the log; `filters`: which topics
//!   two filters share
//!
//! Both files are read whole and checked whole; [`Access`] swaps them at once, so that no client ever meets half of
//! a reload. Without a password file there are no users; without an access control list everything is allowed.

mod acl;
mod filters;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod password;
mod users;

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ring::hmac;
use tokio::sync::Semaphore;

use crate::limits::{ACCESS_FILE_BYTES_MAX, ACCESS_PROBLEMS_MAX, PASSWORDS_AT_ONCE_MAX, PASSWORDS_WAITING_MAX};
use acl::{Acl, Right};
use users::{Entry, Users};

pub use users::{NameError, check_name};

/// Who a client is, as far as it has been proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It proved nothing.
    Anonymous,
    /// It proved a name.
    User(User),
}

/// A proved name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: Arc<str>,
    /// How it was proved.
    pub proof: Proof,
}

/// How a name was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the password; the fingerprint of its line in the password file.
    Password(u64),
    /// By a client certificate.
    Certificate,
}

impl Identity {
    /// The name, if one was proved.
    pub fn name(&self) -> Option<&str> {
        match self {
            Identity::Anonymous => None,
            Identity::User(user) => Some(&user.name),
        }
    }
}

/// Which files say so. `None`: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `name:hash` per line.
    pub password_file: Option<PathBuf>,
    /// Mosquitto's syntax.
    pub acl_file: Option<PathBuf>,
}

/// Why a name and a password were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Or no such user: whoever guesses is not told which.
    #[error("wrong user name or password")]
    WrongPassword,
    /// Not looked at.
    #[error("too many passwords wait to be checked, or there is no memory to check one: try again later")]
    Busy,
}

/// What is wrong with the files, every mistake in a line of its own.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct AccessError {
    problems: Vec<Problem>,
    more: usize,
}

/// One mistake; never quotes a hash or a password.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    file: PathBuf,
    /// From 1; `None`: the file as a whole.
    line: Option<usize>,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.what)
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let end_of_last = if i == 0 { "" } else { "\n" };
            write!(f, "{end_of_last}{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Collects the mistakes of one file.
struct Problems<'a> {
    file: &'a Path,
    found: Vec<Problem>,
    more: usize,
}

impl<'a> Problems<'a> {
    fn of(file: &'a Path) -> Problems<'a> {
        Problems { file, found: Vec::new(), more: 0 }
    }

    fn at(&mut self, line: usize, what: impl Into<String>) {
        self.push(Some(line), what.into());
    }

    fn whole(&mut self, what: impl Into<String>) {
        self.push(None, what.into());
    }

    fn push(&mut self, line: Option<usize>, what: String) {
        if self.found.len() < ACCESS_PROBLEMS_MAX {
            self.found.push(Problem { file: self.file.to_owned(), line, what });
        } else {
            self.more += 1;
        }
    }

    fn result<T>(self, good: T) -> Result<T, AccessError> {
        match self.found.is_empty() {
            true => Ok(good),
            false => Err(AccessError { problems: self.found, more: self.more }),
        }
    }
}

/// A whole file of text, within its bound.
fn read(file: &Path) -> Result<String, AccessError> {
    let mut problems = Problems::of(file);
    match read_bytes(file) {
        Err(error) => problems.whole(format!("cannot be read: {error}")),
        Ok(bytes) if bytes.len() > ACCESS_FILE_BYTES_MAX => {
            problems.whole(format!("is larger than {} MiB; is it the right file?", ACCESS_FILE_BYTES_MAX >> 20));
        }
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return Ok(text),
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
                problems.at(line, "is not UTF-8; write the file anew in that encoding");
            }
        },
    }
    problems.result(String::new())
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(ACCESS_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lines with their numbers from 1, as Mosquitto takes them: without trailing blanks, without comments (`#` as the
/// very first character; anywhere else it may be a filter) and without empty ones.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let numbered = text.split('\n').enumerate().map(|(i, line)| (i + 1, line.trim_ascii_end()));
    numbered.filter(|(_, line)| !line.starts_with('#') && !line.trim_ascii_start().is_empty())
}

/// Users and their rights; shared by all threads, swapped whole at a reload.
pub struct Access {
    state: ArcSwap<State>,
    /// Of fingerprints and of what is remembered of passwords: neither is worth anything outside this process.
    key: hmac::Key,
    /// Hashing takes a core and up to [`password::MEMORY_KIB_MAX`] each.
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    reloading: Mutex<()>,
}

struct State {
    generation: u64,
    users: Option<Users>,
    acl: Option<Acl>,
}

/// A place among those who wait to be verified.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Place<'a>> {
        let more = |now| (now < PASSWORDS_WAITING_MAX + PASSWORDS_AT_ONCE_MAX).then_some(now + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Access {
    /// Reads the files. The error names every mistake in them.
    pub fn open(files: &Files) -> Result<Access, AccessError> {
        let random: [u8; 32] = random_bytes();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random);
        let (users, acl) = load(files, &key, None)?;
        Ok(Access {
            state: ArcSwap::from_pointee(State { generation: 0, users, acl }),
            key,
            turns: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE_MAX)),
            waiting: AtomicUsize::new(0),
            reloading: Mutex::new(()),
        })
    }

    /// Reads the files again. On an error the old users and rights stay in force.
    pub fn reload(&self, files: &Files) -> Result<(), AccessError> {
        let _one_at_a_time = self.reloading.lock();
        let old = self.state.load();
        let (users, acl) = load(files, &self.key, old.users.as_ref())?;
        self.state.store(Arc::new(State { generation: old.generation + 1, users, acl }));
        Ok(())
    }

    /// Whether there is a password file.
    pub fn has_users(&self) -> bool {
        self.state.load().users.is_some()
    }

    /// Whether there is an access control list: without one every question below is answered with yes.
    pub fn has_acl(&self) -> bool {
        self.state.load().acl.is_some()
    }

    /// Rises with each reload: what was found out before may no longer hold.
    pub fn generation(&self) -> u64 {
        self.state.load().generation
    }

    /// Checks a password. Needs a tokio runtime, whose thread it does not hold up: hashing happens on another.
    ///
    /// Without a password file nobody has a password, so all are refused.
    pub async fn authenticate(&self, name: &str, password: &[u8]) -> Result<Identity, Refusal> {
        let state = self.state.load_full();
        let Some(users) = &state.users else { return Err(Refusal::WrongPassword) };
        let tag = self.tag(name, password);
        let user = users.get(name);
        if let Some(user) = user
            && user.remembers(&tag)
        {
            return Ok(identity(user));
        }
        // An unknown name takes as long as a known one: it is compared with somebody else's hash, in vain.
        let compared_with = user.or_else(|| users.decoy(&self.key, name)).cloned();
        let right = self.verify(compared_with, password).await?;
        let Some(user) = user.filter(|_| right) else { return Err(Refusal::WrongPassword) };
        user.remember(&tag);
        let identity = identity(user);
        // The line may have gone while the password waited for its turn.
        if self.is_current(&identity) { Ok(identity) } else { Err(Refusal::WrongPassword) }
    }

    /// `None`: compares with a hash that nobody has.
    async fn verify(&self, user: Option<Arc<Entry>>, password: &[u8]) -> Result<bool, Refusal> {
        let _place = Place::take(&self.waiting).ok_or(Refusal::Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Refusal::Busy)?;
        let password = password.to_vec();
        let work = move || {
            // Goes with the work, which goes on when its client has gone.
            let _turn = turn;
            match &user {
                Some(user) => user.stored().verify(&password),
                None => password::Stored::decoy().verify(&password),
            }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(right)) => Ok(right),
            Ok(Err(error)) => {
                tracing::error!(%error, "a password could not be checked");
                Err(Refusal::Busy)
            }
            // The process ends.
            Err(_) => Err(Refusal::Busy),
        }
    }

    fn tag(&self, name: &str, password: &[u8]) -> hmac::Tag {
        keyed(&self.key, [&(name.len() as u64).to_be_bytes(), name.as_bytes(), password])
    }

    /// False once the user's line is gone or changed. Whether anonymous clients and certificates are still welcome
    /// is the listener's to say.
    pub fn is_current(&self, who: &Identity) -> bool {
        let Identity::User(User { name, proof: Proof::Password(fingerprint) }) = who else { return true };
        let state = self.state.load();
        let user = state.users.as_ref().and_then(|users| users.get(name));
        user.is_some_and(|user| user.fingerprint() == *fingerprint)
    }

    /// Whether a message on this topic is taken from the client.
    pub fn may_publish(&self, who: &Identity, client_id: &str, topic: &str) -> bool {
        self.ask(|acl| acl.topic(Right::Write, who.name(), client_id, topic))
    }

    /// Whether a message on this topic is given to the client.
    pub fn may_receive(&self, who: &Identity, client_id: &str, topic: &str) -> bool {
        self.ask(|acl| acl.topic(Right::Read, who.name(), client_id, topic))
    }

    /// Whether some message that the filter matches could be given to the client; which of them are is asked of
    /// [`Access::may_receive`] for each. A shared subscription is taken as its filter.
    pub fn may_subscribe(&self, who: &Identity, client_id: &str, filter: &str) -> bool {
        self.ask(|acl| acl.filter(who.name(), client_id, filter))
    }

    /// Whether records of this Kafka topic are given to the client.
    pub fn may_read_log(&self, who: &Identity, kafka_topic: &str) -> bool {
        self.ask(|acl| acl.log(Right::Read, who.name(), kafka_topic))
    }

    /// Whether records for this Kafka topic are taken from the client.
    pub fn may_write_log(&self, who: &Identity, kafka_topic: &str) -> bool {
        self.ask(|acl| acl.log(Right::Write, who.name(), kafka_topic))
    }

    /// Whether the client may delete this Kafka topic or records of it, and change its settings.
    pub fn may_manage_log(&self, who: &Identity, kafka_topic: &str) -> bool {
        self.ask(|acl| acl.log(Right::Manage, who.name(), kafka_topic))
    }

    /// Whether there is some Kafka topic that the client may read: without one it has no use for a consumer group.
    pub fn may_read_any_log(&self, who: &Identity) -> bool {
        self.ask(|acl| acl.any_log(who.name()))
    }

    fn ask(&self, question: impl FnOnce(&Acl) -> bool) -> bool {
        self.state.load().acl.as_ref().is_none_or(question)
    }
}

fn identity(user: &Entry) -> Identity {
    Identity::User(User { name: user.name().clone(), proof: Proof::Password(user.fingerprint()) })
}

/// Mistakes of both files are told together. Users whose line has not changed are taken over from the old ones.
fn load(files: &Files, key: &hmac::Key, old: Option<&Users>) -> Result<(Option<Users>, Option<Acl>), AccessError> {
    let users = files.password_file.as_deref().map(|file| Users::load(file, key, old)).transpose();
    let acl = files.acl_file.as_deref().map(Acl::load).transpose();
    match (users, acl) {
        (Ok(users), Ok(acl)) => Ok((users, acl)),
        (Err(mut first), Err(second)) => {
            first.problems.extend(second.problems);
            first.more += second.more;
            Err(first)
        }
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

fn keyed<const PARTS: usize>(key: &hmac::Key, parts: [&[u8]; PARTS]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    bytes
}

#[cfg(test)]
mod tests;

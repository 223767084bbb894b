//! `millstream passwd`: sets and deletes users of a password file.
//!
//! Every other line stays as it is, byte for byte: the file may be Mosquitto's, with an order and comments of its own.
//! The new file replaces the old one at once, so that a broker that reloads meanwhile never reads half of it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use broker::{
    auth::{
        NameError, check_name,
        password::{self, HashError},
    },
    limits::ACCESS_FILE_BYTES_MAX,
};
use clap::Args;
use rustix::fs::{FlockOperation, Gid, Uid};

/// What an MQTT client can send.
const PASSWORD_BYTES_MAX: usize = u16::MAX as usize;
/// Only the owner may read hashes: they can be guessed at.
const NEW_FILE_MODE: u32 = 0o600;

/// Arguments of `millstream passwd`.
#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// The password file; made if it is not there
    file: PathBuf,
    /// Who
    user: String,
    /// Read the password from standard input, one line, instead of asking for it
    #[arg(long, conflicts_with = "delete")]
    password_stdin: bool,
    /// Delete the user
    #[arg(long)]
    delete: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the password is empty: a user without a password would be anyone")]
    Empty,
    #[error("the password is longer than the {PASSWORD_BYTES_MAX} bytes an MQTT client can send")]
    Long,
    #[error("the two passwords differ: nothing was changed")]
    Differ,
    #[error("cannot ask for a password: {0}; --password-stdin reads it from standard input")]
    Ask(io::Error),
    #[error("cannot read the password from standard input: {0}")]
    Stdin(io::Error),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("{0}: is no regular file")]
    NotAFile(PathBuf),
    #[error("{0}: is larger than {max} MiB; is it the right file?", max = ACCESS_FILE_BYTES_MAX >> 20)]
    Large(PathBuf),
    #[error("{0}: has no user {1:?}")]
    NoSuchUser(PathBuf, String),
    #[error("{0}: cannot be read: {1}")]
    Read(PathBuf, io::Error),
    #[error("{0}: cannot keep its owner: {1}; run this as that user, or as root")]
    Owner(PathBuf, io::Error),
    #[error("{0}: cannot be replaced: {1}")]
    Write(PathBuf, io::Error),
}

/// Does what was asked.
pub fn run(args: &PasswdArgs) -> Result<(), PasswdError> {
    check_name(&args.user)?;
    // Before a password is asked for in vain.
    find(&args.file)?;
    if args.delete {
        return change(&args.file, &args.user, None);
    }
    let password = match args.password_stdin {
        true => read_line(io::stdin().lock())?,
        false => ask_twice(&args.user, rpassword::prompt_password)?,
    };
    if password.is_empty() {
        return Err(PasswdError::Empty);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswdError::Long);
    }
    change(&args.file, &args.user, Some(&password::hash(&password)?))
}

fn read_line(input: impl BufRead) -> Result<Vec<u8>, PasswdError> {
    let mut line = Vec::new();
    // Room for one byte too many and the end of the line.
    input.take(PASSWORD_BYTES_MAX as u64 + 3).read_until(b'\n', &mut line).map_err(PasswdError::Stdin)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn ask_twice(user: &str, mut ask: impl FnMut(String) -> io::Result<String>) -> Result<Vec<u8>, PasswdError> {
    let first = ask(format!("Password for {user}: ")).map_err(PasswdError::Ask)?;
    let second = ask("Once more: ".to_owned()).map_err(PasswdError::Ask)?;
    if first == second { Ok(first.into_bytes()) } else { Err(PasswdError::Differ) }
}

/// The file itself, not a link to it, and what is known of it if it is there.
fn find(path: &Path) -> Result<(PathBuf, Option<fs::Metadata>), PasswdError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(PasswdError::NotAFile(path.to_owned())),
        Ok(found) => {
            let path = fs::canonicalize(path).map_err(|error| PasswdError::Read(path.to_owned(), error))?;
            Ok((path, Some(found)))
        }
        // A link that leads nowhere is there, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Ok((path.to_owned(), None))
        }
        Err(error) => Err(PasswdError::Read(path.to_owned(), error)),
    }
}

/// Sets the user's hash, or deletes the user.
fn change(path: &Path, user: &str, hash: Option<&str>) -> Result<(), PasswdError> {
    let (path, _) = find(path)?;
    let cannot = |error: io::Error| PasswdError::Write(path.clone(), error);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = (folder, File::open(folder).map_err(cannot)?);
    // Two of us at once must not undo each other's work; the file itself is replaced, so it cannot carry the lock.
    // Where a file system has no locks for folders (NFS), that is no reason not to change anything.
    let _ = rustix::fs::flock(&folder.1, FlockOperation::LockExclusive);
    let (path, found) = find(&path)?;
    let old = match &found {
        None => Vec::new(),
        Some(_) => read(&path)?,
    };
    let (new, was_there) = edit(&old, user, hash);
    if hash.is_none() && !was_there {
        return Err(PasswdError::NoSuchUser(path, user.to_owned()));
    }
    replace(folder.0, &path, found.as_ref(), &new)?;
    folder.1.sync_all().map_err(|error| PasswdError::Write(path.clone(), error))
}

fn read(path: &Path) -> Result<Vec<u8>, PasswdError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| PasswdError::Read(path.to_owned(), error))?;
    file.take(ACCESS_FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| PasswdError::Read(path.to_owned(), error))?;
    if bytes.len() > ACCESS_FILE_BYTES_MAX {
        return Err(PasswdError::Large(path.to_owned()));
    }
    Ok(bytes)
}

/// The file with the user's line set or left out, and whether there was one. Further lines of the same user, which
/// the broker would refuse, go.
fn edit(old: &[u8], user: &str, hash: Option<&str>) -> (Vec<u8>, bool) {
    const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
    let mut new = Vec::with_capacity(old.len() + user.len() + 128);
    let mut was_there = false;
    let lines = match old.strip_prefix(BYTE_ORDER_MARK) {
        Some(lines) => {
            new.extend_from_slice(BYTE_ORDER_MARK);
            lines
        }
        None => old,
    };
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if !is_of(line, user) {
            new.extend_from_slice(line);
            continue;
        }
        if let Some(hash) = hash.filter(|_| !was_there) {
            let end: &[u8] = match line {
                [.., b'\r', b'\n'] => b"\r\n",
                [.., b'\n'] => b"\n",
                _ => b"",
            };
            new.extend_from_slice(format!("{user}:{hash}").as_bytes());
            new.extend_from_slice(end);
        }
        was_there = true;
    }
    if let Some(hash) = hash.filter(|_| !was_there) {
        if new.last().is_some_and(|byte| *byte != b'\n') && new != BYTE_ORDER_MARK {
            new.push(b'\n');
        }
        new.extend_from_slice(format!("{user}:{hash}\n").as_bytes());
    }
    (new, was_there)
}

fn is_of(line: &[u8], user: &str) -> bool {
    let name = line.split(|byte| *byte == b':').next().filter(|name| name.len() < line.len());
    name.is_some_and(|name| !line.starts_with(b"#") && name.trim_ascii() == user.as_bytes())
}

fn replace(folder: &Path, path: &Path, old: Option<&fs::Metadata>, text: &[u8]) -> Result<(), PasswdError> {
    let cannot = |error: io::Error| PasswdError::Write(path.to_owned(), error);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(name);
    // Of a process of the same number that was killed; whoever lives holds the lock.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let written = write(&temporary, path, old, text).and_then(|()| fs::rename(&temporary, path).map_err(cannot));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(temporary: &Path, path: &Path, old: Option<&fs::Metadata>, text: &[u8]) -> Result<(), PasswdError> {
    let cannot = |error: io::Error| PasswdError::Write(path.to_owned(), error);
    let new = OpenOptions::new().write(true).create_new(true).mode(NEW_FILE_MODE).open(temporary);
    let mut file = new.map_err(cannot)?;
    if let Some(old) = old {
        let own = file.metadata().map_err(cannot)?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            let (owner, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
            rustix::fs::fchown(&file, Some(owner), Some(group))
                .map_err(|error| PasswdError::Owner(path.to_owned(), error.into()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777)).map_err(cannot)?;
    }
    file.write_all(text).and_then(|()| file.sync_all()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(old: &str, hash: Option<&str>) -> (String, bool) {
        let (new, was_there) = edit(old.as_bytes(), "alice", hash);
        (String::from_utf8(new).expect("UTF-8"), was_there)
    }

    #[test]
    fn a_line_is_set_and_every_other_byte_stays() {
        for (old, new, was_there) in [
            ("", "alice:H\n", false),
            ("# c\n\n bob : x\r\n", "# c\n\n bob : x\r\nalice:H\n", false),
            ("bob:x", "bob:x\nalice:H\n", false),
            ("bob:x\nalice:old\ncarl:y\n", "bob:x\nalice:H\ncarl:y\n", true),
            ("alice:old\r\nbob:x\r\n", "alice:H\r\nbob:x\r\n", true),
            (" alice : old", "alice:H", true),
            ("#alice:old\nalice\nalicea:x\n", "#alice:old\nalice\nalicea:x\nalice:H\n", false),
            ("alice:1\nbob:x\nalice:2\n", "alice:H\nbob:x\n", true),
            ("\u{feff}alice:1\n", "\u{feff}alice:H\n", true),
            ("\u{feff}", "\u{feff}alice:H\n", false),
        ] {
            assert_eq!(edited(old, Some("H")), (new.to_owned(), was_there), "{old:?}");
        }
    }

    #[test]
    fn a_line_is_deleted_and_every_other_byte_stays() {
        for (old, new, was_there) in
            [("", "", false), ("bob:x", "bob:x", false), ("# c\nalice:1\r\nbob:x\nalice:2", "# c\nbob:x\n", true)]
        {
            assert_eq!(edited(old, None), (new.to_owned(), was_there), "{old:?}");
        }
    }

    #[test]
    fn the_password_is_asked_for_twice() {
        let answers = |first: &'static str, second: &'static str| {
            let mut answers = [first, second].into_iter();
            ask_twice("alice", move |_| answers.next().map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into()))
        };
        assert_eq!(answers("a", "a").expect("the same"), b"a");
        assert!(matches!(answers("a", "b"), Err(PasswdError::Differ)));
        let error = ask_twice("alice", |_| Err(io::ErrorKind::NotFound.into())).expect_err("no terminal");
        assert!(error.to_string().contains("--password-stdin"), "{error}");
    }

    #[test]
    fn one_line_of_standard_input_counts() {
        for (input, line) in [("", ""), ("a b\n", "a b"), ("a\r\nb\n", "a"), ("a", "a"), ("\n", "")] {
            assert_eq!(read_line(input.as_bytes()).expect("readable"), line.as_bytes());
        }
        let longest = "x".repeat(PASSWORD_BYTES_MAX);
        assert_eq!(read_line(format!("{longest}\r\n").as_bytes()).expect("readable").len(), PASSWORD_BYTES_MAX);
        assert!(read_line(format!("{longest}x").as_bytes()).expect("readable").len() > PASSWORD_BYTES_MAX);
    }
}

//! `millstream passwd`, the built binary: what it does to a password file, and what it refuses.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use broker::auth::{Access, Files, Identity, Refusal};

fn run(file: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .arg("passwd")
        .arg(file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // It may refuse its arguments and be gone before it reads.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn set(file: &Path, user: &str, password: &str) {
    let output = run(file, &[user, "--password-stdin"], &format!("{password}\n"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

fn refused(file: &Path, arguments: &[&str], input: &str, code: i32) -> String {
    let output = run(file, arguments, input);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("millstream: ") && output.stdout.is_empty(), "{errors}");
    errors
}

fn who(file: &Path, user: &str, password: &str) -> Result<Identity, Refusal> {
    let files = Files { password_file: Some(file.to_owned()), acl_file: None };
    let access = Access::open(&files).unwrap_or_else(|error| panic!("{error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(access.authenticate(user, password.as_bytes()))
}

/// Nothing may be left beside the file.
fn only(folder: &Path, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn users_come_change_and_go() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("passwd");
    set(&file, "alice", "wonderland");
    assert_eq!(fs::metadata(&file).expect("made").mode() & 0o7777, 0o600);
    set(&file, "bob b", "  päss:wörd  ");
    assert_eq!(who(&file, "alice", "wonderland").expect("right").name(), Some("alice"));
    assert_eq!(who(&file, "bob b", "  päss:wörd  ").expect("right").name(), Some("bob b"));
    assert_eq!(who(&file, "bob b", "päss:wörd"), Err(Refusal::WrongPassword));

    set(&file, "alice", "looking glass");
    assert_eq!(who(&file, "alice", "wonderland"), Err(Refusal::WrongPassword));
    assert!(who(&file, "alice", "looking glass").is_ok());

    let output = run(&file, &["alice", "--delete"], "");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(who(&file, "alice", "looking glass"), Err(Refusal::WrongPassword));
    assert!(who(&file, "bob b", "  päss:wörd  ").is_ok());
    let errors = refused(&file, &["alice", "--delete"], "", 1);
    assert!(errors.contains("has no user \"alice\""), "{errors}");
    only(folder.path(), &["passwd"]);
}

#[test]
fn everything_else_in_the_file_stays() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("passwd");
    let link = folder.path().join("link");
    let before = "# ours\r\n\n  carl : $6$not$checked\r\nalice:plain\nlatin \u{e4}:x";
    fs::write(&file, before).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
    symlink("passwd", &link).expect("made");
    set(&link, "alice", "wonderland");
    let after = fs::read_to_string(&file).expect("readable");
    let (head, rest) = after.split_once("alice:").expect("there");
    let (hash, tail) = rest.split_once('\n').expect("a line");
    assert_eq!((head, tail), ("# ours\r\n\n  carl : $6$not$checked\r\n", "latin \u{e4}:x"));
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    let found = fs::metadata(&file).expect("there");
    assert_eq!(found.mode() & 0o7777, 0o640);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    only(folder.path(), &["link", "passwd"]);
}

/// Only root can give files away.
#[test]
fn the_owner_stays() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("passwd");
    fs::write(&file, "").expect("written");
    let wanted = (4711, 4712);
    if std::os::unix::fs::chown(&file, Some(wanted.0), Some(wanted.1)).is_err() {
        return;
    }
    set(&file, "alice", "wonderland");
    let found = fs::metadata(&file).expect("there");
    assert_eq!((found.uid(), found.gid()), wanted);
}

#[test]
fn what_cannot_be_right_is_refused_in_one_line_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("passwd");
    for name in ["", "a:b", "a\nb", "a\u{7f}", " a", "#a"] {
        let errors = refused(&file, &[name, "--password-stdin"], "secret\n", 1);
        assert!(errors.contains("a user name must not"), "{errors}");
    }
    for (input, why) in [("\n", "is empty"), ("", "is empty"), (&*"x".repeat(65_536), "is longer than the 65535 bytes")]
    {
        let errors = refused(&file, &["alice", "--password-stdin"], input, 1);
        assert!(errors.contains(why), "{errors}");
    }
    only(folder.path(), &[]);
    let errors = refused(folder.path(), &["alice", "--password-stdin"], "secret\n", 1);
    assert!(errors.contains("is no regular file"), "{errors}");
    refused(&folder.path().join("none/passwd"), &["alice", "--password-stdin"], "secret\n", 1);
    refused(&file, &["alice", "--delete"], "", 1);
    refused(&file, &["alice", "--delete", "--password-stdin"], "", 2);
    only(folder.path(), &[]);
}

/// Each reads, changes and replaces the whole file: none may undo another's work.
#[test]
fn several_at_once_lose_nobody() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("passwd");
    let users = ["a", "b", "c", "d", "e", "f"];
    std::thread::scope(|scope| {
        for user in users {
            let file = &file;
            scope.spawn(move || set(file, user, "secret"));
        }
    });
    let text = fs::read_to_string(&file).expect("readable");
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split(':').next()).collect();
    names.sort_unstable();
    assert_eq!(names, users);
    only(folder.path(), &["passwd"]);
}

//! Password files, made by the binary under test.

use crate::broker::binary;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A password file with these users and passwords.
#[track_caller]
pub fn write(path: &Path, users: &[(&str, &str)]) {
    let lines: Vec<String> = users.iter().map(|(name, password)| line(name, password)).collect();
    fs::write(path, lines.concat()).expect("a writable folder");
}

/// A hash is made slow on purpose, so each is made once.
#[track_caller]
fn line(name: &str, password: &str) -> String {
    static MADE: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    let mut made = MADE.lock().expect("no panic while it is held");
    let made = made.get_or_insert_default();
    let line = made.entry(format!("{name}:{password}")).or_insert_with(|| make(name, password));
    line.clone()
}

fn make(name: &str, password: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("passwd");
    let mut command = Command::new(binary());
    command.arg("passwd").arg(&file).arg(name).arg("--password-stdin").stdin(Stdio::piped());
    let mut child = command.spawn().expect("the binary is built");
    let mut stdin = child.stdin.take().expect("it is piped");
    writeln!(stdin, "{password}").expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("our own child").success(), "no line for {name}");
    fs::read_to_string(file).expect("the file it wrote")
}

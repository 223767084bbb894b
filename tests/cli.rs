//! The built binary: what it says about configurations and wrong usage, and with which exit code.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
};

fn millstream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLSTREAM__") {
            command.env_remove(name);
        }
    }
    command
}

fn run(args: &[&str]) -> Output {
    millstream().args(args).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn a_good_file_is_reported_and_exits_0() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/millstream.toml");
    let output = run(&["check-config", example]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = stdout(&output);
    assert!(report.contains("  [mqtt]\n  tcp = \"127.0.0.1:1883\"\n"), "{report}");
    assert!(report.contains("1. \"#\" -> topic \"mqtt\""), "{report}");
    assert!(!report.contains("\n* "), "the example differs from the defaults: {report}");
    assert!(stderr(&output).is_empty());
}

#[test]
fn a_bad_file_is_told_line_by_line_and_exits_1() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bad.toml");
    fs::write(&path, "shard = 1\n[mqtt]\ntcp = \"0.0.0.0:1883\"\n").expect("written");
    let name = path.display().to_string();
    let output = run(&["check-config", &name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let errors = stderr(&output);
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "{errors}");
    assert_eq!(lines[0], format!("millstream: {name}:1: shard: is no setting; did you mean shards?"));
    assert!(lines[1].starts_with(&format!("millstream: {name}:3: mqtt.tcp = \"0.0.0.0:1883\": ")));
    assert!(lines[1].contains("mqtt.allow_anonymous = true"));
}

#[test]
fn a_bad_variable_is_told_by_its_name() {
    let mut command = millstream();
    command.args(["serve", "--admin", "127.0.0.1:0"]).env("MILLSTREAM__SHARDS", "many");
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "millstream: environment variable MILLSTREAM__SHARDS: shards = \"many\": \
         must be a whole number from 0 to 64\n"
    );
}

#[test]
fn wrong_usage_is_one_line_and_exits_2() {
    for args in [
        &["serve", "--mqtt", "1883"][..],
        &["serve", "--no-such-flag"],
        &["serve", "--log-level", "inof"],
        &["check-config"],
        &["mill"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let errors = stderr(&output);
        assert!(errors.starts_with("millstream: ") && errors.lines().count() == 1, "{errors}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(stdout(&version), concat!("millstream ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = run(&["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    for flag in ["--config", "--data-dir", "--mqtt", "--kafka", "--admin", "--log-format", "--log-level"] {
        assert!(stdout(&help).contains(flag), "{flag}");
    }
}

#[test]
fn serve_says_ready_answers_and_stops_at_sigterm() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = millstream();
    command.args(["serve", "--mqtt", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(folder.path().join("data"));
    command.stderr(Stdio::piped());
    let mut child = Running(command.spawn().expect("the binary runs"));
    let mut log = BufReader::new(child.0.stderr.take().expect("piped"));
    let ready = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).expect("a line") > 0, "ended before it was ready");
        if line.contains("INFO  ready ") {
            break line;
        }
    };
    let admin = ready.trim_end().split(' ').find_map(|field| field.strip_prefix("admin="));
    let admin = admin.expect("an admin address");
    let mut stream = TcpStream::connect(admin).expect("connects");
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let healthy = run(&["health", admin]);
    assert_eq!(healthy.status.code(), Some(0), "{}", stderr(&healthy));

    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    // Read on: a full pipe would keep it from ending.
    let _ = log.read_to_string(&mut String::new());
    assert_eq!(child.0.wait().expect("ended").code(), Some(0));
    let gone = run(&["health", admin]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).starts_with(&format!("millstream: {admin} does not answer: ")), "{}", stderr(&gone));
}

/// Ends with the test, also when that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Who is shut out by a reload, or by what a start finds, is out at once and everywhere: the built binary.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use support::PATIENCE;
use support::broker::{Broker, binary};
use support::mqtt::{Client, Connect, Packet, Publish, Version};

/// Of MQTT 5.0.
const NOT_AUTHORIZED: u8 = 0x87;
const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;

fn set_password(file: &Path, user: &str, password: &str) {
    let mut command = Command::new(binary());
    command.arg("passwd").arg(file).args([user, "--password-stdin"]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    writeln!(child.stdin.take().expect("piped"), "{password}").expect("it reads");
    assert!(child.wait().expect("our own child").success());
}

/// Has the broker read this configuration, and waits until it has said what came of it.
fn reload(broker: &Broker, toml: &str, outcome: &str) {
    fs::write(broker.folder().join("millstream.toml"), toml).expect("a writable folder");
    let before = broker.stderr().len();
    let pid = Pid::from_raw(broker.id() as i32).expect("a process");
    kill_process(pid, Signal::HUP).expect("our own child");
    let deadline = Instant::now() + PATIENCE;
    while !broker.stderr()[before..].contains(outcome) {
        assert!(Instant::now() < deadline, "no {outcome:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT of 5.0, the session to outlive it by an hour.
fn connect_packet(client_id: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([5, if user.is_some() { 0xC0 } else { 0 }, 0, 60, 5, 17, 0, 0, 14, 16]);
    body.extend(string(client_id));
    if let Some((name, password)) = user {
        body.extend(string(name));
        body.extend(string(password));
    }
    [&[0x10, body.len() as u8], &body[..]].concat()
}

fn connect(broker: &Broker, client_id: &str, user: Option<(&str, &str)>) -> (Client, u8) {
    let mut client = Client::bare(broker.mqtt(), Version::V5);
    client.send(&connect_packet(client_id, user));
    let code = connack(&mut client);
    (client, code)
}

fn connack(client: &mut Client) -> u8 {
    match client.try_recv(PATIENCE) {
        Ok(Packet::ConnAck(connack)) => connack.code,
        other => panic!("no CONNACK: {other:?}"),
    }
}

#[test]
fn a_user_who_is_gone_is_out_even_if_the_rules_cannot_be_taken() {
    let broker = Broker::prepared();
    let passwd = broker.folder().join("passwd");
    set_password(&passwd, "alice", "wonderland");
    set_password(&passwd, "bob", "builder");
    let toml = format!("password_file = {passwd:?}\n");
    let mut broker = broker.config(&toml);
    broker.restart();
    let (mut alice, code) = connect(&broker, "a", Some(("alice", "wonderland")));
    assert_eq!(code, 0);

    // The folder of the new rule's topic cannot be made.
    for id in 0..100 {
        fs::write(broker.data_dir().join(format!("topics/new.{id}")), "in the way").expect("a writable folder");
    }
    let text = fs::read_to_string(&passwd).expect("readable");
    let bob: String = text.lines().filter(|line| line.starts_with("bob:")).map(|line| format!("{line}\n")).collect();
    fs::write(&passwd, bob).expect("writable");
    let rule = "[[bridge.rule]]\nfilter = \"new/#\"\ntopic = \"new\"\nkey = \"{topic}\"\npartitions = 1\n";
    reload(&broker, &format!("{toml}{rule}"), "rules stay as they were");
    assert_eq!(alice.expect_closed(), Some(NOT_AUTHORIZED));
}

#[test]
fn an_anonymous_client_that_takes_its_time_is_judged_as_things_are_by_then() {
    let broker = Broker::with_config("");
    let mut slow = Client::bare(broker.mqtt(), Version::V5);
    // Accepted after it: it is being served by now.
    broker.connect(Connect::v5("other")).disconnect();
    reload(&broker, "[mqtt]\nallow_anonymous = false\n", "reloaded");
    slow.send(&connect_packet("slow", None));
    assert_eq!(connack(&mut slow), NOT_AUTHORIZED);
}

#[test]
fn nobody_takes_a_users_session_while_certificates_prove_names() {
    let broker = Broker::prepared();
    let (passwd, certs) = (broker.folder().join("passwd"), broker.folder().join("certs"));
    set_password(&passwd, "alice", "wonderland");
    assert!(Command::new(binary()).arg("certs").arg(&certs).output().expect("it runs").status.success());
    let mut broker = broker.config(&format!("password_file = {passwd:?}\n"));
    broker.restart();
    assert_eq!(connect(&broker, "hers", Some(("alice", "wonderland"))).1, 0);
    let toml = format!("[tls]\ncerts = {certs:?}\nuse_identity_as_username = true\n");
    fs::write(broker.folder().join("millstream.toml"), toml).expect("a writable folder");
    broker.restart_gracefully();
    assert_eq!(connect(&broker, "hers", None).1, CLIENT_IDENTIFIER_NOT_VALID);
    assert_eq!(connect(&broker, "other", None).1, 0);
    // Where no name can be proved at all, the devices of before get their sessions.
    fs::write(broker.folder().join("millstream.toml"), "").expect("a writable folder");
    broker.restart_gracefully();
    assert_eq!(connect(&broker, "hers", None).1, 0);
}

#[test]
fn strangers_together_fill_no_memory_and_keep_nobody_out() {
    let broker = Broker::with_config("[mqtt]\nconnect_timeout_s = 3600\n");
    // The beginning of a CONNECT of 1,040,000 bytes.
    let mut beginning = [&[0x10, 0x80, 0xBD, 0x3F], &string("MQTT")[..], &[4, 2, 0, 0]].concat();
    beginning.resize(1_000_000, 0);
    let mut strangers: Vec<_> = (0..40).map(|_| TcpStream::connect(broker.mqtt()).expect("it listens")).collect();
    // Some of them are closed before they have sent it.
    let sent: Vec<_> = strangers.iter_mut().map(|stranger| stranger.write_all(&beginning)).collect();
    let deadline = Instant::now() + PATIENCE;
    while !broker.stderr().contains("clients that are not let in yet") {
        assert!(Instant::now() < deadline, "none is refused: {sent:?}");
        thread::sleep(Duration::from_millis(5));
    }
    // One of a usual size comes in, and what the others had is free when they are gone.
    broker.connect(Connect::v5("usual")).disconnect();
    drop(strangers);
    let mut body = string("MQTT");
    body.extend([5, 0x80, 0, 60, 0]);
    body.extend(string("large"));
    body.extend(string(&"u".repeat(60_000)));
    let length = [0, 7, 14].map(|shift| (body.len() >> shift & 0x7F | if shift < 14 { 0x80 } else { 0 }) as u8);
    // It may come before the server has seen that they are gone.
    let is_let_in = || {
        let mut large = Client::bare(broker.mqtt(), Version::V5);
        let sent = large.try_send(&[&[0x10], &length[..], &body[..]].concat());
        sent.is_ok() && matches!(large.try_recv(PATIENCE), Ok(Packet::ConnAck(connack)) if connack.code == 0)
    };
    while !is_let_in() {
        assert!(Instant::now() < deadline, "what they had is still taken");
    }
}

#[test]
fn strangers_leave_the_log_its_files() {
    let broker = Broker::with_config("[bridge]\nsegment_bytes = 1048576\n");
    let mut client = broker.connect(Connect::v311("client"));
    let pid = Pid::from_raw(broker.id() as i32);
    let few = Rlimit { current: Some(200), maximum: Some(200) };
    prlimit(pid, Resource::Nofile, few).expect("our own child");
    let both = [broker.mqtt(), broker.kafka()].repeat(200);
    let strangers: Vec<_> = both.iter().map(|at| TcpStream::connect(at).expect("the kernel takes them")).collect();
    // Over many partitions, and more than a segment of each.
    for n in 0..120 {
        client.publish(Publish::new(&format!("topic/{}", n % 12), vec![0; 100_000]).qos(1));
    }
    assert!(broker.stderr().contains("the limit of open files (ulimit -n) is near"));
    assert!(!broker.stderr().contains("os error 24"), "the log wanted a file in vain");
    drop(strangers);
}

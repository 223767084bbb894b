//! SIGHUP and SIGTERM at awkward moments, at the built binary.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::PATIENCE;
use support::broker::Broker;

fn hang_up(broker: &Broker) {
    let pid = Pid::from_raw(broker.id() as i32).expect("a process");
    kill_process(pid, Signal::HUP).expect("our own child");
}

fn wait_for(broker: &mut Broker, line: &str, before: usize) {
    let deadline = Instant::now() + PATIENCE;
    while !broker.stderr()[before..].contains(line) {
        assert!(broker.is_running() && Instant::now() < deadline, "no {line:?}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// systemd does not start a process again that SIGHUP ended.
#[test]
fn a_sighup_during_the_start_is_heard_after_it() {
    let mut broker = Broker::start();
    for _ in 0..5 {
        broker.sigterm_and_wait();
        let before = broker.stderr().len();
        broker.spawn();
        wait_for(&mut broker, "log opened", before);
        hang_up(&broker);
        wait_for(&mut broker, "ready mqtt", before);
        wait_for(&mut broker, " reloaded", before);
    }
}

#[test]
fn a_reload_that_takes_its_time_does_not_hold_up_the_end() {
    let mut broker = Broker::with_config("");
    // Ten thousand folders are not made in the time of a signal.
    let rule = "[[bridge.rule]]\nfilter = \"new/#\"\ntopic = \"new\"\nkey = \"{topic}\"\npartitions = 10000\n";
    fs::write(broker.folder().join("millstream.toml"), rule).expect("a writable folder");
    hang_up(&broker);
    wait_for(&mut broker, "SIGHUP:", 0);
    let (status, _) = broker.sigterm_and_wait();
    assert!(status.success(), "{status}");
    assert!(broker.stderr().contains("stopping") && !broker.stderr().contains(" reloaded"), "the reload went first");
    // What it had begun is no matter for the next start.
    fs::write(broker.folder().join("millstream.toml"), "").expect("a writable folder");
    broker.restart();
}

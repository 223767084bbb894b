//! Everything at once, on this machine: a broker, sensors that publish over TLS, a consumer group of two.
//!
//!     cargo run --release --example demo                  until Ctrl-C
//!     cargo run --release --example demo -- --seconds 20
//!
//! The broker runs as a process of its own on free ports, in a temporary folder, with fresh certificates. Six sensors
//! (rumqttc) publish at QoS 1 over TLS; two members of the group `backend` (librdkafka) read what they say. The second
//! member leaves halfway, and the first takes over its partitions. At the end everything is counted: what was
//! acknowledged to a sensor and reached no member is lost, what reached one twice is doubled. Exits 0 if neither
//! happened.

mod account;
mod broker;
mod members;
mod sensors;

use std::error::Error;
use std::ffi::OsString;
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use account::Account;
use broker::Broker;
use members::Member;
use sensors::Sensors;

/// How long it runs before the second member leaves, and stays away, when nobody said how long to run.
const TURN: Duration = Duration::from_secs(10);
/// What is acknowledged has to reach a member within this time of the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the table is drawn.
const GLANCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // The broker is this program, too: whoever builds the demo has built it.
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "serve" || first == "certs") {
        return millstream::main(arguments);
    }
    match seconds(&arguments[1..]).map_err(Into::into).and_then(demo) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `--seconds N`, or nothing.
fn seconds(arguments: &[OsString]) -> Result<Option<Duration>, String> {
    let wrong = || "usage: demo [--seconds N], N from 2 on".to_owned();
    match arguments {
        [] => Ok(None),
        [flag, number] if flag == "--seconds" => {
            let number = number.to_str().and_then(|text| text.parse().ok()).filter(|n| *n >= 2);
            number.map(|n| Some(Duration::from_secs(n))).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Whether everything arrived, once.
fn demo(length: Option<Duration>) -> Result<bool, Box<dyn Error>> {
    let stop = stop_at_ctrl_c()?;
    let broker = Broker::start()?;
    println!("broker: MQTT over TLS on {}, Kafka on {}, data in {}", broker.mqtt_tls, broker.kafka, broker.folder());
    let account = Arc::new(Account::default());
    let mut first = Member::join("member 1", &broker.kafka, &account)?;
    let mut second = Some(Member::join("member 2", &broker.kafka, &account)?);
    let sensors = Sensors::start(&broker, &account)?;
    println!("sensors: {} of them, QoS 1, rumqttc over TLS; group backend: 2 members, librdkafka", sensors::COUNT);

    let began = Instant::now();
    let mut turn = length.map_or(TURN, |length| length / 2);
    let mut table = Table::default();
    while !stop.load(Ordering::Relaxed) && length.is_none_or(|length| began.elapsed() < length) {
        thread::sleep(GLANCE);
        if began.elapsed() >= turn {
            match second.take() {
                Some(leaving) => {
                    leaving.leave()?;
                    table.note("member 2 has left: its partitions go to member 1");
                }
                None if length.is_none() => {
                    second = Some(Member::join("member 2", &broker.kafka, &account)?);
                    table.note("member 2 is back");
                }
                None => {}
            }
            turn += TURN.max(length.unwrap_or_default());
        }
        table.draw(&account, [Some(&first), second.as_ref()]);
    }
    sensors.stop(PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    while account.outstanding() > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    // What came twice may come late.
    thread::sleep(GLANCE);
    first.leave_in_place()?;
    if let Some(second) = second {
        second.leave()?;
    }
    broker.stop()?;
    let count = account.count();
    println!("\n{count}");
    Ok(count.is_clean())
}

fn stop_at_ctrl_c() -> Result<Arc<AtomicBool>, Box<dyn Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            asked.store(true, Ordering::Relaxed);
        }
    });
    Ok(stop)
}

/// What each member reads per partition, drawn in place on a terminal.
#[derive(Default)]
struct Table {
    lines: usize,
    note: String,
}

impl Table {
    fn note(&mut self, text: &str) {
        text.clone_into(&mut self.note);
    }

    fn draw(&mut self, account: &Account, members: [Option<&Member>; 2]) {
        let count = account.count();
        let mut rows = vec![format!(
            "{:>9} sent {:>9} acknowledged {:>9} consumed   {}",
            count.sent, count.acknowledged, count.consumed, self.note
        )];
        for member in members.into_iter().flatten() {
            let partitions: Vec<String> = member.read().iter().map(|(at, n)| format!("p{at} {n:>8}")).collect();
            rows.push(format!("{:>9}: {}", member.name, partitions.join("   ")));
        }
        let mut text = String::new();
        if stdout().is_terminal() && self.lines > 0 {
            text += &format!("\x1b[{}A\x1b[J", self.lines);
        }
        self.lines = rows.len();
        text += &rows.join("\n");
        // Nobody may be looking any more.
        let _ = writeln!(stdout(), "{text}");
    }
}

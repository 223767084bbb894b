//! paho-mqtt (Python) as a publisher and as a subscriber: `with_paho.py`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;
use support::load::{END, FILTER, Got, Load, Run, Sent};

/// All of them, run by this Python, which has the package.
pub fn join(load: &mut Load, python: &str, mqtt: SocketAddr) {
    for (version, qos) in [("3.1.1", 1), ("5.0", 1), ("3.1.1", 2), ("5.0", 2)] {
        let (name, python) = (format!("paho-{version}-{qos}"), python.to_owned());
        load.publish(move |run| publish(&python, mqtt, version, Sent::new(&name, qos), run));
    }
    for (version, qos) in [("3.1.1", 1), ("5.0", 2)] {
        let name = format!("paho-subscriber-{qos}");
        let mut program = Program::start(python, "subscribe", mqtt, version, qos, &[&name, FILTER, END]);
        assert_eq!(program.line(), "subscribed\n", "{name}");
        load.subscribe(move |run| Got { messages: program.messages(run), name, qos, is_part: false });
    }
}

/// A running one; it is killed when the test gives up.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(python: &str, role: &str, mqtt: SocketAddr, version: &str, qos: u8, rest: &[&str]) -> Program {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill/with_paho.py");
        let mut command = Command::new(python);
        command.arg(script).args([role, &mqtt.port().to_string(), version, &qos.to_string()]).args(rest);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the Python that was named");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Program { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        line
    }

    /// What it says until it ends, which it does by itself unless the run is given up.
    fn rest(&mut self, run: &Run) -> String {
        let (child, stdout) = (&mut self.child, &mut self.stdout);
        let text = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut text = String::new();
                stdout.read_to_string(&mut text).map(|_| text)
            });
            while !reader.is_finished() {
                if run.is_aborted() {
                    // It may have ended just now.
                    let _ = child.kill();
                }
                thread::sleep(Duration::from_millis(20));
            }
            reader.join().expect("a pipe that is read")
        });
        let status = self.child.wait().expect("our own child");
        assert!(status.success() || run.is_aborted(), "paho ends with {status}, see above");
        text.expect("text")
    }

    fn messages(&mut self, run: &Run) -> Vec<(String, String)> {
        let text = self.rest(run);
        let pair = |line: &str| line.split_once(' ').map(|(topic, payload)| (topic.to_owned(), payload.to_owned()));
        text.lines().map(|line| pair(line).expect("a topic and a payload")).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, unless the test has given up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn publish(python: &str, mqtt: SocketAddr, version: &str, mut sent: Sent, run: &Run) -> Sent {
    let mut program = Program::start(python, "publish", mqtt, version, sent.qos, &[&sent.name]);
    while !run.is_draining() && !run.is_aborted() {
        assert!(program.child.try_wait().expect("our own child").is_none(), "{} ended, see above", sent.name);
        thread::sleep(Duration::from_millis(20));
    }
    let stdin = program.child.stdin.as_mut().expect("it is piped");
    // It may have been killed with the run.
    let _ = stdin.write_all(b"drain\n");
    let told = program.rest(run);
    if !run.is_aborted() {
        sent.count = told.trim().parse().expect("a number");
    }
    sent
}

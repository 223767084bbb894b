//! The built binary as a child process with a data folder and ports of its own.

use crate::mqtt::{Client, Connect, Publish};
use crate::ports::{Lease, lease};
use crate::{PATIENCE, eventually, http};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take, recovery included.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The binary under test: `MILLSTREAM_BIN`, else the one cargo built beside these tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MILLSTREAM_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    // target/debug/deps/first_slice-0123 → target/debug/millstream
    let folder = test.ancestors().nth(2).expect("target/debug");
    folder.join("millstream")
}

/// A listener beside those of the default configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// MQTT over TLS
    MqttTls,
    /// MQTT over WebSocket
    Ws,
    /// MQTT over WebSocket over TLS
    Wss,
    /// Kafka over TLS
    KafkaTls,
}

/// A broker under test. Dropped, it is killed; if its test failed, its last words are shown.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    mqtt: Lease,
    kafka: Lease,
    admin: Lease,
    has_config: bool,
    kafka_by_flag: bool,
    further: Vec<(Way, Lease)>,
    certs: Option<PathBuf>,
    data_dir: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Broker {
    /// Starts with the default configuration and waits until it is ready.
    #[track_caller]
    pub fn start() -> Broker {
        let mut broker = Broker::prepared();
        broker.restart();
        broker
    }

    /// Starts with this configuration file.
    #[track_caller]
    pub fn with_config(toml: &str) -> Broker {
        let mut broker = Broker::prepared().config(toml);
        broker.restart();
        broker
    }

    /// Starts with these environment variables.
    #[track_caller]
    pub fn with_environment(variables: &[(&str, &str)]) -> Broker {
        let mut broker = Broker::prepared();
        broker.set_environment(variables);
        broker.restart();
        broker
    }

    /// A folder and ports; not started.
    pub fn prepared() -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Broker {
            data_dir: folder.path().join("data"),
            folder,
            mqtt: lease(),
            kafka: lease(),
            admin: lease(),
            has_config: false,
            kafka_by_flag: true,
            further: Vec::new(),
            certs: None,
            environment: Vec::new(),
            child: None,
        }
    }

    /// Writes the configuration file of the next start.
    pub fn config(mut self, toml: &str) -> Broker {
        self.write_config(toml);
        self
    }

    /// Writes the configuration file of the next start or reload.
    pub fn write_config(&mut self, toml: &str) {
        fs::write(self.config_path(), toml).expect("a writable folder");
        self.has_config = true;
    }

    /// Writes a file into its folder, which is also its working directory.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder().join(name), text).expect("a writable folder");
    }

    /// Listens in these ways too.
    pub fn listen(mut self, ways: &[Way]) -> Broker {
        self.further.extend(ways.iter().map(|way| (*way, lease())));
        self
    }

    /// Starts with `--certs` and this folder.
    pub fn certs(mut self, folder: &Path) -> Broker {
        self.certs = Some(folder.to_owned());
        self
    }

    /// Keeps its data in this folder instead of its own.
    pub fn data_in(mut self, folder: &Path) -> Broker {
        self.data_dir = folder.to_owned();
        self
    }

    /// Leaves `--kafka` away, so that the configuration file says what becomes of it.
    pub fn kafka_by_config(mut self) -> Broker {
        self.kafka_by_flag = false;
        self
    }

    /// Sets the environment variables of the next start.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// Where its configuration file is, or would be.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("millstream.toml")
    }

    fn stderr_path(&self) -> PathBuf {
        self.folder.path().join("stderr")
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A folder that lives as long as this broker.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of its MQTT listener.
    pub fn mqtt(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.mqtt.port).into()
    }

    /// The address of its Kafka listener.
    pub fn kafka(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.kafka.port).into()
    }

    /// The address of a further listener.
    #[track_caller]
    pub fn at(&self, way: Way) -> SocketAddr {
        let lease = self.further.iter().find_map(|(known, lease)| (*known == way).then_some(lease));
        (Ipv4Addr::LOCALHOST, lease.expect("it was told to listen so").port).into()
    }

    /// The address of its admin listener.
    pub fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.admin.port).into()
    }

    /// The command line that starts it; its stderr goes wherever the caller sends it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("serve").stdin(Stdio::null());
        if self.has_config {
            command.arg("--config").arg(self.config_path());
        }
        command.arg("--data-dir").arg(self.data_dir());
        command.arg("--mqtt").arg(self.mqtt().to_string());
        if self.kafka_by_flag {
            command.arg("--kafka").arg(self.kafka().to_string());
        }
        command.arg("--admin").arg(self.admin().to_string());
        for (way, _) in &self.further {
            let address = self.at(*way).to_string();
            let flag = match way {
                Way::MqttTls => "--mqtt-tls",
                Way::Ws => "--mqtt-ws",
                Way::Wss => "--mqtt-wss",
                Way::KafkaTls => "--kafka-tls",
            };
            command.arg(flag).arg(address);
        }
        if let Some(folder) = &self.certs {
            command.arg("--certs").arg(folder);
        }
        command.current_dir(self.folder.path());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts on the folder and ports it has, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Starts on the folder and ports it has; it may not be ready for a while.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let stderr = File::options().create(true).append(true).open(self.stderr_path());
        let stderr = stderr.expect("a writable folder");
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("the binary is built");
        self.child = Some(child);
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if http::get(self.admin(), "/ready").is_ok_and(|answer| answer.status == 200) {
                return;
            }
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("it ended at start with {status}");
            }
            assert!(Instant::now() < deadline, "not ready within {START_LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process id.
    #[track_caller]
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("our own child").is_none(),
            None => false,
        }
    }

    /// `kill -9`, and nothing else.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// `kill -9` and a start on the same folder and ports.
    #[track_caller]
    pub fn kill9_and_restart(&mut self) {
        self.kill9();
        self.restart();
    }

    /// SIGTERM, and nothing else.
    #[track_caller]
    pub fn sigterm(&self) {
        let child = self.child.as_ref().expect("it is running");
        kill_process(Pid::from_child(child), Signal::TERM).expect("our own child");
    }

    /// SIGTERM; gives how it ended and how long that took.
    #[track_caller]
    pub fn sigterm_and_wait(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.sigterm();
        let mut child = self.child.take().expect("it is running");
        let status = wait_for_exit(&mut child);
        (status.expect("it ends after SIGTERM"), asked.elapsed())
    }

    /// SIGTERM and a start on the same folder and ports.
    #[track_caller]
    pub fn restart_gracefully(&mut self) {
        let (status, _) = self.sigterm_and_wait();
        assert!(status.success(), "SIGTERM ends with {status}");
        self.restart();
    }

    /// SIGHUP; waits until the log says what became of it, and gives what the log said by then.
    #[track_caller]
    pub fn reload(&mut self) -> String {
        let before = self.stderr().len();
        let child = self.child.as_ref().expect("it is running");
        kill_process(Pid::from_child(child), Signal::HUP).expect("our own child");
        eventually("the end of a reload", || {
            let said = self.stderr().split_off(before);
            let over = |line: &str| line.contains("reloaded");
            // Whole lines only.
            let whole = &said[..said.rfind('\n')? + 1];
            whole.lines().any(over).then(|| whole.to_owned())
        })
    }

    /// Waits for a line of the log that contains each of these, and gives it.
    #[track_caller]
    pub fn log_line(&self, named: &[&str]) -> String {
        eventually(&format!("a line in the log with {named:?}"), || {
            let words = self.stderr();
            let tells = |line: &&str| named.iter().all(|name| line.contains(name));
            words.lines().find(tells).map(str::to_owned)
        })
    }

    /// A start that must fail; gives what it says.
    #[track_caller]
    pub fn fails_to_start(&self) -> String {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        let status = wait_for_exit(&mut child).expect("it gives up");
        let mut words = String::new();
        let mut stderr = child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut words).expect("text");
        assert!(!status.success(), "it started:\n{words}");
        assert!(!words.contains("panicked"), "{words}");
        words
    }

    /// Everything it has written to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_path()).unwrap_or_default()
    }

    /// Connects an MQTT client, which must be let in.
    #[track_caller]
    pub fn connect(&self, connect: Connect) -> Client {
        let client = Client::connect(self.mqtt(), &connect);
        assert_eq!(client.connack.code, 0, "refused: {:?}", client.connack);
        client
    }

    /// Publishes one message from a client of its own and waits for its acknowledgement.
    #[track_caller]
    pub fn publish(&self, publish: Publish) {
        let mut client = self.connect(Connect::v5("").clean(true));
        assert!(client.publish(publish) < 0x80, "refused");
        client.disconnect();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing left to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let words = self.stderr();
            let lines: Vec<&str> = words.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("---- the broker's stderr ends so ----\n{}", tail.join("\n"));
        }
    }
}

/// Waits for a child to end, not for ever.
pub fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    // It is ours and must not outlive the test that gave up on it.
    let _ = child.kill();
    let _ = child.wait();
    None
}

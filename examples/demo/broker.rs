//! Millstream as a process of its own: free ports, a temporary folder, fresh certificates.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// From SIGTERM to the end of the process.
const STOP: Duration = Duration::from_secs(10);

/// A running broker; killed when dropped.
pub struct Broker {
    child: Child,
    folder: TempDir,
    /// `host:port` of MQTT over TLS.
    pub mqtt_tls: String,
    /// `host:port` of Kafka.
    pub kafka: String,
}

impl Broker {
    /// Makes certificates and starts; returns when it says that it is ready.
    pub fn start() -> Result<Broker, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let certs = folder.path().join("certs");
        let this = std::env::current_exe()?;
        let made = Command::new(&this).arg("certs").arg(&certs).stdout(Stdio::null()).status()?;
        if !made.success() {
            return Err("the certificates could not be made".into());
        }
        let mut command = Command::new(&this);
        command.arg("serve").arg("--data-dir").arg(folder.path().join("data")).arg("--certs").arg(&certs);
        for (flag, address) in
            [("--mqtt", "off"), ("--mqtt-tls", "127.0.0.1:0"), ("--kafka", "127.0.0.1:0"), ("--admin", "off")]
        {
            command.args([flag, address]);
        }
        // Ctrl-C is for the demo: the broker goes last.
        command.process_group(0);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let mut broker = Broker { child, folder, mqtt_tls: String::new(), kafka: String::new() };
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let ready = loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(" ready ") => break line,
                Some(Ok(line)) => said.push(line),
                _ => return Err(format!("the broker does not start:\n{}", said.join("\n")).into()),
            }
        };
        broker.mqtt_tls = value(&ready, "mqtt_tls=").ok_or("no mqtt_tls in the broker's ready line")?;
        broker.kafka = value(&ready, "kafka=").ok_or("no kafka in the broker's ready line")?;
        // From here on its trouble is the user's to see.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("ERROR") || line.contains("WARN")) {
                eprintln!("broker: {line}");
            }
        });
        Ok(broker)
    }

    /// The folder with everything, for the time being.
    pub fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// The CA that its certificate goes back to, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("certs/ca.crt")
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> Result<(), Box<dyn Error>> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(format!("the broker ended with {status}").into()) };
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("the broker does not end".into())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

fn value(line: &str, key: &str) -> Option<String> {
    line.split(' ').find_map(|word| word.strip_prefix(key)).map(str::to_owned)
}

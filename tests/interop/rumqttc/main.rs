//! rumqttc, MQTT 3.1.1 and 5.0. Arguments: address, first level of the topics to use, list of steps (mqtt,
//! password). The environment, and what is told on stdout, are explained in ../steps.py.

mod connection;
mod steps;
mod steps_5;

use std::{cell::Cell, env, error::Error, io::Write, process::ExitCode};

use connection::{Connection, Options, Version};
use rumqttc::QoS;

type Told<T = ()> = Result<T, Box<dyn Error>>;

/// Where to go, and with what.
struct Run {
    address: String,
    root: String,
    version: Version,
    /// Clients so far that have no name.
    unnamed: Cell<u32>,
}

impl Run {
    fn options(&self, id: &str) -> Options {
        Options {
            version: self.version,
            address: self.address.clone(),
            id: format!("{}-{id}", self.root),
            keep_s: 0,
            will: None,
            will_delay_s: 0,
            alias_max: 0,
            password: env::var("INTEROP_PASSWORD").unwrap_or_default(),
        }
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.root)
    }

    async fn connect(&self) -> Told<Connection> {
        self.unnamed.update(|count| count + 1);
        Connection::open(self.options(&self.unnamed.get().to_string())).await
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, due: T) -> Told {
    if got == due { Ok(()) } else { Err(format!("got {got:?}, due {due:?}").into()) }
}

async fn tell(name: String, step: impl Future<Output = Told>) {
    let line = match step.await {
        Ok(()) => format!("PASS {name}"),
        Err(error) => format!("FAIL {name}: {}", error.to_string().replace('\n', " ")),
    };
    // Whoever reads this counts a line that is missing as a failure.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, root, list] = &arguments[..] else {
        eprintln!("usage: interop_rumqttc ADDRESS ROOT mqtt|password");
        return ExitCode::from(2);
    };
    println!("VERSION {}", connection::rumqttc_version());
    for version in [Version::V311, Version::V5] {
        let root = format!("{root}-{}", version.name());
        let run = Run { address: address.clone(), root, version, unnamed: Cell::new(0) };
        let name = |step: &str| format!("{} {step}", version.name());
        if list == "password" {
            tell(name("right password"), run.right_password()).await;
            tell(name("wrong password"), run.wrong_password()).await;
            continue;
        }
        // All at once: some wait for time to pass.
        tokio::join!(
            tell(name("QoS 0"), run.at_qos(QoS::AtMostOnce)),
            tell(name("QoS 1"), run.at_qos(QoS::AtLeastOnce)),
            tell(name("QoS 2"), run.at_qos(QoS::ExactlyOnce)),
            tell(name("retained"), run.retained()),
            tell(name("will"), run.will()),
            tell(name("persistent session"), run.persistent_session()),
            tell(name("shared subscription"), run.shared_subscription()),
            async {
                if matches!(version, Version::V5) {
                    run.tell_5().await;
                }
            },
        );
    }
    ExitCode::SUCCESS
}

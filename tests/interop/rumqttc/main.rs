//! rumqttc, MQTT 3.1.1 and 5.0. Arguments: address, first level of the topics to use, list of steps (mqtt,
//! password). The environment, and what is told on stdout, are explained in ../steps.py.

mod connection;

use std::{env, error::Error, io::Write, process::ExitCode};

use connection::{Connection, Heard, Options, Version};
use rumqttc::QoS;

type Told<T = ()> = Result<T, Box<dyn Error>>;

/// Where to go, and with what.
struct Run {
    address: String,
    root: String,
    version: Version,
}

impl Run {
    fn options(&self, id: &str) -> Options {
        Options {
            version: self.version,
            address: self.address.clone(),
            id: format!("{}-{id}", self.root),
            keep: false,
            will: None,
            password: env::var("INTEROP_PASSWORD").unwrap_or_default(),
        }
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.root)
    }

    async fn connect(&self, id: &str) -> Told<Connection> {
        Connection::open(self.options(id)).await
    }

    async fn at_qos(&self, qos: QoS) -> Told {
        let topic = self.topic(&format!("qos{}/a", qos as u8));
        let mut subscriber = self.connect("subscriber").await?;
        subscriber.subscribe(&self.topic(&format!("qos{}/#", qos as u8)), QoS::ExactlyOnce).await?;
        let mut publisher = self.connect("publisher").await?;
        for n in 0..100 {
            publisher.publish(&topic, qos, false, &format!("v{n}")).await?;
        }
        let got = subscriber.take(100).await?;
        let due: Vec<_> = (0..100).map(|n| message(&topic, qos, false, &format!("v{n}"))).collect();
        subscriber.close().await?;
        publisher.close().await?;
        equal(got, due)
    }

    async fn retained(&self) -> Told {
        let (on, gone, live) = (self.topic("kept/a"), self.topic("kept/gone"), self.topic("kept/b"));
        let mut publisher = self.connect("publisher").await?;
        publisher.publish(&gone, QoS::AtLeastOnce, true, "off").await?;
        publisher.publish(&gone, QoS::AtLeastOnce, true, "").await?;
        publisher.publish(&on, QoS::AtLeastOnce, true, "on").await?;
        let mut subscriber = self.connect("subscriber").await?;
        subscriber.subscribe(&self.topic("kept/#"), QoS::AtLeastOnce).await?;
        // What is not retained comes behind what is.
        publisher.publish(&live, QoS::AtLeastOnce, false, "live").await?;
        let got = subscriber.take(2).await?;
        subscriber.close().await?;
        publisher.close().await?;
        let due = [(&on, true, "on"), (&live, false, "live")]
            .map(|(topic, retain, payload)| message(topic, QoS::AtLeastOnce, retain, payload));
        equal(got, due.to_vec())
    }

    async fn will(&self) -> Told {
        let topic = self.topic("will");
        let mut subscriber = self.connect("subscriber").await?;
        subscriber.subscribe(&topic, QoS::AtLeastOnce).await?;
        let dying = Options { will: Some(topic.clone()), ..self.options("dying") };
        Connection::open(dying).await?.cut();
        let got = subscriber.take(1).await?;
        subscriber.close().await?;
        equal(got, vec![message(&topic, QoS::AtLeastOnce, false, "gone")])
    }

    async fn kept_while_away(&self) -> Told {
        let topic = self.topic("away/a");
        let session = || Options { keep: true, ..self.options("session") };
        let mut before = Connection::open(session()).await?;
        equal(before.session_present, false)?;
        before.subscribe(&self.topic("away/#"), QoS::AtLeastOnce).await?;
        before.close().await?;
        let mut publisher = self.connect("publisher").await?;
        for n in 0..10 {
            publisher.publish(&topic, QoS::AtLeastOnce, false, &format!("v{n}")).await?;
        }
        publisher.close().await?;
        let mut after = Connection::open(session()).await?;
        equal(after.session_present, true)?;
        let got = after.take(10).await?;
        after.close().await?;
        let due: Vec<_> = (0..10).map(|n| message(&topic, QoS::AtLeastOnce, false, &format!("v{n}"))).collect();
        equal(got, due)
    }

    async fn right_password(&self) -> Told {
        let topic = self.topic("secret");
        let mut client = self.connect("right").await?;
        client.subscribe(&topic, QoS::AtLeastOnce).await?;
        client.publish(&topic, QoS::AtLeastOnce, false, "told").await?;
        let got = client.take(1).await?;
        client.close().await?;
        equal(got, vec![message(&topic, QoS::AtLeastOnce, false, "told")])
    }

    async fn wrong_password(&self) -> Told {
        let wrong = Options { password: "not the password".to_owned(), ..self.options("wrong") };
        match Connection::open(wrong).await {
            Ok(_) => Err("it was let in".into()),
            Err(refused) => equal(refused.to_string(), "refused: BadUserNamePassword".to_owned()),
        }
    }
}

fn message(topic: &str, qos: QoS, retain: bool, payload: &str) -> Heard {
    Heard::Message { topic: topic.to_owned(), qos: qos as u8, retain, payload: payload.to_owned() }
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, due: T) -> Told {
    if got == due { Ok(()) } else { Err(format!("got {got:?}, due {due:?}").into()) }
}

fn tell(name: &str, told: Told) {
    let line = match told {
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
        let run = Run { address: address.clone(), root, version };
        let name = |step: &str| format!("{} {step}", version.name());
        if list == "password" {
            tell(&name("right password"), run.right_password().await);
            tell(&name("wrong password"), run.wrong_password().await);
            continue;
        }
        tell(&name("QoS 0"), run.at_qos(QoS::AtMostOnce).await);
        tell(&name("QoS 1"), run.at_qos(QoS::AtLeastOnce).await);
        tell(&name("QoS 2"), run.at_qos(QoS::ExactlyOnce).await);
        tell(&name("retained"), run.retained().await);
        tell(&name("will"), run.will().await);
        tell(&name("kept while away"), run.kept_while_away().await);
    }
    ExitCode::SUCCESS
}

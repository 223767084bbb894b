//! The steps of both versions.

use rumqttc::QoS;

use crate::{
    Run, Told,
    connection::{Connection, Message, Options},
    equal,
};

impl Run {
    pub async fn at_qos(&self, qos: QoS) -> Told {
        let topic = self.topic(&format!("qos{}/a", qos as u8));
        let mut subscriber = self.connect().await?;
        subscriber.subscribe(&self.topic(&format!("qos{}/#", qos as u8)), QoS::ExactlyOnce).await?;
        let mut publisher = self.connect().await?;
        for n in 0..100 {
            publisher.publish(&topic, qos, false, &format!("v{n}")).await?;
        }
        let got = subscriber.take(100).await?;
        let due: Vec<_> = (0..100).map(|n| message(&topic, qos, false, &format!("v{n}"))).collect();
        subscriber.close().await?;
        publisher.close().await?;
        equal(got, due)
    }

    pub async fn retained(&self) -> Told {
        let (on, gone, live) = (self.topic("kept/a"), self.topic("kept/gone"), self.topic("kept/b"));
        let mut publisher = self.connect().await?;
        publisher.publish(&gone, QoS::AtLeastOnce, true, "off").await?;
        publisher.publish(&gone, QoS::AtLeastOnce, true, "").await?;
        publisher.publish(&on, QoS::AtLeastOnce, true, "on").await?;
        let mut subscriber = self.connect().await?;
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

    pub async fn will(&self) -> Told {
        let topic = |name: &str| self.topic(&format!("will/{name}"));
        let mut subscriber = self.connect().await?;
        subscriber.subscribe(&topic("#"), QoS::AtLeastOnce).await?;
        let dying = |name| Connection::open(Options { will: Some(topic(name)), ..self.options(name) });
        // One who says DISCONNECT leaves none.
        dying("none").await?.close().await?;
        dying("gone").await?.cut();
        let got = subscriber.take(1).await?;
        subscriber.close().await?;
        equal(got, vec![message(&topic("gone"), QoS::AtLeastOnce, false, "gone")])
    }

    pub async fn persistent_session(&self) -> Told {
        let topic = self.topic("away/a");
        let session = || Options { keep_s: 3_600, ..self.options("session") };
        let mut before = Connection::open(session()).await?;
        equal(before.session_present, false)?;
        before.subscribe(&self.topic("away/#"), QoS::ExactlyOnce).await?;
        before.close().await?;
        let qos = |n| if n < 5 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let mut publisher = self.connect().await?;
        for n in 0..10 {
            publisher.publish(&topic, qos(n), false, &format!("v{n}")).await?;
        }
        publisher.close().await?;
        let mut after = Connection::open(session()).await?;
        equal(after.session_present, true)?;
        let got = after.take(10).await?;
        after.close().await?;
        let due: Vec<_> = (0..10).map(|n| message(&topic, qos(n), false, &format!("v{n}"))).collect();
        equal(got, due)
    }

    pub async fn shared_subscription(&self) -> Told {
        let mut publisher = self.connect().await?;
        let mut members = [self.connect().await?, self.connect().await?];
        for member in &mut members {
            member.subscribe(&format!("$share/group/{}", self.topic("shared/#")), QoS::AtLeastOnce).await?;
            member.subscribe(&self.topic("end"), QoS::AtLeastOnce).await?;
        }
        for n in 0..100 {
            publisher.publish(&self.topic("shared/a"), QoS::AtLeastOnce, false, &n.to_string()).await?;
        }
        publisher.publish(&self.topic("end"), QoS::AtLeastOnce, false, "end").await?;
        publisher.close().await?;
        let mut all = Vec::new();
        for mut member in members {
            let part = member.take_until("end").await?;
            member.close().await?;
            equal(part.is_empty(), false)?;
            all.extend(part.iter().map(|n| n.parse()).collect::<Result<Vec<u32>, _>>()?);
        }
        all.sort_unstable();
        equal(all, (0..100).collect())
    }

    pub async fn right_password(&self) -> Told {
        let topic = self.topic("secret");
        let mut client = self.connect().await?;
        client.subscribe(&topic, QoS::AtLeastOnce).await?;
        client.publish(&topic, QoS::AtLeastOnce, false, "told").await?;
        let got = client.take(1).await?;
        client.close().await?;
        equal(got, vec![message(&topic, QoS::AtLeastOnce, false, "told")])
    }

    pub async fn wrong_password(&self) -> Told {
        let wrong = Options { password: "not the password".to_owned(), ..self.options("wrong") };
        match Connection::open(wrong).await {
            Ok(_) => Err("it was let in".into()),
            Err(refused) => equal(refused.to_string(), "refused: BadUserNamePassword".to_owned()),
        }
    }
}

fn message(topic: &str, qos: QoS, retain: bool, payload: &str) -> Message {
    let (topic, payload) = (topic.to_owned(), payload.to_owned());
    Message { topic, qos: qos as u8, retain, payload, properties: Default::default() }
}

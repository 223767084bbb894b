//! The steps that are 5.0's alone.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use rumqttc::{
    QoS,
    v5::mqttbytes::{
        self,
        v5::{Filter, PublishProperties, RetainForwardRule},
    },
};
use tokio::{task, time};

use crate::{
    Run, Told,
    connection::{Connection, Message, Options},
    equal, tell,
};

/// Longer than an expiry of 1 s.
const EXPIRED: Duration = Duration::from_millis(1_500);

impl Run {
    /// All at once: some wait for time to pass.
    pub async fn tell_5(&self) {
        let name = |step: &str| format!("5.0 {step}");
        tokio::join!(
            tell(name("retain handling"), self.retain_handling()),
            tell(name("retain as published"), self.retain_as_published()),
            tell(name("no local"), self.no_local()),
            tell(name("subscription identifiers"), self.subscription_identifiers()),
            tell(name("user properties"), self.user_properties()),
            tell(name("topic alias to the broker"), self.topic_alias_to_broker()),
            tell(name("topic alias from the broker"), self.topic_alias_from_broker()),
            tell(name("message expiry"), self.message_expiry()),
            tell(name("session expiry"), self.session_expiry()),
            tell(name("will delay"), self.will_delay()),
            tell(name("request and response"), self.request_and_response()),
            tell(name("answers mosquitto_rr"), self.answers_mosquitto_rr()),
            tell(name("reason for a DISCONNECT"), self.reason_for_a_disconnect()),
        );
    }

    async fn retain_handling(&self) -> Told {
        use RetainForwardRule::{Never, OnEverySubscribe as Always, OnNewSubscribe as New};
        let kept = self.topic("handling/a");
        let mut publisher = self.connect().await?;
        publisher.publish(&kept, QoS::AtLeastOnce, true, "kept").await?;
        let due: [&[_]; 3] = [
            &[(Always, true), (New, false), (Always, true), (Never, false)],
            &[(New, true), (New, false)],
            &[(Never, false), (Always, true)],
        ];
        for subscriptions in due {
            let mut subscriber = self.connect().await?;
            for (rule, due) in subscriptions {
                let filter = Filter { retain_forward_rule: rule.clone(), ..filter(&self.topic("handling/#")) };
                subscriber.subscribe_5(filter, None).await?;
                publisher.publish(&self.topic("handling/b"), QoS::AtLeastOnce, false, "end").await?;
                let got = subscriber.take_until("end").await?;
                equal((rule, got == ["kept"]), (rule, *due))?;
            }
            subscriber.close().await?;
        }
        publisher.close().await
    }

    async fn retain_as_published(&self) -> Told {
        let topic = self.topic("flag");
        let (mut publisher, mut one, mut other) = (self.connect().await?, self.connect().await?, self.connect().await?);
        one.subscribe_5(Filter { preserve_retain: true, ..filter(&topic) }, None).await?;
        other.subscribe(&topic, QoS::AtLeastOnce).await?;
        publisher.publish(&topic, QoS::AtLeastOnce, true, "up").await?;
        publisher.publish(&topic, QoS::AtLeastOnce, false, "down").await?;
        for (client, due) in [(&mut one, vec![true, false]), (&mut other, vec![false, false])] {
            equal(each(client.take(2).await?, |message| message.retain), due)?;
        }
        close([publisher, one, other]).await
    }

    async fn no_local(&self) -> Told {
        let topic = self.topic("local");
        let (mut one, mut other) = (self.connect().await?, self.connect().await?);
        one.subscribe_5(Filter { nolocal: true, ..filter(&topic) }, None).await?;
        one.publish(&topic, QoS::AtLeastOnce, false, "own").await?;
        other.publish(&topic, QoS::AtLeastOnce, false, "other's").await?;
        equal(one.take_until("other's").await?, Vec::new())?;
        close([one, other]).await
    }

    async fn subscription_identifiers(&self) -> Told {
        let mut client = self.connect().await?;
        client.subscribe_5(filter(&self.topic("number/#")), Some(7)).await?;
        client.subscribe_5(filter(&self.topic("number/+")), Some(268_435_455)).await?;
        client.publish(&self.topic("number/a"), QoS::AtLeastOnce, false, "both").await?;
        client.publish(&self.topic("number/a/b"), QoS::AtLeastOnce, false, "one").await?;
        let mut got = each(client.take(2).await?, |message| message.properties.subscription_identifiers);
        got.iter_mut().for_each(|identifiers| identifiers.sort_unstable());
        equal(got, vec![vec![7, 268_435_455], vec![7]])?;
        client.close().await
    }

    async fn user_properties(&self) -> Told {
        let pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1"), ("", "")];
        let due = PublishProperties {
            user_properties: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            content_type: Some("text/plain".to_owned()),
            payload_format_indicator: Some(1),
            ..PublishProperties::default()
        };
        let mut client = self.connect().await?;
        client.subscribe(&self.topic("pairs"), QoS::AtLeastOnce).await?;
        client.publish_5(&self.topic("pairs"), false, "x", due.clone()).await?;
        equal(each(client.take(1).await?, |message| message.properties), vec![due])?;
        client.close().await
    }

    async fn topic_alias_to_broker(&self) -> Told {
        let mut client = self.connect().await?;
        client.subscribe(&self.topic("alias/#"), QoS::AtLeastOnce).await?;
        for (topic, alias) in [("a", 1), ("", 1), ("b", 2), ("", 1), ("", 2), ("c", 1), ("", 1)] {
            let topic = if topic.is_empty() { String::new() } else { self.topic(&format!("alias/{topic}")) };
            let properties = PublishProperties { topic_alias: Some(alias), ..PublishProperties::default() };
            client.publish_5(&topic, false, "x", properties).await?;
        }
        let due = ["a", "a", "b", "a", "b", "c", "c"].map(|topic| self.topic(&format!("alias/{topic}")));
        equal(each(client.take(7).await?, |message| message.topic), due.to_vec())?;
        client.close().await
    }

    async fn topic_alias_from_broker(&self) -> Told {
        let mut client = Connection::open(Options { alias_max: 2, ..self.options("aliased") }).await?;
        client.subscribe(&self.topic("alias-from/#"), QoS::AtLeastOnce).await?;
        let topics = ["a", "b", "c", "a", "b", "c"].map(|topic| self.topic(&format!("alias-from/{topic}")));
        for topic in &topics {
            client.publish(topic, QoS::AtLeastOnce, false, "x").await?;
        }
        let got = each(client.take(6).await?, |message| (message.topic, message.properties.topic_alias));
        let aliases = [Some(1), Some(2), None, Some(1), Some(2), None];
        equal(got, topics.into_iter().zip(aliases).collect())?;
        client.close().await
    }

    async fn message_expiry(&self) -> Told {
        let session = || Options { keep_s: 3_600, ..self.options("expiry") };
        let mut before = Connection::open(session()).await?;
        before.subscribe(&self.topic("expiry/queued/#"), QoS::AtLeastOnce).await?;
        before.close().await?;
        let mut publisher = self.connect().await?;
        for (way, retain) in [("queued", false), ("retained", true)] {
            for expiry_s in [1, 60] {
                let topic = self.topic(&format!("expiry/{way}/{expiry_s}"));
                let properties =
                    PublishProperties { message_expiry_interval: Some(expiry_s), ..PublishProperties::default() };
                publisher.publish_5(&topic, retain, way, properties).await?;
            }
        }
        time::sleep(EXPIRED).await;
        let mut after = Connection::open(session()).await?;
        after.subscribe(&self.topic("expiry/retained/#"), QoS::AtLeastOnce).await?;
        publisher.publish(&self.topic("expiry/queued/end"), QoS::AtLeastOnce, false, "end").await?;
        let got = after.take(3).await?;
        // Counted down.
        let counted = |message: &Message| message.properties.message_expiry_interval.map(|s| (50..60).contains(&s));
        let got = each(got, |message| (counted(&message), message.payload));
        let due = [(Some(true), "queued"), (Some(true), "retained"), (None, "end")];
        equal(got, due.map(|(counted, payload)| (counted, payload.to_owned())).to_vec())?;
        close([publisher, after]).await
    }

    /// (rumqttc cannot change it with its DISCONNECT.)
    async fn session_expiry(&self) -> Told {
        let due = [("a", 1, false), ("b", 3_600, true)];
        let session = |name, keep_s| Connection::open(Options { keep_s, ..self.options(&format!("session-{name}")) });
        for (name, keep_s, _) in due {
            session(name, keep_s).await?.close().await?;
        }
        time::sleep(EXPIRED).await;
        for (name, _, present) in due {
            let client = session(name, 1).await?;
            equal((name, client.session_present), (name, present))?;
            client.close().await?;
        }
        Ok(())
    }

    async fn will_delay(&self) -> Told {
        let topic = |name: &str| self.topic(&format!("late/{name}"));
        let session = |name| Options { keep_s: 3_600, ..self.options(&format!("late-{name}")) };
        let dying = |name| Connection::open(Options { will: Some(topic(name)), will_delay_s: 1, ..session(name) });
        let mut subscriber = self.connect().await?;
        subscriber.subscribe(&topic("#"), QoS::AtLeastOnce).await?;
        // One who is back in time leaves no will.
        dying("back").await?.cut();
        let gone = dying("gone").await?;
        let at = Instant::now();
        gone.cut();
        let back = Connection::open(session("back")).await?;
        equal(each(subscriber.take(1).await?, |message| message.topic), vec![topic("gone")])?;
        equal(at.elapsed() > Duration::from_millis(900), true)?;
        close([back, subscriber]).await
    }

    async fn request_and_response(&self) -> Told {
        let (mut asking, mut answering) = (self.connect().await?, self.connect().await?);
        asking.subscribe(&self.topic("answers"), QoS::AtLeastOnce).await?;
        answering.subscribe(&self.topic("questions"), QoS::AtLeastOnce).await?;
        let mark = |n| Some(vec![0, n, 0xFF].into());
        for n in 0..3 {
            let properties = PublishProperties {
                response_topic: Some(self.topic("answers")),
                correlation_data: mark(n),
                ..PublishProperties::default()
            };
            asking.publish_5(&self.topic("questions"), false, &n.to_string(), properties).await?;
        }
        for question in answering.take(3).await?.into_iter().rev() {
            answer(&mut answering, question).await?;
        }
        let got = each(asking.take(3).await?, |message| (message.payload, message.properties.correlation_data));
        equal(got, [2, 1, 0].map(|n| (format!("answer to {n}"), mark(n))).to_vec())?;
        close([asking, answering]).await
    }

    async fn answers_mosquitto_rr(&self) -> Told {
        let topic = self.topic("rr");
        let mut answering = self.connect().await?;
        answering.subscribe(&topic, QoS::AtLeastOnce).await?;
        let mut asking = Command::new(env::var("INTEROP_ASK")?);
        let asking = task::spawn_blocking(move || asking.arg(topic).output());
        for question in answering.take(1).await? {
            answer(&mut answering, question).await?;
        }
        let answered = String::from_utf8(asking.await??.stdout)?;
        equal(answered, "mark-7 answer to question\n".to_owned())?;
        answering.close().await
    }

    async fn reason_for_a_disconnect(&self) -> Told {
        let mut first = Connection::open(self.options("double")).await?;
        let second = Connection::open(self.options("double")).await?;
        told_of("SessionTakenOver", &first.ended().await?)?;
        second.close().await?;
        // No Local on a shared subscription is a protocol error.
        let mut client = self.connect().await?;
        let shared = filter(&format!("$share/group/{}", self.topic("x")));
        client.ask_5(Filter { nolocal: true, ..shared }, None).await?;
        let why = client.ended().await?;
        told_of("ProtocolError", &why)?;
        told_of("reason `Some(\"", &why)
    }
}

fn filter(path: &str) -> Filter {
    Filter::new(path, mqttbytes::QoS::AtLeastOnce)
}

fn each<T>(messages: Vec<Message>, part: impl Fn(Message) -> T) -> Vec<T> {
    messages.into_iter().map(part).collect()
}

async fn answer(client: &mut Connection, question: Message) -> Told {
    let PublishProperties { response_topic, correlation_data, .. } = question.properties;
    let properties = PublishProperties { correlation_data, ..PublishProperties::default() };
    let text = format!("answer to {}", question.payload);
    client.publish_5(&response_topic.ok_or("no response topic")?, false, &text, properties).await
}

fn told_of(part: &str, why: &str) -> Told {
    if why.contains(part) { Ok(()) } else { Err(format!("{part} is not in {why}").into()) }
}

async fn close<const COUNT: usize>(clients: [Connection; COUNT]) -> Told {
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

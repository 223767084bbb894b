//! A steady load on a broker that is taken away and brought back, and the account afterwards: nothing
//! acknowledged is lost, QoS 2 is exactly once, order holds, no commit steps back.

mod account;
mod backend;
mod publisher;
mod run;
mod sent;
mod subscriber;

pub use account::{Account, not_twice_in_the_log};
pub use backend::Backend;
pub use publisher::Publisher;
pub use run::{Aborted, Run};
pub use sent::{Got, Sent};
pub use subscriber::Subscriber;

use crate::broker::Broker;
use crate::kafka::{Kafka, Record};
use crate::mqtt::{Publish, Version};
use std::net::SocketAddr;
use std::thread::{self, Scope, ScopedJoinHandle};

/// What subscribers ask for.
pub const FILTER: &str = "load/#";
/// The topic of the last message.
pub const END: &str = "load/end";
const GROUP: &str = "backend";

type Part<T> = Box<dyn FnOnce(&Run) -> T + Send>;

/// Who takes part, beside a consumer group that commits by hand.
#[derive(Default)]
pub struct Load {
    publishers: Vec<Part<Sent>>,
    subscribers: Vec<Part<Got>>,
}

impl Load {
    /// The tests' own clients: publishers at QoS 1 and 2 in both versions, a subscriber at each.
    pub fn of_our_own(mqtt: SocketAddr) -> Load {
        let mut load = Load::subscribers_of_our_own(mqtt);
        for publisher in Publisher::of_each_kind(mqtt) {
            load.publish(move |run| publisher.run(run));
        }
        load
    }

    /// The same without the publishers.
    pub fn subscribers_of_our_own(mqtt: SocketAddr) -> Load {
        let mut load = Load::default();
        for (name, version, qos) in [("at-least-once", Version::V311, 1), ("exactly-once", Version::V5, 2)] {
            let subscriber = Subscriber::new(name, version, qos, mqtt);
            subscriber.subscribe();
            load.subscribe(move |run| subscriber.run(run));
        }
        load
    }

    /// One more publisher: it publishes until the run drains, and tells what was acknowledged.
    pub fn publish(&mut self, part: impl FnOnce(&Run) -> Sent + Send + 'static) {
        self.publishers.push(Box::new(part));
    }

    /// One more subscriber to [`FILTER`], whose session is there: it receives until [`END`], and tells what came.
    pub fn subscribe(&mut self, part: impl FnOnce(&Run) -> Got + Send + 'static) {
        self.subscribers.push(Box::new(part));
    }

    /// Runs it all while `disturb` takes the broker away and brings it back; gives the account.
    pub fn run(self, broker: &mut Broker, disturb: impl FnOnce(&mut Broker, &Backend, &Run)) -> Account {
        let run = &Run::default();
        let kafka = Kafka::at(broker.kafka());
        // The topic exists before anything counts.
        broker.publish(Publish::new("load/start", "start").qos(1));
        kafka.read("mqtt", 1);
        let backend = &Backend::new(kafka, GROUP);
        thread::scope(|scope| {
            let _abort = run.abort_on_panic();
            let subscribers = spawn(scope, self.subscribers, run);
            let publishers = spawn(scope, self.publishers, run);
            let consumer = scope.spawn(|| backend.run(run));
            disturb(broker, backend, run);
            run.drain();
            let sent = join(publishers, "a publisher");
            broker.publish(Publish::new(END, "end").qos(2));
            let got = join(subscribers, "a subscriber");
            let log = log_until_end(kafka);
            backend.wait_for(log.len(), run);
            run.finish();
            consumer.join().expect("the consumer failed, see above");
            Account { sent, got, seen: backend.records(), log }
        })
    }
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    parts: Vec<Part<T>>,
    run: &'scope Run,
) -> Vec<ScopedJoinHandle<'scope, T>> {
    let spawn = |part: Part<T>| {
        scope.spawn(move || {
            let _abort = run.abort_on_panic();
            part(run)
        })
    };
    parts.into_iter().map(spawn).collect()
}

fn join<T>(parts: Vec<ScopedJoinHandle<'_, T>>, who: &str) -> Vec<T> {
    let join = |part: ScopedJoinHandle<'_, T>| part.join().unwrap_or_else(|_| panic!("{who} failed, see above"));
    parts.into_iter().map(join).collect()
}

fn log_until_end(kafka: Kafka) -> Vec<Record> {
    crate::eventually("the end in the log", || {
        let log = kafka.read("mqtt", 2);
        log.iter().any(|record| record.text() == "end").then_some(log)
    })
}

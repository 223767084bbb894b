//! What was published and what came.

/// Topics of each publisher: order counts within one.
const TOPICS: u64 = 3;
const LONG_EVERY: u64 = 61;
const LONG_BYTES: usize = 30_000;

/// What a publisher has sent; after a run each of it was acknowledged.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The publisher, and the second half of its topics' names.
    pub name: String,
    /// All its messages'.
    pub qos: u8,
    /// How many; they are numbered from 0.
    pub count: u64,
}

impl Sent {
    /// Nothing yet.
    pub fn new(name: &str, qos: u8) -> Sent {
        Sent { name: name.to_owned(), qos, count: 0 }
    }

    /// Its topics.
    pub fn topics(&self) -> impl Iterator<Item = String> {
        (0..TOPICS).map(|n| self.topic(n))
    }

    /// The topic of its message of this number.
    pub fn topic(&self, number: u64) -> String {
        format!("load/q{}/{}/{}", self.qos, self.name, number % TOPICS)
    }

    /// The payload of its message of this number: now and then a long one.
    pub fn payload(&self, number: u64) -> String {
        let padding = if number.is_multiple_of(LONG_EVERY) { "x".repeat(LONG_BYTES) } else { String::new() };
        format!("{}:{number}:{padding}", self.name)
    }

    /// The number of the message with this payload, if it is one of these.
    pub fn number_in(payload: &str) -> Option<u64> {
        payload.split(':').nth(1).map(|number| number.parse().expect("a number"))
    }

    /// The numbers it sent to this topic of its own.
    pub fn numbers_of(&self, topic: &str) -> Vec<u64> {
        let of_topic = (0..self.count).filter(|number| self.topic(*number) == topic);
        of_topic.collect()
    }
}

/// What a subscriber got.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its client id.
    pub name: String,
    /// At which it subscribed.
    pub qos: u8,
    /// Whether it got a part only, and others that are so the rest.
    pub is_part: bool,
    /// Topic and payload of each message, in order; what MQTT calls a repeat at QoS 2 is left out.
    pub messages: Vec<(String, String)>,
}

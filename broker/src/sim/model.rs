//! What clients were told and got, and what must therefore be so.

use std::collections::{BTreeMap, BTreeSet};

use bridge::Bridge;
use bridge::batch::{self, Header};

use crate::codec::QoS;
use crate::mapping::filter_matches;

use super::process::DEAD_LETTERS;

/// A message, by its place in [`Model::messages`]; it is the payload.
pub type Number = usize;

/// A client's session: which client, and the how-manieth.
pub type Incarnation = (usize, u32);

#[derive(Debug)]
pub struct Message {
    pub publisher: usize,
    pub topic: String,
    pub qos: QoS,
    pub retain: bool,
    /// PUBACK or PUBREC was received.
    pub acknowledged: bool,
    /// Sessions that must get it, if it is acknowledged.
    owed: BTreeSet<Incarnation>,
    /// Those that get it in its place: others may join between it and a repeat.
    ordered: BTreeSet<Incarnation>,
    /// One of the group must get it.
    owed_to_group: bool,
    /// How many of the group got it at QoS 2.
    group_got: u32,
    /// When it may be published, if it is a will.
    pub will_not_before_ms: Option<u64>,
}

/// What a session got.
#[derive(Debug, Default)]
struct Got {
    /// How often, at QoS 2.
    exactly: BTreeMap<Number, u32>,
    /// All of QoS 1 and 2.
    all: BTreeSet<Number>,
    /// The newest of a publisher on a topic.
    newest: BTreeMap<(usize, String), Number>,
}

/// What a topic's retained message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Possible {
    /// `None`: there is none.
    value: Option<Number>,
    /// Who set it, and by which message; not known of what lay there when all was durable.
    by: Option<(usize, Number)>,
    /// It may have been in force before all was durable.
    is_repeat: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    pub messages: Vec<Message>,
    got: BTreeMap<Incarnation, Got>,
    /// Subscriptions that sessions were told of: (session, filter) → QoS.
    granted: BTreeMap<(Incarnation, String), QoS>,
    /// Subscriptions asked for or granted; when one is gone, the number of the first message after.
    gone: BTreeMap<(Incarnation, String), Option<Number>>,
    retained: BTreeMap<String, BTreeSet<Possible>>,
    /// What readers of the log saw.
    seen: BTreeMap<(String, u32), Vec<Number>>,
    /// Messages may be lost to full queues.
    may_drop: bool,
    pub deliveries: u64,
}

/// What the shared subscription is on, and its filter.
pub const SHARED_TOPIC: &str = "s/0";
pub const SHARED_FILTER: &str = "$share/g/s/#";

impl Model {
    pub fn new(may_drop: bool) -> Model {
        Model { may_drop, ..Model::default() }
    }

    /// A message is sent for the first time.
    pub fn publish(&mut self, publisher: usize, topic: &str, qos: QoS, retain: bool, expires: bool) -> Number {
        let number = self.messages.len();
        let is_owed = qos > QoS::AtMostOnce && !retain && !expires && !self.may_drop;
        let matching = |filter: &str| is_owed && filter_matches(filter, topic);
        let granted = self.granted.iter().filter(|(_, granted)| **granted > QoS::AtMostOnce);
        let owed = granted.clone().filter(|((_, filter), _)| matching(filter)).map(|((session, _), _)| *session);
        let owed: BTreeSet<Incarnation> = owed.collect();
        let owed_to_group =
            is_owed && topic == SHARED_TOPIC && granted.clone().any(|((_, filter), _)| filter == SHARED_FILTER);
        self.messages.push(Message {
            publisher,
            topic: topic.to_owned(),
            qos,
            retain,
            acknowledged: false,
            ordered: owed.clone(),
            owed,
            owed_to_group,
            group_got: 0,
            will_not_before_ms: None,
        });
        number
    }

    /// It is sent, for the first time or again.
    pub fn sends(&mut self, number: Number, is_clear: bool, is_repeat: bool) {
        let message = &self.messages[number];
        if message.retain {
            let value = (!is_clear).then_some(number);
            let by = Some((message.publisher, number));
            self.possible(&message.topic.clone()).insert(Possible { value, by, is_repeat });
        }
    }

    fn possible(&mut self, topic: &str) -> &mut BTreeSet<Possible> {
        let none = Possible { value: None, by: None, is_repeat: false };
        self.retained.entry(topic.to_owned()).or_insert_with(|| BTreeSet::from([none]))
    }

    /// Its publisher was told that it is taken.
    pub fn acknowledged(&mut self, number: Number) {
        self.messages[number].acknowledged = true;
        let message = &self.messages[number];
        if !message.retain {
            return;
        }
        let (publisher, qos) = (message.publisher, message.qos);
        let possible = self.possible(&message.topic.clone());
        let mut own = possible.iter().filter(|one| one.by == Some((publisher, number)));
        let Some(last) = own.next_back() else { return };
        if last.is_repeat && qos == QoS::ExactlyOnce {
            // It may have been set before, and what was repeated at QoS 1 since.
            return;
        }
        possible.retain(|one| one.by.is_some_and(|(other, of)| other != publisher || of >= number));
    }

    /// What is retained now is what a start finds.
    fn retained_are(&mut self, now: &BTreeMap<String, Number>) {
        for (topic, possible) in &mut self.retained {
            *possible = BTreeSet::from([Possible { value: now.get(topic).copied(), by: None, is_repeat: false }]);
        }
    }

    /// What a start found retained.
    pub fn check_retained(&mut self, found: &BTreeMap<String, Number>) -> Result<(), String> {
        for (topic, number) in found {
            if self.messages.get(*number).is_none_or(|message| message.topic != *topic || !message.retain) {
                return Err(format!("{topic}: {number} is retained, which nobody sent there"));
            }
        }
        for (topic, possible) in &self.retained {
            let value = found.get(topic).copied();
            if !possible.iter().any(|one| one.value == value) {
                return Err(format!("{topic}: {value:?} is retained, not one of {possible:?}"));
            }
        }
        self.retained_are(found);
        Ok(())
    }

    /// A session asks for a subscription.
    pub fn asks(&mut self, session: Incarnation, filter: &str) {
        self.gone.insert((session, filter.to_owned()), None);
        // Until it is told, it may have either.
        self.let_go(session, filter);
    }

    /// It was told that it has it.
    pub fn granted(&mut self, session: Incarnation, filter: &str, qos: QoS) {
        self.granted.insert((session, filter.to_owned()), qos);
    }

    /// It asks for its end: what is not acknowledged yet may miss it.
    pub fn leaves(&mut self, session: Incarnation, filter: &str) {
        self.let_go(session, filter);
    }

    /// It was told that it is gone: nothing sent from now on may come by it.
    pub fn left(&mut self, session: Incarnation, filter: &str) {
        self.gone.insert((session, filter.to_owned()), Some(self.messages.len()));
    }

    fn let_go(&mut self, session: Incarnation, filter: &str) {
        self.granted.remove(&(session, filter.to_owned()));
        for message in self.messages.iter_mut().filter(|message| !message.acknowledged) {
            message.owed.remove(&session);
            message.ordered.remove(&session);
            message.owed_to_group &= filter != SHARED_FILTER;
        }
    }

    /// A session is over, or will be: nothing is owed to it. What one of the group had goes to another, as far as it may: at
    /// QoS 2 what it may have been sent stays with it.
    pub fn over(&mut self, session: Incarnation) {
        let was_member = self.gone.contains_key(&(session, SHARED_FILTER.to_owned()));
        self.granted.retain(|(of, _), _| *of != session);
        for message in &mut self.messages {
            message.owed.remove(&session);
            message.owed_to_group &= !was_member || message.qos == QoS::AtLeastOnce;
        }
    }

    /// Nobody of the group may be left to have what is owed to it.
    pub fn forgive_group(&mut self) {
        self.messages.iter_mut().for_each(|message| message.owed_to_group = false);
    }

    /// Everything that was sent has been taken in and is durable; `retained` is what is retained.
    pub fn all_is_durable(&mut self, retained: &BTreeMap<String, Number>) {
        self.retained_are(retained);
    }

    /// Whether anyone is in the group for sure.
    pub fn has_group(&self) -> bool {
        self.granted.iter().any(|((_, filter), qos)| filter == SHARED_FILTER && *qos > QoS::AtMostOnce)
    }

    /// A message came, which its packet identifier did not show to be a repeat.
    pub fn received(
        &mut self,
        session: Incarnation,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        is_durable: bool,
    ) -> Result<(), String> {
        self.deliveries += 1;
        if payload.is_empty() && topic.starts_with("r/") {
            return Ok(());
        }
        let text = String::from_utf8_lossy(payload);
        let number = number_in(payload).ok_or_else(|| format!("{session:?} got {text:?}, which nobody sent"))?;
        let message = self.messages.get_mut(number).filter(|message| message.topic == topic);
        let message = message.ok_or_else(|| format!("{session:?} got {number} on {topic}, which nobody sent"))?;
        if qos > message.qos {
            return Err(format!("{session:?} got {number} at {qos:?}, sent at {:?}", message.qos));
        }
        message.owed.remove(&session);
        let is_shared = topic == SHARED_TOPIC;
        if is_shared {
            message.owed_to_group = false;
            message.group_got += u32::from(qos == QoS::ExactlyOnce);
            if message.group_got > 1 {
                return Err(format!("{session:?} got {number}, which another of the group had got at QoS 2"));
            }
        }
        let is_gone = |filter: &String, gone: &Option<Number>| {
            let plain = filter.strip_prefix("$share/g/").unwrap_or(filter);
            filter_matches(plain, topic) && gone.is_none_or(|from| number < from)
        };
        let mut mine = self.gone.iter().filter(|((of, _), _)| *of == session);
        if !retain && !mine.any(|((_, filter), gone)| is_gone(filter, gone)) {
            return Err(format!("{session:?} got {number} on {topic}, which it is not subscribed to"));
        }
        if qos == QoS::AtMostOnce || message.retain {
            return Ok(());
        }
        let got = self.got.entry(session).or_default();
        let is_first = got.all.insert(number);
        if qos == QoS::ExactlyOnce {
            let times = got.exactly.entry(number).or_default();
            *times += 1;
            if *times > 1 {
                return Err(format!("{session:?} got {number} {times} times at QoS 2"));
            }
        }
        if is_first && is_durable && !is_shared {
            let key = (message.publisher, topic.to_owned());
            let is_ordered = message.ordered.contains(&session);
            if let Some(newest) = got.newest.get(&key).filter(|newest| is_ordered && **newest > number) {
                return Err(format!("{session:?} got {number} behind {newest} on {topic}"));
            }
            let newest = got.newest.entry(key).or_default();
            *newest = number.max(*newest);
        }
        Ok(())
    }

    /// What is in the log now; `is_whole` when everything durable is applied.
    pub fn check_log(&mut self, bridge: &Bridge, is_whole: bool, now_ms: u64) -> Result<(), String> {
        for topic in bridge.topics().iter().filter(|topic| topic.name != DEAD_LETTERS) {
            let mut there: BTreeMap<Number, u32> = BTreeMap::new();
            for partition in &topic.partitions {
                let values = read(partition)?;
                let seen = self.seen.entry((topic.name.clone(), partition.index)).or_default();
                if !values.starts_with(seen) {
                    return Err(format!("the log {} of {} stepped back", partition.index, topic.name));
                }
                self.check_order(&values)?;
                values.iter().for_each(|number| *there.entry(*number).or_default() += 1);
                self.seen.insert((topic.name.clone(), partition.index), values);
            }
            self.check_records(&topic.name, &there, is_whole, now_ms)?;
        }
        Ok(())
    }

    fn check_order(&self, values: &[Number]) -> Result<(), String> {
        let mut newest: BTreeMap<(usize, &str), Number> = BTreeMap::new();
        let mut before = BTreeSet::new();
        for number in values {
            let Some(message) = self.messages.get(*number) else {
                return Err(format!("{number} is in the log, which nobody sent"));
            };
            if !before.insert(*number) {
                continue;
            }
            let key = (message.publisher, &*message.topic);
            if newest.insert(key, *number).is_some_and(|newest| newest > *number) {
                return Err(format!("{number} is in the log behind a newer one of its publisher"));
            }
        }
        Ok(())
    }

    fn check_records(
        &self,
        log: &str,
        there: &BTreeMap<Number, u32>,
        is_whole: bool,
        now_ms: u64,
    ) -> Result<(), String> {
        for (number, times) in there {
            let message = &self.messages[*number];
            if !message.topic.starts_with(&format!("{log}/")) {
                return Err(format!("{number} of {} is in the log {log}", message.topic));
            }
            let once = message.qos == QoS::ExactlyOnce || message.will_not_before_ms.is_some();
            if once && *times > 1 {
                return Err(format!("{number} is in the log {times} times"));
            }
            if let Some(due_ms) = message.will_not_before_ms.filter(|due_ms| *due_ms > now_ms) {
                return Err(format!("will {number} is there at {now_ms} ms, due at {due_ms} ms"));
            }
        }
        let in_log = |message: &&Message| message.topic.starts_with(&format!("{log}/"));
        for (number, message) in self.messages.iter().enumerate().filter(|(_, message)| in_log(message)) {
            if is_whole && message.acknowledged && !there.contains_key(&number) {
                return Err(format!("{number} was acknowledged and is not in the log"));
            }
        }
        Ok(())
    }

    /// Whether a message is in the log, as it was last looked at.
    pub fn is_in_log(&self, log: &str, number: Number) -> bool {
        self.seen.iter().any(|((of, _), values)| of == log && values.contains(&number))
    }

    /// At the end, when everybody is there and nothing moves any more.
    pub fn check_owed(&self) -> Result<(), String> {
        for (number, message) in self.messages.iter().enumerate().filter(|(_, message)| message.acknowledged) {
            if let Some(session) = message.owed.first() {
                return Err(format!("{session:?} never got {number} on {}", message.topic));
            }
            if message.owed_to_group {
                return Err(format!("nobody of the group ever got {number}"));
            }
        }
        Ok(())
    }
}

/// The payload of a message; long ones now and then.
pub fn payload_of(number: Number) -> Vec<u8> {
    let padding = if number % 7 == 3 { 400 } else { 0 };
    [format!("{number}.").into_bytes(), vec![b'x'; padding]].concat()
}

/// And back.
pub fn number_in(payload: &[u8]) -> Option<Number> {
    let end = payload.iter().position(|byte| *byte == b'.')?;
    let number = std::str::from_utf8(&payload[..end]).ok()?.parse().ok()?;
    (payload == payload_of(number)).then_some(number)
}

fn read(partition: &bridge::Partition) -> Result<Vec<Number>, String> {
    let mut offset = partition.log_start();
    let mut values = Vec::new();
    while offset < partition.high_watermark() {
        let bytes = partition.read_blocking(offset, 64 << 10).map_err(|error| format!("a read: {error}"))?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = Header::parse(rest).map_err(|error| error.to_string())?;
            let (one, after) = rest.split_at_checked(header.total_bytes()).ok_or("a cut batch")?;
            let mut records = batch::records(one, &header);
            while let Some(record) = records.next().map_err(|error| error.to_string())? {
                if record.offset != offset {
                    return Err(format!("offset {} where {offset} is due", record.offset));
                }
                offset += 1;
                let value = record.value.unwrap_or_default();
                values.push(number_in(value).ok_or("a record in the log that nobody sent")?);
            }
            rest = after;
        }
    }
    Ok(values)
}

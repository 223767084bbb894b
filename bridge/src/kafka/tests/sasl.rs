//! Who a client is: SASL PLAIN, and what is served before it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, TopicName,
    create_topics_request::CreatableTopic,
    fetch_request::{FetchPartition, FetchTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::Instant,
};

use super::{Broker, Peer, batch_of, text, with_broker_of};
use crate::kafka::{
    Access, Authentication, AuthenticationError, ConnectionError, Operation, Principal, tests::with_broker,
};

/// Users with a number each: their password is their name and that number.
pub(super) struct Users {
    numbers: Mutex<BTreeMap<String, u64>>,
    /// What a user may, apart from everything that begins with its name.
    pub rights: Mutex<Vec<(&'static str, Operation, &'static str)>>,
    /// Passwords are checked while there are permits.
    gate: Arc<Semaphore>,
}

impl Users {
    pub fn new(names: &[&str]) -> Arc<Users> {
        let numbers = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let gate = Arc::new(Semaphore::new(1_000));
        Arc::new(Users { numbers: Mutex::new(numbers), rights: Mutex::default(), gate })
    }

    fn close_gate(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    fn remove(&self, name: &str) {
        self.numbers.lock().remove(name);
    }
}

impl Access for Users {
    fn authenticate(&self, name: String, password: Vec<u8>) -> Authentication {
        let number = self.numbers.lock().get(&name).copied();
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.acquire().await.expect("open").forget();
            match number {
                _ if name == "hurried" => Err(AuthenticationError::Busy),
                Some(token) if password == format!("{name}{token}").as_bytes() => {
                    Ok(Principal::User { name: name.into(), token })
                }
                _ => Err(AuthenticationError::WrongCredentials),
            }
        })
    }

    fn is_current(&self, who: &Principal) -> bool {
        match who {
            Principal::Anonymous { .. } => true,
            Principal::User { name, token } => self.numbers.lock().get(&**name) == Some(token),
        }
    }

    fn may(&self, who: &Principal, operation: Operation, topic: &str) -> bool {
        let Principal::User { name, .. } = who else { return false };
        let rights = self.rights.lock();
        let given = |wanted: Operation| rights.iter().any(|(n, o, t)| (*n, *o, *t) == (&**name, wanted, topic));
        topic.starts_with(&**name)
            || given(operation)
            || (operation == Operation::Describe
                && [Operation::Read, Operation::Write, Operation::Manage].into_iter().any(given))
    }

    /// Only ann does.
    fn may_use_groups(&self, who: &Principal) -> bool {
        matches!(who, Principal::User { name, .. } if &**name == "ann")
    }
}

pub(super) fn user(name: &str) -> Option<Principal> {
    Some(Principal::User { name: name.into(), token: 1 })
}

fn handshake() -> SaslHandshakeRequest {
    SaslHandshakeRequest::default().with_mechanism(text("PLAIN"))
}

fn plain(name: &str, password: &str) -> Bytes {
    format!("\0{name}\0{password}").into()
}

fn token(name: &str, password: &str) -> SaslAuthenticateRequest {
    SaslAuthenticateRequest::default().with_auth_bytes(plain(name, password))
}

async fn authenticate(peer: &mut Peer, name: &str, password: &str) -> SaslAuthenticateResponse {
    assert_eq!(peer.ask(1, &handshake()).await.error_code, 0);
    peer.ask(2, &token(name, password)).await
}

fn everything() -> MetadataRequest {
    MetadataRequest::default().with_topics(None)
}

fn make(topic: &str) -> CreateTopicsRequest {
    let wanted =
        CreatableTopic::default().with_name(TopicName(text(topic))).with_num_partitions(1).with_replication_factor(1);
    CreateTopicsRequest::default().with_topics(vec![wanted])
}

fn produce(topic: &str, value: &str) -> ProduceRequest {
    let data = PartitionProduceData::default().with_records(Some(batch_of(&[value])));
    let data = TopicProduceData::default().with_name(TopicName(text(topic))).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_topic_data(vec![data])
}

/// Authentications that succeeded and failed.
fn counted(broker: &Broker) -> (u64, u64) {
    let metrics = broker.server.metrics();
    (metrics.authentications.load(Ordering::Relaxed), metrics.authentications_failed.load(Ordering::Relaxed))
}

#[test]
fn a_user_is_let_in_by_its_password() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        for version in 0..=2 {
            let mut peer = broker.connect_as(None);
            assert_eq!(peer.ask(0, &ApiVersionsRequest::default()).await.error_code, 0);
            let offered = peer.ask(1, &handshake()).await;
            assert_eq!((offered.error_code, offered.mechanisms), (0, vec![text("PLAIN")]));
            // It may ask again what is served, as some do.
            peer.ask(0, &ApiVersionsRequest::default()).await;
            let response = peer.ask(version, &token("ann", "ann1")).await;
            assert_eq!((response.error_code, response.session_lifetime_ms), (0, 0));
            assert!(response.auth_bytes.is_empty());
            assert_eq!(peer.ask(1, &everything()).await.brokers.len(), 1);
            assert!(peer.hang_up().await.is_ok());
        }
        assert_eq!(counted(&broker), (3, 0));
    });
}

#[test]
fn tokens_may_come_without_headers() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        let mut peer = broker.connect_as(None);
        assert_eq!(peer.ask(0, &handshake()).await.error_code, 0);
        peer.send_frame(&plain("ann", "ann1")).await;
        assert_eq!(peer.stream.read_i32().await.expect("an answer"), 0);
        assert_eq!(peer.ask(1, &everything()).await.brokers.len(), 1);

        for bad in [plain("ann", "wrong"), Bytes::from("ann"), Bytes::new()] {
            let mut peer = broker.connect_as(None);
            peer.ask(0, &handshake()).await;
            peer.send_frame(&bad).await;
            assert_eq!(peer.stream.read(&mut [0]).await.expect("the end"), 0, "no answer");
            let ended = peer.ended().await;
            let expected = matches!(ended, Err(ConnectionError::NotAuthenticated { .. } | ConnectionError::Sasl(_)));
            assert!(expected, "{ended:?}");
        }
        assert_eq!(counted(&broker), (1, 3));
    });
}

#[test]
fn a_wrong_password_is_told_and_then_the_connection_ends() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        tokio::time::pause();
        let strange = format!("\u{1b}[2J{}", "x".repeat(500));
        // An unknown user, a known one, and one that was let in before.
        for (name, entry) in [("ann", None), (strange.as_str(), None), ("ann", Some(Principal::Anonymous { token: 0 }))]
        {
            let mut peer = broker.connect_as(entry);
            let asked = Instant::now();
            let refused = authenticate(&mut peer, name, "guess").await;
            assert_eq!(refused.error_code, 58, "SASL_AUTHENTICATION_FAILED");
            let message = refused.error_message.expect("a message");
            assert_eq!(&*message, "Authentication failed: Invalid username or password");
            assert!((100..200).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
            // It is the client that hangs up; what it says meanwhile is not listened to.
            let answered = Instant::now();
            peer.send(0, &ApiVersionsRequest::default()).await;
            assert_eq!(peer.stream.read(&mut [0]).await.expect("the end"), 0);
            assert!((200..300).contains(&answered.elapsed().as_millis()), "{:?}", answered.elapsed());
            let reason = peer.ended().await.expect_err("refused").to_string();
            assert!(reason.contains("was not authenticated: invalid username or password"), "{reason}");
            assert!(reason.len() < 200 && !reason.contains('\u{1b}'), "{reason}");
        }
        assert_eq!(counted(&broker), (0, 3));

        // Nobody is waited for who has hung up.
        let mut peer = broker.connect_as(None);
        authenticate(&mut peer, "ann", "guess").await;
        let answered = Instant::now();
        peer.hang_up().await.expect_err("refused");
        assert!(answered.elapsed().as_millis() < 200, "{:?}", answered.elapsed());
    });
}

#[test]
fn a_server_that_is_busy_says_nothing_so_that_the_client_comes_back() {
    with_broker_of(Users::new(&[]), async |broker| {
        let mut peer = broker.connect_as(None);
        peer.ask(1, &handshake()).await;
        peer.send(1, &token("hurried", "x")).await;
        assert_eq!(peer.stream.read(&mut [0]).await.expect("the end"), 0);
        assert!(matches!(peer.ended().await, Err(ConnectionError::NotAuthenticated { .. })));
    });
}

#[test]
fn other_mechanisms_and_another_order_are_refused() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        let mut peer = broker.connect_as(None);
        let refused = peer.ask(1, &SaslHandshakeRequest::default().with_mechanism(text("SCRAM-SHA-256"))).await;
        assert_eq!((refused.error_code, refused.mechanisms), (33, vec![text("PLAIN")]), "UNSUPPORTED_SASL_MECHANISM");
        let reason = peer.ended().await.expect_err("refused").to_string();
        assert_eq!(reason, "peer: SASL: mechanism \"SCRAM-SHA-256\" is not served; the client must use PLAIN");

        for entry in [None, Some(Principal::Anonymous { token: 0 })] {
            let mut peer = broker.connect_as(entry.clone());
            assert_eq!(peer.ask(1, &token("ann", "ann1")).await.error_code, 34, "ILLEGAL_SASL_STATE");
            assert!(matches!(peer.ended().await, Err(ConnectionError::Sasl(_))));

            let mut peer = broker.connect_as(entry);
            peer.ask(1, &handshake()).await;
            assert_eq!(peer.ask(1, &handshake()).await.error_code, 34, "ILLEGAL_SASL_STATE");
            assert!(matches!(peer.ended().await, Err(ConnectionError::Sasl(_))));
        }
        let mut peer = broker.connect_as(None);
        peer.ask(1, &handshake()).await;
        let refused = peer.ask(0, &SaslAuthenticateRequest::default().with_auth_bytes("bob\0ann\0ann1".into())).await;
        assert_eq!(refused.error_code, 58, "nobody acts as another");
        assert!(refused.error_message.is_some_and(|message| message.starts_with("Invalid SASL/PLAIN response: ")));
    });
}

#[test]
fn nothing_else_is_served_before() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        for api in crate::kafka::APIS.iter().filter(|api| !api.decides_who && api.key as i16 != 18) {
            let mut peer = broker.connect_as(None);
            peer.send_body(api.key as i16, api.max, &[0; 64]).await;
            let reason = peer.ended().await.expect_err("refused").to_string();
            assert!(reason.contains("before it authenticated; it must use SASL PLAIN"), "{reason}");
        }
        // Half way is not enough.
        let mut peer = broker.connect_as(None);
        peer.ask(1, &handshake()).await;
        peer.send(1, &everything()).await;
        assert!(matches!(peer.ended().await, Err(ConnectionError::MustAuthenticate(_))));
        // Nor is there room for much.
        let mut peer = broker.connect_as(None);
        peer.stream.write_i32(64 * 1024 + 1).await.expect("written");
        assert!(matches!(peer.ended().await, Err(ConnectionError::BadLength { bytes: 65_537, bytes_max: 65_536 })));
        // A token without a header neither, from whomever.
        let mut peer = broker.connect();
        peer.ask(0, &handshake()).await;
        peer.stream.write_i32(64 * 1024 + 1).await.expect("written");
        assert!(matches!(peer.ended().await, Err(ConnectionError::BadLength { .. })));
    });
}

#[test]
fn a_client_has_ten_seconds_to_authenticate() {
    with_broker_of(Users::new(&["ann"]), async |broker| {
        tokio::time::pause();
        let begun = Instant::now();
        let silent = broker.connect_as(None);
        assert!(matches!(silent.ended().await, Err(ConnectionError::AuthenticationTooSlow(10))));
        assert_eq!(begun.elapsed().as_secs(), 10);

        // What it sends meanwhile wins it nothing.
        let mut chatty = broker.connect_as(None);
        for _ in 0..9 {
            chatty.ask(0, &ApiVersionsRequest::default()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        chatty.ask(1, &handshake()).await;
        tokio::time::sleep(Duration::from_millis(1_001)).await;
        assert!(matches!(chatty.ended().await, Err(ConnectionError::AuthenticationTooSlow(10))));
    });
}

#[test]
fn a_password_that_takes_too_long_to_be_checked_is_given_up() {
    let users = Users::new(&["ann"]);
    let access = users.clone();
    with_broker_of(access, async |broker| {
        tokio::time::pause();
        users.close_gate();
        let mut waiting = broker.connect_as(None);
        waiting.ask(1, &handshake()).await;
        waiting.send(1, &token("ann", "ann1")).await;
        assert!(matches!(waiting.ended().await, Err(ConnectionError::AuthenticationTooSlow(10))));
    });
}

#[test]
fn what_comes_behind_a_password_waits_for_it() {
    let users = Users::new(&["ann"]);
    let access = users.clone();
    with_broker_of(access, async |broker| {
        broker.connect_as(user("ann")).ask(5, &make("ann.log")).await;
        users.close_gate();
        for entry in [None, Some(Principal::Anonymous { token: 0 })] {
            let mut peer = broker.connect_as(entry);
            let requests = || broker.server.metrics().requests.load(Ordering::Relaxed);
            let before = requests();
            peer.ask(1, &handshake()).await;
            peer.send(1, &token("ann", "ann1")).await;
            for i in 0..5 {
                peer.send(9, &produce("ann.log", &i.to_string())).await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await; // long enough to do what must not be done
            }
            assert_eq!(requests() - before, 2, "the rest is not even opened");
            users.gate.add_permits(1);
            assert_eq!(peer.receive::<SaslAuthenticateResponse>(1).await.error_code, 0);
            for _ in 0..5 {
                let produced: kafka_protocol::messages::ProduceResponse = peer.receive(9).await;
                assert_eq!(produced.responses[0].partition_responses[0].error_code, 0, "as ann");
            }
        }
    });
}

#[test]
fn a_client_let_in_before_may_become_somebody_once() {
    with_broker_of(Users::new(&["ann", "bob"]), async |broker| {
        for entry in [Some(Principal::Anonymous { token: 0 }), user("bob")] {
            let mut peer = broker.connect_as(entry);
            assert_eq!(peer.ask(5, &make("ann-made")).await.topics[0].error_code, 29, "TOPIC_AUTHORIZATION_FAILED");
            assert_eq!(authenticate(&mut peer, "ann", "ann1").await.error_code, 0);
            assert_ne!(peer.ask(5, &make("ann-made")).await.topics[0].error_code, 29);
            // Again is fine; another is not.
            assert_eq!(authenticate(&mut peer, "ann", "ann1").await.error_code, 0);
            let refused = authenticate(&mut peer, "bob", "bob1").await;
            assert_eq!(refused.error_code, 58);
            assert!(matches!(peer.ended().await, Err(ConnectionError::NotAuthenticated { .. })));
        }
    });
}

#[test]
fn a_user_that_is_removed_is_served_no_more() {
    let users = Users::new(&["ann", "bob"]);
    let access = users.clone();
    with_broker_of(access, async |broker| {
        let mut idle = broker.connect_as(user("ann"));
        let mut parked = broker.connect_as(user("ann"));
        idle.ask(5, &make("ann.log")).await;
        let partition = FetchPartition::default().with_partition_max_bytes(1000);
        let asked = FetchTopic::default().with_topic(TopicName(text("ann.log"))).with_partitions(vec![partition]);
        let fetch = FetchRequest::default().with_min_bytes(1).with_max_bytes(1000).with_max_wait_ms(20_000);
        parked.send(12, &fetch.with_topics(vec![asked])).await;
        let requests = broker.server.metrics().requests.load(Ordering::Relaxed);
        while broker.server.metrics().requests.load(Ordering::Relaxed) == requests {
            tokio::task::yield_now().await;
        }
        users.rights.lock().push(("bob", Operation::Write, "ann.log"));
        users.remove("ann");
        // It waited for this, and does not get it.
        broker.connect_as(user("bob")).ask(9, &produce("ann.log", "not for ann")).await;
        assert_eq!(parked.stream.read(&mut [0]).await.expect("the end"), 0);
        assert!(matches!(parked.ended().await, Err(ConnectionError::NoLongerAllowed)));
        idle.send(1, &everything()).await;
        assert!(matches!(idle.ended().await, Err(ConnectionError::NoLongerAllowed)));
    });
}

#[test]
fn without_users_every_password_is_right() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        assert_eq!(authenticate(&mut peer, "whoever", "x").await.error_code, 0);
        assert_eq!(peer.ask(1, &everything()).await.brokers.len(), 1);
    });
}

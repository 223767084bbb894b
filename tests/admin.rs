//! The admin API: sessions and retained messages, told and removed, for whom it is meant.

use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use support::broker::Broker;
use support::http;
use support::mqtt::{Client, Connect, Prop, Publish};

const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// The status and body of an answer.
#[track_caller]
fn ask(broker: &Broker, method: &str, path: &str) -> (u16, Value) {
    ask_with(broker, method, path, &[])
}

#[track_caller]
fn ask_with(broker: &Broker, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let answer = http::ask(broker.admin(), method, path, headers).expect("an answer");
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{answer:?}");
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

#[track_caller]
fn get(broker: &Broker, path: &str) -> Value {
    let (status, body) = ask(broker, "GET", path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

#[track_caller]
fn delete(broker: &Broker, path: &str) -> Value {
    let (status, body) = ask(broker, "DELETE", path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn ids(list: &Value) -> Vec<&str> {
    list["clients"].as_array().expect("a list").iter().map(|one| one["client_id"].as_str().expect("text")).collect()
}

fn topics(broker: &Broker, query: &str) -> Vec<String> {
    let list = get(broker, &format!("/retained?{query}"));
    let all = list["retained"].as_array().expect("a list");
    all.iter().map(|one| one["topic"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn sessions_are_told_with_what_they_sent_got_and_lost() {
    let broker = Broker::with_config("shards = 2\n[mqtt]\nmax_queued_messages = 3\n");
    let mut away = broker.connect(Connect::v5("away").durable().user("someone"));
    away.subscribe_with(&[("q/#", 1), ("a", 2)], &[Prop::SubscriptionId(7)]);
    away.disconnect();
    let mut live = broker.connect(Connect::v311("live/1").keep_alive_s(77));
    live.subscribe("l/#", 0);
    let mut sender = broker.connect(Connect::v5("sender"));
    for _ in 0..5 {
        sender.publish(Publish::new("q/x", "payload").qos(1));
    }
    for _ in 0..2 {
        sender.publish(Publish::new("l/x", "payload"));
    }
    sender.ping();
    live.take();
    live.take();

    // A client's bytes are counted when they are written: before it has them.
    let got = get(&broker, "/clients/live%2F1");
    let bytes_of = |topic: &str| 2 + 2 + topic.len() as u64 + "payload".len() as u64;
    let (connack, suback) = (4, 5);
    assert_eq!(got["connected"], true);
    assert_eq!(got["connection"]["version"], "3.1.1");
    assert_eq!(got["connection"]["keep_alive_s"], 77);
    assert_eq!(got["connection"]["listener"], "mqtt.tcp");
    assert_eq!(got["connection"]["outbox_bytes"], 0);
    assert!(got["connection"]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{got}");
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(got["connection"]["since_s"].as_u64().is_some_and(|since| (now_s - 60..=now_s).contains(&since)), "{got}");
    assert_eq!((&got["sent_messages"], &got["received_messages"]), (&json!(2), &json!(0)));
    assert_eq!(got["sent_bytes"], json!(connack + suback + 2 * bytes_of("l/x")));
    // SUBSCRIBE: a fixed header, the identifier, a filter with its length and options.
    assert_eq!(got["received_bytes"], json!(2 + 2 + 2 + 3 + 1));
    assert_eq!(got["session_expiry_s"], 0);
    assert_eq!(
        got["subscribed"],
        json!([{ "filter": "l/#", "qos": 0, "no_local": false, "retain_as_published": false, "id": null }])
    );
    assert_eq!(got["subscribed_truncated"], false);

    let got = get(&broker, "/clients/away");
    assert_eq!((&got["connected"], &got["connection"], &got["user"]), (&json!(false), &Value::Null, &json!("someone")));
    assert_eq!((&got["queued_messages"], &got["inflight_messages"]), (&json!(3), &json!(0)));
    assert_eq!(got["dropped_messages"]["queue_full"], 2);
    assert_eq!(got["dropped_messages"]["expired"], 0);
    assert_eq!((&got["session_expiry_s"], &got["subscriptions"]), (&json!(3600), &json!(2)));
    assert!(got["session_ends_in_s"].as_u64().is_some_and(|left| (3500..=3600).contains(&left)), "{got}");
    let filters: Vec<_> =
        got["subscribed"].as_array().expect("a list").iter().map(|one| one["filter"].clone()).collect();
    assert_eq!(filters, ["a", "q/#"]);
    assert_eq!(got["subscribed"][0]["id"], 7);
    let got = get(&broker, "/clients/sender");
    assert_eq!((&got["received_messages"], &got["sent_messages"]), (&json!(7), &json!(0)));

    // What it sent and got goes on counting when it comes back.
    let mut away = broker.connect(Connect::v5("away").durable());
    for _ in 0..3 {
        away.take();
    }
    away.ping();
    let got = get(&broker, "/clients/away");
    assert_eq!((&got["sent_messages"], &got["queued_messages"]), (&json!(3), &json!(0)));
    assert_eq!(got["dropped_messages"]["queue_full"], 2);

    assert_eq!(ask(&broker, "GET", "/clients/nobody").0, 404);
    assert_eq!(ask(&broker, "GET", "/clients/away?x=1").0, 400);
}

#[test]
fn sessions_are_told_page_by_page_whichever_shard_has_them() {
    let broker = Broker::with_config("shards = 3\n");
    let names: Vec<String> = (0..20).map(|n| format!("client-{n:02}")).collect();
    let clients: Vec<Client> = names.iter().map(|name| broker.connect(Connect::v311(name))).collect();
    let all = get(&broker, "/clients");
    assert_eq!((ids(&all), &all["truncated"]), (names.iter().map(|name| &**name).collect(), &json!(false)));
    let mut found: Vec<String> = Vec::new();
    loop {
        let after = found.last().map_or(String::new(), |last| format!("&after={last}"));
        let page = get(&broker, &format!("/clients?limit=6{after}"));
        assert!(ids(&page).len() <= 6);
        found.extend(ids(&page).into_iter().map(str::to_owned));
        if page["truncated"] == false {
            break;
        }
    }
    assert_eq!(found, names);
    assert_eq!(get(&broker, "/clients?limit=20")["truncated"], false);
    assert_eq!(ids(&get(&broker, "/clients?after=zzz")), [""; 0]);
    for bad in ["limit=0", "limit=1001", "limit=x", "limit=", "after=%ff", "limit=1&limit=2", "page=1"] {
        assert_eq!(ask(&broker, "GET", &format!("/clients?{bad}")).0, 400, "{bad}");
    }
    drop(clients);
}

#[test]
fn a_client_is_disconnected_and_its_session_ended_if_wanted() {
    let mut broker = Broker::start();
    let will = |topic: &str| Publish::new(topic, "will");
    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("#", 0);
    let mut stays = broker.connect(Connect::v5("stays").durable().will(will("w/stays")));
    stays.subscribe("t", 1);
    assert_eq!(delete(&broker, "/clients/stays"), json!({ "disconnected": true, "session_ended": false }));
    assert_eq!(stays.expect_closed(), Some(ADMINISTRATIVE_ACTION));
    assert_eq!(watcher.take().topic, "w/stays");
    assert_eq!(delete(&broker, "/clients/stays"), json!({ "disconnected": false, "session_ended": false }));
    let mut old = broker.connect(Connect::v311("old"));
    assert_eq!(delete(&broker, "/clients/old?session=false"), json!({ "disconnected": true, "session_ended": true }));
    assert_eq!(old.expect_closed(), None);
    let again = broker.connect(Connect::v5("stays").durable());
    assert!(again.connack.session_present);

    // With its session, while it is there and while it is away; its will comes all the same.
    again.disconnect();
    let mut goes = broker.connect(Connect::v5("goes").durable().will(will("w/goes")));
    goes.subscribe("t", 1);
    assert_eq!(delete(&broker, "/clients/goes?session=true"), json!({ "disconnected": true, "session_ended": true }));
    assert_eq!(goes.expect_closed(), Some(ADMINISTRATIVE_ACTION));
    assert_eq!(watcher.take().topic, "w/goes");
    assert_eq!(delete(&broker, "/clients/stays?session=true"), json!({ "disconnected": false, "session_ended": true }));
    // It was durable when that was said.
    broker.kill9_and_restart();
    for name in ["stays", "goes"] {
        assert_eq!(ask(&broker, "DELETE", &format!("/clients/{name}")).0, 404);
        assert!(!broker.connect(Connect::v5(name).durable()).connack.session_present);
    }
    assert_eq!(ask(&broker, "DELETE", "/clients/stays?session=maybe").0, 400);
}

#[test]
fn retained_messages_are_told_and_removed_by_filter() {
    let mut broker = Broker::start();
    let mut client = broker.connect(Connect::v5("keeper"));
    for topic in ["a/1", "a/2", "b/1"] {
        client.publish(Publish::new(topic, "four").qos(1).retain().with(Prop::MessageExpiryS(1000)));
    }
    client.publish(Publish::new("é /x", "kept").qos(2).retain());
    let list = get(&broker, "/retained?filter=%23");
    assert_eq!(list["truncated"], false);
    let last = &list["retained"][3];
    assert_eq!(
        *last,
        json!({
            "topic": "é /x", "client_id": "keeper", "qos": 2, "payload_bytes": 4, "expires_s": null
        })
    );
    assert!(list["retained"][0]["expires_s"].as_u64().is_some_and(|at| at > 1_700_000_000));
    assert_eq!(topics(&broker, "filter=a/+"), ["a/1", "a/2"]);
    assert_eq!(topics(&broker, "filter=%C3%A9%20/x"), ["é /x"]);
    let first = get(&broker, "/retained?filter=%23&limit=2");
    assert_eq!((first["retained"].as_array().map(Vec::len), &first["truncated"]), (Some(2), &json!(true)));
    assert_eq!(get(&broker, "/retained?filter=%23&limit=4")["truncated"], false);
    for bad in
        ["", "filter=", "filter=a%23", "filter=a+b", "filter=$share/g/a", "filter=%23&limit=0", "filter=%00", "f=a"]
    {
        for method in ["GET", "DELETE"] {
            assert_eq!(ask(&broker, method, &format!("/retained?{bad}")).0, 400, "{method} {bad}");
        }
    }
    assert_eq!(delete(&broker, "/retained?filter=nothing/+"), json!({ "removed": 0 }));
    assert_eq!(delete(&broker, "/retained?filter=a/+"), json!({ "removed": 2 }));
    // It was durable when that was said, and a value set later stays.
    client.publish(Publish::new("a/2", "new").qos(1).retain());
    broker.kill9_and_restart();
    assert_eq!(topics(&broker, "filter=%23"), ["a/2", "b/1", "é /x"]);
    // More than are removed at once.
    let mut client = broker.connect(Connect::v5("keeper"));
    for n in 0..2_500 {
        client.send_publish(&Publish::new(&format!("many/{n}"), "x").retain());
    }
    client.ping();
    assert_eq!(delete(&broker, "/retained?filter=many/%23"), json!({ "removed": 2_500 }));
    assert_eq!(delete(&broker, "/retained?filter=%23"), json!({ "removed": 3 }));
    broker.kill9_and_restart();
    assert_eq!(topics(&broker, "filter=%23"), [""; 0]);
    // $SYS is the server's.
    assert_eq!(delete(&broker, "/retained?filter=$SYS/%23"), json!({ "removed": 0 }));
}

#[test]
fn web_pages_and_strangers_are_refused() {
    let token = "a-token-of-enough-length";
    let mut broker = Broker::with_config("");
    let _client = broker.connect(Connect::v311("c"));
    let status = |broker: &Broker, method, path, headers: &[(&str, &str)]| ask_with(broker, method, path, headers).0;
    // A name that leads here by somebody else's DNS.
    assert_eq!(status(&broker, "GET", "/clients", &[("Host", "evil.example")]), 403);
    assert_eq!(status(&broker, "DELETE", "/clients/c", &[("Host", "evil.example:9180")]), 403);
    assert_eq!(status(&broker, "DELETE", "/clients/c", &[("Origin", "http://localhost")]), 403);
    assert_eq!(status(&broker, "GET", "/clients", &[("Host", "localhost:9180")]), 200);
    // Health and metrics are anyone's.
    for path in ["/live", "/ready", "/metrics"] {
        let answer = http::ask(broker.admin(), "GET", path, &[("Host", "evil.example")]).expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
    }
    // With a token, and without a restart.
    broker.write("token", &format!("{token}\n"));
    broker.write_config("[admin]\ntoken_file = \"token\"\n");
    broker.reload();
    let right = format!("Bearer {token}");
    for path in ["/clients", "/clients/c", "/retained?filter=%23"] {
        assert_eq!(status(&broker, "GET", path, &[]), 401, "{path}");
        assert_eq!(status(&broker, "GET", path, &[("Authorization", "Bearer a-token-of-enough-lengtH")]), 401);
        assert_eq!(status(&broker, "GET", path, &[("Authorization", &right), ("Host", "gateway.example")]), 200);
    }
    let told = http::ask(broker.admin(), "DELETE", "/clients/c", &[]).expect("an answer");
    assert!(told.status == 401 && told.head.to_lowercase().contains("www-authenticate: bearer"), "{told:?}");
    assert_eq!(status(&broker, "DELETE", "/clients/c", &[("Authorization", &right), ("Origin", "null")]), 403);
    assert_eq!(http::get(broker.admin(), "/metrics").expect("an answer").status, 200);
    assert!(
        ids(&ask_with(&broker, "GET", "/clients", &[("Authorization", &right)]).1).contains(&"c"),
        "nobody removed it"
    );
    // A token that is none changes nothing; a start refuses it.
    broker.write("token", "short");
    let said = broker.reload();
    assert!(said.contains("admin.token_file") && said.contains("stay as they were"), "{said}");
    assert_eq!(status(&broker, "DELETE", "/clients/c", &[("Authorization", &right)]), 200);
    broker.kill9();
    assert!(broker.fails_to_start().contains("admin.token_file"));
}

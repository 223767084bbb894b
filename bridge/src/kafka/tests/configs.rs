//! Settings: described, given at a topic's making, changed.

use kafka_protocol::messages::{
    AlterConfigsRequest, CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, ProduceRequest,
    TopicName, alter_configs_request as whole,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    describe_configs_request::DescribeConfigsResource,
    describe_configs_response::DescribeConfigsResourceResult,
    incremental_alter_configs_request as steps,
    produce_request::{PartitionProduceData, TopicProduceData},
};

use super::{Broker, Peer, batch_of, on_one_thread, text, with_broker};
use crate::batch;

const UNKNOWN: i16 = 3;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;
const INVALID_RECORD: i16 = 87;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

async fn make(peer: &mut Peer, topic: &str, settings: &[(&str, Option<&str>)]) -> (i16, String) {
    let settings = settings
        .iter()
        .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text)));
    let wanted = CreatableTopic::default()
        .with_name(TopicName(text(topic)))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(settings.collect());
    let made = peer.ask(7, &CreateTopicsRequest::default().with_topics(vec![wanted])).await;
    (made.topics[0].error_code, made.topics[0].error_message.as_deref().unwrap_or_default().to_owned())
}

async fn describe(peer: &mut Peer, kind: i8, name: &str) -> Vec<DescribeConfigsResourceResult> {
    let asked = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![asked])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let answer = peer.ask(4, &request).await;
    assert_eq!(answer.results[0].error_code, 0);
    answer.results[0].configs.clone()
}

/// Value, source, and the sources of its synonyms.
async fn setting(peer: &mut Peer, topic: &str, name: &str) -> (String, i8, Vec<i8>) {
    let all = describe(peer, TOPIC, topic).await;
    let found = all.iter().find(|config| &*config.name == name).expect("there is one");
    let value = found.value.as_deref().unwrap_or_default().to_owned();
    (value, found.config_source, found.synonyms.iter().map(|synonym| synonym.source).collect())
}

type Step<'a> = (&'a str, i8, Option<&'a str>);

fn step_request(kind: i8, name: &str, all: &[Step<'_>]) -> IncrementalAlterConfigsRequest {
    let configs = all.iter().map(|(name, operation, value)| {
        let config = steps::AlterableConfig::default().with_name(text(name)).with_config_operation(*operation);
        config.with_value(value.map(text))
    });
    let resource = steps::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

async fn change(peer: &mut Peer, all: &[Step<'_>]) -> (i16, String) {
    let answer = peer.ask(1, &step_request(TOPIC, "t", all)).await;
    let outcome = &answer.responses[0];
    (outcome.error_code, outcome.error_message.as_deref().unwrap_or_default().to_owned())
}

fn whole_request(topic: &str, all: &[(&str, &str)]) -> AlterConfigsRequest {
    let configs = all
        .iter()
        .map(|(name, value)| whole::AlterableConfig::default().with_name(text(name)).with_value(Some(text(value))));
    let resource = whole::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    AlterConfigsRequest::default().with_resources(vec![resource])
}

#[test]
fn a_topic_is_made_with_settings_that_can_be() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let settings = [("retention.ms", Some("60000")), ("cleanup.policy", Some("compact,delete"))];
        assert_eq!(make(&mut peer, "t", &settings).await.0, 0);
        let config = broker.bridge.topic("t").expect("made").config();
        assert_eq!(
            (config.settings.retention_ms, config.settings.compact, config.settings.delete),
            (Some(60_000), true, true)
        );
        // What others set to the one value there is.
        let fixed = [("message.timestamp.type", Some("CreateTime")), ("min.insync.replicas", Some("1"))];
        assert_eq!(make(&mut peer, "fixed", &fixed).await.0, 0);
        let long = "1".repeat(1000);
        for (name, value, says) in [
            ("retention.ms", Some("soon"), "is not a number"),
            ("retention.ms", None, "a value is missing"),
            ("retention.ms", Some(&*long), "a value of 1000 bytes"),
            ("compression.type", Some("zstd"), "only \"producer\" is served"),
            ("retention.days", Some("1"), "there are cleanup.policy, compression.type"),
        ] {
            let (code, message) = make(&mut peer, "bad", &[(name, value)]).await;
            assert!(code == INVALID_CONFIG && message.contains(says), "{name} {code} {message}");
        }
        assert!(broker.bridge.topic("bad").is_none());
    });
}

#[test]
fn where_a_value_comes_from_is_told() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&mut peer, "t", &[("retention.ms", Some("60000"))]).await;
        assert_eq!(setting(&mut peer, "t", "retention.ms").await, ("60000".into(), 1, vec![1, 5]));
        assert_eq!(setting(&mut peer, "t", "retention.bytes").await, ("-1".into(), 5, vec![5]));
        // This broker has one of its own.
        assert_eq!(setting(&mut peer, "t", "segment.bytes").await, ("1048576".into(), 4, vec![4]));
        let all = describe(&mut peer, TOPIC, "t").await;
        assert_eq!(all.len(), 12);
        let documented = |config: &DescribeConfigsResourceResult| config.documentation.is_some();
        assert!(all.iter().all(documented));
        let fixed: Vec<&str> = all.iter().filter(|config| config.read_only).map(|config| &*config.name).collect();
        assert_eq!(fixed, ["compression.type", "max.message.bytes", "message.timestamp.type", "min.insync.replicas"]);
        let of_broker = describe(&mut peer, BROKER, "7").await;
        let value = |name: &str| {
            let found = of_broker.iter().find(|config| &*config.name == name).expect("there is one");
            found.value.as_deref().unwrap_or_default().to_owned()
        };
        assert_eq!((value("log.retention.ms"), value("log.segment.bytes")), ("604800000".into(), "1048576".into()));
        assert_eq!((value("node.id"), value("message.max.bytes")), ("7".into(), "100000".into()));
    });
}

#[test]
fn settings_change_one_by_one_and_survive() {
    let broker = Broker::start();
    on_one_thread(async {
        let mut peer = broker.connect();
        make(&mut peer, "t", &[]).await;
        let steps = [("retention.ms", SET, Some("5000")), ("cleanup.policy", APPEND, Some("compact"))];
        assert_eq!(change(&mut peer, &steps).await.0, 0);
        assert_eq!(setting(&mut peer, "t", "cleanup.policy").await.0, "compact,delete");
        assert_eq!(change(&mut peer, &[("cleanup.policy", SUBTRACT, Some("delete"))]).await.0, 0);
        assert_eq!(setting(&mut peer, "t", "cleanup.policy").await, ("compact".into(), 1, vec![1, 5]));
        assert_eq!(change(&mut peer, &[("retention.ms", DELETE, None), ("segment.ms", SET, Some("9"))]).await.0, 0);
        assert_eq!(setting(&mut peer, "t", "retention.ms").await, ("604800000".into(), 5, vec![5]));
        peer.hang_up().await.expect("a clean end");
    });
    let broker = broker.restart();
    on_one_thread(async {
        let mut peer = broker.connect();
        assert_eq!(setting(&mut peer, "t", "cleanup.policy").await.0, "compact");
        assert_eq!(setting(&mut peer, "t", "segment.ms").await.0, "9");
        assert_eq!(setting(&mut peer, "t", "retention.ms").await.1, 5);
        // All others go.
        let answer = peer.ask(2, &whole_request("t", &[("retention.bytes", "4096")])).await;
        assert_eq!(answer.responses[0].error_code, 0);
        let given = broker.bridge.topic("t").expect("there").config().given.clone();
        assert_eq!(given.into_iter().collect::<Vec<_>>(), [("retention.bytes".to_owned(), "4096".to_owned())]);
        peer.hang_up().await.expect("a clean end");
    });
}

#[test]
fn what_cannot_be_changes_nothing() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&mut peer, "t", &[("segment.ms", Some("9"))]).await;
        let good = ("retention.ms", SET, Some("1"));
        for (bad, says) in [
            (("retention.ms", SET, None), "named twice"),
            (("segment.bytes", SET, Some("1")), "is not a number from"),
            (("segment.bytes", SET, None), "a value is missing"),
            (("segment.ms", APPEND, Some("1")), "is no list"),
            (("segment.ms", 4, Some("1")), "4 is no operation"),
            (("cleanup.policy", APPEND, Some("keep")), "is not delete, compact or both"),
            (("cleanup.policy", SUBTRACT, Some("delete")), "is not delete, compact or both"),
            (("flush.ms", DELETE, None), "not a setting of a topic"),
            (("max.message.bytes", SET, Some("1")), "only \"100000\" is served"),
        ] {
            let (code, message) = change(&mut peer, &[good, bad]).await;
            assert!(code == INVALID_CONFIG && message.contains(says), "{bad:?}: {code} {message}");
        }
        let given = || broker.bridge.topic("t").expect("there").config().given.clone();
        assert_eq!(given().into_iter().collect::<Vec<_>>(), [("segment.ms".to_owned(), "9".to_owned())]);

        let validated = step_request(TOPIC, "t", &[good]).with_validate_only(true);
        assert_eq!(peer.ask(1, &validated).await.responses[0].error_code, 0);
        let validated = step_request(TOPIC, "t", &[("cleanup.policy", SUBTRACT, Some("delete"))]);
        assert_eq!(peer.ask(1, &validated.with_validate_only(true)).await.responses[0].error_code, INVALID_CONFIG);
        let validated = whole_request("t", &[("segment.ms", "8")]).with_validate_only(true);
        assert_eq!(peer.ask(2, &validated).await.responses[0].error_code, 0);
        assert_eq!(given()["segment.ms"], "9");
    });
}

#[test]
fn only_topics_that_are_there_have_settings_to_be_changed() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&mut peer, "t", &[]).await;
        let good = ("retention.ms", SET, Some("1"));
        for (kind, name, code) in [
            (TOPIC, "absent", UNKNOWN),
            (TOPIC, "__mqtt", UNKNOWN),
            (BROKER, "7", INVALID_REQUEST),
            (BROKER, "", INVALID_REQUEST),
            (8, "7", INVALID_REQUEST),
        ] {
            let answer = peer.ask(1, &step_request(kind, name, &[good])).await;
            assert_eq!(answer.responses[0].error_code, code, "{kind} {name}");
        }
        let mut twice = step_request(TOPIC, "t", &[good]);
        twice.resources.extend(twice.resources.clone());
        let answer = peer.ask(1, &twice).await;
        let codes: Vec<i16> = answer.responses.iter().map(|outcome| outcome.error_code).collect();
        assert_eq!(codes, [INVALID_REQUEST; 2]);
        assert!(peer.ask(1, &IncrementalAlterConfigsRequest::default()).await.responses.is_empty());
        // Settings on their way when their topic goes do not bring it back.
        let topic = broker.bridge.topic("t").expect("there");
        broker.bridge.delete_topic(&broker.bridge.lane(), "t").expect("deleted");
        let changed = broker.bridge.configure_topic(&broker.bridge.lane(), &topic, |_| {});
        assert!(matches!(changed, Err(crate::ConfigureTopicError::Unknown(_))));
    });
}

#[test]
fn a_compacted_topic_takes_only_records_with_keys() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&mut peer, "t", &[("cleanup.policy", Some("compact"))]).await;
        let mut builder = batch::Builder::default();
        builder.restart(0);
        let mut body = Vec::new();
        batch::encode_body(&mut body, Some(b"key"), Some(b"value"), std::iter::empty());
        builder.push(1_000, &body);
        let keyed = bytes::Bytes::copy_from_slice(builder.finish(-1));
        for (records, code) in [(keyed, 0), (batch_of(&["without"]), INVALID_RECORD)] {
            let data = PartitionProduceData::default().with_records(Some(records));
            let data = TopicProduceData::default().with_name(TopicName(text("t"))).with_partition_data(vec![data]);
            let produced = peer.ask(9, &ProduceRequest::default().with_acks(-1).with_topic_data(vec![data])).await;
            assert_eq!(produced.responses[0].partition_responses[0].error_code, code);
        }
    });
}

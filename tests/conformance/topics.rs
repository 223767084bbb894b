//! Chapter 4.7: topic names and filters.

use crate::script::{
    V5, V311, closed_for, fresh, join, publish, publish_bytes, subscribe_bytes, told, unsubscribe_bytes,
};
use support::mqtt::{Publish, Version};

/// A SUBSCRIBE or UNSUBSCRIBE with this filter ends the connection.
#[track_caller]
fn no_filter(version: Version, filter: &str) {
    assert_eq!(closed_for(version, &subscribe_bytes(version, filter, 0)), told(version, 0x81), "{filter:?}");
    assert_eq!(closed_for(version, &unsubscribe_bytes(version, filter)), told(version, 0x81), "{filter:?}");
}

/// Which of these topics below a fresh root this filter below it matches.
fn matched<'a>(version: Version, filter: &str, topics: &[&'a str]) -> Vec<&'a str> {
    let (mut client, root) = (join(version), fresh());
    let end = fresh();
    client.subscribe(&end, 1);
    assert!(client.subscribe(&format!("{root}{filter}"), 1) < 0x80, "{filter}");
    for topic in topics {
        publish(&format!("{root}{topic}"), topic);
    }
    publish(&end, "end");
    let got = client.take_until("end");
    topics.iter().copied().filter(|topic| got.iter().any(|payload| payload == topic)).collect()
}

fn wildcards_are_for_filters(version: Version) {
    for topic in ["+", "#", "a/+", "a/#", "a+", "#a"] {
        let bytes = publish_bytes(version, 0x30, topic.as_bytes(), b"", b"x");
        assert_eq!(closed_for(version, &bytes), told(version, 0x81), "{topic}");
    }
}

#[test]
fn mqtt5_4_7_0_1() {
    wildcards_are_for_filters(V5);
}

#[test]
fn mqtt311_4_7_1_1() {
    wildcards_are_for_filters(V311);
}

fn hash_stands_last(version: Version) {
    for filter in ["a#", "#/a", "a/#/b", "##", "#/", "a/b#", "/#a"] {
        no_filter(version, filter);
    }
    let topics = ["", "/", "/a", "/a/b/c", "x"];
    assert_eq!(matched(version, "/#", &topics), ["", "/", "/a", "/a/b/c"], "the parent, and all below");
    assert_eq!(matched(version, "/a/#", &topics), ["/a", "/a/b/c"]);
}

#[test]
fn mqtt5_4_7_1_1() {
    hash_stands_last(V5);
}

#[test]
fn mqtt311_4_7_1_2() {
    hash_stands_last(V311);
}

fn plus_is_a_level(version: Version) {
    for filter in ["a+", "+a", "a/+b", "a+/b", "++", "a/b+/c"] {
        no_filter(version, filter);
    }
    let topics = ["", "/", "/a", "/a/b", "/a/b/c", "/a//c"];
    assert_eq!(matched(version, "/+", &topics), ["/", "/a"]);
    assert_eq!(matched(version, "/a/+/c", &topics), ["/a/b/c", "/a//c"]);
    assert_eq!(matched(version, "/+/+/#", &topics), ["/a/b", "/a/b/c", "/a//c"]);
}

#[test]
fn mqtt5_4_7_1_2() {
    plus_is_a_level(V5);
}

#[test]
fn mqtt311_4_7_1_3() {
    plus_is_a_level(V311);
}

fn a_leading_dollar_is_apart(version: Version) {
    let (mut client, root, end) = (join(version), fresh(), fresh());
    for filter in ["#".to_owned(), format!("+/{root}"), format!("+/{root}/#"), end.clone()] {
        client.subscribe(&filter, 0);
    }
    let mut from = join(version);
    from.send_publish(&Publish::new(&format!("$hidden/{root}"), "hidden").qos(1).id(1));
    from.send_publish(&Publish::new(&format!("$hidden/{root}/x"), "hidden").qos(1).id(2));
    from.expect_ack(support::mqtt::AckKind::PubAck, 1);
    from.expect_ack(support::mqtt::AckKind::PubAck, 2);
    publish(&end, &end);
    // Other tests' messages come by, too.
    assert!(!client.take_until(&end).contains(&"hidden".to_owned()));
    // A filter that spells it matches.
    let mut client = join(version);
    client.subscribe(&format!("$hidden/{root}/+"), 1);
    publish(&format!("$hidden/{root}/x"), "seen");
    assert_eq!(client.take().text(), "seen");
}

#[test]
fn mqtt5_4_7_2_1() {
    a_leading_dollar_is_apart(V5);
}

#[test]
fn mqtt311_4_7_2_1() {
    a_leading_dollar_is_apart(V311);
}

fn a_character_at_least(version: Version) {
    no_filter(version, "");
    let bytes = publish_bytes(version, 0x30, b"", b"", b"x");
    assert_eq!(closed_for(version, &bytes), told(version, 0x82));
    let mut client = join(version);
    client.subscribe("/", 1);
    let mark = fresh();
    publish("/", &mark);
    client.take_until(&mark);
}

#[test]
fn mqtt5_4_7_3_1() {
    a_character_at_least(V5);
}

#[test]
fn mqtt311_4_7_3_1() {
    a_character_at_least(V311);
}

fn no_null(version: Version) {
    for text in ["\0", "a\0", "\0/a", "a/\0/b", "a long topic name, and a null \0 in it"] {
        let publish = publish_bytes(version, 0x30, text.as_bytes(), b"", b"x");
        assert_eq!(closed_for(version, &publish), told(version, 0x81), "{text:?}");
        assert_eq!(closed_for(version, &subscribe_bytes(version, text, 0)), told(version, 0x81), "{text:?}");
    }
}

#[test]
fn mqtt5_4_7_3_2() {
    no_null(V5);
}

#[test]
fn mqtt311_4_7_3_2() {
    no_null(V311);
}

fn at_most_65_535_bytes(version: Version) {
    // More cannot be said; as many are taken, as a filter and as a name.
    let root = fresh();
    let longest = format!("{root}/{}", "x".repeat(65_535 - 1 - root.len()));
    let mut client = join(version);
    assert_eq!(client.subscribe(&longest, 1), 1);
    publish(&longest, "1");
    let got = client.take();
    assert!(got.topic == longest && got.text() == "1");
}

#[test]
fn mqtt5_4_7_3_3() {
    at_most_65_535_bytes(V5);
}

#[test]
fn mqtt311_4_7_3_3() {
    at_most_65_535_bytes(V311);
}

fn nothing_is_normalised(version: Version) {
    // Case, blanks, slashes, dots, and one letter in its two forms; unassigned and private characters stay.
    let topics =
        ["/a/b", "/A/b", "/a/b/", "//a/b", "/a//b", "/ a/b", "/a/./b", "/\u{E9}", "/e\u{301}", "/\u{378}", "/\u{E000}"];
    for topic in topics {
        assert_eq!(matched(version, topic, &topics), [topic]);
    }
}

#[test]
fn mqtt5_4_7_3_4() {
    nothing_is_normalised(V5);
}

#[test]
fn mqtt311_4_7_3_4() {
    nothing_is_normalised(V311);
}

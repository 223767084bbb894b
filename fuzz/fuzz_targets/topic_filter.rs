//! Topic filters and the trie: lines that subscribe (`s`), unsubscribe (`u`) or publish (`p`), against a list of all
//! subscriptions that is searched from end to end.

#![no_main]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::codec::QoS;
use broker::codec::topic::{split_share, validate_filter, validate_topic_name};
use broker::mapping::filter_matches;
use broker::router::SessionRef;
use broker::router::trie::{Subscriber, Trie};
use libfuzzer_sys::fuzz_target;

/// A session's subscription: whose, and by which filter, the share name apart.
type Subscription<'a> = (u64, Option<&'a str>, &'a str);

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut trie = Trie::default();
    let mut naive = BTreeSet::new();
    for line in text.lines().take(100) {
        let mut characters = line.chars();
        let (Some(verb), Some(session)) = (characters.next(), characters.next()) else { continue };
        let session = u64::from(u32::from(session) % 5);
        match (verb, characters.as_str()) {
            ('p', topic) if validate_topic_name(topic).is_ok() => publish(&trie, &naive, topic),
            ('s', filter) if validate_filter(filter).is_ok() => {
                let (group, filter) = parts(filter);
                trie.subscribe(filter, group, subscriber(session));
                naive.insert((session, group, filter));
            }
            ('u', filter) if validate_filter(filter).is_ok() => {
                let (group, filter) = parts(filter);
                trie.unsubscribe(filter, group, session);
                naive.remove(&(session, group, filter));
            }
            _ => {}
        }
        assert_eq!(trie.is_empty(), naive.is_empty());
    }
    for (session, group, filter) in naive {
        trie.unsubscribe(filter, group, session);
    }
    assert!(trie.is_empty());
});

fn parts(filter: &str) -> (Option<&str>, &str) {
    split_share(filter).map_or((None, filter), |(group, filter)| (Some(group), filter))
}

fn subscriber(id: u64) -> Subscriber {
    let session = Arc::new(SessionRef::new(id, 0, 0, "c".into(), false));
    Subscriber { session, qos: QoS::AtMostOnce, no_local: false, retain_as_published: false, id: None }
}

fn publish(trie: &Trie, naive: &BTreeSet<Subscription<'_>>, topic: &str) {
    let found = trie.matches(topic);
    let mut own: Vec<_> = found.own.iter().map(|subscriber| subscriber.session.id).collect();
    own.sort_unstable();
    let (mut expected, mut groups) = (Vec::new(), BTreeMap::<_, BTreeSet<u64>>::new());
    for (session, group, filter) in naive.iter().filter(|(_, _, filter)| filter_matches(filter, topic)) {
        match group {
            None => expected.push(*session),
            Some(group) => {
                groups.entry((group, filter)).or_default().insert(*session);
            }
        }
    }
    assert_eq!(own, expected, "{topic:?}");
    // Nobody may have it, so that everybody is asked about.
    let asked = |group: &Arc<broker::router::trie::SharedGroup>| {
        let asked = RefCell::new(BTreeSet::new());
        let picked = group.pick(|member| {
            asked.borrow_mut().insert(member.id);
            false
        });
        assert!(picked.is_none());
        asked.into_inner()
    };
    let mut shared: Vec<_> = found.shared.iter().map(asked).collect();
    shared.sort_unstable();
    let mut expected: Vec<_> = groups.into_values().collect();
    expected.sort_unstable();
    assert_eq!(shared, expected, "{topic:?}");
}

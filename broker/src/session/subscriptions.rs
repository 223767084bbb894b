//! What a session has subscribed to.

use ahash::HashMap;

use crate::codec::topic::split_share;

use super::{Options, share_key};

/// Shared subscriptions that are no more and remembered.
const FORMER_MAX: usize = 100;

/// Subscriptions by filter, `$share/…/` included.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_filter: HashMap<Box<str>, Options>,
    /// Filters of the shared ones by their [`share_key`]; also of some that are no more, for what came by them may still
    /// be queued.
    shared: Option<Box<HashMap<u32, Box<str>>>>,
}

impl Subscriptions {
    /// Adds one or replaces its options; whether it is new.
    pub fn insert(&mut self, filter: &str, options: Options) -> bool {
        if let Some((group, name)) = split_share(filter) {
            self.shared.get_or_insert_default().insert(share_key(group, name), filter.into());
        }
        self.by_filter.insert(filter.into(), options).is_none()
    }

    /// Removes one; whether it was there.
    pub fn remove(&mut self, filter: &str) -> bool {
        let removed = self.by_filter.remove(filter).is_some();
        if let Some(shared) = self.shared.as_mut()
            && shared.len() > self.by_filter.len() + FORMER_MAX
        {
            shared.retain(|_, filter| self.by_filter.contains_key(filter));
        }
        removed
    }

    /// The filter of the shared subscription with this key, which may be a former one.
    pub fn shared_filter(&self, key: u32) -> Option<&str> {
        self.shared.as_ref()?.get(&key).map(|filter| &**filter)
    }

    /// Whether any is or was shared.
    pub fn had_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The Subscription Identifier of the shared subscription with this key.
    pub fn shared_id(&self, key: u32) -> Option<u32> {
        self.by_filter.get(self.shared_filter(key)?)?.id
    }

    /// Whether there is one on this filter.
    pub fn contains(&self, filter: &str) -> bool {
        self.by_filter.contains_key(filter)
    }

    /// The options of the one on this filter.
    pub fn options(&self, filter: &str) -> Option<&Options> {
        self.by_filter.get(filter)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_filter.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_filter.is_empty()
    }

    /// Every filter, in no order.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.by_filter.keys().map(|filter| &**filter)
    }

    /// Every filter and its options, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Options)> {
        self.by_filter.iter().map(|(filter, options)| (&**filter, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::QoS;

    #[test]
    fn a_shared_one_is_found_by_its_key_until_it_is_removed() {
        let options = |id| Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id };
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.insert("$share/g/a/+", options(None)) && subscriptions.insert("a/+", options(Some(1))));
        let key = share_key("g", "a/+");
        assert_eq!((subscriptions.shared_filter(key), subscriptions.shared_id(key)), (Some("$share/g/a/+"), None));
        assert!(!subscriptions.insert("$share/g/a/+", options(Some(7))));
        assert_eq!(subscriptions.shared_id(key), Some(7));
        assert!(subscriptions.remove("$share/g/a/+") && !subscriptions.remove("$share/g/a/+"));
        assert_eq!((subscriptions.shared_filter(key), subscriptions.shared_id(key)), (Some("$share/g/a/+"), None));
        for number in 0..FORMER_MAX + 1 {
            let filter = format!("$share/g/{number}");
            assert!(subscriptions.insert(&filter, options(None)) && subscriptions.remove(&filter));
        }
        assert_eq!((subscriptions.shared_filter(key), subscriptions.len()), (None, 1));
    }
}

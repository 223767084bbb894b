//! Which topics two topic filters share; pure.

/// Whether some topic matches both.
pub fn overlap(a: &str, b: &str) -> bool {
    if leading_wildcard_meets_dollar(a, b) || leading_wildcard_meets_dollar(b, a) {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
            _ => return false,
        }
    }
}

/// Whether every topic that matches `inner` matches `outer` too.
pub fn covers(outer: &str, inner: &str) -> bool {
    if leading_wildcard_meets_dollar(outer, inner) {
        return false;
    }
    // A topic has at least one level, so these two are the same; deeper down `a/#` also means `a`, `a/+/#` does not.
    let inner = if inner == "#" { "+/#" } else { inner };
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) => return false,
            (Some(wide), Some(narrow)) if wide == narrow || wide == "+" => {}
            _ => return false,
        }
    }
}

/// A leading wildcard does not match `$SYS` and its like.
fn leading_wildcard_meets_dollar(wildcard: &str, dollar: &str) -> bool {
    dollar.starts_with('$') && wildcard.starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::topic::validate_filter, mapping::filter_matches};
    use proptest::prelude::*;

    /// Every topic of up to four levels, with one more literal than the filters below have: what no filter names.
    /// The empty one is no topic, but is the parent of `/#`: that it counts here can let a client subscribe in vain.
    fn topics() -> Vec<String> {
        let levels = ["a", "b", "c", "$a", ""];
        let mut all: Vec<String> = Vec::new();
        let mut last = vec![None::<String>];
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|head| {
                    levels.map(|level| Some(head.as_ref().map_or(level.to_owned(), |head| format!("{head}/{level}"))))
                })
                .collect();
            all.extend(last.iter().flatten().cloned());
        }
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "$a", "", "+"]);
        (prop::collection::vec(level, 0..=3), any::<bool>())
            .prop_map(|(mut levels, open)| {
                if open {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("a filter", |filter| validate_filter(filter).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn both_are_what_enumerating_topics_says(a in filter(), b in filter()) {
            let matched: Vec<_> =
                topics().into_iter().map(|topic| (filter_matches(&a, &topic), filter_matches(&b, &topic))).collect();
            prop_assert_eq!(overlap(&a, &b), matched.iter().any(|(a, b)| *a && *b));
            prop_assert_eq!(covers(&a, &b), matched.iter().all(|(a, b)| *a || !*b));
        }
    }

    #[test]
    fn the_corners() {
        for (a, b, expected) in [
            ("a/#", "a", true),
            ("a/#", "+", true),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/+/c", "+/b/#", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{a} {b}");
        }
        for (outer, inner, expected) in [
            ("#", "a/#", true),
            ("+/#", "#", true),
            ("#", "$SYS/#", false),
            ("a/+/#", "a/#", false),
            ("a/#", "a/+/#", true),
            ("+", "#", false),
            ("a/+", "a/b", true),
            ("a/b", "a/+", false),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}

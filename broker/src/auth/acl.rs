//! The access control list, in Mosquitto's syntax:
//!
//! ```text
//! # a comment: # as the very first character
//! topic read public/#                anonymous clients, as no user line stands above
//! user alice                         from here on: alice
//! topic readwrite home/alice/#       read, write, readwrite or deny; readwrite when it is left out
//! topic deny home/alice/secrets
//! kafka read mqtt.*                  Millstream's addition: topics of the log, by name or beginning; also
//! kafka manage mqtt.*                make, delete, trim and configure them, which write does not include
//! pattern write devices/%c/state     everyone, wherever it stands; %c is the client id, %u the user name
//! ```
//!
//! What nobody granted is refused, and a deny wins over every grant. (In Mosquitto a user's own `topic` line wins over
//! a `pattern deny`; here it does not.)
//!
//! A client chooses its own id, and may have been given an odd name: what is put into a pattern must neither add a
//! level or a wildcard nor lead into `$SYS`. Where it would, a pattern grants nothing and a `pattern deny` refuses
//! everything.

use std::{borrow::Cow, path::Path};

use ahash::AHashMap;
use smallvec::SmallVec;

use super::{AccessError, Problems, filters, lines, read};
use crate::{
    codec::topic::{split_share, validate_filter},
    limits::ACL_LINES_MAX,
    mapping::filter_matches,
};

/// Kafka's bound on a topic's name.
const LOG_TOPIC_BYTES_MAX: usize = 249;

/// What a line gives, or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Write,
    ReadWrite,
    /// Of topics of the log alone.
    Manage,
    Deny,
}

impl Right {
    fn parse(keyword: &str, word: &str) -> Option<Right> {
        match word {
            "read" => Some(Right::Read),
            "write" => Some(Right::Write),
            "readwrite" => Some(Right::ReadWrite),
            "manage" if keyword == "kafka" => Some(Right::Manage),
            "deny" => Some(Right::Deny),
            _ => None,
        }
    }

    fn gives(self, wanted: Right) -> bool {
        self == wanted || (self == Right::ReadWrite && wanted != Right::Manage)
    }
}

/// A `topic` or `pattern` line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    right: Right,
    filter: Box<str>,
}

/// A `kafka` line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogGrant {
    right: Right,
    name: Box<str>,
    /// Whether longer names are meant too.
    open: bool,
}

impl LogGrant {
    fn matches(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.name).is_some_and(|rest| self.open || rest.is_empty())
    }

    /// Whether it matches all that the other one matches.
    fn covers(&self, other: &LogGrant) -> bool {
        self.matches(&other.name) && (self.open || !other.open)
    }
}

/// What stands below one `user` line, or above the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    topics: SmallVec<[Grant; 2]>,
    log: SmallVec<[LogGrant; 1]>,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Acl {
    anonymous: Section,
    users: AHashMap<Box<str>, Section>,
    patterns: Vec<Grant>,
}

/// A pattern's filter for one client.
enum Filled<'a> {
    Filter(Cow<'a, str>),
    /// It speaks of users, the client is none.
    NotMeant,
    /// What was put in would change its meaning.
    Widened,
}

impl Acl {
    pub(super) fn load(file: &Path) -> Result<Acl, AccessError> {
        Acl::parse(file, &read(file)?)
    }

    pub(super) fn parse(file: &Path, text: &str) -> Result<Acl, AccessError> {
        let mut problems = Problems::of(file);
        let mut acl = Acl::default();
        let mut user: Option<&str> = None;
        for (i, (line, text)) in lines(text).enumerate() {
            if i == ACL_LINES_MAX {
                problems.at(line, format!("is one line more than the {ACL_LINES_MAX} there may be"));
                break;
            }
            match parse_line(text) {
                Err(what) => problems.at(line, what),
                Ok(Line::User(name)) => user = Some(name),
                Ok(Line::Topic(grant)) => acl.section(user).topics.push(grant),
                Ok(Line::Log(grant)) => acl.section(user).log.push(grant),
                Ok(Line::Pattern(grant)) => acl.patterns.push(grant),
            }
        }
        problems.result(acl)
    }

    fn section(&mut self, user: Option<&str>) -> &mut Section {
        match user {
            None => &mut self.anonymous,
            Some(user) => self.users.entry(user.into()).or_default(),
        }
    }

    fn section_of(&self, user: Option<&str>) -> Option<&Section> {
        user.map_or(Some(&self.anonymous), |user| self.users.get(user))
    }

    /// Whether reading or writing this MQTT topic is granted.
    pub(super) fn topic(&self, wanted: Right, user: Option<&str>, client_id: &str, topic: &str) -> bool {
        let granted = |grant: &Grant, filter: &str| grant.right.gives(wanted) && filter_matches(filter, topic);
        self.decide(user, client_id, granted, |filter| filter_matches(filter, topic))
    }

    /// Whether reading some topic that the filter matches is granted.
    pub(super) fn filter(&self, user: Option<&str>, client_id: &str, filter: &str) -> bool {
        let filter = split_share(filter).map_or(filter, |(_, filter)| filter);
        let granted = |grant: &Grant, own: &str| grant.right.gives(Right::Read) && filters::overlap(own, filter);
        self.decide(user, client_id, granted, |own| filters::covers(own, filter))
    }

    /// Some line grants it, and none denies it.
    fn decide(
        &self,
        user: Option<&str>,
        client_id: &str,
        grants: impl Fn(&Grant, &str) -> bool,
        denies: impl Fn(&str) -> bool,
    ) -> bool {
        let mut granted = false;
        for grant in self.section_of(user).into_iter().flat_map(|section| &section.topics) {
            if grant.right == Right::Deny {
                if denies(&grant.filter) {
                    return false;
                }
            } else {
                granted = granted || grants(grant, &grant.filter);
            }
        }
        for pattern in &self.patterns {
            let filled = fill(&pattern.filter, client_id, user);
            match (pattern.right, filled) {
                (_, Filled::NotMeant) => {}
                (Right::Deny, Filled::Widened) => return false,
                (Right::Deny, Filled::Filter(filter)) if denies(&filter) => return false,
                (Right::Deny, Filled::Filter(_)) | (_, Filled::Widened) => {}
                (_, Filled::Filter(filter)) => granted = granted || grants(pattern, &filter),
            }
        }
        granted
    }

    /// Whether reading, writing or managing this topic of the log is granted.
    pub(super) fn log(&self, wanted: Right, user: Option<&str>, topic: &str) -> bool {
        let Some(section) = self.section_of(user) else { return false };
        let has =
            |gives: &dyn Fn(Right) -> bool| section.log.iter().any(|line| gives(line.right) && line.matches(topic));
        has(&|right| right.gives(wanted)) && !has(&|right| right == Right::Deny)
    }

    /// Whether reading some topic of the log is granted.
    pub(super) fn any_log(&self, user: Option<&str>) -> bool {
        let Some(section) = self.section_of(user) else { return false };
        let denied = |grant: &LogGrant| section.log.iter().any(|line| line.right == Right::Deny && line.covers(grant));
        section.log.iter().any(|line| line.right.gives(Right::Read) && !denied(line))
    }
}

fn fill<'a>(pattern: &'a str, client_id: &str, user: Option<&str>) -> Filled<'a> {
    if !pattern.contains("%c") && !pattern.contains("%u") {
        return Filled::Filter(Cow::Borrowed(pattern));
    }
    let mut filter = String::with_capacity(pattern.len() + client_id.len() + user.map_or(0, str::len));
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        filter.push_str(&rest[..at]);
        let value = match rest.as_bytes().get(at + 1) {
            Some(b'c') => client_id,
            Some(b'u') => match user {
                Some(user) => user,
                None => return Filled::NotMeant,
            },
            _ => {
                filter.push('%');
                rest = &rest[at + 1..];
                continue;
            }
        };
        if value.contains(['+', '#', '/']) || (filter.is_empty() && value.starts_with('$')) {
            return Filled::Widened;
        }
        filter.push_str(value);
        rest = &rest[at + 2..];
    }
    filter.push_str(rest);
    Filled::Filter(Cow::Owned(filter))
}

enum Line<'a> {
    User(&'a str),
    Topic(Grant),
    Pattern(Grant),
    Log(LogGrant),
}

fn parse_line(line: &str) -> Result<Line<'_>, String> {
    let (keyword, rest) = first_word(line);
    match keyword {
        "user" if rest.is_empty() => Err("user: the name is missing".to_owned()),
        "user" => Ok(Line::User(rest)),
        "topic" | "pattern" => {
            let (right, filter) = parse_grant(keyword, rest)?;
            validate_filter(filter).map_err(|error| format!("{keyword}: filter {filter:?}: {error}"))?;
            let grant = Grant { right, filter: filter.into() };
            Ok(if keyword == "topic" { Line::Topic(grant) } else { Line::Pattern(grant) })
        }
        "kafka" => {
            let (right, name) = parse_grant(keyword, rest)?;
            Ok(Line::Log(parse_log_grant(right, name)?))
        }
        _ if keyword.starts_with('#') => Err("a comment must have # as its very first character".to_owned()),
        _ => Err(format!("{keyword:?} is no keyword; a line begins with user, topic, pattern or kafka and a space")),
    }
}

/// As Mosquitto does: a line of two words has no right in it, even if the second is called "read".
fn parse_grant<'a>(keyword: &str, rest: &'a str) -> Result<(Right, &'a str), String> {
    match first_word(rest) {
        ("", _) => Err(format!("{keyword}: the topic is missing")),
        (name, "") => Ok((Right::ReadWrite, name)),
        (right, name) => match Right::parse(keyword, right) {
            Some(right) => Ok((right, name)),
            None => {
                let rights = if keyword == "kafka" { "readwrite, manage" } else { "readwrite" };
                Err(format!(
                    "{keyword}: {right:?} is neither read, write, {rights} nor deny; before a topic with a space in it \
                     one of them must stand"
                ))
            }
        },
    }
}

fn parse_log_grant(right: Right, name: &str) -> Result<LogGrant, String> {
    let (stem, open) = name.strip_suffix('*').map_or((name, false), |stem| (stem, true));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (stem.is_empty() && !open) || stem.len() > LOG_TOPIC_BYTES_MAX || !stem.bytes().all(legal) {
        return Err(format!(
            "kafka: {name:?} is no topic of the log: at most {LOG_TOPIC_BYTES_MAX} letters, digits, dots, hyphens and \
             underscores, or the beginning of such a name and *"
        ));
    }
    Ok(LogGrant { right, name: stem.into(), open })
}

/// The first word and what follows it, without blanks around them.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Acl {
        Acl::parse(Path::new("acl"), text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn reads(acl: &Acl, user: Option<&str>, topic: &str) -> bool {
        acl.topic(Right::Read, user, "id", topic)
    }

    fn writes(acl: &Acl, user: Option<&str>, topic: &str) -> bool {
        acl.topic(Right::Write, user, "id", topic)
    }

    #[test]
    fn sections_rights_and_comments() {
        let acl = parse(
            "# comment\r\ntopic read  public/#\r\n\r\ntopic deny public/secret\ntopic read\nuser  alice \n\
             topic home/alice/#\ntopic write a b/c d \nuser bob\ntopic read #\ntopic readwrite $SYS/#\n\
             user alice\ntopic read more\n",
        );
        let (anonymous, alice, bob) = (None, Some("alice"), Some("bob"));
        assert!(reads(&acl, anonymous, "public/x") && !writes(&acl, anonymous, "public/x"));
        assert!(!reads(&acl, anonymous, "public/secret") && reads(&acl, anonymous, "public/secret/x"));
        // A line of two words: a topic of that name.
        assert!(reads(&acl, anonymous, "read") && writes(&acl, anonymous, "read"));
        // What anonymous clients may is theirs alone.
        assert!(!reads(&acl, alice, "public/x"));
        assert!(reads(&acl, alice, "home/alice/x") && writes(&acl, alice, "home/alice"));
        assert!(writes(&acl, alice, "a b/c d") && !reads(&acl, alice, "a b/c d"));
        assert!(reads(&acl, alice, "more"), "a second section of the same user adds to the first");
        assert!(reads(&acl, bob, "home/alice/x") && !writes(&acl, bob, "home/alice/x"));
        assert!(!reads(&acl, anonymous, "$SYS/x") && reads(&acl, bob, "$SYS/x"));
        assert!(!reads(&acl, Some("carl"), "public/x"));
    }

    #[test]
    fn a_leading_wildcard_does_not_reach_dollar_topics() {
        let acl = parse("topic #\ntopic +/x\n");
        assert!(reads(&acl, None, "a/x") && !reads(&acl, None, "$SYS/x"));
        assert!(acl.filter(None, "id", "#") && !acl.filter(None, "id", "$SYS/#"));
    }

    #[test]
    fn a_deny_wins_wherever_it_stands() {
        for text in ["topic a/#\ntopic deny a/b", "topic deny a/b\ntopic a/#", "pattern deny a/b\ntopic a/#"] {
            let acl = parse(text);
            assert!(reads(&acl, None, "a/c") && !reads(&acl, None, "a/b") && !writes(&acl, None, "a/b"), "{text}");
        }
        let acl = parse("pattern a/#\nuser alice\ntopic deny a/b");
        assert!(!reads(&acl, Some("alice"), "a/b") && reads(&acl, Some("bob"), "a/b"));
    }

    #[test]
    fn patterns_are_everyones_and_take_id_and_name() {
        let acl = parse("user alice\npattern write dev/%c/up\npattern read users/%u/#\npattern x%c-%u%\n");
        let may = |user, id, topic| acl.topic(Right::Write, user, id, topic);
        assert!(may(Some("bob"), "d1", "dev/d1/up") && may(None, "d1", "dev/d1/up"));
        assert!(!may(None, "d1", "dev/d2/up") && !acl.topic(Right::Read, None, "d1", "dev/d1/up"));
        assert!(acl.topic(Right::Read, Some("bob"), "d1", "users/bob/x"));
        assert!(!acl.topic(Right::Read, None, "d1", "users//x") && !acl.topic(Right::Read, None, "d1", "users/%u/x"));
        assert!(may(Some("bob"), "d1", "xd1-bob%") && !may(None, "d1", "xd1-%"));
        // What is put in is not looked at again.
        assert!(may(Some("bob"), "%u", "dev/%u/up") && !may(Some("bob"), "%u", "dev/bob/up"));
    }

    #[test]
    fn what_is_put_in_cannot_widen_a_pattern() {
        let acl = parse("pattern dev/%c/up\npattern users/%u\npattern %c/#\npattern plain\ntopic mine\n");
        for id in ["+", "#", "a/b", "a+", "/"] {
            for topic in ["dev/x/up", "dev/a/b/up", "dev/+/up", "dev/a+/up", "dev///up", "a/b", "$SYS/x"] {
                assert!(!acl.topic(Right::Read, None, id, topic), "{id} {topic}");
            }
            assert!(acl.topic(Right::Read, None, id, "plain") && acl.topic(Right::Read, None, id, "mine"), "{id}");
            assert!(!acl.topic(Right::Read, Some(id), "id", &format!("users/{id}")), "{id}");
            assert!(!acl.filter(None, id, "dev/#"), "{id}");
        }
        assert!(!acl.topic(Right::Read, None, "$SYS", "$SYS/x") && !acl.filter(None, "$SYS", "$SYS/#"));
        assert!(acl.topic(Right::Read, None, "$SYS", "dev/$SYS/up"));
        let acl = parse("topic #\npattern deny secret/%c\n");
        assert!(acl.topic(Right::Read, None, "id", "x") && !acl.topic(Right::Read, None, "id", "secret/id"));
        assert!(!acl.topic(Right::Read, None, "a/b", "x"));
    }

    #[test]
    fn subscribing_needs_something_to_read() {
        let acl = parse(
            "topic read a/#\ntopic deny a/secret/#\ntopic write w/#\npattern read dev/%c/#\nuser alice\ntopic read x\n",
        );
        for (filter, expected) in [
            ("a/b", true),
            ("#", true),
            ("+/b", true),
            ("a/secret", false),
            ("a/secret/+", false),
            ("a/+", true),
            ("w/x", false),
            ("w/#", false),
            ("b", false),
            ("dev/id/x", true),
            ("dev/+/x", true),
            ("dev/other/x", false),
            ("$share/g/a/b", true),
            ("$share/g/w/x", false),
            ("$share/a/b", false),
        ] {
            assert_eq!(acl.filter(None, "id", filter), expected, "{filter}");
        }
        assert!(!acl.filter(Some("alice"), "id", "a/b") && acl.filter(Some("alice"), "id", "+"));
    }

    #[test]
    fn topics_of_the_log() {
        let acl = parse(
            "topic #\nuser alice\nkafka read mqtt\nkafka write in.*\nkafka deny in.secret*\nuser bob\nkafka *\n\
             kafka deny __x\nuser carl\nkafka read a.b*\nkafka deny a*\nuser dora\nkafka write a\ntopic read #\n\
             user eve\nkafka read a*\nkafka deny ab*\nuser root\nkafka manage *\nkafka manage\nkafka deny __*\n",
        );
        let root = Some("root");
        assert!(acl.log(Right::Manage, root, "any") && !acl.log(Right::Manage, root, "__x"));
        // Managing is neither reading nor writing, and these two not managing. (A line of two words names a topic.)
        assert!(!acl.log(Right::Read, root, "any") && acl.log(Right::Write, root, "manage"));
        assert!(!acl.log(Right::Manage, Some("bob"), "any") && !acl.any_log(Some("zoe")));
        let (alice, bob) = (Some("alice"), Some("bob"));
        assert!(acl.log(Right::Read, alice, "mqtt") && !acl.log(Right::Write, alice, "mqtt"));
        assert!(!acl.log(Right::Read, alice, "mqtt2") && !acl.log(Right::Read, alice, "mqt"));
        assert!(acl.log(Right::Write, alice, "in.") && acl.log(Right::Write, alice, "in.x"));
        assert!(!acl.log(Right::Write, alice, "in.secrets") && !acl.log(Right::Write, alice, "in"));
        assert!(
            acl.log(Right::Read, bob, "any") && acl.log(Right::Write, bob, "any") && !acl.log(Right::Read, bob, "__x")
        );
        // MQTT rights are none for the log, nor the other way round.
        assert!(!acl.log(Right::Read, None, "mqtt") && !acl.log(Right::Read, Some("dora"), "mqtt"));
        assert!(!reads(&acl, alice, "mqtt"));
        let any = |user| acl.any_log(Some(user));
        assert!(any("alice") && any("bob") && any("eve") && !any("carl") && !any("dora") && !any("zoe"));
        assert!(!acl.any_log(None));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "topic\ntopic reed a\npattern a b c\ntopic read a/#/b\nuser\nusr x\n  # late\nkafka read a b\n\
                    kafka *a\ntopic\tread a\nkafka\npattern deny \ntopic manage a\nkafka own a\n";
        let error = Acl::parse(Path::new("acl"), text).expect_err("mistakes").to_string();
        let lines: Vec<_> = error.lines().collect();
        let begins = [
            "acl:1: topic: the topic is missing",
            "acl:2: topic: \"reed\" is neither",
            "acl:3: pattern: \"a\" is neither",
            "acl:4: topic: filter \"a/#/b\": ",
            "acl:5: user: the name is missing",
            "acl:6: \"usr\" is no keyword",
            "acl:7: a comment must",
            "acl:8: kafka: \"a b\" is no topic of the log",
            "acl:9: kafka: \"*a\" is no topic",
            "acl:10: \"topic\\tread\" is no keyword",
            "acl:11: kafka: the topic is missing",
            "acl:13: topic: \"manage\" is neither read, write, readwrite nor deny",
            "acl:14: kafka: \"own\" is neither read, write, readwrite, manage nor deny",
        ];
        // `pattern deny` grants a topic called "deny".
        assert_eq!(lines.len(), begins.len(), "{error}");
        for (line, begin) in lines.iter().zip(begins) {
            assert!(line.starts_with(begin), "{line}");
        }
    }

    #[test]
    fn lines_are_bounded() {
        let text = "user a\n".repeat(ACL_LINES_MAX);
        assert!(Acl::parse(Path::new("acl"), &text).is_ok());
        let error = Acl::parse(Path::new("acl"), &format!("# c\n{text}topic a\n")).expect_err("too many").to_string();
        assert!(error.starts_with(&format!("acl:{}: is one line more", ACL_LINES_MAX + 2)), "{error}");
    }

    /// Rights, filters and topics that meet each other often.
    fn grants() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
        let right = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
        let filter = prop::sample::select(vec!["#", "a", "a/#", "+", "a/+", "+/b", "a/b", "$S/#", "b/#"]);
        prop::collection::vec((right, filter), 0..6)
    }

    proptest! {
        #[test]
        fn a_topic_is_decided_by_the_lines_that_match_it(
            grants in grants(),
            topic in prop::sample::select(vec!["a", "b", "a/b", "b/b", "a/b/c", "$S/x", "$S"]),
            write in any::<bool>(),
        ) {
            let text: String = grants.iter().map(|(right, filter)| format!("topic {right} {filter}\n")).collect();
            let acl = parse(&text);
            let wanted = if write { Right::Write } else { Right::Read };
            let names = if write { ["write", "readwrite"] } else { ["read", "readwrite"] };
            let matching: Vec<_> =
                grants.iter().filter(|(_, filter)| filter_matches(filter, topic)).map(|(right, _)| *right).collect();
            let expected = matching.iter().any(|right| names.contains(right)) && !matching.contains(&"deny");
            prop_assert_eq!(acl.topic(wanted, None, "id", topic), expected);
            // Who may receive on a topic may subscribe to it; and who may subscribe to a plain topic may receive.
            prop_assert_eq!(acl.filter(None, "id", topic), acl.topic(Right::Read, None, "id", topic));
        }

        #[test]
        fn no_text_panics(text in "((topic|pattern|user|kafka|read|deny|%c|%u|%|#|\\+|\\*|/| |\n|a|é){0,30}|.*)") {
            if let Ok(acl) = Acl::parse(Path::new("acl"), &text) {
                for id in ["id", "+", "$a"] {
                    let _ = acl.topic(Right::Read, Some("a"), id, "a/b");
                    let _ = acl.filter(None, id, "a/#");
                }
                let _ = acl.any_log(Some("a"));
            }
        }

        #[test]
        fn an_id_reaches_only_the_level_it_is_put_into(id in "[ab+#/$%cu]{1,6}", topic in "[ab+#/$%cu]{1,8}") {
            let acl = parse("pattern read x/%c/y");
            if acl.topic(Right::Read, None, &id, &topic) {
                prop_assert_eq!(topic, format!("x/{id}/y"));
                prop_assert!(!id.contains(['+', '#', '/']));
            }
        }
    }
}

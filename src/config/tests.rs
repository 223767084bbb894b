use std::{ffi::OsString, fs, path::PathBuf};

use super::{Address, Config, Flag, ListenerChange, Loaded, Problems, RuleConfig, load, report};
use crate::logs::LogFormat;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/millstream.toml");
const README: &str = include_str!("../../README.md");

/// A file `test.toml` with this text, and these variables and flags.
fn loaded(
    text: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("test.toml");
    fs::write(&path, text).expect("written");
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let flags = flags.iter().map(|&(flag, key, value)| Flag { flag, key, value: value.to_owned() });
    let folder_name = format!("{}/", folder.path().display());
    load(Some(&path), variables, flags.collect())
        .map_err(|Problems(problems)| problems.iter().map(|p| p.to_string().replace(&folder_name, "")).collect())
}

fn config(text: &str, variables: &[(&str, &str)]) -> Config {
    match loaded(text, variables, &[]) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems:#?}"),
    }
}

fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    loaded(text, variables, &[]).expect_err("problems")
}

fn at(text: &str) -> Address {
    text.parse().expect("an address")
}

#[test]
fn the_defaults_are_the_contract() {
    let config = Config::default();
    assert_eq!(config.mqtt.tcp, at("127.0.0.1:1883"));
    assert_eq!(config.kafka.tcp, at("127.0.0.1:9092"));
    assert_eq!(config.admin.http, at("127.0.0.1:9180"));
    assert_eq!(config.data_dir, PathBuf::from("./millstream-data"));
    assert_eq!(config.durability, bridge::Durability::Fsync);
    assert_eq!(config.bridge.rule, [RuleConfig::default()]);
    assert!(config.bridge.enabled && !config.serves_tls() && config.mqtt.ws == Address::Off);
    assert_eq!((config.mqtt.listeners.allow_anonymous, config.kafka.allow_anonymous), (None, None));
    assert!((1..=64).contains(&config.shard_count()));
    let none = load(None, std::iter::empty(), Vec::new()).expect("no problems");
    assert_eq!(none.config, config);
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let path = PathBuf::from(EXAMPLE);
    let loaded = load(Some(&path), std::iter::empty(), Vec::new()).expect("no problems");
    assert_eq!(loaded.config, Config::default());
    let missing: Vec<_> = loaded.entries.iter().filter(|e| e.place.is_none()).map(|e| e.key.as_str()).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_example_shows_every_key_of_a_listener_with_its_default() {
    let text = fs::read_to_string(EXAMPLE).expect("the example");
    // Its settings have no space behind the #, its words have.
    let uncommented: Vec<_> = text
        .lines()
        .map(|line| {
            let setting =
                line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
            setting.unwrap_or(line)
        })
        .collect();
    let loaded = loaded(&uncommented.join("\n"), &[], &[]).expect("no problems");
    let of_it: Vec<_> = loaded.entries.iter().filter(|entry| entry.key.starts_with("mqtt.listener[0].")).collect();
    assert!(of_it.len() > 15);
    for entry in of_it {
        assert!(entry.place.is_some(), "{} is not shown", entry.key);
        assert_eq!(entry.value, entry.default, "{}", entry.key);
    }
    let [listener] = &loaded.config.mqtt.listener[..] else { panic!("one listener") };
    assert_eq!(listener.settings, Config::default().mqtt.listeners);
}

#[test]
fn what_the_readme_shows_is_accepted() {
    let blocks: Vec<_> =
        README.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        config(block, &[]);
    }
}

#[test]
fn flags_over_environment_over_file_over_defaults() {
    let text = "shards = 2\nlog_level = \"debug\"\n[mqtt]\ntcp = \"127.0.0.1:1\"";
    let variables = [("MILLSTREAM__MQTT__TCP", "127.0.0.1:2"), ("MILLSTREAM__SHARDS", "3")];
    let flags = [("--mqtt", "mqtt.tcp", "127.0.0.1:3")];
    let config = loaded(text, &variables, &flags).expect("no problems").config;
    assert_eq!(config.mqtt.tcp, at("127.0.0.1:3"));
    assert_eq!(config.shards, 3);
    assert_eq!(config.log_level, "debug");
    assert_eq!(config.kafka, Config::default().kafka);
}

#[test]
fn environment_variables_get_the_type_of_their_key() {
    let config = config(
        "",
        &[
            ("MILLSTREAM__BRIDGE__ENABLED", "false"),
            ("MILLSTREAM__MQTT__RECEIVE_MAXIMUM", "7"),
            ("MILLSTREAM__DATA_DIR", "007"),
            ("MILLSTREAM__LOG_FORMAT", "json"),
            ("MILLSTREAM__KAFKA__ADVERTISED", ""),
            ("MILLSTREAM_VERSION", "not ours"),
            ("PATH", "/bin"),
        ],
    );
    assert!(!config.bridge.enabled);
    assert_eq!(config.mqtt.listeners.receive_maximum, 7);
    assert_eq!(config.data_dir, PathBuf::from("007"));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.kafka.advertised, None);
}

#[test]
fn unknown_keys_are_refused_with_a_guess() {
    assert_eq!(
        problems(
            "data-dir = \"x\"\n\n[mqtt]\ntpc = \"off\"\nnode_id = 1\n[kafak]\nx = 1\n\
             [[bridge.rule]]\nfilter = \"#\"\ntopic = \"t\"\nfliter = \"a\"\nretention = 1\n",
            &[]
        ),
        [
            "test.toml:11: bridge.rule[0].fliter: is no setting; did you mean bridge.rule.filter?",
            "test.toml:12: bridge.rule[0].retention: is no setting; examples/millstream.toml shows all",
            "test.toml:1: data-dir: is no setting; did you mean data_dir?",
            "test.toml:6: kafak: is no setting; examples/millstream.toml shows all",
            "test.toml:5: mqtt.node_id: is no setting; did you mean kafka.node_id?",
            "test.toml:4: mqtt.tpc: is no setting; did you mean mqtt.tcp?",
        ]
    );
}

#[test]
fn unknown_variables_are_refused_with_a_guess() {
    let refused = |name: &str| problems("", &[(name, "1")]).join("\n");
    for (name, meant) in [
        ("MILLSTREAM__MQTT_TCP", "MILLSTREAM__MQTT__TCP"),
        ("MILLSTREAM__MQTT__TPC", "MILLSTREAM__MQTT__TCP"),
        ("MILLSTREAM__mqtt__tcp", "MILLSTREAM__MQTT__TCP"),
    ] {
        let expected = format!("environment variable {name}: is no setting; did you mean {meant}?");
        assert_eq!(refused(name), expected);
    }
    for name in ["MILLSTREAM__", "MILLSTREAM__MQTT", "MILLSTREAM__BRIDGE__RULE[0]__FILTER"] {
        assert!(refused(name).contains(name), "{name}");
    }
    assert!(refused("MILLSTREAM__BRIDGE__RULE").contains("[[bridge.rule]] can be given in a file only"));
    assert!(refused("MILLSTREAM__MQTT__LISTENER").contains("[[mqtt.listener]] can be given in a file only"));
}

#[test]
fn bad_values_are_all_told_with_place_and_remedy() {
    assert_eq!(
        problems(
            "durability = \"fast\"\nshards = 65\nlog_level = \"inof\"\n[mqtt]\ntcp = \"1883\"\n\
             max_packet_size = \"1MiB\"\nallow_anonymous = 1\n[kafka]\nadvertised = \"0.0.0.0:9092\"\n\
             [[bridge.rule]]\ntopic = \"a b\"\nfilter = 3\npartitions = 0\n",
            &[("MILLSTREAM__BRIDGE__ENABLED", "yes"), ("MILLSTREAM__KAFKA__NODE_ID", "-1")]
        ),
        [
            "test.toml:1: durability = \"fast\": must be \"fsync\" or \"os\"",
            "test.toml:3: log_level = \"inof\": \"inof\" is none of off, error, warn, info, debug, trace",
            "test.toml:2: shards = 65: must be a whole number from 0 to 64",
            "test.toml:5: mqtt.tcp = \"1883\": must be host:port (as 127.0.0.1:1883) or off",
            "test.toml:7: mqtt.allow_anonymous = 1: must be true, false or \"auto\"",
            "test.toml:6: mqtt.max_packet_size = \"1MiB\": must be a whole number of bytes from 64 to 268435460",
            "test.toml:9: kafka.advertised = \"0.0.0.0:9092\": must be a host:port that clients can reach, or empty",
            "test.toml:12: bridge.rule[0].filter = 3: must be text in quotes",
            "test.toml:13: bridge.rule[0].partitions = 0: must be a whole number from 1 to 10000",
            "environment variable MILLSTREAM__KAFKA__NODE_ID: kafka.node_id = \"-1\": \
             must be a whole number from 0 to 2147483647",
            "environment variable MILLSTREAM__BRIDGE__ENABLED: bridge.enabled = \"yes\": must be true or false",
        ]
    );
}

#[test]
fn a_bad_value_is_refused_even_where_it_is_hidden() {
    let hidden = problems("shards = 99", &[("MILLSTREAM__SHARDS", "1")]);
    assert_eq!(hidden, ["test.toml:1: shards = 99: must be a whole number from 0 to 64"]);
    let flags = [("--log-level", "log_level", "info")];
    let hidden = loaded("", &[("MILLSTREAM__LOG_LEVEL", "loud")], &flags).expect_err("a problem");
    assert!(hidden[0].starts_with("environment variable MILLSTREAM__LOG_LEVEL"), "{hidden:?}");
}

#[test]
fn files_are_typed() {
    for text in ["shards = \"2\"", "shards = 2.0", "[mqtt]\nallow_anonymous = \"true\"", "log_level = 3"] {
        assert_eq!(problems(text, &[]).len(), 1, "{text}");
    }
    let huge = problems("[kafka]\nnode_id = 99999999999999999999", &[]);
    assert!(huge[0].starts_with("test.toml:2: kafka.node_id: 99999999999999999999 is too large"), "{huge:?}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let syntax = problems("shards = 1\nmqtt = {", &[]);
    assert!(syntax.len() == 1 && syntax[0].starts_with("test.toml:2: "), "{syntax:?}");
    let twice = problems("shards = 1\nshards = 2", &[]);
    assert!(twice.len() == 1 && twice[0].starts_with("test.toml:2: duplicate key"), "{twice:?}");
}

#[test]
fn sections_and_keys_are_not_mixed_up() {
    for (text, expected) in [
        ("mqtt = 5", "test.toml:1: mqtt: is a section: write [mqtt] and its keys below"),
        (
            "[bridge.rule]\nfilter = \"#\"",
            "test.toml:1: bridge.rule: is a list of tables: write [[bridge.rule]] above each",
        ),
        ("[bridge]\nrule = [1]", "test.toml:2: bridge.rule[0]: must be a table"),
        ("\"mqtt.tcp\" = \"off\"", "test.toml:1: mqtt.tcp: is no setting; did you mean mqtt.tcp?"),
        ("[data_dir]\nx = 1", "test.toml:1: data_dir = a table: must be text in quotes"),
    ] {
        assert_eq!(problems(text, &[])[0], expected);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Some(&PathBuf::from("/nowhere/m.toml")), std::iter::empty(), Vec::new());
    let text = error.expect_err("no such file").to_string();
    assert!(text.starts_with("/nowhere/m.toml: No such file"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let variable = (OsString::from("MILLSTREAM__DATA_DIR"), OsString::from_vec(vec![0xff]));
    let error = load(None, std::iter::once(variable), Vec::new()).expect_err("a problem");
    assert_eq!(error.to_string(), "environment variable MILLSTREAM__DATA_DIR: must be valid UTF-8");
}

#[test]
fn a_listener_open_to_others_must_be_meant() {
    for section in ["mqtt", "kafka"] {
        let open = format!("[{section}]\ntcp = \"0.0.0.0:7\"\n");
        let refused = problems(&open, &[]);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].starts_with(&format!("test.toml:2: {section}.tcp = \"0.0.0.0:7\": others reach this")));
        assert!(refused[0].contains(&format!("{section}.allow_anonymous = true")));
        assert!(config(&format!("{open}allow_anonymous = true"), &[]).how_to_open().is_none());
        assert_eq!(problems(&format!("{open}allow_anonymous = false"), &[]).len(), 1);
        assert!(
            config("", &[]).how_to_open().is_some() && config("password_file = \"p\"", &[]).how_to_open().is_none()
        );
        let with_users = config(&format!("password_file = \"p\"\n{open}"), &[]);
        assert!(with_users.warnings()[0].contains("passwords cross the network unencrypted"));
        // Where clients show certificates, these say who they are; elsewhere they do not.
        let tls =
            format!("[tls]\ncertfile = \"c\"\nkeyfile = \"k\"\ncafile = \"ca\"\n[{section}]\ntls = \"0.0.0.0:8\"\n");
        assert!(config(&tls, &[]).warnings().is_empty());
        assert_eq!(problems(&format!("{tls}tcp = \"0.0.0.0:7\""), &[]).len(), 1);
        assert_eq!(problems(&tls.replace("cafile = \"ca\"", "use_identity_as_username = false"), &[]).len(), 1);
    }
    let flags = [("--kafka", "kafka.tcp", "[::]:9092")];
    let refused = loaded("", &[], &flags).expect_err("refused");
    assert!(refused[0].starts_with("--kafka: kafka.tcp = \"[::]:9092\": others reach this"), "{refused:?}");
}

#[test]
fn a_listener_has_what_it_says_and_else_what_all_have() {
    let config = config(
        "[mqtt]\nmax_packet_size = 2000\nallow_anonymous = false\n\
         [[mqtt.listener]]\naddress = \"127.0.0.1:1884\"\nallow_anonymous = \"auto\"\nmax_connections = 7\n\
         [[mqtt.listener]]\naddress = \"unix:/run/m.sock\"\nprotocol = \"ws\"\nmax_packet_size = 3000\nunix_mode = \"600\"\n",
        &[("MILLSTREAM__MQTT__MAX_HANDSHAKES", "9")],
    );
    let [tcp, unix] = &config.mqtt.listener[..] else { panic!("two listeners") };
    let told =
        |it: &super::ListenerConfig| (it.settings.max_packet_size, it.settings.allow_anonymous, it.max_connections);
    assert_eq!((told(tcp), told(unix)), ((2000, None, 7), (3000, Some(false), 0)));
    assert_eq!((tcp.settings.max_handshakes, unix.unix_mode, tcp.unix_mode), (9, 0o600, 0o660));
    assert_eq!((tcp.name(), unix.name()), ("127.0.0.1:1884".to_owned(), "unix:/run/m.sock".to_owned()));
}

#[test]
fn listeners_that_cannot_be_are_refused() {
    let tcp = "[[mqtt.listener]]\naddress = \"127.0.0.1:1884\"\n";
    for (text, expected) in [
        ("[[mqtt.listener]]\nprotocol = \"ws\"", "test.toml:1: mqtt.listener[0].address: must be given"),
        (
            "[[mqtt.listener]]\naddress = \"off\"",
            "test.toml:2: mqtt.listener[0].address = \"off\": must be host:port or unix:/path; to switch it off take it out",
        ),
        (
            "[[mqtt.listener]]\naddress = \"unix:m.sock\"",
            "test.toml:2: mqtt.listener[0].address = \"unix:m.sock\": a Unix socket has a path from the root, as \
             unix:/run/millstream/mqtt.sock",
        ),
        (
            "[[mqtt.listener]]\naddress = \"0.0.0.0:1884\"",
            "test.toml:2: mqtt.listener[0].address = \"0.0.0.0:1884\": others reach this address, and nothing says who \
             may come in: set password_file (millstream passwd FILE USER makes one); or, to let anyone read and write \
             everything, set mqtt.listener[0].allow_anonymous = true",
        ),
        (
            &format!("{tcp}{tcp}"),
            "test.toml:4: mqtt.listener[1].address = \"127.0.0.1:1884\": is the address of mqtt.listener[0].address already",
        ),
        (
            &tcp.replace("1884", "0").repeat(2),
            "test.toml:4: mqtt.listener[1].address = \"127.0.0.1:0\": is the address of mqtt.listener[0].address already",
        ),
        (
            &tcp.replace("1884", "1883"),
            "test.toml:2: mqtt.listener[0].address = \"127.0.0.1:1883\": is the address of mqtt.tcp already",
        ),
        (
            &format!("{tcp}protocol = \"tls\""),
            "test.toml:3: mqtt.listener[0].protocol = \"tls\": must be \"mqtt\" or \"mqtts\" or \"ws\" or \"wss\"",
        ),
        (
            "[tls]\ncerts = \"d\"\n[[mqtt.listener]]\naddress = \"unix:/m\"\nprotocol = \"wss\"",
            "test.toml:5: mqtt.listener[0].protocol = \"wss\": what goes through a Unix socket stays in this machine: \
             make it \"mqtt\" or \"ws\"",
        ),
        (
            "[[mqtt.listener]]\naddress = \"unix:/m\"\nprotocol = \"mqtts\"",
            "test.toml:3: mqtt.listener[0].protocol = \"mqtts\": what goes through a Unix socket stays in this machine: \
             make it \"mqtt\" or \"ws\"",
        ),
        (
            &format!("{tcp}unix_mode = \"0888\""),
            "test.toml:3: mqtt.listener[0].unix_mode = \"0888\": must be permissions in octal digits, as \"0660\"",
        ),
        (
            &format!("{tcp}allow_anonymous = true\nproxy_protocol = true"),
            "test.toml:1: mqtt.listener[0].proxy_trusted = \"\": must name the proxies, as \"10.0.0.5, 192.168.7.0/24\", \
             for proxy_protocol = true",
        ),
        (
            &format!("{tcp}proxy_trusted = \"10.0.0.0/33\""),
            "test.toml:3: mqtt.listener[0].proxy_trusted = \"10.0.0.0/33\": \"10.0.0.0/33\" is no address and no network: \
             write them as 10.1.2.3, 10.0.0.0/8, fd00::/8, with commas between",
        ),
        (
            &format!("{tcp}ws_origins = \"https://a.example, b.example\""),
            "test.toml:3: mqtt.listener[0].ws_origins = \"https://a.example, b.example\": \"b.example\" is no origin: \
             write them as https://host or https://host:port, with commas between",
        ),
        (
            &format!("{tcp}tcp = \"127.0.0.1:1\""),
            "test.toml:3: mqtt.listener[0].tcp: is no setting; did you mean mqtt.tcp?",
        ),
    ] {
        assert_eq!(problems(text, &[]), [expected], "{text}");
    }
    let certificate = problems(&format!("{tcp}protocol = \"mqtts\""), &[]);
    assert!(certificate.len() == 1 && certificate[0].contains("millstream certs DIR makes one"), "{certificate:?}");
}

#[test]
fn who_comes_by_a_proxy_comes_from_afar() {
    let proxied = "[[mqtt.listener]]\naddress = \"127.0.0.1:1884\"\nproxy_protocol = true\nproxy_trusted = \"::1\"\n";
    let refused = problems(proxied, &[]);
    assert!(refused.len() == 1 && refused[0].contains("others reach this address"), "{refused:?}");
    let meant = config(&format!("{proxied}allow_anonymous = true"), &[]);
    assert!(meant.how_to_open().is_none() && meant.warnings().is_empty());
    // Who names proxies and does not believe them has forgotten a line.
    let forgotten = config(&proxied.replace("proxy_protocol = true\n", ""), &[]);
    let [warning] = &forgotten.warnings()[..] else { panic!("one warning: {:?}", forgotten.warnings()) };
    assert!(warning.starts_with("mqtt.listener[0].proxy_trusted = \"::1\" says nothing"), "{warning}");
    // By a Unix socket nobody has to be named.
    let unix =
        proxied.replace("127.0.0.1:1884", "unix:/m").replace("proxy_trusted = \"::1\"", "allow_anonymous = true");
    assert!(config(&unix, &[]).mqtt.listener[0].proxy_protocol);
    let open = config("password_file = \"p\"\n[[mqtt.listener]]\naddress = \"0.0.0.0:1884\"", &[]);
    assert!(open.warnings()[0].contains("mqtt.listener[0].address = \"0.0.0.0:1884\": passwords cross the network"));
}

#[test]
fn a_listener_is_known_by_its_address() {
    let listener = |port: u16, rest: &str| format!("[[mqtt.listener]]\naddress = \"127.0.0.1:{port}\"\n{rest}");
    let before = loaded(&format!("{}{}", listener(1, ""), listener(2, "")), &[], &[]).expect("no problems");
    let after = format!("{}{}", listener(3, ""), listener(2, "protocol = \"ws\"\nmax_keepalive_s = 9\n"));
    let after = loaded(&after, &[], &[]).expect("no problems");
    let name = |port: u16| format!("127.0.0.1:{port}");
    assert_eq!(
        after.listeners_changed_since(&before),
        [
            (name(3), ListenerChange::New),
            (name(2), ListenerChange::Key("protocol")),
            (name(2), ListenerChange::Key("max_keepalive_s")),
            (name(1), ListenerChange::Gone),
        ]
    );
    assert_eq!(before.listeners_changed_since(&before), []);
    assert_eq!(after.changed_since(&before).count(), 0);
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    for key in ["mqtt.tls", "mqtt.wss", "kafka.tls"] {
        let (section, name) = key.split_once('.').expect("a section");
        let on = format!("[{section}]\n{name} = \"127.0.0.1:1\"\n");
        let refused = problems(&on, &[]);
        assert!(refused.len() == 1 && refused[0].contains("millstream certs DIR makes one"), "{refused:?}");
        assert_eq!(problems(&format!("{on}[tls]\ncertfile = \"c\""), &[]).len(), 1);
        let certs = config(&format!("{on}[tls]\ncerts = \"dir\""), &[]);
        assert!(certs.serves_tls() && certs.warnings().is_empty());
        let pair = ("dir/server.crt".into(), "dir/server.key".into());
        assert_eq!((certs.tls.pair, certs.tls.cafile), (Some(pair), None), "there is no dir/ca.crt");
    }
    let unused = config("[tls]\ncerts = \"dir\"", &[]);
    assert!(unused.warnings()[0].contains("no listener uses them"));
    assert_eq!(problems("[tls]\nrequire_certificate = true", &[]).len(), 1);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (text, expected) in [
        ("[mqtt]\ntcp = \"127.0.0.1:9092\"", "kafka.tcp = \"127.0.0.1:9092\": is the address of mqtt.tcp already"),
        (
            "[kafka]\ngroup_max_session_timeout_ms = 5",
            "test.toml:2: kafka.group_max_session_timeout_ms = 5: must not be below kafka.group_min_session_timeout_ms = 6000",
        ),
        (
            "[[bridge.rule]]\nfilter = \"a\"\ntopic = \"t\"\n[[bridge.rule]]\nfilter = \"b\"\ntopic = \"t\"\npartitions = 1",
            "test.toml:7: bridge.rule[1].partitions = 1: topic \"t\" has 4 partitions in bridge.rule[0]",
        ),
        (
            "[[bridge.rule]]\nfilter = \"a\"\ntopic = \"a b\"",
            "test.toml:1: bridge.rule[0]: topic \"a b\" must be 1 to 249 of a-z A-Z 0-9 . _ -, not beginning with __, not . or ..",
        ),
        ("[[bridge.rule]]\ntopic = \"t\"", "test.toml:1: bridge.rule[0].filter: must be given"),
        (
            "[[bridge.rule]]\nfilter = \"a\"\ntopic = \"t\"\n[[bridge.rule]]\nfilter = \"b\"\ntopic = \"t\"\n\
             topic_config = \"segment.ms=5\"",
            "test.toml:7: bridge.rule[1].topic_config = \"segment.ms=5\": topic \"t\" has topic_config = \"\" in bridge.rule[0]",
        ),
        (
            "[[bridge.rule]]\nfilter = \"a\"\ntopic = \"t\"\ntopic_config = \"retention.ms=x\"",
            "test.toml:4: bridge.rule[0].topic_config = \"retention.ms=x\": retention.ms: \"x\" is not a number from 0 on, \
             nor -1 for no limit",
        ),
        (
            "[[bridge.rule]]\nfilter = \"a\"\ntopic = \"t\"\nkey = \"\"\ntopic_config = \"cleanup.policy=compact\"",
            "test.toml:4: bridge.rule[0].key = \"\": topic \"t\" is compacted, which leaves one record of each key: it must not \
             be empty",
        ),
        (
            "[bridge]\ncleanup_policy = \"compact\"\n[[bridge.rule]]\nfilter = \"a\"\ntopic = \"t\"\nkey = \"\"",
            "test.toml:6: bridge.rule[0].key = \"\": topic \"t\" is compacted, which leaves one record of each key: it must not \
             be empty",
        ),
    ] {
        assert_eq!(problems(text, &[]), [expected]);
    }
    let zero = "[mqtt]\ntcp = \"127.0.0.1:0\"\n[kafka]\ntcp = \"127.0.0.1:0\"\n\
                [[mqtt.listener]]\naddress = \"127.0.0.1:0\"";
    config(zero, &[]);
}

#[test]
fn rules_keep_their_order_and_have_defaults() {
    let rules = config(
        "[[bridge.rule]]\nfilter = \"a/#\"\ntopic = \"a\"\nkey = \"{2}\"\nempty_as_null = true\n\
         [[bridge.rule]]\nfilter = \"#\"\ntopic = \"rest\"\npartitions = 9\ntopic_config = \"segment.ms=5\"\n",
        &[],
    )
    .bridge
    .rule;
    let told: Vec<_> = rules.iter().map(|r| (&*r.filter, &*r.topic, &*r.key, r.partitions, r.empty_as_null)).collect();
    assert_eq!(told, [("a/#", "a", "{2}", 4, true), ("#", "rest", "{topic}", 9, false)]);
    assert!(rules[0].topic_config.is_empty() && rules[1].topic_config["segment.ms"] == "5");
}

#[test]
fn the_report_marks_what_differs() {
    let text = "shards = 2\ncommit_interval_ms = 0\ndata_dir = \"/var/lib/millstream\"\n\
                [[bridge.rule]]\nfilter = \"a/+\"\ntopic = \"a\"\nempty_as_null = true\n\
                topic_config = \"segment.ms=5 retention.ms=-1\"\n[admin]\nhttp = \"0.0.0.0:9180\"\n";
    let variables = [("MILLSTREAM__KAFKA__TCP", "off")];
    let report = report(&loaded(text, &variables, &[]).expect("no problems"));
    for line in [
        "  commit_interval_ms = 0",
        "  [kafka]",
        "* tcp = \"off\"    (environment variable MILLSTREAM__KAFKA__TCP; default \"127.0.0.1:9092\")",
        "    1. \"a/+\" -> topic \"a\", key \"{topic}\", partitions 4, empty payload as null, retention.ms=-1 segment.ms=5",
        "  Data folder: /var/lib/millstream",
        "  Shards: 2",
    ] {
        assert!(report.lines().any(|l| l == line), "{line}\n{report}");
    }
    let with_listener = "[mqtt]\nmax_keepalive_s = 60\n[[mqtt.listener]]\naddress = \"unix:/m\"\nprotocol = \"ws\"";
    let listener = super::report(&loaded(with_listener, &[], &[]).expect("no problems"));
    let listener: Vec<_> = listener.split("[[mqtt.listener]]").nth(1).expect("a section").lines().collect();
    assert_eq!(listener[1], "  address = \"unix:/m\"");
    assert!(listener[2].starts_with("* protocol = \"ws\"    (") && listener.contains(&"  max_keepalive_s = 60"));
    assert!(report.contains("* shards = 2    (") && report.contains("test.toml:1; default 0)"));
    assert!(report.contains("Warning: admin.http = \"0.0.0.0:9180\""));
    assert!(report.contains("Note: only this machine can connect"));
}

//! `TABLE.md`: every statement, and the test that it has or why it has none. Made from the lists of statements,
//! the list of excuses, and the names of the test functions in these files.
//!
//! `MILLSTREAM_WRITE_TABLE=1 cargo test --test conformance table` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// A standard: how its tests are named, what it is called, and its statements.
const STANDARDS: [(&str, &str, &str); 2] =
    [("mqtt5", "MQTT 5.0", "mqtt5-statements.tsv"), ("mqtt311", "MQTT 3.1.1", "mqtt311-statements.tsv")];

const HEAD: &str = "# Conformance, statement by statement

Every normative statement of MQTT 5.0 and 3.1.1, in a few words of ours, with the test that shows it or the reason
why none does. Made by `tests/conformance/table.rs`, whose test fails when it is out of date;
`MILLSTREAM_WRITE_TABLE=1 cargo test --test conformance table` writes it.
";

struct Statement {
    number: String,
    binds: String,
    says: String,
}

/// A test function, and why it is left out if it is.
struct Test {
    name: String,
    ignored: Option<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// The rows of a table of this folder, split at the tabs.
fn rows(file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(folder().join(file)).expect("a file of this folder");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1);
    lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn statements(file: &str) -> Vec<Statement> {
    let statement = |row: Vec<String>| match <[String; 4]>::try_from(row) {
        Ok([number, _, binds, says]) => Statement { number, binds, says },
        Err(row) => panic!("{file}: four columns, not {row:?}"),
    };
    rows(file).into_iter().map(statement).collect()
}

/// Why a statement has no test, by standard and number.
fn excuses() -> BTreeMap<(String, String), String> {
    let excuse = |row: Vec<String>| match <[String; 3]>::try_from(row) {
        Ok([standard, number, why]) => ((standard, number), why),
        Err(row) => panic!("excused.tsv: three columns, not {row:?}"),
    };
    let all = rows("excused.tsv");
    let (count, excuses) = (all.len(), all.into_iter().map(excuse).collect::<BTreeMap<_, _>>());
    assert_eq!(excuses.len(), count, "excused.tsv: a statement stands there twice");
    excuses
}

/// The tests of these files, by standard and the number in their name.
fn tests() -> BTreeMap<(String, String), Vec<Test>> {
    let mut tests: BTreeMap<_, Vec<Test>> = BTreeMap::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).expect("this folder").map(|e| e.expect("a file").path()).collect();
    files.sort();
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(&file).expect("a source file");
        let (mut is_test, mut ignored) = (false, None);
        for line in text.lines().map(str::trim) {
            if line == "#[test]" {
                (is_test, ignored) = (true, None);
            } else if let Some(why) = line.strip_prefix("#[ignore") {
                ignored = Some(why.trim_matches([' ', '=', '"', ']']).to_owned());
            } else if let Some(name) = line.strip_prefix("fn ") {
                let name = name.split('(').next().unwrap_or_default();
                if let Some(statement) = statement_of(name).filter(|_| is_test) {
                    tests.entry(statement).or_default().push(Test { name: name.to_owned(), ignored: ignored.take() });
                }
                is_test = false;
            }
        }
    }
    tests
}

/// `mqtt5_3_1_2_24`, with or without further words: `("mqtt5", "MQTT-3.1.2-24")`.
fn statement_of(name: &str) -> Option<(String, String)> {
    let (standard, rest) =
        name.split_once('_').filter(|(standard, _)| STANDARDS.iter().any(|(s, ..)| s == standard))?;
    let numbers: Vec<&str> = rest.split('_').take_while(|part| part.parse::<u32>().is_ok()).collect();
    let (last, section) = numbers.split_last()?;
    Some((standard.to_owned(), format!("MQTT-{}-{last}", section.join("."))))
}

/// How many statements stand how.
#[derive(Default)]
struct Count {
    bind_server: usize,
    tested: usize,
    excused: usize,
    gaps: usize,
    clients_only: usize,
}

fn made() -> String {
    let (mut tests, mut excuses) = (tests(), excuses());
    let mut out = HEAD.to_owned();
    let mut wrong = Vec::new();
    for (standard, title, file) in STANDARDS {
        let mut count = Count::default();
        write!(out, "\n## {title}\n\n| Statement | Binds | It says | Tested by |\n| --- | --- | --- | --- |\n")
            .expect("memory");
        for Statement { number, binds, says } in statements(file) {
            let key = (standard.to_owned(), number.clone());
            let (tests, excuse) = (tests.remove(&key), excuses.remove(&key));
            count.bind_server += usize::from(binds != "Client");
            let answer = match (tests, excuse) {
                (Some(tests), None) => {
                    let ignored = tests.iter().find_map(|test| test.ignored.clone());
                    let names: Vec<String> = tests.iter().map(|test| format!("`{}`", test.name)).collect();
                    let counted = if ignored.is_some() { &mut count.gaps } else { &mut count.tested };
                    *counted += usize::from(binds != "Client");
                    count.clients_only += usize::from(binds == "Client");
                    match ignored {
                        Some(why) => format!("not yet: {why} ({})", names.join(", ")),
                        None => names.join(", "),
                    }
                }
                (None, Some(why)) => {
                    count.excused += usize::from(binds != "Client");
                    count.clients_only += usize::from(binds == "Client");
                    why
                }
                (None, None) if binds == "Client" => {
                    count.clients_only += 1;
                    "binds clients only".to_owned()
                }
                (None, None) => {
                    wrong.push(format!("{standard} {number} has neither a test nor an excuse"));
                    continue;
                }
                (Some(_), Some(_)) => {
                    wrong.push(format!("{standard} {number} has a test and an excuse"));
                    continue;
                }
            };
            writeln!(out, "| {number} | {binds} | {says} | {answer} |").expect("memory");
        }
        let Count { bind_server, tested, excused, gaps, clients_only } = count;
        let percent = 100.0 * tested as f64 / bind_server as f64;
        write!(
            out,
            "\n{title}: {bind_server} statements bind the server, alone or with the client; {tested} are tested \
             ({percent:.1} %), {excused} excused, {gaps} not met yet. {clients_only} bind clients only.\n"
        )
        .expect("memory");
    }
    wrong.extend(tests.into_keys().map(|(standard, number)| format!("{standard} has no statement {number}")));
    wrong.extend(excuses.into_keys().map(|(standard, number)| format!("excused: {standard} has no {number}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    out
}

#[test]
fn table_is_up_to_date() {
    let (made, path) = (made(), folder().join("TABLE.md"));
    if std::env::var_os("MILLSTREAM_WRITE_TABLE").is_some() {
        fs::write(&path, &made).expect("a writable folder");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "TABLE.md is out of date: see the head of table.rs");
}

#[test]
fn names_are_read_as_numbers() {
    let key = |standard: &str, number: &str| Some((standard.to_owned(), number.to_owned()));
    assert_eq!(statement_of("mqtt5_3_1_2_24"), key("mqtt5", "MQTT-3.1.2-24"));
    assert_eq!(statement_of("mqtt311_4_2_1_in_words"), key("mqtt311", "MQTT-4.2-1"));
    assert_eq!(statement_of("mqtt4_2_1"), None);
    assert_eq!(statement_of("a_silent_client"), None);
}

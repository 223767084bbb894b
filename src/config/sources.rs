//! Where settings come from: a file, the environment, flags. The `config` crate lays one over the
//! other; here it is checked first that each knows only keys that exist, and kept where each is.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    path::Path,
};

use config::{ConfigError, Environment, File, FileFormat};
use toml::de::{DeTable, DeValue};

use super::{
    problem::{Place, Problem},
    schema::{Schema, VARIABLE_PREFIX, variable_of},
};

/// A setting given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As typed, with its dashes.
    pub flag: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// The value, as typed.
    pub value: String,
}

/// All that was given. Any of the three may be empty.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of the file.
    file: Option<(String, String)>,
    /// The line of every key in the file.
    lines: HashMap<String, usize>,
    /// Value of each environment variable, by key.
    variables: BTreeMap<String, String>,
    flags: Vec<Flag>,
}

impl Sources {
    /// Reads the file; then, like the other two, it is checked for keys that are no settings.
    pub fn gather(
        file: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
        flags: Vec<Flag>,
        schema: &Schema,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut sources = Self { flags, ..Self::default() };
        if let Some(path) = file {
            sources.read_file(path, schema, problems);
        }
        sources.read_variables(variables, schema, problems);
        sources
    }

    /// The file's settings without the rest.
    pub fn file_only(&self) -> Self {
        Self { file: self.file.clone(), lines: self.lines.clone(), ..Self::default() }
    }

    /// The environment's settings without the rest.
    pub fn variables_only(&self) -> Self {
        Self { variables: self.variables.clone(), ..Self::default() }
    }

    /// Flags over environment over file.
    pub fn layered(&self) -> Result<config::Config, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some((_, text)) = &self.file {
            builder = builder.add_source(File::from_str(text, FileFormat::Toml));
        }
        let variables = self.variables.iter().map(|(key, value)| (variable_of(key), value.clone()));
        builder = builder
            .add_source(Environment::with_prefix("MILLSTREAM").separator("__").source(Some(variables.collect())));
        for flag in &self.flags {
            builder = builder.set_override(flag.key, flag.value.as_str())?;
        }
        builder.build()
    }

    /// Where the value of `key` that counts was given; `None` if nowhere.
    pub fn place(&self, key: &str) -> Option<Place> {
        if let Some(flag) = self.flags.iter().find(|flag| flag.key == key) {
            return Some(Place::Flag(flag.flag));
        }
        if self.variables.contains_key(key) {
            return Some(Place::Variable(variable_of(key)));
        }
        let line = *self.lines.get(key)?;
        Some(self.in_file(Some(line)))
    }

    /// The file, for what is wrong with it as a whole.
    pub fn in_file(&self, line: Option<usize>) -> Place {
        let name = self.file.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        Place::File(name, line)
    }

    fn read_variables(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
        schema: &Schema,
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            let key = rest.to_lowercase().replace("__", ".");
            let message = if schema.is_list(&key) {
                format!("[[{key}]] can be given in a file only")
            } else if key.contains('[') || !schema.is_key(&key) || variable_of(&key) != name {
                schema.unknown(&key, variable_of)
            } else if let Some(value) = value.to_str() {
                self.variables.insert(key, value.to_owned());
                continue;
            } else {
                "must be valid UTF-8".to_owned()
            };
            problems.push(Problem {
                place: Some(Place::Variable(name.into_owned())),
                key: String::new(),
                value: None,
                message,
            });
        }
    }

    fn read_file(&mut self, path: &Path, schema: &Schema, problems: &mut Vec<Problem>) {
        let mut problem = |place, message| {
            problems.push(Problem { place: Some(place), key: String::new(), value: None, message });
        };
        let name = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return problem(Place::File(name, None), error.to_string()),
        };
        let root = match DeTable::parse(&text) {
            Ok(root) => root,
            Err(error) => {
                let line = error.span().map(|span| line_at(&text, span.start));
                return problem(Place::File(name, line), error.message().to_owned());
            }
        };
        let mut walk = Walk { schema, file: &name, text: &text, lines: HashMap::new(), problems };
        walk.table("", root.get_ref());
        self.lines = walk.lines;
        self.file = Some((name, text));
    }
}

/// Notes the line of every key of a file and complains of those that are no settings.
struct Walk<'a> {
    schema: &'a Schema,
    file: &'a str,
    text: &'a str,
    lines: HashMap<String, usize>,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = match path {
                "" => name.get_ref().to_string(),
                _ => format!("{path}.{}", name.get_ref()),
            };
            let line = line_at(self.text, name.span().start);
            // A quoted name such as "mqtt.tcp" is not the key tcp of the section mqtt.
            let is_plain = !name.get_ref().contains(['.', '[', ']']);
            match value.get_ref() {
                DeValue::Table(inner) if is_plain && self.schema.is_section(&key) => {
                    self.table(&key, inner);
                }
                DeValue::Array(items) if is_plain && self.schema.is_list(&key) => {
                    for (at, item) in items.iter().enumerate() {
                        let line = line_at(self.text, item.span().start);
                        self.element(format!("{key}[{at}]"), line, item.get_ref());
                    }
                }
                value if is_plain && self.schema.is_key(&key) => self.setting(key, line, value),
                _ => {
                    let message = self.unknown(&key);
                    self.complain(&key, line, message);
                }
            }
        }
    }

    fn element(&mut self, key: String, line: usize, item: &DeValue<'_>) {
        match item {
            DeValue::Table(inner) => {
                self.table(&key, inner);
                self.lines.insert(key, line);
            }
            _ => self.complain(&key, line, "must be a table".to_owned()),
        }
    }

    fn setting(&mut self, key: String, line: usize, value: &DeValue<'_>) {
        // The `config` crate would refuse the whole file, without a line.
        if let DeValue::Integer(n) = value
            && i64::from_str_radix(n.as_str(), n.radix()).is_err()
        {
            self.complain(&key, line, format!("{} is too large", n.as_str()));
        }
        self.lines.insert(key, line);
    }

    fn unknown(&self, key: &str) -> String {
        if self.schema.is_list(key) {
            format!("is a list of tables: write [[{key}]] above each")
        } else if self.schema.is_section(key) {
            format!("is a section: write [{key}] and its keys below")
        } else {
            self.schema.unknown(key, |near| near.replace("[0]", ""))
        }
    }

    fn complain(&mut self, key: &str, line: usize, message: String) {
        self.problems.push(Problem {
            place: Some(Place::File(self.file.to_owned(), Some(line))),
            key: key.to_owned(),
            value: None,
            message,
        });
    }
}

/// The line, from 1, of a byte offset.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

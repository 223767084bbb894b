//! What is wrong with a configuration, and where.

use std::fmt;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, on a line (counted from 1) where that is known.
    File(String, Option<usize>),
    /// In an environment variable of this name.
    Variable(String),
    /// By a flag on the command line.
    Flag(&'static str),
}

impl Place {
    /// Files have types; the environment and flags are text.
    pub fn is_typed(&self) -> bool {
        matches!(self, Self::File(..))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, Some(line)) => write!(f, "{file}:{line}"),
            Self::File(file, None) => f.write_str(file),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong; displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` for what follows from defaults alone.
    pub place: Option<Place>,
    /// The key it is about; empty when it is about the whole file.
    pub key: String,
    /// The value as given.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        // A parser's message may have lines; a problem is one.
        f.write_str(&self.message.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

/// Everything that was found wrong, one line each.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

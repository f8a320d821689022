//! Reading single variables and gathering what is wrong with them.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// The variables to read from.
#[derive(Clone, Default)]
pub struct Vars(BTreeMap<String, String>);

impl Vars {
    /// The process's environment. A variable that is empty counts as not set.
    pub fn from_environment() -> Self {
        Self::from_pairs(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// Given variables; for tests.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .filter(|(_, v)| !v.trim().is_empty())
                .collect(),
        )
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// A value that must not be seen: prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; every caller is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self::new(text.trim()))
    }
}

/// What is wrong with one variable. Never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Default, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not usable")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.key, problem.reason))
    }
}

/// Reads variables and remembers problems and which keys were asked for.
pub(super) struct Reader<'v> {
    vars: &'v Vars,
    problems: Vec<Problem>,
    pub(super) asked: Vec<&'static str>,
}

impl<'v> Reader<'v> {
    pub(super) fn new(vars: &'v Vars) -> Self {
        Self { vars, problems: Vec::new(), asked: Vec::new() }
    }

    pub(super) fn problem(&mut self, key: &'static str, reason: impl Into<String>) {
        self.problems.push(Problem { key, reason: reason.into() });
    }

    pub(super) fn problems(self) -> Problems {
        Problems(self.problems)
    }

    /// The text of a variable, if it is set.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<&'v str> {
        self.asked.push(key);
        self.vars.0.get(key).map(|value| value.trim())
    }

    /// The text of a variable that must be set.
    pub(super) fn required(&mut self, key: &'static str, what: &str) -> Option<&'v str> {
        let value = self.optional(key);
        if value.is_none() {
            self.problem(key, format!("is not set; {what}"));
        }
        value
    }

    /// A value that parses, or the default.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, default: &str, what: &str) -> Option<T> {
        let text = self.optional(key).unwrap_or(default);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(key, format!("{text:?} is not {what}"));
        }
        parsed
    }

    /// A list separated by commas, without empty items.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<&'v str> {
        let text = self.optional(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
    }
}

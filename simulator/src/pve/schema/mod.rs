//! Parameter tables and the checks they drive.
//!
//! A table is text, one parameter a line, so that it reads like the manual:
//!
//! ```text
//! newid    i 100..999999999 fmt=pve-vmid
//! name?    s fmt=dns-name
//! net[32]? s fmt=@net
//! ```
//!
//! Name (`?` optional, `[n]` an indexed option with n slots), type (`b` boolean, `i` integer, `n`
//! number, `s` string, `a` array, `-` an alias), then range, `fmt=` (a name, or `@name` for a nested
//! property string), `enum=`, `re=` (a named pattern), `max=`/`min=` lengths, `req=`, `key`
//! (default key), `alias=`, `model` (the alias' own name is kept), `since9`, `until8`.
//! The tables are written by hand; a test compares them with the published schema where that is at hand.

mod check;
mod formats;
mod nested;
#[cfg(test)]
mod tests;

pub(crate) use check::{check_params, parse_property};
pub(crate) use formats::{is_vmid, split_list};

/// Type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Alias,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Type::Boolean => "boolean",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::String | Type::Alias => "string",
            Type::Array => "array",
        }
    }
}

/// One parameter.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) slots: Option<u32>,
    pub(crate) optional: bool,
    pub(crate) ty: Type,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) format: Option<&'static str>,
    pub(crate) choices: Vec<&'static str>,
    pub(crate) pattern: Option<&'static str>,
    pub(crate) max_length: Option<usize>,
    pub(crate) min_length: Option<usize>,
    pub(crate) requires: Option<&'static str>,
    pub(crate) default_key: bool,
    pub(crate) alias: Option<&'static str>,
    pub(crate) alias_names_model: bool,
}

/// A parsed table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) params: Vec<Param>,
}

impl Spec {
    /// Parses tables for the given major version (8 or 9). A word that is not understood is a mistake
    /// in our own text; the test over all tables finds it.
    pub(crate) fn parse(tables: &[&'static str], major: u32) -> Spec {
        let params =
            tables.iter().flat_map(|t| t.lines()).filter_map(|line| parse_line(line, major)).collect();
        Spec { params }
    }

    /// The parameter that `name` stands for, with indexed options resolved.
    pub(crate) fn find(&self, name: &str) -> Option<&Param> {
        if let Some(p) = self.params.iter().find(|p| p.slots.is_none() && p.name == name) {
            return Some(p);
        }
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return None;
        }
        let (base, index) = name.split_at(name.len() - digits);
        if index.len() > 1 && index.starts_with('0') {
            return None;
        }
        let index: u32 = index.parse().ok()?;
        self.params.iter().find(|p| p.name == base && p.slots.is_some_and(|n| index < n))
    }
}

fn parse_line(line: &'static str, major: u32) -> Option<Param> {
    let mut words = line.split_whitespace();
    let head = words.next()?;
    let ty = match words.next()? {
        "b" => Type::Boolean,
        "i" => Type::Integer,
        "n" => Type::Number,
        "a" => Type::Array,
        "-" => Type::Alias,
        _ => Type::String,
    };
    let (head, optional) = head.strip_suffix('?').map_or((head, false), |h| (h, true));
    let (name, slots) = match head.split_once('[') {
        Some((name, n)) => (name, n.trim_end_matches(']').parse().ok()),
        None => (head, None),
    };
    let mut p = Param {
        name,
        slots,
        optional,
        ty,
        minimum: None,
        maximum: None,
        format: None,
        choices: Vec::new(),
        pattern: None,
        max_length: None,
        min_length: None,
        requires: None,
        default_key: false,
        alias: None,
        alias_names_model: false,
    };
    for word in words {
        match word.split_once('=') {
            Some(("fmt", v)) => p.format = Some(v),
            Some(("enum", v)) => p.choices.extend(v.split('|')),
            Some(("enum9", v)) if major >= 9 => p.choices.extend(v.split('|')),
            Some(("enum8", v)) if major < 9 => p.choices.extend(v.split('|')),
            Some(("re8", v)) if major < 9 => p.pattern = Some(v),
            Some(("re9", v)) if major >= 9 => p.pattern = Some(v),
            Some(("fmt9", v)) if major >= 9 => p.format = Some(v),
            Some(("re", v)) => p.pattern = Some(v),
            Some(("max", v)) => p.max_length = v.parse().ok(),
            Some(("min", v)) => p.min_length = v.parse().ok(),
            Some(("req", v)) => p.requires = Some(v),
            Some(("alias", v)) => p.alias = Some(v),
            Some(_) => {}
            None => match word {
                "key" => p.default_key = true,
                "model" => p.alias_names_model = true,
                "since9" if major < 9 => return None,
                "until8" if major >= 9 => return None,
                range => {
                    if let Some((low, high)) = range.split_once("..") {
                        p.minimum = low.parse().ok();
                        p.maximum = high.parse().ok();
                    }
                }
            },
        }
    }
    Some(p)
}

//! What a call was given: query, form or JSON body, and the parts of the path.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// One parameter's value; a repeated key is a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    One(String),
    Many(Vec<String>),
}

/// Parameters by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(BTreeMap<String, Given>);

impl Params {
    /// Decodes a query or form: pairs end at `&` **and** `;`, `+` is a blank, a repeated key is a list.
    pub(crate) fn from_form(text: &str) -> Params {
        let mut out = Params::default();
        for pair in text.split(['&', ';']).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            out.push(decode(key), decode(value));
        }
        out
    }

    /// Decodes a JSON object; other JSON carries no parameters.
    pub(crate) fn from_json(value: &Value) -> Params {
        let mut out = Params::default();
        let Value::Object(map) = value else { return out };
        for (key, value) in map {
            match value {
                Value::Null => {}
                Value::Array(items) => {
                    out.0.insert(key.clone(), Given::Many(items.iter().map(scalar).collect()));
                }
                v => out.push(key.clone(), scalar(v)),
            }
        }
        out
    }

    fn push(&mut self, key: String, value: String) {
        match self.0.get_mut(&key) {
            None => {
                self.0.insert(key, Given::One(value));
            }
            Some(Given::Many(list)) => list.push(value),
            Some(one) => {
                if let Given::One(first) = one.clone() {
                    *one = Given::Many(vec![first, value]);
                }
            }
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.into(), Given::One(value.into()));
    }

    pub(crate) fn extend(&mut self, other: Params) {
        self.0.extend(other.0);
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Given)> {
        self.0.iter()
    }

    /// A parameter as text; of a list, its first item.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Given::One(v) => Some(v),
            Given::Many(v) => v.first().map(String::as_str),
        }
    }

    /// A parameter that the table guarantees.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    pub(crate) fn many(&self, key: &str) -> Vec<String> {
        match self.0.get(key) {
            None => Vec::new(),
            Some(Given::One(v)) => vec![v.clone()],
            Some(Given::Many(v)) => v.clone(),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    /// A list parameter, given as `a,b` or by repetition.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        self.many(key).iter().flat_map(|v| super::schema::split_list(v)).map(str::to_owned).collect()
    }

    /// For the request log.
    pub(crate) fn to_json(&self, hide: impl Fn(&str) -> bool) -> Value {
        let map = self
            .0
            .iter()
            .map(|(k, v)| {
                let value = match v {
                    _ if hide(k) => Value::from("hidden-value"),
                    Given::One(v) => Value::from(v.clone()),
                    Given::Many(v) => Value::from(v.clone()),
                };
                (k.clone(), value)
            })
            .collect();
        Value::Object(map)
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// What the daemon's JSON parser says of a broken body. One text is recorded: an object whose key is no
/// string. No recording covers the others.
pub(crate) fn broken_json(text: &str, column: usize) -> String {
    let at = column.saturating_sub(1);
    let rest: String = text.chars().skip(at).take(20).collect();
    let key = text.chars().take(at).collect::<String>().trim_end().ends_with(['{', ',']);
    let what = if key && text.trim_start().starts_with('{') {
        "'\"' expected"
    } else {
        "malformed JSON string, neither tag, array, object, number, string or atom"
    };
    let before = if rest.is_empty() { "(end of string)" } else { rest.trim_end() };
    format!(
        "{what}, at character offset {at} (before \"{before}\") at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line 917.\n"
    )
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Bool(b) => if *b { "1" } else { "0" }.into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_splits_at_semicolons_and_repeats_make_lists() {
        let p = Params::from_form("tags=a%3Bb;name=x+y&command=ls&command=-l");
        assert_eq!(p.get("tags"), Some("a;b"));
        assert_eq!(p.get("name"), Some("x y"));
        assert_eq!(p.many("command"), ["ls", "-l"]);
    }

    #[test]
    fn json_booleans_are_zero_and_one() {
        let p = Params::from_json(&serde_json::json!({"full": true, "newid": 101, "x": null}));
        assert!(p.flag("full") && p.number("newid") == Some(101) && !p.contains("x"));
    }
}

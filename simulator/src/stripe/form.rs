//! Stripe's form encoding (`a[b][0]=c`, `a[]=c`) and the check of parameters against a call's table.
//!
//! A table is a list of small patterns: `name` takes any text, `name#` an integer, `name?` a boolean,
//! `name=a|b` one of the words; `[]` stands for a list index and `*` for a key the caller chooses
//! (metadata). `name!` at the end marks a parameter that must be there.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::fault::Fault;

/// Parameters every retrieving call takes.
pub(crate) const RETRIEVE: &[&str] = &["expand[]"];
/// Parameters every list takes besides its filters.
pub(crate) const LIST: &[&str] = &["limit#", "starting_after", "ending_before", "expand[]"];
/// The ways to filter by a time.
pub(crate) const CREATED: &[&str] =
    &["created#", "created.gt#", "created.gte#", "created.lt#", "created.lte#"];

/// The decoded parameters of one call: an object of texts, objects and lists.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(pub(crate) Map<String, Value>);

impl Params {
    /// Decodes a query string or a form body. Lists end up as JSON arrays.
    pub(crate) fn decode(text: &str) -> Self {
        let mut root = Map::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescape(key), unescape(value));
            insert(&mut root, &segments(&key), value);
        }
        for value in root.values_mut() {
            listify(value);
        }
        Self(root)
    }

    /// The text at a dotted path (`subscription_data.description`), if it is there and not empty.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The value at a dotted path; list indices are numbers.
    pub(crate) fn at(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(part),
        })
    }

    /// The integer at a dotted path (the table has checked that it is one).
    pub(crate) fn int(&self, path: &str) -> Option<i64> {
        self.text(path).and_then(|text| text.parse().ok())
    }

    /// The boolean at a dotted path.
    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.text(path).map(|text| text == "true")
    }

    /// The texts of a list at a dotted path.
    pub(crate) fn texts(&self, path: &str) -> Vec<&str> {
        match self.at(path) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(one)) if !one.is_empty() => vec![one],
            _ => Vec::new(),
        }
    }

    /// Whether the parameter was given at all, be it empty.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).is_some()
    }

    /// Refuses what the tables do not know, words and numbers that are none, and what is missing.
    ///
    /// # Errors
    /// The first fault found, in Stripe's words.
    pub(crate) fn check(&self, tables: &[&[&str]]) -> Result<(), Fault> {
        let mut leaves = Vec::new();
        for (key, value) in &self.0 {
            flatten(key, key, value, &mut leaves);
        }
        for (path, shown, value) in &leaves {
            let pattern = tables
                .iter()
                .flat_map(|table| table.iter())
                .map(|raw| Pattern::of(raw))
                .filter(|p| p.matches(path));
            let mut fault = Fault::unknown_parameter(shown);
            let mut known = false;
            for candidate in pattern {
                match candidate.accepts(shown, value) {
                    Ok(()) => {
                        known = true;
                        break;
                    }
                    Err(reason) => fault = reason,
                }
            }
            if !known {
                return Err(fault);
            }
        }
        for raw in tables.iter().flat_map(|table| table.iter()).filter(|raw| raw.ends_with('!')) {
            let name = Pattern::of(raw).name;
            let top = name.split(['.', '[']).next().unwrap_or(name);
            if self.at(top).is_none_or(|value| value.as_str().is_some_and(str::is_empty)) {
                return Err(Fault::missing(top));
            }
        }
        Ok(())
    }
}

/// One entry of a table, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct Pattern<'a> {
    /// Dotted path with `[]` and `*`.
    pub(crate) name: &'a str,
    kind: char,
    words: &'a str,
}

impl<'a> Pattern<'a> {
    /// Reads an entry.
    pub(crate) fn of(raw: &'a str) -> Self {
        let raw = raw.trim_end_matches('!');
        if let Some((name, words)) = raw.split_once('=') {
            return Self { name, kind: '=', words };
        }
        match raw.chars().last() {
            Some(kind @ ('#' | '?')) => Self { name: &raw[..raw.len() - 1], kind, words: "" },
            _ => Self { name: raw, kind: ' ', words: "" },
        }
    }

    fn matches(self, path: &str) -> bool {
        let (mut ours, mut theirs) = (self.name.split('.'), path.split('.'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if a == "*" || a == b => {}
                // `metadata=` unsets the whole map.
                (Some("*"), None) => return true,
                _ => return false,
            }
        }
    }

    fn accepts(self, shown: &str, value: &str) -> Result<(), Fault> {
        match self.kind {
            '#' if value.parse::<i64>().is_err() => Err(Fault::coded(
                "parameter_invalid_integer",
                format!("Invalid integer: {value}"),
                Some(shown),
            )),
            '?' if value != "true" && value != "false" => {
                Err(Fault::invalid(format!("Invalid boolean: {value}"), Some(shown)))
            }
            '=' if !self.words.split('|').any(|word| word == value) => {
                let list = self.words.replace('|', ", ");
                Err(Fault::invalid(format!("Invalid {shown}: must be one of {list}"), Some(shown)))
            }
            _ => Ok(()),
        }
    }
}

fn unescape(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn segments(key: &str) -> Vec<String> {
    let Some((first, rest)) = key.split_once('[') else { return vec![key.to_owned()] };
    let mut parts = vec![first.to_owned()];
    parts.extend(rest.trim_end_matches(']').split("][").map(str::to_owned));
    parts
}

fn insert(into: &mut Map<String, Value>, path: &[String], value: String) {
    let Some((first, rest)) = path.split_first() else { return };
    let key = if first.is_empty() { into.len().to_string() } else { first.clone() };
    if rest.is_empty() {
        into.insert(key, Value::String(value));
        return;
    }
    let slot = into.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Value::Object(inner) = slot {
        insert(inner, rest, value);
    }
}

/// Turns objects whose keys are 0, 1, 2 … into lists, inside out.
fn listify(value: &mut Value) {
    let Value::Object(map) = value else { return };
    map.values_mut().for_each(listify);
    let dense = !map.is_empty() && (0..map.len()).all(|index| map.contains_key(&index.to_string()));
    if dense {
        let count = map.len();
        let items = (0..count).filter_map(|index| map.remove(&index.to_string())).collect();
        *value = Value::Array(items);
    }
}

fn flatten(path: &str, shown: &str, value: &Value, out: &mut Vec<(String, String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                flatten(&format!("{path}.{key}"), &format!("{shown}[{key}]"), inner, out);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                // A caller's own keys may be numbers as well, hence both spellings are tried by `*`.
                flatten(&format!("{path}[]"), &format!("{shown}[{index}]"), inner, out);
            }
        }
        other => out.push((path.to_owned(), shown.to_owned(), other.as_str().unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_lists_and_maps() {
        let params = Params::decode("a[b][0][price]=p1&a[b][1][price]=p%202&expand[]=x&expand[]=y&n=5&e=");
        assert_eq!(params.text("a.b.0.price"), Some("p1"));
        assert_eq!(params.text("a.b.1.price"), Some("p 2"));
        assert_eq!(params.texts("expand"), ["x", "y"]);
        assert_eq!(params.int("n"), Some(5));
        assert!(params.has("e") && params.text("e").is_none());
    }

    #[test]
    fn refuses_what_the_table_does_not_know() {
        let table: &[&str] = &["mode=payment|subscription!", "items[].price", "n#", "on?", "metadata.*"];
        let refused =
            |text: &str| Params::decode(text).check(&[table]).map_err(|fault| fault.message().to_owned());
        assert_eq!(refused("mode=payment&items[0][price]=a&n=3&on=true&metadata[k]=v"), Ok(()));
        assert_eq!(refused("mode=payment&metadata="), Ok(()));
        assert_eq!(
            refused("mode=payment&items[0][colour]=a").unwrap_err(),
            "Received unknown parameter: items[0][colour]"
        );
        assert_eq!(refused("mode=gift").unwrap_err(), "Invalid mode: must be one of payment, subscription");
        assert_eq!(refused("mode=payment&n=x").unwrap_err(), "Invalid integer: x");
        assert_eq!(refused("n=1").unwrap_err(), "Missing required param: mode.");
    }
}

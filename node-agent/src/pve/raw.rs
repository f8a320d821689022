//! Answers read leniently.
//!
//! Proxmox's answers are loose: numbers arrive as strings, optional fields are absent, lists grow
//! new fields with every release, closed lists grow new values. The crate's generated output types
//! fail a whole list over one of these, so reading goes through plain JSON and these few functions.

use serde_json::{Map, Value};

/// One JSON object of an answer.
pub(super) type Row = Map<String, Value>;

/// A field as text; numbers and booleans become what Proxmox would print.
pub(super) fn text(row: &Row, key: &str) -> Option<String> {
    row.get(key).and_then(value_text)
}

/// A scalar as text.
pub(super) fn value_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(String::from(if *flag { "1" } else { "0" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A field as a number without sign; 0 where absent.
pub(super) fn count(row: &Row, key: &str) -> u64 {
    match row.get(key) {
        Some(Value::Number(number)) => {
            number.as_u64().or_else(|| number.as_f64().map(|f| f.max(0.0) as u64)).unwrap_or(0)
        }
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(Value::Bool(flag)) => u64::from(*flag),
        _ => 0,
    }
}

/// A field as a fraction; 0 where absent.
pub(super) fn fraction(row: &Row, key: &str) -> f64 {
    match row.get(key) {
        Some(Value::Number(number)) => number.as_f64().unwrap_or(0.0),
        Some(Value::String(text)) => text.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A field as a boolean: `1`, `"1"` and `true` are yes.
pub(super) fn flag(row: &Row, key: &str) -> bool {
    count(row, key) == 1
}

/// A field that is an object; empty where absent.
pub(super) fn object(row: &Row, key: &str) -> Row {
    row.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// A field that is a list of words with commas, semicolons or blanks between them.
pub(super) fn words(row: &Row, key: &str) -> Vec<String> {
    let text = text(row, key).unwrap_or_default();
    text.split([',', ';', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_types_read_the_same() {
        let json = r#"{"a":"512","b":512,"c":512.7,"d":true,"e":null,"f":"1","g":["x"],"h":-3,"t":"b;a c"}"#;
        let row: Row = serde_json::from_str(json).unwrap();
        assert_eq!((count(&row, "a"), count(&row, "b"), count(&row, "c")), (512, 512, 512));
        assert_eq!((count(&row, "e"), count(&row, "zz"), count(&row, "h")), (0, 0, 0));
        assert!(flag(&row, "d") && flag(&row, "f") && !flag(&row, "e"));
        assert_eq!((text(&row, "b").as_deref(), text(&row, "e"), text(&row, "g")), (Some("512"), None, None));
        assert_eq!(words(&row, "t"), ["b", "a", "c"]);
    }
}

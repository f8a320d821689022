//! Parameters as Proxmox's form decoder reads them.
//!
//! The decoder splits on `&` and on `;`, takes `+` for a blank and a repeated key for an array, and
//! accepts only `0` and `1` as booleans. So everything but letters, digits and `-._~` is escaped.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

/// Everything but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one part of a path or one value.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Serialises a structure of parameters as `key=value&…`; `None` and `()` give an empty text.
pub(super) fn form<T: Serialize>(parameters: &T) -> Result<String, String> {
    let mut pairs = Vec::new();
    match serde_json::to_value(parameters).map_err(|e| e.to_string())? {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                add(&mut pairs, &key, value)?;
            }
        }
        other => return Err(format!("parameters must be a structure, not {other}")),
    }
    Ok(pairs.join("&"))
}

fn add(pairs: &mut Vec<String>, key: &str, value: Value) -> Result<(), String> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::Bool(flag) => String::from(if flag { "1" } else { "0" }),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text,
        Value::Array(items) => return items.into_iter().try_for_each(|item| add(pairs, key, item)),
        Value::Object(_) => return Err(format!("parameter {key} must not be a structure")),
    };
    pairs.push(format!("{}={}", escape(key), escape(&text)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_survive_proxmox_form_decoder() {
        let text = form(&json!({
            "command": ["ls", "-l a"], "tags": "a;b", "net0": "virtio=BC:24:11:00:00:01,tag=5",
            "full": true, "newid": 101, "none": null, "note": "a+b & ü",
        }));
        let expected = "command=ls&command=-l%20a&full=1&net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Ctag%3D5\
                        &newid=101&note=a%2Bb%20%26%20%C3%BC&tags=a%3Bb";
        let mut pairs: Vec<_> = text.as_deref().unwrap_or_default().split('&').collect();
        pairs.sort_by_key(|pair| pair.split('=').next().unwrap_or_default().to_owned());
        assert_eq!(pairs.join("&"), expected);
        assert_eq!(form(&()), Ok(String::new()));
        assert!(form(&json!({"a": {"b": 1}})).is_err());
        assert!(form(&json!(["a"])).is_err());
    }
}

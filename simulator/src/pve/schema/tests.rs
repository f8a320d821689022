//! Our tables against the published schema, where that is at hand.

use serde_json::{Map, Value};

use super::{Param, Spec, Type, formats, nested};
use crate::pve::call::Router;

fn number(v: &Value) -> Option<f64> {
    v.as_f64().or_else(|| v.as_str()?.parse().ok())
}

fn is_set(v: &Value) -> bool {
    matches!(v.as_i64(), Some(1)) || v.as_bool() == Some(true) || v.as_str() == Some("1")
}

/// Differences between one table and the schema's properties.
fn compare(at: &str, ours: &Spec, theirs: &Map<String, Value>, major: u32, out: &mut Vec<String>) {
    let name = |p: &Param| if p.slots.is_some() { format!("{}[n]", p.name) } else { p.name.to_owned() };
    for p in &ours.params {
        let Some(t) = theirs.get(&name(p)) else {
            out.push(format!("{at}.{}: not in the schema", name(p)));
            continue;
        };
        let mut differ = |what: &str, a: String, b: String| {
            if a != b {
                out.push(format!("{at}.{} {what}: ours {a}, schema {b}", p.name));
            }
        };
        if let Some(alias) = p.alias {
            differ("alias", alias.into(), t["alias"].as_str().unwrap_or("").into());
            continue;
        }
        differ("type", p.ty.word().into(), t["type"].as_str().unwrap_or("").into());
        differ("optional", p.optional.to_string(), is_set(&t["optional"]).to_string());
        differ("minimum", format!("{:?}", p.minimum), format!("{:?}", number(&t["minimum"])));
        differ("maximum", format!("{:?}", p.maximum), format!("{:?}", number(&t["maximum"])));
        let length = |k: &str| number(&t[k]).map(|n| format!("{n}"));
        differ(
            "maxLength",
            format!("{:?}", p.max_length.map(|n| n.to_string())),
            format!("{:?}", length("maxLength")),
        );
        differ(
            "minLength",
            format!("{:?}", p.min_length.map(|n| n.to_string())),
            format!("{:?}", length("minLength")),
        );
        differ("requires", p.requires.unwrap_or("").into(), t["requires"].as_str().unwrap_or("").into());
        let choices: Vec<String> = t["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| v.as_str().map_or(v.to_string(), str::to_owned))
            .collect();
        differ("enum", p.choices.join("|"), choices.join("|"));
        if let Some(pattern) = p.pattern.and_then(formats::pattern_text) {
            differ("pattern", pattern.into(), t["pattern"].as_str().unwrap_or("").into());
        }
        differ("default_key", p.default_key.to_string(), is_set(&t["default_key"]).to_string());
        match (&t["format"], p.format) {
            (Value::String(f), Some(ours)) if ours.starts_with('@') => {
                // Named formats that the schema does not spell out.
                differ("format", ours.replace('@', "pve-qm-"), f.clone());
            }
            (Value::String(f), ours) => differ("format", ours.unwrap_or("").into(), f.clone()),
            (Value::Object(map), Some(table)) => {
                let inner = Spec::parse(nested::table(table.trim_start_matches('@')), major);
                compare(&format!("{at}.{}", p.name), &inner, map, major, out);
            }
            (Value::Object(_), None) => out.push(format!("{at}.{}: nested format missing", p.name)),
            (_, Some(ours)) if p.ty != Type::Array => {
                out.push(format!("{at}.{}: format {ours}, schema none", p.name))
            }
            _ => {}
        }
    }
    for theirs in theirs.keys() {
        if !ours.params.iter().any(|p| name(p) == *theirs) {
            out.push(format!("{at}.{theirs}: missing in our table"));
        }
    }
}

#[test]
fn the_tables_say_what_the_published_schema_says() {
    let Some(directory) = crate::reference::shared("the tables against the published schema") else { return };
    let mut differences = Vec::new();
    let mut compared = 0;
    for (major, file) in [(8, "schema-8.4.json"), (9, "schema-9.json")] {
        let text = std::fs::read_to_string(directory.join("pve").join(file)).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let router = Router::new(major);
        for call in router.calls() {
            let key = format!("{} {}", call.method, call.path);
            let Some(method) = schema["methods"].get(&key) else {
                if call.path != "/" {
                    differences.push(format!("{major}: {key} is not in the schema"));
                }
                continue;
            };
            compared += 1;
            let allowed =
                method["allowtoken"].as_i64() != Some(0) && method["allowtoken"].as_bool() != Some(false);
            if allowed != call.token {
                differences.push(format!("{major}: {key} allowtoken"));
            }
            let empty = Map::new();
            let params = method["parameters"].as_object().unwrap_or(&empty);
            compare(&format!("{major}: {key}"), &call.spec, params, major, &mut differences);
        }
    }
    eprintln!("{compared} calls compared, {} differences", differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 150, "only {compared} calls");
}

#[test]
fn every_word_of_the_tables_is_understood() {
    for major in [8, 9] {
        for call in Router::new(major).calls() {
            for table in call.tables.iter().flat_map(|t| t.lines()) {
                let known = table.split_whitespace().skip(2).all(|word| {
                    let key = word.split('=').next().unwrap_or("");
                    [
                        "fmt", "fmt9", "enum", "enum8", "enum9", "re", "re8", "re9", "max", "min", "req",
                        "alias", "key", "model", "since9", "until8",
                    ]
                    .contains(&key)
                        || word.contains("..")
                });
                assert!(known, "{} {}: {table}", call.method, call.path);
            }
        }
    }
}

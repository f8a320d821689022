//! The checks of a call's parameters, with Proxmox's own words for what is wrong.

use std::collections::BTreeMap;

use super::{Param, Spec, Type, formats, nested};
use crate::pve::params::{Given, Params};

/// Checks all parameters of a call; the errors by parameter name.
pub(crate) fn check_params(spec: &Spec, params: &Params, major: u32) -> BTreeMap<String, String> {
    let mut errors = BTreeMap::new();
    for p in spec.params.iter().filter(|p| p.slots.is_none() && !p.optional && p.ty != Type::Alias) {
        if !params.contains(p.name) {
            errors.insert(p.name.to_owned(), "property is missing and it is not optional".to_owned());
        }
    }
    for (name, given) in params.iter() {
        let Some(p) = spec.find(name) else {
            errors.insert(
                name.clone(),
                "property is not defined in schema and the schema does not allow additional properties"
                    .to_owned(),
            );
            continue;
        };
        if let Some(required) = p.requires
            && !params.contains(required)
        {
            errors.insert(required.to_owned(), format!("missing property required by '{name}'"));
        }
        let checked = match given {
            Given::Many(list) if p.ty == Type::Array => list.iter().try_for_each(|_| Ok(())),
            Given::Many(list) if p.format.is_some_and(|f| f.ends_with("-list")) => {
                check_value(p, &list.join(","), name, major)
            }
            Given::Many(_) => Err(format!("type check ('{}') failed - got ARRAY", p.ty.word())),
            Given::One(_) if p.ty == Type::Array => Ok(()),
            Given::One(value) => check_value(p, value, name, major),
        };
        if let Err(text) = checked {
            errors.insert(name.clone(), text);
        }
    }
    errors
}

/// Checks one value; `path` names it in nested messages.
fn check_value(p: &Param, value: &str, path: &str, major: u32) -> Result<(), String> {
    let wrong = |word: &str| Err(format!("type check ('{word}') failed - got '{value}'"));
    match p.ty {
        Type::Boolean if value != "0" && value != "1" => return wrong("boolean"),
        Type::Integer if !formats::is_integer(value) => return wrong("integer"),
        Type::Number if value.parse::<f64>().is_err() => return wrong("number"),
        _ => {}
    }
    if let Some(format) = p.format {
        let checked = match format.strip_prefix('@') {
            Some(table) => parse_property(table, value, path, major)
                .map(|_| ())
                .map_err(|e| format!("format error\n{e}")),
            None => formats::check(format, value),
        };
        checked.map_err(|e| format!("invalid format - {e}{}", if e.ends_with('\n') { "" } else { "\n" }))?;
    }
    if let Some(pattern) = p.pattern
        && !formats::matches(pattern, value)
    {
        return Err("value does not match the regex pattern".into());
    }
    let length = value.chars().count();
    if let Some(max) = p.max_length.filter(|m| length > *m) {
        return Err(format!("value may only be {max} characters long"));
    }
    if let Some(min) = p.min_length.filter(|m| length < *m) {
        return Err(format!("value must be at least {min} characters long"));
    }
    if matches!(p.ty, Type::Integer | Type::Number) {
        let number: f64 = value.parse().unwrap_or(0.0);
        if let Some(max) = p.maximum.filter(|m| number > *m) {
            return Err(format!("value must have a maximum value of {max}"));
        }
        if let Some(min) = p.minimum.filter(|m| number < *m) {
            return Err(format!("value must have a minimum value of {min}"));
        }
    }
    if !p.choices.is_empty() && !p.choices.contains(&value) {
        return Err(format!(
            "value '{value}' does not have a value in the enumeration '{}'",
            p.choices.join(", ")
        ));
    }
    Ok(())
}

/// A boolean of a property string (`on`, `yes`, …) as `0` or `1`; other texts unchanged.
fn print_bool(value: &str) -> &str {
    match value.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => "1",
        "0" | "off" | "no" | "false" => "0",
        _ => value,
    }
}

/// Parses a property string such as `virtio=AA:…,bridge=vmbr0` by the nested table `table`.
/// An error is one line or several, each ending in a line feed.
pub(crate) fn parse_property(
    table: &str,
    value: &str,
    path: &str,
    major: u32,
) -> Result<BTreeMap<String, String>, String> {
    let spec = Spec::parse(nested::table(table), major);
    let default = spec.params.iter().find(|p| p.default_key).map(|p| p.name);
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    let mut unknown = Vec::new();
    for part in value.split(',').filter(|p| !p.trim().is_empty()) {
        let (mut key, mut text) = match part.split_once('=') {
            Some(("", _) | (_, "")) => {
                return Err(format!("{path}: missing key in comma-separated list property\n"));
            }
            Some((k, v)) => (k.to_owned(), v.to_owned()),
            None => match default {
                Some(d) if !out.contains_key(d) => (d.to_owned(), part.to_owned()),
                Some(d) => {
                    return Err(format!("{path}: duplicate key in comma-separated list property: {d}\n"));
                }
                None => {
                    return Err(format!(
                        "{path}: value without key, but schema does not define a default key\n"
                    ));
                }
            },
        };
        let Some(p) = spec.params.iter().find(|p| p.name == key) else {
            unknown.push(key);
            continue;
        };
        if let Some(alias) = p.alias {
            if p.alias_names_model {
                out.insert("model".into(), key);
            }
            key = alias.to_owned();
        }
        if spec.params.iter().any(|p| p.name == key && p.ty == Type::Boolean) {
            text = print_bool(&text).to_owned();
        }
        if out.insert(key.clone(), text).is_some() {
            return Err(format!("{path}: duplicate key in comma-separated list property: {key}\n"));
        }
    }
    let mut errors = String::new();
    for p in spec.params.iter().filter(|p| p.ty != Type::Alias) {
        match out.get(p.name) {
            Some(v) => {
                if let Err(e) = check_value(p, v, p.name, major) {
                    errors.push_str(&format!("{path}.{}: {e}\n", p.name));
                }
                if let Some(required) = p.requires.filter(|r| !out.contains_key(*r)) {
                    errors
                        .push_str(&format!("{path}.{required}: missing property required by '{}'\n", p.name));
                }
            }
            None if !p.optional => {
                errors.push_str(&format!("{path}.{}: property is missing and it is not optional\n", p.name));
            }
            None => {}
        }
    }
    for key in unknown {
        errors.push_str(&format!(
            "{path}.{key}: property is not defined in schema and the schema does not allow additional properties\n"
        ));
    }
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

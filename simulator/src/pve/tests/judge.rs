//! What makes two answers alike: status, reason, message, errors, how a task ended, what its log says,
//! and the shape of everything else. Values differ from machine to machine and are not compared.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ask::Heard;

/// Where the simulator's answer is not the recorded one: one line per point, `-` for what only the
/// recording has, `+` for what only the simulator has.
pub(super) fn differences(recorded: &Value, heard: &Heard) -> Vec<String> {
    let mut out = Vec::new();
    let theirs = format!("{} {}", recorded["status"], recorded["reason"].as_str().unwrap_or(""));
    let ours = format!("{} {}", heard.status, heard.reason);
    if theirs != ours {
        // Everything else follows from that.
        return vec![format!("- status {theirs}"), format!("+ status {ours}")];
    }
    let kind = recorded["headers"]["content-type"].as_str();
    if kind != heard.content_type.as_deref() {
        out.push(format!("- content-type {}", kind.unwrap_or("none")));
        out.push(format!("+ content-type {}", heard.content_type.as_deref().unwrap_or("none")));
    }
    let body = &recorded["body"];
    if !body.is_object() {
        let theirs = body.as_str().unwrap_or("").trim_end();
        if theirs != heard.text.trim_end() {
            out.push(format!("- text {theirs}"));
            out.push(format!("+ text {}", heard.text.trim_end()));
        }
        return out;
    }
    for field in ["message", "errors"] {
        unequal(field, &body[field], &heard.body[field], &mut out);
    }
    // How far a task was when it was looked at says nothing.
    let at_work = recorded["note"].as_str().is_some_and(|n| n.contains(" poll "))
        && body["data"]["status"] == "running";
    let mut ours = heard.body["data"].clone();
    if at_work && let Some(map) = ours.as_object_mut() {
        map.remove("exitstatus");
    }
    let exit = |v: &Value| v["exitstatus"].clone();
    unequal("exit", &exit(&body["data"]), &exit(&ours), &mut out);
    if body["data"][0]["t"].is_string() {
        logs(&body["data"], &ours, &mut out);
    } else {
        let (theirs, ours) = (shape(&body["data"]), shape(&ours));
        out.extend(theirs.difference(&ours).map(|s| format!("- data {s}")));
        out.extend(ours.difference(&theirs).map(|s| format!("+ data {s}")));
    }
    let beside = |v: &Value| -> BTreeSet<String> {
        v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect()
    };
    let (theirs, ours) = (beside(body), beside(&heard.body));
    out.extend(theirs.difference(&ours).map(|s| format!("- field {s}")));
    out.extend(ours.difference(&theirs).map(|s| format!("+ field {s}")));
    out
}

fn unequal(what: &str, theirs: &Value, ours: &Value, out: &mut Vec<String>) {
    if theirs != ours {
        out.extend((!theirs.is_null()).then(|| format!("- {what} {}", plain(theirs))));
        out.extend((!ours.is_null()).then(|| format!("+ {what} {}", plain(ours))));
    }
}

fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), |t| t.trim_end().to_owned())
}

/// Names and kinds of everything a value holds. The rows of a list are laid over each other: what one
/// of them has, the list has.
pub(super) fn shape(v: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    walk(v, "", &mut out);
    out
}

fn walk(v: &Value, at: &str, out: &mut BTreeSet<String>) {
    let mut leaf = |kind: &str| {
        out.insert(format!("{at}:{kind}"));
    };
    match v {
        Value::Null => leaf("null"),
        Value::Bool(_) => leaf("bool"),
        Value::Number(_) => leaf("number"),
        Value::String(_) => leaf("text"),
        Value::Array(items) if items.is_empty() => leaf("[]"),
        Value::Object(map) if map.is_empty() => leaf("{}"),
        Value::Array(items) => items.iter().for_each(|i| {
            // Rows of different kinds are kept apart.
            let kinds = ["qemu", "node", "storage", "sdn", "pool"];
            let kind = i["type"].as_str().filter(|t| kinds.contains(t)).or(i["key"].as_str()).unwrap_or("");
            walk(i, &format!("{at}[{kind}]"), out);
        }),
        Value::Object(map) => map.iter().for_each(|(k, v)| walk(v, &format!("{at}.{k}"), out)),
    }
}

/// The lines of a log that say what was done; progress and waiting for locks depend on the day.
fn essence(v: &Value) -> Vec<String> {
    let passing = |t: &str| t.contains("transferred ") || t == "trying to acquire lock..." || t == " OK";
    let lines = v.as_array().into_iter().flatten().filter_map(|l| l["t"].as_str());
    lines.filter(|t| !passing(t)).map(settled).collect()
}

/// A line without what is accidental: the options of a backup job stand in the order of a Perl hash.
fn settled(line: &str) -> String {
    let Some(job) = line.strip_prefix("INFO: starting new backup job: ") else { return line.to_owned() };
    let mut options: Vec<&str> = job.split(" --").collect();
    options[1..].sort_unstable();
    options.join(" --")
}

fn logs(theirs: &Value, ours: &Value, out: &mut Vec<String>) {
    let (theirs, ours) = (essence(theirs), essence(ours));
    if theirs == ours {
        return;
    }
    let before = out.len();
    out.extend(theirs.iter().filter(|l| !ours.contains(l)).map(|l| format!("- log {l}")));
    out.extend(ours.iter().filter(|l| !theirs.contains(l)).map(|l| format!("+ log {l}")));
    if out.len() == before {
        out.push("- log in another order, or a line more often".to_owned());
    }
}

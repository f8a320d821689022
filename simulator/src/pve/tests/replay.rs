//! What a real Proxmox VE 8.4.21 answered, asked again of the simulator: same request, same status,
//! reason, message and shape of the body.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stage::Stage;
use super::world::{ROOT, World};

/// Groups that are judged, and how many exchanges must agree in status and reason, and wholly. What
/// depends on timing has a little room.
const FLOOR: &[(&str, usize, usize)] = &[
    ("basics", 36, 32),
    ("clone", 31, 28),
    ("clone-errors", 9, 9),
    ("concurrency", 59, 56),
    ("config", 15, 15),
    ("config-errors", 16, 16),
    ("create", 7, 7),
    ("create-errors", 16, 16),
    ("destroy", 16, 16),
    ("firewall", 24, 24),
    ("guest-agent", 10, 8),
    ("hotplug-pending", 47, 43),
    ("import", 11, 10),
    ("interrupted-clone", 32, 31),
    ("lifecycle", 59, 57),
    ("locked", 37, 37),
    ("order-flow", 10, 10),
    ("permissions", 49, 48),
    ("pool-scoped", 493, 475),
    ("resize", 19, 19),
    ("snapshot", 46, 44),
    ("start", 19, 17),
    ("storage", 23, 23),
    ("tasks", 55, 53),
    ("template", 9, 9),
];

fn recordings() -> Option<Vec<Value>> {
    let file = crate::reference::shared("the replay of the recordings")?.join("pve/transcripts.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    Some(text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

/// Names and kinds of what a value holds; numbers and numeric texts differ, values do not matter.
fn shape(v: &Value) -> String {
    match v {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => items.first().map_or("[]".into(), |i| match i {
            Value::Object(map)
                if map.contains_key("vmid") || map.contains_key("volid") || map.contains_key("key") =>
            {
                "[row]".into()
            }
            i => format!("[{}]", shape(i)),
        }),
        Value::Object(map) => {
            let parts: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", shape(v))).collect();
            format!("{{{}}}", parts.join(" "))
        }
    }
}

/// A log without what depends on timing: progress, waiting for locks, numbers.
fn essence(v: &Value) -> String {
    let waits = |t: &str| t.starts_with("transferred ") || t.starts_with("trying to acquire") || t == " OK";
    let lines = v.as_array().into_iter().flatten().filter_map(|l| l["t"].as_str()).filter(|t| !waits(t));
    lines.collect::<Vec<_>>().join("|").chars().filter(|c| !c.is_ascii_digit()).collect()
}

struct Judged {
    verdict: bool,
    whole: bool,
    why: String,
}

fn judge(recorded: &Value, status: u16, reason: &str, body: &Value, text: &str) -> Judged {
    let verdict = recorded["status"] == status && recorded["reason"] == reason;
    let mut why = String::new();
    if !verdict {
        why = format!("recorded {} {}, got {status} {reason}", recorded["status"], recorded["reason"]);
    }
    let theirs = &recorded["body"];
    let mut whole = verdict;
    if theirs.is_object() {
        for field in ["message", "errors"] {
            if theirs[field] != body[field] {
                whole = false;
                why.push_str(&format!(" | {field}: recorded {}, got {}", theirs[field], body[field]));
            }
        }
        let exit = |v: &Value| v["data"]["exitstatus"].clone();
        if exit(theirs) != exit(body) {
            whole = false;
            why.push_str(&format!(" | exit: recorded {}, got {}", exit(theirs), exit(body)));
        }
        let is_log = theirs["data"][0]["t"].is_string();
        let same = if is_log {
            essence(&theirs["data"]) == essence(&body["data"])
        } else {
            shape(&theirs["data"]) == shape(&body["data"])
        };
        if !same {
            whole = false;
            if is_log {
                why.push_str(&format!(" | log: recorded {}, got {}", theirs["data"], body["data"]));
            } else {
                let (a, b) = (shape(&theirs["data"]), shape(&body["data"]));
                let only = |a: &str, b: &str| -> String {
                    a.split([' ', '{', '}'])
                        .filter(|w| !b.split([' ', '{', '}']).any(|x| x == *w))
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                why.push_str(&format!(
                    " | data: only recorded <{}>, only ours <{}>",
                    only(&a, &b),
                    only(&b, &a)
                ));
            }
        }
    } else if theirs.as_str().is_some_and(|t| t.trim_end() != text.trim_end()) {
        whole = false;
        why.push_str(&format!(" | body: recorded {theirs}, got {text:?}"));
    }
    Judged { verdict, whole, why }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recordings_are_answered_as_they_were() {
    let Some(lines) = recordings() else { return };
    let mut config = super::world::config("8.4.21");
    config.clusters[0].nodes.truncate(1);
    let node = &mut config.clusters[0].nodes[0];
    node.templates.clear();
    node.storages.truncate(1);
    node.storages[0].content =
        ["vztmpl", "iso", "images", "import", "backup", "rootdir", "snippets"].map(str::to_owned).to_vec();
    config.guest_agent_after_ms = 0;
    config.timing.resources_lag_ms = 0;
    config.timing.agent_ms = 40;
    config.timing.shutdown_second_ms = 20;
    let mut world = World::with(config).await;
    let mut stage = Stage::new(&world).await;
    let mut counts: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let (group, note) = (line["group"].as_str().unwrap_or(""), line["note"].as_str().unwrap_or(""));
        if stage.skips(number, group, note, line) {
            continue;
        }
        stage.set(&mut world, group, note, line).await;
        let token = stage.token(number, group, line);
        world.as_token(if token.is_empty() { ROOT } else { &token });
        let Some((status, reason, body, text)) = stage.ask(&world, line).await else { continue };
        if stage.is_artefact(note, line) {
            stage.after(&world, line, &body).await;
            continue;
        }
        let judged = judge(line, status, &reason, &body, &text);
        let count = counts.entry(group.to_owned()).or_default();
        count.0 += 1;
        count.1 += usize::from(judged.verdict);
        count.2 += usize::from(judged.whole);
        if !judged.whole {
            println!(
                "{number} [{group}] {note}: {} {} {}: {}",
                line["method"], line["path"], line["params"], judged.why
            );
        }
        stage.after(&world, line, &body).await;
    }
    println!(
        "{}",
        json!(
            counts
                .iter()
                .map(|(g, c)| (g.clone(), json!([c.0, c.1, c.2])))
                .collect::<serde_json::Map<_, _>>()
        )
    );
    for (group, (all, verdict, whole)) in &counts {
        println!("{group}: {all} asked, {verdict} with the same status and reason, {whole} wholly alike");
    }
    for (group, verdict, whole) in FLOOR {
        let (_, v, w) = counts.get(*group).copied().unwrap_or_default();
        assert!(
            v >= *verdict,
            "{group}: only {v} of the recordings have the same status and reason, it was {verdict}"
        );
        assert!(w >= *whole, "{group}: only {w} of the recordings are wholly alike, it was {whole}");
    }
}

//! What a real Proxmox VE 8.4.21 answered, asked again of the simulator: every recorded exchange of a
//! call that it has gets the same status, reason, message and shape of body, but for the committed
//! list in `known-differences.toml`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;

use super::known::{Known, Why};
use super::stage::Stage;
use super::world::{ROOT, World};
use super::{ask, judge, stage};
use crate::pve::Clock;
use crate::pve::call::Router;

fn recordings() -> Option<Vec<Value>> {
    let file = crate::reference::shared("the replay of the recordings")?.join("pve/transcripts.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    Some(text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

/// Whether the simulator has the recorded call; one that Proxmox itself does not have counts as had.
fn has(router: &Router, line: &Value) -> bool {
    let path = line["path"].as_str().unwrap_or("");
    let Some(path) = path.strip_prefix("/api2/json").or_else(|| path.strip_prefix("/api2/extjs")) else {
        return false;
    };
    let segments: Vec<String> = path
        .split('?')
        .next()
        .unwrap_or("")
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| percent_encoding::percent_decode_str(s).decode_utf8_lossy().into_owned())
        .collect();
    line["status"] == 501 || router.find(line["method"].as_str().unwrap_or(""), &segments).is_some()
}

/// Where and when the recording was made: one node with one storage, the guest agent at once.
async fn world(time: Arc<AtomicI64>) -> World {
    let mut config = super::world::config("8.4.21");
    config.clusters[0].nodes.truncate(1);
    let node = &mut config.clusters[0].nodes[0];
    node.templates.clear();
    node.storages.truncate(1);
    node.storages[0].content =
        ["vztmpl", "iso", "images", "import", "backup", "rootdir", "snippets"].map(str::to_owned).to_vec();
    config.guest_agent_after_ms = 0;
    config.timing.agent_ms = 40;
    config.timing.config_lock_ms = 800;
    config.timing.shutdown_second_ms = 100;
    World::by(config, Clock::new(move || time.load(Ordering::Relaxed))).await
}

#[derive(Default)]
struct Count {
    recorded: usize,
    asked: usize,
    agreed: usize,
    listed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recordings_are_answered_as_they_were() {
    let Some(lines) = recordings() else { return };
    let time = Arc::new(AtomicI64::new(stage::begin(&lines)));
    let mut world = world(time.clone()).await;
    let mut stage = Stage::new(&world, time);
    let router = Router::new(8);
    let mut known = Known::read();
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut skipped: BTreeMap<Why, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let (group, note) = (line["group"].as_str().unwrap_or(""), line["note"].as_str().unwrap_or(""));
        let count = counts.entry(group.to_owned()).or_default();
        count.recorded += 1;
        stage.tick(line);
        let what =
            format!("{number} [{group}] {note}: {} {} {}", line["method"], line["path"], line["params"]);
        if let Some(why) = stage.follows_unasked(line) {
            *skipped.entry(why).or_default() += 1;
            continue;
        }
        if let Some(why) = known.skips(line) {
            if why == Why::NotSimulated && has(&router, line) {
                wrong.push(format!("{what}: listed as not simulated, but the simulator has the call"));
            }
            *skipped.entry(why).or_default() += 1;
            stage.not_asked(&world, line, why).await;
            continue;
        }
        if !has(&router, line) {
            wrong.push(format!("{what}: not simulated and not listed"));
            continue;
        }
        stage.set(&mut world, group, note, line).await;
        let token = stage.token(number, group, line);
        world.as_token(if token.is_empty() { ROOT } else { &token });
        let heard = ask::send(&world, &stage.request(line)).await;
        let points = judge::differences(line, &heard);
        count.asked += 1;
        if points.is_empty() {
            count.agreed += 1;
        } else if known.lists(line, &points) {
            count.listed += 1;
        } else {
            wrong.push(format!("{what}\n    {}", points.join("\n    ")));
        }
        stage.after(&world, line, &heard.body).await;
    }
    for (group, c) in &counts {
        println!(
            "{group}: {} recorded, {} asked, {} agreed, {} listed",
            c.recorded, c.asked, c.agreed, c.listed
        );
    }
    let sum = |f: fn(&Count) -> usize| counts.values().map(f).sum::<usize>();
    let reasons: Vec<String> = skipped.iter().map(|(w, n)| format!("{n} {}", w.words())).collect();
    println!(
        "{} recorded, {} asked, {} skipped ({}), {} agreed, {} listed as different by {} entries",
        sum(|c| c.recorded),
        sum(|c| c.asked),
        skipped.values().sum::<usize>(),
        reasons.join(", "),
        sum(|c| c.agreed),
        sum(|c| c.listed),
        known.difference.len()
    );
    wrong.extend(known.complaints());
    for w in &wrong {
        println!("{w}");
    }
    assert!(wrong.is_empty(), "{} points are not as recorded and not listed", wrong.len());
}

//! What a server uses, from the host's counters to the API: samples appear, an outage of the link is filled afterwards,
//! and neither an agent that is killed nor a host that boots anew loses traffic or counts it
//! twice. Minutes pass on a clock of the story.

use serde_json::{Value, json};

use crate::{
    clock::Clock,
    purchase::{PATIENCE, buy},
    support::{Api, Database, Demo, until},
};

struct Story {
    demo: Demo,
    clock: Clock,
    api: Api,
    server: String,
}

impl Story {
    /// The agent's book of traffic.
    fn book(&self) -> Option<Value> {
        let file = std::fs::read(self.demo.path("nodes/fsn-1/state/traffic.json")).ok()?;
        serde_json::from_slice(&file).ok()
    }

    fn looked_at(&self) -> i64 {
        self.book().and_then(|book| book["looked"]["at_ms"].as_i64()).unwrap_or(0)
    }

    /// What the host counted since the server's start, and what the book has of all months: received.
    fn counted(&self) -> (u64, u64) {
        let book = self.book().unwrap_or_default();
        let machine = book["machines"][&self.server]["net_in"].as_u64().unwrap_or(0);
        let months = book["traffic"][&self.server].as_object();
        (machine, months.iter().flat_map(|m| m.values()).filter_map(|total| total["in"].as_u64()).sum())
    }

    /// A minute passes, and the agent has looked in it.
    async fn minute(&self) {
        let before = self.looked_at();
        self.clock.pass_minutes(1);
        until("the agent to look at its servers", PATIENCE, || async {
            (self.looked_at() > before).then_some(())
        })
        .await;
    }

    /// The minutes of which something is known, oldest first.
    async fn minutes(&self) -> Vec<i64> {
        let (status, told) = self.api.try_get(&format!("/servers/{}/metrics?span=hour", self.server)).await;
        let samples = told["samples"].as_array().filter(|_| status == 200).cloned().unwrap_or_default();
        samples.iter().filter_map(|sample| Some(sample["at"].as_i64()? / 60_000)).collect()
    }

    /// The minutes of the server that stand in the agent's ring: records of 80 bytes, the minute at 24, the kind at 30.
    fn looked(&self) -> Vec<i64> {
        let ring = std::fs::read(self.demo.path("nodes/fsn-1/state/metrics.ring")).unwrap_or_default();
        let mut minutes: Vec<i64> = ring
            .chunks_exact(80)
            .filter(|record| record[30] == 1)
            .map(|record| i64::from(u32::from_le_bytes(record[24..28].try_into().unwrap())))
            .collect();
        minutes.sort_unstable();
        minutes
    }

    /// The portal shows what the agent has seen, minute by minute.
    async fn minutes_agree(&self, what: &str, at_least: usize) -> usize {
        until(what, PATIENCE, || async {
            let minutes = self.minutes().await;
            (minutes.len() >= at_least && minutes == self.looked()).then_some(minutes.len())
        })
        .await
    }

    /// What the portal has of this month and the last.
    async fn traffic(&self) -> u64 {
        let mut sum = 0;
        let this = self.api.get(&format!("/servers/{}/traffic", self.server)).await;
        sum += this["bytes_in"].as_u64().unwrap();
        let month: ez_protocol::Month = this["month"].as_str().unwrap().parse().unwrap();
        let last = self.api.get(&format!("/servers/{}/traffic?month={}", self.server, month.before())).await;
        sum + last["bytes_in"].as_u64().unwrap()
    }

    /// The portal has caught up with the book, and the book with the host.
    async fn traffic_agrees(&self) -> u64 {
        let told = until("the portal to know the traffic", PATIENCE, || async {
            let told = self.traffic().await;
            (told > 0 && told == self.counted().1).then_some(told)
        })
        .await;
        let (host, book) = self.counted();
        assert_eq!(book, host, "every byte since the start is counted once");
        told
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_outlast_a_cut_link_and_traffic_a_killed_agent() {
    let what = "samples and traffic";
    let Some((demo, clock)) = Demo::start_with_clock(what, Database::Sqlite, 1, &["--link-proxy"]).await
    else {
        return;
    };
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let api = demo.api("customer");
    let server = server["id"].as_str().unwrap().to_owned();
    let story = Story { demo, clock, api, server };
    story.minute().await;
    story.minute().await;
    let first = story.minutes_agree("the first samples", 2).await;
    let sample = story.api.get(&format!("/servers/{}/metrics", story.server)).await["samples"]
        .as_array()
        .and_then(|samples| samples.last().cloned())
        .unwrap();
    for field in ["cpu_permille", "memory_bytes", "net_in", "net_out", "disk_write"] {
        assert!(sample[field].as_u64().unwrap() > 0, "{field}: {sample}");
    }

    // Nothing passes between the agent and the control plane; the agent goes on looking.
    let network = story.demo.network(0);
    network.post(json!({ "fault": "partition" })).await;
    for _ in 0..4 {
        story.minute().await;
    }
    assert!(network.hits().await > 0, "the fault never struck");
    network.clear().await;
    story.minute().await;
    story.minutes_agree("the gap to be filled", first + 5).await;

    let before = story.traffic_agrees().await;
    for _ in 0..2 {
        story.demo.kill("/pids/agents/0").await;
        story.minute().await;
    }
    let after = story.traffic_agrees().await;
    assert!(after > before, "{after} {before}");

    // The host boots anew and its counters begin at nothing: what was counted stays, what comes is added.
    let cycled = story.demo.host(0).control("/power-cycle", json!({})).await;
    assert_eq!(cycled["started"].as_array().map(Vec::len), Some(1), "{cycled}");
    story.minute().await;
    until("the book to know the machine of after the boot", PATIENCE, || async {
        let (host, book) = story.counted();
        (host > 0 && host < after && book >= after + host).then_some(())
    })
    .await;
    story.demo.nodes_online().await;
    story.demo.check().await;
    story.demo.stop().await;
}

//! After an outage: ten thousand events are there at once, about two thousand objects.
//!
//! They are delivered as Stripe does, all distinct and signed. Meanwhile a customer buys a server: that one must not wait
//! for them. The pace is the one a live key has. What is counted stands in the log of the simulated Stripe: the calls in the
//! fullest second, how many calls there were for each object, and how often it said 429.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    Options,
    demo::{Demo, until},
    intake::signed,
    machine::Machine,
    purchase::Shop,
    report::{Report, Row},
};

const EVENTS: u64 = 10_000;
const OBJECTS: u64 = 2_000;
/// The pace of a live key, as the control plane has it by default.
const CALLS_PER_SECOND: u64 = 80;
/// Senders at once.
const SENDERS: usize = 32;
/// How long it may take until all is read.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the news is about, in turn. The stand-in does not know these objects: reading one is one call.
const KINDS: [(&str, &str, &str); 4] = [
    ("invoice.updated", "invoice", "in"),
    ("customer.subscription.updated", "subscription", "sub"),
    ("customer.updated", "customer", "cus"),
    ("payment_method.updated", "payment_method", "pm"),
];

/// Measures on a system of its own.
pub(crate) async fn run(options: &Options, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let directory = options.directory.join("catch_up");
    let pace = CALLS_PER_SECOND.to_string();
    let arguments = ["--nodes", "1", "--speed", "10"];
    let demo = Demo::start_with(&directory, &arguments, &[("STRIPE_CALLS_PER_SECOND", &pace)]).await?;
    demo.nodes_online(1).await?;
    let shop = Shop::open(&demo).await?;
    shop.buy("warm").await?;
    machine.sync_here(&directory)?;
    let before = calls(&demo)?.len();
    let began = Instant::now();
    deliver(&demo).await?;
    let queued = began.elapsed();
    // A customer buys while everything waits.
    let buying = Instant::now();
    shop.buy("meanwhile").await?;
    let bought = buying.elapsed();
    let waiting = counted(&demo).await?.get("received").copied().unwrap_or(0);
    let left = || async { counted(&demo).await.ok().filter(|c| !c.contains_key("received")).map(drop) };
    until("everything to be read", PATIENCE, Duration::from_millis(500), left).await?;
    let took = began.elapsed();
    let made = calls(&demo)?;
    let made = made.get(before..).unwrap_or_default();
    judge(report, made, took, queued, (bought, waiting), &counted(&demo).await?)?;
    demo.stop().await
}

/// Sends the events, a few at once.
async fn deliver(demo: &Demo) -> anyhow::Result<()> {
    let to = format!("{}/webhooks/stripe", demo.text("/portal_url")?);
    let secret = demo.text("/stripe/webhook_secret")?;
    let client = reqwest::Client::new();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS as u64 {
        let (client, to, secret) = (client.clone(), to.clone(), secret.clone());
        senders.spawn(async move {
            for n in (sender..EVENTS).step_by(SENDERS) {
                let (body, signature) = signed(&event(n), &secret);
                let request = client.post(&to).header("Stripe-Signature", signature).body(body);
                let answer = request.send().await?;
                if !answer.status().is_success() {
                    bail!("a webhook was answered {}", answer.status());
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}

/// The n-th event; each object is named by five of them.
fn event(n: u64) -> Value {
    let object = n % OBJECTS;
    let (kind, name, prefix) = KINDS[usize::try_from(object).unwrap_or(0) % KINDS.len()];
    serde_json::json!({
        "id": format!("evt_catchup{n:06}"), "object": "event", "api_version": "2026-01-28.clover", "created": 1_790_000_000,
        "type": kind, "livemode": false, "pending_webhooks": 1,
        "data": {"object": {"id": format!("{prefix}_catchup{object:06}"), "object": name, "livemode": false}},
    })
}

/// How many events there are in each state.
async fn counted(demo: &Demo) -> anyhow::Result<BTreeMap<String, u64>> {
    Ok(serde_json::from_str(&demo.command(&["billing", "inbox", "--counts", "--json"]).await?)?)
}

/// A call as the simulated Stripe has logged it.
struct Call {
    at_ms: u64,
    status: u64,
    path: String,
}

fn calls(demo: &Demo) -> anyhow::Result<Vec<Call>> {
    let log = std::fs::read_to_string(demo.path("sim/logs/stripe.jsonl"))
        .context("the log of the simulated Stripe")?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines
        .filter_map(|line| {
            Some(Call {
                at_ms: line["at_ms"].as_u64()?,
                status: line["status"].as_u64()?,
                path: line["path"].as_str()?.to_owned(),
            })
        })
        .collect())
}

/// The calls of the fullest second, wherever it begins.
fn fullest(times: &mut [u64]) -> usize {
    times.sort_unstable();
    let within = |(n, from): (usize, &u64)| times[n..].iter().take_while(|at| **at < from + 1_000).count();
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

fn judge(
    report: &mut Report,
    made: &[Call],
    took: Duration,
    queued: Duration,
    (bought, waiting): (Duration, u64),
    counted: &BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let of_events: Vec<&Call> = made.iter().filter(|call| call.path.contains("_catchup")).collect();
    let done: u64 = ["done", "ignored"].iter().filter_map(|state| counted.get(*state)).sum();
    if done < EVENTS {
        bail!("{done} of {EVENTS} events were taken over: {counted:?}");
    }
    let mut times: Vec<u64> = made.iter().map(|call| call.at_ms).collect();
    let most = fullest(&mut times);
    let refused = made.iter().filter(|call| call.status == 429).count();
    let how = format!(
        "{EVENTS} events about {OBJECTS} objects: stored within {:.1} s, all read after this; none lost, {refused} answers were 429",
        queued.as_secs_f64()
    );
    // What the pace itself allows, and a quarter on top.
    let pace = OBJECTS as f64 / (CALLS_PER_SECOND as f64 * 0.75) * 1.25;
    report.add(Row::at_most("inbox_catch_up", took.as_secs_f64(), "s", pace, how));
    let how = "calls to Stripe in the fullest second; the setting is that of a live key";
    let row = Row::at_most("catch_up_calls_per_second", most as f64, "/s", CALLS_PER_SECOND as f64, how);
    report.add(row.judged(most as u64 <= CALLS_PER_SECOND && refused == 0));
    let each = of_events.len() as f64 / OBJECTS as f64;
    report.add(Row::at_most("catch_up_reads_per_object", each, "", 1.05, "five events about each"));
    let how = format!("from the order to the running server, bought while {waiting} events waited");
    report.add(Row::at_most("catch_up_purchase_s", bought.as_secs_f64(), "s", 20.0, how));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_events_name_one_object_and_no_event_is_the_same() {
        let (a, b) = (event(7), event(7 + OBJECTS));
        assert_eq!(a["data"]["object"]["id"], b["data"]["object"]["id"]);
        assert_ne!(a["id"], b["id"]);
        assert_eq!(EVENTS % OBJECTS, 0);
    }

    #[test]
    fn the_fullest_second_may_begin_anywhere() {
        assert_eq!(fullest(&mut []), 0);
        assert_eq!(fullest(&mut [0, 999, 1_000, 1_500, 1_998, 5_000]), 4);
    }
}

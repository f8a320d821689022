//! Webhooks in: how many a second, and how many syncs for each.
//!
//! Sixty-four senders post signed, distinct events as Stripe sends them for purchases, each waiting for its
//! 200 before the next. The payments are read again meanwhile, as fast as a Stripe far away allows. The same
//! senders then post the same to a program that only answers 200: what is the generator's own limit, on the
//! same cores.

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use axum::{Router, body::Bytes, routing::post};
use data_encoding::HEXLOWER;
use ez_simulator::wall::{SystemWall, WallClock as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Options,
    demo::Demo,
    load::{self, Make},
    machine::Machine,
    process,
    report::{Report, Row},
    strace::{self, Tracer},
};

const SENDERS: u64 = 64;
const WARM_UP: Duration = Duration::from_secs(3);

/// How long a call to Stripe takes from a server in another place. Without it the simulated one, on the same cores,
/// would be read as fast as they can.
const STRIPE_FAR_AWAY_MS: u32 = 150;

/// What Stripe sends for one purchase: type of the event, kind and prefix of its object.
const EVENTS: [(&str, &str, &str); 8] = [
    ("customer.created", "customer", "cus"),
    ("checkout.session.completed", "checkout.session", "cs_test"),
    ("customer.subscription.created", "subscription", "sub"),
    ("invoice.created", "invoice", "in"),
    ("invoice.finalized", "invoice", "in"),
    ("invoice.paid", "invoice", "in"),
    ("payment_intent.succeeded", "payment_intent", "pi"),
    ("charge.succeeded", "charge", "ch"),
];

/// Measures rate and syncs on a system of its own.
pub(crate) async fn run(options: &Options, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let directory = options.directory.join("intake");
    let demo = Demo::start(&directory, &["--nodes", "1", "--speed", "10"]).await?;
    let to = SocketAddr::from(([127, 0, 0, 1], demo.port("portal")?));
    let secret = demo.text("/stripe/webhook_secret")?;
    let pid = demo.pid("/pids/control_plane")?;
    let lasts = options.seconds();
    let slow = json!({"call": {"path": "/v1/"}, "fault": "slow", "delay_ms": STRIPE_FAR_AWAY_MS, "times": 1_000_000});
    let faults = format!("{}/_sim/faults/api", demo.text("/stripe/control_url")?);
    reqwest::Client::new().post(faults).json(&slow).send().await?.error_for_status()?;
    machine.sync_here(&directory)?;
    if options.wants("webhook_rate") {
        let cpu = process::cpu_seconds(pid)?;
        let outcome = load::closed(to, SENDERS, WARM_UP, lasts, events(1, to, &secret)?).await?;
        let cpu = process::cpu_seconds(pid)? - cpu;
        if outcome.refused > 0 {
            bail!("{} of {} webhooks were not answered 200", outcome.refused, outcome.times.len());
        }
        let (rate, mut times) = (outcome.rate(), outcome.times);
        let alone = against_nothing(&secret, lasts).await?;
        let how = format!(
            "64 senders on the same cores; the generator alone reaches {alone:.0}/s against a server that only answers 200"
        );
        report.add(Row::at_least("webhook_rate", rate, "/s", 4_000.0, how));
        report.add(Row::seen(
            "webhook_rate_generator_alone",
            alone,
            "/s",
            "the same senders, a server that only answers 200",
        ));
        report.add(Row::seen("webhook_p50_ms", times.ms(0.5), "ms", "from sending to the 200, 64 at once"));
        report.add(Row::seen("webhook_p99_ms", times.ms(0.99), "ms", "the same"));
        let measured = rate * (lasts + WARM_UP).as_secs_f64();
        let how = "time of the control plane on cores for one, jobs and all else included";
        report.add(Row::seen("webhook_cpu_us", cpu / measured * 1e6, "us", how));
        machine.sync_here(&directory)?;
    }
    if options.wants("webhook_fsyncs_per_request") {
        if strace::is_here() {
            let tracer = Tracer::attach(&[pid], &directory.join("syncs")).await?;
            let outcome = load::closed(to, SENDERS, Duration::ZERO, lasts / 2, events(2, to, &secret)?).await;
            let syncs = tracer.detach().await?.len();
            let outcome = outcome?;
            let answered = outcome.times.len();
            if answered == 0 {
                bail!("no webhook was answered under strace");
            }
            let how =
                format!("{syncs} syncs of the whole program (strace), {answered} webhooks answered 200");
            let each = syncs as f64 / answered as f64;
            report.add(Row::at_most("webhook_fsyncs_per_request", each, "fsyncs", 0.1, how));
        } else {
            crate::say("strace is not installed: webhook_fsyncs_per_request is not measured");
        }
    }
    demo.stop().await
}

/// A maker of signed events; those of another `run` are other events.
fn events(run: u32, to: SocketAddr, secret: &str) -> anyhow::Result<Make> {
    let now = SystemWall.now_ms() / 1_000;
    let mut patterns = Vec::new();
    for (kind, object, prefix) in EVENTS {
        let items: Vec<_> = (0..6)
            .map(|item| json!({"id": format!("il_{item}"), "amount": 900, "currency": "eur", "quantity": 1, "description": "Server S, monthly"}))
            .collect();
        let body = json!({
            "id": "evt_@EVENT@", "object": "event", "api_version": "2026-01-28.clover", "created": now,
            "type": kind, "livemode": false, "pending_webhooks": 1,
            "request": {"id": "req_@EVENT@", "idempotency_key": "order:@OBJECT@"},
            "data": {"object": {
                "id": format!("{prefix}_@OBJECT@"), "object": object, "livemode": false, "created": now,
                "currency": "eur", "customer": "cus_@OBJECT@", "amount_total": 900, "status": "complete",
                "metadata": {"order_id": "order-@OBJECT@", "install_id": "another-installation"},
                "lines": {"object": "list", "has_more": false, "data": items},
            }},
        });
        patterns.push(serde_json::to_string_pretty(&body)?);
    }
    let secret = secret.to_owned();
    let make = move |n: u64| {
        let kinds = EVENTS.len() as u64;
        let pattern = &patterns[usize::try_from(n % kinds).unwrap_or(0)];
        let event = format!("bench{run}x{n:012}");
        let object = format!("bench{run}y{:012}", n / kinds);
        let body = pattern.replace("@EVENT@", &event).replace("@OBJECT@", &object);
        let signature = sign(&body, &secret);
        let head = format!(
            "POST /webhooks/stripe HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json; charset=utf-8\r\n\
             Stripe-Signature: {signature}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        (head + &body).into_bytes()
    };
    Ok(Arc::new(make))
}

/// An event as it is sent now: its body and the value of `Stripe-Signature`.
pub(crate) fn signed(event: &serde_json::Value, secret: &str) -> (String, String) {
    let body = event.to_string();
    let signature = sign(&body, secret);
    (body, signature)
}

/// The value of `Stripe-Signature` for a body sent now.
fn sign(body: &str, secret: &str) -> String {
    let t = SystemWall.now_ms() / 1_000;
    // HMAC takes keys of any length; the error cannot come.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{t}.").as_bytes());
    mac.update(body.as_bytes());
    format!("t={t},v1={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// The generator's own rate: the same requests to [`answer`] in a process of its own.
async fn against_nothing(secret: &str, lasts: Duration) -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("answer").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut server = command.spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("no output")?).lines();
    let to: SocketAddr =
        lines.next_line().await?.context("the server that answers does not start")?.parse()?;
    let outcome = load::closed(to, SENDERS, WARM_UP / 3, lasts / 2, events(3, to, secret)?).await?;
    server.kill().await?;
    Ok(outcome.rate())
}

/// Serves what the generator is measured against: reads each body and answers 200, until it is killed.
pub(crate) async fn answer() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    crate::print(&listener.local_addr()?.to_string());
    let routes = Router::new().route("/webhooks/stripe", post(async |body: Bytes| drop(body)));
    Ok(axum::serve(listener, routes).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_distinct_and_come_in_purchases() {
        let make = events(1, "127.0.0.1:80".parse().unwrap(), "whsec_x").unwrap();
        let body = |n| {
            let text = String::from_utf8(make(n)).unwrap();
            let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
            assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())));
            serde_json::from_str::<serde_json::Value>(&body).unwrap()
        };
        let (first, fourth, ninth) = (body(0), body(4), body(9));
        assert_ne!(first["id"], fourth["id"]);
        assert_eq!(fourth["type"], "invoice.finalized");
        assert_eq!(body(5)["data"]["object"]["id"], fourth["data"]["object"]["id"], "one invoice");
        assert_ne!(ninth["data"]["object"]["id"], body(1)["data"]["object"]["id"], "the next purchase");
    }
}

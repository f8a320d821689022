//! Servers bought one after the other: from the payment's webhook to the order on the node's journal, and
//! from there to the started VM. Afterwards the agent rests with all of them.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use ez_simulator::wall::{SystemWall, WallClock as _};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::Instant;

use crate::{
    Options,
    demo::{Demo, until},
    machine::Machine,
    pages, process,
    report::{Report, Row},
    samples::Samples,
    strace::{self, Tracer},
};

/// Syncs that must lie between the webhook and the order on the journal, one after the other: the event;
/// the lease on the job that reads it again; what it means; the lease on the job that hears of it; the paid
/// order; place, sequence and signed bytes; that the bytes leave; the agent's journal. A run under strace
/// must see at least as many, else its number counts.
const PATH_SYNCS: usize = 8;
/// Purchases under strace.
const TRACED: u32 = 8;
/// How often the journal is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long one purchase may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the agent rests before and while it is watched.
const REST: Duration = Duration::from_secs(60);
/// More addresses than the example catalogue has.
const POOL: &str = "\n[[address_pools]]\nlocation = \"fsn\"\nbridge = \"vmbr0\"\nprefix = \"198.18.0.0/16\"\n\
                    gateway = \"198.18.0.1\"\ndns = [\"9.9.9.9\"]\n";

/// What is seen of one purchase while it happens.
pub(crate) struct Purchase {
    session: String,
    order: String,
    server: String,
    provisioning_order: String,
    /// When the order was seen on the node's journal, milliseconds since 1970.
    accepted_ms: f64,
}

/// Measures on a system of its own; the pages are asked for there, too, when its servers are there.
pub(crate) async fn run(options: &Options, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let directory = options.directory.join("purchase");
    let demo = Demo::start(&directory, &["--nodes", "1", "--speed", "10", "--host-memory", "4096"]).await?;
    make_room(&demo).await?;
    let shop = Shop::open(&demo).await?;
    // The first ones find cold caches.
    for n in 0..3 {
        shop.buy(&format!("warm-{n}")).await?;
    }
    let before = machine.sync_here(&directory)?;
    let mut bought = Vec::new();
    for n in 0..options.purchases.saturating_sub(3 + TRACED) {
        bought.push(shop.buy(&format!("web-{n}")).await?);
    }
    let sync_ms = f64::midpoint(before, machine.sync_here(&directory)?);
    let traced = shop.traced(&demo, &directory).await?;
    if options.wants("webhook_to_journal_p50") || options.wants("webhook_to_journal_p99") {
        to_journal(&demo, &bought, sync_ms, &traced, report)?;
    }
    if options.wants("accepted_to_started_overhead") {
        to_started(&demo, &shop, &bought, report).await?;
    }
    let last = bought.last().context("nothing was bought")?;
    if options.wants("page_p99_ms") || options.wants("page_rate") {
        pages::run(options, &demo, &last.server, &last.order, report).await?;
    }
    if options.wants("agent_rss") {
        rest(&demo, options.purchases, report).await?;
    }
    demo.stop().await
}

/// Lets the host make more servers than in a day of real use, and gives it addresses for them.
async fn make_room(demo: &Demo) -> anyhow::Result<()> {
    let policy = demo.path("nodes/fsn-1/policy.toml");
    let text = std::fs::read_to_string(&policy)?;
    let wider = text
        .replace("creates_per_minute = 10\n", "creates_per_minute = 10000\n")
        .replace("creates_per_day    = 200\n", "creates_per_day    = 10000\n")
        .replace("orders_per_hour    = 2000\n", "orders_per_hour    = 100000\n");
    std::fs::write(&policy, wider)?;
    let old = demo.kill("/pids/agents/0")?;
    let every = Duration::from_millis(50);
    until("the agent to be started again", PATIENCE, every, || async {
        demo.pid("/pids/agents/0").ok().filter(|pid| *pid != old)
    })
    .await?;
    let catalog = demo.path("catalog.toml");
    std::fs::write(&catalog, std::fs::read_to_string(&catalog)? + POOL)?;
    demo.command(&["apply", &catalog.display().to_string()]).await?;
    demo.nodes_online(1).await
}

/// A customer who buys through the API, and what it takes to watch.
pub(crate) struct Shop {
    client: reqwest::Client,
    api: String,
    token: String,
    stripe: String,
    journal: SqliteConnectOptions,
}

impl Shop {
    pub(crate) async fn open(demo: &Demo) -> anyhow::Result<Self> {
        let journal = demo.text("/nodes/0/journal")?;
        Ok(Self {
            client: reqwest::Client::new(),
            api: demo.text("/api_url")?,
            token: demo.text("/customer/api_token")?,
            stripe: demo.text("/stripe/control_url")?,
            journal: SqliteConnectOptions::new().filename(journal).read_only(true),
        })
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{status}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// Buys a server and waits until it runs.
    pub(crate) async fn buy(&self, name: &str) -> anyhow::Result<Purchase> {
        let order = json!({
            "location": "fsn", "image": "debian-13", "plan": "s", "interval": "month", "hostname": name,
            "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA bench"],
            "accept_terms": true,
        });
        let request = self.client.post(format!("{}/orders", self.api)).bearer_auth(&self.token);
        let placed = self.json(request.json(&order)).await.context("placing an order")?;
        let text =
            |key: &str| Ok(placed[key].as_str().with_context(|| format!("no {key}: {placed}"))?.to_owned());
        let (order, server, checkout): (String, String, String) =
            (text("id")?, text("server_id")?, text("checkout_url").map_err(|e: anyhow::Error| e)?);
        let start = checkout.find("cs_").context("no session in the checkout's address")?;
        let session: String =
            checkout[start..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let mut journal = SqliteConnection::connect_with(&self.journal).await?;
        let pay = format!("{}/_sim/sessions/{session}/complete", self.stripe);
        self.json(self.client.post(pay).json(&json!({"card": "4242"}))).await.context("paying")?;
        let (provisioning_order, accepted_ms) = accepted(&mut journal, &server).await?;
        self.built(&mut journal, &provisioning_order).await?;
        journal.close().await?;
        self.fulfilled(&order).await?;
        Ok(Purchase { session, order, server, provisioning_order, accepted_ms })
    }

    async fn built(&self, journal: &mut SqliteConnection, order: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state: String = sqlx::query_scalar("SELECT state FROM orders WHERE order_id = $1")
                .bind(order)
                .fetch_one(&mut *journal)
                .await?;
            match state.as_str() {
                "succeeded" => return Ok(()),
                "accepted" | "running" if Instant::now() < deadline => {}
                other => bail!("the build of {order} is {other}"),
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn fulfilled(&self, order: &str) -> anyhow::Result<()> {
        let url = format!("{}/orders/{order}", self.api);
        until("the order to be fulfilled", PATIENCE, Duration::from_millis(25), || async {
            let order = self.json(self.client.get(&url).bearer_auth(&self.token)).await.ok()?;
            (order["state"] == "fulfilled").then_some(())
        })
        .await
    }

    /// How many syncs both programs make between webhook and journal, one number for each purchase under
    /// strace, smallest first.
    async fn traced(&self, demo: &Demo, directory: &Path) -> anyhow::Result<Vec<usize>> {
        if !strace::is_here() {
            crate::say("strace is not installed: the syncs of a purchase are not counted");
            return Ok(Vec::new());
        }
        let pids = [demo.pid("/pids/control_plane")?, demo.pid("/pids/agents/0")?];
        let tracer = Tracer::attach(&pids, &directory.join("syncs")).await?;
        let mut watched = Vec::new();
        for n in 0..TRACED {
            watched.push(self.buy(&format!("traced-{n}")).await?);
        }
        let syncs = tracer.detach().await?;
        let sent = webhooks(demo)?;
        let count = |purchase: &Purchase| {
            let from = sent.get(&purchase.session)?;
            Some(syncs.iter().filter(|at| (*from..=purchase.accepted_ms).contains(*at)).count())
        };
        let mut counts: Vec<usize> = watched.iter().filter_map(count).collect();
        counts.sort_unstable();
        Ok(counts)
    }
}

/// Waits until an order for the server is on the journal, durable; its id and when it was seen.
async fn accepted(journal: &mut SqliteConnection, server: &str) -> anyhow::Result<(String, f64)> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let row = sqlx::query("SELECT order_id FROM orders WHERE instance_uuid = $1")
            .bind(server)
            .fetch_optional(&mut *journal)
            .await?;
        if let Some(row) = row {
            return Ok((row.try_get(0)?, SystemWall.now_ms() as f64));
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("no order for {server} came to the node's journal");
}

fn lines(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// When the webhook of each completed session was sent first, by the simulated Stripe's log.
fn webhooks(demo: &Demo) -> anyhow::Result<HashMap<String, f64>> {
    let mut sent = HashMap::new();
    for line in lines(&demo.path("sim/logs/stripe-deliveries.jsonl"))? {
        let delivery = &line["delivery"];
        let event: Value = serde_json::from_str(delivery["body"].as_str().unwrap_or_default())?;
        if event["type"] == "checkout.session.completed"
            && let (Some(session), Some(at)) =
                (event["data"]["object"]["id"].as_str(), delivery["at_ms"].as_f64())
        {
            sent.entry(session.to_owned()).or_insert(at);
        }
    }
    Ok(sent)
}

/// A call that the simulated Stripe answered.
struct Call {
    path: String,
    at_ms: f64,
    took_ms: f64,
}

/// What Stripe itself took of the way: the page is read again, then its subscription and its invoice.
fn stripes_own(calls: &[Call], session: &str, from: f64, to: f64) -> f64 {
    let mut at = from;
    let mut took = 0.0;
    for beginning in
        [format!("/v1/checkout/sessions/{session}"), "/v1/subscriptions/".into(), "/v1/invoices/".into()]
    {
        let next = calls
            .iter()
            .find(|call| call.at_ms >= at && call.at_ms <= to && call.path.starts_with(&beginning));
        if let Some(call) = next {
            took += call.took_ms;
            at = call.at_ms;
        }
    }
    took
}

fn to_journal(
    demo: &Demo,
    bought: &[Purchase],
    sync_ms: f64,
    traced: &[usize],
    report: &mut Report,
) -> anyhow::Result<()> {
    let sent = webhooks(demo)?;
    let mut calls: Vec<Call> = lines(&demo.path("sim/logs/stripe.jsonl"))?
        .iter()
        .filter(|line| line["method"] == "GET")
        .filter_map(|line| {
            Some(Call {
                path: line["path"].as_str()?.to_owned(),
                at_ms: line["at_ms"].as_f64()?,
                took_ms: line["took_us"].as_f64()? / 1e3,
            })
        })
        .collect();
    calls.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    let (mut whole, mut stripe) = (Samples::default(), Samples::default());
    for purchase in bought {
        let from = *sent.get(&purchase.session).context("no webhook was logged")?;
        let own = stripes_own(&calls, &purchase.session, from, purchase.accepted_ms);
        stripe.add_ms(own);
        whole.add_ms(purchase.accepted_ms - from - own);
    }
    let needed = traced.first().map_or(PATH_SYNCS, |seen| PATH_SYNCS.min(*seen));
    let x = needed as f64 * sync_ms;
    let how = |factor: u32, plus: u32| {
        format!(
            "{factor} x {needed} syncs of {sync_ms:.2} ms + {plus} ms; {} purchases, one after the other",
            bought.len()
        )
    };
    report.add(Row::at_most("webhook_to_journal_p50", whole.ms(0.5), "ms", 2.0 * x + 15.0, how(2, 15)));
    report.add(Row::at_most("webhook_to_journal_p99", whole.ms(0.99), "ms", 5.0 * x + 30.0, how(5, 30)));
    report.add(Row::seen(
        "webhook_to_journal_over_fsyncs",
        whole.ms(0.5) / x,
        "x",
        "p50 over the syncs it needs",
    ));
    report.add(Row::seen(
        "webhook_to_journal_stripe_ms",
        stripe.ms(0.5),
        "ms",
        "Stripe's own time, p50, taken off",
    ));
    if let Some(most) = traced.last() {
        let how =
            format!("syncs of both programs meanwhile (strace), {} purchases: {traced:?}", traced.len());
        report.add(Row::seen("webhook_to_journal_fsyncs_seen", *most as f64, "fsyncs", how));
    }
    Ok(())
}

async fn to_started(
    demo: &Demo,
    shop: &Shop,
    bought: &[Purchase],
    report: &mut Report,
) -> anyhow::Result<()> {
    let tasks = shop.json(shop.client.get(format!("{}/tasks", demo.text("/nodes/0/control_url")?))).await?;
    let times: HashMap<&str, (f64, f64)> = tasks["tasks"]
        .as_array()
        .context("no tasks")?
        .iter()
        .filter_map(|task| {
            Some((task["upid"].as_str()?, (task["began_ms"].as_f64()?, task["ended_ms"].as_f64()?)))
        })
        .collect();
    let mut journal = SqliteConnection::connect_with(&shop.journal).await?;
    let (mut each, mut ratio) = (Samples::default(), Samples::default());
    let mut count = 0;
    let mut good = 0_u32;
    for purchase in bought {
        let rows = sqlx::query("SELECT upid FROM steps WHERE order_id = $1 AND k > 0 AND upid IS NOT NULL")
            .bind(&purchase.provisioning_order)
            .fetch_all(&mut journal)
            .await?;
        let mut own = 0.0;
        let mut started = None;
        let mut of_it = 0;
        for row in rows {
            let upid: String = row.try_get(0)?;
            let (began, ended) = times.get(upid.as_str()).with_context(|| format!("no task {upid}"))?;
            own += ended - began;
            of_it += 1;
            if upid.contains(":qmstart:") {
                started = Some(*ended);
            }
        }
        let whole = started.context("no start among the tasks")? - purchase.accepted_ms;
        each.add_ms((whole - own) / f64::from(of_it));
        // A ratio is counted in thousandths of a millisecond here, for want of another unit.
        ratio.add_ms(whole / own);
        good += u32::from(whole / own <= 1.05 || whole - own <= 150.0 * f64::from(of_it));
        count += of_it;
    }
    journal.close().await?;
    let tasks_each = f64::from(count) / bought.len() as f64;
    let all = good as usize * 100 >= bought.len() * 99;
    let how = format!(
        "added to each of {tasks_each:.1} tasks, p50; {good} of {} purchases within 1.05 x or 150 ms a task; {:.2} x Proxmox's own time at ten times a host's speed",
        bought.len(),
        ratio.ms(0.5)
    );
    report.add(Row::at_most("accepted_to_started_overhead", each.ms(0.5), "ms/task", 150.0, how).judged(all));
    report.add(Row::at_most("accepted_to_started_p99", each.ms(0.99), "ms/task", 150.0, "the same, p99"));
    Ok(())
}

/// The agent after its work: memory and what it takes of a core while nothing happens.
async fn rest(demo: &Demo, servers: u32, report: &mut Report) -> anyhow::Result<()> {
    crate::say("The agent rests …");
    let pid = demo.pid("/pids/agents/0")?;
    tokio::time::sleep(REST / 2).await;
    let (cpu, began) = (process::cpu_seconds(pid)?, Instant::now());
    tokio::time::sleep(REST).await;
    let share = (process::cpu_seconds(pid)? - cpu) / began.elapsed().as_secs_f64() * 100.0;
    let how = format!("after building {servers} servers one after the other, at rest with them");
    report.add(Row::at_most("agent_rss", process::rss_kib(pid)? / 1_024.0, "MiB", 20.0, how));
    let how = format!("of a core, at rest with {servers} servers for {} s", REST.as_secs());
    report.add(Row::at_most("agent_idle_cpu", share, "%", 0.2, how));
    let old = demo.kill("/pids/agents/0")?;
    let every = Duration::from_millis(50);
    let fresh = until("the agent to be started again", PATIENCE, every, || async {
        demo.pid("/pids/agents/0").ok().filter(|pid| *pid != old)
    })
    .await?;
    tokio::time::sleep(REST / 2).await;
    let how = "the same agent, started again, 30 s later";
    report.add(Row::seen("agent_rss_fresh", process::rss_kib(fresh)? / 1_024.0, "MiB", how));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str, at_ms: f64, took_ms: f64) -> Call {
        Call { path: path.into(), at_ms, took_ms }
    }

    #[test]
    fn only_the_calls_of_the_way_are_taken_off() {
        let calls = [
            call("/v1/subscriptions/sub_1", 9.0, 50.0),
            call("/v1/checkout/sessions/cs_2", 10.0, 60.0),
            call("/v1/checkout/sessions/cs_1", 11.0, 1.0),
            call("/v1/subscriptions/sub_1", 13.0, 2.0),
            call("/v1/subscriptions/sub_1", 14.0, 70.0),
            call("/v1/invoices/in_1", 16.0, 4.0),
            call("/v1/invoices/in_1", 17.0, 80.0),
        ];
        assert_eq!(stripes_own(&calls, "cs_1", 10.0, 20.0), 7.0);
        assert_eq!(stripes_own(&calls, "cs_1", 10.0, 15.0), 3.0, "what came later is not part of the way");
    }
}

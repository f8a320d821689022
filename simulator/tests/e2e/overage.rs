//! Traffic above the plan, from the host's counters to the invoice that is paid: through the real processes, with a control
//! plane that is killed when the month is closed, and with the checker's eye on the ledger and on Stripe.

use ez_protocol::{Month, UnixMillis};
use serde_json::Value;

use crate::{
    clock::Clock,
    purchase::{PATIENCE, buy},
    support::{Api, Database, Demo, until},
};

const HOUR: i64 = 3_600_000;

struct Story {
    demo: Demo,
    clock: Clock,
    api: Api,
    server: String,
}

impl Story {
    /// Time passes until then.
    async fn until_time(&self, at: UnixMillis) {
        let left = u32::try_from((at.0 - self.clock.now().0) / HOUR + 1).unwrap_or(0);
        if left > 0 {
            self.clock.live(&self.demo, left).await;
        }
    }

    /// Time passes until a month is closed, with its node heard before: what was not reported by then is not charged.
    async fn closes(&self, month: Month) {
        self.until_time(UnixMillis(ends(month).0 + 40 * HOUR)).await;
        let path = format!("/servers/{}/traffic?month={}", self.server, Month::of(self.clock.now()));
        until("the node to report", PATIENCE, || async {
            let (status, told) = self.api.try_get(&path).await;
            (status == 200 && told["bytes_counted"].as_u64().is_some_and(|counted| counted > 0)).then_some(())
        })
        .await;
        self.until_time(UnixMillis(ends(month).0 + 60 * HOUR)).await;
    }

    async fn overage(&self, month: Month) -> Value {
        let path = format!("/servers/{}/traffic?month={month}", self.server);
        let (status, told) = self.api.try_get(&path).await;
        if status == 200 { told["overage"].clone() } else { Value::Null }
    }

    async fn bill_is(&self, month: Month, states: &[&str]) -> Value {
        until(&format!("the bill of {month} to be {states:?}"), PATIENCE, || async {
            let told = self.overage(month).await;
            told["state"].as_str().is_some_and(|state| states.contains(&state)).then_some(told)
        })
        .await
    }
}

/// The first moment after a month.
fn ends(month: Month) -> UnixMillis {
    let mut at = UnixMillis(0);
    let (year, number) = (i64::from(month.number() / 100), i64::from(month.number() % 100));
    // Twenty-eight days before the end lies within the month, whichever it is.
    at.0 = ((year - 1970) * 365 + (number - 1) * 30) * 24 * HOUR;
    while Month::of(at) <= month {
        at.0 += 24 * HOUR;
    }
    while Month::of(UnixMillis(at.0 - HOUR)) > month {
        at.0 -= HOUR;
    }
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_above_the_plan_is_paid_once_with_the_next_invoice() {
    let what = "traffic above the plan";
    let Some((demo, clock)) = Demo::start_with_clock(what, Database::Sqlite, 1, &[]).await else { return };
    // One GiB is included, and what is above costs something.
    let catalog = demo.path("catalog.toml");
    let text = std::fs::read_to_string(&catalog).unwrap();
    let text = text.replacen("traffic_gib = 2048", "traffic_gib = 1", 1);
    let price = "[[plans.traffic_prices]]\ncurrency = \"eur\"\namount_minor = 12\n\n[[plans.prices]]";
    std::fs::write(&catalog, text.replacen("[[plans.prices]]", price, 1)).unwrap();
    let applied = demo.control_plane(&["apply", &catalog.display().to_string()]).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let api = demo.api("customer");
    let server = server["id"].as_str().unwrap().to_owned();
    let story = Story { demo, clock, api, server };
    let bought = story.clock.now();
    let month = Month::of(bought);
    let told = story.bill_is(month, &["running"]).await;
    assert_eq!((&told["unit_minor"], &told["unit_gib"]), (&12.into(), &100.into()));

    // The month goes by and is closed two days later; the control plane dies over it.
    story.closes(month).await;
    story.demo.kill("/pids/control_plane").await;
    story.demo.nodes_online().await;
    // A node that has just come back is given ten minutes to tell what it counted.
    story.until_time(UnixMillis(story.clock.now().0 + HOUR / 2)).await;
    let told = story.bill_is(month, &["free", "posted", "invoiced"]).await;
    let following = Month::of(story.clock.now());
    // A server that was bought in the last hours of a month may have used nothing of it.
    let (billed, told) = if told["state"] == "free" {
        story.closes(following).await;
        (following, story.bill_is(following, &["posted", "invoiced"]).await)
    } else {
        (month, told)
    };
    let units = told["units"].as_i64().unwrap();
    assert!(units > 0 && told["amount_minor"] == units * 12, "{told}");

    // The next invoice takes it, is paid, and both sides agree. There is one within a month, whatever day the server was bought on.
    story.until_time(UnixMillis(story.clock.now().0 + 32 * 24 * HOUR)).await;
    let invoiced = story.bill_is(billed, &["invoiced"]).await;
    assert_eq!((&invoiced["units"], &invoiced["amount_minor"]), (&told["units"], &told["amount_minor"]));
    assert!(invoiced["invoice"].as_str().unwrap().starts_with("in_"), "{invoiced}");
    let ledger = story.demo.control_plane(&["billing", "reconcile", "--json"]).await;
    assert!(ledger.status.success(), "{}", String::from_utf8_lossy(&ledger.stdout));
    until("the invariants to hold", PATIENCE, || async {
        story.demo.run_check().await.status.success().then_some(())
    })
    .await;
    story.demo.stop().await;
}

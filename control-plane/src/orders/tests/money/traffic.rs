//! Traffic above the plan: seen before it is charged, charged once, and never afterwards.

use ez_protocol::{
    Month,
    message::{MetricsBatch, TrafficTotal},
};
use serde_json::{Value, json};

mod owed;

use super::*;
use crate::{
    billing::{BillState, Overview},
    db::{self, testing::each_database},
    metrics,
};

const GIB: u64 = 1 << 30;
/// 15 January 2027; the period that was bought ends on 14 February.
const BOUGHT: UnixMillis = UnixMillis::from_secs(1_800_000_000);
/// The third of February: January is closed.
const CLOSED: UnixMillis = UnixMillis::from_secs(1_801_612_800);

fn january() -> Month {
    Month::from_number(202_701).unwrap()
}

impl Shop {
    /// A shop that sells traffic at 0.12 € for each started 100 GiB, and a server that runs.
    async fn with_traffic(db: Db) -> (Self, Served) {
        let shop = Self::open(db, 3).await;
        let file = catalogue("[[plans.traffic_prices]]\ncurrency = \"eur\"\namount_minor = 12");
        catalog::apply_file(&shop.app, &file, "operator:test").await.unwrap();
        shop.clock.set(BOUGHT);
        shop.passes(Duration::ZERO).await;
        let served = shop.served(1).await;
        (shop, served)
    }

    /// The node has counted so much in a month.
    async fn node_counts(&self, served: &Served, month: Month, gib: u64) {
        let total = TrafficTotal {
            instance_id: served.order.instance.to_string(),
            month: month.number(),
            bytes_in: gib * GIB / 2,
            bytes_out: gib * GIB - gib * GIB / 2,
        };
        let batch = MetricsBatch { series: "a".repeat(32), traffic: vec![total], ..MetricsBatch::default() };
        let taken = metrics::take(&self.app.db, self.app.clock.now(), self.node.id, batch).await.unwrap();
        assert_eq!(taken.refused, 0);
    }

    /// Its connection ends.
    async fn node_goes_away(&self) {
        let (at, node) = (self.app.clock.now(), self.node.id);
        let connection = format!("c-{node}");
        self.app
            .db
            .write(move |tx| Box::pin(async move { fleet::sessions::end(tx, at, node, &connection).await }))
            .await
            .unwrap();
    }

    /// It is connected again; its certificate is no matter here.
    async fn node_comes_back(&self) {
        let (at, node) = (self.app.clock.now(), self.node.id.to_string());
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::query(
                        "INSERT INTO node_sessions (node_id, process, connection, serial, remote, connected_at)
                         VALUES ($1, 'p1', 'c-2', 's', '192.0.2.1:7', $2)",
                    )
                    .bind(node)
                    .bind(at.0)
                    .execute(tx)
                    .await
                    .map(|_| ())
                    .map_err(db::DbError::from)
                })
            })
            .await
            .unwrap();
    }

    async fn lives_until(&self, at: UnixMillis) {
        self.lives(at.since(self.app.clock.now())).await;
    }

    async fn bill(&self, served: &Served, month: Month) -> Option<billing::Bill> {
        let mut connection = self.app.db.read().await.unwrap();
        billing::traffic_bill(&mut connection, served.order.instance, month).await.unwrap()
    }

    async fn bill_state(&self, served: &Served) -> Option<(BillState, i64)> {
        self.bill(served, january()).await.map(|bill| (bill.state, bill.amount_minor))
    }

    /// The next invoice is a year away.
    async fn pays_for_a_year(&self, served: &Served) {
        let far = BOUGHT.plus(365 * DAY).as_secs();
        self.stripe.change(&served.subscription, |subscription| {
            subscription["items"]["data"][0]["current_period_end"] = json!(far);
        });
        self.deliver("customer.subscription.updated", &served.subscription).await;
        self.work().await;
    }

    /// Stripe's invoice items.
    fn items(&self) -> Vec<Value> {
        let state = self.stripe.state();
        state.objects.values().filter(|o| o["object"] == "invoiceitem").cloned().collect()
    }

    async fn overview_of(&self, served: &Served) -> Overview {
        let mut connection = self.app.db.read().await.unwrap();
        billing::overview(&mut connection, served.order.account).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_above_the_plan_is_told_seen_and_charged_once_with_the_next_invoice() {
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 790).await;
        shop.lives(DAY).await;
        assert_eq!(shop.letters_of("traffic-near").await, 0);
        shop.node_counts(&served, january(), 800).await;
        shop.lives(DAY).await;
        shop.lives(DAY).await;
        assert_eq!(shop.letters_of("traffic-near").await, 1, "once");
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives(DAY).await;
        shop.node_counts(&served, january(), 1_150).await;
        shop.lives(DAY).await;
        assert_eq!((shop.letters_of("traffic-near").await, shop.letters_of("traffic-over").await), (1, 1));
        // Nothing is charged while the month runs, nor in the two days in which agents may still tell.
        shop.lives_until(UnixMillis(CLOSED.0 - 60_000)).await;
        assert_eq!((shop.bill_state(&served).await, shop.items().len()), (None, 0));
        shop.node_counts(&served, january(), 1_201).await;
        shop.lives_until(CLOSED.plus(Duration::from_secs(11 * 60))).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 36)), "three started hundreds");
        let items = shop.items();
        assert_eq!((items.len(), &items[0]["amount"], &items[0]["currency"]), (1, &json!(36), &json!("eur")));
        // A late count is for nobody's purse.
        shop.node_counts(&served, january(), 5_000).await;
        shop.lives(DAY).await;
        assert_eq!((shop.bill_state(&served).await, shop.items().len()), (Some((BillState::Posted, 36)), 1));

        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Invoiced, 36)));
        assert_eq!(shop.bill(&served, january()).await.unwrap().invoice, Some(invoice));
        assert_eq!(shop.ledger(&served.order).paid, 900 + 936);
        shop.lives(DAY).await;
        let next = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &next).await;
        shop.work().await;
        assert_eq!(shop.ledger(&served.order).paid, 900 + 936 + 900, "once");
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().left, 0);
        assert!(shop.overview_of(&served).await.paying.len() == 1);
        let audited = {
            let mut connection = shop.app.db.read().await.unwrap();
            crate::audit::history(&mut connection, "instance", &served.order.instance.to_string())
                .await
                .unwrap()
        };
        let mut words: Vec<_> =
            audited.iter().filter_map(|row| row.entry.action.strip_prefix("traffic.")).collect();
        // Two of them bear the same time.
        words.sort_unstable();
        assert_eq!(words, ["billed", "invoiced", "posted"]);
    })
    .await;
}

#[tokio::test]
async fn where_more_costs_nothing_nobody_is_told_and_nothing_is_charged() {
    each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        shop.clock.set(BOUGHT);
        shop.passes(Duration::ZERO).await;
        let served = shop.served(1).await;
        shop.node_counts(&served, january(), 9_000).await;
        shop.lives(DAY).await;
        // A price that comes later is that of later sales.
        let file = catalogue("[[plans.traffic_prices]]\ncurrency = \"eur\"\namount_minor = 12");
        catalog::apply_file(&shop.app, &file, "operator:test").await.unwrap();
        shop.lives_until(CLOSED.plus(Duration::from_secs(60))).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Free, 0)));
        assert_eq!((shop.items().len(), shop.letters_of("traffic-over").await), (0, 0));
    })
    .await;
}

/// Everything that may go wrong between the ledger and Stripe's answer.
#[tokio::test]
async fn a_bill_is_posted_once_whatever_dies_on_the_way() {
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_201).await;
        // Stripe's side fails after the write, and again when it is asked what it did: the job gives up for now.
        shop.clock.set(CLOSED.plus(Duration::from_secs(60)));
        shop.passes(Duration::ZERO).await;
        shop.stripe.state().failures = [(500, true)].into_iter().chain([(500, false); 5]).collect();
        billing::count_traffic(&shop.app).await.unwrap();
        shop.work().await;
        assert_eq!(shop.items().len(), 1, "it was written");
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Wanted, 36)), "and we do not know");
        // The process dies; the next one finds what was made.
        shop.lives(Duration::from_secs(120)).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 36)));
        assert_eq!(shop.items().len(), 1);
        shop.lives(2 * DAY).await;
        assert_eq!(shop.items().len(), 1);
    })
    .await;
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_201).await;
        shop.clock.set(CLOSED.plus(Duration::from_secs(60)));
        shop.passes(Duration::ZERO).await;
        // It fails before the write: looked for, not found, made under the next key.
        shop.stripe.state().failures = vec![(500, false); 3];
        billing::count_traffic(&shop.app).await.unwrap();
        shop.work().await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 36)));
        assert_eq!(shop.items().len(), 1);
    })
    .await;
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_201).await;
        shop.clock.set(CLOSED.plus(Duration::from_secs(60)));
        shop.passes(Duration::ZERO).await;
        // Killed between the ledger and the call: the job stands in the same transaction. Even if that were lost, the
        // sweep takes up what waits.
        let at = shop.app.clock.now();
        billing::count_traffic(&shop.app).await.unwrap();
        assert_eq!((shop.bill_state(&served).await, shop.items().len()), (Some((BillState::Wanted, 36)), 0));
        let key = format!("{}:{}", served.order.instance, january().number());
        shop.app
            .db
            .write(move |tx| Box::pin(async move { jobs::cancel(tx, "billing.traffic_bill", &key).await }))
            .await
            .unwrap();
        shop.lives(Duration::from_secs(30 * 60)).await;
        assert_eq!(shop.items().len(), 0, "nobody looks yet");
        shop.lives(at.plus(Duration::from_secs(61 * 60)).since(shop.app.clock.now())).await;
        assert_eq!((shop.bill_state(&served).await, shop.items().len()), (Some((BillState::Posted, 36)), 1));
    })
    .await;
}

/// The answer to the item is lost; then comes a wrong key, which says nothing about the item, or a refusal, after which the
/// next key is taken.
#[tokio::test]
async fn a_bill_whose_answer_was_lost_is_posted_once_whatever_fault_comes_next() {
    for next in [401, 400] {
        each_database(async |db| {
            let (shop, served) = Shop::with_traffic(db).await;
            shop.node_counts(&served, january(), 1_201).await;
            shop.clock.set(CLOSED.plus(Duration::from_secs(60)));
            shop.passes(Duration::ZERO).await;
            shop.stripe.state().failures = vec![(500, true), (next, false)];
            billing::count_traffic(&shop.app).await.unwrap();
            shop.work().await;
            assert_eq!(
                (shop.bill_state(&served).await, shop.items().len()),
                (Some((BillState::Wanted, 36)), 1)
            );
            assert!(shop.rings_for("traffic_not_billed").await, "{next}");
            for _ in 0..2 {
                shop.lives(Duration::from_secs(2 * 3_600)).await;
            }
            assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 36)), "{next}");
            assert_eq!(shop.items().len(), 1, "{next}: once");
            assert!(!shop.rings_for("traffic_not_billed").await);
        })
        .await;
    }
}

#[tokio::test]
async fn a_bill_whose_invoice_is_refused_is_tried_every_hour_and_rings_until_it_is_billed() {
    for status in [401, 400] {
        each_database(async |db| {
            let (shop, served) = Shop::with_traffic(db).await;
            shop.pays_for_a_year(&served).await;
            shop.stripe.state().ends = vec![("/invoices", status), ("/invoices", status)];
            let tried = || shop.stripe.count("POST", "/invoices");
            shop.node_counts(&served, january(), 1_001).await;
            shop.lives_until(CLOSED.plus(MINUTE)).await;
            assert_eq!((shop.bill_state(&served).await, tried()), (Some((BillState::Posted, 12)), 1));
            assert!(shop.rings_for("traffic_not_billed").await, "{status}");
            shop.lives(61 * MINUTE).await;
            assert_eq!(tried(), 2, "{status}");
            shop.lives(11 * MINUTE).await;
            assert_eq!(tried(), 2, "{status}: not with every sweep");
            assert!(shop.rings_for("traffic_not_billed").await, "{status}");
            shop.lives(61 * MINUTE).await;
            assert_eq!(shop.bill_state(&served).await, Some((BillState::Invoiced, 12)), "{status}");
            assert!(!shop.rings_for("traffic_not_billed").await, "{status}");
            assert_eq!((shop.items().len(), tried()), (1, 3), "{status}: once");
        })
        .await;
    }
}

#[tokio::test]
async fn a_bill_that_waits_for_its_invoice_is_looked_at_every_hour_and_rings_no_longer_than_the_fault_lasts()
{
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives_until(CLOSED.plus(MINUTE)).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 12)));
        let item = format!("/invoiceitems/{}", shop.items()[0]["id"].as_str().unwrap());
        shop.stripe.state().locked_out = true;
        shop.lives(61 * MINUTE).await;
        assert!(shop.rings_for("traffic_not_billed").await);
        shop.stripe.state().locked_out = false;
        shop.lives(61 * MINUTE).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 12)));
        assert!(!shop.rings_for("traffic_not_billed").await);
        let looked = shop.stripe.count("GET", &item);
        shop.lives(11 * MINUTE).await;
        assert_eq!(shop.stripe.count("GET", &item), looked, "not with every sweep");
        shop.lives(61 * MINUTE).await;
        assert_eq!(shop.stripe.count("GET", &item), looked + 1);
    })
    .await;
}

#[tokio::test]
async fn a_years_subscription_gets_an_invoice_of_its_own() {
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.pays_for_a_year(&served).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives_until(CLOSED.plus(Duration::from_secs(60))).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Invoiced, 12)));
        shop.lives(2 * DAY).await;
        assert_eq!((shop.items().len(), shop.stripe.count("POST", "/invoices")), (1, 1));
        let invoice = shop.bill(&served, january()).await.unwrap().invoice.unwrap();
        let mut connection = shop.app.db.read().await.unwrap();
        let invoices = billing::invoices(&mut connection, served.order.account).await.unwrap();
        assert!(invoices.iter().all(|known| known.id != invoice), "a draft is not shown");
    })
    .await;
}

#[tokio::test]
async fn a_month_waits_for_a_node_that_was_away_at_its_end() {
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives(DAY).await;
        shop.node_goes_away().await;
        shop.lives_until(CLOSED.plus(5 * DAY)).await;
        assert_eq!(shop.bill_state(&served).await, None, "nobody knows what it was");
        // It is back, and has not told yet what it counted.
        shop.node_comes_back().await;
        shop.lives(Duration::from_secs(60)).await;
        assert_eq!(shop.bill_state(&served).await, None);
        shop.node_counts(&served, january(), 1_201).await;
        shop.lives(Duration::from_secs(11 * 60)).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 36)));
    })
    .await;
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives(DAY).await;
        shop.node_goes_away().await;
        shop.lives_until(CLOSED.plus(11 * DAY)).await;
        assert_eq!(shop.bill_state(&served).await, None);
        // It is waited for so long and no longer.
        shop.lives(2 * DAY).await;
        assert_eq!(shop.bill_state(&served).await.map(|(_, amount)| amount), Some(12));
    })
    .await;
}

#[tokio::test]
async fn what_is_closed_after_the_end_is_waived_and_what_was_posted_is_taken_back() {
    each_database(async |db| {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives_until(CLOSED.plus(Duration::from_secs(60))).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 12)));
        shop.node_counts(&served, Month::of(shop.app.clock.now()), 4_000).await;
        billing::cancel_now(&shop.app, served.order.id).await.unwrap();
        shop.work().await;
        shop.lives(DAY).await;
        assert_eq!(
            shop.bill_state(&served).await,
            Some((BillState::Posted, 12)),
            "a last invoice may take it"
        );
        shop.lives(2 * DAY).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Waived, 12)));
        assert_eq!(shop.items().len(), 0);
        shop.lives(40 * DAY).await;
        let february = Month::from_number(202_702).unwrap();
        let bill = shop.bill(&served, february).await.unwrap();
        assert_eq!((bill.state, bill.units), (BillState::Waived, 30));
        assert_eq!(shop.items().len(), 0);
        let march = Month::from_number(202_703).unwrap();
        shop.lives(40 * DAY).await;
        assert_eq!(shop.bill(&served, march).await, None, "it is over");
    })
    .await;
}

//! Thirteen whole lives, told in every order, twice, late or never: they end the same.
//!
//! What Stripe did is fixed; how we hear of it is not. Each telling shuffles the news of a stage, drops some (the
//! reconciler has to find them), repeats some, keeps some back until later, and starts the program anew in between.
//! The servers, what their nodes were told, the standings, the invoices and the kinds of letters that each customer got must be
//! those of the plain telling.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    billing::ChangeState,
    db::testing::Fresh,
    entropy::{EntropyExt as _, SeededEntropy},
    replan,
};

/// How often the lives are told if `EZ_LIVES` does not say.
const TELLINGS: u64 = 100;
/// On PostgreSQL, which is slower to set up.
const TELLINGS_ON_POSTGRES: u64 = 2;
const MINUTE: Duration = Duration::from_secs(60);

/// What becomes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Bought,
    Renewed,
    Recovered,
    NeverPaid,
    EndsWithPeriod,
    CancelledNow,
    Refunded,
    /// The payment of the month before.
    PastRefunded,
    PartlyRefunded,
    DisputeWon,
    DisputeLost,
    Upgraded,
    Downgraded,
}

const LIVES: [Life; 13] = [
    Life::Bought,
    Life::Renewed,
    Life::Recovered,
    Life::NeverPaid,
    Life::EndsWithPeriod,
    Life::CancelledNow,
    Life::Refunded,
    Life::PastRefunded,
    Life::PartlyRefunded,
    Life::DisputeWon,
    Life::DisputeLost,
    Life::Upgraded,
    Life::Downgraded,
];

/// One of them, under way.
#[derive(Debug, Clone)]
struct One {
    life: Life,
    order: Order,
    session: String,
    subscription: String,
    invoice: String,
    dispute: String,
}

/// What is left at the end.
#[derive(Debug, PartialEq, Eq)]
struct End {
    life: Life,
    server: InstanceState,
    plan: String,
    told: Vec<String>,
    stand: Stand,
    why: Why,
    invoices: BTreeMap<String, String>,
    ledger: (i64, i64, usize),
    /// Each kind once: how often one is written is told by the stories of its subject.
    letters: Vec<String>,
}

type News = (&'static str, String);

/// What Stripe does with one life in a stage, and what it tells of that.
fn stage(shop: &Shop, one: &mut One, stage: usize) -> Vec<News> {
    let (stripe, now) = (&shop.stripe, shop.app.clock.now());
    let subscription = || ("customer.subscription.updated", one.subscription.clone());
    let deleted = || ("customer.subscription.deleted", one.subscription.clone());
    match (stage, one.life) {
        (0, _) => vec![
            ("checkout.session.completed", one.session.clone()),
            ("customer.subscription.created", one.subscription.clone()),
            ("invoice.paid", one.invoice.clone()),
        ],
        (1 | 2, Life::Renewed) => {
            let invoice = stripe.renew(&one.subscription, now, true);
            vec![("invoice.paid", invoice), subscription()]
        }
        (1, Life::Recovered | Life::NeverPaid) => {
            let told = subscription();
            one.invoice = stripe.renew(&one.subscription, now, false);
            vec![("invoice.payment_failed", one.invoice.clone()), told]
        }
        // What their customers asked for has happened already; here it is told.
        (1, Life::Upgraded) => {
            one.invoice = stripe.latest_invoice(&one.subscription);
            vec![("invoice.payment_failed", one.invoice.clone()), subscription()]
        }
        (2, Life::Upgraded) => {
            stripe.pay_invoice(&one.invoice);
            let applied = ("customer.subscription.pending_update_applied", one.subscription.clone());
            vec![("invoice.paid", one.invoice.clone()), applied, subscription()]
        }
        (1, Life::Downgraded) => vec![subscription()],
        (2, Life::Downgraded) => {
            let invoice = stripe.renew(&one.subscription, now, true);
            vec![("invoice.paid", invoice), subscription()]
        }
        (2, Life::Recovered) => {
            stripe.pay_invoice(&one.invoice);
            vec![("invoice.paid", one.invoice.clone()), subscription()]
        }
        (1, Life::EndsWithPeriod) => {
            stripe.change(&one.subscription, |subscription| {
                subscription["cancel_at_period_end"] = json!(true);
                subscription["cancel_at"] = json!(now.as_secs() + 86_400);
            });
            vec![subscription()]
        }
        (2, Life::EndsWithPeriod) | (1, Life::CancelledNow) => {
            stripe.change(&one.subscription, |subscription| {
                subscription["status"] = json!("canceled");
                subscription["cancellation_details"] = json!({"reason": "cancellation_requested"});
            });
            vec![deleted()]
        }
        (1, Life::Refunded) => vec![("refund.created", stripe.give_back(&one.invoice, 900))],
        (1, Life::PastRefunded) => {
            let renewed = stripe.renew(&one.subscription, now, true);
            let refund = stripe.give_back(&one.invoice, 900);
            vec![("refund.created", refund), ("invoice.paid", renewed), subscription()]
        }
        (1, Life::PartlyRefunded) => vec![("refund.created", stripe.give_back(&one.invoice, 450))],
        (1, Life::DisputeWon | Life::DisputeLost) => {
            one.dispute = stripe.dispute(&one.invoice, now);
            vec![("charge.dispute.created", one.dispute.clone())]
        }
        (2, Life::DisputeWon | Life::DisputeLost) => {
            let word = if one.life == Life::DisputeWon { "won" } else { "lost" };
            stripe.change(&one.dispute, |dispute| dispute["status"] = json!(word));
            vec![("charge.dispute.closed", one.dispute.clone())]
        }
        _ => Vec::new(),
    }
}

/// How the news arrives.
struct Chance(Option<SeededEntropy>);

impl Chance {
    /// A number below `n`; 0 in the plain telling.
    fn below(&self, n: usize) -> usize {
        self.0.as_ref().map_or(0, |seeded| usize::from(u16::from_le_bytes(seeded.bytes())) % n)
    }

    fn shuffle<T>(&self, items: &mut [T]) {
        if self.0.is_some() {
            for at in (1..items.len()).rev() {
                items.swap(at, self.below(at + 1));
            }
        }
    }
}

impl Shop {
    /// Every node does what it was told, until nothing is left to do.
    async fn nodes_do(&self, lives: &[One], seq: &mut u64) {
        loop {
            let mut idle = true;
            for one in lives {
                let open = self.told(&one.order).await.into_iter().find(|record| !record.state.is_final());
                let Some(open) = open else { continue };
                let served = Served { order: one.order.clone(), subscription: one.subscription.clone() };
                let off = open.verb != "ensure" || self.wished(&served).await == Service::Suspended;
                *seq += 1;
                self.node_does(&served, *seq, if off { "stopped" } else { "running" }).await;
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    /// Tells the news of a stage; gives what is kept back for the next.
    async fn tell(&mut self, mut news: Vec<String>, chance: &Chance) -> Vec<String> {
        chance.shuffle(&mut news);
        let mut late = Vec::new();
        for body in news {
            match chance.below(10) {
                // Lost: only Stripe's own list has it.
                7 => continue,
                8 => late.push(body),
                9 => {
                    self.deliver_body(&body).await;
                    self.deliver_body(&body).await;
                }
                _ => {
                    self.deliver_body(&body).await;
                }
            }
            match chance.below(6) {
                1 => self.work().await,
                // It starts anew; what it had in memory is gone.
                2 => {
                    self.app = self.app.on(self.app.db.clone(), u64::try_from(chance.below(60_000)).unwrap())
                }
                _ => {}
            }
        }
        self.work().await;
        late
    }

    /// Two customers want another plan: the one gets more and has to pay by hand, the other less, with the end of the month.
    async fn wish(&self, lives: &[One]) {
        let now = self.app.clock.now();
        self.stripe.set_clock(now);
        for (life, wanted) in [(Life::Upgraded, "m"), (Life::Downgraded, "t")] {
            let one = lives.iter().find(|one| one.life == life).unwrap();
            let server = self.server(&one.order).await;
            self.stripe.card_fails(true);
            let price = plans::price(wanted, "month");
            let change = replan::preview(&self.app, &server, &price, "user:x", None).await.unwrap();
            let change = replan::confirm(&self.app, change.account, change.id, "user:x", None).await.unwrap();
            self.stripe.card_fails(false);
            let stands =
                if life == Life::Upgraded { ChangeState::AwaitingPayment } else { ChangeState::Scheduled };
            assert_eq!(change.state, stands);
        }
    }

    /// Tells all lives from the paid page on.
    async fn tell_lives(&mut self, mut lives: Vec<One>, seed: Option<u64>) -> Vec<End> {
        let chance = Chance(seed.map(SeededEntropy::new));
        let (mut late, mut seq) = (Vec::new(), 0);
        for (at, lasts) in [(0, DAY), (1, 4 * DAY), (2, 14 * DAY), (3, 8 * DAY)] {
            let mut news: Vec<String> = std::mem::take(&mut late);
            if at == 1 {
                self.wish(&lives).await;
            }
            for one in &mut lives {
                for (kind, object) in stage(self, one, at) {
                    news.push(self.stripe.event(kind, &object));
                }
            }
            late = self.tell(news, &chance).await;
            for time in [10 * MINUTE, lasts / 2, lasts / 2, 10 * MINUTE] {
                self.settles(time).await;
                self.nodes_do(&lives, &mut seq).await;
            }
        }
        for body in late {
            self.deliver_body(&body).await;
        }
        self.settles(10 * MINUTE).await;
        self.nodes_do(&lives, &mut seq).await;
        assert_eq!(billing::reconcile(&self.app).await.unwrap().left, 0);
        let mut ends = Vec::new();
        for one in &lives {
            ends.push(self.end_of(one).await);
        }
        ends
    }

    async fn end_of(&self, one: &One) -> End {
        let mut connection = self.app.db.read().await.unwrap();
        let standing = billing::standing_of(&mut connection, one.order.id).await.unwrap().unwrap();
        let invoices = billing::invoices(&mut connection, one.order.account).await.unwrap();
        let ledger = self.ledger(&one.order);
        End {
            life: one.life,
            server: self.server(&one.order).await.state,
            plan: self.server(&one.order).await.plan_code,
            told: self.told(&one.order).await.into_iter().map(|record| record.verb).collect(),
            stand: standing.stand,
            why: standing.why,
            invoices: invoices.into_iter().map(|invoice| (invoice.id, invoice.status)).collect(),
            ledger: (ledger.paid, ledger.returned, ledger.running),
            letters: crate::notify::written_to(&mut connection, &one.order.email).await.unwrap(),
        }
    }
}

/// An installation where thirteen customers have just paid, and nothing has been said.
async fn beginning(db: Db) -> (Shop, Vec<One>) {
    let shop = Shop::with_plans(db, 16).await;
    let mut lives = Vec::new();
    for (n, life) in (1..).zip(LIVES) {
        let (order, session) = shop.pay_for(n).await;
        let subscription = shop.stripe.subscription_of(&session);
        let invoice = shop.stripe.latest_invoice(&subscription);
        lives.push(One { life, order, session, subscription, invoice, dispute: String::new() });
    }
    (shop, lives)
}

/// What each life must come to, whoever tells it how.
fn right(ends: &[End]) {
    let end = |life: Life| ends.iter().find(|end| end.life == life).unwrap();
    for life in [
        Life::Bought,
        Life::Renewed,
        Life::Recovered,
        Life::PastRefunded,
        Life::PartlyRefunded,
        Life::DisputeWon,
        Life::Upgraded,
        Life::Downgraded,
    ] {
        assert_eq!((end(life).stand, end(life).server), (Stand::Run, InstanceState::Running), "{life:?}");
    }
    for life in [Life::NeverPaid, Life::EndsWithPeriod, Life::CancelledNow, Life::Refunded, Life::DisputeLost]
    {
        assert_eq!(end(life).stand, Stand::End, "{life:?}");
        assert_ne!(end(life).server, InstanceState::Running, "{life:?}");
        assert_eq!(end(life).ledger.2, 0, "{life:?} is charged again");
    }
    let written: [(Life, &[&str]); 7] = [
        (Life::Bought, &["payment-confirmation", "server-ready"]),
        (Life::Recovered, &["payment-failed", "payment-receipt", "server-restored", "server-suspended"]),
        (Life::NeverPaid, &["payment-failed", "server-suspended", "server-will-be-deleted"]),
        (Life::EndsWithPeriod, &["server-ends"]),
        (Life::Refunded, &["refund-sent"]),
        (Life::DisputeWon, &["server-suspended", "server-restored"]),
        (Life::Upgraded, &["plan-change-waits", "plan-changed"]),
    ];
    for (life, letters) in written {
        let got = &end(life).letters;
        assert!(letters.iter().all(|kind| got.iter().any(|known| known == kind)), "{life:?}: {got:?}");
    }
    assert_eq!(end(Life::Bought).told, ["ensure"]);
    assert_eq!(end(Life::PastRefunded).told, ["ensure"]);
    assert_eq!(end(Life::PastRefunded).ledger, (1_800, 900, 1));
    assert_eq!(end(Life::Recovered).told, ["ensure", "ensure", "ensure"], "built, off, on");
    assert_eq!(end(Life::NeverPaid).told, ["ensure", "ensure", "retire", "purge"]);
    assert_eq!(end(Life::CancelledNow).told, ["ensure", "retire", "purge"]);
    for (life, plan, paid) in [(Life::Upgraded, "m", 900 + 1_000), (Life::Downgraded, "t", 900 + 600)] {
        assert_eq!(end(life).told, ["ensure", "ensure"], "{life:?}: built, resized");
        assert_eq!((end(life).plan.as_str(), end(life).ledger.0), (plan, paid), "{life:?}");
    }
}

fn tellings(ordinary: u64) -> u64 {
    std::env::var("EZ_LIVES").ok().and_then(|count| count.parse().ok()).unwrap_or(ordinary)
}

#[tokio::test]
async fn all_lives_end_the_same_however_they_are_told() {
    let fresh = Fresh::sqlite().await;
    let (mut shop, lives) = beginning(Db::open(&fresh.url).await.unwrap()).await;
    let (template, story) =
        (fresh.directory().join("template.sqlite"), fresh.directory().join("story.sqlite"));
    shop.app.db.backup_to(&template).await.unwrap();
    let (paid, began) = (shop.stripe.state().clone(), shop.app.clock.now());
    let mut plain: Option<Vec<End>> = None;
    for seed in 0..=tellings(TELLINGS) {
        for left in ["", "-wal", "-shm"] {
            let _absent_at_first = std::fs::remove_file(format!("{}{left}", story.display()));
        }
        std::fs::copy(&template, &story).unwrap();
        *shop.stripe.state() = paid.clone();
        shop.clock.set(began);
        let db = Db::open(&format!("sqlite:{}", story.display())).await.unwrap();
        shop.app = shop.app.on(db, seed);
        let ends = shop.tell_lives(lives.clone(), (seed > 0).then_some(seed)).await;
        match &plain {
            None => {
                right(&ends);
                plain = Some(ends);
            }
            Some(plain) => assert_eq!(&ends, plain, "telling {seed}"),
        }
        shop.app.db.close().await;
    }
}

#[tokio::test]
async fn the_same_holds_on_postgresql() {
    let mut plain: Option<Vec<End>> = None;
    for seed in 0..=tellings(TELLINGS_ON_POSTGRES).min(50) {
        let Some(fresh) = Fresh::postgres().await else { return };
        let (mut shop, lives) = beginning(Db::open(&fresh.url).await.unwrap()).await;
        let mut ends = shop.tell_lives(lives, (seed > 0).then_some(seed)).await;
        // Every telling has its own Stripe, which counts its own invoices.
        ends.iter_mut().for_each(|end| end.invoices.clear());
        match &plain {
            None => {
                right(&ends);
                plain = Some(ends);
            }
            Some(plain) => assert_eq!(&ends, plain, "telling {seed}"),
        }
        shop.app.db.close().await;
        fresh.remove().await;
    }
}

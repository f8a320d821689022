//! Stories of the shelf: what differs is named and mended, and nothing else is touched.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    app::App,
    billing::stripe::testing::FakeStripe,
    catalog::{self, ApplyError},
    db, fleet,
};

/// An installation without a catalogue, and its Stripe.
struct Store {
    app: App,
    stripe: FakeStripe,
}

const PLAN: &str =
    "[[plans]]\ncode = 's'\nname = 'S'\nvcpu = 1\nmemory_mib = 1024\ndisk_gib = 10\ntraffic_gib = 1\n";

fn price(interval: &str, amount: i64, more: &str) -> String {
    format!("[[plans.prices]]\ninterval = '{interval}'\ncurrency = 'eur'\namount_minor = {amount}\n{more}\n")
}

const COUPON: &str = "[[coupons]]\ncode = 'hello'\nname = 'Hello'\npercent_off = 20\n\
                      [[coupons.codes]]\ncode = 'HELLO20'\nfirst_purchase = true\n";

impl Store {
    async fn open(db: db::Db) -> Self {
        let stripe = FakeStripe::start().await;
        let (mut app, _) = fleet::testing::services(db);
        Arc::get_mut(&mut app).unwrap().stripe = stripe.gate();
        Self { app, stripe }
    }

    async fn apply(&self, file: &str) -> Result<usize, ApplyError> {
        catalog::apply_file(&self.app, file, "operator:test").await.map(|report| report.pushed)
    }

    /// What would be done: verb, kind and name.
    async fn plan(&self) -> Vec<String> {
        let report = catalog::sync(&self.app, true).await.unwrap();
        report.steps.iter().map(|step| format!("{} {} {}", step.verb, step.kind, step.key)).collect()
    }

    /// Does it.
    async fn sync(&self) -> Vec<String> {
        let report = catalog::sync(&self.app, false).await.unwrap();
        report.steps.iter().map(|step| format!("{} {} {}", step.verb, step.kind, step.key)).collect()
    }

    fn price(&self, key: &str) -> Value {
        let state = self.stripe.state();
        state.objects.values().find(|object| object["lookup_key"] == key).cloned().unwrap_or_default()
    }

    /// Whether a promotion code of this text is taken.
    fn takes(&self, code: &str) -> bool {
        let state = self.stripe.state();
        state.objects.values().any(|object| object["code"] == code && object["active"] == true)
    }

    /// How often something was changed at Stripe.
    fn posts(&self) -> usize {
        self.stripe.state().calls.iter().filter(|call| call.method != "GET").count()
    }
}

#[tokio::test]
async fn a_whole_catalogue_is_made_once() {
    db::testing::each_database(async |db| {
        let store = Store::open(db).await;
        let file = format!(
            "{PLAN}{}{}{}{COUPON}",
            price("month", 900, "setup_minor = 500\ntrial_days = 14"),
            price("quarter", 2600, ""),
            price("year", 9000, "")
        );
        assert_eq!(store.apply(&file).await.unwrap(), 3);
        let quarter = store.price("s:quarter:eur:v1");
        assert_eq!(quarter["recurring"], json!({"interval": "month", "interval_count": 3}));
        let fee = store.price("s:month:eur:v1:setup");
        assert_eq!((fee["unit_amount"].as_i64(), fee["product"].as_str()), (Some(500), Some("ez-setup-s")));
        assert!(fee["recurring"].is_null(), "paid once");
        assert_eq!(store.stripe.state().objects["ez-coupon-hello-v1"]["percent_off"], 20);
        assert!(store.takes("HELLO20"));
        let posts = store.posts();
        assert_eq!(store.apply(&file).await.unwrap(), 0);
        assert_eq!((store.plan().await, store.posts()), (vec![], posts), "the same again changes nothing");
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_shows_everything_and_writes_nothing_anywhere() {
    db::testing::each_database(async |db| {
        let store = Store::open(db).await;
        store.apply(&format!("{PLAN}{}{COUPON}", price("month", 900, ""))).await.unwrap();
        // Somebody else at the dashboard, and a new name in the file that was not pushed.
        let id = store.price("s:month:eur:v1")["id"].as_str().unwrap().to_owned();
        store.stripe.change(&id, |price| price["active"] = json!(false));
        store.stripe.change("ez-plan-s", |product| product["name"] = json!("Something else"));
        store.stripe.change("ez-coupon-hello-v1", |coupon| coupon["name"] = json!("Bye"));
        let (posts, before) = (store.posts(), rows(&store.app).await);
        let wanted =
            ["change product ez-plan-s", "restore price s:month:eur:v1", "change coupon ez-coupon-hello-v1"];
        assert_eq!(store.plan().await, wanted);
        assert_eq!((store.posts(), rows(&store.app).await), (posts, before));
        assert_eq!(store.sync().await, wanted, "what was shown is what is done");
        assert_eq!(store.plan().await, Vec::<String>::new());
        assert_eq!(store.price("s:month:eur:v1")["active"], true);
        assert_eq!(store.stripe.state().objects["ez-plan-s"]["name"], "S");
    })
    .await;
}

/// How many audit rows there are.
async fn rows(app: &App) -> i64 {
    let mut connection = app.db.read().await.unwrap();
    crate::audit::unsealed(&mut connection).await.unwrap()
}

#[tokio::test]
async fn another_amount_is_a_new_price_and_the_old_one_is_archived() {
    db::testing::each_database(async |db| {
        let store = Store::open(db).await;
        let file = |amount, more: &str| format!("{PLAN}{}", price("month", amount, more));
        store.apply(&file(900, "")).await.unwrap();
        assert_eq!(store.apply(&file(1000, "")).await.unwrap(), 1);
        let (old, new) = (store.price("s:month:eur:v1"), store.price("s:month:eur:v2"));
        assert_eq!((old["active"].as_bool(), old["unit_amount"].as_i64()), (Some(false), Some(900)));
        assert_eq!((new["active"].as_bool(), new["unit_amount"].as_i64()), (Some(true), Some(1000)));
        // A set-up fee is part of the price; a trial is not, nobody's subscription depends on it.
        store.apply(&file(1000, "setup_minor = 300")).await.unwrap();
        assert_eq!(store.price("s:month:eur:v3:setup")["unit_amount"], 300);
        assert_eq!(store.apply(&file(1000, "setup_minor = 300\ntrial_days = 7")).await.unwrap(), 0);
        // Back to where it was is a new version as well: time does not run backwards.
        store.apply(&file(900, "")).await.unwrap();
        assert_eq!(store.price("s:month:eur:v4")["active"], true);
        assert_eq!(store.price("s:month:eur:v3:setup")["active"], false);
        let refused = store.apply(&file(700, "version = 4")).await.unwrap_err();
        assert!(matches!(refused, ApplyError::PriceChanged(id) if id == "s:month:eur:v4"));
    })
    .await;
}

#[tokio::test]
async fn a_code_ends_with_its_coupon_and_changes_with_its_terms() {
    db::testing::each_database(async |db| {
        let store = Store::open(db).await;
        store.apply(COUPON).await.unwrap();
        // Other terms of the code: the old one ends, the new one begins.
        let limited = COUPON.replace("first_purchase = true", "max_uses = 5");
        store.apply(&limited).await.unwrap();
        let codes = |store: &Store| {
            let state = store.stripe.state();
            let all = state.objects.values().filter(|object| object["code"] == "HELLO20");
            let mut told: Vec<_> =
                all.map(|code| (code["max_redemptions"].as_i64(), code["active"] == true)).collect();
            told.sort_unstable();
            told
        };
        assert_eq!(codes(&store), [(None, false), (Some(5), true)]);
        // Back again: the old one is there and is taken again, nothing is made twice.
        store.apply(COUPON).await.unwrap();
        assert_eq!(codes(&store), [(None, true), (Some(5), false)]);
        // Other terms of the coupon: a new version.
        store.apply(&COUPON.replace("20\n", "25\n")).await.unwrap();
        assert_eq!(store.stripe.state().objects["ez-coupon-hello-v2"]["percent_off"], 25);
        assert_eq!(
            store.stripe.state().objects["ez-coupon-hello-v1"]["percent_off"],
            20,
            "who has it keeps it"
        );
        // Off sale: nobody can type it any more.
        store.apply(&COUPON.replace("percent_off = 20", "percent_off = 25\non_sale = false")).await.unwrap();
        assert!(!store.takes("HELLO20"));
        let mut connection = store.app.db.read().await.unwrap();
        assert!(!crate::billing::store::has_promotion_codes(&mut connection).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn two_databases_share_what_one_account_sells() {
    db::testing::each_database(async |db| {
        let first = Store::open(db).await;
        let file = format!("{PLAN}{}{COUPON}", price("month", 900, "setup_minor = 500"));
        first.apply(&file).await.unwrap();
        let posts = first.posts();
        // A second installation at the same account finds everything and makes nothing.
        let (other_db, _dir) = db::testing::sqlite().await;
        let (mut app, _) = fleet::testing::services(other_db);
        Arc::get_mut(&mut app).unwrap().stripe = first.stripe.gate();
        let second = Store { app, stripe: first.stripe.clone() };
        assert_eq!(second.apply(&file).await.unwrap(), 1);
        assert_eq!(second.posts(), posts);
        assert_eq!(second.plan().await, Vec::<String>::new());
        // Where they disagree, nothing is guessed.
        let other = format!("{PLAN}{}", price("month", 950, "version = 1"));
        let (other_db, _dir) = db::testing::sqlite().await;
        let (mut app, _) = fleet::testing::services(other_db);
        Arc::get_mut(&mut app).unwrap().stripe = first.stripe.gate();
        let third = Store { app, stripe: first.stripe.clone() };
        let refused = third.apply(&other).await.unwrap_err().to_string();
        assert!(refused.contains("s:month:eur:v1") && refused.contains("another version"), "{refused}");
        assert_eq!(third.posts(), posts);
    })
    .await;
}

#[tokio::test]
async fn a_foreign_code_of_the_same_text_is_left_alone() {
    db::testing::each_database(async |db| {
        let store = Store::open(db).await;
        let theirs = json!({"id": "promo_theirs", "object": "promotion_code", "code": "HELLO20", "active": true,
            "promotion": {"type": "coupon", "coupon": "theirs"}, "metadata": {}, "times_redeemed": 0});
        store.stripe.state().objects.insert("promo_theirs".into(), theirs);
        let refused = store.apply(COUPON).await.unwrap_err().to_string();
        assert!(refused.contains("HELLO20"), "{refused}");
        assert_eq!(store.stripe.state().objects["promo_theirs"]["active"], true);
    })
    .await;
}

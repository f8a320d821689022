//! Stories of buying by API, with a catalogue, a node and a Stripe in this process.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, KEY, Story};
use crate::{
    accounts::{self, NewUser, Scope},
    billing::stripe::testing::FakeStripe,
    catalog,
    db::{Db, DbError, testing::each_database},
    fleet::testing::{IMAGE, locations, ready_node, services},
};

/// A story in a shop with room for a few servers.
struct Shop {
    story: Story,
    stripe: FakeStripe,
}

impl Shop {
    async fn open(db: &Db) -> Self {
        let stripe = FakeStripe::start().await;
        let (mut app, clock) = services(db.clone());
        Arc::get_mut(&mut app).unwrap().stripe = stripe.gate();
        locations(&app, 50).await;
        let file = format!(
            r#"
            images = [{{ code = "debian-13", name = "Debian 13", version = "13", digest = "{IMAGE}" }}]
            [[plans]]
            code = "s"
            name = "S"
            vcpu = 1
            memory_mib = 4096
            disk_gib = 20
            traffic_gib = 1000
            prices = [{{ interval = "month", currency = "eur", amount_minor = 900 }}]
            "#
        );
        catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        ready_node(&app, "fsn-1", 1_000, 5).await;
        let story = Story::with(app, clock, vec![Scope::Read, Scope::Write]).await;
        Self { story, stripe }
    }

    fn wish(location: &str) -> Value {
        json!({
            "location": location, "plan": "s", "image": "debian-13", "ssh_keys": [KEY], "accept_terms": true
        })
    }

    async fn buy(&self, key: Option<&str>) -> Answer {
        self.story.call("POST", "/api/v1/orders", key, Some(Self::wish("fsn"))).await
    }

    async fn orders(&self) -> usize {
        let list = self.story.call("GET", "/api/v1/orders", None, None).await;
        list.body["data"].as_array().unwrap().len()
    }
}

/// What a crash between the commit and the answer leaves behind.
async fn crash_before_the_answer(db: &Db) {
    db.write::<_, DbError, _>(|tx| {
        Box::pin(async move {
            sqlx::query("UPDATE idempotency_keys SET status = NULL, content_type = NULL, body = NULL")
                .execute(tx)
                .await?;
            Ok(())
        })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_order_cut_off_by_a_crash_is_found_again_by_its_key() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        let first = shop.buy(Some("k")).await;
        assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
        crash_before_the_answer(&db).await;
        let again = shop.buy(Some("k")).await;
        assert_eq!(
            (again.status, &again.body),
            (StatusCode::CREATED, &first.body),
            "at once, the same order"
        );
        assert_eq!(shop.orders().await, 1, "no second order holds a place");
        let replayed = shop.buy(Some("k")).await;
        assert_eq!(
            (&replayed.body, replayed.headers["idempotent-replayed"].as_bytes()),
            (&first.body, &b"true"[..])
        );
    })
    .await;
}

#[tokio::test]
async fn a_refusal_that_passes_is_not_kept_under_the_key() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        let mut placed = Vec::new();
        for _ in 0..3 {
            placed.push(shop.buy(None).await.body["id"].as_str().unwrap().to_owned());
        }
        let full = shop.buy(Some("k")).await;
        assert_eq!((full.status, &full.body["code"]), (StatusCode::CONFLICT, &json!("too_many_unpaid")));
        let cancel = format!("/api/v1/orders/{}/cancel", placed[0]);
        assert_eq!(shop.story.call("POST", &cancel, None, None).await.status, StatusCode::OK);
        let later = shop.buy(Some("k")).await;
        assert_eq!(later.status, StatusCode::CREATED, "the slot is free now: {}", later.body);
    })
    .await;
}

#[tokio::test]
async fn the_list_tells_of_each_order_what_is_told_of_it_alone() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        let mut placed = Vec::new();
        for _ in 0..3 {
            placed.push(shop.buy(None).await.body["id"].as_str().unwrap().to_owned());
        }
        let cancel = format!("/api/v1/orders/{}/cancel", placed[1]);
        assert_eq!(shop.story.call("POST", &cancel, None, None).await.status, StatusCode::OK);
        let list = shop.story.call("GET", "/api/v1/orders", None, None).await;
        let data = list.body["data"].as_array().unwrap();
        assert_eq!((list.status, data.len()), (StatusCode::OK, 3), "{}", list.body);
        for told in data {
            let path = format!("/api/v1/orders/{}", told["id"].as_str().unwrap());
            assert_eq!(*told, shop.story.call("GET", &path, None, None).await.body);
            let payable = told["state"] == "awaiting_payment";
            assert_eq!(
                (payable, told["checkout_url"].is_string()),
                (told["id"] != json!(placed[1]), payable)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn while_stripe_takes_no_key_of_ours_an_unpaid_order_waits() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        let opened = shop.buy(None).await.body["id"].as_str().unwrap().to_owned();
        shop.stripe.state().locked_out = true;
        let unopened = shop.buy(None).await;
        assert_eq!((unopened.status, &unopened.body["checkout_url"]), (StatusCode::CREATED, &Value::Null));
        let (opened, unopened) = (opened.as_str(), unopened.body["id"].as_str().unwrap());
        let press = async |id: &str, what: &str| {
            shop.story.call("POST", &format!("/api/v1/orders/{id}/{what}"), None, None).await
        };
        for (id, what) in [(unopened, "checkout"), (opened, "cancel")] {
            let told = press(id, what).await;
            assert_eq!((told.status.as_u16(), &told.body["code"]), (503, &json!("unavailable")), "{what}");
            assert_eq!(told.headers["retry-after"], "60");
        }
        shop.stripe.state().locked_out = false;
        assert_eq!(press(unopened, "checkout").await.status, StatusCode::OK);
        assert_eq!(press(opened, "cancel").await.body["state"], "cancelled");
    })
    .await;
}

#[tokio::test]
async fn text_that_cannot_be_stored_is_refused_by_field() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        for field in ["location", "plan", "image", "hostname", "terms_version", "interval"] {
            let mut wish = Shop::wish("fsn");
            wish[field] = json!("a\0b");
            let refused = shop.story.call("POST", "/api/v1/orders", None, Some(wish)).await;
            assert_eq!(
                (refused.status.as_u16(), &refused.body["errors"][0]["field"]),
                (422, &json!(field)),
                "{}",
                refused.body
            );
        }
        for (location, status) in [("x".repeat(60_000), 422), ("fsn\u{7f}".to_owned(), 422)] {
            let refused = shop.story.call("POST", "/api/v1/orders", None, Some(Shop::wish(&location))).await;
            assert_eq!(
                (refused.status.as_u16(), &refused.body["errors"][0]["code"]),
                (status, &json!("location_unknown"))
            );
        }
        assert_eq!(shop.orders().await, 0);
    })
    .await;
}

#[tokio::test]
async fn whoever_has_not_confirmed_an_address_buys_nothing() {
    each_database(async |db| {
        let shop = Shop::open(&db).await;
        let new = NewUser {
            email: "eve@example.org".into(),
            password: "correct horse battery".into(),
            staff: None,
            verified: false,
        };
        let eve = accounts::create_user(&shop.story.app, new).await.unwrap();
        let scopes = vec![Scope::Read, Scope::Write];
        let (_, token) = accounts::create_token(&shop.story.app, &eve, "test", scopes).await.unwrap();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let refused = shop.story.send("POST", "/api/v1/orders", &headers, Some(Shop::wish("fsn"))).await;
        assert_eq!((refused.status.as_u16(), &refused.body["code"]), (403, &json!("email_unverified")));
        let list = shop.story.send("GET", "/api/v1/orders", &headers, None).await;
        assert_eq!((list.status, &list.body["data"]), (StatusCode::OK, &json!([])));
    })
    .await;
}

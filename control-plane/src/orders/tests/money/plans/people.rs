//! What people and programs see of it: the pages without a script, and the API.

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    accounts::{self, Scope},
    app,
    orders::tests::browser::Browser,
};

impl Shop {
    /// The server of somebody who can log in, in the first second of a month that is paid.
    async fn renting_to(&self, who: &Principal) -> Served {
        let served = self.served_to(who).await;
        self.stripe.period_begins(&served.subscription, self.app.clock.now());
        self.hears(&served).await;
        served
    }

    async fn call(&self, token: &str, method: &str, path: &str, key: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/servers/{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        let body = if method == "GET" { Body::empty() } else { Body::from(body.to_string()) };
        let answer = app::router(&self.app).oneshot(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn a_person_sees_the_sum_before_paying_it_and_the_link_where_the_bank_wants_more() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 8).await;
    let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
    let served = shop.renting_to(&jane.who).await;
    let server = format!("/servers/{}", served.order.instance);
    let page = jane.get(&server).await;
    assert!(page.body.contains(&format!("href=\"{server}/plan\"")), "a way there");
    let page = jane.get(&format!("{server}/plan")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("Its disk is smaller than yours")
            && page.body.contains("value=\"m:month:eur:v1\"")
    );
    let sent = jane.send_form(&format!("{server}/plan"), "price=xs%3Amonth%3Aeur%3Av1").await;
    assert_eq!((sent.status, sent.location.as_str()), (303, format!("{server}/plan").as_str()));
    let sent = jane.send_form(&format!("{server}/plan"), "price=m%3Amonth%3Aeur%3Av1").await;
    let change = sent.location.clone();
    assert!(change.starts_with(&format!("{server}/plan/")), "{change}");
    let page = jane.get(&change).await;
    assert!(page.body.contains("Pay 10.00\u{a0}€ and change"), "{}", page.body);
    assert!(page.body.contains("−9.00\u{a0}€") && page.body.contains("19.00\u{a0}€"), "{}", page.body);
    // Somebody else finds nothing there.
    let mallory = Browser::log_in(&shop.app, "mallory@example.com", None).await;
    for path in [format!("{server}/plan"), change.clone()] {
        assert_eq!(mallory.get(&path).await.status, 404);
    }
    assert_eq!(mallory.post(&format!("{change}/confirm")).await.status, 404);

    shop.stripe.set_clock(shop.app.clock.now());
    shop.stripe.card_fails(true);
    let pressed = jane.post(&format!("{change}/confirm")).await;
    assert_eq!((pressed.status, &pressed.location), (303, &change));
    let page = jane.get(&change).await;
    assert!(page.body.contains("Waits for your payment") && page.body.contains("https://invoice.example/"));
    assert!(jane.get("/billing").await.body.contains("A change to Plan m waits for your payment"));
    let page = jane.get(&format!("{server}/plan")).await;
    assert!(page.body.contains("One change at a time") && !page.body.contains("name=\"price\""));
    let invoice = shop.stripe.latest_invoice(&served.subscription);
    shop.stripe.pay_invoice(&invoice);
    shop.deliver("invoice.paid", &invoice).await;
    shop.work().await;
    assert!(jane.get(&change).await.body.contains("Paid, server follows"));
    shop.node_follows(&served, 10, true).await;
    assert!(jane.get(&change).await.body.contains("The server has its new plan."));
    let page = jane.get(&server).await;
    assert!(page.body.contains("19.00\u{a0}€") && page.body.contains("gave the server the size of plan m"));

    let sent = jane.send_form(&format!("{server}/plan"), "price=s%3Amonth%3Aeur%3Av1").await;
    let page = jane.get(&sent.location).await;
    assert!(page.body.contains("Book the change") && page.body.contains("we restart it on that day"));
    jane.post(&format!("{}/confirm", sent.location)).await;
    assert!(jane.get(&sent.location).await.body.contains("Booked"));
    jane.post(&format!("{}/back", sent.location)).await;
    assert!(jane.get(&sent.location).await.body.contains("It was taken back"));
}

#[tokio::test]
async fn a_program_asks_confirms_and_hears_why_not() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 8).await;
        let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
        let served = shop.renting_to(&jane.who).await;
        let scopes = vec![Scope::Read, Scope::Write];
        let (_, token) = accounts::create_token(&shop.app, &jane.who, "t", scopes).await.unwrap();
        let path = format!("{}/plan_changes", served.order.instance);
        for (n, (body, status, code)) in [
            (json!({"plan": "nope"}), 422, "plan_unknown"),
            (json!({"interval": "week"}), 422, "interval_unknown"),
            (json!({"colour": "red"}), 422, ""),
            (json!({}), 409, "so_already"),
            (json!({"plan": "xs"}), 409, "disk_would_shrink"),
        ]
        .into_iter()
        .enumerate()
        {
            let (answered, answer) = shop.call(&token, "POST", &path, &format!("w{n}"), body.clone()).await;
            let said = answer["errors"][0]["code"].as_str().or(answer["code"].as_str()).unwrap_or_default();
            assert_eq!(answered, status, "{body}: {answer}");
            assert!(code.is_empty() || said == code, "{body}: {answer}");
        }
        let (status, asked) = shop.call(&token, "POST", &path, "k", json!({"plan": "m"})).await;
        assert_eq!(
            (status, &asked["state"], &asked["cost"]["due_minor"]),
            (201, &"previewed".into(), &1_000.into())
        );
        let (_, again) = shop.call(&token, "POST", &path, "k", json!({"plan": "m"})).await;
        assert_eq!(asked["id"], again["id"], "the same key is the same question");
        let one = format!("{path}/{}", asked["id"].as_str().unwrap());
        shop.stripe.set_clock(shop.app.clock.now());
        let (status, confirmed) = shop.call(&token, "POST", &format!("{one}/confirm"), "c", json!({})).await;
        assert_eq!((status, &confirmed["state"]), (202, &"applied".into()), "{confirmed}");
        let (status, again) = shop.call(&token, "POST", &format!("{one}/confirm"), "c2", json!({})).await;
        assert_eq!((status, &again["id"]), (202, &asked["id"]), "confirming again is once");
        let (status, refused) = shop.call(&token, "POST", &path, "k2", json!({"plan": "l"})).await;
        assert_eq!((status, refused["code"].as_str()), (409, Some("plan_change_open")), "{refused}");
        shop.work().await;
        shop.node_follows(&served, 10, false).await;
        let (_, shown) = shop.call(&token, "GET", &one, "", Value::Null).await;
        assert_eq!(
            (&shown["state"], &shown["plan"], &shown["from_plan"]),
            (&"done".into(), &"m".into(), &"s".into())
        );
        let (status, refused) = shop.call(&token, "POST", &format!("{one}/cancel"), "x", json!({})).await;
        assert_eq!((status, refused["code"].as_str()), (409, Some("wrong_state")), "{refused}");
        let (_, listed) = shop.call(&token, "GET", &path, "", Value::Null).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 1, "previews are not listed");
        let posts = shop.stripe.count("POST", &format!("/subscriptions/{}", served.subscription));
        assert_eq!(posts, 1);
    })
    .await;
}

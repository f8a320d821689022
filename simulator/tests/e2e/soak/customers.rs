//! People who buy, use and give back servers while things go wrong, and who try again as people do.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{care, diary::Diary};
use crate::{
    dice::Dice,
    support::{Api, Demo, SSH_KEY, until},
};

/// How long a customer goes on trying to get an answer.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Pauses between two looks: a customer's page asks about once a second.
pub const LOOK: Duration = Duration::from_secs(1);

/// Where two of three hosts stand, and the third.
const LOCATIONS: [&str; 3] = ["fsn", "fsn", "hel"];

/// How a purchase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The server was built.
    Fulfilled,
    /// The server was built, used and given back.
    Deleted,
    /// The money went back.
    Refunded,
    /// It waits for an operator, with a reason.
    OnTheDesk,
    /// The customer was told before paying that there is no room.
    SoldOut,
    /// The customer left the payment page.
    Left,
}

/// Somebody with an account and an address of their own on the network.
pub struct Customer {
    pub api: Api,
}

/// Makes customers through the public commands.
pub async fn sign_up(demo: &Demo, count: u32) -> Vec<Arc<Customer>> {
    let mut all = Vec::new();
    for number in 0..count {
        let email = format!("soak-{number}@example.com");
        let user = ["user", "create", "--email", &email, "--verified", "--password-stdin"];
        let made = demo.control_plane_with_input(&user, "a long enough password, 4711").await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let token = demo.control_plane(&["token", "create", "--email", &email]).await;
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        // Each has the requests of one address to spend.
        let address = std::net::Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).unwrap());
        let client = reqwest::Client::builder()
            .local_address(std::net::IpAddr::V4(address))
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        let base = demo.state()["api_url"].as_str().unwrap().to_owned();
        let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
        all.push(Arc::new(Customer { api: Api { client, base, token } }));
    }
    all
}

impl Customer {
    /// Asks until there is an answer that is no "later": away, too many requests, a fault on our side.
    pub async fn ask<F>(&self, what: &str, mut ask: impl FnMut() -> F) -> (u16, Value)
    where
        F: Future<Output = (u16, Value)>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = ask().await;
            if status != 0 && status != 429 && status < 500 {
                return (status, body);
            }
            assert!(Instant::now() < deadline, "{what}: still {status} {body} after {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Places an order, with a key that makes trying again harmless.
    async fn place(&self, name: &str, location: &str) -> (u16, Value) {
        let order = json!({
            "location": location, "image": "debian-13", "plan": "s", "interval": "month",
            "hostname": name, "ssh_keys": [SSH_KEY], "accept_terms": true,
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer =
                self.ask("place an order", || self.api.post_with_key("/orders", order.clone(), name)).await;
            // Three unpaid orders at a time: the others have to be paid first.
            let later = answer.0 == 409 && answer.1["code"] != "sold_out" || answer.0 == 422;
            if !later {
                return answer;
            }
            assert!(Instant::now() < deadline, "place an order: still {} {}", answer.0, answer.1);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The payment page of an order; asked for again where Stripe was away at the first time.
    async fn payment_page(&self, order: &Value) -> String {
        let id = order["id"].as_str().unwrap();
        let mut known = order["checkout_url"].clone();
        let deadline = Instant::now() + PATIENCE;
        while !known.is_string() {
            let path = format!("/orders/{id}/checkout");
            let (_, body) = self.ask("a payment page", || self.api.post(&path, json!({}))).await;
            known = body["checkout_url"].clone();
            assert!(Instant::now() < deadline, "no payment page for {id}: {body}");
            if !known.is_string() {
                tokio::time::sleep(LOOK).await;
            }
        }
        known.as_str().unwrap().to_owned()
    }

    async fn order(&self, id: &str) -> Value {
        let path = format!("/orders/{id}");
        self.ask("an order", || self.api.try_get(&path)).await.1
    }

    /// Waits until the server is in a state.
    async fn server_is(&self, id: &str, wanted: &str) {
        let path = format!("/servers/{id}");
        until(&format!("server {id} to be {wanted}"), PATIENCE, || async {
            let (_, body) = self.ask("a server", || self.api.try_get(&path)).await;
            if body["state"] == wanted {
                return Some(());
            }
            tokio::time::sleep(LOOK).await;
            None
        })
        .await;
    }
}

/// Pays a page, also while Stripe is away now and then; `false` where it had run out.
async fn pay(demo: &Demo, page: &str, card: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, body) = demo.stripe().try_pay(page, card).await;
        match (status, body["result"].as_str()) {
            (200, Some("paid")) => return true,
            (200, Some(_)) => return false,
            // Paid already: the answer to an earlier try was lost.
            (status, _) if (400..500).contains(&status) => return true,
            _ => {}
        }
        assert!(Instant::now() < deadline, "Stripe takes no payment: {status} {body}");
        tokio::time::sleep(LOOK).await;
    }
}

/// One purchase from its place in time to its end.
pub async fn one(
    demo: Arc<Demo>,
    customer: Arc<Customer>,
    number: u32,
    at: Instant,
    mut dice: Dice,
    diary: Diary,
) -> End {
    tokio::time::sleep_until(at).await;
    let name = format!("soak-{number}");
    let location = *dice.pick(&LOCATIONS);
    let (status, order) = customer.place(&name, location).await;
    if status != 201 {
        diary.note(&format!("{name}: not sold: {}", order["code"]));
        assert_eq!((status, order["code"].as_str()), (409, Some("sold_out")), "{order}");
        return End::SoldOut;
    }
    let id = order["id"].as_str().unwrap().to_owned();
    let page = customer.payment_page(&order).await;
    if dice.happens(4) {
        let path = format!("/orders/{id}/cancel");
        customer.ask("to leave", || customer.api.post(&path, json!({}))).await;
        return End::Left;
    }
    if dice.happens(10) {
        assert!(!pay(&demo, &page, "0002").await, "that card is declined");
    }
    pay(&demo, &page, "4242").await;
    diary.note(&format!("{name} paid: order {id}"));
    let what = format!("{name}, order {id}, to come to an end");
    let end = until(&what, PATIENCE * 2, || async {
        let order = customer.order(&id).await;
        let state = order["state"].as_str().unwrap_or_default();
        let end = match state {
            "fulfilled" => End::Fulfilled,
            "refunded" => End::Refunded,
            "needs_operator" => End::OnTheDesk,
            _ => {
                tokio::time::sleep(LOOK).await;
                return None;
            }
        };
        Some((end, order))
    });
    let (end, order) = end.await;
    diary.note(&format!("{name} {end:?}"));
    if end != End::Fulfilled {
        diary.note(&format!("{name}: {order}"));
        return end;
    }
    let server = order["server_id"].as_str().unwrap();
    while dice.happens(40) {
        care::look_after(&customer, server, &name, &mut dice, &diary).await;
    }
    if !dice.happens(25) {
        return end;
    }
    let path = format!("/servers/{server}");
    customer.ask("to delete", || async { (customer.api.delete(&path).await, Value::Null) }).await;
    customer.server_is(server, "retired").await;
    diary.note(&format!("{name} deleted"));
    End::Deleted
}

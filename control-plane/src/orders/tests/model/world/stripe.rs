//! What comes from Stripe: its events, pages that end, refunds that arrive, and what billing makes of it.

use serde_json::json;

use super::{Broken, World};
use crate::{
    billing::{self, stripe::testing::sign},
    fleet::testing::read,
    instances::{self, SuspendError},
    orders::Order,
};

impl World {
    pub(super) async fn session(&self, n: usize, which: impl Fn(&Order) -> bool) -> Option<String> {
        let order = self.order(n, which).await?;
        read(&self.app, async |c| billing::checkout_of(c, order.id).await).await?.session_id
    }

    pub(super) async fn deliver(&self, body: &str) -> Result<(), Broken> {
        let secret = self.app.config.stripe.webhook_secrets[0].expose().to_owned();
        let header = sign(body, &secret, self.now());
        let stored = billing::intake(&self.app, body.as_bytes(), Some(&header)).await;
        stored.map(|_| ()).map_err(|error| format!("a webhook was answered with {error:?}"))
    }

    /// Stripe writes an event about everything that has changed and sends it off.
    pub(super) fn stripe_notes(&mut self) {
        let mut changed = Vec::new();
        for (id, object) in &self.stripe.state().objects {
            let word = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let kind = match word("object").as_str() {
                "checkout.session" => format!("checkout.session.{}", word("status")),
                "subscription" => format!("customer.subscription.{}", word("status")),
                "invoice" => format!("invoice.{}", word("status")),
                "refund" => format!("refund.{}", word("status")),
                _ => continue,
            };
            let stands = format!("{kind} {}", word("payment_status"));
            if self.noted.get(id) != Some(&stands) && kind != "checkout.session.open" {
                changed.push((kind, id.clone()));
            }
            self.noted.insert(id.clone(), stands);
        }
        for (kind, id) in changed {
            self.in_flight.push(self.stripe.event(&kind, &id));
        }
    }

    pub(super) fn stripe_clock(&mut self) {
        let now = self.now().as_secs();
        let over: Vec<String> = self
            .stripe
            .state()
            .objects
            .values()
            .filter(|o| o["object"] == "checkout.session" && o["status"] == "open")
            .filter(|o| o["expires_at"].as_i64().is_some_and(|end| end <= now))
            .map(|o| o["id"].as_str().unwrap().to_owned())
            .collect();
        over.iter().for_each(|session| self.stripe.let_expire(session));
        self.stripe_notes();
    }

    /// Refunds that were on their way arrive.
    pub(super) fn refunds_arrive(&mut self) {
        let mut state = self.stripe.state();
        state.refunds_end = None;
        state.failures.clear();
        for object in state.objects.values_mut() {
            if object["object"] == "refund" && object["status"] == "pending" {
                object["status"] = json!("succeeded");
            }
        }
    }

    /// Billing has a server suspended or resumed.
    pub(super) async fn suspends(&mut self, n: usize, suspended: bool) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        let (at, id) = (self.now(), server.id);
        let done = self
            .app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    match suspended {
                        true => instances::suspend(tx, at, id, "unpaid", "billing").await,
                        false => instances::resume(tx, at, id, "", "billing").await,
                    }
                })
            })
            .await;
        match done {
            Ok(_) | Err(SuspendError::DoesNotFit(_)) => Ok(()),
            Err(error) => Err(format!("a suspension answered {error:?}")),
        }
    }
}

//! Stripe's ledger, asked through its public API.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{LoadError, StripeAccess};
use crate::check::world::{Credit, Invoice, InvoiceItem, Purchase, StripeOrder, World};

/// Nobody's server ends without having been told so long before, unless they wished it.
const NOTICE_SECONDS: i64 = 48 * 3_600;

/// Reads what was paid and given back for each order, and which events were delivered.
pub(super) async fn read(access: &StripeAccess, world: &mut World) -> Result<(), LoadError> {
    let api = Api { client: reqwest::Client::new(), access };
    let subscriptions = api.list("/v1/subscriptions?status=all").await?;
    let invoices = api.list("/v1/invoices?").await?;
    let payments = api.list("/v1/invoice_payments?").await?;
    let pages = api.list("/v1/checkout/sessions?status=complete").await?;
    let refunds = api.list("/v1/refunds?").await?;
    let disputes = api.list("/v1/disputes?").await?;
    let customers: BTreeSet<&str> = subscriptions.iter().filter_map(|one| one["customer"].as_str()).collect();
    let deleted = deleted_of(&api, &customers).await?;
    let mut by_subscription: BTreeMap<&str, StripeOrder> = BTreeMap::new();
    for subscription in &subscriptions {
        let (Some(id), Some(order)) =
            (subscription["id"].as_str(), subscription["metadata"]["order_id"].as_str())
        else {
            continue;
        };
        let items = subscription["items"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let one_server = matches!(items, [item] if item["quantity"].as_i64().unwrap_or(1) == 1);
        let price = &subscription["items"]["data"][0]["price"];
        let known = StripeOrder {
            order: order.to_owned(),
            subscription: Some(id.to_owned()),
            status: subscription["status"].as_str().map(str::to_owned),
            price: price["id"].as_str().map(str::to_owned),
            plan: price["lookup_key"].as_str().and_then(|key| key.split(':').next()).map(str::to_owned),
            pending: !subscription["pending_update"].is_null(),
            not_one_server: !one_server,
            lasts_until: lasts_until(subscription, &deleted),
            ..StripeOrder::default()
        };
        by_subscription.insert(id, known);
    }
    let mut subscription_of_invoice: BTreeMap<&str, &str> = BTreeMap::new();
    for invoice in &invoices {
        let subscription =
            invoice["parent"]["subscription_details"]["subscription"].as_str().unwrap_or_default();
        let Some(order) = by_subscription.get_mut(subscription) else { continue };
        order.paid += invoice["amount_paid"].as_i64().unwrap_or(0);
        let paid_at = invoice["status_transitions"]["paid_at"].as_i64().map(|s| s * 1_000);
        order.paid_at = match (order.paid_at, paid_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        subscription_of_invoice.insert(invoice["id"].as_str().unwrap_or_default(), subscription);
    }
    for page in &pages {
        let Some(order) = page["subscription"].as_str().and_then(|id| by_subscription.get_mut(id)) else {
            continue;
        };
        let sum = |pointer: &str| page.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
        order.page = Some(Purchase {
            due: sum("/amount_subtotal"),
            discount: sum("/total_details/amount_discount"),
            tax: sum("/total_details/amount_tax"),
            paid: sum("/amount_total"),
        });
        let discounts = page["discounts"].as_array().cloned().unwrap_or_default();
        order.by_code =
            !discounts.is_empty() && discounts.iter().all(|one| one["promotion_code"].is_string());
    }
    world.invoices = invoices
        .iter()
        .map(|invoice| Invoice {
            id: invoice["id"].as_str().unwrap_or_default().to_owned(),
            status: invoice["status"].as_str().unwrap_or_default().to_owned(),
            total: invoice["total"].as_i64().unwrap_or_default(),
            paid: invoice["amount_paid"].as_i64().unwrap_or_default(),
            paid_for: paid_for(invoice),
            refunded: 0,
            disputed: false,
            pays_until: pays_until(invoice),
        })
        .collect();
    world.closed.extend(subscriptions.iter().filter_map(|subscription| ended(subscription, &deleted)));
    let invoice_of_payment: BTreeMap<&str, &str> = payments
        .iter()
        .filter_map(|p| Some((p["payment"]["payment_intent"].as_str()?, p["invoice"].as_str()?)))
        .collect();
    for refund in refunds.iter().filter(|r| r["status"] == "succeeded") {
        let invoice = refund["payment_intent"].as_str().and_then(|pi| invoice_of_payment.get(pi));
        if let Some(known) = world.invoices.iter_mut().find(|known| invoice.is_some_and(|i| *i == known.id)) {
            known.refunded += refund["amount"].as_i64().unwrap_or(0);
        }
        let subscription = invoice.and_then(|i| subscription_of_invoice.get(i));
        if let Some(order) = subscription.and_then(|s| by_subscription.get_mut(s)) {
            order.refunded += refund["amount"].as_i64().unwrap_or(0);
        }
    }
    let given_up = |dispute: &&Value| !matches!(dispute["status"].as_str(), Some("won" | "prevented"));
    for dispute in disputes.iter().filter(given_up) {
        let invoice = dispute["payment_intent"].as_str().and_then(|pi| invoice_of_payment.get(pi));
        if let Some(known) = world.invoices.iter_mut().find(|known| invoice.is_some_and(|i| *i == known.id)) {
            known.disputed = true;
        }
        let subscription = invoice.and_then(|i| subscription_of_invoice.get(i));
        let Some(order) = subscription.and_then(|s| by_subscription.get_mut(s)) else { continue };
        match dispute["status"].as_str() {
            Some("lost") => order.taken_back += dispute["amount"].as_i64().unwrap_or(0),
            _ => order.bank_decides = true,
        }
    }
    world.stripe = by_subscription.into_values().collect();
    let items = api.list("/v1/invoiceitems?").await?;
    let ours = items.iter().filter_map(|item| {
        Some(InvoiceItem {
            id: item["id"].as_str()?.to_owned(),
            key: item["metadata"]["traffic"].as_str()?.to_owned(),
            amount: item["amount"].as_i64()?,
            invoice: item["invoice"].as_str().map(str::to_owned),
            made_at: item["date"].as_i64().unwrap_or(0) * 1_000,
        })
    });
    world.invoice_items = ours.collect();
    for customer in customers {
        // With a customer go the balance and what was booked on it.
        if deleted.contains(customer) {
            let theirs = subscriptions.iter().filter(|one| one["customer"] == customer);
            let orders = theirs.filter_map(|one| one["metadata"]["order_id"].as_str().map(str::to_owned));
            world.without_balance.extend(orders);
            continue;
        }
        let booked = api.list(&format!("/v1/customers/{customer}/balance_transactions?")).await?;
        world.credits.extend(booked.iter().filter_map(credit));
    }
    let delivered = api.list("/v1/events?delivery_success=true").await?;
    world.delivered = delivered.iter().filter_map(|e| e["id"].as_str().map(str::to_owned)).collect();
    Ok(())
}

/// Credit that carries a mark of ours; what Stripe books by itself has none.
fn credit(booked: &Value) -> Option<Credit> {
    let marks = ["refund_credit", "goodwill"].into_iter();
    let mut marks = marks.filter_map(|name| Some(format!("{name}:{}", booked["metadata"][name].as_str()?)));
    Some(Credit {
        mark: marks.next()?,
        amount: -booked["amount"].as_i64()?,
        at: booked["created"].as_i64().unwrap_or(0) * 1_000,
    })
}

/// Until when the time lasts that an invoice charges, in milliseconds. What was used has no length, or ended before; of what a
/// purchase began with and of an invoice made by hand there is none. A change of plan that is not paid is not carried out, so
/// its invoice buys nothing once the service is over; nor may one whose lines are not all seen.
fn pays_until(invoice: &Value) -> Option<i64> {
    match invoice["billing_reason"].as_str() {
        None | Some("subscription_create" | "manual") => return None,
        Some("subscription_update") => return Some(i64::MAX),
        Some(_) => {}
    }
    let lines = invoice["lines"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if lines.is_empty() || invoice["lines"]["has_more"] == true {
        return Some(i64::MAX);
    }
    let until = |line: &Value| match (line["period"]["start"].as_i64(), line["period"]["end"].as_i64()) {
        (Some(start), Some(end)) => (end > start).then_some(end * 1_000),
        _ => Some(i64::MAX),
    };
    lines.iter().filter_map(until).max()
}

/// The subscription that an invoice is of, and when it was paid.
fn paid_for(invoice: &Value) -> Option<(String, i64)> {
    let subscription = invoice["parent"]["subscription_details"]["subscription"].as_str()?;
    Some((subscription.to_owned(), invoice["status_transitions"]["paid_at"].as_i64()? * 1_000))
}

/// The customers who were deleted: nobody wished the ends of their subscriptions, and they have no balance any more.
async fn deleted_of(api: &Api<'_>, customers: &BTreeSet<&str>) -> Result<BTreeSet<String>, LoadError> {
    let mut deleted = BTreeSet::new();
    for customer in customers {
        if api.one(&format!("/v1/customers/{customer}")).await?["deleted"] == true {
            deleted.insert((*customer).to_owned());
        }
    }
    Ok(deleted)
}

/// Whether Stripe ended a subscription by itself: because nobody paid, or because a payment is disputed.
fn was_given_up(subscription: &Value) -> bool {
    let reason = subscription["cancellation_details"]["reason"].as_str();
    matches!(reason, Some("payment_failed" | "payment_disputed"))
}

fn is_orphan(subscription: &Value, deleted: &BTreeSet<String>) -> bool {
    subscription["customer"].as_str().is_some_and(|customer| deleted.contains(customer))
}

/// How long what a subscription paid for may be served after it has ended without anybody's wish: its period, or the notice if
/// that is longer.
fn lasts_until(subscription: &Value, deleted: &BTreeSet<String>) -> Option<i64> {
    if !was_given_up(subscription) && !is_orphan(subscription, deleted) {
        return None;
    }
    let ended = subscription["ended_at"].as_i64()?;
    let period = subscription["items"]["data"][0]["current_period_end"].as_i64().unwrap_or(0);
    Some(period.max(ended + NOTICE_SECONDS) * 1_000)
}

/// A subscription that has ended, and when. One whose end nobody wished can still be paid.
fn ended(subscription: &Value, deleted: &BTreeSet<String>) -> Option<(String, i64)> {
    let over = subscription["status"] == "canceled"
        && !was_given_up(subscription)
        && !is_orphan(subscription, deleted);
    let at = subscription["ended_at"].as_i64().filter(|_| over)?;
    Some((subscription["id"].as_str()?.to_owned(), at * 1_000))
}

struct Api<'a> {
    client: reqwest::Client,
    access: &'a StripeAccess,
}

impl Api<'_> {
    /// One object.
    async fn one(&self, path: &str) -> Result<Value, LoadError> {
        let url = format!("{}{path}", self.access.url.trim_end_matches('/'));
        let fault = LoadError::http(&url);
        let answer =
            self.client.get(&url).bearer_auth(&self.access.secret_key).send().await.map_err(&fault)?;
        answer.error_for_status().map_err(&fault)?.json().await.map_err(&fault)
    }

    /// Every object of a list, page after page.
    async fn list(&self, path: &str) -> Result<Vec<Value>, LoadError> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let mut url = format!("{}{path}&limit=100", self.access.url.trim_end_matches('/'));
            if let Some(last) = all.last().and_then(|o| o["id"].as_str()) {
                url.push_str(&format!("&starting_after={last}"));
            }
            let fault = LoadError::http(&url);
            let answer =
                self.client.get(&url).bearer_auth(&self.access.secret_key).send().await.map_err(&fault)?;
            let page: Value = answer.error_for_status().map_err(&fault)?.json().await.map_err(&fault)?;
            all.extend(page["data"].as_array().cloned().unwrap_or_default());
            if page["has_more"] != true {
                return Ok(all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_invoice_pays_until_its_last_line_ends() {
        let line = |start: i64, end: i64| json!({ "period": { "start": start, "end": end } });
        let (used, next, moment) = (line(10, 20), line(20, 50), line(30, 30));
        let of = |reason: &str, lines: &[&Value]| {
            pays_until(&json!({ "billing_reason": reason, "lines": { "data": lines } }))
        };
        // Traffic, what somebody put there by hand, the rest of a plan change: whatever it is, it was used.
        assert_eq!(of("subscription_cycle", &[&used, &moment]), Some(20_000));
        assert_eq!(of("subscription_cycle", &[&moment]), None);
        assert_eq!(of("subscription_cycle", &[&used, &next]), Some(50_000));
        assert_eq!(of("subscription_update", &[&used]), Some(i64::MAX), "it was not carried out");
        assert_eq!(of("subscription_create", &[&next]), None);
        assert_eq!(of("manual", &[&used]), None);
        // What is not seen may be anything.
        assert_eq!(of("subscription_cycle", &[]), Some(i64::MAX));
        assert_eq!(of("subscription_cycle", &[&json!({ "amount": 5 })]), Some(i64::MAX));
        let long =
            json!({ "billing_reason": "subscription_cycle", "lines": { "data": [used], "has_more": true } });
        assert_eq!(pays_until(&long), Some(i64::MAX));
    }
}

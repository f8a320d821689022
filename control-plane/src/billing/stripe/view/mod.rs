//! What we read out of Stripe's answers: small, lenient, open to words we do not know.
//!
//! A view refuses nothing by itself; whoever decides on money asks for what the decision needs and
//! treats a missing field as "not settled, tell a person".

mod catalogue;
mod customer;
mod event;
mod given_back;
mod invoice;
mod session;
mod subscription;

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use catalogue::{CouponView, PriceView, ProductView, PromotionCodeView};
pub use customer::{CardView, CustomerView, PaymentMethodView};
pub use event::EventEnvelope;
pub(crate) use event::EventList;
pub(crate) use given_back::DisputeState;
pub use given_back::{DisputeView, RefundView};
pub use invoice::InvoiceView;
pub(crate) use invoice::{credit_between, invoice_of, paid_by, waiting_intent};
pub use session::CheckoutSession;
pub use subscription::SubscriptionView;

/// A reference that Stripe gives as an id, or expanded as an object.
fn id_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        Some(Value::String(id)) => Some(id),
        Some(Value::Object(object)) => object.get("id").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    })
}

/// A map that may be null.
fn map_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list envelope of which only the rows matter.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Rows<T> {
    #[serde(default = "Vec::new")]
    data: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { data: Vec::new() }
    }
}

/// The rows of a list that can be read; a row that cannot is left out here and stays in the raw answer.
pub(crate) fn page_of<T: serde::de::DeserializeOwned>(list: &Value) -> Vec<T> {
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rows.iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_id_is_needed_to_read_an_object() {
        assert!(serde_json::from_value::<CheckoutSession>(json!({"id": "cs_1"})).is_ok());
        assert!(serde_json::from_value::<SubscriptionView>(json!({"id": "sub_1"})).is_ok());
        assert!(serde_json::from_value::<InvoiceView>(json!({"id": "in_1"})).is_ok());
        assert!(serde_json::from_value::<RefundView>(json!({"id": "re_1", "metadata": null})).is_ok());
    }

    #[test]
    fn references_are_ids_or_objects() {
        for customer in [json!("cus_1"), json!({"id": "cus_1", "object": "customer"})] {
            let session: CheckoutSession =
                serde_json::from_value(json!({"id": "cs_1", "customer": customer, "status": "a_new_word"}))
                    .unwrap();
            assert_eq!(session.customer.as_deref(), Some("cus_1"));
        }
    }

    #[test]
    fn the_period_lives_on_the_item_and_the_subscription_under_parent() {
        let subscription: SubscriptionView = serde_json::from_value(json!({
            "id": "sub_1", "status": "active",
            "items": {"object": "list", "data": [{"id": "si_1", "price": {"id": "price_1"}, "current_period_start": 5, "current_period_end": 9}]},
        }))
        .unwrap();
        assert_eq!(subscription.period(), (Some(5), Some(9)));
        assert_eq!(subscription.price_id(), Some("price_1"));
        let invoice: InvoiceView = serde_json::from_value(json!({
            "id": "in_1", "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}},
        }))
        .unwrap();
        assert_eq!(invoice.subscription_id(), Some("sub_1"));
    }

    #[test]
    fn a_subscription_is_for_one_server_or_says_what_it_is_charged_for() {
        let item = |quantity: Value| json!({"id": "si_1", "quantity": quantity, "price": {"id": "price_1", "unit_amount": 900, "currency": "eur"}});
        let read = |items: Vec<Value>| {
            let value = json!({"id": "sub_1", "items": {"object": "list", "data": items}});
            let subscription: SubscriptionView = serde_json::from_value(value).unwrap();
            (subscription.is_one_server(), subscription.charge().map(|(minor, ..)| minor))
        };
        assert_eq!(read(vec![item(json!(1))]), (true, Some(900)));
        assert_eq!(read(vec![item(Value::Null)]), (true, Some(900)), "what is metered has none");
        assert_eq!(read(vec![item(json!(3))]), (false, Some(2_700)));
        assert!(!read(vec![item(json!(1)), item(json!(1))]).0);
        assert!(!read(Vec::new()).0);
    }

    #[test]
    fn snapshot_and_thin_events_read_alike() {
        let snapshot = EventEnvelope::read(&json!({
            "id": "evt_1", "object": "event", "type": "customer.created", "created": 7, "livemode": false,
            "data": {"object": {"id": "cus_1", "object": "customer"}},
        }))
        .unwrap();
        let thin = EventEnvelope::read(&json!({
            "id": "evt_2", "object": "v2.core.event", "type": "v1.customer.created",
            "related_object": {"id": "cus_1", "type": "customer", "url": "/v1/customers/cus_1"},
        }))
        .unwrap();
        assert_eq!((&snapshot.kind, &snapshot.object_id), (&thin.kind, &thin.object_id));
        assert_eq!(snapshot.object_kind, thin.object_kind);
        assert_eq!(EventEnvelope::read(&json!({"type": "x"})), None);
    }

    #[test]
    fn only_a_paid_payment_names_the_intent() {
        let list = json!({"data": [
            {"status": "canceled", "payment": {"type": "payment_intent", "payment_intent": "pi_0"}},
            {"status": "paid", "payment": {"type": "payment_intent", "payment_intent": "pi_1"}},
            {"status": "paid", "payment": {"type": "payment_record", "payment_record": "pr_1"}},
        ]});
        assert_eq!(paid_by(&list), [Some("pi_1".to_owned()), None]);
        assert!(paid_by(&json!({})).is_empty());
    }
}

//! What we read out of Stripe's answers: small, lenient, open to words we do not know.
//!
//! A view refuses nothing by itself; whoever decides on money asks for what the decision needs and
//! treats a missing field as "not settled, tell a person".

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::HashMap;

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

/// A hosted payment page.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckoutSession {
    /// `cs_…`
    pub id: String,
    /// Where to send the customer; absent once it is over.
    pub url: Option<String>,
    /// `open`, `complete` or `expired`.
    pub status: Option<String>,
    /// `paid`, `unpaid` or `no_payment_required`.
    pub payment_status: Option<String>,
    /// What the lines cost before discounts and taxes, in minor units.
    pub amount_subtotal: Option<i64>,
    /// What the customer pays, in minor units.
    pub amount_total: Option<i64>,
    total_details: Option<TotalDetails>,
    #[serde(default)]
    discounts: Option<Vec<SessionDiscount>>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `cus_…`
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// `sub_…`, once complete.
    #[serde(default, deserialize_with = "id_of")]
    pub subscription: Option<String>,
    /// `in_…`, once complete.
    #[serde(default, deserialize_with = "id_of")]
    pub invoice: Option<String>,
    /// Our order id.
    pub client_reference_id: Option<String>,
    /// Whether real money moves.
    pub livemode: Option<bool>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
    /// Unix seconds.
    pub expires_at: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct TotalDetails {
    amount_discount: Option<i64>,
    amount_tax: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct SessionDiscount {
    #[serde(default, deserialize_with = "id_of")]
    promotion_code: Option<String>,
}

impl CheckoutSession {
    /// What was taken off and what of it is taxes, in minor units.
    pub fn discount_and_tax(&self) -> Option<(i64, i64)> {
        let details = self.total_details.as_ref()?;
        Some((details.amount_discount?, details.amount_tax?))
    }

    /// The promotion code of each discount; `None` where a discount names none.
    pub fn promotion_codes(&self) -> Vec<Option<&str>> {
        let discounts = self.discounts.as_deref().unwrap_or_default();
        discounts.iter().map(|discount| discount.promotion_code.as_deref()).collect()
    }
}

/// One server's subscription.
#[derive(Debug, Clone, Deserialize)]
pub struct SubscriptionView {
    /// `sub_…`
    pub id: String,
    /// Stripe's word for its state; may be one we do not know.
    pub status: Option<String>,
    /// `cus_…`
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// `in_…`
    #[serde(default, deserialize_with = "id_of")]
    pub latest_invoice: Option<String>,
    /// Whether real money moves.
    pub livemode: Option<bool>,
    /// Unix seconds.
    pub cancel_at: Option<i64>,
    /// Unix seconds.
    pub canceled_at: Option<i64>,
    /// What is charged at the next renewal; `pm_…`. None: the customer's default.
    #[serde(default, deserialize_with = "id_of")]
    pub default_payment_method: Option<String>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
    /// `sub_sched_…`, while one says what becomes of it.
    #[serde(default, deserialize_with = "id_of")]
    pub schedule: Option<String>,
    pending_update: Option<PendingUpdate>,
    pause_collection: Option<Value>,
    #[serde(default)]
    discounts: Option<Vec<Value>>,
    cancellation_details: Option<Reason>,
    status_details: Option<StatusDetails>,
    #[serde(default)]
    items: Rows<SubscriptionItem>,
}

#[derive(Debug, Clone, Deserialize)]
struct Reason {
    reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct StatusDetails {
    paused: Option<PausedDetails>,
}

#[derive(Debug, Clone, Deserialize)]
struct PausedDetails {
    subscription: Option<PausedBy>,
}

#[derive(Debug, Clone, Deserialize)]
struct PausedBy {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct SubscriptionItem {
    id: Option<String>,
    price: Option<PriceView>,
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct PendingUpdate {
    expires_at: Option<i64>,
    #[serde(default)]
    subscription_items: Option<Vec<SubscriptionItem>>,
}

impl SubscriptionView {
    /// The change that waits for its payment: its price, and until when (unix seconds).
    pub fn pending(&self) -> Option<(&str, Option<i64>)> {
        let update = self.pending_update.as_ref()?;
        let item = update.subscription_items.as_ref().and_then(|items| items.first());
        let price = item.and_then(|item| item.price.as_ref()).map_or("", |price| price.id.as_str());
        Some((price, update.expires_at))
    }

    /// The price of its one item.
    pub fn price_id(&self) -> Option<&str> {
        self.items.data.first()?.price.as_ref().map(|price| price.id.as_str())
    }

    /// The id of its one item.
    pub fn item_id(&self) -> Option<&str> {
        self.items.data.first()?.id.as_deref()
    }

    /// How many items it has; ours always have one.
    pub fn item_count(&self) -> usize {
        self.items.data.len()
    }

    /// What its codes take off: `di_…`, whether given as an id or as an object.
    pub fn discounts(&self) -> Vec<String> {
        let discounts = self.discounts.as_deref().unwrap_or_default().iter();
        let id =
            |discount: &Value| discount.as_str().or_else(|| discount.get("id")?.as_str()).map(str::to_owned);
        discounts.filter_map(id).collect()
    }

    /// Why it is paused, in Stripe's word, if it says so.
    pub fn pause_reason(&self) -> Option<&str> {
        self.status_details.as_ref()?.paused.as_ref()?.subscription.as_ref()?.kind.as_deref()
    }

    /// Why it was cancelled: `cancellation_requested`, `payment_failed` …
    pub fn end_reason(&self) -> Option<&str> {
        self.cancellation_details.as_ref()?.reason.as_deref()
    }

    /// Whether invoices are not collected for now; the status says nothing about that.
    pub fn collection_paused(&self) -> bool {
        self.pause_collection.as_ref().is_some_and(|pause| !pause.is_null())
    }

    /// What its one item costs per period: minor units, currency, and how many months the period has.
    pub fn charge(&self) -> Option<(i64, String, i64)> {
        let price = self.items.data.first()?.price.as_ref()?;
        Some((price.unit_amount?, price.currency.clone()?, price.months().unwrap_or(1)))
    }

    /// Begin and end of the current period in unix seconds (they live on the item).
    pub fn period(&self) -> (Option<i64>, Option<i64>) {
        self.items.data.first().map_or((None, None), |i| (i.current_period_start, i.current_period_end))
    }
}

/// A price of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub struct PriceView {
    /// `price_…`
    pub id: String,
    /// Minor units.
    pub unit_amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `<plan>:<interval>:<currency>:v1`
    pub lookup_key: Option<String>,
    /// `prod_…`, or the id we gave it.
    #[serde(default, deserialize_with = "id_of")]
    pub product: Option<String>,
    /// Whether it can be bought.
    pub active: Option<bool>,
    /// `inclusive`, `exclusive` or `unspecified`.
    pub tax_behavior: Option<String>,
    recurring: Option<Recurring>,
}

/// A product of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub struct ProductView {
    /// What customers read.
    pub name: Option<String>,
    /// Whether it can be bought.
    pub active: Option<bool>,
}

/// A discount that promotion codes give.
#[derive(Debug, Clone, Deserialize)]
pub struct CouponView {
    /// What customers read.
    pub name: Option<String>,
    /// A whole number wherever it is ours.
    pub percent_off: Option<serde_json::Number>,
    /// Minor units.
    pub amount_off: Option<i64>,
    /// Of the amount.
    pub currency: Option<String>,
    /// `once`, `repeating` or `forever`.
    pub duration: Option<String>,
    /// Where it is repeating.
    pub duration_in_months: Option<u32>,
    applies_to: Option<AppliesTo>,
}

#[derive(Debug, Clone, Deserialize)]
struct AppliesTo {
    #[serde(default)]
    products: Vec<String>,
}

impl CouponView {
    /// The products it is good for; empty for all.
    pub fn products(&self) -> &[String] {
        self.applies_to.as_ref().map_or(&[], |to| &to.products)
    }
}

/// What customers type at the payment page.
#[derive(Debug, Clone, Deserialize)]
pub struct PromotionCodeView {
    /// `promo_…`
    pub id: String,
    /// Whether it is taken.
    #[serde(default)]
    pub active: bool,
    /// How often it may be used.
    pub max_redemptions: Option<i64>,
    /// How often it was.
    #[serde(default)]
    pub times_redeemed: i64,
    /// Unix seconds.
    pub expires_at: Option<i64>,
    #[serde(default, deserialize_with = "map_or_null")]
    metadata: HashMap<String, String>,
    restrictions: Option<Restrictions>,
    promotion: Option<Promotion>,
}

#[derive(Debug, Clone, Deserialize)]
struct Restrictions {
    first_time_transaction: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct Promotion {
    #[serde(default, deserialize_with = "id_of")]
    coupon: Option<String>,
}

impl PromotionCodeView {
    /// The coupon behind it.
    pub fn coupon(&self) -> Option<&str> {
        self.promotion.as_ref()?.coupon.as_deref()
    }

    /// Whether only a first purchase may use it.
    pub fn first_purchase(&self) -> bool {
        self.restrictions.as_ref().and_then(|only| only.first_time_transaction) == Some(true)
    }

    /// Whether we made it.
    pub fn is_managed(&self) -> bool {
        self.metadata.get("managed_by").is_some_and(|by| by == "ez")
    }

    /// Whether nothing but its use or its time has ended it, as of this time in unix seconds.
    pub fn is_used_up(&self, now: i64) -> bool {
        self.max_redemptions.is_some_and(|most| self.times_redeemed >= most)
            || self.expires_at.is_some_and(|end| end <= now)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Recurring {
    interval: Option<String>,
    interval_count: Option<i64>,
}

impl PriceView {
    /// How many months a period has; `None` for what is paid once, or by days.
    pub fn months(&self) -> Option<i64> {
        let every = self.recurring.as_ref()?;
        let count = every.interval_count.unwrap_or(1);
        match every.interval.as_deref()? {
            "month" => Some(count),
            "year" => Some(count.saturating_mul(12)),
            _ => None,
        }
    }
}

/// An invoice.
#[derive(Debug, Clone, Deserialize)]
pub struct InvoiceView {
    /// `in_…`
    pub id: String,
    /// Number printed on it, once final.
    pub number: Option<String>,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`.
    pub status: Option<String>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// Minor units.
    pub total: Option<i64>,
    /// Minor units.
    pub amount_paid: Option<i64>,
    /// What is still owed, in minor units.
    pub amount_remaining: Option<i64>,
    /// How often it was tried to collect it.
    pub attempt_count: Option<i64>,
    /// `subscription_create`, `subscription_cycle`, `subscription_update` …
    pub billing_reason: Option<String>,
    /// Unix seconds; only where the customer pays by transfer.
    pub due_date: Option<i64>,
    status_transitions: Option<Transitions>,
    /// `cus_…`
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// Page with the invoice.
    pub hosted_invoice_url: Option<String>,
    /// The PDF.
    pub invoice_pdf: Option<String>,
    /// Unix seconds.
    pub created: Option<i64>,
    parent: Option<InvoiceParent>,
    starting_balance: Option<i64>,
    ending_balance: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Transitions {
    finalized_at: Option<i64>,
    paid_at: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct InvoiceParent {
    subscription_details: Option<InvoiceSubscription>,
}

#[derive(Debug, Clone, Deserialize)]
struct InvoiceSubscription {
    #[serde(default, deserialize_with = "id_of")]
    subscription: Option<String>,
}

impl InvoiceView {
    /// When it fell due: the day the unpaid clock counts from. Unix seconds.
    pub fn due_at(&self) -> Option<i64> {
        let finalized = self.status_transitions.as_ref().and_then(|times| times.finalized_at);
        self.due_date.or(finalized).or(self.created)
    }

    /// When it was paid. Unix seconds.
    pub fn paid_at(&self) -> Option<i64> {
        self.status_transitions.as_ref()?.paid_at
    }

    /// Whether it was paid, whatever with.
    pub fn is_paid(&self) -> bool {
        self.status.as_deref() == Some("paid")
    }

    /// Whether it took money or used credit.
    pub fn took_something(&self) -> bool {
        self.amount_paid.is_some_and(|paid| paid > 0) || self.credit_used() > 0
    }

    /// What credit has paid of it, in minor units: Stripe counts what is owed, so credit that is used raises the balance.
    pub fn credit_used(&self) -> i64 {
        self.ending_balance.zip(self.starting_balance).map_or(0, |(after, before)| after - before).max(0)
    }

    /// The subscription it belongs to.
    pub fn subscription_id(&self) -> Option<&str> {
        self.parent.as_ref()?.subscription_details.as_ref()?.subscription.as_deref()
    }
}

/// Money given back.
#[derive(Debug, Clone, Deserialize)]
pub struct RefundView {
    /// `re_…`
    pub id: String,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `pi_…`
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<String>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
}

/// A payment that the customer's bank takes back.
#[derive(Debug, Clone, Deserialize)]
pub struct DisputeView {
    /// `du_…`
    pub id: String,
    /// `needs_response`, `under_review`, `won`, `lost`, `warning_…`, `prevented` …
    pub status: Option<String>,
    /// The bank's reason.
    pub reason: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `pi_…`
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<String>,
    /// Unix seconds.
    pub created: Option<i64>,
    evidence_details: Option<Evidence>,
}

#[derive(Debug, Clone, Deserialize)]
struct Evidence {
    due_by: Option<i64>,
}

impl DisputeView {
    /// Until when it can be answered, in unix seconds.
    pub fn answer_by(&self) -> Option<i64> {
        self.evidence_details.as_ref()?.due_by
    }
}

/// Who pays.
#[derive(Debug, Clone, Deserialize)]
pub struct CustomerView {
    /// `cus_…`
    pub id: String,
    /// Whether it was deleted at Stripe.
    #[serde(default)]
    pub deleted: bool,
    /// Minor units; negative is credit that the next invoice uses up.
    pub balance: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    invoice_settings: Option<InvoiceSettings>,
}

#[derive(Debug, Clone, Deserialize)]
struct InvoiceSettings {
    #[serde(default, deserialize_with = "id_of")]
    default_payment_method: Option<String>,
}

impl CustomerView {
    /// What is charged where a subscription names nothing; `pm_…`.
    pub fn payment_method(&self) -> Option<&str> {
        self.invoice_settings.as_ref()?.default_payment_method.as_deref()
    }
}

/// A card on file; of other methods only the kind.
#[derive(Debug, Clone, Deserialize)]
pub struct PaymentMethodView {
    /// `pm_…`
    pub id: String,
    /// `card`, `sepa_debit` …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `cus_…`; none once detached.
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// What may be shown of the card.
    pub card: Option<CardView>,
}

/// What may be shown of a card.
#[derive(Debug, Clone, Deserialize)]
pub struct CardView {
    /// For example `visa`.
    pub brand: Option<String>,
    /// Its last four digits.
    pub last4: Option<String>,
    /// Last month it is good in.
    pub exp_month: Option<i64>,
    /// And the year.
    pub exp_year: Option<i64>,
}

/// How an invoice was paid.
#[derive(Debug, Clone, Deserialize)]
struct InvoicePayment {
    status: Option<String>,
    #[serde(default, deserialize_with = "id_of")]
    invoice: Option<String>,
    payment: Option<InvoicePaymentWay>,
}

#[derive(Debug, Clone, Deserialize)]
struct InvoicePaymentWay {
    #[serde(default, deserialize_with = "id_of")]
    payment_intent: Option<String>,
}

/// The payment intent that paid an invoice, out of a list of its payments.
pub(crate) fn paid_by(list: &Value) -> Option<String> {
    page_of::<InvoicePayment>(list)
        .into_iter()
        .filter(|payment| payment.status.as_deref() == Some("paid"))
        .find_map(|payment| payment.payment?.payment_intent)
}

/// The intent that waits for an open invoice to be paid, out of a list of its payments.
pub(crate) fn waiting_intent(list: &Value) -> Option<String> {
    page_of::<InvoicePayment>(list)
        .into_iter()
        .filter(|payment| payment.status.as_deref() == Some("open"))
        .find_map(|payment| payment.payment?.payment_intent)
}

/// The invoice that a payment intent pays, out of a list of payments.
pub(crate) fn invoice_of(list: &Value) -> Option<String> {
    page_of::<InvoicePayment>(list).into_iter().find_map(|payment| payment.invoice)
}

/// The rows of a list that can be read; a row that cannot is left out here and stays in the raw answer.
pub(crate) fn page_of<T: serde::de::DeserializeOwned>(list: &Value) -> Vec<T> {
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rows.iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect()
}

/// The envelope of an event: enough to know which object to read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEnvelope {
    /// `evt_…`
    pub id: String,
    /// For example `checkout.session.completed`, without a `v1.` in front.
    pub kind: String,
    /// The object it is about.
    pub object_id: Option<String>,
    /// What sort of object, for example `checkout.session`.
    pub object_kind: Option<String>,
    /// Unix seconds.
    pub created: i64,
    /// Whether real money moves; absent in thin events.
    pub livemode: Option<bool>,
    /// Version it was rendered in.
    pub api_version: Option<String>,
    /// Set for events of connected accounts, which we have none of.
    pub account: Option<String>,
}

impl EventEnvelope {
    /// Reads a snapshot or a thin event; `None` when it has no id or no type.
    pub fn read(event: &Value) -> Option<Self> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let thin = event.get("object").and_then(Value::as_str) == Some("v2.core.event");
        let kind = text(event.get("type"))?;
        let (object_id, object_kind) = if thin {
            let object = event.get("related_object");
            (text(object.and_then(|o| o.get("id"))), text(object.and_then(|o| o.get("type"))))
        } else {
            let object = event.get("data").and_then(|data| data.get("object"));
            (text(object.and_then(|o| o.get("id"))), text(object.and_then(|o| o.get("object"))))
        };
        Some(Self {
            id: text(event.get("id")).filter(|id| !id.is_empty())?,
            kind: kind.strip_prefix("v1.").unwrap_or(&kind).to_owned(),
            object_id,
            object_kind,
            created: event.get("created").and_then(Value::as_i64).unwrap_or(0),
            livemode: event.get("livemode").and_then(Value::as_bool),
            api_version: text(event.get("api_version")),
            account: text(event.get("account")),
        })
    }
}

/// One page of events, newest first.
#[derive(Debug, Clone)]
pub(crate) struct EventList {
    pub(crate) events: Vec<(EventEnvelope, Value)>,
    pub(crate) has_more: bool,
    pub(crate) last_id: Option<String>,
}

impl EventList {
    pub(crate) fn read(list: &Value) -> Self {
        let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Self {
            events: rows
                .iter()
                .filter_map(|row| EventEnvelope::read(row).map(|envelope| (envelope, row.clone())))
                .collect(),
            has_more: list.get("has_more").and_then(Value::as_bool).unwrap_or(false),
            last_id: rows.last().and_then(|row| row.get("id")).and_then(Value::as_str).map(str::to_owned),
        }
    }
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
        ]});
        assert_eq!(paid_by(&list).as_deref(), Some("pi_1"));
        assert_eq!(paid_by(&json!({})), None);
    }
}

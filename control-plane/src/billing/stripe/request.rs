//! The calls we make, each as a function from our words to a [`Prepared`] request.
//!
//! A prepared request is plain text: it can be stored in the outbox before the call and sent again,
//! byte for byte, after a crash. (The builders keep metadata in hash maps, so building twice would
//! not give the same bytes.)

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stripe::StripeRequest;
use stripe_billing::{
    invoice::{ListInvoice, RetrieveInvoice},
    invoice_payment::ListInvoicePayment,
    subscription::{
        CancelSubscription, ListSubscription, ListSubscriptionStatus, RetrieveSubscription,
        UpdateSubscription,
    },
};
use stripe_checkout::{
    CheckoutSessionMode,
    checkout_session::{
        CreateCheckoutSession, CreateCheckoutSessionAllowedPaymentMethodTypes as PaidWith,
        CreateCheckoutSessionAutomaticTax as AutomaticTax,
        CreateCheckoutSessionCustomerUpdate as CustomerUpdate,
        CreateCheckoutSessionCustomerUpdateAddress as UpdateAddress,
        CreateCheckoutSessionCustomerUpdateName as UpdateName, CreateCheckoutSessionLineItems,
        CreateCheckoutSessionPaymentMethodCollection as CollectMethod, CreateCheckoutSessionSubscriptionData,
        CreateCheckoutSessionSubscriptionDataTrialSettings as TrialSettings,
        CreateCheckoutSessionSubscriptionDataTrialSettingsEndBehavior as EndBehavior,
        CreateCheckoutSessionSubscriptionDataTrialSettingsEndBehaviorMissingPaymentMethod as MissingPaymentMethod,
        CreateCheckoutSessionTaxIdCollection as TaxIds, ExpireCheckoutSession, ListCheckoutSession,
        RetrieveCheckoutSession,
    },
};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_core::{
    customer::{CreateCustomer, ListCustomer},
    event::ListEvent,
    refund::{CreateRefund, ListRefund, RetrieveRefund},
};
use stripe_types::RangeQueryTs;

use ez_protocol::UnixMillis;

/// Most rows Stripe gives in one page.
pub(super) const PAGE: i64 = 100;

/// HTTP method of a prepared request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

/// A request frozen to the bytes that are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub(crate) method: Method,
    /// Path below `/v1`.
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) query: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
}

impl Prepared {
    pub(super) fn of(request: &impl StripeRequest) -> Self {
        let RequestBuilder { query, body, path, method } = request.build();
        let method = match method {
            StripeMethod::Get => Method::Get,
            StripeMethod::Post => Method::Post,
            StripeMethod::Delete => Method::Delete,
        };
        Self { method, path, query, body }
    }

    /// Hash of everything that is sent, in hexadecimal.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for part in [Some(&self.path), self.query.as_ref(), self.body.as_ref()] {
            hasher.update(part.map_or("", String::as_str));
            hasher.update([0]);
        }
        data_encoding::HEXLOWER.encode(&hasher.finalize())
    }
}

/// A POST of a kind whose builders we do not compile.
pub(super) fn posted<'a>(path: String, pairs: impl IntoIterator<Item = (&'a str, String)>) -> Prepared {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Prepared { method: Method::Post, path, query: None, body: Some(body) }
}

/// Words that tie a Stripe object to what it is for.
pub(crate) type Metadata = HashMap<String, String>;

/// What a Checkout session is made from.
#[derive(Debug, Clone)]
pub(crate) struct SessionParts<'a> {
    pub(crate) customer: &'a str,
    pub(crate) price: &'a str,
    pub(crate) reference: &'a str,
    pub(crate) return_url: &'a str,
    pub(crate) description: &'a str,
    pub(crate) expires_at: UnixMillis,
    pub(crate) metadata: Metadata,
    /// One-time price that is paid with the first interval.
    pub(crate) setup_price: Option<&'a str>,
    /// Days before the first interval is paid; 0 for none.
    pub(crate) trial_days: u32,
    /// Whether the page has a field for a promotion code.
    pub(crate) promotion_codes: bool,
    /// Whether Stripe works out taxes.
    pub(crate) automatic_tax: bool,
    /// Whether the page asks for a tax id.
    pub(crate) tax_ids: bool,
}

pub(crate) fn create_session(parts: SessionParts<'_>) -> Prepared {
    let line = |price: &str| CreateCheckoutSessionLineItems {
        price: Some(price.to_owned()),
        quantity: Some(1),
        ..CreateCheckoutSessionLineItems::new()
    };
    let lines = [Some(parts.price), parts.setup_price].into_iter().flatten().map(line).collect::<Vec<_>>();
    let mut subscription = CreateCheckoutSessionSubscriptionData::new();
    subscription.metadata = Some(parts.metadata.clone());
    subscription.description = Some(parts.description.to_owned());
    if parts.trial_days > 0 {
        subscription.trial_period_days = Some(parts.trial_days);
        let end = EndBehavior::new(MissingPaymentMethod::Cancel);
        subscription.trial_settings = Some(TrialSettings::new(end));
    }
    let mut request = CreateCheckoutSession::new()
        .mode(CheckoutSessionMode::Subscription)
        .customer(parts.customer)
        .client_reference_id(parts.reference)
        .line_items(lines)
        .metadata(parts.metadata)
        .subscription_data(subscription)
        // Whatever the dashboard offers: a place is held until the money is there, not for days.
        .allowed_payment_method_types(vec![PaidWith::Card])
        .success_url(parts.return_url)
        .cancel_url(parts.return_url)
        .expires_at(parts.expires_at.as_secs());
    if parts.trial_days > 0 {
        // A card is asked for although nothing is paid now.
        request = request.payment_method_collection(CollectMethod::Always);
    }
    if parts.promotion_codes {
        request = request.allow_promotion_codes(true);
    }
    if parts.automatic_tax {
        request = request.automatic_tax(AutomaticTax::new(true));
    }
    if parts.tax_ids {
        request = request.tax_id_collection(TaxIds::new(true));
    }
    if parts.automatic_tax || parts.tax_ids {
        // The customer is there already: what they type on the page is kept with it.
        request = request.customer_update(CustomerUpdate {
            address: Some(UpdateAddress::Auto),
            name: Some(UpdateName::Auto),
            ..CustomerUpdate::new()
        });
    }
    Prepared::of(&request)
}

pub(crate) fn retrieve_session(id: &str) -> Prepared {
    Prepared::of(&RetrieveCheckoutSession::new(id))
}

pub(crate) fn expire_session(id: &str) -> Prepared {
    Prepared::of(&ExpireCheckoutSession::new(id))
}

pub(crate) fn list_sessions_of(customer: &str, after: Option<&str>) -> Prepared {
    let mut list = ListCheckoutSession::new().customer(customer).limit(PAGE);
    if let Some(after) = after {
        list = list.starting_after(after);
    }
    Prepared::of(&list)
}

pub(crate) fn create_customer(email: &str, metadata: Metadata) -> Prepared {
    Prepared::of(&CreateCustomer::new().email(email).metadata(metadata))
}

pub(crate) fn list_customers(email: &str) -> Prepared {
    Prepared::of(&ListCustomer::new().email(email).limit(PAGE))
}

/// What is to be shown whole of a subscription: what its discounts take off, and from which products.
const DISCOUNTS: [&str; 1] = ["discounts.source.coupon.applies_to"];

pub(crate) fn retrieve_subscription(id: &str) -> Prepared {
    Prepared::of(&RetrieveSubscription::new(id).expand(DISCOUNTS.map(str::to_owned)))
}

pub(crate) fn cancel_subscription(id: &str) -> Prepared {
    Prepared::of(&CancelSubscription::new(id).invoice_now(false).prorate(false))
}

pub(crate) fn retrieve_invoice(id: &str) -> Prepared {
    Prepared::of(&RetrieveInvoice::new(id))
}

pub(crate) fn list_payments_of(invoice: &str) -> Prepared {
    Prepared::of(&ListInvoicePayment::new().invoice(invoice).limit(PAGE))
}

/// Ends with the paid period, or takes that back.
pub(crate) fn cancel_at_period_end(id: &str, at_end: bool) -> Prepared {
    let wish = UpdateSubscription::new(id).cancel_at_period_end(at_end);
    Prepared::of(&wish.expand(DISCOUNTS.map(str::to_owned)))
}

/// All subscriptions, ended ones too, newest first.
pub(crate) fn list_subscriptions(after: Option<&str>) -> Prepared {
    let mut list = ListSubscription::new().status(ListSubscriptionStatus::All).limit(PAGE);
    if let Some(after) = after {
        list = list.starting_after(after);
    }
    Prepared::of(&list)
}

/// The invoices made since then, newest first.
pub(crate) fn list_invoices(since: UnixMillis, after: Option<&str>) -> Prepared {
    let mut list = ListInvoice::new().created(RangeQueryTs::gte(since.as_secs())).limit(PAGE);
    if let Some(after) = after {
        list = list.starting_after(after);
    }
    Prepared::of(&list)
}

/// One object of a kind whose builders we do not compile; the id is one of Stripe's, checked at the inbox.
pub(super) fn retrieve(folder: &str, id: &str) -> Prepared {
    Prepared { method: Method::Get, path: format!("/{folder}/{id}"), query: None, body: None }
}

pub(crate) fn retrieve_dispute(id: &str) -> Prepared {
    retrieve("disputes", id)
}

pub(crate) fn retrieve_early_warning(id: &str) -> Prepared {
    retrieve("radar/early_fraud_warnings", id)
}

/// The disputes opened since then, newest first.
pub(crate) fn list_disputes(since: UnixMillis, after: Option<&str>) -> Prepared {
    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
    let query = format!("created[gte]={}&limit={PAGE}{after}", since.as_secs());
    Prepared { method: Method::Get, path: "/disputes".to_owned(), query: Some(query), body: None }
}

/// The disputes of a payment.
pub(crate) fn list_disputes_of(payment_intent: &str) -> Prepared {
    let query = format!("payment_intent={payment_intent}&limit={PAGE}");
    Prepared { method: Method::Get, path: "/disputes".to_owned(), query: Some(query), body: None }
}

/// Refunds since a time, newest first.
pub(crate) fn list_refunds(since: UnixMillis, after: Option<&str>) -> Prepared {
    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
    let query = format!("created[gte]={}&limit={PAGE}{after}", since.as_secs());
    Prepared { method: Method::Get, path: "/refunds".to_owned(), query: Some(query), body: None }
}

/// Every customer, newest first.
pub(crate) fn list_all_customers(after: Option<&str>) -> Prepared {
    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
    Prepared {
        method: Method::Get,
        path: "/customers".to_owned(),
        query: Some(format!("limit={PAGE}{after}")),
        body: None,
    }
}

pub(crate) fn retrieve_payment_method(id: &str) -> Prepared {
    retrieve("payment_methods", id)
}

pub(crate) fn retrieve_payment_intent(id: &str) -> Prepared {
    retrieve("payment_intents", id)
}

pub(crate) fn retrieve_charge(id: &str) -> Prepared {
    retrieve("charges", id)
}

pub(crate) fn retrieve_customer(id: &str) -> Prepared {
    retrieve("customers", id)
}

/// The invoice payments that a payment intent made.
pub(crate) fn list_payments_by(payment_intent: &str) -> Prepared {
    let query = format!("payment[type]=payment_intent&payment[payment_intent]={payment_intent}&limit={PAGE}");
    Prepared { method: Method::Get, path: "/invoice_payments".to_owned(), query: Some(query), body: None }
}

/// What an invoice item is made from.
pub(crate) struct ItemParts<'a> {
    pub(crate) customer: &'a str,
    pub(crate) subscription: &'a str,
    pub(crate) amount_minor: i64,
    pub(crate) currency: &'a str,
    pub(crate) description: &'a str,
    /// From when to when it was used.
    pub(crate) period: (UnixMillis, UnixMillis),
    pub(crate) metadata: &'a Metadata,
}

fn post(path: String, pairs: &[(&str, String)], metadata: &Metadata) -> Prepared {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs {
        body.append_pair(key, value);
    }
    let mut words: Vec<_> = metadata.iter().collect();
    words.sort();
    for (key, value) in words {
        body.append_pair(&format!("metadata[{key}]"), value);
    }
    Prepared { method: Method::Post, path, query: None, body: Some(body.finish()) }
}

/// Something that a subscription's next invoice charges.
pub(crate) fn create_invoice_item(parts: &ItemParts<'_>) -> Prepared {
    let pairs = [
        ("customer", parts.customer.to_owned()),
        ("subscription", parts.subscription.to_owned()),
        ("amount", parts.amount_minor.to_string()),
        ("currency", parts.currency.to_owned()),
        ("description", parts.description.to_owned()),
        ("period[start]", parts.period.0.as_secs().to_string()),
        ("period[end]", parts.period.1.as_secs().to_string()),
    ];
    post("/invoiceitems".to_owned(), &pairs, parts.metadata)
}

pub(crate) fn retrieve_invoice_item(id: &str) -> Prepared {
    retrieve("invoiceitems", id)
}

/// Only one that is on no invoice yet.
pub(crate) fn delete_invoice_item(id: &str) -> Prepared {
    Prepared { method: Method::Delete, ..retrieve("invoiceitems", id) }
}

/// A customer's invoice items, newest first.
pub(crate) fn list_invoice_items(customer: &str, after: Option<&str>) -> Prepared {
    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
    let query = format!("customer={customer}&limit={PAGE}{after}");
    Prepared { method: Method::Get, path: "/invoiceitems".to_owned(), query: Some(query), body: None }
}

/// An invoice of a subscription for what waits to be charged; it is finalised and collected by itself.
pub(crate) fn create_invoice(customer: &str, subscription: &str, traffic: &str) -> Prepared {
    let pairs = [
        ("customer", customer.to_owned()),
        ("subscription", subscription.to_owned()),
        ("auto_advance", "true".to_owned()),
        ("pending_invoice_items_behavior", "include".to_owned()),
    ];
    post("/invoices".to_owned(), &pairs, &Metadata::from([("traffic".to_owned(), traffic.to_owned())]))
}

/// A visit to Stripe's own pages, where cards and tax ids are changed.
pub(crate) fn create_portal(customer: &str, return_url: &str) -> Prepared {
    let pairs = [("customer", customer.to_owned()), ("return_url", return_url.to_owned())];
    posted("/billing_portal/sessions".to_owned(), pairs)
}

/// Credit on a customer's balance; Stripe counts what is owed, so credit is below zero.
pub(crate) fn create_credit(
    customer: &str,
    amount_minor: i64,
    currency: &str,
    reason: &str,
    metadata: &Metadata,
) -> Prepared {
    let pairs = [
        ("amount", (-amount_minor).to_string()),
        ("currency", currency.to_owned()),
        ("description", reason.to_owned()),
    ];
    post(format!("/customers/{customer}/balance_transactions"), &pairs, metadata)
}

/// A customer's credit and what used it up, newest first.
pub(crate) fn list_credits(customer: &str) -> Prepared {
    Prepared {
        method: Method::Get,
        path: format!("/customers/{customer}/balance_transactions"),
        query: Some(format!("limit={PAGE}")),
        body: None,
    }
}

/// Gives a part of a payment back.
pub(crate) fn create_partial_refund(payment_intent: &str, amount_minor: i64, metadata: Metadata) -> Prepared {
    Prepared::of(&CreateRefund::new().payment_intent(payment_intent).amount(amount_minor).metadata(metadata))
}

pub(crate) fn create_refund(payment_intent: &str, metadata: Metadata) -> Prepared {
    Prepared::of(&CreateRefund::new().payment_intent(payment_intent).metadata(metadata))
}

pub(crate) fn retrieve_refund(id: &str) -> Prepared {
    Prepared::of(&RetrieveRefund::new(id))
}

pub(crate) fn list_refunds_of(payment_intent: &str) -> Prepared {
    Prepared::of(&ListRefund::new().payment_intent(payment_intent).limit(PAGE))
}

pub(crate) fn list_events(since: UnixMillis, after: Option<&str>) -> Prepared {
    let mut list = ListEvent::new().created(RangeQueryTs::gte(since.as_secs())).limit(PAGE);
    if let Some(after) = after {
        list = list.starting_after(after);
    }
    Prepared::of(&list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_asked_for_in_stripes_own_words() {
        let prepared = create_session(SessionParts {
            customer: "cus_1",
            price: "price_1",
            reference: "order-1",
            return_url: "http://127.0.0.1:8080/orders/order-1",
            description: "Server web-1",
            expires_at: UnixMillis::from_secs(1_860),
            metadata: HashMap::from([("order_id".into(), "order-1".into())]),
            setup_price: Some("price_2"),
            trial_days: 14,
            promotion_codes: true,
            automatic_tax: true,
            tax_ids: true,
        });
        assert_eq!((prepared.method, prepared.path.as_str()), (Method::Post, "/checkout/sessions"));
        let body = prepared.body.unwrap();
        let pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        for (key, value) in [
            ("mode", "subscription"),
            ("allowed_payment_method_types[0]", "card"),
            ("customer", "cus_1"),
            ("client_reference_id", "order-1"),
            ("line_items[0][price]", "price_1"),
            ("line_items[0][quantity]", "1"),
            ("line_items[1][price]", "price_2"),
            ("line_items[1][quantity]", "1"),
            ("subscription_data[trial_period_days]", "14"),
            ("subscription_data[trial_settings][end_behavior][missing_payment_method]", "cancel"),
            ("payment_method_collection", "always"),
            ("allow_promotion_codes", "true"),
            ("automatic_tax[enabled]", "true"),
            ("tax_id_collection[enabled]", "true"),
            ("customer_update[address]", "auto"),
            ("customer_update[name]", "auto"),
            ("metadata[order_id]", "order-1"),
            ("subscription_data[metadata][order_id]", "order-1"),
            ("success_url", "http://127.0.0.1:8080/orders/order-1"),
            ("expires_at", "1860"),
        ] {
            assert!(pairs.contains(&(key.into(), value.into())), "{key}={value} is missing from {pairs:?}");
        }
    }

    #[test]
    fn a_prepared_request_survives_storage() {
        let prepared = create_refund("pi_1", HashMap::new());
        let stored = serde_json::to_string(&prepared).unwrap();
        let back: Prepared = serde_json::from_str(&stored).unwrap();
        assert_eq!(back, prepared);
        assert_eq!(back.hash(), prepared.hash());
        assert_ne!(back.hash(), create_refund("pi_2", HashMap::new()).hash());
    }
}

//! Invoices, and how they were paid.

use serde::Deserialize;
use serde_json::Value;

use super::{id_of, page_of};

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
    lines: Option<Value>,
    last_finalization_error: Option<Value>,
    automatic_tax: Option<Value>,
    starting_balance: Option<i64>,
    ending_balance: Option<i64>,
}

/// Why Stripe could not make a draft final: until that is mended nobody is charged for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotFinal {
    /// In Stripe's words.
    pub(crate) message: String,
    /// Whether taxes cannot be worked out for where the customer says to be.
    pub(crate) lacks_address: bool,
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

    /// Whether every line of it is an invoice item that bears this word of ours. Of one with more lines than Stripe sends
    /// along that is not known, so it does not count.
    pub fn is_of_items_with(&self, word: &str) -> bool {
        let Some(lines) = self.lines.as_ref().filter(|lines| lines["has_more"] != true) else { return false };
        let is_ours = |line: &Value| {
            line["parent"]["invoice_item_details"]["invoice_item"].is_string()
                && line["metadata"][word].as_str().is_some_and(|value| !value.is_empty())
        };
        lines["data"].as_array().is_some_and(|lines| !lines.is_empty() && lines.iter().all(is_ours))
    }

    /// Whether a line of it buys time that lies after a moment, in unix seconds. An item without a length buys none, whenever it
    /// was made. Lines that Stripe did not send along, or without a period, may: what is not seen is not taken for used.
    pub fn buys_time_after(&self, moment: i64) -> bool {
        let Some(lines) = self.lines.as_ref().filter(|lines| lines["has_more"] != true) else { return true };
        let reaches = |line: &Value| match (line["period"]["start"].as_i64(), line["period"]["end"].as_i64())
        {
            (Some(start), Some(end)) => end > start && end > moment,
            _ => true,
        };
        lines["data"].as_array().is_none_or(|lines| lines.is_empty() || lines.iter().any(reaches))
    }

    /// Why it is a draft still, if Stripe tried to make it final and could not.
    pub(crate) fn not_final(&self) -> Option<NotFinal> {
        let error = self.last_finalization_error.as_ref().filter(|error| !error.is_null())?;
        if self.status.as_deref() != Some("draft") {
            return None;
        }
        let code = error["code"].as_str().unwrap_or_default();
        let lacks_address = matches!(code, "customer_tax_location_invalid" | "invalid_tax_location")
            || self.automatic_tax.as_ref().is_some_and(|tax| tax["status"] == "requires_location_inputs");
        let message = error["message"].as_str().filter(|words| !words.is_empty()).unwrap_or(code);
        Some(NotFinal { message: message.chars().take(500).collect(), lacks_address })
    }

    /// Whether it took money, or something from its customer's balance.
    pub fn took_something(&self) -> bool {
        self.amount_paid.is_some_and(|paid| paid > 0) || self.taken_from_balance() > 0
    }

    /// What it took from its customer's balance, in minor units: credit that was used, and what was too small to be charged
    /// and is owed with the next invoice. Stripe counts what is owed, so both raise the balance; whoever gives the invoice
    /// back lowers it by as much.
    pub fn taken_from_balance(&self) -> i64 {
        self.ending_balance.zip(self.starting_balance).map_or(0, |(after, before)| after - before).max(0)
    }

    /// Whether credit has paid for it. An invoice that does not say how the balance was counts as if it had.
    pub fn used_credit(&self) -> bool {
        let balances = self.starting_balance.zip(self.ending_balance);
        balances.is_none_or(|(before, after)| credit_between(before, after) > 0)
    }

    /// The subscription it belongs to.
    pub fn subscription_id(&self) -> Option<&str> {
        self.parent.as_ref()?.subscription_details.as_ref()?.subscription.as_deref()
    }
}

/// The credit that is used up where a balance goes from one sum to another. A balance above zero is owed, and is none.
pub(crate) fn credit_between(before: i64, after: i64) -> i64 {
    (after.min(0) - before.min(0)).max(0)
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

/// What paid an invoice, out of a list of its payments: of each its payment intent, or nothing where it was paid otherwise.
pub(crate) fn paid_by(list: &Value) -> Vec<Option<String>> {
    page_of::<InvoicePayment>(list)
        .into_iter()
        .filter(|payment| payment.status.as_deref() == Some("paid"))
        .map(|payment| payment.payment?.payment_intent)
        .collect()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_draft_that_could_not_be_made_final_says_why() {
        let of = |status: &str, error: Value, tax: Value| {
            let invoice = json!({"id": "in_1", "status": status, "last_finalization_error": error, "automatic_tax": tax});
            let read: InvoiceView = serde_json::from_value(invoice).unwrap();
            read.not_final().map(|why| (why.message, why.lacks_address))
        };
        let located = json!({"code": "customer_tax_location_invalid", "message": "Where?"});
        assert_eq!(of("draft", located.clone(), json!(null)), Some(("Where?".into(), true)));
        assert_eq!(of("open", located, json!(null)), None, "it was mended");
        let other = json!({"code": "tax_id_invalid", "type": "invalid_request_error"});
        assert_eq!(
            of("draft", other.clone(), json!({"status": "failed"})),
            Some(("tax_id_invalid".into(), false))
        );
        let by_tax = json!({"enabled": true, "status": "requires_location_inputs"});
        assert_eq!(of("draft", other, by_tax), Some(("tax_id_invalid".into(), true)));
        assert_eq!(of("draft", json!(null), json!(null)), None);
    }

    #[test]
    fn what_is_too_small_to_be_charged_is_no_credit_and_is_taken_from_the_balance_all_the_same() {
        let of = |before: i64, after: i64, paid: i64| {
            let invoice = json!({"id": "in_1", "status": "paid", "amount_paid": paid, "starting_balance": before, "ending_balance": after});
            let read: InvoiceView = serde_json::from_value(invoice).unwrap();
            (read.taken_from_balance(), read.used_credit(), read.took_something())
        };
        assert_eq!(of(0, 0, 900), (0, false, true));
        assert_eq!(of(0, 20, 0), (20, false, true), "it is owed with the next");
        assert_eq!(of(20, 0, 920), (0, false, true), "and paid with it");
        assert_eq!(of(-300, 0, 600), (300, true, true));
        assert_eq!(of(-880, 20, 0), (900, true, true), "credit leaves too little to be charged");
        assert_eq!(of(0, -600, 0), (0, false, false), "it became credit");
        let old: InvoiceView = serde_json::from_value(json!({"id": "in_1", "amount_paid": 0})).unwrap();
        assert!(old.used_credit() && !old.took_something());
    }

    #[test]
    fn an_invoice_is_of_items_of_ours_only_if_all_its_lines_are_seen_and_are() {
        let item = json!({"metadata": {"traffic": "s:202701"}, "parent": {"invoice_item_details": {"invoice_item": "ii_1"}}});
        let period =
            json!({"metadata": {}, "parent": {"subscription_item_details": {"subscription_item": "si_1"}}});
        let unmarked = json!({"metadata": {}, "parent": {"invoice_item_details": {"invoice_item": "ii_2"}}});
        // The words of a subscription stand on the lines of its periods.
        let marked_period =
            json!({"metadata": {"traffic": "x"}, "parent": {"subscription_item_details": {}}});
        let is = |lines: Value| {
            let read: InvoiceView = serde_json::from_value(json!({"id": "in_1", "lines": lines})).unwrap();
            read.is_of_items_with("traffic")
        };
        assert!(is(json!({"data": [item]})));
        assert!(is(json!({"data": [item, item], "has_more": false})));
        for other in [&period, &unmarked, &marked_period] {
            assert!(!is(json!({"data": [item, other]})), "{other}");
        }
        assert!(!is(json!({"data": [item], "has_more": true})), "who knows what follows");
        for nothing in [json!({"data": []}), json!(null), json!("lines")] {
            assert!(!is(nothing));
        }
    }

    #[test]
    fn an_invoice_buys_time_to_come_only_if_a_line_reaches_there_or_is_not_seen() {
        let buys = |lines: Value| {
            let read: InvoiceView = serde_json::from_value(json!({"id": "in_1", "lines": lines})).unwrap();
            read.buys_time_after(1_000)
        };
        let line = |start: i64, end: i64| json!({"period": {"start": start, "end": end}});
        assert!(!buys(json!({"data": [line(500, 1_000), line(900, 900)]})), "to the end, and no further");
        assert!(
            buys(json!({"data": [line(500, 1_000), line(1_000, 2_000)]})),
            "the next period is on it, too"
        );
        assert!(buys(json!({"data": [line(900, 1_001)]})));
        assert!(!buys(json!({"data": [line(1_500, 1_500)]})), "an item that was put on its draft afterwards");
        assert!(buys(json!({"data": [line(500, 1_000)], "has_more": true})), "who knows what follows");
        for unseen in [json!({"data": []}), json!(null), json!("lines"), json!({"data": [{"amount": 1}]})] {
            assert!(buys(unseen.clone()), "{unseen}");
        }
    }
}

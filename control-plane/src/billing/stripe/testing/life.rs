//! What happens to a subscription after it was bought, done by hand. Nothing is told: the story delivers events.

use ez_protocol::UnixMillis;
use serde_json::{Value, json};

use super::{FakeStripe, State};

impl State {
    /// What waits for a subscription's next invoice goes onto this one: its lines and their sum.
    pub(super) fn take_items(&mut self, invoice: &str, subscription: &str) -> (Vec<Value>, i64) {
        let mut lines = Vec::new();
        let waits = |o: &&mut Value| {
            o["object"] == "invoiceitem"
                && o["invoice"].is_null()
                && o["parent"]["subscription_details"]["subscription"] == subscription
        };
        for item in self.objects.values_mut().filter(waits) {
            item["invoice"] = json!(invoice);
            lines.push(json!({
                "amount": item["amount"], "metadata": item["metadata"], "period": item["period"],
                "parent": {"invoice_item_details": {"invoice_item": item["id"]}},
            }));
        }
        let sum = lines.iter().filter_map(|line| line["amount"].as_i64()).sum();
        (lines, sum)
    }
}

impl FakeStripe {
    /// Changes an object.
    pub(crate) fn change(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.state().objects.get_mut(id).unwrap());
    }

    /// The subscription that a page was paid for.
    pub(crate) fn subscription_of(&self, session: &str) -> String {
        self.state().objects[session]["subscription"].as_str().unwrap().to_owned()
    }

    /// The customer is done with the page, and the bank takes days for it. Gives the invoice that waits.
    pub(crate) fn pay_slowly(&self, session: &str) -> String {
        self.pay(session);
        let subscription = self.subscription_of(session);
        let invoice = self.latest_invoice(&subscription);
        let intent = self.intent_of(&invoice);
        self.change(session, |session| session["payment_status"] = json!("unpaid"));
        self.change(&subscription, |subscription| subscription["status"] = json!("incomplete"));
        self.change(&invoice, |invoice| {
            invoice["status"] = json!("open");
            invoice["amount_remaining"] = invoice["total"].clone();
            invoice["amount_paid"] = json!(0);
        });
        self.change(&format!("inpay_{intent}"), |payment| payment["status"] = json!("open"));
        self.state().put(json!({"id": intent, "object": "payment_intent", "status": "processing"}));
        invoice
    }

    /// A subscription's newest invoice.
    pub(crate) fn latest_invoice(&self, subscription: &str) -> String {
        self.state().objects[subscription]["latest_invoice"].as_str().unwrap().to_owned()
    }

    /// A period is over and the next is billed; the card is good or not.
    pub(crate) fn renew(&self, subscription: &str, at: UnixMillis, card_is_good: bool) -> String {
        let mut state = self.state();
        let (invoice, intent) = (state.id("in"), state.id("pi"));
        let mut object = state.objects[subscription].clone();
        state.turn(&mut object);
        let lasts = super::change::length(&object["items"]["data"][0]["price"]);
        let price = object["items"]["data"][0]["price"]["unit_amount"].as_i64().unwrap();
        let (mut lines, waiting) = state.take_items(&invoice, subscription);
        lines.push(json!({
            "amount": price, "metadata": object["metadata"],
            "period": {"start": at.as_secs(), "end": at.as_secs() + lasts},
            "parent": {"subscription_item_details": {"subscription_item": object["items"]["data"][0]["id"]}},
        }));
        let amount = json!(price + waiting);
        let currency = object["items"]["data"][0]["price"]["currency"].clone();
        object["items"]["data"][0]["current_period_start"] = json!(at.as_secs());
        object["items"]["data"][0]["current_period_end"] = json!(at.as_secs() + lasts);
        object["latest_invoice"] = json!(invoice);
        object["status"] = json!(if card_is_good { "active" } else { "past_due" });
        let paid = |yes: Value, no: Value| if card_is_good { yes } else { no };
        state.put(json!({
            "id": invoice, "object": "invoice", "status": paid(json!("paid"), json!("open")), "number": format!("EZ-{invoice}"),
            "currency": currency, "total": amount, "amount_paid": paid(amount.clone(), json!(0)),
            "amount_remaining": paid(json!(0), amount.clone()), "attempt_count": 1, "billing_reason": "subscription_cycle",
            "lines": {"data": lines}, "customer": object["customer"], "hosted_invoice_url": format!("https://invoice.example/{invoice}"),
            "created": at.as_secs(),
            "status_transitions": {"finalized_at": at.as_secs(), "paid_at": paid(json!(at.as_secs()), Value::Null)},
            "parent": {"type": "subscription_details", "subscription_details": {"subscription": subscription}},
        }));
        state.put(json!({
            "id": intent, "object": "payment_intent", "status": paid(json!("succeeded"), json!("requires_payment_method")),
        }));
        state.put(json!({
            "id": format!("inpay_{intent}"), "object": "invoice_payment", "invoice": invoice,
            "status": paid(json!("paid"), json!("open")),
            "payment": {"type": "payment_intent", "payment_intent": intent},
        }));
        state.put(object);
        invoice
    }

    /// A period is billed whose customer is to send the money: nobody tries to collect it. It is late by Stripe's word.
    pub(crate) fn renew_by_transfer(&self, subscription: &str, at: UnixMillis, due: UnixMillis) -> String {
        let invoice = self.renew(subscription, at, false);
        self.change(&invoice, |invoice| {
            invoice["attempt_count"] = json!(0);
            invoice["collection_method"] = json!("send_invoice");
            invoice["due_date"] = json!(due.as_secs());
        });
        invoice
    }

    /// A subscription ends with its period, as its customer wished. Gives the draft of a last invoice, if anything waited
    /// for one.
    pub(crate) fn ends_with_period(&self, subscription: &str) -> Option<String> {
        let mut state = self.state();
        let (at, invoice) = (state.moment(), state.id("in"));
        let mut object = state.objects[subscription].clone();
        object["status"] = json!("canceled");
        object["ended_at"] = json!(at);
        object["cancellation_details"] = json!({"reason": "cancellation_requested"});
        let (lines, total) = state.take_items(&invoice, subscription);
        let last = (!lines.is_empty()).then(|| {
            object["latest_invoice"] = json!(invoice);
            state.put(json!({
                "id": invoice, "object": "invoice", "status": "draft", "currency": "eur", "total": total, "amount_paid": 0,
                "amount_remaining": total, "attempt_count": 0, "billing_reason": "subscription_cycle",
                "lines": {"data": lines}, "customer": object["customer"], "created": at,
                "parent": {"type": "subscription_details", "subscription_details": {"subscription": subscription}},
            }));
            invoice
        });
        state.put(object);
        last
    }

    /// Somebody puts an item on a subscription's next invoice in Stripe's dashboard, without a word of ours; from when to when
    /// it is for, in unix seconds.
    pub(crate) fn item_waits(&self, subscription: &str, amount: i64, period: (i64, i64)) {
        let mut state = self.state();
        let id = state.id("ii");
        let customer = state.objects[subscription]["customer"].clone();
        state.put(json!({
            "id": id, "object": "invoiceitem", "amount": amount, "currency": "eur", "customer": customer, "invoice": null,
            "metadata": {}, "period": {"start": period.0, "end": period.1},
            "parent": {"subscription_details": {"subscription": subscription}},
        }));
    }

    /// A draft becomes final and is charged; the card is good or not. Its subscription stays as it is.
    pub(crate) fn charge(&self, invoice: &str, card_is_good: bool) {
        let mut state = self.state();
        let (at, intent) = (state.moment(), state.id("pi"));
        let word = |yes: &str, no: &str| json!(if card_is_good { yes } else { no });
        let mut object = state.objects[invoice].clone();
        assert_eq!(object["status"], "draft");
        object["status"] = word("paid", "open");
        object["number"] = json!(format!("EZ-{invoice}"));
        object["hosted_invoice_url"] = json!(format!("https://invoice.example/{invoice}"));
        object["attempt_count"] = json!(1);
        object["status_transitions"] = json!({"finalized_at": at, "paid_at": card_is_good.then_some(at)});
        if card_is_good {
            object["amount_paid"] = object["total"].clone();
            object["amount_remaining"] = json!(0);
        }
        state.put(object);
        state.put(json!({
            "id": intent, "object": "payment_intent", "status": word("succeeded", "requires_payment_method"),
        }));
        state.put(json!({
            "id": format!("inpay_{intent}"), "object": "invoice_payment", "invoice": invoice, "status": word("paid", "open"),
            "payment": {"type": "payment_intent", "payment_intent": intent},
        }));
    }

    /// The payment of an invoice.
    pub(crate) fn intent_of(&self, invoice: &str) -> String {
        let state = self.state();
        let mut payments = state.objects.values().filter(|o| o["object"] == "invoice_payment");
        let payment = payments.find(|payment| payment["invoice"] == invoice).unwrap();
        payment["payment"]["payment_intent"].as_str().unwrap().to_owned()
    }

    /// The customer pays an open invoice; its subscription is active again unless it has ended, or it is a bill beside it.
    pub(crate) fn pay_invoice(&self, invoice: &str) {
        let at = self.state().moment();
        let payment = format!("inpay_{}", self.intent_of(invoice));
        self.change(&payment, |payment| payment["status"] = json!("paid"));
        self.change(invoice, |invoice| {
            invoice["status"] = json!("paid");
            invoice["status_transitions"]["paid_at"] = json!(at);
            let due = if invoice["amount_due"].is_null() { "total" } else { "amount_due" };
            invoice["amount_paid"] = invoice[due].clone();
            invoice["amount_remaining"] = json!(0);
        });
        let (parent, reason) = {
            let state = self.state();
            let invoice = &state.objects[invoice];
            (invoice["parent"].clone(), invoice["billing_reason"].clone())
        };
        if reason == "manual" {
            return;
        }
        let subscription = parent["subscription_details"]["subscription"].as_str().unwrap().to_owned();
        self.state().apply_waiting(&subscription, invoice);
        self.change(&subscription, |subscription| {
            if subscription["status"] != "canceled" {
                subscription["status"] = json!("active");
            }
        });
    }

    /// The bank takes the payment of an invoice back.
    pub(crate) fn dispute(&self, invoice: &str, at: UnixMillis) -> String {
        let intent = self.intent_of(invoice);
        let mut state = self.state();
        let id = state.id("du");
        let amount = state.objects[invoice]["amount_paid"].clone();
        state.put(json!({
            "id": id, "object": "dispute", "status": "needs_response", "reason": "fraudulent", "amount": amount,
            "currency": "eur", "payment_intent": intent, "created": at.as_secs(),
            "evidence_details": {"due_by": at.as_secs() + 7 * 86_400},
        }));
        id
    }

    /// Somebody gives money back in Stripe's dashboard: no word of ours on it.
    pub(crate) fn give_back(&self, invoice: &str, amount: i64) -> String {
        let intent = self.intent_of(invoice);
        let mut state = self.state();
        let id = state.id("re");
        state.put(json!({
            "id": id, "object": "refund", "status": "succeeded", "amount": amount, "currency": "eur",
            "payment_intent": intent, "metadata": {},
        }));
        id
    }
}

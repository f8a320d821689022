//! Plan changes at the stand-in: previews, changes that are paid or wait, schedules.
//!
//! What a change costs is worked out here by its own means, from the moment that the call names; a call that names none gets
//! the moment at which it came.

use ez_protocol::UnixMillis;
use serde_json::{Value, json};
use std::collections::HashMap;

use super::{FakeStripe, State};

type Form = HashMap<String, String>;

const DAY: i64 = 86_400;

/// How long a period of a price is.
pub(super) fn length(price: &Value) -> i64 {
    match price["recurring"]["interval"].as_str() {
        Some("year") => 365 * DAY,
        _ => 30 * DAY * price["recurring"]["interval_count"].as_i64().unwrap_or(1).max(1),
    }
}

fn missing() -> (u16, Value) {
    (
        404,
        json!({"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "no such"}}),
    )
}

fn wrong(message: &str) -> (u16, Value) {
    (400, json!({"error": {"type": "invalid_request_error", "message": message}}))
}

/// What a change comes to.
struct Outcome {
    after: Value,
    lines: Vec<Value>,
    total: i64,
    due: i64,
    balance: (i64, i64),
}

/// The balance after an invoice, and what is charged for it: nothing below half a unit of the currency, which is owed with the
/// next one.
fn settled(balance: i64, total: i64) -> (i64, i64) {
    let owed = balance + total;
    if owed < 50 { (owed, 0) } else { (0, owed) }
}

/// What a phase says besides its price: what it does not name it has not, whatever its subscription had.
fn terms(form: &Form, phase: usize) -> Value {
    let get = |key: &str| form.get(&format!("phases[{phase}]{key}"));
    let list = |key: &dyn Fn(usize) -> String| -> Vec<Value> {
        (0..).map_while(|at| get(&key(at))).map(|id| json!({"id": id})).collect()
    };
    json!({
        "discounts": list(&|at| format!("[discounts][{at}][discount]")),
        "default_tax_rates": list(&|at| format!("[default_tax_rates][{at}]")),
        "automatic_tax": {"enabled": get("[automatic_tax][enabled]").is_some_and(|enabled| enabled == "true")},
        "default_payment_method": get("[default_payment_method]"),
    })
}

/// A phase begins: its terms are its subscription's.
fn take_over(subscription: &mut Value, terms: &Value) {
    for (key, value) in terms.as_object().unwrap().iter().filter(|(key, _)| *key != "items") {
        subscription[key] = value.clone();
    }
}

impl State {
    /// Answers what is about plans; nothing for other calls.
    pub(super) fn about_plans(&mut self, method: &str, parts: &[&str], form: &Form) -> Option<(u16, Value)> {
        Some(match (method, parts) {
            ("POST", ["invoices", "create_preview"]) => {
                let subscription = form.get("subscription")?.clone();
                if form.len() == 1 {
                    return Some(self.foresee(&subscription));
                }
                match self.outcome(&subscription, form, "subscription_details") {
                    Ok(outcome) => (200, preview(&outcome)),
                    Err(refused) => refused,
                }
            }
            ("POST", ["subscriptions", id]) if form.contains_key("items[0][price]") => {
                self.change_price(id, form)
            }
            ("POST", ["subscriptions", id])
                if form.contains_key("cancel_at_period_end")
                    && !self.objects.get(*id)?["schedule"].is_null() =>
            {
                wrong("The subscription is managed by a subscription schedule.")
            }
            ("POST", ["subscription_schedules"]) => self.begin_schedule(form),
            ("POST", ["subscription_schedules", id]) => self.set_phases(id, form),
            ("POST", ["subscription_schedules", id, "release"]) => self.release(id),
            ("POST", ["invoices", id, "void"]) => {
                if self.voids_are_refused
                    || self.objects.get(*id).is_none_or(|invoice| invoice["status"] != "open")
                {
                    return Some(wrong("not open"));
                }
                let mut invoice = self.objects[*id].clone();
                invoice["status"] = json!("void");
                (200, self.put(invoice))
            }
            _ => return None,
        })
    }

    /// What the next invoice comes to: price (of the next phase), what waits, less a share off and credit.
    fn foresee(&self, subscription: &str) -> (u16, Value) {
        if self.previews_are_refused {
            return wrong("told to refuse");
        }
        let Some(known) = self.objects.get(subscription) else { return missing() };
        let mut after = known.clone();
        self.turn(&mut after);
        let price = after["items"]["data"][0]["price"].clone();
        let waits = self.objects.values().filter(|o| {
            o["object"] == "invoiceitem"
                && o["invoice"].is_null()
                && o["parent"]["subscription_details"]["subscription"] == subscription
        });
        let sum = price["unit_amount"].as_i64().unwrap()
            + waits.filter_map(|item| item["amount"].as_i64()).sum::<i64>();
        let off = sum * known["x_percent_off"].as_i64().unwrap_or(0) / 100;
        let customer = self.objects.get(known["customer"].as_str().unwrap_or_default());
        let balance = customer.and_then(|customer| customer["balance"].as_i64()).unwrap_or(0);
        let (_, due) = settled(balance, sum - off);
        let told = json!({
            "id": "upcoming_in_2", "object": "invoice", "currency": price["currency"], "total": sum - off,
            "amount_due": due, "lines": {"object": "list", "data": []},
        });
        (200, told)
    }

    fn outcome(&self, subscription: &str, form: &Form, inside: &str) -> Result<Outcome, (u16, Value)> {
        let key = |name: &str| match inside {
            "" => name.to_owned(),
            inside => {
                let (first, rest) =
                    name.split_once('[').map_or((name, String::new()), |(a, b)| (a, format!("[{b}")));
                format!("{inside}[{first}]{rest}")
            }
        };
        let Some(before) = self.objects.get(subscription) else { return Err(missing()) };
        let item = &before["items"]["data"][0];
        if form.get(&key("items[0][id]")).map(String::as_str) != item["id"].as_str() {
            return Err(wrong("this would add a second price"));
        }
        let wanted = form.get(&key("items[0][price]")).cloned().unwrap_or_default();
        let Some(price) = self.objects.get(&wanted).cloned() else { return Err(missing()) };
        let at = form.get(&key("proration_date")).map(|at| at.parse().unwrap()).unwrap_or(self.now);
        let start = item["current_period_start"].as_i64().unwrap();
        let end = item["current_period_end"].as_i64().unwrap();
        if !(start..=end).contains(&at) {
            return Err(wrong("Cannot specify a proration date outside of the current period."));
        }
        let share = |amount: i64| (2 * amount * (end - at) + (end - start)).div_euclid(2 * (end - start));
        let old = item["price"]["unit_amount"].as_i64().unwrap();
        let new = price["unit_amount"].as_i64().unwrap();
        let same = length(&item["price"]) == length(&price);
        let (bought, until) = if same { (share(new), end) } else { (new, at + length(&price)) };
        let line = |what: &str, amount: i64, until: i64| json!({"description": what, "amount": amount, "period": {"start": at, "end": until}});
        let lines = vec![line("Unused time", -share(old), end), line("Remaining time", bought, until)];
        let total = bought - share(old);
        let customer = self.objects.get(before["customer"].as_str().unwrap_or_default());
        let balance = customer.and_then(|customer| customer["balance"].as_i64()).unwrap_or(0);
        let mut after = before.clone();
        after["items"]["data"][0]["price"] = price;
        if !same {
            after["items"]["data"][0]["current_period_start"] = json!(at);
            after["items"]["data"][0]["current_period_end"] = json!(until);
        }
        let (left, due) = settled(balance, total);
        Ok(Outcome { after, lines, total, due, balance: (balance, left) })
    }

    fn change_price(&mut self, id: &str, form: &Form) -> (u16, Value) {
        let Outcome { mut after, lines, total, due, balance } = match self.outcome(id, form, "") {
            Ok(outcome) => outcome,
            Err(refused) => return refused,
        };
        if form.get("proration_behavior").map(String::as_str) != Some("always_invoice") {
            return wrong("nothing of ours changes a price like that");
        }
        let (invoice, intent) = (self.id("in"), self.id("pi"));
        let paid = due == 0 || !self.card_is_bad;
        let word = |yes: &str, no: &str| json!(if paid { yes } else { no });
        let customer = after["customer"].as_str().unwrap().to_owned();
        if let Some(customer) = self.objects.get_mut(&customer) {
            customer["balance"] = json!(balance.1);
        }
        self.put(json!({
            "id": invoice, "object": "invoice", "status": word("paid", "open"), "number": format!("EZ-{invoice}"),
            "currency": after["items"]["data"][0]["price"]["currency"], "total": total, "amount_due": due,
            "amount_paid": if paid { due } else { 0 }, "amount_remaining": if paid { 0 } else { due },
            "attempt_count": 1, "billing_reason": "subscription_update", "customer": customer,
            "hosted_invoice_url": format!("https://invoice.example/{invoice}"), "created": self.now,
            "starting_balance": balance.0, "ending_balance": balance.1,
            "status_transitions": {"finalized_at": self.now, "paid_at": paid.then_some(self.now)}, "lines": {"object": "list", "data": lines},
            "parent": {"type": "subscription_details", "subscription_details": {"subscription": id}},
        }));
        self.put(json!({
            "id": intent, "object": "payment_intent", "status": word("succeeded", "requires_payment_method"),
        }));
        self.put(json!({
            "id": format!("inpay_{intent}"), "object": "invoice_payment", "invoice": invoice, "status": word("paid", "open"),
            "payment": {"type": "payment_intent", "payment_intent": intent},
        }));
        after["latest_invoice"] = json!(invoice);
        if paid {
            return (200, self.put(after));
        }
        let mut waits = self.objects[id].clone();
        waits["latest_invoice"] = json!(invoice);
        waits["pending_update"] =
            json!({"expires_at": self.now + 23 * 3_600, "subscription_items": after["items"]["data"]});
        waits["x_after"] = after["items"].clone();
        (200, self.put(waits))
    }

    fn begin_schedule(&mut self, form: &Form) -> (u16, Value) {
        let subscription = form.get("from_subscription").cloned().unwrap_or_default();
        let Some(known) = self.objects.get(&subscription).cloned() else { return missing() };
        if !known["schedule"].is_null() {
            return wrong("it has a schedule already");
        }
        let id = self.id("sub_sched");
        let mut with = known;
        with["schedule"] = json!(id);
        self.put(with);
        let schedule = json!({
            "id": id, "object": "subscription_schedule", "status": "active", "subscription": subscription, "x_next": null,
        });
        (200, self.put(schedule))
    }

    fn set_phases(&mut self, id: &str, form: &Form) -> (u16, Value) {
        let Some(mut schedule) = self.objects.get(id).cloned() else { return missing() };
        let get = |key: &str| form.get(key).cloned().unwrap_or_default();
        let subscription = &self.objects[schedule["subscription"].as_str().unwrap()];
        let item = &subscription["items"]["data"][0];
        let fits = item["price"]["id"] == get("phases[0][items][0][price]").as_str()
            && item["current_period_start"].as_i64() == get("phases[0][start_date]").parse().ok()
            && item["current_period_end"].as_i64() == get("phases[0][end_date]").parse().ok()
            && get("phases[1][proration_behavior]") == "none"
            && !get("phases[1][duration][interval]").is_empty();
        if !fits {
            return wrong("phases that do not fit");
        }
        schedule["x_next"] = json!(get("phases[1][items][0][price]"));
        let phase = |at: usize| {
            let mut phase = terms(form, at);
            let quantity = get(&format!("phases[{at}][items][0][quantity]")).parse::<i64>().unwrap();
            phase["items"] = json!([{"quantity": quantity}]);
            phase
        };
        schedule["phases"] = json!([phase(0), phase(1)]);
        let mut running = subscription.clone();
        take_over(&mut running, &terms(form, 0));
        // Who sets the phases decides about the end as well, and what is released afterwards goes on.
        if get("end_behavior") != "cancel" {
            running["cancel_at_period_end"] = json!(false);
            running["cancel_at"] = Value::Null;
        }
        self.put(running);
        (200, self.put(schedule))
    }

    fn release(&mut self, id: &str) -> (u16, Value) {
        let Some(mut schedule) = self.objects.get(id).cloned() else { return missing() };
        if schedule["status"] != "active" {
            return wrong("not active");
        }
        schedule["status"] = json!("released");
        if let Some(subscription) = self.objects.get_mut(schedule["subscription"].as_str().unwrap()) {
            subscription["schedule"] = Value::Null;
        }
        (200, self.put(schedule))
    }

    /// A period is over: what its schedule says holds.
    pub(super) fn turn(&self, object: &mut Value) {
        let Some(schedule) = object["schedule"].as_str().and_then(|id| self.objects.get(id)) else { return };
        if let Some(price) = schedule["x_next"].as_str().and_then(|id| self.objects.get(id)) {
            object["items"]["data"][0]["price"] = price.clone();
            take_over(object, &schedule["phases"][1]);
        }
    }

    /// The invoice of a change that waited is paid.
    pub(super) fn apply_waiting(&mut self, subscription: &str, invoice: &str) {
        let Some(known) = self.objects.get_mut(subscription) else { return };
        if known["latest_invoice"] == invoice && !known["x_after"].is_null() {
            known["items"] = known["x_after"].take();
            known["pending_update"] = Value::Null;
        }
    }
}

fn preview(outcome: &Outcome) -> Value {
    json!({
        "id": "upcoming_in_1", "object": "invoice", "currency": outcome.after["items"]["data"][0]["price"]["currency"],
        "total": outcome.total, "amount_due": outcome.due, "starting_balance": outcome.balance.0,
        "ending_balance": outcome.balance.1, "lines": {"object": "list", "data": outcome.lines},
    })
}

impl FakeStripe {
    /// Stripe's clock.
    pub(crate) fn set_clock(&self, at: UnixMillis) {
        self.state().now = at.as_secs();
    }

    /// Whether the next charges need their customer.
    pub(crate) fn card_fails(&self, fails: bool) {
        self.state().card_is_bad = fails;
    }

    /// Nobody paid for a change in time.
    pub(crate) fn change_runs_out(&self, subscription: &str) {
        let invoice = self.latest_invoice(subscription);
        self.change(&invoice, |invoice| invoice["status"] = json!("void"));
        self.change(subscription, |subscription| {
            subscription["pending_update"] = Value::Null;
            subscription["x_after"] = Value::Null;
        });
    }

    /// Somebody puts another price on a subscription in the dashboard.
    pub(crate) fn put_price(&self, subscription: &str, lookup_key: &str) {
        let mut state = self.state();
        let price = state.objects.values().find(|o| o["object"] == "price" && o["lookup_key"] == lookup_key);
        let price = price.unwrap().clone();
        state.objects.get_mut(subscription).unwrap()["items"]["data"][0]["price"] = price;
    }

    /// Somebody puts another price on a subscription in the dashboard, and what that adds to its period is charged at once.
    pub(crate) fn upgrade_by_hand(&self, subscription: &str, lookup_key: &str) {
        let mut state = self.state();
        let price = state.objects.values().find(|o| o["object"] == "price" && o["lookup_key"] == lookup_key);
        let price = price.unwrap()["id"].as_str().unwrap().to_owned();
        let item = state.objects[subscription]["items"]["data"][0]["id"].as_str().unwrap().to_owned();
        let form = Form::from([
            ("items[0][id]".to_owned(), item),
            ("items[0][price]".to_owned(), price),
            ("proration_behavior".to_owned(), "always_invoice".to_owned()),
        ]);
        let (status, _) = state.change_price(subscription, &form);
        assert_eq!(status, 200);
    }

    /// Somebody makes a schedule for a subscription in the dashboard.
    pub(crate) fn schedule_by_hand(&self, subscription: &str) {
        let form = Form::from([("from_subscription".to_owned(), subscription.to_owned())]);
        let (status, _) = self.state().begin_schedule(&form);
        assert_eq!(status, 200);
    }

    /// Lets a paid period begin now, with the length of its price.
    pub(crate) fn period_begins(&self, subscription: &str, at: UnixMillis) {
        self.change(subscription, |subscription| {
            let item = &mut subscription["items"]["data"][0];
            let end = at.as_secs() + length(&item["price"]);
            item["current_period_start"] = json!(at.as_secs());
            item["current_period_end"] = json!(end);
        });
    }
}

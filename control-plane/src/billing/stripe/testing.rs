//! A Stripe for unit tests: in this process, behind a socket, as small as the stories need.
//!
//! It remembers objects, replays answers by idempotency key, logs what it was asked and can be told to
//! fail. The faithful stand-in is the simulator; this one only has to answer quickly.

mod change;
mod life;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{DisputeState, StripeGate};
use crate::clock::{Clock as _, ManualClock};

/// Signs a delivery as Stripe does.
pub(crate) fn sign(body: &str, secret: &str, at: ez_protocol::UnixMillis) -> String {
    super::signature::sign(body, secret, at)
}

/// What one call looked like.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) calls: Vec<Call>,
    pub(crate) events: Vec<Value>,
    /// Answers to give before anything is looked at: (status, after the effect?).
    pub(crate) failures: Vec<(u16, bool)>,
    /// How the next POST to a path that ends so ends, under its key for ever and without effect; with a wrong key (401)
    /// nothing is kept.
    pub(crate) ends: Vec<(&'static str, u16)>,
    /// It takes no key.
    pub(crate) locked_out: bool,
    /// How every reading under this path ends.
    pub(crate) unreadable: Option<(&'static str, u16)>,
    /// Its list of events cannot be read.
    pub(crate) no_events: bool,
    /// How refunds end; `succeeded` if nothing is said.
    pub(crate) refunds_end: Option<&'static str>,
    /// Whether nobody is told what the next invoice comes to.
    pub(crate) previews_are_refused: bool,
    /// Whether each reading of an invoice gives links of its own, as the real one does.
    pub(crate) fresh_links: bool,
    /// How many were given.
    links: u32,
    /// Whether open invoices stay open whatever is asked.
    pub(crate) voids_are_refused: bool,
    /// Whether a charge needs its customer.
    card_is_bad: bool,
    /// Its clock, unix seconds.
    now: i64,
    /// The clock of the story, by which it says when something was paid.
    pub(crate) clock: Option<Arc<ManualClock>>,
    replies: HashMap<String, (u16, Value)>,
    made: u32,
}

/// What one order's customer has paid and got back, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) paid: i64,
    pub(crate) returned: i64,
    /// Subscriptions that would be charged again.
    pub(crate) running: usize,
}

impl State {
    /// The books about one order, by the metadata of its subscriptions.
    pub(crate) fn ledger(&self, order: &str) -> Ledger {
        let of_kind = |kind: &'static str| self.objects.values().filter(move |o| o["object"] == kind);
        let mut ledger = Ledger::default();
        for subscription in of_kind("subscription").filter(|s| s["metadata"]["order_id"] == order) {
            ledger.running += usize::from(subscription["status"] != "canceled");
            let mine = |i: &&Value| i["parent"]["subscription_details"]["subscription"] == subscription["id"];
            for invoice in of_kind("invoice").filter(mine) {
                ledger.paid += invoice["amount_paid"].as_i64().unwrap();
                for payment in of_kind("invoice_payment").filter(|p| p["invoice"] == invoice["id"]) {
                    let intent = &payment["payment"]["payment_intent"];
                    let back = of_kind("refund")
                        .filter(|r| r["payment_intent"] == *intent && r["status"] == "succeeded");
                    ledger.returned += back.map(|r| r["amount"].as_i64().unwrap()).sum::<i64>();
                }
            }
        }
        ledger
    }

    /// When what happens now happens, unix seconds.
    fn moment(&self) -> i64 {
        self.clock.as_ref().map_or(self.now, |clock| clock.now().as_secs())
    }

    fn id(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}_{}", self.made)
    }

    fn put(&mut self, object: Value) -> Value {
        let id = object["id"].as_str().unwrap().to_owned();
        self.objects.insert(id, object.clone());
        object
    }

    fn of_kind(&self, kind: &str, test: impl Fn(&Value) -> bool) -> Value {
        let data: Vec<&Value> = self.objects.values().filter(|o| o["object"] == kind && test(o)).collect();
        json!({"object": "list", "data": data, "has_more": false})
    }
}

/// The running stand-in.
#[derive(Clone)]
pub(crate) struct FakeStripe {
    state: Arc<Mutex<State>>,
    pub(crate) base: String,
}

impl FakeStripe {
    pub(crate) async fn start() -> Self {
        // The client crates' connector asks for the process's provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let fake = Self { state: Arc::default(), base };
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| server.clone().serve(request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        fake
    }

    pub(crate) fn gate(&self) -> StripeGate {
        StripeGate::new(&self.base, "sk_test_fake").unwrap().hurried()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many calls of this kind came in.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.state().calls.iter().filter(|c| c.method == method && c.path == path).count()
    }

    /// The customer pays on the hosted page.
    pub(crate) fn pay(&self, session: &str) {
        let mut state = self.state();
        let (sub, invoice, pi) = (state.id("sub"), state.id("in"), state.id("pi"));
        let mut object = state.objects[session].clone();
        let price = state.objects[object["x_price"].as_str().unwrap()].clone();
        object["status"] = json!("complete");
        let due = object["amount_total"].as_i64().unwrap();
        let trial = object["x_trial"].as_i64().unwrap_or(0);
        let begin = if state.now > 0 { state.now } else { 1_800_000_000 };
        object["payment_status"] = json!(if due > 0 { "paid" } else { "no_payment_required" });
        object["subscription"] = json!(sub);
        object["invoice"] = json!(invoice);
        object["url"] = Value::Null;
        state.put(json!({
            "id": sub, "object": "subscription", "status": if trial > 0 { "trialing" } else { "active" }, "customer": object["customer"],
            "livemode": false, "latest_invoice": invoice, "metadata": object["metadata"],
            "items": {"object": "list", "data": [
                {"id": "si_1", "price": price, "current_period_start": begin, "current_period_end": begin + 30 * 86_400}]},
        }));
        state.put(json!({
            "id": invoice, "object": "invoice", "status": "paid", "number": "EZ-1", "currency": object["currency"],
            "total": object["amount_total"], "amount_paid": object["amount_total"], "customer": object["customer"],
            "amount_remaining": 0, "attempt_count": 1, "billing_reason": "subscription_create",
            "hosted_invoice_url": "https://invoice.example/1", "invoice_pdf": "https://invoice.example/1.pdf",
            "created": begin, "status_transitions": {"finalized_at": begin, "paid_at": begin},
            "parent": {"type": "subscription_details", "subscription_details": {"subscription": sub}},
        }));
        // Where nothing is due nothing is paid.
        if due > 0 {
            state.put(json!({
                "id": format!("inpay_{pi}"), "object": "invoice_payment", "invoice": invoice, "status": "paid",
                "payment": {"type": "payment_intent", "payment_intent": pi},
            }));
        }
        state.put(object);
    }

    /// Another page for the same order, open to be paid.
    pub(crate) fn second_page(&self, session: &str) -> String {
        let mut state = self.state();
        let id = state.id("cs");
        let mut object = state.objects[session].clone();
        object["id"] = json!(id);
        object["status"] = json!("open");
        object["payment_status"] = json!("unpaid");
        for unset in ["subscription", "invoice"] {
            object.as_object_mut().unwrap().remove(unset);
        }
        state.put(object);
        id
    }

    /// The session runs out.
    pub(crate) fn let_expire(&self, session: &str) {
        let mut state = self.state();
        let mut object = state.objects[session].clone();
        object["status"] = json!("expired");
        object["url"] = Value::Null;
        state.put(object);
    }

    /// A webhook body about an object as it is now.
    pub(crate) fn event(&self, kind: &str, object: &str) -> String {
        let mut state = self.state();
        let id = state.id("evt");
        let event = json!({
            "id": id, "object": "event", "type": kind, "created": 1_800_000_000, "livemode": false,
            "api_version": super::api_version(), "data": {"object": state.objects[object]},
        });
        state.events.insert(0, event.clone());
        event.to_string()
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let key = parts.headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let path = parts.uri.path().trim_start_matches("/v1").to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let (status, value) = self.answer(parts.method.as_str(), &path, &query, &body, key);
        Ok(Response::builder().status(status).body(Full::new(Bytes::from(value.to_string()))).unwrap())
    }

    fn answer(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
        key: Option<String>,
    ) -> (u16, Value) {
        let form = |raw: &[u8]| -> HashMap<String, String> {
            url::form_urlencoded::parse(raw).into_owned().collect()
        };
        let mut state = self.state();
        state.calls.push(Call { method: method.into(), path: path.into(), key: key.clone() });
        let failure = if state.failures.is_empty() { None } else { Some(state.failures.remove(0)) };
        // 200 lets a call pass that comes before the one to fail.
        let failure = failure.filter(|(status, _)| *status != 200);
        let broken =
            |status: u16| (status, json!({"error": {"type": "api_error", "message": "told to fail"}}));
        if state.locked_out {
            return broken(401);
        }
        if let Some((status, false)) = failure {
            return broken(status);
        }
        if let Some((_, status)) =
            state.unreadable.filter(|(under, _)| method == "GET" && path.starts_with(under))
        {
            return broken(status);
        }
        if let Some(reply) = key.as_ref().and_then(|key| state.replies.get(key)) {
            return reply.clone();
        }
        let next = state.ends.iter().position(|(end, _)| method == "POST" && path.ends_with(end));
        if let Some(next) = next {
            let (_, status) = state.ends.remove(next);
            if let Some(key) = key.filter(|_| status != 401) {
                state.replies.insert(key, broken(status));
            }
            return broken(status);
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut reply = state.act(method, &parts, &form(query.as_bytes()), &form(body));
        if state.fresh_links && method == "GET" {
            state.freshen(&mut reply.1);
        }
        if let Some(key) = key {
            state.replies.insert(key, reply.clone());
        }
        match failure {
            Some((status, true)) => broken(status),
            _ => reply,
        }
    }
}

impl State {
    /// Other links to the same invoices.
    fn freshen(&mut self, told: &mut Value) {
        if let Some(rows) = told.get_mut("data").and_then(Value::as_array_mut) {
            rows.iter_mut().for_each(|row| self.freshen(row));
        } else if told["object"] == "invoice" && told["hosted_invoice_url"].is_string() {
            self.links += 1;
            let link = format!("https://invoice.example/read-{}", self.links);
            told["invoice_pdf"] = json!(format!("{link}.pdf"));
            told["hosted_invoice_url"] = json!(link);
        }
    }

    fn act(
        &mut self,
        method: &str,
        parts: &[&str],
        query: &HashMap<String, String>,
        form: &HashMap<String, String>,
    ) -> (u16, Value) {
        let get = |key: &str| form.get(key).cloned().unwrap_or_default();
        let metadata: BTreeMap<&str, &String> = form
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix("metadata[")?.strip_suffix(']')?, v)))
            .collect();
        let missing = || {
            (
                404,
                json!({"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "no such"}}),
            )
        };
        if let Some(reply) = self.about_plans(method, parts, form) {
            return reply;
        }
        let made = match (method, parts) {
            ("POST", ["customers"]) => {
                json!({"id": self.id("cus"), "object": "customer", "email": get("email"), "metadata": metadata, "livemode": false})
            }
            ("POST", ["products"]) => {
                json!({"id": get("id"), "object": "product", "name": get("name"), "active": true, "livemode": false})
            }
            ("POST", ["coupons"]) => {
                let mut coupon = json!({
                    "id": get("id"), "object": "coupon", "name": get("name"), "duration": get("duration"),
                    "percent_off": get("percent_off").parse::<i64>().ok(), "amount_off": get("amount_off").parse::<i64>().ok(),
                    "duration_in_months": get("duration_in_months").parse::<i64>().ok(), "currency": form.get("currency"),
                });
                if let Some(product) = form.get("applies_to[products][]") {
                    coupon["applies_to"] = json!({"products": [product]});
                }
                coupon
            }
            ("POST", ["promotion_codes"]) => json!({
                "id": self.id("promo"), "object": "promotion_code", "code": get("code"), "active": true,
                "promotion": {"type": "coupon", "coupon": get("promotion[coupon]")}, "metadata": metadata, "times_redeemed": 0,
                "max_redemptions": get("max_redemptions").parse::<i64>().ok(), "expires_at": get("expires_at").parse::<i64>().ok(),
                "restrictions": {"first_time_transaction": get("restrictions[first_time_transaction]") == "true"},
            }),
            ("POST", ["prices"]) => json!({
                "id": self.id("price"), "object": "price", "unit_amount": get("unit_amount").parse::<i64>().unwrap(),
                "currency": get("currency"), "lookup_key": get("lookup_key"), "product": get("product"), "livemode": false,
                "active": true, "tax_behavior": form.get("tax_behavior").map_or("unspecified", String::as_str),
                "recurring": form.get("recurring[interval]").map(|interval| json!({
                    "interval": interval, "interval_count": get("recurring[interval_count]").parse::<i64>().unwrap_or(1),
                })),
            }),
            ("POST", ["checkout", "sessions"]) => {
                let price = self.objects.get(&get("line_items[0][price]")).cloned();
                let Some(price) = price else { return missing() };
                let setup = self.objects.get(&get("line_items[1][price]")).cloned();
                let trial: i64 = get("subscription_data[trial_period_days]").parse().unwrap_or(0);
                let of = |price: &Value| price["unit_amount"].as_i64().unwrap();
                let due = if trial > 0 { 0 } else { of(&price) } + setup.as_ref().map_or(0, of);
                let id = self.id("cs");
                json!({
                    "id": id, "object": "checkout.session", "status": "open", "payment_status": "unpaid",
                    "url": format!("https://pay.example/{id}"), "amount_total": due, "amount_subtotal": due,
                    "total_details": {"amount_discount": 0, "amount_tax": 0, "amount_shipping": 0}, "discounts": [],
                    "x_trial": trial, "currency": price["currency"],
                    "customer": get("customer"), "client_reference_id": get("client_reference_id"), "livemode": false,
                    "metadata": metadata, "expires_at": get("expires_at").parse::<i64>().unwrap(), "x_price": price["id"],
                })
            }
            ("POST", ["checkout", "sessions", id, "expire"]) => {
                let Some(session) = self.objects.get(*id) else { return missing() };
                if session["status"] != "open" {
                    return (400, json!({"error": {"type": "invalid_request_error", "message": "not open"}}));
                }
                let mut session = session.clone();
                session["status"] = json!("expired");
                session["url"] = Value::Null;
                session
            }
            ("POST", ["refunds"]) => {
                let intent = get("payment_intent");
                let paid = self.objects.values().find(|o| o["payment"]["payment_intent"] == intent.as_str());
                let Some(invoice) = paid.and_then(|payment| payment["invoice"].as_str()) else {
                    return missing();
                };
                let disputed = |o: &Value| {
                    o["object"] == "dispute"
                        && o["payment_intent"] == intent.as_str()
                        && DisputeState::of(o["status"].as_str().unwrap()).takes()
                };
                if self.objects.values().any(disputed) {
                    return (
                        400,
                        json!({"error": {"type": "invalid_request_error", "code": "charge_disputed", "message": "x"}}),
                    );
                }
                let stands = |o: &&Value| {
                    o["object"] == "refund"
                        && o["payment_intent"] == intent.as_str()
                        && o["status"] != "failed"
                };
                let returned: i64 =
                    self.objects.values().filter(stands).filter_map(|o| o["amount"].as_i64()).sum();
                let left = self.objects[invoice]["amount_paid"].as_i64().unwrap() - returned;
                if left <= 0 {
                    return (
                        400,
                        json!({"error": {"type": "invalid_request_error", "code": "charge_already_refunded", "message": "x"}}),
                    );
                }
                let amount = form.get("amount").map_or(left, |part| part.parse().unwrap());
                json!({
                    "id": self.id("re"), "object": "refund", "status": self.refunds_end.unwrap_or("succeeded"),
                    "amount": amount, "currency": "eur", "payment_intent": intent, "metadata": metadata,
                })
            }
            ("POST", ["customers", customer, "balance_transactions"]) => {
                let Some(known) = self.objects.get_mut(*customer) else { return missing() };
                let amount: i64 = get("amount").parse().unwrap();
                known["balance"] = json!(known["balance"].as_i64().unwrap_or(0) + amount);
                known["currency"] = json!(get("currency"));
                json!({"id": self.id("cbtxn"), "object": "customer_balance_transaction", "amount": amount,
                    "customer": customer, "description": get("description"), "metadata": metadata})
            }
            ("GET", ["customers", customer, "balance_transactions"]) => {
                return (
                    200,
                    self.of_kind("customer_balance_transaction", |one| one["customer"] == **customer),
                );
            }
            ("POST", ["invoiceitems"]) => json!({
                "id": self.id("ii"), "object": "invoiceitem", "amount": get("amount").parse::<i64>().unwrap(),
                "currency": get("currency"), "customer": get("customer"), "description": get("description"),
                "invoice": null, "metadata": metadata,
                "period": {
                    "start": get("period[start]").parse::<i64>().unwrap_or(self.moment()),
                    "end": get("period[end]").parse::<i64>().unwrap_or(self.moment()),
                },
                "parent": {"subscription_details": {"subscription": get("subscription")}},
            }),
            ("POST", ["invoices"]) => {
                let id = self.id("in");
                let (lines, total) = self.take_items(&id, &get("subscription"));
                if lines.is_empty() {
                    return (
                        400,
                        json!({"error": {"type": "invalid_request_error", "message": "nothing waits"}}),
                    );
                }
                json!({
                    "id": id, "object": "invoice", "status": "draft", "currency": "eur", "total": total,
                    "amount_paid": 0, "amount_remaining": total, "attempt_count": 0, "billing_reason": "manual",
                    "customer": get("customer"), "lines": {"data": lines}, "metadata": metadata, "created": self.moment(),
                    "parent": {"type": "subscription_details", "subscription_details": {"subscription": get("subscription")}},
                })
            }
            ("DELETE", ["invoiceitems", id]) => {
                let Some(item) = self.objects.remove(*id) else { return missing() };
                return (200, item);
            }
            ("GET", ["invoiceitems"]) => {
                return (200, self.of_kind("invoiceitem", |o| o["customer"] == query["customer"].as_str()));
            }
            ("POST", ["billing_portal", "sessions"]) => {
                let id = self.id("bps");
                json!({"id": id, "object": "billing_portal.session", "url": format!("https://portal.example/{id}")})
            }
            ("POST", ["subscriptions", id]) => {
                let Some(object) = self.objects.get(*id) else { return missing() };
                let mut object = object.clone();
                let at_end = get("cancel_at_period_end") == "true";
                let end = object["items"]["data"][0]["current_period_end"].clone();
                object["cancel_at_period_end"] = json!(at_end);
                object["cancel_at"] = if at_end { end } else { Value::Null };
                object
            }
            ("POST", [_, id]) => {
                let Some(object) = self.objects.get(*id) else { return missing() };
                let mut object = object.clone();
                for (key, value) in form {
                    object[key] = match value.as_str() {
                        "true" | "false" => json!(value == "true"),
                        word => json!(word),
                    };
                }
                object
            }
            ("DELETE", ["subscriptions", id]) => {
                let Some(object) = self.objects.get(*id) else { return missing() };
                let mut object = object.clone();
                object["status"] = json!("canceled");
                object["cancellation_details"] = json!({"reason": "cancellation_requested"});
                object
            }
            ("GET", ["events"]) if self.no_events => {
                return (500, json!({"error": {"type": "api_error", "message": "told to fail"}}));
            }
            ("GET", ["events"]) => {
                // In pages, as Stripe gives them.
                let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10);
                let begin = query.get("starting_after").and_then(|after| {
                    self.events.iter().position(|event| event["id"] == after.as_str()).map(|index| index + 1)
                });
                let rest = &self.events[begin.unwrap_or(0)..];
                let page: Vec<_> = rest.iter().take(limit).collect();
                return (200, json!({"object": "list", "has_more": rest.len() > page.len(), "data": page}));
            }
            ("GET", ["prices"]) => {
                let keys =
                    query.iter().filter(|(name, _)| name.starts_with("lookup_keys[")).map(|(_, key)| key);
                return (
                    200,
                    self.of_kind("price", |o| keys.clone().any(|key| o["lookup_key"] == key.as_str())),
                );
            }
            ("GET", ["promotion_codes"]) => {
                let code = query["code"].as_str();
                return (200, self.of_kind("promotion_code", |o| o["code"] == code));
            }
            ("GET", ["checkout", "sessions"]) => {
                return (
                    200,
                    self.of_kind("checkout.session", |o| o["customer"] == query["customer"].as_str()),
                );
            }
            ("GET", ["customers"]) => {
                return (
                    200,
                    self.of_kind("customer", |o| {
                        query.get("email").is_none_or(|email| o["email"] == email.as_str())
                    }),
                );
            }
            ("GET", ["refunds"]) => {
                return (
                    200,
                    self.of_kind("refund", |o| {
                        query
                            .get("payment_intent")
                            .is_none_or(|intent| o["payment_intent"] == intent.as_str())
                    }),
                );
            }
            ("GET", ["invoice_payments"]) => {
                let intent = query.get("payment[payment_intent]").cloned();
                let invoice = query.get("invoice").cloned();
                return (
                    200,
                    self.of_kind("invoice_payment", |o| {
                        intent.as_ref().is_none_or(|i| o["payment"]["payment_intent"] == i.as_str())
                            && invoice.as_ref().is_none_or(|i| o["invoice"] == i.as_str())
                    }),
                );
            }
            ("GET", ["invoices"]) => return (200, self.of_kind("invoice", |_| true)),
            ("GET", ["disputes"]) => {
                let intent = query.get("payment_intent").map(String::as_str);
                return (
                    200,
                    self.of_kind("dispute", |o| intent.is_none_or(|intent| o["payment_intent"] == intent)),
                );
            }
            ("GET", ["subscriptions"]) => return (200, self.of_kind("subscription", |_| true)),
            ("GET", [.., id]) => return self.objects.get(*id).map_or_else(missing, |o| (200, o.clone())),
            _ => return missing(),
        };
        (200, self.put(made))
    }
}

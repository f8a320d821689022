//! The full comparison: every subscription and customer, and the invoices, disputes and refunds of five weeks, against the copy.
//!
//! A difference is written down, counted, shown and mended by reading the object again: the same function as for an
//! event. Nothing is ever suspended or ended because the two differ.

mod store;

use std::time::Duration;

use ez_protocol::UnixMillis;
use serde::Serialize;
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BillingError, inbox, reconcile as missed,
    stripe::{self, Class, InvoiceView, Prepared, SubscriptionView},
    subscription::is_over,
    surplus,
    sync::{self, is_foreign, view},
};
use crate::{app::Services, db::DbError};

/// How far back invoices, disputes and refunds are compared: a month and what is late.
const LOOK_BACK: Duration = Duration::from_secs(35 * 24 * 60 * 60);
/// No list is longer, or something is wrong with its pages.
const MOST_PAGES: usize = 10_000;

/// Where the copy and Stripe do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Stripe's id.
    pub object: String,
    /// `subscription`, `invoice`, `dispute`, `refund` or `customer`.
    pub kind: String,
    /// `missing` here, `differs`, or `gone` at Stripe.
    pub what: String,
    /// When it was seen first.
    pub found_at: UnixMillis,
    /// When the two were seen to agree again.
    pub mended_at: Option<UnixMillis>,
}

/// What a reconciliation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events that no webhook had brought.
    pub events_found: usize,
    /// Objects that were compared.
    pub compared: usize,
    /// What did not agree.
    pub differences: Vec<Difference>,
    /// What could not be read again, and what came in the way.
    pub failed: Vec<Failure>,
    /// How many do not agree after everything was read again, and how many could not be read.
    pub left: usize,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Stripe's id, or `events` for its list of events.
    pub object: String,
    /// What came in the way.
    pub error: String,
}

impl Failure {
    fn of(object: &str, error: &BillingError) -> Self {
        Self { object: object.to_owned(), error: inbox::chain(error) }
    }
}

/// One comparison.
struct Walk {
    compared: usize,
    differing: Vec<Difference>,
    /// What could not be read or understood.
    failed: Vec<Failure>,
}

/// Looks for missed events, compares everything, mends what differs and compares again.
///
/// # Errors
/// What Stripe or the database said; what was mended stays mended.
pub async fn reconcile(app: &Services) -> Result<Report, BillingError> {
    // Slowly: nobody waits for it, and no transaction is open while a page is on its way.
    stripe::at(Class::Comparing, compare_all(app)).await
}

async fn compare_all(app: &Services) -> Result<Report, BillingError> {
    let mut failed = Vec::new();
    // One list or object that Stripe cannot give keeps none of the others from being compared.
    let events_found = match missed::poll_events(app).await {
        Ok(found) => found,
        Err(error) => {
            failed.push(Failure::of("events", &error));
            0
        }
    };
    let first = walk(app).await?;
    for difference in &first.differing {
        if let Err(error) = sync::object(app, &difference.kind, &difference.object).await {
            failed.push(Failure::of(&difference.object, &error));
        }
    }
    // What could be read the second time has not failed.
    let (differing, unwalked) = if first.differing.is_empty() {
        (Vec::new(), first.failed)
    } else {
        let second = walk(app).await?;
        (second.differing, second.failed)
    };
    for one in unwalked {
        if !failed.iter().any(|known| known.object == one.object) {
            failed.push(one);
        }
    }
    let unread =
        failed.iter().filter(|one| !differing.iter().any(|known| known.object == one.object)).count();
    let left = differing.len() + unread;
    Ok(Report { events_found, compared: first.compared, differences: first.differing, failed, left })
}

/// The differences that were found, open ones first, newest first.
///
/// # Errors
/// Those of the query.
pub async fn differences(connection: &mut AnyConnection) -> Result<Vec<Difference>, DbError> {
    store::differences(connection).await
}

async fn walk(app: &Services) -> Result<Walk, BillingError> {
    let began = app.clock.now();
    let since = began.minus(LOOK_BACK);
    let mut walk = Walk { compared: 0, differing: Vec::new(), failed: Vec::new() };
    let mut living: Vec<String> = Vec::new();
    let mut list = List::default();
    while !list.over {
        let request = stripe::list_subscriptions(list.after.as_deref());
        for value in list.next(app, &request).await? {
            let subscription: SubscriptionView = match view(&value) {
                Ok(subscription) => subscription,
                Err(error) => {
                    let id = id_of(&value);
                    walk.failed.push(Failure::of(id, &error));
                    // Stripe has it: one of ours is not gone.
                    if has_copy(app, id).await? {
                        living.push(id.to_owned());
                    }
                    continue;
                }
            };
            let named =
                !is_foreign(app, &subscription.metadata) && subscription.metadata.contains_key("order_id");
            // What we have sold stays ours, whatever somebody makes of its metadata.
            if !named && !has_copy(app, &subscription.id).await? {
                continue;
            }
            // One that began with a second payment is given back and ended; it and its invoices never get a copy.
            let twice = {
                let mut connection = app.db.read().await?;
                surplus::began(&mut connection, &subscription.id).await?
            };
            if twice {
                continue;
            }
            living.push(subscription.id.clone());
            compare(app, &mut walk, "subscription", &subscription.id, &value).await?;
        }
    }
    let mut list = List::default();
    while !list.over {
        let request = stripe::list_invoices(since, list.after.as_deref());
        for value in list.next(app, &request).await? {
            let invoice: InvoiceView = match view(&value) {
                Ok(invoice) => invoice,
                Err(error) => {
                    walk.failed.push(Failure::of(id_of(&value), &error));
                    continue;
                }
            };
            if invoice.subscription_id().is_some_and(|id| living.iter().any(|known| known == id)) {
                compare(app, &mut walk, "invoice", &invoice.id, &value).await?;
            }
        }
    }
    let mut list = List::default();
    while !list.over {
        let request = stripe::list_disputes(since, list.after.as_deref());
        for value in list.next(app, &request).await? {
            compare_or_take(app, &mut walk, "dispute", &value).await?;
        }
    }
    returns(app, &mut walk, since).await?;
    let here = {
        let mut connection = app.db.read().await?;
        store::living_subscriptions(&mut connection).await?
    };
    for (id, status) in here {
        if !is_over(&status) && !living.contains(&id) {
            walk.differing.push(difference(app, &id, "subscription", "gone"));
        }
    }
    remember(app, began, &walk).await?;
    Ok(walk)
}

/// Refunds, and what customers have as credit.
async fn returns(app: &Services, walk: &mut Walk, since: UnixMillis) -> Result<(), BillingError> {
    let mut list = List::default();
    while !list.over {
        let request = stripe::list_refunds(since, list.after.as_deref());
        for value in list.next(app, &request).await? {
            compare_or_take(app, walk, "refund", &value).await?;
        }
    }
    let mut list = List::default();
    while !list.over {
        let request = stripe::list_all_customers(list.after.as_deref());
        for value in list.next(app, &request).await? {
            let id = id_of(&value);
            let ours = {
                let mut connection = app.db.read().await?;
                store::is_customer(&mut connection, id).await?
            };
            if ours {
                compare(app, walk, "customer", id, &value).await?;
            }
        }
    }
    Ok(())
}

/// What names no subscription: whether it is ours is found out by reading it, and what is not never gets a copy.
async fn compare_or_take(
    app: &Services,
    walk: &mut Walk,
    kind: &str,
    value: &Value,
) -> Result<(), BillingError> {
    let id = id_of(value);
    if has_copy(app, id).await? {
        return compare(app, walk, kind, id, value).await;
    }
    if let Err(error) = sync::object(app, kind, id).await {
        walk.failed.push(Failure::of(id, &error));
        return Ok(());
    }
    walk.compared += 1;
    if has_copy(app, id).await? {
        walk.differing.push(difference(app, id, kind, "missing"));
    }
    Ok(())
}

/// A list that is read to its end, a page at a time.
#[derive(Default)]
struct List {
    after: Option<String>,
    over: bool,
    pages: usize,
}

impl List {
    /// The rows of the page that this request asks for.
    async fn next(&mut self, app: &Services, request: &Prepared) -> Result<Vec<Value>, BillingError> {
        let page = app.stripe.get(app.entropy.as_ref(), request).await?;
        let rows = page.get("data").and_then(Value::as_array).cloned().unwrap_or_default();
        self.after = rows.last().and_then(|row| row.get("id")).and_then(Value::as_str).map(str::to_owned);
        self.over = page.get("has_more").and_then(Value::as_bool) != Some(true) || self.after.is_none();
        self.pages += 1;
        if self.pages > MOST_PAGES { Err(BillingError::LookingUp) } else { Ok(rows) }
    }
}

fn id_of(value: &Value) -> &str {
    value.get("id").and_then(Value::as_str).unwrap_or_default()
}

async fn has_copy(app: &Services, id: &str) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(super::store::object(&mut connection, id).await?.is_some())
}

fn difference(app: &Services, id: &str, kind: &str, what: &str) -> Difference {
    Difference {
        object: id.to_owned(),
        kind: kind.to_owned(),
        what: what.to_owned(),
        found_at: app.clock.now(),
        mended_at: None,
    }
}

async fn compare(
    app: &Services,
    walk: &mut Walk,
    kind: &str,
    id: &str,
    value: &Value,
) -> Result<(), BillingError> {
    walk.compared += 1;
    let mut connection = app.db.read().await?;
    let here = super::store::object(&mut connection, id).await?;
    let same = |json: &str| {
        serde_json::from_str::<Value>(json)
            .is_ok_and(|here| folded(kind, here) == folded(kind, value.clone()))
    };
    let what = match here {
        Some(json) if same(&json) => return Ok(()),
        Some(_) => "differs",
        None => "missing",
    };
    walk.differing.push(difference(app, id, kind, what));
    Ok(())
}

/// An object as far as two readings of it agree. Discounts are their ids, as a list has them: one that was read alone holds them
/// whole, and with them how often their coupon was used by anybody. Stripe makes the links to an invoice anew for each reading,
/// and counts a customer's invoices without telling of it.
fn folded(kind: &str, mut value: Value) -> Value {
    for discount in value.get_mut("discounts").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(id) = discount.get("id").cloned() {
            *discount = id;
        }
    }
    let of_its_own: &[&str] = match kind {
        "invoice" => &["hosted_invoice_url", "invoice_pdf"],
        "customer" => &["next_invoice_sequence"],
        _ => &[],
    };
    if let Some(fields) = value.as_object_mut() {
        for name in of_its_own {
            fields.remove(*name);
        }
    }
    value
}

/// Writes down what differs and what does not any more.
async fn remember(app: &Services, began: UnixMillis, walk: &Walk) -> Result<(), DbError> {
    let differing = walk.differing.clone();
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("ez_billing_differences").set(differing.len() as f64);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for difference in &differing {
                    store::put_difference(tx, difference).await?;
                }
                let open: Vec<&str> = differing.iter().map(|difference| difference.object.as_str()).collect();
                for known in store::differences(tx).await? {
                    if known.mended_at.is_none() && !open.contains(&known.object.as_str()) {
                        store::mend_difference(tx, began, &known.object).await?;
                    }
                }
                Ok::<_, DbError>(())
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::folded;

    #[test]
    fn a_discount_is_the_same_whole_or_as_its_id() {
        let whole = json!({"id": "sub_1", "discounts": [{"id": "di_1", "source": {"coupon": {"times_redeemed": 7}}}]});
        let listed = json!({"id": "sub_1", "discounts": ["di_1"]});
        let folded = |value: &serde_json::Value| folded("subscription", value.clone());
        assert_eq!(folded(&whole), listed);
        assert_eq!(folded(&listed), listed);
        assert_ne!(folded(&whole), folded(&json!({"id": "sub_1", "discounts": []})));
    }

    #[test]
    fn what_stripe_makes_anew_for_each_reading_is_no_difference() {
        let invoice = |token: &str, status: &str| {
            let link = format!("https://invoice.example/i/{token}");
            json!({"id": "in_1", "status": status, "hosted_invoice_url": link, "invoice_pdf": format!("{link}/pdf")})
        };
        let read = |token: &str, status: &str| folded("invoice", invoice(token, status));
        assert_eq!(read("a", "paid"), read("b", "paid"));
        assert_ne!(read("a", "paid"), read("a", "void"));
        let customer = |next: i64, balance: i64| {
            folded("customer", json!({"id": "cus_1", "balance": balance, "next_invoice_sequence": next}))
        };
        assert_eq!(customer(1, 0), customer(9, 0));
        assert_ne!(customer(1, 0), customer(1, -500));
        // Of other kinds nothing is left out.
        assert_ne!(
            folded("refund", json!({"next_invoice_sequence": 1})),
            folded("refund", json!({"next_invoice_sequence": 2}))
        );
    }
}

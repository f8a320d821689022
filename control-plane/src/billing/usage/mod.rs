//! Traffic above the plan: from the agents' counters to an invoice, once for each server and month.
//!
//! Owns `traffic_terms` (what was agreed) and `traffic_bills` (the ledger). The month is the calendar's, in UTC, as the
//! agents count. It is *closed* two days after its end, or once the server's node was heard since ([`close`]): one row with
//! what was counted then, which no later count changes, so nothing is charged twice and nothing afterwards. A row that
//! costs something becomes an invoice item at Stripe ([`post`]), under a key of server and month, and Stripe puts it on
//! the subscription's next invoice; where that is more than five weeks off (a year's subscription), an invoice of its
//! own is made. A bill is *invoiced* once an invoice that was read names it.
//!
//! Whoever ends a subscription at the end of its period pays what is posted with the last invoice. What is closed after
//! the end is waived: there is no invoice left to put it on, and nothing to switch off.

mod close;
mod letters;
mod model;
mod post;
mod store;

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, Month, OrderId, UnixMillis};
use serde_json::{Value, json};
use sqlx::AnyConnection;

pub use letters::{TrafficNear, TrafficOver};
pub use model::{BillState, Deal, Over, TrafficTerms, traffic_closes};
pub(super) use model::{begins as month_begins, month_ends};
pub(super) use post::{POST, run_post};

use crate::{
    app::{App, Services},
    audit,
    billing::stripe::InvoiceView,
    catalog,
    db::DbError,
    fleet::alarms,
    jobs::{self, JobError, JobRun},
};

/// Looks for months to close and letters to write.
pub(super) const COUNT: &str = "billing.traffic";
/// How often.
pub(super) const COUNT_EVERY: Duration = Duration::from_secs(10 * 60);
/// The word of an invoice item's metadata that names server and month.
pub(super) const WORD: &str = "traffic";
/// The alarm about a bill that Stripe does not take.
const NOT_BILLED: &str = "traffic_not_billed";
/// A bill that waits is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Rows taken at once.
const BATCH: i64 = 200;

/// A month's bill of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// The server.
    pub instance: InstanceId,
    /// Which month.
    pub month: Month,
    /// The purchase.
    pub order: OrderId,
    /// Who pays.
    pub account: AccountId,
    /// Lower-case ISO code.
    pub currency: String,
    /// Bytes, both directions, as they were when the month was closed.
    pub counted: u64,
    /// What was included.
    pub included_gib: u64,
    /// Started 100 GiB above that.
    pub units: i64,
    /// What each costs, minor units.
    pub unit_minor: i64,
    /// What they cost together.
    pub amount_minor: i64,
    /// How it stands.
    pub state: BillState,
    /// Stripe's invoice.
    pub invoice: Option<String>,
    pub(super) attempt: i64,
    pub(super) invoice_attempt: i64,
    pub(super) item: Option<String>,
}

impl Bill {
    /// `<server>:202611`
    fn key(&self) -> String {
        format!("{}:{}", self.instance, self.month.number())
    }
}

/// Reads what [`Bill::key`] wrote.
fn read_key(key: &str) -> Option<(InstanceId, Month)> {
    let (instance, month) = key.split_once(':')?;
    Some((instance.parse().ok()?, Month::from_number(month.parse().ok()?)?))
}

/// Writes down what is agreed about a server's traffic from now on.
///
/// # Errors
/// Those of the statement.
pub async fn agree_traffic(
    tx: &mut AnyConnection,
    at: UnixMillis,
    terms: &TrafficTerms,
) -> Result<(), DbError> {
    store::put_terms(tx, at, terms).await
}

/// A server goes over to another plan: that one's traffic holds from now on, as it is sold now. Nothing was agreed about
/// servers of before, and nothing is.
///
/// # Errors
/// Those of the statements.
pub async fn agree_plan_traffic(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
    plan: &str,
) -> Result<(), DbError> {
    let all = store::terms(tx, instance).await?;
    let (Some((_, last)), Some(plan)) = (all.last(), catalog::plan(tx, plan).await?) else { return Ok(()) };
    let unit_minor = catalog::traffic_price(tx, &plan.code, &last.currency).await?;
    let terms = TrafficTerms { included_gib: plan.traffic_gib, unit_minor, ..last.clone() };
    if terms == *last { Ok(()) } else { store::put_terms(tx, at, &terms).await }
}

/// What holds for a server's traffic in a month; nothing if nothing was agreed.
///
/// # Errors
/// Those of the query.
pub async fn traffic_deal(
    connection: &mut AnyConnection,
    instance: InstanceId,
    month: Month,
) -> Result<Option<Deal>, DbError> {
    Ok(model::deal(&store::terms(connection, instance).await?, month))
}

/// A server's bill of a month, once it is closed.
///
/// # Errors
/// Those of the query.
pub async fn traffic_bill(
    connection: &mut AnyConnection,
    instance: InstanceId,
    month: Month,
) -> Result<Option<Bill>, DbError> {
    store::bill(connection, instance, month).await
}

/// An account's bills that cost something, newest first, at most a hundred.
///
/// # Errors
/// Those of the query.
pub async fn traffic_bills(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Bill>, DbError> {
    store::bills(connection, account).await
}

/// The job.
pub(super) async fn run(app: App, _run: JobRun) -> Result<(), JobError> {
    Ok(count(&app).await?)
}

/// Closes what is over, writes letters, takes up what was left.
pub(crate) async fn count(app: &Services) -> Result<(), DbError> {
    close::close(app).await?;
    close::warn(app).await?;
    take_up(app).await
}

/// Bills that wait for long: a lost message costs time, never a bill.
async fn take_up(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let waiting = {
        let mut connection = app.db.read().await?;
        store::open(&mut connection, now.minus(LOOK_AGAIN), BATCH).await?
    };
    for bill in waiting {
        app.db
            .write(move |tx| {
                Box::pin(async move { jobs::enqueue(tx, POST, &bill.key(), &Value::Null, now).await })
            })
            .await?;
    }
    Ok(())
}

async fn note(tx: &mut AnyConnection, at: UnixMillis, bill: &Bill, action: &str) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: "billing".to_owned(),
        action: format!("traffic.{action}"),
        subject_kind: "instance".to_owned(),
        subject_id: bill.instance.to_string(),
        detail: json!({
            "month": bill.month.to_string(), "units": bill.units, "amount_minor": bill.amount_minor,
            "currency": bill.currency,
        }),
    };
    audit::record(tx, at, entry).await
}

/// Whether an invoice charges traffic and nothing else: what was used is owed, whatever came after.
pub(super) fn is_traffic_alone(invoice: &InvoiceView) -> bool {
    invoice.is_of_items_with(WORD)
}

/// An invoice was read: the bills on those lines that came along are invoiced. Of the others their items tell ([`post`]).
pub(super) async fn invoice_read(
    tx: &mut AnyConnection,
    at: UnixMillis,
    invoice: &str,
    value: &Value,
) -> Result<(), DbError> {
    if matches!(value["status"].as_str(), Some("void")) {
        return Ok(());
    }
    for line in value["lines"]["data"].as_array().into_iter().flatten() {
        let seen = line["metadata"][WORD].as_str().and_then(read_key);
        let item = line["parent"]["invoice_item_details"]["invoice_item"].as_str();
        let (Some(seen), Some(item)) = (seen, item) else { continue };
        seen_on(tx, at, seen, item, invoice).await?;
    }
    Ok(())
}

/// The item of a bill is on an invoice.
async fn seen_on(
    tx: &mut AnyConnection,
    at: UnixMillis,
    seen: (InstanceId, Month),
    item: &str,
    invoice: &str,
) -> Result<(), DbError> {
    if store::invoiced(tx, at, seen, item, invoice).await?
        && let Some(bill) = store::bill(tx, seen.0, seen.1).await?
    {
        note(tx, at, &bill, "invoiced").await?;
        // Whatever came in the way before, it is billed.
        alarms::clear(tx, at, NOT_BILLED, &bill.key()).await?;
    }
    Ok(())
}

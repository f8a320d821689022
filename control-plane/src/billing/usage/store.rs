//! SQL of what was agreed about traffic, and of the ledger.

use ez_protocol::{AccountId, InstanceId, Month, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{
    Bill,
    model::{BillState, TrafficTerms, after as month_after, begins},
};
use crate::db::{Cols, DbError};

pub(super) async fn put_terms(
    tx: &mut AnyConnection,
    at: UnixMillis,
    terms: &TrafficTerms,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO traffic_terms (instance_id, since, order_id, account_id, included_gib, unit_minor, currency)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (instance_id, since) DO UPDATE SET
             included_gib = excluded.included_gib, unit_minor = excluded.unit_minor, currency = excluded.currency",
    )
    .bind(terms.instance.to_string())
    .bind(at.0)
    .bind(terms.order.to_string())
    .bind(terms.account.to_string())
    .bind(i64::try_from(terms.included_gib).unwrap_or(i64::MAX))
    .bind(terms.unit_minor)
    .bind(&terms.currency)
    .execute(tx)
    .await?;
    Ok(())
}

fn read_terms(row: &AnyRow) -> Result<(UnixMillis, TrafficTerms), DbError> {
    let row = Cols::of("traffic_terms", row);
    let terms = TrafficTerms {
        instance: row.id("instance_id")?,
        order: row.id("order_id")?,
        account: row.id("account_id")?,
        included_gib: row.num("included_gib")?,
        unit_minor: row.get("unit_minor")?,
        currency: row.text("currency")?,
    };
    Ok((row.millis("since")?, terms))
}

/// Everything that was agreed about a server, oldest first.
pub(super) async fn terms(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Vec<(UnixMillis, TrafficTerms)>, DbError> {
    let rows = sqlx::query(
        "SELECT instance_id, since, order_id, account_id, included_gib, unit_minor, currency FROM traffic_terms
         WHERE instance_id = $1 ORDER BY since",
    )
    .bind(instance.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_terms).collect()
}

/// Servers whose traffic may cost something, with what was agreed, oldest first; after one, at most `limit` rows.
pub(super) async fn priced(
    connection: &mut AnyConnection,
    after: &str,
    limit: i64,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT DISTINCT t.instance_id FROM traffic_terms t
         JOIN billing_standings s ON s.instance_id = t.instance_id AND s.stand <> 'end'
         WHERE t.unit_minor IS NOT NULL AND t.instance_id > $1 ORDER BY t.instance_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("traffic_terms", row).id("instance_id")).collect()
}

/// Servers that were sold before the end of a month, whose service had not ended before it began, and whose month is not
/// in the ledger; after one, at most `limit`.
pub(super) async fn unclosed(
    connection: &mut AnyConnection,
    month: Month,
    after: &str,
    limit: i64,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT DISTINCT t.instance_id FROM traffic_terms t
         JOIN billing_standings s ON s.instance_id = t.instance_id
         WHERE t.since < $3 AND NOT (s.stand = 'end' AND s.since < $2)
               AND NOT EXISTS (SELECT 1 FROM traffic_bills b WHERE b.instance_id = t.instance_id AND b.month = $1)
               AND t.instance_id > $4
         ORDER BY t.instance_id LIMIT $5",
    )
    .bind(i64::from(month.number()))
    .bind(begins(month).0)
    .bind(begins(month_after(month)).0)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("traffic_terms", row).id("instance_id")).collect()
}

/// Closes a server's month; `false` if it was.
pub(super) async fn close(tx: &mut AnyConnection, at: UnixMillis, bill: &Bill) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO traffic_bills
             (instance_id, month, order_id, account_id, currency, counted, included_gib, units, unit_minor,
              amount_minor, state, attempt, invoice_attempt, closed_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 1, 1, $12, $12)
         ON CONFLICT (instance_id, month) DO NOTHING",
    )
    .bind(bill.instance.to_string())
    .bind(i64::from(bill.month.number()))
    .bind(bill.order.to_string())
    .bind(bill.account.to_string())
    .bind(&bill.currency)
    .bind(i64::try_from(bill.counted).unwrap_or(i64::MAX))
    .bind(i64::try_from(bill.included_gib).unwrap_or(i64::MAX))
    .bind(bill.units)
    .bind(bill.unit_minor)
    .bind(bill.amount_minor)
    .bind(bill.state)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn read_bill(row: &AnyRow) -> Result<Bill, DbError> {
    let row = Cols::of("traffic_bills", row);
    let month: u32 = row.num("month")?;
    Ok(Bill {
        instance: row.id("instance_id")?,
        month: Month::from_number(month).ok_or_else(|| row.inconsistent("month"))?,
        order: row.id("order_id")?,
        account: row.id("account_id")?,
        currency: row.text("currency")?,
        counted: row.num("counted")?,
        included_gib: row.num("included_gib")?,
        units: row.int("units")?,
        unit_minor: row.int("unit_minor")?,
        amount_minor: row.int("amount_minor")?,
        state: row.get("state")?,
        attempt: row.int("attempt")?,
        invoice_attempt: row.int("invoice_attempt")?,
        item: row.get("item_id")?,
        invoice: row.get("invoice_id")?,
    })
}

macro_rules! select_bills {
    ($rest:literal) => {
        concat!(
            "SELECT instance_id, month, order_id, account_id, currency, counted, included_gib, units, unit_minor, amount_minor,
                    state, attempt, invoice_attempt, item_id, invoice_id
             FROM traffic_bills ",
            $rest
        )
    };
}

pub(super) async fn bill(
    connection: &mut AnyConnection,
    instance: InstanceId,
    month: Month,
) -> Result<Option<Bill>, DbError> {
    let row = sqlx::query(select_bills!("WHERE instance_id = $1 AND month = $2"))
        .bind(instance.to_string())
        .bind(i64::from(month.number()))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_bill).transpose()
}

/// Bills in these states that were not touched since a time, the oldest first.
pub(super) async fn open(
    connection: &mut AnyConnection,
    before: UnixMillis,
    limit: i64,
) -> Result<Vec<Bill>, DbError> {
    let rows = sqlx::query(select_bills!(
        "WHERE state IN ('wanted', 'posted') AND updated_at <= $1 ORDER BY updated_at, instance_id, month LIMIT $2"
    ))
    .bind(before.0)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_bill).collect()
}

/// An account's bills that cost something, newest first.
pub(super) async fn bills(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Bill>, DbError> {
    let rows = sqlx::query(select_bills!(
        "WHERE account_id = $1 AND state <> 'free' ORDER BY month DESC, instance_id LIMIT 100"
    ))
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_bill).collect()
}

/// Moves a bill on; `false` if it is not in the state it was read in.
pub(super) async fn advance(
    tx: &mut AnyConnection,
    at: UnixMillis,
    bill: &Bill,
    next: BillState,
    item: Option<&str>,
) -> Result<bool, DbError> {
    if !bill.state.may_become(next) {
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE traffic_bills SET state = $4, item_id = COALESCE($5, item_id), updated_at = $6
         WHERE instance_id = $1 AND month = $2 AND state = $3",
    )
    .bind(bill.instance.to_string())
    .bind(i64::from(bill.month.number()))
    .bind(bill.state)
    .bind(next)
    .bind(item)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The bill was seen on an invoice; `false` if that was known.
pub(super) async fn invoiced(
    tx: &mut AnyConnection,
    at: UnixMillis,
    seen: (InstanceId, Month),
    item: &str,
    invoice: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE traffic_bills SET state = 'invoiced', item_id = $3, invoice_id = $4, updated_at = $5
         WHERE instance_id = $1 AND month = $2 AND state IN ('wanted', 'posted')
               AND (item_id IS NULL OR item_id = $3)",
    )
    .bind(seen.0.to_string())
    .bind(i64::from(seen.1.number()))
    .bind(item)
    .bind(invoice)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The outcome of a call was looked up and it had not been done: the next one has another key.
pub(super) async fn next_attempt(tx: &mut AnyConnection, at: UnixMillis, bill: &Bill) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE traffic_bills SET attempt = attempt + 1, updated_at = $4
         WHERE instance_id = $1 AND month = $2 AND attempt = $3 AND state = 'wanted'",
    )
    .bind(bill.instance.to_string())
    .bind(i64::from(bill.month.number()))
    .bind(bill.attempt)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Nothing is known to have changed: it has its next turn after the others, under the same key.
pub(super) async fn put_off(tx: &mut AnyConnection, at: UnixMillis, bill: &Bill) -> Result<(), DbError> {
    sqlx::query("UPDATE traffic_bills SET updated_at = $3 WHERE instance_id = $1 AND month = $2")
        .bind(bill.instance.to_string())
        .bind(i64::from(bill.month.number()))
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// As [`next_attempt`], of the invoice of its own.
pub(super) async fn next_invoice_attempt(
    tx: &mut AnyConnection,
    at: UnixMillis,
    bill: &Bill,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE traffic_bills SET invoice_attempt = invoice_attempt + 1, updated_at = $4
         WHERE instance_id = $1 AND month = $2 AND invoice_attempt = $3",
    )
    .bind(bill.instance.to_string())
    .bind(i64::from(bill.month.number()))
    .bind(bill.invoice_attempt)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

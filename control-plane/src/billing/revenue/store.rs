//! SQL of revenue.

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use super::model::{Charge, Failed, Life, Step};
use crate::db::{Cols, DbError};

/// A subscription's newest step.
pub(super) async fn last(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Option<(UnixMillis, Step)>, DbError> {
    let row = sqlx::query(
        "SELECT subscription_id, since, currency, monthly_minor, live, rests FROM billing_charges
         WHERE subscription_id = $1 ORDER BY since DESC LIMIT 1",
    )
    .bind(subscription)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("billing_charges", &row);
        Ok((row.millis("since")?, step(row)?))
    })
    .transpose()
}

fn step(row: Cols<'_>) -> Result<Step, DbError> {
    let life = match (row.flag("live")?, row.flag("rests")?) {
        (true, _) => Life::Live,
        (false, true) => Life::Rests,
        (false, false) => Life::Over,
    };
    Ok(Step { currency: row.text("currency")?, monthly_minor: row.int("monthly_minor")?, life })
}

pub(super) async fn put(
    tx: &mut AnyConnection,
    subscription: &str,
    account: AccountId,
    since: UnixMillis,
    step: &Step,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_charges (subscription_id, since, account_id, currency, monthly_minor, live, rests)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (subscription_id, since) DO NOTHING",
    )
    .bind(subscription)
    .bind(since.0)
    .bind(account.to_string())
    .bind(&step.currency)
    .bind(step.monthly_minor)
    .bind(i64::from(step.life == Life::Live))
    .bind(i64::from(step.life == Life::Rests))
    .execute(tx)
    .await?;
    Ok(())
}

/// What all subscriptions of a currency bring a month now. Minor units.
pub(super) async fn monthly_now(connection: &mut AnyConnection) -> Result<Vec<(String, i64)>, DbError> {
    let rows = sqlx::query(
        "SELECT currency, CAST(SUM(monthly_minor) AS BIGINT) AS monthly_minor FROM billing_charges c
         WHERE since = (SELECT MAX(d.since) FROM billing_charges d WHERE d.subscription_id = c.subscription_id)
         GROUP BY currency",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_charges", row);
            Ok((row.text("currency")?, row.int("monthly_minor")?))
        })
        .collect()
}

/// How many subscriptions of a currency have ended since a time. One that is paused or unpaid is charged no longer either, and may
/// be again.
pub(super) async fn ended_since(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<(String, i64)>, DbError> {
    let rows = sqlx::query(
        "SELECT c.currency, COUNT(*) AS ended
         FROM billing_charges c
         WHERE c.live = 0 AND c.rests = 0 AND c.since >= $1
               AND c.since = (SELECT MAX(d.since) FROM billing_charges d WHERE d.subscription_id = c.subscription_id)
         GROUP BY c.currency",
    )
    .bind(since.0)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_charges", row);
            Ok((row.text("currency")?, row.int("ended")?))
        })
        .collect()
}

pub(super) async fn charges(connection: &mut AnyConnection) -> Result<Vec<Charge>, DbError> {
    let rows = sqlx::query(
        "SELECT subscription_id, since, account_id, currency, monthly_minor, live, rests FROM billing_charges
         ORDER BY subscription_id, since",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_charges", row);
            Ok(Charge {
                subscription: row.text("subscription_id")?,
                account: row.text("account_id")?,
                since: row.millis("since")?,
                step: step(row)?,
            })
        })
        .collect()
}

/// Invoices since a time that the first try did not collect, with what was to be collected after credit.
pub(super) async fn failed(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<Failed>, DbError> {
    let rows = sqlx::query(
        "SELECT currency, issued_at,
                CASE WHEN status = 'paid' THEN paid_minor WHEN due_minor > 0 THEN due_minor ELSE total_minor END AS minor,
                CASE WHEN status = 'paid' THEN 1 ELSE 0 END AS recovered
         FROM billing_invoices
         WHERE issued_at >= $1 AND (tries > 1 OR (tries > 0 AND status IN ('open', 'uncollectible', 'void')))",
    )
    .bind(since.0)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_invoices", row);
            Ok(Failed {
                currency: row.text("currency")?,
                at: row.millis("issued_at")?,
                minor: row.int("minor")?,
                recovered: row.flag("recovered")?,
            })
        })
        .collect()
}

//! SQL of the full comparison.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::Difference;
use crate::db::{Cols, DbError};

/// Stripe's ids of the subscriptions we know, with their statuses, that are not over here.
pub(super) async fn living_subscriptions(
    connection: &mut AnyConnection,
) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query(
        "SELECT stripe_id, status FROM billing_subscriptions
         WHERE status NOT IN ('canceled', 'incomplete_expired') ORDER BY stripe_id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_subscriptions", row);
            Ok((row.text("stripe_id")?, row.text("status")?))
        })
        .collect()
}

/// Whether a customer of Stripe's is one of ours.
pub(super) async fn is_customer(connection: &mut AnyConnection, id: &str) -> Result<bool, DbError> {
    let found: Option<String> =
        sqlx::query_scalar("SELECT stripe_id FROM billing_customers WHERE stripe_id = $1")
            .bind(id)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

pub(super) async fn differences(connection: &mut AnyConnection) -> Result<Vec<Difference>, DbError> {
    let rows = sqlx::query(
        "SELECT object_id, kind, what, found_at, mended_at FROM billing_differences
         ORDER BY CASE WHEN mended_at IS NULL THEN 0 ELSE 1 END, found_at DESC, object_id LIMIT 500",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_differences", row);
            Ok(Difference {
                object: row.text("object_id")?,
                kind: row.text("kind")?,
                what: row.text("what")?,
                found_at: row.millis("found_at")?,
                mended_at: row.opt_millis("mended_at")?,
            })
        })
        .collect()
}

/// Writes a difference down; one that is open keeps the time it was found.
pub(super) async fn put_difference(tx: &mut AnyConnection, difference: &Difference) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_differences (object_id, kind, what, found_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (object_id) DO UPDATE SET
             what = excluded.what, mended_at = NULL,
             found_at = CASE WHEN billing_differences.mended_at IS NULL THEN billing_differences.found_at
                             ELSE excluded.found_at END",
    )
    .bind(&difference.object)
    .bind(&difference.kind)
    .bind(&difference.what)
    .bind(difference.found_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn mend_difference(
    tx: &mut AnyConnection,
    at: UnixMillis,
    object: &str,
) -> Result<(), DbError> {
    sqlx::query("UPDATE billing_differences SET mended_at = $2 WHERE object_id = $1 AND mended_at IS NULL")
        .bind(object)
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

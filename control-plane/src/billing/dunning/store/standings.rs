//! SQL of standings.

use ez_protocol::{AccountId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    billing::dunning::{
        Standing,
        standing::{Judgement, Stand, Step},
        store::Known,
    },
    db::{Cols, DbError},
};

fn read(row: &AnyRow) -> Result<Standing, DbError> {
    let row = Cols::of("billing_standings", row);
    let step = row.opt_id::<Step>("next_step")?;
    Ok(Standing {
        order: row.id("order_id")?,
        instance: row.id("instance_id")?,
        account: row.id("account_id")?,
        stand: row.get("stand")?,
        why: row.get("why")?,
        since: row.millis("since")?,
        next: step.zip(row.opt_millis("next_at")?),
    })
}

macro_rules! select_standings {
    ($rest:literal) => {
        concat!(
            "SELECT order_id, instance_id, account_id, stand, why, since, next_step, next_at FROM billing_standings ",
            $rest
        )
    };
}

pub(in crate::billing) async fn standing(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Standing>, DbError> {
    let row = sqlx::query(select_standings!("WHERE order_id = $1"))
        .bind(order.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The standings that are not simply "paid, runs": those that are served or can be again first, what comes next before what
/// comes later; then the exempt, who are only charged; then those whose service has ended, the last one first.
pub(in crate::billing) async fn not_running(
    connection: &mut AnyConnection,
    limit: i64,
) -> Result<Vec<Standing>, DbError> {
    let rows = sqlx::query(select_standings!(
        "WHERE stand <> 'run' OR why <> 'paid'
         ORDER BY CASE WHEN stand = 'end' THEN 2 WHEN why = 'exempt' THEN 1 ELSE 0 END,
                  CASE WHEN next_at IS NULL THEN 1 ELSE 0 END, next_at, since DESC, order_id
         LIMIT $1"
    ))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The standings that a server may not have followed: all that are suspended, and those that ended after a time.
pub(in crate::billing) async fn to_follow(
    connection: &mut AnyConnection,
    ended_after: UnixMillis,
) -> Result<Vec<Standing>, DbError> {
    let rows = sqlx::query(select_standings!(
        "WHERE stand = 'suspend' OR (stand = 'end' AND since >= $1) ORDER BY since, order_id"
    ))
    .bind(ended_after.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Those of an account.
pub(in crate::billing) async fn of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Standing>, DbError> {
    let rows =
        sqlx::query(select_standings!("WHERE account_id = $1 ORDER BY since DESC, order_id LIMIT 500"))
            .bind(account.to_string())
            .fetch_all(connection)
            .await?;
    rows.iter().map(read).collect()
}

/// Those whose next step should have come already: a lost job costs time, never a step.
pub(in crate::billing) async fn overdue(
    connection: &mut AnyConnection,
    now: UnixMillis,
) -> Result<Vec<OrderId>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id FROM billing_standings
         WHERE stand <> 'end' AND next_at <= $1 ORDER BY next_at LIMIT 200",
    )
    .bind(now.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("billing_standings", row).id("order_id")).collect()
}

/// Whether a step of the clock of any unpaid invoice was due before a time, and is not taken yet.
pub(in crate::billing) async fn is_any_waiting(
    connection: &mut AnyConnection,
    before: UnixMillis,
) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar(
        "SELECT order_id FROM billing_standings
         WHERE stand <> 'end' AND next_at <= $1 AND next_step IN ('suspend', 'notice', 'retire') LIMIT 1",
    )
    .bind(before.0)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Writes what holds now over what held before.
pub(in crate::billing) async fn put_standing(
    tx: &mut AnyConnection,
    at: UnixMillis,
    known: &Known,
    judged: &Judgement,
    since: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_standings
             (order_id, instance_id, account_id, stand, why, since, next_step, next_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (order_id) DO UPDATE SET
             stand = excluded.stand, why = excluded.why, since = excluded.since, next_step = excluded.next_step,
             next_at = excluded.next_at, updated_at = excluded.updated_at",
    )
    .bind(known.order.to_string())
    .bind(known.instance.to_string())
    .bind(known.account.to_string())
    .bind(judged.stand)
    .bind(judged.why)
    .bind(since.0)
    .bind(judged.next.map(|(step, _)| step.as_str()))
    .bind(judged.next.map(|(_, at)| at.0))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Stand as a word sorts by how bad it is; used by the metric.
pub(in crate::billing) async fn counted(
    connection: &mut AnyConnection,
) -> Result<Vec<(Stand, i64)>, DbError> {
    let rows = sqlx::query("SELECT stand, COUNT(*) AS many FROM billing_standings GROUP BY stand")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_standings", row);
            Ok((row.get("stand")?, row.int("many")?))
        })
        .collect()
}

//! SQL of samples and traffic.

use ez_protocol::{InstanceId, Month, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::model::{Block, MINUTE, Traffic, Values, row_minutes};
use crate::db::{self, Cols, DbError, one_row};

/// Names a row of samples.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) subject: String,
    /// Length of a slot.
    pub(super) minutes: i64,
    pub(super) block: i64,
}

impl Key {
    /// First minute of the row.
    pub(super) fn begins(&self) -> i64 {
        self.block * row_minutes(self.minutes)
    }

    fn ends_at(&self) -> i64 {
        (self.block + 1) * row_minutes(self.minutes) * 60_000
    }
}

fn block_of(row: &AnyRow) -> Result<Block, DbError> {
    let row = Cols::of("metric_blocks", row);
    Block::unpack(&row.bytes("samples")?).ok_or_else(|| row.inconsistent("samples"))
}

/// A row, and nobody else changes it until this transaction ends; an empty one with version 0 if there is none.
pub(super) async fn block_to_change(tx: &mut AnyConnection, key: &Key) -> Result<(Block, i64), DbError> {
    db::lock(tx, "metrics", format!("{} {} {}", key.subject, key.minutes, key.block)).await?;
    let row = sqlx::query(
        "SELECT subject, samples, version FROM metric_blocks
         WHERE subject = $1 AND minutes = $2 AND block = $3",
    )
    .bind(key.subject.clone())
    .bind(key.minutes)
    .bind(key.block)
    .fetch_optional(tx)
    .await?;
    match row {
        None => Ok((Block::default(), 0)),
        Some(row) => Ok((block_of(&row)?, Cols::of("metric_blocks", &row).int("version")?)),
    }
}

/// Writes a row that was read with this version.
pub(super) async fn put(
    tx: &mut AnyConnection,
    key: &Key,
    block: &Block,
    version: i64,
    due: bool,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "INSERT INTO metric_blocks (subject, minutes, block, samples, version, due, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (subject, minutes, block) DO UPDATE SET
             samples = excluded.samples, version = excluded.version, due = excluded.due
         WHERE metric_blocks.version = excluded.version - 1",
    )
    .bind(key.subject.clone())
    .bind(key.minutes)
    .bind(key.block)
    .bind(block.pack())
    .bind(version + 1)
    .bind(i64::from(due))
    .bind(key.ends_at())
    .execute(tx)
    .await?;
    one_row(done)
}

/// Slots of a subject with a length, whose beginning lies in `from..to` (minutes), the oldest first.
pub(super) async fn slots(
    connection: &mut AnyConnection,
    subject: &str,
    minutes: i64,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, Values)>, DbError> {
    let row = row_minutes(minutes);
    let rows = sqlx::query(
        "SELECT subject, block, samples FROM metric_blocks
         WHERE subject = $1 AND minutes = $2 AND block >= $3 AND block <= $4 ORDER BY block",
    )
    .bind(subject.to_owned())
    .bind(minutes)
    .bind(from.div_euclid(row))
    .bind(to.div_euclid(row))
    .fetch_all(connection)
    .await?;
    unfolded(&rows, minutes, from, to)
}

/// The same of minutes that are not rolled up yet.
pub(super) async fn due_slots(
    connection: &mut AnyConnection,
    subject: &str,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, Values)>, DbError> {
    let row = row_minutes(MINUTE);
    let rows = sqlx::query(
        "SELECT subject, block, samples FROM metric_blocks
         WHERE subject = $1 AND minutes = $2 AND block >= $3 AND block <= $4 AND due = 1 ORDER BY block",
    )
    .bind(subject.to_owned())
    .bind(MINUTE)
    .bind(from.div_euclid(row))
    .bind(to.div_euclid(row))
    .fetch_all(connection)
    .await?;
    unfolded(&rows, MINUTE, from, to)
}

fn unfolded(rows: &[AnyRow], minutes: i64, from: i64, to: i64) -> Result<Vec<(i64, Values)>, DbError> {
    let mut slots = Vec::new();
    for row in rows {
        let begins = Cols::of("metric_blocks", row).int("block")? * row_minutes(minutes);
        let block = block_of(row)?;
        let all = block.slots().map(|(slot, values)| (begins + i64::from(slot) * minutes, values));
        slots.extend(all.filter(|(minute, _)| (from..to).contains(minute)));
    }
    Ok(slots)
}

/// The newest minute of which something is known.
pub(super) async fn newest(connection: &mut AnyConnection, subject: &str) -> Result<Option<i64>, DbError> {
    let row = sqlx::query(
        "SELECT subject, block, samples FROM metric_blocks
         WHERE subject = $1 AND minutes = $2 ORDER BY block DESC LIMIT 1",
    )
    .bind(subject.to_owned())
    .bind(MINUTE)
    .fetch_optional(connection)
    .await?;
    Ok(match row {
        None => None,
        Some(row) => unfolded(&[row], MINUTE, i64::MIN, i64::MAX)?.last().map(|(minute, _)| *minute),
    })
}

/// Rows of minutes that ended before a time and are not rolled up, the oldest first.
pub(super) async fn due(
    connection: &mut AnyConnection,
    before: UnixMillis,
    limit: i64,
) -> Result<Vec<Key>, DbError> {
    let rows = sqlx::query(
        "SELECT subject, minutes, block FROM metric_blocks WHERE due = 1 AND ends_at <= $1
         ORDER BY ends_at, subject LIMIT $2",
    )
    .bind(before.0)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("metric_blocks", row);
            Ok(Key { subject: row.text("subject")?, minutes: row.int("minutes")?, block: row.int("block")? })
        })
        .collect()
}

/// Removes rows with slots of a length that ended before a time and are rolled up; says how many.
pub(super) async fn remove(tx: &mut AnyConnection, minutes: i64, before: UnixMillis) -> Result<u64, DbError> {
    let done = sqlx::query("DELETE FROM metric_blocks WHERE minutes = $1 AND ends_at <= $2 AND due = 0")
        .bind(minutes)
        .bind(before.0)
        .execute(tx)
        .await?;
    Ok(done.rows_affected())
}

/// What one series counted of a server in a month.
#[derive(Clone, Debug)]
pub(super) struct Total {
    pub(super) instance: InstanceId,
    pub(super) month: Month,
    pub(super) series: String,
    pub(super) bytes_in: i64,
    pub(super) bytes_out: i64,
}

/// Raises totals; a smaller one than is known changes nothing.
pub(super) async fn raise_totals(
    tx: &mut AnyConnection,
    at: UnixMillis,
    totals: &[Total],
) -> Result<(), DbError> {
    for total in totals {
        sqlx::query(
            "INSERT INTO traffic_months (instance_id, month, series, bytes_in, bytes_out, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (instance_id, month, series) DO UPDATE SET updated_at = excluded.updated_at,
                 bytes_in = CASE WHEN excluded.bytes_in > traffic_months.bytes_in
                     THEN excluded.bytes_in ELSE traffic_months.bytes_in END,
                 bytes_out = CASE WHEN excluded.bytes_out > traffic_months.bytes_out
                     THEN excluded.bytes_out ELSE traffic_months.bytes_out END",
        )
        .bind(total.instance.to_string())
        .bind(i64::from(total.month.number()))
        .bind(total.series.clone())
        .bind(total.bytes_in)
        .bind(total.bytes_out)
        .bind(at.0)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// A server's month, all series together.
pub(super) async fn traffic(
    connection: &mut AnyConnection,
    instance: InstanceId,
    month: Month,
) -> Result<Traffic, DbError> {
    let rows = sqlx::query(
        "SELECT instance_id, bytes_in, bytes_out, updated_at FROM traffic_months
         WHERE instance_id = $1 AND month = $2",
    )
    .bind(instance.to_string())
    .bind(i64::from(month.number()))
    .fetch_all(connection)
    .await?;
    let mut sum = Traffic::default();
    for row in &rows {
        let row = Cols::of("traffic_months", row);
        sum.bytes_in = sum.bytes_in.saturating_add(row.num("bytes_in")?);
        sum.bytes_out = sum.bytes_out.saturating_add(row.num("bytes_out")?);
        sum.updated_at = sum.updated_at.max(Some(row.millis("updated_at")?));
    }
    Ok(sum)
}

/// Removes months before one.
pub(super) async fn forget_months(tx: &mut AnyConnection, before: Month) -> Result<(), DbError> {
    sqlx::query("DELETE FROM traffic_months WHERE month < $1")
        .bind(i64::from(before.number()))
        .execute(tx)
        .await?;
    Ok(())
}

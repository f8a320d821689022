//! SQL of consoles.

use ez_protocol::{AccountId, ConsoleId, InstanceId, UnixMillis, console::ConsoleKind};
use sqlx::{AnyConnection, any::AnyRow};

use super::{Console, End, Holder};
use crate::db::{Cols, DbError};

/// A ticket on its way into the table.
#[derive(Clone, Debug)]
pub(super) struct NewTicket {
    pub(super) id: ConsoleId,
    pub(super) instance: InstanceId,
    pub(super) account: AccountId,
    pub(super) kind: ConsoleKind,
    pub(super) actor: String,
    pub(super) hash: String,
    pub(super) holder: Holder,
    pub(super) expires_at: UnixMillis,
}

fn read(row: &AnyRow) -> Result<Console, DbError> {
    let row = Cols::of("consoles", row);
    let session: Option<String> = row.get("session_id")?;
    let holder = match session {
        Some(_) => Holder::Session(row.id("session_id")?),
        None => Holder::Token(row.id("token_id")?),
    };
    Ok(Console {
        id: row.id("id")?,
        instance: row.id("instance_id")?,
        account: row.id("account_id")?,
        kind: row.id("kind")?,
        actor: row.text("actor")?,
        holder,
        opened_at: row.get::<Option<i64>>("opened_at")?.map(UnixMillis),
    })
}

pub(super) async fn insert(tx: &mut AnyConnection, at: UnixMillis, new: &NewTicket) -> Result<(), DbError> {
    let (session, token) = match new.holder {
        Holder::Session(id) => (Some(id.to_string()), None),
        Holder::Token(id) => (None, Some(id.to_string())),
    };
    sqlx::query(
        "INSERT INTO consoles (id, instance_id, account_id, kind, actor, ticket_hash, session_id, token_id, state,
             issued_at, expires_at, bytes_up, bytes_down)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'ticket', $9, $10, 0, 0)",
    )
    .bind(new.id.to_string())
    .bind(new.instance.to_string())
    .bind(new.account.to_string())
    .bind(new.kind.as_str())
    .bind(new.actor.clone())
    .bind(new.hash.clone())
    .bind(session)
    .bind(token)
    .bind(at.0)
    .bind(new.expires_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn by_ticket(conn: &mut AnyConnection, hash: &str) -> Result<Option<Console>, DbError> {
    let row = sqlx::query(
        "SELECT id, instance_id, account_id, kind, actor, session_id, token_id, opened_at
         FROM consoles WHERE ticket_hash = $1 AND state = 'ticket'",
    )
    .bind(hash.to_owned())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read).transpose()
}

/// Opens a ticket that is still good; true, once.
pub(super) async fn redeem(tx: &mut AnyConnection, at: UnixMillis, id: ConsoleId) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE consoles SET state = 'open', opened_at = $1, seen_at = $1
         WHERE id = $2 AND state = 'ticket' AND expires_at >= $1",
    )
    .bind(at.0)
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Says that a console is still open, and what it carried so far.
pub(super) async fn seen(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ConsoleId,
    up: u64,
    down: u64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE consoles SET seen_at = $1, bytes_up = $2, bytes_down = $3 WHERE id = $4 AND state = 'open'",
    )
    .bind(at.0)
    .bind(i64::try_from(up).unwrap_or(i64::MAX))
    .bind(i64::try_from(down).unwrap_or(i64::MAX))
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends an open console; true, once.
pub(super) async fn end(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ConsoleId,
    end: End,
    up: u64,
    down: u64,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE consoles SET state = 'ended', ended_at = $1, reason = $2, bytes_up = $3, bytes_down = $4
         WHERE id = $5 AND state = 'open'",
    )
    .bind(at.0)
    .bind(end)
    .bind(i64::try_from(up).unwrap_or(i64::MAX))
    .bind(i64::try_from(down).unwrap_or(i64::MAX))
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Open consoles of a server that were seen since.
pub(super) async fn viewers(
    conn: &mut AnyConnection,
    instance: InstanceId,
    since: UnixMillis,
) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS n FROM consoles WHERE instance_id = $1 AND state = 'open' AND seen_at >= $2",
    )
    .bind(instance.to_string())
    .bind(since.0)
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(Cols::of("consoles", &row).int("n")?).unwrap_or(0))
}

/// Open consoles that were not seen since, and what they had carried.
pub(super) async fn silent(
    conn: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<(Console, u64, u64)>, DbError> {
    let rows = sqlx::query(
        "SELECT id, instance_id, account_id, kind, actor, session_id, token_id, opened_at, bytes_up, bytes_down
         FROM consoles WHERE state = 'open' AND seen_at < $1 ORDER BY id LIMIT 500",
    )
    .bind(since.0)
    .fetch_all(conn)
    .await?;
    let one = |row: &AnyRow| {
        let cols = Cols::of("consoles", row);
        let bytes = |column| -> Result<u64, DbError> { Ok(u64::try_from(cols.int(column)?).unwrap_or(0)) };
        Ok((read(row)?, bytes("bytes_up")?, bytes("bytes_down")?))
    };
    rows.iter().map(one).collect()
}

/// Forgets tickets nobody used, and consoles that ended long ago.
pub(super) async fn sweep(tx: &mut AnyConnection, at: UnixMillis, before: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM consoles WHERE state = 'ticket' AND expires_at < $1")
        .bind(at.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM consoles WHERE state = 'ended' AND ended_at < $1")
        .bind(before.0)
        .execute(tx)
        .await?;
    Ok(())
}

//! `sessions`, `email_links`: what somebody presents, stored as hashes.

use std::time::Duration;

use ez_protocol::{SessionId, UnixMillis, UserId};
use sqlx::{AnyConnection, any::AnyRow};

use super::users::read_principal;
use crate::{
    accounts::{Principal, SessionView, model::LinkPurpose},
    db::{Cols, DbError},
};

/// What a link that is good stands for.
pub(in crate::accounts) struct GoodLink {
    pub(in crate::accounts) user_id: UserId,
    pub(in crate::accounts) password_hash: Option<String>,
}

fn read_link(row: &AnyRow) -> Result<GoodLink, DbError> {
    let row = Cols::of("email_links", row);
    Ok(GoodLink { user_id: row.id("user_id")?, password_hash: row.get("password_hash")? })
}

pub(in crate::accounts) async fn insert_session(
    tx: &mut AnyConnection,
    id: SessionId,
    token_hash: &str,
    principal: &Principal,
    at: UnixMillis,
    ends_at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO sessions (id, token_hash, user_id, account_id, created_at, last_seen_at, ends_at)
         VALUES ($1, $2, $3, $4, $5, $5, $6)",
    )
    .bind(id.to_string())
    .bind(token_hash)
    .bind(principal.user_id.to_string())
    .bind(principal.account_id.to_string())
    .bind(at.0)
    .bind(ends_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The session of a cookie and when it was last seen; whether it still counts is the caller's to judge.
pub(in crate::accounts) async fn session(
    connection: &mut AnyConnection,
    token_hash: &str,
) -> Result<Option<(SessionView, UnixMillis)>, DbError> {
    let row = sqlx::query(
        "SELECT s.id, s.user_id, s.account_id, u.email, a.name AS account_name, u.staff_role,
                s.created_at, s.last_seen_at, s.ends_at
         FROM sessions s JOIN users u ON u.id = s.user_id JOIN accounts a ON a.id = s.account_id
         WHERE s.token_hash = $1 AND u.disabled_at IS NULL",
    )
    .bind(token_hash)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let principal = read_principal(&row)?;
    let row = Cols::of("sessions", &row);
    let view = SessionView {
        id: row.id("id")?,
        principal,
        created_at: row.millis("created_at")?,
        ends_at: row.millis("ends_at")?,
    };
    Ok(Some((view, row.millis("last_seen_at")?)))
}

pub(in crate::accounts) async fn session_lives(
    connection: &mut AnyConnection,
    id: SessionId,
    at: UnixMillis,
) -> Result<bool, DbError> {
    let row = sqlx::query(
        "SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id
         WHERE s.id = $1 AND s.ends_at > $2 AND u.disabled_at IS NULL",
    )
    .bind(id.to_string())
    .bind(at.0)
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

pub(in crate::accounts) async fn session_seen(
    tx: &mut AnyConnection,
    id: SessionId,
    at: UnixMillis,
) -> Result<(), DbError> {
    // It may have been ended meanwhile; then there is nothing to note.
    sqlx::query("UPDATE sessions SET last_seen_at = $2 WHERE id = $1 AND last_seen_at < $2")
        .bind(id.to_string())
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

pub(in crate::accounts) async fn delete_session(
    tx: &mut AnyConnection,
    token_hash: &str,
) -> Result<(), DbError> {
    sqlx::query("DELETE FROM sessions WHERE token_hash = $1").bind(token_hash).execute(tx).await?;
    Ok(())
}

pub(in crate::accounts) async fn delete_sessions_of(
    tx: &mut AnyConnection,
    user: UserId,
) -> Result<(), DbError> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(user.to_string()).execute(tx).await?;
    Ok(())
}

pub(in crate::accounts) async fn insert_link(
    tx: &mut AnyConnection,
    token_hash: &str,
    user: UserId,
    purpose: LinkPurpose,
    password_hash: Option<&str>,
    at: UnixMillis,
    expires_at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO email_links (token_hash, user_id, purpose, password_hash, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token_hash)
    .bind(user.to_string())
    .bind(purpose)
    .bind(password_hash)
    .bind(at.0)
    .bind(expires_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// How many letters of a kind a user was sent; each kind has an allowance of its own, so that nobody uses up the one for a
/// forgotten password by signing up with another's address.
pub(in crate::accounts) async fn links_since(
    connection: &mut AnyConnection,
    user: UserId,
    purpose: LinkPurpose,
    since: UnixMillis,
) -> Result<i64, DbError> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM email_links WHERE user_id = $1 AND created_at > $2 AND purpose = $3",
    )
    .bind(user.to_string())
    .bind(since.0)
    .bind(purpose)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// How many links of a kind a user could follow now.
pub(in crate::accounts) async fn good_links(
    connection: &mut AnyConnection,
    user: UserId,
    purpose: LinkPurpose,
    at: UnixMillis,
) -> Result<i64, DbError> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM email_links
         WHERE user_id = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > $3",
    )
    .bind(user.to_string())
    .bind(purpose)
    .bind(at.0)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// A link that could be followed now; nothing is used up.
pub(in crate::accounts) async fn good_link(
    connection: &mut AnyConnection,
    token_hash: &str,
    purpose: LinkPurpose,
    at: UnixMillis,
) -> Result<Option<GoodLink>, DbError> {
    let row = sqlx::query(
        "SELECT user_id, password_hash FROM email_links
         WHERE token_hash = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > $3",
    )
    .bind(token_hash)
    .bind(purpose)
    .bind(at.0)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_link).transpose()
}

/// Uses a link up, if it is good: the guarded update is what makes it single-use.
pub(in crate::accounts) async fn use_link(
    tx: &mut AnyConnection,
    token_hash: &str,
    purpose: LinkPurpose,
    at: UnixMillis,
) -> Result<Option<GoodLink>, DbError> {
    let row = sqlx::query(
        "UPDATE email_links SET used_at = $3
         WHERE token_hash = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > $3
         RETURNING user_id, password_hash",
    )
    .bind(token_hash)
    .bind(purpose)
    .bind(at.0)
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(read_link).transpose()
}

/// Uses up every other link of the user: an old mail must not undo what a newer one did.
pub(in crate::accounts) async fn use_up_links(
    tx: &mut AnyConnection,
    user: UserId,
    at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query("UPDATE email_links SET used_at = $2 WHERE user_id = $1 AND used_at IS NULL")
        .bind(user.to_string())
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// Removes what has ended: sessions at their end, links a week after theirs.
pub(in crate::accounts) async fn sweep(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM sessions WHERE ends_at <= $1").bind(at.0).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM email_links WHERE expires_at <= $1")
        .bind(at.minus(Duration::from_secs(7 * 24 * 3_600)).0)
        .execute(tx)
        .await?;
    Ok(())
}

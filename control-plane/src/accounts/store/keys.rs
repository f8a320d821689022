//! `api_tokens`, `ssh_keys`.

use ez_protocol::{AccountId, ApiTokenId, SshKeyId, UnixMillis, UserId, input::SshPublicKey};
use sqlx::AnyConnection;

use super::users::read_principal;
use crate::{
    accounts::{ApiCaller, ApiToken, Principal, SshKey},
    db::{Cols, DbError},
};

pub(in crate::accounts) async fn insert_token(
    tx: &mut AnyConnection,
    token_hash: &str,
    principal: &Principal,
    token: &ApiToken,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO api_tokens (id, token_hash, account_id, user_id, name, scopes, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(token.id.to_string())
    .bind(token_hash)
    .bind(principal.account_id.to_string())
    .bind(principal.user_id.to_string())
    .bind(&token.name)
    .bind(serde_json::json!(token.scopes).to_string())
    .bind(token.created_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(in crate::accounts) async fn tokens(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<ApiToken>, DbError> {
    let rows = sqlx::query(
        "SELECT id, name, scopes, created_at, last_used_at FROM api_tokens
         WHERE account_id = $1 AND revoked_at IS NULL ORDER BY created_at DESC, id DESC",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("api_tokens", row);
            Ok(ApiToken {
                id: row.id("id")?,
                name: row.text("name")?,
                scopes: row.json("scopes")?,
                created_at: row.millis("created_at")?,
                last_used_at: row.opt_millis("last_used_at")?,
            })
        })
        .collect()
}

/// Who a valid token belongs to and when it was last used.
pub(in crate::accounts) async fn token(
    connection: &mut AnyConnection,
    token_hash: &str,
    at: UnixMillis,
) -> Result<Option<(ApiCaller, Option<UnixMillis>)>, DbError> {
    let row = sqlx::query(
        "SELECT t.id, t.user_id, t.account_id, u.email, a.name AS account_name, u.staff_role,
                t.scopes, t.last_used_at
         FROM api_tokens t JOIN users u ON u.id = t.user_id JOIN accounts a ON a.id = t.account_id
         WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND u.disabled_at IS NULL
           AND (t.expires_at IS NULL OR t.expires_at > $2)",
    )
    .bind(token_hash)
    .bind(at.0)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let principal = read_principal(&row)?;
    let row = Cols::of("api_tokens", &row);
    let caller = ApiCaller { token_id: row.id("id")?, principal, scopes: row.json("scopes")? };
    Ok(Some((caller, row.opt_millis("last_used_at")?)))
}

pub(in crate::accounts) async fn token_lives(
    connection: &mut AnyConnection,
    id: ApiTokenId,
    at: UnixMillis,
) -> Result<bool, DbError> {
    let row = sqlx::query(
        "SELECT t.id FROM api_tokens t JOIN users u ON u.id = t.user_id
         WHERE t.id = $1 AND t.revoked_at IS NULL AND u.disabled_at IS NULL
           AND (t.expires_at IS NULL OR t.expires_at > $2)",
    )
    .bind(id.to_string())
    .bind(at.0)
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

pub(in crate::accounts) async fn token_used(
    tx: &mut AnyConnection,
    id: ApiTokenId,
    at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query("UPDATE api_tokens SET last_used_at = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

pub(in crate::accounts) async fn revoke_token(
    tx: &mut AnyConnection,
    account: AccountId,
    id: ApiTokenId,
    at: UnixMillis,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE api_tokens SET revoked_at = $3 WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL",
    )
    .bind(id.to_string())
    .bind(account.to_string())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends all tokens of a user; which those were.
pub(in crate::accounts) async fn revoke_tokens_of(
    tx: &mut AnyConnection,
    user: UserId,
    at: UnixMillis,
) -> Result<Vec<ApiTokenId>, DbError> {
    let rows = sqlx::query(
        "UPDATE api_tokens SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL RETURNING id",
    )
    .bind(user.to_string())
    .bind(at.0)
    .fetch_all(tx)
    .await?;
    rows.iter().map(|row| Cols::of("api_tokens", row).id("id")).collect()
}

pub(in crate::accounts) async fn insert_ssh_key(
    tx: &mut AnyConnection,
    account: AccountId,
    key: &SshKey,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO ssh_keys (id, account_id, name, public_key, fingerprint, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.id.to_string())
    .bind(account.to_string())
    .bind(&key.name)
    .bind(key.key.as_str())
    .bind(&key.fingerprint)
    .bind(key.created_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(in crate::accounts) async fn ssh_keys(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<SshKey>, DbError> {
    let rows = sqlx::query(
        "SELECT id, name, public_key, fingerprint, created_at FROM ssh_keys
         WHERE account_id = $1 ORDER BY created_at, id",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("ssh_keys", row);
            let key =
                SshPublicKey::parse(&row.text("public_key")?).map_err(|_| row.inconsistent("public_key"))?;
            Ok(SshKey {
                id: row.id("id")?,
                name: row.text("name")?,
                key,
                fingerprint: row.text("fingerprint")?,
                created_at: row.millis("created_at")?,
            })
        })
        .collect()
}

pub(in crate::accounts) async fn delete_ssh_key(
    tx: &mut AnyConnection,
    account: AccountId,
    id: SshKeyId,
) -> Result<bool, DbError> {
    let done = sqlx::query("DELETE FROM ssh_keys WHERE id = $1 AND account_id = $2")
        .bind(id.to_string())
        .bind(account.to_string())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

//! API tokens: made once, shown once, kept as a hash.

use std::time::Duration;

use ez_protocol::{ApiTokenId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    AccountsError, ApiCaller, ApiToken, Principal, Scope, StaffRole,
    model::{check_name, token_hash},
    store,
};
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
    entropy::EntropyExt,
};

/// What every token begins with, so that scanners for leaked secrets find it.
const PREFIX: &str = "ezt_";
/// Tokens per account.
const MAX_TOKENS: usize = 50;
/// How exactly the last use is kept.
const USED_EVERY: Duration = Duration::from_secs(600);

/// Makes a token and returns it with its secret, which is not kept.
///
/// # Errors
/// [`AccountsError::Name`], [`AccountsError::Scope`], [`AccountsError::TooMany`], [`AccountsError::Db`].
pub async fn create_token(
    app: &Services,
    principal: &Principal,
    name: &str,
    scopes: Vec<Scope>,
) -> Result<(ApiToken, String), AccountsError> {
    let name = check_name(name)?;
    if scopes.contains(&Scope::Operator) && !principal.is_staff(StaffRole::Operator) {
        return Err(AccountsError::Scope);
    }
    let at = app.clock.now();
    let secret = app.entropy.token(PREFIX);
    let hash = token_hash(&secret);
    let id = ApiTokenId::generate(at, app.entropy.bytes());
    let token = ApiToken { id, name, scopes, created_at: at, last_used_at: None };
    let (principal, stored) = (principal.clone(), token.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "account", principal.account_id).await?;
                if store::tokens(tx, principal.account_id).await?.len() >= MAX_TOKENS {
                    return Err(AccountsError::TooMany(MAX_TOKENS));
                }
                store::insert_token(tx, &hash, &principal, &stored).await?;
                let entry = audit::Entry {
                    actor: principal.actor(),
                    action: "api_token.created".into(),
                    subject_kind: "api_token".into(),
                    subject_id: id.to_string(),
                    detail: serde_json::json!({ "name": stored.name, "scopes": stored.scopes }),
                };
                audit::record(tx, at, entry).await?;
                Ok(())
            })
        })
        .await?;
    Ok((token, secret))
}

/// The account's tokens, newest first.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn list_tokens(app: &Services, principal: &Principal) -> Result<Vec<ApiToken>, AccountsError> {
    let mut connection = app.db.read().await?;
    Ok(store::tokens(&mut connection, principal.account_id).await?)
}

/// Ends a token.
///
/// # Errors
/// [`AccountsError::NotFound`] if it is not this account's; [`AccountsError::Db`].
pub async fn revoke_token(
    app: &Services,
    principal: &Principal,
    id: ApiTokenId,
) -> Result<(), AccountsError> {
    let (principal, at) = (principal.clone(), app.clock.now());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if !store::revoke_token(tx, principal.account_id, id, at).await? {
                    return Err(AccountsError::NotFound);
                }
                Ok(record_revoked(tx, at, &principal, id).await?)
            })
        })
        .await
}

/// Ends all tokens of a user whose password may have been known to somebody else: such a person may have made one.
pub(super) async fn revoke_all(
    tx: &mut AnyConnection,
    at: UnixMillis,
    principal: &Principal,
) -> Result<(), DbError> {
    for id in store::revoke_tokens_of(tx, principal.user_id, at).await? {
        record_revoked(tx, at, principal, id).await?;
    }
    Ok(())
}

async fn record_revoked(
    tx: &mut AnyConnection,
    at: UnixMillis,
    principal: &Principal,
    id: ApiTokenId,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: principal.actor(),
        action: "api_token.revoked".into(),
        subject_kind: "api_token".into(),
        subject_id: id.to_string(),
        detail: serde_json::Value::Null,
    };
    audit::record(tx, at, entry).await
}

/// Whether a token that was presented before is still in use.
///
/// # Errors
/// Those of the query.
pub async fn token_lives(
    connection: &mut AnyConnection,
    at: UnixMillis,
    id: ApiTokenId,
) -> Result<bool, DbError> {
    store::token_lives(connection, id, at).await
}

/// Who a bearer token belongs to; nobody if it is unknown, revoked or the user is disabled.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn token_principal(app: &Services, bearer: &str) -> Result<Option<ApiCaller>, AccountsError> {
    if !bearer.starts_with(PREFIX) {
        return Ok(None);
    }
    let (hash, at) = (token_hash(bearer), app.clock.now());
    let mut connection = app.db.read().await?;
    let Some((caller, last_used)) = store::token(&mut connection, &hash, at).await? else { return Ok(None) };
    drop(connection);
    if last_used.is_none_or(|used| at.since(used) >= USED_EVERY) {
        let id = caller.token_id;
        app.db.write(move |tx| Box::pin(async move { store::token_used(tx, id, at).await })).await?;
    }
    Ok(Some(caller))
}

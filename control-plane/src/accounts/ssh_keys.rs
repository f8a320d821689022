//! SSH keys that an account keeps for its servers.

use ez_protocol::{AccountId, SshKeyId, UnixMillis, input::SshPublicKey};
use serde_json::json;
use sqlx::AnyConnection;

use super::{AccountsError, Principal, model::check_name, store};
use crate::{
    audit,
    db::{self, DbError},
};

/// Keys per account.
const MAX_KEYS: usize = 50;

/// A stored public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKey {
    /// Its id.
    pub id: SshKeyId,
    /// What its owner calls it.
    pub name: String,
    /// The key: one line, no options.
    pub key: SshPublicKey,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// When it was added.
    pub created_at: UnixMillis,
}

/// Adds a key to somebody's account, in the caller's transaction. The same key again answers with the one that is there.
///
/// An empty name takes the key's comment, or its type.
///
/// # Errors
/// [`AccountsError::SshKey`], [`AccountsError::Name`], [`AccountsError::TooMany`], [`AccountsError::Db`].
pub async fn add_ssh_key(
    tx: &mut AnyConnection,
    at: UnixMillis,
    random: [u8; 10],
    who: &Principal,
    name: &str,
    text: &str,
) -> Result<SshKey, AccountsError> {
    let key = SshPublicKey::parse(text)?;
    let name = match (name.trim(), key.comment()) {
        ("", "") => key.kind().to_owned(),
        ("", comment) => comment.chars().take(64).collect(),
        (name, _) => check_name(name)?,
    };
    let account = who.account_id;
    db::lock(tx, "account", account).await?;
    let there = store::ssh_keys(tx, account).await?;
    let fingerprint = key.fingerprint();
    if let Some(same) = there.iter().find(|known| known.fingerprint == fingerprint) {
        return Ok(same.clone());
    }
    if there.len() >= MAX_KEYS {
        return Err(AccountsError::TooMany(MAX_KEYS));
    }
    let key = SshKey { id: SshKeyId::generate(at, random), name, key, fingerprint, created_at: at };
    store::insert_ssh_key(tx, account, &key).await?;
    record(tx, at, who, "ssh_key.added", &key).await?;
    Ok(key)
}

/// The account's keys, oldest first.
///
/// # Errors
/// Those of the query.
pub async fn ssh_keys(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<SshKey>, DbError> {
    store::ssh_keys(connection, account).await
}

/// One of the account's keys.
///
/// # Errors
/// [`DbError::NotFound`] if it is not theirs.
pub async fn ssh_key(
    connection: &mut AnyConnection,
    account: AccountId,
    id: SshKeyId,
) -> Result<SshKey, DbError> {
    let keys = store::ssh_keys(connection, account).await?;
    keys.into_iter().find(|key| key.id == id).ok_or(DbError::NotFound)
}

/// Removes a key of somebody's account; servers that have it keep it.
///
/// # Errors
/// [`AccountsError::NotFound`] if it is not theirs; [`AccountsError::Db`].
pub async fn remove_ssh_key(
    tx: &mut AnyConnection,
    at: UnixMillis,
    who: &Principal,
    id: SshKeyId,
) -> Result<(), AccountsError> {
    let known = store::ssh_keys(tx, who.account_id).await?.into_iter().find(|key| key.id == id);
    let known = known.ok_or(AccountsError::NotFound)?;
    if !store::delete_ssh_key(tx, who.account_id, id).await? {
        return Err(AccountsError::NotFound);
    }
    Ok(record(tx, at, who, "ssh_key.removed", &known).await?)
}

/// Which keys open the servers of an account, and who says so, is as much as a token (I7).
async fn record(
    tx: &mut AnyConnection,
    at: UnixMillis,
    who: &Principal,
    action: &str,
    key: &SshKey,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: who.actor(),
        action: action.to_owned(),
        subject_kind: "ssh_key".to_owned(),
        subject_id: key.id.to_string(),
        detail: json!({ "name": key.name, "fingerprint": key.fingerprint }),
    };
    audit::record(tx, at, entry).await
}

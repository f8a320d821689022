//! `users`, `accounts`, `memberships`.

use ez_protocol::{AccountId, UnixMillis, UserId};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    accounts::{Principal, StaffRole},
    db::{Cols, DbError, one_row},
};

/// What logging in has to know.
#[derive(Clone, Debug)]
pub(in crate::accounts) struct Credentials {
    pub(in crate::accounts) id: UserId,
    pub(in crate::accounts) email: String,
    pub(in crate::accounts) password_hash: Option<String>,
    pub(in crate::accounts) verified: bool,
    pub(in crate::accounts) disabled: bool,
}

pub(in crate::accounts) async fn credentials(
    connection: &mut AnyConnection,
    email: &str,
) -> Result<Option<Credentials>, DbError> {
    // Before the first link was followed, the newest sign-up's password is the one to be known.
    let row = sqlx::query(
        "SELECT id, email, email_verified_at, disabled_at,
                COALESCE(password_hash, (SELECT l.password_hash FROM email_links l
                    WHERE l.user_id = users.id AND l.password_hash IS NOT NULL
                    ORDER BY l.created_at DESC LIMIT 1)) AS password_hash
         FROM users WHERE email = $1",
    )
    .bind(email)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_credentials).transpose()
}

fn read_credentials(row: &AnyRow) -> Result<Credentials, DbError> {
    let row = Cols::of("users", row);
    Ok(Credentials {
        id: row.id("id")?,
        email: row.text("email")?,
        password_hash: row.get("password_hash")?,
        verified: row.opt_millis("email_verified_at")?.is_some(),
        disabled: row.opt_millis("disabled_at")?.is_some(),
    })
}

pub(in crate::accounts) async fn user_by_email(
    connection: &mut AnyConnection,
    email: &str,
) -> Result<Option<Credentials>, DbError> {
    let row = sqlx::query(
        "SELECT id, email, password_hash, email_verified_at, disabled_at FROM users WHERE email = $1",
    )
    .bind(email)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_credentials).transpose()
}

pub(in crate::accounts) async fn insert_user(
    tx: &mut AnyConnection,
    id: UserId,
    email: &str,
    password_hash: Option<&str>,
    staff: Option<StaffRole>,
    verified_at: Option<UnixMillis>,
    at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO users (id, email, password_hash, staff_role, email_verified_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id.to_string())
    .bind(email)
    .bind(password_hash)
    .bind(staff)
    .bind(verified_at.map(|at| at.0))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(in crate::accounts) async fn accept_terms(
    tx: &mut AnyConnection,
    id: UserId,
    version: &str,
    at: UnixMillis,
) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE users SET terms_version = $2, terms_accepted_at = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(version)
        .bind(at.0)
        .execute(tx)
        .await?;
    one_row(done)
}

/// Counts the address as proven and sets a password, if one is given.
pub(in crate::accounts) async fn verify_user(
    tx: &mut AnyConnection,
    id: UserId,
    password_hash: Option<&str>,
    at: UnixMillis,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE users SET email_verified_at = COALESCE(email_verified_at, $2),
                          password_hash = COALESCE($3, password_hash)
         WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(at.0)
    .bind(password_hash)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(in crate::accounts) async fn insert_account(
    tx: &mut AnyConnection,
    id: AccountId,
    name: &str,
    owner: UserId,
    at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query("INSERT INTO accounts (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name)
        .bind(at.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO memberships (account_id, user_id, role, created_at) VALUES ($1, $2, 'owner', $3)",
    )
    .bind(id.to_string())
    .bind(owner.to_string())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The user, unless disabled, with the account they joined first.
pub(in crate::accounts) async fn principal(
    connection: &mut AnyConnection,
    user: UserId,
) -> Result<Option<Principal>, DbError> {
    let row = sqlx::query(
        "SELECT u.id AS user_id, m.account_id, u.email, a.name AS account_name, u.staff_role
         FROM users u JOIN memberships m ON m.user_id = u.id JOIN accounts a ON a.id = m.account_id
         WHERE u.id = $1 AND u.disabled_at IS NULL
         ORDER BY m.created_at LIMIT 1",
    )
    .bind(user.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_principal).transpose()
}

/// Reads `user_id`, `account_id`, `email`, `account_name`, `staff_role`.
pub(super) fn read_principal(row: &AnyRow) -> Result<Principal, DbError> {
    let row = Cols::of("users", row);
    Ok(Principal {
        user_id: row.id("user_id")?,
        account_id: row.id("account_id")?,
        email: row.text("email")?,
        account_name: row.text("account_name")?,
        staff: row.get("staff_role")?,
    })
}

pub(in crate::accounts) async fn contact(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    let email = sqlx::query_scalar(
        "SELECT u.email FROM users u JOIN memberships m ON m.user_id = u.id
         WHERE m.account_id = $1 AND m.role = 'owner' ORDER BY m.created_at LIMIT 1",
    )
    .bind(account.to_string())
    .fetch_optional(connection)
    .await?;
    Ok(email)
}

pub(in crate::accounts) async fn operators(connection: &mut AnyConnection) -> Result<Vec<String>, DbError> {
    let emails = sqlx::query_scalar(
        "SELECT email FROM users
         WHERE staff_role = 'operator' AND disabled_at IS NULL AND email_verified_at IS NOT NULL
         ORDER BY email",
    )
    .fetch_all(connection)
    .await?;
    Ok(emails)
}

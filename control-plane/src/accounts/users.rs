//! Users as operators and other slices see them.

use ez_protocol::{AccountId, UserId};
use sqlx::AnyConnection;

use super::{
    AccountsError, NewUser, Principal, TERMS_VERSION,
    model::{check_password, email_address},
    store,
};
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
    entropy::EntropyExt,
};

/// Makes a user with an account of their own; for operators.
///
/// # Errors
/// [`AccountsError::Email`], [`AccountsError::Password`], [`AccountsError::Exists`], [`AccountsError::Busy`],
/// [`AccountsError::Db`].
pub async fn create_user(app: &Services, new: NewUser) -> Result<Principal, AccountsError> {
    let email = email_address(&new.email).ok_or(AccountsError::Email)?;
    check_password(&new.password, &email)?;
    let hash = app.passwords.hash(&new.password, app.entropy.bytes()).await?;
    let at = app.clock.now();
    let user_id = UserId::generate(at, app.entropy.bytes());
    let account_id = AccountId::generate(at, app.entropy.bytes());
    let verified_at = new.verified.then_some(at);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "email", &email).await?;
                if store::user_by_email(tx, &email).await?.is_some() {
                    return Err(AccountsError::Exists);
                }
                store::insert_user(tx, user_id, &email, Some(&hash), new.staff, verified_at, at).await?;
                store::accept_terms(tx, user_id, TERMS_VERSION, at).await?;
                store::insert_account(tx, account_id, &email, user_id, at).await?;
                let entry = audit::Entry {
                    actor: "operator:command-line".into(),
                    action: "user.created".into(),
                    subject_kind: "user".into(),
                    subject_id: user_id.to_string(),
                    detail: serde_json::json!({ "role": new.staff }),
                };
                audit::record(tx, at, entry).await?;
                Ok(Principal { user_id, account_id, account_name: email.clone(), email, staff: new.staff })
            })
        })
        .await
}

/// The user with this address.
///
/// # Errors
/// [`AccountsError::NotFound`], [`AccountsError::Db`].
pub async fn user_by_email(app: &Services, email: &str) -> Result<Principal, AccountsError> {
    let email = email_address(email).ok_or(AccountsError::NotFound)?;
    let mut connection = app.db.read().await?;
    let user = store::user_by_email(&mut connection, &email).await?.ok_or(AccountsError::NotFound)?;
    store::principal(&mut connection, user.id).await?.ok_or(AccountsError::NotFound)
}

/// Who a user is and which account they act for.
///
/// # Errors
/// Those of the query.
pub async fn principal_of(
    connection: &mut AnyConnection,
    user: UserId,
) -> Result<Option<Principal>, DbError> {
    store::principal(connection, user).await
}

/// The address that mail about an account goes to: its first owner's.
///
/// # Errors
/// [`DbError::NotFound`] if the account has no owner.
pub async fn contact(connection: &mut AnyConnection, account: AccountId) -> Result<String, DbError> {
    store::contact(connection, account).await?.ok_or(DbError::NotFound)
}

/// The addresses of all operators, for mail about the fleet.
///
/// # Errors
/// Those of the query.
pub async fn operators(connection: &mut AnyConnection) -> Result<Vec<String>, DbError> {
    store::operators(connection).await
}

/// Whether a user has proven that mail reaches them.
///
/// # Errors
/// Those of the query.
pub async fn is_verified(connection: &mut AnyConnection, principal: &Principal) -> Result<bool, DbError> {
    let user = store::user_by_email(connection, &principal.email).await?;
    Ok(user.is_some_and(|user| user.id == principal.user_id && user.verified))
}

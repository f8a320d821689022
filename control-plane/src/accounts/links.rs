//! What happens by mail: signing up, proving an address, a forgotten password.

use std::time::Duration;

use ez_protocol::{AccountId, UnixMillis, UserId};
use sqlx::AnyConnection;

use super::{
    AccountExists, AccountsError, Principal, ResetPassword, TERMS_VERSION, VerifyEmail,
    model::{LinkPurpose, check_password, email_address, token_hash},
    store, tokens,
};
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
    entropy::EntropyExt,
    notify,
};

/// How long a link that proves an address is good for.
const VERIFY_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How long a link for a new password is good for.
const RESET_LIFE: Duration = Duration::from_secs(30 * 60);
/// Letters of each kind that one user is sent per hour, and links for a new password that are good at once; more requests
/// are answered alike and send nothing.
const MOST_LINKS: i64 = 5;

/// Signs somebody up. Succeeds alike whether or not the address has an account: the mail tells its owner.
///
/// # Errors
/// [`AccountsError::Email`], [`AccountsError::Password`], [`AccountsError::Busy`], [`AccountsError::Db`].
pub async fn sign_up(app: &Services, email: &str, password: &str) -> Result<(), AccountsError> {
    let email = email_address(email).ok_or(AccountsError::Email)?;
    check_password(password, &email)?;
    let hash = app.passwords.hash(password, app.entropy.bytes()).await?;
    let at = app.clock.now();
    let user_id = UserId::generate(at, app.entropy.bytes());
    let account_id = AccountId::generate(at, app.entropy.bytes());
    let secret = app.entropy.token("");
    let verify = VerifyEmail {
        link: app.config.http.page(&format!("/verify?token={secret}")),
        hours: VERIFY_LIFE.as_secs() / 3_600,
    };
    let exists =
        AccountExists { login: app.config.http.page("/login"), forgot: app.config.http.page("/forgot") };
    app.db
        .write(move |tx| {
            Box::pin(async move {
                // Twice at once is twice in a row: nobody sees an error that tells something.
                db::lock(tx, "email", &email).await?;
                let known = store::user_by_email(tx, &email).await?;
                if let Some(user) = &known
                    && user.verified
                {
                    if may_send(tx, user.id, LinkPurpose::Exists, at).await? {
                        // Counts against the hour's allowance, though nobody can follow it.
                        let spent = token_hash(&secret);
                        store::insert_link(tx, &spent, user.id, LinkPurpose::Exists, None, at, at).await?;
                        notify::send(tx, at, &user.email, &exists).await?;
                    }
                    return Ok(());
                }
                let user_id = match known {
                    Some(user) => user.id,
                    None => {
                        store::insert_user(tx, user_id, &email, None, None, None, at).await?;
                        store::accept_terms(tx, user_id, TERMS_VERSION, at).await?;
                        store::insert_account(tx, account_id, &email, user_id, at).await?;
                        record(tx, at, user_id, "user.signed_up").await?;
                        user_id
                    }
                };
                if !may_send(tx, user_id, LinkPurpose::Verify, at).await? {
                    return Ok(());
                }
                let ends = at.plus(VERIFY_LIFE);
                store::insert_link(
                    tx,
                    &token_hash(&secret),
                    user_id,
                    LinkPurpose::Verify,
                    Some(&hash),
                    at,
                    ends,
                )
                .await?;
                notify::send(tx, at, &email, &verify).await?;
                Ok(())
            })
        })
        .await
}

const HOUR: Duration = Duration::from_secs(3_600);

/// Whether the allowance of a kind of letters has one left. Links for a new password count while they are good: whoever asks
/// for them in another's name must not leave that person without one when they have run out.
async fn may_send(
    tx: &mut AnyConnection,
    user: UserId,
    purpose: LinkPurpose,
    at: UnixMillis,
) -> Result<bool, DbError> {
    let counted = match purpose {
        LinkPurpose::Reset => store::good_links(tx, user, purpose, at).await?,
        LinkPurpose::Verify | LinkPurpose::Exists => {
            store::links_since(tx, user, purpose, at.minus(HOUR)).await?
        }
    };
    Ok(counted < MOST_LINKS)
}

/// Follows the link of a sign-up: proves the address and sets the password that sign-up named. Whoever follows it has to
/// know that password: the letter may be of a sign-up of somebody else's, who would have it as well.
///
/// # Errors
/// [`AccountsError::Link`] if it is unknown, too old or used; [`AccountsError::OtherPassword`] (the link stays good),
/// [`AccountsError::Busy`], [`AccountsError::Db`].
pub async fn verify_email(app: &Services, token: &str, password: &str) -> Result<Principal, AccountsError> {
    let (hash, at) = (token_hash(token), app.clock.now());
    let link = good_link(app, &hash, LinkPurpose::Verify, at).await?;
    if !app.passwords.verify(password, link.password_hash).await? {
        return Err(AccountsError::OtherPassword);
    }
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let link =
                    store::use_link(tx, &hash, LinkPurpose::Verify, at).await?.ok_or(AccountsError::Link)?;
                store::verify_user(tx, link.user_id, link.password_hash.as_deref(), at).await?;
                store::use_up_links(tx, link.user_id, at).await?;
                record(tx, at, link.user_id, "user.verified").await?;
                store::principal(tx, link.user_id).await?.ok_or(AccountsError::Link)
            })
        })
        .await
}

/// What is looked up before the work of a password is done for somebody who has nothing to show.
async fn good_link(
    app: &Services,
    hash: &str,
    purpose: LinkPurpose,
    at: UnixMillis,
) -> Result<store::GoodLink, AccountsError> {
    let mut connection = app.db.read().await?;
    store::good_link(&mut connection, hash, purpose, at).await?.ok_or(AccountsError::Link)
}

/// Sends a link for a new password, if the address has an account; answers alike if not.
///
/// # Errors
/// [`AccountsError::Email`], [`AccountsError::Db`].
pub async fn forgot_password(app: &Services, email: &str) -> Result<(), AccountsError> {
    let email = email_address(email).ok_or(AccountsError::Email)?;
    let at = app.clock.now();
    let secret = app.entropy.token("");
    let letter = ResetPassword {
        link: app.config.http.page(&format!("/reset?token={secret}")),
        minutes: RESET_LIFE.as_secs() / 60,
    };
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "email", &email).await?;
                let Some(user) = store::user_by_email(tx, &email).await? else { return Ok(()) };
                if !may_send(tx, user.id, LinkPurpose::Reset, at).await? {
                    return Ok(());
                }
                let ends = at.plus(RESET_LIFE);
                store::insert_link(tx, &token_hash(&secret), user.id, LinkPurpose::Reset, None, at, ends)
                    .await?;
                notify::send(tx, at, &user.email, &letter).await?;
                Ok(())
            })
        })
        .await
}

/// Follows the link for a new password: sets it, ends all sessions and API tokens of the user, and counts the address as
/// proven.
///
/// # Errors
/// [`AccountsError::Password`] (the link stays good), [`AccountsError::Link`], [`AccountsError::Busy`],
/// [`AccountsError::Db`].
pub async fn reset_password(app: &Services, token: &str, password: &str) -> Result<Principal, AccountsError> {
    check_password(password, "")?;
    let (hash, at) = (token_hash(token), app.clock.now());
    good_link(app, &hash, LinkPurpose::Reset, at).await?;
    let password_hash = app.passwords.hash(password, app.entropy.bytes()).await?;
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let link =
                    store::use_link(tx, &hash, LinkPurpose::Reset, at).await?.ok_or(AccountsError::Link)?;
                store::verify_user(tx, link.user_id, Some(&password_hash), at).await?;
                store::use_up_links(tx, link.user_id, at).await?;
                store::delete_sessions_of(tx, link.user_id).await?;
                record(tx, at, link.user_id, "user.password_reset").await?;
                let principal = store::principal(tx, link.user_id).await?.ok_or(AccountsError::Link)?;
                tokens::revoke_all(tx, at, &principal).await?;
                Ok(principal)
            })
        })
        .await
}

/// Sends another link to somebody who knew the password but never proved the address.
pub(super) async fn send_again(
    app: &Services,
    user_id: UserId,
    email: &str,
    hash: String,
) -> Result<(), AccountsError> {
    let at = app.clock.now();
    let secret = app.entropy.token("");
    let letter = VerifyEmail {
        link: app.config.http.page(&format!("/verify?token={secret}")),
        hours: VERIFY_LIFE.as_secs() / 3_600,
    };
    let email = email.to_owned();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "email", &email).await?;
                if !may_send(tx, user_id, LinkPurpose::Verify, at).await? {
                    return Ok(());
                }
                let ends = at.plus(VERIFY_LIFE);
                store::insert_link(
                    tx,
                    &token_hash(&secret),
                    user_id,
                    LinkPurpose::Verify,
                    Some(&hash),
                    at,
                    ends,
                )
                .await?;
                notify::send(tx, at, &email, &letter).await?;
                Ok(())
            })
        })
        .await
}

/// Writes down what a user did to themselves.
pub(super) async fn record(
    tx: &mut AnyConnection,
    at: UnixMillis,
    user: UserId,
    action: &str,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: format!("user:{user}"),
        action: action.to_owned(),
        subject_kind: "user".to_owned(),
        subject_id: user.to_string(),
        detail: serde_json::Value::Null,
    };
    audit::record(tx, at, entry).await
}

//! Logged-in browsers: logging in and out, and who a cookie belongs to.

use std::time::Duration;

use ez_protocol::{SessionId, UnixMillis, UserId};
use sqlx::AnyConnection;

use super::{
    AccountsError, NewSession, Principal, SessionView, links,
    model::{email_address, token_hash},
    store,
};
use crate::{app::Services, db::DbError, entropy::EntropyExt};

/// A customer's session ends after so long without a page, and staff's sooner.
const IDLE: (Duration, Duration) = (Duration::from_secs(24 * 3_600), Duration::from_secs(2 * 3_600));
/// A session ends after so long in any case.
const LIFE: (Duration, Duration) = (Duration::from_secs(14 * 24 * 3_600), Duration::from_secs(12 * 3_600));
/// How exactly the last visit is kept: writing it on every page would make every page a write.
const SEEN_EVERY: Duration = Duration::from_secs(300);

/// Checks address and password and opens a session.
///
/// Where they belong together but the address was never proven, a new link is sent and the answer is that of a wrong
/// password. Anybody can sign up with another's address and then log in with the password they chose: any other answer
/// would tell them that nobody has an account with it yet.
///
/// # Errors
/// [`AccountsError::Credentials`] if they do not belong together, the address was not proven or the user is disabled;
/// [`AccountsError::Busy`], [`AccountsError::Db`].
pub async fn log_in(app: &Services, email: &str, password: &str) -> Result<NewSession, AccountsError> {
    let email = email_address(email);
    let user = match &email {
        Some(email) => {
            let mut connection = app.db.read().await?;
            store::credentials(&mut connection, email).await?
        }
        None => None,
    };
    let hash = user.as_ref().and_then(|user| user.password_hash.clone());
    // Always the same work, whether the address is known or not.
    let right = app.passwords.verify(password, hash.clone()).await?;
    let Some(user) = user.filter(|user| right && !user.disabled) else {
        return Err(AccountsError::Credentials);
    };
    if !user.verified {
        links::send_again(app, user.id, &user.email, hash.unwrap_or_default()).await?;
        return Err(AccountsError::Credentials);
    }
    open_session(app, user.id).await
}

/// Opens a session for somebody who just proved who they are in another way.
///
/// # Errors
/// [`AccountsError::NotFound`] if there is no such user; [`AccountsError::Db`].
pub async fn open_session(app: &Services, user: UserId) -> Result<NewSession, AccountsError> {
    let at = app.clock.now();
    let id = SessionId::generate(at, app.entropy.bytes());
    let token = app.entropy.token("");
    let hash = token_hash(&token);
    let (principal, ends_at) = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let principal = store::principal(tx, user).await?.ok_or(AccountsError::NotFound)?;
                let ends_at = at.plus(for_role(LIFE, &principal));
                store::insert_session(tx, id, &hash, &principal, at, ends_at).await?;
                links::record(tx, at, user, "user.logged_in").await?;
                Ok::<_, AccountsError>((principal, ends_at))
            })
        })
        .await?;
    Ok(NewSession { token, principal, ends_at })
}

/// Ends the session of a cookie. An unknown one is no error.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn log_out(app: &Services, token: &str) -> Result<(), AccountsError> {
    let hash = token_hash(token);
    app.db.write(move |tx| Box::pin(async move { Ok(store::delete_session(tx, &hash).await?) })).await
}

/// Ends all sessions of a user.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn log_out_everywhere(app: &Services, user: UserId) -> Result<(), AccountsError> {
    app.db.write(move |tx| Box::pin(async move { Ok(store::delete_sessions_of(tx, user).await?) })).await
}

/// Who a cookie belongs to; nobody if it is unknown, ended, idle for too long or the user is disabled.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn session_principal(app: &Services, token: &str) -> Result<Option<Principal>, AccountsError> {
    Ok(session(app, token).await?.map(|session| session.principal))
}

/// The session of a cookie, with its times; nothing where [`session_principal`] says nobody.
///
/// # Errors
/// [`AccountsError::Db`].
pub async fn session(app: &Services, token: &str) -> Result<Option<SessionView>, AccountsError> {
    let (hash, at) = (token_hash(token), app.clock.now());
    let mut connection = app.db.read().await?;
    let Some((session, last_seen)) = store::session(&mut connection, &hash).await? else { return Ok(None) };
    drop(connection);
    if at >= session.ends_at || at.since(last_seen) >= for_role(IDLE, &session.principal) {
        return Ok(None);
    }
    if at.since(last_seen) >= SEEN_EVERY {
        let id = session.id;
        app.db.write(move |tx| Box::pin(async move { store::session_seen(tx, id, at).await })).await?;
    }
    Ok(Some(session))
}

/// Whether a session that was presented before is still there: not ended, not over, its user not disabled.
///
/// # Errors
/// Those of the query.
pub async fn session_lives(
    connection: &mut AnyConnection,
    at: UnixMillis,
    id: SessionId,
) -> Result<bool, DbError> {
    store::session_lives(connection, id, at).await
}

/// Customers' or staff's share of a pair.
fn for_role((customer, staff): (Duration, Duration), principal: &Principal) -> Duration {
    if principal.staff.is_some() { staff } else { customer }
}

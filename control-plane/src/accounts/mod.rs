//! Accounts: who logs in, who owns, and how they prove it.
//!
//! A *user* is a person; an *account* owns servers and pays; a membership joins the two. Everything a
//! customer owns hangs on the account. Staff are users with a role.
//!
//! Proofs, all stored hashed: a password (argon2id, a bounded number at a time), a session cookie (idle and
//! absolute life), an API token (`ezt_…` with scopes), a one-time link by mail.
//!
//! Nobody learns here whether an address has an account: signing up and asking for a new password always
//! answer the same, what differs is the mail; a wrong address costs as much time as a wrong password. A
//! sign-up's password becomes the user's only when the link of *that* sign-up is followed by somebody who knows it.

mod api;
mod letters;
mod links;
mod model;
mod pages;
mod passwords;
mod sessions;
mod ssh_keys;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub use letters::{AccountExists, ResetPassword, VerifyEmail};
pub use links::{forgot_password, reset_password, sign_up, verify_email};
pub use model::{
    AccountsError, ApiCaller, ApiToken, NewSession, NewUser, PasswordProblem, Principal, Scope, SessionView,
    StaffRole, email_address,
};
pub(crate) use pages::routes as page_routes;
pub use passwords::Passwords;
pub use sessions::{
    log_in, log_out, log_out_everywhere, open_session, session, session_lives, session_principal,
};
pub use ssh_keys::{SshKey, add_ssh_key, remove_ssh_key, ssh_key, ssh_keys};
pub use tokens::{create_token, list_tokens, revoke_token, token_lives, token_principal};
pub use users::{contact, create_user, is_verified, operators, principal_of, user_by_email};

use std::time::Duration;

use crate::jobs::{JobError, JobRegistry};

/// The version of the terms that a sign-up or an order accepts.
pub const TERMS_VERSION: &str = "2026-11";

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("accounts.sweep", Duration::from_secs(3_600), |app, run| async move {
        app.db
            .write(move |tx| Box::pin(async move { store::sweep(tx, run.at).await }))
            .await
            .map_err(JobError::from)
    });
}

//! Accounts: who logs in, who owns, and how they prove it.

mod api;
mod pages;
mod principal;

pub(crate) use api::routes as api_routes;
pub(crate) use pages::routes as page_routes;
pub use principal::{Principal, StaffRole};

use crate::{app::App, db::DbError, jobs::JobRegistry};

/// Who the session cookie's value belongs to; `None` when it is unknown, ended or expired.
///
/// # Errors
/// The database does not answer.
pub async fn session_principal(_app: &App, _token: &str) -> Result<Option<Principal>, DbError> {
    Ok(None)
}

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}

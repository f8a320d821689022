//! What comes in: now, and over the last twelve months.
//!
//! Owns `billing_charges`. Whenever a subscription is read, [`note`] writes what it brings a month from then on, if that
//! has changed: a step function of time for each subscription. Everything shown is summed up from those steps and from the
//! copy of the invoices, in whole minor units, by currency; currencies are never added together.
//!
//! A subscription counts as live while it is charged or will be: `active`, `past_due` and `trialing` (which brings
//! nothing yet; nor does one whose invoices are made void for now). One that is paused, or that Stripe has left unpaid, *rests*: it
//! brings nothing, is told as paused, and its owner is a customer still. Only what is over has ended, and has once, whatever
//! it was before.
//!
//! What is charged for a year or a quarter is divided by its months, each subscription for itself and
//! rounded half up, so that the sum of the parts is the whole that is shown. Discounts that last are taken off, those of a single
//! invoice are not; traffic is not in it.

mod model;
mod store;
#[cfg(test)]
mod tests;

use ez_protocol::{AccountId, UnixMillis};
use serde_json::Value;
use sqlx::AnyConnection;

pub use model::{History, MonthRevenue};

use crate::db::DbError;

/// So many months are shown, the running one among them.
const MONTHS: usize = 12;

/// Writes down what a subscription that was read brings from now on, if that has changed.
///
/// # Errors
/// Those of the statements.
pub(super) async fn note(
    tx: &mut AnyConnection,
    now: UnixMillis,
    account: AccountId,
    subscription: &str,
    value: &Value,
) -> Result<(), DbError> {
    let Some(read) = model::read(value, now) else { return Ok(()) };
    let last = store::last(tx, subscription).await?;
    for (since, step) in model::steps(last.as_ref(), &read, now) {
        store::put(tx, subscription, account, since, &step).await?;
    }
    Ok(())
}

/// What a month brings now, by currency, in minor units.
///
/// # Errors
/// Those of the query.
pub(super) async fn monthly_now(connection: &mut AnyConnection) -> Result<Vec<(String, i64)>, DbError> {
    store::monthly_now(connection).await
}

/// How many subscriptions have ended since a time, by currency: by the day on which they did, not by that of the wish.
///
/// # Errors
/// Those of the query.
pub(super) async fn ended_since(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<(String, i64)>, DbError> {
    store::ended_since(connection, since).await
}

/// The last twelve months, by currency: the oldest first, the running one last.
///
/// # Errors
/// Those of the queries.
pub async fn history(connection: &mut AnyConnection, now: UnixMillis) -> Result<Vec<History>, DbError> {
    let months = model::months(now, MONTHS);
    let begins = months.first().map_or(now, |(_, from, _)| *from);
    let charges = store::charges(connection).await?;
    let failed = store::failed(connection, begins).await?;
    Ok(model::history(&charges, &failed, &months))
}

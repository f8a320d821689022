//! What people see of the money: an account of its own, an operator of everybody's.

mod store;

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::dunning::{Card, Standing};
use crate::db::DbError;

/// A month of churn.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What an account pays for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paying {
    /// The purchase.
    pub order: OrderId,
    /// The server.
    pub instance: InstanceId,
    /// What it is, as the customer read it when paying.
    pub description: String,
    /// Stripe's word for the subscription.
    pub status: String,
    /// What it costs per period: minor units and currency.
    pub charge: Option<(i64, String)>,
    /// How many months a period has.
    pub months: i64,
    /// When the paid period ends.
    pub period_end: Option<UnixMillis>,
    /// When it ends for good, if that is wished.
    pub cancel_at: Option<UnixMillis>,
    /// The card that will be charged.
    pub card: Option<Card>,
    /// What the money says about the server.
    pub standing: Option<Standing>,
    /// Where it can be paid: its oldest unpaid invoice that the clock counts, else a bill beside it.
    pub pay_url: Option<String>,
}

/// An account's money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// What it pays, live ones first.
    pub paying: Vec<Paying>,
    /// Credit that the next invoice uses up, in minor units, with its currency.
    pub credit: Option<(i64, String)>,
    /// Whether it is known at Stripe, so that there is something to manage there.
    pub is_customer: bool,
}

/// A payment that a customer's bank takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// `du_…`
    pub id: String,
    /// What it is about.
    pub description: String,
    /// The server.
    pub instance: InstanceId,
    /// Stripe's word; `early_warning` for a warning of fraud, `checked` for one that a person has looked at.
    pub status: String,
    /// The bank's reason.
    pub reason: Option<String>,
    /// Minor units.
    pub amount_minor: i64,
    /// Lower-case ISO code.
    pub currency: String,
    /// Until when it can be answered.
    pub answer_by: Option<UnixMillis>,
    /// When it was opened.
    pub opened_at: UnixMillis,
}

/// A server that is not simply paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// How it stands.
    pub standing: Standing,
    /// What it is.
    pub description: String,
    /// Whether an operator said "never suspend this".
    pub exempt: bool,
}

/// What comes in, in one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revenue {
    /// Lower-case ISO code.
    pub currency: String,
    /// What a month brings; a year counts as twelve months. Minor units.
    pub monthly_minor: i64,
    /// Subscriptions that are charged.
    pub live: i64,
    /// Subscriptions that ended within the last 30 days.
    pub ended: i64,
    /// What was tried to collect in vain, or is late where nobody tries. Minor units.
    pub owed_minor: i64,
    /// Invoices that are owed.
    pub owed: i64,
}

impl Revenue {
    /// Of a hundred subscriptions, how many ended within the last 30 days, in tenths.
    pub fn churn_permille(&self) -> i64 {
        let all = self.live + self.ended;
        if all == 0 { 0 } else { self.ended * 1_000 / all }
    }
}

/// What an account pays, and what it has.
///
/// # Errors
/// Those of the queries.
pub async fn overview(connection: &mut AnyConnection, account: AccountId) -> Result<Overview, DbError> {
    store::overview(connection, account).await
}

/// Disputes, open ones first, newest first.
///
/// # Errors
/// Those of the query.
pub async fn disputes(connection: &mut AnyConnection) -> Result<Vec<Dispute>, DbError> {
    store::disputes(connection).await
}

/// Servers that are not simply paid and running, the next step first; what has ended comes last. At most 200.
///
/// # Errors
/// Those of the query.
pub async fn queue(connection: &mut AnyConnection) -> Result<Vec<Queued>, DbError> {
    store::queue(connection).await
}

/// What comes in, by currency.
///
/// # Errors
/// Those of the queries.
pub async fn revenue(connection: &mut AnyConnection, now: UnixMillis) -> Result<Vec<Revenue>, DbError> {
    store::revenue(connection, now.minus(MONTH)).await
}

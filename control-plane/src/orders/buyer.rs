//! What an account may still choose: its currency, once it has one, and whether its first server is a trial.

use ez_protocol::AccountId;
use sqlx::AnyConnection;

use super::store;
use crate::{billing, catalog::Price, db::DbError};

/// What holds for an account's next order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Buyer {
    /// The currency it pays in. Stripe keeps one per customer: another is refused there, and so here.
    pub(super) currency: Option<String>,
    /// Whether it may begin with a trial: one per account.
    pub(super) trial: bool,
}

impl Buyer {
    /// Reads it. To place an order by it, the account is locked.
    ///
    /// # Errors
    /// Those of the queries.
    pub(super) async fn read(connection: &mut AnyConnection, account: AccountId) -> Result<Self, DbError> {
        let currency = match billing::currency_of(connection, account).await? {
            Some(currency) => Some(currency),
            // Before the first payment nothing at Stripe says so, and two unpaid pages would not go together.
            None => store::currency_of(connection, account).await?,
        };
        Ok(Self { currency, trial: !store::has_had_trial(connection, account).await? })
    }

    /// Whether it can pay in this currency.
    pub(super) fn pays_in(&self, currency: &str) -> bool {
        self.currency.as_deref().is_none_or(|bound| bound == currency)
    }

    /// The days of trial that it has at a price.
    pub(super) fn trial_days(&self, price: &Price) -> u32 {
        if self.trial { price.trial_days } else { 0 }
    }
}

//! What traffic above a plan's costs. Owns `traffic_prices`.
//!
//! The price is for each started 100 GiB of a month: that is the smallest round amount whose usual price is a whole
//! number of cents, and money has no fractions here. A plan without such a price charges nothing, whatever a server
//! sends. What was agreed is copied at the sale, so a price that is set or changed later is that of later sales.

mod store;

use ez_protocol::UnixMillis;
use serde::Deserialize;
use sqlx::AnyConnection;

use crate::{currency, db::DbError};

/// Started so many GiB are one unit of the price.
pub const TRAFFIC_UNIT_GIB: u64 = 100;

/// One `[[plans.traffic_prices]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPriceEntry {
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units for each started 100 GiB above the plan's traffic.
    pub amount_minor: i64,
}

/// What traffic above a plan's costs in a currency, in minor units for each started 100 GiB; none if it is not charged.
///
/// # Errors
/// Those of the query.
pub async fn traffic_price(
    connection: &mut AnyConnection,
    plan: &str,
    currency: &str,
) -> Result<Option<i64>, DbError> {
    store::price(connection, plan, currency).await
}

/// All traffic prices: plan, currency and minor units for each started 100 GiB.
///
/// # Errors
/// Those of the query.
pub async fn traffic_prices(connection: &mut AnyConnection) -> Result<Vec<(String, String, i64)>, DbError> {
    store::prices(connection).await
}

/// Replaces the traffic prices of a plan.
pub(super) async fn put(
    tx: &mut AnyConnection,
    at: UnixMillis,
    plan: &str,
    prices: &[TrafficPriceEntry],
) -> Result<(), DbError> {
    store::replace(tx, at, plan, prices).await
}

/// Finds what makes no sense: one sentence.
pub(super) fn check(plan: &str, traffic_gib: u64, prices: &[TrafficPriceEntry]) -> Result<(), String> {
    let mut currencies = std::collections::BTreeSet::new();
    for price in prices {
        currency::check(price.amount_minor, &price.currency)
            .map_err(|why| format!("plan {plan}: its traffic: {why}"))?;
        if !(1..=1_000_000).contains(&price.amount_minor) {
            return Err(format!("plan {plan}: a traffic price needs an amount"));
        }
        if !currencies.insert(&price.currency) {
            return Err(format!("plan {plan} has two traffic prices in {}", price.currency));
        }
    }
    if traffic_gib == 0 && !prices.is_empty() {
        return Err(format!(
            "plan {plan}: traffic_gib 0 means that nothing is counted; there is nothing to charge"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_that_make_no_sense_are_refused() {
        let entry =
            |currency: &str, amount_minor| TrafficPriceEntry { currency: currency.into(), amount_minor };
        assert_eq!(check("s", 1_000, &[entry("eur", 12), entry("usd", 15)]), Ok(()));
        assert_eq!(check("s", 0, &[]), Ok(()));
        for (gib, prices) in [
            (0, vec![entry("eur", 12)]),
            (1, vec![entry("EUR", 12)]),
            (1, vec![entry("eur", 0)]),
            (1, vec![entry("eur", 12), entry("eur", 13)]),
        ] {
            assert!(check("s", gib, &prices).is_err(), "{prices:?}");
        }
    }
}

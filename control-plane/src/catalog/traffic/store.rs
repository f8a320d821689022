//! SQL of traffic prices.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::TrafficPriceEntry;
use crate::db::{Cols, DbError};

pub(super) async fn price(
    connection: &mut AnyConnection,
    plan: &str,
    currency: &str,
) -> Result<Option<i64>, DbError> {
    let query =
        sqlx::query_scalar("SELECT amount_minor FROM traffic_prices WHERE plan_code = $1 AND currency = $2");
    Ok(query.bind(plan).bind(currency).fetch_optional(connection).await?)
}

pub(super) async fn prices(connection: &mut AnyConnection) -> Result<Vec<(String, String, i64)>, DbError> {
    let rows = sqlx::query(
        "SELECT plan_code, currency, amount_minor FROM traffic_prices ORDER BY plan_code, currency",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("traffic_prices", row);
            Ok((row.text("plan_code")?, row.text("currency")?, row.int("amount_minor")?))
        })
        .collect()
}

pub(super) async fn replace(
    tx: &mut AnyConnection,
    at: UnixMillis,
    plan: &str,
    prices: &[TrafficPriceEntry],
) -> Result<(), DbError> {
    sqlx::query("DELETE FROM traffic_prices WHERE plan_code = $1").bind(plan).execute(&mut *tx).await?;
    for price in prices {
        sqlx::query(
            "INSERT INTO traffic_prices (plan_code, currency, amount_minor, updated_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(plan)
        .bind(&price.currency)
        .bind(price.amount_minor)
        .bind(at.0)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

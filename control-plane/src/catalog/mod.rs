//! The catalogue: what is sold, in which sizes, from which images, at which prices.
//!
//! Owns `plans`, `prices`, `coupons`, `promotion_codes`, `images` and `isos`. They are written by
//! [`apply_file`] from one TOML file, which also carries the locations and address pools that `fleet`
//! owns; applying the same file again changes nothing. Stripe's catalogue follows ours by [`sync`]. A price is immutable at Stripe: a new amount is a new version of the price (its id ends
//! in `:v2`), while what was sold keeps the old one. Orders copy plan, image and amount at the time of
//! sale, so a change here never changes a server.

mod api;
mod apply;
mod coupons;
mod model;
mod pages;
#[cfg(test)]
mod reference;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod traffic;

use sqlx::AnyConnection;

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub use apply::{ApplyError, ApplyReport, apply_file};
pub use coupons::{Coupon, PromotionCode};
pub use model::{CatalogFile, Image, Interval, Iso, Plan, Price, Quote, QuoteError, QuoteRequest, price_id};
pub use sync::{SyncReport, sync};

pub(crate) use pages::routes as page_routes;
pub use traffic::{TRAFFIC_UNIT_GIB, TrafficPriceEntry, traffic_price, traffic_prices};

use crate::{db::DbError, jobs::JobRegistry, placement::Need};

/// Names this slice's job handlers: it has none.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}

/// Plans on sale, in the order of the file.
///
/// # Errors
/// Those of the query.
pub async fn plans(connection: &mut AnyConnection) -> Result<Vec<Plan>, DbError> {
    Ok(store::plans(connection).await?.into_iter().filter(|plan| plan.on_sale).collect())
}

/// Prices on sale.
///
/// # Errors
/// Those of the query.
pub async fn prices(connection: &mut AnyConnection) -> Result<Vec<Price>, DbError> {
    Ok(store::prices(connection).await?.into_iter().filter(|price| price.on_sale).collect())
}

/// The currencies of prices, in the order of the file.
pub fn currencies(plans: &[Plan], prices: &[Price]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for plan in plans {
        for price in prices.iter().filter(|price| price.plan_code == plan.code) {
            if !found.contains(&price.currency) {
                found.push(price.currency.clone());
            }
        }
    }
    found
}

/// Images on sale, in the order of the file; rescue systems are not among them.
///
/// # Errors
/// Those of the query.
pub async fn images(connection: &mut AnyConnection) -> Result<Vec<Image>, DbError> {
    let sold = |image: &Image| image.on_sale && !image.rescue;
    Ok(store::images(connection).await?.into_iter().filter(sold).collect())
}

/// Rescue systems that servers may boot, in the order of the file.
///
/// # Errors
/// Those of the query.
pub async fn rescue_images(connection: &mut AnyConnection) -> Result<Vec<Image>, DbError> {
    let offered = |image: &Image| image.on_sale && image.rescue;
    Ok(store::images(connection).await?.into_iter().filter(offered).collect())
}

/// Media that may be put into a server's CD drive, in the order of the file.
///
/// # Errors
/// Those of the query.
pub async fn isos(connection: &mut AnyConnection) -> Result<Vec<Iso>, DbError> {
    Ok(store::isos(connection).await?.into_iter().filter(|iso| iso.on_sale).collect())
}

/// A plan by its code, on sale or not.
///
/// # Errors
/// Those of the query.
pub async fn plan(connection: &mut AnyConnection, code: &str) -> Result<Option<Plan>, DbError> {
    Ok(store::plans(connection).await?.into_iter().find(|plan| plan.code == code))
}

/// An image by its code, on sale or not.
///
/// # Errors
/// Those of the query.
pub async fn image(connection: &mut AnyConnection, code: &str) -> Result<Option<Image>, DbError> {
    Ok(store::images(connection).await?.into_iter().find(|image| image.code == code))
}

/// What Stripe calls one of our prices; `None` until it was pushed there.
///
/// # Errors
/// Those of the query; [`DbError::NotFound`] for a price we never had.
pub async fn stripe_price(connection: &mut AnyConnection, price_id: &str) -> Result<Option<String>, DbError> {
    let price = store::prices(connection).await?.into_iter().find(|price| price.id == price_id);
    price.map(|price| price.stripe_price_id).ok_or(DbError::NotFound)
}

/// A price by our id, on sale or not.
///
/// # Errors
/// Those of the query.
pub async fn price(connection: &mut AnyConnection, id: &str) -> Result<Option<Price>, DbError> {
    Ok(store::prices(connection).await?.into_iter().find(|price| price.id == id))
}

/// A price by what Stripe calls it, on sale or not.
///
/// # Errors
/// Those of the query.
pub async fn price_at_stripe(
    connection: &mut AnyConnection,
    stripe_price: &str,
) -> Result<Option<Price>, DbError> {
    let prices = store::prices(connection).await?;
    Ok(prices.into_iter().find(|price| price.stripe_price_id.as_deref() == Some(stripe_price)))
}

/// What a choice of plan, interval and image costs and takes.
///
/// # Errors
/// [`QuoteError`] names the part of the choice that is not on sale.
pub async fn quote(connection: &mut AnyConnection, request: &QuoteRequest) -> Result<Quote, QuoteError> {
    let plan = plan(connection, &request.plan).await?.filter(|p| p.on_sale).ok_or(QuoteError::UnknownPlan)?;
    let image = images(connection)
        .await?
        .into_iter()
        .find(|i| i.code == request.image)
        .ok_or(QuoteError::UnknownImage)?;
    let wanted = |price: &Price| {
        price.plan_code == plan.code
            && price.interval == request.interval
            && request.currency.as_ref().is_none_or(|currency| *currency == price.currency)
    };
    let price = prices(connection).await?.into_iter().find(wanted).ok_or(QuoteError::NoPrice)?;
    Ok(Quote { plan, image, price })
}

impl Quote {
    /// What a server of this choice takes from a node.
    pub fn need(&self, location: &str) -> Need {
        Need {
            location: location.to_owned(),
            vcpu: self.plan.vcpu,
            memory_mib: u64::from(self.plan.memory_mib),
            disk_gib: u64::from(self.plan.disk_gib),
            image_digest: self.image.digest.clone(),
        }
    }
}

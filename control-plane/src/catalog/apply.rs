//! Applying the file: check, write, then make Stripe know the products and prices.

use ez_protocol::UnixMillis;
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    model::{CatalogFile, price_id},
    store, traffic,
};
use crate::{
    app::Services,
    audit,
    billing::{self, BillingError, WantedPrice},
    db::DbError,
    fleet,
};

/// What applying a file did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Locations in the file.
    pub locations: usize,
    /// Address pools in the file.
    pub address_pools: usize,
    /// Images in the file.
    pub images: usize,
    /// Media in the file.
    pub isos: usize,
    /// Plans in the file.
    pub plans: usize,
    /// Prices in the file.
    pub prices: usize,
    /// Prices that Stripe learned of just now.
    pub pushed: usize,
}

/// Why a file was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is not readable; the text names line and column.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] toml::de::Error),
    /// An entry makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The amount of an existing price was changed.
    #[error("the price {0} exists with another amount; prices never change, raise its version instead")]
    PriceChanged(String),
    /// Locations or address pools were refused.
    #[error("applying locations and address pools")]
    Fleet(#[source] fleet::ApplyError),
    /// Stripe did not take a product or price; everything else was written, apply again.
    #[error("telling Stripe about {what}")]
    Stripe {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: BillingError,
    },
    /// Writing failed.
    #[error("writing the catalogue")]
    Write(#[from] DbError),
}

/// Applies a whole file: locations and address pools (through `fleet`), images, plans and prices, and pushes
/// products and prices to Stripe. Idempotent; `actor` is for the audit log.
///
/// # Errors
/// [`ApplyError`]. Nothing is written when the file itself is bad.
pub async fn apply_file(app: &Services, text: &str, actor: &str) -> Result<ApplyReport, ApplyError> {
    let file: CatalogFile = toml::from_str(text)?;
    file.check().map_err(ApplyError::Invalid)?;
    let at = app.clock.now();
    let entropy = app.entropy.clone();
    let (written, actor) = (file.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                fleet::apply(tx, at, entropy.as_ref(), &written.locations, &written.address_pools)
                    .await
                    .map_err(ApplyError::Fleet)?;
                write(tx, at, &written).await?;
                let entry = audit::Entry {
                    actor,
                    action: "catalog.apply".to_owned(),
                    subject_kind: "catalog".to_owned(),
                    subject_id: "catalog".to_owned(),
                    detail: json!({"plans": written.plans.len(), "images": written.images.len()}),
                };
                audit::record(tx, at, entry).await?;
                Ok::<_, ApplyError>(())
            })
        })
        .await?;
    Ok(ApplyReport {
        locations: file.locations.len(),
        address_pools: file.address_pools.len(),
        images: file.images.len(),
        isos: file.isos.len(),
        plans: file.plans.len(),
        prices: file.plans.iter().map(|plan| plan.prices.len()).sum(),
        pushed: push(app).await?,
    })
}

async fn write(tx: &mut AnyConnection, at: UnixMillis, file: &CatalogFile) -> Result<(), ApplyError> {
    for (position, image) in (0_i64..).zip(&file.images) {
        store::put_image(tx, at, position, image).await?;
    }
    for (position, iso) in (0_i64..).zip(&file.isos) {
        store::put_iso(tx, at, position, iso).await?;
    }
    for (position, plan) in (0_i64..).zip(&file.plans) {
        store::put_plan(tx, at, position, plan).await?;
        traffic::put(tx, at, &plan.code, &plan.traffic_prices).await?;
        store::withdraw_prices(tx, at, &plan.code).await?;
        for price in &plan.prices {
            if !store::put_price(tx, at, &plan.code, price).await? {
                let id = price_id(&plan.code, price.interval, &price.currency, price.version);
                return Err(ApplyError::PriceChanged(id));
            }
        }
    }
    Ok(())
}

/// Tells Stripe about every product and price it does not know yet, one at a time.
async fn push(app: &Services) -> Result<usize, ApplyError> {
    let (plans, prices) = {
        let mut connection = app.db.read().await?;
        (store::plans(&mut connection).await?, store::prices(&mut connection).await?)
    };
    let mut pushed = 0;
    for plan in plans.iter().filter(|plan| plan.on_sale) {
        let failed = |source| ApplyError::Stripe { what: format!("plan {}", plan.code), source };
        let product = billing::ensure_product(app, &plan.code, &plan.name).await.map_err(failed)?;
        if plan.stripe_product_id.as_ref() != Some(&product) {
            let (code, id) = (plan.code.clone(), product.clone());
            app.db
                .write(move |tx| Box::pin(async move { store::set_stripe_product(tx, &code, &id).await }))
                .await?;
        }
        let unknown = |price: &&super::Price| {
            price.plan_code == plan.code && price.on_sale && price.stripe_price_id.is_none()
        };
        for price in prices.iter().filter(unknown) {
            let wanted = WantedPrice {
                id: price.id.clone(),
                product: product.clone(),
                yearly: price.interval == super::Interval::Year,
                currency: price.currency.clone(),
                amount_minor: price.amount_minor,
            };
            let at_stripe = billing::ensure_price(app, &wanted)
                .await
                .map_err(|source| ApplyError::Stripe { what: format!("price {}", price.id), source })?;
            let id = price.id.clone();
            app.db
                .write(move |tx| Box::pin(async move { store::set_stripe_price(tx, &id, &at_stripe).await }))
                .await?;
            pushed += 1;
        }
    }
    Ok(pushed)
}

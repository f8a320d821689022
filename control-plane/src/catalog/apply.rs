//! Applying the file: check, write, then make Stripe know the products and prices.

use ez_protocol::UnixMillis;
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    coupons::{Coupon, CouponEntry, PromotionCode},
    model::{CatalogFile, Price, PriceEntry, price_id},
    store,
    sync::sync,
    traffic,
};
use crate::{
    app::Services,
    audit,
    billing::{BillingError, Kind, ShelfStep, Verb},
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
    /// Coupons in the file.
    pub coupons: usize,
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
    #[error(
        "the price {0} exists with another amount or set-up fee; prices never change: raise its version, or leave \
         `version` out"
    )]
    PriceChanged(String),
    /// The terms of an existing coupon were changed.
    #[error(
        "the coupon {0} exists with other terms, which never change: raise its version, or leave `version` out"
    )]
    CouponChanged(String),
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
    /// Stripe has something else under one of our names; everything else was done.
    #[error("Stripe disagrees: {0}")]
    Conflict(String),
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
    let made = sync(app, false).await?;
    if let Some(conflict) = made.steps.iter().find(|step| step.verb == Verb::Conflict) {
        return Err(ApplyError::Conflict(format!("{} {}: {}", conflict.kind, conflict.key, conflict.detail)));
    }
    Ok(ApplyReport {
        locations: file.locations.len(),
        address_pools: file.address_pools.len(),
        images: file.images.len(),
        isos: file.isos.len(),
        plans: file.plans.len(),
        prices: file.plans.iter().map(|plan| plan.prices.len()).sum(),
        coupons: file.coupons.len(),
        pushed: made.steps.iter().filter(|step| is_new_price(step)).count(),
    })
}

fn is_new_price(step: &ShelfStep) -> bool {
    step.kind == Kind::Price && matches!(step.verb, Verb::Make | Verb::Adopt)
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
        for (position, price) in (0_i64..).zip(&plan.prices) {
            let newest = store::newest_price(tx, &plan.code, price).await?;
            let version = price.version.unwrap_or_else(|| next_version(newest.as_ref(), price));
            let id = price_id(&plan.code, price.interval, &price.currency, version);
            if !store::put_price(tx, at, (&id, position), &plan.code, price).await? {
                return Err(ApplyError::PriceChanged(id));
            }
        }
    }
    for (position, entry) in (0_i64..).zip(&file.coupons) {
        write_coupon(tx, at, position, entry).await?;
    }
    Ok(())
}

async fn write_coupon(
    tx: &mut AnyConnection,
    at: UnixMillis,
    position: i64,
    entry: &CouponEntry,
) -> Result<(), ApplyError> {
    let known = store::coupons(tx).await?;
    let newest =
        known.iter().filter(|coupon| coupon.code == entry.code).max_by_key(|coupon| coupon.version());
    let version = entry.version.unwrap_or_else(|| {
        newest.map_or(1, |newest| {
            newest.version() + u32::from(!newest.has_terms_of(&Coupon::of(entry, newest.version())))
        })
    });
    let coupon = Coupon::of(entry, version);
    if known.iter().any(|other| other.id == coupon.id && !other.has_terms_of(&coupon)) {
        return Err(ApplyError::CouponChanged(coupon.id));
    }
    store::withdraw_coupon(tx, at, &entry.code).await?;
    store::put_coupon(tx, at, position, &coupon).await?;
    for code in &entry.codes {
        let code = PromotionCode {
            code: code.code.to_uppercase(),
            coupon_id: coupon.id.clone(),
            first_purchase: code.first_purchase,
            max_uses: code.max_uses,
            expires_at: code.expires_at(),
            on_sale: entry.on_sale,
        };
        store::put_promotion_code(tx, at, &code).await?;
    }
    Ok(())
}

/// The version of a price whose file names none: the newest as long as it costs the same, else the one after it.
fn next_version(newest: Option<&Price>, price: &PriceEntry) -> u32 {
    newest.map_or(1, |known| {
        let same = known.amount_minor == price.amount_minor && known.setup_minor == price.setup_minor;
        known.version() + u32::from(!same)
    })
}

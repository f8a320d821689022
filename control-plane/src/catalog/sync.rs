//! Making Stripe's catalogue what ours says: one function for `apply` and `billing sync`.

use serde_json::json;

use super::{
    Plan, Price,
    apply::ApplyError,
    coupons::{Coupon, Duration, PromotionCode},
    store,
};
use crate::{
    app::Services,
    audit,
    billing::{
        self, Kind, Lasts, Off, Shelf, ShelfStep, Verb, WantedCode, WantedCoupon, WantedPrice, WantedProduct,
    },
    db::DbError,
};

/// What differed, in the order in which it was mended or is to be.
#[derive(Debug, Clone, Default)]
pub struct SyncReport {
    /// The differences. A conflict is left as it is.
    pub steps: Vec<ShelfStep>,
}

impl SyncReport {
    /// Differences that a person has to decide about.
    pub fn conflicts(&self) -> usize {
        self.steps.iter().filter(|step| step.verb == Verb::Conflict).count()
    }
}

/// Compares Stripe's products, prices, coupons and promotion codes with ours and mends what differs, one at a time;
/// with `dry_run` nothing is written, here or there. What fails stops it; the next run goes on.
///
/// # Errors
/// [`ApplyError::Stripe`] names what Stripe did not take.
pub async fn sync(app: &Services, dry_run: bool) -> Result<SyncReport, ApplyError> {
    let failed = |what: String| move |source| ApplyError::Stripe { what, source };
    let shelf = {
        let mut connection = app.db.read().await?;
        let (plans, prices) = (store::plans(&mut connection).await?, store::prices(&mut connection).await?);
        let (coupons, codes) =
            (store::coupons(&mut connection).await?, store::promotion_codes(&mut connection).await?);
        shelf(&plans, &prices, &coupons, &codes)
    };
    let steps = billing::shelf_differences(app, &shelf).await.map_err(failed("the catalogue".to_owned()))?;
    if dry_run {
        return Ok(SyncReport { steps });
    }
    for step in &steps {
        let what = format!("{} {}", step.kind, step.key);
        if let Some(id) = billing::carry_out_step(app, step).await.map_err(failed(what))? {
            learn(app, step, id).await?;
        }
    }
    note(app, &steps).await?;
    Ok(SyncReport { steps })
}

/// Writes down what Stripe calls something.
async fn learn(app: &Services, step: &ShelfStep, id: String) -> Result<(), DbError> {
    let (kind, key) = (step.kind, step.key.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                match kind {
                    // The product of a set-up fee has no row of its own.
                    Kind::Product => match key.strip_prefix(PRODUCT) {
                        Some(plan) => store::set_stripe_product(tx, plan, &id).await,
                        None => Ok(()),
                    },
                    Kind::Price => store::set_stripe_price(tx, &key, &id).await,
                    Kind::SetUpFee => {
                        let price = key.strip_suffix(SET_UP_KEY).unwrap_or(&key);
                        store::set_stripe_setup(tx, price, &id).await
                    }
                    Kind::Coupon | Kind::PromotionCode => Ok(()),
                }
            })
        })
        .await
}

/// One audit row for a run that did something.
async fn note(app: &Services, steps: &[ShelfStep]) -> Result<(), DbError> {
    let done: Vec<String> = steps
        .iter()
        .filter(|step| !matches!(step.verb, Verb::Conflict | Verb::Adopt))
        .map(|step| format!("{} {} {}", step.verb, step.kind, step.key))
        .collect();
    if done.is_empty() {
        return Ok(());
    }
    let at = app.clock.now();
    let entry = audit::Entry {
        actor: "system".to_owned(),
        action: "catalog.synced".to_owned(),
        subject_kind: "catalog".to_owned(),
        subject_id: "catalog".to_owned(),
        detail: json!({ "steps": done }),
    };
    app.db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await })).await
}

/// The beginning of a product's id.
const PRODUCT: &str = "ez-plan-";
/// That of a plan's set-up fee.
const SET_UP: &str = "ez-setup-";
/// The end of the lookup key of a set-up fee.
const SET_UP_KEY: &str = ":setup";

fn product_id(plan: &str) -> String {
    format!("{PRODUCT}{plan}")
}

/// What Stripe shall have.
fn shelf(plans: &[Plan], prices: &[Price], coupons: &[Coupon], codes: &[PromotionCode]) -> Shelf {
    let mut shelf = Shelf::default();
    for plan in plans {
        let product = product_id(&plan.code);
        let of_plan = || prices.iter().filter(|price| price.plan_code == plan.code);
        let sold = |price: &Price| plan.on_sale && price.on_sale;
        if plan.on_sale {
            let known = plan.stripe_product_id.as_ref() == Some(&product);
            shelf.products.push(WantedProduct { id: product.clone(), name: plan.name.clone(), known });
            if of_plan().any(|price| sold(price) && price.setup_minor > 0) {
                let name = format!("{}, set-up", plan.name);
                shelf.products.push(WantedProduct {
                    id: format!("{SET_UP}{}", plan.code),
                    name,
                    known: true,
                });
            }
        }
        for price in of_plan() {
            let on_sale = sold(price);
            let wanted = WantedPrice {
                kind: Kind::Price,
                key: price.id.clone(),
                product: product.clone(),
                months: Some(price.interval.months()),
                currency: price.currency.clone(),
                amount_minor: price.amount_minor,
                on_sale,
                known: price.stripe_price_id.clone(),
            };
            if price.setup_minor > 0 && (on_sale || price.stripe_setup_price_id.is_some()) {
                shelf.prices.push(WantedPrice {
                    kind: Kind::SetUpFee,
                    key: price.setup_key(),
                    product: format!("{SET_UP}{}", plan.code),
                    months: None,
                    amount_minor: price.setup_minor,
                    known: price.stripe_setup_price_id.clone(),
                    ..wanted.clone()
                });
            }
            // Of what was withdrawn, only what Stripe has from us is looked at.
            if on_sale || wanted.known.is_some() {
                shelf.prices.push(wanted);
            }
        }
    }
    shelf.coupons = coupons.iter().filter(|coupon| coupon.on_sale).map(coupon).collect();
    for code in codes {
        let Some(behind) = coupons.iter().find(|coupon| coupon.id == code.coupon_id) else { continue };
        shelf.codes.push(WantedCode {
            code: code.code.clone(),
            coupon: behind.stripe_id(),
            first_purchase: code.first_purchase,
            max_uses: code.max_uses,
            expires_at: code.expires_at,
            on_sale: code.on_sale && behind.on_sale,
        });
    }
    shelf
}

fn coupon(coupon: &Coupon) -> WantedCoupon {
    WantedCoupon {
        id: coupon.stripe_id(),
        name: coupon.name.clone(),
        off: match (coupon.percent_off, coupon.amount_off_minor, &coupon.currency) {
            (None, Some(minor), Some(currency)) => Off::Amount(minor, currency.clone()),
            (percent, ..) => Off::Percent(percent.unwrap_or(0)),
        },
        lasts: match coupon.duration {
            Duration::Once => Lasts::Once,
            Duration::Months => Lasts::Months(coupon.months.unwrap_or(1)),
            Duration::Forever => Lasts::Forever,
        },
        products: coupon.plans.iter().map(|plan| product_id(plan)).collect(),
    }
}

//! The pages of this slice: what is sold, and on which terms.

use axum::{
    Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;

use super::{Image, Plan, Price};
use crate::{
    accounts::TERMS_VERSION,
    app::App,
    fleet,
    placement::{self, FleetSnapshot, Need},
    web::{
        self, Ctx,
        views::{
            Money,
            home::{Landing, Place, PlanRow, RowPrice, Terms},
        },
    },
};

/// Fewer than this many left is worth a word.
const FEW: u64 = 5;

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/", get(landing)).route("/terms", get(terms))
}

/// What of the address changes the page.
#[derive(Debug, Deserialize)]
struct Shown {
    /// Lower-case ISO code.
    #[serde(default)]
    currency: String,
}

async fn landing(ctx: Ctx, State(app): State<App>, Query(shown): Query<Shown>) -> web::Result {
    let mut connection = app.db.read().await?;
    let plans = super::plans(&mut connection).await?;
    let prices = super::prices(&mut connection).await?;
    let images = super::images(&mut connection).await?;
    // One snapshot answers for every plan and location.
    let nodes = fleet::snapshot(&mut connection, ctx.now(), None).await?;
    let locations = fleet::locations(&mut connection).await?;
    drop(connection);
    let currencies = super::currencies(&plans, &prices);
    let currency = currencies
        .iter()
        .find(|offered| **offered == shown.currency)
        .or(currencies.first())
        .cloned()
        .unwrap_or_default();
    let mut rows: Vec<PlanRow> = plans
        .into_iter()
        .filter_map(|plan| {
            let mut of_plan: Vec<&Price> = prices
                .iter()
                .filter(|price| price.plan_code == plan.code && price.currency == currency)
                .collect();
            of_plan.sort_by_key(|price| price.interval);
            let places = locations
                .iter()
                .map(|location| Place {
                    name: location.name.clone(),
                    left: left(&nodes, &plan, &images, &location.code),
                })
                .collect();
            row(plan, &of_plan, places)
        })
        .collect();
    rows.sort_by_key(|row| row.price.amount.minor);
    let images = images.into_iter().map(|image| image.name).collect();
    ctx.page(&Landing { plans: rows, images, currencies, currency })
}

/// How many fit with the image that fits best: a location without one image still sells the others.
fn left(nodes: &FleetSnapshot, plan: &Plan, images: &[Image], location: &str) -> &'static str {
    let fits = |image: &Image| {
        let need = Need {
            location: location.to_owned(),
            vcpu: plan.vcpu,
            memory_mib: u64::from(plan.memory_mib),
            disk_gib: u64::from(plan.disk_gib),
            image_digest: image.digest.clone(),
        };
        placement::room_for(nodes, &need)
    };
    match images.iter().map(fits).max().unwrap_or(0) {
        0 => "none",
        n if n < FEW => "few",
        _ => "free",
    }
}

/// A plan with its shortest interval first; `None` where it is not sold in the currency.
fn row(plan: Plan, prices: &[&Price], places: Vec<Place>) -> Option<PlanRow> {
    let mut told = prices.iter().map(|price| RowPrice {
        interval: price.interval.to_string(),
        amount: Money::new(price.amount_minor, price.currency.clone()),
        setup: (price.setup_minor > 0).then(|| Money::new(price.setup_minor, price.currency.clone())),
        trial_days: price.trial_days,
    });
    Some(PlanRow {
        vcpu: plan.vcpu,
        memory_mib: u64::from(plan.memory_mib),
        disk_gib: u64::from(plan.disk_gib),
        traffic_gib: plan.traffic_gib,
        price: told.next()?,
        others: told.collect(),
        places,
        code: plan.code,
        name: plan.name,
    })
}

async fn terms(ctx: Ctx) -> web::Result {
    ctx.page(&Terms { version: TERMS_VERSION })
}

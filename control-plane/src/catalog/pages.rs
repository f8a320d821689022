//! The pages of this slice: what is sold, and on which terms.

use axum::{Router, extract::State, routing::get};

use super::{Image, Interval, Plan, Price};
use crate::{
    accounts::TERMS_VERSION,
    app::App,
    fleet,
    placement::{self, FleetSnapshot, Need},
    web::{
        self, Ctx,
        views::{
            Money,
            home::{Landing, Place, PlanRow, Terms},
        },
    },
};

/// Fewer than this many left is worth a word.
const FEW: u64 = 5;

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/", get(landing)).route("/terms", get(terms))
}

async fn landing(ctx: Ctx, State(app): State<App>) -> web::Result {
    let mut connection = app.db.read().await?;
    let plans = super::plans(&mut connection).await?;
    let prices = super::prices(&mut connection).await?;
    let images = super::images(&mut connection).await?;
    // One snapshot answers for every plan and location.
    let nodes = fleet::snapshot(&mut connection, ctx.now(), None).await?;
    let locations = fleet::locations(&mut connection).await?;
    drop(connection);
    let mut rows: Vec<PlanRow> = plans
        .into_iter()
        .filter_map(|plan| {
            let monthly = |price: &&Price| price.plan_code == plan.code && price.interval == Interval::Month;
            let price = prices.iter().find(monthly)?;
            let places = locations
                .iter()
                .map(|location| Place {
                    name: location.name.clone(),
                    left: left(&nodes, &plan, &images, &location.code),
                })
                .collect();
            Some(row(plan, price, places))
        })
        .collect();
    rows.sort_by_key(|row| row.price.minor);
    ctx.page(&Landing { plans: rows, images: images.into_iter().map(|image| image.name).collect() })
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

fn row(plan: Plan, price: &Price, places: Vec<Place>) -> PlanRow {
    PlanRow {
        vcpu: plan.vcpu,
        memory_mib: u64::from(plan.memory_mib),
        disk_gib: u64::from(plan.disk_gib),
        traffic_gib: plan.traffic_gib,
        price: Money::new(price.amount_minor, price.currency.clone()),
        places,
        code: plan.code,
        name: plan.name,
    }
}

async fn terms(ctx: Ctx) -> web::Result {
    ctx.page(&Terms { version: TERMS_VERSION })
}

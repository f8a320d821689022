//! `/api/v1/plans` and `/api/v1/images`: what can be ordered; rescue systems and media that servers may boot.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::{Image, Plan, Price};
use crate::{
    api::{Page, Problem},
    app::App,
    fleet,
    placement::{self, Need},
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/plans", get(plans))
        .route("/images", get(images))
        .route("/rescue_images", get(rescue_images))
        .route("/isos", get(isos))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(plans, images, rescue_images, isos),
        components(schemas(PlanBody, PriceBody, TrafficPriceBody, ImageBody, IsoBody))
    )]
    struct Docs;
    Docs::openapi()
}

/// What a plan costs per interval.
#[derive(Debug, Serialize, ToSchema)]
struct PriceBody {
    /// `month`, `quarter` or `year`.
    interval: String,
    /// Lower-case ISO code.
    currency: String,
    /// Minor units.
    amount_minor: i64,
    /// Paid once, with the first payment; minor units.
    setup_minor: i64,
    /// Days that an account's first server costs nothing.
    trial_days: u32,
}

/// What traffic above a plan's costs.
#[derive(Debug, Serialize, ToSchema)]
struct TrafficPriceBody {
    /// Lower-case ISO code.
    currency: String,
    /// Minor units for each started 100 GiB of a month.
    amount_minor: i64,
}

/// A size of server.
#[derive(Debug, Serialize, ToSchema)]
struct PlanBody {
    /// Pass it as `plan` when ordering.
    code: String,
    name: String,
    vcpu: u32,
    memory_mib: u32,
    disk_gib: u32,
    /// Per month.
    traffic_gib: u64,
    /// What more than that costs, for each started 100 GiB; empty if it costs nothing.
    traffic_prices: Vec<TrafficPriceBody>,
    /// How many snapshots a server may have.
    snapshots: u32,
    /// How many backups of a server are kept; 0 means none.
    backups: u32,
    prices: Vec<PriceBody>,
    /// How many more fit now, by location code and for the first image; 0 means sold out.
    available: BTreeMap<String, u64>,
}

/// An operating system.
#[derive(Debug, Serialize, ToSchema)]
struct ImageBody {
    /// Pass it as `image` when ordering.
    code: String,
    name: String,
    version: String,
    /// Who logs in.
    login_user: String,
    /// What can be set up on it at the first boot; pass some as `recipes` when ordering.
    recipes: Vec<String>,
}

fn prices_of(plan: &Plan, prices: &[Price]) -> Vec<PriceBody> {
    prices
        .iter()
        .filter(|price| price.plan_code == plan.code)
        .map(|price| PriceBody {
            interval: price.interval.to_string(),
            currency: price.currency.clone(),
            amount_minor: price.amount_minor,
            setup_minor: price.setup_minor,
            trial_days: price.trial_days,
        })
        .collect()
}

/// Lists the plans on sale with what they cost and where they still fit.
#[utoipa::path(get, path = "/api/v1/plans", tag = "plans",
    responses((status = 200, body = Page<PlanBody>), (status = 401, body = Problem)))]
async fn plans(State(app): State<App>) -> Result<Json<Page<PlanBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let prices = super::prices(&mut connection).await?;
    let traffic = super::traffic_prices(&mut connection).await?;
    let image = super::images(&mut connection).await?.into_iter().next();
    let on_sale = super::plans(&mut connection).await?;
    // One snapshot answers for every plan and location.
    let nodes = fleet::snapshot(&mut connection, app.clock.now(), None).await?;
    let locations = fleet::locations(&mut connection).await?;
    drop(connection);
    let mut data = Vec::new();
    for plan in on_sale {
        let mut available = BTreeMap::new();
        if let Some(image) = &image {
            for location in &locations {
                let need = Need {
                    location: location.code.clone(),
                    vcpu: plan.vcpu,
                    memory_mib: u64::from(plan.memory_mib),
                    disk_gib: u64::from(plan.disk_gib),
                    image_digest: image.digest.clone(),
                };
                available.insert(location.code.clone(), placement::room_for(&nodes, &need));
            }
        }
        data.push(PlanBody {
            prices: prices_of(&plan, &prices),
            available,
            traffic_prices: traffic
                .iter()
                .filter(|(of, _, _)| *of == plan.code)
                .map(|(_, currency, amount_minor)| TrafficPriceBody {
                    currency: currency.clone(),
                    amount_minor: *amount_minor,
                })
                .collect(),
            code: plan.code,
            name: plan.name,
            vcpu: plan.vcpu,
            memory_mib: plan.memory_mib,
            disk_gib: plan.disk_gib,
            traffic_gib: plan.traffic_gib,
            snapshots: plan.snapshots,
            backups: plan.backups,
        });
    }
    Ok(Json(Page::whole(data)))
}

/// A medium for a server's CD drive.
#[derive(Debug, Serialize, ToSchema)]
struct IsoBody {
    /// Pass it as `iso` when attaching it.
    file: String,
    name: String,
}

fn image_body(image: Image) -> ImageBody {
    ImageBody {
        recipes: image.recipes.iter().map(ToString::to_string).collect(),
        code: image.code,
        name: image.name,
        version: image.version,
        login_user: image.login_user,
    }
}

/// Lists the images on sale.
#[utoipa::path(get, path = "/api/v1/images", tag = "images",
    responses((status = 200, body = Page<ImageBody>), (status = 401, body = Problem)))]
async fn images(State(app): State<App>) -> Result<Json<Page<ImageBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let images = super::images(&mut connection).await?.into_iter().map(image_body);
    Ok(Json(Page::whole(images.collect())))
}

/// Lists the rescue systems that a server can boot.
#[utoipa::path(get, path = "/api/v1/rescue_images", tag = "images",
    responses((status = 200, body = Page<ImageBody>), (status = 401, body = Problem)))]
async fn rescue_images(State(app): State<App>) -> Result<Json<Page<ImageBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let images = super::rescue_images(&mut connection).await?.into_iter().map(image_body);
    Ok(Json(Page::whole(images.collect())))
}

/// Lists the media that can be put into a server's CD drive.
#[utoipa::path(get, path = "/api/v1/isos", tag = "images",
    responses((status = 200, body = Page<IsoBody>), (status = 401, body = Problem)))]
async fn isos(State(app): State<App>) -> Result<Json<Page<IsoBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let isos = super::isos(&mut connection).await?.into_iter();
    Ok(Json(Page::whole(isos.map(|iso| IsoBody { file: iso.file, name: iso.name }).collect())))
}

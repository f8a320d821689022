//! `/api/v1/openapi.json`, gathered from the slices.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{accounts, api::Problem, catalog, fleet, instances, orders};

/// What all endpoints share.
#[derive(OpenApi)]
#[openapi(
    info(title = "EZ Solutions", version = "1", description = "Order and run virtual servers. Amounts are minor units; times are UTC milliseconds since 1970; lists are pages with a cursor. A POST may carry an Idempotency-Key."),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&Bearer),
)]
struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API token: ezt_…"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The whole document. Paths are written in full (`/api/v1/…`) in each slice's `docs()`.
pub(crate) fn gather() -> Document {
    Base::openapi()
        .merge_from(accounts::api_docs())
        .merge_from(catalog::api_docs())
        .merge_from(fleet::api_docs())
        .merge_from(orders::api_docs())
        .merge_from(instances::api_docs())
}

pub(super) async fn document() -> Json<Document> {
    Json(gather())
}

//! `/api/v1/openapi.json`, gathered from the slices.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, HttpMethod, OpenApi as Document, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{accounts, api::Problem, catalog, console, fleet, instances, metrics, orders, replan};

/// What all endpoints share.
#[derive(OpenApi)]
#[openapi(
    info(title = "EZ Solutions", version = "1", description = "Order and run virtual servers. Amounts are minor units; times are UTC milliseconds since 1970. A list comes whole, in `data`; of orders, the newest 500. Errors are problem documents (RFC 9457): programs look at `code`. A POST may carry an `Idempotency-Key` of 1 to 255 characters: it is then carried out once, and what it answered is answered again for a day; a refusal is not kept. 300 requests at once and 50 a second pass from one address."),
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

/// What errors are sent as.
const PROBLEM: &str = "application/problem+json";

/// What any endpoint may say.
const ALWAYS: [(&str, &str); 5] = [
    ("401", "There is no token, or it is not in use."),
    ("403", "The token lacks the scope, or its user may not."),
    ("429", "Too many requests; go on after the seconds in Retry-After."),
    ("500", "Something failed on our side; quote the request id."),
    ("503", "Busy, restarting, or it took too long; look before repeating a change."),
];
/// What an endpoint with `{id}` may say.
const NAMING: [(&str, &str); 1] = [("404", "There is no such thing, or it is not yours.")];
/// What any POST may say, for it may carry a body and a key.
const POSTING: [(&str, &str); 4] = [
    ("400", "The body is not JSON, or the Idempotency-Key is not usable."),
    ("409", "It collides with something, or the first request with this Idempotency-Key still runs."),
    ("413", "The body is larger than 64 KiB."),
    ("422", "Fields are not acceptable, or the Idempotency-Key was used for another request."),
];
/// What an endpoint that reads a body may say.
const READING: [(&str, &str); 1] = [("415", "The body is not sent as application/json.")];

/// Adds to an operation what the layers around it may say, and corrects the type of all errors.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let mut add = |some: &[(&str, &str)]| {
        for (status, meaning) in some {
            responses.entry((*status).to_owned()).or_insert_with(|| {
                let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                ResponseBuilder::new().description(*meaning).content(PROBLEM, body).build().into()
            });
        }
    };
    add(&ALWAYS);
    if path.contains('{') {
        add(&NAMING);
    }
    if *method == HttpMethod::Post {
        add(&POSTING);
    }
    if operation.request_body.is_some() {
        add(&READING);
    }
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && let Some(body) = response.content.shift_remove("application/json")
        {
            response.content.insert(PROBLEM.to_owned(), body);
        }
    }
}

/// The whole document. Paths are written in full (`/api/v1/…`) in each slice's `docs()`.
pub(crate) fn gather() -> Document {
    let mut document = Base::openapi()
        .merge_from(accounts::api_docs())
        .merge_from(catalog::api_docs())
        .merge_from(fleet::api_docs())
        .merge_from(orders::api_docs())
        .merge_from(instances::api_docs())
        .merge_from(replan::api_docs())
        .merge_from(metrics::api_docs())
        .merge_from(console::api_docs());
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(path, &method, operation);
            }
        }
    }
    document
}

pub(super) async fn document() -> Json<Document> {
    Json(gather())
}

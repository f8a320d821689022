//! `POST /webhooks/stripe`: a reviewed exception from the router's defaults. No login and no token: a delivery
//! proves itself by its signature, on the raw bytes.

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};

use super::{Intake, intake};
use crate::app::App;

/// Stripe's events are a few kilobytes; a subscription with everything expanded stays far below this.
const MAX_BODY: usize = 1024 * 1024;

/// The routes; nothing is put around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/webhooks/stripe", post(receive)).layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn receive(State(app): State<App>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    let (word, status) = match intake(&app, &body, signature).await {
        Ok(Intake::Stored) => ("stored", StatusCode::OK),
        Ok(Intake::Known) => ("known", StatusCode::OK),
        // Counted, never stored: thousands of forged posts must not fill a table.
        Ok(Intake::Forged) => ("forged", StatusCode::BAD_REQUEST),
        Ok(Intake::Stale) => ("stale", StatusCode::BAD_REQUEST),
        Err(error) => {
            tracing::error!(error = %error, "a webhook could not be stored; Stripe delivers it again");
            ("unavailable", StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    metrics::counter!("ez_billing_webhooks_total", "outcome" => word).increment(1);
    status
}

//! `POST /webhooks/stripe`: a reviewed exception from the router's defaults. No login and no token: a delivery
//! proves itself by its signature, on the raw bytes. Genuine deliveries have no rate limit, however many come at
//! once; who sends forged ones is told to stop. Body limit, time-out and the catcher of panics are as anywhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest as _, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use ez_protocol::UnixMillis;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use super::{Intake, intake};
use crate::{
    app::App,
    web::{self, Ask, Limits},
};

/// Stripe's events are a few kilobytes; a subscription with everything expanded stays far below this.
const MAX_BODY: usize = 1024 * 1024;
/// How long a delivery may take, its body's arrival included. Stripe itself gives up after about as long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Refused deliveries are told in the log at most this often, by kind.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The routes; nothing is put around them.
pub(crate) fn routes(app: &App) -> Router<App> {
    routes_with(app, PATIENCE)
}

fn routes_with(app: &App, patience: Duration) -> Router<App> {
    Router::new()
        .route("/webhooks/stripe", post(receive))
        .layer(Extension(Arc::new(Limits::of(app))))
        .layer(Extension(Arc::new(Told::default())))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience))
}

/// Deliveries that were refused, as they are told: anybody can send them, so a line is written once a minute.
#[derive(Debug, Default)]
struct Told(Mutex<BTreeMap<&'static str, (Option<UnixMillis>, u64)>>);

impl Told {
    /// Counts one; gives how many there were since the last line, if another is due.
    fn one_more(&self, word: &'static str, at: UnixMillis) -> Option<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, many) = known.entry(word).or_default();
        *many += 1;
        if last.is_some_and(|last| at.since(last) < TOLD_EVERY) {
            return None;
        }
        *last = Some(at);
        Some(std::mem::take(many))
    }
}

async fn receive(
    State(app): State<App>,
    Extension(limits): Extension<Arc<Limits>>,
    Extension(told): Extension<Arc<Told>>,
    request: Request,
) -> Response {
    let caller = web::caller_of(&request, &app.config.http.trusted_proxies);
    let signature = request.headers().get("stripe-signature").cloned();
    let body = match Bytes::from_request(request, &app).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    let signature = signature.as_ref().and_then(|value| value.to_str().ok());
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
    if status == StatusCode::BAD_REQUEST
        && let Some(deliveries) = told.one_more(word, app.clock.now())
    {
        if word == "stale" {
            tracing::error!(
                deliveries,
                "correctly signed webhooks are more than 300 s off: is this machine's clock right?"
            );
        } else {
            tracing::warn!(
                deliveries,
                %caller,
                "webhooks are not signed with our secret: refused. If they come from Stripe, compare STRIPE_WEBHOOK_SECRETS with its dashboard"
            );
        }
    }
    if status == StatusCode::BAD_REQUEST
        && let Err(wait) = limits.take(Ask::Forgery, caller, app.clock.now())
    {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, HeaderValue::from(wait))])
            .into_response();
    }
    status.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{app::Services, billing::stripe::testing::sign, clock::ManualClock, db::testing::sqlite};

    fn delivery(body: Body, signature: &str) -> Request {
        Request::post("/webhooks/stripe").header("stripe-signature", signature).body(body).unwrap()
    }

    #[tokio::test]
    async fn forgers_are_slowed_down_and_stripe_is_not() {
        let (db, _directory) = sqlite().await;
        let clock = Arc::new(ManualClock::at(UnixMillis(1_790_000_000_000)));
        let app = Services::for_tests(db, clock);
        let router = routes(&app).with_state(app.clone());
        let secret = app.config.stripe.webhook_secrets[0].expose().to_owned();
        let mut told = Vec::new();
        for _ in 0..70 {
            let forged = delivery(Body::from("{}"), "t=1,v1=00");
            told.push(router.clone().oneshot(forged).await.unwrap().status().as_u16());
        }
        assert_eq!((told.iter().filter(|status| **status == 400).count(), told[69]), (60, 429));
        for n in 0..100 {
            let body = format!(r#"{{"id":"evt_{n}","object":"event","type":"ping","data":{{}}}}"#);
            let signature = sign(&body, &secret, app.clock.now());
            let answer = router.clone().oneshot(delivery(Body::from(body), &signature)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "from the same address");
        }
    }

    #[test]
    fn what_is_refused_is_told_once_a_minute_with_how_often_it_came() {
        let told = Told::default();
        let at = |seconds: i64| UnixMillis::from_secs(1_790_000_000 + seconds);
        let lines: Vec<_> = (0..130).filter_map(|second| told.one_more("forged", at(second))).collect();
        assert_eq!(lines, [1, 60, 60]);
        assert_eq!(told.one_more("stale", at(130)), Some(1), "each kind by itself");
    }

    #[tokio::test]
    async fn a_delivery_whose_body_does_not_come_is_given_up() {
        let (db, _directory) = sqlite().await;
        let app = Services::for_tests(db, Arc::new(ManualClock::at(UnixMillis(1_790_000_000_000))));
        let router = routes_with(&app, Duration::from_millis(50)).with_state(app.clone());
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let answer = router.oneshot(delivery(never, "t=1,v1=00")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    }
}

//! The operator's side, `/_sim/…`: turn the clock, look inside, repeat, hold back and spoil webhooks.
//!
//! Plain JSON over plain HTTP on an address of its own; nothing of the product ever calls it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    cards::Card,
    checkout::{self, Entry, Outcome},
    deliver, disputes, endpoints,
    engine::{ClockMode, Engine, StoreError},
    events,
    fault::Fault,
    inject::{Injector, Manner, Spoil},
    invoices,
    journal::Journal,
    ledger, refunds,
    world::{Asker, World, public, text},
};

mod dashboard;
mod faults;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) engine: Engine,
    pub(crate) journal: Arc<Journal>,
    pub(crate) client: reqwest::Client,
    pub(crate) injector: Arc<Injector>,
}

/// The control API's routes.
pub(crate) fn router(operator: Operator) -> Router {
    Router::new()
        .route("/_sim/clock", get(clock))
        .route("/_sim/clock/advance", post(advance))
        .route("/_sim/events", get(list_events))
        .route("/_sim/events/{id}/redeliver", post(redeliver))
        .route("/_sim/webhooks", get(webhooks))
        .route("/_sim/webhooks/pause", post(pause))
        .route("/_sim/webhooks/resume", post(resume))
        .route("/_sim/webhooks/roll", post(roll))
        .route("/_sim/sessions", get(sessions))
        .route("/_sim/sessions/{id}/complete", post(complete))
        .route("/_sim/subscriptions", get(subscriptions))
        .route("/_sim/ledger", get(accounts))
        .route("/_sim/policy", post(policy))
        .route("/_sim/invoices/{id}/pay", post(pay_invoice))
        .route("/_sim/inject/bad_signature", post(bad_signature))
        .route("/_sim/inject/unknown_type", post(unknown_type))
        .route("/_sim/refunds/{id}/fail", post(fail_refund))
        .route("/_sim/disputes", post(dispute))
        .route("/_sim/disputes/{id}/close", post(close_dispute))
        .merge(dashboard::routes())
        .merge(faults::routes())
        .with_state(operator)
}

/// A refusal of the control API: `{"error": "…"}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(
            StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST),
            fault.message().to_owned(),
        )
    }
}

type Answer = Result<Json<Value>, Refusal>;

async fn clock(State(operator): State<Operator>) -> Answer {
    let (now_ms, mode) = operator.engine.clock().await;
    let frozen = matches!(mode, ClockMode::Frozen(_));
    Ok(Json(
        json!({ "now": now_ms.div_euclid(1_000), "now_ms": now_ms, "frozen": frozen, "ahead_seconds": now_ms.div_euclid(1_000) - operator.engine.wall_secs() }),
    ))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    /// Seconds from now …
    seconds: Option<i64>,
    /// … or a time in seconds since 1970.
    to: Option<i64>,
    /// Whether the clock stands still afterwards; as before if absent.
    frozen: Option<bool>,
}

async fn advance(State(operator): State<Operator>, Json(wanted): Json<Advance>) -> Answer {
    let (now_ms, mode) = operator.engine.clock().await;
    let to_ms = match (wanted.seconds, wanted.to) {
        (Some(seconds), None) if seconds >= 0 => now_ms + seconds * 1_000,
        (None, Some(to)) if to * 1_000 >= now_ms => to * 1_000,
        (None, None) => now_ms,
        _ => {
            return Err(Refusal(
                StatusCode::BAD_REQUEST,
                "give `seconds` or `to`; the clock never goes back".into(),
            ));
        }
    };
    let frozen = wanted.frozen.unwrap_or(matches!(mode, ClockMode::Frozen(_)));
    operator.engine.set_clock(to_ms, frozen).await?;
    clock(State(operator)).await
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<usize>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

async fn list_events(State(operator): State<Operator>, Query(page): Query<Page>) -> Answer {
    let work = move |world: &mut World| {
        let wanted = |event: &&Value| page.kind.as_deref().is_none_or(|kind| text(event, "type") == kind);
        world
            .all("event")
            .into_iter()
            .filter(wanted)
            .take(page.limit.unwrap_or(100))
            .map(public)
            .collect::<Vec<_>>()
    };
    Ok(Json(json!({ "data": operator.engine.run(Asker::default(), work).await? })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redeliver {
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    parallel: bool,
}

fn once() -> usize {
    1
}

async fn redeliver(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<Redeliver>,
) -> Answer {
    let times = wanted.times.min(1_000);
    let done = deliver::redeliver(
        &operator.client,
        &operator.engine,
        &operator.journal,
        &id,
        times,
        wanted.parallel,
    )
    .await?;
    done.map(|statuses| Json(json!({ "statuses": statuses })))
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("no event {id}")))
}

async fn webhooks(State(operator): State<Operator>) -> Answer {
    let work = |world: &mut World| {
        let pending: Vec<Value> = world.all("_delivery").into_iter().cloned().collect();
        json!({ "paused": deliver::is_paused(world), "undelivered": pending })
    };
    Ok(Json(operator.engine.run(Asker::default(), work).await?))
}

async fn set_paused(operator: Operator, paused: bool) -> Answer {
    let put = move |world: &mut World| world.put("_meta", json!({ "id": "meta_webhooks", "paused": paused }));
    operator.engine.run(Asker::default(), put).await?;
    operator.engine.wake.notify_one();
    Ok(Json(json!({ "paused": paused })))
}

async fn pause(State(operator): State<Operator>) -> Answer {
    set_paused(operator, true).await
}

async fn resume(State(operator): State<Operator>) -> Answer {
    set_paused(operator, false).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Roll {
    /// The endpoint; the configured one if absent.
    endpoint: Option<String>,
    /// The new secret; made up if absent.
    secret: Option<String>,
    /// How long the old one stays good, in seconds of this clock.
    #[serde(default = "a_day")]
    old_for_seconds: i64,
}

fn a_day() -> i64 {
    86_400
}

async fn roll(State(operator): State<Operator>, Json(wanted): Json<Roll>) -> Answer {
    let work = move |world: &mut World| {
        let id = wanted.endpoint.unwrap_or_else(|| endpoints::CONFIGURED.into());
        world.need("webhook_endpoint", &id, "id")?;
        let secret = wanted.secret.unwrap_or_else(|| world.new_id("whsec_", 32));
        endpoints::roll(world, &id, &secret, wanted.old_for_seconds);
        Ok::<_, Fault>(json!({ "endpoint": id, "secret": secret }))
    };
    Ok(Json(operator.engine.attempt(Asker::default(), work).await??))
}

async fn sessions(State(operator): State<Operator>, Query(page): Query<Page>) -> Answer {
    all(operator, "checkout.session", page).await
}

async fn subscriptions(State(operator): State<Operator>, Query(page): Query<Page>) -> Answer {
    all(operator, "subscription", page).await
}

async fn all(operator: Operator, kind: &'static str, page: Page) -> Answer {
    let limit = page.limit.unwrap_or(usize::MAX);
    let work =
        move |world: &mut World| world.all(kind).into_iter().take(limit).map(public).collect::<Vec<_>>();
    Ok(Json(json!({ "data": operator.engine.run(Asker::default(), work).await? })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Complete {
    /// Number or last four digits of a test card; the good one if absent.
    #[serde(default)]
    card: Option<String>,
    email: Option<String>,
    name: Option<String>,
    /// Whether a 3-D Secure step succeeds.
    #[serde(default = "yes")]
    authenticate: bool,
    /// Two letters; taxes are worked out for it.
    country: Option<String>,
    /// A tax id, where the page asks for one.
    tax_id: Option<String>,
    /// A promotion code.
    code: Option<String>,
}

fn yes() -> bool {
    true
}

async fn complete(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<Complete>,
) -> Answer {
    let card = Card::parse(wanted.card.as_deref().unwrap_or("4242"))
        .ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "no such test card".into()))?;
    let entry = Entry {
        card,
        email: wanted.email,
        name: wanted.name,
        authenticated: wanted.authenticate,
        country: wanted.country,
        tax_id: wanted.tax_id,
        code: wanted.code,
    };
    let session = id.clone();
    let outcome = operator
        .engine
        .attempt(Asker::default(), move |world| checkout::pay(world, &session, &entry))
        .await??;
    let (result, url) = match outcome {
        Outcome::Paid(url) => ("paid", Some(url)),
        Outcome::Declined => ("declined", None),
        Outcome::Authenticate => ("requires_action", None),
    };
    Ok(Json(json!({ "result": result, "redirect": url })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// What becomes of a subscription after the last try: `cancel`, `unpaid` or `past_due`.
    after_retries: String,
}

/// The settings of Stripe's dashboard that decide what happens to what is unpaid.
async fn policy(State(operator): State<Operator>, Json(wanted): Json<Policy>) -> Answer {
    if !["cancel", "unpaid", "past_due"].contains(&wanted.after_retries.as_str()) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "after_retries is cancel, unpaid or past_due".into()));
    }
    let word = wanted.after_retries.clone();
    let put =
        move |world: &mut World| world.put("_meta", json!({ "id": "meta_policy", "after_retries": word }));
    operator.engine.run(Asker::default(), put).await?;
    Ok(Json(json!({ "after_retries": wanted.after_retries })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayInvoice {
    /// Number or last four digits of a test card; the good one if absent.
    #[serde(default)]
    card: Option<String>,
}

/// The customer pays an open invoice on its own page.
async fn pay_invoice(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<PayInvoice>,
) -> Answer {
    let card = Card::parse(wanted.card.as_deref().unwrap_or("4242"))
        .ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "no such test card".into()))?;
    let work = move |world: &mut World| invoices::pay_on_its_page(world, &id, card);
    let paid = operator.engine.attempt(Asker::default(), work).await??;
    Ok(Json(json!({ "paid": paid })))
}

async fn accounts(State(operator): State<Operator>) -> Answer {
    Ok(Json(operator.engine.run(Asker::default(), |world| ledger::of(world)).await?))
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    event: Option<String>,
}

/// Posts an event (the newest, if none is named) with a signature made with a wrong secret.
async fn bad_signature(State(operator): State<Operator>, Json(which): Json<Which>) -> Answer {
    let work = move |world: &mut World| {
        let newest = world.all("event").first().map(|event| text(event, "id").to_owned());
        let id = which.event.or(newest)?;
        deliver::post(world, &id, endpoints::CONFIGURED)
    };
    let post = operator
        .engine
        .run(Asker::default(), work)
        .await?
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "no such event".into()))?;
    let manner = Manner { words: vec!["bad_signature"], spoil: Some(Spoil::Bad), ..Manner::default() };
    let status = deliver::send(&operator.client, &operator.engine, &operator.journal, &post, &manner).await;
    Ok(Json(json!({ "status": status })))
}

/// Makes and delivers an event of a type nobody knows.
async fn unknown_type(State(operator): State<Operator>) -> Answer {
    let work = |world: &mut World| {
        let id = world.new_id("thing_", 14);
        let thing = json!({ "id": id, "object": "thing", "created": world.now });
        events::emit(world, "thing.happened", &thing, None)
    };
    Ok(Json(json!({ "event": operator.engine.run(Asker::default(), work).await? })))
}

async fn fail_refund(State(operator): State<Operator>, Path(id): Path<String>) -> Answer {
    Ok(Json(operator.engine.attempt(Asker::default(), move |world| refunds::fail(world, &id)).await??))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dispute {
    charge: Option<String>,
    payment_intent: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

async fn dispute(State(operator): State<Operator>, Json(wanted): Json<Dispute>) -> Answer {
    let work = move |world: &mut World| {
        let of_intent = wanted
            .payment_intent
            .as_deref()
            .and_then(|id| world.get("payment_intent", id))
            .map(|intent| text(intent, "latest_charge").to_owned());
        let charge = wanted.charge.or(of_intent).ok_or_else(|| Fault::missing("charge"))?;
        disputes::open(world, &charge, wanted.reason.as_deref().unwrap_or("fraudulent"))
    };
    Ok(Json(operator.engine.attempt(Asker::default(), work).await??))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    won: bool,
}

async fn close_dispute(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<Close>,
) -> Answer {
    Ok(Json(
        operator
            .engine
            .attempt(Asker::default(), move |world| disputes::close(world, &id, wanted.won))
            .await??,
    ))
}

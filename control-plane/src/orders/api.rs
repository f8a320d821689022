//! `/api/v1/orders`: buying a server.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use ez_protocol::{
    InstanceId, OrderId,
    input::{Hostname, SshPublicKey},
};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use super::{
    Order, OrderState, PlaceError, PlaceRequest, Setup, cancel as cancel_order, list as list_of, owned, pay,
    place,
    timeline::{self, Timeline},
    user_data,
};
use crate::{
    accounts::{self, ApiCaller, TERMS_VERSION},
    api::{self, Caller, FieldProblem, Input, Keyed, Named, Page, Problem},
    app::App,
    billing,
    catalog::{Interval, QuoteError},
    dispatch::QueueView,
    instances::{self, Progress},
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/orders", get(list).post(create))
        .route("/orders/{id}", get(show))
        .route("/orders/{id}/checkout", post(checkout))
        .route("/orders/{id}/cancel", post(cancel))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(list, create, show, checkout, cancel),
        components(schemas(OrderBody, OrderStep, NewOrder))
    )]
    struct Docs;
    Docs::openapi()
}

/// What is ordered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    /// Code of a location.
    location: String,
    /// Code of a plan.
    plan: String,
    /// Code of an image.
    image: String,
    /// `month` (if not given), `quarter` or `year`.
    #[serde(default)]
    interval: Option<String>,
    /// Lower-case ISO code of one of the plan's prices; the account's, or the first one's, if not given.
    #[serde(default)]
    currency: Option<String>,
    /// Name of the server; one is made up if it is not given.
    #[serde(default)]
    hostname: Option<String>,
    /// Ids of stored SSH keys, or public keys as lines; at least one.
    ssh_keys: Vec<String>,
    /// What is set up at the first boot: names from the image's `recipes`.
    #[serde(default)]
    recipes: Vec<String>,
    /// Such as `en_US.UTF-8`; the image's own if not given.
    #[serde(default)]
    locale: Option<String>,
    /// Such as `Europe/Berlin`; UTC if not given.
    #[serde(default)]
    timezone: Option<String>,
    /// Your own part of cloud-init, at most 16 KiB: begins with `#cloud-config`, `#!` or `## template: jinja`. It runs at the first
    /// boot, and again when the server is rebuilt.
    #[serde(default)]
    user_data: Option<String>,
    /// That you accept the terms; without it there is no contract.
    accept_terms: bool,
    /// Version of the terms you read; the current one if not given.
    #[serde(default)]
    terms_version: Option<String>,
}

/// What is asked of somebody's own part of cloud-init.
const USER_DATA_WANTED: &str =
    "It has to begin with #cloud-config, #! or ## template: jinja, and be at most 16 KiB.";

/// One step of an order.
#[derive(Debug, Serialize, ToSchema)]
struct OrderStep {
    name: String,
    /// `waiting`, `running`, `done`, `failed` or `skipped`.
    status: &'static str,
    /// When it ended, or began if it has not ended; UTC milliseconds.
    at: Option<i64>,
    /// Where it waits for its turn on its node; null when it does not.
    queue: Option<QueueView>,
}

/// An order.
#[derive(Debug, Serialize, ToSchema)]
struct OrderBody {
    id: String,
    /// `awaiting_payment`, `paid`, `provisioning`, `fulfilled`, `cancelled`, `expired`, `needs_operator`, `refunding` or
    /// `refunded`.
    state: &'static str,
    /// Why it stands there, where that needs saying.
    reason: Option<String>,
    server_id: String,
    hostname: String,
    plan: String,
    image: String,
    location: String,
    interval: String,
    currency: String,
    /// Minor units per interval.
    amount_minor: i64,
    /// Paid once, with the first payment; minor units.
    setup_minor: i64,
    /// Days before the first interval is paid.
    trial_days: u32,
    /// Due at the purchase, before discounts and taxes; minor units.
    due_today_minor: i64,
    /// Paid at the purchase, after discounts and with taxes; minor units.
    paid_minor: Option<i64>,
    /// Where to pay; absent when there is nothing to pay, or when the payment service did not answer (then ask
    /// `POST /orders/{id}/checkout`).
    checkout_url: Option<String>,
    /// How long the place is held for the payment.
    reserved_until: i64,
    placed_at: i64,
    paid_at: Option<i64>,
    fulfilled_at: Option<i64>,
    steps: Vec<OrderStep>,
}

async fn body(
    connection: &mut AnyConnection,
    order: Order,
    checkout_url: Option<String>,
) -> Result<OrderBody, Problem> {
    let instance = instances::get(connection, order.instance).await?.ok_or_else(Problem::not_found)?;
    let told = timeline::tell(connection, &order, &instance).await?;
    let url = payment_page(connection, &order, checkout_url).await?;
    Ok(compose(order, told, url))
}

/// Where an order that is unpaid is paid; only such a one is asked about.
async fn payment_page(
    connection: &mut AnyConnection,
    order: &Order,
    opened: Option<String>,
) -> Result<Option<String>, Problem> {
    if order.state != OrderState::AwaitingPayment || opened.is_some() {
        return Ok(opened.filter(|_| order.state == OrderState::AwaitingPayment));
    }
    Ok(billing::checkout_of(connection, order.id).await?.and_then(|checkout| checkout.url))
}

fn compose(order: Order, told: Timeline, checkout_url: Option<String>) -> OrderBody {
    let due_today = order.due_today();
    OrderBody {
        id: order.id.to_string(),
        state: order.state.as_str(),
        reason: order.reason,
        server_id: order.instance.to_string(),
        hostname: order.hostname,
        plan: order.plan_code,
        image: order.image_code,
        location: order.location,
        interval: order.interval.to_string(),
        setup_minor: order.setup_minor,
        trial_days: order.trial_days,
        due_today_minor: due_today,
        paid_minor: order.paid_minor,
        currency: order.currency,
        amount_minor: order.amount_minor,
        checkout_url,
        reserved_until: order.reserved_until.0,
        placed_at: order.placed_at.0,
        paid_at: order.paid_at.map(|at| at.0),
        fulfilled_at: order.fulfilled_at.map(|at| at.0),
        steps: told
            .steps
            .into_iter()
            .map(|step| OrderStep {
                name: step.name,
                status: match step.progress {
                    Progress::Waiting => "waiting",
                    Progress::Now => "running",
                    Progress::Done => "done",
                    Progress::Failed => "failed",
                    Progress::Skipped => "skipped",
                },
                at: step.ended_at.or(step.started_at).map(|at| at.0),
                queue: step.queue,
            })
            .collect(),
    }
}

async fn mine(connection: &mut AnyConnection, caller: &ApiCaller, id: &str) -> Result<Order, Problem> {
    let id: OrderId = id.parse().map_err(|_| Problem::not_found())?;
    owned(connection, caller.principal.account_id, id).await?.ok_or_else(Problem::not_found)
}

/// Lists the account's orders, newest first.
#[utoipa::path(get, path = "/api/v1/orders", tag = "orders",
    responses((status = 200, body = Page<OrderBody>), (status = 401, body = Problem)))]
async fn list(Caller(caller): Caller, State(app): State<App>) -> Result<Json<Page<OrderBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let listed = list_of(&mut connection, caller.principal.account_id).await?;
    // As few statements as the list allows: servers and what their nodes said are read for all orders at once.
    let ids: Vec<InstanceId> = listed.iter().map(|order| order.instance).collect();
    let servers = instances::get_all(&mut connection, &ids).await?;
    let newest: Vec<_> = servers.values().filter_map(|server| server.provisioning_order).collect();
    let mut stories = instances::progress_of_all(&mut connection, &newest).await?;
    let mut data = Vec::with_capacity(listed.len());
    for order in listed {
        let server = servers.get(&order.instance).ok_or_else(Problem::not_found)?;
        let story = server.provisioning_order.and_then(|id| stories.remove(&id));
        let told = timeline::from_told(&order, server, story);
        // Of an account three orders at most are unpaid.
        let url = payment_page(&mut connection, &order, None).await?;
        data.push(compose(order, told, url));
    }
    Ok(Json(Page::whole(data)))
}

/// Orders a server. Its place is held while it is unpaid; a sold-out location is refused here. The user's mail
/// address must be confirmed (`email_unverified` otherwise).
#[utoipa::path(post, path = "/api/v1/orders", tag = "orders", request_body = NewOrder,
    responses((status = 201, body = OrderBody), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn create(
    Caller(caller): Caller,
    State(app): State<App>,
    Keyed(claim): Keyed,
    Input(new): Input<NewOrder>,
) -> Result<(StatusCode, Json<OrderBody>), Problem> {
    let order = match claim.as_ref().and_then(api::Claim::made::<OrderId>) {
        // An earlier request with this key placed it and was cut off before it could say so.
        Some(placed) => {
            let mut connection = app.db.read().await?;
            owned(&mut connection, caller.principal.account_id, placed)
                .await?
                .ok_or_else(Problem::not_found)?
        }
        None => {
            let request = PlaceRequest { claim, ..read(&app, &caller, new).await? };
            place(&app, request).await.map_err(refusal)?
        }
    };
    let url = match pay(&app, &order).await {
        Ok(url) => Some(url),
        Err(error) => {
            tracing::warn!(order.id = %order.id, error = %error, "no payment page yet");
            None
        }
    };
    let mut connection = app.db.read().await?;
    Ok((StatusCode::CREATED, Json(body(&mut connection, order, url).await?)))
}

/// Validates everything at once, so that one answer names all that is wrong.
async fn read(app: &App, caller: &ApiCaller, new: NewOrder) -> Result<PlaceRequest, Problem> {
    let me = &caller.principal;
    let mut wrong = Vec::new();
    let mut refuse = |field: &str, code: &str, message: String| {
        wrong.push(FieldProblem { field: field.to_owned(), code: code.to_owned(), message });
    };
    let (stored, suggested) = {
        let mut connection = app.db.read().await?;
        // As in the portal, where nobody logs in before: what we write about the order must reach its buyer.
        if !accounts::is_verified(&mut connection, me).await? {
            let detail = "Nothing was ordered. Your mail address is not confirmed; log in to the portal once, which sends \
                          the link anew, and follow it.";
            return Err(Problem::new(StatusCode::FORBIDDEN, "email_unverified", detail));
        }
        let stored = accounts::ssh_keys(&mut connection, me.account_id).await?;
        (stored, instances::suggest_name(&mut connection, me.account_id).await?)
    };
    let hostname = Hostname::parse(new.hostname.as_deref().unwrap_or(&suggested));
    if let Err(error) = &hostname {
        refuse("hostname", "hostname_invalid", error.to_string());
    }
    let interval = new.interval.as_deref().unwrap_or("month").parse::<Interval>();
    if interval.is_err() {
        refuse("interval", "interval_unknown", "month, quarter or year".to_owned());
    }
    let mut keys = Vec::new();
    for given in &new.ssh_keys {
        if let Some(key) = stored.iter().find(|key| key.id.to_string() == *given) {
            keys.push(key.key.clone());
            continue;
        }
        match SshPublicKey::parse(given) {
            Ok(key) => keys.push(key),
            Err(error) => refuse("ssh_keys", "ssh_key_invalid", error.to_string()),
        }
    }
    if new.ssh_keys.is_empty() {
        refuse("ssh_keys", "ssh_key_needed", "At least one key, or nobody can log in.".to_owned());
    }
    let mut setup = Setup::default();
    for given in &new.recipes {
        match given.parse() {
            Ok(recipe) => setup.recipes.push(recipe),
            Err(error) => refuse("recipes", "recipe_unknown", format!("{given}: {error}")),
        }
    }
    match new.locale.as_deref().map(str::parse).transpose() {
        Ok(locale) => setup.locale = locale,
        Err(error) => refuse("locale", "locale_invalid", format!("This is {error}.")),
    }
    match new.timezone.as_deref().map(str::parse).transpose() {
        Ok(timezone) => setup.timezone = timezone,
        Err(error) => refuse("timezone", "timezone_invalid", format!("This is {error}.")),
    }
    match user_data(new.user_data.as_deref().unwrap_or_default()) {
        Some(own) => setup.user_data = own,
        None => refuse("user_data", "user_data_invalid", USER_DATA_WANTED.to_owned()),
    }
    let terms = new.terms_version.unwrap_or_else(|| TERMS_VERSION.to_owned());
    if !new.accept_terms {
        refuse("accept_terms", "terms_not_accepted", "Ordering needs the terms to be accepted.".to_owned());
    }
    if terms != TERMS_VERSION {
        refuse("terms_version", "terms_outdated", format!("The current terms are {TERMS_VERSION}."));
    }
    let (Ok(hostname), Ok(interval), true) = (hostname, interval, wrong.is_empty()) else {
        return Err(Problem::fields(wrong));
    };
    Ok(PlaceRequest {
        account: me.account_id,
        user: me.user_id,
        email: me.email.clone(),
        location: new.location,
        plan: new.plan,
        interval,
        image: new.image,
        hostname,
        ssh_keys: keys,
        setup,
        terms_version: terms,
        currency: new.currency,
        quoted_minor: None,
        quoted_then: None,
        again_of: None,
        claim: None,
    })
}

fn refusal(error: PlaceError) -> Problem {
    use crate::placement::NoPlace;
    let text = error.to_string();
    match error {
        PlaceError::Quote(QuoteError::UnknownPlan) => Problem::field("plan", "plan_unknown", text),
        PlaceError::Quote(QuoteError::UnknownImage) => Problem::field("image", "image_unknown", text),
        PlaceError::Quote(QuoteError::NoPrice) => Problem::field("interval", "interval_unknown", text),
        PlaceError::NoPlace(NoPlace::UnknownLocation) => Problem::field("location", "location_unknown", text),
        PlaceError::NoPlace(_) => Problem::conflict("sold_out", text),
        PlaceError::Recipe(_) => Problem::field("recipes", "recipe_unknown", text),
        PlaceError::NoKey => Problem::field("ssh_keys", "ssh_key_needed", text),
        PlaceError::TooManyKeys(_) => Problem::field("ssh_keys", "ssh_keys_many", text),
        PlaceError::TooManyUnpaid => Problem::conflict("too_many_unpaid", text),
        PlaceError::Disputed => Problem::conflict("payment_disputed", text),
        PlaceError::QuoteChanged(_) => Problem::conflict("price_changed", text),
        PlaceError::OtherCurrency(_) => Problem::field("currency", "currency_bound", text),
        PlaceError::NotPayable(_) => Problem::conflict("not_payable", text),
        PlaceError::Quote(QuoteError::Read(error)) | PlaceError::Db(error) => error.into(),
    }
}

/// Shows an order with its steps. While it is unpaid, Stripe is asked, as on the page a customer comes back to.
#[utoipa::path(get, path = "/api/v1/orders/{id}", tag = "orders", params(("id" = String, Path)),
    responses((status = 200, body = OrderBody), (status = 404, body = Problem)))]
async fn show(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<OrderBody>, Problem> {
    let order = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?
    };
    super::look_at_payment(&app, &order).await;
    let mut connection = app.db.read().await?;
    let order = mine(&mut connection, &caller, &id).await?;
    Ok(Json(body(&mut connection, order, None).await?))
}

/// Gives the payment page of an unpaid order again.
#[utoipa::path(post, path = "/api/v1/orders/{id}/checkout", tag = "orders", params(("id" = String, Path)),
    responses((status = 200, body = OrderBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn checkout(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<OrderBody>, Problem> {
    let order = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?
    };
    let url = pay(&app, &order).await.map_err(|error| {
        if error.is_retryable() {
            Problem::payments_away()
        } else {
            Problem::conflict("nothing_to_pay", error.to_string())
        }
    })?;
    let mut connection = app.db.read().await?;
    Ok(Json(body(&mut connection, order, Some(url)).await?))
}

/// Cancels an unpaid order and gives its place back.
#[utoipa::path(post, path = "/api/v1/orders/{id}/cancel", tag = "orders", params(("id" = String, Path)),
    responses((status = 200, body = OrderBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn cancel(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<OrderBody>, Problem> {
    let order = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?
    };
    match order.state {
        OrderState::Cancelled => {}
        OrderState::AwaitingPayment => match cancel_order(&app, &order).await {
            Ok(true) => {}
            Ok(false) => return Err(Problem::conflict("paid_already", "A payment was quicker.")),
            Err(error) if error.is_retryable() => return Err(Problem::payments_away()),
            Err(error) => return Err(Problem::internal(&error)),
        },
        other => {
            return Err(Problem::conflict(
                "wrong_state",
                format!("An order that is {other} cannot be cancelled."),
            ));
        }
    }
    let mut connection = app.db.read().await?;
    let order = owned(&mut connection, order.account, order.id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(body(&mut connection, order, None).await?))
}

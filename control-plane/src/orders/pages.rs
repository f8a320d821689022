//! The pages of this slice: create a server, the order's timeline.

use axum::{
    Router,
    extract::{OriginalUri, Path, State},
    routing::{get, post},
};
use ez_protocol::{
    OrderId,
    input::{Hostname, MAX_SSH_KEYS, SshPublicKey},
};
use http::StatusCode;

use super::{
    MAX_USER_DATA, Order, OrderState, PlaceError, PlaceRequest, Setup, again::again, cancel, owned, pay,
    place, shop, show, user_data,
};
use crate::{
    accounts::{self, Principal, TERMS_VERSION},
    app::App,
    billing::BillingError,
    catalog::{Interval, QuoteError},
    entropy::EntropyExt as _,
    placement::NoPlace,
    web::{
        self, Ctx, Customer, Error, Submission, Tone,
        forms::{FormState, hostname_code, ssh_key_code},
    },
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/new", get(new).post(create))
        .route("/orders/{id}", get(timeline))
        .route("/orders/{id}/changes", get(changes))
        .route("/orders/{id}/pay", post(pay_now))
        .route("/orders/{id}/cancel", post(cancel_now))
        .route("/orders/{id}/again", post(again_now))
}

async fn new(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
) -> web::Result {
    // Links from the plan table choose by query, as the form does by body.
    let chosen = Submission::parse(uri.query().unwrap_or_default().as_bytes());
    let mut connection = app.db.read().await?;
    let page = shop::page(
        &mut connection,
        ctx.now(),
        &me,
        &chosen,
        (FormState::default(), app.config.stripe.tax),
        true,
    )
    .await?;
    ctx.page(&page)
}

async fn create(ctx: Ctx, Customer(me): Customer, State(app): State<App>, sent: Submission) -> web::Result {
    let mut form = sent.state();
    let Some(request) = read(&app, &me, &sent, &mut form).await? else {
        return refuse(&ctx, &app, &me, &sent, form).await;
    };
    let order = match place(&app, request).await {
        Ok(order) => order,
        Err(PlaceError::Db(error)) => return Err(error.into()),
        Err(refused) => {
            explain(&app, &sent, &refused, &mut form).await?;
            return refuse(&ctx, &app, &me, &sent, form).await;
        }
    };
    match pay(&app, &order).await {
        Ok(url) => Ok(web::redirect(&url)),
        // The place is held; the order's page offers to pay as soon as Stripe answers again.
        Err(error) => {
            tracing::warn!(order.id = %order.id, error = %error, "no payment page yet");
            ctx.redirect(&format!("/orders/{}", order.id))
        }
    }
}

/// Reads and validates the form; `None` when something was refused.
async fn read(
    app: &App,
    me: &Principal,
    sent: &Submission,
    form: &mut FormState,
) -> Result<Option<PlaceRequest>, Error> {
    let hostname = Hostname::parse(sent.text("hostname"));
    if let Err(error) = &hostname {
        form.refuse("hostname", hostname_code(*error));
    }
    let interval = sent.text("interval").parse::<Interval>();
    if interval.is_err() {
        form.refuse("interval", "interval-unknown");
    }
    let recipes: Result<Vec<_>, _> = sent.all("recipe").map(str::parse).collect();
    let recipes = recipes.unwrap_or_else(|_| {
        form.refuse("recipe", "recipe-unknown");
        Vec::new()
    });
    let own = user_data(sent.text("user_data"));
    if own.is_none() {
        form.refuse_with("user_data", "user-data-invalid", MAX_USER_DATA >> 10);
    }
    let keys = keys(app, me, sent, form).await?;
    let terms = sent.text("terms");
    if terms != TERMS_VERSION {
        form.refuse_form("quote-changed");
    }
    let (Ok(hostname), Ok(interval), false) = (hostname, interval, form.is_refused()) else {
        return Ok(None);
    };
    Ok(Some(PlaceRequest {
        account: me.account_id,
        user: me.user_id,
        email: me.email.clone(),
        location: sent.text("location").to_owned(),
        plan: sent.text("plan").to_owned(),
        interval,
        image: sent.text("image").to_owned(),
        hostname,
        ssh_keys: keys,
        setup: Setup { recipes, user_data: own.flatten(), ..Setup::default() },
        terms_version: terms.to_owned(),
        currency: Some(sent.text("currency").to_owned()).filter(|currency| !currency.is_empty()),
        quoted_minor: Some(sent.text("quoted").parse().unwrap_or(0)),
        quoted_then: sent.text("quoted_then").parse().ok(),
        again_of: None,
        claim: None,
    }))
}

/// The chosen keys and the pasted one, which is kept in the account for the next server.
async fn keys(
    app: &App,
    me: &Principal,
    sent: &Submission,
    form: &mut FormState,
) -> Result<Vec<SshPublicKey>, Error> {
    let mut keys = Vec::new();
    {
        let mut connection = app.db.read().await?;
        let stored = accounts::ssh_keys(&mut connection, me.account_id).await?;
        for chosen in sent.all("ssh_key") {
            keys.extend(stored.iter().find(|key| key.id.to_string() == chosen).map(|key| key.key.clone()));
        }
    }
    let pasted = sent.text("new_key");
    if !pasted.is_empty() {
        match SshPublicKey::parse(pasted) {
            Ok(key) if !form.is_refused() => {
                remember(app, me, pasted).await;
                keys.push(key);
            }
            Ok(key) => keys.push(key),
            Err(error) => form.refuse("new_key", ssh_key_code(&error)),
        }
    } else if keys.is_empty() {
        let stored = sent.all("ssh_key").next().is_some();
        form.refuse(if stored { "ssh_key" } else { "new_key" }, "ssh-key-needed");
    }
    if keys.len() > MAX_SSH_KEYS {
        form.refuse_with("ssh_key", "ssh-keys-many", MAX_SSH_KEYS);
    }
    Ok(keys)
}

/// Keeps a pasted key. An account that is full of keys can order with one more all the same.
async fn remember(app: &App, me: &Principal, pasted: &str) {
    let (at, random, who, pasted) = (app.clock.now(), app.entropy.bytes(), me.clone(), pasted.to_owned());
    let kept = app
        .db
        .write(move |tx| {
            Box::pin(async move { accounts::add_ssh_key(tx, at, random, &who, "", &pasted).await })
        })
        .await;
    if let Err(error) = kept {
        tracing::info!(error = %error, "a pasted key was used but not kept");
    }
}

/// Puts a refusal at the field it is about.
async fn explain(
    app: &App,
    sent: &Submission,
    refused: &PlaceError,
    form: &mut FormState,
) -> Result<(), Error> {
    match refused {
        PlaceError::Quote(QuoteError::UnknownPlan) => form.refuse("plan", "plan-unknown"),
        PlaceError::Quote(QuoteError::UnknownImage) => form.refuse("image", "image-unknown"),
        PlaceError::Quote(QuoteError::NoPrice) => form.refuse("interval", "interval-unknown"),
        PlaceError::NoPlace(NoPlace::UnknownLocation) => form.refuse("location", "location-unknown"),
        PlaceError::NoPlace(_) => {
            let mut connection = app.db.read().await?;
            let locations = crate::fleet::locations(&mut connection).await?;
            let code = sent.text("location");
            let name = locations.iter().find(|l| l.code == code).map_or(code, |l| l.name.as_str());
            form.refuse_with("plan", "plan-sold-out", name);
        }
        PlaceError::OtherCurrency(bound) => form.refuse_with("currency", "currency-bound", bound),
        PlaceError::QuoteChanged(_) => form.refuse_form("quote-changed"),
        PlaceError::Recipe(_) => form.refuse("recipe", "recipe-unknown"),
        PlaceError::NoKey => form.refuse("new_key", "ssh-key-needed"),
        PlaceError::TooManyKeys(most) => form.refuse_with("ssh_key", "ssh-keys-many", most),
        PlaceError::TooManyUnpaid => form.refuse_form("too-many-unpaid"),
        PlaceError::Disputed => form.refuse_form("payment-disputed"),
        PlaceError::NotPayable(_) | PlaceError::Quote(QuoteError::Read(_)) | PlaceError::Db(_) => {
            form.refuse_form("payment-away");
        }
    }
    Ok(())
}

async fn refuse(ctx: &Ctx, app: &App, me: &Principal, sent: &Submission, mut form: FormState) -> web::Result {
    if form.refusal.is_none() {
        form.refuse_form("fields");
    }
    let mut connection = app.db.read().await?;
    let page = shop::page(&mut connection, ctx.now(), me, sent, (form, app.config.stripe.tax), false).await?;
    ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
}

/// The order, if it is the customer's.
async fn mine(app: &App, me: &Principal, id: &str) -> Result<Order, Error> {
    let id: OrderId = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    owned(&mut connection, me.account_id, id).await?.ok_or(Error::NotFound)
}

async fn timeline(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let mut order = mine(&app, &me, &id).await?;
    if order.state == OrderState::AwaitingPayment && !ctx.is_fragment() {
        super::look_at_payment(&app, &order).await;
        order = mine(&app, &me, &id).await?;
    }
    let mut connection = app.db.read().await?;
    ctx.page(&show::page(&mut connection, &order).await?)
}

async fn changes(Customer(me): Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let order = mine(&app, &me, &id).await?;
    if order.state.is_closed() {
        return Ok(web::ended());
    }
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            show::mark(&mut connection, order.id).await
        }
    })
}

async fn pay_now(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let order = mine(&app, &me, &id).await?;
    match pay(&app, &order).await {
        Ok(url) => Ok(web::redirect(&url)),
        Err(error) => {
            tracing::info!(order.id = %order.id, error = %error, "no payment page");
            no_page(&ctx, &order, &error)
        }
    }
}

async fn cancel_now(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let order = mine(&app, &me, &id).await?;
    if order.state == OrderState::AwaitingPayment
        && let Err(error) = cancel(&app, &order).await
    {
        tracing::warn!(order.id = %order.id, error = %error, "an order could not be cancelled");
        if error.is_retryable() {
            let page = format!("/orders/{}", order.id);
            return ctx.redirect_saying(&page, Tone::Bad, "order-cancel-later");
        }
    }
    ctx.redirect(&format!("/orders/{}", order.id))
}

/// Orders the same once more and goes to its payment page; what cannot be ordered as it was is chosen anew.
async fn again_now(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let ended = mine(&app, &me, &id).await?;
    let Some(order) = again(&app, &ended, &me).await? else {
        return ctx.redirect_saying(&chosen_anew(&ended), Tone::Info, "order-chosen-anew");
    };
    match pay(&app, &order).await {
        Ok(url) => Ok(web::redirect(&url)),
        Err(error) => {
            tracing::info!(order.id = %order.id, error = %error, "no payment page yet");
            no_page(&ctx, &order, &error)
        }
    }
}

/// Back to the order; its page tells how it stands, and the sentence why nothing can be paid just now.
fn no_page(ctx: &Ctx, order: &Order, error: &BillingError) -> web::Result {
    let page = format!("/orders/{}", order.id);
    if error.is_retryable() {
        ctx.redirect_saying(&page, Tone::Bad, "stripe-away")
    } else {
        ctx.redirect(&page)
    }
}

/// The create page with the choices of an order.
fn chosen_anew(order: &Order) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("plan", &order.plan_code)
        .append_pair("image", &order.image_code)
        .append_pair("location", &order.location)
        .append_pair("interval", order.interval.as_str())
        .append_pair("currency", &order.currency)
        .append_pair("hostname", &order.hostname);
    format!("/servers/new?{}", query.finish())
}

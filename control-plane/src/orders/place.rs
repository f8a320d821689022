//! Placing an order, and what the customer does while it is unpaid.

use ez_protocol::{
    AccountId, InstanceId, OrderId, UserId,
    input::{Hostname, SshPublicKey},
    order::{Locale, Recipe, TimeZone, UserData},
};
use serde_json::json;

use super::{
    buyer::Buyer,
    jobs::ADVANCE,
    model::{Order, OrderState, Transition},
    store,
};
use crate::{
    api,
    app::Services,
    audit,
    billing::{self, BillingError, CheckoutState, Expectation},
    catalog::{self, Interval, QuoteError, QuoteRequest},
    config::Tax,
    db::{self, DbError},
    entropy::EntropyExt as _,
    instances::{self, AssignError, FirstBoot, Instance, InstanceState},
    jobs,
    placement::NoPlace,
};

/// How many unpaid orders an account holds at a time: reservations cost others their place.
pub const MOST_UNPAID: i64 = 3;

/// What a customer orders; every part is validated already.
#[derive(Debug, Clone)]
pub struct PlaceRequest {
    /// Who pays and owns.
    pub account: AccountId,
    /// Who orders.
    pub user: UserId,
    /// Where letters go.
    pub email: String,
    /// Code of the location.
    pub location: String,
    /// Code of the plan.
    pub plan: String,
    /// How often it is charged.
    pub interval: Interval,
    /// Code of the image.
    pub image: String,
    /// Name of the server.
    pub hostname: Hostname,
    /// Keys that may log in; at least one.
    pub ssh_keys: Vec<SshPublicKey>,
    /// What is set up at the first boot.
    pub setup: Setup,
    /// Version of the terms that were accepted.
    pub terms_version: String,
    /// Lower-case ISO code; none takes the account's, or the catalogue's first.
    pub currency: Option<String>,
    /// What the customer was told is due now; another sum is refused.
    pub quoted_minor: Option<i64>,
    /// What the customer was told each interval costs; another price is refused.
    pub quoted_then: Option<i64>,
    /// The order that ended unpaid and is repeated; repeating it twice is once.
    pub again_of: Option<OrderId>,
    /// The idempotency key of the request, if it had one: noted together with the order.
    pub claim: Option<api::Claim>,
}

/// What a customer may choose for the first boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Recipes; the image must offer each.
    pub recipes: Vec<Recipe>,
    /// Language of messages and sorting.
    pub locale: Option<Locale>,
    /// Time zone.
    pub timezone: Option<TimeZone>,
    /// The customer's own part of cloud-init; it runs again when the server is rebuilt.
    pub user_data: Option<UserData>,
}

/// The most that a customer's own part of cloud-init may hold, in bytes.
pub const MAX_USER_DATA: usize = 16 << 10;

/// What a customer typed as their own part of cloud-init; nothing where nothing was typed. It has to say in its first line
/// what it is, as cloud-init demands: `None` if it does not, or is too long.
pub fn user_data(text: &str) -> Option<Option<UserData>> {
    let text = text.replace("\r\n", "\n");
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    let told =
        text.starts_with("#cloud-config") || text.starts_with("#!") || text.starts_with("## template: jinja");
    let fits = told && text.len() <= MAX_USER_DATA;
    fits.then(|| UserData::parse(&format!("{text}\n")).ok()).flatten().map(Some)
}

/// Why an order was not placed. Nothing was written and nothing charged.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Plan, image or price is not on sale.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// The price is not the one the customer saw.
    #[error("the price has changed to {0} (minor units)")]
    QuoteChanged(i64),
    /// The account pays in another currency, and Stripe does not mix them.
    #[error("this account pays in {0}; another currency needs another account")]
    OtherCurrency(String),
    /// The price was never pushed to Stripe.
    #[error("the price {0} cannot be paid yet")]
    NotPayable(String),
    /// No node has room.
    #[error("no place for this server: {0}")]
    NoPlace(NoPlace),
    /// Nobody could log in.
    #[error("at least one SSH key is needed")]
    NoKey,
    /// Too many keys.
    #[error("at most {0} SSH keys")]
    TooManyKeys(usize),
    /// The image does not offer it.
    #[error("{0} cannot be set up on this image")]
    Recipe(Recipe),
    /// Other orders have to be paid or cancelled first.
    #[error("at most {MOST_UNPAID} unpaid orders at a time")]
    TooManyUnpaid,
    /// The account's bank takes a payment back.
    #[error("nothing can be ordered while a payment of this account is disputed at its bank")]
    Disputed,
    /// The database.
    #[error("placing the order")]
    Db(#[from] DbError),
}

impl From<AssignError> for PlaceError {
    fn from(error: AssignError) -> Self {
        match error {
            AssignError::NoPlace(none) => Self::NoPlace(none),
            AssignError::Db(error) => Self::Db(error),
            AssignError::Instance(_) => Self::Db(DbError::NotFound),
        }
    }
}

/// Places an order: order, server, reservation and what is to be paid, in one transaction. The payment page is
/// opened by [`pay`] afterwards.
///
/// # Errors
/// [`PlaceError`]; a sold-out location is said here, before anything is paid.
pub async fn place(app: &Services, request: PlaceRequest) -> Result<Order, PlaceError> {
    if request.ssh_keys.is_empty() {
        return Err(PlaceError::NoKey);
    }
    if request.ssh_keys.len() > ez_protocol::input::MAX_SSH_KEYS {
        return Err(PlaceError::TooManyKeys(ez_protocol::input::MAX_SSH_KEYS));
    }
    place_once(app, request).await
}

async fn place_once(app: &Services, request: PlaceRequest) -> Result<Order, PlaceError> {
    let (at, entropy) = (app.clock.now(), app.entropy.clone());
    let (until, tax) = (at.plus(billing::SESSION_LIFE), app.config.stripe.tax);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                // Two orders of one account at once would take the same slot.
                db::lock(tx, "account", request.account).await?;
                if let Some(before) = request.again_of
                    && let Some(placed) = store::successor(tx, before).await?
                {
                    return Ok(placed);
                }
                if billing::is_disputing(tx, request.account).await? {
                    return Err(PlaceError::Disputed);
                }
                let taken = store::unpaid_slots(tx, request.account).await?;
                let slot =
                    (1..=MOST_UNPAID).find(|slot| !taken.contains(slot)).ok_or(PlaceError::TooManyUnpaid)?;
                let buyer = Buyer::read(tx, request.account).await?;
                let choice = QuoteRequest {
                    plan: request.plan.clone(),
                    interval: request.interval,
                    image: request.image.clone(),
                    currency: request.currency.clone().or_else(|| buyer.currency.clone()),
                };
                if let (Some(bound), false) =
                    (&buyer.currency, choice.currency.as_deref().is_none_or(|wanted| buyer.pays_in(wanted)))
                {
                    return Err(PlaceError::OtherCurrency(bound.to_uppercase()));
                }
                let quote = catalog::quote(tx, &choice).await?;
                let trial_days = buyer.trial_days(&quote.price);
                let (today, then) = (quote.price.due_today(trial_days > 0), quote.price.amount_minor);
                if request.quoted_minor.is_some_and(|quoted| quoted != today)
                    || request.quoted_then.is_some_and(|quoted| quoted != then)
                {
                    return Err(PlaceError::QuoteChanged(today));
                }
                if let Some(unknown) = request.setup.recipes.iter().find(|r| !quote.image.recipes.contains(r))
                {
                    return Err(PlaceError::Recipe(*unknown));
                }
                let not_payable = || PlaceError::NotPayable(quote.price.id.clone());
                let stripe_price_id = quote.price.stripe_price_id.clone().ok_or_else(not_payable)?;
                let stripe_setup_price_id = quote.price.stripe_setup_price_id.clone();
                if quote.price.setup_minor > 0 && stripe_setup_price_id.is_none() {
                    return Err(not_payable());
                }
                let order = Order {
                    id: OrderId::generate(at, entropy.bytes()),
                    account: request.account,
                    user: request.user,
                    email: request.email.clone(),
                    instance: InstanceId::generate(at, entropy.bytes()),
                    hostname: request.hostname.as_str().to_owned(),
                    plan_code: quote.plan.code.clone(),
                    plan_name: quote.plan.name.clone(),
                    image_code: quote.image.code.clone(),
                    image_name: quote.image.name.clone(),
                    location: request.location.clone(),
                    price_id: quote.price.id.clone(),
                    interval: quote.price.interval,
                    currency: quote.price.currency.clone(),
                    amount_minor: quote.price.amount_minor,
                    setup_minor: quote.price.setup_minor,
                    trial_days,
                    paid_minor: None,
                    terms_version: request.terms_version.clone(),
                    state: OrderState::AwaitingPayment,
                    reason: None,
                    reserved_until: until,
                    placed_at: at,
                    updated_at: at,
                    paid_at: None,
                    fulfilled_at: None,
                    closed_at: None,
                    needs_operator_at: None,
                    refund_due_at: None,
                    again_of: request.again_of,
                    version: 1,
                };
                store::insert(tx, &order, slot).await?;
                api::made(tx, request.claim.as_ref(), order.id).await?;
                let instance = wanted(&order, &quote, &request);
                instances::create(tx, &instance).await?;
                let need = quote.need(&request.location);
                instances::reserve(tx, at, entropy.as_ref(), instance.id, &need, &[], Some(until)).await?;
                let payable = (stripe_price_id, stripe_setup_price_id);
                billing::expect(tx, at, &expectation(&order, payable, tax)).await?;
                let unit_minor = catalog::traffic_price(tx, &order.plan_code, &order.currency).await?;
                billing::agree_traffic(tx, at, &traffic_terms(&order, &quote, unit_minor)).await?;
                let first =
                    Transition { from: None, to: order.state, cause: "placed".to_owned(), reason: None, at };
                store::insert_transition(tx, order.id, order.version, &first).await?;
                let entry = audit::Entry {
                    actor: format!("user:{}", order.user),
                    action: "order.placed".to_owned(),
                    subject_kind: "order".to_owned(),
                    subject_id: order.id.to_string(),
                    detail: json!({
                        "instance": order.instance, "plan": order.plan_code, "price": order.price_id,
                        "location": order.location, "terms": order.terms_version, "again_of": order.again_of,
                    }),
                };
                audit::record(tx, at, entry).await?;
                let due = super::advance::unpaid_due(&order);
                jobs::enqueue(tx, ADVANCE, &order.id.to_string(), &json!({"order_id": order.id}), due)
                    .await?;
                Ok(order)
            })
        })
        .await
}

fn wanted(order: &Order, quote: &catalog::Quote, request: &PlaceRequest) -> Instance {
    let mut recipes = request.setup.recipes.clone();
    recipes.sort_unstable();
    recipes.dedup();
    Instance {
        id: order.instance,
        account: order.account,
        order: order.id,
        hostname: order.hostname.clone(),
        location: order.location.clone(),
        plan_code: order.plan_code.clone(),
        image_code: order.image_code.clone(),
        image_digest: quote.image.digest.clone(),
        login_user: quote.image.login_user.clone(),
        vcpu: quote.plan.vcpu,
        memory_mib: quote.plan.memory_mib,
        disk_gib: quote.plan.disk_gib,
        max_snapshots: quote.plan.snapshots,
        max_backups: quote.plan.backups,
        ssh_keys: request.ssh_keys.iter().map(ToString::to_string).collect(),
        first_boot: FirstBoot {
            family: quote.image.family,
            recipes,
            locale: request.setup.locale.clone(),
            timezone: request.setup.timezone.clone(),
            user_data: request.setup.user_data.clone(),
        },
        state: InstanceState::Requested,
        reason: None,
        node: None,
        provisioning_order: None,
        attempts: 0,
        tried_nodes: Vec::new(),
        observed_state: None,
        observed_at: None,
        host_keys: Vec::new(),
        created_at: order.placed_at,
        updated_at: order.placed_at,
        assigned_at: None,
        built_at: None,
        usable_at: None,
        retired_at: None,
        purge_at: None,
        purged_at: None,
    }
}

/// What is agreed about traffic: the plan's, as it is sold now.
fn traffic_terms(order: &Order, quote: &catalog::Quote, unit_minor: Option<i64>) -> billing::TrafficTerms {
    billing::TrafficTerms {
        instance: order.instance,
        order: order.id,
        account: order.account,
        included_gib: quote.plan.traffic_gib,
        unit_minor,
        currency: order.currency.clone(),
    }
}

fn expectation(
    order: &Order,
    (stripe_price_id, stripe_setup_price_id): (String, Option<String>),
    tax: Tax,
) -> Expectation {
    Expectation {
        order: order.id,
        instance: order.instance,
        account: order.account,
        email: order.email.clone(),
        description: format!("{}, {} ({})", order.hostname, order.plan_name, order.location),
        price_id: order.price_id.clone(),
        stripe_price_id,
        currency: order.currency.clone(),
        amount_minor: order.amount_minor,
        setup_minor: order.setup_minor,
        stripe_setup_price_id: stripe_setup_price_id.filter(|_| order.setup_minor > 0),
        trial_days: order.trial_days,
        tax,
    }
}

/// The address of the payment page of an unpaid order.
///
/// # Errors
/// [`BillingError::Over`] and [`BillingError::AlreadyPaid`] when there is nothing to pay any more.
pub async fn pay(app: &Services, order: &Order) -> Result<String, BillingError> {
    if order.state != OrderState::AwaitingPayment {
        return Err(BillingError::Over);
    }
    billing::checkout(app, order.id).await
}

/// Cancels an unpaid order: closes the payment page at Stripe first, so that nobody pays for what is no longer
/// held. `false` when a payment was quicker.
///
/// # Errors
/// What Stripe or the database said; the order stays as it is then, and ends as cancelled with its payment page.
pub async fn cancel(app: &Services, order: &Order) -> Result<bool, BillingError> {
    let (id, actor) = (order.id, format!("user:{}", order.user));
    app.db
        .write(move |tx| Box::pin(async move { store::want_cancel(tx, id, &actor).await }))
        .await
        .map_err(BillingError::Db)?;
    match billing::expire_session(app, order.id).await? {
        CheckoutState::Expired => {
            super::settle::let_go(
                app,
                order.id,
                super::OrderEvent::CustomerCancelled,
                &format!("user:{}", order.user),
            )
            .await
            .map_err(|error| error.into_db().map_or(BillingError::Over, BillingError::Db))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_cloud_init_says_in_its_first_line_what_it_is() {
        assert_eq!(user_data(" \r\n "), Some(None));
        for good in
            ["#cloud-config\r\npackages: [htop]", "#!/bin/sh\nid", "## template: jinja\n#cloud-config\n{}"]
        {
            let taken = user_data(good).unwrap().unwrap();
            assert_eq!(taken.as_str(), format!("{}\n", good.replace('\r', "")), "{good:?}");
        }
        for bad in ["packages: [htop]", "#include\nhttp://x", "#cloud-config\n\0"] {
            assert_eq!(user_data(bad), None, "{bad:?}");
        }
        assert_eq!(user_data(&format!("#!{}", "x".repeat(MAX_USER_DATA))), None);
    }
}

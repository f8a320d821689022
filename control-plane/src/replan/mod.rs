//! Changing a server's plan: the rules, the room on its node, the pages, and the server that follows.
//!
//! `billing::change` knows the money, `instances` the server, `fleet` the room. Here they are brought together, and this
//! slice owns no table:
//!
//! 1. [`preview`]: may this plan become that one ([`Refusal`]), is there room on the server's own node, and what does Stripe
//!    say that it costs. Nothing is promised.
//! 2. [`confirm`]: one transaction takes the room by a guarded update and writes the wish. Then Stripe is told, under a key
//!    that was written before. Confirming twice is once; two different changes are one and a refusal.
//! 3. [`follow`]: whenever `billing` says that something about an order's plan has changed, the server's place and size are
//!    made to be what is paid for, and nothing else: a change that did not come about gives its room back, one that is
//!    paid resizes the server. It compares states and does not look at news, so it does not matter how often or in which
//!    order it is told; a sweep finds what was never told. What cannot be followed (a disk that would have to shrink, a node
//!    that has no room for a plan that somebody changed in Stripe's dashboard) is an alarm for an operator.

mod api;
mod follow;
mod pages;
mod rules;
mod show;

use ez_protocol::{AccountId, PlanChangeId};
use sqlx::AnyConnection;

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use follow::register_jobs;
pub(crate) use pages::routes as page_routes;
pub use rules::Refusal;

use self::rules::Offer;
use crate::{
    api as web_api,
    app::Services,
    billing::{self, BillingError, Change, ChangeError, ChangeState, PlanSize, Way, Wish},
    catalog::{self, Plan, Price},
    db::DbError,
    fleet::{self, Held, Presence},
    instances::{self, Instance, InstanceState, Size, Sized},
};

/// Why a plan is not changed. Nothing was written and nothing charged.
#[derive(Debug, thiserror::Error)]
pub enum ReplanError {
    /// There is no such server or change, or it is somebody else's.
    #[error("there is no such server or plan change")]
    Unknown,
    /// It is not built, or on its way out.
    #[error("the plan of a server that is {0} cannot be changed")]
    DoesNotFit(InstanceState),
    /// It is to be deleted.
    #[error("the server is being deleted")]
    Ends,
    /// Its service is not due.
    #[error("the server is suspended")]
    Suspended,
    /// A rebuild threw its disk away.
    #[error("the server has no disk: rebuild it first")]
    NeedsRebuild,
    /// The plan has no such price, or cannot be paid yet.
    #[error("this plan is not on sale for that interval")]
    NotOnSale,
    /// The rules forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its node has no room.
    #[error("the server's node has no room for this plan; nothing is charged")]
    NoRoom,
    /// Its node is silent.
    #[error("the server's node does not answer at the moment; try again in a few minutes")]
    NodeAway,
    /// The money forbids it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Stripe, or the way to it.
    #[error("asking Stripe")]
    Billing(#[from] BillingError),
    /// The database.
    #[error("reading or writing")]
    Db(#[from] DbError),
}

/// A plan with one of its prices, and whether the server can have it.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) plan: Plan,
    pub(crate) price: Price,
    /// When it would come about, or why not.
    pub(crate) verdict: Result<Way, Refusal>,
    /// Whether its node has room for it.
    pub(crate) room: bool,
}

/// What a server has and costs now.
struct Present {
    size: Held,
    offer: Offer,
}

fn held(size: PlanSize) -> Held {
    Held { vcpu: size.vcpu, memory_mib: size.memory_mib, disk_gib: size.disk_gib }
}

/// What a plan gives this server. Its own plan gives it what it was sold with, whatever the catalogue says now.
fn size_of(instance: &Instance, plan: &Plan) -> PlanSize {
    let mut size = PlanSize::from(plan);
    if plan.code == instance.plan_code {
        size = PlanSize {
            vcpu: instance.vcpu,
            memory_mib: instance.memory_mib,
            disk_gib: instance.disk_gib,
            snapshots: instance.max_snapshots,
            backups: instance.max_backups,
        };
    }
    size
}

async fn present(connection: &mut AnyConnection, instance: &Instance) -> Result<Present, ReplanError> {
    let price = billing::price_of(connection, instance.order).await?.ok_or(ReplanError::NotOnSale)?;
    let price = catalog::price(connection, &price).await?.ok_or(ReplanError::NotOnSale)?;
    let size = Size::of(instance).held();
    Ok(Present { size, offer: offer(&price, size) })
}

fn offer(price: &Price, size: Held) -> Offer {
    Offer {
        price: price.id.clone(),
        months: price.interval.months(),
        currency: price.currency.clone(),
        amount_minor: price.amount_minor,
        size,
    }
}

/// Everything on sale in the server's currency, in the order of the catalogue; the price it has now is among it.
///
/// # Errors
/// [`ReplanError::NotOnSale`] when nobody pays for the server.
pub(crate) async fn choices(
    connection: &mut AnyConnection,
    instance: &Instance,
) -> Result<Vec<Choice>, ReplanError> {
    let present = present(connection, instance).await?;
    let prices = catalog::prices(connection).await?;
    let place = fleet::held(connection, instance.id).await?.unwrap_or(present.size);
    let mut choices = Vec::new();
    for plan in catalog::plans(connection).await? {
        let size = held(size_of(instance, &plan));
        let room = fleet::can_hold(connection, instance.id, place.max(size)).await?;
        let mut of_plan: Vec<&Price> = prices
            .iter()
            .filter(|price| price.plan_code == plan.code && price.currency == present.offer.currency)
            .collect();
        of_plan.sort_by_key(|price| price.interval.months());
        for price in of_plan {
            let verdict = rules::way(&present.offer, &offer(price, size));
            choices.push(Choice { plan: plan.clone(), price: price.clone(), verdict, room });
        }
    }
    Ok(choices)
}

/// Whether the plan of a server can be changed at all now.
///
/// # Errors
/// [`ReplanError`] says why not.
pub(crate) async fn may_change(
    connection: &mut AnyConnection,
    instance: &Instance,
) -> Result<(), ReplanError> {
    if !instance.state.is_live() {
        return Err(ReplanError::DoesNotFit(instance.state));
    }
    if instances::is_ending(connection, instance.id).await? {
        return Err(ReplanError::Ends);
    }
    let wishes = instances::wishes(connection, instance).await?;
    if wishes.suspension().is_some() {
        return Err(ReplanError::Suspended);
    }
    if wishes.disk_lost {
        return Err(ReplanError::NeedsRebuild);
    }
    billing::may_change(connection, instance.order).await?;
    // One that somebody made in Stripe's dashboard is finished first.
    if instances::sized(connection, instance).await? != Sized::Settled {
        return Err(ChangeError::Busy.into());
    }
    Ok(())
}

/// Whether the server's node would carry a change out, and has room for it.
async fn node_can(
    connection: &mut AnyConnection,
    instance: &Instance,
    at: ez_protocol::UnixMillis,
    wanted: Held,
) -> Result<(), ReplanError> {
    let node = match instance.node {
        Some(node) => fleet::node(connection, node).await?,
        None => None,
    };
    let there = node.is_some_and(|node| {
        node.state.takes_orders() && matches!(node.presence(at), Presence::Online | Presence::Late)
    });
    if !there {
        return Err(ReplanError::NodeAway);
    }
    let place = fleet::held(connection, instance.id).await?.ok_or(ReplanError::NoRoom)?;
    if !fleet::can_hold(connection, instance.id, place.max(wanted)).await? {
        return Err(ReplanError::NoRoom);
    }
    Ok(())
}

/// What another plan and interval would cost a server, line by line. Good for a quarter of an hour.
///
/// # Errors
/// [`ReplanError`]; a server that cannot have it hears why here, before anything is paid.
pub async fn preview(
    app: &Services,
    instance: &Instance,
    price: &str,
    actor: &str,
    claim: Option<web_api::Claim>,
) -> Result<Change, ReplanError> {
    let wish = {
        let mut connection = app.db.read().await?;
        let connection = &mut *connection;
        may_change(connection, instance).await?;
        let present = present(connection, instance).await?;
        let prices = catalog::prices(connection).await?;
        let price = prices.into_iter().find(|known| known.id == price).ok_or(ReplanError::NotOnSale)?;
        let plan = catalog::plan(connection, &price.plan_code).await?.filter(|plan| plan.on_sale);
        let plan = plan.ok_or(ReplanError::NotOnSale)?;
        let size = size_of(instance, &plan);
        let way = rules::way(&present.offer, &offer(&price, held(size)))?;
        if way == Way::Now {
            node_can(connection, instance, app.clock.now(), held(size)).await?;
        }
        Wish {
            order: instance.order,
            way,
            to_stripe_price: price.stripe_price_id.clone().ok_or(ReplanError::NotOnSale)?,
            to_minor: price.amount_minor,
            to_price: price.id,
            to_plan: plan.code,
            to_size: size,
        }
    };
    Ok(billing::preview(app, wish, actor, claim).await?)
}

/// Confirms a previewed change: takes the room, writes the wish, tells Stripe. The answer is how it stands then; what could not
/// be done at once is done by a job. The same change again is once.
///
/// # Errors
/// [`ReplanError`]; nothing was charged.
pub async fn confirm(
    app: &Services,
    account: AccountId,
    id: PlanChangeId,
    actor: &str,
    claim: Option<web_api::Claim>,
) -> Result<Change, ReplanError> {
    let (at, by) = (app.clock.now(), actor.to_owned());
    let order = {
        let mut connection = app.db.read().await?;
        let change = billing::change(&mut connection, id).await?.filter(|change| change.account == account);
        change.ok_or(ReplanError::Unknown)?.order
    };
    let change = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                billing::hold_order(tx, order).await?;
                let change = billing::change(tx, id).await?.ok_or(ReplanError::Unknown)?;
                if change.state != ChangeState::Previewed {
                    return Ok(change);
                }
                let instance =
                    instances::get_to_change(tx, change.instance).await?.ok_or(ReplanError::Unknown)?;
                may_change(tx, &instance).await?;
                let wanted = held(change.to_size);
                if change.way == Way::Now {
                    node_can(tx, &instance, at, wanted).await?;
                    let place = fleet::held(tx, instance.id).await?.ok_or(ReplanError::NoRoom)?;
                    // Somebody may have bought the room in between: the guarded update says so.
                    if !fleet::hold(tx, instance.id, place.max(wanted)).await? {
                        return Err(ReplanError::NoRoom);
                    }
                }
                let change = billing::confirm(tx, at, change, &by).await?;
                web_api::made(tx, claim.as_ref(), change.id).await?;
                Ok(change)
            })
        })
        .await?;
    if change.state != ChangeState::Wanted {
        return Ok(change);
    }
    match billing::carry_out(app, id).await {
        Ok(change) => Ok(change),
        Err(error) => {
            tracing::warn!(plan_change.id = %id, %error, "a plan change could not be carried out at once; a job goes on");
            let mut connection = app.db.read().await?;
            billing::change(&mut connection, id).await?.ok_or(ReplanError::Unknown)
        }
    }
}

/// Takes back a change that is booked for the end of the period.
///
/// # Errors
/// [`ReplanError::Unknown`] for somebody else's; [`BillingError::Over`] when there is nothing to take back.
pub async fn take_back(
    app: &Services,
    account: AccountId,
    id: PlanChangeId,
    actor: &str,
) -> Result<Change, ReplanError> {
    {
        let mut connection = app.db.read().await?;
        let change = billing::change(&mut connection, id).await?.filter(|change| change.account == account);
        change.ok_or(ReplanError::Unknown)?;
    }
    Ok(billing::take_back(app, id, actor).await?)
}

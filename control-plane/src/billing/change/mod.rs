//! What an account pays for a server is changed: another plan, another interval.
//!
//! The money's half of it. Rules, room on the node and the pages are `replan`'s; the size on the node is
//! `instances`'. A change is one row that moves along [`ChangeState`]:
//!
//! ```text
//! previewed ─confirm→ wanted ─┬─ paid at once ───────────────→ applied ─server follows→ done
//!                             ├─ awaiting_payment ─paid──────→ applied
//!                             │        └─ time over ─────────→ expired
//!                             ├─ scheduled ─period ends, paid→ applied
//!                             │        └─ taken back ────────→ taken_back
//!                             └─ refused                        (anything open ─subscription over→ dropped)
//! ```
//!
//! * **Exact.** A preview is Stripe's own invoice of the change for a fixed moment; that moment is kept in the row and
//!   goes into the change itself, so both come to the same sum. It is good for [`PREVIEW_LIVES`] and never the
//!   customer's to choose.
//! * **Now**: `always_invoice` and `pending_if_incomplete`: Stripe applies it only when it is paid. The server follows
//!   when the copy has the new price and no pending update, never because somebody asked.
//! * **With the end of the period**: a schedule at Stripe with two phases (decision 0011), which Stripe carries out
//!   whether or not we are there. Once its second phase has begun it is released, so that it is in nobody's way.
//! * **Outside**: a price that somebody put in Stripe's dashboard, and that is one of ours, is a change as well.
//! * Every POST has its key from the change's id and its attempt, and stands in the outbox before it is sent. Its answer
//!   may be a replay of an older one, so it is never taken over: the subscription is read again, and [`read`] moves the
//!   row. [`carry::run`] takes up whatever was left half done.
//!
//! What else happens to a subscription while a change is open:
//!
//! | | wanted, awaiting payment | scheduled | applied, the server not yet |
//! |---|---|---|---|
//! | cancel with the period | goes on: paid, it holds until the end | taken back first, then cancelled | goes on |
//! | cancel now, delete | dropped, room given back with the place | dropped; Stripe ends the schedule | dropped |
//! | renewal unpaid | goes on; its own invoice is voided with its time | the new price holds once it is paid | goes on |
//! | suspended, disputed | goes on; the server is resized while it is off | the same | the same |
//! | retired unpaid, then paid | as without: the subscription is still there | the same | resized once it is back |
//! | another change | refused: one at a time | refused: take it back first | refused until it is done |
//! | changed in the dashboard | expires or applies by what Stripe says | the newest price that is paid wins | the same |
//!
//! A new change is refused while the subscription is not simply active and paid, is to end, or is disputed.

mod carry;
mod letters;
mod model;
mod preview;
mod read;
pub(super) mod store;

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, OrderId, PlanChangeId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

pub use carry::{carry_out, take_back};
pub(super) use carry::{clear_the_way, register_jobs, release_any, sweep};
pub use letters::{PlanChangeBooked, PlanChangeOff, PlanChangeWaits, PlanChanged};
use model::Refused;
pub use model::{
    Change, ChangeEvent, ChangeState, Line, PlanSize, Quote, Refused as ChangeRefused, Way, Wish,
};
pub use preview::preview;
pub(super) use read::subscription_read;

use super::{announce, dunning, stripe::SubscriptionView};
use crate::{
    audit,
    config::Config,
    db::{self, DbError},
    notify, web,
};

/// So long a preview can be confirmed.
pub const PREVIEW_LIVES: Duration = Duration::from_secs(15 * 60);
/// Whoever confirms tries first; the job goes on after so long.
const AFTER_THE_WISH: Duration = Duration::from_secs(20);

/// Why a change was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such change, or it is somebody else's.
    #[error("there is no such plan change")]
    Unknown,
    /// It was shown too long ago, or what it was computed from has changed.
    #[error("this preview is not current any more; ask for a new one")]
    Stale,
    /// Another change is under way.
    #[error("another change of this server's plan is under way")]
    Busy,
    /// Something is owed, or the subscription is not running.
    #[error("the subscription is not active and paid")]
    NotPaid,
    /// It ends with the period.
    #[error("the subscription ends with its period; keep it first")]
    Ending,
    /// A bank takes a payment back.
    #[error("a payment of this account is disputed at its bank")]
    Disputed,
    /// At Stripe it has another quantity than 1, or more than one item.
    #[error(
        "at Stripe the subscription is not for this one server alone, which has to be put right there first"
    )]
    NotOneServer,
    /// Its state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database.
    #[error("reading or writing the plan change")]
    Db(#[from] DbError),
}

/// A change by its id.
///
/// # Errors
/// Those of the query.
pub async fn change(connection: &mut AnyConnection, id: PlanChangeId) -> Result<Option<Change>, DbError> {
    store::get(connection, id).await
}

/// The change of an order that is under way.
///
/// # Errors
/// Those of the query.
pub async fn open_change(connection: &mut AnyConnection, order: OrderId) -> Result<Option<Change>, DbError> {
    store::open(connection, order).await
}

/// The changes of an account's orders that are under way.
///
/// # Errors
/// Those of the query.
pub async fn open_changes(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Change>, DbError> {
    store::open_of_account(connection, account).await
}

/// An order's changes that were confirmed, or made outside, newest first, at most 50.
///
/// # Errors
/// Those of the query.
pub async fn changes_of(connection: &mut AnyConnection, order: OrderId) -> Result<Vec<Change>, DbError> {
    store::of_order(connection, order).await
}

/// The newest change of an order that is paid for: the plan that its server shall have. None: as it was sold.
///
/// # Errors
/// Those of the query.
pub async fn paid_change(connection: &mut AnyConnection, order: OrderId) -> Result<Option<Change>, DbError> {
    store::paid_for(connection, order).await
}

/// Our price that an order pays now; none before it was paid.
///
/// # Errors
/// Those of the queries.
pub async fn price_of(connection: &mut AnyConnection, order: OrderId) -> Result<Option<String>, DbError> {
    if let Some(paid) = store::paid_for(connection, order).await? {
        return Ok(Some(paid.to_price));
    }
    Ok(super::store::checkout(connection, order).await?.map(|checkout| checkout.expected.price_id))
}

/// Where the invoice of a change can be paid, while it waits for that.
///
/// # Errors
/// Those of the query.
pub async fn pay_url(connection: &mut AnyConnection, change: &Change) -> Result<Option<String>, DbError> {
    match &change.invoice {
        Some(invoice) if change.state == ChangeState::AwaitingPayment => {
            store::pay_url(connection, invoice).await
        }
        _ => Ok(None),
    }
}

/// Orders whose servers have something to follow, at most 500, the longest waiting first.
///
/// # Errors
/// Those of the query.
pub async fn orders_to_follow(connection: &mut AnyConnection) -> Result<Vec<OrderId>, DbError> {
    store::orders_to_follow(connection).await
}

/// The order that pays for a server.
///
/// # Errors
/// Those of the query.
pub async fn order_of(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<OrderId>, DbError> {
    store::order_of(connection, instance).await
}

/// Makes an order's money this transaction's, before anything else is: whoever changes what a server is paid for holds
/// this, then the server.
///
/// # Errors
/// Those of the database.
pub async fn hold_order(tx: &mut AnyConnection, order: OrderId) -> Result<(), DbError> {
    db::lock(tx, "checkout", order).await
}

/// Whether the subscription of an order may be changed now.
///
/// # Errors
/// [`ChangeError`] says why not.
pub async fn may_change(connection: &mut AnyConnection, order: OrderId) -> Result<(), ChangeError> {
    let copy = store::copy(connection, order).await?.ok_or(ChangeError::NotPaid)?;
    let standing = dunning::standing_of(connection, order).await?;
    if standing.as_ref().is_some_and(|standing| standing.why == dunning::Why::Disputed) {
        return Err(ChangeError::Disputed);
    }
    let runs = standing.is_some_and(|standing| {
        standing.stand == dunning::Stand::Run
            && matches!(standing.why, dunning::Why::Paid | dunning::Why::Exempt)
    });
    if !runs || copy.status != "active" {
        return Err(ChangeError::NotPaid);
    }
    if copy.cancel_at.is_some() {
        return Err(ChangeError::Ending);
    }
    if !is_one_server(connection, &copy.subscription).await? {
        return Err(ChangeError::NotOneServer);
    }
    if store::open(connection, order).await?.is_some() {
        return Err(ChangeError::Busy);
    }
    Ok(())
}

/// Whether a subscription is for its one server: another price would hold for all that it is charged for.
async fn is_one_server(connection: &mut AnyConnection, subscription: &str) -> Result<bool, DbError> {
    let copy = super::store::object(connection, subscription).await?;
    let read = copy.and_then(|text| serde_json::from_str::<SubscriptionView>(&text).ok());
    Ok(read.is_none_or(|read| read.is_one_server()))
}

/// The end of the paid period, which a change with it waits for.
///
/// # Errors
/// Those of the query.
pub async fn due_with(connection: &mut AnyConnection, order: OrderId) -> Result<Option<UnixMillis>, DbError> {
    Ok(store::copy(connection, order).await?.and_then(|copy| copy.period_end))
}

/// Its customer confirms a previewed change: from here on it is carried out. Confirming it again is the same change. The
/// caller holds the order ([`hold_order`]) and has made sure that the server can follow.
///
/// # Errors
/// [`ChangeError`]; nothing was written.
pub async fn confirm(
    tx: &mut AnyConnection,
    at: UnixMillis,
    change: Change,
    actor: &str,
) -> Result<Change, ChangeError> {
    if change.state != ChangeState::Previewed {
        return Ok(change);
    }
    may_change(tx, change.order).await?;
    let copy = store::copy(tx, change.order).await?.ok_or(ChangeError::NotPaid)?;
    let moved = copy.price.as_deref() != Some(change.from_stripe_price.as_str());
    let over = copy.period_end.is_some_and(|end| end <= at);
    let other_period = change.due_at.is_some() && change.due_at != copy.period_end;
    if at.since(change.created_at) > PREVIEW_LIVES || moved || over || other_period {
        return Err(ChangeError::Stale);
    }
    let wanted = Change { confirmed_at: Some(at), actor: actor.to_owned(), ..change };
    let wanted = take(tx, at, wanted, ChangeEvent::Confirm, actor).await?;
    carry::look_at(tx, &wanted, at.plus(AFTER_THE_WISH)).await?;
    Ok(wanted)
}

/// The server was looked at: what it had to follow, it has followed. With `served` it is as it is paid for, and its owner is
/// told so, once.
///
/// # Errors
/// Those of the statements.
pub async fn followed(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    order: OrderId,
    served: Option<Served<'_>>,
) -> Result<(), DbError> {
    let paid = store::paid_for(tx, order).await?.filter(|paid| paid.state == ChangeState::Applied);
    if let (Some(paid), Some(served)) = (paid, served) {
        // What came about before it and was never followed is followed with it.
        for overtaken in store::overtaken(tx, order).await? {
            let overtaken = Change { reason: Some("overtaken".to_owned()), ..overtaken };
            if let Err(ChangeError::Db(error)) = take(tx, at, overtaken, ChangeEvent::Drop, "system").await {
                return Err(error);
            }
        }
        let done = match take(tx, at, paid, ChangeEvent::Follow, "system").await {
            Ok(done) => done,
            Err(ChangeError::Db(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        store::describe(tx, order, served.description).await?;
        if let Some(checkout) = super::store::checkout(tx, order).await? {
            let charge = store::copy(tx, order).await?.and_then(|copy| copy.charge);
            let price =
                charge.map_or_else(String::new, |(minor, currency)| web::written_money(minor, &currency));
            let letter = PlanChanged {
                server: served.description.to_owned(),
                plan: served.plan.to_owned(),
                price,
                restart: served.restart,
                link: config.http.page(&format!("/servers/{}", done.instance)),
            };
            notify::send(tx, at, &checkout.expected.email, &letter).await?;
        }
    }
    store::followed(tx, order).await
}

/// A server that has followed its plan.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// What people read of it from now on.
    pub description: &'a str,
    /// Name of its plan.
    pub plan: &'a str,
    /// Whether it takes a restart to use all of it.
    pub restart: bool,
}

/// Moves a change on: one guarded update, one audit row, and the job that has the server follow.
async fn take(
    tx: &mut AnyConnection,
    at: UnixMillis,
    change: Change,
    event: ChangeEvent,
    actor: &str,
) -> Result<Change, ChangeError> {
    let was = change.state;
    let state = was.take(event)?;
    let ended_at = if state.is_open() { None } else { Some(at) };
    let change = Change { state, ended_at, updated_at: at, ..change };
    store::save(tx, at, was, &change).await.map_err(|error| match error {
        DbError::Conflict { .. } => ChangeError::Busy,
        other => other.into(),
    })?;
    if was != state {
        note(tx, at, &change, Some(was), actor).await?;
        if !matches!(state, ChangeState::Wanted | ChangeState::AwaitingPayment | ChangeState::Scheduled) {
            announce::plan_changed(tx, at, change.order).await?;
        }
    }
    Ok(change)
}

/// The audit row of a step.
async fn note(
    tx: &mut AnyConnection,
    at: UnixMillis,
    change: &Change,
    was: Option<ChangeState>,
    actor: &str,
) -> Result<(), DbError> {
    tracing::info!(order.id = %change.order, plan_change.id = %change.id, plan_change.state = %change.state, "a plan change moved on");
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: format!("plan_change.{}", change.state),
        subject_kind: "order".to_owned(),
        subject_id: change.order.to_string(),
        detail: json!({
            "change": change.id, "from": was, "way": change.way, "from_price": change.from_price,
            "to_price": change.to_price, "reason": change.reason,
            "due_minor": change.quote.as_ref().map(|quote| quote.due_minor),
        }),
    };
    audit::record(tx, at, entry).await
}

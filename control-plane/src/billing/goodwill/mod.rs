//! What a person gives: a part of a payment back, or credit for the next invoices.
//!
//! Both carry a reference, which a form or a person names. The same reference again is the same gift, whatever happened to
//! the first attempt: it is never given twice. It is written down with its reason and its limit checked in one transaction,
//! before Stripe is asked; what dies on the way is taken up again by a job ([`TAKE_UP`]).
//!
//! Never more goes back than came in: a refund fits into what is left of its invoice's payment, credit into what was paid
//! for the server, each less what was refunded, credited or is on its way.

mod store;

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use serde_json::{Value, json};
use sqlx::AnyConnection;

pub use store::{Given, PaidInvoice};

use super::{
    BillingError, Unfit, back, dunning,
    model::CallState,
    outbox::{self, Call},
    refund, store as copy,
    stripe::{self, Metadata},
    wallet,
};
use crate::{
    app::{App, Services},
    audit, db,
    db::{DbError, text_enum},
    jobs::{self, JobError, JobRun},
};

/// The longest reference, in characters.
const LONGEST: usize = 60;
/// The longest reason, in characters.
pub const LONGEST_REASON: usize = 200;
/// Carries out a gift whose process has died; the key is `<order>:<kind>:<reference>`.
pub(super) const TAKE_UP: &str = "billing.gift";
/// After this long the one who wrote it down is taken for dead.
const TAKE_UP_AFTER: Duration = Duration::from_secs(2 * 60);

text_enum! {
    /// What is given.
    pub enum GiftKind {
        /// A part of a payment, back to the card.
        Refund = "refund",
        /// Credit for the next invoices.
        Credit = "credit",
    }
}

text_enum! {
    /// How it stands.
    pub enum GiftState {
        /// Written down; Stripe is asked, or will be again.
        Wanted = "wanted",
        /// Stripe has done it.
        Done = "done",
        /// Stripe has refused.
        Refused = "refused",
    }
}

/// What is given for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gift {
    /// The server.
    pub instance: InstanceId,
    /// Of a refund: the invoice whose payment goes back in part; none: the latest.
    pub invoice: Option<String>,
    /// Minor units, more than 0.
    pub amount_minor: i64,
    /// Letters, digits, `-` and `_`, at most 60: a ticket's number, or a form's own key.
    pub reference: String,
    /// Why, in a sentence, for the audit log.
    pub reason: String,
}

fn check(gift: &Gift) -> Result<(), BillingError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let fits = (1..=LONGEST).contains(&gift.reference.len()) && gift.reference.chars().all(word);
    if !fits {
        return Err(BillingError::Unfit(Unfit::Reference));
    }
    if gift.amount_minor < 1 {
        return Err(BillingError::Unfit(Unfit::Amount));
    }
    if gift.reason.trim().is_empty() || gift.reason.chars().count() > LONGEST_REASON {
        return Err(BillingError::Unfit(Unfit::Reason));
    }
    Ok(())
}

/// What an operator sees of a server's money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMoney {
    /// The purchase.
    pub order: OrderId,
    /// What it is.
    pub description: String,
    /// Lower-case ISO code.
    pub currency: String,
    /// What was paid for it, the newest first.
    pub invoices: Vec<PaidInvoice>,
    /// What was given, the newest first.
    pub given: Vec<Given>,
    /// How much credit may still be given.
    pub creditable_minor: i64,
}

/// What was paid for a server, and what of it may go back; nothing for a server that was never paid.
///
/// # Errors
/// Those of the queries.
pub async fn server_money(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<ServerMoney>, DbError> {
    let Some(order) = dunning::store::order_of(connection, instance).await? else { return Ok(None) };
    let Some(known) = copy::checkout(connection, order).await? else { return Ok(None) };
    let invoices = store::paid_invoices(connection, order).await?;
    let given = store::given_for(connection, order).await?;
    let creditable_minor = creditable(&invoices, &given);
    Ok(Some(ServerMoney {
        order,
        description: known.expected.description,
        currency: known.expected.currency,
        invoices,
        given,
        creditable_minor,
    }))
}

/// What an account got back or was credited, the newest first, at most a hundred.
///
/// # Errors
/// Those of the queries.
pub async fn given_to(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Given>, DbError> {
    store::given_to(connection, account).await
}

fn creditable(invoices: &[PaidInvoice], given: &[Given]) -> i64 {
    let left: i64 = invoices.iter().map(|invoice| invoice.left_minor).sum();
    let credits = given.iter().filter(|one| one.kind == GiftKind::Credit && one.state != GiftState::Refused);
    (left - credits.map(|one| one.amount_minor).sum::<i64>()).max(0)
}

/// Gives a part of a payment for a server back to the card. Once for each reference.
///
/// # Errors
/// [`BillingError::Unfit`] for what cannot be, or is more than is left of the payment; [`BillingError::Disputed`] when its
/// bank decides about the payment; [`BillingError::ByHand`] when it was not paid with one payment at Stripe;
/// [`BillingError::Unknown`] when nothing was paid; what Stripe said else.
pub async fn refund_part(app: &Services, gift: &Gift, actor: &str) -> Result<(), BillingError> {
    give(app, GiftKind::Refund, gift, actor).await
}

/// Gives the owner of a server credit, which the next invoices use up. Once for each reference.
///
/// # Errors
/// As [`refund_part`]; more than was paid for the server is not given.
pub async fn credit(app: &Services, gift: &Gift, actor: &str) -> Result<(), BillingError> {
    give(app, GiftKind::Credit, gift, actor).await
}

async fn give(app: &Services, kind: GiftKind, gift: &Gift, actor: &str) -> Result<(), BillingError> {
    check(gift)?;
    let order = {
        let mut connection = app.db.read().await?;
        dunning::store::order_of(&mut connection, gift.instance).await?
    };
    let order = order.ok_or(BillingError::Unknown("subscription"))?;
    let (at, gift, actor, reference) =
        (app.clock.now(), gift.clone(), actor.to_owned(), gift.reference.clone());
    app.db
        .write(move |tx| Box::pin(async move { write_down(tx, at, kind, order, &gift, &actor).await }))
        .await?;
    carry_out(app, order, kind, &reference).await
}

/// Checks the limit and writes the gift down; one of the same reference stays as it is.
async fn write_down(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: GiftKind,
    order: OrderId,
    gift: &Gift,
    actor: &str,
) -> Result<(), BillingError> {
    db::lock(tx, "checkout", order).await?;
    if let Some(known) = store::get(tx, order, kind, &gift.reference).await? {
        return if known.amount_minor == gift.amount_minor {
            Ok(())
        } else {
            Err(BillingError::Unfit(Unfit::Used))
        };
    }
    let known = copy::checkout(tx, order).await?.ok_or(BillingError::Unknown("checkout"))?;
    let invoices = store::paid_invoices(tx, order).await?;
    let invoice = match kind {
        GiftKind::Credit => {
            if gift.amount_minor > creditable(&invoices, &store::given_for(tx, order).await?) {
                return Err(BillingError::Unfit(Unfit::Server));
            }
            None
        }
        GiftKind::Refund => {
            let named = |one: &&PaidInvoice| gift.invoice.as_ref().is_none_or(|id| *id == one.id);
            let paid = invoices.iter().find(named).ok_or(BillingError::Unknown("payment"))?;
            if dunning::store::disputed_payment(tx, &paid.id).await? != dunning::Disputed::No {
                return Err(BillingError::Disputed);
            }
            if gift.amount_minor > paid.left_minor {
                return Err(BillingError::Unfit(Unfit::Payment));
            }
            if gift.amount_minor > creditable(&invoices, &store::given_for(tx, order).await?) {
                return Err(BillingError::Unfit(Unfit::Credited));
            }
            Some(paid.id.clone())
        }
    };
    let row = store::Row {
        order,
        kind,
        reference: gift.reference.clone(),
        instance: gift.instance,
        account: known.expected.account,
        invoice,
        amount_minor: gift.amount_minor,
        currency: known.expected.currency,
        state: GiftState::Wanted,
    };
    store::insert(tx, at, &row, gift.reason.trim(), actor).await?;
    let action = if kind == GiftKind::Refund { "payment.part_refunded" } else { "account.credited" };
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: action.to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: json!({
            "amount_minor": gift.amount_minor, "reference": gift.reference, "reason": gift.reason.trim(),
            "invoice": row.invoice,
        }),
    };
    audit::record(tx, at, entry).await?;
    // Should this process die now.
    Ok(jobs::enqueue(tx, TAKE_UP, &row.key(), &Value::Null, at.plus(TAKE_UP_AFTER)).await?)
}

/// The job.
pub(super) async fn run_take_up(app: App, run: JobRun) -> Result<(), JobError> {
    let Some((order, kind, reference)) = store::read_key(&run.key) else { return Ok(()) };
    match carry_out(&app, order, kind, &reference).await {
        // Written down as refused; an operator sees it on the page.
        Err(BillingError::Stripe(fault)) if fault.is_no() => Ok(()),
        Err(
            BillingError::Unfit(_)
            | BillingError::Disputed
            | BillingError::ByHand(_)
            | BillingError::Unknown("invoice" | "customer"),
        ) => Ok(()),
        other => Ok(other?),
    }
}

/// Has Stripe do what was written down, unless it has.
async fn carry_out(
    app: &Services,
    order: OrderId,
    kind: GiftKind,
    reference: &str,
) -> Result<(), BillingError> {
    let row = {
        let mut connection = app.db.read().await?;
        store::get(&mut connection, order, kind, reference).await?
    };
    let row = row.ok_or(BillingError::Unknown("gift"))?;
    match row.state {
        GiftState::Done => return Ok(()),
        GiftState::Refused => return Err(BillingError::Unfit(Unfit::Refused)),
        GiftState::Wanted => {}
    }
    let done = match kind {
        GiftKind::Refund => send_refund(app, &row).await,
        GiftKind::Credit => send_credit(app, &row).await,
    };
    let state = match &done {
        Ok(()) => GiftState::Done,
        Err(BillingError::Stripe(fault)) if fault.is_no() => GiftState::Refused,
        // Stripe was asked for nothing and never can be: what it was to give is free for another gift.
        Err(BillingError::ByHand(_) | BillingError::Unknown("invoice" | "customer")) => GiftState::Refused,
        Err(_) => return done,
    };
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::set_state(tx, at, &row, state).await?;
                jobs::cancel(tx, TAKE_UP, &row.key()).await
            })
        })
        .await?;
    done.map_err(|error| if error.is_disputed() { BillingError::Disputed } else { error })
}

async fn send_refund(app: &Services, row: &store::Row) -> Result<(), BillingError> {
    let invoice = row.invoice.as_deref().ok_or(BillingError::Unknown("invoice"))?;
    let intent = refund::intent_of(app, invoice).await?;
    // No `order_id`: that is the word of the refund of a whole order.
    let metadata = Metadata::from([
        ("goodwill".to_owned(), row.reference.clone()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_partial_refund(&intent, row.amount_minor, metadata);
    let call = Call::next(app, "goodwill", format!("{}:{}", row.order, row.reference), request).await?;
    let read_at = app.clock.now();
    let marked = |one: &&Value| one["metadata"]["goodwill"] == row.reference.as_str();
    let answer = outbox::make(app, &call, &stripe::list_refunds_of(&intent), marked).await?;
    let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
    back::take_refund(app, read_at, answer).await?;
    outbox::close(app, &call, CallState::Done, id, None).await
}

async fn send_credit(app: &Services, row: &store::Row) -> Result<(), BillingError> {
    let customer = {
        let mut connection = app.db.read().await?;
        copy::customer(&mut connection, row.account).await?.ok_or(BillingError::Unknown("customer"))?
    };
    // A customer has one balance for all servers, and a ticket may be about two of them: the gift's own key tells them apart.
    let credit = wallet::Credit {
        customer: &customer,
        amount_minor: row.amount_minor,
        currency: &row.currency,
        reason: &row.reference,
        mark: ("goodwill", row.key()),
    };
    wallet::give(app, "credit", &credit).await
}

/// Stripe had taken a refund, and it did not arrive: it is given no longer.
pub(super) async fn refund_failed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    reference: &str,
) -> Result<(), DbError> {
    store::refuse(tx, at, order, GiftKind::Refund, reference).await
}

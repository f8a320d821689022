//! Money: what an order has to be paid with, and what Stripe says about it.
//!
//! Owns the local copy of Stripe (`stripe_objects`, subscriptions, invoices, refunds), the inbox of its
//! events and the outbox of our calls. The rules (I3, I6, I8):
//!
//! * A webhook delivery is verified, stored by its event id and committed; nothing else happens before
//!   the 200 ([`intake`]). One job per *object* then reads the object again from Stripe ([`sync`]), so
//!   order, duplication and loss of events do not matter.
//! * The success page, the reconciler and the job run the same function on one object.
//! * A copy is written only if it was read later than the one that is there.
//! * Amount, currency, price, customer, mode and installation are compared with what the order expects
//!   before a payment counts. Anything else is a *suspicious* payment, which a person looks at; it
//!   counts once they go on with the order.
//! * One order is paid once. What comes on another page of the same order goes back by itself ([`surplus`]).
//! * Every POST stands in `stripe_outbox` with its key and its exact bytes before it is sent.
//! * Traffic above a plan is charged once for each server and month, from a ledger of our own ([`usage`]).
//!
//! `billing` knows order ids but not orders (A5): it announces what happened by enqueueing the jobs in
//! [`announce`], in the transaction that wrote it down.

mod announce;
mod back;
mod change;
mod checkout;
mod customer;
mod documents;
mod dunning;
mod goodwill;
mod inbox;
mod intake;
mod jobs;
mod model;
mod outbox;
mod overview;
mod reconcile;
mod refund;
mod revenue;
mod shelf;
mod store;
pub mod stripe;
mod subscription;
mod surplus;
mod sync;
mod usage;
mod walk;
mod wallet;

mod api;
mod pages;

pub(crate) use api::routes as api_routes;
pub(crate) use jobs::register_jobs;
pub(crate) use pages::routes as page_routes;

use ez_protocol::{AccountId, OrderId};
use sqlx::AnyConnection;

pub use announce::{
    CHECKOUT_EXPIRED, PAYMENT_SETTLED, PAYMENT_SUSPICIOUS, PLAN_CHANGED, REFUND_SETTLED, STANDING_CHANGED,
};
pub use change::{
    Change, ChangeError, ChangeEvent, ChangeRefused, ChangeState, Line, PREVIEW_LIVES, PlanChangeBooked,
    PlanChangeOff, PlanChangeWaits, PlanChanged, PlanSize, Quote, Served, Way, Wish, carry_out, change,
    changes_of, confirm, due_with, followed, hold_order, may_change, open_change, open_changes, order_of,
    orders_to_follow, paid_change, pay_url, preview, price_of, take_back,
};
pub(crate) use checkout::SESSION_LIFE;
pub use checkout::{accept_payment, checkout, expect, expire_session, look_at_checkout, sync_checkout};
pub use documents::{Document, invoice_link};
pub use dunning::{
    AddressNeeded, Card, CardExpiring, CheckError, ExemptError, PaymentFailed, PaymentNeedsYou,
    PaymentReceipt, RefundFailed, RefundSent, RenewalSoon, ServerEnds, ServerLapses, ServerRestored,
    ServerSuspended, ServerWillBeDeleted, Stand, Standing, Step, Why, check_warning, exempt, is_disputing,
    standing_of, standings_to_follow, unexempt,
};
pub use goodwill::{
    Gift, GiftKind, GiftState, Given, LONGEST_REASON, PaidInvoice, ServerMoney, credit, given_to,
    refund_part, server_money,
};
pub use inbox::{InboxEvent, ReplayError, inbox, inbox_counts, replay};
pub use intake::{Intake, intake};
pub use model::{Checkout, CheckoutState, EventState, Expectation, Invoice, Problem, RefundState, Source};
pub use overview::{Dispute, Overview, Paying, Queued, Revenue, disputes, overview, queue, revenue};
#[cfg(test)]
pub(crate) use reconcile::poll_events;
pub use refund::{Returned, bank_decides, refund_full, refund_state, returned};
pub use revenue::{History, MonthRevenue, history as revenue_history};
pub use shelf::{
    Kind, Lasts, Off, Shelf, Step as ShelfStep, Verb, WantedCode, WantedCoupon, WantedPrice, WantedProduct,
    carry_out as carry_out_step, differences as shelf_differences,
};
pub use store::has_promotion_codes;
pub use stripe::{StripeFault, StripeGate};
pub use subscription::{cancel_at_period_end, cancel_now, give_up, look_before_end, portal};
#[cfg(test)]
pub(crate) use usage::count as count_traffic;
pub use usage::{
    Bill, BillState, Deal, Over, TrafficNear, TrafficOver, TrafficTerms, agree_plan_traffic, agree_traffic,
    traffic_bill, traffic_bills, traffic_closes, traffic_deal,
};
pub use walk::{Difference, Report, differences, reconcile};

use crate::db::DbError;

/// Why something with money did not work.
#[derive(Debug, thiserror::Error)]
pub enum BillingError {
    /// Stripe, or the way to it.
    #[error("asking Stripe")]
    Stripe(#[from] StripeFault),
    /// Our database.
    #[error("reading or writing the local copy")]
    Db(#[from] DbError),
    /// Nothing of the kind is known here.
    #[error("no {0} is known for this")]
    Unknown(&'static str),
    /// The price was never pushed to Stripe: `apply` has to run again.
    #[error("the price {0} is not known at Stripe yet; run apply again")]
    PriceNotPushed(String),
    /// An answer lacks what the decision needs.
    #[error("Stripe's answer lacks {0}")]
    Incomplete(&'static str),
    /// An earlier call has an unknown outcome and is too old to be sent again under its key.
    #[error("the outcome of an earlier call is being looked up")]
    LookingUp,
    /// The checkout is over; there is nothing to pay any more.
    #[error("this checkout is over")]
    Over,
    /// What was asked for cannot be.
    #[error("{0}")]
    Unfit(Unfit),
    /// The bank has the payment, or has taken it.
    #[error(
        "the payment is disputed, so its customer's bank decides where the money is; nothing was given back. Answer the \
         dispute in Stripe's dashboard"
    )]
    Disputed,
    /// We cannot give it back; why, and what to do.
    #[error("{0}")]
    ByHand(&'static str),
    /// It was paid already.
    #[error("this has been paid already")]
    AlreadyPaid,
}

/// Why what was asked for cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A gift's reference is none.
    #[error("the reference: 1 to 60 letters, digits, - and _")]
    Reference,
    /// Its amount is none.
    #[error("the amount: more than 0, in minor units")]
    Amount,
    /// It has no reason, or a long one.
    #[error("the reason: a sentence, at most 200 characters")]
    Reason,
    /// Another gift has its reference.
    #[error("the reference: it was used for another amount")]
    Used,
    /// Stripe has refused the gift of this reference.
    #[error("the reference: Stripe has refused this")]
    Refused,
    /// It does not fit into what is left of its payment.
    #[error("the amount: more than is left of the payment")]
    Payment,
    /// Nor into what was paid for the server.
    #[error("the amount: more than was paid for the server and is not given back")]
    Server,
    /// It fits into its payment, but credit was given for it already.
    #[error("the amount: with the credit that was given, more than was paid for the server")]
    Credited,
    /// A price cannot be changed: it is.
    #[error("the price is being changed already")]
    Changing,
}

impl BillingError {
    /// Whether trying again later can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Stripe(fault) => fault.is_passing(),
            Self::Db(error) => error.is_transient(),
            Self::LookingUp => true,
            _ => false,
        }
    }

    /// Whether Stripe is away or busy, so that asking about something else makes no sense now.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Stripe(fault) if fault.is_away())
    }

    /// Whether it is our key or our settings: every call meets it, until a person has mended them.
    fn is_locked_out(&self) -> bool {
        matches!(self, Self::Stripe(fault) if fault.is_locked_out())
    }

    /// Whether it says nothing about what was asked for: it passes, or a person mends our key. Whoever has time asks again.
    pub fn is_retryable(&self) -> bool {
        self.is_passing() || self.is_locked_out()
    }

    /// Whether a refund is refused because its payment is disputed.
    pub(in crate::billing) fn is_disputed(&self) -> bool {
        match self {
            Self::Stripe(fault) => fault.is_disputed(),
            Self::Disputed => true,
            _ => false,
        }
    }
}

/// What could not be read, to be told when the rest is taken over. Without our database nothing goes on.
fn put_off(read: Result<(), BillingError>) -> Result<Option<BillingError>, BillingError> {
    match read {
        Ok(()) => Ok(None),
        Err(BillingError::Db(error)) => Err(error.into()),
        Err(error) => Ok(Some(error)),
    }
}

/// The currency that Stripe keeps an account to, once it has one.
///
/// # Errors
/// Those of the query.
pub async fn currency_of(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    store::currency_of(connection, account).await
}

/// An account's invoices, newest first.
///
/// # Errors
/// Those of the query.
pub async fn invoices(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Invoice>, DbError> {
    store::invoices(connection, account).await
}

/// What is known about an order's payment.
///
/// # Errors
/// Those of the query.
pub async fn checkout_of(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Checkout>, DbError> {
    store::checkout(connection, order).await
}

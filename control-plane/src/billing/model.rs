//! Plain types of money, and the judgement whether a payment is the right one.

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use serde::Serialize;

use super::stripe::{CheckoutSession, RefundView, SubscriptionView};
use crate::{config::Tax, db::text_enum};

text_enum! {
    /// How the payment of an order stands.
    pub enum CheckoutState {
        /// A payment page is wanted and not there yet.
        Wanted = "wanted",
        /// The payment page is open.
        Open = "open",
        /// The customer is done, the money is on its way (delayed methods).
        Processing = "processing",
        /// The right money is there, or a person took what came for it.
        Settled = "settled",
        /// Money is there, but not the right one.
        Suspicious = "suspicious",
        /// The page ran out or was closed.
        Expired = "expired",
    }
}

text_enum! {
    /// How a refund stands.
    pub enum RefundState {
        /// Asked for here, not confirmed by Stripe.
        Wanted = "wanted",
        /// Stripe is at it.
        Pending = "pending",
        /// The money is back.
        Succeeded = "succeeded",
        /// Stripe could not.
        Failed = "failed",
    }
}

impl RefundState {
    /// How a refund stands in Stripe's words.
    pub(super) fn of(refund: &RefundView) -> Self {
        match refund.status.as_deref() {
            Some("succeeded") => Self::Succeeded,
            Some("failed" | "canceled") => Self::Failed,
            _ => Self::Pending,
        }
    }
}

text_enum! {
    /// Where an event came from.
    pub enum Source {
        /// Stripe delivered it.
        Webhook = "webhook",
        /// We found it in the list of events.
        Poll = "poll",
    }
}

text_enum! {
    /// How far an event was processed.
    pub enum EventState {
        /// Stored; its object will be read again.
        Received = "received",
        /// Its object was read after the event.
        Done = "done",
        /// Its object could not be taken over; it is tried again.
        Parked = "parked",
        /// Nothing of ours.
        Ignored = "ignored",
        /// Genuine, but without an id or object that could be read: for a person to look at.
        Failed = "failed",
    }
}

text_enum! {
    /// How a call of the outbox stands.
    pub enum CallState {
        /// Written down; may or may not have been sent.
        Pending = "pending",
        /// Stripe did it.
        Done = "done",
        /// Stripe refused it.
        Refused = "refused",
        /// Another attempt took its place after the object was looked up in vain.
        Replaced = "replaced",
    }
}

text_enum! {
    /// What is wrong with a payment.
    pub enum Problem {
        /// Another sum than the order's.
        Amount = "amount",
        /// Something was taken off, and by no promotion code of ours.
        Discount = "discount",
        /// Another currency than the order's.
        Currency = "currency",
        /// Another price, or more than one item.
        Price = "price",
        /// Another customer than the account's.
        Customer = "customer",
        /// Test money for a live installation, or the reverse.
        Livemode = "livemode",
        /// Paid without a subscription behind it.
        NoSubscription = "no_subscription",
        /// The money went back before it was counted.
        Refunded = "refunded",
        /// The customer's bank takes it back.
        Disputed = "disputed",
    }
}

/// What an order has to be paid with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The order.
    pub order: OrderId,
    /// The server it buys.
    pub instance: InstanceId,
    /// Who pays.
    pub account: AccountId,
    /// Where Stripe may write to.
    pub email: String,
    /// What the customer reads on the payment page and the invoice.
    pub description: String,
    /// Our price id.
    pub price_id: String,
    /// Stripe's price.
    pub stripe_price_id: String,
    /// Lower-case ISO code.
    pub currency: String,
    /// What one interval costs; minor units.
    pub amount_minor: i64,
    /// Paid once, with the first payment; minor units.
    pub setup_minor: i64,
    /// Stripe's one-time price of that.
    pub stripe_setup_price_id: Option<String>,
    /// Days before the first interval is paid; 0 for none.
    pub trial_days: u32,
    /// How taxes are worked out.
    pub tax: Tax,
}

impl Expectation {
    /// What the payment page asks for, before discounts and taxes; minor units.
    pub const fn due_today(&self) -> i64 {
        if self.trial_days > 0 { self.setup_minor } else { self.setup_minor + self.amount_minor }
    }
}

/// The payment of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// What is expected.
    pub expected: Expectation,
    /// How many payment pages were asked for.
    pub attempt: i64,
    /// How it stands.
    pub state: CheckoutState,
    /// `cs_…`
    pub session_id: Option<String>,
    /// Where to pay.
    pub url: Option<String>,
    /// When the page runs out.
    pub expires_at: Option<UnixMillis>,
    /// `cus_…`
    pub customer_id: Option<String>,
    /// `sub_…`, once paid.
    pub subscription_id: Option<String>,
    /// When the money was there.
    pub settled_at: Option<UnixMillis>,
    /// What is wrong with the payment, also once a person took it for the right one.
    pub problem: Option<Problem>,
    /// What a promotion code took off; minor units.
    pub discount_minor: i64,
    /// Taxes in what was paid; minor units.
    pub tax_minor: i64,
    /// What was paid, after discounts and with taxes; minor units. Known once it was.
    pub paid_minor: Option<i64>,
}

/// One invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invoice {
    /// `in_…`
    pub id: String,
    /// Number printed on it.
    pub number: Option<String>,
    /// What it is for, as the customer read it when paying.
    pub servers: Vec<String>,
    /// Stripe's word for its state.
    pub status: String,
    /// Lower-case ISO code.
    pub currency: String,
    /// What it is about, before credit. Minor units.
    pub total_minor: i64,
    /// What is still to be paid. Minor units.
    pub due_minor: i64,
    /// What was paid with money, not credit. Minor units.
    pub paid_minor: i64,
    /// Page with the invoice.
    pub hosted_url: Option<String>,
    /// The PDF.
    pub pdf_url: Option<String>,
    /// When it was made.
    pub issued_at: UnixMillis,
}

/// Whether a completed session and its subscription are what the order expects.
///
/// A field that is missing is a field that does not match: what cannot be seen is not taken for paid. A sum may be
/// lower than expected by the discount that Stripe reports, and only if it comes from a promotion code of ours
/// (`ours` says so of its id); it may be higher by taxes, and only where they are added to prices.
pub(super) fn judge(
    checkout: &Checkout,
    session: &CheckoutSession,
    subscription: Option<&SubscriptionView>,
    livemode: bool,
    ours: impl Fn(&str) -> bool,
) -> Result<(), Problem> {
    let expected = &checkout.expected;
    let hold = |holds: bool, problem: Problem| if holds { Ok(()) } else { Err(problem) };
    hold(session.livemode == Some(livemode), Problem::Livemode)?;
    hold(session.customer.is_some() && session.customer == checkout.customer_id, Problem::Customer)?;
    hold(session.currency.as_deref() == Some(expected.currency.as_str()), Problem::Currency)?;
    hold(session.amount_subtotal == Some(expected.due_today()), Problem::Amount)?;
    let (discount, tax) = session.discount_and_tax().ok_or(Problem::Amount)?;
    hold((0..=expected.due_today()).contains(&discount) && tax >= 0, Problem::Amount)?;
    let codes = session.promotion_codes();
    hold(
        discount == 0 || (!codes.is_empty() && codes.iter().all(|code| code.is_some_and(&ours))),
        Problem::Discount,
    )?;
    let added = match expected.tax {
        Tax::Off if tax > 0 => return Err(Problem::Amount),
        Tax::Off | Tax::Inclusive => 0,
        Tax::Exclusive => tax,
    };
    hold(session.amount_total == Some(expected.due_today() - discount + added), Problem::Amount)?;
    let subscription = subscription.ok_or(Problem::NoSubscription)?;
    hold(subscription.customer == checkout.customer_id, Problem::Customer)?;
    hold(subscription.is_one_server(), Problem::Price)?;
    hold(subscription.price_id() == Some(expected.stripe_price_id.as_str()), Problem::Price)
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;

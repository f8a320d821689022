//! The purchase as a state machine: pure types and transitions that can refuse.

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis, UserId};

use crate::{catalog::Interval, db::text_enum};

text_enum! {
    /// Where a purchase stands.
    pub enum OrderState {
        /// Placed and reserved; the customer has a payment page.
        AwaitingPayment = "awaiting_payment",
        /// Stripe has the money; no node works on it yet.
        Paid = "paid",
        /// A signed provisioning order is out.
        Provisioning = "provisioning",
        /// The server was built. What happens to it later is the instance's story.
        Fulfilled = "fulfilled",
        /// The customer cancelled before paying.
        Cancelled = "cancelled",
        /// The payment page ran out.
        Expired = "expired",
        /// A person has to decide; everything stays reserved and a refund is due at a set time.
        NeedsOperator = "needs_operator",
        /// The money is on its way back.
        Refunding = "refunding",
        /// The money is back.
        Refunded = "refunded",
    }
}

impl OrderState {
    /// Whether nothing is due any more (a late payment can still wake it).
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Fulfilled | Self::Cancelled | Self::Expired | Self::Refunded)
    }

    /// Whether the customer's money is with us for something not yet delivered or given back.
    pub const fn owes(self) -> bool {
        matches!(self, Self::Paid | Self::Provisioning | Self::NeedsOperator | Self::Refunding)
    }
}

text_enum! {
    /// What happened.
    pub enum OrderEvent {
        /// Stripe has the money, and it is the right money.
        PaymentSettled = "payment_settled",
        /// Stripe has money, but not the right one.
        PaymentSuspicious = "payment_suspicious",
        /// Stripe has the money after all, but the customer has ordered the same again meanwhile.
        PaymentSurplus = "payment_surplus",
        /// Stripe says that the payment page ran out.
        CheckoutExpired = "checkout_expired",
        /// The customer cancelled and Stripe closed the payment page.
        CustomerCancelled = "customer_cancelled",
        /// A provisioning order was signed and stored.
        Issued = "issued",
        /// The node reported success.
        Built = "built",
        /// The attempt is over and fenced; another one may follow.
        AttemptFenced = "attempt_fenced",
        /// Trying on makes no sense without a person.
        GaveUp = "gave_up",
        /// An operator: once more.
        OperatorRetry = "operator_retry",
        /// An operator: on another node.
        OperatorRePlace = "operator_re_place",
        /// An operator: let go of node, address and VMID; the refund follows when due.
        OperatorAbandon = "operator_abandon",
        /// An operator, or the deadline: give the money back.
        RefundStarted = "refund_started",
        /// Stripe gave it back.
        RefundSettled = "refund_settled",
        /// Stripe could not.
        RefundFailed = "refund_failed",
    }
}

/// What an event does to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It moves there.
    Moves(OrderState),
    /// This has happened already; nothing to do.
    Already,
}

/// An event that makes no sense in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order that is {state} cannot take {}", .event.as_str())]
pub struct Refused {
    /// The state it is in.
    pub state: OrderState,
    /// What was tried.
    pub event: OrderEvent,
}

impl OrderState {
    /// Takes an event.
    ///
    /// # Errors
    /// [`Refused`] when the event makes no sense here; nothing changes then.
    pub fn take(self, event: OrderEvent) -> Result<Outcome, Refused> {
        use OrderEvent as E;
        use OrderState as S;
        let next = match (self, event) {
            (S::AwaitingPayment, E::PaymentSettled) => S::Paid,
            // Paid after we let go: the money is never lost, a person (or the refund) decides.
            (S::Cancelled | S::Expired, E::PaymentSettled) => S::NeedsOperator,
            (S::AwaitingPayment | S::Cancelled | S::Expired, E::PaymentSuspicious) => S::NeedsOperator,
            // Nobody wants two servers: it goes back at once.
            (S::Cancelled | S::Expired, E::PaymentSurplus) => S::Refunding,
            (S::AwaitingPayment, E::CheckoutExpired) => S::Expired,
            (S::AwaitingPayment, E::CustomerCancelled) => S::Cancelled,
            (S::Paid, E::Issued) => S::Provisioning,
            // A silent node may report success while a person is looking at the order.
            (S::Provisioning | S::NeedsOperator, E::Built) => S::Fulfilled,
            (S::Provisioning, E::AttemptFenced) => S::Paid,
            (S::Paid | S::Provisioning, E::GaveUp) => S::NeedsOperator,
            (S::NeedsOperator, E::OperatorRetry | E::OperatorRePlace) => S::Paid,
            (S::NeedsOperator, E::OperatorAbandon) => S::NeedsOperator,
            (S::Paid | S::NeedsOperator, E::RefundStarted) => S::Refunding,
            (S::Refunding, E::RefundSettled) => S::Refunded,
            (S::Refunding, E::RefundFailed) => S::NeedsOperator,

            (
                S::Paid | S::Provisioning | S::Fulfilled | S::NeedsOperator | S::Refunding | S::Refunded,
                E::PaymentSettled,
            )
            | (S::NeedsOperator | S::Refunding | S::Refunded, E::PaymentSuspicious | E::PaymentSurplus)
            | (S::Expired | S::Cancelled, E::CheckoutExpired | E::CustomerCancelled)
            | (S::Provisioning | S::Fulfilled, E::Issued)
            | (S::Fulfilled, E::Built)
            | (S::Paid | S::NeedsOperator, E::AttemptFenced)
            | (S::NeedsOperator, E::GaveUp)
            | (S::Refunding | S::Refunded, E::RefundStarted)
            | (S::Refunded, E::RefundSettled) => return Ok(Outcome::Already),
            (state, event) => return Err(Refused { state, event }),
        };
        Ok(Outcome::Moves(next))
    }
}

/// Why an order stands where it stands: stable words, translated where people read them.
pub mod reason {
    /// No node had room within the time that is tried.
    pub const NO_CAPACITY: &str = "no_capacity";
    /// A node accepted and has been silent since.
    pub const NODE_SILENT: &str = "node_silent";
    /// The node could neither finish nor undo.
    pub const NODE_STUCK: &str = "node_stuck";
    /// Several nodes failed in a way that another try would not change.
    pub const BUILD_FAILED: &str = "build_failed";
    /// The money does not match the order.
    pub const PAYMENT_MISMATCH: &str = "payment_mismatch";
    /// Paid after the reservation was gone.
    pub const PAID_TOO_LATE: &str = "paid_too_late";
    /// Paid after all, when the same had been ordered again.
    pub const PAID_TWICE: &str = "paid_twice";
    /// An operator let go of it.
    pub const ABANDONED: &str = "abandoned";
    /// Stripe could not give the money back.
    pub const REFUND_FAILED: &str = "refund_failed";
    /// Something of ours could not be done (the log says what).
    pub const INTERNAL: &str = "internal";
}

/// One purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Who pays and owns the server.
    pub account: AccountId,
    /// Who placed it.
    pub user: UserId,
    /// Where mails about it go.
    pub email: String,
    /// The server it buys.
    pub instance: InstanceId,
    /// Name of the server.
    pub hostname: String,
    /// Plan code and the name it had.
    pub plan_code: String,
    /// Name of the plan when it was sold.
    pub plan_name: String,
    /// Image code.
    pub image_code: String,
    /// Name of the image when it was sold.
    pub image_name: String,
    /// Location code.
    pub location: String,
    /// Our price id, which is the lookup key at Stripe.
    pub price_id: String,
    /// How often it is charged.
    pub interval: Interval,
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units for one interval.
    pub amount_minor: i64,
    /// Paid once, with the first payment; minor units.
    pub setup_minor: i64,
    /// Days before the first interval is paid; 0 for none.
    pub trial_days: u32,
    /// What was paid at the purchase, after discounts and with taxes; minor units.
    pub paid_minor: Option<i64>,
    /// Version of the terms that were accepted.
    pub terms_version: String,
    /// Where it stands.
    pub state: OrderState,
    /// Why it stands there, one of [`reason`].
    pub reason: Option<String>,
    /// How long node, addresses and VMID are held for the payment.
    pub reserved_until: UnixMillis,
    /// When it was placed.
    pub placed_at: UnixMillis,
    /// When it changed last.
    pub updated_at: UnixMillis,
    /// When the money was there.
    pub paid_at: Option<UnixMillis>,
    /// When the server was built.
    pub fulfilled_at: Option<UnixMillis>,
    /// When it ended otherwise.
    pub closed_at: Option<UnixMillis>,
    /// Since when a person has been asked for.
    pub needs_operator_at: Option<UnixMillis>,
    /// When the money goes back by itself.
    pub refund_due_at: Option<UnixMillis>,
    /// The order that ended unpaid and that this one repeats.
    pub again_of: Option<OrderId>,
    /// Rises with each change; guards updates.
    pub version: i64,
}

impl Order {
    /// What is due at the purchase, before discounts and taxes; minor units.
    pub const fn due_today(&self) -> i64 {
        if self.trial_days > 0 { self.setup_minor } else { self.setup_minor + self.amount_minor }
    }
}

/// One step of an order's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state before; `None` for the first.
    pub from: Option<OrderState>,
    /// The state after.
    pub to: OrderState,
    /// The event's word.
    pub cause: String,
    /// One of [`reason`].
    pub reason: Option<String>,
    /// When.
    pub at: UnixMillis,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moves(state: OrderState) -> Vec<(OrderEvent, OrderState)> {
        OrderEvent::ALL
            .iter()
            .copied()
            .filter_map(|event| match state.take(event) {
                Ok(Outcome::Moves(next)) => Some((event, next)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn no_state_without_an_exit() {
        for state in OrderState::ALL.iter().copied() {
            let exits = moves(state);
            if matches!(state, OrderState::Fulfilled | OrderState::Refunded) {
                assert!(exits.is_empty(), "{state} is an end");
            } else {
                assert!(exits.iter().any(|(_, next)| *next != state), "{state} has no exit");
            }
        }
    }

    #[test]
    fn from_everywhere_money_comes_to_a_server_or_back() {
        for start in OrderState::ALL.iter().copied().filter(|s| s.owes()) {
            let mut seen = vec![start];
            let mut at = 0;
            while at < seen.len() {
                for (_, next) in moves(seen[at]) {
                    if !seen.contains(&next) {
                        seen.push(next);
                    }
                }
                at += 1;
            }
            assert!(seen.contains(&OrderState::Refunded), "{start} cannot be refunded");
        }
    }

    #[test]
    fn an_operator_has_four_ways_out_and_no_say_elsewhere() {
        use OrderEvent as E;
        for event in [E::OperatorRetry, E::OperatorRePlace, E::OperatorAbandon, E::RefundStarted] {
            assert!(matches!(OrderState::NeedsOperator.take(event), Ok(Outcome::Moves(_))), "{event:?}");
            for state in [OrderState::AwaitingPayment, OrderState::Fulfilled, OrderState::Provisioning] {
                assert!(state.take(event).is_err(), "{state} took {event:?}");
            }
        }
    }

    #[test]
    fn a_payment_is_never_refused() {
        for state in OrderState::ALL.iter().copied() {
            assert!(state.take(OrderEvent::PaymentSettled).is_ok(), "{state}");
        }
    }

    fn any_event() -> impl Strategy<Value = OrderEvent> {
        (0..OrderEvent::ALL.len()).prop_map(|i| OrderEvent::ALL[i])
    }

    proptest! {
        /// Whatever happens in whatever order: money once taken is never forgotten, and a
        /// server is only built with money.
        #[test]
        fn no_sequence_of_events_loses_the_money(events in prop::collection::vec(any_event(), 0..40)) {
            let mut state = OrderState::AwaitingPayment;
            let mut paid = false;
            for event in events {
                let before = state;
                match state.take(event) {
                    Ok(Outcome::Moves(next)) => state = next,
                    Ok(Outcome::Already) | Err(_) => prop_assert_eq!(state, before),
                }
                let pays = matches!(
                    event,
                    OrderEvent::PaymentSettled | OrderEvent::PaymentSuspicious | OrderEvent::PaymentSurplus
                );
                paid |= pays && state.owes();
                if paid {
                    prop_assert!(
                        state.owes() || matches!(state, OrderState::Fulfilled | OrderState::Refunded),
                        "money was taken and the order is {}", state
                    );
                } else {
                    prop_assert!(!matches!(state, OrderState::Fulfilled | OrderState::Provisioning));
                }
            }
        }

        /// The same event twice in a row changes nothing the second time, or is refused.
        #[test]
        fn delivered_twice_counts_once(events in prop::collection::vec(any_event(), 0..20), twice in any_event()) {
            let mut state = OrderState::AwaitingPayment;
            for event in events {
                if let Ok(Outcome::Moves(next)) = state.take(event) {
                    state = next;
                }
            }
            if let Ok(Outcome::Moves(next)) = state.take(twice) {
                match next.take(twice) {
                    Ok(Outcome::Moves(again)) => prop_assert_eq!(again, next),
                    Ok(Outcome::Already) | Err(_) => {}
                }
            }
        }
    }
}

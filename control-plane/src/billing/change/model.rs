//! Plain types of a plan change and the transitions it may make.

use ez_protocol::{AccountId, InstanceId, OrderId, PlanChangeId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::{catalog, db::text_enum};

text_enum! {
    /// When a change comes about.
    pub enum Way {
        /// At once: what is left of the period is billed now, and paid now.
        Now = "now",
        /// With the end of the paid period; nothing is billed before.
        PeriodEnd = "period_end",
        /// Somebody changed the price in Stripe's dashboard.
        Outside = "outside",
    }
}

text_enum! {
    /// How a change stands.
    pub enum ChangeState {
        /// Shown with what it costs; nothing is promised.
        Previewed = "previewed",
        /// Confirmed by its customer; Stripe has been, or will be, told.
        Wanted = "wanted",
        /// Its invoice has to be paid by a person.
        AwaitingPayment = "awaiting_payment",
        /// Stripe carries it out with the end of the period.
        Scheduled = "scheduled",
        /// The price is the new one, and it is paid; the server follows.
        Applied = "applied",
        /// The server has followed.
        Done = "done",
        /// Nobody paid for it in time.
        Expired = "expired",
        /// Its customer, or an operator, took it back.
        TakenBack = "taken_back",
        /// Stripe refused it.
        Refused = "refused",
        /// Nothing came of it: never confirmed, or the subscription ended before.
        Dropped = "dropped",
    }
}

/// What happens to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeEvent {
    /// Its customer confirms it.
    Confirm,
    /// Stripe has noted it and waits for the payment.
    AskedToPay,
    /// Stripe has noted it for the end of the period.
    Booked,
    /// The subscription has the new price, and it is paid.
    Apply,
    /// The server is as it was paid for.
    Follow,
    /// The time to pay is over.
    RunOut,
    /// Somebody does not want it any more.
    TakeBack,
    /// Stripe says no.
    Refuse,
    /// What it was about is over.
    Drop,
}

impl ChangeEvent {
    #[cfg(test)]
    const ALL: [Self; 9] = [
        Self::Confirm,
        Self::AskedToPay,
        Self::Booked,
        Self::Apply,
        Self::Follow,
        Self::RunOut,
        Self::TakeBack,
        Self::Refuse,
        Self::Drop,
    ];
}

/// A step that a change's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a plan change that is {state} cannot do this ({event:?})")]
pub struct Refused {
    /// What it is.
    pub state: ChangeState,
    /// What was wanted.
    pub event: ChangeEvent,
}

impl ChangeState {
    /// The state after an event.
    ///
    /// # Errors
    /// [`Refused`] where the event makes no sense.
    pub fn take(self, event: ChangeEvent) -> Result<Self, Refused> {
        use ChangeEvent as E;
        Ok(match (self, event) {
            (Self::Previewed, E::Confirm) => Self::Wanted,
            (Self::Wanted | Self::AwaitingPayment, E::AskedToPay) => Self::AwaitingPayment,
            (Self::Wanted | Self::Scheduled, E::Booked) => Self::Scheduled,
            (Self::Wanted | Self::AwaitingPayment | Self::Scheduled, E::Apply) => Self::Applied,
            (Self::Applied, E::Follow) => Self::Done,
            (Self::AwaitingPayment, E::RunOut) => Self::Expired,
            (Self::Scheduled, E::TakeBack) => Self::TakenBack,
            (Self::Wanted, E::Refuse) => Self::Refused,
            (
                Self::Previewed | Self::Wanted | Self::AwaitingPayment | Self::Scheduled | Self::Applied,
                E::Drop,
            ) => Self::Dropped,
            (state, event) => return Err(Refused { state, event }),
        })
    }

    /// Whether it keeps other changes of the same server back.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Wanted | Self::AwaitingPayment | Self::Scheduled | Self::Applied)
    }
}

/// One line of what a change costs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it is, in the words of the invoice.
    pub description: String,
    /// Minor units; below zero is time that was paid for and is not used.
    pub amount_minor: i64,
    /// What it is for, unix seconds.
    pub from: Option<i64>,
    /// Its end, unix seconds.
    pub until: Option<i64>,
}

/// What a change costs, as Stripe will bill it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Line by line.
    pub lines: Vec<Line>,
    /// Lower-case ISO code.
    pub currency: String,
    /// Discounts, minor units.
    #[serde(default)]
    pub discount_minor: i64,
    /// Taxes that are added, minor units.
    #[serde(default)]
    pub tax_minor: i64,
    /// The sum of all that; below zero becomes credit.
    pub total_minor: i64,
    /// Credit that is used up for it, minor units.
    pub credit_minor: i64,
    /// What is charged now.
    pub due_minor: i64,
    /// What the next period costs.
    pub next_minor: i64,
    /// When that is charged.
    pub next_at: Option<UnixMillis>,
}

/// What a plan gives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSize {
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// How many snapshots a server may have.
    pub snapshots: u32,
    /// How many backups of it are kept.
    pub backups: u32,
}

impl From<&catalog::Plan> for PlanSize {
    fn from(plan: &catalog::Plan) -> Self {
        Self {
            vcpu: plan.vcpu,
            memory_mib: plan.memory_mib,
            disk_gib: plan.disk_gib,
            snapshots: plan.snapshots,
            backups: plan.backups,
        }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its id.
    pub id: PlanChangeId,
    /// The purchase.
    pub order: OrderId,
    /// The server.
    pub instance: InstanceId,
    /// Who pays.
    pub account: AccountId,
    /// When it comes about.
    pub way: Way,
    /// How it stands.
    pub state: ChangeState,
    /// Our price before.
    pub from_price: String,
    /// Stripe's.
    pub from_stripe_price: String,
    /// Our price afterwards.
    pub to_price: String,
    /// Stripe's.
    pub to_stripe_price: String,
    /// Code of the plan afterwards.
    pub to_plan: String,
    /// What that plan gives.
    pub to_size: PlanSize,
    /// What was shown.
    pub quote: Option<Quote>,
    /// Unix seconds: the moment that preview and change are computed for.
    pub proration_date: i64,
    /// How often Stripe was asked anew.
    pub attempt: i64,
    /// The end of the period with which it is due.
    pub due_at: Option<UnixMillis>,
    /// Until when its invoice can be paid.
    pub expires_at: Option<UnixMillis>,
    /// `in_…`
    pub invoice: Option<String>,
    /// `sub_sched_…`
    pub schedule: Option<String>,
    /// Whether the schedule was let go.
    pub released: bool,
    /// Whether it is not wanted any more.
    pub back_wanted: bool,
    /// Why it ended as it did, in a stable word.
    pub reason: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// Which of the order's changes came about last.
    pub applied_no: Option<i64>,
    /// When it was previewed.
    pub created_at: UnixMillis,
    /// When it was confirmed.
    pub confirmed_at: Option<UnixMillis>,
    /// When it came about.
    pub applied_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// When it changed last.
    pub updated_at: UnixMillis,
}

impl Change {
    /// Whether it keeps room on a node that is not paid for yet.
    pub fn reserves(&self) -> bool {
        self.way == Way::Now && matches!(self.state, ChangeState::Wanted | ChangeState::AwaitingPayment)
    }
}

/// Both prices of a change that is previewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The purchase.
    pub order: OrderId,
    /// When it shall come about; never [`Way::Outside`].
    pub way: Way,
    /// Our price afterwards.
    pub to_price: String,
    /// Stripe's.
    pub to_stripe_price: String,
    /// Code of the plan afterwards.
    pub to_plan: String,
    /// What that plan gives.
    pub to_size: PlanSize,
    /// What it costs per period, minor units.
    pub to_minor: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nexts(state: ChangeState) -> Vec<ChangeState> {
        ChangeEvent::ALL.into_iter().filter_map(|event| state.take(event).ok()).collect()
    }

    #[test]
    fn no_open_change_without_an_exit_and_what_ended_stays_so() {
        for state in ChangeState::ALL.iter().copied() {
            let open = state.is_open() || state == ChangeState::Previewed;
            assert_eq!(nexts(state).iter().any(|next| *next != state), open, "{state}");
        }
    }

    #[test]
    fn nothing_follows_before_it_is_applied_and_nothing_is_applied_unconfirmed() {
        for state in ChangeState::ALL.iter().copied() {
            assert_eq!(state.take(ChangeEvent::Follow).is_ok(), state == ChangeState::Applied, "{state}");
        }
        assert!(ChangeState::Previewed.take(ChangeEvent::Apply).is_err());
        assert!(ChangeState::Scheduled.take(ChangeEvent::RunOut).is_err(), "it has no payment to wait for");
        assert!(ChangeState::Applied.take(ChangeEvent::TakeBack).is_err(), "what is paid is served");
    }
}

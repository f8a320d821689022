//! Provisioning orders: their states and what moves them.

use std::time::Duration;

use ez_protocol::{
    InstanceId, NodeId, OrderId, ProvisioningOrderId, UnixMillis,
    message::EventKind,
    order::{CLOCK_TOLERANCE, Op},
};
use serde::{Deserialize, Serialize};

use crate::{
    db::{DbError, text_enum},
    fleet::Placement,
};

text_enum! {
    /// Where a provisioning order stands. "Delivered" is no state: only what the node's journal holds counts.
    pub enum State {
        /// Built and signed; its bytes have not left yet.
        Signed = "signed",
        /// Its bytes left at least once; no answer yet.
        Queued = "queued",
        /// In the node's journal.
        Accepted = "accepted",
        /// A step has begun.
        Running = "running",
        /// Carried out.
        Succeeded = "succeeded",
        /// Failed; the node holds nothing that the order made.
        Failed = "failed",
        /// Failed; what it had made is gone again.
        Undone = "undone",
        /// The node cannot go on by itself.
        Stuck = "stuck",
        /// The node refused it.
        Refused = "refused",
        /// Never accepted, and its time is over.
        Expired = "expired",
        /// A newer generation took its place before it began.
        Superseded = "superseded",
        /// Taken back before the node accepted it.
        Cancelled = "cancelled",
    }
}

/// A change that a state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provisioning order that is {from} cannot become {to}")]
pub struct Refused {
    /// Where it stands.
    pub from: State,
    /// Where it was to go.
    pub to: State,
}

/// Whether a refusal says nothing about the order: the node was busy or not ready, and the same order may be
/// taken a little later. The host's owner's limits on orders, on creates and on replaced disks per time are of this kind.
pub fn is_passing_refusal(refusal: &str) -> bool {
    matches!(
        refusal,
        "NOT_YET"
            | "NO_SPACE"
            | "CLOCK_SKEW"
            | "EXPIRED"
            | "STALE"
            | "POLICY(limits.creates_per_minute)"
            | "POLICY(limits.creates_per_day)"
            | "POLICY(limits.orders_per_hour)"
            | "POLICY(limits.orders_per_server_per_hour)"
            | "POLICY(destroy.replaces_per_hour)"
            | "POLICY(destroy.replaces_per_server_per_hour)"
    )
}

impl State {
    /// Whether nothing more is expected of it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Signed | Self::Queued | Self::Accepted | Self::Running)
    }

    /// Whether the node holds it and may be working on it.
    pub fn is_held_by_node(self) -> bool {
        matches!(self, Self::Accepted | Self::Running | Self::Stuck)
    }

    /// Whether it still has to be delivered.
    pub fn is_undelivered(self) -> bool {
        matches!(self, Self::Signed | Self::Queued)
    }

    /// Checks a change. What a node reports is the truth even for an order that we had given up: one
    /// that had left may be accepted after it was cancelled or had expired here.
    ///
    /// # Errors
    /// [`Refused`] where it cannot be.
    pub fn to(self, next: Self) -> Result<Self, Refused> {
        use State as S;
        let late = matches!(self, S::Expired | S::Cancelled);
        let allowed = match next {
            S::Signed => false,
            S::Queued => matches!(self, S::Signed | S::Queued),
            S::Accepted => self.is_undelivered() || late,
            S::Running => {
                self.is_undelivered() || late || matches!(self, S::Accepted | S::Running | S::Stuck)
            }
            S::Succeeded | S::Failed | S::Undone | S::Stuck | S::Superseded => {
                self.is_undelivered() || late || self.is_held_by_node()
            }
            // An agent may report that it dropped one it had accepted.
            S::Cancelled => self.is_undelivered() || matches!(self, S::Accepted),
            S::Refused => self.is_undelivered() || late,
            S::Expired => self.is_undelivered(),
        };
        if allowed { Ok(next) } else { Err(Refused { from: self, to: next }) }
    }

    /// The state that an event of the node says.
    pub fn of_event(kind: EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::Unspecified => return None,
            EventKind::Accepted => Self::Accepted,
            EventKind::StepStarted
            | EventKind::StepProgress
            | EventKind::StepDone
            | EventKind::StepFailed
            | EventKind::Undoing => Self::Running,
            EventKind::Succeeded => Self::Succeeded,
            EventKind::Failed => Self::Failed,
            EventKind::Undone => Self::Undone,
            EventKind::Stuck => Self::Stuck,
            EventKind::Superseded => Self::Superseded,
            EventKind::Cancelled => Self::Cancelled,
        })
    }
}

/// What somebody wants done, typed. Everything else of an order is decided here.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The instance.
    pub instance: InstanceId,
    /// Its place; it must be the one that fleet holds for the instance.
    pub placement: Placement,
    /// What to do.
    pub op: Op,
    /// The cause; the same instance, verb and cause never issue twice.
    pub cause_key: String,
    /// The purchase behind it.
    pub order: Option<OrderId>,
    /// `customer`, `operator:<user id>`, `billing` or `system`. No personal data.
    pub actor: String,
    /// How long it may wait for the node; at most, and by default, what its kind allows.
    pub ttl: Option<Duration>,
}

/// Whose budget of destroyed disks is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// That of this server, for an hour.
    ServerHour,
    /// That of its node, for an hour.
    NodeHour,
    /// That of its node, for a day.
    NodeDay,
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ServerHour => "the disk of this server was replaced as often as it may be in an hour",
            Self::NodeHour => "as many disks were replaced on the server's host as may be in an hour",
            Self::NodeDay => "as much was replaced and deleted on the server's host as may be in a day",
        })
    }
}

/// Why no order was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The node is pending, quarantined or revoked.
    #[error("the node takes no orders")]
    NodeNotServing,
    /// The instance's place is another one than the intent says.
    #[error("the server does not have that place")]
    WrongPlace,
    /// The specification's network is not that of the place, or its sizes are not those sold.
    #[error("the specification does not fit the place: {0}")]
    WrongSpec(&'static str),
    /// An action for an instance that no order has built.
    #[error("nothing was built for this server yet")]
    NothingBuilt,
    /// Purging is the second of two phases: the instance has not been retired.
    #[error("the server has not been retired")]
    NotRetired,
    /// Too many such orders in the last hour; a person has to look.
    #[error("too many {what} in the last hour ({limit} allowed); an operator has to look")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The node's owner lets only so much be destroyed in a time; nothing was told to the node.
    #[error("{pace}; it may be asked again in {} min", wait.as_secs().div_ceil(60))]
    Paced {
        /// Whose budget is used up.
        pace: Pace,
        /// After which time there will be room again.
        wait: Duration,
    },
    /// The payload broke a rule of the protocol.
    #[error("the order cannot be built: {0}")]
    Payload(#[from] ez_protocol::order::PayloadError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Whether a node can still act on an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// It cannot: it refused, undid or failed it, never got it, or its time and the clocks' tolerance are over.
    Fenced,
    /// It never accepted it as far as we know; ask again at this time.
    NotBefore(UnixMillis),
    /// It holds the order: nothing may be tried elsewhere.
    Held,
}

/// A provisioning order as others see it; never its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvisioningRecord {
    /// Its id.
    pub id: ProvisioningOrderId,
    /// The node it is for.
    pub node: NodeId,
    /// The node's epoch it is for.
    pub epoch: u64,
    /// Its place in the node's sequence.
    pub seq: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Proxmox's number.
    pub vmid: u32,
    /// Version of the wished state.
    pub generation: u64,
    /// `ensure`, `retire`, `purge`, `adopt`, or the action's verb.
    pub verb: String,
    /// The purchase behind it.
    pub order: Option<OrderId>,
    /// Who wanted it.
    pub actor: String,
    /// Where it stands.
    pub state: State,
    /// The step it is at, or was at when it ended.
    pub step: Option<String>,
    /// The refusal's code.
    pub refusal: Option<String>,
    /// What the node said last, for people.
    pub detail: Option<String>,
    /// For a failure: `retryable`, `capacity`, `policy`, `template`, `user` or `bug`.
    pub class: Option<String>,
    /// What is true after it ended.
    pub facts: Option<FactsView>,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// When it ends unaccepted.
    pub expires_at: UnixMillis,
    /// When its bytes left first.
    pub queued_at: Option<UnixMillis>,
    /// When the node had it in its journal, by our clock.
    pub accepted_at: Option<UnixMillis>,
    /// When it ended, by our clock.
    pub finished_at: Option<UnixMillis>,
    /// How often its bytes left.
    pub attempts: u64,
}

impl ProvisioningRecord {
    /// When what it came to was seen, as [`FactsView::seen_at`] has it; `at` is now.
    pub fn seen_at(&self, at: UnixMillis) -> UnixMillis {
        let heard = self.finished_at.unwrap_or(at);
        self.facts.as_ref().map_or(heard, |facts| facts.seen_at(heard))
    }

    /// Whether the node can still act on it, judged at a time.
    pub fn fence(&self, now: UnixMillis) -> FenceOutcome {
        match self.state {
            State::Accepted | State::Running | State::Stuck | State::Succeeded => FenceOutcome::Held,
            State::Failed | State::Undone | State::Refused | State::Superseded => FenceOutcome::Fenced,
            State::Cancelled | State::Expired if self.attempts == 0 => FenceOutcome::Fenced,
            State::Signed | State::Queued | State::Cancelled | State::Expired => {
                let safe = self.expires_at.plus(CLOCK_TOLERANCE);
                if now > safe { FenceOutcome::Fenced } else { FenceOutcome::NotBefore(safe) }
            }
        }
    }
}

/// What is true about an instance after an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct FactsView {
    /// Proxmox's number.
    pub vmid: u32,
    /// `running`, `stopped`, `paused` or `absent`.
    pub power: String,
    /// Addresses the guest was given.
    pub addresses: Vec<String>,
    /// Whether the guest answered; else "started, not confirmed".
    pub confirmed: bool,
    /// Host key fingerprints.
    pub host_keys: Vec<String>,
    /// After an order about snapshots: all there are, oldest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<SnapshotView>>,
    /// After an order about backups: all there are, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Vec<BackupView>>,
    /// After a new password: `now` or `next_boot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whether something that was changed takes effect only with the next cold start.
    #[serde(default)]
    pub restart_needed: bool,
    /// Whether the server is there and has no disk to boot from.
    #[serde(default)]
    pub disk_missing: bool,
    /// When all this was so, by the node's clock; of an order of before nobody wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<UnixMillis>,
}

impl FactsView {
    /// When all this was so, by the clock that the node's reports go by, and no later than `heard`.
    pub fn seen_at(&self, heard: UnixMillis) -> UnixMillis {
        self.told_at.map_or(heard, |told| told.min(heard))
    }
}

/// A snapshot as its node tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its name, unique within the instance.
    pub name: String,
    /// When it was taken, by the node's clock.
    pub taken_at: UnixMillis,
}

/// A backup as its node tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// The provisioning order that made it; it is known by this id everywhere.
    pub order: ProvisioningOrderId,
    /// When it was begun, by the node's clock.
    pub made_at: UnixMillis,
    /// Bytes it takes.
    pub bytes: u64,
}

/// Where a step waits for its turn on its node, as the node tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QueueView {
    /// 1 is next.
    pub position: u32,
    /// Seconds until its turn, from the time of the event on; null where the node has no experience yet.
    pub estimate_secs: Option<u32>,
}

/// One event of a provisioning order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRecord {
    /// Its number in the node's outbox.
    pub event_seq: u64,
    /// What happened, see [`event_word`].
    pub kind: String,
    /// The step.
    pub step: Option<String>,
    /// What the node says about it.
    pub detail: Option<String>,
    /// How far the step is.
    pub percent: Option<u32>,
    /// Where in a queue of its node it waits.
    pub queue: Option<QueueView>,
    /// When, by the node's clock.
    pub at: UnixMillis,
}

/// The stored word of an event's kind.
pub(super) fn event_word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Unspecified => "unspecified",
        EventKind::Accepted => "accepted",
        EventKind::StepStarted => "step_started",
        EventKind::StepProgress => "step_progress",
        EventKind::StepDone => "step_done",
        EventKind::StepFailed => "step_failed",
        EventKind::Succeeded => "succeeded",
        EventKind::Failed => "failed",
        EventKind::Undoing => "undoing",
        EventKind::Undone => "undone",
        EventKind::Stuck => "stuck",
        EventKind::Superseded => "superseded",
        EventKind::Cancelled => "cancelled",
    }
}

/// An order about to be delivered: exact bytes and nothing that could change them.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: ProvisioningOrderId,
    /// How often its bytes left before.
    pub attempts: u64,
    /// The encoded envelope.
    pub envelope: Vec<u8>,
}

//! A customer's server: its life as a state machine, and its plain data.

use ez_protocol::{
    AccountId, ActionId, InstanceId, NodeId, OrderId, ProvisioningOrderId, UnixMillis,
    order::{Locale, OsFamily, PowerVerb, Recipe, TimeZone, UserData},
};
use serde::{Deserialize, Serialize};

use crate::{db::text_enum, placement::Need};

text_enum! {
    /// Where a server stands in its life. What it is *seen* doing is [`Instance::observed_state`].
    pub enum InstanceState {
        /// Ordered; node, addresses and VMID are held for it.
        Requested = "requested",
        /// Paid; node, VMID, addresses and MAC are fixed.
        Assigned = "assigned",
        /// A signed order to build it is out.
        Provisioning = "provisioning",
        /// Built and on.
        Running = "running",
        /// Built and off.
        Stopped = "stopped",
        /// The last attempt to build it ended and left nothing behind; another one may follow.
        Failed = "failed",
        /// Nobody knows what stands on the node; a person looks at it.
        NeedsOperator = "needs_operator",
        /// Its service ends: a signed order for it is out, or will be as soon as its node takes orders.
        Retiring = "retiring",
        /// Off for good; its disk is kept until the purge.
        Retired = "retired",
        /// A signed order to remove it is out.
        Purging = "purging",
        /// Gone.
        Purged = "purged",
        /// Never came to be: its reservation was given back.
        Released = "released",
    }
}

impl InstanceState {
    /// Whether the customer can use it and act on it.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Stopped)
    }

    /// Whether it is over, or was never there.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Purged | Self::Released)
    }
}

/// What happened to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceEvent {
    /// A node was fixed for it.
    Assigned,
    /// The order to build it was signed.
    Issued,
    /// The node built it.
    Built,
    /// The attempt left nothing behind.
    AttemptFenced,
    /// Nobody knows what the attempt left behind.
    WentSilent,
    /// Its reservation was given back; nothing of it exists.
    Released,
    /// It was seen running.
    SeenOn,
    /// It was seen off.
    SeenOff,
    /// Its service ends.
    RetireIssued,
    /// It is off for good.
    Retired,
    /// It was paid before its disk was removed.
    BroughtBack,
    /// It is to be removed.
    PurgeIssued,
    /// It is removed.
    Purged,
}

impl InstanceEvent {
    /// Every event there is.
    pub const ALL: [Self; 13] = [
        Self::Assigned,
        Self::Issued,
        Self::Built,
        Self::AttemptFenced,
        Self::WentSilent,
        Self::Released,
        Self::SeenOn,
        Self::SeenOff,
        Self::RetireIssued,
        Self::Retired,
        Self::BroughtBack,
        Self::PurgeIssued,
        Self::Purged,
    ];
}

/// An event that makes no sense in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server that is {state} cannot take {event:?}")]
pub struct Refused {
    /// The state it is in.
    pub state: InstanceState,
    /// What was tried.
    pub event: InstanceEvent,
}

impl InstanceState {
    /// Takes an event and gives the state after it, which may be the same.
    ///
    /// # Errors
    /// [`Refused`] when the event makes no sense here.
    pub fn take(self, event: InstanceEvent) -> Result<Self, Refused> {
        use InstanceEvent as E;
        use InstanceState as S;
        Ok(match (self, event) {
            (S::Requested | S::Assigned | S::Failed | S::NeedsOperator | S::Released, E::Assigned) => {
                S::Assigned
            }
            (S::Assigned | S::Provisioning, E::Issued) => S::Provisioning,
            (S::Provisioning | S::NeedsOperator | S::Running, E::Built) => S::Running,
            // Retiring too: what was to end turned out never to have come about.
            (S::Provisioning | S::NeedsOperator | S::Retiring | S::Failed, E::AttemptFenced) => S::Failed,
            (S::Provisioning | S::NeedsOperator, E::WentSilent) => S::NeedsOperator,
            (S::Requested | S::Assigned | S::Failed | S::Released, E::Released) => S::Released,
            (S::Running | S::Stopped, E::SeenOn) => S::Running,
            (S::Running | S::Stopped, E::SeenOff) => S::Stopped,
            // NeedsOperator too: a refund ends whatever may stand on the node.
            (S::Running | S::Stopped | S::NeedsOperator | S::Retiring, E::RetireIssued) => S::Retiring,
            // Purging too: its node forgot that it was retired, and has to keep the disk for its time once more.
            (S::Retiring | S::Retired | S::Purging, E::Retired) => S::Retired,
            // Off, until its node has been told.
            (S::Retired, E::BroughtBack) => S::Stopped,
            (S::Retired | S::Purging, E::PurgeIssued) => S::Purging,
            (S::Purging | S::Purged, E::Purged) => S::Purged,
            (state, event) => return Err(Refused { state, event }),
        })
    }
}

/// What its customer chose for the first boot of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBoot {
    /// Which distribution its image is.
    #[serde(default)]
    pub family: Option<OsFamily>,
    /// What is set up.
    #[serde(default)]
    pub recipes: Vec<Recipe>,
    /// Language of messages and sorting.
    #[serde(default)]
    pub locale: Option<Locale>,
    /// Time zone.
    #[serde(default)]
    pub timezone: Option<TimeZone>,
    /// The customer's own part of cloud-init.
    #[serde(default)]
    pub user_data: Option<UserData>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Who owns it.
    pub account: AccountId,
    /// The purchase behind it.
    pub order: OrderId,
    /// Its name.
    pub hostname: String,
    /// Code of its location.
    pub location: String,
    /// Code of its plan.
    pub plan_code: String,
    /// Code of its image.
    pub image_code: String,
    /// Digest of its image.
    pub image_digest: String,
    /// Who logs in.
    pub login_user: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// How many snapshots it may have.
    pub max_snapshots: u32,
    /// How many backups of it are kept; 0 means that none were sold.
    pub max_backups: u32,
    /// Public keys that may log in, as lines.
    pub ssh_keys: Vec<String>,
    /// What was chosen for its first boot.
    pub first_boot: FirstBoot,
    /// Where it stands.
    pub state: InstanceState,
    /// Why, in a stable word or one sentence of the node.
    pub reason: Option<String>,
    /// Its node, once fixed.
    pub node: Option<NodeId>,
    /// The provisioning order that builds, ends or removes it.
    pub provisioning_order: Option<ProvisioningOrderId>,
    /// How often building was tried.
    pub attempts: u32,
    /// Nodes on which building failed.
    pub tried_nodes: Vec<NodeId>,
    /// Power state as last seen: `running`, `stopped`, `paused` or `absent`.
    pub observed_state: Option<String>,
    /// When it was seen so, by the agent's clock.
    pub observed_at: Option<UnixMillis>,
    /// Fingerprints of its SSH host keys, where the first boot showed them.
    pub host_keys: Vec<String>,
    /// When it was ordered.
    pub created_at: UnixMillis,
    /// When its row changed last.
    pub updated_at: UnixMillis,
    /// When its node was fixed.
    pub assigned_at: Option<UnixMillis>,
    /// When the node said that it is built.
    pub built_at: Option<UnixMillis>,
    /// When the guest was first known to be usable.
    pub usable_at: Option<UnixMillis>,
    /// When its service ended.
    pub retired_at: Option<UnixMillis>,
    /// When it will be removed.
    pub purge_at: Option<UnixMillis>,
    /// When it was removed.
    pub purged_at: Option<UnixMillis>,
}

impl Instance {
    /// Whether it was on when its node looked last.
    pub fn is_seen_on(&self) -> bool {
        matches!(self.observed_state.as_deref(), Some("running" | "paused"))
    }

    /// What it takes from a node.
    pub fn need(&self) -> Need {
        Need {
            location: self.location.clone(),
            vcpu: self.vcpu,
            memory_mib: u64::from(self.memory_mib),
            disk_gib: u64::from(self.disk_gib),
            image_digest: self.image_digest.clone(),
        }
    }
}

text_enum! {
    /// How an action stands.
    pub enum ActionState {
        /// On its way or being done.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// Not done.
        Failed = "failed",
    }
}

/// The progress of one change to a server, as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    /// Its id.
    pub id: ActionId,
    /// The server.
    pub instance: InstanceId,
    /// `create`, `delete`, `suspend`, `resume` or a verb's word, such as `snapshot_create`.
    pub kind: String,
    /// What it is about: a snapshot's name, an image, the order that made a backup.
    pub about: Option<String>,
    /// How it stands.
    pub state: ActionState,
    /// The signed order behind it.
    pub provisioning_order: Option<ProvisioningOrderId>,
    /// `customer`, `operator:<user id>`, `billing` or `system`.
    pub requested_by: String,
    /// What went wrong, one sentence.
    pub error: Option<String>,
    /// When it was asked for.
    pub started_at: UnixMillis,
    /// When it ended.
    pub finished_at: Option<UnixMillis>,
}

impl ActionRow {
    /// One that has just begun.
    pub fn begun(
        id: ActionId,
        at: UnixMillis,
        instance: InstanceId,
        kind: &str,
        order: ProvisioningOrderId,
        actor: &str,
    ) -> Self {
        Self {
            id,
            instance,
            kind: kind.to_owned(),
            about: None,
            state: ActionState::Running,
            provisioning_order: Some(order),
            requested_by: actor.to_owned(),
            error: None,
            started_at: at,
            finished_at: None,
        }
    }
}

/// Whether a power verb makes sense for a server that was last seen like this.
pub fn verb_fits(verb: PowerVerb, state: InstanceState) -> bool {
    match verb {
        PowerVerb::Start => state == InstanceState::Stopped,
        PowerVerb::Shutdown | PowerVerb::Reboot | PowerVerb::Stop | PowerVerb::Reset => {
            state == InstanceState::Running
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nexts(state: InstanceState) -> Vec<InstanceState> {
        InstanceEvent::ALL.into_iter().filter_map(|event| state.take(event).ok()).collect()
    }

    #[test]
    fn no_state_without_an_exit_and_gone_stays_gone() {
        for state in InstanceState::ALL.iter().copied() {
            if state == InstanceState::Purged {
                assert!(nexts(state).iter().all(|next| *next == state));
            } else {
                assert!(nexts(state).iter().any(|next| *next != state), "{state}");
            }
        }
    }

    #[test]
    fn a_server_that_may_exist_on_a_node_is_never_released() {
        for state in [
            InstanceState::Provisioning,
            InstanceState::NeedsOperator,
            InstanceState::Running,
            InstanceState::Stopped,
            InstanceState::Retiring,
            InstanceState::Retired,
            InstanceState::Purging,
        ] {
            assert!(state.take(InstanceEvent::Released).is_err(), "{state}");
        }
    }

    #[test]
    fn a_retired_server_never_runs_again_by_being_seen() {
        for state in
            [InstanceState::Retiring, InstanceState::Retired, InstanceState::Purging, InstanceState::Purged]
        {
            assert!(state.take(InstanceEvent::SeenOn).is_err());
        }
    }

    proptest! {
        #[test]
        fn purging_comes_only_after_retiring(picks in prop::collection::vec(0..InstanceEvent::ALL.len(), 0..40)) {
            let mut state = InstanceState::Requested;
            let (mut retired, mut built_or_silent) = (false, false);
            for pick in picks {
                if let Ok(next) = state.take(InstanceEvent::ALL[pick]) {
                    state = next;
                }
                retired |= state == InstanceState::Retired;
                built_or_silent |= matches!(state, InstanceState::Running | InstanceState::NeedsOperator);
                if state == InstanceState::Stopped {
                    retired = false;
                }
                if matches!(state, InstanceState::Purging | InstanceState::Purged) {
                    prop_assert!(retired && built_or_silent);
                }
            }
        }
    }
}

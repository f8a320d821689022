//! Fleet: locations, nodes and what may be sold of them, addresses, enrolment, alarms.
//!
//! It owns the tables of `create_fleet.sql` and guards I4 (an address is on at most one server and rests
//! after use) and I10 (sold never exceeds capacity). What a node may do is [`NodeState`]:
//!
//! ```text
//! pending ──enrol──→ active ⇄ cordoned
//!                      │  ↘ quarantined ──enrol──→ active
//!                      └──revoke──→ revoked ──enrol (new token)──→ active
//! ```
//!
//! - [`places`]: capacity, VMID, MAC and addresses of a server, taken and given back together;
//! - [`nodes`]: what operators do with nodes; [`sessions`]: who is connected, who went silent;
//! - [`reports`]: what agents see on their hosts; [`enrol`]: join tokens and certificates;
//! - [`pools`]: address pools and locations from the operator's file; [`alarms`].

pub mod alarms;
mod api;
mod capacity;
pub mod enrol;
mod jobs;
mod letters;
mod model;
pub mod nodes;
mod operate;
mod pages;
pub mod places;
mod pool;
pub mod pools;
pub mod reports;
pub mod sessions;
mod show;
#[cfg(test)]
pub(crate) mod testing;

/// The job that tells `instances` that a node was enrolled again; its key is the node's id, and `forgot` in its payload
/// says whether the agent came with another journal than before.
pub const ENROLLED_AGAIN: &str = "instances.enrolled_again";

pub use api::Enrolment;
pub use letters::NodeOffline;
pub use model::{
    Address, Alarm, ImageView, Location, NodeChange, NodePolicy, NodeRefusal, NodeState, Placement, Presence,
    PurgeLimits, Release, ReplaceLimits, ReserveError, Severity, StorageView, ThinPoolView, WarningView,
};
pub use nodes::{NodeRow, by_id as node, by_ids as nodes_of, locations};
pub use operate::{Joining, add_node, change_node, new_token, replacement_token};
pub use places::{
    Held, addresses_of, can_hold, confirm, confirm_gone, held, hold, hold_places, placed_on, placement_of,
    release, reserve, snapshot, vmid_is_foreign,
};
pub use pools::{ApplyError, Change, LocationSpec, PoolSpec, apply};

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use jobs::register_jobs;
pub(crate) use pages::routes as page_routes;

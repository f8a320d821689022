//! Instances: customers' servers, which the portal calls servers.
//!
//! Owns `instances` and all tables whose names begin with `instance_`. A server's life is a state machine ([`InstanceState`]); each
//! change is one guarded update and one audit row (I7). What a server *is seen* doing comes from the node's
//! state reports and is kept beside it with its time: the portal shows the observed state, never the wished one.
//!
//! A place on a node is taken when the order is placed ([`reserve`]), checked again and fixed once it is paid
//! ([`assign`]), and given back only when it is certain that nothing of the server exists there ([`give_up_place`]).
//! Everything that is done on a node goes through `dispatch` with a cause, so nothing is done twice (I1, I9).
//! What came of a provisioning order arrives as the job `instances.observe_provisioning`; purchases hear
//! of it through the job [`CHANGED`].

mod act;
mod adopt;
mod api;
mod assign;
mod build;
mod care;
mod change;
mod end;
mod firewall;
mod jobs;
mod kept;
mod model;
mod observe;
mod pages;
mod progress;
mod resize;
mod settings;
mod settle;
mod show;
mod standing;
mod store;
mod suspend;
#[cfg(test)]
pub(crate) mod tests;
mod told;

use std::collections::BTreeMap;

use ez_protocol::{AccountId, ActionId, InstanceId, NodeId, OrderId, UnixMillis};
use sqlx::AnyConnection;

pub use act::{ActError, AskError, Asked, Password, Verb, Wanted, act, reset_password};
pub use adopt::{AdoptError, adopt_again};
pub use assign::{AssignError, assign, reserve};
pub use build::{BuildError, SpecError, issue_build};
pub use change::InstanceError;
pub use end::{EndError, end, give_up_place, wish::delete};
pub use kept::{backups, snapshots};
pub use model::{
    ActionRow, ActionState, FirstBoot, Instance, InstanceEvent, InstanceState, Refused, verb_fits,
};
pub use observe::{Seen, Sight, observe, sight};
pub use progress::{Progress, StepProgress, Story, progress_of, progress_of_all};
pub use resize::{ResizeError, Size, Sized, resize, sized};
pub use settings::{ImageChoice, NoRate, RateMbit, Settings, Suspension, Wishes, wishes};
pub use suspend::{SuspendError, resume, suspend};

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use build::built;
pub(crate) use change::{attempt_fenced, went_silent};
pub(crate) use jobs::register_jobs;
#[cfg(test)]
pub(crate) use jobs::sweep;
pub(crate) use pages::routes as page_routes;
pub(crate) use show::plan_change;
pub(crate) use told::about as failure_in_words;

use crate::db::{self, DbError};

/// The job that tells a purchase that its server changed; the key is the order's id.
pub const CHANGED: &str = "orders.instance_changed";

/// Writes down a server that was ordered.
///
/// # Errors
/// Those of the statement.
pub async fn create(tx: &mut AnyConnection, instance: &Instance) -> Result<(), DbError> {
    store::insert(tx, instance).await
}

/// A server by its id.
///
/// # Errors
/// Those of the query.
pub async fn get(connection: &mut AnyConnection, id: InstanceId) -> Result<Option<Instance>, DbError> {
    store::get(connection, id).await
}

/// A server by its id, and nobody else changes it until this transaction ends.
///
/// # Errors
/// Those of the database.
pub async fn get_to_change(tx: &mut AnyConnection, id: InstanceId) -> Result<Option<Instance>, DbError> {
    store::get_to_change(tx, id).await
}

/// Makes those servers of a node this transaction's that are neither simply running nor simply off.
///
/// # Errors
/// Those of the database.
pub async fn hold_unsettled(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    for id in store::unsettled_on(tx, node).await? {
        db::lock(tx, "instance", id).await?;
    }
    Ok(())
}

/// Those of some servers that there are: a statement for each [`db::MANY`] of them.
///
/// # Errors
/// Those of the queries.
pub async fn get_all(
    connection: &mut AnyConnection,
    ids: &[InstanceId],
) -> Result<BTreeMap<InstanceId, Instance>, DbError> {
    let mut all = BTreeMap::new();
    for some in ids.chunks(db::MANY) {
        all.extend(
            store::by_ids(connection, some).await?.into_iter().map(|instance| (instance.id, instance)),
        );
    }
    Ok(all)
}

/// The disks of a node's servers that are there or may be, GiB.
///
/// # Errors
/// Those of the query.
pub async fn disk_built_on(connection: &mut AnyConnection, node: NodeId) -> Result<u64, DbError> {
    Ok(u64::try_from(store::disk_built_on(connection, node).await?).unwrap_or(0))
}

/// An account's server by its id; somebody else's is as good as none.
///
/// # Errors
/// Those of the query.
pub async fn owned(
    connection: &mut AnyConnection,
    account: AccountId,
    id: InstanceId,
) -> Result<Option<Instance>, DbError> {
    Ok(store::get(connection, id).await?.filter(|instance| instance.account == account))
}

/// When the disks of retired servers go.
///
/// # Errors
/// Those of the query.
pub async fn purges(connection: &mut AnyConnection) -> Result<BTreeMap<InstanceId, UnixMillis>, DbError> {
    store::purges(connection).await
}

/// The server an order buys.
///
/// # Errors
/// Those of the query.
pub async fn by_order(connection: &mut AnyConnection, order: OrderId) -> Result<Option<Instance>, DbError> {
    store::by_order(connection, order).await
}

/// Whether somebody wants a server to end.
///
/// # Errors
/// Those of the query.
pub async fn is_ending(connection: &mut AnyConnection, id: InstanceId) -> Result<bool, DbError> {
    Ok(store::ending_of(connection, id).await?.is_some())
}

/// An account's servers that are not gone, newest first.
///
/// # Errors
/// Those of the query.
pub async fn list(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Instance>, DbError> {
    store::of_account(connection, account).await
}

/// An action by its id.
///
/// # Errors
/// Those of the query.
pub async fn action(connection: &mut AnyConnection, id: ActionId) -> Result<Option<ActionRow>, DbError> {
    store::action(connection, id).await
}

/// A server's newest actions, newest first.
///
/// # Errors
/// Those of the query.
pub async fn actions(
    connection: &mut AnyConnection,
    id: InstanceId,
    limit: i64,
) -> Result<Vec<ActionRow>, DbError> {
    store::actions(connection, id, limit).await
}

/// A name that the account has not used yet.
///
/// # Errors
/// Those of the query.
pub async fn suggest_name(connection: &mut AnyConnection, account: AccountId) -> Result<String, DbError> {
    let taken = store::names_of(connection, account).await?;
    let free = (1_u32..).map(|n| format!("server-{n}")).find(|name| !taken.contains(name));
    Ok(free.unwrap_or_else(|| "server".to_owned()))
}

/// Servers that wait for their payment: (address of the order, name).
async fn unpaid(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<(String, String)>, DbError> {
    let waiting = store::unpaid_of_account(connection, account).await?.into_iter();
    Ok(waiting.map(|(order, hostname)| (format!("/orders/{order}"), hostname)).collect())
}

/// What all pages of a server begin with.
///
/// # Errors
/// Those of the queries.
pub(crate) async fn page_head(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: ez_protocol::UnixMillis,
) -> Result<crate::web::views::instances::Head, DbError> {
    show::head(connection, instance, now).await
}

/// Something that is another whenever the pages of a server have to be shown anew.
///
/// # Errors
/// Those of the queries.
pub(crate) async fn mark(
    connection: &mut AnyConnection,
    id: InstanceId,
    now: ez_protocol::UnixMillis,
) -> Result<impl PartialEq + Send + use<>, DbError> {
    show::mark(connection, id, now).await
}

/// A server's observed state in the words of the pages (`instances-state-<word>`), and its colour.
///
/// # Errors
/// Those of the query for its node.
pub(crate) async fn shown_state(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: ez_protocol::UnixMillis,
) -> Result<(&'static str, &'static str), DbError> {
    let state = show::state(instance, sight(connection, instance, now).await?);
    Ok((state.code, state.tone))
}

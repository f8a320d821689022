//! The size of a server: what it was sold with, until its plan is changed.
//!
//! A size is a wish that no failure takes back, like a suspension: it is written first, [`carry_out`] tells the node once
//! nothing else is under way, and repeats it until the node has done it. The row of the server keeps the size that its node
//! has given it last; orders about other things carry that one, so they do not wait for the new size. A disk only grows.
//!
//! A running server takes less memory, or fewer CPUs, only with a cold start. Where it gives something back that is no
//! longer paid for we restart it, once; where it gets more, its customer does when that suits.

pub(super) mod store;

use std::time::Duration;

use ez_protocol::{
    InstanceId, UnixMillis,
    order::{Action, Op},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    act::{ActError, Desk, Label},
    model::{ActionState, Instance, InstanceState},
    settings::{Settings, Wishes},
    settle, store as instances_store,
};
use crate::{
    app::App,
    audit, billing, catalog,
    db::DbError,
    dispatch::Keys,
    entropy::Entropy,
    fleet::{self, Held, alarms},
    jobs,
};

/// What did not work out is tried again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The alarm about a server that should have another size and has not.
const LATE: &str = "resize_late";

/// What a plan gives a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Code of the plan.
    pub plan: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// How many snapshots it may have.
    pub snapshots: u32,
    /// How many backups of it are kept.
    pub backups: u32,
}

impl From<&catalog::Plan> for Size {
    fn from(plan: &catalog::Plan) -> Self {
        Self {
            plan: plan.code.clone(),
            vcpu: plan.vcpu,
            memory_mib: plan.memory_mib,
            disk_gib: plan.disk_gib,
            snapshots: plan.snapshots,
            backups: plan.backups,
        }
    }
}

impl Size {
    /// The one that a server has.
    pub fn of(instance: &Instance) -> Self {
        Self {
            plan: instance.plan_code.clone(),
            vcpu: instance.vcpu,
            memory_mib: instance.memory_mib,
            disk_gib: instance.disk_gib,
            snapshots: instance.max_snapshots,
            backups: instance.max_backups,
        }
    }

    /// What it takes from a node.
    pub fn held(&self) -> Held {
        Held { vcpu: self.vcpu, memory_mib: self.memory_mib, disk_gib: self.disk_gib }
    }
}

/// How a server stands with the size that it shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sized {
    /// As it was sold, or as was wished last; nothing is left to do.
    Settled,
    /// It has the size; what it gives back takes a restart that comes.
    RestartComes,
    /// Its node has yet to give it this size.
    Wished(Size),
}

/// Why a size was not wished.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// There is no such server.
    #[error("there is no such server")]
    Unknown,
    /// It is gone, or on its way.
    #[error("a server that is {0} is not resized")]
    DoesNotFit(InstanceState),
    /// Disks only grow.
    #[error("its disk has {has} GiB and cannot shrink to {wanted} GiB")]
    DiskShrinks {
        /// What it has.
        has: u32,
        /// What was wanted.
        wanted: u32,
    },
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// Wishes that a server has a size. The same wish again changes nothing. The caller holds the server and has room for it on
/// its node.
///
/// # Errors
/// [`ResizeError`]; nothing was changed.
pub async fn resize(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    size: &Size,
    actor: &str,
) -> Result<(), ResizeError> {
    let instance = instances_store::get(tx, id).await?.ok_or(ResizeError::Unknown)?;
    if !instance.state.is_live() && instance.state != InstanceState::Retired {
        return Err(ResizeError::DoesNotFit(instance.state));
    }
    if size.disk_gib < instance.disk_gib {
        return Err(ResizeError::DiskShrinks { has: instance.disk_gib, wanted: size.disk_gib });
    }
    let known = store::get(tx, id).await?;
    let wished = known.as_ref().map_or_else(|| Size::of(&instance), |known| known.size.clone());
    if wished == *size {
        return Ok(());
    }
    let restart = gives_back(size, &instance);
    let wish = store::Wish { size: size.clone(), restart, settled: false, by: actor.to_owned(), at };
    store::put(tx, id, &wish).await?;
    billing::agree_plan_traffic(tx, at, id, &size.plan).await?;
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: "instance.resize_wished".to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: id.to_string(),
        detail: json!({ "from": Size::of(&instance), "to": size }),
    };
    audit::record(tx, at, entry).await?;
    settle::enqueue(tx, id, at).await.map_err(Into::into)
}

/// Whether a running server would have to be restarted to take so little.
fn gives_back(size: &Size, instance: &Instance) -> bool {
    size.vcpu < instance.vcpu || size.memory_mib < instance.memory_mib
}

/// How a server stands with the size that it shall have.
///
/// # Errors
/// Those of the query.
pub async fn sized(connection: &mut AnyConnection, instance: &Instance) -> Result<Sized, DbError> {
    let Some(wish) = store::get(connection, instance.id).await?.filter(|wish| !wish.settled) else {
        return Ok(Sized::Settled);
    };
    Ok(if wish.size == Size::of(instance) { Sized::RestartComes } else { Sized::Wished(wish.size) })
}

/// Whether the job has something to look at.
pub(super) async fn is_due(connection: &mut AnyConnection, id: InstanceId) -> Result<bool, DbError> {
    Ok(store::get(connection, id).await?.is_some_and(|wish| !wish.settled))
}

/// The node has given a server another size.
pub(super) async fn applied(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    size: &Size,
) -> Result<(), DbError> {
    instances_store::put_size(tx, at, instance.id, size).await?;
    let entry = audit::Entry {
        actor: "system".to_owned(),
        action: "instance.resized".to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: instance.id.to_string(),
        detail: json!({ "from": Size::of(instance), "to": size }),
    };
    audit::record(tx, at, entry).await?;
    tell(tx, at, instance).await
}

/// Whoever keeps the books of plans looks at the server again.
async fn tell(tx: &mut AnyConnection, at: UnixMillis, instance: &Instance) -> Result<(), DbError> {
    let payload = json!({ "order_id": instance.order });
    jobs::enqueue(tx, billing::PLAN_CHANGED, &instance.order.to_string(), &payload, at).await
}

/// Tells the node what is wished, if it has not done it and nothing else is under way.
pub(super) async fn carry_out(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    wishes: Wishes,
) -> Result<(), ActError> {
    let Some(wish) = store::get(tx, instance.id).await?.filter(|wish| !wish.settled) else { return Ok(()) };
    if !instance.state.is_live() || wishes.disk_lost {
        return Ok(());
    }
    // Whatever is under way ends first; its end comes by here again.
    if wishes.under_way.is_some() || instances_store::open_action(tx, instance.id).await?.is_some() {
        return Ok(());
    }
    let desk = Desk { keys, entropy, at, actor: &wish.by };
    if wish.size == Size::of(&instance) {
        let owes = wish.restart && wishes.restart_needed && instance.state == InstanceState::Running;
        if owes && !failed_just_now(tx, at, &instance, &wish, "reboot").await? {
            let label = Label { kind: "reboot", about: None, ttl: None };
            desk.tell(tx, &instance, Op::Action(Action::Reboot {}), label).await?;
        }
        if !owes {
            store::settle(tx, instance.id).await?;
            alarms::clear(tx, at, LATE, &instance.id.to_string()).await?;
            tell(tx, at, &instance).await?;
        }
        return Ok(());
    }
    if failed_just_now(tx, at, &instance, &wish, "resize").await? {
        return Ok(());
    }
    // It may have grown since the wish.
    if gives_back(&wish.size, &instance) && !wish.restart {
        let owing = store::Wish { size: wish.size.clone(), restart: true, by: wish.by.clone(), ..wish };
        store::put(tx, instance.id, &owing).await?;
    }
    let settings = Settings { size: Some(wish.size.clone()), ..wishes.applied.clone() };
    let label = Label { kind: "resize", about: Some(wish.size.plan.clone()), ttl: None };
    desk.change(tx, &instance, wishes, settings, label).await?;
    Ok(())
}

/// Whether the last try failed so lately that it is not tried again yet; an operator is told.
async fn failed_just_now(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    wish: &store::Wish,
    kind: &'static str,
) -> Result<bool, DbError> {
    let last = instances_store::last_of(tx, instance.id, (kind, kind)).await?;
    let failed = last.filter(|action| action.state == ActionState::Failed && action.started_at >= wish.at);
    let Some(failed) = failed else { return Ok(false) };
    let detail = format!(
        "{} should have the size of plan {} and has not: {}. It is tried again.",
        instance.hostname,
        wish.size.plan,
        failed.error.as_deref().unwrap_or("it failed")
    );
    let (severity, subject) = (fleet::Severity::Warning, instance.id.to_string());
    let alarm = alarms::New { kind: LATE, subject: &subject, severity, node: instance.node, detail: &detail };
    alarms::hold(tx, at, alarm).await?;
    let again = failed.finished_at.unwrap_or(failed.started_at).plus(AGAIN_AFTER);
    if at < again {
        settle::enqueue(tx, instance.id, again).await?;
        return Ok(true);
    }
    Ok(false)
}

/// Servers whose size waits: a lost message costs time, never the wish.
pub(super) async fn sweep(app: &App) -> Result<(), DbError> {
    let due = {
        let mut connection = app.db.read().await?;
        store::due(&mut connection).await?
    };
    let at = app.clock.now();
    for id in due {
        app.db.write(move |tx| Box::pin(async move { settle::enqueue(tx, id, at).await })).await?;
    }
    Ok(())
}

//! A server follows what is paid for it.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::held;
use crate::{
    app::App,
    billing::{self, Change, PLAN_CHANGED, Served, Way},
    catalog,
    config::Config,
    db::DbError,
    fleet::{self, Severity, alarms},
    instances::{self, Instance, InstanceState, Size, Sized},
    jobs::{JobError, JobRegistry, JobRun},
};

const SWEEP: &str = "replan.sweep";
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The alarm about a server that cannot become what is paid for.
const NOT_FOLLOWED: &str = "plan_not_followed";
/// Who resizes for money's sake.
const BILLING: &str = "billing";

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(PLAN_CHANGED, run);
    registry.every(SWEEP, SWEEP_EVERY, run_sweep);
}

async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let order: OrderId = run.key.parse().map_err(JobError::fail)?;
    Ok(follow(&app, order).await?)
}

/// What nobody told: a lost message costs time, never a plan.
async fn run_sweep(app: App, _run: JobRun) -> Result<(), JobError> {
    let orders = {
        let mut connection = app.db.read().await?;
        billing::orders_to_follow(&mut connection).await?
    };
    for order in orders {
        // One that cannot be followed keeps no other from it.
        if let Err(error) = follow(&app, order).await {
            tracing::error!(order.id = %order, %error, "a server does not follow its plan; it is tried again");
        }
    }
    Ok(())
}

/// Makes a server's place and size be what is paid for. Safe to repeat at any time.
async fn follow(app: &App, order: OrderId) -> Result<(), DbError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    let id = {
        let mut connection = app.db.read().await?;
        instances::by_order(&mut connection, order).await?.map(|instance| instance.id)
    };
    let Some(id) = id else { return Ok(()) };
    app.db
        .write(move |tx| {
            Box::pin(async move {
                billing::hold_order(tx, order).await?;
                let Some(instance) = instances::get_to_change(tx, id).await? else { return Ok(()) };
                compare(tx, &config, at, instance).await
            })
        })
        .await
}

async fn compare(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    instance: Instance,
) -> Result<(), DbError> {
    // One that is gone, or on its way, gives its room back with its place.
    if !instance.state.is_live() && instance.state != InstanceState::Retired {
        return billing::followed(tx, config, at, instance.order, None).await;
    }
    let paid = billing::paid_change(tx, instance.order).await?;
    let due = paid.as_ref().and_then(|paid| due(&instance, paid));
    if let Some(size) = &due
        && !resize(tx, at, &instance, size).await?
    {
        return Ok(());
    }
    if due.is_none() {
        alarms::clear(tx, at, NOT_FOLLOWED, &instance.id.to_string()).await?;
    }
    keep_room(tx, &instance).await?;
    let Some(paid) = paid.filter(|_| due.is_none()) else {
        return billing::followed(tx, config, at, instance.order, None).await;
    };
    let plan = catalog::plan(tx, &paid.to_plan).await?.map_or(paid.to_plan, |plan| plan.name);
    let wishes = instances::wishes(tx, &instance).await?;
    let description = format!("{}, {plan} ({})", instance.hostname, instance.location);
    // Where it gives something back we restart it ourselves.
    let place = fleet::held(tx, instance.id).await?;
    let gives = place.is_some_and(|place| place.exceeds(Size::of(&instance).held()));
    let restart = wishes.restart_needed && !gives;
    let served = Served { description: &description, plan: &plan, restart };
    billing::followed(tx, config, at, instance.order, Some(served)).await
}

/// The size that a server has to get; none if it has it.
fn due(instance: &Instance, paid: &Change) -> Option<Size> {
    // Another price of the same plan, put there by hand: a server keeps the size that it was sold with.
    if paid.way == Way::Outside && paid.to_plan == instance.plan_code {
        return None;
    }
    let size = Size {
        plan: paid.to_plan.clone(),
        vcpu: paid.to_size.vcpu,
        memory_mib: paid.to_size.memory_mib,
        disk_gib: paid.to_size.disk_gib,
        snapshots: paid.to_size.snapshots,
        backups: paid.to_size.backups,
    };
    (size != Size::of(instance)).then_some(size)
}

/// Wishes the size, with the room for it; `false` if that cannot be, and then a person is asked.
async fn resize(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    size: &Size,
) -> Result<bool, DbError> {
    let subject = instance.id.to_string();
    let trouble = if size.disk_gib < instance.disk_gib {
        Some(format!(
            "its disk has {} GiB and cannot shrink to {} GiB. Put a price of a plan with as much disk on its subscription, or \
             agree with its customer on another server",
            instance.disk_gib, size.disk_gib
        ))
    } else {
        let place = fleet::held(tx, instance.id).await?.unwrap_or_else(|| Size::of(instance).held());
        let room = fleet::hold(tx, instance.id, place.max(size.held())).await?;
        (!room).then(|| {
            "its node has no room for that. Make some there, or put the old price back on its subscription".to_owned()
        })
    };
    if let Some(trouble) = trouble {
        let detail = format!(
            "{} is paid for as plan {}, and has plan {}: {trouble}.",
            instance.hostname, size.plan, instance.plan_code
        );
        let (severity, node) = (Severity::Warning, instance.node);
        let alarm = alarms::New { kind: NOT_FOLLOWED, subject: &subject, severity, node, detail: &detail };
        alarms::hold(tx, at, alarm).await?;
        return Ok(false);
    }
    alarms::clear(tx, at, NOT_FOLLOWED, &subject).await?;
    match instances::resize(tx, at, instance.id, size, BILLING).await {
        Ok(()) => Ok(true),
        Err(instances::ResizeError::Db(error)) => Err(error),
        Err(error) => {
            tracing::warn!(instance.id = %instance.id, %error, "a server is not resized");
            Ok(false)
        }
    }
}

/// The place holds what the server has or is about to get, and what is kept for a change that waits for its payment: no more,
/// and no less.
async fn keep_room(tx: &mut AnyConnection, instance: &Instance) -> Result<(), DbError> {
    let reserved = billing::open_change(tx, instance.order).await?.filter(Change::reserves);
    let has = Size::of(instance).held();
    let wanted = match instances::sized(tx, instance).await? {
        Sized::Settled => has,
        // What it gives back is sold again once it is given back.
        Sized::RestartComes => fleet::held(tx, instance.id).await?.unwrap_or(has),
        Sized::Wished(size) => fleet::held(tx, instance.id).await?.unwrap_or(has).max(size.held()),
    };
    let wanted = reserved.map_or(wanted, |change| wanted.max(held(change.to_size)));
    // A server without a place has none to change.
    fleet::hold(tx, instance.id, wanted).await.map(|_| ())
}

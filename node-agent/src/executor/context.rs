//! What every step of an order has in hand.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    ProvisioningOrderId, UnixMillis,
    marker::Marker,
    message::{EventKind, Facts, QueuePlace},
    order::{Action, InstanceSpec, Op, ProvisioningOrder},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Engine, Pace, backup, destroy,
    fault::{self, Class, Trouble},
    limits::Limits,
    password, repair, snapshot,
};
use crate::{
    journal::{Journal, OrderRow, ResourceRow, StepRow, StepState},
    pve::{ConfigRead, GuestConfig, Hypervisor, Power, PveError, Upid, Vmid},
    report::EventDraft,
};

/// One order at work.
pub(super) struct Cx {
    engine: Arc<Engine>,
    order: ProvisioningOrder,
    resource: Option<ResourceRow>,
    applied: Option<InstanceSpec>,
    began: Instant,
    /// How long it waited in queues of the host so far, milliseconds.
    queued: AtomicU64,
    repair: Mutex<repair::Asked>,
    undoing: bool,
}

impl Cx {
    pub(super) fn new(
        engine: Arc<Engine>,
        row: &OrderRow,
        resource: Option<ResourceRow>,
    ) -> Result<Self, Trouble> {
        let order = ProvisioningOrder::from_bytes(&row.payload).map_err(|error| {
            fault::hopeless(row.order_id, format_args!("the journalled order cannot be read: {error}"))
        })?;
        let applied = resource.as_ref().and_then(ResourceRow::applied);
        Ok(Self {
            engine,
            order,
            resource,
            applied,
            began: Instant::now(),
            queued: AtomicU64::new(0),
            repair: Mutex::default(),
            undoing: false,
        })
    }

    /// From now on a VM that is not ours counts as "nothing of ours is there": an undo has nothing
    /// to do with it.
    pub(super) fn set_undoing(&mut self) {
        self.undoing = true;
    }

    pub(super) fn is_undoing(&self) -> bool {
        self.undoing
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.engine.journal
    }

    pub(super) fn pve(&self) -> &dyn Hypervisor {
        self.engine.pve.as_ref()
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.engine.pace
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.engine.limits
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.engine.clock.now()
    }

    pub(super) fn overdue(&self) -> bool {
        let copies =
            matches!(&self.order.op, Op::Action(Action::BackupCreate { .. } | Action::BackupRestore { .. }));
        let copying = if copies { self.pace().disk_copy } else { Duration::ZERO };
        self.began.elapsed().saturating_sub(self.queued()) > self.pace().overall + copying
    }

    /// How long the order waited in queues of the host so far.
    pub(super) fn queued(&self) -> Duration {
        Duration::from_millis(self.queued.load(Ordering::Relaxed))
    }

    /// It waited so long more.
    pub(super) fn was_queued(&self, time: Duration) {
        self.queued.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was asked of the host's repair path since the order began.
    pub(super) fn repair(&self) -> repair::Asked {
        *self.repair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This is known of it now.
    pub(super) fn set_repair(&self, asked: repair::Asked) {
        *self.repair.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    pub(super) fn id(&self) -> ProvisioningOrderId {
        self.order.order_id
    }

    pub(super) fn order(&self) -> &ProvisioningOrder {
        &self.order
    }

    pub(super) fn vmid(&self) -> Vmid {
        self.order.instance.vmid
    }

    /// What the books said when the order began.
    pub(super) fn resource(&self) -> Option<&ResourceRow> {
        self.resource.as_ref()
    }

    /// The spec that shall hold after this order: an ensure's own, else the one carried out last.
    pub(super) fn spec(&self) -> Result<&InstanceSpec, Trouble> {
        match &self.order.op {
            Op::Ensure(spec) => Ok(spec),
            _ => self.applied.as_ref().ok_or_else(|| {
                let text =
                    "this node was not told yet what the server shall be like: an `ensure` has to come first";
                Trouble::fail(Class::Retryable, text)
            }),
        }
    }

    /// The spec that was carried out last, if this agent knows it.
    pub(super) fn applied(&self) -> Option<&InstanceSpec> {
        self.applied.as_ref()
    }

    /// What a step of this order came to, by its name; null before its end.
    pub(super) async fn step_result_of(&self, name: &str) -> Result<Value, Trouble> {
        let steps = self.journal().steps(self.id()).await?;
        let result = steps.into_iter().rev().find(|row| row.name == name).and_then(|row| row.result_json);
        Ok(result.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// The marker a VM made by this order carries.
    pub(super) fn marker(&self) -> Marker {
        Marker {
            install: self.order.install,
            instance: self.order.instance.uuid,
            order: self.order.order_id,
            epoch: self.order.aud.epoch,
        }
    }

    /// Whether a configuration carries the marker of this order's instance.
    pub(super) fn is_ours(&self, config: &GuestConfig) -> bool {
        Marker::find(config.description())
            .is_some_and(|marker| marker.owns(self.order.install, self.order.instance.uuid))
    }

    /// The configuration of our VM; anything else is hands off. `None`: there is no such VM.
    pub(super) async fn own_config(&self) -> Result<Option<GuestConfig>, Trouble> {
        match self.pve().guest_config(self.vmid()).await? {
            ConfigRead::Present(config) if self.is_ours(&config) => Ok(Some(config)),
            ConfigRead::Present(config) if config.lock() == Some("clone") => {
                Err(Trouble::Look("the VM is being cloned".to_owned()))
            }
            ConfigRead::Present(config) if config.is_half_destroyed() => destroy::half_done(self).await,
            ConfigRead::Present(_) if self.undoing => Ok(None),
            ConfigRead::Present(config) => {
                let (vmid, line) = (self.vmid(), config.marker_line().chars().take(80).collect::<String>());
                let what = format!(
                    "VM {vmid} does not carry the marker of this instance (it says {line:?}): hands off"
                );
                let way_out = format!(
                    "look at it with `qm config {vmid}`; only if it is this server all the same, \
                     `qm set {vmid} --description '{}'`",
                    self.marker()
                );
                Err(fault::stuck(self.id(), what, way_out))
            }
            ConfigRead::Absent => Ok(None),
            // Root has looked for us: it is not the rest of our clone.
            ConfigRead::Forbidden if self.undoing && self.repair() == repair::Asked::Answered => Ok(None),
            ConfigRead::Forbidden => {
                if self.pve().vmid_taken(self.vmid()).await? {
                    let (vmid, pool) = (self.vmid(), &self.engine.rules.pool);
                    let what = format!("VM {vmid} exists, but this agent's token may not see it: hands off");
                    let way_out = format!(
                        "look at it with `qm config {vmid}`; only if it carries the marker `{}`, \
                         `pveum pool modify {pool} --vms {vmid}`",
                        self.marker()
                    );
                    return Err(fault::stuck(self.id(), what, way_out));
                }
                Ok(None)
            }
        }
    }

    /// As [`Cx::own_config`], where the VM has to be there.
    pub(super) async fn present(&self) -> Result<GuestConfig, Trouble> {
        let gone = || Trouble::fail(Class::Bug, format!("VM {} is not there (any more)", self.vmid()));
        self.own_config().await?.ok_or_else(gone)
    }

    /// What it means that a call about our VM did not go through. Ours and forbidden: its pool, the last
    /// act of a clone, may be what is missing, and only root can add it.
    pub(super) fn refused(&self, error: PveError) -> Trouble {
        if !error.is_forbidden() {
            return error.into();
        }
        let (vmid, pool) = (self.vmid(), &self.engine.rules.pool);
        let way_out = format!(
            "{error}. If VM {vmid} is not in pool {pool}: as root on the host, `pveum pool modify {pool} --vms {vmid}`, \
             then the order once more"
        );
        Trouble::fail(Class::Policy, way_out)
    }

    /// Whether the VM runs.
    pub(super) async fn runs(&self) -> Result<bool, Trouble> {
        Ok(self.pve().guest_status(self.vmid()).await?.power == Power::Running)
    }

    pub(super) fn event(&self, kind: EventKind) -> EventDraft {
        EventDraft::new(kind, self.id(), self.order.instance.uuid, self.order.generation, self.now())
    }

    /// What is true now, as far as it can be seen.
    pub(super) async fn facts(&self, confirmed: bool) -> Facts {
        let power = match self.pve().guest_status(self.vmid()).await {
            Ok(status) if status.qmp == "paused" => "paused",
            Ok(status) if status.power == Power::Running => "running",
            Ok(_) => "stopped",
            Err(error) if error.is_absent() => "absent",
            Err(_) => "",
        };
        let addresses = self.spec().map(|spec| spec.network.addresses.clone()).unwrap_or_default();
        Facts {
            vmid: self.vmid(),
            power: power.to_owned(),
            addresses: addresses.iter().map(|a| a.cidr.addr().to_string()).collect(),
            confirmed,
            host_keys: Vec::new(),
            disk_missing: self.lacks_disk().await,
            ..self.kept().await
        }
    }

    /// Whether our VM is there and has nothing to boot from, as a restore leaves it that fails half way. What cannot be
    /// seen is not said.
    async fn lacks_disk(&self) -> bool {
        matches!(self.own_config().await, Ok(Some(config)) if config.boot_disk().is_none())
    }

    /// What an order about snapshots, backups, a password or the configuration came to.
    async fn kept(&self) -> Facts {
        let mut facts = Facts::default();
        match &self.order.op {
            Op::Action(
                Action::SnapshotCreate { .. }
                | Action::SnapshotRollback { .. }
                | Action::SnapshotDelete { .. }
                // A restore makes the disks anew: what was kept of the old ones is gone.
                | Action::BackupRestore { .. },
            ) => facts.snapshots = snapshot::shown(self).await,
            Op::Action(Action::BackupCreate { .. } | Action::BackupDelete { .. }) => {
                facts.backups = backup::shown(self).await;
            }
            Op::Action(Action::SetPassword { .. }) => {
                let result = self.step_result_of(password::STEP).await.unwrap_or_default();
                facts.password = result["applied"].as_str().unwrap_or_default().to_owned();
            }
            Op::Ensure(_) => {
                facts.restart_needed = self.pve().pending(self.vmid()).await.is_ok_and(|all| !all.is_empty());
            }
            _ => {}
        }
        facts
    }

    pub(super) async fn say(&self, event: EventDraft) -> Result<(), Trouble> {
        self.journal().push_event(event).await?;
        self.engine.told.notify_one();
        Ok(())
    }

    /// As [`Cx::say`], and the place is kept for those who ask on this host.
    pub(super) async fn say_place(&self, event: EventDraft, place: QueuePlace) -> Result<(), Trouble> {
        self.journal().push_place(event, self.id(), place, self.now()).await?;
        self.engine.told.notify_one();
        Ok(())
    }

    /// How long a task is at work, by the clocks that wrote its handle.
    pub(super) fn since(&self, upid: &Upid) -> Duration {
        self.now().since(UnixMillis(upid.started_secs().saturating_mul(1_000)))
    }

    pub(super) async fn step_row(&self, k: i64) -> Result<Option<StepRow>, Trouble> {
        Ok(self.journal().steps(self.id()).await?.into_iter().find(|row| row.k == k))
    }

    /// F2.
    pub(super) async fn step_intent(
        &self,
        k: i64,
        name: &'static str,
        intent: &Value,
        event: Option<EventDraft>,
    ) -> Result<(), Trouble> {
        let boot = self.engine.boot_id.clone();
        self.journal().step_intent(self.id(), k, name, intent.to_string(), boot, self.now(), event).await?;
        self.engine.told.notify_one();
        Ok(())
    }

    /// F3.
    pub(super) async fn step_called(
        &self,
        k: i64,
        name: &'static str,
        upid: &crate::pve::Upid,
    ) -> Result<(), Trouble> {
        let boot = self.engine.boot_id.clone();
        let upid = upid.as_str().to_owned();
        Ok(self.journal().step_called(self.id(), k, name, upid, boot, self.now()).await?)
    }

    /// F4.
    pub(super) async fn step_result(
        &self,
        k: i64,
        name: &'static str,
        state: StepState,
        result: &Value,
        event: EventDraft,
    ) -> Result<(), Trouble> {
        let boot = self.engine.boot_id.clone();
        self.journal()
            .step_result(self.id(), k, name, state, result.to_string(), boot, self.now(), Some(event))
            .await?;
        self.engine.told.notify_one();
        Ok(())
    }
}

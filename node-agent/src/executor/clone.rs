//! Step `clone`, with the restart decision table.
//!
//! The VMID is the fence: Proxmox refuses a second clone to it anywhere in the cluster. A clone that
//! was called and whose answer is lost is therefore never in doubt for long; it is found by looking
//! at the VMID's configuration and at the running tasks.

use std::time::Duration;

use ez_protocol::{UnixMillis, order::ImageRef};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    context::Cx,
    destroy,
    fault::{self, Class, Trouble},
    limits::Load,
    queue::CloneWish,
    repair, room,
    saga::{Act, Look, Step},
};
use crate::{
    journal::{Phase, StepRow},
    pve::{
        CloneMode, CloneRequest, CloneSearch, ConfigRead, GuestConfig, ImageTemplate, TaskExit, TaskState,
        Upid, Vmid,
    },
};

/// Makes the VM from the image's template.
pub(super) struct Clone {
    /// The template that realises the ordered image here.
    pub(super) template: ImageTemplate,
}

impl Clone {
    /// Storage the disks go to.
    fn storage<'a>(&'a self, cx: &'a Cx) -> &'a str {
        storage_for(cx, &self.template)
    }
}

fn storage_for<'a>(cx: &'a Cx, template: &'a ImageTemplate) -> &'a str {
    match cx.engine().rules.clone_mode {
        CloneMode::Full => &cx.engine().rules.storage,
        CloneMode::Linked => &template.storage,
    }
}

/// What is known of our own clone call. It is asked for *before* the configuration is read: what is
/// over then has left its final mark.
enum Seen {
    /// Nothing was intended yet.
    NoIntent,
    /// Intended at this time, and no worker is alive; how it ended, if a task is known.
    Over { since: UnixMillis, exit: Option<TaskExit> },
}

/// When this instance's clone was intended: by this order, or by one before it that got stuck.
fn intended(cx: &Cx, row: Option<&StepRow>) -> Option<UnixMillis> {
    let earlier = || cx.resource().is_some_and(|r| r.phase == Phase::Creating);
    row.map(|row| row.at).or_else(|| earlier().then(|| cx.now().minus(Duration::from_secs(24 * 3_600))))
}

/// Our clone task, wherever it is known from.
async fn task(
    cx: &Cx,
    template: Vmid,
    row: Option<&StepRow>,
    since: UnixMillis,
) -> Result<CloneSearch, Trouble> {
    if let Some(upid) = row.and_then(|row| row.upid.as_deref()).and_then(|text| text.parse::<Upid>().ok()) {
        match cx.pve().task_status(&upid).await? {
            TaskState::Running => return Ok(CloneSearch::Running(upid)),
            TaskState::Ended(exit) => return Ok(CloneSearch::Ended(upid, exit)),
            TaskState::Unknown => {}
        }
    }
    // The host's clock wrote the intent; a minute of slack costs nothing, the log decides.
    let since = since.minus(Duration::from_secs(60)).as_secs();
    Ok(cx.pve().find_clone_task(template, since, cx.vmid()).await?)
}

/// Locked for cloning and no worker of ours is alive: left over by a dead one, or somebody else's.
async fn locked(cx: &Cx, seen: &Seen, config: &GuestConfig) -> Result<Look, Trouble> {
    let Seen::Over { since, exit } = seen else {
        return Err(taken(cx, "another clone is at work on it"));
    };
    if !config.is_clone_placeholder() && !cx.is_ours(config) {
        return Err(taken(cx, "a clone of somebody else is at work on it"));
    }
    // A worker that is not to be found may only just have begun: the request may be on its way.
    if exit.is_none() && cx.now().since(*since) < cx.pace().crashed_after {
        return Ok(Look::Wait("the VM is locked for cloning and no task is to be seen yet".to_owned()));
    }
    repair::clean_clone(cx).await?;
    Ok(Look::Wait("the rest of a dead clone is being removed".to_owned()))
}

/// The number is free: the clone may be called, once nothing is left of one before it.
async fn absent(cx: &Cx, row: Option<&StepRow>, seen: &Seen) -> Result<Look, Trouble> {
    if let Seen::Over { since, .. } = seen {
        destroy::no_disk_is_left_of_a_clone(cx, row, *since).await?;
    }
    Ok(Look::Todo)
}

/// The number belongs to something that is not this instance: another number, or another node, may do.
pub(super) fn taken(cx: &Cx, why: &str) -> Trouble {
    Trouble::fail(Class::Retryable, format!("VMID_TAKEN: VM {} is not ours: {why}", cx.vmid()))
}

/// The VMID holds something that is not this instance.
fn foreign(cx: &Cx, row: Option<&StepRow>, marker: &str) -> Trouble {
    let line: String = marker.chars().take(80).collect();
    if row.is_some() && line.starts_with("ez:") {
        let text = format!("CONFLICT: VM {} carries the marker of another instance: {line}", cx.vmid());
        return fault::hopeless(cx.id(), text);
    }
    taken(cx, "it carries no marker of this instance")
}

impl Step for Clone {
    fn name(&self) -> &'static str {
        "clone"
    }

    fn intent(&self, cx: &Cx) -> Value {
        json!({
            "created": true, "vmid": cx.vmid(), "template": self.template.vmid,
            "storage": self.storage(cx), "image": self.template.image,
        })
    }

    fn load(&self, cx: &Cx) -> Load {
        let mib = match cx.engine().rules.clone_mode {
            CloneMode::Full => (self.template.disk_bytes >> 20).max(1),
            CloneMode::Linked => 1,
        };
        let (from, to) = (self.template.storage.clone(), self.storage(cx).to_owned());
        Load::Clone(CloneWish { seq: cx.order().seq, from, to, mib })
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let seen = match intended(cx, row) {
                None => Seen::NoIntent,
                Some(since) => match task(cx, self.template.vmid, row, since).await? {
                    CloneSearch::Running(upid) => return Ok(Look::Adopt(upid)),
                    CloneSearch::Undecided => {
                        let why = "a clone of the template runs, and for whom is not said yet";
                        return Ok(Look::Wait(why.to_owned()));
                    }
                    CloneSearch::NotFound => Seen::Over { since, exit: None },
                    CloneSearch::Ended(_, exit) => Seen::Over { since, exit: Some(exit) },
                },
            };
            match cx.pve().guest_config(cx.vmid()).await? {
                ConfigRead::Absent => absent(cx, row, &seen).await,
                ConfigRead::Present(config) if config.lock() == Some("clone") => {
                    locked(cx, &seen, &config).await
                }
                ConfigRead::Present(config) if cx.is_ours(&config) => {
                    Ok(Look::Done(json!({ "vmid": cx.vmid() })))
                }
                ConfigRead::Present(config) => Err(foreign(cx, row, config.marker_line())),
                // With pool-scoped rights alone a VM in creation and a foreign one look alike.
                ConfigRead::Forbidden => match (cx.pve().vmid_taken(cx.vmid()).await?, seen) {
                    (false, seen) => absent(cx, row, &seen).await,
                    (true, Seen::NoIntent) => {
                        Err(taken(cx, "it exists and this agent's token may not see it"))
                    }
                    (true, Seen::Over { exit: Some(exit), .. }) if exit.is_success() => {
                        Ok(Look::Wait("the clone has ended, its pool membership comes last".to_owned()))
                    }
                    (true, Seen::Over { .. }) => {
                        repair::clean_clone(cx).await?;
                        Ok(Look::Wait("the rest of a dead clone is being removed".to_owned()))
                    }
                },
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let spec = cx.spec()?;
            // What was asked of root was about what stood here before.
            cx.set_repair(repair::Asked::Never);
            let request = CloneRequest {
                template: self.template.vmid,
                newid: cx.vmid(),
                name: spec.hostname.as_str().to_owned(),
                description: format!("{}\n", cx.marker()),
                pool: cx.engine().rules.pool.clone(),
                storage: self.storage(cx).to_owned(),
                mode: cx.engine().rules.clone_mode,
            };
            match cx.pve().clone_template(request).await {
                Ok(upid) => Ok(Act::Task(upid)),
                Err(error) if error.is_already_exists() => {
                    Err(Trouble::Look("the VMID was taken when the clone was called".to_owned()))
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// First step of undoing a create: whatever its clone is about comes to its end. A worker is waited for, the
/// locked rest of a dead one removed by root's repair; what is whole is left to the steps behind this one.
pub(super) struct SettleClone;

impl Step for SettleClone {
    fn name(&self) -> &'static str {
        "settle_clone"
    }

    fn look<'a>(&'a self, cx: &'a Cx, own: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let done = || Ok(Look::Done(json!({})));
            let rows = cx.journal().steps(cx.id()).await?;
            let row = rows.iter().find(|row| row.k > 0 && row.name == "clone");
            let Some(since) = intended(cx, row) else { return done() };
            let intent: Value =
                row.and_then(|row| serde_json::from_str(&row.intent_json).ok()).unwrap_or_default();
            let template = intent["template"].as_u64().and_then(|vmid| Vmid::try_from(vmid).ok());
            let search = match template {
                Some(template) => task(cx, template, row, since).await?,
                // The clone of an earlier order, of which only the VM is left.
                None => CloneSearch::NotFound,
            };
            let exit = match search {
                CloneSearch::Running(upid) => return Ok(Look::Adopt(upid)),
                CloneSearch::Undecided => {
                    return Ok(Look::Wait("a clone of the template is still at work".to_owned()));
                }
                CloneSearch::NotFound => None,
                CloneSearch::Ended(_, exit) => Some(exit),
            };
            let killed = exit == Some(TaskExit::Killed);
            let seen = cx.pve().guest_config(cx.vmid()).await?;
            let free = match &seen {
                ConfigRead::Absent => true,
                // With pool-scoped rights alone a number that is free and one of somebody else look alike.
                ConfigRead::Forbidden => !cx.pve().vmid_taken(cx.vmid()).await?,
                ConfigRead::Present(_) => false,
            };
            if free {
                destroy::no_disk_is_left_of_a_clone(cx, own, since).await?;
                return done();
            }
            match seen {
                ConfigRead::Present(config) if config.lock() == Some("clone") => {
                    match locked(cx, &Seen::Over { since, exit }, &config).await {
                        // Somebody else's VM holds the number: there is nothing of ours to take back.
                        Err(Trouble::Fail(..)) => done(),
                        other => other,
                    }
                }
                ConfigRead::Forbidden if killed => match repair::clean_clone(cx).await {
                    Ok(()) => Ok(Look::Wait("the rest of a dead clone is being removed".to_owned())),
                    Err(Trouble::Fail(..)) => done(),
                    Err(other) => Err(other),
                },
                _ => done(),
            }
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        // However it ended: what it left tells what is to be done.
        Trouble::Look(format!("the clone ended: {exit}"))
    }

    fn act<'a>(&'a self, _cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        // Looking is all there is to do.
        Box::pin(async { Ok(Act::Done(json!({}))) })
    }
}

/// The template that realises an image on this node, by the image's digest.
pub(super) async fn template_for(cx: &Cx, image: &ImageRef) -> Result<ImageTemplate, Trouble> {
    let templates = patiently(cx, || Box::pin(async { Ok(cx.pve().templates().await?) })).await?;
    let found = templates.into_iter().find(|t| t.digest == image.digest.as_str());
    found.ok_or_else(|| {
        let text = format!("no template on this node has the image {} ({})", image.name, image.digest);
        Trouble::fail(Class::Template, text)
    })
}

/// Whether the new disk of a rebuild has room, before the old one is destroyed.
pub(super) async fn room_for(cx: &Cx, template: &ImageTemplate) -> Result<(), Trouble> {
    let bytes = match cx.engine().rules.clone_mode {
        CloneMode::Full => template.disk_bytes,
        CloneMode::Linked => 0,
    };
    let storage = storage_for(cx, template);
    patiently(cx, || Box::pin(room::look(cx, storage, bytes, "the new disk"))).await
}

/// Asks the host before anything is called, for as long as it does not answer and the order has time.
async fn patiently<'a, T>(
    cx: &'a Cx,
    ask: impl Fn() -> BoxFuture<'a, Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let mut looks = 0;
    loop {
        match ask().await {
            Err(Trouble::Look(_)) if !cx.overdue() => {
                tokio::time::sleep(cx.pace().again(looks)).await;
                looks += 1;
            }
            // Nothing has been called: another node may be tried.
            Err(Trouble::Look(why)) => return Err(Trouble::fail(Class::Retryable, why)),
            outcome => return outcome,
        }
    }
}

//! Carries accepted image orders out, one at a time: two downloads would only share the line.

use std::{sync::Arc, time::Duration};

use ez_protocol::{ProvisioningOrderId, UnixMillis, image::ImageOrder, message::ImageBuildState};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Begun, BuildError, Report, Site, Step, build};
use crate::{
    clock::Clock,
    journal::{ImageBuildRow, Journal, JournalError},
    policy::Policy,
    pve::Vmid,
    setup::AdminApi,
};

/// How many orders of late are told.
const TOLD: usize = 20;
/// How long a journal that could not be used is left alone. Nobody rings when it can be used again.
const AGAIN: Duration = Duration::from_secs(15);

/// Everything that building by order needs.
pub struct Worker {
    /// The journal.
    pub journal: Journal,
    /// Proxmox, as the agent's own token.
    pub api: Box<dyn AdminApi>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The host's bounds, looked at once more before each build.
    pub policy: Policy,
    /// The node's name in Proxmox.
    pub node: String,
    /// Rung when an order was accepted.
    pub wake: Arc<Notify>,
    /// Rung when there is something to tell about the host.
    pub changed: Arc<Notify>,
}

impl Worker {
    /// Works until it is stopped; what is at work then goes on at the next start.
    pub async fn run(self, stop: CancellationToken) {
        self.run_by(stop, AGAIN).await;
    }

    /// The same, with so long a pause after the journal could not be used.
    pub(super) async fn run_by(self, stop: CancellationToken, again: Duration) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.next() => match done {
                    Ok(true) => {}
                    Ok(false) => tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.wake.notified() => {}
                    },
                    Err(error) => {
                        tracing::error!(%error, "image orders wait: the journal cannot be used");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = self.wake.notified() => {}
                            () = tokio::time::sleep(again) => {}
                        }
                    }
                }
            }
        }
    }

    /// Carries the oldest order out; `false` if there is none.
    ///
    /// # Errors
    /// Only if the journal cannot be read or written.
    pub async fn next(&self) -> Result<bool, JournalError> {
        let Some(row) = self.journal.next_image().await? else { return Ok(false) };
        let end = match self.carry_out(&row).await {
            Ok(vmid) => Ok(vmid),
            Err(BuildError::Journal(_)) => return Err(JournalError::Unknown),
            Err(error) => Err(text(&error)),
        };
        match &end {
            Ok(vmid) => tracing::info!(order = %row.order_id, image = row.name, vmid, "image ready"),
            Err(why) => tracing::warn!(order = %row.order_id, image = row.name, why, "image not built"),
        }
        self.journal.image_ended(row.order_id, end, self.clock.now()).await?;
        self.changed.notify_one();
        Ok(true)
    }

    async fn carry_out(&self, row: &ImageBuildRow) -> Result<Vmid, BuildError> {
        let broken = |why: String| BuildError::Unfit(format!("the stored order cannot be read: {why}"));
        let order = ImageOrder::from_bytes(&row.payload).map_err(|error| broken(error.to_string()))?;
        let Some(builds) = &self.policy.build else {
            return Err(BuildError::Unfit(
                "images.build: images are not built by order on this host".to_owned(),
            ));
        };
        let site = Site::new(&self.node, &self.policy, builds);
        let mut report = Noted { worker: self, order: row.order_id };
        build(self.api.as_ref(), &site, &order.image, begun(row), &mut report).await
    }
}

/// An error with what is below it.
fn text(error: &BuildError) -> String {
    let text = match error {
        BuildError::Pve { doing, reason } => format!("{doing}: {}", reason.text()),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(800).collect()
}

/// What a restart finds begun.
fn begun(row: &ImageBuildRow) -> Begun {
    let steps = [Step::Download, Step::Create, Step::Convert, Step::Lint, Step::Mark];
    let step = steps.into_iter().find(|step| Some(step.as_str()) == row.step.as_deref());
    let upid = row.upid.as_deref().and_then(|upid| upid.parse().ok());
    Begun { vmid: row.vmid.filter(|_| step == Some(Step::Create)), task: step.zip(upid) }
}

/// Writes each intent and each task into the journal.
struct Noted<'w> {
    worker: &'w Worker,
    order: ProvisioningOrderId,
}

impl Report for Noted<'_> {
    fn begin(&mut self, step: Step, vmid: Option<Vmid>) -> BoxFuture<'_, Result<(), BuildError>> {
        async move {
            let now: UnixMillis = self.worker.clock.now();
            let done = self.worker.journal.image_step(self.order, step.as_str(), vmid, now).await;
            self.worker.changed.notify_one();
            done.map_err(|error| BuildError::Journal(error.to_string()))
        }
        .boxed()
    }

    fn called(&mut self, upid: &str) -> BoxFuture<'_, Result<(), BuildError>> {
        let upid = upid.to_owned();
        async move {
            let done = self.worker.journal.image_called(self.order, upid, self.worker.clock.now()).await;
            done.map_err(|error| BuildError::Journal(error.to_string()))
        }
        .boxed()
    }
}

/// Image orders of late, for the report about the host.
///
/// # Errors
/// If the journal cannot be read.
pub async fn states(journal: &Journal) -> Result<Vec<ImageBuildState>, JournalError> {
    let rows =
        crate::journal::lists::image_builds(journal.readers(), i64::try_from(TOLD).unwrap_or(20)).await?;
    Ok(rows
        .into_iter()
        .map(|row| ImageBuildState {
            order_id: row.order_id.to_string(),
            state: row.state,
            step: row.step.unwrap_or_default(),
            detail: row.detail.unwrap_or_default(),
        })
        .collect())
}

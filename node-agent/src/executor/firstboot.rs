//! Step `cloud_init`: the snippets are written first, then named in the configuration, then the
//! drive is made anew.

use std::collections::BTreeSet;

use ez_protocol::{
    InstanceId,
    order::{InstanceSpec, Op},
};
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    configure,
    context::Cx,
    fault::{Class, Trouble},
    saga::{Act, Look, Step},
};
use crate::{
    journal::StepRow,
    pve::{GuestConfig, Vmid, settings},
};

/// Why first-boot files could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirstBootError {
    /// What the customer gave cannot be put into them.
    #[error("cloud-init: {0}")]
    Input(String),
    /// The files cannot be written.
    #[error("cloud-init: {0}")]
    Write(String),
}

/// Makes and removes a server's first-boot files. The real one renders cloud-init; tests count.
pub trait FirstBoot: Send + Sync {
    /// Writes the files durably and answers the value of `cicustom` that names them.
    ///
    /// # Errors
    /// If they cannot be rendered or written.
    fn write(
        &self,
        vmid: Vmid,
        generation: u64,
        instance: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<String, FirstBootError>;

    /// Removes every file of a VMID; none is no error.
    ///
    /// # Errors
    /// If one is there and cannot be removed.
    fn remove(&self, vmid: Vmid) -> Result<(), FirstBootError>;
}

/// Tells the guest its name, keys and addresses.
pub(super) struct CloudInit;

/// Whether the configuration already names files of this VM.
fn names_files(cx: &Cx, config: &GuestConfig) -> bool {
    let mine = format!("{}:snippets/ez-{}-", cx.engine().rules.snippet_storage, cx.vmid());
    config.get("cicustom").is_some_and(|value| value.contains(&mine))
}

impl Step for CloudInit {
    fn name(&self) -> &'static str {
        "cloud_init"
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            let good = names_files(cx, &config)
                && settings::change(&config, &settings::first_boot(cx.spec()?), BTreeSet::new()).is_none();
            Ok(if good { Look::Done(json!({})) } else { Look::Todo })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let spec = cx.spec()?;
            let generation = cx.order().generation;
            let files = cx.engine().first_boot.write(cx.vmid(), generation, cx.order().instance.uuid, spec);
            let cicustom = files.map_err(|error| match error {
                FirstBootError::Input(_) => Trouble::fail(Class::User, error.to_string()),
                FirstBootError::Write(_) => Trouble::fail(Class::Retryable, error.to_string()),
            })?;
            let config = cx.present().await?;
            let mut options = settings::first_boot(spec);
            options.insert("cicustom", cicustom);
            if let Some(change) = settings::change(&config, &options, BTreeSet::new()) {
                configure::send(cx, change).await?;
            }
            if config.cloudinit_drives().is_empty() {
                return Err(Trouble::fail(Class::Template, "the template has no cloud-init drive"));
            }
            cx.pve().regenerate_cloudinit(cx.vmid()).await?;
            Ok(Act::Done(json!({ "generation": generation })))
        })
    }
}

/// Removes the files of a VM that is gone.
pub(super) fn forget(cx: &Cx) {
    debug_assert!(!matches!(cx.order().op, Op::Action(_)));
    if let Err(error) = cx.engine().first_boot.remove(cx.vmid()) {
        tracing::warn!(vmid = cx.vmid(), %error, "first-boot files of a VM that is gone could not be removed");
    }
}

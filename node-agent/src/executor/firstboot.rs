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
    cloudinit::PasswordReset,
    journal::StepRow,
    pve::{Vmid, settings},
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
        reset: Option<&PasswordReset>,
    ) -> Result<String, FirstBootError>;

    /// Whether a value of `cicustom` names files of this VM that are there and say exactly this.
    fn holds(
        &self,
        vmid: Vmid,
        cicustom: &str,
        instance: InstanceId,
        spec: &InstanceSpec,
        reset: Option<&PasswordReset>,
    ) -> bool;

    /// Removes the files of a VMID but those of the generation `keep`; none is no error.
    ///
    /// # Errors
    /// If one is there and cannot be removed.
    fn remove(&self, vmid: Vmid, keep: Option<u64>) -> Result<(), FirstBootError>;
}

/// Tells the guest its name, keys and addresses.
pub(super) enum CloudInit {
    /// As the server is wished.
    Serve,
    /// The same without the rescue system that could not be brought about.
    ServeWithoutRescue,
}

impl CloudInit {
    fn spec(&self, cx: &Cx) -> Result<InstanceSpec, Trouble> {
        let spec = cx.spec()?.clone();
        Ok(match self {
            Self::Serve => spec,
            Self::ServeWithoutRescue => InstanceSpec { rescue: None, ..spec },
        })
    }
}

/// Writes the files of the order's generation, with a password that waits for the next boot.
async fn write(cx: &Cx, spec: &InstanceSpec) -> Result<String, Trouble> {
    let instance = cx.order().instance.uuid;
    let reset = cx.journal().reset_of(instance).await?;
    let files =
        cx.engine().first_boot.write(cx.vmid(), cx.order().generation, instance, spec, reset.as_ref());
    files.map_err(|error| match error {
        FirstBootError::Input(_) => Trouble::fail(Class::User, error.to_string()),
        FirstBootError::Write(_) => Trouble::fail(Class::Retryable, error.to_string()),
    })
}

/// Writes them once more, and the drive.
pub(super) async fn write_again(cx: &Cx, spec: &InstanceSpec) -> Result<(), Trouble> {
    let cicustom = write(cx, spec).await?;
    name_them(cx, spec, cicustom).await
}

/// Names the files in the configuration, makes the drive anew, and forgets those of other generations.
async fn name_them(cx: &Cx, spec: &InstanceSpec, cicustom: String) -> Result<(), Trouble> {
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
    if let Err(error) = cx.engine().first_boot.remove(cx.vmid(), Some(cx.order().generation)) {
        tracing::warn!(vmid = cx.vmid(), %error, "first-boot files of an earlier generation could not be removed");
    }
    Ok(())
}

impl Step for CloudInit {
    fn name(&self) -> &'static str {
        match self {
            Self::Serve => "cloud_init",
            Self::ServeWithoutRescue => "cloud_init_again",
        }
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            let (spec, instance) = (self.spec(cx)?, cx.order().instance.uuid);
            let reset = cx.journal().reset_of(instance).await?;
            // A snapshot's or a backup's configuration names older files, which say something else or are gone.
            let named = config.get("cicustom").unwrap_or("");
            let good = cx.engine().first_boot.holds(cx.vmid(), named, instance, &spec, reset.as_ref())
                && settings::change(&config, &settings::first_boot(&spec), BTreeSet::new()).is_none();
            Ok(if good { Look::Done(json!({})) } else { Look::Todo })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            write_again(cx, &self.spec(cx)?).await?;
            Ok(Act::Done(json!({ "generation": cx.order().generation })))
        })
    }
}

/// Removes the files of a VM that is gone.
pub(super) fn forget(cx: &Cx) {
    debug_assert!(!matches!(cx.order().op, Op::Action(_)));
    if let Err(error) = cx.engine().first_boot.remove(cx.vmid(), None) {
        tracing::warn!(vmid = cx.vmid(), %error, "first-boot files of a VM that is gone could not be removed");
    }
}

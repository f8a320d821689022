//! Step `resize`: the first disk grows to an absolute size. It never shrinks.

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::{Class, Trouble},
    limits::Load,
    saga::{Act, Look, Step},
};
use crate::journal::StepRow;

/// Grows the boot disk to the size of the spec.
pub(super) struct Resize;

/// Name of the boot disk and its size in bytes.
async fn disk(cx: &Cx) -> Result<(String, u64), Trouble> {
    let config = cx.present().await?;
    let name = config
        .boot_disk()
        .ok_or_else(|| Trouble::fail(Class::Template, "the VM has no disk to boot from"))?;
    let bytes = config.disk_bytes(&name).unwrap_or(0);
    Ok((name, bytes))
}

impl Step for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            if let Some(running) = super::running_task(cx, row).await? {
                return Ok(Look::Adopt(running));
            }
            let wanted = u64::from(cx.spec()?.disk_gib) << 30;
            let (name, bytes) = disk(cx).await?;
            Ok(if bytes >= wanted { Look::Done(json!({ "disk": name })) } else { Look::Todo })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let (name, _) = disk(cx).await?;
            let gib = cx.spec()?.disk_gib;
            Ok(match cx.pve().resize(cx.vmid(), &name, gib).await? {
                Some(upid) => Act::Task(upid),
                None => Act::Done(json!({ "disk": name })),
            })
        })
    }
}

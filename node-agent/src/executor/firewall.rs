//! Step `firewall`: options and the address set are set, not added to; repeating changes nothing.

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::Trouble,
    saga::{Act, Look, Step},
};
use crate::{journal::StepRow, pve::settings};

/// Binds the server to its own addresses.
pub(super) struct Firewall;

impl Step for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    /// Setting it is cheaper than comparing it.
    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            cx.present().await?;
            Ok(if cx.spec()?.network.firewall {
                Look::Todo
            } else {
                Look::Done(json!({ "firewall": false }))
            })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let setup = settings::firewall(&cx.spec()?.network);
            cx.pve().set_firewall(cx.vmid(), setup).await?;
            Ok(Act::Done(json!({})))
        })
    }
}

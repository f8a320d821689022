//! Step `firewall`: options and the address set are set, not added to; repeating changes nothing.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use ipnet::IpNet;
use serde_json::json;

use super::{
    context::Cx,
    fault::Trouble,
    saga::{Act, Look, Step},
};
use crate::{journal::StepRow, pve::FirewallSetup};

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
            Ok(if cx.spec()?.network.firewall { Look::Todo } else { Look::Done(json!({ "firewall": false })) })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            // A whole /64 may be used by its owner; of a v4 network only the one address is theirs.
            let addresses: BTreeSet<IpNet> = cx
                .spec()?
                .network
                .addresses
                .iter()
                .map(|a| if a.cidr.addr().is_ipv6() { a.cidr.trunc() } else { IpNet::from(a.cidr.addr()) })
                .collect();
            cx.pve().set_firewall(cx.vmid(), FirewallSetup { addresses }).await?;
            Ok(Act::Done(json!({})))
        })
    }
}

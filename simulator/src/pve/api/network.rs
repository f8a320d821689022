//! `/nodes/{node}/network`: the bridges.

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::ApiResult;

const TYPE: &str = "type? s enum=bridge|bond|eth|alias|vlan enum9=fabric enum=OVSBridge|OVSBond|OVSPort|OVSIntPort|vnet|any_bridge|any_local_bridge enum9=include_sdn";

pub(super) fn calls() -> Vec<Call> {
    vec![call("GET", "/nodes/{node}/network", &[TYPE], Check::Everyone, list)]
}

async fn list(ctx: Ctx) -> ApiResult {
    let Some(facts) = ctx.cluster.nodes.get(&ctx.node) else { return Ok(json!([]).into()) };
    let wanted = ctx.params.get("type");
    let mut out = Vec::new();
    for (i, bridge) in facts.config.bridges.iter().enumerate() {
        let path = format!("/sdn/zones/localnetwork/{bridge}");
        let seen = ctx
            .cluster
            .judge(|_, a| {
                a.may_any(&ctx.caller, &path, &["SDN.Audit", "SDN.Use"])
                    || a.may(&ctx.caller, &format!("/nodes/{}", ctx.node), "Sys.Audit")
            })
            .await;
        if seen && matches!(wanted, None | Some("bridge" | "any_bridge" | "any_local_bridge" | "include_sdn"))
        {
            out.push(json!({
                "iface": bridge, "type": "bridge", "active": 1, "autostart": 1, "method": "manual", "method6": "manual",
                "bridge_ports": if i == 0 { "eth0" } else { "" }, "bridge_stp": "off", "bridge_fd": "0",
                "families": ["inet"], "priority": 3 + i,
            }));
        }
    }
    if matches!(wanted, None | Some("eth")) {
        out.push(json!({"iface": "eth0", "type": "eth", "active": 1, "exists": 1, "method": "manual", "method6": "manual", "families": ["inet"]}));
    }
    Ok(Value::Array(out).into())
}

//! What a run came to, without what differs between any two runs: ids, times, names, addresses.

use serde_json::{Map, Value, json};

use crate::{
    purchase::PATIENCE,
    support::{Demo, until},
};

/// Keys whose values are ids, times or names of one run.
const OF_ONE_RUN: &[&str] = &[
    "id",
    "server_id",
    "order_id",
    "checkout_url",
    "created",
    "created_at",
    "started_at",
    "observed_at",
    "at",
    "paid_at",
    "placed_at",
    "fulfilled_at",
    "finished_at",
    "reserved_until",
    "hostname",
    "ipv4",
    "ipv6",
    "ssh",
    "vmid",
    "mac",
    "macs",
    "ips",
    "marker",
    "description",
    "upid",
    "digest",
    "meta",
    "vmgenid",
    "smbios1",
    "cicustom",
    "net0",
    "ipconfig0",
    "instance_id",
    "volid",
    "parent",
    "cloudinit",
    "detail",
    "updated_at",
    "purge_at",
    "retired_at",
    "built_at",
    "usable_at",
    "since",
    "until",
    "next_charge_at",
    "percent",
    "attempt",
    "ctime",
    "notes",
    "source",
    // Of a password, which is drawn anew each time.
    "sha256",
];

/// The name of a server stands in its VM as well.
fn is_server_name(text: &str) -> bool {
    text.strip_prefix("web-").is_some_and(|n| n.parse::<u32>().is_ok())
}

/// The same value without what belongs to one run.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| !OF_ONE_RUN.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key.clone(), plain(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        Value::String(text) if is_server_name(text) => json!("web"),
        Value::String(text) => {
            // Volumes carry the VMID in their name.
            let words = text.split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>();
            if words.contains(&"vm") {
                json!(words.iter().filter(|w| w.parse::<u32>().is_err()).collect::<Vec<_>>())
            } else {
                value.clone()
            }
        }
        other => other.clone(),
    }
}

/// A filter as it stands on the host: its addresses by number, as they are given out anew each time.
fn filter(firewall: &Value) -> Value {
    let sets = firewall["ipsets"].as_object().into_iter().flatten();
    let sets = sets.map(|(name, set)| (name.clone(), json!(set["entries"].as_array().map_or(0, Vec::len))));
    json!({
        "options": firewall["options"], "rules": firewall["rules"], "ipsets": sets.collect::<Map<_, _>>(),
    })
}

/// The end state of one purchase: the order with its steps, the server, and its VM on the host.
pub async fn end_state(demo: &Demo, who: &str, order: &str) -> Value {
    let api = demo.api(who);
    // A program that was killed at the very end of the flow may still be on its way back.
    let path = format!("/orders/{order}");
    let order = until("an answer about the order", PATIENCE, || async {
        let (status, order) = api.try_get(&path).await;
        (status == 200).then_some(order)
    })
    .await;
    // A server whose node has said that it runs is running; that its action has ended is told a moment later.
    let path = format!("/servers/{}", order["server_id"].as_str().unwrap());
    let server = until("the server's action to end", PATIENCE, || async {
        let (status, server) = api.try_get(&path).await;
        (status == 200 && server["action"].is_null()).then_some(server)
    })
    .await;
    let marker = server["id"].as_str().unwrap();
    let mut vms = Vec::new();
    for index in 0..demo.state()["nodes"].as_array().unwrap().len() {
        let all = demo.host(index).get("/vms").await;
        for vm in all["vms"].as_array().unwrap() {
            if vm["description"].as_str().is_some_and(|d| d.contains(marker)) {
                let mut seen = plain(vm);
                seen["addresses"] = json!(vm["ips"].as_array().map_or(0, Vec::len));
                seen["cards"] = json!(vm["macs"].as_array().map_or(0, Vec::len));
                seen["first_boot_files"] = json!(!vm["cloudinit"]["user"].is_null());
                seen["firewall"] = filter(&vm["firewall"]);
                vms.push(seen);
            }
        }
    }
    json!({ "order": plain(&order), "server": plain(&server), "vms": vms })
}

/// Where two end states differ, one line each: nobody finds it in two pages of JSON.
pub fn differences(is: &Value, should: &Value) -> Vec<String> {
    fn walk(at: &str, is: &Value, should: &Value, out: &mut Vec<String>) {
        match (is, should) {
            (Value::Object(a), Value::Object(b)) => {
                let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    walk(&format!("{at}/{key}"), &is[key.as_str()], &should[key.as_str()], out);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (n, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{at}/{n}"), a, b, out);
                }
            }
            _ if is != should => out.push(format!("{at} is {is}, should be {should}")),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk("", is, should, &mut out);
    out
}

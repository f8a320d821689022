//! Which configuration options the agent may set at all, and to what.
//!
//! An allow-list, checked on every change right before it is sent. A bug in the executor, or an order
//! that found a way around the types, ends here.

use super::{Policy, PolicyRefusal};
use crate::{
    cloudinit::SNIPPET_KINDS,
    pve::{ConfigChange, ISO_DRIVE, Vmid},
};

/// Options the agent sets.
const SETTABLE: [&str; 21] = [
    "name",
    "description",
    "tags",
    "onboot",
    "protection",
    "cores",
    "sockets",
    "cpulimit",
    "cpuunits",
    "memory",
    "balloon",
    "net0",
    "ipconfig0",
    "nameserver",
    "searchdomain",
    "cicustom",
    "ciupgrade",
    "citype",
    "agent",
    "boot",
    ISO_DRIVE,
];
/// Options it may remove beside those: what a template must not pass on.
const REMOVABLE: [&str; 4] = ["ciuser", "cipassword", "sshkeys", "startup"];

/// Checks a configuration change of a VM against the allow-list and the policy.
///
/// # Errors
/// The first option that may not be set or removed.
pub fn check_change(
    policy: &Policy,
    vmid: Vmid,
    snippet_storage: &str,
    change: &ConfigChange,
) -> Result<(), PolicyRefusal> {
    let refuse = |detail: String| Err(PolicyRefusal::new("config_keys", detail));
    for (key, value) in &change.set {
        if !SETTABLE.contains(&key.as_str()) {
            return refuse(format!("option {key} is never set"));
        }
        if key == "cicustom" && !is_own_cicustom(value, vmid, snippet_storage) {
            return refuse("cicustom may name only this VM's own snippets".to_owned());
        }
        if key == "boot" && !is_boot_order(value) {
            return refuse("boot may only put drives into an order".to_owned());
        }
        if key == ISO_DRIVE && !is_medium(value, policy.iso_storage.as_deref()) {
            return refuse(format!("{ISO_DRIVE} may only hold a medium of the storage for media"));
        }
        if key == "net0" {
            let bridge = value.split(',').find_map(|part| part.strip_prefix("bridge="));
            if !bridge.is_some_and(|bridge| policy.bridges.contains(bridge)) {
                return refuse(format!("net0 on bridge {} is not allowed", bridge.unwrap_or("(none)")));
            }
            let tag = value.split(',').find_map(|part| part.strip_prefix("tag="));
            let allowed = |tag: &str| {
                tag.parse().is_ok_and(|tag: u16| policy.vlans.iter().any(|range| range.contains(&tag)))
            };
            if tag.is_some_and(|tag| !allowed(tag)) {
                return refuse(format!("net0 in VLAN {} is not allowed", tag.unwrap_or_default()));
            }
        }
    }
    for key in &change.delete {
        let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let numbered = matches!(family, "net" | "ipconfig") && family != key;
        if !SETTABLE.contains(&key.as_str()) && !REMOVABLE.contains(&key.as_str()) && !numbered {
            return refuse(format!("option {key} is never removed"));
        }
    }
    Ok(())
}

/// `user=<storage>:snippets/ez-<vmid>-<generation>-user.yaml,…` and nothing else.
fn is_own_cicustom(value: &str, vmid: Vmid, storage: &str) -> bool {
    let own = |part: &str| -> Option<bool> {
        let (kind, volume) = part.split_once('=')?;
        let file = volume.strip_prefix(storage)?.strip_prefix(":snippets/")?;
        let generation = file.strip_prefix(&format!("ez-{vmid}-"))?.strip_suffix(&format!("-{kind}.yaml"))?;
        let digits = !generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit());
        Some(digits && SNIPPET_KINDS.contains(&kind))
    };
    !value.is_empty() && value.split(',').all(|part| own(part) == Some(true))
}

/// `order=` and names of drives, nothing else.
fn is_boot_order(value: &str) -> bool {
    let drive = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    value.strip_prefix("order=").is_some_and(|drives| drives.split(';').all(drive))
}

/// `<storage>:iso/<name>.iso,media=cdrom`, nothing else.
fn is_medium(value: &str, storage: Option<&str>) -> bool {
    let file = storage
        .and_then(|storage| value.strip_prefix(storage))
        .and_then(|rest| rest.strip_prefix(":iso/"))
        .and_then(|rest| rest.strip_suffix(",media=cdrom"));
    file.is_some_and(|name| ez_protocol::order::IsoName::parse(name).is_ok())
}

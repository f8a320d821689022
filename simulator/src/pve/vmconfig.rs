//! A VM's configuration: the option table, how values are shown, digest, pending changes, and which
//! privilege each option needs.

use serde_json::{Map, Value, json};

use super::access::{Access, Caller};
use super::drive::Drive;
use super::params::Params;
use super::reply::ApiError;
use super::state::{Options, Vm, sha1_hex};

/// All options of a VM, as in `PUT …/config`.
pub(crate) const OPTIONS: &str = "\
acpi? b
affinity? s fmt=pve-cpuset
agent? s fmt=@agent
allow-ksm? b since9
amd-sev? s fmt=pve-qemu-sev-fmt
arch? s enum=x86_64|aarch64
args? s
audio0? s fmt=@audio
autostart? b
balloon? i 0..
bios? s enum=seabios|ovmf
boot? s fmt=pve-qm-boot
bootdisk? s fmt=pve-qm-bootdisk re=bootdisk
cdrom? s fmt=pve-qm-ide
cicustom? s fmt=@cicustom
cipassword? s
citype? s enum=configdrive2|nocloud|opennebula
ciupgrade? b
ciuser? s
cores? i 1..
cpu? s fmt=pve-vm-cpu-conf
cpulimit? n 0..128
cpuunits? i 1..262144
description? s max=8192
efidisk0? s fmt=@efidisk
freeze? b
hookscript? s fmt=pve-volume-id
hostpci[16]? s fmt=pve-qm-hostpci
hotplug? s fmt=pve-hotplug-features
hugepages? s enum=any|2|1024
ide[4]? s fmt=@ide
intel-tdx? s fmt=pve-qemu-tdx-fmt since9
ipconfig[32]? s fmt=@ipconfig
ivshmem? s fmt=@ivshmem
keephugepages? b
keyboard? s enum=de|de-ch|da|en-gb|en-us|es|fi|fr|fr-be|fr-ca|fr-ch|hu|is|it|ja|lt|mk|nl|no|pl|pt|pt-br|sv|sl|tr
kvm? b
localtime? b
lock? s enum=backup|clone|create|migrate|rollback|snapshot|snapshot-delete|suspending|suspended
machine? s fmt=@machine
memory? s fmt=@memory
migrate_downtime? n 0..
migrate_speed? i 0..
name? s fmt=dns-name
nameserver? s fmt=address-list
net[32]? s fmt=@net
numa? b
numa[8]? s fmt=@numa
onboot? b
ostype? s enum=other|wxp|w2k|w2k3|w2k8|wvista|win7|win8|win10|win11|l24|l26|solaris
parallel[3]? s re=parallel
protection? b
reboot? b
rng0? s fmt=pve-qm-rng
sata[6]? s fmt=@sata
scsi[31]? s fmt=@scsi
scsihw? s enum=lsi|lsi53c810|virtio-scsi-pci|virtio-scsi-single|megasas|pvscsi
searchdomain? s
serial[4]? s re8=serial re9=serial-strict
shares? i 0..50000
smbios1? s max=512 fmt=pve-qm-smbios1
smp? i 1..
sockets? i 1..
spice_enhancements? s fmt=@spice
sshkeys? s fmt=urlencoded
startdate? s re=startdate
startup? s fmt=pve-startup-order
tablet? b
tags? s fmt=pve-tag-list
tdf? b
template? b
tpmstate0? s fmt=@tpmstate
unused[256]? s fmt=@unused
usb[14]? s fmt=@usb
vcpus? i 1..
vga? s fmt=@vga
virtio[16]? s fmt=@virtio
virtiofs[10]? s fmt=@virtiofs
vmgenid? s re=vmgenid
vmstatestorage? s fmt=pve-storage-id
watchdog? s fmt=pve-qm-watchdog
";

const WHOLE_NUMBERS: &[&str] = &[
    "acpi",
    "allow-ksm",
    "autostart",
    "balloon",
    "ciupgrade",
    "cores",
    "cpuunits",
    "freeze",
    "keephugepages",
    "kvm",
    "localtime",
    "migrate_speed",
    "numa",
    "onboot",
    "protection",
    "reboot",
    "shares",
    "smp",
    "sockets",
    "tablet",
    "tdf",
    "template",
    "vcpus",
];
const CLOUDINIT: &[&str] =
    &["cicustom", "cipassword", "citype", "ciupgrade", "ciuser", "nameserver", "searchdomain", "sshkeys"];
const CPU: &[&str] = &["cores", "cpu", "cpulimit", "cpuunits", "numa", "smp", "sockets", "vcpus"];
const MEMORY: &[&str] = &["balloon", "memory", "shares", "allow-ksm"];
const HARDWARE: &[&str] = &[
    "acpi", "audio0", "hotplug", "kvm", "machine", "rng0", "scsihw", "smbios1", "tablet", "vga", "watchdog",
];
const GENERAL: &[&str] = &[
    "agent",
    "autostart",
    "bios",
    "description",
    "freeze",
    "keyboard",
    "localtime",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "ostype",
    "protection",
    "reboot",
    "startdate",
    "tags",
    "tdf",
    "template",
];
/// Options that a running VM takes over at once.
const AT_ONCE: &[&str] = &[
    "balloon",
    "cpulimit",
    "cpuunits",
    "description",
    "hookscript",
    "lock",
    "name",
    "onboot",
    "protection",
    "shares",
    "startup",
    "tags",
    "vmstatestorage",
];

/// The name of an indexed option without its number.
pub(crate) fn base(option: &str) -> &str {
    option.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Whether the option is a disk or CD drive.
pub(crate) fn is_drive(option: &str) -> bool {
    option != "scsihw"
        && option.len() > base(option).len()
        && matches!(base(option), "ide" | "sata" | "scsi" | "virtio" | "efidisk" | "tpmstate")
}

pub(crate) fn is_net(option: &str) -> bool {
    base(option) == "net" && option.len() > 3
}

pub(crate) fn is_cloudinit(option: &str) -> bool {
    CLOUDINIT.contains(&option) || (base(option) == "ipconfig" && option.len() > 8)
}

/// Whether the option takes effect on a running VM without a restart.
pub(crate) fn applies_at_once(option: &str) -> bool {
    AT_ONCE.contains(&option)
        || is_cloudinit(option)
        || is_net(option)
        || is_drive(option)
        || base(option) == "unused"
}

/// An option's value as JSON: whole numbers as numbers, everything else as text.
pub(crate) fn shown(option: &str, value: &str) -> Value {
    if option == "cipassword" {
        return "**********".into();
    }
    if WHOLE_NUMBERS.contains(&option)
        && let Ok(n) = value.parse::<i64>()
    {
        return n.into();
    }
    value.into()
}

/// The digest of a configuration: SHA-1 over its text.
pub(crate) fn digest(vm: &Vm) -> String {
    let mut text = String::new();
    if let Some(description) = vm.config.get("description") {
        for line in description.lines() {
            text.push_str(&format!("#{line}\n"));
        }
    }
    for (k, v) in vm.config.iter().filter(|(k, _)| *k != "description") {
        text.push_str(&format!("{k}: {v}\n"));
    }
    if !vm.pending.is_empty() {
        text.push_str("\n[PENDING]\n");
        for (k, v) in &vm.pending {
            match v {
                Some(v) => text.push_str(&format!("{k}: {v}\n")),
                None => text.push_str(&format!("delete: {k}\n")),
            }
        }
    }
    for (name, snapshot) in &vm.snapshots {
        text.push_str(&format!("\n[{name}]\n{:?}\n", snapshot.config));
    }
    sha1_hex(text.as_bytes())
}

/// `GET …/config`: pending values merged in unless `current`.
pub(crate) fn view(vm: &Vm, current: bool) -> Value {
    let mut merged: Options = vm.config.clone();
    if !current {
        for (k, v) in &vm.pending {
            match v {
                Some(v) => merged.insert(k.clone(), v.clone()),
                None => merged.remove(k),
            };
        }
    }
    let mut out: Map<String, Value> = merged.iter().map(|(k, v)| (k.clone(), shown(k, v))).collect();
    if let Some(parent) = vm.config.get("parent") {
        out.insert("parent".into(), parent.as_str().into());
    }
    out.insert("digest".into(), digest(vm).into());
    Value::Object(out)
}

/// `GET …/pending`.
pub(crate) fn pending(vm: &Vm) -> Value {
    let mut out: Vec<Value> = Vec::new();
    for (k, v) in &vm.config {
        let mut row = json!({"key": k, "value": shown(k, v)});
        match vm.pending.get(k) {
            Some(Some(new)) => row["pending"] = shown(k, new),
            Some(None) => row["delete"] = 1.into(),
            None => {}
        }
        out.push(row);
    }
    for (k, v) in vm.pending.iter().filter(|(k, _)| !vm.config.contains_key(*k)) {
        if let Some(v) = v {
            out.push(json!({"key": k, "pending": shown(k, v)}));
        }
    }
    out.push(json!({"key": "digest", "value": digest(vm)}));
    Value::Array(out)
}

/// Takes the pending values over, as a cold start does; gives the volumes that are to be freed.
pub(crate) fn apply_pending(vm: &mut Vm) -> Vec<String> {
    let mut freed = Vec::new();
    for (k, v) in std::mem::take(&mut vm.pending) {
        let same = |old: &String| v.as_ref().is_some_and(|v| Drive::parse(v).file == Drive::parse(old).file);
        let old = match &v {
            Some(v) => vm.config.insert(k.clone(), v.clone()),
            None => vm.config.remove(&k),
        };
        if let Some(old) = old.filter(|old| is_drive(&k) && !same(old)) {
            detach(vm, &old, &mut freed);
        }
    }
    freed
}

/// A drive was taken out: its volume becomes `unusedN`; a medium just goes, a cloud-init drive is freed.
pub(crate) fn detach(vm: &mut Vm, old: &str, freed: &mut Vec<String>) {
    let drive = Drive::parse(old);
    if drive.is_cloudinit() {
        freed.push(drive.file);
    } else if !drive.is_cdrom() {
        add_unused(&mut vm.config, &drive.file);
    }
}

/// Notes a volume as unused, unless the configuration names it anyway.
pub(crate) fn add_unused(config: &mut Options, file: &str) {
    let names =
        |(k, v): (&String, &String)| (is_drive(k) || base(k) == "unused") && Drive::parse(v).file == file;
    let free = (0..256).map(|i| format!("unused{i}")).find(|k| !config.contains_key(k));
    if let Some(slot) = free.filter(|_| !config.iter().any(names)) {
        config.insert(slot, file.to_owned());
    }
}

/// The privilege rule of one option: 403 without it, 500 for what only root may set.
pub(crate) fn check_option(
    access: &Access<'_>,
    caller: &Caller,
    path: &str,
    option: &str,
    value: &str,
) -> Result<(), ApiError> {
    let on = |privilege: &str| access.check(caller, path, privilege);
    let only_root = || Err(ApiError::died(format!("only root can set '{option}' config")));
    if is_drive(option) {
        return Ok(()); // by what the drive is: see `drive`
    }
    if is_cloudinit(option) {
        return access.check_any(caller, path, &["VM.Config.Cloudinit", "VM.Config.Network"]);
    }
    if CPU.contains(&option) || (base(option) == "numa" && option.len() > 4) {
        return on("VM.Config.CPU");
    }
    if MEMORY.contains(&option) {
        return on("VM.Config.Memory");
    }
    if HARDWARE.contains(&option) {
        return on("VM.Config.HWType");
    }
    if GENERAL.contains(&option) {
        return on("VM.Config.Options");
    }
    match (base(option), option) {
        (_, "boot" | "bootdisk") | ("unused", _) => on("VM.Config.Disk"),
        ("net", _) => on("VM.Config.Network"),
        (_, "startup") => access.check(caller, "/", "Sys.Modify"),
        ("serial", _) if value.is_empty() || value == "socket" => on("VM.Config.HWType"),
        ("serial", _) => {
            Err(ApiError::died(format!("only root can modify '{option}' config for real devices")))
        }
        ("usb", _) if value.is_empty() || value.contains("spice") || value.contains("mapping=") => {
            on("VM.Config.HWType")
        }
        ("usb", _) => Err(ApiError::died(format!("only root can set '{option}' config for real devices"))),
        ("hostpci", _) if value.contains("mapping=") => on("VM.Config.HWType"),
        ("hostpci", _) => {
            Err(ApiError::died(format!("only root can set '{option}' config for non-mapped devices")))
        }
        ("virtiofs", _) => on("VM.Config.Options"),
        (_, "vmstatestorage") if value.is_empty() => on("VM.Config.Disk"),
        (_, "vmstatestorage") => {
            access.check(caller, &format!("/storage/{value}"), "Datastore.AllocateSpace")
        }
        _ => only_root(),
    }
}

/// A net option as Proxmox writes it: model and MAC first, then the rest sorted; a missing MAC is drawn.
pub(crate) fn net_with_mac(value: &str, major: u32, draw: &mut dyn FnMut() -> String) -> String {
    let Ok(mut parts) = super::schema::parse_property("net", value, "net", major) else {
        return value.to_owned();
    };
    let model = parts.remove("model").unwrap_or_else(|| "virtio".into());
    let mac = parts.remove("macaddr").map_or_else(draw, |m| m.to_uppercase());
    let mut out = format!("{model}={mac}");
    for (k, v) in parts {
        out.push_str(&format!(",{k}={v}"));
    }
    out
}

/// The bridge, VLAN tag and MAC of a net option.
pub(crate) fn net_parts(value: &str, major: u32) -> (Option<String>, Option<String>, Option<String>) {
    let mut parts = super::schema::parse_property("net", value, "net", major).unwrap_or_default();
    (parts.remove("bridge"), parts.remove("tag"), parts.remove("macaddr"))
}

/// 403 unless the caller may use the bridge (and VLAN) of a net option.
pub(crate) fn check_bridge(
    access: &Access<'_>,
    caller: &Caller,
    value: &str,
    major: u32,
) -> Result<(), ApiError> {
    let (bridge, tag, _) = net_parts(value, major);
    let Some(bridge) = bridge else { return Err(ApiError::died("no sdn vnet ID specified")) };
    let path = match tag {
        Some(tag) => format!("/sdn/zones/localnetwork/{bridge}/{tag}"),
        None => format!("/sdn/zones/localnetwork/{bridge}"),
    };
    access.check(caller, &path, "SDN.Use")
}

/// The options of a create or configure call, without the call's own parameters.
pub(crate) fn given_options(params: &Params, own: &[&str]) -> Options {
    let given = params.iter().filter(|(k, _)| !own.contains(&k.as_str()));
    given.map(|(k, _)| (k.clone(), as_stored(k, params.text(k)))).collect()
}

/// A value as it is read back: a description loses the blanks at its end with its comment lines.
pub(crate) fn as_stored(option: &str, value: &str) -> String {
    if option == "description" { value.trim_end().to_owned() } else { value.to_owned() }
}

/// Memory of a configuration in MiB.
pub(crate) fn memory_mib(config: &Options) -> u64 {
    config
        .get("memory")
        .and_then(|m| {
            m.split(',').find_map(|p| p.strip_prefix("current=").or(Some(p))).and_then(|m| m.parse().ok())
        })
        .unwrap_or(512)
}

/// Virtual processors of a configuration.
pub(crate) fn cpus(config: &Options) -> u64 {
    let number = |k: &str| config.get(k).and_then(|v| v.parse::<u64>().ok()).unwrap_or(1);
    number("cores") * number("sockets")
}

/// Size of the boot disk in bytes.
pub(crate) fn max_disk(config: &Options) -> u64 {
    let boot =
        config.get("boot").and_then(|b| b.split("order=").nth(1)).and_then(|o| o.split([';', ',']).next());
    let first = boot.filter(|b| config.contains_key(*b)).map(str::to_owned).or_else(|| {
        config
            .iter()
            .find(|(k, v)| {
                is_drive(k)
                    && !v.contains("media=cdrom")
                    && !k.starts_with("efidisk")
                    && !k.starts_with("tpm")
            })
            .map(|(k, _)| k.clone())
    });
    first.and_then(|d| config.get(&d)).map_or(0, |v| super::drive::Drive::parse(v).size().unwrap_or(0))
}

//! The judgement over one order.

use std::time::Duration;

use ez_protocol::{
    UnixMillis,
    image::ImageSource,
    order::{Action, ImageDigest, InstanceSpec, NetworkSpec, Op, ProvisioningOrder},
};

use super::{Policy, PolicyRefusal, Usage, UsedInstance, UsedNetwork};
use crate::{
    journal::{DISK, Loss},
    pve::settings,
};

/// Whether this host's policy lets the order through.
///
/// # Errors
/// The first rule that refuses, with what is allowed and what was asked.
pub fn evaluate(
    policy: &Policy,
    usage: &Usage,
    order: &ProvisioningOrder,
    now: UnixMillis,
) -> Result<(), PolicyRefusal> {
    let vmid = order.instance.vmid;
    if !policy.vmids.contains(&vmid) {
        let (first, last) = (policy.vmids.start(), policy.vmids.end());
        return refuse("vmid_range", format!("VMID {vmid} is outside {first}-{last}"));
    }
    orders(policy, usage, &order.op)?;
    let present = usage.instances.iter().find(|used| used.instance == order.instance.uuid);
    match &order.op {
        Op::Ensure(spec) => {
            network(policy, &spec.network)?;
            in_use(usage, order, present, &spec.network)?;
            sizes(policy, spec)?;
            media(policy, spec)?;
            match present {
                None => {
                    rates(policy, usage)?;
                    image(policy, &spec.image.name, &spec.image.digest)?;
                }
                Some(used) => present_disk(policy, usage, used, spec)?,
            }
            if let Some(rescue) = &spec.rescue {
                image(policy, &rescue.name, &rescue.digest)?;
            }
            sums(policy, usage, order, spec)
        }
        Op::Purge(_) => purge(policy, usage, present, now),
        Op::Action(action) => self::action(policy, usage, action),
        Op::Retire(_) | Op::Adopt(_) => Ok(()),
    }
}

/// What an ensure may make of a server that is in the books.
fn present_disk(
    policy: &Policy,
    usage: &Usage,
    used: &UsedInstance,
    spec: &InstanceSpec,
) -> Result<(), PolicyRefusal> {
    let anew = used.loses_disk_to(spec);
    let another = used.made.as_ref().is_some_and(|made| spec.image.digest != made.digest);
    if anew || used.unmade || another {
        image(policy, &spec.image.name, &spec.image.digest)?;
    }
    if anew { losses(policy, usage, Loss::Disk) } else { Ok(()) }
}

/// Whether this host's policy lets a console of this VM be opened.
///
/// # Errors
/// `console.allow` or `vmid_range`.
pub fn console(policy: &Policy, vmid: u32) -> Result<(), PolicyRefusal> {
    if !policy.consoles {
        return refuse("console.allow", "consoles are not allowed on this host".to_owned());
    }
    if policy.vmids.contains(&vmid) {
        return Ok(());
    }
    let (first, last) = (policy.vmids.start(), policy.vmids.end());
    refuse("vmid_range", format!("VMID {vmid} is outside {first}-{last}"))
}

fn refuse(rule: &'static str, detail: String) -> Result<(), PolicyRefusal> {
    Err(PolicyRefusal::new(rule, detail))
}

pub(super) fn network(policy: &Policy, network: &NetworkSpec) -> Result<(), PolicyRefusal> {
    if !policy.bridges.contains(&network.bridge) {
        return refuse("network.bridges", format!("bridge {} is not allowed here", network.bridge));
    }
    if let Some(tag) = network.vlan.filter(|tag| !policy.vlans.iter().any(|range| range.contains(tag))) {
        return refuse("network.vlans", format!("VLAN {tag} is not allowed here"));
    }
    if policy.require_firewall && !network.firewall {
        return refuse(
            "network.require_firewall",
            "a card without the host's filter is not allowed".to_owned(),
        );
    }
    for address in &network.addresses {
        // All that the guest may send from, which of a routed network is more than its own address.
        let sends_from = settings::sends_from(address);
        let inside = policy.prefixes.iter().any(|prefix| prefix.contains(&sends_from));
        if !inside && !policy.prefixes.is_empty() {
            let detail = format!("address {} (it sends from {sends_from}) is not allowed here", address.cidr);
            return refuse("network.prefixes", detail);
        }
    }
    Ok(())
}

/// A server gets nobody else's address or hardware address: on the same wire its owner would get what is meant for the
/// other. A retired one keeps its own until it is purged, and the control plane lets addresses rest for a day after that.
/// What a server has already is not asked about again: its suspension must not depend on another's network.
fn in_use(
    usage: &Usage,
    order: &ProvisioningOrder,
    present: Option<&UsedInstance>,
    network: &NetworkSpec,
) -> Result<(), PolicyRefusal> {
    let wanted = UsedNetwork::from(network);
    if present.is_some_and(|used| used.networks.iter().any(|network| network.covers(&wanted))) {
        return Ok(());
    }
    let others = usage.instances.iter().filter(|used| used.instance != order.instance.uuid);
    for other in others {
        if let Some(what) = other.networks.iter().find_map(|used| wanted.clash(used)) {
            return refuse("network.in_use", format!("{what} belongs to server {} here", other.instance));
        }
    }
    Ok(())
}

fn image(policy: &Policy, name: &str, digest: &ImageDigest) -> Result<(), PolicyRefusal> {
    if policy.digests.is_empty() || policy.digests.contains(digest.as_str()) {
        return Ok(());
    }
    refuse("images.digests", format!("image {name} ({digest}) is not allowed here"))
}

/// Whether this host's policy lets an image be built from there.
///
/// # Errors
/// The first rule that refuses.
pub fn image_order(policy: &Policy, image: &ImageSource) -> Result<(), PolicyRefusal> {
    let Some(build) = &policy.build else {
        return refuse("images.build", "images are not built by order on this host".to_owned());
    };
    // Parts of a path that climb were refused when the order was read, so a prefix is a bound.
    if !build.sources.iter().any(|source| image.url.as_str().starts_with(source)) {
        return refuse("images.sources", format!("{} is not an allowed source", image.url));
    }
    self::image(policy, &image.name, &image.digest)
}

fn media(policy: &Policy, spec: &InstanceSpec) -> Result<(), PolicyRefusal> {
    match (&spec.iso, &policy.iso_storage) {
        (Some(iso), None) => {
            refuse("media.storage", format!("no media may be inserted here, asked is {}", iso.as_str()))
        }
        _ => Ok(()),
    }
}

fn action(policy: &Policy, usage: &Usage, action: &Action) -> Result<(), PolicyRefusal> {
    let backup = matches!(
        action,
        Action::BackupCreate { .. } | Action::BackupRestore { .. } | Action::BackupDelete { .. }
    );
    if backup && policy.backup_storage.is_none() {
        return refuse("backups.storage", "this host keeps no backups".to_owned());
    }
    losses(policy, usage, loss_of(action))
}

/// What an action takes away for good. A new backup takes the place of old ones, at most of one more than it adds.
pub fn loss_of(action: &Action) -> Loss {
    match action {
        Action::BackupRestore { .. } | Action::SnapshotRollback { .. } => Loss::Disk,
        Action::BackupDelete { .. } | Action::SnapshotDelete { .. } => Loss::Copy,
        Action::Start {}
        | Action::Shutdown {}
        | Action::Reboot {}
        | Action::Stop {}
        | Action::Reset {}
        | Action::SnapshotCreate { .. }
        | Action::BackupCreate { .. }
        | Action::SetPassword { .. } => Loss::Nothing,
    }
}

/// What is on a disk is lost when another takes its place: a thief of the signing key must not do to a whole
/// fleet by rebuilding it what the budget for purges forbids. One server's hour is only its own, so that whoever
/// plays with it takes nobody else's turn; the day's budget counts servers and opens the circuit.
fn losses(policy: &Policy, usage: &Usage, loss: Loss) -> Result<(), PolicyRefusal> {
    let (limits, lost) = (&policy.destroy, &usage.losses);
    if loss == Loss::Nothing {
        return Ok(());
    }
    if loss == Loss::Disk {
        for (rule, done, most, whose) in [
            (
                "destroy.replaces_per_server_per_hour",
                lost.here_hour,
                limits.replaces_per_server_per_hour,
                "of this server",
            ),
            ("destroy.replaces_per_hour", lost.hour, limits.replaces_per_hour, "of this host"),
        ] {
            if done >= u64::from(most) {
                let detail =
                    format!("{done} disks {whose} were replaced in the last hour, {most} are allowed");
                return refuse(rule, detail);
            }
        }
    }
    closed(usage)?;
    let share = usage.instances.len() as u64 * u64::from(limits.replace_percent_per_day) / 100;
    let per_day = share.max(u64::from(limits.replace_floor_per_day));
    if lost.day_with(loss) <= per_day.saturating_mul(DISK) {
        return Ok(());
    }
    let detail = format!(
        "with this order more than {per_day} servers would have lost their disks in a day (four snapshots or backups \
         count as a disk)"
    );
    Err(PolicyRefusal { rule: "destroy.replace_percent_per_day", detail, circuit: true })
}

/// Once the budget was exceeded, nothing is destroyed until root of this host has looked.
fn closed(usage: &Usage) -> Result<(), PolicyRefusal> {
    if usage.circuit_open.is_none() {
        return Ok(());
    }
    let detail =
        "the destroy budget was exceeded; root of this host lets orders that destroy something through \
                  again with `ez-node-agent unlock`"
            .to_owned();
    Err(PolicyRefusal { rule: "destroy.circuit", detail, circuit: true })
}

fn sizes(policy: &Policy, spec: &InstanceSpec) -> Result<(), PolicyRefusal> {
    let limits = &policy.limits;
    for (rule, asked, most, unit) in [
        ("limits.vcpus_each", spec.vcpus, limits.vcpus_each, "vCPUs"),
        ("limits.memory_mib_each", spec.memory_mib, limits.memory_mib_each, "MiB of memory"),
        ("limits.disk_gib_each", spec.disk_gib, limits.disk_gib_each, "GiB of disk"),
    ] {
        if asked > most {
            return refuse(rule, format!("one server may have {most} {unit}, asked are {asked}"));
        }
    }
    Ok(())
}

/// Every order is kept for long, so that a flood of them fills the disk whatever they ask for. What a customer does to
/// their own server, however often, must not hold up its end.
fn orders(policy: &Policy, usage: &Usage, op: &Op) -> Result<(), PolicyRefusal> {
    let (limits, ends) = (&policy.limits, matches!(op, Op::Retire(_) | Op::Purge(_)));
    for (rule, came, most, whose) in [
        (
            "limits.orders_per_server_per_hour",
            if ends { 0 } else { usage.orders_here_hour },
            limits.orders_per_server_per_hour,
            "for this server",
        ),
        ("limits.orders_per_hour", usage.orders_hour, limits.orders_per_hour, "for this host"),
    ] {
        if came >= u64::from(most) {
            let detail = format!("{came} orders {whose} were taken in the last hour, {most} are allowed");
            return refuse(rule, detail);
        }
    }
    Ok(())
}

fn rates(policy: &Policy, usage: &Usage) -> Result<(), PolicyRefusal> {
    for (rule, done, most, span) in [
        ("limits.creates_per_minute", usage.creates_minute, policy.limits.creates_per_minute, "minute"),
        ("limits.creates_per_day", usage.creates_day, policy.limits.creates_per_day, "day"),
    ] {
        if done >= u64::from(most) {
            return refuse(rule, format!("{done} servers were made in the last {span}, {most} are allowed"));
        }
    }
    Ok(())
}

/// The sums as they would be afterwards: the instance's own share is replaced, not added.
fn sums(
    policy: &Policy,
    usage: &Usage,
    order: &ProvisioningOrder,
    spec: &InstanceSpec,
) -> Result<(), PolicyRefusal> {
    let limits = &policy.limits;
    let others = || usage.instances.iter().filter(|used| used.instance != order.instance.uuid);
    let sum = |share: fn(&UsedInstance) -> u32| others().map(|used| u64::from(share(used))).sum::<u64>();
    for (rule, after, most, unit) in [
        ("limits.instances", others().count() as u64 + 1, u64::from(limits.instances), "servers"),
        ("limits.vcpus", sum(|u| u.vcpus) + u64::from(spec.vcpus), u64::from(limits.vcpus), "vCPUs"),
        (
            "limits.memory_mib",
            sum(|u| u.memory_mib) + u64::from(spec.memory_mib),
            limits.memory_mib,
            "MiB of memory",
        ),
        ("limits.disk_gib", sum(|u| u.disk_gib) + u64::from(spec.disk_gib), limits.disk_gib, "GiB of disk"),
    ] {
        if after > most {
            return refuse(
                rule,
                format!("this host gives {most} {unit}, with this order it would be {after}"),
            );
        }
    }
    Ok(())
}

fn purge(
    policy: &Policy,
    usage: &Usage,
    present: Option<&UsedInstance>,
    now: UnixMillis,
) -> Result<(), PolicyRefusal> {
    let limits = &policy.destroy;
    let Some(retired_at) = present.and_then(|used| used.retired_at) else {
        return refuse("destroy.purge_after_hours", "only a retired server may be purged".to_owned());
    };
    let hold = Duration::from_secs(u64::from(limits.purge_after_hours) * 3600);
    if now < retired_at.plus(hold) {
        let left = retired_at.plus(hold).since(now).as_secs().div_ceil(60);
        let hours = limits.purge_after_hours;
        let detail = format!("{hours} h must pass between retire and purge; {left} min are left");
        return refuse("destroy.purge_after_hours", detail);
    }
    closed(usage)?;
    let owned = usage.instances.len() as u64;
    let share = owned * u64::from(limits.purge_percent_per_day) / 100;
    let per_day = share.max(u64::from(limits.purge_floor_per_day));
    for (rule, done, most, span) in [
        (
            "destroy.purges_per_10_minutes",
            usage.purges_10min,
            u64::from(limits.purges_per_10_minutes),
            "10 minutes",
        ),
        ("destroy.purge_percent_per_day", usage.purges_day, per_day, "day"),
    ] {
        if done >= most {
            let detail = format!("{done} servers were purged in the last {span}, {most} are allowed");
            return Err(PolicyRefusal { rule, detail, circuit: true });
        }
    }
    Ok(())
}

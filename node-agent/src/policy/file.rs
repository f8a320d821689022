//! The policy file: TOML, strict, every problem with file, line and column.

use std::{fmt::Display, ops::RangeInclusive, path::Path};

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::{DestroyLimits, Limits, MIN_PURGE_HOURS, Policy};
use crate::{
    config::{ConfigError, Place, Problem},
    pve::{CloneMode, is_config_id},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    vmid_first: Spanned<u32>,
    vmid_last: Spanned<u32>,
    pool: Spanned<String>,
    template_pool: Spanned<String>,
    storages: Spanned<Vec<Spanned<String>>>,
    clone: Option<CloneMode>,
    network: Network,
    #[serde(default)]
    images: Images,
    #[serde(default)]
    backups: Store,
    #[serde(default)]
    media: Store,
    #[serde(default)]
    guest: Guest,
    limits: FileLimits,
    #[serde(default)]
    destroy: FileDestroy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    bridges: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    vlans: Vec<Spanned<String>>,
    #[serde(default)]
    prefixes: Vec<Spanned<String>>,
    require_firewall: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Images {
    #[serde(default)]
    digests: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Store {
    storage: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Guest {
    #[serde(default)]
    set_passwords: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    instances: Spanned<u32>,
    vcpus_each: Spanned<u32>,
    memory_mib_each: Spanned<u32>,
    disk_gib_each: Spanned<u32>,
    vcpus: Spanned<u32>,
    memory_mib: Spanned<u64>,
    disk_gib: Spanned<u64>,
    creates_per_minute: Option<Spanned<u32>>,
    creates_per_day: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileDestroy {
    purge_after_hours: Option<Spanned<u32>>,
    purges_per_10_minutes: Option<u32>,
    purge_percent_per_day: Option<Spanned<u32>>,
    purge_floor_per_day: Option<u32>,
    replaces_per_hour: Option<u32>,
}

/// Reads the policy file.
///
/// # Errors
/// The file cannot be read, or everything that is wrong in it. There is no default policy: without
/// a readable file the agent accepts no order.
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let reason = format!("cannot be read: {error}; `ez-node-agent setup` writes one to begin with");
        ConfigError(vec![Problem { place: Place::Whole(path.to_owned()), key: None, reason }])
    })?;
    parse(path, &text)
}

/// Reads a policy from `text`; `file` is only named in messages.
///
/// # Errors
/// A syntax error, an unknown or missing key, or everything that makes no sense.
pub fn parse(file: &Path, text: &str) -> Result<Policy, ConfigError> {
    let place = |start: Option<usize>| match start.and_then(|at| text.get(..at)) {
        None => Place::Whole(file.to_owned()),
        Some(before) => Place::File {
            path: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
        },
    };
    let raw: File = toml::from_str(text).map_err(|error| {
        let place = place(error.span().map(|span| span.start));
        ConfigError(vec![Problem { place, key: None, reason: error.message().to_owned() }])
    })?;
    let mut problems = Vec::new();
    let mut note = |key: &str, at: usize, reason: String| {
        problems.push(Problem { place: place(Some(at)), key: Some(key.to_owned()), reason });
    };
    let policy = build(raw, &mut note);
    if problems.is_empty() { Ok(policy) } else { Err(ConfigError(problems)) }
}

/// Key, byte position, reason.
type Note<'a> = &'a mut dyn FnMut(&str, usize, String);

fn at_least_one<T: Copy + Into<u64> + Display>(note: Note<'_>, key: &str, value: &Spanned<T>) -> T {
    if (*value.get_ref()).into() == 0 {
        note(key, value.span().start, "must be at least 1".to_owned());
    }
    *value.get_ref()
}

fn names(note: Note<'_>, key: &str, list: Spanned<Vec<Spanned<String>>>) -> Vec<String> {
    if list.get_ref().is_empty() {
        note(key, list.span().start, "must name at least one".to_owned());
    }
    list.into_inner().into_iter().map(|name| plain_name(note, key, name)).collect()
}

fn plain_name(note: Note<'_>, key: &str, name: Spanned<String>) -> String {
    if !is_config_id(name.get_ref()) {
        let reason = format!("{:?} is not a name: letters, digits, '-', '_' and '.' only", name.get_ref());
        note(key, name.span().start, reason);
    }
    name.into_inner()
}

/// Reads each text of a list by `read`; what it refuses becomes a problem.
fn each<T>(
    note: Note<'_>,
    key: &str,
    list: Vec<Spanned<String>>,
    wanted: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut good = Vec::new();
    for item in list {
        match read(item.get_ref()) {
            Some(value) => good.push(value),
            None => note(key, item.span().start, format!("{:?} is not {wanted}", item.get_ref())),
        }
    }
    good
}

fn vlan_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1 <= first && first <= last && last <= 4094).then_some(first..=last)
}

fn prefix(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net.trunc() == net).then_some(net)
}

fn build(raw: File, note: Note<'_>) -> Policy {
    let (first, last) = (*raw.vmid_first.get_ref(), *raw.vmid_last.get_ref());
    if !(100..=999_999_999).contains(&first) {
        note("vmid_first", raw.vmid_first.span().start, "VMIDs go from 100 to 999999999".to_owned());
    }
    if !(first..=999_999_999).contains(&last) {
        note("vmid_last", raw.vmid_last.span().start, format!("must lie between {first} and 999999999"));
    }
    let limits = &raw.limits;
    let limits = Limits {
        instances: at_least_one(note, "limits.instances", &limits.instances),
        vcpus_each: at_least_one(note, "limits.vcpus_each", &limits.vcpus_each),
        memory_mib_each: at_least_one(note, "limits.memory_mib_each", &limits.memory_mib_each),
        disk_gib_each: at_least_one(note, "limits.disk_gib_each", &limits.disk_gib_each),
        vcpus: at_least_one(note, "limits.vcpus", &limits.vcpus),
        memory_mib: at_least_one(note, "limits.memory_mib", &limits.memory_mib),
        disk_gib: at_least_one(note, "limits.disk_gib", &limits.disk_gib),
        creates_per_minute: limits
            .creates_per_minute
            .as_ref()
            .map_or(10, |n| at_least_one(note, "limits.creates_per_minute", n)),
        creates_per_day: limits
            .creates_per_day
            .as_ref()
            .map_or(200, |n| at_least_one(note, "limits.creates_per_day", n)),
    };
    if let Some(hours) = raw.destroy.purge_after_hours.as_ref().filter(|h| *h.get_ref() < MIN_PURGE_HOURS) {
        let reason = format!("must be at least {MIN_PURGE_HOURS}: a retired server is somebody's data");
        note("destroy.purge_after_hours", hours.span().start, reason);
    }
    if let Some(percent) = raw.destroy.purge_percent_per_day.as_ref().filter(|p| *p.get_ref() > 100) {
        note("destroy.purge_percent_per_day", percent.span().start, "must lie between 0 and 100".to_owned());
    }
    let digest = |text: &str| text.parse::<ez_protocol::order::ImageDigest>().ok().map(|_| text.to_owned());
    let value = |number: Option<Spanned<u32>>| number.map(Spanned::into_inner);
    Policy {
        vmids: first..=last,
        pool: plain_name(note, "pool", raw.pool),
        template_pool: plain_name(note, "template_pool", raw.template_pool),
        storages: names(note, "storages", raw.storages),
        clone: raw.clone.unwrap_or(CloneMode::Full),
        bridges: names(note, "network.bridges", raw.network.bridges).into_iter().collect(),
        vlans: each(
            note,
            "network.vlans",
            raw.network.vlans,
            "a tag or range between 1 and 4094",
            vlan_range,
        ),
        prefixes: each(
            note,
            "network.prefixes",
            raw.network.prefixes,
            "a prefix such as 203.0.113.0/24",
            prefix,
        ),
        require_firewall: raw.network.require_firewall.unwrap_or(true),
        digests: each(
            note,
            "images.digests",
            raw.images.digests,
            "of the form sha256:<64 hex digits>",
            digest,
        )
        .into_iter()
        .collect(),
        backup_storage: raw.backups.storage.map(|name| plain_name(note, "backups.storage", name)),
        iso_storage: raw.media.storage.map(|name| plain_name(note, "media.storage", name)),
        guest_passwords: raw.guest.set_passwords,
        limits,
        destroy: DestroyLimits {
            purge_after_hours: value(raw.destroy.purge_after_hours).unwrap_or(MIN_PURGE_HOURS),
            purges_per_10_minutes: raw.destroy.purges_per_10_minutes.unwrap_or(5),
            purge_percent_per_day: value(raw.destroy.purge_percent_per_day).unwrap_or(10),
            purge_floor_per_day: raw.destroy.purge_floor_per_day.unwrap_or(3),
            replaces_per_hour: raw.destroy.replaces_per_hour.unwrap_or(10),
        },
    }
}

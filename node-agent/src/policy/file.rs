//! The policy file: TOML, strict, every problem with file, line and column.

use std::{ops::RangeInclusive, path::Path};

use ipnet::IpNet;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    DestroyLimits, ImageBuilds, Limits, MIN_PURGE_HOURS, Policy,
    reference::{self, Kind},
};
use crate::{
    config::{ConfigError, Place, Problem, suggest},
    pve::{CloneMode, is_config_id},
};

/// VMIDs as Proxmox has them.
const VMIDS: RangeInclusive<u64> = 100..=999_999_999;

/// Reads the policy file, if it is one nobody but its owner can have written (see [`super::owner`]).
///
/// # Errors
/// The file cannot be read, others may write it, or everything that is wrong in it. There is no default policy: without
/// a usable file the agent accepts no order.
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let whole = |reason: String| Problem { place: Place::Whole(path.to_owned()), key: None, reason };
    // Whatever else it is, reading it might never end.
    if std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(ConfigError(vec![whole("must be a plain file".to_owned())]));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let reason = format!("cannot be read: {error}; `ez-node-agent setup` writes one to begin with");
        ConfigError(vec![whole(reason)])
    })?;
    let strangers = super::owner::strangers(path).map(whole);
    match (parse(path, &text), strangers) {
        (policy, None) => policy,
        (Ok(_), Some(problem)) => Err(ConfigError(vec![problem])),
        (Err(ConfigError(mut problems)), Some(problem)) => {
            problems.insert(0, problem);
            Err(ConfigError(problems))
        }
    }
}

/// Reads a policy from `text`; `file` is only named in messages.
///
/// # Errors
/// Everything that is wrong, together: syntax, keys that are unknown, missing or of the wrong kind, values that make no
/// sense.
pub fn parse(file: &Path, text: &str) -> Result<Policy, ConfigError> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { file, text, root: root.get_ref(), problems: Vec::new() };
    for error in &errors {
        let place = reader.place(error.span().map(|span| span.start));
        reader.problems.push(Problem { place, key: None, reason: error.message().to_owned() });
    }
    if !errors.is_empty() {
        // What follows from broken syntax is mostly an echo of it.
        return Err(ConfigError(reader.problems));
    }
    reader.unknown();
    match reader.build() {
        Some(policy) if reader.problems.is_empty() => Ok(policy),
        _ => Err(ConfigError(reader.problems)),
    }
}

struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    root: &'t DeTable<'t>,
    problems: Vec<Problem>,
}

type Value<'t> = &'t Spanned<DeValue<'t>>;

impl<'t> Reader<'t> {
    fn place(&self, start: Option<usize>) -> Place {
        Place::at(self.file, self.text, start)
    }

    fn problem(&mut self, key: &str, start: Option<usize>, reason: impl Into<String>) {
        let place = self.place(start);
        self.problems.push(Problem { place, key: Some(key.to_owned()), reason: reason.into() });
    }

    /// Notes keys nobody knows, and sections that are none.
    fn unknown(&mut self) {
        let mut found = Vec::new();
        for (key, value) in self.root {
            let (name, start) = (key.get_ref().as_ref(), Some(key.span().start));
            if reference::sections().any(|section| section == name) {
                let Some(section) = value.get_ref().as_table() else {
                    found.push((name.to_owned(), start, format!("must be a section: [{name}]")));
                    continue;
                };
                let known = reference::in_section(name);
                for (inner, _) in
                    section.iter().filter(|(k, _)| !known.clone().any(|n| n == k.get_ref().as_ref()))
                {
                    let reason = suggest::unknown(inner.get_ref(), known.clone());
                    found.push((format!("{name}.{}", inner.get_ref()), Some(inner.span().start), reason));
                }
            } else if !reference::in_section("").any(|known| known == name) {
                let known = reference::in_section("").chain(reference::sections());
                found.push((name.to_owned(), start, suggest::unknown(name, known)));
            }
        }
        found.sort_by_key(|(_, start, _)| *start);
        for (key, start, reason) in found {
            self.problem(&key, start, reason);
        }
    }

    /// The value of a key; a missing one that must be there is a problem.
    fn value(&mut self, name: &'static str) -> Option<Value<'t>> {
        let root = self.root;
        let value = match name.split_once('.') {
            None => root.get(name),
            Some((section, key)) => {
                root.get(section).and_then(|s| s.get_ref().as_table()).and_then(|t| t.get(key))
            }
        };
        let key = reference::find(name)?;
        if value.is_none() && key.default.is_none() {
            let means = key.means.split_inclusive('.').next().unwrap_or_default().trim_end_matches('.');
            self.problem(name, None, format!("is missing: {means}"));
        }
        let value = value?;
        let fits = match key.kind {
            Kind::Number => value.get_ref().is_integer(),
            Kind::Text => value.get_ref().is_str(),
            Kind::Texts => value.get_ref().is_array(),
            Kind::Flag => value.get_ref().is_bool(),
        };
        if !fits {
            let reason = format!("must be a {}, not {}", key.kind.as_str(), value.get_ref().type_str());
            self.problem(name, Some(value.span().start), reason);
        }
        fits.then_some(value)
    }

    /// True where a key that may be missing is.
    fn is_silent(&self, name: &'static str) -> bool {
        match name.split_once('.') {
            None => !self.root.contains_key(name),
            Some((section, key)) => {
                let section = self.root.get(section).and_then(|s| s.get_ref().as_table());
                section.is_none_or(|section| !section.contains_key(key))
            }
        }
    }

    /// A whole number within bounds.
    fn number<T: TryFrom<u64>>(&mut self, name: &'static str, bounds: RangeInclusive<u64>) -> Option<T> {
        let value = self.value(name)?;
        let number = value.get_ref().as_integer()?;
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(good) = number.filter(|n| bounds.contains(n)).and_then(|n| T::try_from(n).ok()) {
            return Some(good);
        }
        let (least, most) = (bounds.start(), bounds.end());
        let reason = match (name, *most) {
            ("destroy.purge_after_hours", _) if number.is_none_or(|n| n < *least) => {
                format!("must be at least {least}: a retired server is somebody's data")
            }
            (_, u64::MAX) => format!("must be at least {least}"),
            _ => format!("must lie between {least} and {most}"),
        };
        self.problem(name, Some(value.span().start), reason);
        None
    }

    fn number_or<T: TryFrom<u64>>(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u64>,
        default: T,
    ) -> Option<T> {
        if self.is_silent(name) { Some(default) } else { self.number(name, bounds) }
    }

    fn flag_or(&mut self, name: &'static str, default: bool) -> Option<bool> {
        if self.is_silent(name) { Some(default) } else { self.value(name)?.get_ref().as_bool() }
    }

    fn name(&mut self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        self.read(key, value, "a name: letters, digits, '-', '_' and '.' only", plain_name)
    }

    /// A name that may be left out, or be empty.
    fn name_or_none(&mut self, key: &'static str) -> Option<Option<String>> {
        let said = (!self.is_silent(key)).then(|| self.value(key)).flatten();
        match said.map(|value| value.get_ref().as_str()) {
            None if self.is_silent(key) => Some(None),
            Some(Some("")) => Some(None),
            _ => self.name(key).map(Some),
        }
    }

    /// Each text of a list by `read`; what it refuses becomes a problem.
    fn each<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        if self.is_silent(key) && reference::find(key).is_some_and(|key| key.default.is_some()) {
            return Some(Vec::new());
        }
        let list = self.value(key)?;
        let items = list.get_ref().as_array()?;
        if items.is_empty() && reference::find(key).is_some_and(|key| key.default.is_none()) {
            self.problem(key, Some(list.span().start), "must name at least one");
            return None;
        }
        let read: Vec<Option<T>> = items.iter().map(|item| self.read(key, item, wanted, &read)).collect();
        read.into_iter().collect()
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        value: Value<'t>,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = value.get_ref().as_str();
        let good = text.and_then(read);
        if good.is_none() {
            let found = text.map_or(value.get_ref().type_str().to_owned(), |text| format!("{text:?}"));
            self.problem(key, Some(value.span().start), format!("{found} is not {wanted}"));
        }
        good
    }

    fn build(&mut self) -> Option<Policy> {
        let first: Option<u32> = self.number("vmid_first", VMIDS);
        let last: Option<u32> = self.number("vmid_last", VMIDS);
        if let (Some(first), Some(last)) = (first, last)
            && last < first
        {
            let start = self.root.get("vmid_last").map(|value| value.span().start);
            self.problem("vmid_last", start, format!("must lie between {first} and {}", VMIDS.end()));
        }
        let pool = self.name("pool");
        let template_pool = self.name("template_pool");
        if pool.is_some() && pool == template_pool {
            let start = self.root.get("template_pool").map(|value| value.span().start);
            let reason = "must be another pool than pool: what is in it is cloned and never removed";
            self.problem("template_pool", start, reason);
        }
        let storages = self.each("storages", "a storage's name", plain_name);
        let clone = match self.is_silent("clone") {
            true => Some(CloneMode::Full),
            false => self.value("clone").and_then(|value| {
                self.read("clone", value, "\"full\" or \"linked\"", |text| match text {
                    "full" => Some(CloneMode::Full),
                    "linked" => Some(CloneMode::Linked),
                    _ => None,
                })
            }),
        };
        let bridges = self.each("network.bridges", "a bridge's name", plain_name);
        let vlans = self.each("network.vlans", "a tag or range between 1 and 4094", vlan_range);
        let prefixes = self.each("network.prefixes", "a prefix such as 203.0.113.0/24", prefix);
        let require_firewall = self.flag_or("network.require_firewall", true);
        let digests = self.each("images.digests", "of the form sha256:<64 hex digits>", digest);
        let build = first.zip(last).map(|(first, last)| self.image_builds(&(first..=last)));
        let backup_storage = self.name_or_none("backups.storage");
        let iso_storage = self.name_or_none("media.storage");
        let guest_passwords = self.flag_or("guest.set_passwords", false);
        let consoles = self.flag_or("console.allow", true);
        let limits = self.limits();
        let destroy = self.destroy();
        Some(Policy {
            vmids: first?..=last?,
            pool: pool?,
            template_pool: template_pool?,
            storages: storages?,
            clone: clone?,
            bridges: bridges?.into_iter().collect(),
            vlans: vlans?,
            prefixes: prefixes?,
            require_firewall: require_firewall?,
            digests: digests?.into_iter().collect(),
            build: build?,
            backup_storage: backup_storage?,
            iso_storage: iso_storage?,
            guest_passwords: guest_passwords?,
            consoles: consoles?,
            limits: limits?,
            destroy: destroy?,
        })
    }

    /// What an order may build images from and into; everything must be said where building is allowed.
    fn image_builds(&mut self, servers: &RangeInclusive<u32>) -> Option<ImageBuilds> {
        if self.flag_or("images.build", false) != Some(true) {
            return None;
        }
        let whole = self.value("images.build").map(|value| value.span().start);
        let needed = |reader: &mut Self, name: &'static str| {
            let silent = reader.is_silent(name);
            if silent {
                reader.problem(name, whole, "is needed where build = true");
            }
            !silent
        };
        let all = ["images.sources", "images.vmid_first", "images.vmid_last", "images.import_storage"];
        if !all.map(|name| needed(self, name)).into_iter().all(|there| there) {
            return None;
        }
        let sources = self.each("images.sources", "an http(s) address ending in '/'", source);
        let (first, last) = (self.number("images.vmid_first", VMIDS), self.number("images.vmid_last", VMIDS));
        let import_storage = self.name("images.import_storage");
        let (sources, vmids) = (sources?, first?..=last?);
        if sources.is_empty() {
            self.problem("images.sources", whole, "must name at least one where build = true");
        }
        let apart = vmids.end() < servers.start() || servers.end() < vmids.start();
        if vmids.is_empty() || !apart {
            let reason = format!(
                "must be a range that has nothing in common with {}-{}",
                servers.start(),
                servers.end()
            );
            let start = self.value("images.vmid_first").map(|value| value.span().start);
            self.problem("images.vmid_first", start, reason);
        }
        Some(ImageBuilds { sources, vmids, import_storage: import_storage? })
    }

    fn limits(&mut self) -> Option<Limits> {
        let (small, large) = (1..=u64::from(u32::MAX), 1..=u64::MAX);
        let instances = self.number("limits.instances", small.clone());
        let vcpus_each = self.number("limits.vcpus_each", small.clone());
        let memory_mib_each = self.number("limits.memory_mib_each", small.clone());
        let disk_gib_each = self.number("limits.disk_gib_each", small.clone());
        let vcpus = self.number("limits.vcpus", small.clone());
        let memory_mib = self.number("limits.memory_mib", large.clone());
        let disk_gib = self.number("limits.disk_gib", large);
        let creates_per_minute = self.number_or("limits.creates_per_minute", small.clone(), 10);
        let creates_per_day = self.number_or("limits.creates_per_day", small.clone(), 200);
        let orders_per_hour = self.number_or("limits.orders_per_hour", small.clone(), 2_000);
        let orders_per_server_per_hour = self.number_or("limits.orders_per_server_per_hour", small, 120);
        Some(Limits {
            instances: instances?,
            vcpus_each: vcpus_each?,
            memory_mib_each: memory_mib_each?,
            disk_gib_each: disk_gib_each?,
            vcpus: vcpus?,
            memory_mib: memory_mib?,
            disk_gib: disk_gib?,
            creates_per_minute: creates_per_minute?,
            creates_per_day: creates_per_day?,
            orders_per_hour: orders_per_hour?,
            orders_per_server_per_hour: orders_per_server_per_hour?,
        })
    }

    fn destroy(&mut self) -> Option<DestroyLimits> {
        let any = 0..=u64::from(u32::MAX);
        let hours = u64::from(MIN_PURGE_HOURS)..=u64::from(u32::MAX);
        let purge_after_hours = self.number_or("destroy.purge_after_hours", hours, MIN_PURGE_HOURS);
        let purges_per_10_minutes = self.number_or("destroy.purges_per_10_minutes", any.clone(), 5);
        let purge_percent_per_day = self.number_or("destroy.purge_percent_per_day", 0..=100, 10);
        let purge_floor_per_day = self.number_or("destroy.purge_floor_per_day", any.clone(), 3);
        let replaces_per_hour = self.number_or("destroy.replaces_per_hour", any.clone(), 10);
        let replaces_per_server_per_hour =
            self.number_or("destroy.replaces_per_server_per_hour", any.clone(), 3);
        let replace_percent_per_day = self.number_or("destroy.replace_percent_per_day", 0..=100, 25);
        let replace_floor_per_day = self.number_or("destroy.replace_floor_per_day", any, 5);
        Some(DestroyLimits {
            purge_after_hours: purge_after_hours?,
            purges_per_10_minutes: purges_per_10_minutes?,
            purge_percent_per_day: purge_percent_per_day?,
            purge_floor_per_day: purge_floor_per_day?,
            replaces_per_hour: replaces_per_hour?,
            replaces_per_server_per_hour: replaces_per_server_per_hour?,
            replace_percent_per_day: replace_percent_per_day?,
            replace_floor_per_day: replace_floor_per_day?,
        })
    }
}

fn plain_name(text: &str) -> Option<String> {
    is_config_id(text).then(|| text.to_owned())
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

fn source(text: &str) -> Option<String> {
    let web = text.starts_with("https://") || text.starts_with("http://");
    let host = url::Url::parse(text).is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()));
    (web && host && text.ends_with('/')).then(|| text.to_owned())
}

fn digest(text: &str) -> Option<String> {
    text.parse::<ez_protocol::order::ImageDigest>().ok().map(|_| text.to_owned())
}

//! Drives and volumes: names by storage type, sizes, allocation.

use super::contents::Contents;
use super::state::{State, Storage, Volume};

/// A drive option taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// Volume id, `none`, `storage:size`, `storage:cloudinit` …
    pub(crate) file: String,
    pub(crate) options: Vec<(String, String)>,
}

impl Drive {
    pub(crate) fn parse(value: &str) -> Drive {
        let mut file = String::new();
        let mut options = Vec::new();
        for part in value.split(',').filter(|p| !p.is_empty()) {
            match part.split_once('=') {
                Some(("file" | "volume", v)) => file = v.to_owned(),
                Some((k, v)) => options.push((k.to_owned(), v.to_owned())),
                None => file = part.to_owned(),
            }
        }
        options.sort();
        Drive { file, options }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.options.retain(|(k, _)| k != key);
        self.options.push((key.into(), value.into()));
        self.options.sort();
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.options.retain(|(k, _)| k != key);
    }

    pub(crate) fn print(&self) -> String {
        let mut out = self.file.clone();
        for (k, v) in &self.options {
            out.push_str(&format!(",{k}={v}"));
        }
        out
    }

    pub(crate) fn size(&self) -> Option<u64> {
        parse_size(self.get("size")?)
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        self.get("media") == Some("cdrom")
    }

    /// The cloud-init drive, present or wanted.
    pub(crate) fn is_cloudinit(&self) -> bool {
        self.file.ends_with(":cloudinit") || self.file.contains("-cloudinit")
    }

    pub(crate) fn storage(&self) -> Option<&str> {
        self.file.split_once(':').map(|(s, _)| s)
    }
}

/// `20G` and the like in bytes; plain numbers are bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (i, 'K') => (&text[..i], 1u64 << 10),
        (i, 'M') => (&text[..i], 1 << 20),
        (i, 'G') => (&text[..i], 1 << 30),
        (i, 'T') => (&text[..i], 1 << 40),
        _ => (text, 1),
    };
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(unit),
        Some(_) => {
            let n: f64 = number.parse().ok()?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "sizes of disks"
            )]
            let bytes = (n * unit as f64) as u64;
            Some(bytes)
        }
    }
}

/// A size as Proxmox writes it: the largest unit that divides it.
pub(crate) fn print_size(bytes: u64) -> String {
    for (unit, letter) in [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{letter}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A size as `qemu-img` shows progress.
pub(crate) fn human(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a progress line")]
    let mut n = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if n < 1024.0 {
            return format!("{n:.1} {unit}");
        }
        n /= 1024.0;
    }
    format!("{n:.1} TiB")
}

/// What a storage type can do.
impl Storage {
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.kind.as_str(), "dir" | "nfs" | "cifs" | "btrfs" | "cephfs")
    }

    /// Linked clones and templates: everything but thick LVM.
    pub(crate) fn can_link(&self) -> bool {
        self.kind != "lvm"
    }

    /// Snapshots: qcow2 files or a storage that has its own.
    pub(crate) fn can_snapshot(&self, format: &str) -> bool {
        if self.is_file() { format == "qcow2" } else { self.kind != "lvm" }
    }

    pub(crate) fn default_format(&self) -> &'static str {
        "raw"
    }

    fn volid(&self, vmid: u32, stem: &str, format: &str, parent: Option<&str>) -> String {
        let id = &self.id;
        let parent = parent.and_then(|p| p.split_once(':')).map(|(_, name)| name);
        if self.is_file() {
            return match parent {
                Some(base) => format!("{id}:{base}/{vmid}/{stem}.{format}"),
                None => format!("{id}:{vmid}/{stem}.{format}"),
            };
        }
        match parent {
            Some(base) if matches!(self.kind.as_str(), "zfspool" | "rbd") => format!("{id}:{base}/{stem}"),
            _ => format!("{id}:{stem}"),
        }
    }

    /// What Proxmox says when this storage has no room for a volume: the words of the tool below it. No
    /// recording covers a full storage; thick LVM's text is Proxmox's own, the others are LVM's, ZFS's
    /// and the kernel's behind Proxmox's usual prefix.
    pub(crate) fn no_room(&self, volid: &str, size: u64) -> String {
        let (id, name) = (&self.id, name_part(volid));
        match self.kind.as_str() {
            "lvmthin" => format!(
                "lvcreate '{id}/{name}' error:   Cannot create new thin volume, free space in thin pool {id}/data reached threshold."
            ),
            "lvm" => format!("not enough free space (0 < {})", size >> 10),
            "zfspool" => format!("zfs error: cannot create '{id}/{name}': out of space"),
            "rbd" => format!("rbd create '{name}' error: rbd: create error: (28) No space left on device"),
            _ => {
                format!("unable to create image: qemu-img: {}: No space left on device", self.path_of(volid))
            }
        }
    }

    /// The same when a volume cannot grow.
    fn no_room_to_grow(&self, volid: &str) -> String {
        let path = self.path_of(volid);
        match self.kind.as_str() {
            "lvmthin" => format!(
                "error resizing volume '{path}':   Cannot extend thin volume, free space in thin pool {0}/data reached threshold.",
                self.id
            ),
            "lvm" => format!(
                "error resizing volume '{path}':   Insufficient free space in volume group {}",
                self.id
            ),
            _ => format!("failed to resize image '{path}': No space left on device"),
        }
    }

    /// Path of a volume on the host, as logs show it.
    pub(crate) fn path_of(&self, volid: &str) -> String {
        let name = volid.split_once(':').map_or(volid, |(_, n)| n);
        let parts: Vec<&str> = name.split('/').collect();
        let tail = parts[parts.len().saturating_sub(2)..].join("/");
        match &self.path {
            Some(path) if name.starts_with("iso/") || name.starts_with("vztmpl/") => {
                format!("{path}/template/{name}")
            }
            Some(path) if name.starts_with("import/") => format!("{path}/{name}"),
            Some(path) if name.starts_with("backup/") => {
                format!("{path}/dump/{}", name.trim_start_matches("backup/"))
            }
            Some(path) if self.is_file() => format!("{path}/images/{tail}"),
            _ => format!("/dev/{}/{tail}", self.id),
        }
    }
}

/// The format a volume id tells, `raw` where the storage has none.
pub(crate) fn format_of(volid: &str) -> &'static str {
    match volid.rsplit_once('.').map(|(_, e)| e) {
        Some("qcow2") => "qcow2",
        Some("vmdk") => "vmdk",
        _ => "raw",
    }
}

/// Whose volume it is, by its name.
pub(crate) fn owner_of(volid: &str) -> Option<u32> {
    let name = volid.rsplit(['/', ':']).next()?;
    name.strip_prefix("vm-").or_else(|| name.strip_prefix("base-"))?.split('-').next()?.parse().ok()
}

/// A new volume.
pub(crate) struct NewVolume<'a> {
    pub(crate) node: &'a str,
    pub(crate) storage: &'a Storage,
    pub(crate) vmid: u32,
    pub(crate) format: &'a str,
    pub(crate) size: u64,
    pub(crate) at: i64,
    pub(crate) parent: Option<String>,
    pub(crate) cloudinit: bool,
    /// What is on it; none: it is empty.
    pub(crate) holds: Option<Contents>,
}

impl State {
    /// Refuses to let a volume grow on a full storage.
    pub(crate) fn room_to_grow(&self, node: &str, volid: &str) -> Result<(), String> {
        let id = volid.split(':').next().unwrap_or_default();
        match self.storages.get(id).filter(|st| self.does_not_fit(node, &st.id)) {
            Some(st) => Err(st.no_room_to_grow(volid)),
            None => Ok(()),
        }
    }

    /// Allocates a volume under the next free name; gives its id, or why there is no room for it.
    pub(crate) fn allocate(&mut self, new: &NewVolume<'_>) -> Result<String, String> {
        let mut number = 0;
        let volid = loop {
            let stem = if new.cloudinit {
                format!("vm-{}-cloudinit", new.vmid)
            } else {
                format!("vm-{}-disk-{number}", new.vmid)
            };
            let volid = new.storage.volid(new.vmid, &stem, new.format, new.parent.as_deref());
            let taken = self.volumes.values().any(|v| {
                v.node == new.node
                    && v.storage == new.storage.id
                    && v.vmid == Some(new.vmid)
                    && name_part(&v.volid) == stem
            });
            if !taken || new.cloudinit {
                break volid;
            }
            number += 1;
        };
        if self.does_not_fit(new.node, &new.storage.id) {
            return Err(new.storage.no_room(&volid, new.size));
        }
        let holds = match &new.holds {
            Some(holds) => holds.clone(),
            None if new.cloudinit => Contents::default(),
            None => self.new_image(),
        };
        self.volumes.insert(
            State::volume_key(new.node, &volid),
            Volume {
                node: new.node.into(),
                volid: volid.clone(),
                storage: new.storage.id.clone(),
                vmid: Some(new.vmid),
                content: "images".into(),
                format: new.format.into(),
                size: new.size,
                ctime: new.at / 1000,
                parent: new.parent.clone(),
                holds,
                archive: None,
            },
        );
        Ok(volid)
    }

    /// Frees a volume.
    pub(crate) fn free(&mut self, node: &str, volid: &str) {
        self.volumes.remove(State::volume_key(node, volid));
    }

    /// Renames `vm-…` to `base-…` as the conversion to a template does; gives the new id.
    pub(crate) fn make_base(&mut self, node: &str, volid: &str) -> Option<String> {
        let old = self.volumes.remove(State::volume_key(node, volid))?;
        let at = volid.rfind("vm-")?;
        let new = format!("{}base-{}", &volid[..at], &volid[at + 3..]);
        self.volumes.insert(State::volume_key(node, &new), Volume { volid: new.clone(), ..old });
        Some(new)
    }
}

/// `vm-101-disk-0` of a volume id.
fn name_part(volid: &str) -> &str {
    let tail = volid.rsplit(['/', ':']).next().unwrap_or(volid);
    tail.split_once('.').map_or(tail, |(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_in_the_largest_unit_that_divides_them() {
        for (text, bytes) in
            [("1G", 1u64 << 30), ("1124M", 1124 << 20), ("42M", 42 << 20), ("528K", 528 << 10), ("7", 7)]
        {
            assert_eq!(print_size(bytes), text);
            assert_eq!(parse_size(text), Some(bytes));
        }
        assert_eq!(parse_size("1.5G"), Some(3 << 29));
    }

    #[test]
    fn a_drive_keeps_its_volume_first_and_its_options_sorted() {
        let d = Drive::parse("iothread=1,file=local:9000/vm-9000-disk-0.qcow2,discard=on");
        assert_eq!(d.print(), "local:9000/vm-9000-disk-0.qcow2,discard=on,iothread=1");
    }
}

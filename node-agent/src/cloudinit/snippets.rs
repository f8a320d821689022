//! The snippet storage: a directory of our own that Proxmox reads at every start of a VM.
//!
//! Proxmox's API cannot take snippets, but the agent is on the host. A file appears whole or not at
//! all: temporary name, fsync, rename, fsync of the directory. It must live as long as the VM.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::CloudInit;
use crate::pve::{Vmid, is_config_id};

/// Kinds of files, as Proxmox's `cicustom` names them.
pub const KINDS: [&str; 4] = ["user", "vendor", "meta", "network"];

/// The directory and the storage's name in Proxmox.
#[derive(Clone, Debug)]
pub struct SnippetStore {
    dir: PathBuf,
    storage: String,
}

/// A snippet could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnippetError {
    /// The storage's name cannot stand in a volume id.
    #[error("not a storage name: {0:?}")]
    Storage(String),
    /// The file system refused.
    #[error("cannot {verb} {path}: {reason}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnippetError {
    let path = path.to_owned();
    move |reason| SnippetError::Io { verb, path, reason }
}

/// `ez-<vmid>-<generation>-<kind>.yaml`: digits and fixed words only.
fn file_name(vmid: Vmid, generation: u64, kind: &str) -> String {
    format!("ez-{vmid}-{generation}-{kind}.yaml")
}

/// VMID and generation of a name made by [`file_name`].
fn parse_name(name: &str) -> Option<(Vmid, u64)> {
    let mut parts = name.strip_prefix("ez-")?.strip_suffix(".yaml")?.split('-');
    let (vmid, generation, kind) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    (KINDS.contains(&kind) && parts.next().is_none() && file_name(vmid, generation, kind) == name)
        .then_some((vmid, generation))
}

impl SnippetStore {
    /// The storage called `storage` in Proxmox, whose `snippets` directory is `dir`.
    ///
    /// # Errors
    /// [`SnippetError::Storage`] if the name could mean anything but a storage.
    pub fn new(dir: impl Into<PathBuf>, storage: &str) -> Result<Self, SnippetError> {
        if !is_config_id(storage) {
            return Err(SnippetError::Storage(storage.to_owned()));
        }
        Ok(Self { dir: dir.into(), storage: storage.to_owned() })
    }

    /// The storage's name.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// The value of `cicustom` for a VM's files of a generation.
    pub fn cicustom(&self, vmid: Vmid, generation: u64) -> String {
        let volume =
            |kind: &&str| format!("{kind}={}:snippets/{}", self.storage, file_name(vmid, generation, kind));
        KINDS.iter().map(volume).collect::<Vec<_>>().join(",")
    }

    /// Whether `cicustom` names files of this VM that are there with exactly this content.
    pub fn holds(&self, vmid: Vmid, cicustom: &str, files: &CloudInit) -> bool {
        let first = cicustom.split(',').next().and_then(|part| part.rsplit('/').next());
        let Some((owner, generation)) = first.and_then(parse_name) else { return false };
        owner == vmid
            && cicustom == self.cicustom(vmid, generation)
            && KINDS.iter().zip([&files.user, &files.vendor, &files.meta, &files.network]).all(
                |(kind, content)| {
                    let path = self.dir.join(file_name(vmid, generation, kind));
                    fs::read(path).is_ok_and(|there| there == content.as_bytes())
                },
            )
    }

    /// Writes the files durably; repeatable. Blocks on the disk. Answers the value of `cicustom`.
    ///
    /// # Errors
    /// [`SnippetError::Io`]; files of other generations are untouched, half files never appear.
    pub fn write(&self, vmid: Vmid, generation: u64, files: &CloudInit) -> Result<String, SnippetError> {
        for (kind, content) in KINDS.iter().zip([&files.user, &files.vendor, &files.meta, &files.network]) {
            let path = self.dir.join(file_name(vmid, generation, kind));
            let temporary = self.dir.join(format!(".{}.new", file_name(vmid, generation, kind)));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o640)
                .open(&temporary)
                .map_err(io("create", &temporary))?;
            file.write_all(content.as_bytes()).map_err(io("write", &temporary))?;
            file.sync_all().map_err(io("write", &temporary))?;
            fs::rename(&temporary, &path).map_err(io("rename", &path))?;
        }
        self.sync_dir()?;
        Ok(self.cicustom(vmid, generation))
    }

    /// Removes a VM's files of all generations but `keep`; `None` keeps nothing. Blocks on the disk.
    ///
    /// # Errors
    /// [`SnippetError::Io`]; what is gone already is no error.
    pub fn remove(&self, vmid: Vmid, keep: Option<u64>) -> Result<(), SnippetError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(io("list", &self.dir))?,
        };
        let mut removed = false;
        for entry in entries {
            let path = entry.map_err(io("list", &self.dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let name = name.strip_prefix('.').and_then(|n| n.strip_suffix(".new")).unwrap_or(name);
            let Some((owner, generation)) = parse_name(name) else { continue };
            if owner != vmid || Some(generation) == keep {
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(io("remove", &path))?,
            }
            removed = true;
        }
        if removed { self.sync_dir() } else { Ok(()) }
    }

    /// VMs that have files here.
    ///
    /// # Errors
    /// [`SnippetError::Io`] if the directory cannot be read.
    pub fn owners(&self) -> Result<std::collections::BTreeSet<Vmid>, SnippetError> {
        let entries = fs::read_dir(&self.dir).map_err(io("list", &self.dir))?;
        let name = |entry: fs::DirEntry| parse_name(entry.file_name().to_str()?).map(|(vmid, _)| vmid);
        Ok(entries.filter_map(Result::ok).filter_map(name).collect())
    }

    fn sync_dir(&self) -> Result<(), SnippetError> {
        let dir = File::open(&self.dir).map_err(io("open", &self.dir))?;
        dir.sync_all().map_err(io("sync", &self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_and_go_with_their_vm() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnippetStore::new(dir.path(), "ez-ci-n1").unwrap();
        let files = CloudInit { user: "u".into(), vendor: "v".into(), meta: "m".into(), network: "n".into() };
        let custom = store.write(101, 3, &files).unwrap();
        assert_eq!(
            custom,
            "user=ez-ci-n1:snippets/ez-101-3-user.yaml,vendor=ez-ci-n1:snippets/ez-101-3-vendor.yaml,\
             meta=ez-ci-n1:snippets/ez-101-3-meta.yaml,network=ez-ci-n1:snippets/ez-101-3-network.yaml"
        );
        store.write(101, 3, &files).unwrap();
        assert!(store.holds(101, &custom, &files));
        assert!(!store.holds(101, &custom, &CloudInit { user: "other".into(), ..files.clone() }));
        assert!(!store.holds(102, &custom, &files) && !store.holds(101, "", &files));
        assert!(!store.holds(101, &store.cicustom(101, 4), &files), "named and not there");
        store.write(101, 4, &files).unwrap();
        store.write(1012, 1, &files).unwrap();
        fs::write(dir.path().join("ez-101-3-user.yaml.bak"), "by hand").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("ez-101-4-meta.yaml")).unwrap(), "m");
        store.remove(101, Some(4)).unwrap();
        assert!(!dir.path().join("ez-101-3-user.yaml").exists());
        assert!(dir.path().join("ez-101-4-user.yaml").exists());
        store.remove(101, None).unwrap();
        store.remove(101, None).unwrap();
        assert_eq!(store.owners().unwrap(), [1012].into());
        assert!(dir.path().join("ez-101-3-user.yaml.bak").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn only_own_names_are_recognised() {
        assert_eq!(parse_name("ez-101-3-user.yaml"), Some((101, 3)));
        for other in
            ["ez-101-user.yaml", "ez-0101-3-user.yaml", "ez-101-3-user.yaml.bak", "ez-101-3-x.yaml", "a"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert!(SnippetStore::new("/x", "a:b").is_err());
    }
}

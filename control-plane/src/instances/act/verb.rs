//! What can be asked of a server.

use ez_protocol::{
    ProvisioningOrderId,
    input::Hostname,
    order::{Action, FirewallRules, IsoName, PasswordHash, PowerVerb, SnapshotName, Tag},
};

use crate::instances::settings::{ImageChoice, RateMbit, Settings};

/// One thing to do with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Press a power button.
    Power(PowerVerb),
    /// Keep the disk as it is now under a name.
    SnapshotCreate(SnapshotName),
    /// Make the disk be as it was.
    SnapshotRollback(SnapshotName),
    /// Forget a snapshot.
    SnapshotDelete(SnapshotName),
    /// Copy the whole server to the host's backup storage.
    BackupCreate,
    /// Make the server be as in a backup.
    BackupRestore(ProvisioningOrderId),
    /// Remove a backup.
    BackupDelete(ProvisioningOrderId),
    /// Give root another password, of which only the hash is known here.
    SetPassword(PasswordHash),
    /// Make the disk anew from an image.
    Rebuild(ImageChoice),
    /// Boot a rescue system.
    RescueOn(ImageChoice),
    /// Boot the server's own system again.
    RescueOff,
    /// Put a medium into the CD drive.
    IsoAttach(IsoName),
    /// Take the medium out.
    IsoDetach,
    /// Filter packets by these rules; none lets everything pass.
    Firewall(Option<FirewallRules>),
    /// Call it otherwise.
    Rename(Hostname),
    /// Tag it for the host's owner; operators only.
    Tags(Vec<Tag>),
    /// Limit its network, or no more; operators only.
    Limit(Option<RateMbit>),
    /// Have the host filter its packets, or no more; operators only.
    Filter(bool),
}

/// What a verb comes to for the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Done at most once.
    Once(Action),
    /// Another wished state.
    Settings(Box<Settings>),
}

impl Verb {
    /// The word of the action in API, pages and tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Power(verb) => verb.as_str(),
            Self::SnapshotCreate(_) => "snapshot_create",
            Self::SnapshotRollback(_) => "snapshot_rollback",
            Self::SnapshotDelete(_) => "snapshot_delete",
            Self::BackupCreate => "backup_create",
            Self::BackupRestore(_) => "backup_restore",
            Self::BackupDelete(_) => "backup_delete",
            Self::SetPassword(_) => "set_password",
            Self::Rebuild(_) => "rebuild",
            Self::RescueOn(_) => "rescue_on",
            Self::RescueOff => "rescue_off",
            Self::IsoAttach(_) => "iso_attach",
            Self::IsoDetach => "iso_detach",
            Self::Firewall(_) => "firewall",
            Self::Rename(_) => "rename",
            Self::Tags(_) => "tags",
            Self::Limit(Some(_)) => "limit_on",
            Self::Limit(None) => "limit_off",
            Self::Filter(true) => "filter_on",
            Self::Filter(false) => "filter_off",
        }
    }

    /// What it is about, for whoever reads it later; never a secret.
    pub fn about(&self) -> Option<String> {
        Some(match self {
            Self::SnapshotCreate(name) | Self::SnapshotRollback(name) | Self::SnapshotDelete(name) => {
                name.as_str().to_owned()
            }
            Self::BackupRestore(backup) | Self::BackupDelete(backup) => backup.to_string(),
            Self::Rebuild(image) | Self::RescueOn(image) => image.code.clone(),
            Self::IsoAttach(iso) => iso.as_str().to_owned(),
            Self::Rename(name) => name.as_str().to_owned(),
            Self::Limit(Some(rate)) => rate.get().to_string(),
            _ => return None,
        })
    }

    /// Whether it is no service to anybody: operators do it to a suspended server as well.
    pub fn is_an_operators(&self) -> bool {
        matches!(self, Self::Tags(_) | Self::Limit(_) | Self::Filter(_))
    }

    /// Whether what is on the disk is replaced or thrown away.
    pub fn replaces_the_disk(&self) -> bool {
        matches!(self, Self::SnapshotRollback(_) | Self::BackupRestore(_) | Self::Rebuild(_))
    }

    /// What the node is told: `held` is what holds now, `builds` the highest number of a build ever ordered, `keep` how
    /// many backups were sold.
    pub(super) fn deed(&self, held: &Settings, builds: u32, keep: u32) -> Deed {
        let held = held.clone();
        let settings = |settings| Deed::Settings(Box::new(settings));
        match self.clone() {
            Self::Power(verb) => Deed::Once(verb.into()),
            Self::SnapshotCreate(name) => Deed::Once(Action::SnapshotCreate { name }),
            Self::SnapshotRollback(name) => Deed::Once(Action::SnapshotRollback { name }),
            Self::SnapshotDelete(name) => Deed::Once(Action::SnapshotDelete { name }),
            Self::BackupCreate => Deed::Once(Action::BackupCreate { keep }),
            Self::BackupRestore(backup) => Deed::Once(Action::BackupRestore { backup }),
            Self::BackupDelete(backup) => Deed::Once(Action::BackupDelete { backup }),
            Self::SetPassword(hash) => Deed::Once(Action::SetPassword { hash }),
            // A number is used once: whether an earlier rebuild was carried out may turn out later. A rescue system
            // or a medium would boot instead of the new disk.
            Self::Rebuild(image) => {
                settings(Settings { build: builds + 1, image, rescue: None, iso: None, ..held })
            }
            Self::RescueOn(image) => settings(Settings { rescue: Some(image), ..held }),
            Self::RescueOff => settings(Settings { rescue: None, ..held }),
            Self::IsoAttach(iso) => settings(Settings { iso: Some(iso), ..held }),
            Self::IsoDetach => settings(Settings { iso: None, ..held }),
            Self::Firewall(firewall) => settings(Settings { firewall, ..held }),
            Self::Rename(name) => settings(Settings { hostname: Some(name), ..held }),
            Self::Tags(tags) => settings(Settings { tags, ..held }),
            Self::Limit(rate_mbit) => settings(Settings { rate_mbit, ..held }),
            Self::Filter(on) => settings(Settings { unfiltered: !on, ..held }),
        }
    }
}

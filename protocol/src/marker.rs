//! The line in a VM's description that says whose it is.

use std::{fmt, str::FromStr};

use crate::{InstallId, InstanceId, ProvisioningOrderId};

/// `ez:v1 <install> <instance> <order> <epoch>`, the first line of the description.
///
/// Ownership compares `install` and `instance`; `order` and `epoch` are information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The installation that made the VM.
    pub install: InstallId,
    /// The customer's server the VM realises.
    pub instance: InstanceId,
    /// The provisioning order that cloned it.
    pub order: ProvisioningOrderId,
    /// The node's epoch at that time.
    pub epoch: u64,
}

impl Marker {
    /// Finds the marker in a description; only the first line counts.
    pub fn find(description: &str) -> Option<Self> {
        description.lines().next()?.trim().parse().ok()
    }

    /// Whether this VM belongs to this instance of this installation.
    pub fn owns(&self, install: InstallId, instance: InstanceId) -> bool {
        self.install == install && self.instance == instance
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ez:v1 {} {} {} {}", self.install, self.instance, self.order, self.epoch)
    }
}

/// Text that is no marker of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ez:v1 marker")]
pub struct ParseMarkerError;

impl FromStr for Marker {
    type Err = ParseMarkerError;
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = line.split(' ').collect();
        let ["ez:v1", install, instance, order, epoch] = parts[..] else {
            return Err(ParseMarkerError);
        };
        Ok(Self {
            install: install.parse().map_err(|_| ParseMarkerError)?,
            instance: instance.parse().map_err(|_| ParseMarkerError)?,
            order: order.parse().map_err(|_| ParseMarkerError)?,
            epoch: epoch.parse().map_err(|_| ParseMarkerError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_its_own_text_and_following_lines() {
        let uuid = uuid::Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);
        let marker = Marker {
            install: InstallId::from_uuid(uuid),
            instance: InstanceId::from_uuid(uuid),
            order: ProvisioningOrderId::from_uuid(uuid),
            epoch: 3,
        };
        assert_eq!(Marker::find(&format!("{marker}\nnotes of the operator")), Some(marker));
        assert_eq!(Marker::find(&format!("notes\n{marker}")), None);
        assert_eq!(Marker::find(" qmclone temporary file"), None);
        assert_eq!(Marker::find(&format!("{marker} more")), None);
    }
}

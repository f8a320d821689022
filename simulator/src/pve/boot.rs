//! The boot order of a configuration.

use super::drive::Drive;
use super::schema::split_list;
use super::state::Options;
use super::vmconfig;

/// The devices of `boot: order=…`; none if there is no such order.
pub(crate) fn order(config: &Options) -> Option<Vec<String>> {
    let order = config.get("boot")?.split(',').find_map(|p| p.trim().strip_prefix("order="))?;
    Some(split_list(order).map(str::to_owned).collect())
}

/// `order=scsi0;ide3`.
pub(crate) fn print(order: &[String]) -> String {
    format!("order={}", order.join(";"))
}

/// First disk, first CD drive, then the network cards: what Proxmox VE takes without an order.
pub(crate) fn default_order(config: &Options) -> Vec<String> {
    let drives = || {
        config.iter().filter(|(k, _)| vmconfig::is_drive(k) && !k.starts_with("efi") && !k.starts_with("tpm"))
    };
    let is_cd = |v: &str| v.contains("media=cdrom");
    let disk = drives().find(|(_, v)| !is_cd(v)).map(|(k, _)| k.clone());
    let cd = drives().find(|(_, v)| is_cd(v)).map(|(k, _)| k.clone());
    let nets = config.keys().filter(|k| vmconfig::is_net(k)).cloned();
    disk.into_iter().chain(cd).chain(nets).collect()
}

/// The drive that the firmware finds first: one that is there and, if it is a CD drive, has a medium
/// that one can boot from.
pub(crate) fn first(config: &Options) -> Option<String> {
    let bootable = |option: &String| {
        let drive = config.get(option).filter(|_| vmconfig::is_drive(option)).map(|v| Drive::parse(v));
        drive.is_some_and(|d| !(d.is_cloudinit() || d.is_cdrom() && d.file == "none"))
    };
    order(config).unwrap_or_else(|| default_order(config)).into_iter().find(bootable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_boots_from_the_first_drive_that_has_something_in_it() {
        let mut config = Options::from([
            ("boot".to_owned(), "order=ide3;scsi1;scsi0".to_owned()),
            ("ide2".to_owned(), "local:101/vm-101-cloudinit.qcow2,media=cdrom".to_owned()),
            ("ide3".to_owned(), "none,media=cdrom".to_owned()),
            ("scsi0".to_owned(), "local-lvm:vm-101-disk-0,size=3G".to_owned()),
        ]);
        assert_eq!(first(&config).as_deref(), Some("scsi0"), "no medium, no disk");
        config.insert("ide3".into(), "local:iso/a.iso,media=cdrom".into());
        assert_eq!(first(&config).as_deref(), Some("ide3"));
        config.remove("boot");
        assert_eq!(first(&config).as_deref(), Some("scsi0"));
    }
}

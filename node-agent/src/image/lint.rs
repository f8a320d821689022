//! What a template must not pass on to servers, and what they need of it.

use super::Site;
use crate::pve::GuestConfig;

/// Options that reach out of a VM, or run something on the host.
const FORBIDDEN: [&str; 6] = ["args", "hookscript", "affinity", "lock", "vmstate", "startup"];
/// Families of such options.
const FORBIDDEN_FAMILIES: [&str; 5] = ["hostpci", "usb", "parallel", "virtiofs", "ivshmem"];
/// Secrets and settings of somebody's first boot.
const LEFT_BEHIND: [&str; 4] = ["ciuser", "cipassword", "sshkeys", "cicustom"];

/// Everything that speaks against cloning servers from this template; one short line each.
pub fn lint(config: &GuestConfig, site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |line: String| wrong.push(line);
    if !config.is_template() {
        say("it is no template".to_owned());
    }
    for (key, value) in &config.values {
        let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let numbered = family != key;
        if FORBIDDEN.contains(&key.as_str()) || FORBIDDEN_FAMILIES.contains(&family) {
            say(format!("{key} reaches out of the VM"));
        }
        if LEFT_BEHIND.contains(&key.as_str()) {
            say(format!("{key} is somebody's own"));
        }
        if numbered && family == "net" && key != "net0" {
            say(format!("{key} is a further card, which nobody would filter"));
        }
        if numbered && family == "serial" && value != "socket" {
            say(format!("{key} is a device of the host"));
        }
    }
    if config.get("onboot").is_some_and(|onboot| onboot == "1") {
        say("onboot is set".to_owned());
    }
    match config.property("net0", "bridge") {
        Some(bridge) if site.bridges.contains(bridge) => {}
        Some(bridge) => say(format!("net0 is attached to {bridge}, which is not allowed here")),
        None if config.get("net0").is_none() => {}
        None => say("net0 is attached to nothing".to_owned()),
    }
    match config.cloudinit_drives().len() {
        1 => {}
        n => say(format!("it has {n} cloud-init drives; one is needed")),
    }
    let agent = config.get("agent").unwrap_or_default();
    if !matches!(agent, "1" | "enabled=1") && !agent.starts_with("1,") && !agent.starts_with("enabled=1,") {
        say("the guest agent is not switched on".to_owned());
    }
    match config.boot_disk() {
        None => say("it has no boot disk".to_owned()),
        Some(disk) => {
            let storage = config.get(&disk).and_then(|value| value.split(':').next()).unwrap_or_default();
            if !site.storages.iter().any(|allowed| allowed == storage) {
                say(format!("its disk is on {storage}, which is not allowed here"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::CloneMode;

    fn site() -> Site {
        Site {
            node: "pve1".into(),
            template_pool: "ez-templates".into(),
            storages: vec!["local-lvm".into()],
            bridges: ["vmbr0".to_owned()].into(),
            import_storage: "local".into(),
            vmids: 9_000..=9_099,
            clone: CloneMode::Linked,
        }
    }

    fn template() -> GuestConfig {
        let values = [
            ("template", "1"),
            ("scsi0", "local-lvm:base-9000-disk-0,size=3G"),
            ("ide2", "local-lvm:vm-9000-cloudinit,media=cdrom"),
            ("boot", "order=scsi0"),
            ("agent", "enabled=1"),
            ("serial0", "socket"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"),
        ];
        let values = values.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        GuestConfig { values, digest: String::new() }
    }

    #[test]
    fn a_plain_template_is_fit() {
        assert_eq!(lint(&template(), &site()), Vec::<String>::new());
        let mut without_card = template();
        without_card.values.remove("net0");
        assert!(lint(&without_card, &site()).is_empty(), "the clone gets its own");
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        for (key, value, expected) in [
            ("args", "-device x", "args"),
            ("hookscript", "local:snippets/x.pl", "hookscript"),
            ("hostpci0", "01:00", "hostpci0"),
            ("virtiofs0", "share", "virtiofs0"),
            ("usb1", "host=1", "usb1"),
            ("cipassword", "**********", "cipassword"),
            ("cicustom", "user=local:snippets/x", "cicustom"),
            ("net1", "virtio=BC:24:11:00:00:02,bridge=vmbr0", "net1"),
            ("serial1", "/dev/ttyS0", "serial1"),
            ("onboot", "1", "onboot"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr9", "vmbr9"),
            ("net0", "virtio=BC:24:11:00:00:01", "nothing"),
            ("ide2", "none,media=cdrom", "0 cloud-init"),
            ("scsi1", "local-lvm:vm-9000-cloudinit,media=cdrom", "2 cloud-init"),
            ("agent", "0", "guest agent"),
            ("scsi0", "other:base-9000-disk-0,size=3G", "other"),
            ("template", "0", "no template"),
        ] {
            let mut config = template();
            config.values.insert(key.to_owned(), value.to_owned());
            let found = lint(&config, &site());
            assert!(found.iter().any(|line| line.contains(expected)), "{key}={value}: {found:?}");
        }
    }
}

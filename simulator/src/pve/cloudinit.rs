//! What is on a VM's cloud-init drive. Snippets are read from the storage's directory at every start.

use std::fmt::Write as _;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::schema::parse_property;
use super::state::{CloudinitDrive, Options, State, sha1_hex};

/// The generated user-data.
pub(crate) fn user_data(config: &Options, vmid: u32, masked: bool) -> String {
    let name = config.get("name").cloned().unwrap_or_else(|| format!("VM{vmid}"));
    let mut out = String::from("#cloud-config\n");
    let (host, fqdn) = match config.get("searchdomain") {
        _ if name.contains('.') => (name.split('.').next().unwrap_or(&name).to_owned(), Some(name.clone())),
        Some(domain) => {
            (name.clone(), Some(format!("{name}.{}", domain.split_whitespace().next().unwrap_or(domain))))
        }
        None => (name.clone(), None),
    };
    let _infallible = writeln!(out, "hostname: {host}\nmanage_etc_hosts: true");
    if let Some(fqdn) = fqdn {
        let _infallible = writeln!(out, "fqdn: {fqdn}");
    }
    if let Some(user) = config.get("ciuser") {
        let _infallible = writeln!(out, "user: {user}");
    }
    if let Some(password) = config.get("cipassword") {
        let shown = if masked { "**********" } else { password };
        let _infallible = writeln!(out, "password: {shown}");
    }
    if let Some(keys) = config.get("sshkeys") {
        out.push_str("ssh_authorized_keys:\n");
        let text = percent_decode_str(keys).decode_utf8_lossy().into_owned();
        for key in text.lines().map(str::trim).filter(|k| !k.is_empty()) {
            let _infallible = writeln!(out, "  - {key}");
        }
    }
    out.push_str("chpasswd:\n  expire: False\n");
    if config.get("ciuser").is_none_or(|u| u != "root") {
        out.push_str("users:\n  - default\n");
    }
    if config.get("ciupgrade").is_none_or(|u| u == "1") {
        out.push_str("package_upgrade: true\n");
    }
    out
}

fn netmask(bits: u32) -> String {
    let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
    std::net::Ipv4Addr::from(if bits == 0 { 0 } else { mask }).to_string()
}

/// The generated network configuration (version 1).
pub(crate) fn network_config(config: &Options, major: u32) -> String {
    let mut out = String::from("version: 1\nconfig:\n");
    for index in 0..32 {
        let (Some(net), Some(ip)) =
            (config.get(&format!("net{index}")), config.get(&format!("ipconfig{index}")))
        else {
            continue;
        };
        let mac = super::vmconfig::net_parts(net, major).2.unwrap_or_default().to_lowercase();
        let _infallible = write!(
            out,
            "    - type: physical\n      name: eth{index}\n      mac_address: '{mac}'\n      subnets:\n"
        );
        let parts = parse_property("ipconfig", ip, "ipconfig", major).unwrap_or_default();
        match parts.get("ip").map(String::as_str) {
            Some("dhcp") => out.push_str("      - type: dhcp4\n"),
            Some(address) => {
                if let Some((ip, bits)) = address.split_once('/') {
                    let mask = netmask(bits.parse().unwrap_or(32));
                    let _infallible = write!(
                        out,
                        "      - type: static\n        address: '{ip}'\n        netmask: '{mask}'\n"
                    );
                    if let Some(gateway) = parts.get("gw") {
                        let _infallible = writeln!(out, "        gateway: '{gateway}'");
                    }
                }
            }
            None => {}
        }
        match parts.get("ip6").map(String::as_str) {
            Some("auto") => out.push_str("      - type: ipv6_slaac\n"),
            Some("dhcp") => out.push_str("      - type: dhcp6\n"),
            Some(address) => {
                let _infallible = write!(out, "      - type: static6\n        address: '{address}'\n");
                if let Some(gateway) = parts.get("gw6") {
                    let _infallible = writeln!(out, "        gateway: '{gateway}'");
                }
            }
            None => {}
        }
    }
    out.push_str("    - type: nameserver\n      address:\n");
    // Without a name server of its own the VM gets the host's.
    let servers = config.get("nameserver").map_or("192.0.2.53", String::as_str);
    for server in super::schema::split_list(servers) {
        let _infallible = writeln!(out, "      - '{server}'");
    }
    if let Some(domain) = config.get("searchdomain") {
        out.push_str("      search:\n");
        for part in super::schema::split_list(domain) {
            let _infallible = writeln!(out, "      - '{part}'");
        }
    }
    out
}

/// The generated meta-data; its instance id follows from the two other files.
pub(crate) fn meta_data(user: &str, network: &str) -> String {
    format!("instance-id: {}\n", sha1_hex(format!("{user}{network}").as_bytes()))
}

/// Where the snippet `storage:snippets/file` lies on this machine.
fn snippet_path(state: &State, node: &str, volid: &str) -> Result<PathBuf, String> {
    let (storage, name) =
        volid.split_once(':').ok_or_else(|| format!("unable to parse volume ID '{volid}'"))?;
    let Some(row) = state.storages.get(storage) else {
        return Err(format!("storage '{storage}' does not exist"));
    };
    let Some(file) = name.strip_prefix("snippets/").filter(|f| !f.contains('/') && *f != "..") else {
        return Err(format!("{volid} is not in the snippets directory"));
    };
    match row.directories.get(node).or(row.path.as_ref()) {
        Some(directory) => Ok(PathBuf::from(directory).join("snippets").join(file)),
        None => Err(format!("storage '{storage}' does not support snippets")),
    }
}

/// The snippets a configuration names, by role and with their paths.
pub(crate) fn snippets(
    state: &State,
    node: &str,
    config: &Options,
    major: u32,
) -> Result<Vec<(String, String, PathBuf)>, String> {
    let Some(custom) = config.get("cicustom") else { return Ok(Vec::new()) };
    let parts = parse_property("cicustom", custom, "cicustom", major).unwrap_or_default();
    parts
        .into_iter()
        .map(|(role, volid)| Ok((role, volid.clone(), snippet_path(state, node, &volid)?)))
        .collect()
}

/// Builds the drive. The snippets are read now, as root on the host would.
pub(crate) async fn build(
    config: &Options,
    vmid: u32,
    major: u32,
    snippets: &[(String, String, PathBuf)],
) -> Result<CloudinitDrive, String> {
    let mut user = user_data(config, vmid, false);
    let mut network = network_config(config, major);
    let mut meta = None;
    let mut vendor = None;
    for (role, volid, path) in snippets {
        let text = match tokio::fs::read(path).await {
            Ok(bytes) if bytes.len() > 1 << 20 => {
                return Err(format!("snippet '{volid}' is larger than 1 MiB"));
            }
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => return Err(format!("volume '{volid}' does not exist")),
        };
        match role.as_str() {
            "user" => user = text,
            "network" => network = text,
            "meta" => meta = Some(text),
            _ => vendor = Some(text),
        }
    }
    let meta = meta.unwrap_or_else(|| meta_data(&user, &network));
    let instance_id = meta
        .lines()
        .find_map(|l| {
            l.trim().strip_prefix("instance-id:").or_else(|| l.trim().strip_prefix("\"instance-id\":"))
        })
        .map(|v| v.trim().trim_matches(['"', '\'', ',']).to_owned())
        .unwrap_or_default();
    Ok(CloudinitDrive { user, network, meta, vendor, instance_id })
}

//! Named formats and patterns of the parameter tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn all(value: &str, ok: impl Fn(char) -> bool) -> bool {
    !value.is_empty() && value.chars().all(ok)
}

fn first(value: &str, ok: impl Fn(char) -> bool) -> bool {
    value.chars().next().is_some_and(ok)
}

fn alnum(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn alpha(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// The items of a list: separated by blank, comma, semicolon or NUL.
pub(crate) fn split_list(value: &str) -> impl Iterator<Item = &str> {
    value.split([' ', '\t', '\n', '\r', ',', ';', '\0']).filter(|v| !v.is_empty())
}

pub(crate) fn is_integer(value: &str) -> bool {
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    all(digits, |c| c.is_ascii_digit())
}

/// A VMID: 100 to 999999999.
pub(crate) fn is_vmid(value: &str) -> bool {
    (3..=9).contains(&value.len()) && all(value, |c| c.is_ascii_digit()) && !value.starts_with('0')
}

fn is_label(value: &str) -> bool {
    all(value, |c| alnum(c) || c == '-') && first(value, alnum) && value.ends_with(alnum)
}

fn is_dns_name(value: &str) -> bool {
    value.split('.').all(is_label)
}

/// `[A-Za-z][A-Za-z0-9_-]+`
fn is_config_id(value: &str) -> bool {
    value.len() > 1 && first(value, alpha) && all(value, |c| alnum(c) || c == '_' || c == '-')
}

fn is_storage_id(value: &str) -> bool {
    value.len() > 1
        && first(value, alpha)
        && value.ends_with(alnum)
        && all(value, |c| alnum(c) || "-_.".contains(c))
}

fn is_user_id(value: &str) -> bool {
    value.rsplit_once('@').is_some_and(|(name, realm)| {
        !name.is_empty()
            && !name.contains([':', '/'])
            && !name.chars().any(char::is_whitespace)
            && is_realm(realm)
    })
}

fn is_realm(value: &str) -> bool {
    value.len() > 1 && first(value, alpha) && all(value, |c| alnum(c) || ".-_".contains(c))
}

fn is_volume_id(value: &str) -> bool {
    value.split_once(':').is_some_and(|(store, name)| {
        is_storage_id(store) && !name.is_empty() && !name.chars().any(char::is_whitespace)
    })
}

fn is_pool_id(value: &str) -> bool {
    value.split('/').count() <= 3 && value.split('/').all(|p| all(p, |c| alnum(c) || "._-".contains(c)))
}

fn is_cidr(value: &str, four: Option<bool>) -> bool {
    value.split_once('/').is_some_and(|(ip, bits)| match (ip.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(b)) => four != Some(false) && b <= 32,
        (Ok(IpAddr::V6(_)), Ok(b)) => four != Some(true) && b <= 128,
        _ => false,
    })
}

fn is_ip(value: &str) -> bool {
    value.parse::<IpAddr>().is_ok()
}

fn is_ip_or_cidr(value: &str) -> bool {
    is_ip(value) || is_cidr(value, None)
}

fn is_mac(value: &str) -> bool {
    let parts: Vec<&str> = value.split(':').collect();
    parts.len() == 6
        && parts.iter().all(|p| p.len() == 2 && all(p, |c| c.is_ascii_hexdigit()))
        && u8::from_str_radix(parts[0], 16).is_ok_and(|b| b & 1 == 0)
}

fn is_urlencoded(value: &str) -> bool {
    let bytes = value.as_bytes();
    value.chars().all(|c| alnum(c) || "-%_.!~*'()".contains(c))
        && bytes.iter().enumerate().filter(|(_, b)| **b == b'%').all(|(i, _)| {
            bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit)
                && bytes.get(i + 2).is_some_and(u8::is_ascii_hexdigit)
        })
}

fn is_tag(value: &str) -> bool {
    first(value, |c| alnum(c) || c == '_') && all(value, |c| alnum(c) || "_-+.".contains(c))
}

fn is_port(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|p| p <= 65535)
        || (first(value, alpha) && all(value, |c| alnum(c) || c == '-'))
}

fn ports(value: &str) -> Result<(), String> {
    for part in value.split(',') {
        let (a, b) = part.split_once(':').unwrap_or((part, part));
        for p in [a, b] {
            if !is_port(p) {
                return Err(format!("invalid port '{p}'"));
            }
        }
    }
    Ok(())
}

fn firewall_address(value: &str) -> Result<(), String> {
    if value.starts_with('+') || (first(value, alpha) && is_config_id(value.trim_start_matches("dc/"))) {
        return Ok(());
    }
    for part in split_list(value) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        if !(is_ip_or_cidr(part) || (is_ip(a) && is_ip(b))) {
            return Err(format!("invalid IP address: Invalid chars in IP {part}"));
        }
    }
    Ok(())
}

fn ssh_or_volume_path(value: &str) -> bool {
    matches!(value, "none" | "cdrom") || value.starts_with('/') || is_volume_id(value)
}

/// Checks a named format; the error is the text behind `invalid format - `.
pub(crate) fn check(format: &str, value: &str) -> Result<(), String> {
    let base = match format.strip_suffix("-list").or_else(|| format.strip_suffix("-opt")) {
        Some(
            "pve-tag"
            | "pve-configid"
            | "pve-vmid"
            | "pve-storage-id"
            | "pve-userid"
            | "pve-roleid"
            | "pve-priv"
            | "pve-groupid"
            | "pve-tokenid"
            | "address"
            | "pve-node"
            | "pve-storage-content",
        ) => {
            let base = format.trim_end_matches("-list").trim_end_matches("-opt");
            return split_list(value).try_for_each(|item| check(base, item));
        }
        Some("email") if value.is_empty() => return Ok(()),
        _ => format,
    };
    let like = |ok: bool, text: String| if ok { Ok(()) } else { Err(text) };
    let does_not_look = |ok: bool, what: &str| like(ok, format!("value does not look like a valid {what}"));
    match base {
        "pve-vmid" => does_not_look(is_vmid(value), "VM ID"),
        "pve-node" => does_not_look(is_label(value), "node name"),
        "dns-name" => does_not_look(is_dns_name(value), "DNS name"),
        "pve-configid" => like(is_config_id(value), format!("invalid configuration ID '{value}'")),
        "pve-storage-id" => {
            like(is_storage_id(value), format!("storage ID '{value}' contains illegal characters"))
        }
        "pve-poolid" => {
            like(is_pool_id(value), format!("value '{value}' does not look like a valid pool name"))
        }
        "pve-roleid" => like(
            all(value, |c| alnum(c) || "._-".contains(c)),
            format!("value '{value}' does not look like a valid role name"),
        ),
        "pve-groupid" => like(
            all(value, |c| alnum(c) || "._-".contains(c)),
            format!("value '{value}' does not look like a valid group name"),
        ),
        "pve-tokenid" => like(
            value.split_once('!').is_some_and(|(u, t)| is_user_id(u) && is_realm(t)),
            format!("value '{value}' does not look like a valid token ID"),
        ),
        "pve-priv" => {
            like(crate::pve::access::is_known_privilege(value), format!("invalid privilege '{value}'"))
        }
        "pve-tag" => like(is_tag(value), format!("invalid characters in tag '{value}'")),
        "pve-volume-id" => like(is_volume_id(value), format!("unable to parse volume ID '{value}'")),
        "pve-volume-id-or-qm-path" => {
            like(ssh_or_volume_path(value), format!("unable to parse volume ID '{value}'"))
        }
        "pve-bridge-id" => {
            like(all(value, |c| alnum(c) || "-_.".contains(c)), format!("invalid bridge ID '{value}'"))
        }
        "mac-addr" => does_not_look(is_mac(value), "unicast MAC address"),
        "ipv4" => does_not_look(value.parse::<Ipv4Addr>().is_ok(), "IPv4 address"),
        "ipv6" => does_not_look(value.parse::<Ipv6Addr>().is_ok(), "IPv6 address"),
        "ip" => does_not_look(is_ip(value), "IP address"),
        "address" => does_not_look(is_ip(value) || is_dns_name(value), "IP address or DNS name"),
        "CIDR" => does_not_look(is_cidr(value, None), "CIDR network"),
        "pve-ipv4-config" => does_not_look(
            matches!(value, "dhcp" | "manual") || is_cidr(value, Some(true)),
            "ipv4 network configuration",
        ),
        "pve-ipv6-config" => does_not_look(
            matches!(value, "auto" | "dhcp" | "manual") || is_cidr(value, Some(false)),
            "ipv6 network configuration",
        ),
        "IPorCIDRorAlias" => does_not_look(
            is_ip_or_cidr(value)
                || is_config_id(value.trim_start_matches("dc/").trim_start_matches("guest/")),
            "IP address or CIDR network",
        ),
        "urlencoded" => like(is_urlencoded(value), format!("invalid urlencoded string: {value}")),
        "disk-size" => does_not_look(is_size(value), "disk size"),
        "pve-fw-addr-spec" => firewall_address(value),
        "pve-fw-sport-spec" | "pve-fw-dport-spec" => ports(value),
        "pve-qm-boot" => {
            let order = value.strip_prefix("order=").unwrap_or(value);
            like(
                order.split(';').all(|d| all(d, alnum)) || value.starts_with("legacy="),
                format!("format error\nboot.order: invalid boot device list '{value}'\n"),
            )
        }
        "pve-storage-content" => like(
            ["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"].contains(&value),
            format!("invalid content type '{value}'"),
        ),
        "prune-backups" => super::parse_property("prune-backups", value, "prune-backups", 9)
            .map(|_| ())
            .map_err(|e| format!("format error\n{e}")),
        "email" => does_not_look(value.contains('@'), "email address"),
        "pve-iface" => like(
            (2..=20).contains(&value.len()) && first(value, alpha),
            format!("invalid network interface name '{value}'"),
        ),
        "pve-storage-path" => {
            like(value.starts_with('/'), "value does not look like a valid absolute path".into())
        }
        // Formats that Proxmox checks in code, or options that only root may set: not judged here.
        _ => Ok(()),
    }
}

/// `10`, `1.5G`, …
fn is_size(value: &str) -> bool {
    let number = value.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(value);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    all(whole, |c| c.is_ascii_digit()) && all(part, |c| c.is_ascii_digit())
}

/// The patterns by our name: the published text; [`matches`] is the same rule by hand.
#[cfg(test)]
pub(crate) fn pattern_text(name: &str) -> Option<&'static str> {
    Some(match name {
        "resize" => r"\+?\d+(\.\d+)?[KMGT]?",
        "volume-size" => r"\d+[MG]?",
        "serial" => r"(/dev/.+|socket)",
        "serial-strict" => r"(/dev/[^,]+|socket)",
        "vmgenid" => r"(?:[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}|[01])",
        "bootdisk" => r"(ide|sata|scsi|virtio)\d+",
        "startdate" => r"(now|\d{4}-\d{1,2}-\d{1,2}(T\d{1,2}:\d{1,2}:\d{1,2})?)",
        "parallel" => r"/dev/parport\d+|/dev/usb/lp\d+",
        "fw-name" => r"[A-Za-z][A-Za-z0-9\-\_]+",
        "tokenid" => r"(?^:[A-Za-z][A-Za-z0-9\.\-_]+)",
        "userkeys" => r"[0-9a-zA-Z!=]{0,4096}",
        "fingerprint" => r"([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}",
        "ivshmem" => r"[a-zA-Z0-9\-]+",
        "url" => r"https?://.*",
        _ => return None,
    })
}

/// Whether `value` matches the pattern we call `name`.
pub(crate) fn matches(name: &str, value: &str) -> bool {
    match name {
        "resize" => is_size(value.strip_prefix('+').unwrap_or(value)),
        "volume-size" => all(value.strip_suffix(['M', 'G']).unwrap_or(value), |c| c.is_ascii_digit()),
        "serial" | "serial-strict" => value == "socket" || value.starts_with("/dev/"),
        "vmgenid" => matches!(value, "0" | "1") || uuid::Uuid::try_parse(value).is_ok(),
        "bootdisk" => ["ide", "sata", "scsi", "virtio"]
            .iter()
            .any(|b| value.strip_prefix(b).is_some_and(|n| all(n, |c| c.is_ascii_digit()))),
        "fw-name" | "tokenid" => {
            value.len() > 1 && first(value, alpha) && all(value, |c| alnum(c) || "-_.".contains(c))
        }
        "url" => value.starts_with("http://") || value.starts_with("https://"),
        "ivshmem" => all(value, |c| alnum(c) || c == '-'),
        _ => true,
    }
}

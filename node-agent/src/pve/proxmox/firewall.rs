//! Anti-spoofing: what leaves the VM must come from its own addresses.
//!
//! Proxmox filters by an ipset named exactly `ipfilter-net0`; without it only link-local passes. The
//! VM's inbound policy is opened (the default would drop everything), because a bought server is on
//! the network like a rented machine; its own firewall is the customer's.

use std::collections::BTreeSet;

use ipnet::IpNet;
use proxmox_api::nodes::node::qemu::vmid::firewall::{
    ipset,
    options::{PolicyIn, PolicyOut, PutParams},
};

use super::ProxmoxHypervisor;
use crate::pve::{
    FirewallSetup, PveError, Vmid, encode,
    raw::{self, Row},
};

/// The ipset's name is a contract with Proxmox.
const IPFILTER: &str = "ipfilter-net0";

/// Reads a member as Proxmox prints it: a bare address or a prefix.
fn member(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// Writes a member as Proxmox prints it: whole addresses without `/32` or `/128`.
fn print(net: &IpNet) -> String {
    let net = net.trunc();
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

impl ProxmoxHypervisor {
    pub(super) async fn put_firewall(&self, vmid: Vmid, setup: FirewallSetup) -> Result<(), PveError> {
        let wanted: BTreeSet<IpNet> = setup.addresses.iter().map(IpNet::trunc).collect();
        self.put_ipfilter(vmid, &wanted).await?;
        let options = PutParams {
            enable: Some(true),
            ipfilter: Some(true),
            macfilter: Some(true),
            dhcp: Some(false),
            ndp: Some(true),
            radv: Some(false),
            policy_in: Some(PolicyIn::ACCEPT),
            policy_out: Some(PolicyOut::ACCEPT),
            ..PutParams::default()
        };
        self.guest(vmid)?.firewall().options().put(options).await
    }

    /// Members first, switch second: between the two nothing is let through that should not be.
    async fn put_ipfilter(&self, vmid: Vmid, wanted: &BTreeSet<IpNet>) -> Result<(), PveError> {
        let sets = self.guest(vmid)?.firewall().ipset();
        let rows: Vec<Row> = self.read(&self.guest_path(vmid, "/firewall/ipset")?, &[]).await?;
        if !rows.iter().any(|row| raw::text(row, "name").as_deref() == Some(IPFILTER)) {
            let name = ipset::NameStr::try_from(IPFILTER.to_owned());
            let name = name.map_err(|e| PveError::Invalid(format!("ipset: {e:?}")))?;
            match sets.post(ipset::PostParams::new(name)).await {
                Err(PveError::Refused { status: 400, message, errors, .. })
                    if says_exists(&message) || errors.values().any(|e| says_exists(e)) => {}
                other => other?,
            }
        }
        let path = self.guest_path(vmid, &format!("/firewall/ipset/{IPFILTER}"))?;
        let rows: Vec<Row> = self.read(&path, &[]).await?;
        let mut present = BTreeSet::new();
        for text in rows.iter().filter_map(|row| raw::text(row, "cidr")) {
            match member(&text) {
                Some(net) if wanted.contains(&net) => {
                    present.insert(net);
                }
                _ => sets.name(IPFILTER).cidr(&encode::escape(&text)).delete(Default::default()).await?,
            }
        }
        for net in wanted.difference(&present) {
            sets.name(IPFILTER).post(ipset::name::PostParams::new(print(net))).await?;
        }
        Ok(())
    }
}

fn says_exists(text: &str) -> bool {
    text.contains("already exists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_compared_by_meaning() {
        assert_eq!(member("203.0.113.7"), member("203.0.113.7/32"));
        assert_eq!(member("2001:DB8::1"), member("2001:db8::1/128"));
        assert_eq!(member("2001:db8:1::5/64").map(|n| print(&n)).as_deref(), Some("2001:db8:1::/64"));
        assert_eq!(member("203.0.113.7/32").map(|n| print(&n)).as_deref(), Some("203.0.113.7"));
        assert_eq!(member("+dc/office"), None);
    }
}

//! Anti-spoofing: what leaves the VM must come from its own addresses.
//!
//! Proxmox filters by an ipset named exactly `ipfilter-net0`; without it only link-local passes. The
//! VM's inbound policy is opened (the default would drop everything) unless the customer's rules say
//! otherwise, because a bought server is on the network like a rented machine.
//!
//! Rules have no id in Proxmox, only positions, and a new one enters at the top. Ours are known by their
//! comment; they are replaced as a whole where they differ, the last first. Rules of others stay, below: whoever adds one
//! meanwhile moves ours, so that a position counts only together with the digest of the list it was read from.

use std::collections::BTreeSet;

use ipnet::IpNet;
use proxmox_api::{
    client::Client as _,
    nodes::node::qemu::vmid::firewall::{
        ipset,
        options::{PolicyIn, PolicyOut, PutParams},
    },
};

use super::ProxmoxHypervisor;
use crate::pve::{
    FirewallSetup, GuestRule, PveError, RULE_COMMENT, Vmid, encode,
    raw::{self, Row},
};

/// The ipset's name is a contract with Proxmox.
const IPFILTER: &str = "ipfilter-net0";

/// So often in a row the rules may have changed between our look at them and our call; then it is tried anew later.
const MISSES: u32 = 5;

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
        // Rules before the policy: what shall pass passes before the rest is dropped.
        self.put_rules(vmid, &setup.rules).await?;
        let inbound = match setup.inbound {
            "DROP" => PolicyIn::DROP,
            "REJECT" => PolicyIn::REJECT,
            _ => PolicyIn::ACCEPT,
        };
        let options = PutParams {
            enable: Some(true),
            ipfilter: Some(true),
            macfilter: Some(true),
            dhcp: Some(false),
            ndp: Some(true),
            radv: Some(false),
            policy_in: Some(inbound),
            policy_out: Some(PolicyOut::ACCEPT),
            ..PutParams::default()
        };
        self.guest(vmid)?.firewall().options().put(options).await
    }

    async fn put_rules(&self, vmid: Vmid, wanted: &[GuestRule]) -> Result<(), PveError> {
        let path = self.guest_path(vmid, "/firewall/rules")?;
        let rows = self.rules(&path).await?;
        let ours: Vec<&Row> = rows.iter().filter(is_ours).collect();
        // Ours stand on top, in order, switched on: anything else is written anew.
        let on_top = rows.iter().take(ours.len()).all(|row| is_ours(&row));
        if on_top
            && ours.len() == wanted.len()
            && ours.iter().zip(wanted).all(|(row, rule)| is_rule(row, rule))
        {
            return Ok(());
        }
        self.remove_rules(&path).await?;
        // They go in at the top, where they displace nobody's, whatever was changed meanwhile.
        for rule in wanted.iter().rev() {
            self.http.post::<_, ()>(&path, &body(rule)).await?;
        }
        Ok(())
    }

    /// In the order in which they apply.
    async fn rules(&self, path: &str) -> Result<Vec<Row>, PveError> {
        let mut rows: Vec<Row> = self.read(path, &[]).await?;
        rows.sort_by_key(|row| raw::count(row, "pos"));
        Ok(rows)
    }

    /// Takes our rules away, one at a time and the last first, and nobody else's.
    async fn remove_rules(&self, path: &str) -> Result<(), PveError> {
        let mut misses = 0;
        loop {
            let rows = self.rules(path).await?;
            let Some(last) = rows.iter().rfind(is_ours) else { return Ok(()) };
            let mut only_this = Row::new();
            only_this.extend(raw::text(last, "digest").map(|digest| ("digest".to_owned(), digest.into())));
            let rule = format!("{path}/{}", raw::count(last, "pos"));
            match self.http.delete::<_, ()>(&rule, &only_this).await {
                Ok(()) => misses = 0,
                Err(error) if error.is_digest_mismatch() && misses < MISSES => misses += 1,
                Err(error) => return Err(error),
            }
        }
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

/// Whether a stored rule is one of ours.
fn is_ours(row: &&Row) -> bool {
    raw::text(row, "comment").is_some_and(|comment| comment.starts_with(RULE_COMMENT))
}

/// A rule as it is sent.
fn body(rule: &GuestRule) -> Row {
    let mut body = Row::new();
    let mut put = |key: &str, value: Option<&str>| {
        body.extend(value.map(|value| (key.to_owned(), value.into())));
    };
    put("type", Some(rule.direction));
    put("action", Some(rule.action));
    put("enable", Some("1"));
    put("proto", rule.proto);
    put("dport", rule.dport.as_deref());
    put("source", rule.source.as_deref());
    put("dest", rule.dest.as_deref());
    put("comment", Some(&rule.comment));
    body
}

/// Whether a stored rule is this one; what Proxmox adds (`pos`, `ipversion`, `digest`) does not count.
fn is_rule(row: &Row, rule: &GuestRule) -> bool {
    let wanted = body(rule);
    ["type", "action", "enable", "proto", "dport", "source", "dest", "comment"]
        .iter()
        .all(|key| raw::text(row, key) == raw::text(&wanted, key))
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

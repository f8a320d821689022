//! The customer's firewall rules, as far as the host's filter can carry them out.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::SpecError;

/// Most rules of one instance.
pub const MAX_RULES: usize = 50;
/// Most networks one rule names.
pub const MAX_PEERS: usize = 32;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passes.
    Accept,
    /// It is lost without a word.
    Drop,
    /// Its sender is told.
    Reject,
}

/// Which way a packet goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// Protocols a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// ICMP of IPv6.
    Icmpv6,
}

/// One port or a range of them, both ends included; 1–65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last; the first again for one port.
    pub last: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// One rule. The first that fits a packet decides; what fits none is decided by the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// Which way.
    pub direction: Direction,
    /// What happens.
    pub verdict: Verdict,
    /// Which protocol; none means every one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protocol: Option<Protocol>,
    /// Ports of the receiver; TCP and UDP only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ports: Option<Ports>,
    /// The other end: the sender of what comes in, the receiver of what goes out. None means anybody.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub peers: Vec<IpNet>,
}

/// The customer's rules and what happens to packets that fit none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallRules {
    /// What comes in and fits no rule. What goes out and fits no rule passes.
    pub inbound: Verdict,
    /// In the order in which they are tried.
    pub rules: Vec<FirewallRule>,
}

impl FirewallRules {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.rules.len() > MAX_RULES {
            return Err(SpecError::TooMany("firewall rules"));
        }
        for rule in &self.rules {
            if rule.peers.len() > MAX_PEERS {
                return Err(SpecError::TooMany("networks in a firewall rule"));
            }
            let Some(ports) = rule.ports else { continue };
            let has_ports = matches!(rule.protocol, Some(Protocol::Tcp | Protocol::Udp));
            if !has_ports || ports.first == 0 || ports.first > ports.last {
                return Err(SpecError::Size("network.rules.ports"));
            }
        }
        Ok(())
    }
}

//! Firewall rules as people and programs write them, and back. Pure; pages and API share it.

use std::net::IpAddr;

use ez_protocol::order::{
    Direction, FirewallRule, FirewallRules, MAX_PEERS, MAX_RULES, Ports, Protocol, Verdict,
};
use ipnet::IpNet;

/// Most networks that all rules name together: an order has room for so many.
pub(super) const MAX_ALL_PEERS: usize = 500;

/// One rule in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WrittenRule {
    /// `in` or `out`.
    pub(super) direction: String,
    /// `accept`, `drop` or `reject`.
    pub(super) verdict: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or empty for every one.
    pub(super) protocol: String,
    /// `22`, `8000-8100`, or empty for all.
    pub(super) ports: String,
    /// Addresses and networks; none means anybody.
    pub(super) peers: Vec<String>,
}

/// All rules in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// What happens to what comes in and fits no rule.
    pub(super) inbound: String,
    /// In the order in which they are tried.
    pub(super) rules: Vec<WrittenRule>,
}

/// What is wrong with a field of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Which rule, from 0; none for what concerns all.
    pub(super) rule: Option<usize>,
    /// `inbound`, `rules`, `direction`, `verdict`, `protocol`, `ports` or `peers`.
    pub(super) field: &'static str,
    /// A stable word.
    pub(super) code: &'static str,
    /// The same for people.
    pub(super) message: &'static str,
}

const VERDICTS: [(&str, Verdict); 3] =
    [("accept", Verdict::Accept), ("drop", Verdict::Drop), ("reject", Verdict::Reject)];
const DIRECTIONS: [(&str, Direction); 2] = [("in", Direction::In), ("out", Direction::Out)];
const PROTOCOLS: [(&str, Protocol); 4] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp), ("icmpv6", Protocol::Icmpv6)];

fn find<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> String {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word).to_owned()
}

/// Reads rules. Those that let everything pass, and no more, are none.
///
/// # Errors
/// Everything that is wrong, in the order of the rules.
pub(super) fn read(written: &Written) -> Result<Option<FirewallRules>, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut refuse = |rule, field, code, message| wrong.push(Wrong { rule, field, code, message });
    let inbound = find(&VERDICTS, &written.inbound);
    if inbound.is_none() {
        refuse(None, "inbound", "verdict_unknown", "One of accept, drop and reject.");
    }
    if written.rules.len() > MAX_RULES {
        refuse(None, "rules", "too_many_rules", "At most 50 rules.");
    }
    if written.rules.iter().map(|rule| rule.peers.len()).sum::<usize>() > MAX_ALL_PEERS {
        refuse(None, "rules", "too_many_peers", "At most 500 networks in all rules together.");
    }
    let mut rules = Vec::new();
    for (at, rule) in written.rules.iter().enumerate() {
        let mut refuse = |field, code, message| refuse(Some(at), field, code, message);
        let direction = find(&DIRECTIONS, &rule.direction);
        if direction.is_none() {
            refuse("direction", "direction_unknown", "One of in and out.");
        }
        let verdict = find(&VERDICTS, &rule.verdict);
        if verdict.is_none() {
            refuse("verdict", "verdict_unknown", "One of accept, drop and reject.");
        }
        let protocol = find(&PROTOCOLS, &rule.protocol);
        if protocol.is_none() && !rule.protocol.is_empty() {
            refuse("protocol", "protocol_unknown", "One of tcp, udp, icmp and icmpv6, or nothing for all.");
        }
        let ports = ports(&rule.ports);
        match ports {
            None => refuse("ports", "ports_invalid", "A port such as 22, or a range such as 8000-8100."),
            Some(Some(_)) if !matches!(protocol, Some(Protocol::Tcp | Protocol::Udp)) => {
                refuse("ports", "ports_without_protocol", "Only TCP and UDP have ports; choose one of them.");
            }
            Some(_) => {}
        }
        let peers: Option<Vec<IpNet>> = rule.peers.iter().map(|peer| net(peer)).collect();
        match &peers {
            None => refuse(
                "peers",
                "peer_invalid",
                "Addresses such as 203.0.113.7 or networks such as 2001:db8::/32.",
            ),
            Some(peers) if peers.len() > MAX_PEERS => {
                refuse("peers", "too_many_peers", "At most 32 networks in one rule.");
            }
            Some(_) => {}
        }
        if let (Some(direction), Some(verdict), Some(ports), Some(peers)) = (direction, verdict, ports, peers)
        {
            rules.push(FirewallRule { direction, verdict, protocol, ports, peers });
        }
    }
    match inbound {
        Some(inbound) if wrong.is_empty() => {
            let open = inbound == Verdict::Accept && rules.is_empty();
            Ok((!open).then_some(FirewallRules { inbound, rules }))
        }
        _ => Err(wrong),
    }
}

/// Nothing is every port; `None` is no port at all.
fn ports(text: &str) -> Option<Option<Ports>> {
    if text.is_empty() {
        return Some(None);
    }
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some(Some(Ports { first, last }))
}

/// An address or a network; what is beyond its prefix does not count.
fn net(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(IpNet::trunc(&net))
}

/// Rules in words.
pub(super) fn write(rules: Option<&FirewallRules>) -> Written {
    let Some(rules) = rules else { return Written { inbound: "accept".to_owned(), rules: Vec::new() } };
    let rule = |rule: &FirewallRule| WrittenRule {
        direction: word(&DIRECTIONS, &rule.direction),
        verdict: word(&VERDICTS, &rule.verdict),
        protocol: rule.protocol.map(|protocol| word(&PROTOCOLS, &protocol)).unwrap_or_default(),
        ports: match rule.ports {
            None => String::new(),
            Some(Ports { first, last }) if first == last => first.to_string(),
            Some(Ports { first, last }) => format!("{first}-{last}"),
        },
        peers: rule.peers.iter().map(peer).collect(),
    };
    Written { inbound: word(&VERDICTS, &rules.inbound), rules: rules.rules.iter().map(rule).collect() }
}

/// One address without its prefix length.
fn peer(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(protocol: &str, ports: &str, peers: &[&str]) -> WrittenRule {
        WrittenRule {
            direction: "in".into(),
            verdict: "accept".into(),
            protocol: protocol.into(),
            ports: ports.into(),
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
        }
    }

    fn written(rules: Vec<WrittenRule>) -> Written {
        Written { inbound: "drop".into(), rules }
    }

    #[test]
    fn everything_open_is_no_rules_at_all() {
        let open = Written { inbound: "accept".into(), rules: Vec::new() };
        assert_eq!(read(&open), Ok(None));
        assert_eq!(write(None), open);
    }

    #[test]
    fn each_mistake_is_named_with_its_rule_and_field() {
        let many: Vec<String> = (0..33).map(|n| format!("203.0.113.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (wrong, field, code) in [
            (rule("sctp", "", &[]), "protocol", "protocol_unknown"),
            (rule("tcp", "0", &[]), "ports", "ports_invalid"),
            (rule("tcp", "90-80", &[]), "ports", "ports_invalid"),
            (rule("tcp", "70000", &[]), "ports", "ports_invalid"),
            (rule("icmp", "22", &[]), "ports", "ports_without_protocol"),
            (rule("", "22", &[]), "ports", "ports_without_protocol"),
            (rule("tcp", "22", &["example.org"]), "peers", "peer_invalid"),
            (rule("tcp", "22", &["203.0.113.0/33"]), "peers", "peer_invalid"),
            (rule("tcp", "22", &many), "peers", "too_many_peers"),
        ] {
            let found = read(&written(vec![rule("tcp", "22", &[]), wrong.clone()])).unwrap_err();
            let named: Vec<_> = found.iter().map(|w| (w.rule, w.field, w.code)).collect();
            assert_eq!(named, [(Some(1), field, code)], "{wrong:?}");
        }
        let fifty_one = vec![rule("tcp", "22", &[]); 51];
        assert_eq!(read(&written(fifty_one)).unwrap_err()[0].code, "too_many_rules");
    }

    #[test]
    fn an_address_inside_a_network_stands_for_the_network() {
        let read = read(&written(vec![rule("tcp", "8000:8100", &["10.1.2.3/8"])])).unwrap().unwrap();
        assert_eq!(write(Some(&read)).rules[0].peers, ["10.0.0.0/8"]);
        assert_eq!(write(Some(&read)).rules[0].ports, "8000-8100");
    }

    proptest! {
        /// What was read is written so that it is read as the same.
        #[test]
        fn rules_survive_being_written_and_read(
            protocol in prop::sample::select(vec!["", "tcp", "udp", "icmp", "icmpv6"]),
            first in 1..=u16::MAX, more in 0..200_u16,
            octets in prop::collection::vec(any::<[u8; 4]>(), 0..4), length in 0..=32_u8,
        ) {
            let last = first.saturating_add(more);
            let ports = if matches!(protocol, "tcp" | "udp") { format!("{first}-{last}") } else { String::new() };
            let peers: Vec<String> =
                octets.iter().map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d}/{length}")).collect();
            let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
            let rules = read(&written(vec![rule(protocol, &ports, &peers)])).unwrap();
            prop_assert_eq!(read(&write(rules.as_ref())).unwrap(), rules);
        }
    }
}

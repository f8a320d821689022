//! The way to the control plane: names, TCP for the enrolment, UDP for the link, and what the agent says of it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ez_protocol::{UnixMillis, order::CLOCK_TOLERANCE};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Check, Patient, span};
use crate::{entropy, link::split};

pub(super) const NAMES: &[&str] =
    &["control-plane-name", "control-plane-tcp", "control-plane-udp", "connection", "clock"];

/// For one attempt.
const TRY: Duration = Duration::from_secs(2);
/// A version of QUIC that nobody speaks (RFC 9000, section 15: 0x?a?a?a?a): the answer to it is a list of versions, from
/// any server, without a handshake. Shaking hands with the node's own certificate would look like a second agent.
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
/// A server answers nothing shorter.
const SHORTEST: usize = 1_200;
/// A status that is older than this is not of a connected agent, which writes one with each report.
const STATUS_OLD: Duration = Duration::from_secs(15 * 60);

pub(super) async fn look(patient: &Patient) -> Vec<Check> {
    let mut checks = match addresses(patient) {
        Err((because, other)) => NAMES[..3].iter().map(|name| Check::unseen(name, because, other)).collect(),
        Ok(addresses) => reach(&addresses).await,
    };
    checks.push(connection(patient));
    checks.push(clock(patient));
    checks
}

fn addresses(patient: &Patient) -> Result<Vec<String>, (&'static str, &'static str)> {
    let config = patient.config.as_ref().map_err(|_| ("there is no configuration", "configuration"))?;
    if let Some(address) = &config.link_address {
        return Ok(vec![address.clone()]);
    }
    match &patient.identity {
        Some(Ok(identity)) => Ok(identity.trust.link.clone()),
        _ => Err(("it is not known where to dial before this node has joined", "identity")),
    }
}

async fn reach(addresses: &[String]) -> Vec<Check> {
    let list = addresses.join(", ");
    let (mut found, mut unnamed) = (Vec::new(), Vec::new());
    for address in addresses {
        let Some(parts) = split(address) else {
            unnamed.push(format!("{address} is not host:port"));
            continue;
        };
        match timeout(TRY, tokio::net::lookup_host(parts)).await {
            Ok(Ok(peers)) => found.extend(peers),
            Ok(Err(error)) => unnamed.push(format!("{address}: {error}")),
            Err(_) => unnamed.push(format!("{address}: no name server answers")),
        }
    }
    let fix = "look at /etc/resolv.conf and at the name of the control plane";
    let named = match (found.is_empty(), unnamed.is_empty()) {
        (true, _) => Check::fail("control-plane-name", unnamed.join("; "), fix),
        (false, false) => Check::warn("control-plane-name", unnamed.join("; "), fix),
        (false, true) => Check::ok("control-plane-name", format!("{list} is {}", texts(&found))),
    };
    if found.is_empty() {
        let unseen = |name| Check::unseen(name, "its name has no address", "control-plane-name");
        return vec![named, unseen("control-plane-tcp"), unseen("control-plane-udp")];
    }
    let (tcp, udp) = tokio::join!(any(&found, tcp), any(&found, udp));
    let fix = |protocol: &str| format!("let {protocol} out to {list}: firewalls of this host and on the way");
    let tcp = match tcp {
        Ok(peer) => Check::ok("control-plane-tcp", format!("{peer} answers")),
        // Only joining and renewing after a long absence need it.
        Err(why) => Check::warn("control-plane-tcp", why, fix("TCP")),
    };
    let udp = match udp {
        Ok(peer) => Check::ok("control-plane-udp", format!("{peer} answers")),
        Err(why) => Check::fail("control-plane-udp", why, fix("UDP")),
    };
    vec![named, tcp, udp]
}

fn texts(peers: &[SocketAddr]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The first peer that answers; all are asked at once.
async fn any<F>(peers: &[SocketAddr], ask: impl Fn(SocketAddr) -> F) -> Result<SocketAddr, String>
where
    F: Future<Output = Result<(), String>>,
{
    let answers = futures::future::join_all(peers.iter().map(|peer| {
        let answer = ask(*peer);
        async move { (*peer, answer.await) }
    }));
    let answers = answers.await;
    if let Some((peer, _)) = answers.iter().find(|(_, answer)| answer.is_ok()) {
        return Ok(*peer);
    }
    let why = answers.into_iter().filter_map(|(peer, answer)| Some(format!("{peer}: {}", answer.err()?)));
    Err(why.collect::<Vec<_>>().join("; "))
}

async fn tcp(peer: SocketAddr) -> Result<(), String> {
    match timeout(TRY, TcpStream::connect(peer)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Asks for the versions of QUIC, twice: a datagram may get lost.
async fn udp(peer: SocketAddr) -> Result<(), String> {
    let own = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let words = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind(own).await.map_err(words)?;
    socket.connect(peer).await.map_err(words)?;
    let us: [u8; 8] = entropy::bytes(&entropy::SystemEntropy);
    let question = question(us);
    let mut answer = [0; 1_500];
    for _ in 0..2 {
        socket.send(&question).await.map_err(words)?;
        match timeout(TRY, socket.recv(&mut answer)).await {
            Ok(Ok(length)) if is_version_list(&answer[..length], us) => return Ok(()),
            Ok(Ok(_)) => return Err("something answers there that does not speak QUIC".to_owned()),
            Ok(Err(error)) => return Err(words(error)),
            Err(_) => {}
        }
    }
    Err("no answer: UDP is blocked on the way, or nothing listens there".to_owned())
}

/// A long header of a version nobody speaks, our name in it as the source.
fn question(us: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0xc0];
    bytes.extend(NO_VERSION);
    bytes.push(8);
    bytes.extend(us.iter().rev());
    bytes.push(8);
    bytes.extend(us);
    bytes.resize(SHORTEST, 0);
    bytes
}

/// Version negotiation (RFC 9000, section 17.2.1): version 0, and our name is its destination.
fn is_version_list(answer: &[u8], us: [u8; 8]) -> bool {
    answer.len() > 14
        && answer[0] & 0x80 != 0
        && answer[1..5] == [0; 4]
        && answer[5] == 8
        && answer[6..14] == us
}

fn connection(patient: &Patient) -> Check {
    let Some(status) = &patient.status else {
        let fix = "systemctl enable --now ez-node-agent (after setup and join)";
        return Check::fail("connection", "no agent has run here yet", fix);
    };
    let (at, since) = (UnixMillis(status.at), UnixMillis(status.since));
    let now = patient.clock.now();
    if !patient.runs {
        let found = format!("the agent does not run; it last wrote something {} ago", span(now.since(at)));
        return Check::fail(
            "connection",
            found,
            "systemctl start ez-node-agent; journalctl -u ez-node-agent says why it ended",
        );
    }
    if status.link != "connected" {
        let found = format!("{}, since {}", status.link, span(now.since(since)));
        let words = status.link.to_lowercase();
        let fix = if words.contains("quarantin") || words.contains("revoked") {
            "only an operator ends that: find out why (the node's alarms in the portal), then make a new token there, \
             ez-node-agent join, systemctl restart ez-node-agent"
        } else {
            "see control-plane-udp and certificate; journalctl -u ez-node-agent"
        };
        return Check::fail("connection", found, fix);
    }
    let found = format!("connected to {} for {}", status.peer, span(now.since(since)));
    match now.since(at) > STATUS_OLD {
        true => {
            let found = format!("{found}, but the last sign is {} old", span(now.since(at)));
            Check::warn("connection", found, "journalctl -u ez-node-agent; systemctl restart ez-node-agent")
        }
        false => Check::ok("connection", found),
    }
}

fn clock(patient: &Patient) -> Check {
    let Some(status) = &patient.status else {
        return Check::unseen("clock", "no agent has compared it with the control plane's yet", "connection");
    };
    let off = Duration::from_millis(status.clock_offset_ms.unsigned_abs());
    let found = format!("{} ms off the control plane's", status.clock_offset_ms);
    let fix = "synchronise it: apt install chrony, or chronyc makestep";
    if off > CLOCK_TOLERANCE {
        Check::fail("clock", format!("{found}: orders are refused"), fix)
    } else if off > Duration::from_secs(5) {
        Check::warn("clock", found, fix)
    } else {
        Check::ok("clock", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let us = *b"12345678";
        let asked = question(us);
        assert_eq!((asked.len(), asked[0]), (SHORTEST, 0xc0));
        let mut answer = vec![0x80, 0, 0, 0, 0, 8];
        answer.extend(us);
        answer.extend([8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 1]);
        assert!(is_version_list(&answer, us));
        assert!(!is_version_list(&answer, *b"87654321"), "another's");
        answer[4] = 1;
        assert!(!is_version_list(&answer, us), "a packet of a version");
        assert!(!is_version_list(&answer[..10], us) && !is_version_list(&asked, us), "an echo");
    }
}

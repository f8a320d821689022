//! Consoles: a server's screen or serial line, relayed over the connection that this host opened itself.
//!
//! The control plane opens a stream and brings a signed grant ([`ez_protocol::console`]). What happens then,
//! in this order, each step refusing with a type of its own:
//!
//! 1. [`grant`]: signature, audience, epoch, window, clock, as for an order; then the host's policy
//! 2. a seat is taken ([`seats`]): at most four for a server and thirty-two for this host
//! 3. the grant's nonce is burnt in the journal (durable): from here on it opens nothing any more
//! 4. the server is in the books, its VM carries its marker, and it runs
//! 5. Proxmox is asked for a console, which listens on the loopback for ten seconds; this agent connects,
//!    answers the password itself ([`rfb`], [`serial`]) and says to the other side that it is open
//! 6. bytes go both ways ([`relay`]) until somebody leaves, the server stops or a limit ends it
//!
//! Neither Proxmox's ticket nor the password of the screen ever leaves this host: towards the control plane
//! the screen speaks RFB 3.8 with security type None.

mod des;
mod ear;
pub mod grant;
mod relay;
mod rfb;
mod seats;
mod serial;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{
    console::{ConsoleGrant, ConsoleKind},
    envelope::TrustedKey,
    frame::CloseCode,
    marker::Marker,
    refusal::{Refusal, RefusalCode},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

pub use relay::{Limits, Timer};
pub use seats::Seats;

use crate::{
    intake::Node,
    journal::{Burn, Journal, Phase},
    policy::{self, Policy},
    pve::{ConfigRead, Hypervisor, Power},
};

/// To connect to the host's end and log in there; Proxmox listens for ten seconds.
const DOOR: Duration = Duration::from_secs(10);
/// How often, and how many times, the host is asked whether a server whose console went away still runs.
const ASK_AGAIN: (Duration, u32) = (Duration::from_millis(300), 5);

/// How a console ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The other side left.
    Left,
    /// The server was stopped.
    Stopped,
    /// The host's end is gone, though the server runs.
    Gone,
    /// Nobody typed or clicked for too long.
    Idle,
    /// The granted time is over.
    Over,
}

impl Ending {
    /// The code with which the stream is closed.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::Left => CloseCode::Finished,
            Self::Stopped => CloseCode::ConsoleStopped,
            Self::Gone => CloseCode::ConsoleGone,
            Self::Idle => CloseCode::ConsoleIdle,
            Self::Over => CloseCode::ConsoleOver,
        }
    }
}

/// What opening a console needs of the agent.
pub struct Desk<'a> {
    /// The journal.
    pub journal: &'a Journal,
    /// The host.
    pub pve: &'a dyn Hypervisor,
    /// What the host's owner allows.
    pub policy: &'a Policy,
    /// Who sits where.
    pub seats: &'a Seats,
    /// Whom this node believes.
    pub trusted: &'a [TrustedKey],
    /// What this node is, and what time it is.
    pub node: Node,
}

/// A console whose host end is open and logged in to.
pub struct Opened {
    grant: ConsoleGrant,
    host: TcpStream,
    _seat: seats::Seat,
}

impl Opened {
    /// The grant that opened it.
    pub fn grant(&self) -> &ConsoleGrant {
        &self.grant
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({} of {})", self.grant.kind, self.grant.instance.uuid)
    }
}

/// Judges a grant and opens the host's end of its console.
///
/// # Errors
/// The first check that fails. Nothing is called at Proxmox before the nonce is burnt.
pub async fn open(desk: &Desk<'_>, envelope: &[u8]) -> Result<Opened, Refusal> {
    let grant = grant::read(envelope, desk.trusted, desk.node.now)?;
    grant::judge(&grant, &desk.node)?;
    policy::console(desk.policy, grant.instance.vmid)?;
    let seat = desk.seats.take(grant.instance.uuid)?;
    match desk.journal.burn_grant(grant.clone(), desk.node.now).await {
        Ok(Burn::Now) => {}
        Ok(Burn::Before) => {
            return Err(Refusal::new(RefusalCode::Used, "this grant opened a console before"));
        }
        Ok(Burn::NoRoom) => {
            let detail =
                "this host has opened too many consoles in a day; it opens others as the first are a day old";
            return Err(Refusal::new(RefusalCode::TooMany, detail));
        }
        Err(error) => {
            tracing::error!(%error, "a console grant could not be journalled");
            let detail = "the journal could not be written, so nothing was opened";
            return Err(Refusal::new(RefusalCode::Unavailable, detail));
        }
    }
    ours(desk, &grant).await?;
    let host = match timeout(DOOR, door(desk, &grant)).await {
        Ok(host) => host?,
        Err(_) => return Err(unavailable(format!("the console did not answer within {} s", DOOR.as_secs()))),
    };
    Ok(Opened { grant, host, _seat: seat })
}

fn unavailable(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Unavailable, detail)
}

/// The instance is in the books, its VM carries its marker, and it runs.
async fn ours(desk: &Desk<'_>, grant: &ConsoleGrant) -> Result<(), Refusal> {
    let (instance, vmid) = (grant.instance.uuid, grant.instance.vmid);
    let unknown = |detail: String| Refusal::new(RefusalCode::UnknownInstance, detail);
    let row = desk.journal.resource(instance).await.map_err(|error| unavailable(error.to_string()))?;
    let known = row.filter(|row| row.vmid == vmid && row.phase == Phase::Present);
    if known.is_none() {
        return Err(unknown(format!("no such server with VMID {vmid} is on this node")));
    }
    let config = desk.pve.guest_config(vmid).await.map_err(|error| unavailable(error.to_string()))?;
    let is_ours = |text: &str| Marker::find(text).is_some_and(|m| m.owns(grant.install, instance));
    if !matches!(&config, ConfigRead::Present(config) if is_ours(config.description())) {
        return Err(unknown(format!("VM {vmid} does not carry the marker of this server: hands off")));
    }
    let status = desk.pve.guest_status(vmid).await.map_err(|error| unavailable(error.to_string()))?;
    if status.power == Power::Running {
        Ok(())
    } else {
        Err(Refusal::new(RefusalCode::NotRunning, "the server is not running"))
    }
}

/// Asks Proxmox for the console, connects to it and logs in.
async fn door(desk: &Desk<'_>, grant: &ConsoleGrant) -> Result<TcpStream, Refusal> {
    let opened = desk.pve.open_console(grant.instance.vmid, grant.kind).await;
    let door = opened.map_err(|error| unavailable(error.to_string()))?;
    let failed = |error: std::io::Error| unavailable(format!("the console on port {}: {error}", door.port));
    let mut host = TcpStream::connect(("127.0.0.1", door.port)).await.map_err(failed)?;
    host.set_nodelay(true).map_err(failed)?;
    match grant.kind {
        ConsoleKind::Vnc => rfb::log_in(&mut host, &door.password).await.map_err(failed)?,
        ConsoleKind::Serial => serial::log_in(&mut host, &door.user, &door.ticket).await.map_err(failed)?,
    }
    Ok(host)
}

/// Relays an opened console to the other side until it ends.
pub async fn run<R, W>(
    pve: &dyn Hypervisor,
    opened: Opened,
    (mut from, mut to): (R, W),
    limits: &Limits,
    timer: &Timer,
) -> Ending
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let Opened { grant, mut host, _seat } = opened;
    if grant.kind == ConsoleKind::Vnc {
        // The other side is greeted by us: to it the screen needs no password.
        let greeted = timeout(DOOR, rfb::welcome(&mut from, &mut to)).await;
        if !matches!(greeted, Ok(Ok(()))) {
            return Ending::Left;
        }
    }
    let granted = Duration::from_secs(u64::from(grant.max_secs));
    let limits = Limits { longest: limits.longest.min(granted), ..*limits };
    let ending = relay::run(grant.kind, (&mut from, &mut to), &mut host, &limits, timer).await;
    drop(host);
    match ending {
        Ending::Gone => why_gone(pve, &grant).await,
        other => other,
    }
}

/// Whether a console went away with its server: the socket closes a little before the host says "stopped".
async fn why_gone(pve: &dyn Hypervisor, grant: &ConsoleGrant) -> Ending {
    let (pause, times) = ASK_AGAIN;
    for _ in 0..times {
        match pve.guest_status(grant.instance.vmid).await {
            Ok(status) if status.power == Power::Stopped => return Ending::Stopped,
            // A VM that was destroyed in the meantime is as stopped as one can be.
            Err(error) if error.is_absent() => return Ending::Stopped,
            _ => tokio::time::sleep(pause).await,
        }
    }
    Ending::Gone
}

//! The connection to the control plane: the agent dials, the control plane opens order streams.
//!
//! What stands here never decides what is done on the host. It moves bytes: envelopes to the intake,
//! events out of the outbox, states from the observer. While there is no connection everything else
//! goes on; what has to be said waits.
//!
//! Connections are made without session tickets and early data: a resumed session would bypass
//! expiry and revocation of certificates. "Connected" means that the Welcome has been stored.

mod consoles;
mod control;
mod endpoint;
mod events;
mod metrics;
mod orders;
mod session;
mod states;
mod stream;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use ez_protocol::frame::CloseCode;
use quinn::{Connection, ConnectionError, Endpoint};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    identity::{Identity, Pair, renew},
};
pub(crate) use endpoint::split;
use states::Reports;
use stream::code;

/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Pause of a node that was closed out by its quarantine, which only a person ends.
const QUARANTINED: Duration = Duration::from_secs(60);

/// How a session ended.
#[derive(Debug, Clone)]
enum Ending {
    /// The connection is gone.
    Lost(ConnectionError),
    /// The peer did not keep to the protocol.
    Broken(String),
    /// A new certificate is here: connect with it before letting go.
    Renewed,
    /// The control plane goes away; come back after this time.
    Drained(Duration),
}

/// The dialling side: what outlives a single connection.
struct Dialler {
    agent: Arc<Agent>,
    reports: Arc<Reports>,
    /// The connection in use, or the one that is kept until the next is welcomed.
    held: Option<(Connection, Endpoint)>,
    attempts: usize,
    failed: u32,
    spread: Duration,
}

/// Stays connected until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let reports = Arc::new(Reports::new(&agent));
    let mut dialler = Dialler { agent, reports, held: None, attempts: 0, failed: 0, spread: BACKOFF.0 };
    loop {
        let ending = tokio::select! {
            () = stop.cancelled() => break,
            ending = dialler.once() => ending,
        };
        let pause = dialler.pause_after(ending);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some((connection, endpoint)) = dialler.held.take() {
        connection.close(code(CloseCode::Finished), b"the agent stops");
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }
    dialler.say("stopped");
}

impl Dialler {
    fn say(&self, link: &str) {
        self.agent.status.update(self.agent.clock.now(), |status| link.clone_into(&mut status.link));
    }

    /// What a revoked node was building it takes back, see [`crate::contact`].
    fn note_revocation(&self, error: &ConnectionError) {
        if closed_with(error) == Some(CloseCode::Revoked) {
            self.agent.contact.revoke();
        }
    }

    /// How long to wait before the next attempt.
    fn pause_after(&mut self, ending: Option<Ending>) -> Duration {
        match ending {
            Some(Ending::Renewed) => return Duration::ZERO,
            Some(Ending::Drained(after)) => {
                self.say("the control plane restarts");
                return after;
            }
            Some(Ending::Lost(error)) => {
                self.note_revocation(&error);
                let words = reason(&error);
                tracing::warn!(words, "the connection is gone");
                self.say(&words);
                if closed_with(&error) == Some(CloseCode::Quarantined) {
                    return QUARANTINED + self.jittered();
                }
            }
            Some(Ending::Broken(words)) => {
                tracing::error!(words, "the connection was given up");
                self.say(&words);
            }
            None => {}
        }
        self.failed = self.failed.saturating_add(1);
        self.jittered()
    }

    /// Full jitter: anything between nothing and the present limit, so that a herd spreads out.
    fn jittered(&self) -> Duration {
        let limit = match self.failed {
            0 | 1 => self.spread.max(BACKOFF.0),
            n => BACKOFF.0.saturating_mul(1 << n.min(6)).min(BACKOFF.1),
        };
        let millis = u64::try_from(limit.as_millis()).unwrap_or(15_000);
        Duration::from_millis(self.agent.entropy.up_to(millis))
    }

    /// One attempt and, if it is welcomed, its session. `None`: there was no session.
    async fn once(&mut self) -> Option<Ending> {
        let agent = Arc::clone(&self.agent);
        let identity = agent.identity();
        let turn = self.attempts;
        self.attempts = turn.wrapping_add(1);
        let address = match &agent.config.link_address {
            Some(other) => other,
            None => identity.trust.link.get(turn % identity.trust.link.len().max(1))?,
        };
        let (pair, staged) = self.pair(&identity, turn);
        agent.status.update(agent.clock.now(), |status| {
            status.link = "connecting".to_owned();
            address.clone_into(&mut status.peer);
        });
        let dialled = match endpoint::dial(address, &identity.trust, &pair).await {
            Ok(dialled) => dialled,
            Err(error) => {
                tracing::warn!(%error, "no connection to the control plane");
                self.say(&self.over(&pair).unwrap_or_else(|| error.to_string()));
                self.release();
                return None;
            }
        };
        let session = match session::greet(&agent, dialled.connection.clone()).await {
            Ok(session) => session,
            Err(error) => {
                let ended = dialled.connection.close_reason();
                if let Some(ended) = &ended {
                    self.note_revocation(ended);
                }
                let words = ended.map_or_else(|| error.to_string(), |e| reason(&e));
                let words = self.over(&pair).unwrap_or(words);
                tracing::warn!(words, "the control plane did not welcome this node");
                self.say(&words);
                dialled.connection.close(code(CloseCode::Finished), b"not welcomed");
                self.release();
                return None;
            }
        };
        self.failed = 0;
        self.spread = Duration::from_millis(session.welcome.reconnect_spread_ms.min(600_000));
        if staged {
            promote(&agent);
        }
        self.release();
        self.held = Some((dialled.connection, dialled.endpoint));
        let welcome = &session.welcome;
        tracing::info!(
            peer = address,
            node = welcome.node_name,
            quarantined = welcome.quarantined,
            "connected"
        );
        agent.status.update(agent.clock.now(), |status| {
            status.link = if welcome.quarantined { "connected, quarantined" } else { "connected" }.to_owned();
            welcome.node_name.clone_into(&mut status.node_name);
        });
        let ending = session::serve(Arc::clone(&agent), Arc::clone(&self.reports), session).await;
        if !matches!(ending, Ending::Renewed) {
            self.release();
        }
        Some(ending)
    }

    /// The pair to dial with: one that waits for its first use goes first; the present one is the
    /// way back, should it not be taken.
    fn pair(&self, identity: &Identity, turn: usize) -> (Pair, bool) {
        let present_is_over = identity.pair.not_after <= self.agent.clock.now();
        match renew::staged(&self.agent.config.identity_dir()) {
            Some(staged) if self.held.is_some() || turn.is_multiple_of(2) || present_is_over => {
                (staged, true)
            }
            _ => (identity.pair.duplicate(), false),
        }
    }

    /// What to do about a certificate whose time is over: TLS refuses it with words that help nobody.
    fn over(&self, pair: &Pair) -> Option<String> {
        (pair.not_after <= self.agent.clock.now()).then(|| {
            "this node's certificate has expired, which happens to a host that was off for long: join again with a new \
             token, and its servers are taken over as they are"
                .to_owned()
        })
    }

    /// Lets go of a connection that was kept until the next one was welcomed.
    fn release(&mut self) {
        if let Some((connection, _endpoint)) = self.held.take() {
            connection.close(code(CloseCode::Finished), b"done");
        }
    }
}

/// The code with which the other side closed, if it did.
fn closed_with(error: &ConnectionError) -> Option<CloseCode> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    CloseCode::from_code(close.error_code.into_inner())
}

/// The words of the other side, where it said any.
fn reason(error: &ConnectionError) -> String {
    let ConnectionError::ApplicationClosed(close) = error else { return error.to_string() };
    let words = String::from_utf8_lossy(&close.reason).into_owned();
    match CloseCode::from_code(close.error_code.into_inner()) {
        Some(CloseCode::Revoked) => format!("this node was revoked: join again with a new token ({words})"),
        Some(CloseCode::Quarantined) => {
            format!("this node is quarantined: an operator has to look ({words})")
        }
        Some(code) => format!("the control plane closed the connection: {code:?} {words}"),
        None => format!("the control plane closed the connection: {} {words}", close.error_code),
    }
}

/// The staged pair was welcomed: it is the pair now.
fn promote(agent: &Agent) {
    let identity = agent.identity();
    if let Err(error) = renew::promote(&agent.config.identity_dir()) {
        tracing::error!(%error, "the new certificate could not be put in place; the next start does it");
        return;
    }
    agent.renewed.welcomed();
    // Only looked at: what another join has staged meanwhile is the next start's.
    match crate::identity::look(&agent.config) {
        Ok(fresh) => agent.set_identity(Identity {
            node: identity.node.clone(),
            pair: fresh.pair,
            trust: identity.trust.clone(),
        }),
        Err(error) => tracing::error!(%error, "the new certificate could not be loaded"),
    }
}

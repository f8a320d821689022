//! What node agents dial: the link over UDP and enrolment over TCP, on the same port number.
//!
//! Composed here and not in `link`, which never sees a key (A5): it is handed finished TLS settings.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    fleet,
    keys::{Keys, KeysError},
    link,
};

/// Why agents cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// The keys do not make TLS settings.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The link does not start.
    #[error(transparent)]
    Link(#[from] link::LinkError),
    /// Enrolment does not start.
    #[error("cannot listen on tcp/{listen}: {source}")]
    Enrolment {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Both doors, open but not yet served.
#[derive(Debug)]
pub struct Agents {
    link: link::Serving,
    enrolment: fleet::Enrolment,
    address: SocketAddr,
}

/// Opens both doors at `LINK_LISTEN`. With port 0 the system picks one port for both.
///
/// # Errors
/// [`AgentsError`] when a socket cannot be had or a key does not fit.
pub async fn bind(app: &App) -> Result<Agents, AgentsError> {
    let listen = app.config.link.listen;
    let failed = |source| AgentsError::Enrolment { listen, source };
    let tcp = TcpListener::bind(listen).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;
    let keys = &app.keys;
    let tls = keys.link_tls(app.clock.clone(), app.entropy.clone())?;
    let link = link::bind(app, tls, address, keys.install(), trust(keys), keys.link_reset())?;
    let enrolment_tls = keys.enrolment_tls(app.clock.clone(), app.entropy.clone())?;
    let enrolment = fleet::Enrolment::new(app, tcp, enrolment_tls);
    Ok(Agents { link, enrolment, address })
}

/// What the link tells agents to believe.
fn trust(keys: &Keys) -> link::Trust {
    let published = keys.published();
    let updates = published.updates.iter().map(|update| (update.version, update.envelope.clone()));
    link::Trust { version: published.version, needed: published.needed, updates: updates.collect() }
}

impl Agents {
    /// Where agents dial: the same number for UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.link.run(stop.clone()), self.enrolment.run(stop));
    }
}

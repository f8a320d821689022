//! A mail server that takes every letter and sends none on: SMTP in, a page and a JSON list out.
//!
//! - `smtp` talks to the program that sends; a letter is stored before it is said to be taken.
//! - `mime` takes a letter apart.
//! - `store` keeps the letters as they came, in `<state_dir>/mail.sqlite`.
//! - `page` shows them: `/` for people; `GET /messages.json` (newest first:
//!   `[{id, received_at, from, to, subject, text, html}]`, `?to=` and `?limit=`), `GET /messages/{id}` and
//!   `DELETE /messages` for scripts.
//! - `inject` makes it go wrong on request: `POST /faults` takes `{"refuse": "421"|"451"|"554", "times"?}`,
//!   `{"down": bool, "for_ms"?}` or `{"drop_after_data": n}`; `GET /faults` shows what was struck and
//!   `DELETE /faults` makes everything well again.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use inject::MailFaults;

use crate::{config::MailConfig, wall::WallClock};

mod inject;
mod mime;
mod page;
mod smtp;
mod store;
#[cfg(test)]
mod tests;

/// Why the mail server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error("mail.{key}: cannot listen on {address}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address it names.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("mail: cannot open the state: {0}")]
    State(String),
}

/// A running mail server.
#[derive(Debug)]
pub struct Running {
    /// Address of the SMTP server.
    pub smtp: SocketAddr,
    /// Address of the page and the list.
    pub http: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    /// Stops listening; what is stored stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts the mail server with its state in `state_dir`.
///
/// # Errors
/// An address or the database cannot be used.
pub async fn start(
    config: &MailConfig,
    state_dir: &Path,
    wall: Arc<dyn WallClock>,
) -> Result<Running, StartError> {
    let state = |error: &dyn std::fmt::Display| StartError::State(error.to_string());
    std::fs::create_dir_all(state_dir).map_err(|error| state(&error))?;
    let store =
        store::Store::open(&state_dir.join("mail.sqlite"), wall).await.map_err(|error| state(&error))?;
    let (smtp_listener, smtp) = listen("smtp_listen", config.smtp_listen).await?;
    let (http_listener, http) = listen("http_listen", config.http_listen).await?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let faults = inject::Injector::default();
    tasks.spawn(accept(smtp_listener, store.clone(), faults.clone(), stop.clone()));
    crate::serve::http(&mut tasks, http_listener, page::router(store, faults), &stop);
    Ok(Running { smtp, http, stop, tasks })
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((listener, actual))
}

/// Takes clients until told to stop; dialogues that are under way then end with it.
async fn accept(
    listener: TcpListener,
    store: store::Store,
    faults: inject::Injector,
    stop: CancellationToken,
) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if faults.away.is_away() => faults.away.reset(stream),
            Ok((stream, peer)) => {
                let talk = smtp::talk(stream, peer, store.clone(), faults.clone());
                let away = faults.away.clone();
                clients.spawn(async move {
                    tokio::select! {
                        () = away.cut() => {}
                        done = talk => if let Err(error) = done {
                            tracing::debug!(%error, %peer, "an SMTP client has gone");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an SMTP client could not be taken");
                // Out of file descriptors, most likely: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

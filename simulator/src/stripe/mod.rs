//! A Stripe that runs anywhere: what purchase, renewal, pause, cancellation and refund need of API version
//! [`API_VERSION`], over sockets, sharing no type with the program that talks to it.
//!
//! - `api` is the HTTP face of `/v1`; `routes` finds the resource; one file per resource holds its calls.
//! - `page` is the hosted checkout; `checkout` is what happens when "Pay" is pressed.
//! - `world` holds every object as JSON; `engine` runs one transaction at a time and stores it in
//!   `<state_dir>/stripe.sqlite` (table `objects`: id, kind, seq, json) before anyone sees it. An event and
//!   its delivery are objects as well, so a change and the news of it are durable together.
//! - `timers` is what the clock does by itself. There is one clock: the computer's plus an offset, or
//!   frozen; the control API advances it. Signatures carry the computer's time, as Stripe's test clocks do.
//! - `deliver` posts webhooks and tries again for three days.
//! - `inject` makes webhooks and calls go wrong on request.
//! - `control` is the operator's side (`/_sim/…`), on its own address.
//! - `journal` writes every call, event and delivery as JSON lines.
//!
//! Kinds that begin with `_` and members called `_sim` are the simulator's own and never shown.
//!
//! Rules no recording covers, chosen after Stripe's documentation: the order of events of one action, a
//! declined first payment leaving an intent without an invoice, balance fees, the retry schedule, tax rates by country, a
//! coupon that is good once being kept until an invoice costs something, the smallest charges and their entries on a
//! customer's balance, and an older invoice that nobody pays saying nothing once the latest is paid.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{config::StripeConfig, wall::WallClock};

mod account;
mod api;
mod balance;
mod cards;
mod checkout;
mod collection;
mod control;
mod coupons;
mod customers;
mod deliver;
mod disputes;
mod endpoints;
mod engine;
mod events;
mod fault;
mod form;
mod ids;
mod inject;
mod invoice_items;
mod invoices;
mod journal;
mod ledger;
mod list;
mod page;
mod pauses;
mod payments;
mod plan;
mod portal_page;
mod prices;
mod products;
mod promotions;
mod refunds;
mod routes;
mod schedules;
mod sessions;
mod subscriptions;
#[cfg(test)]
mod tests;
mod timers;
mod totals;
mod warnings;
mod world;

pub(crate) use inject::{ApiRule, WebhookFaults};
pub(crate) use page::CSS;
pub use world::API_VERSION;

/// Why the stand-in did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error("stripe.{key}: cannot listen on {address}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address it names.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The state directory or the log directory cannot be written.
    #[error("stripe: cannot use {path}: {source}")]
    Files {
        /// The directory.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database cannot be opened or is damaged.
    #[error("stripe: cannot open the state: {0}")]
    State(String),
    /// No HTTP client can be made.
    #[error("stripe: no client for webhooks: {0}")]
    Client(String),
}

/// A running stand-in.
#[derive(Debug)]
pub struct Running {
    /// Address of the API and the hosted pages.
    pub api: SocketAddr,
    /// Address of the control API.
    pub control: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    #[cfg(test)]
    engine: engine::Engine,
}

impl Running {
    /// Stops listening and delivering; what is stored stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Ends everything at once, as a kill would, and waits until nothing runs any more.
    #[cfg(test)]
    async fn abort(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Starts the stand-in: state in `state_dir`, request logs in `log_dir`.
///
/// # Errors
/// An address, a directory or the database cannot be used.
pub async fn start(
    config: &StripeConfig,
    state_dir: &Path,
    log_dir: &Path,
    wall: Arc<dyn WallClock>,
) -> Result<Running, StartError> {
    let files = |path: &Path, source| StartError::Files { path: path.display().to_string(), source };
    std::fs::create_dir_all(state_dir).map_err(|source| files(state_dir, source))?;
    let journal = Arc::new(journal::Journal::open(log_dir).map_err(|source| files(log_dir, source))?);
    let (api_listener, api) = listen("listen", config.listen).await?;
    let (control_listener, control) = listen("control_listen", config.control_listen).await?;
    let base_url = config.public_url.clone().unwrap_or_else(|| format!("http://{api}"));
    let base_url = base_url.trim_end_matches('/').to_owned();
    let engine = engine::Engine::open(&state_dir.join("stripe.sqlite"), base_url, wall, journal.clone())
        .await
        .map_err(|error| StartError::State(error.to_string()))?;
    let (url, secret) = (config.webhook_url.clone(), config.webhook_secret.clone());
    let configured =
        engine.run(world::Asker::default(), move |world| endpoints::configure(world, &url, &secret)).await;
    configured.map_err(|error| StartError::State(error.to_string()))?;
    let client = deliver::client().map_err(|error| StartError::Client(error.to_string()))?;

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let injector = Arc::new(inject::Injector::default());
    let face = api::Face::new(engine.clone(), journal.clone(), &config.secret_key, injector.clone());
    crate::serve::http(
        &mut tasks,
        api_listener,
        page::router().fallback(api::handle).with_state(face),
        &stop,
    );
    let operator = control::Operator {
        engine: engine.clone(),
        journal: journal.clone(),
        client: client.clone(),
        injector: injector.clone(),
    };
    crate::serve::http(&mut tasks, control_listener, control::router(operator), &stop);
    tasks.spawn(deliver::worker(engine.clone(), journal, client, injector, stop.clone()));
    tasks.spawn(beat(engine.clone(), stop.clone()));
    Ok(Running {
        api,
        control,
        stop,
        tasks,
        #[cfg(test)]
        engine,
    })
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((listener, actual))
}

/// Lets the clock act although nobody calls.
async fn beat(engine: engine::Engine, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        if let Err(error) = engine.tick().await {
            tracing::error!(%error, "the clock could not act");
        }
    }
}

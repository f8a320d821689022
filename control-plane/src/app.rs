//! The composition root: every service made once, every slice's routes and jobs mounted once.

use std::sync::Arc;

use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    accounts, api, billing, catalog,
    clock::{Clock, SystemClock},
    config::Config,
    console,
    db::{Db, DbError, Wake},
    dispatch,
    entropy::{Entropy, SystemEntropy},
    fleet, instances,
    jobs::JobRegistry,
    keys, link, metrics, notify, orders, replan, telemetry, web,
};

/// What handlers and jobs work with.
pub struct Services {
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The configuration.
    pub config: Arc<Config>,
    /// Local wake-ups; the same notifiers that `db` rings after commits.
    pub wake: Wake,
    /// Page templates.
    pub templates: web::Templates,
    /// The way to Stripe.
    pub stripe: billing::StripeGate,
    /// Signing keys and certificate authorities.
    pub keys: Arc<dispatch::Keys>,
    /// The way out for mail.
    pub mailer: notify::Mailer,
    /// Hashes passwords, a few at a time.
    pub passwords: accounts::Passwords,
    /// What has been brought up, for `/readyz`.
    pub ready: telemetry::Readiness,
    /// The agents connected to this process.
    pub links: link::Registry,
}

/// The services, shared; also axum's state.
pub type App = Arc<Services>;

/// Why the services cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database does not open.
    #[error("cannot open the database")]
    Database(#[from] DbError),
    /// The mailer's settings are wrong.
    #[error("cannot set up mail")]
    Mail(#[from] notify::MailerError),
    /// A template is wrong.
    #[error("cannot load the templates")]
    Templates(#[from] web::TemplateError),
    /// The gate to Stripe refuses its settings.
    #[error("cannot set up Stripe")]
    Stripe(#[from] billing::stripe::StripeFault),
    /// The signing keys are missing or unreadable.
    #[error("cannot load the keys")]
    Keys(#[from] keys::KeysError),
}

impl Services {
    /// Makes the services from a configuration. Does not migrate and starts nothing.
    ///
    /// # Errors
    /// The first service that cannot be made.
    pub async fn open(config: Config) -> Result<App, StartError> {
        let db = Db::open(config.storage.database_url.expose()).await?;
        let (dir, names) = (&config.storage.keys_dir, &config.link.names);
        let keys = keys::load(dir, names, &SystemEntropy)?;
        Self::assemble(config, db, keys, Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// Puts given parts together with those made from the configuration.
    ///
    /// # Errors
    /// The first service that cannot be made.
    pub fn assemble(
        config: Config,
        db: Db,
        keys: dispatch::Keys,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<App, StartError> {
        Ok(Arc::new(Self {
            wake: db.wake().clone(),
            templates: web::Templates::load()?,
            stripe: billing::StripeGate::new(
                config.stripe.api_base.as_str(),
                config.stripe.secret_key.expose(),
            )?
            .paced(config.stripe.calls_per_second),
            keys: Arc::new(keys),
            mailer: notify::Mailer::new(&config.mail)?,
            passwords: accounts::Passwords::default(),
            ready: telemetry::Readiness::default(),
            links: link::Registry::default(),
            config: Arc::new(config),
            db,
            clock,
            entropy,
        }))
    }

    /// The same services over another connection to a database, as a process that starts anew has them.
    #[cfg(test)]
    pub(crate) fn on(&self, db: Db, seed: u64) -> App {
        Arc::new(Self {
            wake: db.wake().clone(),
            db,
            clock: self.clock.clone(),
            entropy: Arc::new(crate::entropy::SeededEntropy::new(seed)),
            config: self.config.clone(),
            templates: self.templates.clone(),
            stripe: self.stripe.clone(),
            keys: self.keys.clone(),
            mailer: self.mailer.clone(),
            passwords: self.passwords.clone(),
            ready: telemetry::Readiness::default(),
            links: link::Registry::default(),
        })
    }

    /// Services over a test database, with a clock that stands still and repeatable randomness.
    #[cfg(test)]
    pub(crate) fn for_tests(db: Db, clock: Arc<crate::clock::ManualClock>) -> App {
        let entropy = Arc::new(crate::entropy::SeededEntropy::new(1));
        let config = Config::for_tests().unwrap();
        Self::assemble(config, db, dispatch::Keys::for_tests(), clock, entropy).unwrap()
    }
}

/// Everything the portal's listener answers.
pub fn router(app: &App) -> Router {
    let pages = Router::new()
        .merge(web::routes())
        .merge(accounts::page_routes())
        .merge(catalog::page_routes())
        .merge(billing::page_routes())
        .merge(orders::page_routes())
        .merge(instances::page_routes())
        .merge(replan::page_routes())
        .merge(metrics::page_routes())
        .merge(console::page_routes())
        .merge(fleet::page_routes())
        .merge(dispatch::page_routes());
    let endpoints = Router::new()
        .merge(accounts::api_routes())
        .merge(catalog::api_routes())
        .merge(orders::api_routes())
        .merge(instances::api_routes())
        .merge(replan::api_routes())
        .merge(metrics::api_routes())
        .merge(console::api_routes())
        .merge(fleet::api_routes())
        .merge(dispatch::api_routes());
    Router::new()
        .merge(web::protect(pages, app))
        .nest("/api/v1", api::protect(endpoints, app))
        // Stripe's webhooks prove themselves by signature: neither session nor bearer token around them.
        .merge(billing::api_routes(app))
        .merge(telemetry::routes())
        .layer(middleware::from_fn_with_state(app.clone(), telemetry::trace))
        .with_state(app.clone())
}

/// Answers on a listener until told to stop, then lets running requests end.
pub async fn serve_http(app: &App, listener: TcpListener, stop: CancellationToken) {
    let serving = web::serve(listener, router(app), stop.clone());
    let streams = async {
        stop.cancelled().await;
        // A browser holds its stream open for ever; the others are let end by themselves.
        web::close_streams();
    };
    tokio::join!(serving, streams);
}

/// The job handlers of all slices.
pub fn job_registry() -> JobRegistry {
    let mut registry = JobRegistry::default();
    accounts::register_jobs(&mut registry);
    api::register_jobs(&mut registry);
    billing::register_jobs(&mut registry);
    catalog::register_jobs(&mut registry);
    console::register_jobs(&mut registry);
    dispatch::register_jobs(&mut registry);
    fleet::register_jobs(&mut registry);
    instances::register_jobs(&mut registry);
    metrics::register_jobs(&mut registry);
    notify::register_jobs(&mut registry);
    orders::register_jobs(&mut registry);
    replan::register_jobs(&mut registry);
    registry
}

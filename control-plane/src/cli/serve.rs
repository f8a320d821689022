//! `serve`: the portal's listener, the link, the job worker, the audit sealer and the upkeep of the metrics.
//!
//! Spawns one task for each. A first signal stops taking work and waits for what runs; a second one, or
//! [`GRACE`], ends the process: everything that was acknowledged is durable by then.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{must_be_migrated, must_be_there};
use crate::{
    agents,
    app::{App, Services, job_registry, serve_http},
    audit,
    config::Config,
    jobs, telemetry,
};

/// How long running requests and jobs may take to end.
const GRACE: Duration = Duration::from_secs(20);

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.log);
    // First: a signal during the start is not lost, and never ends the process as if it were not handled.
    let mut signals = Signals::listen()?;
    telemetry::install_metrics();
    must_be_there(&config.storage)?;
    let app = Services::open(config).await?;
    let _alone = app.db.serve_alone()?;
    must_be_migrated(&app.db).await?;
    warn_of_lost_names(&app)?;
    let listener = TcpListener::bind(app.config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN)", app.config.http.listen))?;
    tracing::info!(
        http.listen = %app.config.http.listen, link.listen = %app.config.link.listen,
        version = env!("CARGO_PKG_VERSION"), "serving"
    );
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    spawn_http(&app, listener, &stop, &tasks);
    spawn_link(&app, &stop, &tasks);
    tasks.spawn(jobs::run_until_stopped(app.clone(), job_registry(), stop.clone()));
    tasks.spawn(audit::run_until_stopped(app.clone(), stop.clone()));
    tasks.spawn(telemetry::keep_metrics(stop.clone()));
    tasks.close();
    let failed = wait_for_the_end(&stop, &mut signals).await;
    stop.cancel();
    tokio::select! {
        () = tasks.wait() => tracing::info!("stopped"),
        () = tokio::time::sleep(GRACE) => tracing::warn!("stopped before everything had ended"),
        () = signals.next() => tracing::warn!("stopped at once"),
    }
    app.db.close().await;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn spawn_http(app: &App, listener: TcpListener, stop: &CancellationToken, tasks: &TaskTracker) {
    let (app, stop) = (app.clone(), stop.clone());
    tasks.spawn(async move {
        serve_http(&app, listener, stop.clone()).await;
        stop.cancel();
    });
}

/// Without the link nothing is built: if it fails, the process ends and is started again.
fn spawn_link(app: &App, stop: &CancellationToken, tasks: &TaskTracker) {
    let (app, stop) = (app.clone(), stop.clone());
    tasks.spawn(async move {
        match agents::bind(&app).await {
            Ok(doors) => {
                app.ready.set_link_listening(true);
                doors.run(stop.clone()).await;
            }
            Err(error) => tracing::error!(%error, "the link failed"),
        }
        app.ready.set_link_listening(false);
        stop.cancel();
    });
}

/// Waits for a signal or for a part to fail; says whether it was a failure.
async fn wait_for_the_end(stop: &CancellationToken, signals: &mut Signals) -> bool {
    tokio::select! {
        () = signals.next() => false,
        () = stop.cancelled() => true,
    }
}

/// Nodes that have joined dial the addresses of the trust document, whatever LINK_NAMES says now.
fn warn_of_lost_names(app: &App) -> anyhow::Result<()> {
    let names = &app.config.link.names;
    let dialled = app.keys.trust()?.link;
    let lost: Vec<&String> = dialled.iter().filter(|address| !names.contains(&host_of(address))).collect();
    if !lost.is_empty() {
        tracing::warn!(
            addresses = ?lost,
            "nodes dial addresses that LINK_NAMES does not name: the link's certificate is not made for them, and \
             such nodes cannot connect. Add them to LINK_NAMES"
        );
    }
    Ok(())
}

fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// What tells the process to end. A terminal that goes away (SIGHUP) ends it as cleanly as being told to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

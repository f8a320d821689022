//! `serve`: the portal's listener, the link, the job worker and the audit sealer.
//!
//! Spawns one task for each. A first signal stops taking work and waits for what runs; a second one, or
//! [`GRACE`], ends the process: everything that was acknowledged is durable by then.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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
    telemetry::install_metrics();
    let app = Services::open(config).await?;
    let pending = app.db.pending().await.context("cannot see which migrations are pending")?;
    if !pending.0.is_empty() {
        bail!("{} migrations are pending; run: ez-control-plane migrate", pending.0.len());
    }
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
    tasks.close();
    let failed = wait_for_the_end(&stop).await?;
    stop.cancel();
    tokio::select! {
        () = tasks.wait() => tracing::info!("stopped"),
        () = tokio::time::sleep(GRACE) => tracing::warn!("stopped before everything had ended"),
        _ = wait_for_signal() => tracing::warn!("stopped at once"),
    }
    app.db.close().await;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn spawn_http(app: &App, listener: TcpListener, stop: &CancellationToken, tasks: &TaskTracker) {
    let (app, stop) = (app.clone(), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = serve_http(&app, listener, stop.clone()).await {
            tracing::error!(%error, "the portal's listener failed");
        }
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
async fn wait_for_the_end(stop: &CancellationToken) -> anyhow::Result<bool> {
    tokio::select! {
        signal = wait_for_signal() => signal.map(|()| false),
        () = stop.cancelled() => Ok(true),
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

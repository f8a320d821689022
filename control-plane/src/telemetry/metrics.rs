//! `/metrics` in Prometheus' text form, for this machine only.
//!
//! *Instance* metrics are counted where things happen. *Service* metrics (what waits in the database) are
//! read when the page is asked for.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::{app::App, audit, db::DbError, jobs};

/// How often single measurements are put into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts counting. A second call does nothing.
pub fn install() {
    let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let Ok(builder) = PrometheusBuilder::new().set_buckets(&buckets) else { return };
    if let Ok(handle) = builder.install_recorder() {
        let _already_set = HANDLE.set(handle);
    }
}

/// Puts measurements into their buckets until told to stop. Else only a scrape does that, and where nobody scrapes,
/// every single one would be kept.
pub async fn keep(stop: CancellationToken) {
    let Some(handle) = HANDLE.get() else { return };
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => handle.run_upkeep(),
        }
    }
}

/// Answers a scraper on this machine; to everybody else the page does not exist. A proxy in front sets
/// forwarding headers, and what comes through it is not from this machine.
pub(super) async fn page(State(app): State<App>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let forwarded = ["x-forwarded-for", "forwarded"].iter().any(|name| request.headers().contains_key(*name));
    let (Some(handle), true) = (HANDLE.get(), peer.is_some_and(|ip| ip.is_loopback()) && !forwarded) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Err(error) = read_service_metrics(&app).await {
        tracing::warn!(%error, "cannot read the service metrics");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats; counts of rows stay far below 2^52")]
async fn read_service_metrics(app: &App) -> Result<(), DbError> {
    let mut connection = app.db.read().await?;
    let (due, dead) = jobs::depth(&mut connection, app.clock.now()).await?;
    metrics::gauge!("ez_jobs_due_count").set(due as f64);
    metrics::gauge!("ez_jobs_dead_count").set(dead as f64);
    let unsealed = audit::unsealed(&mut connection).await?;
    metrics::gauge!("ez_audit_unsealed_count").set(unsealed as f64);
    let counters = app.db.counters();
    use std::sync::atomic::Ordering::Relaxed;
    metrics::counter!("ez_db_commits_total").absolute(counters.commits.load(Relaxed));
    metrics::counter!("ez_db_writes_total").absolute(counters.units.load(Relaxed));
    metrics::counter!("ez_db_faults_total").absolute(counters.faults.load(Relaxed));
    Ok(())
}

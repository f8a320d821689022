//! Starts every service of a configuration in one process and says where they listen.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    config::{Config, write_atomically},
    link_proxy, mail, pve, stripe,
    wall::WallClock,
};

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The Stripe stand-in.
    #[error(transparent)]
    Stripe(#[from] stripe::StartError),
    /// The Proxmox VE clusters.
    #[error("pve: {0}")]
    Pve(#[from] pve::StartError),
    /// The mail server.
    #[error(transparent)]
    Mail(#[from] mail::StartError),
    /// The network in front of the link.
    #[error(transparent)]
    LinkProxy(#[from] link_proxy::StartError),
    /// The state directory or `ready.json` cannot be written.
    #[error("cannot write {path}: {source}")]
    Files {
        /// The file or directory.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// All running services.
#[derive(Debug)]
pub struct Simulator {
    /// The Proxmox VE clusters, if configured.
    pub pve: Option<pve::Running>,
    /// The Stripe stand-in, if configured.
    pub stripe: Option<stripe::Running>,
    /// The mail server, if configured.
    pub mail: Option<mail::Running>,
    /// The network in front of the link, if configured.
    pub link_proxy: Option<link_proxy::Running>,
    /// What `ready.json` says: the configuration with the actual addresses.
    pub ready: Value,
    ready_file: PathBuf,
}

impl Simulator {
    /// Starts everything and writes `<state_dir>/ready.json`.
    ///
    /// # Errors
    /// The first service that cannot start; those before it are stopped.
    pub async fn start(config: &Config, wall: Arc<dyn WallClock>) -> Result<Self, ServeError> {
        let files =
            |path: &std::path::Path, source| ServeError::Files { path: path.display().to_string(), source };
        std::fs::create_dir_all(&config.state_dir).map_err(|source| files(&config.state_dir, source))?;
        let ready_file = config.state_dir.join("ready.json");
        // A reader of an old file would talk to addresses that are gone.
        match std::fs::remove_file(&ready_file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(files(&ready_file, source));
            }
            _ => {}
        }
        let mut actual = config.clone();
        let (pve, stripe, mail, link_proxy) = (None, None, None, None);
        let mut simulator = Self { pve, stripe, mail, link_proxy, ready: Value::Null, ready_file };
        if let Err(error) = simulator.start_all(config, &mut actual, wall).await {
            simulator.stop().await;
            return Err(error);
        }
        simulator.ready = serde_json::to_value(&actual).unwrap_or_default();
        if let (Some(pve), Some(wanted)) = (&simulator.pve, &config.pve) {
            simulator.ready["pve"] = pve.ready(wanted);
        }
        let text = serde_json::to_string_pretty(&simulator.ready).unwrap_or_default();
        write_atomically(&simulator.ready_file, &text)
            .map_err(|source| files(&simulator.ready_file, source))?;
        Ok(simulator)
    }

    async fn start_all(
        &mut self,
        config: &Config,
        actual: &mut Config,
        wall: Arc<dyn WallClock>,
    ) -> Result<(), ServeError> {
        if let Some(wanted) = &config.pve {
            let clock = wall.clone();
            let clock = pve::Clock::new(move || clock.now_ms());
            self.pve = Some(pve::start(wanted, &config.state_dir, &config.request_log_dir, clock).await?);
        }
        if let (Some(wanted), Some(actual)) = (&config.stripe, &mut actual.stripe) {
            let running =
                stripe::start(wanted, &config.state_dir, &config.request_log_dir, wall.clone()).await?;
            (actual.listen, actual.control_listen) = (running.api, running.control);
            self.stripe = Some(running);
        }
        if let (Some(wanted), Some(actual)) = (&config.mail, &mut actual.mail) {
            let running = mail::start(wanted, &config.state_dir, wall).await?;
            (actual.smtp_listen, actual.http_listen) = (running.smtp, running.http);
            self.mail = Some(running);
        }
        if let (Some(wanted), Some(actual)) = (&config.link_proxy, &mut actual.link_proxy) {
            let running = link_proxy::start(wanted).await?;
            (actual.control_listen, actual.nodes) = (running.control, running.nodes.clone());
            self.link_proxy = Some(running);
        }
        Ok(())
    }

    /// Stops everything; what is stored stays.
    pub async fn stop(self) {
        // Nobody must take the addresses for alive; a file that is gone already is fine.
        let _gone = std::fs::remove_file(&self.ready_file);
        if let Some(pve) = self.pve {
            pve.stop();
        }
        if let Some(stripe) = self.stripe {
            stripe.stop().await;
        }
        if let Some(mail) = self.mail {
            mail.stop().await;
        }
        if let Some(link_proxy) = self.link_proxy {
            link_proxy.stop().await;
        }
    }
}

/// Put among a response's extensions, it means: close the connection without sending a byte.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer is withheld by an injected fault")]
pub(crate) struct Withheld;

/// Serves a router until told to stop.
pub(crate) fn http(tasks: &mut JoinSet<()>, listener: TcpListener, router: Router, stop: &CancellationToken) {
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a client could not be taken");
                    // Out of file descriptors, most likely: do not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // Connections that stay open for nothing must not hold the stop.
        let all = async { while connections.join_next().await.is_some() {} };
        let _all_or_late = tokio::time::timeout(Duration::from_secs(2), all).await;
    });
}

/// Speaks HTTP on one connection; hyper itself, because only its service can refuse to answer.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let _latency_only = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = router.clone().oneshot(request.map(Body::new));
        async move {
            match answered.await {
                Ok(response) if response.extensions().get::<Withheld>().is_some() => Err(Withheld),
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    let serving =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection has ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::wall::SystemWall;

    fn config(dir: &Path) -> Config {
        let any = "127.0.0.1:0";
        let node = |name: &str| json!({ "name": name, "listen": any, "control_listen": any });
        let text = json!({
            "state_dir": "sim",
            "pve": {
                "clusters": [{ "name": "fsn", "version": "9.2", "nodes": [node("fsn-1"), node("fsn-2")] }],
                "root_token": { "id": "root@pam!demo", "secret": "c0ffee00-0000-4000-8000-000000000001" },
            },
            "stripe": {
                "listen": any, "control_listen": any, "secret_key": "sk_test_x", "webhook_url": "http://127.0.0.1:1/w", "webhook_secret": "whsec_x",
            },
            "mail": { "smtp_listen": any, "http_listen": any },
        });
        let file = dir.join("simulator.json");
        std::fs::write(&file, text.to_string()).unwrap();
        Config::load(&file).unwrap()
    }

    #[tokio::test]
    async fn everything_starts_and_says_where_it_listens() {
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let simulator = Simulator::start(&config, Arc::new(SystemWall)).await.unwrap();
        let text = std::fs::read_to_string(dir.path().join("sim/ready.json")).unwrap();
        let ready: Value = serde_json::from_str(&text).unwrap();
        for pointer in [
            "/stripe/listen",
            "/stripe/control_listen",
            "/mail/smtp_listen",
            "/mail/http_listen",
            "/pve/clusters/0/nodes/1/listen",
        ] {
            let address = ready.pointer(pointer).and_then(Value::as_str).unwrap();
            assert!(!address.ends_with(":0"), "{pointer} is {address}");
            tokio::net::TcpStream::connect(address).await.unwrap();
        }
        let node = &ready["pve"]["clusters"][0]["nodes"][0];
        assert!(
            Path::new(node["ca_pem_file"].as_str().unwrap()).is_file()
                && node["fingerprint"].as_str().unwrap().len() == 95
        );
        simulator.stop().await;
        assert!(!dir.path().join("sim/ready.json").exists(), "addresses nobody listens on are not announced");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(dir.path());
        config.pve = None;
        config.mail.as_mut().unwrap().http_listen = taken.local_addr().unwrap();
        let refused = Simulator::start(&config, Arc::new(SystemWall)).await.unwrap_err().to_string();
        assert!(refused.starts_with("mail.http_listen: cannot listen on"), "{refused}");
    }
}

//! A started simulator and a client for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::pve::{Clock, PveConfig, Running, start};

/// The token of root@pam.
pub(super) const ROOT: &str = "root@pam!agent=11111111-2222-4333-8444-555555555555";

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.body["data"]
    }

    pub(super) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or(&self.text).trim_end()
    }
}

/// One simulator with one cluster.
pub(super) struct World {
    pub(super) directory: PathBuf,
    pub(super) running: Running,
    pub(super) token: String,
    client: reqwest::Client,
    _own: Option<tempfile::TempDir>,
}

pub(super) fn config(version: &str) -> PveConfig {
    let value = json!({
        "clusters": [{"name": "one", "version": version, "seed": 7, "nodes": [
            {"name": "pve1", "listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0", "bridges": ["vmbr0"],
             "storages": [{"id": "local", "type": "dir", "content": ["iso","vztmpl","import","backup","images","snippets"], "total_gib": 100},
                          {"id": "local-lvm", "type": "lvmthin", "content": ["images"], "total_gib": 1000}],
             "templates": [{"vmid": 9000, "name": "debian-13", "storage": "local-lvm", "disk_gib": 3, "description": "ez-image:v1 debian-13 sha256:00", "pool": "ez-templates"}]},
            {"name": "pve2", "listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0",
             "storages": [{"id": "local", "type": "dir", "content": ["iso","images","snippets"], "total_gib": 100}]}]}],
        "root_token": {"id": "root@pam!agent", "secret": "11111111-2222-4333-8444-555555555555"},
        "task_speed": {"clone_ms": 40, "start_ms": 10, "other_ms": 5},
        "guest_agent_after_ms": 60,
        "timing": {"unauthorized_ms": 30, "config_lock_ms": 200, "clone_lock_ms": 50, "agent_ms": 5, "shutdown_second_ms": 1, "console_ms": 300}
    });
    serde_json::from_value(value).unwrap()
}

impl World {
    pub(super) async fn new(version: &str) -> World {
        World::with(config(version)).await
    }

    pub(super) async fn with(config: PveConfig) -> World {
        World::by(config, Clock::system()).await
    }

    /// A simulator that goes by another clock.
    pub(super) async fn by(config: PveConfig, clock: Clock) -> World {
        let own = tempfile::tempdir().unwrap();
        let mut world = World::at_time(own.path(), &config, clock).await;
        world._own = Some(own);
        world
    }

    pub(super) async fn at(directory: &Path, config: &PveConfig) -> World {
        World::at_time(directory, config, Clock::system()).await
    }

    async fn at_time(directory: &Path, config: &PveConfig, clock: Clock) -> World {
        let _once = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let running = start(config, &directory.join("sim"), &directory.join("logs"), clock).await.unwrap();
        let ca = std::fs::read(&running.clusters[0].nodes[0].ca_pem_file).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap();
        World { directory: directory.into(), running, token: ROOT.into(), client, _own: None }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/api2/json{path}", self.running.clusters[0].nodes[0].api_url)
    }

    pub(super) fn as_token(&mut self, token: &str) {
        self.token = token.into();
    }

    pub(super) async fn request(&self, method: Method, path: &str, params: &[(&str, &str)]) -> Reply {
        let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
        let mut url = self.url(path);
        let with_body = matches!(method, Method::POST | Method::PUT);
        if !with_body && !encoded.is_empty() {
            url = format!("{url}{}{encoded}", if url.contains('?') { '&' } else { '?' });
        }
        let mut request =
            self.client.request(method, url).header("Authorization", format!("PVEAPIToken={}", self.token));
        if with_body && !params.is_empty() {
            request = request.header("Content-Type", "application/x-www-form-urlencoded").body(encoded);
        }
        Self::read(request).await
    }

    pub(super) async fn read(request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Reply { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &[]).await
    }

    pub(super) async fn put(&self, path: &str, params: &[(&str, &str)]) -> Reply {
        self.request(Method::PUT, path, params).await
    }

    pub(super) async fn post(&self, path: &str, params: &[(&str, &str)]) -> Reply {
        self.request(Method::POST, path, params).await
    }

    pub(super) async fn delete(&self, path: &str) -> Reply {
        self.request(Method::DELETE, path, &[]).await
    }

    /// Waits until a task has ended; gives its exit status.
    pub(super) async fn ended(&self, upid: &str) -> String {
        let path = format!("/nodes/pve1/tasks/{upid}/status");
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        while tokio::time::Instant::now() < patience {
            let status = self.get(&path).await;
            if status.data()["status"] == "stopped" {
                return status.body["data"]["exitstatus"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{upid} does not end");
    }

    /// A call that is a task: waits for its end.
    pub(super) async fn task(&self, method: Method, path: &str, params: &[(&str, &str)]) -> String {
        let reply = self.request(method, path, params).await;
        let upid = reply.data().as_str().unwrap().to_owned();
        self.ended(&upid).await
    }

    pub(super) async fn log(&self, upid: &str) -> Vec<String> {
        let reply = self.get(&format!("/nodes/pve1/tasks/{upid}/log?limit=500")).await;
        reply.data().as_array().unwrap().iter().map(|l| l["t"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) async fn control(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.running.clusters[0].nodes[0].control_url);
        Self::read(self.client.get(url)).await.body
    }

    pub(super) async fn control_post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.running.clusters[0].nodes[0].control_url);
        let request = self.client.post(url).header("Content-Type", "application/json").body(body.to_string());
        Self::read(request).await.body
    }

    pub(super) fn snippet(&self, name: &str, text: &str) {
        let directory = self.directory.join("sim/one/storage/pve1/local/snippets");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), text).unwrap();
    }
}

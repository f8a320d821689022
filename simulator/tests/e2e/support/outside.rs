//! Who a story speaks to: the REST API, the simulated Stripe, the simulated hosts.

use std::time::Duration;

use serde_json::{Value, json};

use super::until;

/// Somebody who uses the REST API.
pub struct Api {
    pub client: reqwest::Client,
    pub base: String,
    pub token: String,
}

impl Api {
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub async fn try_get(&self, path: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        answer(request).await
    }

    pub async fn delete(&self, path: &str) -> u16 {
        let request = self.client.delete(format!("{}{path}", self.base)).bearer_auth(&self.token);
        answer(request).await.0
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body);
        answer(request).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.patch(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body);
        answer(request).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.put(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body);
        answer(request).await
    }

    /// Posts with an `Idempotency-Key`, which makes it harmless to do it again.
    pub async fn post_with_key(&self, path: &str, body: Value, key: &str) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body);
        answer(request.header("idempotency-key", key)).await
    }
}

/// Status and body; status 0 while the program is away.
async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let Ok(response) = request.send().await else { return (0, Value::Null) };
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or(Value::Null))
}

/// The simulated Stripe's control.
pub struct Stripe {
    pub(super) client: reqwest::Client,
    pub(super) base: String,
}

impl Stripe {
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = answer(self.client.post(format!("{}/_sim{path}", self.base)).json(&body)).await;
        assert!(status < 300, "POST /_sim{path}: {status} {body}");
        body
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = answer(self.client.get(format!("{}/_sim{path}", self.base))).await;
        assert_eq!(status, 200, "GET /_sim{path}: {body}");
        body
    }

    /// Everything goes well again.
    pub async fn clear_faults(&self) {
        let (status, body) = answer(self.client.delete(format!("{}/_sim/faults", self.base))).await;
        assert_eq!(status, 204, "{body}");
    }

    /// Pays a checkout session with the card that works.
    pub async fn pay(&self, checkout_url: &str) {
        let (status, answer) = self.try_pay(checkout_url, "4242").await;
        assert!(status == 200 && answer["result"] == "paid", "{status} {answer}");
    }

    /// Pays a checkout session with what else is typed on its page: `code`, `country`, `tax_id`.
    pub async fn pay_with(&self, checkout_url: &str, typed: Value) {
        let (status, answer) = self.complete(checkout_url, typed).await;
        assert!(status == 200 && answer["result"] == "paid", "{status} {answer}");
    }

    /// Pays a checkout session with a card; status 0 while Stripe is away.
    pub async fn try_pay(&self, checkout_url: &str, card: &str) -> (u16, Value) {
        self.complete(checkout_url, json!({ "card": card })).await
    }

    async fn complete(&self, checkout_url: &str, typed: Value) -> (u16, Value) {
        let start = checkout_url.find("cs_").unwrap_or_else(|| panic!("no session in {checkout_url}"));
        let id: String =
            checkout_url[start..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let url = format!("{}/_sim/sessions/{id}/complete", self.base);
        answer(self.client.post(url).json(&typed)).await
    }
}

/// The network between a node and the control plane.
pub struct Network {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
}

impl Network {
    /// Makes something go wrong.
    pub async fn post(&self, fault: Value) {
        let (status, body) = answer(self.client.post(&self.url).json(&fault)).await;
        assert_eq!(status, 200, "{fault}: {body}");
    }

    /// How many datagrams were struck by what is wrong now.
    pub async fn hits(&self) -> u64 {
        let (_, body) = answer(self.client.get(&self.url)).await;
        body["rules"].as_array().unwrap().iter().filter_map(|rule| rule["hits"].as_u64()).sum()
    }

    /// Everything is well.
    pub async fn clear(&self) {
        let (status, body) = answer(self.client.delete(&self.url)).await;
        assert_eq!(status, 204, "{body}");
    }
}

/// A simulated host, as its administrator sees it.
pub struct Host {
    pub(super) client: reqwest::Client,
    pub(super) node: Value,
}

impl Host {
    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let text = |key: &str| self.node[key].as_str().unwrap().to_owned();
        let base = text("pve_url").trim_end_matches('/').trim_end_matches("/api2/json").to_owned();
        let token = format!("PVEAPIToken={}={}", text("pve_token_id"), text("pve_token_secret"));
        let url = format!("{base}/api2/json/nodes/{}{path}", text("name"));
        self.client.request(method, url).header("authorization", token)
    }

    async fn done(&self, request: reqwest::RequestBuilder) -> Value {
        let (status, body) = answer(request).await;
        assert_eq!(status, 200, "{body}");
        body["data"].clone()
    }

    /// Tells the simulator of the host to do something.
    pub async fn control(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.node["control_url"].as_str().unwrap().trim_end_matches('/'));
        let (status, answer) = answer(reqwest::Client::new().post(&url).json(&body)).await;
        assert!((200..300).contains(&status), "POST {url}: {status} {answer}");
        answer
    }

    /// The same where the simulator may be away, or what is to be done be done already.
    pub async fn try_control(&self, path: &str, body: Value) -> u16 {
        let url = format!("{}{path}", self.node["control_url"].as_str().unwrap().trim_end_matches('/'));
        answer(reqwest::Client::new().post(&url).json(&body)).await.0
    }

    /// Asks the simulator of the host.
    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.node["control_url"].as_str().unwrap().trim_end_matches('/'));
        answer(reqwest::Client::new().get(&url)).await.1
    }

    /// What Proxmox itself answers, below its node.
    pub async fn read(&self, path: &str) -> Value {
        self.done(self.request(reqwest::Method::GET, path)).await
    }

    /// Makes a VM with a description, as an administrator by hand.
    pub async fn create_vm(&self, vmid: u32, description: &str) {
        let form =
            [("vmid", vmid.to_string()), ("memory", "512".into()), ("description", description.into())];
        self.done(self.request(reqwest::Method::POST, "/qemu").form(&form)).await;
        until("the VM to be made", Duration::from_secs(20), || async {
            let (_, body) = answer(self.request(reqwest::Method::GET, &format!("/qemu/{vmid}/config"))).await;
            body["data"]["description"].is_string().then_some(())
        })
        .await;
    }

    /// Starts a VM, as `qm start` does.
    pub async fn start_vm(&self, vmid: i64) {
        self.done(self.request(reqwest::Method::POST, &format!("/qemu/{vmid}/status/start"))).await;
    }

    /// Sets an option of a VM, as `qm set` does.
    pub async fn set_vm(&self, vmid: i64, option: &str, value: &str) {
        let request = self.request(reqwest::Method::PUT, &format!("/qemu/{vmid}/config"));
        self.done(request.form(&[(option, value)])).await;
    }

    /// Removes a VM.
    pub async fn delete_vm(&self, vmid: u32) {
        self.done(self.request(reqwest::Method::DELETE, &format!("/qemu/{vmid}"))).await;
    }

    /// Removes a volume, as `pvesm free` does; it may be gone already, or Proxmox be away.
    pub async fn free_volume(&self, volume: &str) {
        let storage = volume.split(':').next().unwrap_or_default();
        let path = format!("/storage/{storage}/content/{volume}");
        answer(self.request(reqwest::Method::DELETE, &path)).await;
    }

    /// The first line of the description of the VM whose description names this.
    pub async fn marker_containing(&self, wanted: &str) -> Option<String> {
        let list = self.done(self.request(reqwest::Method::GET, "/qemu")).await;
        for vm in list.as_array()? {
            let path = format!("/qemu/{}/config", vm["vmid"]);
            let config = self.done(self.request(reqwest::Method::GET, &path)).await;
            let line = config["description"].as_str().and_then(|d| d.lines().next()).unwrap_or_default();
            if line.contains(wanted) {
                return Some(line.to_owned());
            }
        }
        None
    }
}

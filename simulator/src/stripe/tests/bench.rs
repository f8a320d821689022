//! A running stand-in, a receiver of its webhooks, and the calls every story makes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::{
    config::StripeConfig,
    stripe::{self, API_VERSION, Running},
    wall::ManualWall,
};

/// 2026-11-23 12:00:00 UTC.
pub(super) const START: i64 = 1_795_435_200;
pub(super) const SECRET: &str = "whsec_bench";
pub(super) const KEY: &str = "sk_test_bench";

/// One received webhook.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) header: String,
    pub(super) body: String,
}

impl Received {
    pub(super) fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    received: Mutex<Vec<Received>>,
    arrived: Notify,
    /// How many deliveries are refused with 500 before one is taken.
    pub(super) refuse: Mutex<usize>,
}

impl Inbox {
    pub(super) fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(super) fn of_type(&self, kind: &str) -> Vec<Received> {
        self.all().into_iter().filter(|received| received.event()["type"] == kind).collect()
    }

    /// Waits until `count` webhooks of this type have come.
    pub(super) async fn wait(&self, kind: &str, count: usize) -> Vec<Received> {
        let waiting = async {
            loop {
                let arrived = self.arrived.notified();
                let found = self.of_type(kind);
                if found.len() >= count {
                    return found;
                }
                arrived.await;
            }
        };
        let types =
            || self.all().iter().map(|received| received.event()["type"].to_string()).collect::<Vec<_>>();
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{kind} did not come; got {:?}", types()))
    }
}

pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) wall: Arc<ManualWall>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) running: Option<Running>,
    pub(super) client: reqwest::Client,
    config: StripeConfig,
}

impl Bench {
    pub(super) async fn start() -> Self {
        // Another test may have installed it already.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let inbox = Arc::new(Inbox::default());
        let address = receiver(inbox.clone()).await;
        let config = StripeConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            control_listen: "127.0.0.1:0".parse().unwrap(),
            secret_key: KEY.into(),
            webhook_url: format!("http://{address}/webhooks/stripe"),
            webhook_secret: SECRET.into(),
            public_url: None,
        };
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let wall = Arc::new(ManualWall::new(START * 1_000));
        let mut bench =
            Self { dir: tempfile::tempdir().unwrap(), wall, inbox, running: None, client, config };
        bench.boot().await;
        bench
    }

    /// Starts (again) over the same state.
    pub(super) async fn boot(&mut self) {
        let logs = self.logs();
        self.running =
            Some(stripe::start(&self.config, self.dir.path(), &logs, self.wall.clone()).await.unwrap());
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.as_ref().unwrap().api)
    }

    /// A POST with an idempotency key of its own.
    pub(super) async fn post(&self, path: &str, form: &str) -> (u16, Value) {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let key = format!("bench:{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let (status, _, body) = self.post_with(path, form, &key).await;
        (status, body)
    }

    pub(super) async fn post_with(
        &self,
        path: &str,
        form: &str,
        key: &str,
    ) -> (u16, reqwest::header::HeaderMap, Value) {
        let request = self
            .client
            .post(self.url(path))
            .bearer_auth(KEY)
            .header("Stripe-Version", API_VERSION)
            .header("Idempotency-Key", key);
        let answer = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.json().await.unwrap())
    }

    pub(super) async fn ok(&self, path: &str, form: &str) -> Value {
        let (status, body) = self.post(path, form).await;
        assert_eq!(status, 200, "{path} {form}: {body}");
        body
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self
            .client
            .get(self.url(path))
            .bearer_auth(KEY)
            .header("Stripe-Version", API_VERSION)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(super) async fn read(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(super) async fn delete(&self, path: &str) -> (u16, Value) {
        let answer = self
            .client
            .delete(self.url(path))
            .bearer_auth(KEY)
            .header("Stripe-Version", API_VERSION)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The control API.
    pub(super) async fn sim(&self, path: &str, body: Option<Value>) -> Value {
        let url = format!("http://{}/_sim/{path}", self.running.as_ref().unwrap().control);
        let request = match body {
            Some(body) => self.client.post(url).json(&body),
            None => self.client.get(url),
        };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(super) async fn advance(&self, seconds: i64) {
        self.sim("clock/advance", Some(json!({ "seconds": seconds }))).await;
    }

    /// A product with a monthly price of 9.00 EUR; the price's id.
    pub(super) async fn price(&self) -> String {
        let product = self.ok("/v1/products", "name=Server+S&metadata[plan]=s").await;
        let form = format!(
            "product={}&currency=eur&unit_amount=900&recurring[interval]=month&lookup_key=s:month:eur:v1&transfer_lookup_key=true",
            product["id"].as_str().unwrap()
        );
        self.ok("/v1/prices", &form).await["id"].as_str().unwrap().to_owned()
    }

    /// An open checkout session for one server.
    pub(super) async fn session(&self) -> Value {
        let price = self.price().await;
        let form = format!(
            "mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1&success_url=http://127.0.0.1:1/orders/o1?s={{CHECKOUT_SESSION_ID}}\
             &cancel_url=http://127.0.0.1:1/orders/o1&client_reference_id=o1&metadata[order_id]=o1&subscription_data[metadata][order_id]=o1\
             &customer_email=jane@example.com&locale=en&expires_at={}",
            START + 1_860
        );
        self.ok("/v1/checkout/sessions", &form).await
    }

    /// Pays a fresh session with a card; the session afterwards.
    pub(super) async fn bought(&self, card: &str) -> Value {
        let session = self.session().await;
        let id = session["id"].as_str().unwrap();
        let done = self.sim(&format!("sessions/{id}/complete"), Some(json!({ "card": card }))).await;
        assert_eq!(done["result"], "paid");
        self.read(&format!("/v1/checkout/sessions/{id}")).await
    }
}

async fn receiver(inbox: Arc<Inbox>) -> std::net::SocketAddr {
    let take = move |headers: HeaderMap, body: Bytes| {
        let inbox = inbox.clone();
        async move {
            {
                let mut refuse = inbox.refuse.lock().unwrap();
                if *refuse > 0 {
                    *refuse -= 1;
                    return StatusCode::INTERNAL_SERVER_ERROR;
                }
            }
            let header = headers["stripe-signature"].to_str().unwrap().to_owned();
            inbox
                .received
                .lock()
                .unwrap()
                .push(Received { header, body: String::from_utf8(body.to_vec()).unwrap() });
            inbox.arrived.notify_waiters();
            StatusCode::OK
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/webhooks/stripe", post(take))).await.unwrap()
    });
    address
}

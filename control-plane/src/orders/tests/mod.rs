//! Stories of purchases: real database, real fleet and dispatch, a Stripe in this process.

mod building;
mod purchase;
mod unpaid;

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    AccountId, OrderId, UserId,
    message::{Event, EventKind, Facts},
};

use super::*;
use crate::{
    app::{App, job_registry},
    billing::{
        self, Intake,
        stripe::testing::{FakeStripe, sign},
    },
    catalog::{self, Interval},
    clock::ManualClock,
    db::{self, Db},
    dispatch,
    fleet::{
        self,
        testing::{IMAGE, TestNode, locations, ready_node},
    },
    instances::{self, Instance, InstanceState},
    jobs,
    placement::NoPlace,
};

const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl t";

/// One installation with a catalogue, one node with room for a few servers, and its Stripe.
struct Shop {
    app: App,
    clock: Arc<ManualClock>,
    stripe: FakeStripe,
    node: TestNode,
}

impl Shop {
    async fn open(db: Db, room: u64) -> Self {
        let stripe = FakeStripe::start().await;
        let (mut app, clock) = fleet::testing::services(db);
        Arc::get_mut(&mut app).unwrap().stripe = stripe.gate();
        locations(&app, 50).await;
        let file = format!(
            r#"
            [[images]]
            code = "debian-13"
            name = "Debian 13"
            version = "13"
            digest = "{IMAGE}"
            [[plans]]
            code = "s"
            name = "S"
            vcpu = 1
            memory_mib = 4096
            disk_gib = 20
            traffic_gib = 1000
            [[plans.prices]]
            interval = "month"
            currency = "eur"
            amount_minor = 900
            "#
        );
        let first = catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        assert_eq!((first.plans, first.prices, first.pushed), (1, 1, 1));
        let again = catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        assert_eq!(again.pushed, 0, "the same file again changes nothing");
        let node = ready_node(&app, "fsn-1", 1_000, room).await;
        Self { app, clock, stripe, node }
    }

    fn request(&self, n: u8) -> PlaceRequest {
        PlaceRequest {
            account: AccountId::generate(fleet::testing::AT, [n; 10]),
            user: UserId::generate(fleet::testing::AT, [n; 10]),
            email: format!("jane{n}@example.com"),
            location: "fsn".into(),
            plan: "s".into(),
            interval: Interval::Month,
            image: "debian-13".into(),
            hostname: "web-1".parse().unwrap(),
            ssh_keys: vec![SSH_KEY.parse().unwrap()],
            terms_version: "2026-11".into(),
            quoted_minor: Some(900),
            again_of: None,
        }
    }

    async fn order(&self, id: OrderId) -> Order {
        let mut connection = self.app.db.read().await.unwrap();
        get(&mut connection, id).await.unwrap().unwrap()
    }

    async fn server(&self, order: &Order) -> Instance {
        let mut connection = self.app.db.read().await.unwrap();
        instances::get(&mut connection, order.instance).await.unwrap().unwrap()
    }

    async fn place_of(&self, order: &Order) -> Option<fleet::Placement> {
        let mut connection = self.app.db.read().await.unwrap();
        fleet::placement_of(&mut connection, order.instance).await.unwrap()
    }

    /// Runs what is due until nothing is left.
    async fn work(&self) {
        jobs::drain(&self.app, &job_registry()).await.unwrap();
    }

    async fn deliver(&self, kind: &str, object: &str) -> Intake {
        let body = self.stripe.event(kind, object);
        self.deliver_body(&body).await
    }

    async fn deliver_body(&self, body: &str) -> Intake {
        let secret = self.app.config.stripe.webhook_secrets[0].expose().to_owned();
        let header = sign(body, &secret, self.app.clock.now());
        billing::intake(&self.app, body.as_bytes(), Some(&header)).await.unwrap()
    }

    async fn session_of(&self, order: &Order) -> String {
        let mut connection = self.app.db.read().await.unwrap();
        billing::checkout_of(&mut connection, order.id).await.unwrap().unwrap().session_id.unwrap()
    }

    /// Places an order and pays it on Stripe's page; the webhook is not delivered yet.
    async fn pay_for(&self, n: u8) -> (Order, String) {
        let order = place(&self.app, self.request(n)).await.unwrap();
        pay(&self.app, &order).await.unwrap();
        let session = self.session_of(&order).await;
        self.stripe.pay(&session);
        (order, session)
    }

    /// The node says something about the order's current provisioning order.
    async fn node_says(&self, order: &Order, seq: u64, kind: EventKind, step: &str) {
        self.node_fails(order, seq, kind, step, "").await;
    }

    async fn node_fails(&self, order: &Order, seq: u64, kind: EventKind, step: &str, class: &str) {
        let instance = self.server(order).await;
        let place = self.place_of(order).await.unwrap();
        let event = Event {
            event_seq: seq,
            order_id: instance.provisioning_order.unwrap().to_string(),
            instance_id: instance.id.to_string(),
            at_ms: self.app.clock.now().0,
            kind: kind.into(),
            step: step.into(),
            percent: None,
            detail: String::new(),
            class: class.into(),
            facts: (kind == EventKind::Succeeded).then(|| Facts {
                vmid: place.vmid,
                power: "running".into(),
                addresses: vec![place.ipv4.address.to_string()],
                confirmed: true,
                host_keys: vec!["SHA256:abc (ED25519)".into()],
            }),
            generation: 1,
        };
        let (at, node) = (self.app.clock.now(), instance.node.unwrap());
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, at, node, "journal", &event).await?;
                    Ok::<_, db::DbError>(())
                })
            })
            .await
            .unwrap();
    }

    async fn letters(&self) -> Vec<String> {
        self.app.mailer_outbox().await
    }
}

impl crate::app::Services {
    async fn mailer_outbox(&self) -> Vec<String> {
        let mut connection = self.db.read().await.unwrap();
        crate::notify::written(&mut connection).await.unwrap()
    }
}

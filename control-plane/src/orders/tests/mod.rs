//! Stories of purchases: real database, real fleet and dispatch, a Stripe in this process.

mod browser;
mod building;
mod changes;
mod exits;
mod locked_out;
mod model;
mod money;
mod pay_again;
mod purchase;
mod races;
mod shopping;
mod surplus;
mod twice;
mod unpaid;

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    AccountId, OrderId, ProvisioningOrderId, UserId,
    message::{AnswerKind, Event, EventKind, Facts, OrderAnswer},
};

use super::*;
use crate::{
    accounts::{Principal, TERMS_VERSION},
    app::{App, job_registry},
    billing::{
        self, Intake,
        stripe::testing::{FakeStripe, Ledger, sign},
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

/// What is sold; `more` belongs to its one plan.
fn catalogue(more: &str) -> String {
    format!(
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
        {more}
        "#
    )
}

/// What the n-th customer orders.
fn request(n: u8) -> PlaceRequest {
    let me = customer(n);
    PlaceRequest {
        account: me.account_id,
        user: me.user_id,
        email: me.email,
        location: "fsn".into(),
        plan: "s".into(),
        interval: Interval::Month,
        image: "debian-13".into(),
        hostname: "web-1".parse().unwrap(),
        ssh_keys: vec![SSH_KEY.parse().unwrap()],
        setup: Default::default(),
        terms_version: TERMS_VERSION.into(),
        currency: None,
        quoted_minor: Some(900),
        quoted_then: None,
        again_of: None,
        claim: None,
    }
}

/// The n-th customer.
fn customer(n: u8) -> Principal {
    Principal {
        user_id: UserId::generate(fleet::testing::AT, [n; 10]),
        account_id: AccountId::generate(fleet::testing::AT, [n; 10]),
        email: format!("jane{n}@example.com"),
        account_name: "Jane".into(),
        staff: None,
    }
}

impl Shop {
    async fn open(db: Db, room: u64) -> Self {
        Self::open_with(db, room, 50).await
    }

    /// The same with so many IPv4 addresses.
    async fn open_with(db: Db, room: u64, addresses: u8) -> Self {
        let stripe = FakeStripe::start().await;
        let (mut app, clock) = fleet::testing::services(db);
        Arc::get_mut(&mut app).unwrap().stripe = stripe.gate();
        stripe.state().clock = Some(clock.clone());
        locations(&app, addresses).await;
        let file = catalogue("");
        let first = catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        assert_eq!((first.plans, first.prices, first.pushed), (1, 1, 1));
        let again = catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        assert_eq!(again.pushed, 0, "the same file again changes nothing");
        let node = ready_node(&app, "fsn-1", 1_000, room).await;
        Self { app, clock, stripe, node }
    }

    fn request(&self, n: u8) -> PlaceRequest {
        request(n)
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
        let provisioning = self.server(order).await.provisioning_order.unwrap();
        self.node_says_of(order, provisioning, seq, kind, step, class).await;
    }

    /// The node says something about one of the order's provisioning orders.
    async fn node_says_of(
        &self,
        order: &Order,
        provisioning: ProvisioningOrderId,
        seq: u64,
        kind: EventKind,
        step: &str,
        class: &str,
    ) {
        let mut connection = self.app.db.read().await.unwrap();
        let record = dispatch::show(&mut connection, provisioning).await.unwrap().unwrap();
        drop(connection);
        let event = Event {
            event_seq: seq,
            order_id: provisioning.to_string(),
            instance_id: order.instance.to_string(),
            at_ms: self.app.clock.now().0,
            kind: kind.into(),
            step: step.into(),
            percent: None,
            detail: String::new(),
            class: class.into(),
            facts: (kind == EventKind::Succeeded).then(|| Facts {
                vmid: record.vmid,
                power: "running".into(),
                addresses: Vec::new(),
                confirmed: true,
                host_keys: vec!["SHA256:abc (ED25519)".into()],
                ..Facts::default()
            }),
            generation: record.generation,
            queue: None,
        };
        let (at, node) = (self.app.clock.now(), record.node);
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, at, node, &format!("journal-{node}"), &event).await?;
                    Ok::<_, db::DbError>(())
                })
            })
            .await
            .unwrap();
    }

    /// The node refuses the order's current provisioning order.
    async fn node_refuses(&self, order: &Order, code: &str) {
        self.node_refuses_for(order, code, "").await;
    }

    /// The node refuses by a rule of its policy.
    async fn node_refuses_for(&self, order: &Order, code: &str, rule: &str) {
        let server = self.server(order).await;
        let (at, node, id) = (self.app.clock.now(), server.node.unwrap(), server.provisioning_order.unwrap());
        let answer = OrderAnswer {
            kind: AnswerKind::Refused.into(),
            code: code.to_owned(),
            rule: rule.to_owned(),
            order_id: id.to_string(),
            ..OrderAnswer::default()
        };
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move { dispatch::record_answer(tx, at, node, id, &answer).await })
            })
            .await
            .unwrap();
    }

    /// A paid order whose provisioning order is out.
    async fn provisioning(&self, n: u8) -> Order {
        let (order, session) = self.pay_for(n).await;
        self.deliver("checkout.session.completed", &session).await;
        self.work().await;
        let order = self.order(order.id).await;
        assert_eq!(order.state, OrderState::Provisioning);
        order
    }

    /// A node has accepted the order and has been silent since: a person is asked.
    async fn silent(&self, n: u8) -> Order {
        let order = self.provisioning(n).await;
        self.node_says(&order, 1, EventKind::Accepted, "").await;
        self.work().await;
        self.passes(Duration::from_secs(16 * 60)).await;
        advance::advance(&self.app, order.id).await.unwrap();
        let order = self.order(order.id).await;
        assert_eq!(
            (order.state, order.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NODE_SILENT))
        );
        order
    }

    /// Time passes; the nodes stay connected, whatever they say of an order.
    async fn passes(&self, time: Duration) {
        self.clock.advance(time);
        let at = self.app.clock.now();
        self.app
            .db
            .write(move |tx| Box::pin(async move { fleet::sessions::beat(tx, at, "p1").await }))
            .await
            .unwrap();
    }

    async fn change_node(&self, name: &str, change: fleet::NodeChange) {
        fleet::change_node(&self.app, "operator:test", name, change).await.unwrap();
    }

    /// The provisioning orders of an order, oldest first.
    async fn told(&self, order: &Order) -> Vec<dispatch::ProvisioningRecord> {
        let mut connection = self.app.db.read().await.unwrap();
        dispatch::history_of(&mut connection, order.instance).await.unwrap()
    }

    /// Open alarms: kind and what they say.
    async fn alarms(&self) -> Vec<(String, String)> {
        let mut connection = self.app.db.read().await.unwrap();
        let all = fleet::alarms::list(&mut connection, 100).await.unwrap();
        all.into_iter().filter(|a| a.cleared_at.is_none()).map(|a| (a.kind, a.detail)).collect()
    }

    /// What the audit log says about an order.
    async fn audited(&self, order: &Order) -> Vec<String> {
        let mut connection = self.app.db.read().await.unwrap();
        let rows = crate::audit::history(&mut connection, "order", &order.id.to_string()).await.unwrap();
        rows.into_iter().map(|row| row.entry.action).collect()
    }

    fn ledger(&self, order: &Order) -> Ledger {
        self.stripe.state().ledger(&order.id.to_string())
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

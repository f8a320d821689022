//! Stories of purchases: real database, real fleet and dispatch, a Stripe in this process.

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

#[tokio::test]
async fn from_the_order_to_a_running_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        assert_eq!(order.state, OrderState::AwaitingPayment);
        assert!(shop.place_of(&order).await.unwrap().reserved_until.is_some());

        // The same webhook again, and the sibling events of the same payment.
        let body = shop.stripe.event("checkout.session.completed", &session);
        assert_eq!(shop.deliver_body(&body).await, Intake::Stored);
        assert_eq!(shop.deliver_body(&body).await, Intake::Known);
        assert_eq!(shop.deliver("checkout.session.completed", &session).await, Intake::Stored);
        shop.work().await;

        let paid = shop.order(order.id).await;
        assert_eq!(paid.state, OrderState::Provisioning);
        assert!(paid.paid_at.is_some());
        let server = shop.server(&order).await;
        assert_eq!((server.state, server.node), (InstanceState::Provisioning, Some(shop.node.id)));
        assert!(shop.place_of(&order).await.unwrap().reserved_until.is_none(), "paid: the place is fixed");

        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.node_says(&order, 2, EventKind::StepStarted, "clone").await;
        shop.node_says(&order, 3, EventKind::StepDone, "clone").await;
        shop.node_says(&order, 4, EventKind::Succeeded, "").await;
        shop.work().await;

        let done = shop.order(order.id).await;
        assert_eq!(done.state, OrderState::Fulfilled);
        let server = shop.server(&order).await;
        assert_eq!(server.state, InstanceState::Running);
        assert_eq!(server.observed_state.as_deref(), Some("running"));
        assert_eq!(server.host_keys, ["SHA256:abc (ED25519)"]);
        let letters = shop.letters().await;
        assert_eq!(letters.iter().filter(|l| *l == "payment-confirmation").count(), 1, "{letters:?}");
        assert_eq!(letters.iter().filter(|l| *l == "server-ready").count(), 1, "{letters:?}");
        let mut connection = shop.app.db.read().await.unwrap();
        let states: Vec<OrderState> =
            history(&mut connection, order.id).await.unwrap().iter().map(|step| step.to).collect();
        assert_eq!(
            states,
            [OrderState::AwaitingPayment, OrderState::Paid, OrderState::Provisioning, OrderState::Fulfilled]
        );
        let invoices = billing::invoices(&mut connection, order.account).await.unwrap();
        assert_eq!((invoices.len(), invoices[0].total_minor, invoices[0].status.as_str()), (1, 900, "paid"));
        assert_eq!(dispatch::history_of(&mut connection, order.instance).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lost_webhook_is_found_by_the_poll_and_by_the_page() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.stripe.event("checkout.session.completed", &session);
        let found = billing::poll_events(&shop.app).await.unwrap();
        assert_eq!(found, 1);
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(billing::poll_events(&shop.app).await.unwrap(), 0, "the overlap finds nothing new");

        let (order, _) = shop.pay_for(2).await;
        look_at_payment(&shop.app, &order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn what_is_sold_out_is_said_before_paying_and_places_come_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        let refused = place(&shop.app, shop.request(2)).await.unwrap_err();
        assert!(matches!(refused, PlaceError::NoPlace(NoPlace::SoldOut | NoPlace::AllTried)), "{refused:?}");

        // The page runs out: Stripe says so, and only then the place is free again.
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Expired);
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
        let second = place(&shop.app, shop.request(2)).await.unwrap();
        assert!(cancel(&shop.app, &second).await.unwrap());
        assert_eq!(shop.order(second.id).await.state, OrderState::Cancelled);
        place(&shop.app, shop.request(3)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_account_holds_three_unpaid_orders_and_prices_are_those_seen() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        for _ in 0..3 {
            place(&shop.app, shop.request(1)).await.unwrap();
        }
        assert!(matches!(place(&shop.app, shop.request(1)).await, Err(PlaceError::TooManyUnpaid)));
        let changed = PlaceRequest { quoted_minor: Some(800), ..shop.request(2) };
        assert!(matches!(place(&shop.app, changed).await, Err(PlaceError::QuoteChanged(900))));
        let keyless = PlaceRequest { ssh_keys: Vec::new(), ..shop.request(2) };
        assert!(matches!(place(&shop.app, keyless).await, Err(PlaceError::NoKey)));
    })
    .await;
}

#[tokio::test]
async fn money_that_comes_after_the_end_is_never_lost() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        // Against all expectation the page was paid after all.
        shop.clock.advance(Duration::from_secs(5));
        shop.stripe.pay(&session);
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let late = shop.order(order.id).await;
        assert_eq!(
            (late.state, late.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::PAID_TOO_LATE))
        );

        // A person tries: there is room, so it is built.
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn the_wrong_money_waits_for_a_person_and_goes_back_after_a_day() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        {
            let mut state = shop.stripe.state();
            state.objects.get_mut(&session).unwrap()["amount_total"] = serde_json::json!(1);
        }
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let odd = shop.order(order.id).await;
        assert_eq!(
            (odd.state, odd.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::PAYMENT_MISMATCH))
        );
        assert!(shop.letters().await.contains(&"order-needs-attention".to_owned()));

        shop.clock.advance(Duration::from_secs(24 * 3_600 + 1));
        advance::advance(&shop.app, order.id).await.unwrap();
        advance::advance(&shop.app, order.id).await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.stripe.count("POST", "/refunds"), 1);
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
        assert!(shop.place_of(&order).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_another_and_three_by_a_person() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let first = shop.server(&order).await;
        for attempt in 1..=3_u64 {
            assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning, "attempt {attempt}");
            shop.node_says(&order, attempt * 10, EventKind::Accepted, "").await;
            shop.node_fails(&order, attempt * 10 + 1, EventKind::Undone, "clone", "retryable").await;
            shop.work().await;
            if attempt == 1 {
                assert_ne!(shop.server(&order).await.node, first.node, "the next attempt is made elsewhere");
            }
        }
        let stopped = shop.order(order.id).await;
        assert_eq!(
            (stopped.state, stopped.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::BUILD_FAILED))
        );
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        let letters = shop.letters().await;
        assert!(letters.contains(&"order-refunded".to_owned()), "{letters:?}");
    })
    .await;
}

#[tokio::test]
async fn a_silent_node_keeps_everything_reserved_until_a_person_decides() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.work().await;
        shop.clock.advance(Duration::from_secs(16 * 60));
        advance::advance(&shop.app, order.id).await.unwrap();
        let silent = shop.order(order.id).await;
        assert_eq!(
            (silent.state, silent.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NODE_SILENT))
        );
        assert!(shop.place_of(&order).await.is_some(), "VMID and addresses stay reserved");

        // Another node is not tried while the first may have built it.
        let refused = re_place(&shop.app, order.id, "operator:test", false).await.unwrap_err();
        assert!(matches!(refused, ExitError::HeldByNode(node) if node == shop.node.id), "{refused:?}");
        // It was only slow: the late success counts.
        shop.node_says(&order, 2, EventKind::Succeeded, "").await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
        assert_eq!(shop.server(&order).await.state, InstanceState::Running);
    })
    .await;
}

#[tokio::test]
async fn paid_without_a_place_is_tried_for_a_quarter_of_an_hour() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let (at, node) = (shop.app.clock.now(), shop.node.id);
        shop.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    fleet::nodes::change(tx, at, "operator:test", node, fleet::NodeChange::Revoke).await
                })
            })
            .await
            .unwrap();
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Paid);
        shop.clock.advance(Duration::from_secs(14 * 60));
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(shop.order(order.id).await.state, OrderState::Paid);
        shop.clock.advance(Duration::from_secs(2 * 60));
        advance::advance(&shop.app, order.id).await.unwrap();
        let stopped = shop.order(order.id).await;
        assert_eq!(
            (stopped.state, stopped.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NO_CAPACITY))
        );
        assert_eq!(shop.letters().await.iter().filter(|l| *l == "order-needs-attention").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_forged_webhook_leaves_no_row_and_a_crash_after_the_call_makes_no_second_page() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let forged = billing::intake(&shop.app, br#"{"id":"evt_x"}"#, Some("t=1,v1=00")).await.unwrap();
        assert_eq!(forged, Intake::Forged);

        let order = place(&shop.app, shop.request(1)).await.unwrap();
        // The customer is made; then the answer to the page's call is lost, again and again.
        shop.stripe.state().failures.extend([(200, false), (500, true), (500, false), (500, false)]);
        shop.stripe.state().failures.remove(0);
        let url = loop {
            match pay(&shop.app, &order).await {
                Ok(url) => break url,
                Err(error) => assert!(error.is_passing(), "{error:?}"),
            }
        };
        assert_eq!(pay(&shop.app, &order).await.unwrap(), url, "the same page again");
        let pages =
            shop.stripe.state().objects.values().filter(|o| o["object"] == "checkout.session").count();
        assert_eq!(pages, 1);
    })
    .await;
}

#[tokio::test]
async fn twenty_deliveries_at_once_pay_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let body = shop.stripe.event("checkout.session.completed", &session);
        let answers = futures::future::join_all((0..20).map(|_| shop.deliver_body(&body))).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Intake::Stored).count(), 1);
        assert_eq!(answers.iter().filter(|answer| **answer == Intake::Known).count(), 19);
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        let mut connection = shop.app.db.read().await.unwrap();
        assert_eq!(dispatch::history_of(&mut connection, order.instance).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_deleted_server_stops_costing_keeps_its_disk_and_then_goes() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        shop.node_says(&order, 1, EventKind::Succeeded, "").await;
        shop.work().await;

        let ending = instances::delete(&shop.app, order.instance, "user:test").await.unwrap();
        assert_eq!(ending.state, InstanceState::Retiring);
        instances::delete(&shop.app, order.instance, "user:test").await.unwrap();
        let cancelled = shop.stripe.state().objects.values().filter(|o| o["status"] == "canceled").count();
        assert_eq!(cancelled, 1);
        shop.node_says(&order, 2, EventKind::Succeeded, "").await;
        shop.work().await;
        let retired = shop.server(&order).await;
        assert_eq!(retired.state, InstanceState::Retired);
        assert_eq!(retired.purge_at, Some(shop.app.clock.now().plus(Duration::from_secs(72 * 3_600))));
        assert!(shop.place_of(&order).await.is_some(), "the disk still takes its place");

        shop.clock.advance(Duration::from_secs(72 * 3_600));
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.server(&order).await.state, InstanceState::Purging);
        shop.node_says(&order, 3, EventKind::Succeeded, "").await;
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Purged);
        assert!(shop.place_of(&order).await.is_none());
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
    })
    .await;
}

#[tokio::test]
async fn an_order_nobody_ever_paid_gives_its_place_back_on_time() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 2).await;
        let never_opened = place(&shop.app, shop.request(1)).await.unwrap();
        let opened = place(&shop.app, shop.request(2)).await.unwrap();
        pay(&shop.app, &opened).await.unwrap();
        shop.clock.advance(Duration::from_secs(31 * 60));
        for order in [&never_opened, &opened] {
            let again = advance::advance(&shop.app, order.id).await.unwrap();
            assert_eq!(again, Some(advance::unpaid_due(order)), "not before its time");
        }
        shop.clock.advance(Duration::from_secs(61));
        for order in [&never_opened, &opened] {
            advance::advance(&shop.app, order.id).await.unwrap();
        }
        shop.work().await;
        for order in [&never_opened, &opened] {
            assert_eq!(shop.order(order.id).await.state, OrderState::Expired);
            assert!(shop.place_of(order).await.is_none());
        }
        let refused = pay(&shop.app, &shop.order(opened.id).await).await;
        assert!(matches!(refused, Err(billing::BillingError::Over)));
    })
    .await;
}

#[tokio::test]
async fn an_order_the_node_never_took_is_tried_elsewhere_only_once_it_is_fenced() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let first = shop.server(&order).await;
        // Its bytes left, and the node has not been heard of since.
        let (at, provisioning) = (shop.app.clock.now(), first.provisioning_order.unwrap());
        shop.app
            .db
            .write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, provisioning, 0).await }))
            .await
            .unwrap();
        shop.clock.advance(Duration::from_secs(10 * 60 + 290));
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(
            shop.server(&order).await.provisioning_order,
            Some(provisioning),
            "it may still act on it"
        );
        shop.clock.advance(Duration::from_secs(20));
        advance::advance(&shop.app, order.id).await.unwrap();
        let second = shop.server(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_ne!(second.provisioning_order, Some(provisioning));
        assert_ne!(second.node, first.node);
    })
    .await;
}

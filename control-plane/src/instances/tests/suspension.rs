//! Suspension: a wish that lasts, carried out once nothing else is under way.

use ez_protocol::order::{PowerVerb, Service, Tag};

use super::*;

const REASON: &str = "Invoice 117 is unpaid.";

impl Farm {
    async fn suspend(&self, id: InstanceId, reason: &'static str) -> Result<Instance, SuspendError> {
        let at = self.app.clock.now();
        let done = self
            .app
            .db
            .write(move |tx| Box::pin(async move { suspend(tx, at, id, reason, "billing").await }))
            .await;
        self.work().await;
        done
    }

    async fn resume(&self, id: InstanceId) -> Result<Instance, SuspendError> {
        let at = self.app.clock.now();
        let done = self
            .app
            .db
            .write(move |tx| Box::pin(async move { resume(tx, at, id, "paid", "billing").await }))
            .await;
        self.work().await;
        done
    }

    /// Its node reports it as it is now.
    async fn is_seen(&self, id: InstanceId, power: &str) {
        let (at, node) = (self.app.clock.now(), self.node.id);
        let seen = [Seen { instance: id, power: power.into() }];
        self.app
            .db
            .write(move |tx| Box::pin(async move { observe(tx, at, at, node, &seen).await }))
            .await
            .unwrap();
        self.work().await;
    }

    /// Its node says since when it cannot look at its servers, or that it can.
    async fn is_blind_since(&self, since: Option<UnixMillis>) {
        let (node, since) = (self.node.id, since.map(|since| since.0));
        self.app
            .db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move { fleet::reports::record_sight(tx, node, since).await })
            })
            .await
            .unwrap();
    }

    /// One that its node has switched off.
    async fn suspended_server(&self) -> InstanceId {
        let id = self.server().await.id;
        self.suspend(id, REASON).await.unwrap();
        let told = self.told(id).await.order_id;
        self.node_says(told, EventKind::Succeeded, seen("stopped")).await;
        id
    }

    async fn shown(&self, id: InstanceId) -> crate::web::views::instances::Head {
        let instance = self.look(id).await;
        let mut connection = self.app.db.read().await.unwrap();
        page_head(&mut connection, &instance, self.app.clock.now()).await.unwrap()
    }

    async fn orders_about(&self, id: InstanceId) -> usize {
        let mut connection = self.app.db.read().await.unwrap();
        dispatch::history_of(&mut connection, id).await.unwrap().len()
    }
}

#[tokio::test]
async fn a_suspended_server_is_off_refuses_its_customer_and_comes_back() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        farm.suspend(id, REASON).await.unwrap();
        let spec = farm.spec(id).await;
        assert_eq!(spec.service, Service::Suspended);
        let told = farm.told(id).await;
        assert_eq!(told.cause.actor, "billing");
        for verb in [Verb::Power(PowerVerb::Start), Verb::BackupCreate, Verb::Firewall(None)] {
            let refused = farm.press(id, verb).await.unwrap_err();
            assert!(matches!(refused, ActError::Suspended), "{refused:?}");
        }
        farm.node_says(told.order_id, EventKind::Succeeded, seen("stopped")).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Stopped);
        // The same again changes nothing; another reason is only told.
        let orders = farm.orders_about(id).await;
        farm.suspend(id, REASON).await.unwrap();
        farm.suspend(id, "A disputed payment.").await.unwrap();
        assert_eq!(farm.orders_about(id).await, orders);
        let wishes = farm.wishes(id).await;
        assert_eq!(wishes.suspension().unwrap().reason, "A disputed payment.");
        // An operator may tag it meanwhile.
        let tags: Vec<Tag> = vec!["unpaid".parse().unwrap()];
        farm.done(id, Verb::Tags(tags.clone()), seen("stopped")).await;
        farm.resume(id).await.unwrap();
        farm.resume(id).await.unwrap();
        let spec = farm.spec(id).await;
        assert_eq!((spec.service, spec.tags), (Service::Active, tags));
        let told = farm.told(id).await.order_id;
        farm.node_says(told, EventKind::Succeeded, running()).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Running);
        assert!(farm.wishes(id).await.suspension().is_none());
        farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_suspension_waits_for_what_is_under_way_and_a_change_of_mind_counts() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let backup = farm.press(id, Verb::BackupCreate).await.unwrap();
        farm.suspend(id, REASON).await.unwrap();
        assert_eq!(farm.told(id).await.order_id, order_of(&backup), "the backup ends first");
        farm.node_says(order_of(&backup), EventKind::Succeeded, seen("running")).await;
        let told = farm.told(id).await.order_id;
        assert_ne!(told, order_of(&backup));
        assert_eq!(farm.spec(id).await.service, Service::Suspended);
        // It is paid before the node has done it: the server is suspended and comes back at once.
        farm.resume(id).await.unwrap();
        assert_eq!(farm.told(id).await.order_id, told, "one order at a time");
        farm.node_says(told, EventKind::Succeeded, seen("stopped")).await;
        assert_eq!(farm.spec(id).await.service, Service::Active);
    })
    .await;
}

#[tokio::test]
async fn a_suspension_that_fails_is_tried_again_and_rings() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        farm.suspend(id, REASON).await.unwrap();
        let first = farm.told(id).await.order_id;
        farm.node_says(first, EventKind::Failed, seen("running")).await;
        assert_eq!(farm.newest(id).await.id, first, "not at once");
        assert_eq!(farm.alarms().await, ["suspension_late"]);
        let refused = farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap_err();
        assert!(matches!(refused, ActError::Suspended), "the wish stands: {refused:?}");
        farm.passes(Duration::from_secs(61)).await;
        let second = farm.told(id).await.order_id;
        assert_ne!(second, first);
        farm.node_says(second, EventKind::Succeeded, seen("stopped")).await;
        assert!(farm.alarms().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_suspension_needs_a_reason_and_a_server() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        for reason in ["", "  ", "two\nlines"] {
            let refused = farm.suspend(id, reason).await.unwrap_err();
            assert!(matches!(refused, SuspendError::Reason), "{refused:?}");
        }
        let nobody = InstanceId::generate(AT, [8; 10]);
        assert!(matches!(farm.suspend(nobody, REASON).await, Err(SuspendError::Unknown)));
        assert!(farm.resume(id).await.is_ok(), "what is not suspended is served");
        assert_eq!(farm.orders_about(id).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_suspended_server_that_somebody_starts_on_its_host_is_switched_off_again() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.suspended_server().await;
        let orders = farm.orders_about(id).await;
        farm.passes(Duration::from_secs(600)).await;
        assert_eq!(farm.orders_about(id).await, orders, "off as it should be");
        farm.is_seen(id, "running").await;
        let told = farm.told(id).await;
        assert_eq!((farm.spec(id).await.service, told.cause.actor.as_str()), (Service::Suspended, "billing"));
        assert_eq!(farm.orders_about(id).await, orders + 1);
        // Its page says what it is, not what somebody made of it, and its customer starts nothing.
        let head = farm.shown(id).await;
        assert_eq!((head.state.code, head.locked), ("suspended", Some("suspended")));
        for verb in [PowerVerb::Start, PowerVerb::Reboot] {
            let refused = farm.press(id, Verb::Power(verb)).await.unwrap_err();
            assert!(matches!(refused, ActError::Suspended), "{refused:?}");
        }
        farm.passes(Duration::from_secs(60)).await;
        assert_eq!(farm.orders_about(id).await, orders + 1, "one order at a time");
        farm.node_says(told.order_id, EventKind::Succeeded, seen("stopped")).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Stopped);
        farm.passes(Duration::from_secs(600)).await;
        assert_eq!((farm.orders_about(id).await, farm.alarms().await), (orders + 1, Vec::new()));
    })
    .await;
}

#[tokio::test]
async fn what_was_seen_before_it_was_switched_off_tells_nothing_nor_does_a_node_that_cannot_look() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        farm.suspend(id, REASON).await.unwrap();
        let told = farm.told(id).await.order_id;
        // The end of the order does not say what became of it; the report on its way is older.
        farm.node_says(told, EventKind::Succeeded, Facts::default()).await;
        farm.work().await;
        assert_eq!(farm.newest(id).await.id, told);
        farm.is_blind_since(Some(farm.app.clock.now())).await;
        farm.passes(Duration::from_secs(3_600)).await;
        assert_eq!(farm.newest(id).await.id, told, "its node is there and cannot look");
        farm.is_blind_since(None).await;
        farm.passes(Duration::from_secs(61)).await;
        assert_ne!(farm.newest(id).await.id, told, "it is there, looks, and says nothing else");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_started_again_and_again_is_not_told_at_once_and_rings() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.suspended_server().await;
        for round in 0..3 {
            farm.clock.advance(Duration::from_secs(1));
            let before = farm.newest(id).await.id;
            farm.is_seen(id, "running").await;
            assert_eq!(farm.newest(id).await.id, before, "a minute after the last order, not sooner");
            farm.passes(Duration::from_secs(61)).await;
            let told = farm.newest(id).await.id;
            assert_ne!(told, before);
            let rings = round == 2;
            assert_eq!(farm.alarms().await.contains(&"suspended_runs".to_owned()), rings, "{round}");
            farm.node_says(told, EventKind::Succeeded, seen("stopped")).await;
            assert!(farm.alarms().await.is_empty(), "it is off");
        }
        // One that cannot be switched off is told by the other alarm.
        farm.passes(Duration::from_secs(2 * 24 * 3_600)).await;
        farm.is_seen(id, "running").await;
        let told = farm.newest(id).await.id;
        farm.node_says(told, EventKind::Failed, seen("running")).await;
        farm.passes(Duration::from_secs(30)).await;
        assert_eq!(
            (farm.newest(id).await.id, farm.alarms().await),
            (told, vec!["suspension_late".to_owned()])
        );
        farm.passes(Duration::from_secs(61)).await;
        let again = farm.newest(id).await.id;
        assert_ne!(again, told);
        farm.resume(id).await.unwrap();
        farm.node_says(again, EventKind::Succeeded, seen("stopped")).await;
        let told = farm.told(id).await.order_id;
        assert_eq!(farm.spec(id).await.service, Service::Active);
        farm.node_says(told, EventKind::Succeeded, running()).await;
        assert!(farm.alarms().await.is_empty());
        let orders = farm.orders_about(id).await;
        farm.passes(Duration::from_secs(600)).await;
        assert_eq!(farm.orders_about(id).await, orders, "it is served");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_cannot_look_says_since_when_and_no_more() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        farm.passes(Duration::from_secs(600)).await;
        let state = farm.shown(id).await.state;
        assert_eq!(state.code, "running");
        let known = farm.app.clock.now().minus(Duration::from_secs(15));
        assert_eq!(state.observed_at, Some(known), "silence of one that looks is news");
        farm.is_blind_since(Some(known)).await;
        farm.passes(Duration::from_secs(600)).await;
        let state = farm.shown(id).await.state;
        assert_eq!(
            (state.code, state.observed_at),
            ("unknown", Some(known)),
            "its signs of life tell nothing of servers"
        );
        farm.is_blind_since(None).await;
        let state = farm.shown(id).await.state;
        assert_eq!(state.code, "running");
        assert!(state.observed_at > Some(known));
    })
    .await;
}

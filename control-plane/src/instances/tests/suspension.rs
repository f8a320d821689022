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

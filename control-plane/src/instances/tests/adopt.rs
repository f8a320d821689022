//! A node that is enrolled again, and what becomes of its servers.

use ez_protocol::order::{FirewallRules, PowerVerb, Service};

use super::*;
use crate::fleet::testing::{enrol_with, hello, new_key, report_as, request};

impl Farm {
    /// The node's host is set up again: a new token, a new enrolment, and a greeting with this journal.
    async fn enrolled_again(&self, journal: &str) {
        self.greets_anew(journal).await;
        self.work().await;
    }

    /// The same, and nothing has followed from it yet.
    async fn greets_anew(&self, journal: &str) {
        self.greets_anew_in("c1", journal).await;
    }

    /// The same, and the host says that it is in this cluster.
    async fn greets_anew_in(&self, cluster: &str, journal: &str) {
        let joining = fleet::new_token(&self.app, "operator:test", "fsn-1").await.unwrap();
        let key = new_key();
        let reply = enrol_with(&self.app, request(&joining.token.parse().unwrap(), &key)).await.unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(reply.certificate_pem.as_bytes()).unwrap();
        let certificate = rustls::pki_types::CertificateDer::from(pem.contents);
        let identity = crate::link::Identity::of(self.app.keys.install(), &certificate).unwrap();
        let node = TestNode {
            id: reply.node,
            epoch: reply.epoch,
            key,
            certificate_pem: reply.certificate_pem,
            serial: identity.serial,
        };
        let said = ez_protocol::message::Hello {
            journal_id: journal.to_owned(),
            cluster: cluster.to_owned(),
            now_ms: self.app.clock.now().0,
            ..hello(&node, 1_000)
        };
        report_as(&self.app, &node, said, 5).await;
    }

    /// The order to adopt a server, as its node reads it.
    async fn to_adopt(&self, id: InstanceId) -> ProvisioningOrder {
        let told = self.told(id).await;
        assert!(matches!(told.op, Op::Adopt(_)), "{:?}", told.op);
        told
    }
}

const ANOTHER_JOURNAL: &str = "another journal";

#[tokio::test]
async fn a_host_that_was_installed_again_takes_its_servers_over_and_is_told_how_they_shall_be() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let rules: FirewallRules = serde_json::from_str(r#"{"inbound": "drop", "rules": []}"#).unwrap();
        farm.done(id, Verb::Firewall(Some(rules)), seen("running")).await;
        let before = farm.newest(id).await;
        farm.enrolled_again(ANOTHER_JOURNAL).await;
        let adopt = farm.to_adopt(id).await;
        assert_eq!((adopt.aud.epoch, adopt.generation), (before.epoch + 1, before.generation + 1));
        let busy = farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap_err();
        assert!(matches!(busy, ActError::Busy(_)), "{busy:?}");
        // Greeting again orders nothing a second time.
        farm.passes(Duration::from_secs(61)).await;
        assert_eq!(farm.to_adopt(id).await.order_id, adopt.order_id);
        farm.node_says(adopt.order_id, EventKind::Accepted, Facts::default()).await;
        farm.node_says(adopt.order_id, EventKind::Succeeded, seen("running")).await;
        let spec = farm.spec(id).await;
        assert_eq!((spec.service, spec.network.rules.is_some()), (Service::Active, true));
        let renew = farm.told(id).await;
        assert_eq!(renew.generation, adopt.generation + 1);
        farm.node_says(renew.order_id, EventKind::Succeeded, seen("running")).await;
        farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap();
        assert_eq!(farm.told(id).await.generation, renew.generation, "the node knows it by then");
        assert!(farm.alarms().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_was_under_way_is_over_if_the_node_forgot_it_and_goes_on_if_it_did_not() {
    for (journal, ends) in [(ANOTHER_JOURNAL, true), ("the same", false)] {
        let (db, _dir) = db::testing::sqlite().await;
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let journal = if ends { journal.to_owned() } else { hello(&farm.node, 1_000).journal_id };
        let backup = farm.press(id, Verb::BackupCreate).await.unwrap();
        farm.node_says(order_of(&backup), EventKind::StepStarted, Facts::default()).await;
        farm.enrolled_again(&journal).await;
        let state = farm.action(backup.id).await.state;
        assert_eq!(state, if ends { ActionState::Failed } else { ActionState::Running });
        let adopt = farm.to_adopt(id).await;
        farm.node_says(adopt.order_id, EventKind::Succeeded, seen("running")).await;
        if !ends {
            // The settings are told once the backup is done.
            assert_eq!(farm.newest(id).await.verb, "adopt");
            farm.node_says(order_of(&backup), EventKind::Succeeded, seen("running")).await;
            farm.passes(Duration::from_secs(30)).await;
        }
        assert_eq!(farm.newest(id).await.verb, "ensure");
    }
}

#[tokio::test]
async fn what_a_node_forgot_is_over_even_if_it_may_not_be_told_anything() {
    let (db, _dir) = db::testing::sqlite().await;
    let farm = Farm::open(db).await;
    let id = farm.server().await.id;
    let backup = farm.press(id, Verb::BackupCreate).await.unwrap();
    farm.node_says(order_of(&backup), EventKind::StepStarted, Facts::default()).await;
    farm.greets_anew(ANOTHER_JOURNAL).await;
    // It falls out before its servers are looked at, and what it lost is known from this enrolment alone.
    let (at, node) = (farm.app.clock.now(), farm.node.id);
    farm.app
        .db
        .write(move |tx| Box::pin(async move { fleet::sessions::copied(tx, at, node, "two of it").await }))
        .await
        .unwrap();
    farm.work().await;
    assert_eq!(farm.action(backup.id).await.state, ActionState::Failed);
    farm.enrolled_again(ANOTHER_JOURNAL).await;
    farm.to_adopt(id).await;
}

#[tokio::test]
async fn a_greeting_that_cannot_be_right_hides_nothing_that_was_forgotten() {
    let (db, _dir) = db::testing::sqlite().await;
    let farm = Farm::open(db).await;
    let id = farm.server().await.id;
    let backup = farm.press(id, Verb::BackupCreate).await.unwrap();
    farm.node_says(order_of(&backup), EventKind::StepStarted, Facts::default()).await;
    farm.greets_anew_in("another cluster", ANOTHER_JOURNAL).await;
    farm.work().await;
    assert_eq!(
        farm.action(backup.id).await.state,
        ActionState::Running,
        "it is out, and nothing is known yet"
    );
    farm.enrolled_again(ANOTHER_JOURNAL).await;
    assert_eq!(farm.action(backup.id).await.state, ActionState::Failed);
    farm.to_adopt(id).await;
}

#[tokio::test]
async fn an_order_that_never_arrived_before_the_enrolment_is_void() {
    let (db, _dir) = db::testing::sqlite().await;
    let farm = Farm::open(db).await;
    let id = farm.server().await.id;
    let reboot = farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap();
    farm.enrolled_again(ANOTHER_JOURNAL).await;
    assert_eq!(farm.action(reboot.id).await.state, ActionState::Failed);
    assert_eq!(farm.record(order_of(&reboot)).await.state, dispatch::State::Cancelled);
}

#[tokio::test]
async fn a_server_that_is_not_taken_over_rings_until_it_is() {
    let (db, _dir) = db::testing::sqlite().await;
    let farm = Farm::open(db).await;
    let id = farm.server().await.id;
    farm.enrolled_again(ANOTHER_JOURNAL).await;
    let first = farm.to_adopt(id).await.order_id;
    farm.node_says(first, EventKind::Failed, Facts::default()).await;
    assert_eq!(farm.alarms().await, ["not_adopted"]);
    farm.passes(Duration::from_secs(120)).await;
    assert_eq!(farm.newest(id).await.id, first, "a person looks first");
    adopt_again(&farm.app, id, "operator:test").await.unwrap();
    let second = farm.to_adopt(id).await.order_id;
    let again = adopt_again(&farm.app, id, "operator:test").await.unwrap_err();
    assert!(matches!(again, AdoptError::Already), "one at a time, and it says so: {again:?}");
    farm.node_says(second, EventKind::Succeeded, seen("running")).await;
    assert!(farm.alarms().await.is_empty());
    assert_eq!(farm.newest(id).await.verb, "ensure");
}

#[tokio::test]
async fn a_retired_server_is_retired_for_the_node_too_before_its_disk_goes() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let (at, entropy, keys) = (farm.app.clock.now(), farm.app.entropy.clone(), farm.app.keys.clone());
        let retiring = farm
            .app
            .db
            .write::<_, EndError, _>(move |tx| {
                Box::pin(async move {
                    let instance = get_to_change(tx, id).await?.unwrap();
                    end(tx, &keys, at, entropy.as_ref(), instance, "customer").await
                })
            })
            .await
            .unwrap();
        farm.node_says(retiring.provisioning_order.unwrap(), EventKind::Succeeded, seen("stopped")).await;
        let planned = farm.look(id).await.purge_at.unwrap();
        // Shortly before its disk would have gone the host is set up again.
        farm.clock.advance(Duration::from_secs(71 * 3_600));
        farm.enrolled_again(ANOTHER_JOURNAL).await;
        let adopt = farm.to_adopt(id).await;
        farm.node_says(adopt.order_id, EventKind::Succeeded, seen("stopped")).await;
        let retire = farm.told(id).await;
        assert!(matches!(retire.op, Op::Retire(_)), "{:?}", retire.op);
        let kept = farm.look(id).await;
        assert!(kept.purge_at.unwrap().since(planned) > Duration::from_secs(23 * 3_600));
        // It fails once, and is told again.
        farm.node_says(retire.order_id, EventKind::Failed, seen("stopped")).await;
        farm.passes(Duration::from_secs(61)).await;
        let retire = farm.told(id).await;
        farm.node_says(retire.order_id, EventKind::Succeeded, seen("stopped")).await;
        let kept = farm.look(id).await;
        assert_eq!(kept.state, InstanceState::Retired);
        farm.passes(Duration::from_secs(26 * 3_600)).await;
        assert_eq!(farm.newest(id).await.verb, "purge");
    })
    .await;
}

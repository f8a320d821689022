use std::time::Duration;

use ez_protocol::trust::{EnrolRequest, JoinToken};

use super::EnrolRefusal;
use crate::{
    app::App,
    clock::Clock as _,
    db,
    fleet::{
        self, NodeChange, NodeState, alarms, nodes, sessions,
        testing::{csr, enrol_as, enrol_with, enrolled, locations, new_key, read, request, services},
    },
};

async fn token(app: &App, name: &str) -> JoinToken {
    let joining = fleet::add_node(app, "operator:test", name, "fsn").await.unwrap();
    joining.token.parse().unwrap()
}

async fn open_alarms(app: &App) -> Vec<String> {
    let list = read(app, async |c| alarms::list(c, 100).await).await;
    list.into_iter().filter(|a| a.cleared_at.is_none()).map(|a| a.kind).collect()
}

#[tokio::test]
async fn a_token_works_once() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let token = token(&app, "fsn-1").await;
        let key = new_key();
        let first = enrol_with(&app, request(&token, &key)).await.unwrap();
        assert_eq!((first.node_name.as_str(), first.epoch), ("fsn-1", 1));

        // The reply was lost: the same key gets the same certificate.
        clock.advance(Duration::from_secs(599));
        let again = enrol_with(&app, request(&token, &key)).await.unwrap();
        assert_eq!(again.certificate_pem, first.certificate_pem);
        assert!(open_alarms(&app).await.is_empty());

        let refused = enrol_with(&app, request(&token, &new_key())).await;
        assert_eq!(refused.unwrap_err(), EnrolRefusal::Reused);
        assert_eq!(open_alarms(&app).await, ["token_reused"]);
        clock.advance(Duration::from_secs(2));
        assert_eq!(enrol_with(&app, request(&token, &key)).await.unwrap_err(), EnrolRefusal::Reused);
    })
    .await;
}

#[tokio::test]
async fn a_token_does_not_put_another_node_in_the_place_of_its_own() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let (one, two) = (enrolled(&app, "fsn-1", "fsn").await, enrolled(&app, "fsn-2", "fsn").await);
        let again = async || -> JoinToken {
            fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap().token.parse().unwrap()
        };
        let token = again().await;
        let refused = enrol_as(&app, request(&token, &new_key()), vec![two.id]).await.unwrap_err();
        assert!(matches!(&refused, EnrolRefusal::OtherNode { here, wanted } if here == "fsn-2" && wanted == "fsn-1"));
        assert!(refused.to_string().contains("join --replace"), "{refused}");

        // A host that does not know who it was, on another machine.
        let strange = |token: &JoinToken| {
            let plain = request(token, &new_key());
            EnrolRequest { fingerprint: "ff".repeat(32), pve_node: "pve-other".to_owned(), ..plain }
        };
        let refused = enrol_with(&app, strange(&token)).await.unwrap_err();
        assert!(refused.to_string().contains("pve-other") && refused.to_string().contains("--replace"), "{refused}");
        let row = async || read(&app, async |c| nodes::by_id(c, one.id).await).await.unwrap();
        assert_eq!(row().await.epoch, 1, "the right one goes on undisturbed");

        // The token is still good: for the node itself, and for a system that was installed anew on its machine.
        let anew = EnrolRequest { fingerprint: "ee".repeat(32), ..request(&token, &new_key()) };
        assert_eq!(enrol_as(&app, anew, vec![one.id]).await.unwrap().epoch, 2);

        let moves = fleet::replacement_token(&app, "operator:test", "fsn-1").await.unwrap();
        let moved = enrol_with(&app, strange(&moves.token.parse().unwrap())).await.unwrap();
        assert_eq!((moved.node, moved.epoch), (one.id, 3));
    })
    .await;
}

#[tokio::test]
async fn racing_for_one_token_one_wins() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let token = token(&app, "fsn-1").await;
        let keys: Vec<_> = (0..8).map(|_| new_key()).collect();
        let attempts = keys.iter().map(|key| enrol_with(&app, request(&token, key)));
        let outcomes = futures::future::join_all(attempts).await;
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn wrong_secrets_burn_a_token_and_an_hour_ends_it() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let token = token(&app, "fsn-1").await;
        for _ in 0..5 {
            let wrong = JoinToken { secret: [7; 32], ..token.clone() };
            let refused = enrol_with(&app, request(&wrong, &new_key())).await;
            assert_eq!(refused.unwrap_err(), EnrolRefusal::Unknown);
        }
        assert_eq!(enrol_with(&app, request(&token, &new_key())).await.unwrap_err(), EnrolRefusal::Unknown);

        let fresh: JoinToken =
            fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap().token.parse().unwrap();
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(enrol_with(&app, request(&fresh, &new_key())).await.unwrap_err(), EnrolRefusal::Expired);
    })
    .await;
}

#[tokio::test]
async fn a_newer_token_voids_the_older() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let old = token(&app, "fsn-1").await;
    fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap();
    assert_eq!(enrol_with(&app, request(&old, &new_key())).await.unwrap_err(), EnrolRefusal::Expired);
}

#[tokio::test]
async fn a_key_is_good_for_one_node() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let other = token(&app, "fsn-2").await;
    assert_eq!(enrol_with(&app, request(&other, &node.key)).await.unwrap_err(), EnrolRefusal::KeyKnown);
    assert_eq!(open_alarms(&app).await, ["key_known"]);
    assert!(enrol_with(&app, request(&other, &new_key())).await.is_ok(), "the token was not burnt by that");
}

#[tokio::test]
async fn enrolling_again_voids_what_was_before() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = enrolled(&app, "fsn-1", "fsn").await;
        let at = clock.now();
        let admitted = async |serial: &str| {
            let serial = serial.to_owned();
            read(&app, async |c| sessions::admitted(c, at, node.id, &serial).await).await
        };
        assert!(admitted(&node.serial).await);
        let (_, state) =
            fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Revoke).await.unwrap();
        assert_eq!(state, NodeState::Revoked);
        assert!(!admitted(&node.serial).await);

        let token = fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap().token.parse().unwrap();
        let reply = enrol_with(&app, request(&token, &new_key())).await.unwrap();
        assert_eq!(reply.epoch, 2);
        assert!(!admitted(&node.serial).await);
        let row = read(&app, async |c| nodes::by_id(c, node.id).await).await.unwrap();
        assert_eq!(row.state, NodeState::Active);
    })
    .await;
}

#[tokio::test]
async fn a_node_gets_a_few_certificates_a_day_and_what_is_over_is_forgotten() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = enrolled(&app, "fsn-1", "fsn").await;
        let renew = async || super::renew(&app, node.id, &node.serial, &csr(&new_key())).await.unwrap();
        for _ in 0..4 {
            renew().await.unwrap();
        }
        assert_eq!(renew().await.unwrap_err(), EnrolRefusal::TooMany);
        clock.advance(Duration::from_secs(86_400));
        renew().await.unwrap();
        let left_of = async |before: ez_protocol::UnixMillis| {
            app.db.write(move |tx| Box::pin(async move { super::sweep(tx, before).await })).await.unwrap();
            let left = read(&app, async |c| nodes::certificates(c, node.id).await).await;
            left.into_iter().map(|certificate| certificate.state).collect::<Vec<_>>()
        };
        let now = clock.now();
        assert_eq!(left_of(now).await.len(), 6, "they are good for two weeks");
        // The one it has, and the newest, which waits for its first use.
        assert_eq!(left_of(now.plus(Duration::from_secs(20 * 86_400))).await, ["next", "current"]);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_with_a_new_key_only() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = enrolled(&app, "fsn-1", "fsn").await;
        let renew =
            async |csr_pem: String| super::renew(&app, node.id, &node.serial, &csr_pem).await.unwrap();
        assert_eq!(renew(csr(&node.key)).await.unwrap_err(), EnrolRefusal::KeyKnown);
        let next = csr(&new_key());
        let issued = renew(next.clone()).await.unwrap();
        assert_eq!(renew(next).await.unwrap(), issued, "asked again, the same answer");
        clock.advance(Duration::from_secs(15 * 86_400));
        assert_eq!(renew(csr(&new_key())).await.unwrap_err(), EnrolRefusal::NotAllowed);
    })
    .await;
}

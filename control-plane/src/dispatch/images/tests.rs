//! Image orders: signed once, delivered like every order, and moved by what the node says.

use std::time::Duration;

use ez_protocol::{
    ProvisioningOrderId,
    envelope::{Envelope, PayloadType},
    image::{ImageOrder, LONGEST_LIFE},
    message::{AnswerKind, ImageBuildState, OrderAnswer},
};

use super::{ImageOrderError, ImageRecord, ImageState, list, order, seen};
use crate::{
    app::App,
    catalog, db, dispatch,
    fleet::{
        self, NodeChange, alarms,
        testing::{TestNode, locations, read, ready_node, services},
    },
};

const DIGEST: &str = "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

async fn shelf(app: &App) {
    let image = |code: &str, more: &str| {
        format!("[[images]]\ncode = '{code}'\nname = '{code}'\nversion = '1'\ndigest = '{DIGEST}'\n{more}\n")
    };
    let text = image("own", "url = 'https://images.example.com/own.qcow2'") + &image("by-hand", "");
    catalog::apply_file(app, &text, "test").await.unwrap();
}

async fn ordered(app: &App, node: &TestNode, image: &str) -> Result<ProvisioningOrderId, ImageOrderError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let row = read(app, async |c| fleet::node(c, node.id).await).await.unwrap();
    let image = image.to_owned();
    app.db
        .write(move |tx| {
            Box::pin(
                async move { order(tx, &keys, at, entropy.as_ref(), &image, &row, "operator:cli").await },
            )
        })
        .await
}

async fn said(app: &App, node: &TestNode, id: ProvisioningOrderId, answer: OrderAnswer) {
    let (at, node) = (app.clock.now(), node.id);
    app.db
        .write(move |tx| Box::pin(async move { dispatch::record_answer(tx, at, node, id, &answer).await }))
        .await
        .unwrap();
}

async fn reported(
    app: &App,
    node: &TestNode,
    id: ProvisioningOrderId,
    state: &str,
    step: &str,
    detail: &str,
) {
    let (at, node) = (app.clock.now(), node.id);
    let build = ImageBuildState {
        order_id: id.to_string(),
        state: state.to_owned(),
        step: step.to_owned(),
        detail: detail.to_owned(),
    };
    app.db.write(move |tx| Box::pin(async move { seen(tx, at, node, &[build]).await })).await.unwrap();
}

async fn kept(app: &App, id: ProvisioningOrderId) -> ImageRecord {
    let all = read(app, async |c| list(c, None, 100).await).await;
    all.into_iter().find(|order| order.id == id).unwrap()
}

async fn alarmed(app: &App) -> usize {
    read(app, async |c| alarms::open_subjects(c, "image_failed").await).await.len()
}

#[tokio::test]
async fn an_image_order_is_signed_delivered_and_moved_by_its_nodes_reports() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        shelf(&app).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let id = ordered(&app, &node, "own").await.unwrap();
        assert_eq!(ordered(&app, &node, "own").await.unwrap(), id, "one open order for a digest on a node");

        let at = app.clock.now();
        assert_eq!(read(&app, async |c| dispatch::due_nodes(c, at).await).await, [node.id]);
        let due = read(&app, async |c| dispatch::due(c, at, node.id, 8).await).await;
        let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
        let envelope = Envelope::decode(&due[0].envelope).unwrap();
        let signed = envelope.verify(PayloadType::Image, &trusted, at).unwrap();
        let order = ImageOrder::from_bytes(&signed.payload).unwrap();
        assert_eq!((order.order_id, order.aud.node, order.image.digest.as_str()), (id, node.id, DIGEST));
        assert!(envelope.verify(PayloadType::Order, &trusted, at).is_err(), "it is no provisioning order");

        app.db
            .write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, id, 0).await }))
            .await
            .unwrap();
        assert!(read(&app, async |c| dispatch::due(c, at, node.id, 8).await).await.is_empty(), "not at once");
        said(&app, &node, id, OrderAnswer { kind: AnswerKind::Accepted.into(), ..Default::default() }).await;
        assert_eq!(kept(&app, id).await.state, ImageState::Accepted);
        reported(&app, &node, id, "running", "download", "").await;
        reported(&app, &node, id, "accepted", "", "").await;
        let now = kept(&app, id).await;
        assert_eq!((now.state, now.step.as_deref()), (ImageState::Running, Some("download")), "never back");
        reported(&app, &node, id, "ready", "mark", "").await;
        reported(&app, &node, id, "failed", "mark", "late").await;
        assert_eq!(kept(&app, id).await.state, ImageState::Ready, "an end is an end");
    })
    .await;
}

#[tokio::test]
async fn what_goes_wrong_is_an_alarm_until_the_image_is_there() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        shelf(&app).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let refused = ordered(&app, &node, "own").await.unwrap();
        let answer = OrderAnswer {
            kind: AnswerKind::Refused.into(),
            code: "POLICY".into(),
            rule: "images.build".into(),
            detail: "not here".into(),
            ..Default::default()
        };
        said(&app, &node, refused, answer).await;
        let now = kept(&app, refused).await;
        assert_eq!(
            (now.state, now.detail.as_deref()),
            (ImageState::Refused, Some("POLICY(images.build): not here"))
        );
        let failed = ordered(&app, &node, "own").await.unwrap();
        assert_ne!(failed, refused);
        reported(&app, &node, failed, "failed", "download", "checksum mismatch").await;
        assert_eq!(kept(&app, failed).await.state, ImageState::Failed);
        assert_eq!(alarmed(&app).await, 1);
        let late = ordered(&app, &node, "own").await.unwrap();
        clock.advance(LONGEST_LIFE + Duration::from_secs(301));
        dispatch::jobs::expire(app.clone()).await.unwrap();
        assert_eq!(kept(&app, late).await.state, ImageState::Expired);
        let good = ordered(&app, &node, "own").await.unwrap();
        reported(&app, &node, good, "ready", "", "").await;
        assert_eq!(alarmed(&app).await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_built_is_not_ordered_and_nobody_reports_about_anothers_order() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        shelf(&app).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let other = ready_node(&app, "fsn-2", 3_000, 5).await;
        assert!(matches!(ordered(&app, &node, "none").await, Err(ImageOrderError::UnknownImage(_))));
        assert!(matches!(ordered(&app, &node, "by-hand").await, Err(ImageOrderError::NoUrl(_))));
        let id = ordered(&app, &node, "own").await.unwrap();
        reported(&app, &other, id, "ready", "", "").await;
        assert_eq!(kept(&app, id).await.state, ImageState::Signed);
        fleet::change_node(&app, "test", "fsn-2", NodeChange::Revoke).await.unwrap();
        assert!(matches!(ordered(&app, &other, "own").await, Err(ImageOrderError::NodeNotServing(_))));
    })
    .await;
}

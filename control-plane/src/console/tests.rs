//! Tickets, grants and ends, on both databases.

use std::time::Duration;

use ez_protocol::{
    console::{ConsoleGrant, ConsoleKind},
    envelope::{Envelope, PayloadType},
};

use super::{Holder, Ticket, *};
use crate::{
    accounts::{self, NewUser, Principal},
    db::testing::each_database,
    instances::tests::Farm,
};

/// A farm with a server, and the person it belongs to with a session.
struct Story {
    farm: Farm,
    me: Principal,
    session: SessionId,
    token: String,
    server: Instance,
}

impl Story {
    async fn begin(db: crate::db::Db) -> Self {
        let farm = Farm::open(db).await;
        let password = "correct horse battery".to_owned();
        let new = NewUser { email: "ada@example.org".into(), password, staff: None, verified: true };
        let me = accounts::create_user(&farm.app, new).await.unwrap();
        let token = accounts::open_session(&farm.app, me.user_id).await.unwrap().token;
        let session = accounts::session(&farm.app, &token).await.unwrap().unwrap().id;
        let server = farm.server_of(me.account_id).await;
        Self { farm, me, session, token, server }
    }

    async fn ticket(&self, holder: Holder) -> Result<Ticket, Refusal> {
        ticket(&self.farm.app, self.server.id, &self.me, holder, ConsoleKind::Vnc).await
    }

    async fn redeemed(&self, ticket: &Ticket, session: Option<SessionId>) -> Option<Console> {
        redeem(&self.farm.app, &ticket.secret, session).await.unwrap()
    }

    async fn opened(&self) -> Console {
        let ticket = self.ticket(Holder::Session(self.session)).await.unwrap();
        self.redeemed(&ticket, Some(self.session)).await.unwrap()
    }

    async fn must_end(&self, console: &Console) -> Option<End> {
        let mut connection = self.farm.app.db.read().await.unwrap();
        must_end(&mut connection, console).await.unwrap()
    }

    async fn viewers(&self) -> u64 {
        let mut connection = self.farm.app.db.read().await.unwrap();
        viewers(&mut connection, self.farm.app.clock.now(), self.server.id).await.unwrap()
    }

    async fn closes(&self, console: &Console, end: End) {
        let (at, console) = (self.farm.app.clock.now(), console.clone());
        let app = &self.farm.app;
        app.db
            .write(move |tx| Box::pin(async move { close(tx, at, &console, end, (10, 2_000)).await }))
            .await
            .unwrap();
    }

    /// What was written down about the server's consoles.
    async fn audited(&self) -> Vec<(String, serde_json::Value)> {
        let mut connection = self.farm.app.db.read().await.unwrap();
        let all = audit::history(&mut connection, "instance", &self.server.id.to_string()).await.unwrap();
        let consoles = all.into_iter().filter(|row| row.entry.action.starts_with("console."));
        consoles.map(|row| (row.entry.action, row.entry.detail)).collect()
    }
}

#[tokio::test]
async fn a_ticket_opens_one_console_in_its_own_session_within_a_minute() {
    each_database(async |db| {
        let story = Story::begin(db).await;
        let mine = Some(story.session);
        let ticket = story.ticket(Holder::Session(story.session)).await.unwrap();
        let stranger = accounts::open_session(&story.farm.app, story.me.user_id).await.unwrap().token;
        let stranger = accounts::session(&story.farm.app, &stranger).await.unwrap().unwrap().id;
        assert_eq!(story.redeemed(&ticket, None).await, None, "nobody");
        assert_eq!(story.redeemed(&ticket, Some(stranger)).await, None, "another browser");
        let console = story.redeemed(&ticket, mine).await.unwrap();
        assert_eq!((console.instance, console.kind), (story.server.id, ConsoleKind::Vnc));
        assert_eq!(story.redeemed(&ticket, mine).await, None, "twice");
        let late = story.ticket(Holder::Session(story.session)).await.unwrap();
        story.farm.clock.advance(Duration::from_secs(61));
        assert_eq!(story.redeemed(&late, mine).await, None, "too late");
        let unknown = Ticket { secret: "x".to_owned(), ..late };
        assert_eq!(story.redeemed(&unknown, mine).await, None);
        let by_token = Holder::Token(ApiTokenId::generate(story.farm.app.clock.now(), [1; 10]));
        let program = story.ticket(by_token).await.unwrap();
        assert_eq!(story.redeemed(&program, None).await.unwrap().holder, by_token);
    })
    .await;
}

#[tokio::test]
async fn who_looks_is_counted_and_an_end_is_written_down_once() {
    each_database(async |db| {
        let story = Story::begin(db).await;
        let (one, two) = (story.opened().await, story.opened().await);
        assert_eq!(story.viewers().await, 2);
        story.farm.clock.advance(Duration::from_millis(5));
        story.closes(&one, End::Left).await;
        story.closes(&one, End::Idle).await;
        assert_eq!(story.viewers().await, 1);
        let audited = story.audited().await;
        let words: Vec<&str> = audited.iter().map(|(action, _)| action.as_str()).collect();
        assert_eq!(words, ["console.opened", "console.opened", "console.closed"]);
        let (_, closed) = &audited[2];
        assert_eq!((closed["reason"].as_str(), closed["bytes_down"].as_u64()), (Some("left"), Some(2_000)));
        // The process of the other one dies: it is not counted any more, and then written down.
        story.farm.clock.advance(Duration::from_secs(31));
        assert_eq!(story.viewers().await, 0);
        story.farm.passes(Duration::from_secs(61)).await;
        let audited = story.audited().await;
        assert_eq!(audited.last().unwrap().1["reason"], "lost");
        assert_eq!(audited.last().unwrap().1["console"], two.id.to_string());
    })
    .await;
}

#[tokio::test]
async fn what_was_true_at_the_beginning_has_to_stay_true() {
    each_database(async |db| {
        let story = Story::begin(db).await;
        let console = story.opened().await;
        assert_eq!(story.must_end(&console).await, None);
        let (app, at, id) = (&story.farm.app, story.farm.app.clock.now(), story.server.id);
        let lives = async || {
            let mut connection = app.db.read().await.unwrap();
            accounts::session_lives(&mut connection, at, story.session).await.unwrap()
        };
        assert!(lives().await);
        accounts::log_out(app, &story.token).await.unwrap();
        assert!(!lives().await);
        app.db
            .write(move |tx| {
                Box::pin(async move { crate::instances::suspend(tx, at, id, "unpaid", "operator:x").await })
            })
            .await
            .unwrap();
        assert_eq!(story.must_end(&console).await, Some(End::Suspended));
        let refused = story.ticket(Holder::Session(story.session)).await.unwrap_err();
        assert!(matches!(refused, Refusal::Suspended), "{refused:?}");
        assert!(refused.to_string().contains("suspended"));
        let foreign = Console { account: ez_protocol::AccountId::generate(at, [9; 10]), ..console };
        assert_eq!(story.must_end(&foreign).await, Some(End::Deleted), "it is not theirs any more");
    })
    .await;
}

#[tokio::test]
async fn a_revoked_node_has_no_consoles() {
    each_database(async |db| {
        let story = Story::begin(db).await;
        let console = story.opened().await;
        let (app, node) = (&story.farm.app, story.farm.node.id);
        let at = app.clock.now();
        let change = crate::fleet::NodeChange::Revoke;
        app.db
            .write(move |tx| {
                Box::pin(async move { crate::fleet::nodes::change(tx, at, "operator:x", node, change).await })
            })
            .await
            .unwrap();
        assert_eq!(story.must_end(&console).await, Some(End::NodeAway));
        let refused = story.ticket(Holder::Session(story.session)).await.unwrap_err();
        assert!(matches!(refused, Refusal::NodeAway), "{refused:?}");
        let mut connection = app.db.read().await.unwrap();
        let none = grant::grant(&mut connection, &app.keys, at, app.entropy.as_ref(), &console).await;
        assert!(matches!(none, Err(grant::GrantError::NoNode)), "{none:?}");
    })
    .await;
}

#[tokio::test]
async fn a_grant_is_signed_for_the_servers_own_node_for_a_minute() {
    each_database(async |db| {
        let story = Story::begin(db).await;
        let console = story.opened().await;
        let (app, at) = (&story.farm.app, story.farm.app.clock.now());
        let mut connection = app.db.read().await.unwrap();
        let (node, bytes) =
            grant::grant(&mut connection, &app.keys, at, app.entropy.as_ref(), &console).await.unwrap();
        assert_eq!(node, story.farm.node.id);
        let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
        let envelope = Envelope::decode(&bytes).unwrap();
        let verified = envelope.verify(PayloadType::ConsoleGrant, &trusted, at).unwrap();
        let grant = ConsoleGrant::from_bytes(&verified.payload).unwrap();
        assert_eq!((grant.aud.node, grant.aud.epoch), (node, story.farm.node.epoch));
        assert_eq!((grant.instance.uuid, grant.exp), (story.server.id, at.plus(Duration::from_secs(60))));
        assert_eq!(grant.cause.actor, format!("user:{}", story.me.user_id));
        let (_, again) =
            grant::grant(&mut connection, &app.keys, at, app.entropy.as_ref(), &console).await.unwrap();
        assert_ne!(bytes, again, "each has a nonce of its own");
    })
    .await;
}

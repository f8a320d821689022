//! What is paid and what is served agree, whatever happens to the money later.

mod banks;
mod dashboard;
mod disputes;
mod inbox;
mod lives;
mod not_final;
mod over;
mod pages;
mod plans;
mod refunds;
mod traffic;
mod unpaid;
mod unread;
mod warnings;
mod years;

use ez_protocol::{UnixMillis, order::Service};

use super::*;
use crate::billing::{Stand, Standing, Why};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that runs, with what pays for it.
struct Served {
    order: Order,
    subscription: String,
}

impl Shop {
    /// The n-th customer's server, bought, built and running.
    async fn served(&self, n: u8) -> Served {
        self.built(n, 1).await
    }

    /// Another server of the n-th customer.
    async fn second_of(&self, n: u8) -> Served {
        self.built(n, 101).await
    }

    /// A server of the n-th customer; its node numbers what it says from `seq` on.
    async fn built(&self, n: u8, seq: u64) -> Served {
        let (order, session) = self.pay_for(n).await;
        self.deliver("checkout.session.completed", &session).await;
        self.work().await;
        self.node_says(&order, seq, EventKind::Accepted, "").await;
        self.node_says(&order, seq + 1, EventKind::Succeeded, "").await;
        self.work().await;
        let order = self.order(order.id).await;
        assert_eq!(order.state, OrderState::Fulfilled);
        let subscription = self.stripe.subscription_of(&session);
        Served { order, subscription }
    }

    /// The server of somebody who can log in.
    async fn served_to(&self, who: &Principal) -> Served {
        let wanted = PlaceRequest {
            account: who.account_id,
            user: who.user_id,
            email: who.email.clone(),
            ..self.request(1)
        };
        let order = place(&self.app, wanted).await.unwrap();
        pay(&self.app, &order).await.unwrap();
        let session = self.session_of(&order).await;
        self.stripe.pay(&session);
        self.deliver("checkout.session.completed", &session).await;
        self.work().await;
        self.node_says(&order, 1, EventKind::Accepted, "").await;
        self.node_says(&order, 2, EventKind::Succeeded, "").await;
        self.work().await;
        Served { order, subscription: self.stripe.subscription_of(&session) }
    }

    async fn standing(&self, served: &Served) -> Standing {
        let mut connection = self.app.db.read().await.unwrap();
        billing::standing_of(&mut connection, served.order.id).await.unwrap().unwrap()
    }

    async fn stands(&self, served: &Served) -> (Stand, Why) {
        let standing = self.standing(served).await;
        (standing.stand, standing.why)
    }

    /// Time passes and what is due is done; the sweeps run as well.
    async fn lives(&self, time: Duration) {
        self.passes(time).await;
        jobs::arm_periodic(&self.app, &job_registry()).await.unwrap();
        self.work().await;
    }

    /// The same with the sweeps of money and servers alone, for stories of many days.
    async fn settles(&self, time: Duration) {
        self.passes(time).await;
        billing::poll_events(&self.app).await.unwrap();
        self.work().await;
        instances::sweep(&self.app).await.unwrap();
        self.work().await;
    }

    /// What the node was told last about a server.
    async fn node_was_told(&self, served: &Served) -> String {
        let told = self.told(&served.order).await;
        told.last().map(|record| record.verb.clone()).unwrap_or_default()
    }

    /// The node does the newest order about a server.
    async fn node_does(&self, served: &Served, seq: u64, power: &str) {
        let newest = self.told(&served.order).await.into_iter().rfind(|record| !record.state.is_final());
        let newest = newest.unwrap();
        let event = Event {
            event_seq: seq,
            order_id: newest.id.to_string(),
            instance_id: served.order.instance.to_string(),
            at_ms: self.app.clock.now().0,
            kind: EventKind::Succeeded.into(),
            facts: Some(Facts { vmid: newest.vmid, power: power.into(), ..Facts::default() }),
            generation: newest.generation,
            ..Event::default()
        };
        let (at, node) = (self.app.clock.now(), newest.node);
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
        self.work().await;
    }

    async fn wished(&self, served: &Served) -> Service {
        let server = self.server(&served.order).await;
        let mut connection = self.app.db.read().await.unwrap();
        let wishes = instances::wishes(&mut connection, &server).await.unwrap();
        if wishes.suspension().is_some() { Service::Suspended } else { Service::Active }
    }

    /// What the newest letter of a kind says.
    async fn letter(&self, kind: &str) -> serde_json::Value {
        let mut connection = self.app.db.read().await.unwrap();
        crate::notify::newest(&mut connection, kind).await.unwrap()
    }

    /// How many of billing's jobs are dead. Letters are, since the shop has no mail server.
    async fn given_up(&self) -> usize {
        let mut connection = self.app.db.read().await.unwrap();
        let dead = jobs::dead_letters(&mut connection).await.unwrap();
        dead.iter().filter(|job| job.kind.starts_with("billing.")).count()
    }

    async fn letters_of(&self, kind: &str) -> usize {
        self.letters().await.iter().filter(|letter| *letter == kind).count()
    }
}

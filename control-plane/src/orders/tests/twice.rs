//! Repeated is once: every verb that changes an order, its server or a provisioning order is called a second time, in
//! a row and at the same moment, and leaves nothing behind that the first did not.

use serde_json::json;

use super::*;
use crate::fleet::Release;

/// All that a verb could leave behind.
#[derive(Debug, PartialEq)]
struct Left {
    order: Order,
    history: Vec<Transition>,
    server: Instance,
    place: Option<fleet::Placement>,
    told: Vec<dispatch::ProvisioningRecord>,
    actions: Vec<instances::ActionRow>,
    audited: Vec<String>,
    letters: Vec<String>,
    ledger: Ledger,
    refunds: usize,
}

impl Shop {
    async fn left(&self, order: &Order) -> Left {
        let mut connection = self.app.db.read().await.unwrap();
        let server = instances::by_order(&mut connection, order.id).await.unwrap().unwrap();
        let mut audited = self.audited(order).await;
        for (kind, id) in [("instance", order.instance.to_string())] {
            let rows = crate::audit::history(&mut connection, kind, &id).await.unwrap();
            audited.extend(rows.into_iter().map(|row| row.entry.action));
        }
        Left {
            order: self.order(order.id).await,
            history: history(&mut connection, order.id).await.unwrap(),
            // Writing the same again may say when.
            server: Instance { updated_at: order.placed_at, ..server },
            place: self.place_of(order).await,
            told: self.told(order).await,
            actions: instances::actions(&mut connection, order.instance, 100).await.unwrap(),
            audited,
            letters: self.letters().await,
            ledger: self.ledger(order),
            refunds: self.stripe.count("POST", "/refunds"),
        }
    }

    /// Does something, then again later, then three times at once: only the first time counts.
    async fn twice(&self, order: &Order, name: &str, verb: impl AsyncFn()) -> Left {
        verb().await;
        let once = self.left(order).await;
        self.clock.advance(Duration::from_secs(1));
        verb().await;
        assert_eq!(self.left(order).await, once, "{name}, repeated");
        futures::join!(verb(), verb(), verb());
        assert_eq!(self.left(order).await, once, "{name}, three times at once");
        once
    }

    /// Has the job about a provisioning order run once more.
    async fn observe_again(&self, id: ProvisioningOrderId) {
        let at = self.app.clock.now();
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    jobs::enqueue(tx, dispatch::OBSERVE_JOB, &id.to_string(), &json!(null), at).await
                })
            })
            .await
            .unwrap();
        self.work().await;
    }
}

#[tokio::test]
async fn from_payment_to_purge_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let id = order.id;
        let paid = shop
            .twice(&order, "the payment is settled", async || {
                look_at_payment(&shop.app, &shop.order(id).await).await;
                settle::paid(&shop.app, id).await.unwrap();
                shop.deliver("checkout.session.completed", &session).await;
                shop.work().await;
            })
            .await;
        assert_eq!((paid.order.state, paid.told.len()), (OrderState::Provisioning, 1));
        shop.twice(&order, "a look", async || {
            advance::advance(&shop.app, id).await.unwrap();
        })
        .await;

        let build = paid.server.provisioning_order.unwrap();
        shop.twice(&order, "the node accepts", async || {
            shop.node_says_of(&order, build, 1, EventKind::Accepted, "", "").await;
            shop.observe_again(build).await;
        })
        .await;
        let built = shop
            .twice(&order, "the server is built", async || {
                shop.node_says_of(&order, build, 2, EventKind::Succeeded, "", "").await;
                shop.observe_again(build).await;
                advance::advance(&shop.app, id).await.unwrap();
            })
            .await;
        assert_eq!((built.order.state, built.server.state), (OrderState::Fulfilled, InstanceState::Running));
        shop.twice(&order, "built", async || {
            let at = shop.app.clock.now();
            let again = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    let server = instances::get_to_change(tx, order.instance).await?.unwrap();
                    instances::built(tx, at, server, None, "node:x").await.map(|_| ())
                })
            });
            again.await.unwrap();
        })
        .await;

        let deleted = shop
            .twice(&order, "the customer deletes it", async || {
                instances::delete(&shop.app, order.instance, "customer").await.unwrap();
            })
            .await;
        assert_eq!((deleted.told.len(), deleted.ledger.running), (2, 0));
        let retire = deleted.server.provisioning_order.unwrap();
        shop.node_says_of(&order, retire, 3, EventKind::Succeeded, "", "").await;
        let retired = shop.twice(&order, "it is retired", async || shop.observe_again(retire).await).await;
        assert_eq!(retired.server.state, InstanceState::Retired);

        shop.clock.set(retired.server.purge_at.unwrap());
        let purging =
            shop.twice(&order, "the sweep", async || instances::sweep(&shop.app).await.unwrap()).await;
        assert_eq!((purging.server.state, purging.told.len()), (InstanceState::Purging, 3));
        let purge = purging.server.provisioning_order.unwrap();
        shop.node_says_of(&order, purge, 4, EventKind::Succeeded, "", "").await;
        let purged = shop.twice(&order, "it is purged", async || shop.observe_again(purge).await).await;
        assert_eq!((purged.server.state, purged.place), (InstanceState::Purged, None));
    })
    .await;
}

#[tokio::test]
async fn letting_go_of_an_unpaid_order_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let cancelled = shop
            .twice(&order, "the customer cancels", async || {
                assert!(cancel(&shop.app, &order).await.unwrap());
            })
            .await;
        assert_eq!((cancelled.order.state, cancelled.place), (OrderState::Cancelled, None));

        let order = place(&shop.app, shop.request(2)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        let expired = shop
            .twice(&order, "the page runs out", async || {
                shop.deliver("checkout.session.expired", &session).await;
                shop.work().await;
                settle::let_go(&shop.app, order.id, OrderEvent::CheckoutExpired, "stripe").await.unwrap();
            })
            .await;
        assert_eq!(
            (expired.order.state, expired.server.state),
            (OrderState::Expired, InstanceState::Released)
        );
    })
    .await;
}

#[tokio::test]
async fn the_wrong_money_and_its_way_back_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.stripe.state().objects.get_mut(&session).unwrap()["currency"] = json!("usd");
        let odd = shop
            .twice(&order, "a suspicious payment", async || {
                shop.deliver("checkout.session.completed", &session).await;
                shop.work().await;
                settle::suspicious(&shop.app, order.id).await.unwrap();
            })
            .await;
        assert_eq!(odd.order.state, OrderState::NeedsOperator);
        let pressed = shop
            .twice(&order, "an operator refunds", async || {
                let _refused_once_it_is_back = refund(&shop.app, order.id, "operator:test").await;
            })
            .await;
        assert_eq!(pressed.order.state, OrderState::Refunding);
        let back = shop
            .twice(&order, "the refund", async || {
                advance::advance(&shop.app, order.id).await.unwrap();
                billing::refund_full(&shop.app, order.id).await.unwrap();
                settle::refund_changed(&shop.app, order.id).await.unwrap();
                shop.work().await;
            })
            .await;
        assert_eq!((back.order.state, back.refunds), (OrderState::Refunded, 1));
        assert_eq!(back.server.state, InstanceState::Released);
    })
    .await;
}

#[tokio::test]
async fn a_refund_that_is_not_possible_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        let failed = shop
            .twice(&order, "no refund is possible", async || {
                settle::refund_impossible(&shop.app, order.id).await.unwrap();
            })
            .await;
        assert_eq!(failed.order.state, OrderState::NeedsOperator);
    })
    .await;
}

#[tokio::test]
async fn a_failed_attempt_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.provisioning(1).await;
        let first = shop.server(&order).await.provisioning_order.unwrap();
        let cancelled = shop
            .twice(&order, "taking an order back", async || {
                let at = shop.app.clock.now();
                let back = shop.app.db.write(move |tx| {
                    Box::pin(async move { dispatch::cancel_unaccepted(tx, at, first).await })
                });
                back.await.unwrap();
            })
            .await;
        assert_eq!(cancelled.told[0].state, dispatch::State::Cancelled);
        let again = shop.twice(&order, "the next attempt", async || shop.work().await).await;
        let again = match again.told.len() {
            1 => {
                shop.twice(&order, "a look", async || {
                    advance::advance(&shop.app, order.id).await.unwrap();
                })
                .await
            }
            _ => again,
        };
        assert_eq!(again.told.len(), 2, "one more attempt");
        let second = again.server.provisioning_order.unwrap();
        shop.node_says_of(&order, second, 1, EventKind::Undone, "clone", "user").await;
        let over = shop
            .twice(&order, "an attempt that is over", async || {
                shop.observe_again(second).await;
                advance::advance(&shop.app, order.id).await.unwrap();
            })
            .await;
        assert_eq!((over.order.state, over.server.state), (OrderState::NeedsOperator, InstanceState::Failed));

        let instance = order.instance;
        shop.twice(&order, "attempt_fenced", async || {
            let at = shop.app.clock.now();
            let fenced = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    let server = instances::get_to_change(tx, instance).await?.unwrap();
                    let why = server.reason.clone();
                    instances::attempt_fenced(tx, at, server, why, "system").await.map(|_| ())
                })
            });
            fenced.await.unwrap();
        })
        .await;
        let let_go = shop
            .twice(&order, "an operator lets go", async || {
                abandon(&shop.app, order.id, "operator:test", false).await.unwrap();
            })
            .await;
        assert_eq!(let_go.server.state, InstanceState::Released);
        shop.twice(&order, "give_up_place", async || {
            let at = shop.app.clock.now();
            let given = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    let server = instances::get_to_change(tx, instance).await?.unwrap();
                    instances::give_up_place(tx, at, server, Release::Gone, "system").await.map(|_| ())
                })
            });
            given.await.unwrap();
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn giving_up_on_a_silent_node_repeated_is_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.provisioning(1).await;
        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.work().await;
        shop.passes(Duration::from_secs(16 * 60)).await;
        let silent = shop
            .twice(&order, "a node is silent", async || {
                advance::advance(&shop.app, order.id).await.unwrap();
            })
            .await;
        assert_eq!(silent.order.state, OrderState::NeedsOperator);
        assert_eq!(silent.letters.iter().filter(|l| *l == "order-needs-attention").count(), 1);
        let instance = order.instance;
        shop.twice(&order, "went_silent", async || {
            let at = shop.app.clock.now();
            let said = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    let server = instances::get_to_change(tx, instance).await?.unwrap();
                    let why = server.reason.clone().unwrap();
                    instances::went_silent(tx, at, server, why, "system").await.map(|_| ())
                })
            });
            said.await.unwrap();
        })
        .await;
    })
    .await;
}

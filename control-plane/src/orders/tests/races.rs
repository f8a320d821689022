//! Races: many at the same moment want the last of something, or do the same thing, on both databases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use ez_protocol::NodeId;
use futures::future::join_all;

use super::*;
use crate::{
    accounts,
    db::testing::Fresh,
    fleet::testing::{enrolled, hello, report_as},
    jobs::JobRegistry,
};

impl Shop {
    /// So many customers order at the same moment: those that were placed. The others were told why not, nobody
    /// got an error.
    async fn rush(&self, buyers: u8) -> Vec<Order> {
        let answers = join_all((1..=buyers).map(|n| place(&self.app, self.request(n)))).await;
        let mut placed = Vec::new();
        for answer in answers {
            match answer {
                Ok(order) => placed.push(order),
                Err(PlaceError::NoPlace(_)) => {}
                Err(error) => panic!("somebody got {error:?}"),
            }
        }
        placed
    }

    /// Servers sold of each node, after checking them against what is placed and what there is.
    async fn sold(&self) -> BTreeMap<String, u64> {
        let mut connection = self.app.db.read().await.unwrap();
        let mut sold = BTreeMap::new();
        for node in fleet::nodes::list(&mut connection, None).await.unwrap() {
            let placed = fleet::placed_on(&mut connection, node.id).await.unwrap();
            assert_eq!(node.servers.sold, u64::try_from(placed.len()).unwrap());
            for room in [node.vcpu, node.memory_mib, node.disk_gib] {
                assert!(room.sold <= room.capacity, "{} is oversold", node.name);
            }
            sold.insert(node.name, node.servers.sold);
        }
        sold
    }
}

#[tokio::test]
async fn fifty_buyers_for_the_last_five_places() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 2).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let placed = shop.rush(50).await;
        assert_eq!(placed.len(), 5);
        assert_eq!(shop.sold().await, BTreeMap::from([("fsn-1".to_owned(), 2), ("fsn-2".to_owned(), 3)]));
        // Each has a place of its own.
        let mut places = BTreeSet::new();
        for order in &placed {
            let place = shop.place_of(order).await.unwrap();
            places.insert((place.vmid, place.ipv4.address, place.mac.to_string()));
        }
        assert_eq!(places.len(), 5);
        // And the places come back: all five are cancelled at once, and five others get them.
        let cancelled = join_all(placed.iter().map(|order| cancel(&shop.app, order))).await;
        assert!(cancelled.into_iter().all(|done| done.unwrap()));
        assert_eq!(shop.sold().await.values().sum::<u64>(), 0);
        assert_eq!(shop.rush(50).await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn the_last_address_is_given_out_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open_with(db, 30, 1).await;
        assert_eq!(shop.rush(20).await.len(), 1);
        assert_eq!(shop.sold().await["fsn-1"], 1);
    })
    .await;
}

#[tokio::test]
async fn the_last_vmid_is_given_out_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 0).await;
        let node = enrolled(&shop.app, "fsn-2", "fsn").await;
        let mut said = hello(&node, 5_000);
        said.policy.as_mut().unwrap().vmid_last = 5_000;
        report_as(&shop.app, &node, said, 30).await;
        let placed = shop.rush(20).await;
        assert_eq!(placed.len(), 1);
        assert_eq!(shop.place_of(&placed[0]).await.unwrap().vmid, 5_000);
        assert_eq!(shop.sold().await["fsn-2"], 1);
    })
    .await;
}

#[tokio::test]
async fn one_account_at_once_gets_its_three_unpaid_orders_and_no_more() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 20).await;
        let answers = join_all((0..8).map(|_| place(&shop.app, shop.request(1)))).await;
        let (placed, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(placed.len(), 3);
        for answer in refused {
            assert!(matches!(answer, Err(PlaceError::TooManyUnpaid)), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn paid_by_webhook_return_page_and_reconciler_at_the_same_moment_is_paid_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        for n in 1..=5 {
            let (order, session) = shop.pay_for(n).await;
            let body = shop.stripe.event("checkout.session.completed", &session);
            let webhook = async || {
                shop.deliver_body(&body).await;
                shop.work().await;
            };
            let poll = async || {
                billing::poll_events(&shop.app).await.unwrap();
                shop.work().await;
            };
            let comes_back = async || look_at_payment(&shop.app, &order).await;
            futures::join!(webhook(), comes_back(), poll(), comes_back(), webhook());
            shop.work().await;
            assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
            assert_eq!(shop.told(&order).await.len(), 1);
            let mut audited = shop.audited(&order).await;
            audited.sort();
            assert_eq!(audited, ["order.issued", "order.payment_settled", "order.placed"]);
        }
        let letters = shop.letters().await;
        assert_eq!(letters.iter().filter(|l| *l == "payment-confirmation").count(), 5);
    })
    .await;
}

#[tokio::test]
async fn a_cancellation_and_a_payment_at_the_same_moment_lose_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        for n in 1..=6 {
            let order = place(&shop.app, shop.request(n)).await.unwrap();
            pay(&shop.app, &order).await.unwrap();
            let session = shop.session_of(&order).await;
            let pays = async {
                if shop.stripe.state().objects[&session]["status"] == "open" {
                    shop.stripe.pay(&session);
                    shop.deliver("checkout.session.completed", &session).await;
                }
                shop.work().await;
            };
            let (cancelled, ()) = tokio::join!(cancel(&shop.app, &order), pays);
            let cancelled = cancelled.unwrap();
            shop.work().await;
            let ended = shop.order(order.id).await;
            match shop.ledger(&order).paid {
                0 => assert_eq!((cancelled, ended.state), (true, OrderState::Cancelled)),
                _ => assert_eq!((cancelled, ended.state), (false, OrderState::Provisioning)),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn operators_who_press_different_exits_at_once_agree_on_one_story() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        for n in 1..=4 {
            let order = shop.provisioning(n).await;
            for attempt in 1..=3_u64 {
                shop.node_fails(
                    &order,
                    u64::from(n) * 100 + attempt,
                    EventKind::Undone,
                    "clone",
                    "retryable",
                )
                .await;
                shop.work().await;
            }
            assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
            let told = shop.told(&order).await.len();
            let (app, id) = (&shop.app, order.id);
            let (a, b, c, d, e) = tokio::join!(
                retry(app, id, "operator:a"),
                refund(app, id, "operator:b"),
                re_place(app, id, "operator:c", false),
                abandon(app, id, "operator:d", false),
                retry(app, id, "operator:e"),
            );
            let answers = [a, b, c, d, e];
            for answer in &answers {
                let clean = matches!(answer, Ok(_) | Err(ExitError::Order(_) | ExitError::RefundBegan));
                assert!(clean, "{answer:?}");
            }
            let tries = [0, 2, 4].iter().filter(|at| answers[**at].is_ok()).count();
            assert!(tries <= 1, "one of them tried again: {answers:?}");
            let mut connection = app.db.read().await.unwrap();
            let steps = history(&mut connection, id).await.unwrap();
            assert!(steps.windows(2).all(|pair| pair[1].from == Some(pair[0].to)), "{steps:?}");
            drop(connection);
            shop.work().await;
            let ended = shop.order(id).await;
            let after = shop.told(&order).await.len();
            match ended.state {
                OrderState::Refunded => assert_eq!(shop.ledger(&order).returned, 900),
                OrderState::Provisioning => assert_eq!(after, told + 1),
                other => panic!("it is {other}: {answers:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_event_and_answer_over_two_connections_at_once_is_stored_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        let order = shop.provisioning(1).await;
        let server = shop.server(&order).await;
        let (id, node) = (server.provisioning_order.unwrap(), server.node.unwrap());
        let event = |seq: u64, kind: EventKind| Event {
            event_seq: seq,
            order_id: id.to_string(),
            instance_id: order.instance.to_string(),
            kind: kind.into(),
            ..Event::default()
        };
        let at = shop.app.clock.now();
        for (seq, kind) in [(1, EventKind::Accepted), (2, EventKind::StepStarted), (3, EventKind::Succeeded)]
        {
            let stored = join_all((0..12).map(|_| {
                let event = event(seq, kind);
                shop.app.db.write(move |tx| {
                    Box::pin(async move {
                        let stored = dispatch::record(tx, at, node, "j1", &event).await?;
                        fleet::reports::events_stored(tx, node, "j1", seq).await?;
                        Ok::<_, db::DbError>(stored)
                    })
                })
            }))
            .await;
            let new = stored.into_iter().map(Result::unwrap).filter(|done| *done == dispatch::Recorded::New);
            assert_eq!(new.count(), 1);
        }
        let answers = join_all((0..12).map(|_| {
            let answer = OrderAnswer { kind: AnswerKind::Duplicate.into(), ..OrderAnswer::default() };
            shop.app.db.write(move |tx| {
                Box::pin(async move { dispatch::record_answer(tx, at, node, id, &answer).await })
            })
        }))
        .await;
        assert!(answers.into_iter().all(|stored| stored.is_ok()));
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
        let mut connection = shop.app.db.read().await.unwrap();
        let kinds: Vec<String> =
            dispatch::events_of(&mut connection, id).await.unwrap().into_iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["accepted", "step_started", "succeeded"]);
    })
    .await;
}

#[tokio::test]
async fn reports_greetings_and_purchases_at_the_same_moment_wait_for_nobody_in_a_circle() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 40).await;
        let second = ready_node(&shop.app, "fsn-2", 5_000, 40).await;
        let nodes = [shop.node.id, second.id];
        let report = async |node: NodeId, seq: u64| {
            let at = shop.app.clock.now();
            let stored = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    fleet::reports::hold(tx, node).await?;
                    let position = fleet::reports::Position { report_epoch: "r1", seq, base: None };
                    fleet::reports::take(tx, at, node, position).await?;
                    fleet::reports::record_host(tx, at, node, &fleet::testing::host(40)).await?;
                    fleet::reports::record_instances(tx, at, node, &[], at).await
                })
            });
            stored.await.unwrap();
        };
        for round in 0..4_u8 {
            let buys = join_all((1..=8).map(|n| place(&shop.app, shop.request(round * 8 + n))));
            let reports = join_all(nodes.iter().flat_map(|node| {
                let report = &report;
                (2..6_u64).map(move |seq| report(*node, u64::from(round) * 10 + seq))
            }));
            let (bought, _) = futures::join!(buys, reports);
            let bought: Vec<Order> = bought.into_iter().map(Result::unwrap).collect();
            let reports = join_all(nodes.iter().map(|node| report(*node, u64::from(round) * 10 + 9)));
            let (cancelled, _) =
                futures::join!(join_all(bought.iter().map(|o| cancel(&shop.app, o))), reports);
            assert!(cancelled.into_iter().all(|done| done.unwrap()));
        }
        assert_eq!(shop.sold().await.values().sum::<u64>(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_button_pressed_at_once_in_two_tabs_is_pressed_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.provisioning(1).await;
        shop.node_says(&order, 1, EventKind::Succeeded, "").await;
        shop.work().await;
        let (app, server) = (&shop.app, order.instance);
        let reboot = || instances::Verb::Power(ez_protocol::order::PowerVerb::Reboot);
        let press = || instances::act(app, server, reboot(), "customer", None);
        let answers = join_all((0..6).map(|_| press())).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for answer in answers {
            assert!(matches!(answer, Ok(_) | Err(instances::ActError::Busy(_))), "{answer:?}");
        }
        let deleted = join_all((0..6).map(|_| instances::delete(app, server, "customer"))).await;
        assert!(deleted.into_iter().all(|done| done.unwrap().state == InstanceState::Retiring));
        let mut verbs: Vec<String> = shop.told(&order).await.into_iter().map(|record| record.verb).collect();
        verbs.sort();
        assert_eq!(verbs, ["ensure", "reboot", "retire"]);
    })
    .await;
}

/// Two control planes on one PostgreSQL, both running all the jobs there are.
#[tokio::test]
async fn two_control_planes_run_each_job_once_at_a_time_and_build_each_server_once() {
    let Some(fresh) = Fresh::postgres().await else { return };
    let shop = Shop::open(Db::open(&fresh.url).await.unwrap(), 30).await;
    let other = shop.app.on(Db::open(&fresh.url).await.unwrap(), 2);

    /// All handlers, and who is at which job now.
    fn watched(running: &Arc<Mutex<BTreeSet<(String, String)>>>) -> JobRegistry {
        let all = job_registry();
        let mut registry = JobRegistry::default();
        for kind in all.kinds() {
            let (handler, running) = (all.handler(kind), running.clone());
            registry.on(kind, move |app, run: crate::jobs::JobRun| {
                let (handler, running) = (handler.clone(), running.clone());
                let job = (kind.to_owned(), run.key.clone());
                async move {
                    let alone = running.lock().unwrap_or_else(PoisonError::into_inner).insert(job.clone());
                    assert!(alone, "{job:?} ran twice at once");
                    tokio::task::yield_now().await;
                    let done = handler(app, run).await;
                    running.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
                    done
                }
            });
        }
        registry
    }
    let running = Arc::default();
    let (ours, theirs) = (watched(&running), watched(&running));
    let mut bought = Vec::new();
    for n in 1..=12 {
        let (order, session) = shop.pay_for(n).await;
        bought.push((order, shop.stripe.event("checkout.session.completed", &session)));
    }
    // Each webhook comes to both, while both work.
    let deliveries = join_all(bought.iter().flat_map(|(_, body)| {
        [&shop.app, &other].map(|app| async move {
            let secret = app.config.stripe.webhook_secrets[0].expose().to_owned();
            let header = sign(body, &secret, app.clock.now());
            billing::intake(app, body.as_bytes(), Some(&header)).await.unwrap()
        })
    }));
    let work = async |app: &App, registry: &JobRegistry| {
        for _ in 0..6 {
            jobs::drain(app, registry).await.unwrap();
            orders_reconciled(app).await;
            tokio::task::yield_now().await;
        }
    };
    let (stored, (), (), ()) =
        futures::join!(deliveries, work(&shop.app, &ours), work(&other, &theirs), work(&other, &theirs));
    assert_eq!(stored.iter().filter(|done| **done == Intake::Stored).count(), 12);
    futures::join!(work(&shop.app, &ours), work(&other, &theirs));
    for (order, _) in &bought {
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.told(order).await.len(), 1);
    }
    let letters = shop.letters().await;
    assert_eq!(letters.iter().filter(|l| *l == "payment-confirmation").count(), 12);
    let mut connection = shop.app.db.read().await.unwrap();
    assert_eq!(jobs::dead_letters(&mut connection).await.unwrap(), []);
    drop(connection);
    other.db.close().await;
    shop.app.db.close().await;
    fresh.remove().await;
}

/// Asks for a look at every open order, as the reconciler does.
async fn orders_reconciled(app: &App) {
    let at = app.clock.now();
    let asked = app.db.write(move |tx| {
        Box::pin(async move { jobs::enqueue(tx, "orders.reconcile", "", &serde_json::Value::Null, at).await })
    });
    asked.await.unwrap();
}

/// Nobody who is turned away gets an error page.
#[tokio::test]
async fn ten_browsers_for_the_last_place_get_a_payment_page_or_a_sentence() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let mut buyers = Vec::new();
        for n in 0..10_u8 {
            let buyer = browser::Browser::log_in(&shop.app, &format!("buyer{n}@example.com"), None).await;
            let (at, who) = (shop.app.clock.now(), buyer.who.clone());
            let kept = shop.app.db.write(move |tx| {
                Box::pin(async move { accounts::add_ssh_key(tx, at, [n; 10], &who, "", SSH_KEY).await })
            });
            kept.await.unwrap();
            buyers.push(buyer);
        }
        let body = |key: &str| {
            format!(
                "location=fsn&image=debian-13&plan=s&interval=month&hostname=web-1&quoted=900&terms={TERMS_VERSION}&ssh_key={key}"
            )
        };
        let mut forms = Vec::new();
        for buyer in &buyers {
            let mut connection = shop.app.db.read().await.unwrap();
            let keys = accounts::ssh_keys(&mut connection, buyer.who.account_id).await.unwrap();
            forms.push(body(&keys[0].id.to_string()));
        }
        let sent = buyers.iter().zip(&forms).map(|(buyer, form)| buyer.send_form("/servers/new", form));
        let answers = join_all(sent).await;
        assert_eq!(answers.iter().filter(|a| a.status == 303).count(), 1);
        assert_eq!(answers.iter().filter(|a| a.status == 422).count(), 9);
    })
    .await;
}

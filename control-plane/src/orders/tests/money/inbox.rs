//! News that comes often, never, or broken.

use super::*;
use crate::billing::stripe::Class;

#[tokio::test]
async fn fifty_identical_webhooks_at_once_buy_one_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let body = shop.stripe.event("checkout.session.completed", &session);
        let all = futures::future::join_all((0..50).map(|_| shop.deliver_body(&body))).await;
        assert_eq!(all.iter().filter(|answer| **answer == Intake::Stored).count(), 1);
        assert_eq!(all.iter().filter(|answer| **answer == Intake::Known).count(), 49);
        shop.work().await;
        assert_eq!(shop.told(&order).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn news_about_one_object_is_read_once_however_much_there_is() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let path = format!("/subscriptions/{}", served.subscription);
        let before = shop.stripe.count("GET", &path);
        for _ in 0..25 {
            shop.deliver("customer.subscription.updated", &served.subscription).await;
        }
        shop.work().await;
        assert_eq!(shop.stripe.count("GET", &path), before + 1);
        // An invoice leads to its subscription: what is told of that meanwhile needs no reading of its own.
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &invoice).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stripe.count("GET", &path), before + 2);
    })
    .await;
}

#[tokio::test]
async fn after_73_hours_of_being_down_the_missed_payment_is_found_and_delivered() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        // Stripe tried for three days and gave up; the event is in its list only.
        shop.stripe.event("checkout.session.completed", &session);
        shop.lives(Duration::from_secs(73 * 60 * 60)).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.told(&order).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_parked_rings_and_is_replayed() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let good = shop.stripe.state().objects[&session].clone();
        shop.stripe.change(&session, |session| session["amount_total"] = serde_json::json!("much"));
        let body = shop.stripe.event("checkout.session.completed", &session);
        shop.deliver_body(&body).await;
        shop.work().await;
        let parked = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            let events = billing::inbox(&mut connection, 10).await.unwrap();
            events.into_iter().find(|event| event.state == billing::EventState::Parked)
        };
        let event = parked().await.unwrap();
        assert!(event.error.is_some() && event.replayable);
        let rings = async || shop.alarms().await.iter().any(|(kind, _)| kind == "payment_news_parked");
        assert!(rings().await);
        shop.lives(Duration::from_secs(16 * 60)).await;
        assert_eq!(parked().await.unwrap().attempts, 2, "tried again by itself");

        shop.stripe.state().objects.insert(session.clone(), good);
        billing::replay(&shop.app, &event.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert!(parked().await.is_none());
        shop.lives(Duration::from_secs(60 * 60)).await;
        assert!(!rings().await);
        let unknown = billing::replay(&shop.app, "evt_none", "operator:test").await;
        assert!(matches!(unknown, Err(billing::ReplayError::Unknown)));
    })
    .await;
}

#[tokio::test]
async fn a_comparison_with_stripe_finds_mends_and_ends_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // The first comparison reads what no event has told, such as the invoice.
        billing::reconcile(&shop.app).await.unwrap();
        let asked = |class| shop.app.stripe.asked(class);
        let before = (asked(Class::Now), asked(Class::Comparing));
        let calm = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!(asked(Class::Now), before.0, "all of it at the slow pace");
        assert!(asked(Class::Comparing) > before.1);
        assert_eq!((calm.differences.len(), calm.left), (0, 0), "{calm:?}");
        assert!(calm.compared >= 2);
        // An event that is lost: only the comparison can see it.
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.object == invoice && one.what == "missing"));
        assert_eq!(report.left, 0, "{report:?}");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // A subscription that Stripe has no word of: shown, and nothing else.
        shop.stripe.state().objects.remove(&served.subscription);
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.what == "gone"));
        shop.work().await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Running);
    })
    .await;
}

/// By the clock of the process that read the object last, the event of another came afterwards: nothing reads it again.
#[tokio::test]
async fn news_that_lost_its_job_is_taken_up_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // The comparison of everything is a day away.
        shop.lives(MINUTE).await;
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["ended_at"] = shop.app.clock.now().as_secs().into();
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        let lost = shop.app.db.write(|tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM jobs WHERE kind = 'billing.sync'").execute(tx).await?;
                Ok::<_, db::DbError>(())
            })
        });
        lost.await.unwrap();
        shop.lives(9 * MINUTE).await;
        assert_eq!(shop.stands(&served).await.0, Stand::Run, "it may be on its way");
        shop.lives(4 * MINUTE).await;
        assert_eq!(shop.stands(&served).await.0, Stand::End);
        let mut connection = shop.app.db.read().await.unwrap();
        let counts = billing::inbox_counts(&mut connection).await.unwrap();
        assert!(counts.iter().all(|(state, _)| *state != billing::EventState::Received), "{counts:?}");
    })
    .await;
}

#[tokio::test]
async fn news_whose_job_waits_or_was_given_up_hides_nothing_that_lost_its_job() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // The comparison of everything is a day away.
        shop.lives(MINUTE).await;
        let at = shop.app.clock.now();
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["ended_at"] = at.as_secs().into();
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        // Older news, more of it than is looked at together; the first was given up.
        shop.news_waits(201, at.minus(Duration::from_millis(1)), 0).await;
        let lost = served.subscription.clone();
        let written = shop.app.db.write(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE jobs SET dead_at = $1, last_error = 'x' WHERE key = 'sub_waits_000'")
                    .bind(at.0)
                    .execute(&mut *tx)
                    .await?;
                sqlx::query("DELETE FROM jobs WHERE kind = 'billing.sync' AND key = $1")
                    .bind(lost)
                    .execute(tx)
                    .await?;
                Ok::<_, db::DbError>(())
            })
        });
        written.await.unwrap();
        shop.lives(11 * MINUTE).await;
        shop.lives(3 * MINUTE).await;
        assert_eq!(shop.stands(&served).await.0, Stand::End);
        assert_eq!(shop.given_up().await, 1, "it is not tried again by itself");
    })
    .await;
}

#[tokio::test]
async fn one_look_for_lost_news_sees_a_part_of_what_waits_and_the_next_one_goes_on() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let served = shop.served(1).await;
    shop.lives(MINUTE).await;
    let at = shop.app.clock.now();
    // All of it waits for a Stripe that is away, and what lost its job is behind it. Twice, since the looks begin anew.
    shop.news_waits(2_300, at.minus(Duration::from_secs(10)), 1).await;
    for (status, stand) in [("paused", Stand::Suspend), ("canceled", Stand::End)] {
        let before = shop.stands(&served).await;
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = status.into());
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        let lost = served.subscription.clone();
        let written = shop.app.db.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM jobs WHERE kind = 'billing.sync' AND key = $1")
                    .bind(lost)
                    .execute(tx)
                    .await?;
                Ok::<_, db::DbError>(())
            })
        });
        written.await.unwrap();
        shop.passes(11 * MINUTE).await;
        shop.looks_for_lost_news().await;
        assert_eq!(shop.stands(&served).await, before, "{status}");
        shop.looks_for_lost_news().await;
        assert_eq!(shop.stands(&served).await.0, stand, "{status}");
    }
}

/// The real one's links bear a token that is another for each reading.
#[tokio::test]
async fn links_that_are_new_with_each_reading_are_no_difference() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.stripe.state().fresh_links = true;
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        // The first comparison reads what no event has told.
        billing::reconcile(&shop.app).await.unwrap();
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!((report.differences, report.left), (vec![], 0));
        // What says something is seen all the same.
        shop.stripe.change(&invoice, |invoice| invoice["number"] = serde_json::json!("EZ-9"));
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.object == invoice && one.what == "differs"));
        assert_eq!(report.left, 0, "{report:?}");
    })
    .await;
}

#[tokio::test]
async fn old_bytes_are_thrown_away_and_a_replay_reads_the_object_again_all_the_same() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let body = shop.stripe.event("customer.subscription.updated", &served.subscription);
        shop.deliver_body(&body).await;
        shop.work().await;
        let id = serde_json::from_str::<serde_json::Value>(&body).unwrap()["id"].as_str().unwrap().to_owned();
        let kept = shop.kept(&id).await;
        assert_eq!((kept.raw, kept.signed, kept.state.as_str()), (body.len(), true, "done"));
        let hash = kept.hash;
        shop.lives(89 * DAY).await;
        assert_eq!(shop.kept(&id).await.raw, body.len(), "ninety days are not over");
        shop.lives(3 * DAY).await;
        let kept = shop.kept(&id).await;
        assert_eq!((kept.raw, kept.signed, kept.state.as_str()), (0, false, "done"));
        assert_eq!((kept.hash.len(), kept.hash), (64, hash), "what it was can still be proven");
        let read = |path: &str| shop.stripe.count("GET", path);
        let path = format!("/subscriptions/{}", served.subscription);
        let before = read(&path);
        billing::replay(&shop.app, &id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!((read(&path), shop.kept(&id).await.state.as_str()), (before + 1, "done"));
    })
    .await;
}

/// What is left of an event.
struct Kept {
    raw: usize,
    signed: bool,
    hash: String,
    state: String,
}

impl Shop {
    /// News of so many objects waits, each for a job that comes in two days; the first came then, and each so many
    /// milliseconds after the one before.
    async fn news_waits(&self, many: i64, first: UnixMillis, apart: i64) {
        let later = self.app.clock.now().plus(2 * DAY);
        let written = self.app.db.write(move |tx| {
            Box::pin(async move {
                for n in 0..many {
                    let object = format!("sub_waits_{n:03}");
                    sqlx::query(
                        "INSERT INTO stripe_events
                             (id, source, type, object_id, object_type, created, received_at, raw, state)
                         VALUES ($1, 'webhook', 'customer.subscription.updated', $2, 'subscription', $3, $3, $4, 'received')",
                    )
                    .bind(format!("evt_waits_{n}"))
                    .bind(&object)
                    .bind(first.0 + n * apart)
                    .bind(Vec::<u8>::new())
                    .execute(&mut *tx)
                    .await?;
                    let payload = serde_json::json!({ "kind": "subscription" });
                    jobs::enqueue(tx, "billing.sync", &object, &payload, later).await?;
                }
                Ok::<_, db::DbError>(())
            })
        });
        written.await.unwrap();
    }

    /// The sweep of what lost its job, and what follows from it.
    async fn looks_for_lost_news(&self) {
        self.passes(3 * MINUTE).await;
        self.work().await;
    }

    async fn kept(&self, id: &str) -> Kept {
        let mut connection = self.app.db.read().await.unwrap();
        let row = sqlx::query("SELECT raw, signature, raw_hash, state FROM stripe_events WHERE id = $1")
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let row = db::Cols::of("stripe_events", &row);
        Kept {
            raw: row.bytes("raw").unwrap().len(),
            signed: row.get::<Option<String>>("signature").unwrap().is_some(),
            hash: row.text("raw_hash").unwrap(),
            state: row.text("state").unwrap(),
        }
    }
}

#[tokio::test]
async fn five_thousand_events_behind_the_one_that_matters_is_found() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let served = shop.served(1).await;
    shop.stripe.change(&served.subscription, |subscription| {
        subscription["status"] = "canceled".into();
        subscription["ended_at"] = shop.app.clock.now().as_secs().into();
    });
    shop.stripe.event("customer.subscription.deleted", &served.subscription);
    for _ in 0..5_200 {
        // Of kinds that decide nothing here.
        shop.stripe.event("product.updated", &served.subscription);
    }
    billing::poll_events(&shop.app).await.unwrap();
    shop.work().await;
    assert_eq!(shop.stands(&served).await.0, Stand::End);
}

#[tokio::test]
async fn a_list_of_events_that_cannot_be_read_rings_and_keeps_nothing_from_being_compared() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        billing::reconcile(&shop.app).await.unwrap();
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.stripe.state().no_events = true;
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.object == invoice), "{report:?}");
        let failed: Vec<&str> = report.failed.iter().map(|one| one.object.as_str()).collect();
        assert_eq!((failed, report.left), (vec!["events"], 1));
        let rings = async || shop.alarms().await.iter().any(|(kind, _)| kind == "stripe_events_behind");
        shop.lives(6 * MINUTE).await;
        assert!(!rings().await, "a few minutes are nothing");
        shop.lives(40 * MINUTE).await;
        assert!(rings().await);
        shop.stripe.state().no_events = false;
        shop.lives(10 * MINUTE).await;
        assert!(!rings().await);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_stripe_does_not_take_rings_at_once_and_ends_none_of_the_sweeps() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        shop.lives(MINUTE).await;
        let (order, session) = shop.pay_for(1).await;
        // In Stripe's list only.
        shop.stripe.event("checkout.session.completed", &session);
        shop.stripe.state().locked_out = true;
        shop.lives(6 * MINUTE).await;
        assert!(shop.rings_for("stripe_events_behind").await, "long before half an hour is over");
        let mut connection = shop.app.db.read().await.unwrap();
        let dead = jobs::dead_letters(&mut connection).await.unwrap();
        drop(connection);
        // Those of no key are the periodic ones.
        assert!(dead.iter().all(|job| !job.key.is_empty()), "{dead:?}");
        assert_eq!(shop.order(order.id).await.state, OrderState::AwaitingPayment);

        shop.stripe.state().locked_out = false;
        shop.lives(6 * MINUTE).await;
        assert!(!shop.rings_for("stripe_events_behind").await);
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn news_that_come_while_our_key_is_wrong_are_taken_over_as_soon_as_it_is_right() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        shop.stripe.state().locked_out = true;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.lives(MINUTE).await;
        assert!(!shop.rings_for("payment_news_parked").await, "the poll rings for all of it");
        assert_eq!(shop.given_up().await, 0);
        shop.stripe.state().locked_out = false;
        shop.lives(MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
    })
    .await;
}

#[tokio::test]
async fn a_payment_page_that_stripe_does_not_have_rings_and_keeps_no_other_from_being_looked_at() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (lost, gone) = shop.pay_for(1).await;
        let page = shop.stripe.state().objects.remove(&gone).unwrap();
        shop.clock.advance(Duration::from_secs(1));
        let (order, _) = shop.pay_for(2).await;
        shop.lives(11 * MINUTE).await;
        assert!(shop.rings_for("payment_pages_unread").await);
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning, "without any news");
        assert_eq!(shop.order(lost.id).await.state, OrderState::AwaitingPayment, "it may be a wrong key");

        shop.stripe.state().objects.insert(gone, page);
        shop.lives(3 * MINUTE).await;
        assert_eq!(shop.order(lost.id).await.state, OrderState::Provisioning);
        shop.lives(3 * MINUTE).await;
        assert!(!shop.rings_for("payment_pages_unread").await);
    })
    .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_understood_keeps_no_other_from_being_compared() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (odd, served) = (shop.served(1).await, shop.built(2, 101).await);
        billing::reconcile(&shop.app).await.unwrap();
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.stripe.change(&odd.subscription, |subscription| subscription["metadata"] = "none".into());
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.object == invoice), "{report:?}");
        assert!(report.differences.iter().all(|one| one.what != "gone"), "{report:?}");
        assert!(report.failed.iter().any(|one| one.object == odd.subscription), "{report:?}");
        assert_eq!(report.left, 1, "{report:?}");
    })
    .await;
}

#[tokio::test]
async fn news_of_another_mode_or_account_is_kept_for_a_person_and_rings() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let whole = shop.stripe.event("customer.subscription.deleted", &served.subscription);
        let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let path = format!("/subscriptions/{}", served.subscription);
        let before = shop.stripe.count("GET", &path);
        for (n, (key, value)) in
            [("livemode", serde_json::json!(true)), ("account", "acct_other".into())].into_iter().enumerate()
        {
            let mut event = whole.clone();
            event["id"] = format!("evt_foreign{n}").into();
            event[key] = value;
            assert_eq!(shop.deliver_body(&event.to_string()).await, Intake::Stored);
        }
        shop.work().await;
        let mut connection = shop.app.db.read().await.unwrap();
        let events = billing::inbox(&mut connection, 50).await.unwrap();
        drop(connection);
        let set_aside = events.iter().filter(|event| event.state == billing::EventState::Failed);
        assert_eq!(set_aside.filter(|event| event.error.is_some()).count(), 2);
        assert_eq!(shop.stripe.count("GET", &path), before, "nothing is taken over");
        let rings = async || shop.alarms().await.iter().any(|(kind, _)| kind == "webhook_set_aside");
        assert!(rings().await);
        shop.lives(2 * DAY).await;
        assert!(!rings().await, "none came for a day");
    })
    .await;
}

#[tokio::test]
async fn a_dispute_that_no_event_has_told_is_a_difference() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        billing::reconcile(&shop.app).await.unwrap();
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        let seen: Vec<_> =
            report.differences.iter().map(|one| (one.object.as_str(), one.what.as_str())).collect();
        assert_eq!((seen, report.left), (vec![(dispute.as_str(), "missing")], 0));
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
        let calm = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!((calm.differences, calm.left), (vec![], 0));
    })
    .await;
}

#[tokio::test]
async fn a_comparison_sees_refunds_and_credit_that_no_event_has_told() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        billing::reconcile(&shop.app).await.unwrap();
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let refund = shop.stripe.give_back(&invoice, 100);
        let customer =
            shop.stripe.state().objects[&served.subscription]["customer"].as_str().unwrap().to_owned();
        shop.stripe.change(&customer, |customer| {
            customer["balance"] = (-250).into();
            customer["currency"] = "eur".into();
        });
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        for object in [&refund, &customer] {
            assert!(report.differences.iter().any(|one| one.object == *object), "{object}: {report:?}");
        }
        assert_eq!(report.left, 0, "{report:?}");
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.credit, Some((250, "eur".to_owned())));
    })
    .await;
}

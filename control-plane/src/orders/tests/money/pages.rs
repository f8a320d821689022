//! What people read about the money, through the whole router.

use ez_protocol::InstanceId;

use super::{browser::Browser, *};
use crate::accounts::StaffRole;

/// The value of a hidden field.
fn hidden<'a>(body: &'a str, name: &str) -> &'a str {
    let field = format!("name=\"{name}\" value=\"");
    let start = body.find(&field).unwrap() + field.len();
    &body[start..start + body[start..].find('"').unwrap()]
}

#[tokio::test]
async fn an_operator_reads_what_comes_in_and_gives_a_part_back_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let operator = Browser::log_in(&shop.app, "operator@example.com", Some(StaffRole::Billing)).await;
        let empty = operator.get("/operator/revenue").await;
        assert!(empty.status == 200 && empty.body.contains("Nobody pays anything yet"), "{}", empty.body);

        let served = shop.served(1).await;
        let read = operator.get("/operator/revenue").await;
        assert!(
            read.status == 200 && read.body.contains("EUR") && read.body.contains("9.00"),
            "{}",
            read.body
        );
        let months = {
            let mut connection = shop.app.db.read().await.unwrap();
            billing::revenue_history(&mut connection, shop.app.clock.now()).await.unwrap()
        };
        let now = months[0].months.last().unwrap();
        assert_eq!((months.len(), now.monthly_minor, now.live), (1, 900, 1));

        let page = format!("/operator/billing/servers/{}", served.order.instance);
        let shown = operator.get(&page).await;
        assert_eq!(shown.status, 200);
        let (key, invoice) =
            (hidden(&shown.body, "key").to_owned(), hidden(&shown.body, "invoice").to_owned());
        let form = |amount: &str, reason: &str| {
            format!("key={key}&invoice={invoice}&amount={amount}&reason={reason}")
        };
        for (amount, reason, says) in
            [("much", "down", "such as 4.50"), ("4.50", "", "reason"), ("9.01", "down", "9.00")]
        {
            let refused = operator.send_form(&format!("{page}/refund"), &form(amount, reason)).await;
            assert!(refused.status == 422 && refused.body.contains(says), "{amount}: {}", refused.body);
            assert_eq!(hidden(&refused.body, "key"), key, "it is the same press");
        }
        for _ in 0..2 {
            let given = operator.send_form(&format!("{page}/refund"), &form("4,50", "down")).await;
            assert_eq!((given.status, given.location.as_str()), (303, page.as_str()));
        }
        shop.work().await;
        assert_eq!(shop.ledger(&served.order).returned, 450, "once");
        let credit = format!("key={key}&amount=1.00&reason=sorry");
        assert_eq!(operator.send_form(&format!("{page}/credit"), &credit).await.status, 303);
        assert!(shop.audited(&served.order).await.contains(&"payment.part_refunded".to_owned()));

        // Nobody else gives money away, and what is not there has no page.
        let customer = Browser::log_in(&shop.app, "somebody@example.com", None).await;
        let support = Browser::log_in(&shop.app, "support@example.com", Some(StaffRole::Support)).await;
        for other in [customer, support] {
            let form = form("1.00", "down");
            assert!(other.send_form(&format!("{page}/refund"), &form).await.status >= 400);
            assert!(other.get("/operator/revenue").await.status >= 400);
        }
        let nothing = format!("/operator/billing/servers/{}", served.order.id);
        assert_eq!(operator.get(&nothing).await.status, 404);
        assert_eq!(shop.ledger(&served.order).returned, 450);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_for_its_own_reason() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let operator = Browser::log_in(&shop.app, "operator@example.com", Some(StaffRole::Billing)).await;
        let served = shop.served(1).await;
        let page = format!("/operator/billing/servers/{}", served.order.instance);
        let opened = async || {
            let shown = operator.get(&page).await.body;
            (hidden(&shown, "key").to_owned(), hidden(&shown, "invoice").to_owned())
        };
        let refund = async |(key, invoice): &(String, String), amount: &str| {
            let form = format!("key={key}&invoice={invoice}&amount={amount}&reason=down");
            operator.send_form(&format!("{page}/refund"), &form).await
        };
        let first = opened().await;
        assert_eq!(refund(&first, "4.50").await.status, 303);
        let again = refund(&first, "3.00").await;
        assert_eq!(again.status, 422);
        assert!(again.body.contains("sent before with another amount"), "{}", again.body);
        let (key, _) = opened().await;
        let credit = format!("key={key}&amount=3.00&reason=sorry");
        assert_eq!(operator.send_form(&format!("{page}/credit"), &credit).await.status, 303);
        let second = opened().await;
        for (amount, says) in [
            ("4.51", format!("more than is left: at most {}", crate::web::written_money(450, "eur"))),
            ("2.00", format!("for this server: at most {}", crate::web::written_money(150, "eur"))),
        ] {
            let refused = refund(&second, amount).await;
            assert!(refused.status == 422 && refused.body.contains(&says), "{says}: {}", refused.body);
        }
        assert_eq!(refund(&second, "1.50").await.status, 303);
        assert_eq!(shop.ledger(&served.order).returned, 600);
    })
    .await;
}

#[tokio::test]
async fn a_gift_that_waits_for_our_key_is_not_to_be_entered_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let operator = Browser::log_in(&shop.app, "operator@example.com", Some(StaffRole::Billing)).await;
        let served = shop.served(1).await;
        let page = format!("/operator/billing/servers/{}", served.order.instance);
        let shown = operator.get(&page).await.body;
        let form = format!(
            "key={}&invoice={}&amount=4.50&reason=down",
            hidden(&shown, "key"),
            hidden(&shown, "invoice")
        );
        shop.stripe.state().locked_out = true;
        let told = operator.send_form(&format!("{page}/refund"), &form).await;
        assert_eq!((told.status, told.location.as_str()), (303, page.as_str()));
        assert!(told.said.contains("info.gift-later"), "{}", told.said);
        shop.stripe.state().locked_out = false;
        for _ in 0..3 {
            shop.lives(3 * MINUTE).await;
        }
        assert_eq!(shop.ledger(&served.order).returned, 450, "once");
    })
    .await;
}

/// Stripe's links to an invoice are good for some weeks, so none of them stands on a page that shows invoices of years.
#[tokio::test]
async fn an_invoice_is_shown_by_stripes_newest_link_to_whom_it_is_for() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
        let served = shop.served_to(&jane.who).await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let at = |invoice: &str, which: &str| format!("/billing/invoices/{invoice}/{which}");
        let (view, pdf) = (at(&invoice, "view"), at(&invoice, "pdf"));
        let page = jane.get("/billing").await.body;
        for path in [&view, &pdf] {
            assert!(page.contains(&format!("href=\"{path}\"")), "{page}");
        }
        assert!(!page.contains("https://invoice.example/"), "{page}");
        shop.stripe.state().fresh_links = true;
        for (path, leads_to) in [(&view, "read-1"), (&pdf, "read-2.pdf"), (&view, "read-3")] {
            let seen = jane.get(path).await;
            assert_eq!((seen.status, seen.location), (303, format!("https://invoice.example/{leads_to}")));
        }
        // Nobody else's, and nothing that is not there; nothing is asked for it.
        let read = || shop.stripe.count("GET", &format!("/invoices/{invoice}"));
        let before = read();
        let mallory = Browser::log_in(&shop.app, "mallory@example.com", None).await;
        assert_eq!((mallory.get(&view).await.status, mallory.get(&pdf).await.status), (404, 404));
        assert_eq!(jane.get(&at("in_none", "view")).await.status, 404);
        assert_eq!(read(), before);
        // Stripe is silent: said on the page it was asked from.
        shop.stripe.state().failures = vec![(500, false); 3];
        let seen = jane.get(&view).await;
        assert_eq!((seen.status, seen.location.as_str()), (303, "/billing"));

        // What is owed is paid there as well, and a receipt is good for as long as its mail is kept.
        let renewed = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.deliver("invoice.payment_failed", &renewed).await;
        shop.work().await;
        let to_pay = at(&renewed, "view");
        assert!(
            jane.get("/billing").await.body.contains(&format!("class=\"button primary\" href=\"{to_pay}\""))
        );
        shop.clock.advance(Duration::from_secs(60));
        shop.stripe.pay_invoice(&renewed);
        shop.deliver("invoice.paid", &renewed).await;
        shop.work().await;
        assert_eq!(shop.letter("payment-receipt").await["link"], shop.app.config.http.page(&to_pay));
    })
    .await;
}

#[tokio::test]
async fn who_ends_counts_on_the_day_of_the_end_and_not_of_the_wish() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let wished = shop.app.clock.now().as_secs();
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["cancel_at_period_end"] = serde_json::json!(true);
            subscription["canceled_at"] = serde_json::json!(wished);
        });
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        let ended = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            let now = shop.app.clock.now();
            let lately = billing::revenue(&mut connection, now).await.unwrap();
            let years = billing::revenue_history(&mut connection, now).await.unwrap();
            (lately[0].ended, years[0].months.iter().map(|month| month.ended).sum::<i64>())
        };
        assert_eq!(ended().await, (0, 0), "it is served still");
        shop.settles(59 * DAY).await;
        assert_eq!(shop.stripe.ends_with_period(&served.subscription), None);
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        shop.settles(DAY).await;
        assert_eq!(ended().await, (1, 1));
        shop.settles(30 * DAY).await;
        assert_eq!(ended().await, (0, 1), "that was more than a month ago");
    })
    .await;
}

#[tokio::test]
async fn who_pauses_has_not_left() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.settles(DAY).await;
        for (status, ended) in [("paused", 0), ("canceled", 1)] {
            shop.clock.advance(MINUTE);
            shop.stripe.change(&served.subscription, |subscription| subscription["status"] = status.into());
            shop.deliver("customer.subscription.updated", &served.subscription).await;
            shop.work().await;
            let mut connection = shop.app.db.read().await.unwrap();
            let lately = billing::revenue(&mut connection, shop.app.clock.now()).await.unwrap();
            assert_eq!((lately[0].live, lately[0].ended), (0, ended), "{status}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_ends_after_a_pause_has_left_once_and_then() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.settles(DAY).await;
        let read = async |status: &str| {
            shop.clock.advance(MINUTE);
            let now = shop.app.clock.now();
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["status"] = status.into();
                if status == "canceled" {
                    subscription["ended_at"] = serde_json::json!(now.as_secs());
                }
            });
            shop.deliver("customer.subscription.updated", &served.subscription).await;
            shop.work().await;
            let mut connection = shop.app.db.read().await.unwrap();
            let lately = billing::revenue(&mut connection, now).await.unwrap();
            let years = billing::revenue_history(&mut connection, now).await.unwrap();
            let sum = |read: fn(&billing::MonthRevenue) -> i64| years[0].months.iter().map(read).sum::<i64>();
            let (ended, lost) = (sum(|month| month.ended), sum(|month| month.lost_customers));
            (lately[0].ended, years[0].months.last().unwrap().paused, ended, lost)
        };
        assert_eq!(read("paused").await, (0, 1, 0, 0));
        // Longer than the month over which churn is counted.
        shop.settles(40 * DAY).await;
        assert_eq!(read("canceled").await, (1, 0, 1, 1), "it left now, not when it was paused");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_retired_unpaid_shows_when_its_disk_goes_and_leaves_no_alarm_behind() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        // Nobody stays logged in for as long as this takes.
        let queue = async |email: &str| {
            let operator = Browser::log_in(&shop.app, email, Some(StaffRole::Billing)).await;
            operator.get("/operator/billing").await.body
        };
        let served = shop.served(1).await;
        shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(11 * DAY).await;
        shop.lives(2 * DAY).await;
        shop.node_does(&served, 4, "stopped").await;
        let purge = shop.server(&served.order).await.purge_at.unwrap();
        let page = queue("first@example.com").await;
        assert!(page.contains("Disk deleted for good on"), "{page}");
        assert!(purge > shop.app.clock.now());
        let (at, id) = (shop.app.clock.now(), served.order.instance.to_string());
        let rings = shop.app.db.write(move |tx| {
            Box::pin(async move {
                let (kind, severity) = ("suspension_late", fleet::Severity::Warning);
                let alarm = fleet::alarms::New { kind, subject: &id, severity, node: None, detail: "late" };
                fleet::alarms::raise(tx, at, alarm).await
            })
        });
        rings.await.unwrap();
        shop.lives(3 * DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "purge");
        assert!(!shop.alarms().await.iter().any(|(kind, _)| kind == "suspension_late"));
        let page = queue("second@example.com").await;
        assert!(!page.contains("Disk deleted for good on"), "{page}");
    })
    .await;
}

#[tokio::test]
async fn services_that_have_ended_push_nobody_out_of_the_queue_nor_out_of_the_comparison() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let (at, order) = (shop.app.clock.now(), served.order.id);
        let written = shop.app.db.write(move |tx| {
            Box::pin(async move {
                // Its server was never told.
                sqlx::query(
                    "UPDATE billing_standings
                     SET stand = 'suspend', why = 'unpaid', since = $2, next_step = NULL, next_at = NULL
                     WHERE order_id = $1",
                )
                .bind(order.to_string())
                .bind(at.0)
                .execute(&mut *tx)
                .await?;
                for n in 0..1_001_u16 {
                    let mut seed = [7; 10];
                    seed[..2].copy_from_slice(&n.to_be_bytes());
                    let ended = OrderId::generate(at, seed).to_string();
                    let instance = InstanceId::generate(at, seed).to_string();
                    sqlx::query(
                        "INSERT INTO billing_standings (order_id, instance_id, account_id, stand, why, since, updated_at)
                         VALUES ($1, $2, $3, 'end', 'ended', $4, $4)",
                    )
                    .bind(&ended)
                    .bind(&instance)
                    .bind(customer(2).account_id.to_string())
                    .bind(at.0 + 1_000)
                    .execute(&mut *tx)
                    .await?;
                    sqlx::query(
                        "INSERT INTO billing_checkouts
                             (order_id, instance_id, account_id, email, description, price_id, stripe_price_id,
                              currency, amount_minor, attempt, state, created_at, updated_at)
                         VALUES ($1, $2, $3, 'x@example.com', 'S', 'p', 'price_x', 'eur', 900, 1, 'settled', $4, $4)",
                    )
                    .bind(&ended)
                    .bind(&instance)
                    .bind(customer(2).account_id.to_string())
                    .bind(at.0)
                    .execute(&mut *tx)
                    .await?;
                }
                Ok::<_, db::DbError>(())
            })
        });
        written.await.unwrap();
        let mut connection = shop.app.db.read().await.unwrap();
        let queue = billing::queue(&mut connection).await.unwrap();
        drop(connection);
        assert_eq!((queue.len(), queue[0].standing.order), (200, order));
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.wished(&served).await, Service::Suspended);
    })
    .await;
}

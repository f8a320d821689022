//! Two years of one customer, month by month, over leap day and clock changes: after each month the books agree.

use time::{Date, Month, OffsetDateTime};

use super::*;

/// The n-th month after a day, clamped to the month's last day as Stripe does it, in the same second of UTC.
fn months_after(anchor: UnixMillis, n: i32) -> UnixMillis {
    let start = OffsetDateTime::from_unix_timestamp(anchor.as_secs()).unwrap();
    let total = start.year() * 12 + i32::from(u8::from(start.month())) - 1 + n;
    let month = Month::try_from(u8::try_from(total.rem_euclid(12) + 1).unwrap()).unwrap();
    let (year, day) = (total.div_euclid(12), start.day());
    let date = Date::from_calendar_date(year, month, day.min(month.length(year))).unwrap();
    UnixMillis::from_secs(start.replace_date(date).unix_timestamp())
}

impl Shop {
    async fn until(&self, at: UnixMillis) {
        self.settles(at.since(self.app.clock.now())).await;
    }

    /// The node does what it was told last, if it has not.
    async fn node_keeps_up(&self, served: &Served, seq: &mut u64) {
        while self.told(&served.order).await.iter().any(|record| !record.state.is_final()) {
            let off = self.wished(served).await == Service::Suspended;
            *seq += 1;
            self.node_does(served, *seq, if off { "stopped" } else { "running" }).await;
        }
    }

    /// Money equals Stripe's: what our copy says was paid and returned is what Stripe has, and nothing differs.
    async fn books_agree(&self, served: &Served) {
        let report = billing::reconcile(&self.app).await.unwrap();
        assert_eq!(report.left, 0, "{report:?}");
        let mut connection = self.app.db.read().await.unwrap();
        let invoices = billing::invoices(&mut connection, served.order.account).await.unwrap();
        let paid: i64 = invoices
            .iter()
            .filter(|invoice| invoice.status == "paid")
            .map(|invoice| invoice.total_minor)
            .sum();
        assert_eq!(paid, self.ledger(&served.order).paid);
    }
}

#[tokio::test]
async fn two_years_of_a_customer_and_the_books_agree_each_month() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        // The last of January: each month is clamped, and February 2028 has 29 days.
        shop.clock.set(UnixMillis::from_secs(1_801_414_800));
        shop.passes(Duration::ZERO).await;
        let served = shop.served(1).await;
        let (anchor, mut seq) = (shop.app.clock.now(), 2);
        for month in 1..=24 {
            let (now, ends) = (months_after(anchor, month), months_after(anchor, month + 1));
            shop.until(now).await;
            let good = ![5, 9].contains(&month);
            let invoice = shop.stripe.renew(&served.subscription, now, good);
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["items"]["data"][0]["current_period_end"] = serde_json::json!(ends.as_secs());
            });
            let body =
                shop.stripe.event(if good { "invoice.paid" } else { "invoice.payment_failed" }, &invoice);
            // Every third month the webhook is lost, and Stripe's own list has to do.
            if month % 3 != 0 {
                shop.deliver_body(&body).await;
            }
            shop.settles(Duration::from_secs(6 * 60)).await;
            match month {
                5 => {
                    shop.settles(2 * DAY).await;
                    assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
                    shop.stripe.pay_invoice(&invoice);
                    shop.deliver("invoice.paid", &invoice).await;
                }
                9 => {
                    shop.settles(5 * DAY).await;
                    assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
                    shop.node_keeps_up(&served, &mut seq).await;
                    shop.stripe.pay_invoice(&invoice);
                    shop.deliver("invoice.paid", &invoice).await;
                }
                14 => {
                    let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
                    shop.deliver("charge.dispute.created", &dispute).await;
                    shop.work().await;
                    shop.node_keeps_up(&served, &mut seq).await;
                    assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
                    shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!("won"));
                    shop.deliver("charge.dispute.closed", &dispute).await;
                }
                18 => {
                    let refund = shop.stripe.give_back(&invoice, 100);
                    shop.deliver("refund.created", &refund).await;
                }
                _ => {}
            }
            shop.work().await;
            shop.node_keeps_up(&served, &mut seq).await;
            assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "month {month}");
            assert_eq!(shop.server(&served.order).await.state, InstanceState::Running, "month {month}");
            let next = shop.standing(&served).await.next.unwrap();
            assert_eq!(next, (billing::Step::Charge, ends), "month {month}");
            shop.books_agree(&served).await;
        }
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 25 * 900, returned: 100, running: 1 });
        assert_eq!(shop.letters_of("payment-receipt").await, 24);
    })
    .await;
}

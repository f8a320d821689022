//! What becomes of a bill for traffic alone: it is owed after its server's end, and nothing else hangs on it.

use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

impl Shop {
    /// A server whose traffic of January waits for the next invoice.
    async fn with_bill(db: Db) -> (Self, Served) {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives_until(CLOSED.plus(MINUTE)).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 12)));
        (shop, served)
    }

    /// The same, whose customer has cancelled and whose period is over: gives the draft of the last invoice.
    async fn with_last_bill(db: Db) -> (Self, Served, String) {
        let (shop, served) = Shop::with_bill(db).await;
        let order = &served.order;
        billing::cancel_at_period_end(&shop.app, order.account, order.id, true, "user:x").await.unwrap();
        shop.work().await;
        assert_eq!(shop.letters_of("server-ends").await, 1);
        shop.lives_until(BOUGHT.plus(30 * DAY)).await;
        let last = shop.stripe.ends_with_period(&served.subscription).unwrap();
        shop.told_of("customer.subscription.deleted", &served.subscription).await;
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Ended));
        shop.lives(HOUR).await;
        (shop, served, last)
    }

    async fn told_of(&self, kind: &str, object: &str) {
        self.deliver(kind, object).await;
        self.work().await;
    }
}

#[tokio::test]
async fn traffic_that_is_paid_an_hour_after_the_end_is_kept() {
    each_database(async |db| {
        let (shop, served, last) = Shop::with_last_bill(db).await;
        shop.stripe.charge(&last, true);
        shop.told_of("invoice.paid", &last).await;
        shop.lives(2 * DAY).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Invoiced, 12)));
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 912, returned: 0, running: 0 });
        assert!(!shop.rings_for("paid_after_end").await);
        assert_eq!((shop.letters_of("payment-receipt").await, shop.letters_of("refund-sent").await), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn traffic_that_is_not_paid_after_the_end_stays_owed_and_can_be_paid() {
    each_database(async |db| {
        let (shop, served, last) = Shop::with_last_bill(db).await;
        shop.stripe.charge(&last, false);
        shop.told_of("invoice.payment_failed", &last).await;
        // Whatever ends the server once more.
        billing::cancel_now(&shop.app, served.order.id).await.unwrap();
        shop.lives(5 * DAY).await;
        assert_eq!(shop.status_of(&last), "open");
        shop.stripe.pay_invoice(&last);
        shop.told_of("invoice.paid", &last).await;
        shop.lives(2 * DAY).await;
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 912, returned: 0, running: 0 });
        assert!(!shop.rings_for("paid_after_end").await);
    })
    .await;
}

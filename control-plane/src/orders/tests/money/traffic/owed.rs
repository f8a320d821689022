//! What becomes of a bill for traffic alone: it is owed after its server's end, and nothing else hangs on it.

use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);
const UNPAID: &str = "traffic_unpaid";

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
        let last = shop.ends_with_its_period(&served).await;
        (shop, served, last)
    }

    /// Its customer cancels, and the period comes to its end: gives the draft of the last invoice an hour later.
    async fn ends_with_its_period(&self, served: &Served) -> String {
        let order = &served.order;
        billing::cancel_at_period_end(&self.app, order.account, order.id, true, "user:x").await.unwrap();
        self.work().await;
        assert_eq!(self.letters_of("server-ends").await, 1);
        self.lives_until(BOUGHT.plus(30 * DAY)).await;
        let last = self.stripe.ends_with_period(&served.subscription).unwrap();
        self.told_of("customer.subscription.deleted", &served.subscription).await;
        assert_eq!(self.stands(served).await, (Stand::End, Why::Ended));
        self.lives(HOUR).await;
        last
    }

    /// A year's server, whose traffic of January is on an invoice of its own: gives that one's draft.
    async fn with_bill_apart(db: Db) -> (Self, Served, String) {
        let (shop, served) = Shop::with_traffic(db).await;
        shop.pays_for_a_year(&served).await;
        shop.node_counts(&served, january(), 1_001).await;
        shop.lives_until(CLOSED.plus(MINUTE)).await;
        let bill = shop.bill(&served, january()).await.unwrap();
        assert_eq!((bill.state, bill.amount_minor), (BillState::Invoiced, 12));
        (shop, served, bill.invoice.unwrap())
    }

    /// The newest letter about a payment that failed says that nothing is switched off.
    async fn letter_names_no_end(&self) {
        assert_eq!(self.letters_of("payment-failed").await, 1);
        let letter = self.letter("payment-failed").await;
        assert_eq!((&letter["until"], &letter["apart"]), (&json!(""), &json!(true)), "{letter}");
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

/// Stripe sends ten lines along with an invoice.
#[tokio::test]
async fn a_bill_whose_line_does_not_come_along_is_invoiced_all_the_same() {
    each_database(async |db| {
        let (shop, served) = Shop::with_bill(db).await;
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.stripe.change(&invoice, |invoice| {
            let lines = invoice["lines"]["data"].as_array_mut().unwrap();
            lines.retain(|line| line["metadata"]["traffic"].is_null());
            invoice["lines"]["has_more"] = json!(true);
        });
        shop.told_of("invoice.paid", &invoice).await;
        assert_eq!(shop.bill_state(&served).await, Some((BillState::Posted, 12)), "it was not seen");
        shop.lives(2 * HOUR).await;
        let bill = shop.bill(&served, january()).await.unwrap();
        assert_eq!((bill.state, bill.invoice), (BillState::Invoiced, Some(invoice)));
    })
    .await;
}

/// Not only traffic waits for an invoice: an item that somebody made in Stripe's dashboard does, and the rest of a plan change.
#[tokio::test]
async fn what_was_used_before_the_end_is_kept_and_what_reaches_beyond_it_goes_back() {
    let end = BOUGHT.plus(30 * DAY).as_secs();
    let (moment, rest, beyond) = ((end - 9, end - 9), (end - 86_400, end), (end - 86_400, end + 86_400));
    for (waiting, returned) in [([moment, rest], 0), ([moment, beyond], 1_012)] {
        each_database(async |db| {
            let (shop, served) = Shop::with_bill(db).await;
            for period in waiting {
                shop.stripe.item_waits(&served.subscription, 500, period);
            }
            let last = shop.ends_with_its_period(&served).await;
            // Within the second in which the end was brought about, a payment counts as one before it.
            shop.lives(MINUTE).await;
            shop.stripe.charge(&last, true);
            shop.told_of("invoice.paid", &last).await;
            shop.lives(2 * DAY).await;
            assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_912, returned, running: 0 });
            let found = shop.audited(&served.order).await.contains(&"payment.surplus_found".to_owned());
            assert_eq!(found, returned > 0);
            assert_eq!(shop.letters_of("payment-receipt").await, usize::from(returned == 0));
            assert_eq!(shop.bill_state(&served).await, Some((BillState::Invoiced, 12)));
        })
        .await;
    }
}

#[tokio::test]
async fn traffic_that_is_not_paid_after_the_end_stays_owed_and_can_be_paid() {
    each_database(async |db| {
        let (shop, served, last) = Shop::with_last_bill(db).await;
        shop.stripe.charge(&last, false);
        shop.told_of("invoice.payment_failed", &last).await;
        shop.letter_names_no_end().await;
        assert!(shop.rings_for(UNPAID).await);
        // Whatever ends the server once more.
        billing::cancel_now(&shop.app, served.order.id).await.unwrap();
        shop.lives(5 * DAY).await;
        assert_eq!(shop.status_of(&last), "open");
        shop.stripe.pay_invoice(&last);
        shop.told_of("invoice.paid", &last).await;
        shop.lives(2 * DAY).await;
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 912, returned: 0, running: 0 });
        assert!(!shop.rings_for("paid_after_end").await && !shop.rings_for(UNPAID).await);
    })
    .await;
}

#[tokio::test]
async fn a_bill_of_its_own_that_nobody_pays_switches_nothing_off_and_takes_no_grace_from_the_renewal() {
    each_database(async |db| {
        let (shop, served, bill) = Shop::with_bill_apart(db).await;
        shop.stripe.charge(&bill, false);
        shop.told_of("invoice.payment_failed", &bill).await;
        shop.letter_names_no_end().await;
        assert!(shop.rings_for(UNPAID).await);
        shop.lives(20 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        let link = async || shop.overview_of(&served).await.paying[0].pay_url.clone();
        let of_the_bill = link().await;
        assert!(of_the_bill.is_some(), "it can be paid");
        {
            let mut connection = shop.app.db.read().await.unwrap();
            let invoices = billing::invoices(&mut connection, served.order.account).await.unwrap();
            let listed = invoices.iter().find(|known| known.id == bill).unwrap();
            assert!(listed.status == "open" && listed.hosted_url.is_some(), "{listed:?}");
        }
        // Much later the renewal fails as well: its own day is day 0.
        let renewal = shop.renewal_fails(&served).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        assert_ne!(shop.letter("payment-failed").await["until"], "");
        assert_ne!(link().await, of_the_bill, "what is to be paid first is what the clock counts");
        shop.lives(2 * DAY).await;
        assert_eq!(shop.wished(&served).await, Service::Active);
        // Each is paid for itself.
        shop.stripe.pay_invoice(&bill);
        shop.told_of("invoice.paid", &bill).await;
        assert!(!shop.rings_for(UNPAID).await);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        shop.stripe.pay_invoice(&renewal);
        shop.told_of("invoice.paid", &renewal).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 900 + 12 + 900, returned: 0, running: 1 });
    })
    .await;
}

#[tokio::test]
async fn the_alarm_about_an_unpaid_bill_ends_when_it_is_given_up() {
    for word in ["void", "uncollectible"] {
        each_database(async |db| {
            let (shop, served, bill) = Shop::with_bill_apart(db).await;
            shop.stripe.charge(&bill, false);
            shop.told_of("invoice.payment_failed", &bill).await;
            assert!(shop.rings_for(UNPAID).await);
            shop.lives(HOUR).await;
            shop.stripe.change(&bill, |invoice| invoice["status"] = json!(word));
            shop.told_of("invoice.updated", &bill).await;
            assert!(!shop.rings_for(UNPAID).await, "{word}");
            assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "{word}");
        })
        .await;
    }
}

/// What was paid for a year and what its traffic cost are two things: the one's refund says nothing about the other.
#[tokio::test]
async fn a_refund_of_traffic_ends_no_year_and_traffic_that_stays_paid_keeps_none() {
    for (of_traffic, stand) in [(true, Stand::Run), (false, Stand::End)] {
        each_database(async |db| {
            let (shop, served, bill) = Shop::with_bill_apart(db).await;
            let bought = shop.stripe.latest_invoice(&served.subscription);
            shop.stripe.charge(&bill, true);
            shop.told_of("invoice.paid", &bill).await;
            assert_eq!(shop.letters_of("payment-receipt").await, 1);
            let (invoice, amount) = if of_traffic { (&bill, 12) } else { (&bought, 900) };
            let refund = shop.stripe.give_back(invoice, amount);
            shop.told_of("refund.created", &refund).await;
            assert_eq!(shop.standing(&served).await.stand, stand);
            let ledger = shop.ledger(&served.order);
            assert_eq!((ledger.paid, ledger.returned), (912, amount));
        })
        .await;
    }
}

//! An invoice that Stripe cannot make final charges nobody: somebody has to know.

use serde_json::{Value, json};

use super::*;

const ALARM: &str = "invoice_not_final";

impl Shop {
    /// A renewal whose invoice stays a draft because of this; Stripe tells it twice.
    async fn renewal_stays_a_draft(&self, served: &Served, error: Value) -> String {
        let invoice = self.stripe.renew(&served.subscription, self.app.clock.now(), false);
        self.stripe.change(&served.subscription, |subscription| subscription["status"] = json!("active"));
        self.stripe.change(&invoice, |invoice| {
            invoice["status"] = json!("draft");
            invoice["attempt_count"] = json!(0);
            invoice["status_transitions"] = json!({});
            invoice["last_finalization_error"] = error;
        });
        for _ in 0..2 {
            self.deliver("invoice.finalization_failed", &invoice).await;
            self.work().await;
            self.clock.advance(Duration::from_secs(1));
        }
        invoice
    }
}

#[tokio::test]
async fn a_renewal_that_lacks_an_address_rings_and_asks_its_customer_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let error = json!({
            "type": "invalid_request_error", "code": "customer_tax_location_invalid",
            "message": "The customer's location isn't recognized",
        });
        let invoice = shop.renewal_stays_a_draft(&served, error).await;
        let told = shop.alarms().await.into_iter().find(|(kind, _)| kind == ALARM).unwrap().1;
        assert!(told.contains(&invoice) && told.contains("location isn't recognized."), "{told}");
        assert_eq!(shop.letters_of("address-needed").await, 1);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        shop.lives(DAY).await;
        assert_eq!((shop.rings_for(ALARM).await, shop.letters_of("address-needed").await), (true, 1));

        shop.stripe.change(&invoice, |invoice| invoice["last_finalization_error"] = Value::Null);
        shop.stripe.charge(&invoice, true);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert!(!shop.rings_for(ALARM).await);
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 0, running: 1 });
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_cannot_be_made_for_another_reason_is_an_operators_alone() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_stays_a_draft(&served, json!({"code": "stripe_tax_inactive"})).await;
        assert!(shop.rings_for(ALARM).await);
        assert_eq!(shop.letters_of("address-needed").await, 0);
        // Somebody deletes the draft: Stripe does not know it any more.
        let body = shop.stripe.event("invoice.deleted", &invoice);
        shop.stripe.state().objects.remove(&invoice);
        shop.deliver_body(&body).await;
        shop.work().await;
        assert!(!shop.rings_for(ALARM).await);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_made_final_rings_no_longer_than_its_service_lasts() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_stays_a_draft(&served, json!({"code": "stripe_tax_inactive"})).await;
        assert!(shop.rings_for(ALARM).await);
        instances::delete(&shop.app, served.order.instance, "customer").await.unwrap();
        assert!(!shop.rings_for(ALARM).await, "with the service, whenever the invoice is read again");
        shop.deliver("invoice.updated", &invoice).await;
        shop.work().await;
        assert!(!shop.rings_for(ALARM).await);
    })
    .await;
}

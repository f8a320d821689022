//! Card networks' warnings that a payment is fraud.

use super::{browser::Browser, *};
use crate::accounts::StaffRole;

impl Shop {
    /// A card network calls the newest payment of a server fraud.
    fn warns_of_fraud(&self, served: &Served) {
        let intent = self.stripe.intent_of(&self.stripe.latest_invoice(&served.subscription));
        let warning = serde_json::json!({
            "id": "issfr_1", "object": "radar.early_fraud_warning", "actionable": true, "fraud_type": "misc",
            "payment_intent": intent, "created": self.app.clock.now().as_secs(),
        });
        self.stripe.state().objects.insert("issfr_1".into(), warning);
    }

    /// An earlier version rang for a warning as for a dispute.
    async fn rang_before(&self) {
        let at = self.app.clock.now();
        let rung = self.app.db.write(move |tx| {
            Box::pin(async move {
                let (kind, severity) = ("payment_disputed", fleet::Severity::Critical);
                let alarm = fleet::alarms::New {
                    kind,
                    subject: "issfr_1",
                    severity,
                    node: None,
                    detail: "Answer it.",
                };
                fleet::alarms::raise(tx, at, alarm).await
            })
        });
        rung.await.unwrap();
    }
}

#[tokio::test]
async fn a_warning_of_fraud_is_a_dispute_that_has_not_come_yet() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.warns_of_fraud(&served);
        for (actionable, stand) in [(true, Stand::Suspend), (false, Stand::Run)] {
            shop.stripe.change("issfr_1", |warning| warning["actionable"] = serde_json::json!(actionable));
            shop.deliver("radar.early_fraud_warning.updated", "issfr_1").await;
            shop.work().await;
            assert_eq!(shop.stands(&served).await.0, stand);
        }
    })
    .await;
}

/// Stripe calls a warning actionable for as long as its payment is neither refunded nor disputed.
#[tokio::test]
async fn a_warning_that_a_person_has_checked_holds_nobody_up_however_often_it_is_read_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let served = shop.served(1).await;
        shop.warns_of_fraud(&served);
        shop.rang_before().await;
        let told = async || {
            shop.clock.advance(Duration::from_secs(1));
            shop.deliver("radar.early_fraud_warning.updated", "issfr_1").await;
            shop.work().await;
            shop.stands(&served).await.0
        };
        assert_eq!(told().await, Stand::Suspend);
        let alarms = shop.alarms().await;
        let (_, detail) = alarms.iter().find(|(kind, _)| kind == "fraud_warning").unwrap();
        assert!(detail.contains("mark the warning (issfr_1) as checked"), "{detail}");
        assert!(!shop.rings_for("payment_disputed").await, "nobody can answer it");
        let another = PlaceRequest { hostname: "web-2".parse().unwrap(), ..shop.request(1) };
        assert!(matches!(place(&shop.app, another.clone()).await, Err(PlaceError::Disputed)));

        let checked = "/operator/billing/warnings/issfr_1/checked";
        let support = Browser::log_in(&shop.app, "support@example.com", Some(StaffRole::Support)).await;
        assert!(support.post(checked).await.status >= 400);
        let operator = Browser::log_in(&shop.app, "operator@example.com", Some(StaffRole::Billing)).await;
        assert!(operator.get("/operator/billing").await.body.contains(checked));
        shop.rang_before().await;
        for _ in 0..2 {
            let pressed = operator.post(checked).await;
            assert_eq!((pressed.status, pressed.location.as_str()), (303, "/operator/billing"));
        }
        assert_eq!(operator.post("/operator/billing/warnings/issfr_2/checked").await.status, 404);
        assert!(!operator.get("/operator/billing").await.body.contains(checked), "nothing is left to check");
        assert!(!shop.rings_for("payment_disputed").await);
        shop.rang_before().await;
        let audited = shop.audited(&served.order).await;
        assert_eq!(audited.iter().filter(|row| *row == "billing.warning_checked").count(), 1, "{audited:?}");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(told().await, Stand::Run, "Stripe says the same as before");
        assert!(!shop.rings_for("fraud_warning").await && !shop.rings_for("payment_disputed").await);
        place(&shop.app, another.clone()).await.unwrap();

        // The bank takes it back all the same.
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        shop.deliver("charge.dispute.created", &dispute).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
        assert!(matches!(place(&shop.app, another).await, Err(PlaceError::Disputed)));
    })
    .await;
}

/// With what our key may not read it is done without; what passes is read later.
#[tokio::test]
async fn a_warning_of_fraud_is_acted_on_although_its_charge_cannot_be_read() {
    for (status, minor) in [(403, 900), (500, 712)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            shop.warns_of_fraud(&served);
            let charge =
                serde_json::json!({"id": "ch_1", "object": "charge", "amount": 712, "currency": "eur"});
            shop.stripe.state().objects.insert("ch_1".into(), charge);
            shop.stripe.change("issfr_1", |warning| warning["charge"] = "ch_1".into());
            shop.stripe.state().unreadable = Some(("/charges", status));
            shop.deliver("radar.early_fraud_warning.updated", "issfr_1").await;
            shop.work().await;
            assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed), "{status}");
            assert!(shop.rings_for("fraud_warning").await, "{status}");
            assert!(!shop.rings_for("payment_news_parked").await, "{status}");
            shop.stripe.state().unreadable = None;
            shop.settles(MINUTE).await;
            let mut connection = shop.app.db.read().await.unwrap();
            let told = billing::disputes(&mut connection).await.unwrap();
            assert_eq!((told[0].amount_minor, told[0].currency.as_str()), (minor, "eur"), "{status}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_warning_of_fraud_shows_how_much_was_charged() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let served = shop.served(1).await;
        let operator = Browser::log_in(&shop.app, "operator@example.com", Some(StaffRole::Billing)).await;
        shop.warns_of_fraud(&served);
        // By the invoice that it paid for as long as the charge cannot be had; then by the charge, for good.
        let charge = serde_json::json!({"id": "ch_1", "object": "charge", "amount": 712, "currency": "eur"});
        for (named, there, minor) in
            [(false, false, 900), (true, false, 900), (true, true, 712), (true, false, 712)]
        {
            if there {
                shop.stripe.state().objects.insert("ch_1".into(), charge.clone());
            } else {
                shop.stripe.state().objects.remove("ch_1");
            }
            if named {
                shop.stripe.change("issfr_1", |warning| warning["charge"] = "ch_1".into());
            }
            shop.clock.advance(Duration::from_secs(1));
            shop.deliver("radar.early_fraud_warning.updated", "issfr_1").await;
            shop.work().await;
            let mut connection = shop.app.db.read().await.unwrap();
            let told = billing::disputes(&mut connection).await.unwrap();
            assert_eq!((told[0].amount_minor, told[0].currency.as_str()), (minor, "eur"), "{named} {there}");
            drop(connection);
            let page = operator.get("/operator/billing").await.body;
            assert!(page.contains(&crate::web::written_money(minor, "eur")), "{page}");
            assert_eq!(shop.stands(&served).await.0, Stand::Suspend, "the amount decides nothing");
        }
    })
    .await;
}

/// Whose the payment is stands in its own invoice; that another one cannot be read holds up no warning about it.
#[tokio::test]
async fn a_warning_of_fraud_is_acted_on_although_another_invoice_of_its_subscription_cannot_be_read() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.warns_of_fraud(&served);
        let newest = shop.renewal_fails(&served).await;
        shop.stripe.change(&newest, |invoice| invoice["status"] = serde_json::json!(7));
        shop.deliver("radar.early_fraud_warning.created", "issfr_1").await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await.0, Stand::Suspend);
        assert!(shop.rings_for("fraud_warning").await);
    })
    .await;
}

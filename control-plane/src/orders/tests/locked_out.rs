//! Stripe does not take our key (401, 403): what somebody is told who presses a button meanwhile.

use super::{browser::Browser, *};

#[tokio::test]
async fn a_button_that_needs_stripe_says_in_a_sentence_that_it_cannot_be_asked() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
        let wished = |n| PlaceRequest {
            account: jane.who.account_id,
            user: jane.who.user_id,
            email: jane.who.email.clone(),
            ..shop.request(n)
        };
        let opened = place(&shop.app, wished(1)).await.unwrap();
        let unopened = place(&shop.app, wished(2)).await.unwrap();
        pay(&shop.app, &opened).await.unwrap();
        shop.stripe.state().locked_out = true;
        for (order, button, said) in
            [(&unopened, "pay", "bad.stripe-away"), (&opened, "cancel", "bad.order-cancel-later")]
        {
            let told = jane.post(&format!("/orders/{}/{button}", order.id)).await;
            assert_eq!((told.status, told.location), (303, format!("/orders/{}", order.id)), "{button}");
            assert!(told.said.contains(said), "{button}: {}", told.said);
            assert_eq!(shop.order(order.id).await.state, OrderState::AwaitingPayment);
        }
        shop.stripe.state().locked_out = false;
        let told = jane.post(&format!("/orders/{}/pay", unopened.id)).await;
        assert!(told.location.starts_with("https://pay.example/"), "{}", told.location);
        jane.post(&format!("/orders/{}/cancel", opened.id)).await;
        assert_eq!(shop.order(opened.id).await.state, OrderState::Cancelled);
    })
    .await;
}

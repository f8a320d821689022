//! What cannot be read at Stripe: no step is taken without it, and nothing else waits for it.

use super::*;

#[tokio::test]
async fn the_clock_of_an_unpaid_server_waits_for_a_reading_of_its_day() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // Its day comes while Stripe takes no key of ours, and it is paid meanwhile.
        shop.stripe.state().locked_out = true;
        shop.lives(4 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        shop.stripe.pay_invoice(&invoice);
        // Whatever else has it judged, the copy is as old as before.
        let id = served.order.instance;
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        billing::unexempt(&shop.app, id, "operator:test").await.unwrap();
        shop.work().await;
        let standing = shop.standing(&served).await;
        assert_eq!((standing.stand, standing.why), (Stand::Run, Why::Grace));
        assert!(
            standing
                .next
                .is_some_and(|(step, at)| step == billing::Step::Suspend && at < shop.app.clock.now())
        );
        shop.stripe.state().locked_out = false;
        shop.settles(MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!((shop.letters_of("server-suspended").await, shop.given_up().await), (0, 0));
        assert_eq!(shop.wished(&served).await, Service::Active);
    })
    .await;
}

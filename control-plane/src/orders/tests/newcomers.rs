//! What accounts that never paid hold together.

use super::*;
use crate::config::Config;

impl Shop {
    /// A shop with room for nine servers where newcomers may hold so much.
    async fn guarded(db: Db, hold: u64, percent: u64) -> Self {
        let mut shop = Self::open(db, 9).await;
        let mut config = Config::for_tests().unwrap();
        config.orders.newcomers_hold = hold;
        config.orders.newcomers_hold_percent = percent;
        Arc::get_mut(&mut shop.app).unwrap().config = Arc::new(config);
        shop
    }

    async fn held_by_newcomers(&self) -> u64 {
        let mut connection = self.app.db.read().await.unwrap();
        newcomers_hold(&mut connection).await.unwrap()
    }
}

#[tokio::test]
async fn accounts_that_never_paid_hold_a_part_of_a_location_together_and_no_more() {
    // Eight places are left once one is sold: at least so many orders, or so many percent.
    for (hold, percent, fit) in [(2, 20, 2), (1, 50, 4)] {
        db::testing::each_database(async |db| {
            let shop = Shop::guarded(db, hold, percent).await;
            let (sold, session) = shop.pay_for(1).await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            assert_eq!(shop.order(sold.id).await.state, OrderState::Provisioning);
            assert_eq!(shop.held_by_newcomers().await, 0);

            let mut placed = Vec::new();
            for n in 0..fit {
                placed.push(place(&shop.app, shop.request(n + 2)).await.unwrap());
            }
            for n in [2, 9] {
                let refused = place(&shop.app, shop.request(n)).await.unwrap_err();
                assert!(matches!(refused, PlaceError::NewcomersFull), "{refused:?}");
            }
            assert_eq!(shop.held_by_newcomers().await, u64::from(fit));
            // A place that is given back is the next one's.
            assert!(cancel(&shop.app, &placed[0]).await.unwrap());
            place(&shop.app, shop.request(9)).await.unwrap();
            // Whoever has paid is no newcomer, and what they order next takes none of their part.
            place(&shop.app, shop.request(1)).await.unwrap();
            assert_eq!(shop.held_by_newcomers().await, u64::from(fit));
        })
        .await;
    }
}

#[tokio::test]
async fn newcomers_that_come_at_once_do_not_pass_the_bound_together() {
    db::testing::each_database(async |db| {
        let shop = Shop::guarded(db, 3, 0).await;
        let rush = (1..=8).map(|n| place(&shop.app, shop.request(n)));
        let placed = futures::future::join_all(rush).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(placed, 3);
    })
    .await;
}

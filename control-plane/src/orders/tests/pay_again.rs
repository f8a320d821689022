//! Pay again: the page of an order that ended unpaid orders the same once more.

use super::{browser::Browser, *};

impl Shop {
    /// An order of this person that ran out unpaid.
    async fn run_out(&self, who: &Browser) -> Order {
        let request = PlaceRequest {
            account: who.who.account_id,
            user: who.who.user_id,
            email: who.who.email.clone(),
            ..self.request(1)
        };
        let order = place(&self.app, request).await.unwrap();
        pay(&self.app, &order).await.unwrap();
        let session = self.session_of(&order).await;
        self.stripe.let_expire(&session);
        self.deliver("checkout.session.expired", &session).await;
        self.work().await;
        let order = self.order(order.id).await;
        assert_eq!(order.state, OrderState::Expired);
        order
    }

    async fn orders_of(&self, who: &Browser) -> Vec<Order> {
        let mut connection = self.app.db.read().await.unwrap();
        list(&mut connection, who.who.account_id).await.unwrap()
    }
}

#[tokio::test]
async fn an_order_that_ran_out_is_ordered_again_in_one_click_with_its_key() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 2).await;
        let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
        let ended = shop.run_out(&jane).await;
        let again = format!("/orders/{}/again", ended.id);
        assert!(jane.get(&format!("/orders/{}", ended.id)).await.body.contains(&again));

        // Pressed twice at once, it is ordered once, and both lead to the same payment page.
        let (one, two) = tokio::join!(jane.post(&again), jane.post(&again));
        assert_eq!((one.status, two.status), (303, 303));
        assert!(one.location.starts_with("https://pay.example/"), "{}", one.location);
        assert_eq!(one.location, two.location);
        let orders = shop.orders_of(&jane).await;
        assert_eq!(orders.len(), 2);
        let newer = orders.into_iter().find(|order| order.id != ended.id).unwrap();
        assert_eq!((newer.again_of, newer.state), (Some(ended.id), OrderState::AwaitingPayment));
        assert_eq!((newer.hostname.as_str(), newer.amount_minor), (ended.hostname.as_str(), 900));
        assert_eq!(shop.server(&newer).await.ssh_keys, [SSH_KEY]);
        let page = jane.get(&format!("/orders/{}", ended.id)).await.body;
        assert!(page.contains(&format!("/orders/{}", newer.id)) && !page.contains(&again), "it leads on");

        let session = shop.session_of(&newer).await;
        shop.stripe.pay(&session);
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(newer.id).await.state, OrderState::Provisioning);

        // The old order is nobody else's to repeat.
        let eve = Browser::log_in(&shop.app, "eve@example.com", None).await;
        assert_eq!(eve.post(&again).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_ordered_as_it_was_leads_to_the_create_page_with_its_choices() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 4).await;
    let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
    let ended = shop.run_out(&jane).await;
    let again = format!("/orders/{}/again", ended.id);
    let others = [(1, jane.who.account_id), (2, jane.who.account_id), (3, jane.who.account_id)];
    let mut unpaid = Vec::new();
    for (n, account) in others {
        unpaid.push(place(&shop.app, PlaceRequest { account, ..shop.request(n) }).await.unwrap());
    }
    let too_many = jane.post(&again).await;
    assert_eq!(too_many.status, 303);
    for choice in
        ["/servers/new?", "plan=s", "image=debian-13", "location=fsn", "interval=month", "hostname=web-1"]
    {
        assert!(too_many.location.contains(choice), "{}", too_many.location);
    }
    assert_eq!(shop.orders_of(&jane).await.len(), 4, "nothing was ordered");
    assert!(jane.get(&too_many.location).await.body.contains("value=\"web-1\""));

    // Sold out is said in the same way.
    cancel(&shop.app, &unpaid[0]).await.unwrap();
    for n in 4..=5 {
        place(&shop.app, shop.request(n)).await.unwrap();
    }
    assert!(jane.post(&again).await.location.starts_with("/servers/new?"));
}

#[tokio::test]
async fn only_an_order_that_ended_unpaid_can_be_repeated() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let jane = Browser::log_in(&shop.app, "jane@example.com", None).await;
    let request = PlaceRequest { account: jane.who.account_id, ..shop.request(1) };
    let open = place(&shop.app, request).await.unwrap();
    let answer = jane.post(&format!("/orders/{}/again", open.id)).await;
    assert!(answer.location.starts_with("/servers/new?"), "{}", answer.location);
    assert_eq!(shop.orders_of(&jane).await.len(), 1);
    assert!(!jane.get(&format!("/orders/{}", open.id)).await.body.contains("/again"));
}

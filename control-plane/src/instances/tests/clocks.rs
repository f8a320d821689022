//! Clocks that are wrong: the node's, and our own.

use ez_protocol::order::PowerVerb;

use super::*;

impl Farm {
    /// The node looks at a server, and its clock shows this.
    async fn looks(&self, id: InstanceId, power: &str, by_its_clock: UnixMillis) {
        let (at, node) = (self.app.clock.now(), self.node.id);
        let seen = [Seen { instance: id, power: power.into() }];
        self.app
            .db
            .write(move |tx| Box::pin(async move { observe(tx, at, by_its_clock, node, &seen).await }))
            .await
            .unwrap();
        self.work().await;
    }
}

#[tokio::test]
async fn what_a_node_says_of_orders_and_of_servers_is_compared_by_its_own_clock() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        farm.passes(Duration::from_secs(600)).await;
        // Its clock is 200 seconds behind.
        let shows = || farm.app.clock.now().minus(Duration::from_secs(200));
        let stop = farm.press(id, Verb::Power(PowerVerb::Stop)).await.unwrap();
        farm.node_says_at(order_of(&stop), EventKind::Succeeded, seen("stopped"), shows()).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Stopped);
        // Half a minute later somebody starts it on the host.
        farm.clock.advance(Duration::from_secs(30));
        farm.looks(id, "running", shows()).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Running, "it looked after it had stopped it");
        // And a clock that is ahead is no prophet.
        farm.looks(id, "stopped", farm.app.clock.now().plus(Duration::from_secs(3_600))).await;
        farm.clock.advance(Duration::from_secs(30));
        farm.looks(id, "running", farm.app.clock.now()).await;
        assert_eq!(farm.look(id).await.state, InstanceState::Running);
    })
    .await;
}

#[tokio::test]
async fn what_was_seen_while_our_clock_was_a_day_ahead_does_not_hide_a_day() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let right = farm.app.clock.now();
        farm.clock.advance(Duration::from_secs(24 * 3_600));
        farm.looks(id, "running", farm.app.clock.now()).await;
        farm.clock.set(right.plus(Duration::from_secs(60)));
        farm.looks(id, "stopped", farm.app.clock.now()).await;
        let now = farm.look(id).await;
        assert_eq!((now.state, now.observed_at), (InstanceState::Stopped, Some(farm.app.clock.now())));
    })
    .await;
}

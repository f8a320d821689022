//! A server that is called otherwise, and what operators do with its network.

use ez_protocol::{
    input::Hostname,
    order::{FirewallRules, Verdict},
};

use super::*;
use crate::fleet::testing::{host, read};

fn named(name: &str) -> Verb {
    Verb::Rename(Hostname::parse(name).unwrap())
}

fn limited(mbit: u32) -> Verb {
    Verb::Limit(Some(mbit.try_into().unwrap()))
}

impl Farm {
    /// What its page says about it, and what happened to it.
    async fn told_on_its_page(&self, id: InstanceId) -> (Vec<&'static str>, Vec<(String, String)>) {
        let instance = self.look(id).await;
        let now = self.app.clock.now();
        let page = read(&self.app, async |c| show::page(c, &instance, now, Default::default()).await).await;
        let notices = page.server.notices.iter().map(|notice| notice.code).collect();
        (notices, page.activity.into_iter().map(|line| (line.code, line.about)).collect())
    }
}

#[tokio::test]
async fn a_server_is_called_as_its_node_has_it_and_a_rename_that_fails_changes_nothing() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let renamed = farm.press(id, named("shop-1")).await.unwrap();
        assert_eq!(farm.spec(id).await.hostname.as_str(), "shop-1");
        assert_eq!(farm.look(id).await.hostname, "web-1", "the wish is not the truth");
        farm.node_says(order_of(&renamed), EventKind::Succeeded, seen("running")).await;
        assert_eq!(farm.look(id).await.hostname, "shop-1");
        let same = farm.press(id, named("SHOP-1")).await.unwrap_err();
        assert!(matches!(same, ActError::SoAlready), "{same:?}");

        let fails = farm.press(id, named("shop-2.example.com")).await.unwrap();
        farm.node_says(order_of(&fails), EventKind::Failed, seen("running")).await;
        assert_eq!(farm.look(id).await.hostname, "shop-1");
        // What comes later keeps the name that holds: a medium, another disk.
        farm.press(id, Verb::IsoAttach("netinst.iso".parse().unwrap())).await.unwrap();
        assert_eq!(farm.spec(id).await.hostname.as_str(), "shop-1");
        let told = farm.told(id).await.order_id;
        farm.node_says(told, EventKind::Succeeded, seen("running")).await;
        let (_, happened) = farm.told_on_its_page(id).await;
        let renames = happened.iter().filter(|(code, _)| code == "rename").map(|(_, about)| about.as_str());
        assert_eq!(renames.collect::<Vec<_>>(), ["shop-2.example.com", "shop-1"]);

        // One that had been given up and was done all the same.
        let late = farm.press(id, named("shop-3")).await.unwrap();
        farm.leaves(order_of(&late)).await;
        farm.passes(Duration::from_secs(8 * 60)).await;
        assert_eq!(farm.look(id).await.hostname, "shop-1");
        farm.node_says(order_of(&late), EventKind::Succeeded, seen("running")).await;
        assert_eq!(farm.look(id).await.hostname, "shop-3");
    })
    .await;
}

#[tokio::test]
async fn an_operators_limit_and_filter_hold_over_a_rebuild_and_another_plan_until_they_are_taken_back() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let instance = farm.server().await;
        let id = instance.id;
        let rules = FirewallRules { inbound: Verdict::Drop, rules: Vec::new() };
        farm.done(id, Verb::Firewall(Some(rules.clone())), seen("running")).await;
        let network = farm.press(id, limited(100)).await.unwrap();
        assert_eq!(farm.spec(id).await.network.rate_mbit, Some(100));
        farm.node_says(order_of(&network), EventKind::Succeeded, seen("running")).await;
        farm.press(id, Verb::Filter(false)).await.unwrap();
        let told = farm.spec(id).await.network;
        assert_eq!((told.firewall, told.rate_mbit), (false, Some(100)));
        assert_eq!(told.rules, None, "nothing looks at them");
        assert_eq!(
            farm.wishes(id).await.applied.firewall,
            Some(rules.clone()),
            "kept for when it is on again"
        );
        let order = farm.told(id).await.order_id;
        farm.node_says(order, EventKind::Succeeded, seen("running")).await;
        for again in [limited(100), Verb::Filter(false)] {
            let same = farm.press(id, again).await.unwrap_err();
            assert!(matches!(same, ActError::SoAlready), "{same:?}");
        }

        // Another plan says nothing of it, and its pages do.
        let (at, size) = (farm.app.clock.now(), Size { vcpu: 2, ..Size::of(&instance) });
        farm.app
            .db
            .write(move |tx| Box::pin(async move { resize(tx, at, id, &size, "customer").await }))
            .await
            .unwrap();
        farm.work().await;
        let spec = farm.spec(id).await;
        assert_eq!((spec.vcpus, spec.network.rate_mbit, spec.network.firewall), (2, Some(100), false));
        let order = farm.told(id).await.order_id;
        farm.node_says(order, EventKind::Succeeded, seen("running")).await;
        let (notices, _) = farm.told_on_its_page(id).await;
        assert!(notices.contains(&"network-limited") && notices.contains(&"unfiltered"), "{notices:?}");

        // What fails leaves what held; what is no limit takes it away.
        let fails = farm.press(id, limited(10)).await.unwrap();
        farm.node_says(order_of(&fails), EventKind::Failed, seen("running")).await;
        assert_eq!(farm.wishes(id).await.applied.rate_mbit.map(RateMbit::get), Some(100));
        farm.done(id, Verb::Limit(None), seen("running")).await;
        farm.done(id, Verb::Filter(true), seen("running")).await;
        let (notices, _) = farm.told_on_its_page(id).await;
        assert!(!notices.contains(&"network-limited") && !notices.contains(&"unfiltered"), "{notices:?}");
        farm.press(id, Verb::Rebuild(farm_image())).await.unwrap();
        let told = farm.spec(id).await.network;
        assert_eq!((told.firewall, told.rate_mbit, told.rules), (true, None, Some(rules)));
    })
    .await;
}

fn farm_image() -> ImageChoice {
    ImageChoice { code: "rocky-9".into(), digest: OTHER_IMAGE.into(), login_user: "rocky".into() }
}

#[tokio::test]
async fn a_suspended_servers_network_is_an_operators_and_its_name_nobodys() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let at = farm.app.clock.now();
        let wish = farm.app.db.write(move |tx| {
            Box::pin(async move { suspend(tx, at, id, "It sends spam.", "operator:test").await })
        });
        wish.await.unwrap();
        farm.work().await;
        let told = farm.told(id).await.order_id;
        farm.node_says(told, EventKind::Succeeded, seen("stopped")).await;
        let refused = farm.press(id, named("shop-1")).await.unwrap_err();
        assert!(matches!(refused, ActError::Suspended), "{refused:?}");
        farm.press(id, limited(10)).await.unwrap();
        let spec = farm.spec(id).await;
        assert_eq!(
            (spec.service, spec.network.rate_mbit),
            (ez_protocol::order::Service::Suspended, Some(10))
        );
    })
    .await;
}

#[test]
fn a_limit_is_a_whole_number_of_an_orders_range() {
    for text in ["1", " 250 ", "100000"] {
        assert!(text.parse::<RateMbit>().is_ok(), "{text}");
    }
    for text in ["0", "100001", "-1", "1.5", "", "fast"] {
        assert!(text.parse::<RateMbit>().is_err(), "{text}");
    }
    let stored: Result<RateMbit, _> = serde_json::from_str("0");
    assert!(stored.is_err(), "what is stored is checked as well");
}

#[tokio::test]
async fn the_disks_of_our_own_servers_are_not_taken_for_somebody_elses() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let (at, node) = (farm.app.clock.now(), farm.node.id);
        let filled = async |used_gib: u64| {
            let mut host = host(5);
            host.storages[0].used_mib = used_gib * 1_024;
            farm.app
                .db
                .write(move |tx| {
                    Box::pin(async move { fleet::reports::record_host(tx, at, node, &host).await })
                })
                .await
                .unwrap();
            read(&farm.app, async |c| fleet::node(c, node).await).await.unwrap().disk_gib
        };
        let empty = filled(0).await;
        let id = farm.server().await.id;
        // A clone takes its disk while its server is being built; where it got stuck, too.
        for state in ["provisioning", "needs_operator", "running"] {
            farm.set_state(id, state).await;
            let ours = filled(20).await;
            assert_eq!((ours.capacity, ours.sold), (empty.capacity, empty.sold + 20), "{state}");
        }
        // Whatever else lies there was not sold: a snapshot of ours, or another's disk.
        assert_eq!(filled(120).await.capacity, 3_705);
    })
    .await;
}

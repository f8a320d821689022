//! Another plan for a server: what is shown is what is billed, and the server follows what is paid, never a wish.

mod later;
mod meanwhile;
mod now;
mod outside;
mod people;

use ez_protocol::{
    envelope::{Envelope, PayloadType},
    order::{InstanceSpec, Op, ProvisioningOrder},
};

use super::*;
use crate::{
    billing::{Change, ChangeState, Way},
    fleet::Held,
    replan::{self, ReplanError},
};

/// What the shop sells in these stories, beside the small plan: a medium and a tiny one with the same disk, a large one with
/// a larger disk, and one with a smaller disk.
const PLANS: [(&str, u32, u32, u32, i64, i64); 5] = [
    ("s", 1, 4_096, 20, 900, 9_000),
    ("m", 2, 8_192, 20, 1_900, 19_000),
    ("l", 4, 16_384, 40, 3_900, 39_000),
    ("t", 1, 2_048, 20, 600, 6_000),
    ("xs", 1, 2_048, 10, 500, 5_000),
];

pub(super) fn price(plan: &str, interval: &str) -> String {
    format!("{plan}:{interval}:eur:v1")
}

/// What a plan takes from a node.
pub(super) fn size(plan: &str) -> Held {
    let (_, vcpu, memory_mib, disk_gib, ..) = PLANS.iter().copied().find(|known| known.0 == plan).unwrap();
    Held { vcpu, memory_mib, disk_gib }
}

impl Shop {
    /// The shop with more plans to sell.
    pub(super) async fn with_plans(db: Db, room: u64) -> Self {
        let shop = Self::open(db, room).await;
        let mut file = String::new();
        for (code, vcpu, memory, disk, month, year) in PLANS {
            file.push_str(&format!(
                "[[plans]]\ncode = \"{code}\"\nname = \"Plan {code}\"\nvcpu = {vcpu}\nmemory_mib = {memory}\ndisk_gib = {disk}\n\
                 traffic_gib = 1000\n[[plans.prices]]\ninterval = \"month\"\ncurrency = \"eur\"\namount_minor = {month}\n\
                 [[plans.prices]]\ninterval = \"year\"\ncurrency = \"eur\"\namount_minor = {year}\n"
            ));
        }
        catalog::apply_file(&shop.app, &file, "operator:test").await.unwrap();
        shop
    }

    /// A small server that runs, in the first second of a month that is paid.
    pub(super) async fn renting(&self, n: u8) -> Served {
        let (order, session) = self.pay_for(n).await;
        self.deliver("checkout.session.completed", &session).await;
        self.work().await;
        self.moves_in(n, order, &session).await
    }

    /// The n-th customer's server is built, and a paid month begins.
    pub(super) async fn moves_in(&self, n: u8, order: Order, session: &str) -> Served {
        // A node numbers what it says; each of its servers has its hundred here.
        let said = u64::from(n) * 100;
        self.node_says(&order, said, EventKind::Accepted, "").await;
        self.node_says(&order, said + 1, EventKind::Succeeded, "").await;
        self.work().await;
        let order = self.order(order.id).await;
        assert_eq!(order.state, OrderState::Fulfilled);
        let subscription = self.stripe.subscription_of(session);
        let served = Served { order, subscription };
        self.stripe.period_begins(&served.subscription, self.app.clock.now());
        self.hears(&served).await;
        served
    }

    /// Stripe tells of the subscription, and everything that follows is done.
    pub(super) async fn hears(&self, served: &Served) {
        self.stripe.set_clock(self.app.clock.now());
        self.deliver("customer.subscription.updated", &served.subscription).await;
        self.work().await;
    }

    pub(super) async fn previews(&self, served: &Served, price: &str) -> Result<Change, ReplanError> {
        let server = self.server(&served.order).await;
        replan::preview(&self.app, &server, price, "user:x", None).await
    }

    pub(super) async fn confirms(&self, change: &Change) -> Result<Change, ReplanError> {
        self.stripe.set_clock(self.app.clock.now());
        replan::confirm(&self.app, change.account, change.id, "user:x", None).await
    }

    pub(super) async fn change(&self, change: &Change) -> Change {
        let mut connection = self.app.db.read().await.unwrap();
        billing::change(&mut connection, change.id).await.unwrap().unwrap()
    }

    /// What the server's place holds of its node.
    pub(super) async fn holds(&self, served: &Served) -> Held {
        let mut connection = self.app.db.read().await.unwrap();
        fleet::held(&mut connection, served.order.instance).await.unwrap().unwrap()
    }

    /// What the server has.
    pub(super) async fn has(&self, served: &Served) -> (String, Held) {
        let server = self.server(&served.order).await;
        let has = Held { vcpu: server.vcpu, memory_mib: server.memory_mib, disk_gib: server.disk_gib };
        (server.plan_code, has)
    }

    /// The wished state that its node was told last.
    pub(super) async fn spec(&self, served: &Served) -> InstanceSpec {
        let told = self.told(&served.order).await.into_iter().filter(|record| record.verb == "ensure");
        let told = told.max_by_key(|record| record.seq).unwrap();
        let at = self.app.clock.now();
        let mut connection = self.app.db.read().await.unwrap();
        let due = dispatch::due(&mut connection, at, self.node.id, 100).await.unwrap();
        let bytes = &due.iter().find(|due| due.id == told.id).unwrap().envelope;
        let trusted = self.app.keys.trust().unwrap().trusted_keys().unwrap();
        let verified = Envelope::decode(bytes).unwrap().verify(PayloadType::Order, &trusted, at).unwrap();
        match ProvisioningOrder::from_bytes(&verified.payload).unwrap().op {
            Op::Ensure(spec) => *spec,
            other => panic!("{other:?}"),
        }
    }

    /// How often the node was told something.
    pub(super) async fn times_told(&self, served: &Served) -> usize {
        self.told(&served.order).await.len()
    }

    /// The node carries out what it was told last; where it runs, that takes effect with a restart.
    pub(super) async fn node_follows(&self, served: &Served, seq: u64, restart_needed: bool) {
        // What follows is told later than what it follows.
        self.passes(Duration::from_secs(1)).await;
        let newest = self.told(&served.order).await.into_iter().rfind(|record| !record.state.is_final());
        let newest = newest.expect("something that is under way");
        let event = Event {
            event_seq: seq,
            order_id: newest.id.to_string(),
            instance_id: served.order.instance.to_string(),
            at_ms: self.app.clock.now().0,
            kind: EventKind::Succeeded.into(),
            facts: Some(Facts {
                vmid: newest.vmid,
                power: "running".into(),
                restart_needed,
                ..Facts::default()
            }),
            generation: newest.generation,
            ..Event::default()
        };
        let (at, node) = (self.app.clock.now(), newest.node);
        self.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, at, node, &format!("journal-{node}"), &event).await?;
                    Ok::<_, db::DbError>(())
                })
            })
            .await
            .unwrap();
        self.work().await;
    }

    /// What is sold of the node is what its places hold, and no more than it has (I10).
    pub(super) async fn sold_is_held(&self) {
        let mut connection = self.app.db.read().await.unwrap();
        let node = fleet::node(&mut connection, self.node.id).await.unwrap().unwrap();
        let mut sum = (0, 0, 0);
        for id in fleet::placed_on(&mut connection, self.node.id).await.unwrap() {
            let held = fleet::held(&mut connection, id).await.unwrap().unwrap();
            sum.0 += u64::from(held.vcpu);
            sum.1 += u64::from(held.memory_mib);
            sum.2 += u64::from(held.disk_gib);
        }
        assert_eq!((node.vcpu.sold, node.memory_mib.sold, node.disk_gib.sold), sum);
        assert!(node.vcpu.sold <= node.vcpu.capacity && node.memory_mib.sold <= node.memory_mib.capacity);
        assert!(node.disk_gib.sold <= node.disk_gib.capacity);
    }

    /// What Stripe has on the customer's balance; above zero is owed.
    pub(super) fn balance_of(&self, served: &Served) -> i64 {
        let state = self.stripe.state();
        let customer = state.objects[&served.subscription]["customer"].as_str().unwrap();
        state.objects[customer]["balance"].as_i64().unwrap_or(0)
    }

    /// The newest invoice of the subscription, as Stripe has it: total and what was paid.
    pub(super) fn billed(&self, served: &Served) -> (i64, i64) {
        let invoice = self.stripe.latest_invoice(&served.subscription);
        let state = self.stripe.state();
        let invoice = &state.objects[&invoice];
        (invoice["total"].as_i64().unwrap(), invoice["amount_paid"].as_i64().unwrap())
    }
}

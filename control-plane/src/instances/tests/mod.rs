//! Stories of servers that are there: real database, real fleet and dispatch; the node's words are told by hand.

mod adopt;
mod api;
mod changes;
mod clocks;
mod ending;
mod kept;
mod listed;
mod otherwise;
mod suspension;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    AccountId, ActionId, InstanceId, OrderId, ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, PayloadType},
    message::{Event, EventKind, Facts},
    order::{InstanceSpec, Op, ProvisioningOrder},
};

use super::*;
use crate::{
    app::{App, job_registry},
    billing::stripe::testing::FakeStripe,
    catalog,
    clock::ManualClock,
    db::{self, Db},
    dispatch::{self, ProvisioningRecord},
    entropy::EntropyExt as _,
    fleet::{
        self,
        testing::{AT, IMAGE, OTHER_IMAGE, RESCUE_IMAGE, TestNode, locations, need, ready_node},
    },
    jobs,
};

const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl t";
/// Who presses the buttons.
const CUSTOMER: &str = "user:01890a5d-ac96-774b-bcce-b302099a8057";

/// One installation with a catalogue and a node.
pub(crate) struct Farm {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) node: TestNode,
    _stripe: FakeStripe,
    seq: AtomicU64,
}

impl Farm {
    pub(crate) async fn open(db: Db) -> Self {
        let stripe = FakeStripe::start().await;
        let (mut app, clock) = fleet::testing::services(db);
        Arc::get_mut(&mut app).unwrap().stripe = stripe.gate();
        locations(&app, 50).await;
        let file = format!(
            r#"
            images = [
                {{ code = "debian-13", name = "Debian 13", version = "13", digest = "{IMAGE}" }},
                {{ code = "rocky-9", name = "Rocky 9", version = "9", digest = "{OTHER_IMAGE}", login_user = "rocky" }},
                {{ code = "nowhere", name = "Nowhere", version = "1", digest = "sha256:{0}" }},
                {{ code = "rescue", name = "Rescue", version = "1", digest = "{RESCUE_IMAGE}", rescue = true }},
            ]
            isos = [{{ file = "netinst.iso", name = "Installer" }}]
            [[plans]]
            code = "s"
            name = "S"
            vcpu = 1
            memory_mib = 4096
            disk_gib = 20
            traffic_gib = 1000
            snapshots = 2
            backups = 3
            prices = [{{ interval = "month", currency = "eur", amount_minor = 900 }}]
            "#,
            "d".repeat(64)
        );
        catalog::apply_file(&app, &file, "operator:test").await.unwrap();
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        Self { app, clock, node, _stripe: stripe, seq: AtomicU64::new(0) }
    }

    /// A server of an account that its node has just built.
    pub(crate) async fn server_of(&self, account: AccountId) -> Instance {
        let at = self.app.clock.now();
        let bytes = |app: &App| app.entropy.bytes::<10>();
        let wanted = Instance {
            id: InstanceId::generate(at, bytes(&self.app)),
            account,
            order: OrderId::generate(at, bytes(&self.app)),
            hostname: "web-1".into(),
            location: "fsn".into(),
            plan_code: "s".into(),
            image_code: "debian-13".into(),
            image_digest: IMAGE.into(),
            login_user: "root".into(),
            vcpu: 1,
            memory_mib: 4_096,
            disk_gib: 20,
            max_snapshots: 2,
            max_backups: 3,
            ssh_keys: vec![SSH_KEY.into()],
            first_boot: Default::default(),
            state: InstanceState::Requested,
            reason: None,
            node: None,
            provisioning_order: None,
            attempts: 0,
            tried_nodes: Vec::new(),
            observed_state: None,
            observed_at: None,
            host_keys: Vec::new(),
            created_at: at,
            updated_at: at,
            assigned_at: None,
            built_at: None,
            usable_at: None,
            retired_at: None,
            purge_at: None,
            purged_at: None,
        };
        let (entropy, keys, id) = (self.app.entropy.clone(), self.app.keys.clone(), wanted.id);
        let built = self
            .app
            .db
            .write::<_, BuildError, _>(move |tx| {
                Box::pin(async move {
                    create(tx, &wanted).await?;
                    reserve(tx, at, entropy.as_ref(), wanted.id, &need(), &[], None).await.unwrap();
                    let assigned = assign(tx, at, entropy.as_ref(), wanted, "system").await;
                    let (instance, place) = assigned.unwrap();
                    issue_build(tx, &keys, at, entropy.as_ref(), instance, place, "system").await
                })
            })
            .await
            .unwrap();
        self.node_says(built.provisioning_order.unwrap(), EventKind::Succeeded, running()).await;
        let instance = self.look(id).await;
        assert_eq!(instance.state, InstanceState::Running);
        instance
    }

    /// The same for an account of its own.
    async fn server(&self) -> Instance {
        let account = AccountId::generate(AT, self.app.entropy.bytes());
        self.server_of(account).await
    }

    /// Puts a server into a state, whatever led there.
    async fn set_state(&self, id: InstanceId, state: &'static str) {
        let set = self.app.db.write(move |tx| {
            Box::pin(async move {
                let query = sqlx::query("UPDATE instances SET state = $1 WHERE id = $2");
                query.bind(state).bind(id.to_string()).execute(tx).await?;
                Ok::<_, db::DbError>(())
            })
        });
        set.await.unwrap();
    }

    async fn look(&self, id: InstanceId) -> Instance {
        let mut connection = self.app.db.read().await.unwrap();
        get(&mut connection, id).await.unwrap().unwrap()
    }

    async fn wishes(&self, id: InstanceId) -> Wishes {
        let instance = self.look(id).await;
        let mut connection = self.app.db.read().await.unwrap();
        wishes(&mut connection, &instance).await.unwrap()
    }

    async fn press(&self, id: InstanceId, verb: Verb) -> Result<ActionRow, ActError> {
        act(&self.app, id, verb, CUSTOMER, None).await
    }

    /// Presses a button, and the node does it.
    async fn done(&self, id: InstanceId, verb: Verb, facts: Facts) -> ActionRow {
        let action = self.press(id, verb).await.unwrap();
        self.node_says(order_of(&action), EventKind::Succeeded, facts).await;
        let action = self.action(action.id).await;
        assert_eq!(action.state, ActionState::Succeeded, "{action:?}");
        action
    }

    async fn action(&self, id: ActionId) -> ActionRow {
        let mut connection = self.app.db.read().await.unwrap();
        action(&mut connection, id).await.unwrap().unwrap()
    }

    async fn record(&self, id: ProvisioningOrderId) -> ProvisioningRecord {
        let mut connection = self.app.db.read().await.unwrap();
        dispatch::show(&mut connection, id).await.unwrap().unwrap()
    }

    /// The newest order about a server.
    async fn newest(&self, id: InstanceId) -> ProvisioningRecord {
        let mut connection = self.app.db.read().await.unwrap();
        let all = dispatch::history_of(&mut connection, id).await.unwrap();
        all.into_iter().max_by_key(|record| record.seq).unwrap()
    }

    /// The same as its node reads it, while it is on its way.
    async fn told(&self, id: InstanceId) -> ProvisioningOrder {
        let newest = self.newest(id).await;
        let mut connection = self.app.db.read().await.unwrap();
        let at = self.app.clock.now();
        let due = dispatch::due(&mut connection, at, self.node.id, 100).await.unwrap();
        let bytes = &due.iter().find(|due| due.id == newest.id).unwrap().envelope;
        let trusted = self.app.keys.trust().unwrap().trusted_keys().unwrap();
        let verified = Envelope::decode(bytes).unwrap().verify(PayloadType::Order, &trusted, at).unwrap();
        ProvisioningOrder::from_bytes(&verified.payload).unwrap()
    }

    /// What the newest order says a server shall be like.
    async fn spec(&self, id: InstanceId) -> InstanceSpec {
        match self.told(id).await.op {
            Op::Ensure(spec) => *spec,
            other => panic!("{other:?}"),
        }
    }

    /// The node says something about an order; whatever follows from it is done.
    async fn node_says(&self, order: ProvisioningOrderId, kind: EventKind, facts: Facts) {
        self.node_says_at(order, kind, facts, self.app.clock.now()).await;
    }

    /// The same, and the node's clock shows this.
    async fn node_says_at(
        &self,
        order: ProvisioningOrderId,
        kind: EventKind,
        facts: Facts,
        by_its_clock: UnixMillis,
    ) {
        let record = self.record(order).await;
        let event = Event {
            event_seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            order_id: order.to_string(),
            instance_id: record.instance.to_string(),
            at_ms: by_its_clock.0,
            kind: kind.into(),
            facts: kind.is_final().then_some(facts),
            generation: record.generation,
            ..Event::default()
        };
        let (at, node) = (self.app.clock.now(), record.node);
        self.app
            .db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move { dispatch::record(tx, at, node, "j1", &event).await })
            })
            .await
            .unwrap();
        self.work().await;
    }

    /// An order's bytes leave for the node.
    async fn leaves(&self, order: ProvisioningOrderId) {
        let at = self.app.clock.now();
        self.app
            .db
            .write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, order, 0).await }))
            .await
            .unwrap();
    }

    /// Runs what is due until nothing is left.
    async fn work(&self) {
        jobs::drain(&self.app, &job_registry()).await.unwrap();
    }

    /// Time passes, the node stays connected, and what is due is done.
    pub(crate) async fn passes(&self, time: Duration) {
        self.clock.advance(time);
        let at = self.app.clock.now();
        self.app
            .db
            .write(move |tx| Box::pin(async move { fleet::sessions::beat(tx, at, "p1").await }))
            .await
            .unwrap();
        jobs::arm_periodic(&self.app, &job_registry()).await.unwrap();
        self.work().await;
    }

    async fn alarms(&self) -> Vec<String> {
        let mut connection = self.app.db.read().await.unwrap();
        let all = fleet::alarms::list(&mut connection, 100).await.unwrap();
        all.into_iter().filter(|alarm| alarm.cleared_at.is_none()).map(|alarm| alarm.kind).collect()
    }
}

fn order_of(action: &ActionRow) -> ProvisioningOrderId {
    action.provisioning_order.unwrap()
}

fn seen(power: &str) -> Facts {
    Facts { power: power.into(), ..Facts::default() }
}

fn running() -> Facts {
    Facts { confirmed: true, host_keys: vec!["SHA256:abc (ED25519)".into()], ..seen("running") }
}

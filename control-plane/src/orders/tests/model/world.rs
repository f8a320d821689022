//! The installation, the world around it, and what each happening does to both: what [`customers`] do, what comes from
//! [`stripe`], what [`nodes`] and their operators do, and [`time`].

mod customers;
mod nodes;
mod stripe;
mod time;

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use ez_protocol::{InstanceId, OrderId, UnixMillis, envelope::TrustedKey};

use super::{host::Host, story::Happening};
use crate::{
    app::App,
    billing::{
        self,
        stripe::testing::{FakeStripe, State as StripeState},
    },
    clock::ManualClock,
    db::Db,
    dispatch,
    fleet::{self, NodeChange, testing::read},
    instances::{self, ActError, Instance, Verb},
    jobs::{self, JobRegistry},
    orders::{self, ExitError, Order, OrderState, again, look_at_payment, tests::Shop},
};

/// Most orders of one story; the fleet has room for four.
const MOST_ORDERS: usize = 6;

/// What every story begins with: an installation that has been set up.
pub(super) struct Beginning {
    pub(super) app: App,
    pub(super) clock: Arc<ManualClock>,
    pub(super) stripe: FakeStripe,
    books: StripeState,
    at: UnixMillis,
    nodes: Vec<(ez_protocol::NodeId, String, u64)>,
}

impl Beginning {
    /// Two nodes with room for two servers each, and six addresses.
    pub(super) async fn set_up(db: Db) -> Self {
        let shop = Shop::open_with(db, 2, 6).await;
        let second = fleet::testing::ready_node(&shop.app, "fsn-2", 5_000, 2).await;
        let nodes = vec![
            (shop.node.id, "fsn-1".to_owned(), shop.node.epoch),
            (second.id, "fsn-2".to_owned(), second.epoch),
        ];
        jobs::arm_periodic(&shop.app, &registry()).await.unwrap();
        let books = shop.stripe.state().clone();
        let at = shop.app.clock.now();
        Self { app: shop.app, clock: shop.clock, stripe: shop.stripe, books, at, nodes }
    }
}

/// The jobs of the slices the stories are about. Mail is written and not sent.
fn registry() -> JobRegistry {
    let mut registry = JobRegistry::default();
    billing::register_jobs(&mut registry);
    dispatch::register_jobs(&mut registry);
    instances::register_jobs(&mut registry);
    orders::register_jobs(&mut registry);
    registry.on("notify.deliver", |_app, _run| async { Ok(()) });
    registry
}

/// Everything there is.
pub(super) struct World {
    pub(super) app: App,
    url: String,
    pub(super) clock: Arc<ManualClock>,
    pub(super) stripe: FakeStripe,
    registry: JobRegistry,
    trusted: Vec<TrustedKey>,
    pub(super) hosts: Vec<Host>,
    pub(super) orders: Vec<OrderId>,
    /// Webhooks that have left Stripe and not arrived.
    in_flight: Vec<String>,
    /// How each object at Stripe stood when its last event was written.
    noted: BTreeMap<String, String>,
    lives: u64,
}

/// Something that must not be, in words.
pub(super) type Broken = String;

impl World {
    pub(super) async fn begin(beginning: &Beginning, url: String) -> Self {
        beginning.clock.set(beginning.at);
        *beginning.stripe.state() = beginning.books.clone();
        let app = beginning.app.on(Db::open(&url).await.unwrap(), 1_000);
        let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
        let mut world = Self {
            app,
            url,
            clock: beginning.clock.clone(),
            stripe: beginning.stripe.clone(),
            registry: registry(),
            trusted,
            hosts: beginning.nodes.iter().map(|(id, name, epoch)| Host::new(*id, name, *epoch)).collect(),
            orders: Vec::new(),
            in_flight: Vec::new(),
            noted: BTreeMap::new(),
            lives: 0,
        };
        world.stripe_notes();
        world.in_flight.clear();
        world
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.app.clock.now()
    }

    pub(super) async fn end(self) {
        self.app.db.close().await;
    }

    /// Lets something happen.
    pub(super) async fn happen(&mut self, what: &Happening) -> Result<(), Broken> {
        match what {
            Happening::Dies(effects, during) => {
                let (db, stripe) = (self.app.db.clone(), self.stripe.clone());
                let done = unless_dead(&db, &stripe, *effects, Box::pin(self.act(during))).await;
                drop(db);
                match done {
                    Some(done) => done?,
                    None => self.start_anew().await,
                }
            }
            other => Box::pin(self.act(other)).await?,
        }
        self.stripe_notes();
        Ok(())
    }

    /// Another process on the same database; the leases of the dead one run out.
    async fn start_anew(&mut self) {
        self.app.db.close().await;
        self.lives += 1;
        let db = Db::open(&self.url).await.unwrap();
        self.app = self.app.on(db, 1_000 + self.lives);
        jobs::let_leases_end(&self.app).await;
        // Whoever was placed while it died is in the books.
        let known = read(&self.app, async |c| orders::newest(c, None).await).await;
        for order in known.iter().rev() {
            if !self.orders.contains(&order.id) {
                self.orders.push(order.id);
            }
        }
    }

    async fn act(&mut self, what: &Happening) -> Result<(), Broken> {
        use Happening as H;
        match what {
            H::Orders(who) => self.orders_a_server(*who).await,
            H::OrdersAgain(n) => self.orders_again(*n).await,
            H::OpensPage(n) => self.opens_page(*n).await,
            H::Pays(n) => {
                if let Some(session) = self.session(*n, is_unpaid).await
                    && self.stripe.state().objects[&session]["status"] == "open"
                {
                    self.stripe.pay(&session);
                }
                Ok(())
            }
            H::PaysOnAnExpiredPage(n) => {
                if let Some(session) = self.session(*n, again::is_offered).await
                    && self.stripe.state().objects[&session]["status"] == "expired"
                {
                    self.stripe.pay(&session);
                }
                Ok(())
            }
            H::PaysOnASecondPage(n) => {
                if let Some(session) = self.session(*n, |_| true).await {
                    let second = self.stripe.second_page(&session);
                    self.stripe.pay(&second);
                }
                Ok(())
            }
            H::ComesBack(n) => {
                if let Some(order) = self.order(*n, is_unpaid).await {
                    look_at_payment(&self.app, &order).await;
                }
                Ok(())
            }
            H::Cancels(n) => self.cancels(*n).await,
            H::Deletes(n) => self.deletes(*n).await,
            H::Presses(n, verb) => {
                let Some(server) = self.server(*n).await else { return Ok(()) };
                match instances::act(&self.app, server.id, Verb::Power(*verb), "customer", None).await {
                    Ok(_)
                    | Err(
                        ActError::DoesNotFit { .. }
                        | ActError::Busy(_)
                        | ActError::Issue(_)
                        | ActError::Suspended
                        | ActError::NeedsRebuild,
                    ) => Ok(()),
                    Err(error) => Err(format!("a button answered {error:?}")),
                }
            }
            H::Changes(n) => self.cares(*n, false).await,
            H::Rebuilds(n) => self.cares(*n, true).await,
            H::Suspends(n) => self.suspends(*n, true).await,
            H::Resumes(n) => self.suspends(*n, false).await,
            H::Webhook(n, times) => {
                let Some(at) = nth(*n, self.in_flight.len()) else { return Ok(()) };
                let body = self.in_flight.remove(at);
                for _ in 0..*times {
                    self.deliver(&body).await?;
                }
                Ok(())
            }
            H::WebhookLost(n) => {
                if let Some(at) = nth(*n, self.in_flight.len()) {
                    self.in_flight.remove(at);
                }
                Ok(())
            }
            H::RefundsWill(end) => {
                self.stripe.state().refunds_end = Some(end);
                Ok(())
            }
            H::StripeBreaks(calls, after) => {
                self.stripe.state().failures = vec![(500, *after); *calls];
                Ok(())
            }
            H::Takes(node, line) => self.takes(*node, *line).await,
            H::WillRefuse(node, code) => {
                self.host(*node).refuses = Some(code);
                Ok(())
            }
            H::Works(node, outcome) => {
                let now = self.now();
                self.host(*node).work(*outcome, now);
                Ok(())
            }
            H::Tells(node, all) => self.tells(*node, *all).await,
            H::Reports(node) => self.reports(*node).await,
            H::GuestStops(n) => {
                if let Some(server) = self.server(*n).await {
                    let vms = self.hosts.iter_mut().filter_map(|host| host.vms.get_mut(&server.id));
                    vms.for_each(|vm| vm.running = false);
                }
                Ok(())
            }
            H::Retries(n) => {
                let Some(order) = self.order(*n, waits).await else { return Ok(()) };
                tolerate(orders::retry(&self.app, order.id, "operator:test").await)
            }
            H::RePlaces(n) => self.leaves(*n, false).await,
            H::Abandons(n) => self.leaves(*n, true).await,
            H::Refunds(n) => {
                let Some(order) = self.order(*n, waits).await else { return Ok(()) };
                tolerate(orders::refund(&self.app, order.id, "operator:test").await)
            }
            H::Cordons(node) => self.change(*node, NodeChange::Cordon).await,
            H::Uncordons(node) => self.change(*node, NodeChange::Uncordon).await,
            H::Revokes(node) => {
                // It is taken out of service in good order: it says what it has to say.
                self.tells(*node, false).await?;
                self.change(*node, NodeChange::Revoke).await
            }
            H::JobsRun => {
                jobs::drain(&self.app, &self.registry).await.map_err(|error| format!("jobs: {error:?}"))?;
                Ok(())
            }
            H::Passes(seconds) => self.passes(Duration::from_secs(*seconds)).await,
            H::Dies(..) => Ok(()),
        }
    }

    /// The n-th order of a kind, or of all if there is none of that kind.
    async fn order(&self, n: usize, which: impl Fn(&Order) -> bool) -> Option<Order> {
        let all = read(&self.app, async |c| {
            let mut all = Vec::new();
            for id in &self.orders {
                all.extend(orders::get(c, *id).await?);
            }
            Ok(all)
        })
        .await;
        let fitting: Vec<&Order> = all.iter().filter(|order| which(order)).collect();
        let from = if fitting.is_empty() { all.iter().collect() } else { fitting };
        nth(n, from.len()).map(|at| from[at].clone())
    }

    /// The n-th server that lives, or of all if none does.
    async fn server(&self, n: usize) -> Option<Instance> {
        let order = self.order(n, |order| order.state == OrderState::Fulfilled).await?;
        read(&self.app, async |c| instances::get(c, order.instance).await).await
    }

    /// What stands on any node, revoked or not: (host, server).
    pub(super) fn standing(&self) -> Vec<(&Host, InstanceId)> {
        self.hosts.iter().flat_map(|host| host.vms.keys().map(move |id| (host, *id))).collect()
    }
}

fn is_unpaid(order: &Order) -> bool {
    order.state == OrderState::AwaitingPayment
}

fn waits(order: &Order) -> bool {
    order.state == OrderState::NeedsOperator
}

fn nth(n: usize, of: usize) -> Option<usize> {
    (of > 0).then(|| n % of)
}

/// An exit may be refused; it may not break.
fn tolerate(done: Result<Order, ExitError>) -> Result<(), Broken> {
    match done {
        Err(ExitError::Db(error)) => Err(format!("an exit answered {error:?}")),
        _ => Ok(()),
    }
}

/// Runs something until so many commits and calls to Stripe have taken effect; then its process is dead.
async fn unless_dead<T>(
    db: &Db,
    stripe: &FakeStripe,
    effects: usize,
    action: impl Future<Output = T>,
) -> Option<T> {
    let count = || {
        let commits = db.counters().commits.load(Ordering::Relaxed);
        usize::try_from(commits).unwrap() + stripe.state().calls.len()
    };
    let last = count() + effects;
    let mut action = pin!(action);
    std::future::poll_fn(|cx| {
        if count() >= last {
            return Poll::Ready(None);
        }
        action.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A copy of a database that was set up.
pub(super) fn copy(of: &Path, to: &Path) -> String {
    std::fs::copy(of, to).unwrap();
    format!("sqlite:{}", to.display())
}

/// The books of Stripe about an order.
pub(super) fn ledger(world: &World, order: OrderId) -> crate::billing::stripe::testing::Ledger {
    world.stripe.state().ledger(&order.to_string())
}

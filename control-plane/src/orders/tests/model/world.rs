//! The installation, the world around it, and what each happening does to both.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use ez_protocol::{
    InstanceId, OrderId, UnixMillis,
    envelope::TrustedKey,
    message::OrderAnswer,
    order::{FirewallRules, Verdict},
};
use serde_json::json;

use super::{
    host::{Host, Outcome},
    story::{Happening, Line},
};
use crate::{
    accounts::Principal,
    app::App,
    billing::{
        self,
        stripe::testing::{FakeStripe, State as StripeState, sign},
    },
    clock::ManualClock,
    db::{Db, DbError},
    dispatch,
    fleet::{self, NodeChange, NodeState, reports, sessions, testing::read},
    instances::{self, ActError, EndError, Instance, SuspendError, Verb},
    jobs::{self, JobRegistry},
    orders::{
        self, ExitError, Order, OrderState, PlaceError, again, cancel, look_at_payment, pay, place,
        tests::{Shop, customer, request},
    },
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

    // ---- customers ------------------------------------------------------------------------------

    async fn orders_a_server(&mut self, who: usize) -> Result<(), Broken> {
        if self.orders.len() >= MOST_ORDERS {
            return Ok(());
        }
        let who = u8::try_from(who).unwrap() + 1;
        let request = request(who);
        match place(&self.app, request).await {
            Ok(order) => {
                self.orders.push(order.id);
                match pay(&self.app, &order).await {
                    Err(billing::BillingError::Db(error)) => Err(format!("opening a page: {error:?}")),
                    _ => Ok(()),
                }
            }
            Err(PlaceError::NoPlace(_) | PlaceError::TooManyUnpaid) => Ok(()),
            Err(error) => Err(format!("placing an order answered {error:?}")),
        }
    }

    async fn orders_again(&mut self, n: usize) -> Result<(), Broken> {
        let ended = self.order(n, again::is_offered).await;
        let Some(order) = ended.filter(|_| self.orders.len() < MOST_ORDERS) else { return Ok(()) };
        let me = Principal { user_id: order.user, account_id: order.account, ..customer(0) };
        match again::again(&self.app, &order, &me).await {
            Ok(Some(next)) => {
                if !self.orders.contains(&next.id) {
                    self.orders.push(next.id);
                }
                let _page = pay(&self.app, &next).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(format!("ordering again answered {error:?}")),
        }
    }

    async fn opens_page(&mut self, n: usize) -> Result<(), Broken> {
        let Some(order) = self.order(n, is_unpaid).await else { return Ok(()) };
        match pay(&self.app, &order).await {
            Err(billing::BillingError::Db(error)) => Err(format!("opening a page: {error:?}")),
            _ => Ok(()),
        }
    }

    async fn cancels(&mut self, n: usize) -> Result<(), Broken> {
        let Some(order) = self.order(n, is_unpaid).await.filter(is_unpaid) else { return Ok(()) };
        match cancel(&self.app, &order).await {
            Err(billing::BillingError::Db(error)) => Err(format!("cancelling: {error:?}")),
            _ => Ok(()),
        }
    }

    async fn deletes(&mut self, n: usize) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        match instances::delete(&self.app, server.id, "customer").await {
            Ok(_) | Err(EndError::DoesNotFit(_) | EndError::Billing(_)) => Ok(()),
            Err(error) => Err(format!("deleting answered {error:?}")),
        }
    }

    // ---- Stripe -------------------------------------------------------------------------------------

    async fn session(&self, n: usize, which: impl Fn(&Order) -> bool) -> Option<String> {
        let order = self.order(n, which).await?;
        read(&self.app, async |c| billing::checkout_of(c, order.id).await).await?.session_id
    }

    async fn deliver(&self, body: &str) -> Result<(), Broken> {
        let secret = self.app.config.stripe.webhook_secrets[0].expose().to_owned();
        let header = sign(body, &secret, self.now());
        let stored = billing::intake(&self.app, body.as_bytes(), Some(&header)).await;
        stored.map(|_| ()).map_err(|error| format!("a webhook was answered with {error:?}"))
    }

    /// Stripe writes an event about everything that has changed and sends it off.
    fn stripe_notes(&mut self) {
        let mut changed = Vec::new();
        for (id, object) in &self.stripe.state().objects {
            let word = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let kind = match word("object").as_str() {
                "checkout.session" => format!("checkout.session.{}", word("status")),
                "subscription" => format!("customer.subscription.{}", word("status")),
                "invoice" => format!("invoice.{}", word("status")),
                "refund" => format!("refund.{}", word("status")),
                _ => continue,
            };
            let stands = format!("{kind} {}", word("payment_status"));
            if self.noted.get(id) != Some(&stands) && kind != "checkout.session.open" {
                changed.push((kind, id.clone()));
            }
            self.noted.insert(id.clone(), stands);
        }
        for (kind, id) in changed {
            self.in_flight.push(self.stripe.event(&kind, &id));
        }
    }

    fn stripe_clock(&mut self) {
        let now = self.now().as_secs();
        let over: Vec<String> = self
            .stripe
            .state()
            .objects
            .values()
            .filter(|o| o["object"] == "checkout.session" && o["status"] == "open")
            .filter(|o| o["expires_at"].as_i64().is_some_and(|end| end <= now))
            .map(|o| o["id"].as_str().unwrap().to_owned())
            .collect();
        over.iter().for_each(|session| self.stripe.let_expire(session));
        self.stripe_notes();
    }

    /// Refunds that were on their way arrive.
    fn refunds_arrive(&mut self) {
        let mut state = self.stripe.state();
        state.refunds_end = None;
        state.failures.clear();
        for object in state.objects.values_mut() {
            if object["object"] == "refund" && object["status"] == "pending" {
                object["status"] = json!("succeeded");
            }
        }
    }

    // ---- nodes --------------------------------------------------------------------------------------

    fn host(&mut self, node: usize) -> &mut Host {
        let count = self.hosts.len();
        &mut self.hosts[node % count]
    }

    async fn takes(&mut self, node: usize, line: Line) -> Result<(), Broken> {
        let at = node % self.hosts.len();
        let (id, now) = (self.hosts[at].id, self.now());
        if self.hosts[at].gone {
            return Ok(());
        }
        let due = read(&self.app, async |c| dispatch::due(c, now, id, 8).await).await;
        for delivery in due {
            let (order, attempts) = (delivery.id, delivery.attempts);
            let left = self
                .app
                .db
                .write(move |tx| Box::pin(async move { dispatch::leaving(tx, now, order, attempts).await }))
                .await;
            match left {
                Ok(()) => {}
                Err(DbError::NotFound) => continue,
                Err(error) => return Err(format!("sending an order: {error:?}")),
            }
            if line == Line::OrderLost {
                continue;
            }
            let answer = self.hosts[at].judge(&delivery.envelope, &self.trusted, now);
            if line == Line::Good {
                self.answered(id, order, answer).await?;
            }
        }
        Ok(())
    }

    async fn answered(
        &self,
        node: ez_protocol::NodeId,
        order: ez_protocol::ProvisioningOrderId,
        answer: OrderAnswer,
    ) -> Result<(), Broken> {
        let now = self.now();
        let stored = self
            .app
            .db
            .write(move |tx| {
                Box::pin(async move { dispatch::record_answer(tx, now, node, order, &answer).await })
            })
            .await;
        stored.map_err(|error| format!("storing an answer: {error:?}"))
    }

    async fn tells(&mut self, node: usize, all: bool) -> Result<(), Broken> {
        let now = self.now();
        let host = self.host(node);
        if host.gone {
            return Ok(());
        }
        let (id, journal, events) = (host.id, host.journal(), host.speak(all));
        for event in events {
            let (journal, seq) = (journal.clone(), event.event_seq);
            let stored = self.app.db.write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, now, id, &journal, &event).await?;
                    reports::events_stored(tx, id, &journal, event.event_seq).await
                })
            });
            stored.await.map_err(|error: DbError| format!("storing an event: {error:?}"))?;
            self.host(node).heard(seq);
        }
        Ok(())
    }

    async fn reports(&mut self, node: usize) -> Result<(), Broken> {
        let now = self.now();
        let host = self.host(node);
        if host.gone {
            return Ok(());
        }
        let (id, seen) = (host.id, host.look());
        let stored = self.app.db.write(move |tx| {
            Box::pin(async move {
                reports::hold(tx, id).await?;
                reports::record_instances(tx, now, id, &seen, now).await
            })
        });
        stored.await.map_err(|error: DbError| format!("storing a report: {error:?}"))
    }

    async fn change(&mut self, node: usize, change: NodeChange) -> Result<(), Broken> {
        let at = node % self.hosts.len();
        let name = self.hosts[at].name.clone();
        // What makes no sense is refused; that is no part of these stories.
        let _changed = fleet::change_node(&self.app, "operator:test", &name, change).await;
        let id = self.hosts[at].id;
        let row = read(&self.app, async |c| fleet::node(c, id).await).await;
        if row.is_some_and(|row| row.state == NodeState::Revoked) {
            self.hosts[at].leave();
        }
        Ok(())
    }

    // ---- operators ----------------------------------------------------------------------------------

    /// The ways out that give the place up. As on the operator's page: what may still be built is put out of reach
    /// by the same click, and then somebody goes there and looks.
    async fn leaves(&mut self, n: usize, for_good: bool) -> Result<(), Broken> {
        let Some(order) = self.order(n, waits).await.filter(waits) else { return Ok(()) };
        let server = read(&self.app, async |c| instances::get(c, order.instance).await).await.unwrap();
        let now = self.now();
        let may_act =
            read(&self.app, async |c| Ok(dispatch::builds_at(c, now, server.id, server.node).await?.nodes()))
                .await;
        for at in 0..self.hosts.len() {
            if may_act.contains(&self.hosts[at].id) {
                self.change(at, NodeChange::Revoke).await?;
                self.hosts[at].wipe(server.id);
            }
        }
        let revoked = !may_act.is_empty();
        if for_good {
            tolerate(orders::abandon(&self.app, order.id, "operator:test", revoked).await)
        } else {
            tolerate(orders::re_place(&self.app, order.id, "operator:test", revoked).await)
        }
    }

    // ---- time ---------------------------------------------------------------------------------------

    async fn passes(&mut self, span: Duration) -> Result<(), Broken> {
        let then = self.now().plus(span);
        // Whoever took an order says so before its end and the clocks' tolerance are over, or starts nothing: an agent
        // waits for the acknowledgement.
        for at in 0..self.hosts.len() {
            let latest = self.hosts[at].must_speak_before();
            if latest.is_some_and(|exp| exp.plus(ez_protocol::order::CLOCK_TOLERANCE) <= then) {
                self.tells(at, false).await?;
            }
        }
        self.clock.set(then);
        self.stripe_clock();
        let beat = self.app.db.write(move |tx| Box::pin(async move { sessions::beat(tx, then, "p1").await }));
        beat.await.map_err(|error: DbError| format!("a beat: {error:?}"))
    }

    /// Everything that works, works, for so long: no more faults, and time passes.
    pub(super) async fn quiet(&mut self, long: Duration, step: Duration) -> Result<(), Broken> {
        self.refunds_arrive();
        self.stripe_notes();
        let until = self.now().plus(long);
        for at in 0..self.hosts.len() {
            self.hosts[at].refuses = None;
            self.change(at, NodeChange::Uncordon).await?;
        }
        loop {
            self.settle().await?;
            if self.now() >= until {
                return Ok(());
            }
            self.passes(step).await?;
        }
    }

    /// Whatever can happen without time, happens.
    async fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..40 {
            for body in std::mem::take(&mut self.in_flight) {
                self.deliver(&body).await?;
            }
            let ran = jobs::drain(&self.app, &self.registry).await.map_err(|e| format!("jobs: {e:?}"))?;
            let mut busy = false;
            for at in 0..self.hosts.len() {
                self.takes(at, Line::Good).await?;
                let now = self.now();
                while self.hosts[at].is_busy() {
                    self.hosts[at].work(Outcome::Succeeds, now);
                    busy = true;
                }
                busy |= self.hosts[at].is_bursting();
                self.tells(at, false).await?;
                self.reports(at).await?;
            }
            self.stripe_notes();
            if !busy && ran == 0 && self.in_flight.is_empty() {
                return Ok(());
            }
        }
        Err("it never comes to rest".to_owned())
    }

    /// The customer changes the firewall of a server, or has its disk made anew.
    async fn cares(&mut self, n: usize, rebuild: bool) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        let applied = read(&self.app, async |c| instances::wishes(c, &server).await).await.applied;
        let closed = FirewallRules { inbound: Verdict::Drop, rules: Vec::new() };
        let verb = match rebuild {
            true => Verb::Rebuild(applied.image),
            false => Verb::Firewall(applied.firewall.is_none().then_some(closed)),
        };
        match instances::act(&self.app, server.id, verb, "customer", None).await {
            Ok(_)
            | Err(
                ActError::DoesNotFit { .. }
                | ActError::Busy(_)
                | ActError::Issue(_)
                | ActError::Suspended
                | ActError::NeedsRebuild
                | ActError::ImageNotReady,
            ) => Ok(()),
            Err(error) => Err(format!("a change answered {error:?}")),
        }
    }

    /// Billing has a server suspended or resumed.
    async fn suspends(&mut self, n: usize, suspended: bool) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        let (at, id) = (self.now(), server.id);
        let done = self
            .app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    match suspended {
                        true => instances::suspend(tx, at, id, "unpaid", "billing").await,
                        false => instances::resume(tx, at, id, "", "billing").await,
                    }
                })
            })
            .await;
        match done {
            Ok(_) | Err(SuspendError::DoesNotFit(_)) => Ok(()),
            Err(error) => Err(format!("a suspension answered {error:?}")),
        }
    }

    // ---- looking ------------------------------------------------------------------------------------

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

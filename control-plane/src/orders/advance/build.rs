//! From paid to built: a place, a signed order, and what came of it.

use ez_protocol::{NodeId, OrderId, UnixMillis, order::CLOCK_TOLERANCE};
use sqlx::AnyConnection;

use super::{ANYWAY, AdvanceError, MOST_ATTEMPTS, PLACE_AGAIN, PLACE_FOR, SILENT_AFTER};
use crate::{
    app::Services,
    config::Config,
    dispatch::{self, IssueError, Keys, ProvisioningRecord, State},
    entropy::Entropy,
    fleet::{self, Presence, Release},
    instances::{self, AssignError, BuildError, Instance, InstanceState},
    notify,
    orders::{
        letters,
        model::{Order, OrderEvent, OrderState, reason},
        store,
        transition::{Cause, Taken, take},
    },
    placement::NoPlace,
};

/// What the steps below share.
struct Desk<'a> {
    config: &'a Config,
    keys: &'a Keys,
    entropy: &'a dyn Entropy,
    at: UnixMillis,
}

/// Looks at the order and its server in one transaction.
pub(super) async fn build(
    app: &Services,
    now: UnixMillis,
    id: OrderId,
) -> Result<Option<UnixMillis>, AdvanceError> {
    let (config, keys, entropy) = (app.config.clone(), app.keys.clone(), app.entropy.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let desk = Desk { config: &config, keys: &keys, entropy: entropy.as_ref(), at: now };
                // A move may make the next one due at once: paid → assigned → issued is one transaction.
                for _ in 0..4 {
                    let Some(order) = store::get_to_change(tx, id).await? else { return Ok(None) };
                    let instance =
                        instances::get_to_change(tx, order.instance).await?.ok_or(AdvanceError::NoServer)?;
                    let next = match order.state {
                        OrderState::Paid => desk.paid(tx, order, instance).await?,
                        OrderState::Provisioning => desk.provisioning(tx, order, instance).await?,
                        OrderState::NeedsOperator => desk.waiting(tx, order, instance).await?,
                        _ => return Ok(Some(now)),
                    };
                    if let Next::LookAt(at) = next {
                        return Ok(Some(at));
                    }
                }
                Ok(Some(now.plus(PLACE_AGAIN)))
            })
        })
        .await
}

/// Whether the look goes on at once.
enum Next {
    Again,
    LookAt(UnixMillis),
}

impl Desk<'_> {
    async fn take(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        event: OrderEvent,
        why: Option<&str>,
    ) -> Result<Order, AdvanceError> {
        let cause = Cause { event, reason: why, actor: "system" };
        Ok(take(tx, self.config, self.at, order, cause).await?.order())
    }

    /// Paid: a place, then the signed order.
    async fn paid(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
    ) -> Result<Next, AdvanceError> {
        if instance.state.is_live() {
            return self.fulfil(tx, order, &instance).await;
        }
        // After an operator's try the order goes back to the operator, see `attempt_over`.
        let by_itself = instance.state != InstanceState::NeedsOperator && order.refund_due_at.is_none();
        if by_itself && let Some(why) = self.given_up(tx, &order, &instance).await? {
            tracing::warn!(order.id = %order.id, instance.reason = ?instance.reason, why, "building was given up");
            self.take(tx, order, OrderEvent::GaveUp, Some(why)).await?;
            return Ok(Next::Again);
        }
        self.place(tx, order, instance).await
    }

    /// Why trying on makes no sense without a person. A node that was busy or a VMID that was taken is not the
    /// order's fault: only time ends that.
    async fn given_up(
        &self,
        tx: &mut AnyConnection,
        order: &Order,
        instance: &Instance,
    ) -> Result<Option<&'static str>, AdvanceError> {
        let (mut failed, mut passing) = (0, false);
        for build in dispatch::history_of(tx, instance.id).await?.iter().filter(|b| b.verb == "ensure") {
            let refusal = build.refusal.as_deref().unwrap_or_default();
            passing = dispatch::is_passing_refusal(refusal) || build.class.as_deref() == Some("capacity");
            failed += u32::from(!passing && refusal != "VMID_TAKEN");
        }
        let late = self.at.since(order.paid_at.unwrap_or(order.placed_at)) >= PLACE_FOR;
        Ok(match (failed >= MOST_ATTEMPTS, passing && late) {
            (true, _) => Some(reason::BUILD_FAILED),
            (false, true) => Some(reason::NO_CAPACITY),
            (false, false) => None,
        })
    }

    async fn place(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
    ) -> Result<Next, AdvanceError> {
        let (tried, state) = (instance.tried_nodes.clone(), instance.state);
        let assigned = match instances::assign(tx, self.at, self.entropy, instance.clone(), "system").await {
            // Every node was tried: a passing fault deserves a second try on the same ones, busy ones a little later.
            Err(AssignError::NoPlace(NoPlace::AllTried)) if !tried.is_empty() => {
                let last = dispatch::latest_for(tx, instance.id).await?;
                let busy = last.filter(|b| {
                    b.refusal.as_deref().is_some_and(dispatch::is_passing_refusal)
                        || b.class.as_deref() == Some("capacity")
                });
                let again = busy.map(|b| b.finished_at.unwrap_or(b.issued_at).plus(PLACE_AGAIN));
                if let Some(again) = again.filter(|again| self.at < *again) {
                    return Ok(Next::LookAt(again));
                }
                let afresh = Instance { tried_nodes: Vec::new(), ..instance };
                instances::assign(tx, self.at, self.entropy, afresh, "system").await
            }
            other => other,
        };
        let (instance, place) = match assigned {
            Ok(found) => found,
            Err(AssignError::NoPlace(none)) => return self.no_place(tx, order, state, none).await,
            Err(other) => return Err(AdvanceError::Assign(other)),
        };
        match instances::issue_build(tx, self.keys, self.at, self.entropy, instance, place, "system").await {
            Ok(_) => {
                self.take(tx, order, OrderEvent::Issued, None).await?;
                Ok(Next::Again)
            }
            Err(BuildError::Issue(IssueError::NodeNotServing)) => Ok(Next::LookAt(self.at.plus(PLACE_AGAIN))),
            Err(
                error @ (BuildError::Spec(_)
                | BuildError::Issue(
                    IssueError::Payload(_)
                    | IssueError::WrongSpec(_)
                    | IssueError::TooMany { .. }
                    | IssueError::Paced { .. },
                )),
            ) => {
                tracing::error!(order.id = %order.id, error = %error, "a paid order cannot be built");
                self.take(tx, order, OrderEvent::GaveUp, Some(reason::INTERNAL)).await?;
                Ok(Next::Again)
            }
            Err(other) => Err(AdvanceError::Build(other)),
        }
    }

    async fn no_place(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: InstanceState,
        none: NoPlace,
    ) -> Result<Next, AdvanceError> {
        if self.at.since(order.updated_at) < PLACE_FOR {
            return Ok(Next::LookAt(self.at.plus(PLACE_AGAIN)));
        }
        tracing::warn!(order.id = %order.id, %none, "a paid order found no place");
        // What may stand on a node waits for that node, whatever room there is elsewhere.
        let held = instance == InstanceState::NeedsOperator;
        let why = if held { reason::NODE_SILENT } else { reason::NO_CAPACITY };
        self.take(tx, order, OrderEvent::GaveUp, Some(why)).await?;
        Ok(Next::Again)
    }

    /// A signed order is out: what came of it?
    async fn provisioning(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
    ) -> Result<Next, AdvanceError> {
        if instance.state.is_live() {
            return self.fulfil(tx, order, &instance).await;
        }
        let record = match instance.provisioning_order {
            Some(id) => dispatch::show(tx, id).await?,
            None => None,
        };
        let record = record.ok_or(AdvanceError::NoServer)?;
        if record.state.is_undelivered() {
            // What never left is taken back as soon as its node is known to be away; else it has its time.
            let never_left = record.attempts == 0 && self.is_away(tx, record.node).await?;
            if self.at <= record.expires_at && !never_left {
                let soon = self.at.plus(PLACE_AGAIN);
                return Ok(Next::LookAt(UnixMillis(record.expires_at.0 + 1).min(soon)));
            }
            dispatch::cancel_unaccepted(tx, self.at, record.id).await?;
        }
        // The newest order says nothing about the ones before it: a retry leaves them with the node.
        let builds = dispatch::builds_at(tx, self.at, instance.id, instance.node).await?;
        match (builds.held.is_empty(), builds.not_before()) {
            (false, _) => self.held(tx, order, instance, &builds.held).await,
            (true, Some(at)) => Ok(Next::LookAt(UnixMillis(at.0 + 1))),
            (true, None) => self.attempt_over(tx, order, instance, &record).await,
        }
    }

    async fn is_away(&self, tx: &mut AnyConnection, node: NodeId) -> Result<bool, AdvanceError> {
        let node = fleet::node(tx, node).await?;
        Ok(node.is_none_or(|node| matches!(node.presence(self.at), Presence::Offline | Presence::Never)))
    }

    /// A node has, or had, orders to build it in its journal; the newest comes first.
    async fn held(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
        held: &[ProvisioningRecord],
    ) -> Result<Next, AdvanceError> {
        let place = fleet::placement_of(tx, instance.id).await?;
        let here = |build: &ProvisioningRecord| {
            place.as_ref().is_some_and(|place| place.node == build.node && place.vmid == build.vmid)
        };
        if let Some(done) = held.iter().find(|build| build.state == State::Succeeded && here(build)) {
            return self.succeeded(tx, order, instance, done).await;
        }
        match held.first() {
            Some(newest) if newest.state == State::Stuck => {
                self.give_up(tx, order, instance, reason::NODE_STUCK).await
            }
            Some(newest) if here(newest) => {
                let silent_at = self.last_sign(tx, newest).await?.plus(SILENT_AFTER);
                if self.at < silent_at {
                    return Ok(Next::LookAt(silent_at.min(self.at.plus(ANYWAY))));
                }
                self.give_up(tx, order, instance, reason::NODE_SILENT).await
            }
            // It stands, or may stand, where it has no place: nothing is tried until a person has looked.
            _ => self.give_up(tx, order, instance, reason::NODE_SILENT).await,
        }
    }

    async fn succeeded(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
        done: &ProvisioningRecord,
    ) -> Result<Next, AdvanceError> {
        let actor = format!("node:{}", done.node);
        let instance = instances::built(tx, self.at, instance, done.facts.as_ref(), &actor).await?;
        self.fulfil(tx, order, &instance).await
    }

    /// When the node said something last, by our clock where we have it.
    async fn last_sign(
        &self,
        tx: &mut AnyConnection,
        record: &ProvisioningRecord,
    ) -> Result<UnixMillis, AdvanceError> {
        let accepted = record.accepted_at.unwrap_or(record.issued_at);
        let events = dispatch::events_of(tx, record.id).await?;
        // A node's clock may be ahead by the tolerance, never more.
        let newest = events.iter().map(|event| event.at.min(self.at.plus(CLOCK_TOLERANCE))).max();
        Ok(newest.unwrap_or(accepted).max(accepted))
    }

    /// The attempt left nothing behind: its place is given back and the next one may begin.
    async fn attempt_over(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
        record: &ProvisioningRecord,
    ) -> Result<Next, AdvanceError> {
        if record.refusal.as_deref() == Some("VMID_TAKEN") {
            fleet::vmid_is_foreign(tx, instance.id).await?;
        }
        // What the node had begun may have used the addresses for a moment: they rest.
        let how = if record.accepted_at.is_some() { Release::Gone } else { Release::NeverUsed };
        fleet::release(tx, self.at, instance.id, how).await?;
        let why = record.refusal.clone().or_else(|| record.detail.clone());
        let actor = format!("node:{}", record.node);
        instances::attempt_fenced(tx, self.at, instance, why, &actor).await?;
        let order = self.take(tx, order, OrderEvent::AttemptFenced, None).await?;
        // Another try would fail in the same way, or it was an operator's: then the operator decides again.
        if matches!(record.class.as_deref(), Some("user" | "bug")) || order.refund_due_at.is_some() {
            self.take(tx, order, OrderEvent::GaveUp, Some(reason::BUILD_FAILED)).await?;
        }
        Ok(Next::Again)
    }

    async fn give_up(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
        why: &'static str,
    ) -> Result<Next, AdvanceError> {
        instances::went_silent(tx, self.at, instance, why.to_owned(), "system").await?;
        self.take(tx, order, OrderEvent::GaveUp, Some(why)).await?;
        Ok(Next::Again)
    }

    /// The server is there: the purchase is done, and its owner is told how to get in.
    async fn fulfil(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: &Instance,
    ) -> Result<Next, AdvanceError> {
        // A late success finds the order paid again: it was issued once, so it can be fulfilled.
        let order = if order.state == OrderState::Paid {
            self.take(tx, order, OrderEvent::Issued, None).await?
        } else {
            order
        };
        let cause = Cause { event: OrderEvent::Built, reason: None, actor: "system" };
        if let Taken::Moved(order) = take(tx, self.config, self.at, order, cause).await? {
            let addresses = match fleet::placement_of(tx, instance.id).await? {
                Some(place) => std::iter::once(place.ipv4.address)
                    .chain(place.ipv6.map(|v6| v6.address))
                    .map(|address| address.to_string())
                    .collect(),
                None => Vec::new(),
            };
            let link = self.config.http.page(&format!("/servers/{}", instance.id));
            let letter = letters::ready(&order, instance, addresses, link);
            notify::send(tx, self.at, &order.email, &letter).await?;
        }
        Ok(Next::LookAt(self.at))
    }

    /// A person is asked; meanwhile a late success counts, and the money goes back when it is due.
    async fn waiting(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
    ) -> Result<Next, AdvanceError> {
        if instance.state.is_live() {
            return self.fulfil(tx, order, &instance).await;
        }
        if instance.state == InstanceState::NeedsOperator
            && let Some(place) = fleet::placement_of(tx, instance.id).await?
        {
            let builds = dispatch::builds_at(tx, self.at, instance.id, instance.node).await?;
            let done = builds.held.iter().find(|build| {
                build.state == State::Succeeded && (build.node, build.vmid) == (place.node, place.vmid)
            });
            if let Some(done) = done {
                return self.succeeded(tx, order, instance, done).await;
            }
        }
        match order.refund_due_at {
            Some(due) if due <= self.at => {
                self.take(tx, order, OrderEvent::RefundStarted, Some("deadline")).await?;
                Ok(Next::LookAt(self.at))
            }
            due => Ok(Next::LookAt(due.unwrap_or(self.at).min(self.at.plus(ANYWAY)))),
        }
    }
}

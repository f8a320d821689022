//! One order, one look: what is due is done, and the answer is when to look again.
//!
//! The same function runs after every move, on every report of the node, and on time. It takes no input but
//! the order, so a lost signal costs time, never the order (I3, I12).

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis, order::CLOCK_TOLERANCE};
use sqlx::AnyConnection;

use super::{
    OrderError, letters,
    model::{Order, OrderEvent, OrderState, reason},
    settle::SettleError,
    store,
    transition::{Cause, Taken, take},
};
use crate::{
    app::Services,
    billing::{self, BillingError, CheckoutState, RefundState},
    config::Config,
    db::DbError,
    dispatch::{self, FenceOutcome, IssueError, Keys, ProvisioningRecord, State},
    entropy::Entropy,
    fleet::{self, Release},
    instances::{self, AssignError, BuildError, EndError, Instance, InstanceError, InstanceState},
    notify,
    placement::NoPlace,
};

/// Unpaid orders are looked at so long after their payment page should be over.
const UNPAID_GRACE: Duration = Duration::from_secs(60);
/// A paid order without a place is tried this often …
const PLACE_AGAIN: Duration = Duration::from_secs(15);
/// … and for this long.
const PLACE_FOR: Duration = Duration::from_secs(15 * 60);
/// A node that accepted and has said nothing for this long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(15 * 60);
/// So many nodes (or times) are tried before a person is asked.
const MOST_ATTEMPTS: u32 = 3;
/// How often a refund, or an ending for it, is tried.
const REFUND_AGAIN: Duration = Duration::from_secs(60);
/// Open orders are looked at this often even when nothing is due.
const ANYWAY: Duration = Duration::from_secs(5 * 60);

/// Why a look did not work out; the job looks again.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdvanceError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Settle(#[from] SettleError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("ending the server")]
    End(#[from] EndError),
    #[error("finding a place")]
    Assign(#[source] AssignError),
    #[error("ordering the build")]
    Build(#[source] BuildError),
    #[error("asking about the payment")]
    Billing(#[from] BillingError),
    #[error("reading or writing the order")]
    Db(#[from] DbError),
    #[error("the order's server is missing")]
    NoServer,
}

/// When an unpaid order is looked at if nothing else happens.
pub(super) fn unpaid_due(order: &Order) -> UnixMillis {
    order.reserved_until.plus(UNPAID_GRACE)
}

/// Does what is due for an order; says when to look again.
pub(super) async fn advance(app: &Services, id: OrderId) -> Result<Option<UnixMillis>, AdvanceError> {
    let now = app.clock.now();
    let order = {
        let mut connection = app.db.read().await?;
        store::get(&mut connection, id).await?
    };
    let Some(order) = order else { return Ok(None) };
    match order.state {
        OrderState::AwaitingPayment => unpaid(app, now, &order).await,
        OrderState::Paid | OrderState::Provisioning | OrderState::NeedsOperator => build(app, now, id).await,
        OrderState::Refunding => refunding(app, now, id).await,
        OrderState::Fulfilled | OrderState::Cancelled | OrderState::Expired | OrderState::Refunded => {
            Ok(None)
        }
    }
}

/// The reservation ends when Stripe says that the page is over, and it is asked once it should be.
async fn unpaid(app: &Services, now: UnixMillis, order: &Order) -> Result<Option<UnixMillis>, AdvanceError> {
    let due = unpaid_due(order);
    if now < due {
        return Ok(Some(due));
    }
    match billing::expire_session(app, order.id).await? {
        // What came of it arrives as a job of its own, in the transaction that wrote it down.
        CheckoutState::Expired | CheckoutState::Settled | CheckoutState::Suspicious => {
            Ok(Some(now.plus(UNPAID_GRACE)))
        }
        CheckoutState::Wanted | CheckoutState::Open | CheckoutState::Processing => {
            Ok(Some(now.plus(UNPAID_GRACE)))
        }
    }
}

/// What the steps below share.
struct Desk<'a> {
    config: &'a Config,
    keys: &'a Keys,
    entropy: &'a dyn Entropy,
    at: UnixMillis,
}

/// Looks at the order and its server in one transaction.
async fn build(app: &Services, now: UnixMillis, id: OrderId) -> Result<Option<UnixMillis>, AdvanceError> {
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
        if instance.state == InstanceState::NeedsOperator {
            // A retry after silence: the same place, a newer order.
            return self.place(tx, order, instance).await;
        }
        if instance.attempts >= MOST_ATTEMPTS
            && order.needs_operator_at.is_none()
            && order.refund_due_at.is_none()
        {
            let why = instance.reason.clone();
            tracing::warn!(order.id = %order.id, instance.reason = ?why, "building was given up");
            self.take(tx, order, OrderEvent::GaveUp, Some(reason::BUILD_FAILED)).await?;
            return Ok(Next::Again);
        }
        self.place(tx, order, instance).await
    }

    async fn place(
        &self,
        tx: &mut AnyConnection,
        order: Order,
        instance: Instance,
    ) -> Result<Next, AdvanceError> {
        let tried = instance.tried_nodes.clone();
        let assigned = match instances::assign(tx, self.at, self.entropy, instance.clone(), "system").await {
            // Every node was tried: a passing fault deserves a second try on the same ones.
            Err(AssignError::NoPlace(NoPlace::AllTried)) if !tried.is_empty() => {
                let afresh = Instance { tried_nodes: Vec::new(), ..instance };
                instances::assign(tx, self.at, self.entropy, afresh, "system").await
            }
            other => other,
        };
        let (instance, place) = match assigned {
            Ok(found) => found,
            Err(AssignError::NoPlace(none)) => return self.no_place(tx, order, none).await,
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
                | BuildError::Issue(IssueError::Payload(_) | IssueError::WrongSpec(_))),
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
        none: NoPlace,
    ) -> Result<Next, AdvanceError> {
        if self.at.since(order.updated_at) < PLACE_FOR {
            return Ok(Next::LookAt(self.at.plus(PLACE_AGAIN)));
        }
        tracing::warn!(order.id = %order.id, %none, "a paid order found no place");
        self.take(tx, order, OrderEvent::GaveUp, Some(reason::NO_CAPACITY)).await?;
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
        let Some(record) = self.record(tx, &instance).await? else {
            return Err(AdvanceError::NoServer);
        };
        match record.state {
            State::Succeeded => {
                let actor = format!("node:{}", record.node);
                let instance = instances::built(tx, self.at, instance, record.facts.as_ref(), &actor).await?;
                self.fulfil(tx, order, &instance).await
            }
            State::Stuck => self.give_up(tx, order, instance, reason::NODE_STUCK).await,
            State::Accepted | State::Running => {
                let silent_at = self.last_sign(tx, &record).await?.plus(SILENT_AFTER);
                if self.at < silent_at {
                    return Ok(Next::LookAt(silent_at.min(self.at.plus(ANYWAY))));
                }
                self.give_up(tx, order, instance, reason::NODE_SILENT).await
            }
            State::Signed | State::Queued if self.at <= record.expires_at => {
                Ok(Next::LookAt(UnixMillis(record.expires_at.0 + 1)))
            }
            _ => match self.fence(tx, &record).await? {
                FenceOutcome::Fenced => self.attempt_over(tx, order, instance, &record).await,
                FenceOutcome::NotBefore(at) => Ok(Next::LookAt(UnixMillis(at.0 + 1))),
                FenceOutcome::Held => Ok(Next::LookAt(self.at.plus(PLACE_AGAIN))),
            },
        }
    }

    async fn record(
        &self,
        tx: &mut AnyConnection,
        instance: &Instance,
    ) -> Result<Option<ProvisioningRecord>, AdvanceError> {
        match instance.provisioning_order {
            Some(id) => Ok(dispatch::show(tx, id).await?),
            None => Ok(None),
        }
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

    async fn fence(
        &self,
        tx: &mut AnyConnection,
        record: &ProvisioningRecord,
    ) -> Result<FenceOutcome, AdvanceError> {
        if record.state.is_undelivered() {
            return Ok(dispatch::cancel_unaccepted(tx, self.at, record.id).await?);
        }
        Ok(record.fence(self.at))
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
        if matches!(record.class.as_deref(), Some("user" | "bug")) {
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
        if let Some(record) = self.record(tx, &instance).await?
            && record.state == State::Succeeded
            && matches!(
                instance.state,
                InstanceState::NeedsOperator | InstanceState::Running | InstanceState::Stopped
            )
            && record.verb == "ensure"
        {
            let actor = format!("node:{}", record.node);
            let instance = instances::built(tx, self.at, instance, record.facts.as_ref(), &actor).await?;
            return self.fulfil(tx, order, &instance).await;
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

/// Gives the money back and ends what may exist of the server; both are repeated until they are done.
async fn refunding(app: &Services, now: UnixMillis, id: OrderId) -> Result<Option<UnixMillis>, AdvanceError> {
    end_server(app, now, id).await?;
    match billing::refund_full(app, id).await {
        Ok(state @ (RefundState::Succeeded | RefundState::Failed)) => {
            super::settle::refunded(app, id, state == RefundState::Succeeded).await?;
            Ok(Some(now))
        }
        Ok(RefundState::Wanted | RefundState::Pending) => Ok(Some(now.plus(REFUND_AGAIN))),
        Err(error) if error.is_passing() => {
            tracing::warn!(order.id = %id, error = %error, "a refund did not work out yet");
            Ok(Some(now.plus(REFUND_AGAIN)))
        }
        Err(error) => {
            tracing::error!(order.id = %id, error = %error, "a refund is not possible");
            super::settle::refunded(app, id, false).await?;
            Ok(Some(now))
        }
    }
}

/// Ends the server of an order whose money goes back: what may exist is retired, what cannot exist is let go.
async fn end_server(app: &Services, now: UnixMillis, id: OrderId) -> Result<(), AdvanceError> {
    let (keys, entropy) = (app.keys.clone(), app.entropy.clone());
    let ended = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                let Some(instance) = instances::get_to_change(tx, order.instance).await? else {
                    return Ok(());
                };
                let fenced = match instance.provisioning_order {
                    Some(provisioning) if instance.state == InstanceState::NeedsOperator => {
                        dispatch::fence(tx, now, provisioning).await? == FenceOutcome::Fenced
                    }
                    _ => false,
                };
                if fenced {
                    fleet::release(tx, now, instance.id, Release::Gone).await?;
                    let instance = instances::attempt_fenced(tx, now, instance, None, "system").await?;
                    instances::give_up_place(tx, now, instance, Release::Gone, "system").await?;
                    return Ok(());
                }
                instances::end(tx, &keys, now, entropy.as_ref(), instance, "system").await.map(|_| ())
            })
        })
        .await;
    match ended {
        Ok(()) => Ok(()),
        // The node does not serve: the money goes back all the same, and the sweep of instances ends the server
        // as soon as the node is there again.
        Err(EndError::Issue(error)) => {
            tracing::warn!(order.id = %id, error = %error, "the server of a refunded order cannot be ended yet");
            Ok(())
        }
        Err(other) => Err(other.into()),
    }
}

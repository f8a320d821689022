//! What nodes do with their orders, and what their operators do with nodes.

use ez_protocol::message::OrderAnswer;

use super::{
    super::{host::Host, story::Line},
    Broken, World, tolerate, waits,
};
use crate::{
    db::DbError,
    dispatch,
    fleet::{self, NodeChange, NodeState, reports, testing::read},
    instances, orders,
};

impl World {
    pub(super) fn host(&mut self, node: usize) -> &mut Host {
        let count = self.hosts.len();
        &mut self.hosts[node % count]
    }

    pub(super) async fn takes(&mut self, node: usize, line: Line) -> Result<(), Broken> {
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

    pub(super) async fn answered(
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

    pub(super) async fn tells(&mut self, node: usize, all: bool) -> Result<(), Broken> {
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

    pub(super) async fn reports(&mut self, node: usize) -> Result<(), Broken> {
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

    pub(super) async fn change(&mut self, node: usize, change: NodeChange) -> Result<(), Broken> {
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

    /// The ways out that give the place up. As on the operator's page: what may still be built is put out of reach
    /// by the same click, and then somebody goes there and looks.
    pub(super) async fn leaves(&mut self, n: usize, for_good: bool) -> Result<(), Broken> {
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
}

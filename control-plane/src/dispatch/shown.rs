//! What the operator's pages of provisioning orders show. No HTTP here.

use std::collections::HashMap;

use ez_protocol::{InstanceId, NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{EventRecord, Filter, ProvisioningRecord, State, builds_at, events_of, history_of, list};
use crate::{
    db::DbError,
    fleet, instances,
    orders::{self, Order, OrderEvent},
    web::views::{
        Money,
        dispatch::{Event, Exit, Fact, List, Row, Show, Waiting},
    },
};

/// Orders on one page.
const PAGE: i64 = 100;

/// Names for ids, each looked up once.
#[derive(Default)]
struct Names {
    servers: HashMap<InstanceId, String>,
    nodes: HashMap<NodeId, String>,
}

impl Names {
    async fn server(&mut self, conn: &mut AnyConnection, id: InstanceId) -> Result<String, DbError> {
        if let Some(name) = self.servers.get(&id) {
            return Ok(name.clone());
        }
        let name = instances::get(conn, id).await?.map_or_else(|| "?".to_owned(), |i| i.hostname);
        self.servers.insert(id, name.clone());
        Ok(name)
    }

    async fn node(&mut self, conn: &mut AnyConnection, id: NodeId) -> Result<String, DbError> {
        if self.nodes.is_empty() {
            for node in fleet::nodes::list(conn, None).await? {
                self.nodes.insert(node.id, node.name);
            }
        }
        Ok(self.nodes.get(&id).cloned().unwrap_or_else(|| "?".to_owned()))
    }

    async fn row(&mut self, conn: &mut AnyConnection, order: &ProvisioningRecord) -> Result<Row, DbError> {
        Ok(Row {
            href: format!("/operator/orders/{}", order.id),
            server: self.server(conn, order.instance).await?,
            verb: order.verb.clone(),
            node: self.node(conn, order.node).await?,
            state: order.state.as_str(),
            tone: tone(order.state),
            issued_at: order.issued_at,
            ended_at: order.finished_at,
        })
    }
}

fn tone(state: State) -> &'static str {
    match state {
        State::Signed | State::Queued | State::Accepted | State::Running => "wait",
        State::Succeeded => "good",
        State::Failed | State::Undone | State::Stuck | State::Refused => "bad",
        State::Expired | State::Superseded | State::Cancelled => "idle",
    }
}

/// The list; `which` is `all`, `open` or `trouble`.
pub(super) async fn page(conn: &mut AnyConnection, which: &str) -> Result<List, DbError> {
    let (filter, open) = match which {
        "open" => ("open", true),
        "trouble" => ("trouble", false),
        _ => ("all", false),
    };
    let found = list(conn, &Filter { node: None, open, limit: PAGE }).await?;
    let mut names = Names::default();
    let mut rows = Vec::new();
    for order in found.iter().filter(|o| filter != "trouble" || tone(o.state) == "bad") {
        rows.push(names.row(conn, order).await?);
    }
    let mut waiting = Vec::new();
    for order in orders::needing_operator(conn).await? {
        waiting.push(Waiting {
            href: format!("/operator/orders/{}", order.id),
            server: order.hostname.clone(),
            customer: order.email.clone(),
            amount: Money::new(order.amount_minor, &order.currency),
            reason: order.reason.clone().unwrap_or_default().replace('_', "-"),
            since: order.needs_operator_at.unwrap_or(order.updated_at),
        });
    }
    Ok(List { filter, waiting, orders: rows, newer: None, older: None })
}

/// Something small that differs whenever the list would.
pub(super) async fn list_mark(conn: &mut AnyConnection) -> Result<impl PartialEq + Send + use<>, DbError> {
    let found = list(conn, &Filter { node: None, open: false, limit: PAGE }).await?;
    let states: Vec<_> = found.iter().map(|o| (o.id, o.state)).collect();
    Ok((states, orders::needing_operator(conn).await?.len()))
}

/// One provisioning order with the purchase behind it.
pub(super) async fn order(
    conn: &mut AnyConnection,
    now: UnixMillis,
    order: &ProvisioningRecord,
) -> Result<Show, DbError> {
    let mut names = Names::default();
    let instance = instances::get(conn, order.instance).await?;
    let purchase = match &instance {
        Some(instance) => orders::get(conn, instance.order).await?,
        None => None,
    };
    let mut others = Vec::new();
    for other in history_of(conn, order.instance).await?.into_iter().rev() {
        if other.id != order.id {
            others.push(names.row(conn, &other).await?);
        }
    }
    let row = names.row(conn, order).await?;
    let here = instance.as_ref().and_then(|instance| instance.node);
    let builds = builds_at(conn, now, order.instance, here).await?;
    let fenced = builds.without_revoked(conn).await?.is_fenced();
    let exits = match &purchase {
        Some(purchase) => exits(conn, purchase, fenced).await?,
        None => Vec::new(),
    };
    Ok(Show {
        exits_at: purchase.as_ref().map(|p| format!("/operator/orders/{}", p.id)),
        node_href: format!("/operator/nodes/{}", row.node),
        order: row,
        customer: purchase.as_ref().map(|p| p.email.clone()),
        purchase: purchase.as_ref().map(|p| p.state.as_str()),
        facts: facts(order, purchase.as_ref()),
        events: events_of(conn, order.id).await?.iter().map(event).collect(),
        exits,
        others,
    })
}

/// A purchase for which nothing was signed yet: no node had room, or the payment came too late.
pub(super) async fn unissued(conn: &mut AnyConnection, purchase: &Order) -> Result<Show, DbError> {
    Ok(Show {
        order: Row {
            href: format!("/operator/orders/{}", purchase.id),
            server: purchase.hostname.clone(),
            verb: "ensure".to_owned(),
            node: "–".to_owned(),
            state: "unissued",
            tone: "wait",
            issued_at: purchase.placed_at,
            ended_at: None,
        },
        exits_at: Some(format!("/operator/orders/{}", purchase.id)),
        node_href: "/operator/fleet".to_owned(),
        customer: Some(purchase.email.clone()),
        purchase: Some(purchase.state.as_str()),
        facts: vec![fact("cause", purchase.reason.clone().unwrap_or_default())],
        events: Vec::new(),
        exits: exits(conn, purchase, true).await?,
        others: Vec::new(),
    })
}

/// Something small that differs whenever the page of an order would.
pub(super) async fn order_mark(
    conn: &mut AnyConnection,
    order: &ProvisioningRecord,
) -> Result<impl PartialEq + Send + use<>, DbError> {
    let state = super::show(conn, order.id).await?.map(|o| o.state);
    let events = events_of(conn, order.id).await?.len();
    let purchase = match instances::get(conn, order.instance).await? {
        Some(instance) => orders::get(conn, instance.order).await?.map(|p| p.state),
        None => None,
    };
    Ok((state, events, purchase))
}

async fn exits(conn: &mut AnyConnection, purchase: &Order, fenced: bool) -> Result<Vec<Exit>, DbError> {
    let refund_began = orders::refund_began(conn, purchase.id).await?;
    let exit = |code, event, needs_fence: bool| {
        // Money that does not match was taken all the same.
        let why_not = if purchase.paid_at.is_none() && !purchase.state.owes() {
            Some("unpaid")
        } else if purchase.state.is_closed() {
            Some("done")
        } else if purchase.state.take(event).is_err() {
            Some("other")
        } else if refund_began && event != OrderEvent::RefundStarted {
            Some("refund")
        } else if needs_fence && !fenced {
            Some("held")
        } else {
            None
        };
        Exit { code, enabled: why_not.is_none(), why_not }
    };
    Ok(vec![
        exit("retry", OrderEvent::OperatorRetry, false),
        // A node that may still act is revoked by the same click.
        exit("re_place", OrderEvent::OperatorRePlace, false),
        exit("abandon", OrderEvent::OperatorAbandon, true),
        exit("refund", OrderEvent::RefundStarted, false),
    ])
}

fn fact(code: &'static str, value: String) -> Fact {
    Fact { code, value }
}

fn facts(order: &ProvisioningRecord, purchase: Option<&Order>) -> Vec<Fact> {
    let mut facts = vec![
        fact("vmid", order.vmid.to_string()),
        fact("generation", order.generation.to_string()),
        fact("seq", order.seq.to_string()),
        fact("epoch", order.epoch.to_string()),
        fact("reference", order.id.to_string()),
        fact("cause", order.actor.clone()),
    ];
    let words = [order.refusal.clone(), order.class.clone(), order.detail.clone()];
    for word in words.into_iter().flatten() {
        facts.push(fact("answer", word));
    }
    if let Some(reason) = purchase.and_then(|p| p.reason.clone()) {
        facts.push(fact("reason", reason));
    }
    facts
}

fn event(event: &EventRecord) -> Event {
    let tone = match event.kind.as_str() {
        "accepted" | "step_done" | "succeeded" | "undone" => "good",
        "step_failed" | "failed" | "stuck" => "bad",
        "undoing" => "wait",
        _ => "idle",
    };
    let mut detail = event.step.clone().unwrap_or_default();
    if let Some(percent) = event.percent {
        detail.push_str(&format!(" {percent} %"));
    }
    if let Some(place) = event.queue {
        detail.push_str(&format!(" #{}", place.position));
        if let Some(secs) = place.estimate_secs {
            detail.push_str(&format!(" ~{secs} s"));
        }
    }
    if let Some(words) = &event.detail {
        if !detail.is_empty() {
            detail.push_str(" · ");
        }
        detail.push_str(words);
    }
    Event { at: event.at, code: event.kind.clone(), detail, tone }
}

//! What the operator's pages show, put together from the tables. No HTTP here.

use std::collections::BTreeMap;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::{
    alarms, locations,
    model::{Alarm, NodeState, Presence},
    nodes::{self, CertificateRow, NodeRow},
    placed_on, placement_of, snapshot,
};
use crate::{
    catalog,
    db::DbError,
    dispatch, instances, metrics, orders,
    placement::{Need, room_for},
    web::{
        FormState,
        views::fleet::{
            AddNode, AlarmRow, Alarms, Certificate, Fact, ImageReady, LocationGroup, Node, NodeRow as Row,
            Overview, PoolUse, ServerRow, StorageUse, Usage, Warning,
        },
    },
};

/// Open alarms on the overview, and all alarms on their page.
const ON_OVERVIEW: i64 = 20;
const ON_PAGE: i64 = 200;

/// The fleet in one page.
pub(super) async fn overview(conn: &mut AnyConnection, now: UnixMillis) -> Result<Overview, DbError> {
    let rows = nodes::list(conn, None).await?;
    let mut groups: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for node in &rows {
        groups.entry(node.location.clone()).or_default().push(row(node, now));
    }
    let served = rows.iter().filter(|n| n.state.may_connect());
    let silences: Vec<i64> = served
        .filter(|n| matches!(n.presence(now), Presence::Late | Presence::Offline))
        .filter_map(|n| n.last_seen_at.map(|seen| now.0 - seen.0))
        .collect();
    let (waiting, oldest) = dispatch::waiting(conn).await?;
    let mut grouped = Vec::new();
    for location in locations(conn).await? {
        if let Some(nodes) = groups.remove(&location.code) {
            grouped.push(LocationGroup { name: location.name, nodes });
        }
    }
    Ok(Overview {
        up: count(rows.iter().filter(|n| n.presence(now) == Presence::Online).count()),
        away: count(silences.len()),
        away_ms: silences.iter().copied().max().unwrap_or(0),
        waiting,
        oldest_ms: oldest.map_or(0, |at| (now.0 - at.0).max(0)),
        room: room(conn, now).await?,
        images: images_ready(conn, &rows).await?,
        serving: count(rows.iter().filter(|n| n.state.takes_orders()).count()),
        attention: open(alarms::list(conn, ON_OVERVIEW).await?),
        locations: grouped,
    })
}

/// On how many nodes in service each image on sale has its template.
async fn images_ready(conn: &mut AnyConnection, rows: &[NodeRow]) -> Result<Vec<ImageReady>, DbError> {
    let images = catalog::images(conn).await?.into_iter();
    Ok(images
        .map(|image| {
            let has =
                |n: &&NodeRow| n.state.takes_orders() && n.images.iter().any(|i| i.digest == image.digest);
            let ready = count(rows.iter().filter(has).count());
            ImageReady { name: image.name, ready }
        })
        .collect())
}

/// How many more servers of each plan fit, over all locations, with the image that fits best.
async fn room(conn: &mut AnyConnection, now: UnixMillis) -> Result<Vec<(String, u64)>, DbError> {
    let fleet = snapshot(conn, now, None).await?;
    let images = catalog::images(conn).await?;
    let places = locations(conn).await?;
    let plans = catalog::plans(conn).await?;
    Ok(plans
        .into_iter()
        .filter(|plan| plan.on_sale)
        .map(|plan| {
            let fits = |location: &str, digest: &str| {
                let need = Need {
                    location: location.to_owned(),
                    vcpu: plan.vcpu,
                    memory_mib: u64::from(plan.memory_mib),
                    disk_gib: u64::from(plan.disk_gib),
                    image_digest: digest.to_owned(),
                };
                room_for(&fleet, &need)
            };
            let best = |location: &str| images.iter().map(|i| fits(location, &i.digest)).max().unwrap_or(0);
            let total = places.iter().map(|l| best(&l.code)).sum();
            (plan.name, total)
        })
        .collect())
}

/// Something small that differs whenever the overview would; ages count in the browser, and how an alarm words what is so
/// already is no news.
pub(super) async fn mark(
    conn: &mut AnyConnection,
    now: UnixMillis,
) -> Result<impl PartialEq + Send + use<>, DbError> {
    let rows = nodes::list(conn, None).await?;
    let nodes: Vec<_> = rows
        .iter()
        .map(|n| {
            let images = n.images.len();
            (n.id, n.state, n.presence(now), n.servers.sold, n.vcpu.capacity, n.warnings.len(), images)
        })
        .collect();
    let open: Vec<_> = alarms::list(conn, ON_OVERVIEW)
        .await?
        .into_iter()
        .filter(|a| a.cleared_at.is_none())
        .map(|a| (a.kind, a.subject, a.occurrences, a.severity))
        .collect();
    Ok((nodes, open, dispatch::waiting(conn).await?.0))
}

fn row(node: &NodeRow, now: UnixMillis) -> Row {
    let cpu_used = node.cores_seen * super::capacity::VCPU_PER_CORE * node.cpu_permille / 1_000;
    let usage = |room: crate::placement::Room, real| Usage { sold: room.sold, real, total: room.capacity };
    Row {
        href: format!("/operator/nodes/{}", node.name),
        name: node.name.clone(),
        state: node.state.as_str(),
        presence: match node.presence(now) {
            Presence::Online => "online",
            Presence::Late => "late",
            Presence::Offline => "offline",
            Presence::Never => "never",
        },
        seen_at: node.last_seen_at,
        agent: node.agent_version.clone(),
        pve: node.pve_version.clone(),
        servers: node.servers.sold,
        cpu: usage(node.vcpu, cpu_used),
        memory: usage(node.memory_mib, node.memory_seen.1),
        disk: usage(node.disk_gib, node.disk_seen.1),
        fullest_permille: fullest(node),
        warnings: node.warnings.len(),
    }
}

fn fullest(node: &NodeRow) -> u64 {
    let storages = node.storages.iter().filter(|s| s.total_mib > 0);
    let storages = storages.map(|s| s.used_mib.min(s.total_mib).saturating_mul(1_000) / s.total_mib);
    let pools = node.thin_pools.iter().map(|p| u64::from(p.data_permille.max(p.metadata_permille)));
    storages.chain(pools).max().unwrap_or(0)
}

fn open(list: Vec<Alarm>) -> Vec<AlarmRow> {
    list.into_iter().filter(|alarm| alarm.cleared_at.is_none()).map(alarm_row).collect()
}

fn alarm_row(alarm: Alarm) -> AlarmRow {
    let href = match alarm.kind.as_str() {
        "order_stuck" | "order_refused" => Some(format!("/operator/orders/{}", alarm.subject)),
        "order_needs_operator" => Some(format!("/operator/orders/{}", alarm.subject)),
        "suspension_late" | "suspended_runs" | "resize_late" | "ending_late" => {
            Some(format!("/operator/servers/{}", alarm.subject))
        }
        _ => alarm.node.map(|node| format!("/operator/nodes/{node}")),
    };
    AlarmRow {
        severity: alarm.severity.as_str(),
        kind: alarm.kind,
        about: alarm.subject.clone(),
        // Ids are for machines: the link leads to what it is about.
        subject: alarm.subject.chars().take(if alarm.subject.len() == 36 { 8 } else { 60 }).collect(),
        detail: alarm.detail,
        occurrences: alarm.occurrences,
        raised_at: alarm.raised_at,
        closed_at: alarm.cleared_at,
        href,
    }
}

/// All alarms.
pub(super) async fn all_alarms(conn: &mut AnyConnection) -> Result<Alarms, DbError> {
    let (open, closed): (Vec<_>, Vec<_>) =
        alarms::list(conn, ON_PAGE).await?.into_iter().partition(|alarm| alarm.cleared_at.is_none());
    let rows = |list: Vec<Alarm>| list.into_iter().map(alarm_row).collect();
    Ok(Alarms { open: rows(open), closed: rows(closed) })
}

/// One node.
pub(super) async fn node(
    conn: &mut AnyConnection,
    now: UnixMillis,
    node: &NodeRow,
    form: FormState,
) -> Result<Node, DbError> {
    let all = locations(conn).await?;
    let location = all.into_iter().find(|l| l.code == node.location).map_or_else(String::new, |l| l.name);
    let certificates = nodes::certificates(conn, node.id).await?;
    let warnings = node.warnings.iter();
    Ok(Node {
        node: row(node, now),
        location,
        facts: facts(node).into_iter().chain(builds(conn, node).await?).collect(),
        warnings: warnings.map(|w| Warning { code: w.code.clone(), text: w.text.clone() }).collect(),
        certificates: certificates.iter().map(|c| certificate(c, now)).collect(),
        servers: servers(conn, node, now).await?,
        storages: node
            .storages
            .iter()
            .map(|s| StorageUse {
                name: s.id.clone(),
                kind: s.kind.clone(),
                used_mib: s.used_mib,
                total_mib: s.total_mib,
            })
            .collect(),
        pools: node
            .thin_pools
            .iter()
            .map(|p| PoolUse {
                name: p.name.clone(),
                total_mib: p.total_mib,
                data_permille: p.data_permille,
                metadata_permille: p.metadata_permille,
            })
            .collect(),
        charts: metrics::node_graphs(conn, node.id, node.memory_seen.0, now).await?,
        can_cordon: node.state == NodeState::Active,
        can_uncordon: node.state == NodeState::Cordoned,
        can_revoke: node.state.may_connect(),
        form,
    })
}

fn facts(node: &NodeRow) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |code, value: String| {
        if !value.is_empty() {
            facts.push(Fact { code, value });
        }
    };
    add("agent", node.agent_version.clone().unwrap_or_default());
    add("pve", node.pve_version.clone().unwrap_or_default());
    add("cluster", node.cluster.iter().flat_map(|c| c.chars()).take(12).collect());
    add("link", node.remote.clone().unwrap_or_default());
    if node.vmid_last >= node.vmid_first {
        add("vmids", format!("{} – {}", node.vmid_first, node.vmid_last));
    }
    add("pool", node.policy.pool.clone());
    add("epoch", node.epoch.to_string());
    add("prefixes", node.policy.prefixes.join(", "));
    add("images", node.images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", "));
    facts
}

/// Image orders of this node that have not come to a template, the newest first.
async fn builds(conn: &mut AnyConnection, node: &NodeRow) -> Result<Option<Fact>, DbError> {
    let orders = dispatch::images::list(conn, Some(node.id), 5).await?;
    let line = |order: &dispatch::images::ImageRecord| {
        let more = order.detail.as_deref().or(order.step.as_deref()).unwrap_or_default();
        format!("{} {} {more}", order.image, order.state).trim_end().to_owned()
    };
    let open = orders.iter().filter(|order| order.state != dispatch::images::ImageState::Ready);
    let value = open.map(line).collect::<Vec<_>>().join("; ");
    Ok((!value.is_empty()).then_some(Fact { code: "builds", value }))
}

fn certificate(row: &CertificateRow, now: UnixMillis) -> Certificate {
    let state = match row.state.as_str() {
        "revoked" => "revoked",
        _ if row.valid_until < now => "expired",
        "superseded" => "replaced",
        _ => "valid",
    };
    let serial: String = row.serial.chars().take(12).collect();
    Certificate { serial, not_after: row.not_after, state }
}

async fn servers(
    conn: &mut AnyConnection,
    node: &NodeRow,
    now: UnixMillis,
) -> Result<Vec<ServerRow>, DbError> {
    let mut rows = Vec::new();
    for id in placed_on(conn, node.id).await? {
        let (Some(instance), Some(place)) = (instances::get(conn, id).await?, placement_of(conn, id).await?)
        else {
            continue;
        };
        let (state, tone) = instances::shown_state(conn, &instance, now).await?;
        let owner = orders::get(conn, instance.order).await?.map_or_else(String::new, |o| o.email);
        rows.push(ServerRow {
            name: instance.hostname,
            owner,
            vmid: place.vmid,
            state,
            tone,
            href: Some(format!("/operator/servers/{id}")),
        });
    }
    rows.sort_by_key(|row| row.vmid);
    Ok(rows)
}

/// The form for a new node.
pub(super) async fn add_form(conn: &mut AnyConnection, form: FormState) -> Result<AddNode, DbError> {
    let locations = locations(conn).await?.into_iter().map(|l| (l.code, l.name)).collect();
    Ok(AddNode { form, locations, joined: None })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

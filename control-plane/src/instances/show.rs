//! What the server list and a server's page show.

use std::{collections::BTreeMap, net::IpAddr};

use ez_protocol::{AccountId, NodeId, UnixMillis, order::PowerVerb};
use sqlx::AnyConnection;

use super::{
    ActionRow, ActionState, Instance, InstanceState, Sight, StepProgress, Wishes,
    observe::sight_from,
    progress,
    settings::store as settings_store,
    sight, store,
    told::{self, Told},
    verb_fits, wishes,
};
use crate::{
    accounts, billing, catalog,
    db::DbError,
    dispatch, fleet,
    fleet::Placement,
    metrics,
    web::{
        forms::FormState,
        views::{
            Money, Step, StepState,
            instances::{
                Action, Activity, Due, Head, List, Notice, PlanChange, PlanSize, Price, Row, Running, Show,
                State,
            },
        },
    },
};

/// How we name ourselves in a server's history.
const US: &str = "EZ Solutions";

/// Names of plans, images and locations by code.
pub(super) struct Names {
    plans: BTreeMap<String, String>,
    images: BTreeMap<String, String>,
    locations: BTreeMap<String, String>,
}

impl Names {
    pub(super) async fn read(connection: &mut AnyConnection) -> Result<Self, DbError> {
        Ok(Self {
            plans: catalog::plans(connection).await?.into_iter().map(|p| (p.code, p.name)).collect(),
            images: catalog::images(connection).await?.into_iter().map(|i| (i.code, i.name)).collect(),
            locations: fleet::locations(connection).await?.into_iter().map(|l| (l.code, l.name)).collect(),
        })
    }

    /// Name of an image on sale, or its code.
    pub(super) fn image(&self, code: &str) -> String {
        Self::of(&self.images, code)
    }

    fn of(names: &BTreeMap<String, String>, code: &str) -> String {
        names.get(code).cloned().unwrap_or_else(|| code.to_owned())
    }
}

/// The observed state in the page's words.
pub(super) fn state(instance: &Instance, sight: Sight) -> State {
    let (code, tone) = match instance.state {
        InstanceState::Requested => ("requested", "wait"),
        InstanceState::Assigned | InstanceState::Provisioning | InstanceState::Failed => ("building", "wait"),
        InstanceState::Running | InstanceState::Stopped if !sight.fresh => ("unknown", "wait"),
        InstanceState::Running => ("running", "good"),
        InstanceState::Stopped => ("stopped", "idle"),
        InstanceState::NeedsOperator => ("needs_operator", "bad"),
        InstanceState::Retiring => ("retiring", "wait"),
        InstanceState::Retired | InstanceState::Purging => ("retired", "idle"),
        InstanceState::Purged | InstanceState::Released => ("purged", "idle"),
    };
    State { code, tone, observed_at: sight.at }
}

/// A server that is off because it is suspended and was told so is called so, also while its node sees it running because
/// somebody started it there: it is nobody's to use, and is switched off again.
fn name_suspended(state: &mut State, suspended: bool) {
    if matches!(state.code, "stopped" | "running") && suspended {
        (state.code, state.tone) = ("suspended", "bad");
    }
}

/// Something small that differs whenever a server's page would. Ages count in the browser.
pub(super) async fn mark(
    connection: &mut AnyConnection,
    id: ez_protocol::InstanceId,
    now: UnixMillis,
) -> Result<impl PartialEq + Send + use<>, DbError> {
    let instance = store::get(connection, id).await?.ok_or(DbError::NotFound)?;
    let newest = store::actions(connection, id, 1).await?.into_iter().next();
    let events = match newest.as_ref().and_then(|action| action.provisioning_order) {
        Some(order) => dispatch::events_of(connection, order).await?.len(),
        None => 0,
    };
    let action = newest.map(|action| format!("{} {}", action.id, action.state));
    let sight = sight(connection, &instance, now).await?;
    let wishes = wishes(connection, &instance).await?;
    Ok((instance.state, instance.observed_state, sight.fresh, action, events, wishes))
}

/// Something small that differs whenever the list of an account's servers would.
pub(super) async fn list_mark(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<(InstanceState, Option<String>, Option<i64>)>, DbError> {
    let all = store::states_of_account(connection, account).await?.into_iter();
    Ok(all.map(|(state, observed, at)| (state, observed, at.map(|at| at.0 / 60_000))).collect())
}

/// Servers on one page of the list.
const PAGE: usize = 25;

/// One page (from 1) of the list of an account's servers that fit a filter.
pub(super) async fn list(
    connection: &mut AnyConnection,
    account: AccountId,
    now: UnixMillis,
    (query, page): (&str, usize),
    unpaid: Vec<(String, String)>,
) -> Result<List, DbError> {
    let names = Names::read(connection).await?;
    let total = store::count_paid(connection, account).await?;
    let skipped = page.saturating_sub(1).saturating_mul(PAGE);
    let filtered = !query.trim().is_empty();
    let window = skipped..skipped.saturating_add(PAGE);
    let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    // Without a filter only what is shown is looked up; a filter looks at all.
    let part = if filtered { (i64::MAX, 0) } else { (signed(PAGE), signed(skipped)) };
    let looked_up = store::paid_of_account(connection, account, part).await?;
    let ids: Vec<_> = looked_up.iter().map(|instance| instance.id).collect();
    let addresses = fleet::addresses_of(connection, &ids).await?;
    let suspended = settings_store::told_suspended(connection, account).await?;
    let mut nodes = BTreeMap::new();
    let mut servers = Vec::new();
    for instance in &looked_up {
        let held = addresses.get(&instance.id).map(Vec::as_slice).unwrap_or_default();
        let mut row = row(connection, &names, &mut nodes, (instance, held), now).await?;
        name_suspended(&mut row.state, suspended.contains(&instance.id));
        if fits(query, &row, instance) {
            servers.push(row);
        }
    }
    let fitting = if filtered { servers.len() } else { usize::try_from(total).unwrap_or(usize::MAX) };
    if filtered {
        servers = servers.into_iter().skip(window.start).take(PAGE).collect();
    }
    let address = |page: usize| {
        let mut address = url::form_urlencoded::Serializer::new(String::new());
        if !query.is_empty() {
            address.append_pair("q", query);
        }
        format!("/servers?{}", address.append_pair("page", &page.to_string()).finish())
    };
    let newer = (page > 1).then(|| address(page - 1));
    let older = (fitting > window.end).then(|| address(page + 1));
    Ok(List { query: query.to_owned(), total, servers, unpaid, newer, older })
}

async fn row(
    connection: &mut AnyConnection,
    names: &Names,
    nodes: &mut BTreeMap<NodeId, Option<fleet::NodeRow>>,
    (instance, held): (&Instance, &[IpAddr]),
    now: UnixMillis,
) -> Result<Row, DbError> {
    let first =
        |fits: fn(&IpAddr) -> bool| held.iter().find(|address| fits(address)).map(ToString::to_string);
    let (ipv4, ipv6) = (first(IpAddr::is_ipv4), first(IpAddr::is_ipv6));
    // Many servers live on few nodes.
    if let Some(id) = instance.node
        && !nodes.contains_key(&id)
    {
        nodes.insert(id, fleet::node(connection, id).await?);
    }
    let node = instance.node.and_then(|id| nodes.get(&id)?.as_ref());
    let live = instance.built_at.is_some();
    let path = if live { format!("/servers/{}", instance.id) } else { format!("/orders/{}", instance.order) };
    Ok(Row {
        href: path,
        name: instance.hostname.clone(),
        state: state(instance, sight_from(instance, node, now)),
        ipv4,
        ipv6,
        plan: Names::of(&names.plans, &instance.plan_code),
        location: Names::of(&names.locations, &instance.location),
        image: Names::of(&names.images, &instance.image_code),
    })
}

/// Every word of the filter has to fit: `state:`, `location:` and `plan:` by code, others anywhere in the row.
fn fits(query: &str, row: &Row, instance: &Instance) -> bool {
    query.split_whitespace().all(|word| match word.split_once(':') {
        Some(("state", wanted)) => row.state.code == wanted,
        Some(("location", wanted)) => instance.location == wanted,
        Some(("plan", wanted)) => instance.plan_code == wanted,
        _ => {
            let word = word.to_lowercase();
            let addresses =
                [row.ipv4.as_deref().unwrap_or_default(), row.ipv6.as_deref().unwrap_or_default()];
            row.name.to_lowercase().contains(&word) || addresses.iter().any(|address| address.contains(&word))
        }
    })
}

fn addresses(place: Option<&Placement>) -> (Option<String>, Option<String>) {
    let ipv4 = place.map(|place| place.ipv4.address.to_string());
    let ipv6 = place.and_then(|place| place.ipv6).map(|address| address.address.to_string());
    (ipv4, ipv6)
}

/// What a server's price is, told by its order: minor units, currency, interval.
pub(super) struct Paid {
    pub(super) amount_minor: i64,
    pub(super) currency: String,
    pub(super) interval: String,
}

/// The page of one server.
pub(super) async fn page(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    form: FormState,
) -> Result<Show, DbError> {
    let names = Names::read(connection).await?;
    let place = fleet::placement_of(connection, instance.id).await?;
    let (ipv4, ipv6) = addresses(place.as_ref());
    let actions = store::actions(connection, instance.id, 10).await?;
    let server = head(connection, instance, now).await?;
    let ended = matches!(
        instance.state,
        InstanceState::Retiring | InstanceState::Retired | InstanceState::Purging | InstanceState::Purged
    );
    let price = match billing::price_of(connection, instance.order).await? {
        Some(price) => catalog::price(connection, &price).await?,
        None => None,
    };
    let paid = price.map(|price| Paid {
        amount_minor: price.amount_minor,
        currency: price.currency,
        interval: price.interval.to_string(),
    });
    Ok(Show {
        actions: if server.live { power(instance, server.locked.is_some()) } else { Vec::new() },
        server,
        ssh: ipv4
            .as_ref()
            .filter(|_| instance.state.is_live())
            .map(|ip| format!("ssh {}@{ip}", instance.login_user)),
        ipv4,
        ipv6,
        fingerprints: instance.host_keys.clone(),
        plan: PlanSize {
            name: Names::of(&names.plans, &instance.plan_code),
            vcpu: instance.vcpu,
            memory_mib: u64::from(instance.memory_mib),
            disk_gib: u64::from(instance.disk_gib),
        },
        image: Names::of(&names.images, &instance.image_code),
        location: Names::of(&names.locations, &instance.location),
        created_at: instance.created_at,
        traffic: metrics::traffic_use(connection, instance, now).await?,
        price: paid.filter(|_| !ended).map(|paid| Price {
            amount: Money::new(paid.amount_minor, paid.currency),
            interval: paid.interval,
        }),
        due: billing::standing_of(connection, instance.order).await?.filter(|_| !ended).map(|at| Due {
            state: at.why.as_str(),
            tone: at.tone(),
            well: at.is_well(),
            next: at.next.map(|(step, date)| (step.as_str(), date)),
        }),
        activity: activity(connection, instance, &actions).await?,
        can_delete: instance.state.is_live(),
        plan_change: match billing::open_change(connection, instance.order).await? {
            Some(change) => Some(plan_change(connection, &change).await?),
            None => None,
        },
        form,
    })
}

/// How a change of the plan that is under way is told in a line.
pub(crate) async fn plan_change(
    connection: &mut AnyConnection,
    change: &billing::Change,
) -> Result<PlanChange, DbError> {
    let plan = catalog::plan(connection, &change.to_plan).await?;
    let from = catalog::price(connection, &change.from_price).await?;
    let to = catalog::price(connection, &change.to_price).await?;
    let interval = to
        .filter(|to| from.is_some_and(|from| from.interval != to.interval))
        .map(|to| to.interval.to_string());
    Ok(PlanChange {
        href: format!("/servers/{}/plan/{}", change.instance, change.id),
        state: change.state.as_str(),
        plan: plan.map_or_else(|| change.to_plan.clone(), |plan| plan.name),
        interval,
        at: change.due_at.or(change.expires_at),
    })
}

fn power(instance: &Instance, busy: bool) -> Vec<Action> {
    PowerVerb::ALL
        .into_iter()
        .map(|verb| Action {
            code: verb.as_str(),
            enabled: !busy && verb_fits(verb, instance.state),
            asks: verb != PowerVerb::Start,
        })
        .collect()
}

/// What all pages of a server begin with.
pub(super) async fn head(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
) -> Result<Head, DbError> {
    let sight = sight(connection, instance, now).await?;
    let wishes = wishes(connection, instance).await?;
    let newest = store::actions(connection, instance.id, 1).await?.into_iter().next();
    let busy = store::open_action(connection, instance.id).await?;
    let running = match &busy {
        Some(action) => Some(running(connection, action).await?),
        None => None,
    };
    let live = instance.state.is_live();
    let failure = match &newest {
        Some(action) => told::of(connection, action).await?,
        None => None,
    };
    let mut notices = notices(instance, &wishes, (newest.as_ref(), failure), sight);
    if let Some(newest) = newest.filter(|_| live)
        && waits_for_boot(connection, &newest).await?
    {
        notices.push(Notice { tone: "info", code: "password-next-boot", at: None, detail: None });
    }
    let mut state = state(instance, sight);
    name_suspended(&mut state, wishes.applied.suspended && wishes.suspension().is_some());
    Ok(Head {
        href: format!("/servers/{}", instance.id),
        name: instance.hostname.clone(),
        state,
        notices,
        running,
        live,
        locked: locked(&wishes, busy.is_some()).filter(|_| live),
    })
}

/// Whether an action gave root a password that holds only after the next restart.
async fn waits_for_boot(connection: &mut AnyConnection, action: &ActionRow) -> Result<bool, DbError> {
    let Some(order) = action.provisioning_order.filter(|_| action.kind == "set_password") else {
        return Ok(false);
    };
    let facts = dispatch::show(connection, order).await?.and_then(|record| record.facts);
    Ok(facts.is_some_and(|facts| facts.password.as_deref() == Some("next_boot")))
}

/// Why nothing can be begun now: text `instances-locked-<code>`.
fn locked(wishes: &Wishes, busy: bool) -> Option<&'static str> {
    if wishes.suspension().is_some() {
        Some("suspended")
    } else if busy || wishes.under_way.is_some() {
        Some("busy")
    } else if wishes.disk_lost {
        Some("needs-rebuild")
    } else {
        None
    }
}

/// The newest action, and what to say about it if it failed.
type Newest<'a> = (Option<&'a ActionRow>, Option<Told>);

fn notices(instance: &Instance, wishes: &Wishes, newest: Newest<'_>, sight: Sight) -> Vec<Notice> {
    let say = |tone, code, at| Notice { tone, code, at, detail: None };
    let mut notices = Vec::new();
    match instance.state {
        InstanceState::Retired | InstanceState::Purging => {
            notices.push(say("info", "retired", instance.purge_at));
        }
        InstanceState::NeedsOperator => notices.push(say("bad", "needs-operator", None)),
        InstanceState::Running | InstanceState::Stopped => {
            if let Some(wish) = wishes.suspension() {
                let detail = Some(wish.reason.clone());
                notices.push(Notice { detail, ..say("bad", "suspended", Some(wish.at)) });
            }
            if wishes.disk_lost {
                notices.push(say("bad", "needs-rebuild", None));
            }
            if wishes.applied.rescue.is_some() {
                notices.push(say("wait", "in-rescue", None));
            }
            if wishes.restart_needed {
                notices.push(say("info", "restart-needed", None));
            }
            if let Some(rate) = wishes.applied.rate_mbit {
                let detail = Some(format!("{} Mbit/s", rate.get()));
                notices.push(Notice { detail, ..say("info", "network-limited", None) });
            }
            if wishes.applied.unfiltered {
                notices.push(say("wait", "unfiltered", None));
            }
            notices.extend(passing(instance, wishes, newest, sight));
        }
        _ => {}
    }
    notices
}

/// What is worth a sentence until something else happens.
fn passing(
    instance: &Instance,
    wishes: &Wishes,
    (newest, failure): Newest<'_>,
    sight: Sight,
) -> Option<Notice> {
    let say = |tone, code, at| Some(Notice { tone, code, at, detail: None });
    if !sight.fresh {
        return say("wait", "node-away", sight.at);
    }
    // Only the newest action is worth a sentence; an older failure was followed by something else.
    if let Some(failed) = newest
        .filter(|action| action.state == ActionState::Failed && action.kind != "create" && !wishes.disk_lost)
    {
        let refused = failure.is_some_and(|failure| failure.refused);
        // What puts another disk in the place of the old one may have begun with that.
        let code = match (failed.kind.as_str(), refused) {
            ("snapshot_rollback" | "backup_restore", false) => "disk-action-failed",
            (_, true) => "action-refused",
            (_, false) => "action-failed",
        };
        return Some(Notice {
            detail: failure.map(|failure| failure.words.to_owned()),
            ..say("bad", code, failed.finished_at)?
        });
    }
    if instance.usable_at.is_none() && instance.state == InstanceState::Running {
        return say("info", "started-not-confirmed", None);
    }
    None
}

async fn running(connection: &mut AnyConnection, action: &ActionRow) -> Result<Running, DbError> {
    let code = action.kind.clone();
    let told = match action.provisioning_order {
        Some(order) => progress::progress_of(connection, order).await?,
        None => None,
    };
    let mut steps: Vec<Step> = told.map(|(_, steps)| steps.iter().map(step).collect()).unwrap_or_default();
    if steps.is_empty() {
        steps.push(Step::now(code.clone(), action.started_at));
    }
    Ok(Running { code, steps })
}

fn step(step: &StepProgress) -> Step {
    use super::Progress;
    Step {
        code: step.name.clone(),
        state: match step.progress {
            Progress::Waiting => StepState::Waiting,
            Progress::Now => StepState::Now,
            Progress::Done => StepState::Done,
            Progress::Failed => StepState::Failed,
            Progress::Skipped => StepState::Skipped,
        },
        at: step.ended_at.or(step.started_at),
        took_ms: step.took().and_then(|took| i64::try_from(took.as_millis()).ok()),
        note: step.note.clone(),
        queue: step.queue,
    }
}

async fn activity(
    connection: &mut AnyConnection,
    instance: &Instance,
    actions: &[ActionRow],
) -> Result<Vec<Activity>, DbError> {
    let mut lines = Vec::new();
    for action in actions.iter().filter(|action| action.kind != "create") {
        // Customers are named to each other; what staff and the system do is done by us.
        let user = action.requested_by.strip_prefix("user:").and_then(|id| id.parse().ok());
        let who = match user {
            Some(user) => accounts::principal_of(connection, user).await?,
            None => None,
        };
        let actor = who.map_or_else(|| US.to_owned(), |principal| principal.email);
        let about = action.about.clone().filter(|_| !action.kind.starts_with("backup_")).unwrap_or_default();
        let code = match waits_for_boot(connection, action).await? {
            true => "set_password_next_boot".to_owned(),
            false => action.kind.clone(),
        };
        lines.push(Activity { at: action.started_at, actor, code, about });
    }
    if let Some(at) = instance.built_at {
        let (actor, about) = (US.to_owned(), String::new());
        lines.push(Activity { at, actor, code: "ready".to_owned(), about });
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.at));
    lines.truncate(10);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_understands_words_and_keys() {
        let uuid = uuid::Uuid::from_u128(1);
        let instance = Instance {
            id: ez_protocol::InstanceId::from_uuid(uuid),
            account: AccountId::from_uuid(uuid),
            order: ez_protocol::OrderId::from_uuid(uuid),
            hostname: "web-1".into(),
            location: "fsn".into(),
            plan_code: "s".into(),
            image_code: "debian-13".into(),
            image_digest: String::new(),
            login_user: "root".into(),
            vcpu: 1,
            memory_mib: 1,
            disk_gib: 1,
            max_snapshots: 5,
            max_backups: 0,
            ssh_keys: Vec::new(),
            first_boot: Default::default(),
            state: InstanceState::Running,
            reason: None,
            node: None,
            provisioning_order: None,
            attempts: 1,
            tried_nodes: Vec::new(),
            observed_state: Some("running".into()),
            observed_at: Some(UnixMillis(1_000)),
            host_keys: Vec::new(),
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            assigned_at: None,
            built_at: None,
            usable_at: None,
            retired_at: None,
            purge_at: None,
            purged_at: None,
        };
        let row = Row {
            href: String::new(),
            name: "web-1".into(),
            state: state(&instance, Sight { at: instance.observed_at, fresh: true }),
            ipv4: Some("203.0.113.24".into()),
            ipv6: None,
            plan: "S".into(),
            location: "Falkenstein".into(),
            image: "Debian 13".into(),
        };
        for (query, found) in [
            ("", true),
            ("WEB", true),
            ("state:running web", true),
            ("state:stopped", false),
            ("113.24", true),
            ("location:fsn plan:s", true),
            ("location:hel", false),
        ] {
            assert_eq!(fits(query, &row, &instance), found, "{query}");
        }
        assert_eq!(state(&instance, Sight { at: None, fresh: false }).code, "unknown");
    }
}

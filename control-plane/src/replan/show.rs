//! What the pages of plan changes show.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::{Choice, Refusal, ReplanError, choices, held, may_change, rules};
use crate::{
    billing::{self, Change, ChangeError, ChangeState, PREVIEW_LIVES, Quote, Way},
    catalog,
    db::DbError,
    instances::{self, Instance, Size},
    web::views::{
        Money,
        instances::PlanSize,
        replan::{Cell, Choose, Cost, Line, Past, Row, Show},
    },
};

/// Its colour.
fn tone(state: ChangeState) -> &'static str {
    match state {
        ChangeState::Previewed | ChangeState::TakenBack | ChangeState::Dropped => "idle",
        ChangeState::Wanted
        | ChangeState::AwaitingPayment
        | ChangeState::Scheduled
        | ChangeState::Applied => "wait",
        ChangeState::Done => "good",
        ChangeState::Expired | ChangeState::Refused => "bad",
    }
}

/// Why nothing can be chosen: text `replan-blocked-<code>`.
pub(super) fn blocked(error: &ReplanError) -> Option<&'static str> {
    Some(match error {
        ReplanError::Change(ChangeError::Busy) => "busy",
        ReplanError::Change(ChangeError::NotPaid) => "not-paid",
        ReplanError::Change(ChangeError::Ending) | ReplanError::Ends => "ending",
        ReplanError::Change(ChangeError::Disputed) => "disputed",
        ReplanError::Change(ChangeError::NotOneServer) => "not-one-server",
        ReplanError::Suspended => "suspended",
        ReplanError::NeedsRebuild => "needs-rebuild",
        ReplanError::DoesNotFit(_) | ReplanError::NotOnSale => "other",
        _ => return None,
    })
}

async fn plan_name(connection: &mut AnyConnection, code: &str) -> Result<String, DbError> {
    Ok(catalog::plan(connection, code).await?.map_or_else(|| code.to_owned(), |plan| plan.name))
}

fn address(instance: &Instance, change: &Change) -> String {
    format!("/servers/{}/plan/{}", instance.id, change.id)
}

async fn past(connection: &mut AnyConnection, instance: &Instance, change: &Change) -> Result<Past, DbError> {
    Ok(Past {
        href: address(instance, change),
        plan: plan_name(connection, &change.to_plan).await?,
        state: change.state.as_str(),
        tone: tone(change.state),
        at: change.updated_at,
    })
}

/// The page with everything that can be chosen.
pub(super) async fn choose(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
) -> Result<Choose, ReplanError> {
    let blocked = match may_change(connection, instance).await {
        Ok(()) => None,
        Err(error) => match blocked(&error) {
            Some(code) => Some(code),
            None => return Err(error),
        },
    };
    let mut rows: Vec<Row> = Vec::new();
    for choice in choices(connection, instance).await? {
        let cell = cell(&choice, blocked.is_some());
        let current = choice.plan.code == instance.plan_code;
        match rows.last_mut().filter(|row| row.size.name == choice.plan.name) {
            Some(row) => row.cells.push(cell),
            None => rows.push(Row {
                size: PlanSize {
                    name: choice.plan.name.clone(),
                    vcpu: choice.plan.vcpu,
                    memory_mib: u64::from(choice.plan.memory_mib),
                    disk_gib: u64::from(choice.plan.disk_gib),
                },
                traffic_gib: choice.plan.traffic_gib,
                current,
                cells: vec![cell],
            }),
        }
    }
    let open = match billing::open_change(connection, instance.order).await? {
        Some(change) => Some(past(connection, instance, &change).await?),
        None => None,
    };
    let mut older = Vec::new();
    for change in billing::changes_of(connection, instance.order).await? {
        if !change.state.is_open() {
            older.push(past(connection, instance, &change).await?);
        }
    }
    older.truncate(10);
    Ok(Choose {
        server: instances::page_head(connection, instance, now).await?,
        plan: PlanSize {
            name: plan_name(connection, &instance.plan_code).await?,
            vcpu: instance.vcpu,
            memory_mib: u64::from(instance.memory_mib),
            disk_gib: u64::from(instance.disk_gib),
        },
        rows,
        blocked,
        open,
        past: older,
    })
}

fn cell(choice: &Choice, blocked: bool) -> Cell {
    let (verdict, open) = match choice.verdict {
        Ok(Way::Now) if !choice.room => ("room", false),
        Ok(Way::Now) => ("now", true),
        Ok(_) => ("period_end", true),
        Err(Refusal::Same) => ("current", false),
        Err(Refusal::Currency) => ("currency", false),
        Err(Refusal::DiskShrinks { .. }) => ("disk", false),
        Err(Refusal::GrowsLater) => ("grows", false),
    };
    Cell {
        price: choice.price.id.clone(),
        interval: choice.price.interval.to_string(),
        amount: Money::new(choice.price.amount_minor, choice.price.currency.clone()),
        verdict,
        open: open && !blocked,
    }
}

fn cost(quote: Quote) -> Cost {
    let money = |minor: i64| Money::new(minor, quote.currency.clone());
    let some = |minor: i64| (minor != 0).then(|| money(minor));
    // What is neither charged now nor paid with credit is owed with the next invoice; the other way round it was owed before.
    let put_off = quote.total_minor.max(0) - quote.credit_minor - quote.due_minor;
    Cost {
        lines: quote
            .lines
            .iter()
            .map(|line| Line {
                what: line.description.clone(),
                amount: money(line.amount_minor),
                from: line.from.map(UnixMillis::from_secs),
                until: line.until.map(UnixMillis::from_secs),
            })
            .collect(),
        discount: some(quote.discount_minor),
        tax: some(quote.tax_minor),
        credit: some(quote.credit_minor),
        becomes_credit: (quote.total_minor < 0).then(|| money(-quote.total_minor)),
        put_off: some(put_off.max(0)),
        from_before: some((-put_off).max(0)),
        due: money(quote.due_minor),
        next: money(quote.next_minor),
        next_at: quote.next_at,
    }
}

/// The page of one change.
pub(super) async fn show(
    connection: &mut AnyConnection,
    instance: &Instance,
    change: Change,
    now: UnixMillis,
) -> Result<Show, DbError> {
    let price = catalog::price(connection, &change.to_price).await?;
    let from = catalog::price(connection, &change.from_price).await?;
    let from =
        plan_name(connection, &from.map_or(change.from_price.clone(), |price| price.plan_code)).await?;
    let (has, gets) = (Size::of(instance).held(), held(change.to_size));
    let pending = !matches!(change.state, ChangeState::Done);
    let fresh = now.since(change.created_at) <= PREVIEW_LIVES;
    Ok(Show {
        server: instances::page_head(connection, instance, now).await?,
        href: address(instance, &change),
        from,
        to: PlanSize {
            name: plan_name(connection, &change.to_plan).await?,
            vcpu: change.to_size.vcpu,
            memory_mib: u64::from(change.to_size.memory_mib),
            disk_gib: u64::from(change.to_size.disk_gib),
        },
        interval: price.map_or_else(|| "month".to_owned(), |price| price.interval.to_string()),
        way: change.way.as_str(),
        state: change.state.as_str(),
        tone: tone(change.state),
        due_at: change.due_at,
        expires_at: change.expires_at.filter(|_| change.state == ChangeState::AwaitingPayment),
        pay: billing::pay_url(connection, &change).await?,
        confirmable: change.state == ChangeState::Previewed && fresh,
        can_go_back: change.state == ChangeState::Scheduled && !change.back_wanted,
        waits: matches!(
            change.state,
            ChangeState::Wanted | ChangeState::AwaitingPayment | ChangeState::Applied
        ),
        restarts: pending && rules::restarts(has, gets),
        grows: pending && (gets.vcpu > has.vcpu || gets.memory_mib > has.memory_mib),
        disk_grows: pending && gets.disk_gib > has.disk_gib,
        cost: change.quote.map(cost),
    })
}

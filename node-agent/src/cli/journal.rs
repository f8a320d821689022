//! `journal`: what was ordered and what became of it. Reads beside a running agent.

use std::process::ExitCode;

use anyhow::Context as _;
use ez_protocol::{ProvisioningOrderId, UnixMillis};
use serde_json::{Value, json};
use sqlx::SqlitePool;

use super::{
    message, print, print_json,
    requests::{print_request, request_json},
};
use crate::{
    config::Config,
    journal::{Journal, OrderRow, OrderState, RefusedRow, StepRow, lists, requests},
};

/// What of the journal is shown.
pub(super) enum Show {
    /// The newest orders.
    Orders,
    /// One order with its steps, and what was asked about it.
    Order(String),
    /// Refused orders.
    Refused,
    /// What root of this host asked.
    Requests,
}

pub(super) async fn journal(
    config: &Config,
    as_json: bool,
    show: Show,
    limit: u32,
) -> anyhow::Result<ExitCode> {
    let path = config.journal_file();
    if !super::is_there(&path)? {
        message(&format!("there is no journal at {} yet: the agent has not run here", path.display()));
        return Ok(ExitCode::from(3));
    }
    let pool = Journal::open_read_only(&path).await.context("opening the journal for reading")?;
    match show {
        Show::Orders => show_orders(&pool, as_json, limit).await,
        Show::Order(id) => show_order(&pool, as_json, &id).await,
        Show::Refused => show_refused(&pool, as_json, limit).await,
        Show::Requests => show_requests(&pool, as_json, limit).await,
    }
}

async fn show_requests(pool: &SqlitePool, as_json: bool, limit: u32) -> anyhow::Result<ExitCode> {
    let rows = requests::list(pool, i64::from(limit)).await?;
    if as_json {
        print_json(&Value::Array(rows.iter().map(request_json).collect()));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        message("nothing was asked on this host yet");
    }
    rows.iter().for_each(print_request);
    Ok(ExitCode::SUCCESS)
}

async fn show_refused(pool: &SqlitePool, as_json: bool, limit: u32) -> anyhow::Result<ExitCode> {
    let rows = lists::refusals(pool, i64::from(limit)).await?;
    if as_json {
        print_json(&Value::Array(rows.iter().map(refused_json).collect()));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        message("no order was refused here");
    }
    for row in &rows {
        let id = row.order_id.map_or_else(|| "(unreadable)".to_owned(), |id| id.to_string());
        let rule = row.rule.as_ref().map(|rule| format!("({rule})")).unwrap_or_default();
        print(&format!("{}  {id:36}  {}{rule}  {}", time(row.at), row.code, row.detail));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show_orders(pool: &SqlitePool, as_json: bool, limit: u32) -> anyhow::Result<ExitCode> {
    let rows = lists::orders(pool, i64::from(limit)).await?;
    if as_json {
        print_json(&Value::Array(rows.iter().map(order_json).collect()));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        message("no order has come yet");
    }
    for row in &rows {
        print(&format!(
            "{}  {:>6}  {}  {:17}  VM {:<9}  generation {:<4}  {}",
            time(row.accepted_at),
            row.seq,
            row.order_id,
            row.asks(),
            row.vmid,
            row.generation,
            row.state
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show_order(pool: &SqlitePool, as_json: bool, id: &str) -> anyhow::Result<ExitCode> {
    let Ok(id) = id.parse::<ProvisioningOrderId>() else {
        message(&format!("{id:?} is not the id of a provisioning order; `ez-node-agent journal` lists them"));
        return Ok(ExitCode::from(2));
    };
    let Some(row) = lists::order(pool, id).await? else {
        message(&format!("the journal does not know order {id}"));
        return Ok(ExitCode::from(3));
    };
    let steps = lists::steps(pool, id).await?;
    let asked = requests::about(pool, id).await?;
    let place = match row.state {
        OrderState::Running => lists::place(pool, id).await?,
        _ => None,
    };
    if as_json {
        let mut value = order_json(&row);
        value["queue"] = place.map_or(Value::Null, |told| {
            json!({ "position": told.place.position, "estimate_secs": told.place.estimate_secs, "at": told.at })
        });
        value["steps"] = Value::Array(steps.iter().map(step_json).collect());
        value["requests"] = Value::Array(asked.iter().map(request_json).collect());
        print_json(&value);
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("order       {}", row.order_id));
    print(&format!("about       instance {} as VM {}", row.instance, row.vmid));
    print(&format!("asks        {} (generation {})", row.asks(), row.generation));
    print(&format!("state       {}", row.state));
    print(&format!("accepted    {}", time(row.accepted_at)));
    if let Some(at) = row.finished_at {
        print(&format!("ended       {}", time(at)));
    }
    if let Some(told) = place {
        let about =
            told.place.estimate_secs.map(|secs| format!(", about {secs} s from then")).unwrap_or_default();
        print(&format!("queue       number {} since {}{about}", told.place.position, time(told.at)));
    }
    for step in &steps {
        let task = step.upid.as_deref().unwrap_or("");
        let line =
            format!("{:>3}  {:14}  {:7}  attempt {}  {task}", step.k, step.name, step.state, step.attempt);
        print(line.trim_end());
    }
    if let Some(result) = &row.result {
        print(&format!("result      {result}"));
    }
    print(&format!("envelope    sha256:{}", row.envelope_sha256()));
    if let Some(at) = row.shed_at {
        print(&format!("            its bytes were let go on {}; the control plane keeps them", time(at)));
    }
    asked.iter().for_each(print_request);
    if row.state == OrderState::Stuck {
        message("stuck: `order resume` lets it go on, `order abandon` gives it up and leaves all as it is");
    }
    Ok(ExitCode::SUCCESS)
}

fn order_json(row: &OrderRow) -> Value {
    json!({
        "order_id": row.order_id, "seq": row.seq, "instance": row.instance, "vmid": row.vmid,
        "generation": row.generation, "verb": row.verb.as_str(), "asks": row.asks(), "state": row.state.as_str(),
        "result": row.result.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "expires_at": row.expires_at, "accepted_at": row.accepted_at,
        "started_at": row.started_at, "finished_at": row.finished_at,
        "envelope_sha256": row.envelope_sha256(), "shed_at": row.shed_at,
    })
}

fn step_json(row: &StepRow) -> Value {
    let inner = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    json!({
        "k": row.k, "name": row.name, "state": row.state.as_str(), "attempt": row.attempt,
        "upid": row.upid, "at": row.at, "intent": inner(&row.intent_json),
        "result": row.result_json.as_deref().map(inner),
    })
}

fn refused_json(row: &RefusedRow) -> Value {
    json!({
        "at": row.at, "order_id": row.order_id, "seq": row.seq,
        "code": row.code, "rule": row.rule, "detail": row.detail,
    })
}

/// A time for people, UTC, to the second: `2026-11-23 21:00:00`.
pub(super) fn time(at: UnixMillis) -> String {
    let days = at.as_secs().div_euclid(86_400);
    let second = at.as_secs().rem_euclid(86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970-01-01 as a date of the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_dates() {
        assert_eq!(time(UnixMillis(0)), "1970-01-01 00:00:00");
        assert_eq!(time(UnixMillis(951_782_400_000)), "2000-02-29 00:00:00");
        assert_eq!(time(UnixMillis(1_795_471_199_999)), "2026-11-23 21:59:59");
    }
}

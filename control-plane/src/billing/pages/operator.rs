//! The operator's page of money.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use ez_protocol::{InstanceId, UnixMillis};

use crate::billing::{dunning::tone, stripe::DisputeState};
use crate::{
    accounts::StaffRole,
    app::App,
    billing::{
        self, CheckError, Difference, Dispute, EventState, ExemptError, InboxEvent, Queued, ReplayError,
        Revenue,
    },
    instances,
    web::{
        self, Ctx, Error, Staff, Submission, Tone,
        views::{Money, billing as views},
    },
};

/// So many events are shown.
const SHOWN: i64 = 100;
const PAGE: &str = "/operator/billing";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(PAGE, get(show))
        .route("/operator/billing/events/{id}/replay", post(replay))
        .route("/operator/billing/servers/{id}/exempt", post(exempt))
        .route("/operator/billing/warnings/{id}/checked", post(checked))
}

async fn show(ctx: Ctx, staff: Staff, State(app): State<App>) -> web::Result {
    staff.at_least(StaffRole::Billing)?;
    let mut connection = app.db.read().await?;
    let purges = instances::purges(&mut connection).await?;
    let page = views::Operated {
        revenue: billing::revenue(&mut connection, ctx.now()).await?.into_iter().map(revenue).collect(),
        queue: billing::queue(&mut connection)
            .await?
            .into_iter()
            .map(|one| {
                let purge = purges.get(&one.standing.instance).copied();
                queued(one, purge)
            })
            .collect(),
        disputes: billing::disputes(&mut connection).await?.into_iter().map(dispute).collect(),
        events: billing::inbox(&mut connection, SHOWN).await?.into_iter().map(event).collect(),
        differences: billing::differences(&mut connection).await?.into_iter().map(difference).collect(),
    };
    ctx.page(&page)
}

fn revenue(one: Revenue) -> views::Revenue {
    let churn = one.churn_permille();
    views::Revenue {
        churn: format!("{}.{} %", churn / 10, churn % 10),
        monthly: Money::new(one.monthly_minor, one.currency.clone()),
        live: one.live,
        owed: Money::new(one.owed_minor, one.currency),
        owed_count: one.owed,
    }
}

fn queued(one: Queued, purge_at: Option<UnixMillis>) -> views::Queued {
    let standing = one.standing;
    views::Queued {
        server: one.description,
        href: format!("/operator/servers/{}", standing.instance),
        state: standing.why.as_str().to_owned(),
        tone: tone(standing.stand, standing.why),
        since: standing.since,
        next: standing.next.map(|(step, _)| step.as_str().to_owned()),
        next_at: standing.next.map(|(_, at)| at),
        purge_at: purge_at.filter(|_| standing.stand == billing::Stand::End),
        exempt: one.exempt,
        exempt_href: format!("/operator/billing/servers/{}/exempt", standing.instance),
    }
}

fn dispute(one: Dispute) -> views::Dispute {
    views::Dispute {
        tone: match DisputeState::of(&one.status) {
            // Our own word for a warning that a person has looked at.
            _ if one.status == "checked" => "good",
            DisputeState::Over => "good",
            DisputeState::Lost => "idle",
            DisputeState::Inquiry | DisputeState::Open => "bad",
        },
        check: (one.status == "early_warning")
            .then(|| format!("/operator/billing/warnings/{}/checked", one.id)),
        id: one.id,
        server: one.description,
        href: format!("/operator/servers/{}", one.instance),
        status: one.status,
        reason: one.reason.unwrap_or_default(),
        amount: Money::new(one.amount_minor, one.currency),
        answer_by: one.answer_by,
    }
}

fn event(one: InboxEvent) -> views::Event {
    views::Event {
        replay: one.replayable.then(|| format!("/operator/billing/events/{}/replay", one.id)),
        id: one.id,
        kind: one.kind,
        at: one.received_at,
        tone: match one.state {
            EventState::Done => "good",
            EventState::Received => "wait",
            EventState::Ignored => "idle",
            EventState::Parked | EventState::Failed => "bad",
        },
        state: one.state.as_str().to_owned(),
        error: one.error,
    }
}

fn difference(one: Difference) -> views::Difference {
    views::Difference {
        what: format!("{}: {}", one.kind, one.what),
        object: one.object,
        found_at: one.found_at,
        mended_at: one.mended_at,
    }
}

async fn replay(ctx: Ctx, staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let by = format!("operator:{}", staff.at_least(StaffRole::Billing)?.user_id);
    match billing::replay(&app, &id, &by).await {
        Ok(()) => ctx.redirect_saying(PAGE, Tone::Good, "event-replayed"),
        Err(ReplayError::Unknown) => Err(Error::NotFound),
        Err(ReplayError::Nothing) => ctx.redirect_saying(PAGE, Tone::Info, "event-nothing"),
        Err(ReplayError::Db(error)) => Err(error.into()),
    }
}

async fn checked(ctx: Ctx, staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let by = format!("operator:{}", staff.at_least(StaffRole::Billing)?.user_id);
    match billing::check_warning(&app, &id, &by).await {
        Ok(()) => ctx.redirect_saying(PAGE, Tone::Good, "warning-checked"),
        Err(CheckError::Unknown) => Err(Error::NotFound),
        Err(CheckError::Db(error)) => Err(error.into()),
    }
}

async fn exempt(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let (done, said) = if sent.text("exempt") == "no" {
        (billing::unexempt(&app, instance, &by).await, "server-not-exempt")
    } else {
        (billing::exempt(&app, instance, "exempted on the billing page", &by).await, "server-exempt")
    };
    match done {
        Ok(()) => ctx.redirect_saying(PAGE, Tone::Good, said),
        Err(ExemptError::Unknown | ExemptError::Reason) => Err(Error::NotFound),
        Err(ExemptError::Db(error)) => Err(error.into()),
    }
}

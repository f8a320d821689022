//! The pages of this slice: what an account pays, and what an operator sees of everybody's money.

mod operator;
mod revenue;
mod server;

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    response::Redirect,
    routing::{get, post},
};
use ez_protocol::{AccountId, Month, OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    BillState, BillingError, Document, Overview, Paying, Stand, Step, Why, cancel_at_period_end, documents,
    dunning, given_to, invoice_link, invoices, overview, portal, traffic_bills, traffic_closes, traffic_deal,
};
use crate::{
    app::App,
    db::DbError,
    instances, metrics,
    web::{
        self, Ctx, Customer, Error, Tone,
        views::{
            Money,
            billing::{Card, Invoice, Invoices, Subscription, TrafficMonth},
            instances::PlanChange,
        },
    },
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/billing", get(list))
        .route("/invoices", get(async || Redirect::permanent("/billing")))
        .route("/billing/portal", post(manage))
        .route("/billing/invoices/{id}/view", get(view))
        .route("/billing/invoices/{id}/pdf", get(pdf))
        .route("/billing/orders/{id}/cancel", post(cancel))
        .route("/billing/orders/{id}/keep", post(keep))
        .merge(operator::routes())
        .merge(revenue::routes())
        .merge(server::routes())
}

async fn list(ctx: Ctx, Customer(me): Customer, State(app): State<App>) -> web::Result {
    let mut connection = app.db.read().await?;
    let known = invoices(&mut connection, me.account_id).await?;
    let overview = overview(&mut connection, me.account_id).await?;
    let mut changes = BTreeMap::new();
    for change in super::open_changes(&mut connection, me.account_id).await? {
        changes.insert(change.order, instances::plan_change(&mut connection, &change).await?);
    }
    let purges = instances::purges(&mut connection).await?;
    let traffic = traffic(&mut connection, me.account_id, &overview, ctx.now()).await?;
    let told =
        |one: super::Given| crate::web::views::billing::Given { reason: String::new(), ..server::given(one) };
    let given = given_to(&mut connection, me.account_id).await?.into_iter().map(told).collect();
    let invoices = known
        .into_iter()
        .map(|invoice| Invoice {
            charged: charged(&invoice).map(|minor| Money::new(minor, invoice.currency.clone())),
            number: invoice.number,
            at: invoice.issued_at,
            servers: invoice.servers,
            total: Money::new(invoice.total_minor, invoice.currency),
            tone: match invoice.status.as_str() {
                "paid" => "good",
                "open" => "wait",
                "uncollectible" => "bad",
                _ => "idle",
            },
            state: match invoice.status.as_str() {
                known @ ("paid" | "open" | "void" | "uncollectible" | "refunded") => known.to_owned(),
                _ => "draft".to_owned(),
            },
            view: invoice.hosted_url.map(|_| documents::path_of(&invoice.id, Document::Page)),
            pdf: invoice.pdf_url.map(|_| documents::path_of(&invoice.id, Document::Pdf)),
        })
        .collect();
    ctx.page(&Invoices {
        subscriptions: overview
            .paying
            .into_iter()
            .map(|paying| {
                let change = changes.remove(&paying.order);
                let purge = purges.get(&paying.instance).copied();
                shown(paying, change, purge)
            })
            .collect(),
        traffic,
        given,
        credit: overview.credit.map(|(minor, currency)| Money::new(minor, currency)),
        invoices,
        can_manage: overview.is_customer,
        newer: None,
        older: None,
    })
}

/// What of an invoice is, or was, paid with money, where the customer's balance makes that another sum than its total: credit
/// that was used, or what was too small to be charged. Minor units.
fn charged(invoice: &super::Invoice) -> Option<i64> {
    let minor = match invoice.status.as_str() {
        "open" if invoice.paid_minor == 0 => invoice.due_minor,
        "paid" => invoice.paid_minor,
        _ => return None,
    };
    (minor != invoice.total_minor).then_some(minor)
}

/// Traffic that may cost something: the running month of every server, then what was closed.
async fn traffic(
    connection: &mut AnyConnection,
    account: AccountId,
    overview: &Overview,
    now: UnixMillis,
) -> Result<Vec<TrafficMonth>, DbError> {
    let href = |instance| format!("/servers/{instance}/graphs");
    let month = Month::of(now);
    let mut all = Vec::new();
    let served = |paying: &&Paying| paying.standing.is_some_and(|standing| standing.stand != Stand::End);
    for paying in overview.paying.iter().filter(served) {
        let Some(deal) = traffic_deal(connection, paying.instance, month).await? else { continue };
        let used = metrics::traffic(connection, paying.instance, month).await?.counted();
        let Some(over) = metrics::overage(&deal, used, month) else { continue };
        all.push(TrafficMonth {
            server: paying.description.clone(),
            href: href(paying.instance),
            month: month.to_string(),
            used,
            included: deal.included().unwrap_or(0),
            cost: over.cost,
            state: "running".to_owned(),
            tone: if over.bytes > 0 { "wait" } else { "info" },
            after: (over.bytes > 0).then_some(over.after),
        });
    }
    for bill in traffic_bills(connection, account).await? {
        let server = overview.paying.iter().find(|paying| paying.order == bill.order);
        let waits = matches!(bill.state, BillState::Wanted | BillState::Posted);
        all.push(TrafficMonth {
            server: server.map_or_else(|| bill.instance.to_string(), |paying| paying.description.clone()),
            href: href(bill.instance),
            month: bill.month.to_string(),
            used: bill.counted,
            included: bill.included_gib.saturating_mul(1 << 30),
            cost: Money::new(bill.amount_minor, bill.currency),
            state: bill.state.as_str().to_owned(),
            tone: match bill.state {
                BillState::Wanted | BillState::Posted => "wait",
                BillState::Invoiced => "good",
                BillState::Waived | BillState::Free => "idle",
            },
            after: waits.then(|| traffic_closes(bill.month)),
        });
    }
    Ok(all)
}

fn shown(paying: Paying, change: Option<PlanChange>, purge: Option<UnixMillis>) -> Subscription {
    let (stand, why) = paying.standing.map_or((Stand::Run, Why::Paid), |at| (at.stand, at.why));
    let next = paying.standing.and_then(|standing| standing.next);
    let address = |verb: &str| format!("/billing/orders/{}/{verb}", paying.order);
    let goes_on = stand != Stand::End && paying.status != "canceled";
    Subscription {
        href: format!("/servers/{}", paying.instance),
        price: paying.charge.map(|(minor, currency)| Money::new(minor, currency)),
        interval: match paying.months {
            3 => "quarter",
            12 => "year",
            _ => "month",
        },
        state: why.as_str().to_owned(),
        tone: dunning::tone(stand, why),
        next: next.map(|(step, _)| {
            // It was paid when Stripe had given up: nobody cancelled it, and nothing renews it.
            let lapses = step == Step::End && paying.status == "canceled";
            if lapses { "lapse" } else { step.as_str() }.to_owned()
        }),
        next_at: next.map(|(_, at)| at),
        purge_at: purge.filter(|_| stand == Stand::End),
        card: paying.card.map(|card| Card {
            brand: card.brand,
            last4: card.last4,
            until: format!("{:02}/{}", card.exp_month, card.exp_year),
        }),
        pay: paying.pay_url,
        plan: goes_on.then(|| format!("/servers/{}/plan", paying.instance)),
        change,
        cancel: (goes_on && paying.cancel_at.is_none()).then(|| address("cancel")),
        keep: (goes_on && paying.cancel_at.is_some()).then(|| address("keep")),
        server: paying.description,
    }
}

/// Stripe's own pages, for cards and tax ids.
async fn manage(ctx: Ctx, Customer(me): Customer, State(app): State<App>) -> web::Result {
    match portal(&app, me.account_id).await {
        Ok(url) => Ok(web::redirect(&url)),
        Err(BillingError::Unknown(_)) => Err(Error::NotFound),
        Err(error) => away(&ctx, error),
    }
}

async fn view(ctx: Ctx, me: Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    document(ctx, me, app, &id, Document::Page).await
}

async fn pdf(ctx: Ctx, me: Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    document(ctx, me, app, &id, Document::Pdf).await
}

/// On to one of an invoice's documents at Stripe, by the link that is good now.
async fn document(ctx: Ctx, Customer(me): Customer, app: App, id: &str, which: Document) -> web::Result {
    match invoice_link(&app, me.account_id, id, which).await {
        Ok(url) => Ok(web::redirect(&url)),
        Err(BillingError::Unknown(_)) => Err(Error::NotFound),
        Err(error) => away(&ctx, error),
    }
}

async fn cancel(ctx: Ctx, me: Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    end_with_period(ctx, me, app, &id, true).await
}

async fn keep(ctx: Ctx, me: Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    end_with_period(ctx, me, app, &id, false).await
}

async fn end_with_period(ctx: Ctx, Customer(me): Customer, app: App, id: &str, at_end: bool) -> web::Result {
    let order: OrderId = id.parse().map_err(|_| Error::NotFound)?;
    match cancel_at_period_end(&app, me.account_id, order, at_end, &me.actor()).await {
        Ok(()) if at_end => ctx.redirect_saying("/billing", Tone::Good, "subscription-ends"),
        Ok(()) => ctx.redirect_saying("/billing", Tone::Good, "subscription-kept"),
        Err(BillingError::Over) => ctx.redirect_saying("/billing", Tone::Info, "subscription-over"),
        Err(BillingError::Unknown(_)) => Err(Error::NotFound),
        Err(error) => away(&ctx, error),
    }
}

/// Stripe could not be asked: said as it is. What is ours is an error page.
fn away(ctx: &Ctx, error: BillingError) -> web::Result {
    match error {
        BillingError::Db(error) => Err(error.into()),
        error => {
            tracing::warn!(%error, "Stripe could not be asked");
            ctx.redirect_saying("/billing", Tone::Bad, "stripe-away")
        }
    }
}

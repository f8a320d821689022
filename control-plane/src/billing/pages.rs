//! The page of this slice: an account's invoices.

use axum::{Router, extract::State, response::Redirect, routing::get};

use super::invoices;
use crate::{
    app::App,
    web::{
        self, Ctx, Customer,
        views::{
            Money,
            billing::{Invoice, Invoices},
        },
    },
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/billing", get(list))
        .route("/invoices", get(async || Redirect::permanent("/billing")))
}

async fn list(ctx: Ctx, Customer(me): Customer, State(app): State<App>) -> web::Result {
    let mut connection = app.db.read().await?;
    let known = invoices(&mut connection, me.account_id).await?;
    let invoices = known
        .into_iter()
        .map(|invoice| Invoice {
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
            view: invoice.hosted_url,
            pdf: invoice.pdf_url,
        })
        .collect();
    ctx.page(&Invoices { invoices, can_manage: false, newer: None, older: None })
}

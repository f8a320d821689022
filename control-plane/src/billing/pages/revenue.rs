//! The operator's page of revenue.

use axum::{Router, extract::State, routing::get};

use crate::{
    accounts::StaffRole,
    app::App,
    billing::{self, History, MonthRevenue},
    metrics::{self, Unit},
    web::{
        self, Ctx, Staff,
        views::{Money, billing as views},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/operator/revenue", get(show))
}

async fn show(ctx: Ctx, staff: Staff, State(app): State<App>) -> web::Result {
    staff.at_least(StaffRole::Billing)?;
    let mut connection = app.db.read().await?;
    let all = billing::revenue_history(&mut connection, ctx.now()).await?;
    ctx.page(&views::RevenuePage { currencies: all.iter().map(currency).collect() })
}

fn currency(one: &History) -> views::RevenueCurrency {
    let labels: Vec<String> = one.months.iter().map(|month| month.month.to_string()).collect();
    let values = |read: fn(&MonthRevenue) -> i64| -> Vec<u64> {
        one.months.iter().map(|month| u64::try_from(read(month)).unwrap_or(0)).collect()
    };
    let (money, count) = (Unit::Money(&one.currency), Unit::Count(&one.currency));
    let customers = [
        ("customers-new", values(|month| month.new_customers)),
        ("customers-lost", values(|month| month.lost_customers)),
    ];
    let failed = [("failed", values(|month| month.failed)), ("recovered", values(|month| month.recovered))];
    views::RevenueCurrency {
        currency: one.currency.to_uppercase(),
        charts: vec![
            metrics::draw_numbers("mrr", money, &[("mrr", values(|month| month.monthly_minor))], &labels),
            metrics::draw_numbers("customers", count, &customers, &labels),
            metrics::draw_numbers("failed", count, &failed, &labels),
        ],
        months: one.months.iter().rev().map(|month| shown(one, month)).collect(),
    }
}

fn shown(one: &History, month: &MonthRevenue) -> views::RevenueMonth {
    views::RevenueMonth {
        month: month.month.to_string(),
        monthly: Money::new(month.monthly_minor, one.currency.clone()),
        live: month.live,
        paused: month.paused,
        new_customers: month.new_customers,
        lost_customers: month.lost_customers,
        churn: month.churn_permille,
        failed: month.failed,
        failed_amount: Money::new(month.failed_minor, one.currency.clone()),
        recovered: month.recovered,
    }
}

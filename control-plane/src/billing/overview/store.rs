//! SQL of what people see.

use std::collections::BTreeMap;

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use super::{Dispute, Overview, Paying, Queued, Revenue};
use crate::{
    billing::{
        documents::{self, Document},
        dunning::{self, Card},
        revenue::{ended_since, monthly_now},
    },
    db::{Cols, DbError},
};

/// Rows of the queue.
const QUEUED: i64 = 200;

pub(super) async fn overview(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Overview, DbError> {
    let standings = dunning::store::of_account(connection, account).await?;
    let rows = sqlx::query(
        "SELECT s.order_id, s.instance_id, s.status, s.amount_minor, s.currency, s.months, s.period_end, s.cancel_at,
                c.description, k.stripe_id AS card_id, k.brand, k.last4, k.exp_month, k.exp_year,
                (SELECT o.stripe_id FROM billing_owed o WHERE o.subscription_id = s.stripe_id
                 ORDER BY CASE WHEN COALESCE(o.reason, '') = 'manual' OR o.traffic_alone = 1 THEN 1 ELSE 0 END,
                          CASE WHEN o.tries > 0 THEN 0 ELSE 1 END, o.issued_at, o.stripe_id LIMIT 1) AS to_pay
         FROM billing_subscriptions s
         JOIN billing_checkouts c ON c.order_id = s.order_id
         LEFT JOIN billing_customers u ON u.account_id = s.account_id
         LEFT JOIN billing_cards k ON k.stripe_id = COALESCE(s.payment_method_id, u.payment_method_id)
         WHERE s.account_id = $1
         ORDER BY CASE WHEN s.status IN ('canceled', 'incomplete_expired') THEN 1 ELSE 0 END, s.order_id DESC
         LIMIT 200",
    )
    .bind(account.to_string())
    .fetch_all(&mut *connection)
    .await?;
    let mut paying = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Cols::of("billing_subscriptions", row);
        let order = row.id("order_id")?;
        let amount: Option<i64> = row.get("amount_minor")?;
        let currency: Option<String> = row.get("currency")?;
        let card = match row.get::<Option<String>>("card_id")? {
            Some(id) => Some(Card {
                id,
                brand: row.text("brand")?,
                last4: row.text("last4")?,
                exp_month: row.int("exp_month")?,
                exp_year: row.int("exp_year")?,
            }),
            None => None,
        };
        let standing = standings.iter().find(|standing| standing.order == order).copied();
        // Where a payment brings nothing back, none is asked for.
        let over =
            standing.is_some_and(|at| at.stand == dunning::Stand::End && at.why != dunning::Why::Unpaid);
        let to_pay = row.get::<Option<String>>("to_pay")?.filter(|_| !over);
        paying.push(Paying {
            order,
            instance: row.id("instance_id")?,
            description: row.text("description")?,
            status: row.text("status")?,
            charge: amount.zip(currency),
            months: row.int("months")?,
            period_end: row.opt_millis("period_end")?,
            cancel_at: row.opt_millis("cancel_at")?,
            card,
            standing,
            pay_url: to_pay.map(|invoice| documents::path_of(&invoice, Document::Page)),
        });
    }
    let customer = sqlx::query(
        "SELECT balance_minor, currency FROM billing_customers WHERE account_id = $1 AND deleted = 0",
    )
    .bind(account.to_string())
    .fetch_optional(connection)
    .await?;
    let Some(customer) = customer else { return Ok(Overview { paying, credit: None, is_customer: false }) };
    let customer = Cols::of("billing_customers", &customer);
    let (balance, currency) = (customer.int("balance_minor")?, customer.get::<Option<String>>("currency")?);
    // Stripe counts what is owed: credit is below zero.
    let credit = currency.filter(|_| balance < 0).map(|currency| (-balance, currency));
    Ok(Overview { paying, credit, is_customer: true })
}

/// The disputes. Of a warning whose charge was not read the amount is what its invoice was paid with.
pub(super) async fn disputes(connection: &mut AnyConnection) -> Result<Vec<Dispute>, DbError> {
    let rows = sqlx::query(
        "SELECT d.stripe_id, CASE WHEN d.checked_at IS NOT NULL AND d.status = 'prevented' THEN 'checked' ELSE d.status END AS status,
                d.reason, d.answer_by, d.opened_at, c.description, c.instance_id,
                CASE WHEN d.currency = '' THEN COALESCE(i.paid_minor, 0) ELSE d.amount_minor END AS amount_minor,
                CASE WHEN d.currency = '' THEN COALESCE(i.currency, '') ELSE d.currency END AS currency
         FROM billing_disputes d JOIN billing_checkouts c ON c.order_id = d.order_id
         LEFT JOIN billing_invoices i ON i.stripe_id = d.invoice_id
         ORDER BY CASE WHEN d.status IN ('won', 'lost', 'warning_closed', 'prevented') THEN 1 ELSE 0 END,
                  d.opened_at DESC, d.stripe_id
         LIMIT 100",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_disputes", row);
            Ok(Dispute {
                id: row.text("stripe_id")?,
                description: row.text("description")?,
                instance: row.id("instance_id")?,
                status: row.text("status")?,
                reason: row.get("reason")?,
                amount_minor: row.int("amount_minor")?,
                currency: row.text("currency")?,
                answer_by: row.opt_millis("answer_by")?,
                opened_at: row.millis("opened_at")?,
            })
        })
        .collect()
}

pub(super) async fn queue(connection: &mut AnyConnection) -> Result<Vec<Queued>, DbError> {
    let standings = dunning::store::not_running(connection, QUEUED).await?;
    let mut queue = Vec::new();
    for standing in standings {
        let row = sqlx::query(
            "SELECT c.description, CASE WHEN e.instance_id IS NULL THEN 0 ELSE 1 END AS exempt
             FROM billing_checkouts c LEFT JOIN billing_exemptions e ON e.instance_id = c.instance_id
             WHERE c.order_id = $1",
        )
        .bind(standing.order.to_string())
        .fetch_one(&mut *connection)
        .await?;
        let row = Cols::of("billing_checkouts", &row);
        queue.push(Queued { standing, description: row.text("description")?, exempt: row.flag("exempt")? });
    }
    Ok(queue)
}

pub(super) async fn revenue(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<Revenue>, DbError> {
    let mut all: BTreeMap<String, Revenue> = BTreeMap::new();
    let empty = |currency: &str| Revenue {
        currency: currency.to_owned(),
        monthly_minor: 0,
        live: 0,
        ended: 0,
        owed_minor: 0,
        owed: 0,
    };
    let rows = sqlx::query(
        "SELECT currency,
                CAST(SUM(CASE WHEN status IN ('active', 'past_due', 'trialing') THEN 1 ELSE 0 END) AS BIGINT) AS live
         FROM billing_subscriptions WHERE currency IS NOT NULL GROUP BY currency",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let row = Cols::of("billing_subscriptions", row);
        let currency = row.text("currency")?;
        all.entry(currency.clone()).or_insert_with(|| empty(&currency)).live = row.int("live")?;
    }
    for (currency, ended) in ended_since(connection, since).await? {
        all.entry(currency.clone()).or_insert_with(|| empty(&currency)).ended = ended;
    }
    for (currency, minor) in monthly_now(connection).await? {
        all.entry(currency.clone()).or_insert_with(|| empty(&currency)).monthly_minor = minor;
    }
    let rows = sqlx::query(
        "SELECT currency, CAST(SUM(due_minor) AS BIGINT) AS owed_minor, COUNT(*) AS owed
         FROM billing_owed GROUP BY currency",
    )
    .fetch_all(connection)
    .await?;
    for row in &rows {
        let row = Cols::of("billing_owed", row);
        let currency = row.text("currency")?;
        let revenue = all.entry(currency.clone()).or_insert_with(|| empty(&currency));
        revenue.owed_minor = row.int("owed_minor")?;
        revenue.owed = row.int("owed")?;
    }
    Ok(all.into_values().collect())
}

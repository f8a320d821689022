//! The operator's page of one server's money: refunds and credit.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use ez_protocol::InstanceId;

use crate::{
    accounts::StaffRole,
    app::App,
    billing::{
        self, BillingError, Gift, GiftKind, GiftState, Given, LONGEST_REASON, ServerMoney, StripeFault,
        Unfit, stripe::FaultKind,
    },
    currency,
    entropy::EntropyExt as _,
    web::{
        self, Ctx, Error, FormState, Staff, Submission, Tone,
        views::{Money, billing as views},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/operator/billing/servers/{id}", get(show))
        .route("/operator/billing/servers/{id}/refund", post(refund))
        .route("/operator/billing/servers/{id}/credit", post(credit))
}

async fn show(ctx: Ctx, staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    staff.at_least(StaffRole::Billing)?;
    let instance: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let page = page(&app, instance, None).await?;
    ctx.page(&page)
}

async fn page(
    app: &App,
    instance: InstanceId,
    came_back: Option<(GiftKind, FormState, &str)>,
) -> Result<views::ServerMoney, Error> {
    let mut connection = app.db.read().await?;
    let money = billing::server_money(&mut connection, instance).await?.ok_or(Error::NotFound)?;
    let of = |minor| Money::new(minor, money.currency.clone());
    // A form that came back is the same press.
    let (key, refund, credit) = match came_back {
        None => (app.entropy.token("f-"), FormState::default(), FormState::default()),
        Some((GiftKind::Refund, form, key)) => (key.to_owned(), form, FormState::default()),
        Some((GiftKind::Credit, form, key)) => (key.to_owned(), FormState::default(), form),
    };
    Ok(views::ServerMoney {
        server: money.description,
        href: format!("/operator/servers/{instance}"),
        action: format!("/operator/billing/servers/{instance}"),
        invoices: money
            .invoices
            .into_iter()
            .map(|paid| views::PaidInvoice {
                number: paid.number.unwrap_or_else(|| paid.id.clone()),
                id: paid.id,
                at: paid.issued_at,
                paid: of(paid.paid_minor),
                left: of(paid.left_minor),
            })
            .collect(),
        given: money.given.into_iter().map(given).collect(),
        creditable: of(money.creditable_minor),
        key,
        refund,
        credit,
    })
}

/// One line of what was given.
pub(super) fn given(one: Given) -> views::Given {
    views::Given {
        at: one.at,
        server: one.description,
        kind: one.kind.as_str(),
        amount: Money::new(one.amount_minor, one.currency),
        state: one.state.as_str(),
        tone: match one.state {
            GiftState::Wanted => "wait",
            GiftState::Done => "good",
            GiftState::Refused => "bad",
        },
        reason: one.reason,
    }
}

async fn refund(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    give(&ctx, &staff, &app, &id, &sent, GiftKind::Refund).await
}

async fn credit(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    give(&ctx, &staff, &app, &id, &sent, GiftKind::Credit).await
}

async fn give(
    ctx: &Ctx,
    staff: &Staff,
    app: &App,
    id: &str,
    sent: &Submission,
    kind: GiftKind,
) -> web::Result {
    let by = format!("operator:{}", staff.at_least(StaffRole::Billing)?.user_id);
    let instance: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let money = {
        let mut connection = app.db.read().await?;
        billing::server_money(&mut connection, instance).await?.ok_or(Error::NotFound)?
    };
    let mut form = sent.state();
    let amount_minor = currency::read(sent.text("amount"), &money.currency).filter(|minor| *minor > 0);
    if amount_minor.is_none() {
        form.refuse("amount", "amount-invalid");
    }
    let reason = sent.text("reason").to_owned();
    if reason.is_empty() || reason.chars().count() > LONGEST_REASON {
        form.refuse("reason", "reason-needed");
    }
    let invoice = (kind == GiftKind::Refund).then(|| sent.text("invoice").to_owned());
    if invoice.as_ref().is_some_and(|id| money.invoices.iter().all(|paid| paid.id != *id)) {
        form.refuse("invoice", "invoice-unknown");
    }
    let key = sent.text("key").to_owned();
    if let (Some(amount_minor), false) = (amount_minor, form.is_refused()) {
        let gift = Gift { instance, invoice: invoice.clone(), amount_minor, reference: key.clone(), reason };
        let done = match kind {
            GiftKind::Refund => billing::refund_part(app, &gift, &by).await,
            GiftKind::Credit => billing::credit(app, &gift, &by).await,
        };
        let back = format!("/operator/billing/servers/{instance}");
        match done {
            Ok(()) if kind == GiftKind::Refund => {
                return ctx.redirect_saying(&back, Tone::Good, "refund-given");
            }
            Ok(()) => return ctx.redirect_saying(&back, Tone::Good, "credit-given"),
            Err(BillingError::Db(error)) => return Err(error.into()),
            Err(BillingError::Unfit(Unfit::Refused)) => {
                return ctx.redirect_saying(&back, Tone::Bad, "gift-refused");
            }
            Err(BillingError::Unfit(why)) => refuse(&mut form, why, &money, invoice.as_deref()),
            Err(BillingError::Disputed) => return ctx.redirect_saying(&back, Tone::Bad, "gift-disputed"),
            Err(BillingError::ByHand(_)) => return ctx.redirect_saying(&back, Tone::Bad, "gift-by-hand"),
            // It is written down, and our key says nothing about it: whoever entered it again would give it twice.
            Err(error) if error.is_retryable() => {
                return ctx.redirect_saying(&back, Tone::Info, "gift-later");
            }
            Err(BillingError::Stripe(StripeFault {
                kind: FaultKind::Refused | FaultKind::NotFound, ..
            })) => {
                return ctx.redirect_saying(&back, Tone::Bad, "gift-refused");
            }
            Err(error) => {
                tracing::error!(%error, instance.id = %instance, "money could not be given");
                return ctx.redirect_saying(&back, Tone::Bad, "stripe-away");
            }
        }
    }
    let page = page(app, instance, Some((kind, form, &key))).await?;
    ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
}

/// Says why a gift cannot be given, beside the field that it is about.
fn refuse(form: &mut FormState, why: Unfit, money: &ServerMoney, invoice: Option<&str>) {
    let paid = invoice.and_then(|id| money.invoices.iter().find(|paid| paid.id == id));
    let left = paid.map_or(money.creditable_minor, |paid| paid.left_minor);
    let at_most = |minor: i64| web::written_money(minor, &money.currency);
    match why {
        Unfit::Payment => form.refuse_with("amount", "amount-too-much", at_most(left)),
        Unfit::Server => form.refuse_with("amount", "amount-too-much", at_most(money.creditable_minor)),
        Unfit::Credited => {
            form.refuse_with("amount", "amount-credited", at_most(left.min(money.creditable_minor)));
        }
        Unfit::Amount => form.refuse("amount", "amount-invalid"),
        Unfit::Reason => form.refuse("reason", "reason-needed"),
        Unfit::Used => form.refuse("amount", "gift-other-amount"),
        // Nothing that is typed in can mend these.
        Unfit::Reference | Unfit::Refused | Unfit::Changing => form.refuse("amount", "gift-anew"),
    }
}

#[cfg(test)]
mod tests {
    use crate::currency;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, read) in [
            ("4.50", Some(450)),
            ("4,5", Some(450)),
            ("4", Some(400)),
            ("0.01", Some(1)),
            ("1.005", None),
            ("", None),
            (".5", None),
            ("-1", None),
            ("1e3", None),
            ("1 000", None),
            ("9999999999", None),
        ] {
            assert_eq!(currency::read(text, "eur"), read, "{text}");
        }
        for whole in ["jpy", "xof", "pyg", "rwf"] {
            assert_eq!(currency::read("450", whole), Some(450), "{whole}: not forty-five thousand");
            assert_eq!(currency::read("4.5", whole), None, "{whole}");
        }
    }
}

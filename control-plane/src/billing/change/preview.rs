//! What a change costs, asked of Stripe and kept for whoever confirms it.

use ez_protocol::{PlanChangeId, UnixMillis};

use super::{Change, ChangeState, Line, Quote, Way, Wish, store};
use crate::{
    api,
    app::Services,
    billing::{
        BillingError, Unfit,
        model::CallState,
        outbox::{self, Call},
        store as billing_store,
        stripe::{self, PreviewView, Swap},
    },
    entropy::EntropyExt as _,
};

/// Has Stripe compute what a change costs, and writes it down. Nothing is changed and nothing promised.
///
/// # Errors
/// [`BillingError::Unfit`] when the subscription is not as the wish supposes; what Stripe or the database said.
pub async fn preview(
    app: &Services,
    wish: Wish,
    actor: &str,
    claim: Option<api::Claim>,
) -> Result<Change, BillingError> {
    let at = app.clock.now();
    let (checkout, copy, paid) = {
        let mut connection = app.db.read().await?;
        let checkout = billing_store::checkout(&mut connection, wish.order).await?;
        (
            checkout.ok_or(BillingError::Unknown("checkout"))?,
            store::copy(&mut connection, wish.order).await?.ok_or(BillingError::Unknown("subscription"))?,
            store::paid_for(&mut connection, wish.order).await?,
        )
    };
    let expected = checkout.expected;
    let (from_price, from_stripe_price) = match paid {
        Some(paid) => (paid.to_price, paid.to_stripe_price),
        None => (expected.price_id, expected.stripe_price_id),
    };
    let (Some(item), Some(end)) = (copy.item, copy.period_end) else {
        return Err(BillingError::Incomplete("item and period"));
    };
    if copy.price.as_deref() != Some(from_stripe_price.as_str()) {
        return Err(BillingError::Unfit(Unfit::Changing));
    }
    let id = PlanChangeId::generate(at, app.entropy.bytes());
    // The moment is whole seconds, and inside of the period also where the two clocks differ a little.
    let moment = at.as_secs().max(copy.period_start.map_or(0, UnixMillis::as_secs));
    let quote = match wish.way {
        Way::PeriodEnd | Way::Outside => Quote {
            lines: Vec::new(),
            currency: expected.currency,
            discount_minor: 0,
            tax_minor: 0,
            total_minor: 0,
            credit_minor: 0,
            due_minor: 0,
            next_minor: wish.to_minor,
            next_at: Some(end),
        },
        Way::Now => {
            let swap = Swap {
                subscription: &copy.subscription,
                item: &item,
                price: &wish.to_stripe_price,
                at: moment,
            };
            let call = Call::new("plan-preview", id, 1, stripe::preview_change(swap));
            let answer = outbox::send(app, &call).await?;
            // Nothing was made: there is nothing to keep of it but what it says.
            outbox::close(app, &call, CallState::Replaced, None, None).await?;
            let seen = PreviewView::read(&answer).ok_or(BillingError::Incomplete("the sum of a preview"))?;
            quote_of(&seen, &wish, end)
        }
    };
    let change = Change {
        id,
        order: wish.order,
        instance: expected.instance,
        account: expected.account,
        way: wish.way,
        state: ChangeState::Previewed,
        from_price,
        from_stripe_price,
        to_price: wish.to_price,
        to_stripe_price: wish.to_stripe_price,
        to_plan: wish.to_plan,
        to_size: wish.to_size,
        quote: Some(quote),
        proration_date: moment,
        attempt: 1,
        due_at: (wish.way == Way::PeriodEnd).then_some(end),
        expires_at: None,
        invoice: None,
        schedule: None,
        released: false,
        back_wanted: false,
        reason: None,
        actor: actor.to_owned(),
        applied_no: None,
        created_at: at,
        confirmed_at: None,
        applied_at: None,
        ended_at: None,
        updated_at: at,
    };
    let kept = change.clone();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::insert(tx, &kept).await?;
                api::made(tx, claim.as_ref(), kept.id).await
            })
        })
        .await?;
    Ok(change)
}

/// Stripe's invoice in our words. The next charge is at the end of what the lines reach to.
fn quote_of(seen: &PreviewView, wish: &Wish, period_end: UnixMillis) -> Quote {
    let lines = seen.lines().iter().map(|line| Line {
        description: line.description.clone().unwrap_or_default(),
        amount_minor: line.amount,
        from: line.period.and_then(|period| period.start),
        until: line.period.and_then(|period| period.end),
    });
    let lines: Vec<Line> = lines.collect();
    // What is paid for from now on: time that is given back ends with the old period, whatever begins.
    let bought = lines.iter().filter(|line| line.amount_minor >= 0).filter_map(|line| line.until).max();
    let balances = seen.starting_balance.zip(seen.ending_balance);
    Quote {
        currency: seen.currency.clone(),
        discount_minor: seen.discount(),
        tax_minor: seen.tax(),
        total_minor: seen.total,
        credit_minor: balances.map_or(0, |(before, after)| stripe::credit_between(before, after)),
        due_minor: seen.amount_due,
        next_minor: wish.to_minor,
        next_at: Some(bought.map_or(period_end, UnixMillis::from_secs)),
        lines,
    }
}

//! The payment page: opened, looked at, closed.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BillingError, Checkout, CheckoutState, Expectation, announce, customer,
    model::{CallState, Problem},
    outbox::{self, Call},
    store,
    stripe::{self, CheckoutSession, FaultKind, Metadata, SessionParts, page_of},
    sync,
};
use crate::{app::Services, config::Tax, db::DbError};

/// How long a payment page lives. Stripe's minimum is 30 minutes after *its* clock reads our request.
pub(crate) const SESSION_LIFE: Duration = Duration::from_secs(31 * 60);
/// How long what was read of a page counts for somebody who looks at the order.
const FRESH: Duration = Duration::from_secs(5);

/// Writes down what an order has to be paid with, in the transaction that places the order.
///
/// # Errors
/// Those of the statement.
pub async fn expect(tx: &mut AnyConnection, at: UnixMillis, expected: &Expectation) -> Result<(), DbError> {
    store::insert_checkout(tx, at, expected).await
}

/// A person takes the order's payment for the right one: from here on it counts like any other, and only the problem that
/// is kept beside it tells. A price that it came with is the purchase's from then on, so that only a later one is a change of
/// its plan. Does nothing where no person was asked. The caller holds the order ([`super::hold_order`]).
///
/// # Errors
/// Those of the statements.
pub async fn accept_payment(tx: &mut AnyConnection, at: UnixMillis, order: OrderId) -> Result<(), DbError> {
    match store::checkout(tx, order).await? {
        Some(known) if known.state == CheckoutState::Suspicious => {
            let other_price = known.problem == Some(Problem::Price);
            let accepted = Checkout { state: CheckoutState::Settled, ..known };
            store::save_checkout(tx, at, CheckoutState::Suspicious, &accepted).await?;
            if other_price { store::accept_price(tx, order).await } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The address of the order's payment page; opens one if there is none yet. Safe to call again at any time.
///
/// # Errors
/// [`BillingError::Over`] and [`BillingError::AlreadyPaid`] when there is nothing to pay; what Stripe said else.
pub async fn checkout(app: &Services, order: OrderId) -> Result<String, BillingError> {
    // A refused or lost attempt is followed by the next one; two in a row mean that Stripe is in trouble.
    for _ in 0..3 {
        let known = load(app, order).await?;
        match known.state {
            CheckoutState::Settled | CheckoutState::Suspicious | CheckoutState::Processing => {
                return Err(BillingError::AlreadyPaid);
            }
            CheckoutState::Expired => return Err(BillingError::Over),
            CheckoutState::Open => {
                if let Some(url) = known.url
                    && known.expires_at.is_some_and(|end| end > app.clock.now())
                {
                    return Ok(url);
                }
                return match sync_checkout(app, order).await? {
                    CheckoutState::Expired => Err(BillingError::Over),
                    CheckoutState::Open => Err(BillingError::LookingUp),
                    _ => Err(BillingError::AlreadyPaid),
                };
            }
            CheckoutState::Wanted => open(app, known).await?,
        }
    }
    Err(BillingError::LookingUp)
}

/// Opens a page, or prepares the next attempt.
async fn open(app: &Services, known: Checkout) -> Result<(), BillingError> {
    let order = known.expected.order;
    let customer = customer::ensure(app, known.expected.account, &known.expected.email).await?;
    let codes = {
        let mut connection = app.db.read().await?;
        store::has_promotion_codes(&mut connection).await?
    };
    let call = session_call(app, &known, &customer, codes);
    // A page that is found may be paid: whoever reads it after this has the later word.
    let read_at = app.clock.now();
    let session = match outbox::send(app, &call).await {
        Ok(session) => session,
        Err(BillingError::LookingUp) => match find(app, order, &customer).await? {
            Some(session) => session,
            None => {
                outbox::close(app, &call, CallState::Replaced, None, None).await?;
                let next = Checkout { attempt: known.attempt + 1, ..known };
                let at = app.clock.now();
                app.db
                    .write(move |tx| {
                        Box::pin(
                            async move { store::save_checkout(tx, at, CheckoutState::Wanted, &next).await },
                        )
                    })
                    .await?;
                return Ok(());
            }
        },
        Err(other) => return Err(other),
    };
    let view: CheckoutSession =
        serde_json::from_value(session.clone()).map_err(|_| BillingError::Incomplete("id"))?;
    let opened = Checkout {
        state: CheckoutState::Open,
        session_id: Some(view.id.clone()),
        url: view.url.clone(),
        expires_at: view.expires_at.map(UnixMillis::from_secs),
        customer_id: Some(customer),
        ..known
    };
    let (at, key, id) = (app.clock.now(), call.key, view.id.clone());
    let saved = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                store::put_object(tx, &id, "checkout.session", read_at, &session.to_string()).await?;
                store::close_call(tx, at, &key, CallState::Done, Some(&id), None).await?;
                store::save_checkout(tx, at, CheckoutState::Wanted, &opened).await
            })
        })
        .await;
    match saved {
        Ok(()) => Ok(()),
        // Somebody was quicker: the same page, or a cancellation, which must not leave a page behind to pay on.
        Err(DbError::NotFound) => {
            if load(app, order).await?.state == CheckoutState::Expired {
                close_page(app, order, &view.id).await?;
            }
            Ok(())
        }
        Err(other) => Err(other.into()),
    }
}

fn session_call(app: &Services, known: &Checkout, customer: &str, promotion_codes: bool) -> Call {
    let expected = &known.expected;
    let metadata = Metadata::from([
        ("order_id".to_owned(), expected.order.to_string()),
        ("instance_id".to_owned(), expected.instance.to_string()),
        ("account_id".to_owned(), expected.account.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_session(SessionParts {
        customer,
        price: &expected.stripe_price_id,
        reference: &expected.order.to_string(),
        return_url: &order_url(app, expected.order),
        description: &expected.description,
        expires_at: app.clock.now().plus(SESSION_LIFE),
        metadata,
        setup_price: expected.stripe_setup_price_id.as_deref(),
        trial_days: expected.trial_days,
        promotion_codes,
        automatic_tax: expected.tax != Tax::Off,
        tax_ids: app.config.stripe.tax_ids,
    });
    Call::new("checkout", expected.order, known.attempt, request)
}

/// The order's page: where Stripe sends the customer back to, whatever happened.
fn order_url(app: &Services, order: OrderId) -> String {
    format!("{}/orders/{order}", app.config.http.public_url.as_str().trim_end_matches('/'))
}

/// Finds the page that an earlier call with unknown outcome may have opened.
async fn find(app: &Services, order: OrderId, customer: &str) -> Result<Option<Value>, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_sessions_of(customer, None)).await?;
    let reference = order.to_string();
    let ours = page_of::<CheckoutSession>(&list)
        .into_iter()
        .find(|session| session.client_reference_id.as_deref() == Some(reference.as_str()));
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(ours.and_then(|session| rows.iter().find(|row| row["id"] == session.id.as_str()).cloned()))
}

/// Reads the order's payment page from Stripe and takes over what it says: the same function as the webhook's.
///
/// # Errors
/// What Stripe or the database said.
pub async fn sync_checkout(app: &Services, order: OrderId) -> Result<CheckoutState, BillingError> {
    if let Some(session) = load(app, order).await?.session_id {
        sync::session(app, &session).await?;
    }
    Ok(load(app, order).await?.state)
}

/// Reads the order's payment page as [`sync_checkout`] does, unless that was done a moment before `at`: a page that is
/// loaded again and again makes no call each time. One that was just opened is read in any case; its customer may be back
/// already.
///
/// # Errors
/// What Stripe or the database said.
pub async fn look_at_checkout(
    app: &Services,
    order: OrderId,
    at: UnixMillis,
) -> Result<CheckoutState, BillingError> {
    let known = load(app, order).await?;
    if let (Some(session), Some(ends)) = (&known.session_id, known.expires_at) {
        let mut connection = app.db.read().await?;
        let read = store::read_at(&mut connection, session).await?;
        drop(connection);
        let opened = ends.minus(SESSION_LIFE);
        if read.is_some_and(|read| read.since(opened) >= FRESH && read <= at && at.since(read) < FRESH) {
            return Ok(known.state);
        }
    }
    sync_checkout(app, order).await
}

/// Closes the order's payment page, so that nobody pays for what is no longer held. The answer is what came of
/// it: [`CheckoutState::Expired`], or a payment that was quicker or is on its way.
///
/// # Errors
/// What Stripe or the database said; the page may be open still.
pub async fn expire_session(app: &Services, order: OrderId) -> Result<CheckoutState, BillingError> {
    let known = load(app, order).await?;
    match (known.state, &known.session_id) {
        (CheckoutState::Open, Some(session)) => {
            close_page(app, order, session).await?;
            Ok(load(app, order).await?.state)
        }
        (CheckoutState::Wanted, _) => {
            // An earlier call may have opened a page whose answer never came.
            let customer = {
                let mut connection = app.db.read().await?;
                store::customer(&mut connection, known.expected.account).await?
            };
            if let Some(customer) = customer
                && let Some(session) = find(app, order, &customer).await?
                && let Some(id) = session.get("id").and_then(Value::as_str)
            {
                close_page(app, order, id).await?;
            }
            end_unopened(app, order).await
        }
        (CheckoutState::Processing, _) => sync_checkout(app, order).await,
        (state, _) => Ok(state),
    }
}

/// Ends a checkout that has no page.
async fn end_unopened(app: &Services, order: OrderId) -> Result<CheckoutState, BillingError> {
    let at = app.clock.now();
    let ended = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let known = store::checkout_to_change(tx, order).await?.ok_or(DbError::NotFound)?;
                let ended = Checkout { state: CheckoutState::Expired, ..known };
                store::save_checkout(tx, at, CheckoutState::Wanted, &ended).await?;
                announce::expired(tx, at, order).await
            })
        })
        .await;
    match ended {
        Ok(()) | Err(DbError::NotFound) => Ok(load(app, order).await?.state),
        Err(other) => Err(other.into()),
    }
}

/// Tells Stripe to close a page; if it is over already, reads how it ended.
async fn close_page(app: &Services, order: OrderId, session: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let call = Call::new("expire", format!("{order}:{session}"), 1, stripe::expire_session(session));
    match outbox::send(app, &call).await {
        Ok(answer) => {
            outbox::close(app, &call, CallState::Replaced, Some(session.to_owned()), None).await?;
            sync::take_session(app, read_at, answer).await
        }
        Err(BillingError::LookingUp) => sync::session(app, session).await,
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
        {
            sync::session(app, session).await
        }
        Err(other) => Err(other),
    }
}

async fn load(app: &Services, order: OrderId) -> Result<Checkout, BillingError> {
    let mut connection = app.db.read().await?;
    store::checkout(&mut connection, order).await?.ok_or(BillingError::Unknown("checkout"))
}

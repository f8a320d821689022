//! An operator's "I have looked at this payment". A card network's warning of fraud stays open at Stripe for as long as its
//! payment is neither refunded nor disputed, which may be for ever, and nothing can be answered to it there.

use serde_json::json;

use super::store;
use crate::{
    app::Services,
    audit,
    billing::back,
    db::{self, DbError},
};

/// The alarm about a warning that nobody has looked at.
pub(in crate::billing) const WARNED: &str = "fraud_warning";

/// Why a warning was not marked as checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is none.
    #[error("there is no fraud warning of this id")]
    Unknown,
    /// The database.
    #[error("reading or writing the warning")]
    Db(#[from] DbError),
}

/// Says that the payment of a fraud warning is good: its server is served and its owner may buy, until a bank takes the payment
/// back. Safe to repeat.
///
/// # Errors
/// [`CheckError`]; nothing was changed.
pub async fn check_warning(app: &Services, id: &str, actor: &str) -> Result<(), CheckError> {
    let order = {
        let mut connection = app.db.read().await?;
        store::warned(&mut connection, id).await?.ok_or(CheckError::Unknown)?
    };
    let (now, config, id, actor) = (app.clock.now(), app.config.clone(), id.to_owned(), actor.to_owned());
    app.db
        .write::<_, DbError, _>(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                if !store::check_warning(tx, now, &id, &actor).await? {
                    return Ok(());
                }
                back::silence(tx, now, &id).await?;
                let entry = audit::Entry {
                    actor,
                    action: "billing.warning_checked".to_owned(),
                    subject_kind: "order".to_owned(),
                    subject_id: order.to_string(),
                    detail: json!({ "warning": id }),
                };
                audit::record(tx, now, entry).await?;
                super::judge(tx, &config, now, order).await
            })
        })
        .await?;
    Ok(())
}

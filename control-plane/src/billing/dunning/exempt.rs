//! An operator's "never suspend this".

use ez_protocol::{InstanceId, OrderId};
use serde_json::json;

use super::store;
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
};

/// Why a server was not exempted.
#[derive(Debug, thiserror::Error)]
pub enum ExemptError {
    /// Nothing pays for a server of this id.
    #[error("no subscription pays for a server of this id")]
    Unknown,
    /// The reason stands in the audit log.
    #[error("a reason of one line and at most 200 characters is needed")]
    Reason,
    /// The database.
    #[error("reading or writing the exemption")]
    Db(#[from] DbError),
}

/// Says that a server is served whatever its invoices say, until [`unexempt`]. One that is suspended for money comes
/// back at once.
///
/// # Errors
/// [`ExemptError`]; nothing was changed.
pub async fn exempt(
    app: &Services,
    instance: InstanceId,
    reason: &str,
    actor: &str,
) -> Result<(), ExemptError> {
    let reason = reason.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > 200 || reason.chars().any(char::is_control) {
        return Err(ExemptError::Reason);
    }
    write(app, instance, Some(reason), actor).await
}

/// Takes it back: from now on the invoices count, as of the day they fell due.
///
/// # Errors
/// [`ExemptError`]; nothing was changed.
pub async fn unexempt(app: &Services, instance: InstanceId, actor: &str) -> Result<(), ExemptError> {
    write(app, instance, None, actor).await
}

async fn write(
    app: &Services,
    instance: InstanceId,
    reason: Option<String>,
    actor: &str,
) -> Result<(), ExemptError> {
    let order = {
        let mut connection = app.db.read().await?;
        store::order_of(&mut connection, instance).await?.ok_or(ExemptError::Unknown)?
    };
    let (now, config, actor) = (app.clock.now(), app.config.clone(), actor.to_owned());
    app.db
        .write::<_, DbError, _>(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let action = match &reason {
                    Some(reason) => {
                        store::put_exemption(tx, now, instance, reason, &actor).await?;
                        "billing.exempted"
                    }
                    None if store::remove_exemption(tx, instance).await? => "billing.exemption_ended",
                    None => return Ok(()),
                };
                let entry = audit::Entry {
                    actor,
                    action: action.to_owned(),
                    subject_kind: "instance".to_owned(),
                    subject_id: instance.to_string(),
                    detail: json!({ "reason": reason, "order": OrderId::to_string(&order) }),
                };
                audit::record(tx, now, entry).await?;
                super::judge(tx, &config, now, order).await
            })
        })
        .await?;
    Ok(())
}

//! An invoice's page at Stripe, and its PDF. Stripe's links to them are good for some weeks and bear another token each time, so
//! one that is kept is never shown: it is asked for in the moment in which somebody wants to see the invoice. Reading the invoice
//! is the same as for an event about it, so whatever is news is taken over with it.

use ez_protocol::AccountId;

use super::{BillingError, store, sync};
use crate::app::Services;

/// Which of the two is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The page, where an open invoice can be paid.
    Page,
    /// The PDF.
    Pdf,
}

/// Where an account finds one of its invoices, for as long as we keep it.
pub(super) fn path_of(invoice: &str, document: Document) -> String {
    let which = match document {
        Document::Page => "view",
        Document::Pdf => "pdf",
    };
    format!("/billing/invoices/{invoice}/{which}")
}

/// Stripe's link to an account's invoice, as Stripe gives it now.
///
/// # Errors
/// [`BillingError::Unknown`] when the account has no such invoice, or Stripe no such document of it; what Stripe or the database
/// said.
pub async fn invoice_link(
    app: &Services,
    account: AccountId,
    invoice: &str,
    document: Document,
) -> Result<String, BillingError> {
    let known = async || {
        let mut connection = app.db.read().await?;
        store::invoice_links(&mut connection, account, invoice).await
    };
    if known().await?.is_none() {
        return Err(BillingError::Unknown("invoice"));
    }
    sync::invoice(app, invoice).await?;
    let link = known().await?.and_then(|(page, pdf)| match document {
        Document::Page => page,
        Document::Pdf => pdf,
    });
    link.ok_or(BillingError::Unknown("document"))
}

//! Who pays, and with what.

use serde::Deserialize;

use super::id_of;

/// Who pays.
#[derive(Debug, Clone, Deserialize)]
pub struct CustomerView {
    /// `cus_…`
    pub id: String,
    /// Whether it was deleted at Stripe.
    #[serde(default)]
    pub deleted: bool,
    /// Minor units; negative is credit that the next invoice uses up.
    pub balance: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    invoice_settings: Option<InvoiceSettings>,
}

#[derive(Debug, Clone, Deserialize)]
struct InvoiceSettings {
    #[serde(default, deserialize_with = "id_of")]
    default_payment_method: Option<String>,
}

impl CustomerView {
    /// What is charged where a subscription names nothing; `pm_…`.
    pub fn payment_method(&self) -> Option<&str> {
        self.invoice_settings.as_ref()?.default_payment_method.as_deref()
    }
}

/// A card on file; of other methods only the kind.
#[derive(Debug, Clone, Deserialize)]
pub struct PaymentMethodView {
    /// `pm_…`
    pub id: String,
    /// `card`, `sepa_debit` …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `cus_…`; none once detached.
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// What may be shown of the card.
    pub card: Option<CardView>,
}

/// What may be shown of a card.
#[derive(Debug, Clone, Deserialize)]
pub struct CardView {
    /// For example `visa`.
    pub brand: Option<String>,
    /// Its last four digits.
    pub last4: Option<String>,
    /// Last month it is good in.
    pub exp_month: Option<i64>,
    /// And the year.
    pub exp_year: Option<i64>,
}

//! The money of one server, for operators: what can go back, and what did.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    FormState,
    templates::Page,
    views::{Money, SAMPLE_NOW},
};

/// What went back, or was credited.
#[derive(Debug, Clone, Serialize)]
pub struct Given {
    /// When.
    pub at: UnixMillis,
    /// What it is about.
    pub server: String,
    /// `refund` or `credit`.
    pub kind: &'static str,
    /// How much.
    pub amount: Money,
    /// `wanted`, `done` or `refused`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// Why; empty for customers and for what was done in Stripe's dashboard.
    pub reason: String,
}

/// What was paid with an invoice.
#[derive(Debug, Clone, Serialize)]
pub struct PaidInvoice {
    /// Stripe's id.
    pub id: String,
    /// Stripe's number.
    pub number: String,
    /// When it was made.
    pub at: UnixMillis,
    /// What was paid.
    pub paid: Money,
    /// What of it may still go back.
    pub left: Money,
}

/// `GET /operator/billing/servers/{id}`
#[derive(Debug, Clone, Serialize)]
pub struct ServerMoney {
    /// What it is.
    pub server: String,
    /// Its page for operators.
    pub href: String,
    /// Where the forms go.
    pub action: String,
    /// Newest first.
    pub invoices: Vec<PaidInvoice>,
    /// Newest first.
    pub given: Vec<Given>,
    /// How much credit may still be given.
    pub creditable: Money,
    /// What makes a press happen once; another one for each time the page is shown.
    pub key: String,
    /// The form of a refund, as it came back.
    pub refund: FormState,
    /// The form of credit, as it came back.
    pub credit: FormState,
}

impl Page for ServerMoney {
    const TEMPLATE: &'static str = "pages/billing/server.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let euros = |minor| Money::new(minor, "eur");
        let given = |kind, state, tone| Given {
            at: SAMPLE_NOW,
            server: "web-1".to_owned(),
            kind,
            amount: euros(300),
            state,
            tone,
            reason: "It was down for a day".to_owned(),
        };
        let invoice = |number: &str, left| PaidInvoice {
            id: format!("in_{number}"),
            number: number.to_owned(),
            at: SAMPLE_NOW,
            paid: euros(900),
            left: euros(left),
        };
        let some = Self {
            server: "web-1".to_owned(),
            href: "/operator/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            action: "/operator/billing/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            invoices: vec![invoice("EZ-0002", 900), invoice("EZ-0001", 0)],
            given: vec![
                given("refund", "done", "good"),
                given("credit", "wanted", "wait"),
                given("refund", "refused", "bad"),
            ],
            creditable: euros(900),
            key: "f-0123456789".to_owned(),
            refund: FormState::default(),
            credit: FormState::default(),
        };
        let mut form = FormState::default();
        form.fill("amount", "12,5");
        form.refuse("amount", "amount-invalid");
        form.refuse("reason", "reason-needed");
        let refused = Self { refund: form, ..some.clone() };
        let none = Self { invoices: Vec::new(), given: Vec::new(), creditable: euros(0), ..some.clone() };
        vec![("some", some), ("refused", refused), ("none", none)]
    }
}

//! Invoices, mirrored from Stripe.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    templates::Page,
    views::{Money, SAMPLE_NOW},
};

/// One invoice.
#[derive(Debug, Clone, Serialize)]
pub struct Invoice {
    /// Stripe's number, or none while it is a draft.
    pub number: Option<String>,
    /// When it was made.
    pub at: UnixMillis,
    /// Names of the servers it is for.
    pub servers: Vec<String>,
    /// The total.
    pub total: Money,
    /// `paid`, `open`, `void`, `uncollectible`, `refunded`, `draft`.
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// Hosted page at Stripe.
    pub view: Option<String>,
    /// The PDF at Stripe.
    pub pdf: Option<String>,
}

/// `GET /billing?before=`
#[derive(Debug, Clone, Serialize)]
pub struct Invoices {
    /// Newest first, one page.
    pub invoices: Vec<Invoice>,
    /// Whether there is a customer at Stripe, so that the portal button makes sense.
    pub can_manage: bool,
    /// Address of the newer page.
    pub newer: Option<String>,
    /// Address of the older page.
    pub older: Option<String>,
}

impl Page for Invoices {
    const TEMPLATE: &'static str = "pages/billing/invoices.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let invoice = |number: &str, minor, state: &str, tone| Invoice {
            number: Some(number.to_owned()),
            at: UnixMillis(SAMPLE_NOW.0 - 86_400_000),
            servers: vec!["web-1".to_owned()],
            total: Money::new(minor, "eur"),
            state: state.to_owned(),
            tone,
            view: Some("https://invoice.stripe.example/i/1".to_owned()),
            pdf: Some("https://invoice.stripe.example/i/1/pdf".to_owned()),
        };
        let draft = Invoice { number: None, view: None, pdf: None, ..invoice("", 900, "draft", "idle") };
        let some = Self {
            invoices: vec![
                draft,
                invoice("EZ-0003", 900, "open", "wait"),
                invoice("EZ-0002", 1_700, "paid", "good"),
                invoice("EZ-0001", 900, "refunded", "idle"),
            ],
            can_manage: true,
            newer: None,
            older: Some("/billing?before=3".to_owned()),
        };
        let none = Self { invoices: Vec::new(), can_manage: false, newer: None, older: None };
        vec![("some", some), ("none", none)]
    }
}

//! The letters of this slice and what stands in them.

use serde::Serialize;

use crate::notify::Letter;

/// Confirms a payment after the first.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentReceipt {
    /// Description of the server.
    pub server: String,
    /// The amount with its currency.
    pub amount: String,
    /// Number of the invoice; may be empty.
    pub number: String,
    /// The invoice.
    pub link: String,
}

impl Letter for PaymentReceipt {
    const TEMPLATE: &'static str = "payment-receipt";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            amount: "9.00 €".into(),
            number: "EZ-0002".into(),
            link: "https://invoice.example/i/1".into(),
        }
    }
}

/// A charge did not work out, or what its customer is to send did not come; the server runs on for the grace.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentFailed {
    /// Description of the server.
    pub server: String,
    /// What is owed, with its currency.
    pub amount: String,
    /// When it will be suspended; empty if it is off already, or runs on whatever is owed.
    pub until: String,
    /// Whether nobody has tried to charge it, and nobody will.
    pub late: bool,
    /// Whether paying ends a pause, and so starts it.
    pub paused: bool,
    /// Whether it is a bill beside the subscription: nothing is switched off because of it.
    pub apart: bool,
    /// Where to pay.
    pub link: String,
}

impl Letter for PaymentFailed {
    const TEMPLATE: &'static str = "payment-failed";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            amount: "9.00 €".into(),
            until: "23 Nov 2026".into(),
            late: false,
            paused: false,
            apart: false,
            link: "https://invoice.example/i/1".into(),
        }
    }
}

/// The bank wants its customer to confirm a charge.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentNeedsYou {
    /// Description of the server.
    pub server: String,
    /// What is owed, with its currency.
    pub amount: String,
    /// Where to confirm it.
    pub link: String,
}

impl Letter for PaymentNeedsYou {
    const TEMPLATE: &'static str = "payment-needs-you";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            amount: "9.00 €".into(),
            link: "https://invoice.example/i/1".into(),
        }
    }
}

/// Taxes cannot be worked out without more of an address, so nothing can be charged.
#[derive(Clone, Debug, Serialize)]
pub struct AddressNeeded {
    /// Description of the server.
    pub server: String,
    /// Where to complete it.
    pub link: String,
}

impl Letter for AddressNeeded {
    const TEMPLATE: &'static str = "address-needed";
    fn sample() -> Self {
        Self { server: "Server web-1".into(), link: "https://servers.example/billing".into() }
    }
}

/// The card will have expired at the next charge.
#[derive(Clone, Debug, Serialize)]
pub struct CardExpiring {
    /// Description of the server.
    pub server: String,
    /// Its last four digits.
    pub last4: String,
    /// When the next charge is.
    pub on: String,
    /// Where to name another.
    pub link: String,
}

impl Letter for CardExpiring {
    const TEMPLATE: &'static str = "card-expiring";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            last4: "4242".into(),
            on: "23 Nov 2026".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// A charge is coming.
#[derive(Clone, Debug, Serialize)]
pub struct RenewalSoon {
    /// Description of the server.
    pub server: String,
    /// The amount with its currency.
    pub amount: String,
    /// Whether that is the list price only, since Stripe could not be asked what is charged.
    pub about: bool,
    /// When it is charged.
    pub on: String,
    /// The billing page.
    pub link: String,
}

impl Letter for RenewalSoon {
    const TEMPLATE: &'static str = "renewal-soon";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            amount: "9.00 €".into(),
            about: false,
            on: "23 Nov 2026".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// A server is off for money's sake.
#[derive(Clone, Debug, Serialize)]
pub struct ServerSuspended {
    /// Description of the server.
    pub server: String,
    /// One of the words of `Why`.
    pub why: String,
    /// Where to pay.
    pub link: String,
}

impl Letter for ServerSuspended {
    const TEMPLATE: &'static str = "server-suspended";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            why: "unpaid".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// A server is served again.
#[derive(Clone, Debug, Serialize)]
pub struct ServerRestored {
    /// Description of the server.
    pub server: String,
    /// Until when, if nothing renews it; else empty.
    pub until: String,
    /// The billing page.
    pub link: String,
}

impl Letter for ServerRestored {
    const TEMPLATE: &'static str = "server-restored";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            until: "23 Nov 2026".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// A server that is unpaid for long will be retired.
#[derive(Clone, Debug, Serialize)]
pub struct ServerWillBeDeleted {
    /// Description of the server.
    pub server: String,
    /// Since when it is unpaid.
    pub since: String,
    /// When.
    pub on: String,
    /// Where to pay.
    pub link: String,
}

impl Letter for ServerWillBeDeleted {
    const TEMPLATE: &'static str = "server-will-be-deleted";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            since: "9 Nov 2026".into(),
            on: "23 Nov 2026".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// A subscription was cancelled and ends with the paid period.
#[derive(Clone, Debug, Serialize)]
pub struct ServerEnds {
    /// Description of the server.
    pub server: String,
    /// When.
    pub on: String,
    /// Where to take that back.
    pub link: String,
}

impl Letter for ServerEnds {
    const TEMPLATE: &'static str = "server-ends";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            on: "23 Nov 2026".into(),
            link: "https://servers.example/billing".into(),
        }
    }
}

/// What is paid for ends and nothing renews it, though its owner did not cancel.
#[derive(Clone, Debug, Serialize)]
pub struct ServerLapses {
    /// Description of the server.
    pub server: String,
    /// When.
    pub on: String,
    /// Where to order another.
    pub link: String,
}

impl Letter for ServerLapses {
    const TEMPLATE: &'static str = "server-lapses";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            on: "23 Nov 2026".into(),
            link: "https://servers.example/servers/new".into(),
        }
    }
}

/// Money is on its way back.
#[derive(Clone, Debug, Serialize)]
pub struct RefundSent {
    /// Description of the server.
    pub server: String,
    /// The amount with its currency.
    pub amount: String,
}

impl Letter for RefundSent {
    const TEMPLATE: &'static str = "refund-sent";
    fn sample() -> Self {
        Self { server: "Server web-1".into(), amount: "4.50 €".into() }
    }
}

/// Money that was on its way did not arrive.
#[derive(Clone, Debug, Serialize)]
pub struct RefundFailed {
    /// Description of the server.
    pub server: String,
    /// The amount with its currency.
    pub amount: String,
}

impl Letter for RefundFailed {
    const TEMPLATE: &'static str = "refund-failed";
    fn sample() -> Self {
        Self { server: "Server web-1".into(), amount: "4.50 €".into() }
    }
}

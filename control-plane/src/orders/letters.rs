//! The letters of this slice and what stands in them.

use serde::Serialize;

use super::model::Order;
use crate::{billing, instances::Instance, notify::Letter, web};

/// Tells the customer that the money is there and the server is being built.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentConfirmation {
    /// Name of the server.
    pub server: String,
    /// Name of the plan.
    pub plan: String,
    /// The amount with its currency; empty where nothing was due, as in a trial.
    pub amount: String,
    /// The order's page.
    pub link: String,
}

impl Letter for PaymentConfirmation {
    const TEMPLATE: &'static str = "payment-confirmation";
    fn sample() -> Self {
        Self {
            server: "web-1".into(),
            plan: "S".into(),
            amount: "9.00 €".into(),
            link: "https://servers.example/orders/1".into(),
        }
    }
}

/// Tells the customer how to get into the new server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerReady {
    /// Name of the server.
    pub server: String,
    /// The line to type.
    pub ssh: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Fingerprints of its host keys; may be none.
    pub fingerprints: Vec<String>,
    /// The server's page.
    pub link: String,
}

impl Letter for ServerReady {
    const TEMPLATE: &'static str = "server-ready";
    fn sample() -> Self {
        Self {
            server: "web-1".into(),
            ssh: "ssh root@203.0.113.24".into(),
            addresses: vec!["203.0.113.24".into(), "2001:db8:12::1".into()],
            fingerprints: vec!["SHA256:9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw (ED25519)".into()],
            link: "https://servers.example/servers/1".into(),
        }
    }
}

/// Tells the customer that their order waits for a person, and what happens to the money.
#[derive(Clone, Debug, Serialize)]
pub struct OrderNeedsAttention {
    /// Name of the server.
    pub server: String,
    /// The amount with its currency.
    pub amount: String,
    /// The order's page.
    pub link: String,
}

impl Letter for OrderNeedsAttention {
    const TEMPLATE: &'static str = "order-needs-attention";
    fn sample() -> Self {
        Self {
            server: "web-1".into(),
            amount: "9.00 €".into(),
            link: "https://servers.example/orders/1".into(),
        }
    }
}

/// Tells the customer that the money is on its way back.
#[derive(Clone, Debug, Serialize)]
pub struct OrderRefunded {
    /// Name of the server.
    pub server: String,
    /// What went back in money, with its currency; empty where credit has paid all.
    pub amount: String,
    /// What went back as credit, with its currency; empty where none had paid.
    pub credit: String,
    /// The order's page.
    pub link: String,
}

impl Letter for OrderRefunded {
    const TEMPLATE: &'static str = "order-refunded";
    fn sample() -> Self {
        Self {
            server: "web-1".into(),
            amount: "6.00 €".into(),
            credit: "3.00 €".into(),
            link: "https://servers.example/orders/1".into(),
        }
    }
}

/// Tells the customer that their bank has given the money back, so that nothing comes from us.
#[derive(Clone, Debug, Serialize)]
pub struct OrderReturnedByBank {
    /// Name of the server.
    pub server: String,
    /// What the bank has given back, with its currency.
    pub amount: String,
    /// What went back as credit, with its currency; empty where none had paid.
    pub credit: String,
    /// The order's page.
    pub link: String,
}

impl Letter for OrderReturnedByBank {
    const TEMPLATE: &'static str = "order-returned-by-bank";
    fn sample() -> Self {
        Self {
            server: "web-1".into(),
            amount: "6.00 €".into(),
            credit: "3.00 €".into(),
            link: "https://servers.example/orders/1".into(),
        }
    }
}

/// Tells an operator that an order waits for them.
#[derive(Clone, Debug, Serialize)]
pub struct OrderNeedsOperator {
    /// Short reference of the order.
    pub reference: String,
    /// One of the stable words of `orders::reason`.
    pub reason: String,
    /// Code of the location.
    pub location: String,
    /// The order's page for operators.
    pub link: String,
}

impl Letter for OrderNeedsOperator {
    const TEMPLATE: &'static str = "order-needs-operator";
    fn sample() -> Self {
        Self {
            reference: "01890a5d".into(),
            reason: "node_silent".into(),
            location: "fsn".into(),
            link: "https://servers.example/operator/orders/1".into(),
        }
    }
}

fn amount(order: &Order) -> String {
    web::written_money(order.paid_minor.unwrap_or_else(|| order.due_today()), &order.currency)
}

pub(super) fn payment_confirmation(order: &Order, link: String) -> PaymentConfirmation {
    PaymentConfirmation {
        server: order.hostname.clone(),
        plan: order.plan_name.clone(),
        amount: if order.paid_minor.unwrap_or_else(|| order.due_today()) > 0 {
            amount(order)
        } else {
            String::new()
        },
        link,
    }
}

pub(super) fn attention(order: &Order, link: String) -> OrderNeedsAttention {
    OrderNeedsAttention { server: order.hostname.clone(), amount: amount(order), link }
}

pub(super) fn refunded(order: &Order, returned: billing::Returned, link: String) -> OrderRefunded {
    let credit_minor = returned.credit_minor;
    // What was due may have been paid with credit, too: only what is known of the refund itself tells the two apart.
    let due = || order.paid_minor.unwrap_or_else(|| order.due_today()) - credit_minor;
    let money_minor = returned.money_minor.unwrap_or_else(due);
    let words = |minor: i64, told: bool| {
        if told { web::written_money(minor, &order.currency) } else { String::new() }
    };
    OrderRefunded {
        server: order.hostname.clone(),
        // Where nothing was due at all, that is what the letter says.
        amount: words(money_minor, money_minor > 0 || credit_minor == 0),
        credit: words(credit_minor, credit_minor > 0),
        link,
    }
}

pub(super) fn returned_by_bank(
    order: &Order,
    returned: billing::Returned,
    link: String,
) -> OrderReturnedByBank {
    let OrderRefunded { server, amount, credit, link } = refunded(order, returned, link);
    OrderReturnedByBank { server, amount, credit, link }
}

pub(super) fn operator(order: &Order, link: String) -> OrderNeedsOperator {
    OrderNeedsOperator {
        reference: reference(order),
        reason: order.reason.clone().unwrap_or_default(),
        location: order.location.clone(),
        link,
    }
}

pub(super) fn ready(order: &Order, instance: &Instance, addresses: Vec<String>, link: String) -> ServerReady {
    let host = addresses.first().cloned().unwrap_or_default();
    ServerReady {
        server: order.hostname.clone(),
        ssh: format!("ssh {}@{host}", instance.login_user),
        addresses,
        fingerprints: instance.host_keys.clone(),
        link,
    }
}

/// What people say on the phone instead of the id: its last twelve digits, which are random.
pub(super) fn reference(order: &Order) -> String {
    let id = order.id.to_string();
    id.rsplit('-').next().unwrap_or_default().to_owned()
}

//! What the checker knows of a system: plain rows, as they were read.

use ez_protocol::marker::Marker;

/// A whole system at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// When it was read, unix milliseconds.
    pub now: i64,
    /// What is on its way may take this long before it counts as a violation; [`World::GRACE_MS`] for a system at work.
    pub grace_ms: i64,
    /// Purchases.
    pub orders: Vec<Order>,
    /// States the purchases were in.
    pub transitions: Vec<Transition>,
    /// Customers' servers.
    pub instances: Vec<Instance>,
    /// Where servers live by the control plane's books.
    pub placements: Vec<Placement>,
    /// Addresses by the control plane's books.
    pub addresses: Vec<Address>,
    /// What was sold of each node.
    pub capacity: Vec<Capacity>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Signed commands.
    pub provisioning: Vec<Provisioning>,
    /// `(journal id, event number)` of each stored event.
    pub events: Vec<(String, i64)>,
    /// `(instance, generation)` as issued.
    pub generations: Vec<(String, i64)>,
    /// The audit log, in the order of its chain; unsealed rows last.
    pub audit: Vec<Audit>,
    /// Due work.
    pub jobs: Vec<Job>,
    /// Letters that were not sent: `(id, created)`.
    pub unsent_mail: Vec<(String, i64)>,
    /// Ids of stored webhook events.
    pub inbox: Vec<String>,
    /// Subscriptions by the control plane's mirror.
    pub mirror: Vec<MirrorSubscription>,
    /// Refunds by the control plane's books: `(order, amount, state)`.
    pub refunds: Vec<(String, i64, String)>,
    /// Payments made twice, by the control plane's books.
    pub surplus: Vec<Surplus>,
    /// Servers whose size a person has been asked about.
    pub asked_about: Vec<String>,
    /// Orders of whose subscription a person was told that it is not for one server.
    pub told_not_one: Vec<String>,
    /// Bills for traffic.
    pub traffic: Vec<TrafficBill>,
    /// Stripe's invoice items that name server and month.
    pub invoice_items: Vec<InvoiceItem>,
    /// Credit that stands on customers' balances at Stripe with a mark of ours.
    pub credits: Vec<Credit>,
    /// Orders whose customer was deleted at Stripe, with the balance.
    pub without_balance: Vec<String>,
    /// Credit that our books say was given, by its mark: with the purchase's refund, or by an operator.
    pub given_credits: Vec<Credit>,
    /// What each settled purchase came to in our books, by order.
    pub purchases: Vec<(String, Purchase)>,
    /// Services that ended for good, by our books and Stripe's: `(subscription, when)`.
    pub closed: Vec<(String, i64)>,
    /// Paid invoices in the mirror.
    pub mirror_invoices: Vec<Invoice>,
    /// Every invoice at Stripe.
    pub invoices: Vec<Invoice>,
    /// Hosts with their VMs.
    pub hosts: Vec<Host>,
    /// Journals, one per node.
    pub journals: Vec<Journal>,
    /// Stripe's view, by order.
    pub stripe: Vec<StripeOrder>,
    /// Ids of events whose delivery was answered 2xx.
    pub delivered: Vec<String>,
    /// Places in logs where a secret stands: `(file, which secret)`.
    pub leaks: Vec<(String, String)>,
}

/// A payment that an order did not need, as it had been paid on another page.
#[derive(Clone, Debug, Default)]
pub struct Surplus {
    /// The purchase.
    pub order: String,
    /// The subscription it began.
    pub subscription: Option<String>,
    /// How its refund stands.
    pub state: String,
    /// When it last changed.
    pub updated_at: i64,
}

/// A month's bill for a server's traffic.
#[derive(Clone, Debug, Default)]
pub struct TrafficBill {
    /// `<server>:202611`
    pub key: String,
    /// Minor units.
    pub amount: i64,
    /// How it stands.
    pub state: String,
    /// Stripe's invoice item.
    pub item: Option<String>,
    /// When it last changed.
    pub updated_at: i64,
}

/// An amount at Stripe that an invoice charges, for a month of a server.
#[derive(Clone, Debug, Default)]
pub struct InvoiceItem {
    /// Its id.
    pub id: String,
    /// `<server>:202611`
    pub key: String,
    /// Minor units.
    pub amount: i64,
    /// The invoice it is on.
    pub invoice: Option<String>,
    /// When it was made.
    pub made_at: i64,
}

/// Credit for a customer's next invoices: at Stripe, or in our books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// What it is for, as its metadata says: `refund_credit:<order or payment page>`, `goodwill:<gift>`.
    pub mark: String,
    /// Minor units in the customer's favour.
    pub amount: i64,
    /// When it was made, or last changed.
    pub at: i64,
}

/// A purchase.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// Its server.
    pub instance: String,
    /// Its state.
    pub state: String,
    /// When it was paid.
    pub paid_at: Option<i64>,
    /// When it last changed.
    pub updated_at: i64,
}

/// One change of a purchase's state.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    /// The purchase.
    pub order: String,
    /// The state entered.
    pub to: String,
    /// When.
    pub at: i64,
}

/// A customer's server.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its purchase.
    pub order: String,
    /// Its state.
    pub state: String,
    /// Last report about it.
    pub observed_state: Option<String>,
    /// When it last changed.
    pub updated_at: i64,
    /// Since when its node has said that it is suspended, as is wished.
    pub suspended_at: Option<i64>,
    /// Code of its plan.
    pub plan: String,
    /// vCPU, MiB of memory, GiB of disk that its node has given it.
    pub size: [i64; 3],
}

/// Where a server lives.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The server.
    pub instance: String,
    /// The node.
    pub node: String,
    /// Proxmox's number.
    pub vmid: i64,
    /// Sold size.
    pub vcpu: i64,
    /// Sold size, MiB.
    pub memory_mib: i64,
    /// Sold size, GiB.
    pub disk_gib: i64,
}

/// An address that was given out.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// The address, without prefix length.
    pub address: String,
    /// `held`, `quarantine` or `free`.
    pub state: String,
    /// Who has it.
    pub instance: Option<String>,
}

/// What was sold of a node, beside what there is: vCPU, MiB, GiB.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// The node.
    pub node: String,
    /// What may be sold.
    pub capacity: [i64; 3],
    /// What is sold.
    pub sold: [i64; 3],
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Its journal.
    pub journal: Option<String>,
    /// Events up to here were acknowledged.
    pub acked: i64,
    /// Whether it has a live connection.
    pub online: bool,
}

/// A signed command.
#[derive(Clone, Debug, Default)]
pub struct Provisioning {
    /// Its id.
    pub id: String,
    /// For which node.
    pub node: String,
    /// Its sequence on that node.
    pub seq: i64,
    /// About which server.
    pub instance: String,
    /// Which version of the wish.
    pub generation: i64,
    /// Its state.
    pub state: String,
    /// When it was issued.
    pub issued_at: i64,
    /// When it last changed.
    pub updated_at: i64,
    /// SHA-256 of the stored envelope, hexadecimal.
    pub envelope: String,
    /// Whether its node was enrolled again since it was issued: it is dead.
    pub earlier: bool,
    /// Whether that node has another journal since, however often it was enrolled: it knows nothing of this order.
    pub forgotten: bool,
}

/// A row of the audit log.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Its id.
    pub id: String,
    /// When.
    pub at: i64,
    /// What kind of thing.
    pub subject_kind: String,
    /// Which thing.
    pub subject: String,
    /// The exact bytes that are chained.
    pub entry: String,
    /// Place in the chain.
    pub seq: Option<i64>,
    /// Hash of the chain up to here.
    pub hash: Option<String>,
}

/// Work that waits.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Its kind and key.
    pub name: String,
    /// When it is due.
    pub run_at: i64,
    /// How often it was tried.
    pub attempts: i64,
    /// Whether it was given up.
    pub dead: bool,
    /// Last fault.
    pub error: Option<String>,
}

/// A subscription in the mirror.
#[derive(Clone, Debug, Default)]
pub struct MirrorSubscription {
    /// Stripe's id.
    pub id: String,
    /// The purchase.
    pub order: String,
    /// Its status.
    pub status: String,
    /// Its price.
    pub price: Option<String>,
    /// When it was last written.
    pub updated_at: i64,
    /// Whether its server is served, by the control plane's judgement.
    pub served: bool,
}

/// A host and its VMs.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The node's id.
    pub node: String,
    /// Its VMs, templates left out.
    pub vms: Vec<Vm>,
    /// `(VMID, hash of its whole state)` of each VM that is not ours, now.
    pub foreign: Vec<(i64, String)>,
    /// The same as it was when the checker first saw the host.
    pub foreign_before: Vec<(i64, String)>,
}

/// A VM.
#[derive(Clone, Debug, Default)]
pub struct Vm {
    /// Proxmox's number.
    pub vmid: i64,
    /// Our marker, if it has one.
    pub marker: Option<Marker>,
    /// Whether it runs.
    pub running: bool,
    /// vCPU, MiB of memory, GiB of disk that it is configured with; 0 where that cannot be told.
    pub size: [i64; 3],
    /// Its hardware addresses.
    pub macs: Vec<String>,
    /// Addresses it is configured with, without prefix length.
    pub addresses: Vec<String>,
}

/// An agent's journal.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The node.
    pub node: String,
    /// Its id.
    pub id: String,
    /// Highest sequence it says it has accepted.
    pub high_seq: i64,
    /// Orders.
    pub orders: Vec<JournalOrder>,
    /// Ids of orders that ended long ago, of which only that is kept.
    pub tombstones: Vec<String>,
    /// What the agent may touch: `(instance, VMID, generation)`.
    pub resources: Vec<(String, i64, i64)>,
}

/// An accepted order.
#[derive(Clone, Debug, Default)]
pub struct JournalOrder {
    /// Its id.
    pub id: String,
    /// Its sequence.
    pub seq: i64,
    /// Its state.
    pub state: String,
    /// When it was accepted.
    pub accepted_at: i64,
    /// SHA-256 of the envelope, hexadecimal.
    pub envelope: String,
}

/// What Stripe knows about one purchase.
#[derive(Clone, Debug, Default)]
pub struct StripeOrder {
    /// The purchase, from metadata.
    pub order: String,
    /// The subscription.
    pub subscription: Option<String>,
    /// Its status.
    pub status: Option<String>,
    /// Its price.
    pub price: Option<String>,
    /// The plan that the price's lookup key names.
    pub plan: Option<String>,
    /// Whether a change waits for its payment.
    pub pending: bool,
    /// Whether it has another quantity than 1, or other items than one: its price is then no plan of its server's.
    pub not_one_server: bool,
    /// Until when a server may be served although it has ended: to the end of its period, and for the notice of whoever did
    /// not wish it to end.
    pub lasts_until: Option<i64>,
    /// Paid in all, minor units.
    pub paid: i64,
    /// Refunded in all, minor units.
    pub refunded: i64,
    /// Taken back by banks that decided so, minor units.
    pub taken_back: i64,
    /// Whether a bank has a payment and has not decided.
    pub bank_decides: bool,
    /// When the first payment was made, unix milliseconds.
    pub paid_at: Option<i64>,
    /// What its payment page came to, once it was completed.
    pub page: Option<Purchase>,
    /// Whether every discount on that page came from a promotion code.
    pub by_code: bool,
}

/// What a purchase came to, in minor units: at Stripe, or in our books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purchase {
    /// The price, or nothing while it is a trial, and what is paid once.
    pub due: i64,
    /// What was taken off.
    pub discount: i64,
    /// Taxes in it.
    pub tax: i64,
    /// What was paid.
    pub paid: i64,
}

/// An invoice, at Stripe or in the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invoice {
    /// `in_…`
    pub id: String,
    /// Stripe's word.
    pub status: String,
    /// What it comes to, with discounts and taxes; minor units.
    pub total: i64,
    /// What was paid of it.
    pub paid: i64,
    /// The subscription it is of and when it was paid, by Stripe's word; not read from the mirror.
    pub paid_for: Option<(String, i64)>,
    /// What went back of it, by Stripe's word.
    pub refunded: i64,
    /// Whether a bank has its payment, or has taken it back.
    pub disputed: bool,
    /// Until when the time lasts that it charges, in milliseconds; nothing where it charges none.
    pub pays_until: Option<i64>,
}

impl World {
    /// What is on its way in a system at work may take this long before it counts as a violation.
    pub const GRACE_MS: i64 = 60_000;

    /// Whether something that happened then should have settled by now.
    pub fn settled(&self, at: i64) -> bool {
        self.now - at > self.grace_ms
    }

    /// Whether a purchase that was paid then should be fulfilled, refunded or on a desk by now: thirty times the grace, since
    /// creating orders live ten minutes, and 15 minutes are spent looking for another place.
    pub fn overdue(&self, paid_at: i64) -> bool {
        self.now - paid_at > 30 * self.grace_ms
    }

    /// How much there is of everything.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("orders", self.orders.len()),
            ("servers", self.instances.len()),
            ("nodes", self.nodes.len()),
            ("provisioning orders", self.provisioning.len()),
            ("journals", self.journals.len()),
            ("VMs", self.hosts.iter().map(|h| h.vms.len()).sum()),
            ("payments at Stripe", self.stripe.len()),
            ("audit rows", self.audit.len()),
        ]
    }

    /// The purchase of a server.
    pub(super) fn order_of(&self, instance: &str) -> Option<&Order> {
        self.orders.iter().find(|o| o.instance == instance)
    }

    /// The journal of a node.
    pub(super) fn journal_of(&self, node: &str) -> Option<&Journal> {
        self.journals.iter().find(|j| j.node == node)
    }
}

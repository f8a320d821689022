//! I2, I3, I6: money and what it pays for.

use std::collections::BTreeSet;

use super::{Violation, World, found};
use crate::check::world::{MirrorSubscription, StripeOrder, Surplus};

/// States of an order in which its server may run.
const LIVE: [&str; 4] = ["paid", "provisioning", "fulfilled", "needs_operator"];
/// States of a subscription at Stripe that pay for a server.
const PAYING: [&str; 3] = ["active", "trialing", "past_due"];
/// States in which a paid order may rest for ever.
const ENDED: [&str; 3] = ["fulfilled", "refunded", "needs_operator"];

/// I2: behind every running VM of ours stands an order that is paid, here and at Stripe, and no suspension.
pub(super) fn no_free_vm(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let vms = world.hosts.iter().flat_map(|h| h.vms.iter().map(move |vm| (h, vm)));
    for (host, vm) in vms.filter(|(_, vm)| vm.running) {
        let Some(marker) = &vm.marker else { continue };
        let instance = marker.instance.to_string();
        let subject = format!("VM {} on node {}", vm.vmid, host.node);
        let suspended = world.instances.iter().find(|i| i.id == instance).and_then(|i| i.suspended_at);
        if suspended.is_some_and(|since| world.settled(since)) {
            out.push(found("I2", subject, "it runs, but its server is suspended"));
            continue;
        }
        let Some(order) = world.order_of(&instance) else {
            out.push(found("I2", subject, format!("it runs for instance {instance}, which nobody ordered")));
            continue;
        };
        if !LIVE.contains(&order.state.as_str()) && world.settled(order.updated_at) {
            out.push(found("I2", subject, format!("it runs, but order {} is {}", order.id, order.state)));
            continue;
        }
        let paying = world.stripe.iter().find(|s| s.order == order.id && surplus_of(world, s).is_none());
        let status = paying.and_then(|s| s.status.as_deref()).unwrap_or("missing");
        let lasts = paying.is_some_and(|payment| lasts(world, payment));
        if !PAYING.contains(&status) && !lasts && world.settled(order.updated_at) {
            out.push(found("I2", subject, format!("it runs, but the subscription at Stripe is {status}")));
        }
    }
    out
}

/// A subscription that is over without anybody's wish, or was paid when Stripe had given up: what is paid for is served to its
/// end, as the books have it, and no longer.
fn lasts(world: &World, payment: &StripeOrder) -> bool {
    let served = world.mirror.iter().any(|mirror| mirror.order == payment.order && mirror.served);
    let until = payment.lasts_until.filter(|_| payment.status.as_deref() == Some("canceled"));
    served && until.is_some_and(|until| !world.settled(until))
}

/// I3: a paid order is fulfilled, refunded or on an operator's desk before its deadline; and what was
/// paid at Stripe is a paid order here.
pub(super) fn paid_orders_end(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    for order in &world.orders {
        let Some(paid_at) = order.paid_at else { continue };
        // What is to be refunded waits for a bank that has the payment, however long that takes.
        let bank_decides = order.state == "refunding"
            && world.stripe.iter().any(|payment| {
                payment.order == order.id && payment.bank_decides && surplus_of(world, payment).is_none()
            });
        if world.overdue(paid_at) && !bank_decides && !ENDED.contains(&order.state.as_str()) {
            let minutes = (world.now - paid_at) / 60_000;
            let detail = format!("paid {minutes} minutes ago and still {}", order.state);
            out.push(found("I3", format!("order {}", order.id), detail));
        }
    }
    for payment in world.stripe.iter().filter(|s| s.paid > 0) {
        let noticed = world.orders.iter().any(|o| o.id == payment.order && o.paid_at.is_some());
        let on_a_desk =
            world.orders.iter().any(|o| o.id == payment.order && ENDED.contains(&o.state.as_str()));
        if !noticed && !on_a_desk && payment.paid_at.is_some_and(|at| world.settled(at)) {
            let detail = format!("Stripe took {}, but the order is not paid here", payment.paid);
            out.push(found("I3", format!("order {}", payment.order), detail));
        }
    }
    out
}

/// The payment as one that was made twice, if the books say so.
fn surplus_of<'w>(world: &'w World, payment: &StripeOrder) -> Option<&'w Surplus> {
    world.surplus.iter().find(|s| s.subscription.is_some() && s.subscription == payment.subscription)
}

/// A payment made twice is given back whole, by us or by a bank, and the subscription it began has ended.
fn given_back(world: &World, payment: &StripeOrder, surplus: &Surplus) -> Option<Violation> {
    let status = payment.status.as_deref().unwrap_or("missing");
    let back = payment.refunded + payment.taken_back;
    let gone = (back == payment.paid && surplus.state == "succeeded") || payment.bank_decides;
    let whole = gone && status == "canceled";
    let why = || {
        let (paid, refunded, state) = (payment.paid, payment.refunded, &surplus.state);
        format!(
            "paid twice: Stripe took {paid} and gave back {refunded}, its subscription is {status}, the books \
             say {state}"
        )
    };
    (!whole && world.settled(surplus.updated_at))
        .then(|| found("I6", format!("order {}", payment.order), why()))
}

/// The mirror has the price that Stripe has, and the server the plan that this price is of: what is paid is what is served. A
/// server that a person was asked about is that person's business, and so is a subscription that is not for one server, once
/// somebody was told of it.
fn same_price(world: &World, payment: &StripeOrder, mirror: &MirrorSubscription) -> Option<Violation> {
    if !world.settled(mirror.updated_at) {
        return None;
    }
    let subject = format!("order {}", payment.order);
    if payment.price != mirror.price {
        let detail = format!("Stripe has price {:?}, the mirror {:?}", payment.price, mirror.price);
        return Some(found("I6", subject, detail));
    }
    let paid = matches!(payment.status.as_deref(), Some("active" | "trialing")) && !payment.pending;
    let plan = payment.plan.as_ref().filter(|_| paid)?;
    let instance = world.instances.iter().find(|instance| instance.order == payment.order)?;
    if !matches!(instance.state.as_str(), "running" | "stopped") || !world.settled(instance.updated_at) {
        return None;
    }
    if payment.not_one_server {
        let told = world.told_not_one.contains(&payment.order);
        let detail = "the subscription is not for one server, and nobody was told";
        return (!told).then(|| found("I6", subject, detail));
    }
    let asked = world.asked_about.contains(&instance.id);
    (!asked && instance.plan != *plan)
        .then(|| found("I6", subject, format!("plan {plan} is paid for, the server has {}", instance.plan)))
}

/// What a settled purchase came to here and at Stripe, where that is not the same: price, set-up fee and trial, the
/// discount and where it comes from, taxes, and what was paid in the end.
fn purchase_differs(world: &World, payment: &StripeOrder) -> Option<String> {
    let (_, ours) = world.purchases.iter().find(|(order, _)| *order == payment.order)?;
    let theirs = payment.page.as_ref()?;
    if ours != theirs {
        return Some(format!("it was settled as {ours:?}, Stripe's page says {theirs:?}"));
    }
    let below = theirs.paid < 0 || theirs.discount > theirs.due;
    if below || (theirs.discount > 0 && !payment.by_code) {
        return Some(format!("it was settled with a discount that no promotion code gave: {theirs:?}"));
    }
    None
}

/// I6: the mirror says of every subscription and refund what Stripe says, and nothing paid twice is kept.
pub(super) fn equals_stripe(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    for payment in &world.stripe {
        let subject = format!("order {}", payment.order);
        if let Some(surplus) = surplus_of(world, payment) {
            out.extend(given_back(world, payment, surplus));
            continue;
        }
        let mirrored = world.mirror.iter().find(|m| m.order == payment.order);
        let settled = payment.paid_at.is_none_or(|at| world.settled(at));
        match (&payment.subscription, mirrored) {
            (Some(id), None) if settled => {
                out.push(found("I6", subject.clone(), format!("subscription {id} is not in the mirror")));
            }
            (Some(id), Some(mirror)) if *id != mirror.id => {
                let detail = format!("Stripe has subscription {id}, the mirror {}", mirror.id);
                out.push(found("I6", subject.clone(), detail));
            }
            (_, Some(mirror))
                if payment.status.as_deref() != Some(&mirror.status) && world.settled(mirror.updated_at) =>
            {
                let status = payment.status.as_deref().unwrap_or("none");
                let detail = format!("Stripe says {status}, the mirror {}", mirror.status);
                out.push(found("I6", subject.clone(), detail));
            }
            _ => {}
        }
        if let Some(mirror) = mirrored {
            out.extend(same_price(world, payment, mirror));
        }
        if let Some(detail) = purchase_differs(world, payment).filter(|_| settled) {
            out.push(found("I6", subject.clone(), detail));
        }
        let refunds =
            world.refunds.iter().filter(|(order, _, state)| *order == payment.order && state == "succeeded");
        let refunded: i64 = refunds.map(|(_, amount, _)| amount).sum();
        if refunded != payment.refunded && settled {
            let detail = format!("Stripe gave back {}, the books say {refunded}", payment.refunded);
            out.push(found("I6", subject.clone(), detail));
        }
        let refunded_order = world.orders.iter().any(|o| o.id == payment.order && o.state == "refunded");
        let back = payment.refunded + payment.taken_back;
        if refunded_order && back != payment.paid {
            let detail = format!("the order is refunded, Stripe took {} and {back} went back", payment.paid);
            out.push(found("I6", subject, detail));
        }
    }
    out.extend(traffic_equals_stripe(world));
    out.extend(credit_equals_stripe(world));
    for mirror in &world.mirror_invoices {
        let theirs = world.invoices.iter().find(|invoice| invoice.id == mirror.id);
        let same = theirs.is_some_and(|theirs| {
            (theirs.total, theirs.paid, theirs.status.as_str()) == (mirror.total, mirror.paid, "paid")
        });
        if !same {
            let told = theirs.map_or_else(
                || "does not know it".to_owned(),
                |theirs| format!("says {} of {} and {}", theirs.paid, theirs.total, theirs.status),
            );
            let detail =
                format!("the mirror says {} of {} and paid, Stripe {told}", mirror.paid, mirror.total);
            out.push(found("I6", format!("invoice {}", mirror.id), detail));
        }
    }
    for invoice in world.invoices.iter().filter(|invoice| invoice.status == "paid") {
        let Some((subscription, at)) = &invoice.paid_for else { continue };
        let ours = world.mirror.iter().any(|mirror| mirror.id == *subscription);
        let known = world.mirror_invoices.iter().any(|mirror| mirror.id == invoice.id);
        if ours && !known && world.settled(*at) {
            let detail = format!("Stripe took {} for {subscription}, the books do not know it", invoice.paid);
            out.push(found("I6", format!("invoice {}", invoice.id), detail));
        }
    }
    out.extend(kept_for_nothing(world));
    for mirror in &world.mirror {
        if !world.stripe.iter().any(|s| s.order == mirror.order) {
            out.push(found(
                "I6",
                format!("order {}", mirror.order),
                format!("Stripe does not know {}", mirror.id),
            ));
        }
    }
    out
}

/// What was paid after a service had ended for good, for time after that end, went back whole.
fn kept_for_nothing(world: &World) -> Vec<Violation> {
    let late = |invoice: &&crate::check::world::Invoice| {
        let Some((subscription, paid_at)) = &invoice.paid_for else { return false };
        let ended = world.closed.iter().filter(|(id, _)| id == subscription).map(|(_, at)| at).min();
        // Stripe counts whole seconds.
        let nothing =
            |at: &i64| *paid_at > at + 1_000 && invoice.pays_until.is_some_and(|until| until > at + 1_000);
        ended.is_some_and(nothing) && world.settled(*paid_at)
    };
    let paid = world.invoices.iter().filter(|invoice| invoice.status == "paid");
    paid.filter(late)
        .filter(|invoice| invoice.refunded < invoice.paid && !invoice.disputed)
        .map(|invoice| {
            let detail = format!(
                "it was paid after its service had ended for good; {} of {} went back",
                invoice.refunded, invoice.paid
            );
            found("I6", format!("invoice {}", invoice.id), detail)
        })
        .collect()
}

/// Each credit that the books gave stands at Stripe once, and Stripe has none with our mark twice.
fn credit_equals_stripe(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let marked = |mark: &str| world.credits.iter().filter(|credit| credit.mark == mark).collect::<Vec<_>>();
    let gone = |mark: &str| world.without_balance.iter().any(|order| mark.contains(order.as_str()));
    let given = world.given_credits.iter().filter(|given| !gone(&given.mark));
    for given in given.filter(|given| world.settled(given.at)) {
        let amounts: Vec<i64> = marked(&given.mark).iter().map(|credit| credit.amount).collect();
        if amounts != [given.amount] {
            let detail = format!("the books gave {}, Stripe has {amounts:?}", given.amount);
            out.push(found("I6", format!("credit {}", given.mark), detail));
        }
    }
    let marks: BTreeSet<&str> = world.credits.iter().map(|credit| credit.mark.as_str()).collect();
    for mark in marks.into_iter().filter(|mark| marked(mark).len() > 1) {
        out.push(found("I6", format!("credit {mark}"), "Stripe has it more than once"));
    }
    out
}

/// The ledger of traffic and Stripe's invoice items agree: one item for each bill that was posted, none for any other.
fn traffic_equals_stripe(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    for bill in &world.traffic {
        let items: Vec<_> = world.invoice_items.iter().filter(|item| item.key == bill.key).collect();
        let wanted = match bill.state.as_str() {
            "posted" | "invoiced" => 1,
            // Between the item and the word of it.
            "wanted" => items.len().min(1),
            _ => 0,
        };
        let subject = format!("traffic {}", bill.key);
        if items.len() > 1 || (items.len() != wanted && world.settled(bill.updated_at)) {
            let detail =
                format!("the bill is {}, and Stripe has {} invoice items for it", bill.state, items.len());
            out.push(found("I6", subject, detail));
            continue;
        }
        let Some(item) = items.first() else { continue };
        let named = bill.item.as_ref().is_none_or(|id| *id == item.id);
        let invoiced = bill.state != "invoiced" || item.invoice.is_some();
        if item.amount != bill.amount || !named || !invoiced {
            let detail = format!(
                "the bill is {} minor units, {}, item {:?}; Stripe has {} as {} on {:?}",
                bill.amount, bill.state, bill.item, item.amount, item.id, item.invoice
            );
            out.push(found("I6", subject, detail));
        }
    }
    for item in &world.invoice_items {
        if !world.traffic.iter().any(|bill| bill.key == item.key) && world.settled(item.made_at) {
            let detail = format!("Stripe charges {} that nobody here knows of", item.amount);
            out.push(found("I6", format!("traffic {}", item.key), detail));
        }
    }
    out
}

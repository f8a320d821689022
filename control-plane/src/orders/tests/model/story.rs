//! What can happen, and how a story of it reads.

use std::fmt;

use ez_protocol::order::ActionVerb;
use proptest::prelude::*;

use super::host::Outcome;

/// How well a node and the control plane hear each other at a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Good,
    /// The order arrives, its answer does not.
    AnswerLost,
    /// The bytes leave and never arrive.
    OrderLost,
}

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone)]
pub(super) enum Happening {
    Orders(usize),
    OrdersAgain(usize),
    OpensPage(usize),
    Pays(usize),
    PaysOnAnExpiredPage(usize),
    PaysOnASecondPage(usize),
    ComesBack(usize),
    Cancels(usize),
    Deletes(usize),
    Presses(usize, ActionVerb),
    Webhook(usize, usize),
    WebhookLost(usize),
    RefundsWill(&'static str),
    StripeBreaks(usize, bool),
    Takes(usize, Line),
    WillRefuse(usize, &'static str),
    Works(usize, Outcome),
    Tells(usize, bool),
    Reports(usize),
    GuestStops(usize),
    Retries(usize),
    RePlaces(usize),
    Abandons(usize),
    Refunds(usize),
    Cordons(usize),
    Uncordons(usize),
    Revokes(usize),
    JobsRun,
    Passes(u64),
    Dies(usize, Box<Happening>),
}

impl fmt::Debug for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orders(who) => write!(f, "customer {who} orders a server and opens the payment page"),
            Self::OrdersAgain(n) => write!(f, "order {n}: the customer orders the same again"),
            Self::OpensPage(n) => write!(f, "order {n}: the customer opens the payment page"),
            Self::Pays(n) => write!(f, "order {n}: the customer pays"),
            Self::PaysOnAnExpiredPage(n) => {
                write!(f, "order {n}: the page that has run out is paid all the same")
            }
            Self::PaysOnASecondPage(n) => write!(f, "order {n}: another page of it is paid"),
            Self::ComesBack(n) => write!(f, "order {n}: the customer comes back from the payment page"),
            Self::Cancels(n) => write!(f, "order {n}: the customer cancels"),
            Self::Deletes(n) => write!(f, "order {n}: the customer deletes the server"),
            Self::Presses(n, verb) => write!(f, "order {n}: the customer presses {}", verb.as_str()),
            Self::Webhook(n, 1) => write!(f, "webhook {n} of those on their way arrives"),
            Self::Webhook(n, times) => write!(f, "webhook {n} of those on their way arrives {times} times"),
            Self::WebhookLost(n) => write!(f, "webhook {n} of those on their way is lost"),
            Self::RefundsWill(end) => write!(f, "refunds made from now on are {end}"),
            Self::StripeBreaks(calls, false) => write!(f, "the next {calls} calls to Stripe fail"),
            Self::StripeBreaks(calls, true) => {
                write!(f, "the next {calls} calls to Stripe work, their answers are lost")
            }
            Self::Takes(node, Line::Good) => write!(f, "node {node} is sent what waits for it"),
            Self::Takes(node, Line::AnswerLost) => {
                write!(f, "node {node} is sent what waits for it; its answers are lost")
            }
            Self::Takes(node, Line::OrderLost) => write!(f, "node {node}: what is sent to it is lost"),
            Self::WillRefuse(node, code) => write!(f, "node {node} will refuse its next order with {code}"),
            Self::Works(node, outcome) => write!(f, "node {node} works on its oldest order: {outcome:?}"),
            Self::Tells(node, false) => write!(f, "node {node} tells what happened"),
            Self::Tells(node, true) => write!(f, "node {node} tells everything it ever told again"),
            Self::Reports(node) => write!(f, "node {node} reports what it sees"),
            Self::GuestStops(n) => write!(f, "order {n}: the guest shuts itself down"),
            Self::Retries(n) => write!(f, "order {n}: an operator tries again"),
            Self::RePlaces(n) => {
                write!(f, "order {n}: an operator tries elsewhere, revoking the node if need be")
            }
            Self::Abandons(n) => write!(f, "order {n}: an operator lets go of it"),
            Self::Refunds(n) => write!(f, "order {n}: an operator gives the money back"),
            Self::Cordons(node) => write!(f, "node {node} is cordoned"),
            Self::Uncordons(node) => write!(f, "node {node} is uncordoned"),
            Self::Revokes(node) => write!(f, "node {node} is revoked"),
            Self::JobsRun => write!(f, "the jobs run"),
            Self::Passes(seconds) => write!(f, "{seconds} s pass"),
            Self::Dies(effects, during) => {
                write!(f, "the control plane dies after {effects} commits and calls while: {during:?}")
            }
        }
    }
}

/// What happens, one after the other.
#[derive(Clone)]
pub(super) struct Story(pub(super) Vec<Happening>);

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, what)| write!(f, "\n  {:2}. {what:?}", at + 1))
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Begins),
        6 => Just(Outcome::Succeeds),
        3 => Just(Outcome::Fails),
        1 => Just(Outcome::FailsForGood),
        1 => Just(Outcome::GetsStuck),
    ]
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![6 => Just(Line::Good), 2 => Just(Line::AnswerLost), 1 => Just(Line::OrderLost)]
}

/// Times at which something falls due: polls, sweeps, expiry, silence, the end of a payment page, deadlines.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(1_u64),
        3 => Just(20),
        3 => Just(61),
        3 => Just(301),
        3 => Just(602),
        3 => Just(16 * 60),
        2 => Just(33 * 60),
        1 => Just(25 * 3_600),
        1 => Just(73 * 3_600),
    ]
}

/// Something that happens in the life of a shop, the usual more often than the odd.
pub(super) fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let order = || 0..6_usize;
    let node = || 0..2_usize;
    let sale = prop_oneof![
        6 => (0..3_usize).prop_map(H::Orders),
        8 => order().prop_map(H::Pays),
        1 => order().prop_map(H::OpensPage),
        2 => order().prop_map(H::ComesBack),
        1 => order().prop_map(H::Cancels),
        1 => order().prop_map(H::OrdersAgain),
        1 => order().prop_map(H::PaysOnAnExpiredPage),
        1 => order().prop_map(H::PaysOnASecondPage),
        2 => order().prop_map(H::Deletes),
        1 => (order(), prop_oneof![Just(ActionVerb::Stop), Just(ActionVerb::Start), Just(ActionVerb::Reboot)])
            .prop_map(|(n, verb)| H::Presses(n, verb)),
    ];
    let stripe = prop_oneof![
        8 => (0..8_usize, prop_oneof![3 => Just(1_usize), 1 => Just(2)]).prop_map(|(n, times)| H::Webhook(n, times)),
        2 => (0..8_usize).prop_map(H::WebhookLost),
        1 => prop_oneof![Just("succeeded"), Just("pending"), Just("failed")].prop_map(H::RefundsWill),
        1 => (1..8_usize, any::<bool>()).prop_map(|(calls, after)| H::StripeBreaks(calls, after)),
    ];
    let nodes = prop_oneof![
        8 => (node(), line()).prop_map(|(n, line)| H::Takes(n, line)),
        1 => (node(), prop_oneof![Just("NO_SPACE"), Just("POLICY"), Just("VMID_TAKEN")])
            .prop_map(|(n, code)| H::WillRefuse(n, code)),
        8 => (node(), outcome()).prop_map(|(n, outcome)| H::Works(n, outcome)),
        7 => (node(), prop_oneof![5 => Just(false), 1 => Just(true)]).prop_map(|(n, all)| H::Tells(n, all)),
        2 => node().prop_map(H::Reports),
        1 => order().prop_map(H::GuestStops),
    ];
    let staff = prop_oneof![
        4 => order().prop_map(H::Retries),
        3 => order().prop_map(H::RePlaces),
        2 => order().prop_map(H::Abandons),
        2 => order().prop_map(H::Refunds),
        2 => node().prop_map(H::Cordons),
        2 => node().prop_map(H::Uncordons),
        1 => node().prop_map(H::Revokes),
    ];
    let machine = prop_oneof![8 => Just(H::JobsRun), 6 => span().prop_map(H::Passes)];
    let alive = prop_oneof![5 => sale, 4 => stripe, 8 => nodes, 3 => staff, 7 => machine];
    (alive, prop_oneof![6 => Just(0_usize), 1 => 1..12_usize]).prop_map(|(what, effects)| {
        match (effects, &what) {
            (0, _) | (_, Happening::Passes(_)) => what,
            (effects, _) => H::Dies(effects, Box::new(what)),
        }
    })
}

pub(super) fn story(longest: usize) -> impl Strategy<Value = Story> {
    prop::collection::vec(happening(), 5..longest).prop_map(Story)
}

//! What can happen, and how a story of it reads.

use std::fmt;

use ez_protocol::order::PowerVerb;
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

/// One thing that happens. Numbers are taken modulo what there is of the kind: unpaid orders, orders that ended unpaid,
/// servers that live, orders that wait for an operator; of any if there is none.
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
    Presses(usize, PowerVerb),
    Changes(usize),
    Rebuilds(usize),
    Suspends(usize),
    Resumes(usize),
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
            Self::OrdersAgain(n) => write!(f, "the customer of ended order {n} orders the same again"),
            Self::OpensPage(n) => write!(f, "unpaid order {n}: its customer opens the payment page"),
            Self::Pays(n) => write!(f, "unpaid order {n}: its customer pays"),
            Self::PaysOnAnExpiredPage(n) => {
                write!(f, "ended order {n}: the page that has run out is paid all the same")
            }
            Self::PaysOnASecondPage(n) => write!(f, "order {n}: another page of it is paid"),
            Self::ComesBack(n) => {
                write!(f, "unpaid order {n}: its customer comes back from the payment page")
            }
            Self::Cancels(n) => write!(f, "unpaid order {n}: its customer cancels"),
            Self::Deletes(n) => write!(f, "server {n}: its customer deletes it"),
            Self::Presses(n, verb) => write!(f, "server {n}: its customer presses {}", verb.as_str()),
            Self::Changes(n) => write!(f, "server {n}: its customer changes the firewall"),
            Self::Rebuilds(n) => write!(f, "server {n}: its customer rebuilds it"),
            Self::Suspends(n) => write!(f, "server {n}: it is suspended"),
            Self::Resumes(n) => write!(f, "server {n}: it is resumed"),
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
            Self::GuestStops(n) => write!(f, "server {n}: it shuts itself down"),
            Self::Retries(n) => write!(f, "waiting order {n}: an operator tries again"),
            Self::RePlaces(n) => {
                write!(f, "waiting order {n}: an operator tries elsewhere, revoking the node if need be")
            }
            Self::Abandons(n) => write!(f, "waiting order {n}: an operator lets go of it"),
            Self::Refunds(n) => write!(f, "waiting order {n}: an operator gives the money back"),
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
fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let sale = prop_oneof![
        4 => who().prop_map(H::Orders),
        6 => which().prop_map(H::Pays),
        1 => which().prop_map(H::OpensPage),
        2 => which().prop_map(H::ComesBack),
        1 => which().prop_map(H::Cancels),
        1 => which().prop_map(H::OrdersAgain),
        1 => which().prop_map(H::PaysOnAnExpiredPage),
        1 => which().prop_map(H::PaysOnASecondPage),
        2 => which().prop_map(H::Deletes),
        1 => (which(), prop_oneof![Just(PowerVerb::Stop), Just(PowerVerb::Start), Just(PowerVerb::Reboot)])
            .prop_map(|(n, verb)| H::Presses(n, verb)),
        2 => which().prop_map(H::Changes),
        1 => which().prop_map(H::Rebuilds),
        1 => which().prop_map(H::Suspends),
        1 => which().prop_map(H::Resumes),
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
        1 => which().prop_map(H::GuestStops),
    ];
    let staff = prop_oneof![
        5 => exit(),
        2 => node().prop_map(H::Cordons),
        2 => node().prop_map(H::Uncordons),
        1 => node().prop_map(H::Revokes),
    ];
    let machine = prop_oneof![8 => Just(H::JobsRun), 6 => span().prop_map(H::Passes)];
    prop_oneof![5 => sale, 4 => stripe, 8 => nodes, 3 => staff, 7 => machine]
}

fn who() -> impl Strategy<Value = usize> {
    0..3_usize
}

fn which() -> impl Strategy<Value = usize> {
    0..4_usize
}

fn node() -> impl Strategy<Value = usize> {
    0..2_usize
}

fn exit() -> impl Strategy<Value = Happening> {
    use Happening as H;
    prop_oneof![
        4 => which().prop_map(H::Retries),
        3 => which().prop_map(H::RePlaces),
        1 => which().prop_map(H::Abandons),
        1 => which().prop_map(H::Refunds),
    ]
}

/// Some things that belong together, so that a story gets somewhere.
fn scene() -> impl Strategy<Value = Vec<Happening>> {
    use Happening as H;
    let bought = who().prop_map(|who| vec![H::Orders(who), H::Pays(0), H::Webhook(0, 1), H::JobsRun]);
    let served = (node(), line(), outcome()).prop_map(|(n, line, outcome)| {
        vec![H::Takes(n, line), H::Works(n, outcome), H::Tells(n, false), H::JobsRun]
    });
    let silent =
        (node(), line()).prop_map(|(n, line)| vec![H::Takes(n, line), H::Passes(16 * 60), H::JobsRun]);
    let unheard = prop_oneof![Just(301), Just(602), Just(1_000)]
        .prop_map(|span| vec![H::Passes(span), H::JobsRun, H::Passes(301), H::JobsRun]);
    let decided = exit().prop_map(|exit| vec![exit, H::JobsRun]);
    let drained = (node(), exit()).prop_map(|(n, exit)| vec![H::Cordons(n), exit, H::JobsRun]);
    prop_oneof![
        6 => happening().prop_map(|what| vec![what]),
        3 => bought,
        4 => served,
        3 => silent,
        1 => unheard,
        3 => decided,
        1 => drained,
    ]
}

/// A scene, in which the control plane may die at some point.
fn scene_or_death() -> impl Strategy<Value = Vec<Happening>> {
    (scene(), prop_oneof![3 => Just(None), 1 => (0..4_usize, 1..12_usize).prop_map(Some)]).prop_map(
        |(mut scene, death)| {
            if let Some((at, effects)) = death
                && let Some(what) = scene.get_mut(at)
                && !matches!(what, Happening::Passes(_))
            {
                *what = Happening::Dies(effects, Box::new(what.clone()));
            }
            scene
        },
    )
}

/// A story of so many scenes.
pub(super) fn story(longest: usize) -> impl Strategy<Value = Story> {
    prop::collection::vec(scene_or_death(), 3..longest).prop_map(|scenes| Story(scenes.concat()))
}

impl Story {
    /// The shortest story that can be had by leaving things out and that still goes wrong.
    pub(super) fn shortest(self, goes_wrong: impl Fn(&Self) -> bool) -> Self {
        let mut story = self;
        let mut piece = story.0.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < story.0.len() {
                let mut less = story.clone();
                less.0.drain(at..(at + piece).min(story.0.len()));
                if goes_wrong(&less) {
                    story = less;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        // Without the death, if that is not what it is about.
        for at in 0..story.0.len() {
            if let Happening::Dies(_, during) = &story.0[at] {
                let mut less = story.clone();
                less.0[at] = (**during).clone();
                if goes_wrong(&less) {
                    story = less;
                }
            }
        }
        story
    }
}

//! Buying a server: the create page and the order's timeline.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::{
    dispatch::QueueView,
    web::{
        forms::FormState,
        templates::Page,
        views::{Money, SAMPLE_NOW, Step, StepState},
    },
};

/// A location to choose.
#[derive(Debug, Clone, Serialize)]
pub struct LocationChoice {
    /// Its code, sent back as `location`.
    pub code: String,
    /// `Falkenstein`
    pub name: String,
    /// ISO code, `DE`; text `country-de`.
    pub country: String,
    /// No plan fits there any more.
    pub full: bool,
    /// Chosen.
    pub selected: bool,
}

/// An operating system to choose.
#[derive(Debug, Clone, Serialize)]
pub struct ImageChoice {
    /// Sent back as `image`.
    pub code: String,
    /// `Debian 13`
    pub name: String,
    /// Small print, for instance the code name of the release.
    pub note: String,
    /// Chosen.
    pub selected: bool,
}

/// Something to have set up at the first boot.
#[derive(Debug, Clone, Serialize)]
pub struct RecipeChoice {
    /// Sent back as `recipe`; may repeat. Texts `orders-recipe-<code>` and `orders-recipe-<code>-note`.
    pub code: &'static str,
    /// Names of the images that offer it, for people.
    pub images: Vec<String>,
    /// Whether every image does.
    pub everywhere: bool,
    /// Chosen.
    pub selected: bool,
}

/// What a plan costs per interval, in one currency.
#[derive(Debug, Clone, Serialize)]
pub struct PriceChoice {
    /// `month`, `quarter` or `year`.
    pub interval: String,
    /// Per interval.
    pub amount: Money,
    /// Charged now.
    pub today: Money,
    /// Paid once, with the first payment, if anything.
    pub setup: Option<Money>,
    /// Days before the first interval is paid; 0 for no trial.
    pub trial_days: u32,
    /// Day of the next charge, in words: `23 Dec 2026`.
    pub next_date: String,
}

/// A plan to choose.
#[derive(Debug, Clone, Serialize)]
pub struct PlanChoice {
    /// Sent back as `plan`.
    pub code: String,
    /// `S`
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
    /// Traffic per month in GiB.
    pub traffic_gib: u64,
    /// What each started 100 GB above that costs, in each currency this account can pay in; empty where it costs nothing.
    pub traffic_prices: Vec<Money>,
    /// One per interval and currency it is sold in.
    pub prices: Vec<PriceChoice>,
    /// Codes of the locations it does not fit in now; the script greys it out there.
    pub sold_out_in: Vec<String>,
    /// Names of those locations, for people.
    pub sold_out_names: Vec<String>,
    /// It fits nowhere.
    pub full: bool,
    /// Chosen.
    pub selected: bool,
}

/// A stored SSH key to choose.
#[derive(Debug, Clone, Serialize)]
pub struct KeyChoice {
    /// Sent back as `ssh_key`; may repeat.
    pub value: String,
    /// The name its owner gave it.
    pub name: String,
    /// `SHA256:…`
    pub fingerprint: String,
    /// Chosen.
    pub selected: bool,
}

/// The right-hand column for the current choices.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the plan.
    pub plan: String,
    /// Name of the location.
    pub location: String,
    /// Name of the image.
    pub image: String,
    /// What the choice costs. The minor units of what is due now travel as `quoted`, those of each interval as
    /// `quoted_then`: when one differs from the quote at the time of the order (another plan without a script, a
    /// new price), show the page again with `form.refuse_form("quote-changed")` instead of charging another amount.
    /// None only where nothing can be ordered.
    pub price: Option<PriceChoice>,
    /// `included`, `added` (worked out by Stripe at the payment page) or `none`.
    pub tax: &'static str,
    /// Whether there are promotion codes, which the payment page takes.
    pub codes: bool,
}

/// `GET /servers/new`, and `POST` to the same when refused. Sends `location`, `image`, `plan`,
/// `interval`, `currency` (where there is a choice), `recipe` (0..n), `user_data`, `ssh_key` (0..n), `new_key`, `hostname`, `quoted`, `terms`.
#[derive(Debug, Clone, Serialize)]
pub struct New {
    /// Values and messages; field names as sent.
    pub form: FormState,
    /// Whether anything can be sold at all.
    pub can_order: bool,
    /// At least one unless `can_order` is false.
    pub locations: Vec<LocationChoice>,
    /// At least one.
    pub images: Vec<ImageChoice>,
    /// What can be set up, on any of the images.
    pub recipes: Vec<RecipeChoice>,
    /// At least one.
    pub plans: Vec<PlanChoice>,
    /// Those of `month`, `quarter` and `year` that anything is sold by.
    pub intervals: Vec<&'static str>,
    /// The chosen interval.
    pub interval: &'static str,
    /// Currencies on offer to this account, lower-case ISO codes.
    pub currencies: Vec<String>,
    /// The chosen one.
    pub currency: String,
    /// The account pays in this one, and Stripe does not mix: there is no choice.
    pub currency_bound: bool,
    /// Stored keys of the account; without any the page asks for one.
    pub keys: Vec<KeyChoice>,
    /// A name to start with, for instance `web-1`.
    pub hostname: String,
    /// For the choices as they stand.
    pub summary: Summary,
    /// Version of the terms the customer accepts, stored with the order.
    pub terms_version: &'static str,
}

/// Paying and cancelling, while the order is unpaid.
#[derive(Debug, Clone, Serialize)]
pub struct Unpaid {
    /// Address to post to; answers 303 to the payment page.
    pub pay_action: String,
    /// Address to post to.
    pub cancel_action: String,
    /// The reservation ends then.
    pub until: UnixMillis,
}

/// Ordering the same again, after an order has ended unpaid.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", content = "href", rename_all = "snake_case")]
pub enum Again {
    /// Address to post to; answers 303 to the payment page, or to the create page where something has changed.
    Order(String),
    /// It was: the page of the newer order.
    Ordered(String),
}

/// Why it does not go on.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Text `orders-problem-<code>`; unknown codes get a general sentence.
    pub code: String,
    /// What happens now: `retrying`, `operator`, `refund`, `bank` (a dispute decides), `nothing`.
    pub next: &'static str,
    /// `kept` (paid, not charged again), `disputed` (waits for a bank), `refunded`, `by-bank` (the customer's bank gave it
    /// back, not we), `not-returned` (refunded, and the bank sent it back), `none` (nothing was charged).
    pub money: &'static str,
    /// Short reference for support, if any.
    pub reference: Option<String>,
}

/// How to get in, once it runs.
#[derive(Debug, Clone, Serialize)]
pub struct Reach {
    /// The server's page.
    pub href: String,
    /// `ssh root@203.0.113.24`
    pub ssh: String,
    /// Without prefix length.
    pub ipv4: Option<String>,
    /// Without prefix length.
    pub ipv6: Option<String>,
    /// `SHA256:… (ED25519)`; empty when the first boot did not show them.
    pub fingerprints: Vec<String>,
}

/// `GET /orders/{id}`: the timeline.
#[derive(Debug, Clone, Serialize)]
pub struct Show {
    /// Name of the server.
    pub server_name: String,
    /// `awaiting_payment`, `paid`, `provisioning`, `fulfilled`, `cancelled`, `expired`,
    /// `needs_operator`, `refunding`, `refunded`.
    pub state: &'static str,
    /// Colour of the state: `good`, `wait`, `bad`, `idle`.
    pub tone: &'static str,
    /// In order; the current one is `now`.
    pub steps: Vec<Step>,
    /// While unpaid.
    pub payment: Option<Unpaid>,
    /// After it ended unpaid.
    pub again: Option<Again>,
    /// When something went wrong.
    pub problem: Option<Problem>,
    /// When it runs.
    pub server: Option<Reach>,
    /// `Plan S`
    pub plan: String,
    /// Name of the location.
    pub location: String,
    /// Name of the image.
    pub image: String,
    /// Per interval.
    pub amount: Money,
    /// `month`, `quarter` or `year`.
    pub interval: String,
    /// Due at the purchase, before discounts and taxes.
    pub today: Money,
    /// Paid once, with the first payment, if anything.
    pub setup: Option<Money>,
    /// Days before the first interval is paid; 0 for no trial.
    pub trial_days: u32,
    /// What was paid, if it was and is not simply what was due.
    pub paid: Option<Money>,
    /// What a promotion code took off.
    pub discount: Option<Money>,
    /// Taxes in it.
    pub tax: Option<Money>,
    /// When it was ordered.
    pub placed_at: UnixMillis,
    /// Address of the event stream; none once the order has ended.
    pub events: Option<String>,
}

fn price(interval: &str, minor: i64, next_date: &str) -> PriceChoice {
    PriceChoice {
        interval: interval.to_owned(),
        amount: Money::new(minor, "eur"),
        today: Money::new(minor, "eur"),
        setup: None,
        trial_days: 0,
        next_date: next_date.to_owned(),
    }
}

fn plan(code: &str, name: &str, size: u32, cents: i64, sold_out: bool) -> PlanChoice {
    let price = |interval: &str, minor, next_date: &str| price(interval, minor, next_date);
    PlanChoice {
        code: code.to_owned(),
        name: name.to_owned(),
        vcpu: size,
        memory_mib: u64::from(size) * 2048,
        disk_gib: u64::from(size) * 20,
        traffic_gib: 20 * 1024,
        traffic_prices: (code == "s").then(|| Money::new(12, "eur")).into_iter().collect(),
        prices: vec![
            price("month", cents, "23 Dec 2026"),
            price("quarter", cents * 29 / 10, "23 Feb 2027"),
            price("year", cents * 10, "23 Nov 2027"),
        ],
        sold_out_in: if sold_out { vec!["hel".to_owned()] } else { Vec::new() },
        sold_out_names: if sold_out { vec!["Helsinki".to_owned()] } else { Vec::new() },
        full: false,
        selected: code == "s",
    }
}

impl Page for New {
    const TEMPLATE: &'static str = "pages/orders/new.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let location = |code: &str, name: &str, country: &str, full, selected| LocationChoice {
            code: code.to_owned(),
            name: name.to_owned(),
            country: country.to_owned(),
            full,
            selected,
        };
        let image = |code: &str, name: &str, note: &str| ImageChoice {
            code: code.to_owned(),
            name: name.to_owned(),
            note: note.to_owned(),
            selected: code == "debian-13",
        };
        let recipe = |code, everywhere, selected| RecipeChoice {
            code,
            images: vec!["Debian 13".to_owned(), "Ubuntu 24.04".to_owned()],
            everywhere,
            selected,
        };
        let filled = Self {
            form: FormState::default(),
            can_order: true,
            locations: vec![
                location("fsn", "Falkenstein", "DE", false, true),
                location("hel", "Helsinki", "FI", false, false),
                location("nbg", "Nuremberg", "DE", true, false),
            ],
            images: vec![
                image("debian-13", "Debian 13", "trixie"),
                image("debian-12", "Debian 12", "bookworm"),
                image("ubuntu-24.04", "Ubuntu 24.04", "noble, LTS"),
                image("rocky-9", "Rocky Linux 9", "until 2032"),
            ],
            recipes: vec![
                recipe("docker", true, true),
                recipe("lemp", true, false),
                recipe("wordpress", false, false),
                recipe("gitlab-runner", false, false),
                recipe("wireguard", true, false),
                recipe("unattended-upgrades", true, false),
            ],
            plans: vec![
                plan("s", "Plan S", 2, 900, false),
                plan("m", "Plan M", 4, 1_700, false),
                plan("l", "Plan L", 8, 3_300, true),
            ],
            intervals: vec!["month", "quarter", "year"],
            interval: "month",
            currencies: vec!["eur".to_owned()],
            currency: "eur".to_owned(),
            currency_bound: false,
            keys: vec![KeyChoice {
                value: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
                name: "jane@laptop".to_owned(),
                fingerprint: "SHA256:9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw".to_owned(),
                selected: true,
            }],
            hostname: "web-1".to_owned(),
            summary: Summary {
                plan: "Plan S".to_owned(),
                location: "Falkenstein".to_owned(),
                image: "Debian 13".to_owned(),
                price: Some(price("month", 900, "23 Dec 2026")),
                tax: "included",
                codes: true,
            },
            terms_version: "2026-11",
        };
        let mut refused = Self { keys: Vec::new(), interval: "year", ..filled.clone() };
        refused.plans[2].full = true;
        refused.form.fill("hostname", "-web 1");
        refused.form.fill("new_key", "ssh-rsa AAAA…\n\nssh");
        refused.form.refuse("hostname", "hostname-invalid");
        refused.form.refuse("new_key", "ssh-key-invalid");
        refused.form.refuse("recipe", "recipe-unknown");
        refused.form.refuse_with("plan", "plan-sold-out", "Falkenstein");
        let mut changed = filled.clone();
        changed.form.refuse_form("quote-changed");
        let mut trial = filled.clone();
        trial.currencies = vec!["eur".to_owned(), "usd".to_owned()];
        let fee = PriceChoice {
            today: Money::new(500, "eur"),
            setup: Some(Money::new(500, "eur")),
            trial_days: 14,
            ..price("month", 900, "7 Dec 2026")
        };
        let dollars = PriceChoice {
            amount: Money::new(1_000, "usd"),
            today: Money::new(0, "usd"),
            setup: None,
            ..fee.clone()
        };
        trial.plans[0].prices = vec![fee.clone(), dollars];
        trial.summary.price = Some(fee);
        let mut free = filled.clone();
        free.currency_bound = true;
        free.currencies = vec!["usd".to_owned()];
        free.currency = "usd".to_owned();
        free.summary.tax = "added";
        free.summary.price = Some(PriceChoice {
            today: Money::new(0, "usd"),
            amount: Money::new(10_000, "usd"),
            trial_days: 30,
            ..price("year", 0, "23 Dec 2026")
        });
        free.plans[0].prices = free.summary.price.clone().into_iter().collect();
        free.interval = "year";
        let mut bought_out = filled.clone();
        bought_out.form.refuse_with("currency", "currency-bound", "USD");
        let nothing = Self { can_order: false, ..filled.clone() };
        vec![
            ("filled", filled),
            ("refused", refused),
            ("quote-changed", changed),
            ("trial-and-set-up", trial),
            ("nothing-today", free),
            ("currency-bound", bought_out),
            ("nothing-to-sell", nothing),
        ]
    }
}

/// The create steps in their order, the first `done` finished, as on a purchase of some seconds.
pub(super) fn sample_steps(done: usize, current: StepState) -> Vec<Step> {
    let all = [
        ("paid", None),
        ("placed", None),
        ("signed", None),
        ("accepted", Some(200)),
        ("clone", Some(3_100)),
        ("configure", Some(400)),
        ("resize", Some(300)),
        ("cloud_init", Some(200)),
        ("firewall", Some(100)),
        ("start", Some(800)),
        ("start_on_boot", Some(100)),
        ("await_usable", Some(9_000)),
    ];
    let started = SAMPLE_NOW.0 - 20_000;
    all.into_iter()
        .enumerate()
        .map(|(at, (code, took_ms))| Step {
            code: code.to_owned(),
            state: match at {
                _ if at < done => StepState::Done,
                _ if at == done => current,
                _ => StepState::Waiting,
            },
            at: (at < done).then_some(UnixMillis(started + 1_000 * i64::try_from(at).unwrap_or(0))),
            took_ms: took_ms.filter(|_| at < done),
            note: None,
            queue: None,
        })
        .collect()
}

impl Page for Show {
    const TEMPLATE: &'static str = "pages/orders/show.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let building = Self {
            server_name: "web-1".to_owned(),
            state: "provisioning",
            tone: "wait",
            steps: sample_steps(5, StepState::Now),
            payment: None,
            again: None,
            problem: None,
            server: None,
            plan: "Plan S".to_owned(),
            location: "Falkenstein".to_owned(),
            image: "Debian 13".to_owned(),
            amount: Money::new(900, "eur"),
            interval: "month".to_owned(),
            today: Money::new(900, "eur"),
            setup: None,
            trial_days: 0,
            paid: None,
            discount: None,
            tax: None,
            placed_at: UnixMillis(SAMPLE_NOW.0 - 48_000),
            events: Some("/orders/01890a5d-ac96-774b-bcce-b302099a8057/changes".to_owned()),
        };
        let mut queued = Self { steps: sample_steps(4, StepState::Now), ..building.clone() };
        queued.steps[4].queue = Some(QueueView { position: 3, estimate_secs: Some(40) });
        let mut queued_behind_the_first = queued.clone();
        queued_behind_the_first.steps[4].queue = Some(QueueView { position: 1, estimate_secs: None });
        let bargain = Self {
            today: Money::new(9_500, "eur"),
            setup: Some(Money::new(500, "eur")),
            trial_days: 14,
            paid: Some(Money::new(8_800, "eur")),
            discount: Some(Money::new(1_900, "eur")),
            tax: Some(Money::new(1_200, "eur")),
            ..building.clone()
        };
        let unpaid = Self {
            state: "awaiting_payment",
            steps: sample_steps(0, StepState::Now),
            payment: Some(Unpaid {
                pay_action: "/orders/x/pay".to_owned(),
                cancel_action: "/orders/x/cancel".to_owned(),
                until: UnixMillis(SAMPLE_NOW.0 + 1_700_000),
            }),
            ..building.clone()
        };
        let done = Self {
            state: "fulfilled",
            tone: "good",
            steps: sample_steps(12, StepState::Done),
            server: Some(Reach {
                href: "/servers/x".to_owned(),
                ssh: "ssh root@203.0.113.24".to_owned(),
                ipv4: Some("203.0.113.24".to_owned()),
                ipv6: Some("2001:db8:12::1".to_owned()),
                fingerprints: vec!["SHA256:9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw (ED25519)".to_owned()],
            }),
            events: None,
            ..building.clone()
        };
        let mut stuck = Self {
            state: "needs_operator",
            tone: "bad",
            steps: sample_steps(5, StepState::Failed),
            problem: Some(Problem {
                code: "node-silent".to_owned(),
                next: "operator",
                money: "kept",
                reference: Some("q7f3-m2kd".to_owned()),
            }),
            ..building.clone()
        };
        stuck.steps[5].note = Some("The node has not answered for 30 s.".to_owned());
        let refunded = Self {
            state: "refunded",
            tone: "idle",
            problem: Some(Problem {
                code: "x-unknown".to_owned(),
                next: "nothing",
                money: "refunded",
                reference: None,
            }),
            events: None,
            ..stuck.clone()
        };
        let mut not_returned = refunded.clone();
        if let Some(problem) = &mut not_returned.problem {
            (problem.next, problem.money) = ("operator", "not-returned");
        }
        let mut by_bank = refunded.clone();
        if let Some(problem) = &mut by_bank.problem {
            problem.money = "by-bank";
        }
        let ended = |state, again| Self {
            state,
            tone: "idle",
            again: Some(again),
            steps: sample_steps(0, StepState::Skipped),
            events: None,
            ..building.clone()
        };
        let paid = Self { state: "paid", steps: sample_steps(1, StepState::Now), ..building.clone() };
        let refunding = Self { state: "refunding", tone: "wait", ..stuck.clone() };
        vec![
            ("bargain", bargain),
            ("unpaid", unpaid),
            ("paid", paid),
            ("building", building.clone()),
            ("queued", queued),
            ("queued-behind-the-first", queued_behind_the_first),
            ("done", done),
            ("needs-operator", stuck),
            ("refunding", refunding),
            ("refunded", refunded),
            ("refunded-and-sent-back", not_returned),
            ("refunded-by-bank", by_bank),
            ("cancelled", ended("cancelled", Again::Order("/orders/x/again".to_owned()))),
            ("expired", ended("expired", Again::Order("/orders/x/again".to_owned()))),
            ("ordered-again", ended("expired", Again::Ordered("/orders/y".to_owned()))),
        ]
    }
}

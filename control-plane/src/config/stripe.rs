//! `STRIPE_API_BASE`, `STRIPE_SECRET_KEY`, `STRIPE_WEBHOOK_SECRETS`, `STRIPE_CALLS_PER_SECOND`, `STRIPE_AUTOMATIC_TAX`,
//! `STRIPE_TAX_IDS`: payments.

use url::Url;

use super::{
    http::is_loopback,
    read::{Reader, Secret},
};
use crate::db::text_enum;

/// Where live keys may be sent, and nowhere else.
const REAL_API: &str = "https://api.stripe.com/";

text_enum! {
    /// Whether Stripe works out taxes, and how prices relate to them.
    pub enum Tax {
        /// It does not.
        Off = "off",
        /// Prices have them in already.
        Inclusive = "inclusive",
        /// They are added to prices.
        Exclusive = "exclusive",
    }
}

/// Payments.
#[derive(Clone, Debug)]
pub struct Stripe {
    /// Stripe's API, or its stand-in.
    pub api_base: Url,
    /// `sk_test_…`, `sk_live_…` or a restricted `rk_…`.
    pub secret_key: Secret,
    /// Secrets of the webhook endpoint; several while one is being replaced.
    pub webhook_secrets: Vec<Secret>,
    /// So many calls a second this process makes at most.
    pub calls_per_second: u32,
    /// Hosts that the browser is sent to for paying; the portal's CSP allows forms to end there.
    pub checkout_origins: Vec<String>,
    /// Whether Stripe works out taxes at its payment page.
    pub tax: Tax,
    /// Whether its payment page asks for a tax id.
    pub tax_ids: bool,
}

text_enum! {
    /// A setting that is on or off.
    enum Tick {
        /// On.
        Yes = "yes",
        /// Off.
        No = "no",
    }
}

impl Stripe {
    /// Whether real money moves.
    pub fn is_live(&self) -> bool {
        let key = self.secret_key.expose();
        key.starts_with("sk_live_") || key.starts_with("rk_live_")
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let api_base: Option<Url> = reader.parsed("STRIPE_API_BASE", REAL_API, "a URL");
        let key = reader.required("STRIPE_SECRET_KEY", "take it from Stripe's dashboard (sk_test_… first)");
        let secrets = reader.list("STRIPE_WEBHOOK_SECRETS");
        if secrets.is_empty() {
            reader.problem(
                "STRIPE_WEBHOOK_SECRETS",
                "is not set; take whsec_… from the webhook endpoint's page",
            );
        }
        if secrets.iter().any(|secret| !secret.starts_with("whsec_")) {
            reader.problem("STRIPE_WEBHOOK_SECRETS", "each secret of the list must begin with whsec_");
        }
        if key.is_some_and(|key| {
            !["sk_test_", "sk_live_", "rk_test_", "rk_live_"].iter().any(|p| key.starts_with(p))
        }) {
            reader.problem("STRIPE_SECRET_KEY", "must begin with sk_test_, sk_live_, rk_test_ or rk_live_");
        }
        if key.is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            reader.problem("STRIPE_SECRET_KEY", "holds a character that no key has; copy it again");
        }
        if secrets.iter().any(|secret| !secret.bytes().all(|byte| byte.is_ascii_graphic())) {
            reader.problem("STRIPE_WEBHOOK_SECRETS", "holds a character that no secret has; copy it again");
        }
        // Stripe allows 100 a second for live keys and 25 for others; some are left for other programs.
        let live = key.is_some_and(|key| key.starts_with("sk_live_") || key.starts_with("rk_live_"));
        let calls: Option<u32> = reader.parsed(
            "STRIPE_CALLS_PER_SECOND",
            if live { "80" } else { "20" },
            "a whole number of calls",
        );
        if calls.is_some_and(|calls| !(1..=1_000).contains(&calls)) {
            reader.problem("STRIPE_CALLS_PER_SECOND", "must lie between 1 and 1000");
        }
        let tax: Option<Tax> = reader.parsed("STRIPE_AUTOMATIC_TAX", "off", "off, inclusive or exclusive");
        let tax_ids: Option<Tick> = reader.parsed("STRIPE_TAX_IDS", "no", "yes or no");
        let (api_base, key, tax, tax_ids) = (api_base?, key?, tax?, tax_ids?);
        let stripe = Self {
            tax,
            tax_ids: tax_ids == Tick::Yes,
            checkout_origins: checkout_origins(&api_base),
            calls_per_second: calls?,
            secret_key: Secret::new(key),
            webhook_secrets: secrets.into_iter().map(Secret::new).collect(),
            api_base,
        };
        if stripe.is_live() && stripe.api_base.as_str() != REAL_API {
            reader.problem("STRIPE_API_BASE", "a live key is sent to https://api.stripe.com/ only");
        }
        if stripe.api_base.scheme() != "https" && !is_loopback(&stripe.api_base) {
            reader.problem("STRIPE_API_BASE", "must be https; plain http is allowed only on loopback");
        }
        Some(stripe)
    }
}

/// Stripe's hosted pages, or the stand-in's own origin. On loopback in both of its spellings: browsers
/// take `localhost` and `127.0.0.1` for two origins, and the stand-in may hand out either.
fn checkout_origins(api_base: &Url) -> Vec<String> {
    if api_base.as_str() == REAL_API {
        return vec!["https://checkout.stripe.com".into(), "https://billing.stripe.com".into()];
    }
    let mut origins = vec![api_base.origin().ascii_serialization()];
    if is_loopback(api_base) {
        for host in ["localhost", "127.0.0.1"] {
            let mut other = api_base.clone();
            if other.set_host(Some(host)).is_ok() {
                origins.push(other.origin().ascii_serialization());
            }
        }
        origins.sort();
        origins.dedup();
    }
    origins
}

//! The gate to Stripe: the only module that names a type of the Stripe client crates.
//!
//! Requests are built by the crates' typed builders and frozen into a [`Prepared`] request (method,
//! path, exact body), because the same bytes have to be sent again under the same idempotency key.
//! Answers are read as raw JSON: a field that Stripe leaves out must never cost us the result of a
//! call that did its work. The module's face speaks [`Prepared`], JSON values, the views in
//! [`view`] and [`StripeFault`]; the client's own error type is never shown, since its text can
//! hold customer data (I11).
//!
//! Retrying is ours: [`retry`] sends one prepared request again with the *same* key where the
//! outcome is unknown, and leaves everything else to the caller.

mod change;
mod fault;
mod limit;
mod request;
mod retry;
mod shelf;
mod signature;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use std::{sync::Arc, time::Duration};

pub(crate) use change::*;
pub use fault::{FaultKind, StripeFault};
pub(crate) use limit::{Class, at};
pub(crate) use request::*;
pub(crate) use shelf::*;
pub(crate) use signature::{Verdict, judge};
pub use view::{
    CardView, CheckoutSession, CouponView, CustomerView, DisputeView, EventEnvelope, InvoiceView,
    PaymentMethodView, PriceView, ProductView, PromotionCodeView, RefundView, SubscriptionView,
};
pub(crate) use view::{
    DisputeState, EventList, credit_between, invoice_of, page_of, paid_by, waiting_intent,
};

use serde_json::Value;
use stripe::{Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError};
use stripe_client_core::{RequestBuilder, StripeMethod};

use crate::entropy::Entropy;

/// Longest time one attempt may take. The client has no limit of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The API version the client crates were generated for; upgrading them is upgrading this.
pub fn api_version() -> String {
    stripe_client_core::VERSION.to_string()
}

/// Talks to Stripe, or to whatever `STRIPE_API_BASE` names.
#[derive(Clone)]
pub struct StripeGate {
    client: Client,
    livemode: bool,
    pause: fn(Duration) -> tokio::time::Sleep,
    limiter: Option<Arc<limit::Limiter>>,
    asked: Arc<limit::Asked>,
}

impl std::fmt::Debug for StripeGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeGate").field("livemode", &self.livemode).finish_non_exhaustive()
    }
}

impl StripeGate {
    /// Makes a gate. `base` is an http(s) URL; `secret_key` starts with `sk_` or `rk_`.
    ///
    /// # Errors
    /// A fault of kind [`FaultKind::Configuration`] when the key cannot be a header value or the base is no URL.
    pub fn new(base: &str, secret_key: &str) -> Result<Self, StripeFault> {
        let refuse = || StripeFault::of(FaultKind::Configuration);
        if secret_key.is_empty() || !secret_key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse());
        }
        let base = if base.ends_with('/') { base.to_owned() } else { format!("{base}/") };
        if url::Url::parse(&base).is_err() {
            return Err(refuse());
        }
        let client = ClientBuilder::new(secret_key)
            .url(base)
            .timeout(CALL_TIMEOUT)
            .request_strategy(RequestStrategy::Once)
            .build()
            .map_err(|_| refuse())?;
        let livemode = secret_key.starts_with("sk_live_") || secret_key.starts_with("rk_live_");
        Ok(Self { client, livemode, pause: tokio::time::sleep, limiter: None, asked: Arc::default() })
    }

    /// The same, with so many calls a second at most; all clones share them.
    #[must_use]
    pub fn paced(self, calls_per_second: u32) -> Self {
        Self { limiter: Some(Arc::new(limit::Limiter::new(calls_per_second))), ..self }
    }

    /// How long work that has time should stay away because others wait for Stripe already.
    pub(crate) fn come_back_in(&self) -> Option<Duration> {
        self.limiter.as_ref().and_then(|limiter| limiter.come_back_in())
    }

    /// How many calls of a class were made so far.
    #[cfg(test)]
    pub(crate) fn asked(&self, class: Class) -> u64 {
        self.asked.of(class)
    }

    /// The same without pauses between tries.
    #[cfg(test)]
    fn hurried(self) -> Self {
        Self { pause: |_| tokio::time::sleep(Duration::ZERO), ..self }
    }

    /// Whether the key moves real money.
    pub fn livemode(&self) -> bool {
        self.livemode
    }

    /// Reads something. Needs no key; retried like any call whose outcome is unknown.
    ///
    /// # Errors
    /// What Stripe or the way to it said, see [`StripeFault`].
    pub(crate) async fn get(&self, entropy: &dyn Entropy, request: &Prepared) -> Result<Value, StripeFault> {
        retry::run(|| self.once(request, RequestStrategy::Once), self.pause, || entropy_unit(entropy)).await
    }

    /// Changes something, under our own idempotency key. The caller has written key and request
    /// to the outbox before.
    ///
    /// # Errors
    /// What Stripe or the way to it said, see [`StripeFault`].
    pub(crate) async fn post(
        &self,
        entropy: &dyn Entropy,
        key: &str,
        request: &Prepared,
    ) -> Result<Value, StripeFault> {
        let key = IdempotencyKey::new(key).map_err(|_| StripeFault::of(FaultKind::OurMistake))?;
        let strategy = RequestStrategy::Idempotent(key);
        retry::run(|| self.once(request, strategy.clone()), self.pause, || entropy_unit(entropy)).await
    }

    /// Where a call was one too many, everybody holds still.
    fn failed(&self, fault: StripeFault) -> StripeFault {
        if fault.status == Some(429) {
            metrics::counter!("ez_billing_stripe_too_many_total").increment(1);
            if let Some(limiter) = &self.limiter {
                limiter.hold_still();
            }
        }
        fault
    }

    async fn once(&self, request: &Prepared, strategy: RequestStrategy) -> Result<Value, StripeFault> {
        let method = match request.method {
            Method::Get => StripeMethod::Get,
            Method::Post => StripeMethod::Post,
            Method::Delete => StripeMethod::Delete,
        };
        self.asked.count();
        if let Some(limiter) = &self.limiter {
            limiter.turn().await;
        }
        let mut builder = RequestBuilder::new(method, request.path.clone());
        builder.query.clone_from(&request.query);
        builder.body.clone_from(&request.body);
        let answer: miniserde::json::Value = builder
            .customize()
            .request_strategy(strategy)
            .send(&self.client)
            .await
            .map_err(|error: StripeError| self.failed(StripeFault::from_client(error)))?;
        serde_json::from_str(&miniserde::json::to_string(&answer))
            .map_err(|_| StripeFault::of(FaultKind::OutcomeUnknown))
    }
}

/// A number in `0.0..1.0` for jitter.
fn entropy_unit(entropy: &dyn Entropy) -> f64 {
    let mut bytes = [0_u8; 4];
    entropy.fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::{testing::FakeStripe, *};

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, buf: &mut [u8]) {
            buf.fill(0);
        }
    }

    #[tokio::test]
    async fn an_effect_whose_answer_was_lost_is_replayed_not_repeated() {
        let fake = FakeStripe::start().await;
        fake.state().failures.push((500, true));
        let request = create_customer("jane@example.com", Metadata::new());
        let customer = fake.gate().post(&Fixed, "customer:1:1", &request).await.unwrap();
        assert_eq!(customer["id"], "cus_1");
        assert_eq!(fake.state().objects.len(), 1);
        assert_eq!(fake.count("POST", "/customers"), 2);
        assert!(fake.state().calls.iter().all(|call| call.key.as_deref() == Some("customer:1:1")));
    }

    #[tokio::test]
    async fn a_missing_object_is_a_typed_fault() {
        let fake = FakeStripe::start().await;
        let fault = fake.gate().get(&Fixed, &retrieve_session("cs_none")).await.unwrap_err();
        assert_eq!(
            (fault.kind, fault.status, fault.code.as_deref()),
            (FaultKind::NotFound, Some(404), Some("resource_missing"))
        );
    }

    #[test]
    fn a_key_that_is_no_header_value_is_refused() {
        for (base, key) in [("http://x/", ""), ("http://x/", "sk_test_\n"), ("no url", "sk_test_1")] {
            assert_eq!(StripeGate::new(base, key).unwrap_err().kind, FaultKind::Configuration);
        }
        assert!(StripeGate::new("https://api.stripe.com", "sk_live_1").unwrap().livemode());
    }
}

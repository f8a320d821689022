//! Is a webhook delivery genuine? Decided on the raw bytes, against every configured secret.

use stripe_webhook::{Webhook, WebhookError};

use ez_protocol::UnixMillis;

/// The judgement on one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Signed with one of our secrets, in time.
    Genuine,
    /// Signed with one of our secrets, but outside the tolerance of 300 s: our clock may be off.
    Stale,
    /// Anything else.
    Forged,
}

/// Judges a delivery. `header` is the value of `Stripe-Signature`.
pub(crate) fn judge(body: &str, header: &str, secrets: &[String], now: UnixMillis) -> Verdict {
    let mut verdict = Verdict::Forged;
    for secret in secrets {
        match Webhook::construct_event_with_timestamp(body, header, secret, now.as_secs()) {
            // A body that the crate's types cannot hold was still signed by Stripe: `BadParse` comes
            // only after signature and time have passed, and refusing it would lose a payment.
            Ok(_) | Err(WebhookError::BadParse(_)) => return Verdict::Genuine,
            Err(WebhookError::BadTimestamp(_)) => verdict = Verdict::Stale,
            Err(_) => {}
        }
    }
    verdict
}

/// Signs a delivery as Stripe does; for stories.
#[cfg(test)]
pub(super) fn sign(body: &str, secret: &str, at: UnixMillis) -> String {
    Webhook::generate_test_header(body, secret, Some(at.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_800_000_000;

    fn sign(body: &str, secret: &str) -> String {
        super::sign(body, secret, UnixMillis::from_secs(AT))
    }

    fn judged(body: &str, header: &str, now: i64) -> Verdict {
        judge(body, header, &["whsec_new".into(), "whsec_old".into()], UnixMillis::from_secs(now))
    }

    #[test]
    fn either_secret_is_good_and_the_content_does_not_matter() {
        for body in [r#"{"id":"evt_1"}"#, "{}", "not json"] {
            assert_eq!(judged(body, &sign(body, "whsec_new"), AT), Verdict::Genuine);
            assert_eq!(judged(body, &sign(body, "whsec_old"), AT), Verdict::Genuine);
            assert_eq!(judged(body, &sign(body, "whsec_other"), AT), Verdict::Forged);
        }
    }

    #[test]
    fn time_counts_both_ways() {
        let header = sign("{}", "whsec_old");
        assert_eq!(judged("{}", &header, AT + 300), Verdict::Genuine);
        assert_eq!(judged("{}", &header, AT + 301), Verdict::Stale);
        assert_eq!(judged("{}", &header, AT - 301), Verdict::Stale);
    }

    #[test]
    fn a_changed_body_or_a_broken_header_is_forged() {
        let header = sign("{}", "whsec_old");
        assert_eq!(judged("{ }", &header, AT), Verdict::Forged);
        for broken in ["", "t=1", "v1=00", "t=x,v1=00", "hello", "t=1,v1="] {
            assert_eq!(judged("{}", broken, AT), Verdict::Forged, "{broken}");
        }
    }

    #[test]
    fn several_signatures_while_a_secret_rolls() {
        let good = sign("{}", "whsec_old");
        let good = good.split_once(',').unwrap().1;
        assert_eq!(judged("{}", &format!("t={AT},v1=00ff,{good}"), AT), Verdict::Genuine);
        assert_eq!(judged("{}", &format!("t={AT},{good},v1=00ff,v0=1"), AT), Verdict::Genuine);
    }
}
